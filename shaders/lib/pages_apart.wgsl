// Vectors read a sequence each. Where their tables name the same page it is loaded once for all of them, and
// once for each where they do not. The first vector's sequence is the longest: what another does not reach is
// the first one's page, of which nothing is counted. Where pages are known to be the same, `together`, nothing is looked for.
struct Pages {
#repeat v ${VECTORS}
    at_${v}: u32,
    chunks_${v}: u32,  // of the sequence
#end
    vectors: u32,      // that are rows of their own
}

struct Rows {
#repeat v ${VECTORS}
    row_${v}: u32,
#end
}

// A quad of the one token that is read at a time.
struct Keys {
    quad_0: vec4<f32>,
}

struct KeyQuads {
#repeat v ${VECTORS}
    row_${v}: Keys,
#end
}

struct ValueQuads {
#repeat v ${VECTORS}
    row_${v}: vec4<f32>,
#end
}

// The words of the stripe where head `kv_head` of `token` of a chunk starts for each vector.
fn page_rows(pages: Pages, chunk: u32, page: u32, kv_head: u32, token: u32, together: bool) -> Rows {
    return Rows(
#repeat v ${VECTORS}
        page_row(
            chunk_entry(select(pages.at_0, pages.at_${v}, !together && chunk < pages.chunks_${v}), chunk, page),
            kv_head,
            token,
        ),
#end
    );
}

fn key_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, together: bool) -> Rows {
    return page_rows(pages, chunk, K_PAGE, kv_head, token, together);
}

fn key_quads(rows: Rows, quad: u32) -> KeyQuads {
    let values = value_quads(rows, quad);
    return KeyQuads(
#repeat v ${VECTORS}
        Keys(values.row_${v}),
#end
    );
}

fn value_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, quad: u32, together: bool) -> Rows {
    return page_rows(pages, chunk, V_PAGE, kv_head, token, together);
}

fn value_quads(rows: Rows, quad: u32) -> ValueQuads {
    let loaded = page_quad(rows.row_0, quad);
    var quads: ValueQuads;
#repeat v ${VECTORS}
    quads.row_${v} = loaded;
    if (rows.row_${v} != rows.row_0) {
        quads.row_${v} = page_quad(rows.row_${v}, quad);
    }
#end
    return quads;
}
