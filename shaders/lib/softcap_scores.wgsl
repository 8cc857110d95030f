// The cap on attention scores; 0 stands for none.
#include "lib/tanh.wgsl" NAME=abreast TYPE=abreast

fn capped(score: abreast) -> abreast {
    if (params.softcap == 0.0) {
        return score;
    }
    return params.softcap * tanh_abreast(score / params.softcap);
}
