// Vectors read a sequence each. Where their tables name the same page it is loaded once for all of them, and
// once for each where they do not. The first vector's sequence is the longest: what another does not reach is
// the first one's page, of which nothing is counted. Where pages are known to be the same, `together`, nothing is
// looked for.
#include "lib/keys_one.wgsl"

struct Pages {
#repeat v ${VECTORS}
    at_${v}: u32,
    chunks_${v}: u32,  // of the sequence
#end
    vectors: u32,      // that are rows of their own
}

struct Rows {
    kv_head: u32,
#repeat v ${VECTORS}
    page_${v}: u32,
    row_${v}: u32,  // the words of the stripe where a token starts
#end
}

// The pages of a chunk for each vector.
fn page_rows(pages: Pages, chunk: u32, page: u32, kv_head: u32, together: bool) -> Rows {
    var rows: Rows;
    rows.kv_head = kv_head;
#repeat v ${VECTORS}
    let reached_${v} = !together && chunk < pages.chunks_${v};
    rows.page_${v} = chunk_entry(select(pages.at_0, pages.at_${v}, reached_${v}), chunk, page);
#end
    return rows;
}

fn token_of_rows(rows: ptr<function, Rows>, token: u32) {
#repeat v ${VECTORS}
    (*rows).row_${v} = page_row((*rows).page_${v}, (*rows).kv_head, token);
#end
}

fn quads_of_rows(rows: ptr<function, Rows>, quad: u32) -> ValueQuads {
    let loaded = page_quad((*rows).row_0, quad);
    var quads: ValueQuads;
#repeat v ${VECTORS}
    quads.row_${v} = loaded;
    if ((*rows).page_${v} != (*rows).page_0) {
        quads.row_${v} = page_quad((*rows).row_${v}, quad);
    }
#end
    return quads;
}

fn key_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, together: bool) -> Rows {
    var rows = page_rows(pages, chunk, K_PAGE, kv_head, together);
    token_of_rows(&rows, token);
    return rows;
}

fn key_quads(rows: ptr<function, Rows>, quad: u32) -> KeyQuads {
    let quads = quads_of_rows(rows, quad);
    return KeyQuads(
#repeat v ${VECTORS}
        Keys(quads.row_${v}),
#end
    );
}

fn value_rows(pages: Pages, chunk: u32, kv_head: u32, together: bool) -> Rows {
    return page_rows(pages, chunk, V_PAGE, kv_head, together);
}

fn token_of_values(rows: ptr<function, Rows>, token: u32, quad: u32) {
    token_of_rows(rows, token);
}

fn value_quads(rows: ptr<function, Rows>, quad: u32) -> ValueQuads {
    return quads_of_rows(rows, quad);
}
