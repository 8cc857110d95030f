//! The low-rank term: shrink once for all projections that share x, expand in the base's epilogue.

use interleaf_contract::LoraSite;
use rayon::prelude::*;

use super::Job;
use crate::dot::dot;
use crate::weight::rows_f32;

/// Rows of the batch that use the same adapter, by index.
pub struct Group {
    /// The rows, ascending.
    pub rows: Vec<usize>,
}

/// `x·Aᵀ` of one projection: per group, its rows × rank.
pub type Shrunk = Vec<Vec<f32>>;

/// Shrinks for every job and group in one parallel pass.
pub fn shrink(x: &[f32], groups: &[Group], jobs: &[Job<'_>]) -> Vec<Shrunk> {
    let tasks: Vec<(&Group, &LoraSite, usize)> = jobs
        .iter()
        .flat_map(|job| groups.iter().zip(&job.sites))
        .filter(|(group, _)| !group.rows.is_empty())
        .filter_map(|(group, site)| site.map(|site| (group, site)))
        .flat_map(|(group, site)| (0..site.rank()).map(move |r| (group, site, r)))
        .collect();
    let mut products = tasks
        .into_par_iter()
        .map_init(Vec::new, |scratch, (group, site, r)| {
            let cols = site.a.cols();
            scratch.resize(cols, 0.0);
            let a = rows_f32(&site.a, r, scratch);
            group.rows.iter().map(|&row| dot(&x[row * cols..(row + 1) * cols], a)).collect::<Vec<f32>>()
        })
        .collect::<Vec<_>>()
        .into_iter();

    let mut one_group = |group: &Group, site: Option<&LoraSite>| {
        let rank = if group.rows.is_empty() { 0 } else { site.map_or(0, LoraSite::rank) };
        let mut shrunk = vec![0.0; group.rows.len() * rank];
        for r in 0..rank {
            for (i, value) in products.next().unwrap_or_default().into_iter().enumerate() {
                shrunk[i * rank + r] = value;
            }
        }
        shrunk
    };
    jobs.iter().map(|job| groups.iter().zip(&job.sites).map(|(g, s)| one_group(g, *s)).collect()).collect()
}

/// Adds `scale · z·Bᵀ` to a tile of results, outputs × rows, whose first output is `first`.
pub fn expand(
    groups: &[Group],
    sites: &[Option<&LoraSite>],
    shrunk: &Shrunk,
    first: usize,
    rows: usize,
    y: &mut [f32],
) {
    let mut scratch = Vec::new();
    for ((group, site), z) in groups.iter().zip(sites).zip(shrunk) {
        let Some(site) = site.filter(|s| s.rank() > 0 && !group.rows.is_empty()) else { continue };
        scratch.resize(y.len() / rows * site.rank(), 0.0);
        let tile = rows_f32(&site.b, first, &mut scratch);
        for (y, b) in y.chunks_exact_mut(rows).zip(tile.chunks_exact(site.rank())) {
            for (z, &row) in z.chunks_exact(site.rank()).zip(&group.rows) {
                y[row] += site.scale * dot(z, b);
            }
        }
    }
}
