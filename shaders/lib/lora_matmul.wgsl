// What the decode and the prefill kernel of lora_matmul share: parameters, bindings and the expand.
struct Params {
    rows: u32,         // rows of x of this kernel's kind
    rows_at: u32,      // their numbers, in tables
    row_units: u32,    // vec4<u32> in a row of W
    scales_at: u32,    // behind the codes, in u32
    scale_words: u32,  // u32 of scales in a row of W
    out_first: u32,    // the first output in this buffer
    outs: u32,         // outputs in this buffer
    outs_stored: u32,  // and with the zeros that pad a row of y, if the last outputs are here
    x_quads: u32,      // vec4<f32> in a row of x
    y_stride: u32,     // f32 in a row of y
    z_stride: u32,     // f32 in a row of z
    biased: u32,       // 1: there is a bias
    adapters_at: u32,  // of each row, in tables
    sites_at: u32,     // the site table, in tables
    projections: u32,  // of the operation
    projection: u32,   // this one
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (rows, x_quads), zeros behind K
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;  // (outs, row_units), then scales
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // (out)
@group(0) @binding(4) var<storage, read> tables: array<u32>;         // row lists, adapters, sites
@group(0) @binding(5) var<storage, read> factors: array<u32>;        // A and B of every adapter
@group(0) @binding(6) var<storage, read> z: array<f32>;              // (rows, z_stride): x·Aᵀ
@group(0) @binding(7) var<storage, read_write> y: array<f32>;        // (rows, y_stride)

#include "lib/grid.wgsl"
#include "lib/fma_quad.wgsl"
#include "lib/f16_pair.wgsl"
#include "lib/weight_${DTYPE}.wgsl"
#include "lib/lora_site.wgsl"
#include "lib/lora_expand.wgsl"

// The only store of a result: bias and expand are added to the finished dot product. Columns that pad
// a row are kept at zero, so that whoever reads it may read whole units.
fn store(dot: f32, row: u32, out: u32) {
    let column = params.out_first + out;
    var value = 0.0;
    if (out < params.outs) {
        value = dot;
        if (params.biased == 1u) {
            value += bias[column];
        }
        value = lora_expand(value, row, column);
    }
    y[row * params.y_stride + column] = value;
}
