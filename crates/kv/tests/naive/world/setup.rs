//! How a world is set up.

use interleaf_contract::{Bits, JointCodec, PageCodec, PageElement};
use interleaf_kv::policy::Policy;
use interleaf_kv::{Config, Form, LayerForm, Layers, LinearCost, Over, PageForm, SwitchCosts, TierConfig};

pub const LAYERS: usize = 4;
pub const PAGE: u64 = 1024;

/// What a chunk takes to be computed again, and what it takes to be read: something and a little for each chunk or byte.
const COSTS: [[(f64, f64); 2]; 4] = [
    // About the same, and a chunk that is not full is never read.
    [(0.001, 0.004), (0.0005, 1e-6)],
    // One that is not full is read from half full on.
    [(0.001, 0.012), (0.002, 1e-6)],
    // All are read.
    [(1.0, 1.0), (0.0, 1e-9)],
    // All are computed.
    [(0.0, 1e-9), (1.0, 1e-6)],
];

/// How a world is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Chunks that fit into memory.
    pub chunks: u32,
    /// Into the host's memory beneath a device's own, if it has that.
    pub host: Option<u32>,
    /// And into flash, if there is one.
    pub flash: Option<u32>,
    pub policy: usize,
    /// Which of a few machines it is.
    pub costs: usize,
    pub can_recompute: bool,
    /// Whether there are lossy forms, and a translation for one of the adapters.
    pub has_forms: bool,
}

impl Setup {
    /// Chunks that fit into each tier.
    pub fn tiers(&self) -> Vec<u32> {
        [Some(self.chunks), self.host, self.flash].into_iter().flatten().collect()
    }

    /// Above a lower tier there is no form at rest.
    fn forms(&self) -> Vec<Form> {
        let codec = JointCodec { rank: 21, bits: Bits::Four };
        let layers = Layers::at_rest(codec, 2, LAYERS);
        let at_rest = Form { layers, bits: 0, drift: 0.3, over: Over::Base, by_density: false };
        forms().into_iter().chain(Some(at_rest).filter(|_| self.tiers().len() == 1)).collect()
    }

    pub fn config(&self) -> Config {
        let tier = |(tier, chunks)| TierConfig { striped: tier == 0 || chunks % 2 == 1, chunks };
        let [recompute, read] = COSTS[self.costs].map(|(fixed, each)| LinearCost { fixed, each });
        Config {
            layers: LAYERS,
            page_bytes: PAGE,
            element: PageElement::F16,
            tiers: self.tiers().into_iter().enumerate().map(tier).collect(),
            policy: Policy::all()[self.policy].1,
            costs: SwitchCosts { recompute, read, least_saved: 0.0 },
            can_recompute: self.can_recompute,
            forms: if self.has_forms { self.forms() } else { Vec::new() },
            idle_below: 0.7,
            busy_above: 0.95,
            longest_context: 1024,
        }
    }
}

/// Forms that take less, in every layer something else, and in one of them nothing; the device knows nothing of sizes.
fn forms() -> Vec<Form> {
    let form = |drift, over, codec| {
        let page = |bytes| PageForm::Stored { codec, constants: None, bytes };
        let mut layers: Vec<LayerForm> =
            (0..LAYERS as u32).map(|layer| LayerForm { k: page(160 + 96 * layer), v: page(64) }).collect();
        if over != Over::Nothing {
            layers[1] = LayerForm { k: PageForm::Same, v: PageForm::Same };
            layers[2].k = PageForm::Same;
        }
        Form { layers: Layers::Coded(layers.into()), bits: 8, drift, over, by_density: false }
    };
    let by_density = |codec, bits, drift, bytes| {
        let page = PageForm::Stored { codec: PageCodec::Quantised(codec), constants: None, bytes };
        let layers = Layers::Coded(vec![LayerForm { k: page, v: page }; LAYERS].into());
        Form { layers, bits, drift, over: Over::Nothing, by_density: true }
    };
    vec![
        form(0.1, Over::Base, PageCodec::Delta(Bits::Four)),
        form(0.2, Over::Any, PageCodec::Delta(Bits::Two)),
        form(0.4, Over::Nothing, PageCodec::Quantised(Bits::Eight)),
        by_density(Bits::Four, 4, 0.42, 48),
        by_density(Bits::Two, 2, 0.45, 32),
    ]
}
