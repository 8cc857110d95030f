//! An adapter's first touch of a prefix that the base has in the cache: its chunks are translated, but for the last tokens,
//! which the adapter computes over them. What came about so is not exact, and is computed anew when there is time; until then
//! whoever allows the loss reads it.

use interleaf_contract::CHUNK_TOKENS;

use super::encode::both;
use super::{MOST_SEQUENCES, Manager, Pending};
use crate::children;
use crate::node::{BASE, EXACT, Kind, NONE, Node};
use crate::op::{Op, OpKind};
use crate::sequence::{Sequence, variant_of};
use crate::{AdapterId, FirstTouch, KvError, Open, SequenceId};

impl Manager {
    /// Tells how good a translation of the base's pages is for an adapter, as it was measured; `None` where there is none, or
    /// none any more.
    ///
    /// # Errors
    /// If the adapter is unknown, or what was measured cannot be: no length, lengths that do not ascend, or a bound that is not
    /// finite and above 0.
    pub fn set_translation(
        &mut self,
        adapter: AdapterId,
        translation: Option<crate::Translation>,
    ) -> Result<(), KvError> {
        let variant = self.variant(adapter)?;
        if let Some(translation) = &translation {
            translation.check()?;
        }
        self.adapters[usize::from(variant)].translation = translation;
        Ok(())
    }

    /// What became of a prefix that only the base had when a sequence was opened.
    ///
    /// # Errors
    /// If the sequence is unknown.
    pub fn first_touch(&self, id: SequenceId) -> Result<FirstTouch, KvError> {
        Ok(self.sequence(id)?.first_touch)
    }

    /// What becomes of the base's chunks that a call could go on with beyond the `found` ones that it has, and which are
    /// translated.
    pub(super) fn touch(
        &self,
        open: &Open<'_>,
        variant: u16,
        from: usize,
        found: usize,
    ) -> (FirstTouch, Vec<u32>) {
        let nothing = (FirstTouch::Nothing, Vec::new());
        let Ok(app) = self.app(open.app) else { return nothing };
        let Some(&root) = self.roots.get(&(app.salt, BASE)) else { return nothing };
        if !open.is_kept || variant == BASE || from > 0 || open.budget <= 0.0 {
            return nothing;
        }
        let tokens = &open.tokens[..open.most.min(open.tokens.len())];
        let mut base = self.find(root, BASE, 0, tokens, open.budget).path;
        let is_there = |node: &&u32| self.is_decodable(&self.nodes[**node as usize]);
        base.truncate(base.iter().take_while(is_there).count());
        let prefix = base.len() * CHUNK_TOKENS;
        if found >= base.len() {
            return nothing;
        }
        let refused = |why| (why, Vec::new());
        let Some(translation) = &self.adapters[usize::from(variant)].translation else {
            return refused(FirstTouch::Unmeasured { prefix });
        };
        let lost = base.iter().map(|&node| self.nodes[node as usize].drift).fold(0.0, f32::max);
        let is_further = |computed: usize| (prefix - computed) / CHUNK_TOKENS > found;
        if !translation.ways.iter().any(|way| prefix > way.computed && is_further(way.computed)) {
            return nothing;
        }
        let costs = translation.costs(prefix).filter(|(computed, _)| is_further(*computed));
        let costs: Vec<(usize, f32)> = costs.map(|(computed, drift)| (computed, both(drift, lost))).collect();
        let Some(&(computed, drift)) = costs.iter().find(|(_, drift)| *drift <= open.budget) else {
            return refused(match costs.iter().map(|(_, drift)| *drift).reduce(f32::min) {
                Some(drift) => FirstTouch::OverBudget { prefix, drift },
                None => FirstTouch::TooLong { prefix, most: translation.longest() },
            });
        };
        base.truncate((prefix - computed) / CHUNK_TOKENS);
        let translated = base.split_off(found);
        (FirstTouch::Translated { prefix, tokens: translated.len() * CHUNK_TOKENS, drift }, translated)
    }

    /// A sequence goes on with chunks of the base that are translated for it, at a cost, as far as there is room. Returns how
    /// many.
    pub(super) fn translate(
        &mut self,
        id: SequenceId,
        sequence: &mut Sequence,
        base: &[u32],
        drift: f32,
        moves: &mut Vec<Op>,
    ) -> usize {
        let before = sequence.path.len();
        // Room for one is not to be made of another.
        base.iter().for_each(|&node| self.pin(node));
        for &node in base {
            // Of sequences that were closed translations may still be under way.
            if usize::from(self.nodes[node as usize].busy) >= MOST_SEQUENCES {
                break;
            }
            let Some(list) = self.make_room(0, 0..self.config.layers, BASE, EXACT) else { break };
            // It has supplied these tokens itself.
            self.nodes[node as usize].apps |= 1 << sequence.app;
            let tokens = self.nodes[node as usize].tokens;
            let private = self.private(sequence, list);
            let at = &mut self.nodes[private as usize];
            (at.tokens, at.len, at.ready, at.drift) = (tokens, CHUNK_TOKENS as u8, false, drift);
            self.translated.insert(private);
            sequence.unready.push(private);
            sequence.tokens += CHUNK_TOKENS;
            sequence.room += CHUNK_TOKENS;
            let copy = Some((id, private));
            let pending = Pending { copy, ..Pending::of(OpKind::Translate, node) };
            moves.push(self.new_op(pending, self.tiers[0].list_bytes(list)));
        }
        base.iter().for_each(|&node| self.unpin(node));
        sequence.path.len() - before
    }

    /// The chunks of a sequence that have arrived by translation become ones that others may find.
    pub(super) fn share_arrived(&mut self, sequence: &mut Sequence) {
        while sequence.is_kept && sequence.shared * CHUNK_TOKENS + CHUNK_TOKENS <= sequence.tokens {
            let chunk = sequence.shared;
            let at = &self.nodes[sequence.path[chunk] as usize];
            let is_whole = at.ready && usize::from(at.len) == CHUNK_TOKENS;
            debug_assert!((at.variant, at.from) == variant_of(sequence.variant, sequence.from, chunk));
            if !is_whole {
                return;
            }
            self.share(sequence, chunk);
            if sequence.shared == chunk {
                return;
            }
        }
    }

    /// The longest text that an adapter has read in part by translation and nobody uses now, the adapter, and what its users
    /// allow: for whoever has the time to compute it ([`Manager::open_exact`], [`Manager::replace_translated`]).
    #[must_use]
    pub fn translated_text(&self) -> Option<(AdapterId, Vec<u32>, f32)> {
        let is_open = |path: &[u32]| {
            let root = path.first().map_or(NONE, |&first| self.nodes[first as usize].parent);
            self.salt_of(root) == Some(0)
        };
        if self.translated.is_empty() {
            return None;
        }
        let lasts = (0..).zip(&self.nodes).filter(|(_, at)| self.is_idle_leaf(at));
        let paths = lasts
            .map(|(node, _)| self.path_to(node))
            .filter(|path| path.iter().any(|chunk| self.translated.contains(chunk)) && is_open(path));
        let path = paths.max_by_key(Vec::len)?;
        let budgets = path.iter().map(|&chunk| self.nodes[chunk as usize].least_budget);
        let budget = budgets.fold(f32::INFINITY, f32::min);
        let variant = path.last().map_or(BASE, |&last| self.nodes[last as usize].variant);
        let known = &self.adapters[usize::from(variant)];
        let adapter = AdapterId { index: variant, generation: known.generation };
        let is_known = variant != BASE && !known.is_leaving;
        let tokens = path.iter().flat_map(|&chunk| self.nodes[chunk as usize].text()).copied();
        is_known.then(|| (adapter, tokens.collect(), budget))
    }

    /// A text of [`Manager::translated_text`] has been computed: what there is exact chunks of now and nobody uses is forgotten as
    /// it was, from the end of the text on. Returns how many tokens that were.
    ///
    /// # Errors
    /// If the adapter is unknown.
    pub fn replace_translated(&mut self, adapter: AdapterId, text: &[u32]) -> Result<usize, KvError> {
        let variant = self.variant(adapter)?;
        let Some(&root) = self.roots.get(&(0, variant)) else { return Ok(0) };
        let exact = self.walk(root, Vec::new(), variant, 0, text, false, 0.0).tokens();
        let (mut forgotten, mut end) = (0, text.len());
        while let Some(node) = self.translated_end(root, variant, &text[..end]) {
            let at = &self.nodes[node as usize];
            if end > exact || !self.is_idle_leaf(at) {
                break;
            }
            let len = usize::from(at.len);
            self.remove_subtree(node);
            (forgotten, end) = (forgotten + len, end - len);
        }
        self.settle();
        Ok(forgotten)
    }

    /// The last chunk of a text that was computed in part by translation.
    fn translated_end(&self, root: u32, variant: u16, text: &[u32]) -> Option<u32> {
        let (mut at, mut is_translated) = (root, false);
        for (chunk, tokens) in text.chunks(CHUNK_TOKENS).enumerate() {
            let (variant, from) = variant_of(variant, 0, chunk);
            let first = self.nodes[at as usize].children;
            let find = |is_lossy| {
                children::find(&self.nodes, first, children::Key { variant, from, is_lossy, tokens })
            };
            // What was translated is never exact, nor what was computed over it.
            at = find(true).or_else(|| find(false))?;
            is_translated |= self.translated.contains(&at);
        }
        is_translated.then_some(at)
    }

    /// Whether a chunk is the last one of its context, and nobody uses it.
    fn is_idle_leaf(&self, at: &Node) -> bool {
        at.kind == Kind::Shared
            && at.children == NONE
            && at.pins == 0
            && at.busy == 0
            && at.followers == 0
            && at.is_in(0)
            && at.drift > 0.0
    }
}
