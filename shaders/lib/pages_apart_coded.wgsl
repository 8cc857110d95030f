// Vectors read a sequence each, whose pages may be in any codec. A base that several of their pages lie over, or are, is
// loaded once for all of them, and what lies over it for each; where their tables name the same page, that is too. The
// first vector's sequence is the longest: what another does not reach is the first one's page, of which nothing is
// counted. Where bases are known to be the same, `together`, nothing is looked for.
#include "lib/coefficients.wgsl"
#include "lib/keys_coded.wgsl"
#include "lib/values_coded.wgsl"

struct Pages {
#repeat v ${VECTORS}
    at_${v}: u32,
    chunks_${v}: u32,  // of the sequence
#end
    vectors: u32,      // that are rows of their own
}

struct KeyRow {
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
    base_steps: vec4<f32>,
    over_steps: vec4<f32>,
    // As the first vector's.
    same_base: bool,
    same_page: bool,
}

struct KeyRows {
    spot: Spot,
#repeat v ${VECTORS}
    row_${v}: KeyRow,
#end
}

struct ValueRow {
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
    base_step: f32,
    over_step: f32,
    // As the first vector's.
    same_base: bool,
    same_page: bool,
}

struct ValueRows {
    spot: Spot,
#repeat v ${VECTORS}
    row_${v}: ValueRow,
#end
}

fn key_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, together: bool) -> KeyRows {
    var rows: KeyRows;
    rows.spot = Spot(kv_head, token, chunk * ${CHUNK}u + token);
    let within = (2u * chunk + K_PAGE) * 2u * PART_WORDS;
#repeat v ${VECTORS}
    let entry_${v} = select(pages.at_0, pages.at_${v}, chunk < pages.chunks_${v}) + within;
    rows.row_${v}.base = part_at(entry_${v});
    rows.row_${v}.over = part_at(entry_${v} + PART_WORDS);
    rows.row_${v}.base_cache = nothing_loaded();
    rows.row_${v}.over_cache = nothing_loaded();
    rows.row_${v}.same_base = together || same_part(rows.row_0.base, rows.row_${v}.base);
    rows.row_${v}.same_page = rows.row_${v}.same_base && same_part(rows.row_0.over, rows.row_${v}.over);
#end
    return rows;
}

fn group_of_keys(rows: ptr<function, KeyRows>, quad: u32) {
    let spot = (*rows).spot;
#repeat v ${VECTORS}
    if (${v}u == 0u || !(*rows).row_${v}.same_base) {
        var cache = (*rows).row_${v}.base_cache;
        (*rows).row_${v}.base_steps = base_key_steps((*rows).row_${v}.base, &cache, spot, quad);
        (*rows).row_${v}.base_cache = cache;
    }
    if (${v}u == 0u || !(*rows).row_${v}.same_page) {
        var cache = (*rows).row_${v}.over_cache;
        (*rows).row_${v}.over_steps = over_key_steps((*rows).row_${v}.over, &cache, spot, quad);
        (*rows).row_${v}.over_cache = cache;
    }
#end
}

fn key_quads(rows: ptr<function, KeyRows>, quad: u32) -> KeyQuads {
    let spot = (*rows).spot;
    var base_cache = (*rows).row_0.base_cache;
    var over_cache = (*rows).row_0.over_cache;
    let base = base_keys((*rows).row_0.base, &base_cache, (*rows).row_0.base_steps, spot, quad);
    let first = over_keys((*rows).row_0.over, &over_cache, (*rows).row_0.over_steps, spot, quad, base);
    (*rows).row_0.base_cache = base_cache;
    (*rows).row_0.over_cache = over_cache;
    var quads: KeyQuads;
#repeat v ${VECTORS}
    quads.row_${v} = first;
    if (!(*rows).row_${v}.same_page) {
        var own = base;
        if (!(*rows).row_${v}.same_base) {
            base_cache = (*rows).row_${v}.base_cache;
            own = base_keys((*rows).row_${v}.base, &base_cache, (*rows).row_${v}.base_steps, spot, quad);
            (*rows).row_${v}.base_cache = base_cache;
        }
        over_cache = (*rows).row_${v}.over_cache;
        quads.row_${v} = over_keys((*rows).row_${v}.over, &over_cache, (*rows).row_${v}.over_steps, spot, quad, own);
        (*rows).row_${v}.over_cache = over_cache;
    }
#end
    return quads;
}

fn value_rows(pages: Pages, chunk: u32, kv_head: u32, together: bool) -> ValueRows {
    var rows: ValueRows;
    rows.spot = Spot(kv_head, 0u, chunk * ${CHUNK}u);
    let within = (2u * chunk + V_PAGE) * 2u * PART_WORDS;
#repeat v ${VECTORS}
    let entry_${v} = select(pages.at_0, pages.at_${v}, chunk < pages.chunks_${v}) + within;
    rows.row_${v}.base = part_at(entry_${v});
    rows.row_${v}.over = part_at(entry_${v} + PART_WORDS);
    rows.row_${v}.same_base = together || same_part(rows.row_0.base, rows.row_${v}.base);
    rows.row_${v}.same_page = rows.row_${v}.same_base && same_part(rows.row_0.over, rows.row_${v}.over);
#end
    return rows;
}

// From a quad on, of as many as share a step.
fn token_of_values(rows: ptr<function, ValueRows>, token: u32, quad: u32) {
    (*rows).spot.token = token;
    let spot = (*rows).spot;
#repeat v ${VECTORS}
    (*rows).row_${v}.base_cache = nothing_loaded();
    (*rows).row_${v}.over_cache = nothing_loaded();
#end
#repeat v ${VECTORS}
    if (${v}u == 0u || !(*rows).row_${v}.same_base) {
        (*rows).row_${v}.base_step = base_value_step((*rows).row_${v}.base, spot, quad);
    }
    if (${v}u == 0u || !(*rows).row_${v}.same_page) {
        (*rows).row_${v}.over_step = over_value_step((*rows).row_${v}.over, spot, quad);
    }
#end
}

fn value_quads(rows: ptr<function, ValueRows>, quad: u32) -> ValueQuads {
    let spot = (*rows).spot;
    var base_cache = (*rows).row_0.base_cache;
    var over_cache = (*rows).row_0.over_cache;
    let base = base_value((*rows).row_0.base, &base_cache, (*rows).row_0.base_step, spot, quad);
    let first = over_value((*rows).row_0.over, &over_cache, (*rows).row_0.over_step, spot, quad, base);
    (*rows).row_0.base_cache = base_cache;
    (*rows).row_0.over_cache = over_cache;
    var quads: ValueQuads;
#repeat v ${VECTORS}
    quads.row_${v} = first;
    if (!(*rows).row_${v}.same_page) {
        var own = base;
        if (!(*rows).row_${v}.same_base) {
            base_cache = (*rows).row_${v}.base_cache;
            own = base_value((*rows).row_${v}.base, &base_cache, (*rows).row_${v}.base_step, spot, quad);
            (*rows).row_${v}.base_cache = base_cache;
        }
        over_cache = (*rows).row_${v}.over_cache;
        quads.row_${v} = over_value((*rows).row_${v}.over, &over_cache, (*rows).row_${v}.over_step, spot, quad, own);
        (*rows).row_${v}.over_cache = over_cache;
    }
#end
    return quads;
}

// Where a vector's pages are, and how many chunks of them there are: none of a vector that is no row of its own.
fn sequence_of(pages: Pages, v: u32) -> vec2<u32> {
#repeat v ${VECTORS}
    if (v == ${v}u && v < pages.vectors) {
        return vec2<u32>(pages.at_${v}, pages.chunks_${v});
    }
#end
    return vec2<u32>();
}
