// The expand of LoRA, as an epilogue: value + s·(z·Bᵀ) for one row and one output. Exactly `rank` terms,
// in order; a row without an adapter, or whose adapter has no site here, keeps its value bit for bit.
fn lora_expand(value: f32, row: u32, projection: u32, out: u32) -> f32 {
    let slot = tables[params.adapters_at + row];
    if (slot == NO_ADAPTER) {
        return value;
    }
    let site = site_at(slot, projection);
    let rank = tables[site + SITE_RANK];
    if (rank == 0u) {
        return value;
    }
    let z_at = row * params.z_stride + tables[site + SITE_Z_AT];
    let b = tables[site + SITE_B_AT];
    var sum = 0.0;
    if (tables[site + SITE_B_F16] == 1u) {
        // Rows of B start at a word, so an odd rank leaves half a word unused.
        let b_at = b + out * ((rank + 1u) / 2u);
        for (var pair = 0u; pair < rank / 2u; pair++) {
            let factors_of = f16_pair(factors[b_at + pair]);
            sum = fma(z[z_at + 2u * pair], factors_of.x, sum);
            sum = fma(z[z_at + 2u * pair + 1u], factors_of.y, sum);
        }
        if (rank % 2u == 1u) {
            sum = fma(z[z_at + rank - 1u], f16_pair(factors[b_at + rank / 2u]).x, sum);
        }
    } else {
        let b_at = b + out * rank;
        for (var r = 0u; r < rank; r++) {
            sum = fma(z[z_at + r], bitcast<f32>(factors[b_at + r]), sum);
        }
    }
    return fma(bitcast<f32>(tables[site + SITE_SCALE]), sum, value);
}
