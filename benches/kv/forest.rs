//! A manager with as many chunks as a phone's flash has of a small model, and no pages: what is timed is what deciding
//! takes.

use interleaf_contract::{CHUNK_TOKENS, PageElement};
use interleaf_kv::policy::Policy;
use interleaf_kv::{AppId, Config, LinearCost, Manager, Open, SequenceId, SwitchCosts, TierConfig};

/// Chunks in the tree.
pub const CHUNKS: usize = 100_000;

/// Those of Llama 3.2 1B.
const LAYERS: usize = 16;

/// K and V of 16 tokens in a layer, 8 heads of 64, f16.
const PAGE_BYTES: u64 = 2 * 16 * 8 * 64 * 2;

/// How the chunks hang together.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// Chunks that all contexts begin with.
    pub common: usize,
    /// Chunks of a context beyond those.
    pub own: usize,
}

/// Contexts of 4,096 tokens, a quarter of them an instruction that all have: few chunks are last ones, and may go.
pub const DEEP: Shape = Shape { name: "deep", common: 64, own: 192 };

/// Contexts of one chunk: all of them may go.
pub const WIDE: Shape = Shape { name: "wide", common: 0, own: 1 };

pub struct Forest {
    pub manager: Manager,
    pub now: f64,
    app: AppId,
    shape: Shape,
    contexts: u32,
}

impl Forest {
    /// A forest in memory for so many chunks, which it nearly fills.
    pub fn new(shape: Shape, policy: Policy, room: usize) -> Self {
        let line = |fixed, each| LinearCost { fixed, each };
        let config = Config {
            forms: Vec::new(),
            layers: LAYERS,
            page_bytes: PAGE_BYTES,
            element: PageElement::F16,
            tiers: vec![TierConfig { striped: true, chunks: room as u32 }],
            policy,
            costs: SwitchCosts { recompute: line(0.001, 0.004), read: line(0.0005, 1e-9), least_saved: 0.0 },
            can_recompute: false,
            idle_below: 0.7,
            busy_above: 1.0,
            longest_context: 4096,
        };
        let mut manager = Manager::new(config).unwrap();
        let app = manager.open_app(None).unwrap();
        let mut forest = Self { manager, now: 0.0, app, shape, contexts: 0 };
        while forest.manager.chunks() + shape.own <= CHUNKS.min(room) {
            let (sequence, tokens) = forest.begin();
            forest.manager.append(sequence, tokens.len()).unwrap();
            forest.manager.commit(sequence, &tokens, 0.0).unwrap();
            forest.end(sequence);
        }
        forest.manager.check().unwrap();
        forest
    }

    /// The tokens of a context, all of which have one beginning.
    pub fn text(&self, context: u32) -> Vec<u32> {
        let common = self.shape.common * CHUNK_TOKENS;
        let token = |i: usize| match i {
            // Siblings part in the middle of a chunk.
            _ if i >= common && i % CHUNK_TOKENS == CHUNK_TOKENS / 2 => context,
            _ => i as u32,
        };
        (0..common + self.shape.own * CHUNK_TOKENS).map(token).collect()
    }

    pub fn request<'a>(&self, tokens: &'a [u32], most: usize) -> Open<'a> {
        let Self { app, now, .. } = *self;
        Open { app, adapter: None, tokens, most, budget: 0.0, is_kept: true, now }
    }

    /// Opens a context that nobody had, and returns what of it is to be computed.
    pub fn begin(&mut self) -> (SequenceId, Vec<u32>) {
        self.contexts += 1;
        self.now += 0.01;
        let tokens = self.text(self.contexts);
        let common = self.shape.common * CHUNK_TOKENS;
        let opened = self.manager.open(&self.request(&tokens, common)).unwrap();
        assert!(opened.reused == common || self.contexts == 1, "{} tokens found", opened.reused);
        (opened.sequence, tokens[opened.reused..].to_vec())
    }

    pub fn end(&mut self, sequence: SequenceId) {
        self.manager.close(sequence, self.now).unwrap();
    }
}
