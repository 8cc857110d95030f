//! The fused base + LoRA linear layer over a mixed batch, in two parts of a parallel region.
//!
//! First x is brought into the form that the products read, and all projections that share it shrink it once for
//! their adapters. Then every worker multiplies its own panels of outputs with all rows; bias and expand are added
//! while a tile's sums are in registers. Ranks are exact: A is multiplied row by row, and of B there are as many
//! rows in a panel as the rank.
//!
//! A sum's order is the same for every number of rows: one chain over the inputs for float weights, one over
//! the blocks of 32 for integers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

mod ahead;
mod expand;
mod float;
mod integer;
mod prepare;
mod shrink;
mod tiles;

use std::collections::HashMap;
use std::ops::Range;

use interleaf_contract::host::{HostMatrix, HostSite};
use interleaf_contract::{Dtype, Numerics, QUANT_BLOCK};

use self::ahead::Ahead;
use crate::isa::{Isa, Kernel};
use crate::packed::{Packed, Panels};
use crate::region::{Shared, Worker};

/// Inputs of a panel between two steps of [`Ahead`]: enough that its bookkeeping is not felt, few enough that a
/// step asks for a handful of lines.
const STEP: usize = 128;

/// One projection of those that share x: its weights and where its results go.
pub struct Projection<'a> {
    /// W, out × in.
    pub w: &'a Panels,
    /// One value per output.
    pub bias: Option<&'a [f32]>,
    /// rows × out.
    pub y: Shared<'a, f32>,
}

/// A projection with the adapter terms of its rows.
struct Job<'a> {
    w: &'a Panels,
    bias: Option<&'a [f32]>,
    y: Shared<'a, f32>,
    /// Each row's adapter term; empty where no row has one.
    terms: Vec<Option<Term<'a>>>,
}

/// The low-rank term of one row.
#[derive(Clone, Copy)]
struct Term<'a> {
    /// The panels of B, each rank × lanes.
    b: &'a [u8],
    panel_bytes: usize,
    /// Whether they are f16; f32 else.
    half: bool,
    rank: usize,
    scale: f32,
    /// Where the row's shrunk values begin.
    z: usize,
    /// How many rows from this one on have these factors.
    alike: usize,
    /// Whether the row before has them.
    again: bool,
}

/// A linear layer of a step, with its handles resolved.
pub struct LoraMatmul<'a> {
    /// rows × in.
    x: Shared<'a, f32>,
    rows: usize,
    cols: usize,
    numerics: Numerics,
    jobs: Vec<Job<'a>>,
    shrinks: Vec<shrink::Shrink<'a>>,
    scratch: Scratch<'a>,
}

/// What the workers prepare for each other, large enough for every layer of a step.
#[derive(Clone, Copy)]
pub struct Scratch<'a> {
    /// x by tiles of rows, for float products.
    pub packed: Shared<'a, f32>,
    /// Codes of x by tiles of rows, for integer products.
    pub codes: Shared<'a, i8>,
    pub scales: Shared<'a, f32>,
    pub sums: Shared<'a, i32>,
    /// Shrunk rows.
    pub z: Shared<'a, f32>,
}

impl<'a> LoraMatmul<'a> {
    /// A layer over `rows` rows. `groups` are the rows of each adapter of the batch, `sites` each adapter's site
    /// on each projection.
    pub fn new(
        x: Shared<'a, f32>,
        rows: usize,
        numerics: Numerics,
        projections: Vec<Projection<'a>>,
        groups: &[Vec<usize>],
        sites: &[Vec<Option<&'a HostSite<Packed>>>],
        scratch: Scratch<'a>,
    ) -> Self {
        let cols = projections.first().map_or(0, |p| p.w.cols());
        let mut shrinks = Vec::new();
        let mut places = HashMap::new();
        let mut next = 0;
        let jobs = projections.into_iter().enumerate().map(|(index, Projection { w, bias, y })| {
            let mut terms = Vec::new();
            for (adapter, (group, sites)) in groups.iter().zip(sites).enumerate() {
                let Some(site) = sites[index].filter(|s| s.rank() > 0 && !group.is_empty()) else { continue };
                // Taken in by `factors`, which makes no others.
                let (Packed::Rows(a), Packed::Panels(b)) = (&site.a, &site.b) else {
                    unreachable!("an adapter's factors are rows of A and panels of B")
                };
                terms.resize(rows, None);
                // The parts of a fused module have one A, and one shrink.
                let key = (adapter, a.address(), site.rank());
                let z = *places.entry(key).or_insert_with(|| {
                    let z = next;
                    shrinks.push(shrink::Shrink { a, rows: group.clone(), z });
                    next += group.len() * site.rank();
                    z
                });
                let first = Term {
                    b: b.float_panel(0),
                    panel_bytes: b.panel_bytes(),
                    half: b.dtype() == Dtype::F16,
                    rank: site.rank(),
                    scale: site.scale,
                    z,
                    alike: 1,
                    again: false,
                };
                let mut after = None;
                for (i, &row) in group.iter().enumerate().rev() {
                    let alike = after.filter(|&(next, _)| next == row + 1).map_or(1, |(_, alike)| alike + 1);
                    let again = i > 0 && group[i - 1] + 1 == row;
                    terms[row] = Some(Term { z: z + i * site.rank(), alike, again, ..first });
                    after = Some((row, alike));
                }
            }
            Job { w, bias, y, terms }
        });
        let jobs = jobs.collect();
        Self { x, rows, cols, numerics, jobs, shrinks, scratch }
    }

    /// This worker's part of the layer. `next` is the linear layer that follows in the step.
    ///
    /// # Safety
    /// The machine has the tier, and all workers of the region call this with the same layer.
    pub unsafe fn run<I: Isa>(&self, next: Option<&Self>, worker: &Worker<'_>) {
        // One row of floats is read as it is.
        let as_it_is =
            self.rows <= 1 && self.shrinks.is_empty() && !self.jobs.iter().any(|job| self.is_integer(job.w));
        if !as_it_is {
            I::enter(Prepare { layer: self, worker });
            worker.wait();
        }
        let next = next.map_or(&[][..], |next| &next.shrinks);
        I::enter(Products { layer: self, next, worker });
        worker.wait();
    }

    /// How often [`Ahead`] is asked while a panel meets all rows.
    fn steps_per_panel<I: Isa>(&self) -> usize {
        let most =
            if self.jobs.iter().all(|job| self.is_integer(job.w)) { I::INTEGER_ROWS } else { I::FLOAT_ROWS };
        tiles::tiles(self.rows, most).count() * self.cols.div_ceil(STEP)
    }

    fn is_integer(&self, w: &Panels) -> bool {
        self.numerics == Numerics::ActQ8_0 && w.dtype().is_quantised()
    }
}

struct Prepare<'a, 'b> {
    layer: &'b LoraMatmul<'a>,
    worker: &'b Worker<'b>,
}

impl Kernel for Prepare<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, worker } = self;
        if layer.jobs.iter().any(|job| layer.is_integer(job.w)) {
            prepare::quantise::<I>(layer, worker.range(layer.rows * layer.cols / QUANT_BLOCK));
        }
        if layer.rows > 1 && layer.jobs.iter().any(|job| !layer.is_integer(job.w)) {
            prepare::pack::<I>(layer, worker.range(layer.rows * layer.cols / prepare::PIECE + 1));
        }
        shrink::shrink::<I>(layer, worker);
    }
}

struct Products<'a, 'b> {
    layer: &'b LoraMatmul<'a>,
    next: &'b [shrink::Shrink<'a>],
    worker: &'b Worker<'b>,
}

impl Kernel for Products<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { layer, next, worker } = self;
        let total: usize = layer.jobs.iter().map(|job| job.w.panels()).sum();
        let mine = worker.range(total);
        let mut ahead = Ahead::new(next, worker, mine.len() * layer.steps_per_panel::<I>());
        let mut first = 0;
        for job in &layer.jobs {
            let panels = overlap(&mine, first..first + job.w.panels());
            first += job.w.panels();
            if panels.is_empty() {
                continue;
            }
            if layer.is_integer(job.w) {
                integer::products::<I>(layer, job, panels, &mut ahead);
            } else {
                float::products::<I>(layer, job, panels, &mut ahead);
            }
        }
    }
}

/// What of `mine` is in `whole`, counted from the start of `whole`.
fn overlap(mine: &Range<usize>, whole: Range<usize>) -> Range<usize> {
    let start = mine.start.max(whole.start);
    let end = mine.end.min(whole.end).max(start);
    start - whole.start..end - whole.start
}
