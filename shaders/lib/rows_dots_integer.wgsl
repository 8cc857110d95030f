// Dot products of a lone row and of a tile of rows by act=q8_0. What is staged of x, half a block to a thread:
var<workgroup> x_codes: array<vec4<u32>, ${WORKGROUP}u>;
var<workgroup> x_largest: array<u32, ${WORKGROUP}u>;
var<workgroup> x_scales: array<f32, ${WORKGROUP}u / 2u>;

const_assert ${X_QUADS}u == 4u * ${WORKGROUP}u;

#include "lib/dot_codes.wgsl"
#include "lib/quantise.wgsl"
#include "lib/rows_dot_integer.wgsl" ROWS=1 REST=3
#include "lib/rows_dot_integer.wgsl" ROWS=${ROW_TILE} REST=0
