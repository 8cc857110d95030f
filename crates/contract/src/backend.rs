//! The trait that every device implements, at the size of the transformer's own steps.

use crate::{
    Adapter, AdapterId, BackendError, ConstantsId, DevicePeaks, DeviceWork, Matrix, MatrixId, PageAddress,
    PageConstants, PageCopy, PageData, PageLoss, PageRecode, PoolGeometry, Projection, ProjectionId, RopeId,
    RopeTable, Step, StepOutput, VectorId, Waiter,
};

/// How a backend multiplies activations with **quantised** weights. Other weights always meet f32
/// activations. Both are defined in `kernels-ref`, and a backend is compared under the one it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Numerics {
    /// `act=f32`: weights are dequantised, activations stay f32.
    #[default]
    ActF32,
    /// `act=q8_0`: activations are quantised to Q8_0 blocks first and blocks are multiplied as
    /// integers.
    ActQ8_0,
}

impl Numerics {
    /// The name used in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActF32 => "act=f32",
            Self::ActQ8_0 => "act=q8_0",
        }
    }
}

/// What a backend says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// `ref`, `cpu` or `gpu`.
    pub name: &'static str,
    /// The device or driver that answers.
    pub device: String,
    /// Which of the backend's sets of kernels runs there, such as `portable`: results of different tiers may
    /// differ in rounding, and times differ.
    pub tier: &'static str,
    /// How quantised weights are multiplied.
    pub numerics: Numerics,
    /// Worker threads on the host; 1 where the work is elsewhere.
    pub threads: usize,
}

/// Bytes that a backend holds, by kind, rounding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// Base weights: matrices, vectors, rope tables.
    pub base: u64,
    /// Adapter factors.
    pub adapters: u64,
    /// The page pool.
    pub kv: u64,
    /// Activations and scratch, at their largest so far.
    pub activations: u64,
}

/// Names a submitted step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Names a submitted read of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageTicket(pub u64);

/// A device that holds weights, adapters and pages, and carries out steps.
///
/// Uploads, copies of pages and steps take effect in the order of the calls. Nothing else crosses between host and
/// device: activations stay where they are, tokens go in with a step and come out of it, and pages are
/// moved between steps.
pub trait Backend: Send {
    /// What this backend is.
    fn info(&self) -> BackendInfo;

    /// Makes a weight matrix resident.
    ///
    /// # Errors
    /// If there is no room, or the dtype is not supported here.
    fn create_matrix(&mut self, matrix: Matrix) -> Result<MatrixId, BackendError>;

    /// Makes matrices resident that are read together: those of projections that share an input, or a gate and
    /// its up. A backend may lay them side by side; without that they are like any others.
    ///
    /// # Errors
    /// As [`Backend::create_matrix`].
    fn create_matrices(&mut self, matrices: Vec<Matrix>) -> Result<Vec<MatrixId>, BackendError> {
        matrices.into_iter().map(|matrix| self.create_matrix(matrix)).collect()
    }

    /// Makes a vector resident. `name` is for messages.
    ///
    /// # Errors
    /// If there is no room.
    fn create_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId, BackendError>;

    /// Declares a linear layer over resident weights. Two projections may share a matrix.
    ///
    /// # Errors
    /// If a handle is unknown or the bias does not have one value per output.
    fn create_projection(&mut self, projection: Projection) -> Result<ProjectionId, BackendError>;

    /// Forgets projections, and their matrices and biases as far as no other projection uses them. One that operations
    /// use by its own handle (an embedding that is also the head, a norm's weight that is also a bias) goes with its last
    /// projection all the same. What steps under way read stays until they have run. No handle is given again: those that
    /// were dropped are unknown.
    ///
    /// [`MemoryReport::base`] falls by a piece of memory once nothing is left in it: on a device, matrices that were
    /// created together may lie in one. All vectors do there, and that piece stays: the next ones take the places.
    ///
    /// # Errors
    /// If a handle is unknown, or a resident adapter attaches to a projection. Nothing is forgotten then.
    fn drop_projections(&mut self, projections: &[ProjectionId]) -> Result<(), BackendError>;

    /// Makes rotary factors resident.
    ///
    /// # Errors
    /// If the table is not `positions × rotary_dim/2`, or there is no room.
    fn create_rope(&mut self, table: RopeTable) -> Result<RopeId, BackendError>;

    /// Makes an adapter resident. Nothing that belongs to the base is rebuilt.
    ///
    /// # Errors
    /// If a site's factors do not fit its projection ([`crate::LoraSite::check`]), a projection has two
    /// sites, or there is no room. Nothing is kept then.
    fn create_adapter(&mut self, adapter: Adapter) -> Result<AdapterId, BackendError>;

    /// Forgets an adapter and frees its memory.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn drop_adapter(&mut self, adapter: AdapterId) -> Result<(), BackendError>;

    /// Creates the page pool, in place of an earlier one. Pages start as zeros.
    ///
    /// # Errors
    /// If there is no room, or the codec is not supported here.
    fn create_pool(&mut self, geometry: PoolGeometry) -> Result<(), BackendError>;

    /// Starts a step and returns without waiting where the device allows. What it chooses stays on the device, for
    /// rows of the next step that are chained to it ([`Chained`](crate::Chained)).
    ///
    /// # Errors
    /// If a handle is unknown, shapes do not fit or an operation is not supported; the step then did
    /// nothing, and is not the one that the next is chained to. Device failures may also be reported by [`Backend::wait`].
    fn submit(&mut self, step: Step) -> Result<Ticket, BackendError>;

    /// Waits for a step and takes its results. Each ticket is redeemed once.
    ///
    /// # Errors
    /// If the ticket is unknown or the device failed.
    fn wait(&mut self, ticket: Ticket) -> Result<StepOutput, BackendError>;

    /// Starts reading pages back, as they are after every step submitted so far.
    ///
    /// # Errors
    /// If there is no pool or an address is outside it.
    fn read_pages(&mut self, pages: &[PageAddress]) -> Result<PageTicket, BackendError>;

    /// Waits for a read and takes its pages, in the order asked. Each ticket is redeemed once.
    ///
    /// # Errors
    /// If the ticket is unknown or the device failed.
    fn wait_pages(&mut self, ticket: PageTicket) -> Result<Vec<PageData>, BackendError>;

    /// Writes pages, before any step submitted later.
    ///
    /// # Errors
    /// If there is no pool, an address is outside it, or the bytes are not one page.
    fn write_pages(&mut self, pages: &[PageData]) -> Result<(), BackendError>;

    /// Copies pages within their layers, as they are after every step submitted so far and before any submitted later.
    /// No copy of a call sees what another one writes.
    ///
    /// # Errors
    /// If there is no pool, an address is outside it, a copy leaves its layer or is of two lengths, or what is written is
    /// also read, or written once more, by the same call. Nothing is copied then.
    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), BackendError>;

    /// Makes constants of pages resident.
    ///
    /// # Errors
    /// If the values are not whole rows, one is not a number, the rope is unknown, there is no room, or this backend reads
    /// exact pages only.
    fn create_constants(&mut self, constants: PageConstants) -> Result<ConstantsId, BackendError> {
        Err(unsupported(self, constants.name))
    }

    /// Forgets constants and frees their memory. Pages that need them can no longer be read.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn drop_constants(&mut self, constants: ConstantsId) -> Result<(), BackendError> {
        Err(unsupported(self, format!("constants {}", constants.0)))
    }

    /// Stores pages in other codecs, in the order of copies: as they are after every step submitted so far, before any
    /// submitted later, and none sees what another one of the call writes.
    ///
    /// # Errors
    /// If there is no pool, a page or an anchor is outside it, constants are unknown or do not fit, or what is written is
    /// also read, or written once more, by the same call. Nothing is changed then. Or if this backend reads exact pages
    /// only.
    fn recode_pages(&mut self, pages: &[PageRecode]) -> Result<(), BackendError> {
        match pages.first() {
            Some(page) => Err(unsupported(self, format!("pages in {}", page.to.codec))),
            None => Ok(()),
        }
    }

    /// What pages have lost that were stored in other codecs: `to` of each against `from`, which is still there, in the
    /// order asked. Nothing is written, and no matter which: a page may be compared with one that others lie over. Waits
    /// for the device.
    ///
    /// # Errors
    /// If there is no pool, a page or an anchor is outside it, or constants are unknown or do not fit. Or if this backend
    /// reads exact pages only.
    fn compare_pages(&mut self, pages: &[PageRecode]) -> Result<Vec<PageLoss>, BackendError> {
        match pages.first() {
            Some(page) => Err(unsupported(self, format!("pages in {}", page.to.codec))),
            None => Ok(Vec::new()),
        }
    }

    /// Whether pages are read in every codec, and stored in other ones: else in exact ones alone.
    fn codes_pages(&self) -> bool {
        false
    }

    /// Bytes held now.
    fn memory(&self) -> MemoryReport;

    /// Waits until everything submitted has run.
    ///
    /// # Errors
    /// If the device failed.
    fn drain(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// What waits for this backend's device from any thread; `None` where steps have run once [`Backend::submit`]
    /// returns, so that nobody gains by submitting the next one before they have waited for the last.
    fn waiter(&self) -> Option<Waiter> {
        None
    }

    /// Measures the time of each kernel from now on, or no longer. Steps are slower meanwhile.
    ///
    /// # Errors
    /// If this backend cannot.
    fn set_profiling(&mut self, on: bool) -> Result<(), BackendError> {
        if on {
            return Err(unsupported(self, "a profile by kernel".into()));
        }
        Ok(())
    }

    /// What the device did for the steps that have been waited for since this was last called; `None` where that
    /// is not counted.
    fn take_work(&mut self) -> Option<DeviceWork> {
        None
    }

    /// Looks once at what the device does at best, by kernels whose answers are checked. Takes a second or so and 1 GiB
    /// of the device's memory, or what is left of it, which is kept for the next look. `None` where the device does not
    /// measure itself.
    ///
    /// # Errors
    /// If the device failed, has no memory left to read, or answered wrong.
    fn measure_peaks(&mut self) -> Result<Option<DevicePeaks>, BackendError> {
        Ok(None)
    }
}

fn unsupported<B: Backend + ?Sized>(backend: &B, what: String) -> BackendError {
    BackendError::Unsupported { backend: backend.info().name, what }
}
