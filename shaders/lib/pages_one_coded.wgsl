// All vectors read one sequence, whose pages may be in any codec: what is decoded of a page serves them all.
struct Pages {
    at: u32,
}

struct Rows {
    spot: Spot,
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
}

struct Quads {
#repeat v ${VECTORS}
    quad_${v}: vec4<f32>,
#end
}

// Head `kv_head` of `token` of a chunk.
fn page_rows(pages: Pages, chunk: u32, page: u32, kv_head: u32, token: u32) -> Rows {
    let entry = pages.at + (2u * chunk + page) * 2u * PART_WORDS;
    return Rows(
        Spot(kv_head, token, chunk * ${CHUNK}u + token),
        part_at(entry),
        part_at(entry + PART_WORDS),
        nothing_loaded(),
        nothing_loaded(),
    );
}

fn page_quads(rows: ptr<function, Rows>, quad: u32) -> Quads {
    let base = base_quad((*rows).base, (*rows).base_cache, (*rows).spot, quad);
    (*rows).base_cache = base.cache;
    let over = topped_quad((*rows).over, (*rows).over_cache, (*rows).spot, quad, base.quad);
    (*rows).over_cache = over.cache;
    return Quads(
#repeat v ${VECTORS}
        over.quad,
#end
    );
}
