//! `lora_matmul`: records an operation's shrink and the matmuls of its projections. What the kernels do is in `shaders/lora_matmul_*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, Dtype, ProjectionId, Tensor};

use crate::command::{Place, Recorder, word};
use crate::decide::{self, LanesTile, ROW_TILE, RegisterTile, Strategy, WORKGROUP};
use crate::factors::Site;
use crate::kernel::{Access, Kernel, Template};
use crate::rows::MatmulRows;
use crate::step::Plan;
use crate::tensors::Placed;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// z = x·Aᵀ; A's dtype.
    Shrink(Dtype, LanesTile),
    /// Base, bias and expand for generated rows; W's dtype.
    Decode(Dtype, LanesTile),
    /// The same for prompt rows.
    Prefill(Dtype, RegisterTile),
}

/// The parameters of the decode and the prefill kernel.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MatmulParams {
    rows: u32,
    rows_at: u32,
    row_units: u32,
    scales_at: u32,
    scale_words: u32,
    out_first: u32,
    outs: u32,
    outs_stored: u32,
    x_quads: u32,
    y_stride: u32,
    z_stride: u32,
    biased: u32,
    adapters_at: u32,
    sites_at: u32,
    projections: u32,
    projection: u32,
}

/// The parameters of the shrink.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ShrinkParams {
    groups: u32,
    groups_at: u32,
    tiles: u32,
    projections: u32,
    sites_at: u32,
    x_quads: u32,
    z_stride: u32,
    row_units: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let lanes = |tile: LanesTile| {
            vec![
                ("LANES", tile.lanes),
                ("OUTS", tile.outs),
                ("OUT_TILE", tile.out_tile()),
                ("ROW_TILE", ROW_TILE),
            ]
        };
        let (name, dtype, mut numbers, bindings, params): (_, _, Vec<_>, &[Access], _) = match self {
            Self::Shrink(dtype, tile) => {
                let bindings = &[Read, Read, Read, Write];
                let mut numbers = lanes(tile);
                numbers.push(("A_F16", flag(dtype == Dtype::F16)));
                ("lora_matmul_shrink", dtype, numbers, bindings, size_of::<ShrinkParams>())
            }
            Self::Decode(dtype, tile) => {
                let bindings = &[Read, Read, Read, Read, Read, Read, Write];
                ("lora_matmul_decode", dtype, lanes(tile), bindings, size_of::<MatmulParams>())
            }
            Self::Prefill(dtype, tile) => {
                let numbers =
                    vec![("ROW_TILE", tile.rows), ("OUT_TILE", tile.outs), ("K_QUADS", tile.k_quads)];
                let bindings = &[Read, Read, Read, Read, Read, Read, Write];
                ("lora_matmul_prefill", dtype, numbers, bindings, size_of::<MatmulParams>())
            }
        };
        numbers.extend([("UNIT_QUADS", decide::unit_quads(dtype)), ("WORKGROUP", WORKGROUP)]);
        let mut constants: Vec<(&str, String)> = numbers.iter().map(|(n, v)| (*n, v.to_string())).collect();
        constants.push(("DTYPE", dtype.name().to_owned()));
        Template { name, constants, bindings, params }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let shrink = [Dtype::F32, Dtype::F16].map(|d| Self::Shrink(d, decide::shrink()));
        let base = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0];
        let decode = base.map(|d| Self::Decode(d, decide::matmul_decode()));
        let prefill = base.map(|d| Self::Prefill(d, decide::matmul_prefill()));
        [shrink.as_slice(), &decode, &prefill].concat()
    }
}

const fn flag(set: bool) -> u32 {
    if set { 1 } else { 0 }
}

/// The sites of the adapters of a batch at the projections of an operation.
struct Sites {
    /// The site table, in the tables.
    at: u32,
    /// f32 in a row of z: the ranks of the adapter that has most.
    z_stride: u32,
    /// Rank tiles of the adapter that has most.
    tiles: u32,
    /// Dtypes of A among the sites that some row uses.
    a_dtypes: Vec<Dtype>,
}

/// Records one operation.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    x: Tensor,
    projections: &[(ProjectionId, Tensor)],
) -> Result<(), BackendError> {
    let placed_x = plan.tensors.place(recorder, x)?;
    let mut outputs = Vec::with_capacity(projections.len());
    for (_, y) in projections {
        outputs.push(plan.tensors.place(recorder, *y)?);
    }
    if placed_x.rows == 0 || projections.is_empty() {
        return Ok(());
    }
    let rows = plan.rows.matmul(plan.step, x.rows, &mut recorder.recording.tables).clone();
    let sites = sites(plan, recorder, &rows, projections)?;
    let z = shrink(plan, recorder, &rows, &sites, &placed_x, word(projections.len()))?;
    for (i, ((id, _), y)) in projections.iter().zip(&outputs).enumerate() {
        let (matrix, bias) = plan.weights.projection(*id)?;
        for part in &matrix.parts {
            let last = part.first + part.rows == matrix.rows;
            let stored = if last { y.stride - part.first } else { part.rows };
            let params = MatmulParams {
                rows: 0,
                rows_at: 0,
                row_units: word(matrix.layout.units),
                scales_at: word(part.rows * matrix.layout.code_bytes() / size_of::<u32>()),
                scale_words: word(matrix.layout.scale_words),
                out_first: word(part.first),
                outs: word(part.rows),
                outs_stored: word(stored),
                x_quads: word(placed_x.stride / 4),
                y_stride: word(y.stride),
                z_stride: sites.z_stride,
                biased: flag(bias.is_some()),
                adapters_at: rows.adapters_at,
                sites_at: sites.at,
                projections: word(projections.len()),
                projection: word(i),
            };
            // What is absent is never read; any buffer serves to bind.
            let or_tables = |buffer: Option<&wgpu::Buffer>| {
                buffer.map_or(Place::Tables, |buffer| Place::Buffer(buffer.clone()))
            };
            let places = [
                Place::Buffer(placed_x.buffer.clone()),
                Place::Buffer(part.buffer.clone()),
                or_tables(bias),
                Place::Tables,
                or_tables(plan.factors.buffer()),
                or_tables(z.as_ref()),
                Place::Buffer(y.buffer.clone()),
            ];
            matmul(recorder, &rows, matrix.dtype, params, &places)?;
        }
    }
    if let Some(z) = &z {
        recorder.scratch.give(z);
    }
    Ok(())
}

/// Records the matmul of one part of a matrix: a dispatch for each kind of row that there is.
fn matmul(
    recorder: &mut Recorder<'_>,
    rows: &MatmulRows,
    dtype: Dtype,
    params: MatmulParams,
    places: &[Place],
) -> Result<(), BackendError> {
    for strategy in [Strategy::Decode, Strategy::Prefill] {
        let (list, row_tile, out_tile, variant) = match strategy {
            Strategy::Decode => {
                let tile = decide::matmul_decode();
                (rows.decode, ROW_TILE, tile.out_tile(), Variant::Decode(dtype, tile))
            }
            Strategy::Prefill => {
                let tile = decide::matmul_prefill();
                (rows.prefill, tile.rows, tile.outs, Variant::Prefill(dtype, tile))
            }
        };
        let params = MatmulParams { rows: list.count, rows_at: list.at, ..params };
        let row_tiles = u64::from(list.count.div_ceil(row_tile));
        let out_tiles = u64::from(params.outs_stored.div_ceil(out_tile));
        recorder.dispatch(Kernel::LoraMatmul(variant), &params, places.to_vec(), row_tiles * out_tiles)?;
    }
    Ok(())
}

/// Writes the site table.
fn sites(
    plan: &Plan<'_>,
    recorder: &mut Recorder<'_>,
    rows: &MatmulRows,
    projections: &[(ProjectionId, Tensor)],
) -> Result<Sites, BackendError> {
    let at = word(recorder.recording.tables.len());
    let mut found = Sites { at, z_stride: 0, tiles: 0, a_dtypes: Vec::new() };
    for (slot, adapter) in plan.step.batch().adapters.iter().enumerate() {
        let mut z_at = 0;
        let mut tiles = 0;
        for (id, _) in projections {
            let site = plan.factors.site(*adapter, *id)?.filter(|site| site.rank > 0);
            recorder.recording.tables.extend(site.map_or([0; SITE_WORDS], |site| site_words(&site, z_at)));
            let Some(site) = site else { continue };
            z_at += site.rank;
            tiles += site.rank.div_ceil(decide::shrink().out_tile());
            if rows.used.contains(&slot) && !found.a_dtypes.contains(&site.a_dtype) {
                found.a_dtypes.push(site.a_dtype);
            }
        }
        found.z_stride = found.z_stride.max(z_at);
        found.tiles = found.tiles.max(tiles);
    }
    Ok(found)
}

/// Words of a site, as `shaders/lib/lora_site.wgsl` reads them.
const SITE_WORDS: usize = 7;

fn site_words(site: &Site, z_at: u32) -> [u32; SITE_WORDS] {
    let f16 = |dtype| flag(dtype == Dtype::F16);
    [site.rank, site.scale.to_bits(), f16(site.a_dtype), site.a_at, f16(site.b_dtype), site.b_at, z_at]
}

/// Records the shrink and returns z; `None` where no row has an adapter with a site here.
fn shrink(
    plan: &Plan<'_>,
    recorder: &mut Recorder<'_>,
    rows: &MatmulRows,
    sites: &Sites,
    x: &Placed,
    projections: u32,
) -> Result<Option<wgpu::Buffer>, BackendError> {
    let Some(factors) = plan.factors.buffer().filter(|_| !sites.a_dtypes.is_empty()) else {
        return Ok(None);
    };
    let z_bytes = x.rows * sites.z_stride as usize * size_of::<f32>();
    let z = recorder.scratch.take(recorder.gpu, z_bytes as u64)?;
    for dtype in &sites.a_dtypes {
        let params = ShrinkParams {
            groups: rows.groups.count,
            groups_at: rows.groups.at,
            tiles: sites.tiles,
            projections,
            sites_at: sites.at,
            x_quads: word(x.stride / 4),
            z_stride: sites.z_stride,
            row_units: (word(x.tensor.cols as usize)).div_ceil(4 * decide::unit_quads(*dtype)),
        };
        let places = vec![
            Place::Buffer(x.buffer.clone()),
            Place::Buffer(factors.clone()),
            Place::Tables,
            Place::Buffer(z.clone()),
        ];
        let kernel = Kernel::LoraMatmul(Variant::Shrink(*dtype, decide::shrink()));
        let workgroups = u64::from(rows.groups.count) * u64::from(sites.tiles);
        recorder.dispatch(kernel, &params, places, workgroups)?;
    }
    Ok(Some(z))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!(size_of::<MatmulParams>(), 64);
        assert_eq!(offset_of!(MatmulParams, outs), 24);
        assert_eq!(offset_of!(MatmulParams, projection), 60);
        assert_eq!(size_of::<ShrinkParams>(), 32);
        assert_eq!(offset_of!(ShrinkParams, row_units), 28);
    }

    #[test]
    fn a_site_has_its_words_in_the_order_of_the_table() {
        let site = Site { rank: 3, scale: 2.0, a_dtype: Dtype::F16, a_at: 10, b_dtype: Dtype::F32, b_at: 20 };
        assert_eq!(site_words(&site, 5), [3, 2.0_f32.to_bits(), 1, 10, 0, 20, 5]);
    }
}
