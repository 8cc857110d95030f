//! A device that fails on purpose: a sound backend behind calls that a test may refuse. It says that it is a GPU, and one
//! that runs while the host goes on, so that an engine treats it as one and takes steps ahead.

use interleaf_contract::{
    Adapter, AdapterId, Backend, BackendError, BackendInfo, ConstantsId, Matrix, MatrixId, MemoryReport,
    PageAddress, PageConstants, PageCopy, PageData, PageLoss, PageRecode, PageTicket, PoolGeometry,
    Projection, ProjectionId, RopeId, RopeTable, Step, StepOutput, Ticket, VectorId, Waiter,
};

/// What is about to be given to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Weights, vectors, ropes, constants of pages.
    Base,
    /// An adapter of this name.
    Adapter(String),
    /// A pool of so many chunks.
    Pool(usize),
    /// A step.
    Step,
    /// Waiting for a step.
    Results,
    /// Reading, writing or copying pages.
    Pages,
    /// Storing pages in other codecs.
    Recode,
    /// Comparing pages.
    Compare,
}

/// Refuses a call, or lets it pass.
pub type Fault = Box<dyn FnMut(Call) -> Result<(), BackendError> + Send>;

pub struct Failing {
    inner: Box<dyn Backend>,
    fault: Fault,
}

impl Failing {
    pub fn boxed(
        inner: Box<dyn Backend>,
        fault: impl FnMut(Call) -> Result<(), BackendError> + Send + 'static,
    ) -> Box<dyn Backend> {
        Box::new(Self { inner, fault: Box::new(fault) })
    }
}

impl Backend for Failing {
    fn info(&self) -> BackendInfo {
        BackendInfo { name: "gpu", ..self.inner.info() }
    }

    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError> {
        (self.fault)(Call::Base)?;
        self.inner.create_matrix(matrix)
    }

    fn create_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        (self.fault)(Call::Base)?;
        self.inner.create_vector(name, values)
    }

    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        self.inner.create_projection(projection)
    }

    fn drop_projections(&mut self, projections: &[ProjectionId]) -> Result<(), BackendError> {
        self.inner.drop_projections(projections)
    }

    fn create_rope(&mut self, table: RopeTable) -> Result<RopeId, BackendError> {
        (self.fault)(Call::Base)?;
        self.inner.create_rope(table)
    }

    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError> {
        (self.fault)(Call::Adapter(adapter.name.clone()))?;
        self.inner.create_adapter(adapter)
    }

    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        self.inner.drop_adapter(adapter)
    }

    fn create_constants(&mut self, constants: PageConstants) -> Result<ConstantsId, BackendError> {
        (self.fault)(Call::Base)?;
        self.inner.create_constants(constants)
    }

    fn drop_constants(&mut self, constants: ConstantsId) -> Result<(), BackendError> {
        self.inner.drop_constants(constants)
    }

    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        (self.fault)(Call::Pool(geometry.slots))?;
        self.inner.create_pool(geometry)
    }

    fn submit(&mut self, step: Step) -> Result<Ticket, BackendError> {
        (self.fault)(Call::Step)?;
        self.inner.submit(step)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        let results = self.inner.wait(ticket);
        (self.fault)(Call::Results)?;
        results
    }

    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError> {
        (self.fault)(Call::Pages)?;
        self.inner.read_pages(pages)
    }

    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError> {
        self.inner.wait_pages(ticket)
    }

    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError> {
        (self.fault)(Call::Pages)?;
        self.inner.write_pages(pages)
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), BackendError> {
        (self.fault)(Call::Pages)?;
        self.inner.copy_pages(copies)
    }

    fn recode_pages(&mut self, pages: &[PageRecode]) -> Result<(), BackendError> {
        (self.fault)(Call::Recode)?;
        self.inner.recode_pages(pages)
    }

    fn compare_pages(&mut self, pages: &[PageRecode]) -> Result<Vec<PageLoss>, BackendError> {
        (self.fault)(Call::Compare)?;
        self.inner.compare_pages(pages)
    }

    fn codes_pages(&self) -> bool {
        self.inner.codes_pages()
    }

    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }

    fn waiter(&self) -> Option<Waiter> {
        Some(Waiter::new(|| ()))
    }
}

pub fn lost() -> BackendError {
    BackendError::DeviceLost { backend: "gpu", reason: "the device was lost on purpose".into() }
}

pub fn no_room() -> BackendError {
    let (what, reason) = ("what was asked".into(), "refused on purpose".into());
    BackendError::OutOfMemory { backend: "gpu", what, bytes: 1 << 30, reason }
}

pub fn broken() -> BackendError {
    BackendError::Device { backend: "gpu", reason: "a kernel is refused on purpose".into() }
}

pub fn unsupported() -> BackendError {
    BackendError::Unsupported { backend: "gpu", what: "what was asked, on purpose,".into() }
}

/// The kinds of failure that are the device's own.
pub const KINDS: [fn() -> BackendError; 3] = [lost, no_room, broken];

/// Lets so many steps pass and refuses whatever is asked then, for good; what is under way still ends.
pub fn after_steps(
    steps: usize,
    error: fn() -> BackendError,
) -> impl FnMut(Call) -> Result<(), BackendError> {
    let mut left = Some(steps);
    move |call| {
        if call == Call::Step {
            left = left.and_then(|left| left.checked_sub(1));
        }
        if left.is_some() || call == Call::Results { Ok(()) } else { Err(error()) }
    }
}
