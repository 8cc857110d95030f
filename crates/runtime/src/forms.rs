//! The forms that pages are kept in for calls that allow a loss.
//!
//! Where nothing is known of an adapter they are 8 bits alone, and 4 or 8 bits of the difference from the base's pages. Where
//! the store has its calibration they are the rungs of its ladder besides, and what may be at rest. What a chunk in one of
//! them costs is measured when it is encoded (`encode`).

use std::collections::HashMap;
use std::sync::Arc;

use interleaf_contract::{
    Backend, BackendError, Bits, ConstantRows, ConstantsId, PageCodec, PageConstants, PageHalf, PageLoss,
    PageRecode, PoolGeometry, RopeId,
};
use interleaf_kv::{AdapterId, Form, LayerForm, Layers, Over, PageForm, Translation};
use interleaf_model::{Calibration, Digest, HalfCalibration, Ladder, ModelConfig, Resting};

use crate::first_touch::{self, Map};
use crate::joint_map::fingerprint;

/// What the mean divergence of outputs is at most where nothing better is known, as a multiple of the squared relative errors
/// of K and of V: it covered every encoding that was measured on two trained models and ten adapters.
const DIVERGENCE: f64 = 0.25;

const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// From the smallest: what is expected of each decides which are tried first, and is what two small models had at most
/// (mean divergence over held-out pages).
pub fn uncalibrated(pool: &PoolGeometry) -> Vec<Form> {
    let over_base =
        |codec, bits, drift| Form { over: Over::Base, ..standing_alone(pool, codec, bits, drift) };
    vec![
        over_base(PageCodec::Delta(Bits::Four), 4, 1e-5),
        standing_alone(pool, PageCodec::Quantised(Bits::Eight), 8, 1e-6),
        over_base(PageCodec::Delta(Bits::Eight), 8, 1e-7),
    ]
}

/// All layers' keys and values in one codec, decoded over nothing.
pub fn standing_alone(pool: &PoolGeometry, codec: PageCodec, bits: u32, drift: f32) -> Form {
    let [k, v] = HALVES.map(|half| PageForm::stored(pool, half, codec, None));
    let layers = Layers::Coded(vec![LayerForm { k, v }; pool.layers].into());
    Form { layers, bits, drift, over: Over::Nothing, by_density: false }
}

/// What is known of adapters' forms, by adapter.
#[derive(Debug, Default)]
pub struct Calibrated {
    adapters: HashMap<AdapterId, State>,
}

/// How far it has come with an adapter's calibration.
#[derive(Debug)]
enum State {
    /// There is none.
    Missing,
    /// It was read, and nothing of it is on the device.
    Read(Box<Calibration>),
    /// Its forms are the manager's.
    Known(Box<Known>),
}

/// Forms that one adapter's pages may take.
#[derive(Debug)]
struct Known {
    ladder: Ladder,
    /// What there is at rest, behind the rungs.
    rest: Vec<Resting>,
    /// The map over all layers: the adapter whose calibration has it, and what tells it from another.
    joint: Option<(Digest, u64)>,
    /// How good it is for translating the base's pages.
    translation: Option<Translation>,
    /// What they are translated with, from the first time on.
    map: Option<Arc<Map>>,
    /// The number of the form of the first rung.
    first: usize,
    constants: Vec<ConstantsId>,
    /// Bytes of their values.
    bytes: u64,
    /// What they were made from, where another backend may need them, and the model's rope that keys are turned by.
    origin: Vec<(PageConstants, Option<usize>)>,
}

/// An adapter's forms before anybody knows of them.
#[derive(Debug)]
pub struct Found {
    pub forms: Vec<Form>,
    known: Known,
}

impl Calibrated {
    /// Whether it has been looked for an adapter's calibration.
    pub fn is_known(&self, adapter: AdapterId) -> bool {
        self.adapters.contains_key(&adapter)
    }

    /// There is none.
    pub fn set_missing(&mut self, adapter: AdapterId) {
        self.adapters.insert(adapter, State::Missing);
    }

    /// There is one, for [`Calibrated::take_read`].
    pub fn set_read(&mut self, adapter: AdapterId, calibration: Box<Calibration>) {
        self.adapters.insert(adapter, State::Read(calibration));
    }

    /// An adapter's calibration that was read and has not been taken yet. It has not been looked for one any more then.
    pub fn take_read(&mut self, adapter: AdapterId) -> Option<Box<Calibration>> {
        match self.adapters.remove(&adapter)? {
            State::Read(calibration) => Some(calibration),
            other => {
                self.adapters.insert(adapter, other);
                None
            }
        }
    }

    /// The forms of [`Found`] are the manager's, from a number on.
    pub fn add(&mut self, adapter: AdapterId, found: Found, first: usize) {
        self.adapters.insert(adapter, State::Known(Box::new(Known { first, ..found.known })));
    }

    fn known(&self) -> impl Iterator<Item = &Known> {
        self.adapters.values().filter_map(State::known)
    }

    fn known_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.adapters.values_mut().filter_map(|state| match state {
            State::Known(known) => Some(&mut **known),
            State::Missing | State::Read(_) => None,
        })
    }

    /// Bytes of everything that their pages are decoded with besides their anchors.
    pub fn bytes(&self) -> u64 {
        self.known().map(|known| known.bytes).sum()
    }

    /// Bytes of the maps that the base's pages have been translated with.
    pub fn map_bytes(&self) -> u64 {
        self.known().filter_map(|known| known.map.as_ref()).map(|map| map.bytes).sum()
    }

    /// Forgets everything, and what a backend holds for it.
    ///
    /// # Errors
    /// The first of the backend's; everything is forgotten all the same.
    pub fn clear(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        let adapters = std::mem::take(&mut self.adapters);
        let known = || adapters.values().filter_map(State::known);
        let constants = known().flat_map(|known| &known.constants);
        let dropped = constants.map(|id| backend.drop_constants(*id)).fold(Ok(()), Result::and);
        let maps = adapters.into_values().filter_map(|state| match state {
            State::Known(known) => known.map,
            State::Missing | State::Read(_) => None,
        });
        maps.map(|map| map.drop_from(backend)).fold(dropped, Result::and)
    }

    /// Makes all constants resident on a new backend, which names them as the one before did; maps are, once they are needed.
    /// Can be tried again.
    ///
    /// # Errors
    /// If there is no room, or it names them otherwise.
    pub fn make_resident_again(
        &mut self,
        ropes: &[RopeId],
        backend: &mut dyn Backend,
    ) -> Result<(), BackendError> {
        self.known_mut().for_each(|known| known.map = None);
        let mut all: Vec<_> =
            self.known().flat_map(|known| known.constants.iter().zip(&known.origin)).collect();
        all.sort_by_key(|(id, _)| id.0);
        // Names are counted: those of constants that have gone are taken by what goes at once.
        let none = ConstantRows::nearest(&[], 1, 1)?;
        let filler = || PageConstants { name: "none".into(), rows: none.clone(), rope: None };
        let mut next = 0;
        for (id, (constants, rope)) in all {
            while next < id.0 {
                let filled = backend.create_constants(filler())?;
                backend.drop_constants(filled)?;
                next = filled.0 + 1;
            }
            let rope = rope.and_then(|rope| ropes.get(rope).copied());
            let made = backend.create_constants(PageConstants { rope, ..constants.clone() })?;
            if made != *id {
                let what = format!("{} under the name that it had", constants.name);
                return Err(BackendError::Unsupported { backend: "engine", what });
            }
            next = made.0 + 1;
        }
        Ok(())
    }

    /// There will be no other backend: what was kept for one is let go.
    pub fn forget_origins(&mut self) {
        self.known_mut().for_each(|known| known.origin = Vec::new());
    }

    /// A bound on the mean divergence of outputs over pages that have lost something, in nats: by the ladder of the adapter
    /// whose form it is, or else by the squared relative errors of K and of V over all layers.
    pub fn divergence(
        &self,
        encoding: Option<(Option<AdapterId>, u8)>,
        pages: &[PageRecode],
        losses: &[PageLoss],
    ) -> f32 {
        let known = encoding.and_then(|(adapter, form)| self.factor_of(adapter?, form));
        let Some((ladder, factor)) = known else {
            let is_half = |half| move |(page, _): &(&PageRecode, &PageLoss)| page.half == half;
            let of = |half| relative(pages.iter().zip(losses).filter(is_half(half)).map(|(_, loss)| loss));
            return (DIVERGENCE * HALVES.map(of).iter().sum::<f64>()) as f32;
        };
        let places = pages.iter().map(|page| (page.layer as usize, page.half as usize));
        cost(ladder, factor, places.zip(losses))
    }

    /// The same of a chunk that goes to rest, by layer, of keys and of values.
    pub fn divergence_at_rest(&self, adapter: AdapterId, form: u8, losses: &[[PageLoss; 2]]) -> f32 {
        let Some((ladder, factor)) = self.factor_of(adapter, form) else { return f32::INFINITY };
        let places = (0..losses.len()).flat_map(|layer| [0, 1].map(|half| (layer, half)));
        cost(ladder, factor, places.zip(losses.iter().flatten()))
    }

    /// The ladder that a form is measured by, and what it multiplies.
    fn factor_of(&self, adapter: AdapterId, form: u8) -> Option<(&Ladder, f32)> {
        let known = self.adapters.get(&adapter)?.known()?;
        let place = usize::from(form).checked_sub(known.first)?;
        let rungs = known.ladder.rungs.iter().map(|rung| rung.factor);
        let factor = rungs.chain(known.rest.iter().map(|rest| rest.factor)).nth(place)?;
        Some((&known.ladder, factor))
    }

    /// What an adapter's pages are translated with, if that is resident.
    pub fn map_of(&self, adapter: AdapterId) -> Option<Arc<Map>> {
        self.adapters.get(&adapter)?.known()?.map.clone()
    }

    /// It is from now on.
    pub fn set_map(&mut self, adapter: AdapterId, map: Arc<Map>) {
        if let Some(State::Known(known)) = self.adapters.get_mut(&adapter) {
            known.map = Some(map);
        }
    }

    /// What an adapter's chunks at rest are decoded with, and the base's translated, is gone.
    pub fn forget_joint(&mut self, adapter: AdapterId) {
        if let Some(State::Known(known)) = self.adapters.get_mut(&adapter) {
            known.joint = None;
        }
    }

    /// The adapter whose calibration has an adapter's map over all layers, and what tells that from another;
    /// `None` where there is none, or none any more.
    pub fn joint_of(&self, adapter: AdapterId) -> Option<(Digest, u64)> {
        self.adapters.get(&adapter)?.known()?.joint
    }
}

/// What losses of keys and of values in layers cost at most, in nats.
fn cost<'a>(
    ladder: &Ladder,
    factor: f32,
    losses: impl Iterator<Item = ((usize, usize), &'a PageLoss)>,
) -> f32 {
    let mut squares = vec![[0.0; 2]; ladder.sensitivities.len()];
    let mut unknown = 0.0;
    for ((layer, half), loss) in losses {
        let square = relative(std::iter::once(loss));
        match (ladder.sensitivities.get(layer), squares.get_mut(layer)) {
            (Some(known), Some(squares)) if known[half] > 0.0 => squares[half] = square,
            // What an adapter leaves as it is was never seen to cost anything, but may be the base's with a loss.
            _ => unknown += DIVERGENCE * square,
        }
    }
    (f64::from(factor) * ladder.weighted(&squares) + unknown) as f32
}

impl State {
    const fn known(&self) -> Option<&Known> {
        match self {
            Self::Known(known) => Some(known),
            Self::Missing | Self::Read(_) => None,
        }
    }
}

/// The squared error relative to what was there.
pub fn relative<'a>(losses: impl Iterator<Item = &'a PageLoss>) -> f64 {
    let (error, norm) = losses
        .fold((0.0, 0.0), |(error, norm), loss| (error + f64::from(loss.error), norm + f64::from(loss.norm)));
    // Nothing is known of what is no number, which has lost no less than everything.
    if !(error.is_finite() && norm.is_finite()) {
        return f64::INFINITY;
    }
    // What was nothing and is something is of no use.
    match (error > 0.0, norm > 0.0) {
        (false, _) => 0.0,
        (true, true) => error / norm,
        (true, false) => f64::INFINITY,
    }
}

/// Where forms are used.
pub struct Residence<'a> {
    pub config: &'a ModelConfig,
    pub pool: &'a PoolGeometry,
    pub ropes: &'a [RopeId],
    pub backend: &'a mut dyn Backend,
    /// Whether no other backend will ever need their constants.
    pub is_last: bool,
    /// The adapter, and how many of its layers are the base's.
    pub adapter: (Digest, usize),
    /// Whether chunks may be at rest.
    pub rests: bool,
}

impl Found {
    /// Gives the constants back.
    pub fn drop_constants(self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        self.known.constants.into_iter().try_for_each(|id| backend.drop_constants(id))
    }

    /// The forms of a calibration's ladder, with constants of theirs on a backend: of each layer's keys and values as many
    /// directions as a rung needs.
    ///
    /// # Errors
    /// If there is no room for the constants; none is held then.
    pub fn new(name: &str, calibration: &Calibration, on: Residence<'_>) -> Result<Self, BackendError> {
        let Residence { config, pool, ropes, backend, is_last, adapter: (adapter, shared), rests } = on;
        let mut ladder = calibration.ladder.clone();
        if !backend.codes_pages() {
            ladder.rungs.clear();
        }
        let (mut constants, mut origin, mut held) = (Vec::new(), Vec::new(), 0);
        let mut places = vec![[None; 2]; pool.layers];
        for (layer, calibrated) in calibration.layers.iter().enumerate() {
            for (half, of) in [(PageHalf::K, &calibrated.k), (PageHalf::V, &calibrated.v)] {
                let codecs = ladder.rungs.iter().filter_map(|rung| rung.layers[layer][half as usize]);
                let rows = codecs.map(PageCodec::constant_rows).max().unwrap_or(0);
                if rows == 0 {
                    continue;
                }
                let turn =
                    config.layer_kinds.get(layer).and_then(|kind| kind.rope).filter(|_| half == PageHalf::K);
                let made = ConstantRows::nearest(&values(of, rows), pool.kv_heads, pool.head_dim);
                let made = made.map_err(BackendError::from).and_then(|rows| {
                    held += rows.bytes() as u64;
                    let name = format!("the basis of {name}'s {half:?} in layer {layer}");
                    let rope = turn.and_then(|rope| ropes.get(rope).copied());
                    let made = PageConstants { name, rows, rope };
                    if !is_last {
                        origin.push((made.clone(), turn));
                    }
                    backend.create_constants(made)
                });
                match made {
                    Ok(id) => {
                        constants.push(id);
                        places[layer][half as usize] = Some(id);
                    }
                    Err(error) => {
                        constants.into_iter().try_for_each(|id| backend.drop_constants(id))?;
                        return Err(error);
                    }
                }
            }
        }
        let page = |layer: usize, half: PageHalf, codec: Option<PageCodec>| match codec {
            Some(codec) => {
                let constants = places[layer][half as usize].filter(|_| codec.constant_rows() > 0);
                PageForm::stored(pool, half, codec, constants)
            }
            None => PageForm::Same,
        };
        let form = |rung: &interleaf_model::Rung| {
            let layers = rung.layers.iter().enumerate().map(|(layer, [k, v])| LayerForm {
                k: page(layer, PageHalf::K, *k),
                v: page(layer, PageHalf::V, *v),
            });
            let layers: Vec<LayerForm> = layers.collect();
            let (elements, bytes) =
                (pool.layers * 2 * pool.kv_heads * pool.head_dim, layers.iter().map(LayerForm::bytes));
            let bits = bytes.sum::<u64>() * 8 / (elements * interleaf_contract::CHUNK_TOKENS) as u64;
            Form {
                layers: Layers::Coded(layers.into()),
                bits: bits as u32,
                drift: rung.bound,
                over: Over::Base,
                by_density: false,
            }
        };
        let mut forms: Vec<Form> = ladder.rungs.iter().map(form).collect();
        let joint = calibration.joint.as_ref().map(|map| (adapter, fingerprint(map)));
        let translation = joint.and_then(|_| first_touch::translation(&calibration.touches));
        let mut rest = Vec::new();
        if rests && joint.is_some() {
            for (resting, form) in resting(&calibration.rest, shared, pool) {
                rest.push(resting);
                forms.push(form);
            }
        }
        let bytes = held;
        let known = Known { ladder, rest, joint, translation, map: None, first: 0, constants, bytes, origin };
        Ok(Self { forms, known })
    }

    /// How good translating the base's pages is, if that was measured.
    pub fn translation(&self) -> Option<Translation> {
        self.known.translation.clone()
    }

    /// Whether any of it is for pages at rest.
    pub fn rests(&self) -> bool {
        !self.known.rest.is_empty()
    }
}

/// What may be at rest of an adapter whose first layers are the base's: where it has few of its own, all that lies in their
/// stripes may take more than exact pages do, and would save nothing.
fn resting(all: &[Resting], shared: usize, pool: &PoolGeometry) -> Vec<(Resting, Form)> {
    let most = 2 * pool.page_bytes() as u64;
    let saves = |form: &Form| shared < pool.layers && (0..pool.layers).all(|i| form.layers.bytes(i) <= most);
    let forms = all.iter().map(|rest| (*rest, at_rest(rest, shared, pool)));
    forms.filter(|(_, form)| saves(form)).collect()
}

/// A form at rest.
fn at_rest(rest: &Resting, shared: usize, pool: &PoolGeometry) -> Form {
    let layers = Layers::at_rest(rest.codec, shared, pool.layers);
    let elements = pool.layers * 2 * pool.page_elements();
    let bits = (rest.codec.chunk_bytes() * 8 / elements) as u32;
    Form { layers, bits, drift: rest.bound, over: Over::Base, by_density: false }
}

/// The mean, and the first directions.
fn values(of: &HalfCalibration, rows: usize) -> Vec<f32> {
    let directions = of.basis.rows.iter().take((rows - 1) * of.mean.len());
    of.mean.iter().chain(directions).copied().collect()
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{JointCodec, PageElement};

    use super::*;

    #[test]
    fn a_loss_that_is_no_number_is_not_none() {
        let of =
            |error, norm| relative([PageLoss { error, norm }, PageLoss { error: 1.0, norm: 4.0 }].iter());
        assert_eq!((of(1.0, 4.0), of(-1.0, 0.0)), (0.25, 0.0));
        for (error, norm) in [(f32::NAN, 4.0), (1.0, f32::NAN), (f32::INFINITY, 4.0), (0.0, f32::INFINITY)] {
            assert_eq!(of(error, norm), f64::INFINITY, "{error} {norm}");
            let loss = PageLoss { error, norm };
            for known in [0.0, 2.0] {
                let ladder = Ladder { sensitivities: vec![[known; 2]], rungs: Vec::new() };
                assert_eq!(cost(&ladder, 1.5, std::iter::once(((0, 1), &loss))), f32::INFINITY);
            }
        }
    }

    #[test]
    fn what_would_take_more_at_rest_than_exact_pages_is_no_form() {
        let pool = PoolGeometry { layers: 3, kv_heads: 1, head_dim: 8, slots: 1, element: PageElement::F16 };
        let of = |rank| {
            let codec = JointCodec { rank, bits: Bits::Four };
            Resting { codec, kl: 1e-4, factor: 2.0, bound: 3e-4 }
        };
        let all = [of(32), of(128)];
        // Exact layers of 512 bytes, and chunks of 288 and 1152.
        let ranks = |shared| resting(&all, shared, &pool).iter().map(|(rest, _)| rest.codec.rank).collect();
        let found: [Vec<u16>; 4] = [0, 1, 2, 3].map(ranks);
        assert_eq!(found, [vec![32, 128], vec![32], vec![32], vec![]]);
    }
}
