// All vectors read one sequence: its page table, and what is loaded of a page serves them all.
struct Pages {
    at: u32,
}

struct Quads {
#repeat v ${VECTORS}
    quad_${v}: vec4<f32>,
#end
}

// The word of the stripe where head `kv_head` of `token` of a chunk starts.
fn page_rows(pages: Pages, chunk: u32, page: u32, kv_head: u32, token: u32) -> u32 {
    return page_row(chunk_entry(pages.at, chunk, page), kv_head, token);
}

fn page_quads(row: u32, quad: u32) -> Quads {
    let loaded = page_quad(row, quad);
    return Quads(
#repeat v ${VECTORS}
        loaded,
#end
    );
}
