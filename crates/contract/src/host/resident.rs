//! Handle tables of what is resident. Matrices are kept as the kernels want them: by reference to their bytes, or
//! laid out anew; never both.

use std::collections::{HashMap, HashSet};

use crate::{
    AdapterId, BackendError, ConstantsId, Matrix, MatrixId, PageConstants, Projection, ProjectionId,
    Projections, RopeId, RopeTable, VectorId,
};

/// A matrix as a host backend keeps it.
pub trait HostMatrix: std::fmt::Debug + Send + Sync {
    /// Outputs and inputs.
    fn shape(&self) -> (usize, usize);

    /// Bytes held for it, those of a mapped file included.
    fn bytes(&self) -> usize;

    /// Where they begin: matrices of as many bytes that begin at the same place are held once.
    fn address(&self) -> usize;
}

impl HostMatrix for Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows(), self.cols())
    }

    fn bytes(&self) -> usize {
        self.data().len()
    }

    fn address(&self) -> usize {
        self.data().as_ptr() as usize
    }
}

/// One adapted projection: `y += scale · (x·Aᵀ)·Bᵀ`.
#[derive(Debug, Clone)]
pub struct HostSite<M> {
    /// `α/r`, or `α/√r` for rank-stabilised adapters.
    pub scale: f32,
    /// The shrink factor, `rank × in`.
    pub a: M,
    /// The expand factor, `out × rank`.
    pub b: M,
}

impl<M: HostMatrix> HostSite<M> {
    /// The rank of this site.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.shape().0
    }
}

/// What a host backend holds besides pages.
#[derive(Debug)]
pub struct Resident<M> {
    backend: &'static str,
    /// By handle. What was dropped leaves its place empty, so that no handle is given twice.
    matrices: Vec<Option<M>>,
    vectors: Vec<Option<Box<[f32]>>>,
    projections: Projections,
    ropes: Vec<RopeTable>,
    adapters: HashMap<AdapterId, HashMap<ProjectionId, HostSite<M>>>,
    next_adapter: u32,
    constants: HashMap<ConstantsId, PageConstants>,
    next_constants: u32,
}

fn next<T>(table: &[T]) -> u32 {
    u32::try_from(table.len()).unwrap_or(u32::MAX)
}

impl<M: HostMatrix> Resident<M> {
    pub(super) fn new(backend: &'static str) -> Self {
        Self {
            backend,
            matrices: Vec::new(),
            vectors: Vec::new(),
            projections: Projections::default(),
            ropes: Vec::new(),
            adapters: HashMap::new(),
            next_adapter: 0,
            constants: HashMap::new(),
            next_constants: 0,
        }
    }

    pub(super) fn add_matrix(&mut self, matrix: M) -> MatrixId {
        let id = MatrixId(next(&self.matrices));
        self.matrices.push(Some(matrix));
        id
    }

    pub(super) fn add_vector(&mut self, values: &[f32]) -> VectorId {
        let id = VectorId(next(&self.vectors));
        self.vectors.push(Some(values.into()));
        id
    }

    pub(super) fn add_projection(&mut self, projection: Projection) -> ProjectionId {
        self.projections.add(projection)
    }

    /// Drops projections that have been checked, with what none of the others uses.
    pub(super) fn drop_projections(&mut self, ids: &[ProjectionId]) {
        let unused = self.projections.remove(ids);
        unused.matrices.iter().for_each(|id| self.matrices[id.0 as usize] = None);
        unused.vectors.iter().for_each(|id| self.vectors[id.0 as usize] = None);
    }

    pub(super) fn add_rope(&mut self, table: RopeTable) -> RopeId {
        let id = RopeId(next(&self.ropes));
        self.ropes.push(table);
        id
    }

    pub(super) fn add_adapter(&mut self, sites: HashMap<ProjectionId, HostSite<M>>) -> AdapterId {
        let id = AdapterId(self.next_adapter);
        self.next_adapter += 1;
        self.adapters.insert(id, sites);
        id
    }

    pub(super) fn drop_adapter(&mut self, id: AdapterId) -> Result<(), BackendError> {
        self.adapter(id)?;
        self.adapters.remove(&id);
        Ok(())
    }

    pub(super) fn add_constants(&mut self, constants: PageConstants) -> ConstantsId {
        let id = ConstantsId(self.next_constants);
        self.next_constants += 1;
        self.constants.insert(id, constants);
        id
    }

    pub(super) fn drop_constants(&mut self, id: ConstantsId) -> Result<(), BackendError> {
        self.constants(id)?;
        self.constants.remove(&id);
        Ok(())
    }

    fn known<T>(&self, found: Option<T>, kind: &'static str, handle: u32) -> Result<T, BackendError> {
        found.ok_or(BackendError::UnknownHandle { backend: self.backend, kind, handle: handle.into() })
    }

    /// The constants of pages behind a handle.
    ///
    /// # Errors
    /// If the handle is unknown, or was dropped.
    pub fn constants(&self, id: ConstantsId) -> Result<&PageConstants, BackendError> {
        self.known(self.constants.get(&id), "constants of pages", id.0)
    }

    /// The matrix behind a handle.
    ///
    /// # Errors
    /// If the handle is unknown, or was dropped.
    pub fn matrix(&self, id: MatrixId) -> Result<&M, BackendError> {
        self.known(self.matrices.get(id.0 as usize).and_then(Option::as_ref), "matrix", id.0)
    }

    /// The vector behind a handle.
    ///
    /// # Errors
    /// If the handle is unknown, or was dropped.
    pub fn vector(&self, id: VectorId) -> Result<&[f32], BackendError> {
        self.known(self.vectors.get(id.0 as usize).and_then(Option::as_deref), "vector", id.0)
    }

    /// The projection behind a handle.
    ///
    /// # Errors
    /// If the handle is unknown, or was dropped.
    pub fn projection(&self, id: ProjectionId) -> Result<&Projection, BackendError> {
        self.known(self.projections.get(id), "projection", id.0)
    }

    /// The first adapter that attaches to a projection.
    pub(super) fn adapted(&self, id: ProjectionId) -> Option<AdapterId> {
        let adapters = self.adapters.iter().filter(|(_, sites)| sites.contains_key(&id));
        adapters.map(|(adapter, _)| *adapter).min_by_key(|adapter| adapter.0)
    }

    /// The rope table behind a handle.
    ///
    /// # Errors
    /// If the handle is unknown.
    pub fn rope(&self, id: RopeId) -> Result<&RopeTable, BackendError> {
        self.known(self.ropes.get(id.0 as usize), "rope table", id.0)
    }

    /// The sites of an adapter.
    ///
    /// # Errors
    /// If the handle is unknown or the adapter was dropped.
    pub fn adapter(&self, id: AdapterId) -> Result<&HashMap<ProjectionId, HostSite<M>>, BackendError> {
        self.known(self.adapters.get(&id), "adapter", id.0)
    }

    pub(super) fn base_bytes(&self) -> u64 {
        let matrices: usize = self.matrices.iter().flatten().map(HostMatrix::bytes).sum();
        let vectors: usize = self.vectors.iter().flatten().map(|v| size_of_val(&**v)).sum();
        let ropes: usize = self.ropes.iter().map(|r| size_of_val(&*r.cos) + size_of_val(&*r.sin)).sum();
        (matrices + vectors + ropes) as u64
    }

    pub(super) fn adapter_bytes(&self) -> u64 {
        let sites = self.adapters.values().flat_map(HashMap::values);
        // The parts of a fused module have one A.
        let held: HashSet<(usize, usize)> =
            sites.flat_map(|site| [&site.a, &site.b]).map(|m| (m.address(), m.bytes())).collect();
        held.into_iter().map(|(_, bytes)| bytes as u64).sum()
    }
}
