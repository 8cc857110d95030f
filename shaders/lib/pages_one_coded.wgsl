// All vectors read one sequence, whose pages may be in any codec: what is decoded of a page serves them all.
#include "lib/coefficients.wgsl"
#include "lib/keys_coded.wgsl"
#include "lib/values_coded.wgsl"

struct Pages {
    at: u32,
}

struct KeyRows {
    spot: Spot,
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
    base_steps: vec4<f32>,
    over_steps: vec4<f32>,
}

struct ValueRows {
    spot: Spot,
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
    base_step: f32,
    over_step: f32,
}

fn key_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, together: bool) -> KeyRows {
    var rows: KeyRows;
    let entry = pages.at + (2u * chunk + K_PAGE) * 2u * PART_WORDS;
    rows.spot = Spot(kv_head, token, chunk * ${CHUNK}u + token);
    rows.base = part_at(entry);
    rows.over = part_at(entry + PART_WORDS);
    rows.base_cache = nothing_loaded();
    rows.over_cache = nothing_loaded();
    return rows;
}

fn group_of_keys(rows: ptr<function, KeyRows>, quad: u32) {
    var base_cache = (*rows).base_cache;
    var over_cache = (*rows).over_cache;
    (*rows).base_steps = base_key_steps((*rows).base, &base_cache, (*rows).spot, quad);
    (*rows).over_steps = over_key_steps((*rows).over, &over_cache, (*rows).spot, quad);
    (*rows).base_cache = base_cache;
    (*rows).over_cache = over_cache;
}

fn key_quads(rows: ptr<function, KeyRows>, quad: u32) -> KeyQuads {
    let spot = (*rows).spot;
    var base_cache = (*rows).base_cache;
    var over_cache = (*rows).over_cache;
    let base = base_keys((*rows).base, &base_cache, (*rows).base_steps, spot, quad);
    let keys = over_keys((*rows).over, &over_cache, (*rows).over_steps, spot, quad, base);
    (*rows).base_cache = base_cache;
    (*rows).over_cache = over_cache;
    return KeyQuads(
#repeat v ${VECTORS}
        keys,
#end
    );
}

fn value_rows(pages: Pages, chunk: u32, kv_head: u32, together: bool) -> ValueRows {
    var rows: ValueRows;
    let entry = pages.at + (2u * chunk + V_PAGE) * 2u * PART_WORDS;
    rows.spot = Spot(kv_head, 0u, chunk * ${CHUNK}u);
    rows.base = part_at(entry);
    rows.over = part_at(entry + PART_WORDS);
    return rows;
}

// From a quad on, of as many as share a step.
fn token_of_values(rows: ptr<function, ValueRows>, token: u32, quad: u32) {
    (*rows).spot.token = token;
    (*rows).base_cache = nothing_loaded();
    (*rows).over_cache = nothing_loaded();
    (*rows).base_step = base_value_step((*rows).base, (*rows).spot, quad);
    (*rows).over_step = over_value_step((*rows).over, (*rows).spot, quad);
}

fn value_quads(rows: ptr<function, ValueRows>, quad: u32) -> ValueQuads {
    let spot = (*rows).spot;
    var base_cache = (*rows).base_cache;
    var over_cache = (*rows).over_cache;
    let base = base_value((*rows).base, &base_cache, (*rows).base_step, spot, quad);
    let value = over_value((*rows).over, &over_cache, (*rows).over_step, spot, quad, base);
    (*rows).base_cache = base_cache;
    (*rows).over_cache = over_cache;
    return ValueQuads(
#repeat v ${VECTORS}
        value,
#end
    );
}

// Where a vector's pages are, and how many chunks of them there are at least.
fn sequence_of(pages: Pages, v: u32) -> vec2<u32> {
    return vec2<u32>(pages.at, 0xffffffffu);
}
