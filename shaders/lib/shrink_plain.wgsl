// x is shrunk as it is; no workgroup norms.
#include "lib/norm_params.wgsl"

fn norm_row(thread: u32, row: u32) {}

fn prepare(thread: u32, rows: vec4<u32>, count: u32) {}

fn x_quad(of_tile: u32, row: u32, quad: u32) -> vec4<f32> {
    return x[params.x_at + row * params.x_stride + quad];
}
