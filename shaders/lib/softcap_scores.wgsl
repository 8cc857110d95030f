// The cap on attention scores; 0 stands for none.
#include "lib/tanh.wgsl" NAME=lanes TYPE=lanes

fn capped(score: lanes) -> lanes {
    if (params.softcap == 0.0) {
        return score;
    }
    return params.softcap * tanh_lanes(score / params.softcap);
}
