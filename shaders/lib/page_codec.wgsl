// What the kernels of page_codec share: pages as f32 numbers in scratch, and the codes nearest to them. Forms are those of
// lib/page_form.
struct Params {
    items: u32,         // pages
    items_at: u32,      // ITEM_WORDS for each, in tables
    directory_at: u32,  // behind the rotated pairs and the place of their sines, in tables
    kv_heads: u32,
    groups: u32,        // workgroups to a page
}

const ITEM_WORDS: u32 = 8u;

// No anchor is taken away.
const NONE: u32 = 0xffffffffu;

// A page that is stored.
struct Item {
    to: Part,
    position: u32,   // of its first token
    words: u32,      // of the page
    values_at: u32,  // (kv_head, token, head_dim), in scratch
    anchor_at: u32,  // the same of the anchor, or NONE
    steps_at: u32,   // what page_codec_measure finds, in scratch
}

fn item_of(index: u32) -> Item {
    let at = params.items_at + index * ITEM_WORDS;
    return Item(
        Part(tables[at], tables[at + 1u], tables[at + 2u]),
        tables[at + 3u],
        tables[at + 4u],
        tables[at + 5u],
        tables[at + 6u],
        tables[at + 7u],
    );
}

// A number of a page, less the anchor's.
fn difference(item: Item, element: u32) -> f32 {
    let value = scratch[item.values_at + element];
    if (item.anchor_at == NONE) {
        return value;
    }
    return value - scratch[item.anchor_at + element];
}

fn element_of(kv_head: u32, token: u32, channel: u32) -> u32 {
    return (kv_head * ${CHUNK}u + token) * ${HEAD_DIM}u + channel;
}

// Channels that share a step in a token.
fn group_of(part: Part) -> u32 {
    return select(${GROUP}u, ${HEAD_DIM}u, is_set(part, 0u));
}

// Whether codes are shaped over the tokens: V's of few bits whose heads share a step.
fn is_shaped(part: Part) -> bool {
    return kind_of(part) == BY_TOKEN && is_set(part, 0u) && bits_of(part) < 8u;
}

// The code nearest to a value, of two the even one.
fn code(bits: u32, value: f32, step: f32) -> u32 {
    var steps = 0.0;
    if (step != 0.0) {
        steps = value / step;
    }
    return u32(clamp(round(steps - lowest_of(bits)), 0.0, f32((1u << bits) - 1u)));
}
