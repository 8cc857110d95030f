// Vectors read a sequence each, whose pages may be in any codec. A base that several of their pages lie over, or are, is
// loaded once for all of them, and what lies over it for each; where their tables name the same page, that is too. The
// first vector's sequence is the longest: what another does not reach is the first one's page, of which nothing is
// counted.
struct Pages {
#repeat v ${VECTORS}
    at_${v}: u32,
    chunks_${v}: u32,  // of the sequence
#end
}

struct Row {
    base: Part,
    over: Part,
    base_cache: Cache,
    over_cache: Cache,
    // As the first vector's.
    same_base: bool,
    same_page: bool,
}

struct Rows {
    spot: Spot,
#repeat v ${VECTORS}
    row_${v}: Row,
#end
}

struct Quads {
#repeat v ${VECTORS}
    quad_${v}: vec4<f32>,
#end
}

// Head `kv_head` of `token` of a chunk, for each vector.
fn page_rows(pages: Pages, chunk: u32, page: u32, kv_head: u32, token: u32) -> Rows {
    let within = (2u * chunk + page) * 2u * PART_WORDS;
#repeat v ${VECTORS}
    let entry_${v} = select(pages.at_0, pages.at_${v}, chunk < pages.chunks_${v}) + within;
    let base_${v} = part_at(entry_${v});
    let over_${v} = part_at(entry_${v} + PART_WORDS);
    let same_base_${v} = same_part(base_0, base_${v});
    let same_page_${v} = same_base_${v} && same_part(over_0, over_${v});
#end
    return Rows(
        Spot(kv_head, token, chunk * ${CHUNK}u + token),
#repeat v ${VECTORS}
        Row(base_${v}, over_${v}, nothing_loaded(), nothing_loaded(), same_base_${v}, same_page_${v}),
#end
    );
}

fn page_quads(rows: ptr<function, Rows>, quad: u32) -> Quads {
    let spot = (*rows).spot;
    let base = base_quad((*rows).row_0.base, (*rows).row_0.base_cache, spot, quad);
    (*rows).row_0.base_cache = base.cache;
    let over = topped_quad((*rows).row_0.over, (*rows).row_0.over_cache, spot, quad, base.quad);
    (*rows).row_0.over_cache = over.cache;
    var quads: Quads;
#repeat v ${VECTORS}
    quads.quad_${v} = over.quad;
    if (!(*rows).row_${v}.same_page) {
        var base_${v} = base.quad;
        if (!(*rows).row_${v}.same_base) {
            let own = base_quad((*rows).row_${v}.base, (*rows).row_${v}.base_cache, spot, quad);
            (*rows).row_${v}.base_cache = own.cache;
            base_${v} = own.quad;
        }
        let own = topped_quad((*rows).row_${v}.over, (*rows).row_${v}.over_cache, spot, quad, base_${v});
        (*rows).row_${v}.over_cache = own.cache;
        quads.quad_${v} = own.quad;
    }
#end
    return quads;
}
