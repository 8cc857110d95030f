//! Contexts at rest take less: each chunk gets the width that its density is worth under a ratio of all. Which width that is
//! [`choose_widths`] says; who measures densities, and when it is time, is not known here.

use interleaf_contract::CHUNK_TOKENS;

use super::Manager;
use super::encode::{both, rest};
use crate::attention::Attention;
use crate::children;
use crate::form::{Form, Over};
use crate::node::{BASE, Kind, NONE, Node};
use crate::numbers::Numbers;
use crate::op::Op;
use crate::tolerance::{Graded, Tolerance, Width, choose_widths};
use crate::{KvError, Open, SequenceId};

/// One part of so many of what its users allow is for narrowing a chunk: as errors add up, that leaves a twelfth of it to what is
/// computed over the chunk.
const SPENT: f32 = 2.0;

/// What a chunk that was narrowed, or computed over what was, has lost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Losses {
    /// What it was computed over had lost so much by being narrowed. That is of the same kind as what the chunk itself loses so,
    /// of which the largest counts.
    inherited: f32,
    /// What it has lost itself, once it was narrowed.
    own: f32,
    /// The form of most bytes that was found to cost more than its users allow.
    refused: Option<u8>,
}

/// What a chunk has lost once it is narrower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrowed {
    /// Itself.
    own: f32,
    /// With what it was computed over.
    pub drift: f32,
    /// Whether all who used it allow that.
    pub is_lawful: bool,
}

impl Manager {
    /// Takes in how much rows of a sequence attended to each of its chunks: the weight that `rows` rows from position `first` on
    /// gave the chunk's tokens, where each gives one in all and sees the `window` tokens up to itself, or all. It counts for
    /// [`Manager::narrow`] from when the sequence is closed.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn attended(
        &mut self,
        id: SequenceId,
        mass: &[f32],
        first: usize,
        rows: usize,
        window: Option<usize>,
    ) -> Result<(), KvError> {
        let sequence = self.sequences.get_mut(&id).ok_or(KvError::UnknownSequence(id))?;
        // What it has no room for it has no rows in.
        let rows = rows.min(sequence.room.saturating_sub(first));
        let mass = &mass[..mass.len().min(sequence.path.len())];
        if sequence.is_kept {
            sequence.attention.resize(sequence.attention.len().max(mass.len()), Attention::default());
            let all = sequence.attention.iter_mut().zip(mass).enumerate();
            all.for_each(|(chunk, (attention, mass))| attention.add(*mass, chunk, first, rows, window));
        }
        Ok(())
    }

    /// The newest whole chunks of a call, so many, stay exact from now on when it returns and go to no rest, whatever it allows. What is encoded over their
    /// twins later is another matter.
    pub const fn keep_newest(&mut self, chunks: usize) {
        self.newest = chunks;
    }

    /// The information density of each chunk that a call would find: the mean weight that a token of it gets from those that can
    /// see it (LLMS, arXiv 2403.11805, §3.2, with one mean over all such pairs); `None` where that was not measured, or of what the app has not used.
    ///
    /// # Errors
    /// If the app or the adapter is unknown.
    pub fn densities(&self, context: &Open<'_>) -> Result<Vec<Option<f64>>, KvError> {
        let Some((root, variant, from)) = self.start(context)? else { return Ok(Vec::new()) };
        let path = self.find(root, variant, from, context.tokens, context.budget).path;
        let is_own = |node: u32| self.nodes[node as usize].apps >> context.app.place & 1 == 1;
        Ok(path.iter().map(|&node| self.density(node).filter(|_| is_own(node))).collect())
    }

    fn density(&self, node: u32) -> Option<f64> {
        self.attention.get(&node)?.density()
    }

    /// Puts the whole chunks of contexts that nobody uses now into the widths that their densities are worth: 8, 4 or 2 bits, so
    /// that the measured ones of each context take a share of what they take at 8 (LLMS, §3.2). Those used longest ago come
    /// first. The moves are returned, at most so many; where there are none there is nothing to do.
    ///
    /// What was lost does not come back: no chunk gets wider. The newest whole chunks of any context stay as they are, and so do
    /// those that were not measured, and what others are decoded over.
    ///
    /// What a chunk loses is counted as if all of its context had lost as much, as of any other form, whatever it is attended to:
    /// so that it holds for whoever reads a part of the context, goes on from it otherwise, or attends to something else later. It
    /// is at most half of what those who used the chunk allow, so that later turns may lose something, too.
    ///
    /// # Errors
    /// If there is no form of one of these widths that stands alone, or [`choose_widths`] refuses the numbers or a ratio that is
    /// below what chunks take at 2 bits. Nothing has changed then.
    pub fn narrow(&mut self, tolerance: &Tolerance, most: usize) -> Result<Vec<Op>, KvError> {
        let forms = self.forms_by_width()?;
        let all = |form: u8| self.tiers[0].chunk_bytes(0..self.config.layers, self.layers_in(BASE, form));
        choose_widths(
            &[Graded { density: 1.0, bytes: forms.map(all) }],
            &Tolerance { newest: 0, ..*tolerance },
        )?;
        let paths = self.contexts();
        let newest = self.newest_of(&paths, tolerance.newest);
        let mut moves = Vec::new();
        for path in paths {
            if moves.len() >= most {
                break;
            }
            let wanted = self.widths_of(&path, &newest, forms, tolerance)?;
            for (&node, width) in path.iter().zip(wanted) {
                let form = width.and_then(|width| self.narrowest_lawful(node, &forms[..=width as usize]));
                if let Some(form) = form.filter(|_| moves.len() < most) {
                    moves.extend(self.encode_narrow(node, form));
                }
            }
        }
        Ok(moves)
    }

    /// The chunks of each context in memory, those used longest ago first.
    fn contexts(&self) -> Vec<Vec<u32>> {
        let is_last = |at: &Node| {
            let is_here = |&after: &u32| self.nodes[after as usize].is_in(0);
            at.kind == Kind::Shared
                && at.is_in(0)
                && !children::all(&self.nodes, at.children).iter().any(is_here)
        };
        let mut lasts: Vec<u32> =
            (0..).zip(&self.nodes).filter(|(_, at)| is_last(at)).map(|(node, _)| node).collect();
        lasts.sort_by(|&a, &b| self.nodes[a as usize].last_use.total_cmp(&self.nodes[b as usize].last_use));
        lasts.into_iter().map(|last| self.path_to(last)).collect()
    }

    /// The newest whole chunks, so many of each context.
    fn newest_of(&self, contexts: &[Vec<u32>], chunks: usize) -> Numbers<u32> {
        let is_whole = |node: &&u32| usize::from(self.nodes[**node as usize].len) == CHUNK_TOKENS;
        let mut newest = Numbers::default();
        for path in contexts {
            newest.extend(path.iter().rev().filter(is_whole).take(chunks).copied());
        }
        newest
    }

    /// What [`Manager::keep_newest`] keeps of what is there.
    pub(super) fn kept_newest(&self) -> Numbers<u32> {
        if self.newest == 0 { Numbers::default() } else { self.newest_of(&self.contexts(), self.newest) }
    }

    /// What each chunk of a context is worth; `None` where it stays as it is.
    fn widths_of(
        &self,
        path: &[u32],
        newest: &Numbers<u32>,
        forms: [u8; 3],
        tolerance: &Tolerance,
    ) -> Result<Vec<Option<Width>>, KvError> {
        let (mut whole, mut places, mut graded) = (0, Vec::new(), Vec::new());
        for (place, &node) in path.iter().enumerate().filter(|(_, node)| !newest.contains(node)) {
            let at = &self.nodes[node as usize];
            let may_change = self.may_change(node) && !self.has_lossy_twin(at);
            let Some(density) = self.density(node).filter(|_| may_change) else { continue };
            let bytes = forms.map(|form| self.bytes_in(node, form));
            whole += bytes[0];
            // It gets no wider than it is.
            let now = self.bytes_in(node, at.form);
            places.push(place);
            graded.push(Graded { density, bytes: bytes.map(|bytes| bytes.min(now)) });
        }
        // The share is one of all at 8 bits, also of what takes less by now; and no less than all take at their narrowest, which a
        // few layers of a chunk may with more rounding than all of them.
        let held: u64 = graded.iter().map(|chunk| chunk.bytes[0]).sum();
        let least: u64 = graded.iter().map(|chunk| chunk.bytes.into_iter().min().unwrap_or_default()).sum();
        let room = (tolerance.ratio * whole as f64).max(least as f64 + 0.5);
        let ratio = room / (held as f64).max(1.0);
        let widths = choose_widths(&graded, &Tolerance { ratio, newest: 0, ..*tolerance })?.widths;
        let mut wanted = vec![None; path.len()];
        places.into_iter().zip(widths).for_each(|(place, width)| wanted[place] = width);
        Ok(wanted)
    }

    /// The last of some forms, the widest first, that takes less than a chunk's own and that those who used it allow.
    fn narrowest_lawful(&self, node: u32, forms: &[u8]) -> Option<u8> {
        let now = self.bytes_in(node, self.nodes[node as usize].form);
        let refused = self.losses.get(&node).and_then(|losses| losses.refused);
        let is_lawful = |form: &u8| {
            let bytes = self.bytes_in(node, *form);
            let is_new = refused.is_none_or(|refused| bytes > self.bytes_in(node, refused));
            bytes < now && is_new && self.narrowed_to(node, *form, None).is_lawful
        };
        forms.iter().copied().rfind(is_lawful)
    }

    fn encode_narrow(&mut self, node: u32, form: u8) -> Option<Op> {
        let op = self.encode(node, form, NONE, false)?;
        let pending = self.pending.get_mut(&op.id)?;
        pending.is_narrowing = true;
        Some(op)
    }

    /// What a chunk has lost once it is in a form: as that was measured, or as the form says.
    pub(super) fn narrowed_to(&self, node: u32, form: u8, measured: Option<f32>) -> Narrowed {
        let at = &self.nodes[node as usize];
        let of_form = || self.form(at.variant, form).map_or(0.0, |form| form.drift);
        let own = both(self.own_loss(node), measured.unwrap_or_else(of_form));
        let drift = own.max(self.losses.get(&node).map_or(0.0, |losses| losses.inherited));
        Narrowed { own, drift, is_lawful: own <= at.least_budget / SPENT && drift <= at.least_budget }
    }

    /// It is in that form.
    pub(super) fn keep_narrowed(&mut self, node: u32, narrowed: Narrowed) {
        self.losses.entry(node).or_default().own = narrowed.own;
    }

    /// That was found to cost more than its users allow.
    pub(super) fn refuse_narrow(&mut self, node: u32, form: u8) {
        let bytes = self.bytes_in(node, form);
        let refused = self.losses.get(&node).and_then(|losses| losses.refused);
        if refused.is_none_or(|refused| self.bytes_in(node, refused) < bytes) {
            self.losses.entry(node).or_default().refused = Some(form);
        }
    }

    /// What a chunk has lost otherwise than by what was narrowed before it was computed over that.
    fn own_loss(&self, node: u32) -> f32 {
        let losses = self.losses.get(&node).copied().unwrap_or_default();
        let at = &self.nodes[node as usize];
        let is_narrowed = self.form_of(at).is_some_and(|form| form.by_density);
        if is_narrowed { losses.own } else { rest(at.drift, losses.inherited) }
    }

    /// A chunk was computed over a context that had lost so much by being narrowed.
    pub(super) fn inherit(&mut self, node: u32, narrowed: f32) {
        if narrowed > 0.0 {
            self.losses.entry(node).or_default().inherited = narrowed;
        }
    }

    /// What chunks have lost at most by being narrowed.
    pub(super) fn narrowed(&self, path: &[u32]) -> f32 {
        let is_narrowed = |at: &&Node| self.form_of(at).is_some_and(|form| form.by_density);
        let narrowed = path.iter().map(|&node| &self.nodes[node as usize]).filter(is_narrowed);
        narrowed.map(|at| at.drift).fold(0.0, f32::max)
    }

    /// The forms of 8, 4 and 2 bits.
    fn forms_by_width(&self) -> Result<[u8; 3], KvError> {
        let mut found = [0; 3];
        for width in Width::ALL {
            // Those who used a chunk may have had it in 8 bits before anybody asked for its density.
            let is_kind = |form: &Form| form.by_density || width == Width::Eight;
            let is_it =
                |form: &Form| is_kind(form) && form.over == Over::Nothing && form.bits == width.bits();
            let Some(place) = self.config.forms.iter().position(is_it) else {
                let (field, expected) =
                    ("forms", "one each of 8, 4 and 2 bits that stands alone, the latter by density");
                return Err(KvError::Config {
                    field,
                    expected,
                    found: format!("none of {} bits", width.bits()),
                });
            };
            found[width as usize] = place as u8 + 1;
        }
        Ok(found)
    }

    /// Bytes that a chunk's own layers take in a form.
    pub(super) fn bytes_in(&self, node: u32, form: u8) -> u64 {
        let Node { first, variant, .. } = self.nodes[node as usize];
        let layers = usize::from(first)..self.config.layers;
        self.tiers[0].chunk_bytes(layers, self.layers_in(variant, form))
    }
}
