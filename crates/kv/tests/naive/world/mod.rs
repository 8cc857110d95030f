//! The manager, the device that it decides for, and the plain account of what was computed. What happens to them is here and,
//! where it is more than a line, in `calls` and `moves`; what holds then is in `checks`.

mod calls;
mod checks;
mod device;
mod event;
mod moves;
mod refused;
mod setup;
pub mod stream;

use interleaf_contract::{CHUNK_TOKENS, PAGE_UNIT};
use interleaf_kv::policy::AppState;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, ContentDigest, KvError, Manager, Op, RankRows, Salt,
    SequenceId, Translation, TranslationWay, TrimLevel,
};

use self::device::{Device, Under};
pub use self::event::Event;
pub use self::setup::Setup;
use self::setup::{LAYERS, PAGE};

/// What a sequence may diverge that may at all.
const LOSSY_BUDGET: f32 = 2.0;
/// What tokens diverge that are computed with loss.
const LOSS: f32 = 0.25;

struct App {
    id: AppId,
    salt: Option<u8>,
    is_open: bool,
}

struct Adapter {
    id: AdapterId,
    digest: u8,
    shared: usize,
    is_activated: bool,
    /// Whether its weights come and go.
    is_pooled: bool,
}

struct Sequence {
    id: SequenceId,
    app: usize,
    adapter: Option<AdapterId>,
    under: Under,
    /// Its prompt, and what it is continued with.
    tokens: Vec<u32>,
    /// Whether it may read what was computed with loss.
    is_lossy: bool,
    is_kept: bool,
    /// Whether its pages were lost and not computed again.
    is_lost: bool,
    /// What its tokens diverge at most.
    drift: f32,
}

impl Sequence {
    /// What it may diverge.
    fn budget(&self) -> f32 {
        if self.is_lossy { LOSSY_BUDGET } else { 0.0 }
    }
}

/// What was computed and could be found: the plain account.
struct Record {
    under: Under,
    tokens: Vec<u32>,
}

pub struct World {
    manager: Manager,
    device: Device,
    setup: Setup,
    apps: Vec<App>,
    adapters: Vec<Adapter>,
    sequences: Vec<Sequence>,
    ops: Vec<Op>,
    /// Adapters whose weights are neither there nor on their way, as far as that can be known from outside.
    unloaded: Vec<AdapterId>,
    /// Those whose weights came back with a sequence, whatever becomes of a move that was to bring them.
    regained: Vec<AdapterId>,
    records: Vec<Record>,
    /// Whether something may have gone that was computed: then less can be found than was.
    has_lost: bool,
    /// Whether the device's memory was lost.
    has_lost_memory: bool,
    /// Sequences that had tokens when they were opened.
    found: usize,
    now: f64,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let manager = Manager::new(setup.config()).expect("a lawful configuration");
        let mut world = Self {
            manager,
            device: Device::default(),
            setup,
            apps: Vec::new(),
            adapters: Vec::new(),
            sequences: Vec::new(),
            ops: Vec::new(),
            unloaded: Vec::new(),
            regained: Vec::new(),
            records: Vec::new(),
            has_lost: setup.has_forms,
            has_lost_memory: false,
            found: 0,
            now: 0.0,
        };
        world.open_app(None);
        world
    }

    fn open_app(&mut self, salt: Option<u8>) {
        let id = self.manager.open_app(salt.map(|byte| Salt([byte; 16]))).expect("few apps");
        self.apps.push(App { id, salt, is_open: true });
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), String> {
        let held = self.held();
        self.happen(event)?;
        self.check_held(&held)?;
        self.check()
    }

    fn happen(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Open { app, adapter, text, len, suffix, from, is_kept, is_lossy } => {
                self.open(app, adapter, (text, len, suffix), from, is_kept, is_lossy)?;
            }
            Event::Compute { sequence, tokens, text, is_lossy } => {
                self.compute(sequence, tokens, text, is_lossy)?;
            }
            Event::Truncate { sequence, tokens } => self.truncate(sequence, tokens)?,
            Event::Close { sequence } if !self.sequences.is_empty() => {
                let sequence = self.sequences.remove(sequence % self.sequences.len());
                self.close(sequence)?;
            }
            Event::Done { op } if !self.ops.is_empty() => {
                let op = self.ops.remove(op % self.ops.len());
                self.carry_out(op)?;
            }
            Event::Failed { op } | Event::Cancelled { op } if !self.ops.is_empty() => {
                let op = self.ops.remove(op % self.ops.len());
                self.has_lost = true;
                let unloaded = self.manager.adapter_of(op.id).filter(|id| !self.regained.contains(id));
                self.unloaded.extend(unloaded);
                let moves = match event {
                    Event::Failed { .. } => self.manager.failed(op.id),
                    _ => self.manager.cancelled(op.id),
                };
                self.plan(moves);
            }
            Event::AllDone => {
                self.all_done()?;
                self.check_ready()?;
            }
            Event::Tick { tenths } => {
                self.now += f64::from(tenths) / 10.0;
                let mut moves = self.manager.tick(self.now);
                moves.extend(self.manager.rest(tenths as usize % 4));
                self.plan(moves);
                self.narrow(tenths as usize)?;
                self.replace_translated()?;
                self.has_lost |= self.is_tight();
            }
            Event::AppState { app, state } => {
                let app = &self.apps[app % self.apps.len()];
                let states = [
                    AppState::Killed,
                    AppState::Cached,
                    AppState::Background,
                    AppState::Visible,
                    AppState::Foreground,
                ];
                self.has_lost |= states[state] == AppState::Killed;
                match self.manager.set_app_state(app.id, states[state], self.now) {
                    Ok(moves) => self.plan(moves),
                    Err(e) => same(e, KvError::UnknownApp, !app.is_open)?,
                }
            }
            Event::Trim { level } => {
                self.has_lost = true;
                self.manager.trim([TrimLevel::UiHidden, TrimLevel::Background, TrimLevel::Warning][level]);
            }
            Event::Budget { tier, share } => {
                let tiers = self.setup.tiers();
                let tier = tier % tiers.len();
                self.has_lost = true;
                let all = u64::from(tiers[tier]) * LAYERS as u64 * PAGE;
                self.manager.set_budget(tier, all * u64::from(share) / 16);
            }
            Event::AddAdapter { digest, rank } => self.add_adapter(digest, rank)?,
            Event::RemoveAdapter { adapter } if !self.adapters.is_empty() => {
                let adapter = self.adapters.remove(adapter % self.adapters.len());
                self.has_lost = true;
                self.manager.remove_adapter(adapter.id).map_err(|e| e.to_string())?;
                let again = self.manager.remove_adapter(adapter.id);
                (again == Err(KvError::UnknownAdapter)).then_some(()).ok_or("removed twice")?;
            }
            Event::OpenApp { salt } if self.apps.len() < 6 => self.open_app((salt > 0).then_some(salt)),
            Event::CloseApp { app } => self.close_app(app)?,
            Event::LoseMemory => self.lose_memory()?,
            Event::Keys { sequence, are_exact } if !self.sequences.is_empty() => {
                self.read_keys(sequence % self.sequences.len(), are_exact)?;
            }
            Event::Follow { app, adapter, text, len } => self.follow(app, adapter, text, len)?,
            _ => {}
        }
        Ok(())
    }

    /// Whether memory may not have room for all that was computed.
    fn is_tight(&self) -> bool {
        self.setup.chunks < 200
    }

    fn add_adapter(&mut self, digest: u8, rank: u32) -> Result<(), String> {
        // One digest is one adapter: of these, one that changes nothing, and one that is activated.
        let (shared, is_activated) =
            [(0, false), (1, false), (LAYERS, false), (2, true)][usize::from(digest) % 4];
        let row = RankRows { rank, row_bytes: 700 };
        let spec = AdapterSpec {
            key: AdapterKey { digest: ContentDigest([digest; 32]), scale_bits: 1 },
            shared_layers: shared,
            is_activated,
            translation: (self.setup.has_forms && digest == 0).then(|| {
                let way = |computed, measured| TranslationWay { computed, measured };
                Translation { ways: vec![way(0, vec![(32, 2.5)]), way(16, vec![(32, 0.2), (64, 0.3)])] }
            }),
            rank_rows: if rank == 0 { Vec::new() } else { vec![row; LAYERS] },
        };
        match self.manager.add_adapter(spec) {
            Ok(id) => {
                // One that changes nothing is never needed.
                let is_pooled = rank > 0 && shared < LAYERS;
                self.unloaded.extend(is_pooled.then_some(id));
                self.adapters.push(Adapter { id, digest, shared, is_activated, is_pooled });
            }
            Err(e) => same(e, KvError::DuplicateAdapter, self.adapters.iter().any(|a| a.digest == digest))?,
        }
        Ok(())
    }

    fn close_app(&mut self, app: usize) -> Result<(), String> {
        let place = app % self.apps.len();
        let has_open = self.sequences.iter().any(|s| s.app == place);
        let app = &mut self.apps[place];
        match self.manager.close_app(app.id) {
            Ok(()) => {
                self.has_lost = true;
                app.is_open = false;
                // Somebody must be there.
                if self.apps.iter().all(|app| !app.is_open) {
                    self.open_app(None);
                }
                Ok(())
            }
            Err(KvError::NotYours(_)) if has_open => Ok(()),
            Err(e) => same(e, KvError::UnknownApp, !app.is_open),
        }
    }
}

/// What a sequence reads at a position in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    word: u64,
    /// What its keys say where they are read.
    keys: u64,
    /// Whether it is the anchor's, or was copied of that: the chunk's own is the same, or near enough.
    is_anchors: bool,
}

/// The word that a sequence reads.
fn read(manager: &Manager, device: &Device, id: SequenceId, layer: usize, position: usize) -> Option<Word> {
    let chunk = position / CHUNK_TOKENS;
    let own = manager.page_place(id, layer, chunk).ok()?;
    // Of a chunk that stores nothing of a layer its anchor's page is read, which begins with its keys.
    let keys = u64::from(manager.page_table(id).ok()?.entry(layer, chunk)?.k.at) * PAGE_UNIT as u64;
    let token = position % CHUNK_TOKENS;
    let page = device.page(layer, own.unwrap_or(keys));
    Some(Word {
        word: page.words[token],
        keys: device.page(layer, keys).words[token],
        is_anchors: own.is_none() || page.are_anchors[token],
    })
}

/// An error is the expected one, where one is expected.
fn same(found: KvError, expected: KvError, is_expected: bool) -> Result<(), String> {
    if is_expected && found == expected { Ok(()) } else { Err(found.to_string()) }
}
