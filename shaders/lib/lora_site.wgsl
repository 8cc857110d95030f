// The site table: for each adapter of the batch and each projection of the operation, in that order,
// where its factors are. Written by the host with every step, so adapters come and go without touching
// anything of the base. Rank 0 stands for "no site here".
const SITE_RANK: u32 = 0u;
const SITE_SCALE: u32 = 1u;    // f32 bits
const SITE_A_F16: u32 = 2u;    // 1: A is f16, 0: f32
const SITE_A_AT: u32 = 3u;     // of row 0, in vec4<u32>
const SITE_B_F16: u32 = 4u;    // 1: B is f16, 0: f32
const SITE_B_AT: u32 = 5u;     // of row 0, in u32
const SITE_Z_AT: u32 = 6u;     // within a row of z
const SITE_WORDS: u32 = 7u;

const NO_ADAPTER: u32 = 0xffffffffu;

fn site_at(slot: u32, projection: u32) -> u32 {
    return params.sites_at + (slot * params.projections + projection) * SITE_WORDS;
}
