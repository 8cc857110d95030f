//! The CPU kernels behind the `Backend` trait: their options, the worker threads, and what is kept of weights.

use std::panic::{AssertUnwindSafe, catch_unwind};

use interleaf_contract::host::{HostBackend, HostKernels, Pool, Profile, Resident};
use interleaf_contract::{
    BackendError, BackendInfo, ContractError, Matrix, Numerics, PageCodec, PageLoss, PageRecode, Step,
    StepOutput,
};

use crate::cores::Placement;
use crate::packed::Packed;
use crate::page_codec;
use crate::region::{Barrier, Worker};
use crate::step::{Buffers, Plan};
use crate::tier::{Call, Tier, VARIABLE};

/// The CPU backend.
pub type CpuBackend = HostBackend<CpuKernels>;

/// More threads than any phone or desktop has cores; starting thousands takes minutes.
const MOST_THREADS: usize = 256;

/// How the CPU backend runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Worker threads; 0 for one per available core.
    pub threads: usize,
    /// On a machine that has fast and slow cores, only the fast ones count and are used, unless more threads are
    /// asked for than they are. Linux and Android tell cores apart by capacity, macOS by performance level.
    pub performance_threads: bool,
    /// How quantised weights are multiplied.
    pub numerics: Numerics,
    /// The tier to run on; `None` for what `INTERLEAF_CPU` says, else the best that the machine has.
    pub tier: Option<Tier>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 0, performance_threads: true, numerics: Numerics::ActQ8_0, tier: None }
    }
}

/// The CPU kernels of one tier, and the threads they run on.
#[derive(Debug)]
pub struct CpuKernels {
    workers: rayon::ThreadPool,
    /// Whether they are kept on the machine's fast cores; `None` if that was not wanted.
    confined: Option<bool>,
    tier: Tier,
    numerics: Numerics,
    buffers: Buffers,
    profile: Profile,
}

impl CpuKernels {
    /// A CPU backend with a rayon pool of its own.
    ///
    /// # Errors
    /// If more than 256 threads are asked for, they cannot be started, or the tier is not on this machine or, in
    /// `INTERLEAF_CPU`, does not exist.
    pub fn backend(options: CpuOptions) -> Result<CpuBackend, BackendError> {
        if options.threads > MOST_THREADS {
            let found = options.threads as f64;
            return Err(
                ContractError::Value { op: "cpu", what: "threads", expected: "at most 256", found }.into()
            );
        }
        let tier = match options.tier {
            Some(tier) => tier,
            None => forced()?.unwrap_or_else(Tier::detect),
        };
        let device = |reason| BackendError::Device { backend: "cpu", reason };
        if let Some(reason) = tier.missing() {
            return Err(device(format!("tier {tier} cannot run here: {reason}")));
        }
        let placement = Placement::new(options.threads, options.performance_threads);
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(placement.threads)
            .thread_name(|i| format!("interleaf-cpu-{i}"))
            .build()
            .map_err(|e| device(format!("cannot start threads: {e}")))?;
        let applied = workers.broadcast(|_| placement.apply());
        let confined = placement.confines().then(|| applied.into_iter().all(|done| done));
        let (buffers, profile) = (Buffers::default(), Profile::default());
        let kernels = Self { workers, confined, tier, numerics: options.numerics, buffers, profile };
        Ok(HostBackend::new(kernels))
    }
}

/// The tier that the environment asks for.
fn forced() -> Result<Option<Tier>, BackendError> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return Ok(None) };
    let tier = name.to_str().and_then(|name| name.parse().ok());
    tier.map(Some).ok_or_else(|| {
        let known = Tier::ALL.map(Tier::name).join(", ");
        let reason = format!("{VARIABLE} must be one of {known}, found {}", name.display());
        BackendError::Device { backend: "cpu", reason }
    })
}

impl HostKernels for CpuKernels {
    type Matrix = Packed;

    fn weights(&self, matrix: Matrix) -> Result<Packed, BackendError> {
        self.workers.install(|| Packed::weights(&matrix, self.tier.interleave()))
    }

    fn factors(&self, sites: Vec<[Matrix; 2]>) -> Result<Vec<[Packed; 2]>, BackendError> {
        self.workers.install(|| Packed::factors(&sites, self.tier.interleave()))
    }

    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "cpu",
            device: {
                let cores = match self.confined {
                    Some(true) => ", performance cores",
                    Some(false) => ", all cores: the system refused to keep to the fast ones",
                    None => "",
                };
                format!("{}, {}{cores}", self.tier, std::env::consts::ARCH)
            },
            tier: self.tier.name(),
            numerics: self.numerics,
            threads: self.workers.current_num_threads(),
        }
    }

    fn run(
        &mut self,
        step: &Step,
        resident: &Resident<Packed>,
        pool: &mut Pool,
    ) -> Result<StepOutput, BackendError> {
        let plan =
            Plan::new(step, resident, self.numerics, pool, &mut self.buffers)?.timed(self.profile.is_on());
        let barrier = Barrier::new(self.workers.current_num_threads());
        // Nothing of a step that failed is kept but pages that its caller takes back.
        let run = AssertUnwindSafe(|| {
            self.workers.broadcast(|context| {
                self.tier.call(Walk { plan: &plan, worker: Worker::new(context.index(), &barrier) });
            });
        });
        catch_unwind(run).map_err(|_| fault())?;
        self.profile.add(plan.times());
        Ok(plan.output())
    }

    fn reads(&self, codec: PageCodec) -> bool {
        !matches!(codec, PageCodec::Exact(_))
    }

    fn recode(
        &mut self,
        pages: &[PageRecode],
        resident: &Resident<Packed>,
        pool: &mut Pool,
    ) -> Result<(), BackendError> {
        let recode = || page_codec::recode(pages, self.tier, resident, pool);
        // Pages are written whole, or not at all.
        catch_unwind(AssertUnwindSafe(|| self.workers.install(recode))).unwrap_or_else(|_| Err(fault()))
    }

    fn compare(
        &mut self,
        pages: &[PageRecode],
        resident: &Resident<Packed>,
        pool: &Pool,
    ) -> Result<Vec<PageLoss>, BackendError> {
        let compare = || page_codec::compare(pages, self.tier, resident, pool);
        catch_unwind(AssertUnwindSafe(|| self.workers.install(compare))).unwrap_or_else(|_| Err(fault()))
    }

    fn profile(&mut self) -> Option<&mut Profile> {
        Some(&mut self.profile)
    }

    fn scratch_bytes(&self) -> u64 {
        self.buffers.bytes()
    }
}

fn fault() -> BackendError {
    let reason = "a kernel failed; this is a fault of the backend".into();
    BackendError::Device { backend: "cpu", reason }
}

struct Walk<'a, 'b> {
    plan: &'b Plan<'a>,
    worker: Worker<'b>,
}

impl Call for Walk<'_, '_> {
    type Output = ();

    fn call<I: crate::isa::Isa>(self) {
        // SAFETY: the backend was opened because the machine has the tier, and every worker of the region walks
        // this plan.
        unsafe { self.plan.walk::<I>(&self.worker) }
    }
}
