// page_codec, first of three: pages as numbers, in any codec. A workgroup takes one row of a head.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> scratch: array<f32>;
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;  // (base, over, first position, place in scratch) of each page

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/page_codec.wgsl"
#include "lib/coded_quad.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn page_codec_decode(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.items * params.groups) {
        return;
    }
    let at = params.items_at + index / params.groups * ITEM_WORDS;
    let kv_head = index % params.groups / ${CHUNK}u;
    let token = index % ${CHUNK}u;
    let spot = Spot(kv_head, token, tables[at + 2u * PART_WORDS] + token);
    for (var quad = thread; quad < ${QUADS}u; quad += ${WORKGROUP}u) {
        let value = coded_quad(part_at(at), part_at(at + PART_WORDS), spot, quad);
        let to = tables[at + 2u * PART_WORDS + 1u] + element_of(kv_head, token, 4u * quad);
#repeat e 4
        if (4u * quad + ${e}u < ${HEAD_DIM}u) {
            scratch[to + ${e}u] = value[${e}];
        }
#end
    }
}
