// Parts of pages in any codec, as tables name them, and how they are stored.

// Kinds of parts. A form is a kind, the bits of a code, and what else the kind needs.
const EXACT: u32 = 0u;       // numbers
const BY_TOKEN: u32 = 1u;    // codes with a step for each group of a token's channels
const BY_CHANNEL: u32 = 2u;  // codes with a step for each channel: 8 bits of its own
const PROFILED: u32 = 3u;    // codes with a step for each channel: from constants
const STEPS: u32 = 4u;       // integers of one step
const LOW_RANK: u32 = 5u;    // coefficients of directions
const NOTHING: u32 = 6u;     // no page

// Words of a part in tables.
const PART_WORDS: u32 = 3u;

struct Part {
    at: u32,         // in the stripe, in units
    form: u32,
    constants: u32,  // in constants
}

fn part_at(entry: u32) -> Part {
    return Part(tables[entry], tables[entry + 1u], tables[entry + 2u]);
}

fn same_part(a: Part, b: Part) -> bool {
    return a.at == b.at && a.form == b.form && a.constants == b.constants;
}

fn kind_of(part: Part) -> u32 {
    return part.form & 7u;
}

fn bits_of(part: Part) -> u32 {
    return (part.form >> 3u) & 63u;
}

// A flag of a form: whether all channels of a head share a step (0), the first token is kept (1), keys are turned (2), with
// channels that may stand in two quads (3), a word of each token beside those of the others (4).
fn is_set(part: Part, flag: u32) -> bool {
    return ((part.form >> (9u + flag)) & 1u) == 1u;
}

// Words of a head's codes.
fn head_words_of(part: Part) -> u32 {
    let bits = bits_of(part);
    if (is_set(part, 4u)) {
        return (${HEAD_DIM}u * bits + 31u) / 32u * ${CHUNK}u;
    }
    return ${HEAD_DIM}u * ${CHUNK}u * bits / 32u;
}

// What code 0 stands for, in steps.
fn lowest_of(bits: u32) -> f32 {
    return select(-f32(1u << (bits - 1u)), -1.5, bits == 2u);
}
