//! The driver: it puts the requests of a workload through a cache and a machine, and reports how that went. The cache is the
//! engine's own [`Manager`]; the machine is the [`Server`]. Nothing is computed and no byte is moved.
//!
//! What it assumes, beside what the server does: memory is not striped, so that a chunk of all layers is one piece; a
//! request has room for its prompt and answer when its prefill begins; writing behind and reading ahead give way to what
//! requests wait for; and of 64 or more apps, those that are 64 apart share what the cache knows of an app.

mod calls;
mod costs;
mod tally;
mod ticks;

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use interleaf_kv::policy::AppState as State;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, ContentDigest, KvError, MOST_APPS, Manager, Op, OpId,
};

use self::calls::Call;
use self::costs::Work;
pub(crate) use self::costs::chunk_bytes;
use self::tally::Tally;
use self::ticks::Ticks;
use crate::event::{AppState, What};
use crate::machine::Calibration;
use crate::policies::NamedPolicy;
use crate::row::Run;
use crate::server::{Moment, Phase, Server, ServerError};
use crate::working_set::most_used;
use crate::workload::Workload;

/// A run that is to be made.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// What happens.
    pub workload: Workload,
    /// What the machine takes for it.
    pub calibration: Calibration,
    /// What the cache goes by.
    pub policy: NamedPolicy,
    /// Bytes of memory for K and V and adapters together.
    pub bytes: u64,
    /// Bytes of flash for K and V; below a chunk there is none. Adapters are always there.
    pub flash_bytes: u64,
    /// Requests after which it ends.
    pub requests: u64,
    /// What the workload is drawn from.
    pub seed: u64,
    /// Requests that are served at a time.
    pub slots: usize,
}

/// Why a run could not be made. Whatever a lawful workload and machine bring forth is no error but a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// The cache refuses how it is set up, or an event that it should have taken.
    #[error("the cache: {0}")]
    Cache(#[from] KvError),
    /// The server refuses what it should have taken.
    #[error("the server: {0}")]
    Server(#[from] ServerError),
    /// The cache has broken one of its own rules, or kept something, which is a fault of it.
    #[error("the cache at the end: {0}")]
    Broken(String),
}

impl Simulation {
    /// Bytes of flash unless said otherwise: 64 GiB, what a phone of 256 may spare.
    pub const FLASH_BYTES: u64 = 64 << 30;

    /// Slots unless said otherwise: those of EdgeLoRA's first server (its artifact's `server.sh`).
    pub const SLOTS: usize = 20;

    /// Makes the run.
    ///
    /// # Errors
    /// If the machine's model is none that the cache can hold, or the cache or the server is at fault.
    pub fn run(&self) -> Result<Run, SimulationError> {
        let mut driver = Driver::new(self)?;
        let since = Instant::now();
        for (number, event) in
            self.workload.events(self.seed).requests(self.requests).scan(0, |number, event| {
                let this = *number;
                *number += u64::from(matches!(event.what, What::Request(_)));
                Some((this, event))
            })
        {
            driver.advance(event.at)?;
            driver.wake(event.at)?;
            match event.what {
                What::Request(request) => driver.admit(number, event.at, request)?,
                What::AppState { app, state } => driver.set_app_state(app, state, event.at)?,
                // The cache has no event for this: what is forgotten goes when its turn comes.
                What::Forget { .. } => {}
            }
        }
        driver.advance(f64::INFINITY)?;
        // What follows is a test of the cache, whose chunks are not counted either.
        let took = since.elapsed();
        driver.end()?;
        Ok(driver.tally.run(self, took))
    }

    /// Bytes of memory and of flash, without those that no run of so many requests could use: a cache has what it knows of
    /// each block from the beginning.
    fn used_bytes(&self) -> [u64; 2] {
        // Every request counts for two chunks at least, and where that is enough the workload need not be drawn.
        let fewest = self.requests.saturating_mul(2).saturating_mul(chunk_bytes(&self.calibration.model));
        let sizes = [self.bytes, self.flash_bytes];
        if sizes.iter().all(|bytes| *bytes <= fewest) {
            return sizes;
        }
        let most = most_used(&self.workload, &self.calibration, self.requests, self.seed);
        sizes.map(|bytes| bytes.min(most))
    }
}

/// A run under way.
struct Driver<'a> {
    simulation: &'a Simulation,
    server: Server,
    manager: Manager,
    apps: Vec<AppId>,
    /// Which apps' states are such that the user does not see them.
    is_behind: HashMap<u32, bool>,
    adapters: Vec<AdapterId>,
    adapter_bytes: Vec<u64>,
    calls: HashMap<u64, Call>,
    /// How many of them are with the server: loading, computing.
    served: usize,
    /// Those that wait for pages which are moved for others.
    waiting: Vec<u64>,
    /// Those that wait for room, the first that came first.
    short: BTreeSet<u64>,
    /// Whether anything was let go since one of them last tried.
    is_freed: bool,
    /// Moves that are carried out in the background, by the number that the server has for them.
    background: HashMap<u64, Vec<OpId>>,
    backgrounds: u64,
    ticks: Ticks,
    tally: Tally,
    /// Tokens of one request at a time.
    text: Vec<u32>,
    /// Tokens that contexts have had computed.
    pasts: HashMap<u32, usize>,
}

impl<'a> Driver<'a> {
    fn new(simulation: &'a Simulation) -> Result<Self, SimulationError> {
        let Simulation { workload, calibration, policy, requests, slots, .. } = simulation;
        let ([bytes, flash_bytes], limit) = (simulation.used_bytes(), workload.context_limit());
        let mut manager = Manager::new(costs::config(calibration, policy, bytes, flash_bytes, limit))?;
        let shapes = workload.adapters(&calibration.model);
        let add = |(number, shape)| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&u64::to_le_bytes(number));
            manager.add_adapter(AdapterSpec {
                key: AdapterKey { digest: ContentDigest(digest), scale_bits: 1.0_f32.to_bits() },
                shared_layers: 0,
                is_activated: false,
                translation: None,
                rank_rows: costs::rank_rows(shape, calibration.model.layers),
            })
        };
        let adapters = (0_u64..).zip(&shapes).map(add).collect::<Result<_, _>>()?;
        let apps = (0..MOST_APPS).map(|_| manager.open_app(None)).collect::<Result<_, _>>()?;
        Ok(Self {
            simulation,
            server: Server::new(calibration, *slots),
            manager,
            apps,
            is_behind: HashMap::new(),
            adapters,
            adapter_bytes: shapes.iter().map(|shape| shape.bytes).collect(),
            calls: HashMap::new(),
            pasts: HashMap::new(),
            served: 0,
            waiting: Vec::new(),
            short: BTreeSet::new(),
            is_freed: false,
            background: HashMap::new(),
            backgrounds: 0,
            ticks: Ticks::default(),
            tally: Tally::new(*requests),
            text: Vec::new(),
        })
    }

    /// Lets time pass up to a moment, with all that happens until then.
    fn advance(&mut self, until: f64) -> Result<(), SimulationError> {
        loop {
            let tick = self.ticks.next().filter(|tick| *tick <= until);
            match (self.server.next(tick.unwrap_or(until)), tick) {
                (Some(moment), _) => self.moment(moment)?,
                (None, Some(tick)) => {
                    let has_moved = self.tick(tick)?;
                    self.ticks.passed(has_moved);
                }
                (None, None) => return Ok(()),
            }
        }
    }

    /// Something happens: ticks go on where they were left out.
    fn wake(&mut self, now: f64) -> Result<(), SimulationError> {
        if let Some(missed) = self.ticks.wake(now) {
            self.tick(missed)?;
        }
        Ok(())
    }

    /// Returns whether there was anything to move.
    fn tick(&mut self, now: f64) -> Result<bool, SimulationError> {
        let moves = self.manager.tick(now);
        let has_moved = !moves.is_empty();
        self.in_background(&moves)?;
        Ok(has_moved)
    }

    fn moment(&mut self, moment: Moment) -> Result<(), SimulationError> {
        let Moment { at, request, phase } = moment;
        self.wake(at)?;
        match phase {
            Phase::Start => self.start(request, at)?,
            Phase::Ready => self.ready(request, at)?,
            Phase::FirstToken => self.first_token(request, at)?,
            Phase::Done => self.done(request, at)?,
            Phase::Background => {
                let moved = self.background.remove(&request).unwrap_or_default();
                self.report(&moved)?;
            }
        }
        self.go_on(at)
    }

    /// Moves have been carried out; what follows from that is done in the background.
    fn report(&mut self, moved: &[OpId]) -> Result<(), SimulationError> {
        self.is_freed |= !moved.is_empty();
        for op in moved {
            let moves = self.manager.done(*op);
            self.in_background(&moves)?;
        }
        Ok(())
    }

    /// Has moves carried out that no request waits for.
    fn in_background(&mut self, moves: &[Op]) -> Result<(), SimulationError> {
        if moves.is_empty() {
            return Ok(());
        }
        let work = Work::of(moves);
        self.tally.moved(&work, moves.len());
        self.backgrounds += 1;
        self.background.insert(self.backgrounds, moves.iter().map(|op| op.id).collect());
        self.server.background(self.backgrounds, work.storage_seconds(&self.simulation.calibration))?;
        Ok(())
    }

    fn app(&self, app: u32) -> AppId {
        self.apps[app as usize % self.apps.len()]
    }

    fn set_app_state(&mut self, app: u32, state: AppState, now: f64) -> Result<(), SimulationError> {
        self.is_behind.insert(app, state != AppState::Foreground);
        let state = match state {
            AppState::Foreground => State::Foreground,
            AppState::Background => State::Background,
            AppState::Killed => State::Killed,
        };
        let moves = self.manager.set_app_state(self.app(app), state, now)?;
        self.in_background(&moves)
    }

    /// All is over: nothing is open or under way, and nothing stays behind that a budget of nothing does not let go.
    fn end(&mut self) -> Result<(), SimulationError> {
        let open = self.calls.len() + self.background.len();
        if open > 0 {
            return Err(SimulationError::Broken(format!("{open} requests and moves have not ended")));
        }
        self.tally.sample(&self.manager, self.server.now());
        self.tally.evicted(self.manager.evicted(0), self.manager.evicted(1));
        self.manager.check().map_err(SimulationError::Broken)?;
        (0..self.manager.config().tiers.len()).for_each(|tier| self.manager.set_budget(tier, 0));
        self.manager.check().map_err(SimulationError::Broken)?;
        let held: u64 =
            (0..self.manager.config().tiers.len()).map(|tier| self.manager.held_bytes(tier)).sum();
        match (held, self.manager.chunks()) {
            (0, 0) => Ok(()),
            (held, chunks) => {
                Err(SimulationError::Broken(format!("{held} bytes and {chunks} chunks are left")))
            }
        }
    }
}
