// What threads stage of a tile of f32 products: a quad of x and a unit of weights, zeros behind the end of a row.
struct TileUnit {
    unit: vec4<u32>,
    scale: f32,
}

fn tile_x(row: u32, quad: u32) -> vec4<f32> {
    if (quad < params.x_quads) {
        return x[params.x_at + row_of[row] * params.x_stride + quad];
    }
    return vec4<f32>();
}

fn tile_unit(entry: u32, first_out: u32, out: u32, unit_of_row: u32) -> TileUnit {
    let of_entry = entry + out / OWN_TILE * ENTRY_WORDS;
    let weight_row = min(first_out + out % OWN_TILE, tables[of_entry + ENTRY_OUTS] - 1u);
    let safe = min(unit_of_row, params.row_units - 1u);
    let inside = unit_of_row < params.row_units;
    let unit_at = tables[of_entry + ENTRY_CODES] + weight_row * params.row_units + safe;
    let scale_at = tables[of_entry + ENTRY_SCALES] + weight_row * tables[of_entry + ENTRY_SCALE_WORDS];
    let scale = unit_scale(span_scales(scale_at, safe), safe % ${SPAN}u);
    return TileUnit(select(vec4<u32>(), weights[unit_at], inside), select(0.0, scale, inside));
}
