//! The forms that a chunk's pages may be kept in besides the exact one: what each takes, what it costs in fidelity, and
//! what it is decoded over. Codecs themselves are kernels', and what is at rest is nobody's who reads in place.

use std::ops::Range;
use std::sync::Arc;

use interleaf_contract::{
    CHUNK_TOKENS, ConstantsId, JointCodec, PAGE_UNIT, PageCodec, PageElement, PageHalf, PoolGeometry,
};

use crate::KvError;

/// How K or V of a chunk is stored in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageForm {
    /// Not at all: it is read as its anchor's.
    Same,
    /// As a page of its own.
    Stored {
        /// In which codec.
        codec: PageCodec,
        /// With which constants, if the codec has any.
        constants: Option<ConstantsId>,
        /// Bytes of the page.
        bytes: u32,
    },
}

impl PageForm {
    /// A page of K or V in a codec, as a pool has them.
    #[must_use]
    pub fn stored(
        pool: &PoolGeometry,
        half: PageHalf,
        codec: PageCodec,
        constants: Option<ConstantsId>,
    ) -> Self {
        let bytes = u32::try_from(pool.coded_bytes(codec, half)).unwrap_or(u32::MAX);
        Self::Stored { codec, constants, bytes }
    }

    /// Bytes of the page.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Same => 0,
            Self::Stored { bytes, .. } => bytes,
        }
    }

    /// Whether it is read without an anchor's.
    #[must_use]
    pub const fn stands_alone(self) -> bool {
        matches!(self, Self::Stored { codec, .. } if codec.stands_alone())
    }
}

/// How one layer's K and V of a chunk are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerForm {
    /// Keys.
    pub k: PageForm,
    /// Values.
    pub v: PageForm,
}

impl LayerForm {
    /// K or V.
    #[must_use]
    pub const fn half(&self, half: PageHalf) -> PageForm {
        match half {
            PageHalf::K => self.k,
            PageHalf::V => self.v,
        }
    }

    /// Bytes of K and V.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.k.bytes() as u64 + self.v.bytes() as u64
    }
}

/// What the layers of a chunk are stored as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Each in so many bytes, K and V together, that no kernel reads: for whoever decides and moves nothing.
    Alike(u64),
    /// Each in codecs of its own.
    Coded(Arc<[LayerForm]>),
    /// None on its own: bytes of all layers at once, which lie in the layers' stripes and which no kernel reads. Such a chunk
    /// is *at rest*, until somebody opens a context that has it.
    AtRest {
        /// What the bytes are.
        codec: JointCodec,
        /// How many lie in each layer's stripe.
        bytes: Arc<[u32]>,
    },
}

impl Layers {
    /// Bytes of one layer.
    #[must_use]
    pub fn bytes(&self, layer: usize) -> u64 {
        match self {
            Self::Alike(bytes) => *bytes,
            Self::Coded(layers) => layers.get(layer).map_or(0, LayerForm::bytes),
            Self::AtRest { bytes, .. } => bytes.get(layer).map_or(0, |bytes| u64::from(*bytes)),
        }
    }

    /// Keys as they are computed, and no values, of a pool's pages of so many bytes of both.
    pub(crate) fn exact_keys(layers: usize, element: PageElement, page_bytes: u64) -> Self {
        let bytes = u32::try_from(page_bytes / 2).unwrap_or(u32::MAX);
        let k = PageForm::Stored { codec: element.into(), constants: None, bytes };
        Self::Coded(vec![LayerForm { k, v: PageForm::Same }; layers].into())
    }

    /// A chunk at rest, in so few layers from `first` on as its bytes divide evenly over: those below are another chunk's where
    /// the adapter shares them, and have no stripe to lie in then.
    #[must_use]
    pub fn at_rest(codec: JointCodec, first: usize, layers: usize) -> Self {
        let units = codec.chunk_bytes().div_ceil(PAGE_UNIT);
        let own = layers.saturating_sub(first).max(1);
        let of = |layer: usize| match layer.checked_sub(first) {
            // The first ones have one unit more where it does not come out even.
            Some(place) => ((units / own + usize::from(place < units % own)) * PAGE_UNIT) as u32,
            None => 0,
        };
        Self::AtRest { codec, bytes: (0..layers).map(of).collect() }
    }

    /// Whether no kernel reads it in place.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        matches!(self, Self::AtRest { .. })
    }

    /// Whether its codecs are ones that there are, and are decoded over an anchor only where there is one.
    pub(crate) fn are_sound(&self, over: Over) -> bool {
        let is_sound = |half, page: PageForm| match page {
            PageForm::Stored { codec, constants, .. } => {
                codec.is_sound(half) && constants.is_some() == (codec.constant_rows() > 0)
            }
            PageForm::Same => true,
        };
        let is_lawful = |layer: &LayerForm| {
            let pages = [(PageHalf::K, layer.k), (PageHalf::V, layer.v)];
            pages
                .into_iter()
                .all(|(half, page)| is_sound(half, page) && (over != Over::Nothing || page.stands_alone()))
        };
        match self {
            Self::Alike(_) => true,
            Self::AtRest { codec, bytes } => {
                let all: u64 = bytes.iter().map(|bytes| u64::from(*bytes)).sum();
                over == Over::Base && codec.rank > 0 && all >= codec.chunk_bytes() as u64
            }
            Self::Coded(layers) => layers.iter().all(is_lawful),
        }
    }

    /// Bytes of some layers.
    #[must_use]
    pub fn sum(&self, layers: Range<usize>) -> u64 {
        layers.map(|layer| self.bytes(layer)).sum()
    }
}

/// What a form is decoded over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    /// Nothing: it stands alone.
    Nothing,
    /// The pages of the same tokens under the base.
    Base,
    /// The pages of the same tokens under any variant: the base where there are any, else another adapter's.
    Any,
}

/// A form.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// What each layer is stored as, scales included.
    pub layers: Layers,
    /// Bits of an element.
    pub bits: u32,
    /// Bound on the mean divergence of outputs that reading it costs, in nats: what is expected before a chunk is encoded,
    /// and what counts where whoever encodes it measures nothing ([`Manager::encoded`](crate::Manager::encoded)).
    pub drift: f32,
    /// What it is decoded over.
    pub over: Over,
    /// Whether only chunks get it whose density says so ([`Manager::narrow`](crate::Manager::narrow)); else each gets the
    /// smallest that its users allow when its call returns.
    pub by_density: bool,
}

/// How good an adapter's translation of the base's pages is, as it was measured: ways from the cheapest to the best.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// Those of fewer computed tokens first.
    pub ways: Vec<TranslationWay>,
}

/// A translation of a prefix but for its last tokens, which the adapter computes over the others.
#[derive(Debug, Clone, PartialEq)]
pub struct TranslationWay {
    /// How many these are.
    pub computed: usize,
    /// Lengths of prefixes in tokens, ascending, and of each a bound on the mean divergence of outputs, in nats.
    pub measured: Vec<(usize, f32)>,
}

impl TranslationWay {
    /// A bound for a prefix: the most that was measured of those up to the first that is as long; `None` for one that is longer
    /// than all.
    #[must_use]
    pub fn drift(&self, prefix: usize) -> Option<f32> {
        let place = self.measured.iter().position(|(tokens, _)| *tokens >= prefix)?;
        Some(self.measured[..=place].iter().map(|(_, drift)| *drift).fold(0.0, f32::max))
    }
}

impl Translation {
    /// What each way costs for a prefix that leaves something to be translated, the cheapest first: the tokens that are computed,
    /// and a bound on the divergence, in nats. Ways that no prefix as long was measured of are left out.
    pub fn costs(&self, prefix: usize) -> impl Iterator<Item = (usize, f32)> {
        let ways = self.ways.iter().filter(move |way| prefix.saturating_sub(way.computed) >= CHUNK_TOKENS);
        ways.filter_map(move |way| Some((way.computed, way.drift(prefix)?)))
    }

    /// The longest prefix that was measured, in tokens.
    #[must_use]
    pub fn longest(&self) -> usize {
        let measured = self.ways.iter().filter_map(|way| way.measured.last());
        measured.map(|(tokens, _)| *tokens).max().unwrap_or(0)
    }

    /// Whether this can have been measured.
    pub(crate) fn check(&self) -> Result<(), KvError> {
        let is_loss = |drift: f32| drift > 0.0 && drift.is_finite();
        let is_measured = |way: &TranslationWay| {
            let ascends = way.measured.windows(2).all(|pair| pair[0].0 < pair[1].0);
            !way.measured.is_empty() && ascends && way.measured.iter().all(|(_, drift)| is_loss(*drift))
        };
        let ascends = self.ways.windows(2).all(|pair| pair[0].computed < pair[1].computed);
        if !self.ways.is_empty() && ascends && self.ways.iter().all(is_measured) {
            return Ok(());
        }
        let (field, expected) =
            ("translation", "ways and lengths that ascend, with bounds that are finite and above 0");
        Err(KvError::Config { field, expected, found: format!("{:?}", self.ways) })
    }
}

/// What became of a prefix that the base has in the cache and the adapter has not, at the adapter's call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FirstTouch {
    /// There is none; or the call is the base's, or exact, or the adapter acts from later on.
    Nothing,
    /// No translation was measured: the adapter computes it.
    Unmeasured {
        /// Tokens of the prefix.
        prefix: usize,
    },
    /// It is longer than was measured: the adapter computes it.
    TooLong {
        /// Tokens of the prefix.
        prefix: usize,
        /// The longest that was measured.
        most: usize,
    },
    /// That could cost more than the call allows: the adapter computes it.
    OverBudget {
        /// Tokens of the prefix.
        prefix: usize,
        /// What it could cost at least, in nats.
        drift: f32,
    },
    /// It is translated, but for the last tokens, and as far as there is room.
    Translated {
        /// Tokens of the prefix.
        prefix: usize,
        /// Of those, the ones that are translated.
        tokens: usize,
        /// What that costs at most, in nats.
        drift: f32,
    },
}

/// Where a layer of a chunk comes from, the cheapest lawful way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Its own page, exact.
    Own,
    /// The base's page, which is the same to the bit.
    Shared,
    /// Its own page in a form that stands alone, by its place in the configuration.
    Form(u8),
    /// Its own page in a form that is decoded over another variant's page.
    OverAnchor(u8),
    /// The base's page, translated.
    Translated,
    /// The forward pass.
    Recomputed,
}
