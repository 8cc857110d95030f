//! A backend whose submits and waits are counted, and which may hide that it runs while the host goes on. It says that it
//! is a GPU, so that an engine treats it as one; what it computes is the backend's inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use interleaf_contract::{
    Adapter, AdapterId, Backend, BackendError, BackendInfo, DeviceWork, Matrix, MatrixId, MemoryReport,
    PageAddress, PageCopy, PageData, PageTicket, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable,
    Step, StepOutput, Ticket, VectorId, Waiter,
};

use crate::backends::Boxed;

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Steps submitted.
    pub submitted: AtomicUsize,
    /// Steps waited for.
    pub redeemed: AtomicUsize,
    /// The most that were under way at once.
    pub most: AtomicUsize,
    /// Rows whose token the step before chose.
    pub chained: AtomicUsize,
    /// How often somebody waited for the device.
    pub waiters: AtomicUsize,
}

pub struct Watched {
    inner: Boxed,
    chains: bool,
    counts: Arc<Counts>,
}

impl Watched {
    /// Watches a backend. Without `chains` it says that its steps have run once they are submitted.
    pub fn boxed(inner: Boxed, chains: bool) -> (Boxed, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        (Box::new(Self { inner, chains, counts: Arc::clone(&counts) }), counts)
    }
}

impl Backend for Watched {
    fn info(&self) -> BackendInfo {
        BackendInfo { name: "gpu", ..self.inner.info() }
    }

    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError> {
        self.inner.create_matrix(matrix)
    }

    fn create_matrices(&mut self, matrices: Vec<Matrix>) -> Result<Vec<MatrixId>, BackendError> {
        self.inner.create_matrices(matrices)
    }

    fn create_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        self.inner.create_vector(name, values)
    }

    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        self.inner.create_projection(projection)
    }

    fn drop_projections(&mut self, projections: &[ProjectionId]) -> Result<(), BackendError> {
        self.inner.drop_projections(projections)
    }

    fn create_rope(&mut self, table: RopeTable) -> Result<RopeId, BackendError> {
        self.inner.create_rope(table)
    }

    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError> {
        self.inner.create_adapter(adapter)
    }

    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        self.inner.drop_adapter(adapter)
    }

    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        self.inner.create_pool(geometry)
    }

    fn submit(&mut self, step: Step) -> Result<Ticket, BackendError> {
        let chained = step.batch().chained.len();
        let ticket = self.inner.submit(step)?;
        self.counts.chained.fetch_add(chained, SeqCst);
        let submitted = self.counts.submitted.fetch_add(1, SeqCst) + 1;
        self.counts.most.fetch_max(submitted - self.counts.redeemed.load(SeqCst), SeqCst);
        Ok(ticket)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        self.counts.redeemed.fetch_add(1, SeqCst);
        self.inner.wait(ticket)
    }

    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError> {
        self.inner.read_pages(pages)
    }

    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError> {
        self.inner.wait_pages(ticket)
    }

    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError> {
        self.inner.write_pages(pages)
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), BackendError> {
        self.inner.copy_pages(copies)
    }

    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }

    fn drain(&mut self) -> Result<(), BackendError> {
        self.inner.drain()
    }

    fn waiter(&self) -> Option<Waiter> {
        let (inner, counts) = (self.inner.waiter(), Arc::clone(&self.counts));
        self.chains.then(|| {
            Waiter::new(move || {
                counts.waiters.fetch_add(1, SeqCst);
                inner.iter().for_each(Waiter::wait);
            })
        })
    }

    fn take_work(&mut self) -> Option<DeviceWork> {
        self.inner.take_work()
    }
}
