//! [`GpuBackend`]: the contract's trait over the parts of this crate. Order of calls and tickets are kept
//! here; everything else is elsewhere.

use std::collections::HashMap;

use interleaf_contract::{
    Adapter, AdapterId, Backend, BackendError, BackendInfo, Bytes, Matrix, MatrixId, MemoryReport, Numerics,
    PageAddress, PageData, PageTicket, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, Step,
    StepOutput, Ticket, VectorId,
};

use crate::buffers::{BufferPool, READ_BACK, STORAGE};
use crate::command::{Place, Recorder, Submitter};
use crate::device::Gpu;
use crate::error::{self, BACKEND};
use crate::factors::Factors;
use crate::kernel::Kernels;
use crate::options::GpuOptions;
use crate::pages::PagePool;
use crate::readback::Pending;
use crate::step::{Plan, Probe};
use crate::weights::Weights;

/// A [`Backend`] on a GPU, through wgpu.
#[derive(Debug)]
pub struct GpuBackend {
    gpu: Gpu,
    kernels: Kernels,
    weights: Weights,
    factors: Factors,
    pool: Option<PagePool>,
    scratch: BufferPool,
    read_backs: BufferPool,
    submitter: Submitter,
    steps: HashMap<Ticket, (Pending, Vec<Probe>)>,
    reads: HashMap<PageTicket, (Pending, Vec<PageAddress>)>,
    tickets: u64,
}

impl GpuBackend {
    /// Opens a device. No driver is touched before.
    ///
    /// # Errors
    /// If there is no adapter as asked for, or it does not reach the lowest tier of WebGPU limits.
    pub fn new(options: GpuOptions) -> Result<Self, BackendError> {
        Ok(Self {
            gpu: Gpu::open(&options)?,
            kernels: Kernels::default(),
            weights: Weights::default(),
            factors: Factors::default(),
            pool: None,
            scratch: BufferPool::new("activations", STORAGE),
            read_backs: BufferPool::new("results", READ_BACK),
            submitter: Submitter::new(),
            steps: HashMap::new(),
            reads: HashMap::new(),
            tickets: 0,
        })
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn pool(&self) -> Result<&PagePool, BackendError> {
        self.pool.as_ref().ok_or_else(|| error::unknown("page pool", 0))
    }
}

impl Backend for GpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo { name: BACKEND, device: self.gpu.name.clone(), numerics: Numerics::ActF32, threads: 1 }
    }

    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError> {
        self.weights.create_matrix(&self.gpu, &matrix)
    }

    fn create_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        self.weights.create_vector(&self.gpu, name, values)
    }

    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        self.weights.create_projection(projection)
    }

    fn create_rope(&mut self, _table: RopeTable) -> Result<RopeId, BackendError> {
        Err(error::unsupported("rope"))
    }

    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError> {
        let before = self.factors.bytes();
        let created = self.factors.create(&self.gpu, &self.weights, &adapter);
        if self.factors.bytes() != before {
            self.submitter.forget_bind_groups();
        }
        created
    }

    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        self.factors.drop_adapter(adapter)
    }

    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        // The earlier pool goes first: there may not be room for two.
        self.pool = None;
        self.submitter.forget_bind_groups();
        self.pool = Some(PagePool::create(&self.gpu, geometry)?);
        Ok(())
    }

    fn submit(&mut self, step: Step) -> Result<Ticket, BackendError> {
        self.scratch.give_all();
        let mut recorder = Recorder::new(&self.gpu, &mut self.kernels, &mut self.scratch);
        let plan = Plan::new(&step, &self.weights, &self.factors, self.pool.as_ref())?;
        let probes = plan.record(&mut recorder)?;
        let recording = recorder.finish();
        let pending = Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording)?;
        let ticket = Ticket(self.next_ticket());
        self.steps.insert(ticket, (pending, probes));
        Ok(ticket)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        let found = self.steps.remove(&ticket);
        let (pending, probes) = found.ok_or_else(|| error::unknown("ticket", ticket.0))?;
        let bytes = pending.wait(&self.gpu, &mut self.read_backs)?;
        Ok(StepOutput { tokens: Vec::new(), probes: probes.iter().map(|p| p.values(&bytes)).collect() })
    }

    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError> {
        let pool = self.pool.as_ref().ok_or_else(|| error::unknown("page pool", 0))?;
        let page_bytes = pool.geometry.page_bytes() as u64;
        let mut recorder = Recorder::new(&self.gpu, &mut self.kernels, &mut self.scratch);
        for page in pages {
            let (stripe, at) = pool.locate(*page)?;
            recorder.read_back(Place::Buffer(stripe.clone()), at, page_bytes);
        }
        let recording = recorder.finish();
        let pending = Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording)?;
        let ticket = PageTicket(self.next_ticket());
        self.reads.insert(ticket, (pending, pages.to_vec()));
        Ok(ticket)
    }

    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError> {
        let found = self.reads.remove(&ticket);
        let (pending, pages) = found.ok_or_else(|| error::unknown("page ticket", ticket.0))?;
        let bytes = Bytes::from(pending.wait(&self.gpu, &mut self.read_backs)?);
        let page_bytes = bytes.len() / pages.len().max(1);
        let slice = |i: usize| bytes.slice(i * page_bytes..(i + 1) * page_bytes);
        let data = |(i, address): (usize, &PageAddress)| PageData { address: *address, bytes: slice(i) };
        Ok(pages.iter().enumerate().map(data).collect())
    }

    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError> {
        let pool = self.pool()?;
        let page_bytes = pool.geometry.page_bytes();
        let mut targets = Vec::with_capacity(pages.len());
        for page in pages {
            let (stripe, at) = pool.locate(page.address)?;
            error::check_shape("write_pages", "bytes of a page", page_bytes, page.bytes.len())?;
            targets.push((Place::Buffer(stripe.clone()), at));
        }
        let mut recorder = Recorder::new(&self.gpu, &mut self.kernels, &mut self.scratch);
        for (page, target) in pages.iter().zip(targets) {
            let from = recorder.upload(page.bytes.iter().copied());
            recorder.copy((Place::Uploads, from), target, page_bytes as u64);
        }
        let recording = recorder.finish();
        // Nothing is read back, so nothing is waited for: later steps are ordered behind it.
        Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording)?;
        Ok(())
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            base: self.weights.bytes(),
            adapters: self.factors.bytes(),
            kv: self.pool.as_ref().map_or(0, PagePool::bytes),
            activations: self.scratch.bytes() + self.read_backs.bytes() + self.submitter.bytes(),
        }
    }
}
