// The shrink of LoRA: z = x·Aᵀ, once for all projections that read this x; A is ${DTYPE}.
//
// A workgroup takes up to ${ROW_TILE} rows of one adapter and ${OUT_TILE} ranks of one of its sites, found
// by counting through the sites' own ranks: nothing is padded to the largest. ${LANES} lanes share a K,
// more than in the matmul, because there are few ranks to spread over a device.
//
// Where x is a norm's result, one dispatch computes both: the first workgroups norm a row each and store it,
// the others norm what they shrink by themselves, the same way to the bit, rather than wait for it.
struct Params {
    groups: u32,       // rows with an adapter, in groups of one adapter
    groups_at: u32,    // (adapter, rows, row numbers), in tables
    tiles: u32,        // rank tiles of the adapter that has the most
    projections: u32,  // of the operation
    sites_at: u32,     // the site table, in tables
    x_at: u32,         // of row 0 of x, in vec4<f32>
    x_stride: u32,     // vec4<f32> from a row of x to the next
    x_quads: u32,      // vec4<f32> of K, zeros behind it included
    z_stride: u32,     // f32 in a row of z
    row_units: u32,    // vec4<u32> in a row of A
    padding_0: u32,    // a struct begins at a whole vec4
    padding_1: u32,
    norm: Norm,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (rows, x_stride), zeros behind K
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;  // A and B of every adapter
@group(0) @binding(3) var<storage, read> tables: array<u32>;         // groups, sites
@group(0) @binding(4) var<storage, read_write> z: array<f32>;        // (rows, z_stride)

var<workgroup> staged: array<vec4<f32>, ${STAGED}u>;  // x, then the sums of every lane

const GROUP_WORDS: u32 = 2u + ${ROW_TILE}u;

#include "lib/grid.wgsl"
#include "lib/bound.wgsl"
#include "lib/fma_quad.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/lora_site.wgsl"
#include "lib/weight_${DTYPE}.wgsl"
#include "lib/shrink_${SOURCE}.wgsl"
#include "lib/lanes_${LANES_BY}.wgsl"
#include "lib/rows_dots_float.wgsl"

const_assert ${ROW_TILE}u == 4u;  // the rows of a group are held in a vec4
const_assert ${WORKGROUP}u / ${LANES}u * ${OUTS}u == ${OUT_TILE}u;
const_assert ${STAGED}u >= ${X_QUADS}u && ${STAGED}u >= ${OUTS}u * ${WORKGROUP}u;

@compute @workgroup_size(${WORKGROUP})
fn lora_matmul_shrink(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let whole = folded_index(id, grid);
    if (whole < params.norm.rows) {
        norm_row(thread, whole);
        return;
    }
    let index = whole - params.norm.rows;
    if (index >= params.groups * params.tiles) {
        return;
    }
    let group = params.groups_at + (index / params.tiles) * GROUP_WORDS;
    let slot = tables[group];
    let count = tables[group + 1u];

    var tile = index % params.tiles;
    var projection = 0u;
    var rank = 0u;
    for (; projection < params.projections; projection++) {
        rank = tables[site_at(slot, projection) + SITE_RANK];
        let tiles = (rank + ${OUT_TILE}u - 1u) / ${OUT_TILE}u;
        if (tile < tiles) {
            break;
        }
        tile -= tiles;
    }
    if (projection == params.projections) {
        return;
    }
    let site = site_at(slot, projection);
    if (tables[site + SITE_A_F16] != ${A_F16}u) {
        return;
    }

    let rows = vec4<u32>(
#repeat r ${ROW_TILE}
        tables[group + 2u + ${r}u],
#end
    );
    let first_rank = tile * ${OUT_TILE}u;
    let lane_rank = first_rank + (thread / ${LANES}u) * ${OUTS}u;
    let a_row = min(vec4<u32>(lane_rank) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(rank - 1u));
    let a_at = tables[site + SITE_A_AT] + a_row * params.row_units;
    prepare(thread, rows, count);
    if (count == 1u) {
        rows_dot_1(thread, rows, a_at, vec4<u32>());
    } else {
        rows_dot_${ROW_TILE}(thread, rows, a_at, vec4<u32>());
    }
    let z_at = tables[site + SITE_Z_AT];
    for (var i = thread; i < count * ${OUT_TILE}u; i += ${WORKGROUP}u) {
        let out = i % ${OUT_TILE}u;
        let row = i / ${OUT_TILE}u;
        if (first_rank + out < rank) {
            z[rows[row] * params.z_stride + z_at + first_rank + out] = lanes_sum(out / ${OUTS}u, out % ${OUTS}u, row);
        }
    }
}
