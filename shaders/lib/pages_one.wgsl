// All vectors read one sequence: its page table, and what is loaded of a page serves them all.
#include "lib/keys_one.wgsl"

struct Pages {
    at: u32,
}

// The words of the stripe where head `kv_head` of `token` of a chunk starts.
fn key_rows(pages: Pages, chunk: u32, kv_head: u32, token: u32, together: bool) -> u32 {
    return page_row(chunk_entry(pages.at, chunk, K_PAGE), kv_head, token);
}

fn key_quads(row: ptr<function, u32>, quad: u32) -> KeyQuads {
    let loaded = Keys(page_quad(*row, quad));
    return KeyQuads(
#repeat v ${VECTORS}
        loaded,
#end
    );
}

struct ValueRows {
    page: u32,
    kv_head: u32,
    row: u32,  // of a token, as of keys
}

fn value_rows(pages: Pages, chunk: u32, kv_head: u32, together: bool) -> ValueRows {
    return ValueRows(chunk_entry(pages.at, chunk, V_PAGE), kv_head, 0u);
}

fn token_of_values(rows: ptr<function, ValueRows>, token: u32, quad: u32) {
    (*rows).row = page_row((*rows).page, (*rows).kv_head, token);
}

fn value_quads(rows: ptr<function, ValueRows>, quad: u32) -> ValueQuads {
    let loaded = page_quad((*rows).row, quad);
    return ValueQuads(
#repeat v ${VECTORS}
        loaded,
#end
    );
}
