// A gate and its up are computed side by side, and their gated product is all that is stored.
#include "lib/activation_${ACTIVATION}.wgsl"

fn gated(gate: f32, up: f32) -> f32 {
    return activation(gate) * up;
}
