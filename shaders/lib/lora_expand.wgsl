// The expand of LoRA, value + s·(z·Bᵀ), as an epilogue. A workgroup stages the z of its rows, ${Z_QUADS} quads of
// ranks at a time, so that all of its outputs read it once. Exactly `rank` terms are added, in order; a row without
// an adapter, or whose adapter has no site here, keeps its value bit for bit.
struct Expand {
    rank: u32,   // 0: nothing is added
    scale: f32,
    b_at: u32,   // of row 0 of B, in u32
    row: u32,    // u32 of a row of B
    b_f16: u32,  // 1: B is f16
    z_at: u32,   // of this row and site
}

const Z_RANKS: u32 = ${Z_QUADS}u * 4u;

fn expand_of(row: u32, projection: u32) -> Expand {
    let slot = tables[params.adapters_at + row];
    if (slot == NO_ADAPTER) {
        return Expand();
    }
    let site = site_at(slot, projection);
    let rank = tables[site + SITE_RANK];
    let b_f16 = tables[site + SITE_B_F16];
    // Rows of B start at a word, so an odd rank in f16 leaves half a word unused.
    let words = select(rank, (rank + 1u) / 2u, b_f16 == 1u);
    let z_at = row * params.z_stride + tables[site + SITE_Z_AT];
    return Expand(rank, bitcast<f32>(tables[site + SITE_SCALE]), tables[site + SITE_B_AT], words, b_f16, z_at);
}

// Four ranks of z, zeros behind the last.
fn z_quad(expand: Expand, rank: u32) -> vec4<f32> {
    var quad = vec4<f32>();
#repeat e 4
    if (rank + ${e}u < expand.rank) {
        quad[${e}] = z[expand.z_at + rank + ${e}u];
    }
#end
    return quad;
}

// The same of an output's row of B.
fn b_quad(expand: Expand, out: u32, rank: u32) -> vec4<f32> {
    let at = expand.b_at + out * expand.row;
    var quad = vec4<f32>();
    if (expand.b_f16 == 1u) {
        if (rank < expand.rank) {
            let pair = f16_pair(factors[at + rank / 2u]);
            quad = vec4<f32>(pair, 0.0, 0.0);
        }
        if (rank + 2u < expand.rank) {
            quad = vec4<f32>(quad.xy, f16_pair(factors[at + rank / 2u + 1u]));
        }
        return quad;
    }
#repeat e 4
    if (rank + ${e}u < expand.rank) {
        quad[${e}] = bitcast<f32>(factors[at + rank + ${e}u]);
    }
#end
    return quad;
}

fn expanded(value: f32, sum: f32, expand: Expand) -> f32 {
    return select(value, fma(expand.scale, sum, value), expand.rank > 0u);
}
