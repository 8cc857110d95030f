// Where a page's elements are. A page of K or V, (kv_head, token, head_dim), lies in its layer's stripe where its entry
// says. How elements are decoded is in lib/page_<codec>.wgsl, and one alone in lib/page_element_<codec>.wgsl, and nowhere
// else.
const K_PAGE: u32 = 0u;
const V_PAGE: u32 = 1u;

// An entry of a page table counts in units of 16 bytes.
const UNIT_WORDS: u32 = 4u;

// The page table of a sequence. A layer's directory starts with where, from itself, each one is.
fn pages_of(sequence: u32) -> u32 {
    return params.directory_at + tables[params.directory_at + sequence];
}

// Entries of a chunk: K's, then V's.
fn chunk_entry(pages_at: u32, chunk: u32, page: u32) -> u32 {
    return tables[pages_at + 2u * chunk + page];
}

// The word of the stripe where head `kv_head` of `token` starts.
fn page_row(entry: u32, kv_head: u32, token: u32) -> u32 {
    return entry * UNIT_WORDS + (kv_head * ${CHUNK}u + token) * ${ROW_WORDS}u;
}
