//! The projections that a backend holds, and which weights only some of them use. Where weights are is the backend's.

use std::collections::HashSet;

use crate::{MatrixId, Projection, ProjectionId, VectorId};

/// Projections by handle. What is dropped leaves its place empty, so that no handle is given twice.
#[derive(Debug, Default)]
pub struct Projections(Vec<Option<Projection>>);

/// Weights that no projection uses any longer, each once, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unused {
    /// Weight matrices.
    pub matrices: Vec<MatrixId>,
    /// Biases.
    pub vectors: Vec<VectorId>,
}

impl Projections {
    /// Keeps a projection.
    pub fn add(&mut self, projection: Projection) -> ProjectionId {
        let id = ProjectionId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Some(projection));
        id
    }

    /// The projection behind a handle; `None` if there never was one, or it was dropped.
    #[must_use]
    pub fn get(&self, id: ProjectionId) -> Option<&Projection> {
        self.0.get(id.0 as usize)?.as_ref()
    }

    /// Forgets projections, and returns what of their weights none of the others uses.
    pub fn remove(&mut self, ids: &[ProjectionId]) -> Unused {
        let places = ids.iter().filter_map(|id| Some(self.0.get_mut(id.0 as usize)?.take()));
        let removed: Vec<Projection> = places.flatten().collect();
        let (mut matrices, mut vectors) = (HashSet::new(), HashSet::new());
        for left in self.0.iter().flatten() {
            matrices.insert(left.matrix);
            vectors.extend(left.bias);
        }
        let mut unused = Unused::default();
        for Projection { matrix, bias, .. } in removed {
            unused.matrices.extend(Some(matrix).filter(|id| matrices.insert(*id)));
            unused.vectors.extend(bias.filter(|id| vectors.insert(*id)));
        }
        unused.matrices.sort_unstable_by_key(|id| id.0);
        unused.vectors.sort_unstable_by_key(|id| id.0);
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_use_stays_and_no_handle_is_given_twice() {
        let mut projections = Projections::default();
        let of = |matrix, bias: Option<u32>| Projection {
            name: "p".into(),
            matrix: MatrixId(matrix),
            bias: bias.map(VectorId),
        };
        let [a, b, c] =
            [of(7, Some(1)), of(7, Some(2)), of(3, Some(2))].map(|projection| projections.add(projection));
        assert_eq!(projections.remove(&[a]), Unused { matrices: vec![], vectors: vec![VectorId(1)] });
        assert!(projections.get(a).is_none() && projections.get(b).is_some());
        let all = Unused { matrices: vec![MatrixId(3), MatrixId(7)], vectors: vec![VectorId(2)] };
        assert_eq!(projections.remove(&[c, b, c]), all);
        assert_eq!(projections.remove(&[c, ProjectionId(9)]), Unused::default());
        assert_eq!(projections.add(of(3, None)), ProjectionId(3));
    }
}
