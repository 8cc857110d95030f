//! [`GpuBackend`]: the contract's trait over the parts of this crate. Order of calls and tickets are kept
//! here; everything else is elsewhere.

use std::collections::HashMap;

use interleaf_contract::{
    Adapter, AdapterId, Backend, BackendError, BackendInfo, Choices, ConstantsId, DevicePeaks, DeviceWork,
    Matrix, MatrixId, MemoryReport, PageAddress, PageCodec, PageConstants, PageCopy, PageData, PageElement,
    PageLoss, PageRecode, PageTicket, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, Step,
    StepOutput, Ticket, VectorId, Waiter, check,
};

use crate::adapters::GpuAdapter;
use crate::buffers::{BufferPool, READ_BACK, STORAGE};
use crate::chain::Chosen;
use crate::command::{Recorder, Recording, Submitter};
use crate::constants::Constants;
use crate::device::Gpu;
use crate::error::{self, BACKEND};
use crate::factors::Factors;
use crate::kernel::Kernels;
use crate::options::{GpuFailure, GpuOptions};
use crate::page_codec;
use crate::page_transfer::{self, PageRead};
use crate::pages::{PagePool, PoolPlan};
use crate::peaks::{MOST_READ, Probe};
use crate::readback::Pending;
use crate::step::{Held, Plan, Results};
use crate::weights::Weights;
use crate::work::{Profiler, StepWork};

/// A [`Backend`] on a GPU, through wgpu.
#[derive(Debug)]
pub struct GpuBackend {
    gpu: Gpu,
    kernels: Kernels,
    weights: Weights,
    factors: Factors,
    constants: Constants,
    pool: Option<PagePool>,
    scratch: BufferPool,
    read_backs: BufferPool,
    submitter: Submitter,
    chosen: Chosen,
    steps: HashMap<Ticket, (Pending, Results, StepWork)>,
    reads: HashMap<PageTicket, PageRead>,
    tickets: u64,
    submitted: u64,
    /// Whether the kernels were asked for by name: then no others run.
    forced: bool,
    profiler: Option<Profiler>,
    work: DeviceWork,
    /// From the first look at what the device does at best.
    probe: Option<Probe>,
}

impl GpuBackend {
    /// Opens a device. No driver is touched before.
    ///
    /// # Errors
    /// If there is no adapter as asked for, or it does not reach the lowest tier of WebGPU limits.
    pub fn new(options: GpuOptions) -> Result<Self, BackendError> {
        let gpu = Gpu::open(&options)?;
        Ok(Self {
            submitter: Submitter::new(gpu.dispatches),
            gpu,
            kernels: Kernels::default(),
            weights: Weights::default(),
            factors: Factors::default(),
            constants: Constants::default(),
            pool: None,
            scratch: BufferPool::new("activations", STORAGE),
            read_backs: BufferPool::new("results", READ_BACK),
            chosen: Chosen::default(),
            steps: HashMap::new(),
            reads: HashMap::new(),
            tickets: 0,
            submitted: 0,
            forced: options.variant.is_some() && !options.gives_way,
            profiler: None,
            work: DeviceWork::default(),
            probe: None,
        })
    }

    /// The adapter that was opened.
    #[must_use]
    pub const fn adapter(&self) -> &GpuAdapter {
        &self.gpu.adapter
    }

    /// The same with shaders that count what they load.
    #[cfg(test)]
    pub(crate) fn counting(options: GpuOptions) -> Result<Self, BackendError> {
        let mut backend = Self::new(options)?;
        let counters =
            crate::buffers::create(&backend.gpu, "counters", crate::instrument::COUNTER_BYTES, STORAGE)?;
        backend.gpu.counters = Some(counters);
        Ok(backend)
    }

    /// Compiles a few kernels.
    #[cfg(test)]
    pub(crate) fn compile_some(&mut self) {
        for variant in crate::embed::Variant::all() {
            self.kernels.get(&self.gpu, crate::kernel::Kernel::Embed(variant)).unwrap();
        }
    }

    /// Runs a step; what it cost by the cost functions, and what its shaders counted.
    #[cfg(test)]
    pub(crate) fn run_counting(&mut self, step: Step) -> (StepWork, Vec<u32>) {
        let counters = self.gpu.counters.clone().unwrap();
        let zeros = vec![0; crate::instrument::COUNTER_BYTES as usize];
        self.gpu.queue.write_buffer(&counters, 0, &zeros);
        let ticket = self.submit(step).unwrap();
        let (pending, _, work) = self.steps.remove(&ticket).unwrap();
        pending.wait(&self.gpu, &mut self.read_backs).unwrap();
        let mut recording = Recording::default();
        let bytes = crate::instrument::COUNTER_BYTES;
        recording.read_back(crate::command::Place::Buffer(counters), 0, bytes);
        let pending =
            Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording, None).unwrap();
        let bytes = pending.wait(&self.gpu, &mut self.read_backs).unwrap();
        (work, bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Records a step by the kernels that were decided on or, where the driver refuses one of them, by the next
    /// ones: nothing has run yet.
    fn record(&mut self, step: &Step) -> Result<(Recording, Results), BackendError> {
        self.record_by(|weights, factors, held, recorder| {
            Plan::record(step, weights, factors, held, recorder)
        })
    }

    /// The same of whatever records kernels.
    fn record_by<T>(
        &mut self,
        record: impl Fn(&Weights, &Factors, Held<'_>, &mut Recorder<'_>) -> Result<T, BackendError>,
    ) -> Result<(Recording, T), BackendError> {
        loop {
            self.scratch.give_all_but(self.chosen.buffer());
            let mut recorder = Recorder::new(&self.gpu, &mut self.kernels, &mut self.scratch);
            let (pool, constants, chosen) = (self.pool.as_ref(), &self.constants, &self.chosen);
            let held = Held { pool, constants, chosen };
            match record(&self.weights, &self.factors, held, &mut recorder) {
                Ok(results) => return Ok((recorder.recording, results)),
                Err(e) => {
                    let refused = self.kernels.take_refused() && !self.forced;
                    let Some(next) = self.gpu.decisions.next().filter(|_| refused) else {
                        return Err(e);
                    };
                    let (device, from, to) = (&self.gpu.name, self.gpu.decisions.name(), next.name());
                    tracing::warn!("{device} refuses the {from} kernels, the {to} ones run instead: {e}");
                    self.gpu.decisions = next;
                    self.submitter.forget_bind_groups();
                }
            }
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

impl check::Inventory for GpuBackend {
    fn matrix_shape(&self, id: MatrixId) -> Result<(usize, usize), BackendError> {
        self.weights.matrix(id).map(|matrix| (matrix.rows, matrix.cols))
    }

    fn vector_len(&self, id: VectorId) -> Result<usize, BackendError> {
        self.weights.vectors.len(id)
    }

    fn projection_shape(&self, id: ProjectionId) -> Result<(usize, usize), BackendError> {
        self.weights.projection(id).map(|(matrix, _)| (matrix.rows, matrix.cols))
    }

    fn adapted(&self, id: ProjectionId) -> Option<AdapterId> {
        self.factors.adapted(id)
    }

    fn rope_shape(&self, id: RopeId) -> Result<(usize, usize), BackendError> {
        self.weights.rope(id).map(|rope| (rope.rotary_dim, rope.positions))
    }

    fn has_adapter(&self, id: AdapterId) -> Result<(), BackendError> {
        self.factors.contains(id)
    }

    fn pool(&self) -> PoolGeometry {
        let none = PoolGeometry { layers: 0, kv_heads: 0, head_dim: 0, slots: 0, element: PageElement::F16 };
        self.pool.as_ref().map_or(none, |pool| pool.geometry)
    }

    fn reads(&self, codec: PageCodec) -> bool {
        match codec {
            PageCodec::Exact(element) => element == self.pool().element,
            _ => true,
        }
    }

    fn constants_shape(&self, id: ConstantsId) -> Result<check::ConstantsShape, BackendError> {
        self.constants.get(id).map(|found| found.shape)
    }

    fn name(&self) -> &'static str {
        BACKEND
    }

    fn choices(&self) -> &Choices {
        self.chosen.choices()
    }
}

impl Backend for GpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: BACKEND,
            device: self.gpu.name.clone(),
            tier: self.gpu.decisions.name(),
            numerics: self.gpu.decisions.numerics(),
            threads: 1,
        }
    }

    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError> {
        let created = self.weights.create_matrices(&self.gpu, &[matrix])?;
        created.first().copied().ok_or_else(|| error::device("a matrix was not created"))
    }

    fn create_matrices(&mut self, matrices: Vec<Matrix>) -> Result<Vec<MatrixId>, BackendError> {
        self.weights.create_matrices(&self.gpu, &matrices)
    }

    fn create_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId, BackendError> {
        let before = self.weights.vectors.bytes();
        let created = self.weights.vectors.create(&self.gpu, name, values);
        if self.weights.vectors.bytes() != before {
            self.submitter.forget_bind_groups();
        }
        created
    }

    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError> {
        check::projection(&projection, self)?;
        Ok(self.weights.create_projection(projection))
    }

    fn drop_projections(&mut self, projections: &[ProjectionId]) -> Result<(), BackendError> {
        check::dropped(projections, self)?;
        self.weights.drop_projections(projections);
        self.submitter.forget_bind_groups();
        Ok(())
    }

    fn create_rope(&mut self, table: RopeTable) -> Result<RopeId, BackendError> {
        check::rope(&table)?;
        self.weights.create_rope(&self.gpu, &table)
    }

    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError> {
        check::adapter(&adapter, self)?;
        let before = self.factors.bytes();
        let created = self.factors.create(&self.gpu, &adapter);
        if self.factors.bytes() != before {
            self.submitter.forget_bind_groups();
        }
        created
    }

    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError> {
        self.factors.drop_adapter(adapter)
    }

    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError> {
        let plan = PoolPlan::new(self.gpu.caps, geometry)?;
        // There may not be room for two: the earlier pool goes first, and steps under way keep it alive.
        self.pool = None;
        self.submitter.forget_bind_groups();
        self.gpu.wait_for_all()?;
        self.pool = Some(PagePool::create(&self.gpu, plan)?);
        Ok(())
    }

    fn submit(&mut self, step: Step) -> Result<Ticket, BackendError> {
        check::step(&step, self)?;
        if let Some(GpuFailure::Lost { after }) = self.gpu.failure
            && self.submitted >= after
        {
            self.gpu.lose();
        }
        self.gpu.check()?;
        self.submitted += 1;
        let freed = [self.scratch.next_step(), self.read_backs.next_step(), self.submitter.next_step()];
        if freed.contains(&true) {
            self.submitter.forget_bind_groups();
        }
        let (mut recording, mut results) = self.record(&step)?;
        let profiler = self.profiler.as_ref();
        let submits = self.submitter.command_buffers(&recording);
        let work = StepWork::of(&mut recording, submits, profiler);
        let profile = profiler.zip(work.stamps_at());
        let pending =
            Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording, profile)?;
        self.chosen = Chosen::new(Choices::of(&step), results.take_chosen());
        let ticket = Ticket(self.next_ticket());
        self.steps.insert(ticket, (pending, results, work));
        Ok(ticket)
    }

    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError> {
        let found = self.steps.remove(&ticket);
        let (pending, results, work) = found.ok_or_else(|| error::unknown("ticket", ticket.0))?;
        let bytes = pending.wait(&self.gpu, &mut self.read_backs)?;
        work.add_to(&mut self.work, &bytes);
        Ok(results.output(&bytes))
    }

    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError> {
        let geometry = check::Inventory::pool(self);
        pages.iter().try_for_each(|page| check::page(*page, &geometry))?;
        let read = match &self.pool {
            Some(pool) => PageRead::start(&self.gpu, &mut self.submitter, pool, pages)?,
            None => PageRead::none(),
        };
        let ticket = PageTicket(self.next_ticket());
        self.reads.insert(ticket, read);
        Ok(ticket)
    }

    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError> {
        let read = self.reads.remove(&ticket);
        read.ok_or_else(|| error::unknown("page ticket", ticket.0))?.wait(&self.gpu)
    }

    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError> {
        let geometry = check::Inventory::pool(self);
        pages.iter().try_for_each(|page| check::page_data(page, &geometry))?;
        match &self.pool {
            Some(pool) => page_transfer::write(&self.gpu, pool, pages),
            None => Ok(()),
        }
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), BackendError> {
        check::copies(copies, &check::Inventory::pool(self))?;
        match &self.pool {
            Some(pool) => {
                page_transfer::copy(&self.gpu, &mut self.submitter, &mut self.scratch, pool, copies)
            }
            None => Ok(()),
        }
    }

    fn create_constants(&mut self, constants: PageConstants) -> Result<ConstantsId, BackendError> {
        check::constants(&constants, self)?;
        let rope = constants.rope.map(|rope| self.weights.rope(rope)).transpose()?;
        let rotary_dim = rope.map_or(0, |rope| rope.rotary_dim);
        let before = self.constants.bytes();
        let created = self.constants.create(&self.gpu, &constants, rotary_dim);
        if self.constants.bytes() != before {
            self.submitter.forget_bind_groups();
        }
        created
    }

    fn drop_constants(&mut self, constants: ConstantsId) -> Result<(), BackendError> {
        self.constants.drop_constants(constants)
    }

    fn recode_pages(&mut self, pages: &[PageRecode]) -> Result<(), BackendError> {
        check::recodes(pages, self)?;
        if pages.is_empty() {
            return Ok(());
        }
        let (recording, ()) = self.record_by(|weights, _, held, recorder| {
            let pool = held.pool.ok_or_else(|| error::unknown("page pool", 0))?;
            page_codec::recode(weights, held, pool, pages, recorder)
        })?;
        self.submitter.submit(&self.gpu, &recording, None, None, |_| ())?;
        Ok(())
    }

    fn compare_pages(&mut self, pages: &[PageRecode]) -> Result<Vec<PageLoss>, BackendError> {
        check::compared(pages, self)?;
        if pages.is_empty() {
            return Ok(Vec::new());
        }
        let (recording, ()) = self.record_by(|weights, _, held, recorder| {
            let pool = held.pool.ok_or_else(|| error::unknown("page pool", 0))?;
            page_codec::compare(weights, held, pool, pages, recorder)
        })?;
        let pending =
            Pending::submit(&self.gpu, &mut self.submitter, &mut self.read_backs, &recording, None)?;
        let found = pending.wait(&self.gpu, &mut self.read_backs)?;
        Ok(page_codec::losses(&found, check::Inventory::pool(self).kv_heads))
    }

    /// The kernels ask for nothing that the lowest tier does not have.
    fn codes_pages(&self) -> bool {
        true
    }

    fn drain(&mut self) -> Result<(), BackendError> {
        // An app in the background may be ended without a word.
        if let Some(pipelines) = &mut self.gpu.pipelines {
            pipelines.keep();
        }
        self.gpu.wait_for_all()
    }

    fn waiter(&self) -> Option<Waiter> {
        Some(self.gpu.waiter())
    }

    fn set_profiling(&mut self, on: bool) -> Result<(), BackendError> {
        self.profiler = if on { Some(Profiler::new(&self.gpu)?) } else { None };
        Ok(())
    }

    fn take_work(&mut self) -> Option<DeviceWork> {
        Some(std::mem::take(&mut self.work))
    }

    fn measure_peaks(&mut self) -> Result<Option<DevicePeaks>, BackendError> {
        let probe = match &mut self.probe {
            Some(probe) => probe,
            none => none.insert(Probe::new(&self.gpu, MOST_READ)?),
        };
        probe.look(&self.gpu, &mut self.kernels).map(Some)
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            base: self.weights.bytes(),
            adapters: self.factors.bytes() + self.constants.bytes(),
            kv: self.pool.as_ref().map_or(0, PagePool::bytes),
            activations: self.scratch.bytes()
                + self.read_backs.bytes()
                + self.reads.values().map(PageRead::bytes).sum::<u64>()
                + self.submitter.bytes()
                + self.probe.as_ref().map_or(0, Probe::bytes),
        }
    }
}
