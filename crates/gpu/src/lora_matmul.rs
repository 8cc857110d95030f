//! `lora_matmul`: records an operation's shrink and its matmuls, with the norm before it and the gate behind it
//! where they are fused. What the kernels do is in `shaders/lora_matmul_*.wgsl`.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{Activation, BackendError, Dtype, ProjectionId, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::{self, Expand, Loads};
use crate::decide::{self, Half, LanesTile, Products, ROW_TILE, RegisterTile, Stage, Strategy, Z_QUADS};
use crate::factors::Site;
use crate::fuse::Norm;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::quantise::{self, Quantised};
use crate::rms_norm::{self, NormParams, Residual};
use crate::rows::{List, MatmulRows};
use crate::step::Plan;
use crate::tensors::Placed;
use crate::weights::Part;

/// The kernels of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// z = x·Aᵀ; A's dtype, and the norm that makes x, if it is part of it.
    Shrink { dtype: Dtype, half: Half, tile: LanesTile, norm: Option<Residual> },
    /// Base, bias and expand for generated rows; W's dtype.
    Decode { dtype: Dtype, half: Half, tile: LanesTile, gate: Option<Activation> },
    /// The same for prompt rows.
    Prefill { dtype: Dtype, half: Half, tile: RegisterTile, stage: Stage, gate: Option<Activation> },
}

/// The parameters of the decode and the prefill kernel.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MatmulParams {
    rows: u32,
    rows_at: u32,
    tiles: u32,
    entries_at: u32,
    row_units: u32,
    x_at: u32,
    x_stride: u32,
    x_quads: u32,
    z_stride: u32,
    adapters_at: u32,
    sites_at: u32,
    projections: u32,
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
    x_at: u32,
    x_stride: u32,
    x_quads: u32,
    z_stride: u32,
    row_units: u32,
    padding: [u32; 2],
    norm: NormParams,
}

/// Constants of a kernel whose K is shared by lanes.
fn lanes_constants(tile: LanesTile, dtype: Dtype) -> Vec<(&'static str, String)> {
    let numbers = [
        ("WORKGROUP", tile.workgroup),
        ("LANES", tile.lanes),
        ("OUTS", tile.outs),
        ("OUT_TILE", tile.out_tile()),
        ("ROW_TILE", ROW_TILE),
        ("X_QUADS", tile.x_quads(dtype)),
        ("STAGED", tile.staged(dtype)),
    ];
    let mut constants: Vec<_> = numbers.map(|(n, v)| (n, v.to_string())).into();
    constants.push(("LANES_BY", tile.by.name().to_owned()));
    constants.push(("PRODUCTS", tile.products.name().to_owned()));
    constants
}

fn gate_constants(gate: Option<Activation>) -> [(&'static str, String); 4] {
    let name = if gate.is_some() { "paired" } else { "none" };
    [
        ("GATE", name.to_owned()),
        ("GATES", gates(gate).to_string()),
        ("ACTIVATION", gate.map_or("none", decide::activation_name).to_owned()),
        ("Z_QUADS", Z_QUADS.to_string()),
    ]
}

/// Entries whose outputs share a tile.
const fn gates(gate: Option<Activation>) -> u32 {
    if gate.is_some() { 2 } else { 1 }
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let (dtype, half) = match self {
            Self::Shrink { dtype, half, .. }
            | Self::Decode { dtype, half, .. }
            | Self::Prefill { dtype, half, .. } => (dtype, half),
        };
        let mut constants = decide::weight_constants(dtype, half);
        let (name, bindings, params): (_, &[Access], _) = match self {
            Self::Shrink { tile, norm, .. } => {
                constants.extend(lanes_constants(tile, dtype));
                constants.push(("A_F16", u32::from(dtype == Dtype::F16).to_string()));
                constants.push(("SOURCE", if norm.is_some() { "normed" } else { "plain" }.to_owned()));
                constants.extend(norm.unwrap_or(Residual::None).constants(tile.row_threads()));
                let bindings: &[Access] = match norm {
                    None => &[Read, Read, Read, Write],
                    Some(Residual::None) => &[Read, Read, Read, Write, Read, Write],
                    Some(_) => &[Read, Read, Read, Write, Read, Write, Read, Write],
                };
                ("lora_matmul_shrink", bindings, size_of::<ShrinkParams>())
            }
            Self::Decode { tile, gate, .. } => {
                constants.extend(lanes_constants(tile, dtype));
                constants.extend(gate_constants(gate));
                // Of every row and output of the tile, as many as a thread must take.
                let results = (ROW_TILE * tile.out_tile() / gates(gate)).div_ceil(tile.workgroup);
                constants.push(("RESULTS", results.to_string()));
                constants.push(("X", "f32".to_owned()));
                let bindings = &[Read, Read, Read, Read, Read, Read, Write];
                ("lora_matmul_decode", bindings, size_of::<MatmulParams>())
            }
            Self::Prefill { tile, stage, gate, .. } => {
                let own_outs = tile.thread_outs / gates(gate);
                let numbers = [
                    ("WORKGROUP", tile.workgroup()),
                    ("ROW_TILE", tile.rows),
                    ("OUT_TILE", tile.outs),
                    ("K_QUADS", tile.k_quads),
                    ("THREAD_ROWS", tile.thread_rows),
                    ("THREAD_OUTS", tile.thread_outs),
                    ("OWN_OUTS", own_outs),
                    ("K_BLOCKS", tile.k_quads / 8),
                    ("SUBGROUP_ROWS", tile.rows / (tile.workgroup() / 32)),
                ];
                constants.extend(numbers.map(|(n, v)| (n, v.to_string())));
                constants.push(("STAGE", stage.name().to_owned()));
                constants.push(("PRODUCTS", tile.products.name().to_owned()));
                let x = if tile.products == Products::Integer { "u32" } else { "f32" };
                constants.push(("X", x.to_owned()));
                constants.extend(gate_constants(gate));
                let bindings = &[Read, Read, Read, Read, Read, Read, Write];
                ("lora_matmul_prefill", bindings, size_of::<MatmulParams>())
            }
        };
        let needs = match self {
            Self::Prefill { stage: Stage::F16, .. } => Needs::F16,
            Self::Prefill { tile: RegisterTile { products: Products::Matrix, .. }, .. } => Needs::Matrices,
            _ => Needs::Nothing,
        };
        Template { name, constants, bindings, params, needs }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let gates = [None, Some(Activation::Silu), Some(Activation::GeluTanh)];
        let norms = std::iter::once(None).chain(Residual::ALL.map(Some));
        let mut all = Vec::new();
        for decisions in decide::Decisions::all() {
            let half = decisions.half;
            for dtype in [Dtype::F32, Dtype::F16] {
                for tile in [1, 2048].map(|cols| decisions.shrink(cols)) {
                    all.extend(norms.clone().map(|norm| Self::Shrink { dtype, half, tile, norm }));
                }
            }
            for dtype in decide::BASE_DTYPES {
                let tile = decisions.matmul_decode(dtype);
                all.extend(gates.map(|gate| Self::Decode { dtype, half, tile, gate }));
                let (tile, stage) = (decisions.matmul_prefill(dtype), decisions.stage);
                all.extend(gates.map(|gate| Self::Prefill { dtype, half, tile, stage, gate }));
            }
        }
        all
    }
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
    /// The site of each adapter of the batch at each projection.
    of: Vec<Vec<Option<Site>>>,
}

impl Sites {
    /// What expanding a projection of an adapter takes.
    fn expand(&self, slot: usize, projection: usize) -> Option<Expand> {
        let site = (*self.of.get(slot)?.get(projection)?)?;
        Some(Expand { slot, rank: site.rank, b_f16: site.b_dtype == Dtype::F16 })
    }

    /// What the shrink of all groups loads of factors of one dtype.
    fn shrinks(
        &self,
        rows: &MatmulRows,
        tile: LanesTile,
        dtype: Dtype,
        row_units: u32,
        x_quads: u32,
        norm: Option<Residual>,
    ) -> Loads {
        let mut loads = Loads::default();
        for &(slot, count) in &rows.group_sizes {
            let of_slot = self.of.get(slot).into_iter().flatten().flatten();
            for site in of_slot.filter(|site| site.a_dtype == dtype) {
                for _ in 0..site.rank.div_ceil(tile.out_tile()) {
                    loads += cost::shrink(tile, dtype, count, row_units, x_quads, norm);
                }
            }
        }
        loads
    }
}

/// What an operation writes: one result for each projection, or the gated product of two.
enum Results {
    Each(Vec<Placed>),
    Gated(Activation, Placed),
}

/// Records one operation, with the norm that makes its x and the gate behind it where it has them.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    norm: Option<&Norm>,
    x: Tensor,
    projections: &[(ProjectionId, Tensor)],
    gate: Option<(Activation, Tensor)>,
) -> Result<(), BackendError> {
    let rows = plan.rows.matmul(plan.step, x.rows, &mut recorder.recording.tables).clone();
    let sites = sites(plan, recorder, &rows, projections)?;
    let z = shrink(plan, recorder, &rows, &sites, norm, x, word(projections.len()))?;
    let placed_x = plan.tensors.place(recorder, x)?;
    let results = match gate {
        Some((activation, out)) => Results::Gated(activation, plan.tensors.place(recorder, out)?),
        None => {
            let place = |(_, y): &(ProjectionId, Tensor)| plan.tensors.place(recorder, *y);
            Results::Each(projections.iter().map(place).collect::<Result<_, _>>()?)
        }
    };
    if placed_x.rows > 0 {
        let shared = MatmulParams {
            rows: 0,
            rows_at: 0,
            tiles: 0,
            entries_at: 0,
            row_units: 0,
            x_at: placed_x.quad_at(),
            x_stride: placed_x.quad_stride(),
            x_quads: placed_x.quads(),
            z_stride: sites.z_stride,
            adapters_at: rows.adapters_at,
            sites_at: sites.at,
            projections: word(projections.len()),
        };
        let dispatches = dispatches(plan, projections, &results)?;
        let in_codes = |d: &Dispatch| {
            recorder.gpu.decisions.matmul_prefill(d.dtype).products == Products::Integer
                && rows.prefill.count > 0
        };
        let codes = match dispatches.iter().any(in_codes) {
            true => Some(quantise::record(recorder, &placed_x, rows.prefill)?),
            false => None,
        };
        for dispatch in &dispatches {
            let x = X { placed: &placed_x, codes: codes.as_ref() };
            matmul(plan, recorder, (&rows, &sites), dispatch, shared, (x, z.as_ref()))?;
        }
        if let Some(codes) = codes {
            recorder.scratch.give(&codes.buffer);
        }
    }
    if let Some(z) = &z {
        recorder.scratch.give(z);
    }
    Ok(())
}

/// What is multiplied, in f32 and, where integer kernels read it, in codes.
#[derive(Clone, Copy)]
struct X<'a> {
    placed: &'a Placed,
    codes: Option<&'a Quantised>,
}

/// Parts of matrices of one dtype in one buffer, whose results are in one buffer.
struct Dispatch {
    dtype: Dtype,
    row_units: u32,
    weights: wgpu::Buffer,
    y: wgpu::Buffer,
    gate: Option<Activation>,
    entries: Vec<Entry>,
}

/// An entry of the list of projections, its tiles still to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    codes_at: u32,
    scales_at: u32,
    outs: u32,
    stored: u32,
    first: u32,
    bias_at: u32,
    y_at: u32,
    y_stride: u32,
    projection: u32,
    scale_words: u32,
}

const NO_BIAS: u32 = u32::MAX;

impl Entry {
    /// The words of an entry up to whose end there are so many tiles.
    const fn words(self, tiles: u32) -> [u32; 11] {
        [
            tiles,
            self.codes_at,
            self.scales_at,
            self.outs,
            self.stored,
            self.first,
            self.bias_at,
            self.y_at,
            self.y_stride,
            self.projection,
            self.scale_words,
        ]
    }
}

/// Groups the parts of all matrices into dispatches.
fn dispatches(
    plan: &Plan<'_>,
    projections: &[(ProjectionId, Tensor)],
    results: &Results,
) -> Result<Vec<Dispatch>, BackendError> {
    let mut dispatches: Vec<Dispatch> = Vec::new();
    for (i, (id, _)) in projections.iter().enumerate() {
        let (matrix, bias) = plan.weights.projection(*id)?;
        let (y, gate) = match results {
            Results::Each(ys) => (&ys[i], None),
            Results::Gated(activation, out) => (out, Some(*activation)),
        };
        let bias_at = bias.map(|bias| plan.weights.vectors.at(bias)).transpose()?.unwrap_or(NO_BIAS);
        for part in &matrix.parts {
            let Part { first, rows, .. } = *part;
            let last = first + rows == matrix.rows;
            let entry = Entry {
                codes_at: part.codes_at,
                scales_at: part.scales_at,
                outs: word(rows),
                stored: word(if last { y.columns() - first } else { rows }),
                first: word(first),
                bias_at,
                y_at: word(y.at),
                y_stride: word(y.stride),
                projection: word(i),
                scale_words: word(matrix.layout.scale_words),
            };
            let fits =
                |d: &&mut Dispatch| d.dtype == matrix.dtype && d.weights == part.buffer && d.y == y.buffer;
            match dispatches.iter_mut().find(fits) {
                Some(dispatch) => dispatch.entries.push(entry),
                None => dispatches.push(Dispatch {
                    dtype: matrix.dtype,
                    row_units: word(matrix.layout.units),
                    weights: part.buffer.clone(),
                    y: y.buffer.clone(),
                    gate,
                    entries: vec![entry],
                }),
            }
        }
    }
    Ok(dispatches)
}

/// Records a matmul for each kind of row that there is.
fn matmul(
    plan: &Plan<'_>,
    recorder: &mut Recorder<'_>,
    (rows, sites): (&MatmulRows, &Sites),
    dispatch: &Dispatch,
    shared: MatmulParams,
    (x, z): (X<'_>, Option<&wgpu::Buffer>),
) -> Result<(), BackendError> {
    let &Dispatch { dtype, row_units, gate, .. } = dispatch;
    let decisions = recorder.gpu.decisions;
    for strategy in [Strategy::Decode, Strategy::Prefill] {
        let half = decisions.half;
        let (list, row_tile, out_tile, variant): (List, _, _, _) = match strategy {
            Strategy::Decode => {
                let tile = decisions.matmul_decode(dtype);
                let variant = Variant::Decode { dtype, half, tile, gate };
                (rows.decode, ROW_TILE, tile.out_tile(), variant)
            }
            Strategy::Prefill => {
                let tile = decisions.matmul_prefill(dtype);
                let variant = Variant::Prefill { dtype, half, tile, stage: decisions.stage, gate };
                (rows.prefill, tile.rows, tile.outs, variant)
            }
        };
        if list.count == 0 {
            continue;
        }
        // Where a gate and its up share a tile, the gate's entry counts for both.
        let own_tile = out_tile / gates(gate);
        let entries_at = word(recorder.recording.tables.len());
        let mut tiles = 0;
        let mut loads = Loads::default();
        for (i, entry) in dispatch.entries.iter().enumerate() {
            if gate.is_none() || i == 0 {
                tiles += entry.stored.div_ceil(own_tile);
            }
            recorder.recording.tables.extend(entry.words(tiles));
            let biased = if entry.bias_at == NO_BIAS { 0 } else { list.count };
            loads.weights += u64::from(entry.stored) * u64::from(biased) * size_of::<f32>() as u64;
            let own_tiles = entry.stored.div_ceil(own_tile);
            let of = |slot: Option<usize>| sites.expand(slot?, entry.projection as usize);
            loads += match strategy {
                Strategy::Decode => {
                    let expands: Vec<_> = rows.decode_slots.iter().map(|slot| of(*slot)).collect();
                    cost::expand_decode(&expands, own_tiles, entry.stored)
                }
                Strategy::Prefill => {
                    let expands: Vec<_> = rows.prefill_slots.iter().map(|slot| of(*slot)).collect();
                    cost::expand_prefill(decisions.matmul_prefill(dtype), &expands, own_tiles, own_tile)
                }
            };
        }
        loads += match variant {
            Variant::Prefill { tile, .. } => cost::prefill(tile, dtype, list.count, tiles, x.placed.quads()),
            Variant::Decode { tile, .. } | Variant::Shrink { tile, .. } => {
                cost::decode(tile, dtype, list.count, tiles, row_units, x.placed.quads())
            }
        };
        let (rows, rows_at) = (list.count, list.at);
        let mut params = MatmulParams { rows, rows_at, tiles, entries_at, row_units, ..shared };
        let mut x_buffer = &x.placed.buffer;
        if let Variant::Prefill { tile: RegisterTile { products: Products::Integer, .. }, .. } = variant
            && let Some(codes) = x.codes
        {
            (params.x_at, params.x_stride) = (0, codes.quad_stride);
            x_buffer = &codes.buffer;
        }
        // What is absent is never read; any buffer serves to bind.
        let or_tables =
            |buffer: Option<&wgpu::Buffer>| buffer.map_or(Place::Tables, |b| Place::Buffer(b.clone()));
        let places = vec![
            Place::Buffer(x_buffer.clone()),
            Place::Buffer(dispatch.weights.clone()),
            plan.vectors(),
            Place::Tables,
            or_tables(plan.factors.buffer()),
            or_tables(z),
            Place::Buffer(dispatch.y.clone()),
        ];
        let row_tiles = u64::from(rows.div_ceil(row_tile));
        recorder.dispatch(
            Kernel::LoraMatmul(variant),
            &params,
            places,
            row_tiles * u64::from(tiles),
            loads,
        )?;
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
    let out_tile = decide::Decisions::SHRINK_RANKS;
    let mut found = Sites { at, z_stride: 0, tiles: 0, a_dtypes: Vec::new(), of: Vec::new() };
    for (slot, adapter) in plan.step.batch().adapters.iter().enumerate() {
        let mut z_at = 0;
        let mut tiles = 0;
        let mut of = Vec::with_capacity(projections.len());
        for (id, _) in projections {
            let site = plan.factors.site(*adapter, *id)?.filter(|site| site.rank > 0);
            of.push(site);
            recorder.recording.tables.extend(site.map_or([0; SITE_WORDS], |site| site_words(&site, z_at)));
            let Some(site) = site else { continue };
            z_at += site.rank;
            tiles += site.rank.div_ceil(out_tile);
            if rows.used.contains(&slot) && !found.a_dtypes.contains(&site.a_dtype) {
                found.a_dtypes.push(site.a_dtype);
            }
        }
        found.of.push(of);
        found.z_stride = found.z_stride.max(z_at);
        found.tiles = found.tiles.max(tiles);
    }
    Ok(found)
}

/// Words of a site, as `shaders/lib/lora_site.wgsl` reads them.
const SITE_WORDS: usize = 7;

fn site_words(site: &Site, z_at: u32) -> [u32; SITE_WORDS] {
    let f16 = |dtype| u32::from(dtype == Dtype::F16);
    [site.rank, site.scale.to_bits(), f16(site.a_dtype), site.a_at, f16(site.b_dtype), site.b_at, z_at]
}

/// Records the shrink, with the norm where there is one, and returns z; `None` where no row has an adapter with a
/// site here. The norm is recorded either way.
fn shrink(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    rows: &MatmulRows,
    sites: &Sites,
    norm: Option<&Norm>,
    x: Tensor,
    projections: u32,
) -> Result<Option<wgpu::Buffer>, BackendError> {
    let factors = plan.factors.buffer().filter(|_| !sites.a_dtypes.is_empty()).cloned();
    // Two dtypes of A are two dispatches, of which only one could norm.
    let fused =
        norm.filter(|norm| factors.is_some() && sites.a_dtypes.len() == 1 && plan.tensors.is_alone(norm.x));
    if fused.is_none()
        && let Some(norm) = norm
    {
        rms_norm::record(plan, recorder, norm)?;
    }
    let Some(factors) = factors else { return Ok(None) };
    let row_count = plan.step.row_count(x.rows);
    let z_bytes = row_count * sites.z_stride as usize * size_of::<f32>();
    let z = recorder.scratch.take(recorder.gpu, z_bytes as u64)?;
    let tile = recorder.gpu.decisions.shrink(x.cols);
    let half = recorder.gpu.decisions.half;
    for dtype in &sites.a_dtypes {
        let mut params = ShrinkParams {
            groups: rows.groups.count,
            groups_at: rows.groups.at,
            tiles: sites.tiles,
            projections,
            sites_at: sites.at,
            x_at: 0,
            x_stride: 0,
            x_quads: 0,
            z_stride: sites.z_stride,
            row_units: x.cols.div_ceil(4 * decide::unit_quads(*dtype)),
            padding: [0; 2],
            norm: NormParams::default(),
        };
        let mut workgroups = u64::from(rows.groups.count) * u64::from(sites.tiles);
        let Some(norm) = fused else {
            let x = plan.tensors.place(recorder, x)?;
            (params.x_at, params.x_stride, params.x_quads) = (x.quad_at(), x.quad_stride(), x.quads());
            let places = vec![
                Place::Buffer(x.buffer),
                Place::Buffer(factors.clone()),
                Place::Tables,
                Place::Buffer(z.clone()),
            ];
            let variant = Variant::Shrink { dtype: *dtype, half, tile, norm: None };
            let loads = sites.shrinks(rows, tile, *dtype, params.row_units, params.x_quads, None);
            recorder.dispatch(Kernel::LoraMatmul(variant), &params, places, workgroups, loads)?;
            continue;
        };
        let residual = Residual::of(norm);
        let add = norm.add.map(|add| plan.tensors.place(recorder, add)).transpose()?;
        // Without a residual x stays as it is; with one its sum gets a buffer of its own.
        let (before, sums) = match residual {
            Residual::None => (plan.tensors.place(recorder, norm.x)?, None),
            _ => {
                let (before, sums) = plan.tensors.renew(recorder, norm.x)?;
                (before, Some(sums))
            }
        };
        let normed = plan.tensors.place(recorder, norm.out)?;
        params.norm = rms_norm::params(plan, norm, row_count, add.as_ref(), &normed)?;
        if let Some(sums) = &sums {
            (params.norm.sum_at, params.norm.sum_stride) = (sums.quad_at(), sums.quad_stride());
        }
        (params.x_at, params.x_stride, params.x_quads) =
            (before.quad_at(), before.quad_stride(), before.quads());
        let mut places = vec![
            Place::Buffer(before.buffer.clone()),
            Place::Buffer(factors.clone()),
            Place::Tables,
            Place::Buffer(z.clone()),
            plan.vectors(),
            Place::Buffer(normed.buffer),
        ];
        if let (Some(add), Some(sums)) = (add, sums) {
            places.extend([Place::Buffer(add.buffer), Place::Buffer(sums.buffer)]);
        }
        workgroups += row_count as u64;
        let variant = Variant::Shrink { dtype: *dtype, half, tile, norm: Some(residual) };
        let mut loads = sites.shrinks(rows, tile, *dtype, params.row_units, params.x_quads, Some(residual));
        (0..row_count).for_each(|_| loads += cost::norm(residual, params.x_quads));
        recorder.dispatch(Kernel::LoraMatmul(variant), &params, places, workgroups, loads)?;
        if residual != Residual::None {
            recorder.scratch.give(&before.buffer);
        }
    }
    Ok(Some(z))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::decide::Decisions;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<MatmulParams>(), offset_of!(MatmulParams, projections)), (48, 44));
        assert_eq!((size_of::<ShrinkParams>(), offset_of!(ShrinkParams, norm)), (112, 48));
        assert_eq!(offset_of!(ShrinkParams, row_units), 36);
    }

    #[test]
    fn a_site_has_its_words_in_the_order_of_the_table() {
        let site = Site { rank: 3, scale: 2.0, a_dtype: Dtype::F16, a_at: 10, b_dtype: Dtype::F32, b_at: 20 };
        assert_eq!(site_words(&site, 5), [3, 2.0_f32.to_bits(), 1, 10, 0, 20, 5]);
    }

    #[test]
    fn a_shrink_that_norms_has_the_threads_of_a_norm() {
        for decisions in Decisions::all() {
            for cols in [1, 2048] {
                assert_eq!(decisions.shrink(cols).workgroup, decide::row_threads(cols).workgroup);
            }
        }
    }
}
