//! An adapter as kernels see it: pairs of low-rank factors attached to projections.

use crate::weights::handle;
use crate::{ContractError, Dtype, Matrix, ProjectionId};

handle! {
    /// An [`Adapter`] on a backend.
    AdapterId
}

/// One adapted projection: `y += scale · (x·Aᵀ)·Bᵀ`.
#[derive(Debug, Clone)]
pub struct LoraSite {
    /// The base projection.
    pub projection: ProjectionId,
    /// `α/r`, or `α/√r` for rank-stabilised adapters.
    pub scale: f32,
    /// The shrink factor A, `rank × in`, f16 or f32.
    pub a: Matrix,
    /// The expand factor B, `out × rank`, f16 or f32.
    pub b: Matrix,
}

impl LoraSite {
    /// The rank of this site. Ranks differ between sites; nothing is padded to the largest.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.rows()
    }

    /// Checks the factors against each other and against the base projection's shape.
    ///
    /// # Errors
    /// Names the factor, the dimension or dtype, and what was expected; or says that the scale is not finite.
    pub fn check(&self, outputs: usize, inputs: usize) -> Result<(), ContractError> {
        for m in [&self.a, &self.b] {
            if !matches!(m.dtype(), Dtype::F16 | Dtype::F32) {
                return Err(ContractError::LoraDtype { name: m.name().into(), dtype: m.dtype() });
            }
        }
        let shape = |m: &Matrix, what, expected, found| {
            if expected == found {
                return Ok(());
            }
            Err(ContractError::LoraShape { name: m.name().into(), what, expected, found })
        };
        shape(&self.a, "in", inputs, self.a.cols())?;
        shape(&self.b, "out", outputs, self.b.rows())?;
        shape(&self.b, "rank", self.a.rows(), self.b.cols())?;
        if !self.scale.is_finite() {
            let (what, expected, found) = ("scale", "finite", f64::from(self.scale));
            return Err(ContractError::Value { op: "lora_matmul", what, expected, found });
        }
        Ok(())
    }
}

/// A LoRA adapter: any subset of projections, each with its own rank and scale.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// For messages only; identity is by content.
    pub name: String,
    /// At most one site per projection.
    pub sites: Vec<LoraSite>,
}
