// Scales are f16 beside numbers in f32 too.
#include "lib/f16_bits.wgsl"
