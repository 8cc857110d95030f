//! The bookkeeping of a backend whose memory is the host's: resident weights, the page pool and tickets.
//! It computes nothing: the kernels are given by [`HostKernels`].

mod pool;
mod profile;
mod resident;

use std::collections::HashMap;

use crate::{
    Adapter, AdapterId, Backend, BackendError, BackendInfo, Bits, Choices, ConstantsId, DeviceWork, LoraSite,
    Matrix, MatrixId, MemoryReport, PageAddress, PageCodec, PageConstants, PageCopy, PageData, PageLoss,
    PageRecode, PageTicket, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, Step, StepOutput,
    Ticket, VectorId, check,
};

pub use pool::Pool;
pub use profile::Profile;
pub use resident::{HostMatrix, HostSite, Resident};

/// The kernels of a host backend.
pub trait HostKernels: Send {
    /// How the kernels keep a matrix: as it is, or laid out anew.
    type Matrix: HostMatrix;

    /// Takes a weight matrix in.
    ///
    /// # Errors
    /// If there is no room.
    fn weights(&self, matrix: Matrix) -> Result<Self::Matrix, BackendError>;

    /// Takes the factors A and B of all sites of an adapter in, and returns as many.
    ///
    /// # Errors
    /// If there is no room.
    fn factors(&self, sites: Vec<[Matrix; 2]>) -> Result<Vec<[Self::Matrix; 2]>, BackendError>;

    /// What the backend says of itself.
    fn info(&self) -> BackendInfo;

    /// Carries out a step that has been checked against what is resident: every handle names something,
    /// every shape fits, and every page entry is in the pool.
    ///
    /// # Errors
    /// If an operation is not supported.
    fn run(
        &mut self,
        step: &Step,
        resident: &Resident<Self::Matrix>,
        pool: &mut Pool,
    ) -> Result<StepOutput, BackendError>;

    /// Whether pages are read in a codec that is not exact.
    fn reads(&self, _codec: PageCodec) -> bool {
        false
    }

    /// Stores pages in other codecs. They have been checked: none reads what another one writes.
    ///
    /// # Errors
    /// If a page or constants are not there.
    fn recode(
        &mut self,
        _pages: &[PageRecode],
        _resident: &Resident<Self::Matrix>,
        _pool: &mut Pool,
    ) -> Result<(), BackendError> {
        let (backend, what) = (self.info().name, "storing pages in another codec".into());
        Err(BackendError::Unsupported { backend, what })
    }

    /// What pages have lost. They have been checked.
    ///
    /// # Errors
    /// If a page or constants are not there.
    fn compare(
        &mut self,
        _pages: &[PageRecode],
        _resident: &Resident<Self::Matrix>,
        _pool: &Pool,
    ) -> Result<Vec<PageLoss>, BackendError> {
        let (backend, what) = (self.info().name, "comparing pages".into());
        Err(BackendError::Unsupported { backend, what })
    }

    /// Where the times of kernels are kept; `None` if they cannot be taken.
    fn profile(&mut self) -> Option<&mut Profile> {
        None
    }

    /// Bytes of activations and scratch that the kernels hold.
    fn scratch_bytes(&self) -> u64;
}

/// A [`Backend`] from host kernels. Steps run to their end within [`Backend::submit`].
#[derive(Debug)]
pub struct HostBackend<K: HostKernels> {
    kernels: K,
    resident: Resident<K::Matrix>,
    pool: Pool,
    next_ticket: u64,
    finished: HashMap<u64, StepOutput>,
    /// What the last step chooses, and what it chose, in the same order.
    choices: Choices,
    chosen: Vec<u32>,
    read: HashMap<u64, Vec<PageData>>,
}

impl<K: HostKernels> HostBackend<K> {
    /// A backend with nothing resident and an empty pool.
    pub fn new(kernels: K) -> Self {
        let name = kernels.info().name;
        Self {
            kernels,
            resident: Resident::new(name),
            pool: Pool::empty(name),
            next_ticket: 0,
            finished: HashMap::new(),
            choices: Choices::default(),
            chosen: Vec::new(),
            read: HashMap::new(),
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn no_ticket(&self, handle: u64) -> BackendError {
        BackendError::UnknownHandle { backend: self.kernels.info().name, kind: "ticket", handle }
    }
}

impl<K: HostKernels> check::Inventory for HostBackend<K> {
    fn matrix_shape(&self, id: MatrixId) -> Result<(usize, usize), BackendError> {
        self.resident.matrix(id).map(HostMatrix::shape)
    }

    fn vector_len(&self, id: VectorId) -> Result<usize, BackendError> {
        self.resident.vector(id).map(<[f32]>::len)
    }

    fn projection_shape(&self, id: ProjectionId) -> Result<(usize, usize), BackendError> {
        self.matrix_shape(self.resident.projection(id)?.matrix)
    }

    fn adapted(&self, id: ProjectionId) -> Option<AdapterId> {
        self.resident.adapted(id)
    }

    fn rope_shape(&self, id: RopeId) -> Result<(usize, usize), BackendError> {
        self.resident.rope(id).map(|table| (table.rotary_dim, table.positions))
    }

    fn has_adapter(&self, id: AdapterId) -> Result<(), BackendError> {
        self.resident.adapter(id).map(|_| ())
    }

    fn pool(&self) -> PoolGeometry {
        *self.pool.geometry()
    }

    fn reads(&self, codec: PageCodec) -> bool {
        codec == PageCodec::Exact(self.pool.geometry().element) || self.kernels.reads(codec)
    }

    fn constants_shape(&self, id: ConstantsId) -> Result<check::ConstantsShape, BackendError> {
        Ok(check::ConstantsShape::of(self.resident.constants(id)?))
    }

    fn name(&self) -> &'static str {
        self.kernels.info().name
    }

    fn choices(&self) -> &Choices {
        &self.choices
    }
}

impl<K: HostKernels> Backend for HostBackend<K> {
    fn info(&self) -> BackendInfo {
        self.kernels.info()
    }

    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError> {
        Ok(self.resident.add_matrix(self.kernels.weights(matrix)?))
    }

    fn create_vector(&mut self, _name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        Ok(self.resident.add_vector(values))
    }

    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        check::projection(&projection, self)?;
        Ok(self.resident.add_projection(projection))
    }

    fn drop_projections(&mut self, projections: &[ProjectionId]) -> Result<(), BackendError> {
        check::dropped(projections, self)?;
        self.resident.drop_projections(projections);
        Ok(())
    }

    fn create_rope(&mut self, table: RopeTable) -> Result<RopeId, BackendError> {
        check::rope(&table)?;
        Ok(self.resident.add_rope(table))
    }

    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError> {
        check::adapter(&adapter, self)?;
        let split = |LoraSite { projection, scale, a, b }| ((projection, scale), [a, b]);
        let (sites, factors): (Vec<_>, Vec<_>) = adapter.sites.into_iter().map(split).unzip();
        let factors = self.kernels.factors(factors)?;
        let sites = sites.into_iter().zip(factors);
        let sites = sites.map(|((projection, scale), [a, b])| (projection, HostSite { scale, a, b }));
        Ok(self.resident.add_adapter(sites.collect()))
    }

    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        self.resident.drop_adapter(adapter)
    }

    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        self.pool.resize(geometry)
    }

    fn submit(&mut self, mut step: Step) -> Result<Ticket, BackendError> {
        check::step(&step, self)?;
        step.resolve(|output| self.choices.place(output).map(|at| self.chosen[at]))?;
        let output = self.kernels.run(&step, &self.resident, &mut self.pool)?;
        self.choices = Choices::of(&step);
        self.chosen = self.choices.tokens(&output);
        let ticket = self.ticket();
        self.finished.insert(ticket, output);
        Ok(Ticket(ticket))
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        self.finished.remove(&ticket.0).ok_or_else(|| self.no_ticket(ticket.0))
    }

    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError> {
        let pages = pages.iter().map(|&a| self.pool.read(a)).collect::<Result<_, _>>()?;
        let ticket = self.ticket();
        self.read.insert(ticket, pages);
        Ok(PageTicket(ticket))
    }

    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError> {
        self.read.remove(&ticket.0).ok_or_else(|| self.no_ticket(ticket.0))
    }

    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError> {
        pages.iter().try_for_each(|page| check::page_data(page, self.pool.geometry()))?;
        pages.iter().try_for_each(|page| self.pool.write(page))
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), BackendError> {
        check::copies(copies, self.pool.geometry())?;
        copies.iter().try_for_each(|copy| self.pool.copy(*copy))
    }

    fn create_constants(&mut self, constants: PageConstants) -> Result<ConstantsId, BackendError> {
        check::constants(&constants, self)?;
        Ok(self.resident.add_constants(constants))
    }

    fn drop_constants(&mut self, constants: ConstantsId) -> Result<(), BackendError> {
        self.resident.drop_constants(constants)
    }

    fn recode_pages(&mut self, pages: &[PageRecode]) -> Result<(), BackendError> {
        check::recodes(pages, self)?;
        self.kernels.recode(pages, &self.resident, &mut self.pool)
    }

    fn compare_pages(&mut self, pages: &[PageRecode]) -> Result<Vec<PageLoss>, BackendError> {
        check::compared(pages, self)?;
        self.kernels.compare(pages, &self.resident, &self.pool)
    }

    fn codes_pages(&self) -> bool {
        self.kernels.reads(PageCodec::Delta(Bits::Four))
    }

    fn set_profiling(&mut self, on: bool) -> Result<(), BackendError> {
        let Some(profile) = self.kernels.profile() else {
            let (backend, what) = (self.kernels.info().name, "a profile by kernel".into());
            return if on { Err(BackendError::Unsupported { backend, what }) } else { Ok(()) };
        };
        profile.set(on);
        Ok(())
    }

    fn take_work(&mut self) -> Option<DeviceWork> {
        self.kernels.profile()?.take()
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            base: self.resident.base_bytes(),
            adapters: self.resident.adapter_bytes(),
            kv: self.pool.bytes(),
            activations: self.kernels.scratch_bytes(),
        }
    }
}
