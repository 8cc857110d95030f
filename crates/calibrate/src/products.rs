//! An adapter's own low-rank products, which ForkKV (arXiv 2604.06370) keeps of K and V: over the base's page
//! `(x·Aᵀ)·(s·Bᵀ)`, x being what the adapter's own pass gives its attention. A token's coefficients are `x·Aᵀ`, as f16 numbers.
//!
//! What that leaves out is that the base's projection, too, is given other hidden states under the adapter: above the first
//! layer that the adapter changes it is an approximation. Only where keys and values are plain projections is there such a
//! sum at all.

use interleaf_contract::{Matrix, PageHalf, RopeTable};
use interleaf_kernels_ref::lora_matmul::dot;
use interleaf_kernels_ref::weight;
use interleaf_model::{Model, PeftAdapter, PeftSite, Proj};

use crate::CalibrateError;
use crate::pages::Form;

/// The factors of an adapter's keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Products {
    /// By layer, of keys and of values; `None` where the adapter leaves the projection alone.
    layers: Vec<[Option<Factors>; 2]>,
    hidden: usize,
}

/// Of one projection.
#[derive(Debug, Clone, PartialEq)]
struct Factors {
    /// Even, so that a token's coefficients fill whole words: where the adapter's is not, the last row is 0.
    rank: u8,
    /// A: rank × hidden.
    a: Vec<f32>,
    /// The scale times Bᵀ: rank × width.
    b: Vec<f32>,
}

impl Products {
    /// Of an adapter for this model.
    ///
    /// # Errors
    /// If the model's keys are no plain projections, or a rank is too large for a page's coefficients.
    pub fn new(model: &Model, adapter: &PeftAdapter) -> Result<Self, CalibrateError> {
        let refused = |reason: String| CalibrateError::NoProducts { adapter: adapter.name.clone(), reason };
        if model.config().head_norms {
            return Err(refused("the model's keys are normed after their projection".into()));
        }
        let factors = |layer: usize, proj: Proj| {
            let module = model.projection_name(layer, proj);
            let site = adapter.sites.iter().find(|site| site.module == module);
            let factors = |site: &PeftSite| {
                Factors::new(site)
                    .ok_or_else(|| refused(format!("{module} has rank {}, expected at most 254", site.rank)))
            };
            site.map(factors).transpose()
        };
        let layers =
            (0..model.config().layers).map(|layer| Ok([factors(layer, Proj::K)?, factors(layer, Proj::V)?]));
        let layers = layers.collect::<Result<_, CalibrateError>>()?;
        Ok(Self { layers, hidden: model.config().hidden_size })
    }
}

impl Factors {
    /// `None` if there are more coefficients than a page can have.
    fn new(site: &PeftSite) -> Option<Self> {
        let rank = u8::try_from(site.rank.next_multiple_of(2)).ok()?;
        let mut a = floats(&site.a);
        a.resize(usize::from(rank) * site.a.cols(), 0.0);
        let (stored, width) = (floats(&site.b), site.b.rows());
        let mut b = vec![0.0; usize::from(rank) * width];
        for (channel, row) in stored.chunks_exact(site.rank).enumerate() {
            row.iter().enumerate().for_each(|(i, value)| b[i * width + channel] = site.scale * value);
        }
        Some(Self { rank, a, b })
    }
}

/// A matrix row by row.
fn floats(matrix: &Matrix) -> Vec<f32> {
    let mut values = vec![0.0; matrix.rows() * matrix.cols()];
    for (row, out) in values.chunks_exact_mut(matrix.cols().max(1)).enumerate() {
        weight::decode_row(matrix, row, out);
    }
    values
}

/// The products of one prefix.
#[derive(Debug, Clone)]
pub struct Pass<'a> {
    /// The adapter's.
    pub products: &'a Products,
    /// What the attention of each layer is given in its own pass, tokens × hidden.
    pub inputs: Vec<Vec<f32>>,
    /// The first token that the adapter acts on; none where it acts on none.
    pub from: Option<usize>,
}

impl<'a> Pass<'a> {
    /// How a layer's pages of keys or of values are stored; keys are turned by a table.
    pub fn form(&self, layer: usize, half: PageHalf, rope: Option<&'a RopeTable>) -> Form<'a> {
        let Some(Factors { rank, a, b }) = &self.products.layers[layer][half as usize] else {
            return Form::Nothing;
        };
        let (hidden, width) = (self.products.hidden, b.len() / usize::from(*rank));
        let coefficients = self.inputs[layer].chunks_exact(hidden).enumerate().flat_map(|(token, x)| {
            let acts = self.from.is_some_and(|from| token >= from);
            a.chunks_exact(hidden).map(move |row| if acts { dot(x, row) as f32 } else { 0.0 })
        });
        // The mean is 0.
        let constants = [&vec![0.0; width], &b[..]].concat();
        Form::Known { rank: *rank, coefficients: coefficients.collect(), constants, rope }
    }
}
