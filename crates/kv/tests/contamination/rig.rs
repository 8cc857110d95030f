//! A manager, the device of words that it decides for, and what each sequence should read: the least that a scenario
//! needs. Moves are carried out when the scenario says so.

use std::collections::HashMap;

use interleaf_contract::{CHUNK_TOKENS, PageElement};
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, KvError, LinearCost, Manager, Op,
    OpKind, Open, Opened, RankRows, Salt, SequenceId, SwitchCosts, TierConfig,
};

use crate::device::{Device, Under, contents, stored};

pub const LAYERS: usize = 4;
pub const PAGE: u64 = 1024;
/// Bytes of a chunk in all layers.
pub const CHUNK: u64 = LAYERS as u64 * PAGE;

/// Who asks: an app, the adapter that answers with the first position that it acts on, and the divergence allowed.
#[derive(Debug, Clone, Copy)]
pub struct By {
    pub app: AppId,
    pub adapter: Option<(AdapterId, usize)>,
    pub budget: f32,
}

impl By {
    pub fn base(app: AppId) -> Self {
        Self { app, adapter: None, budget: 0.0 }
    }

    pub fn adapter(app: AppId, adapter: AdapterId) -> Self {
        Self { adapter: Some((adapter, 0)), ..Self::base(app) }
    }

    pub fn activated(app: AppId, adapter: AdapterId, from: usize) -> Self {
        Self { adapter: Some((adapter, from)), ..Self::base(app) }
    }

    pub fn lossy(self, budget: f32) -> Self {
        Self { budget, ..self }
    }
}

struct Running {
    under: Under,
    tokens: Vec<u32>,
}

pub struct Rig {
    pub manager: Manager,
    pub device: Device,
    /// Moves asked for and not yet carried out.
    pub moves: Vec<Op>,
    salts: HashMap<AppId, Option<u8>>,
    /// A number for each adapter's contents, and what it leaves alone.
    adapters: HashMap<AdapterId, (u8, usize)>,
    running: HashMap<SequenceId, Running>,
    contents: u8,
}

/// A key of contents.
pub fn key(byte: u8) -> AdapterKey {
    AdapterKey { digest: ContentDigest([byte; 32]), scale_bits: 1_f32.to_bits() }
}

/// So many different tokens, other ones for each name.
pub fn text(name: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 1000 * name + i).collect()
}

impl Rig {
    /// Memory for so many chunks, and flash below it if there is any.
    pub fn new(chunks: u32, flash: Option<u32>) -> Self {
        Self::with(chunks, flash, false)
    }

    pub fn with(chunks: u32, flash: Option<u32>, can_recompute: bool) -> Self {
        let memory = TierConfig { striped: true, chunks };
        let flash = flash.map(|chunks| TierConfig { striped: false, chunks });
        let line = |each| LinearCost { fixed: 0.0, each };
        let config = Config {
            forms: Vec::new(),
            layers: LAYERS,
            page_bytes: PAGE,
            element: PageElement::F16,
            tiers: [memory].into_iter().chain(flash).collect(),
            policy: Policy::Lru,
            // Reading always pays.
            costs: SwitchCosts { recompute: line(1.0), read: line(1e-9), least_saved: 0.0 },
            can_recompute,
            idle_below: 0.7,
            busy_above: 0.95,
            longest_context: 1024,
        };
        Self {
            manager: Manager::new(config).unwrap(),
            device: Device::default(),
            moves: Vec::new(),
            salts: HashMap::new(),
            adapters: HashMap::new(),
            running: HashMap::new(),
            contents: 0,
        }
    }

    pub fn app(&mut self, salt: Option<u8>) -> AppId {
        let app = self.manager.open_app(salt.map(|byte| Salt([byte; 16]))).unwrap();
        self.salts.insert(app, salt);
        app
    }

    /// An adapter whose weights are not in the pool.
    pub fn adapter(&mut self, key: AdapterKey, shared_layers: usize) -> AdapterId {
        self.add(AdapterSpec {
            key,
            shared_layers,
            is_activated: false,
            translation: None,
            rank_rows: Vec::new(),
        })
    }

    pub fn activated(&mut self, key: AdapterKey, shared_layers: usize) -> AdapterId {
        self.add(AdapterSpec {
            key,
            shared_layers,
            is_activated: true,
            translation: None,
            rank_rows: Vec::new(),
        })
    }

    /// One whose weights take a block of each layer.
    pub fn pooled(&mut self, key: AdapterKey) -> AdapterId {
        let rows = vec![RankRows { rank: 1, row_bytes: PAGE }; LAYERS];
        self.add(AdapterSpec {
            key,
            shared_layers: 0,
            is_activated: false,
            translation: None,
            rank_rows: rows,
        })
    }

    fn add(&mut self, spec: AdapterSpec) -> AdapterId {
        let shared = spec.shared_layers;
        let id = self.manager.add_adapter(spec).unwrap();
        // Whatever its key, it is another one: what it computes is its own.
        self.contents += 1;
        self.adapters.insert(id, (self.contents, shared));
        id
    }

    fn request<'a>(by: By, tokens: &'a [u32]) -> Open<'a> {
        let By { app, adapter, budget } = by;
        Open { app, adapter, tokens, most: tokens.len(), budget, is_kept: true, now: 0.0 }
    }

    /// Tokens of a prompt that would be found.
    pub fn found(&self, by: By, tokens: &[u32]) -> usize {
        self.manager.look_up(&Self::request(by, tokens)).unwrap()
    }

    /// Opens a sequence and leaves its moves to be carried out.
    pub fn open(&mut self, by: By, tokens: &[u32]) -> Result<Opened, KvError> {
        let opened = self.manager.open(&Self::request(by, tokens))?;
        self.moves.extend(&opened.moves);
        let (adapter, shared_layers) =
            by.adapter.map_or((None, LAYERS), |(id, _)| (Some(self.adapters[&id].0), self.adapters[&id].1));
        let from = by.adapter.map_or(0, |(_, from)| from);
        let under = Under { salt: self.salts[&by.app], adapter, from, shared_layers };
        let tokens = tokens[..opened.reused].to_vec();
        self.running.insert(opened.sequence, Running { under, tokens });
        self.check();
        Ok(opened)
    }

    /// Computes tokens over what a sequence has, with a divergence of their own.
    pub fn compute_lossy(&mut self, id: SequenceId, tokens: &[u32], drift: f32) -> Result<(), KvError> {
        self.manager.append(id, tokens.len())?;
        let had = self.manager.tokens(id)?;
        let Running { under, tokens: all } = self.running.get_mut(&id).unwrap();
        all.truncate(had);
        all.extend(tokens);
        let lossy = |position: usize, layer| contents(under, layer, &all[..=position], true);
        let is_over_loss = (0..had).any(|at| {
            (0..LAYERS)
                .any(|layer| read(&self.manager, &self.device, id, layer, at) == Some(lossy(at, layer)))
        });
        for position in had..all.len() {
            for layer in 0..LAYERS {
                let word = contents(under, layer, &all[..=position], drift > 0.0 || is_over_loss);
                let place = self.manager.page_place(id, layer, position / CHUNK_TOKENS).unwrap().unwrap();
                self.device.write(layer, place, position, word);
            }
        }
        self.manager.commit(id, tokens, drift)?;
        self.check();
        Ok(())
    }

    pub fn compute(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), KvError> {
        self.compute_lossy(id, tokens, 0.0)
    }

    /// Opens a sequence, carries out its moves and computes what was not found. Returns it with the tokens that were.
    pub fn begin(&mut self, by: By, tokens: &[u32]) -> (SequenceId, usize) {
        let Opened { sequence, reused, .. } = self.open(by, tokens).unwrap();
        self.carry_out();
        self.compute(sequence, &tokens[reused..]).unwrap();
        assert!(by.budget > 0.0 || self.reads_right(sequence), "{by:?} reads something else");
        (sequence, reused)
    }

    pub fn close(&mut self, id: SequenceId) {
        let moves = self.manager.close(id, 0.0).unwrap();
        self.moves.extend(moves);
        self.running.remove(&id);
        self.check();
    }

    /// A whole call: opened, computed, closed, written behind. Returns the tokens that were found.
    pub fn turn(&mut self, by: By, tokens: &[u32]) -> usize {
        let (sequence, reused) = self.begin(by, tokens);
        self.close(sequence);
        self.carry_out();
        reused
    }

    /// Whether every word that a sequence reads is what it would have computed itself, exactly.
    pub fn reads_right(&self, id: SequenceId) -> bool {
        let Running { under, tokens } = &self.running[&id];
        let has = self.manager.tokens(id).unwrap();
        let is_right = |position: usize, layer| {
            read(&self.manager, &self.device, id, layer, position)
                == Some(contents(under, layer, &tokens[..=position], false))
        };
        (0..has).all(|position| (0..LAYERS).all(|layer| is_right(position, layer)))
    }

    /// Computes all of a sequence's tokens again, where its pages are.
    pub fn recompute(&mut self, id: SequenceId) {
        let has = self.manager.tokens(id).unwrap();
        let Running { under, tokens } = &self.running[&id];
        for position in 0..has {
            for layer in 0..LAYERS {
                let word = contents(under, layer, &tokens[..=position], false);
                let place = self.manager.page_place(id, layer, position / CHUNK_TOKENS).unwrap().unwrap();
                self.device.write(layer, place, position, word);
            }
        }
    }

    /// Carries out what was asked for, and what follows from that.
    pub fn carry_out(&mut self) {
        while !self.moves.is_empty() {
            let op = self.moves.remove(0);
            self.carry_out_one(op);
        }
    }

    pub fn carry_out_one(&mut self, op: Op) {
        self.moves.retain(|other| other.id != op.id);
        match op.kind {
            OpKind::Copy => self.device.copy(&self.manager.copied_places(op.id)),
            OpKind::Write { .. } => {
                if let Some(at) = stored(self.manager.stored_at(op.id)) {
                    self.device.store(at, &self.manager.memory_places(op.id));
                }
            }
            OpKind::Read { .. } => {
                let at = stored(self.manager.stored_at(op.id)).unwrap();
                self.device.load(at, &self.manager.memory_places(op.id)).unwrap();
            }
            OpKind::Recompute => panic!("no scenario asks for it"),
            OpKind::Load => {}
            OpKind::Encode { .. } | OpKind::Materialise { .. } | OpKind::Translate => {
                panic!("there are no forms here")
            }
        }
        let more = self.manager.done(op.id);
        self.moves.extend(more);
        self.check();
    }

    /// Where each layer of a sequence's chunk is.
    pub fn places(&self, id: SequenceId, chunk: usize) -> Vec<u64> {
        (0..LAYERS).map(|layer| self.manager.page_place(id, layer, chunk).unwrap().unwrap()).collect()
    }

    /// Fails where the manager contradicts itself.
    pub fn check(&self) {
        self.manager.check().unwrap_or_else(|e| panic!("{e}"));
    }

    /// Bytes held in each tier.
    pub fn held(&self) -> [u64; 2] {
        [0, 1].map(|tier| self.manager.held_bytes(tier))
    }
}

/// The word that a sequence reads.
fn read(manager: &Manager, device: &Device, id: SequenceId, layer: usize, position: usize) -> Option<u64> {
    let place = manager.page_place(id, layer, position / CHUNK_TOKENS).ok().flatten()?;
    Some(device.page(layer, place).words[position % CHUNK_TOKENS])
}
