// What the decode and the prefill kernel of lora_matmul share: parameters, bindings, the list of
// projections and the only store of a result.
struct Params {
    rows: u32,         // rows of x of this kernel's kind
    rows_at: u32,      // their numbers, in tables
    tiles: u32,        // output tiles of all entries
    entries_at: u32,   // the list of projections, in tables
    row_units: u32,    // vec4<u32> in a row of W
    x_at: u32,         // of row 0 of x, in vec4
    x_stride: u32,     // vec4 from a row of x to the next
    x_quads: u32,      // vec4<f32> of K, zeros behind it included
    z_stride: u32,     // f32 in a row of z
    adapters_at: u32,  // of each row, in tables
    sites_at: u32,     // the site table, in tables
    projections: u32,  // of the operation
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${X}>>;       // (rows, x_stride), zeros behind K
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;  // for each matrix: (outs, row_units), scales
@group(0) @binding(3) var<storage, read> vectors: array<f32>;        // biases
@group(0) @binding(4) var<storage, read> tables: array<u32>;         // row lists, entries, adapters, sites
@group(0) @binding(5) var<storage, read> factors: array<u32>;        // A and B of every adapter
@group(0) @binding(6) var<storage, read> z: array<f32>;              // (rows, z_stride): x·Aᵀ
@group(0) @binding(7) var<storage, read_write> y: array<f32>;        // (rows, stride) for each projection

// An entry of the list of projections: outputs that one buffer holds. Tiles are counted through all of
// them, so that projections of one x are one dispatch.
const ENTRY_TILES: u32 = 0u;       // output tiles up to the end of this entry
const ENTRY_CODES: u32 = 1u;       // of row 0 of W, in vec4<u32>
const ENTRY_SCALES: u32 = 2u;      // of row 0 of W, in u32
const ENTRY_OUTS: u32 = 3u;        // outputs in this buffer
const ENTRY_STORED: u32 = 4u;      // and with the zeros that pad a row of y, if the last outputs are here
const ENTRY_FIRST: u32 = 5u;       // the first output in this buffer
const ENTRY_BIAS: u32 = 6u;        // where the bias is in vectors, or NO_BIAS
const ENTRY_Y: u32 = 7u;           // of row 0 of y
const ENTRY_STRIDE: u32 = 8u;      // f32 from a row of y to the next
const ENTRY_PROJECTION: u32 = 9u;  // which of the operation's projections
const ENTRY_SCALE_WORDS: u32 = 10u;  // u32 of scales in a row of W
const ENTRY_WORDS: u32 = 11u;

const NO_BIAS: u32 = 0xffffffffu;

#include "lib/grid.wgsl"
#include "lib/bound.wgsl"
#include "lib/fma_quad.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/weight_${DTYPE}.wgsl"
#include "lib/lora_site.wgsl"
#include "lib/lora_expand.wgsl"

// The entry that a tile belongs to.
fn entry_of(tile: u32) -> u32 {
    var entry = params.entries_at;
    while (tile >= tables[entry + ENTRY_TILES]) {
        entry += ENTRY_WORDS;
    }
    return entry;
}

// The first tile of an entry.
fn first_tile(entry: u32) -> u32 {
    if (entry == params.entries_at) {
        return 0u;
    }
    return tables[entry - ENTRY_WORDS + ENTRY_TILES];
}

// A finished dot product with its bias.
fn biased(dot: f32, entry: u32, column: u32) -> f32 {
    let bias = tables[entry + ENTRY_BIAS];
    if (bias == NO_BIAS) {
        return dot;
    }
    return dot + vectors[bias + column];
}

// The column of an output in y and in B; the last one for what pads a row.
fn column_of(entry: u32, out: u32) -> u32 {
    return tables[entry + ENTRY_FIRST] + min(out, tables[entry + ENTRY_OUTS] - 1u);
}

// Columns that pad a row are kept at zero, so that whoever reads it may read whole units.
fn store(value: f32, entry: u32, row: u32, out: u32) {
    let column = tables[entry + ENTRY_FIRST] + out;
    let inside = out < tables[entry + ENTRY_OUTS];
    y[tables[entry + ENTRY_Y] + row * tables[entry + ENTRY_STRIDE] + column] = select(0.0, value, inside);
}
