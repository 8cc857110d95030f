// page_codec, on its own: what pages have lost by being stored in other codecs. A workgroup takes a KV head of a page.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> scratch: array<f32>;  // (page, kv_head): squared differences, and squares
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;  // (page before, page after, first position, place in scratch)

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/page_codec.wgsl"
#include "lib/coded_quad.wgsl"

// Words of a page that is compared: twice a base and what lies over it.
const COMPARED_WORDS: u32 = 4u * PART_WORDS + 2u;

// The sums of each thread.
var<workgroup> shares: array<vec2<f32>, ${WORKGROUP}>;

@compute @workgroup_size(${WORKGROUP})
fn page_codec_compare(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.items * params.groups) {
        return;
    }
    let at = params.items_at + index / params.groups * COMPARED_WORDS;
    let after = at + 2u * PART_WORDS;
    let kv_head = index % params.groups;
    let position = tables[at + 4u * PART_WORDS];
    var error = vec4<f32>();
    var norm = vec4<f32>();
    for (var i = thread; i < ${CHUNK}u * ${QUADS}u; i += ${WORKGROUP}u) {
        let token = i / ${QUADS}u;
        let quad = i % ${QUADS}u;
        let spot = Spot(kv_head, token, position + token);
        let before = coded_quad(part_at(at), part_at(at + PART_WORDS), spot, quad);
        let off = before - coded_quad(part_at(after), part_at(after + PART_WORDS), spot, quad);
        error = fma(off, off, error);
        norm = fma(before, before, norm);
    }
    shares[thread] = vec2<f32>(error.x + error.y + error.z + error.w, norm.x + norm.y + norm.z + norm.w);
    workgroupBarrier();
    if (thread == 0u) {
        var sums = shares[0];
        for (var i = 1u; i < ${WORKGROUP}u; i++) {
            sums += shares[i];
        }
        let to = tables[at + 4u * PART_WORDS + 1u] + 2u * kv_head;
        scratch[to] = sums.x;
        scratch[to + 1u] = sums.y;
    }
}
