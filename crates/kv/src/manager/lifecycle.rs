//! What apps and the system do: apps come to the front and are killed, memory is wanted back, time passes.

use super::{App, Manager, Pending};
use crate::children;
use crate::node::{Kind, NONE, Node};
use crate::op::{Op, OpKind};
use crate::policy::{AppState, expected_adapters};
use crate::{AppId, KvError};

/// How much memory the system wants back: Android's `onTrimMemory` as it still sends it, and iOS's warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrimLevel {
    /// `TRIM_MEMORY_UI_HIDDEN`: nothing of the app is seen.
    UiHidden,
    /// `TRIM_MEMORY_BACKGROUND`: the process may be ended.
    Background,
    /// `didReceiveMemoryWarning`: the process is about to be ended.
    Warning,
}

impl TrimLevel {
    /// The share of the budget that is kept at most. Neither system says how much to give back: these are ours.
    #[must_use]
    pub const fn share(self) -> f64 {
        match self {
            Self::UiHidden => 0.5,
            Self::Background => 0.25,
            Self::Warning => 0.0,
        }
    }
}

/// Nodes that a tick looks at, at most, so that none takes longer than a millisecond.
const TICK_NODES: usize = 8192;

/// Ticks in which the worth of all that may go from memory is taken anew: what 100,000 nodes are ranked by is then at most
/// 1.3 s old at ten ticks a second.
const RANKING_TICKS: usize = 13;

/// The same for lower tiers: what may go from there was not used for long, and its worth hardly changes any more.
const STORED_RANKING_TICKS: usize = 1300;

impl Manager {
    /// An app is another thing to its user. Of one that is killed everything leaves memory that no other app has used;
    /// what is not in a lower tier yet is to be written first.
    ///
    /// # Errors
    /// If there is no such app.
    pub fn set_app_state(&mut self, app: AppId, state: AppState, now: f64) -> Result<Vec<Op>, KvError> {
        let was = self.app(app)?.state;
        self.apps[app.place as usize].state = state;
        self.clock(now);
        let bit = 1 << app.place;
        if was != AppState::Killed && state != AppState::Killed {
            self.rank_app(bit);
            return Ok(Vec::new());
        }
        let (mut moves, mut leaving) = (Vec::new(), Vec::new());
        for node in 0..self.nodes.len() as u32 {
            let at = &self.nodes[node as usize];
            if at.kind != Kind::Shared || at.apps & bit == 0 {
                continue;
            }
            let leaves = state == AppState::Killed && at.apps == bit && at.is_in(0) && at.pins == 0;
            self.nodes[node as usize].leaving = leaves;
            if leaves {
                moves.extend(self.write_behind(node, 0));
                leaving.push(node);
            }
            (0..self.tiers.len()).for_each(|tier| self.consider(node, tier));
        }
        leaving.into_iter().for_each(|node| self.evict_leaving(node));
        self.settle();
        Ok(moves)
    }

    /// Takes the worth of all that may go and that some apps have used anew.
    fn rank_app(&mut self, apps: u64) {
        for tier in 0..self.tiers.len() {
            let queue = &self.queues[tier];
            let own: Vec<u32> = (0..queue.len())
                .filter_map(|place| queue.at(place))
                .filter(|node| self.nodes[*node as usize].apps & apps != 0)
                .collect();
            own.into_iter().for_each(|node| self.consider(node, tier));
        }
    }

    /// Takes what leaves memory from it, if it may go now, and then what this kept there and leaves as well.
    pub(super) fn evict_leaving(&mut self, node: u32) {
        let (mut next, mut going) = (Some(node), Vec::new());
        while let Some(node) = next {
            if self.nodes.get(node as usize).is_some_and(|node| node.leaving && node.is_in(0))
                && self.may_go(node, 0)
            {
                let at = &mut self.nodes[node as usize];
                at.leaving = false;
                going.extend([at.parent, at.anchor]);
                self.evict(node, 0);
            }
            next = going.pop();
        }
    }

    /// An app is gone for good, and with it all that no other app has used; its sequences must be closed.
    ///
    /// # Errors
    /// If there is no such app, or it has open sequences.
    pub fn close_app(&mut self, app: AppId) -> Result<(), KvError> {
        self.app(app)?;
        if let Some((id, _)) = self.sequences.iter().find(|(_, sequence)| sequence.app == app.place) {
            return Err(KvError::NotYours(*id));
        }
        let bit = 1 << app.place;
        let mut going: Vec<u32> = Vec::new();
        for (index, node) in (0..).zip(&mut self.nodes) {
            if node.apps & bit != 0 && node.kind == Kind::Shared {
                going.push(index);
            }
            node.apps &= !bit;
        }
        // Only what nothing stands on goes; what it stood on itself may then go after it.
        while let Some(node) = going.pop() {
            let Node { kind, apps, pins, children, followers, parent, anchor, .. } =
                self.nodes[node as usize];
            let is_last = pins == 0 && children == NONE && followers == 0;
            if kind == Kind::Shared && apps == 0 && is_last {
                self.remove_subtree(node);
                going.extend([parent, anchor].into_iter().filter(|above| *above != NONE));
            }
        }
        let App { salt, .. } = self.apps[app.place as usize];
        self.apps[app.place as usize].is_open = false;
        if salt > 0 && !self.apps.iter().any(|app| app.is_open && app.salt == salt) {
            self.forget_salt(salt);
        }
        self.settle();
        Ok(())
    }

    /// Nobody can come any more who would find what was computed under a salt.
    fn forget_salt(&mut self, salt: u32) {
        let roots: Vec<u32> =
            (self.roots.iter()).filter(|((of, _), _)| *of == salt).map(|(_, root)| *root).collect();
        for root in roots {
            for child in children::all(&self.nodes, self.nodes[root as usize].children) {
                self.remove_subtree(child);
            }
            self.free_node(root);
        }
        self.roots.retain(|(of, _), _| *of != salt);
        self.salts[salt as usize] = None;
    }

    /// Gives memory back to the system, as far as nobody uses it.
    pub fn trim(&mut self, level: TrimLevel) {
        let keep = self.tiers[0].budget_bytes() as f64 * level.share();
        while self.tiers[0].held_bytes() as f64 > keep && (self.give_up_keys() || self.evict_one(0)) {}
    }

    /// Changes what a tier may hold, to whole blocks and no more than there are. What is in use stays beyond it until it is
    /// no longer.
    pub fn set_budget(&mut self, tier: usize, bytes: u64) {
        if let Some(held) = self.tiers.get_mut(tier) {
            held.set_budget(bytes);
            self.settle();
        }
    }

    /// Time has passed: worths are taken anew, some thousands a tick; memory that is nearly full is emptied (what goes is
    /// written before), and memory that is idle is filled with what is worth most (ELORA, §4.2; it ticks every 100 ms).
    pub fn tick(&mut self, now: f64) -> Vec<Op> {
        self.clock(now);
        let passed = self.situation.now - self.last_tick;
        self.last_tick = self.situation.now;
        self.expect_adapters();
        self.rank_anew();
        let budget = self.tiers[0].budget_bytes() as f64;
        let held = self.tiers[0].held_bytes() as f64;
        let mut moves = Vec::new();
        // What is decoded now need not go now.
        self.rearrange(held > self.config.busy_above * budget, &mut moves);
        if held > self.config.busy_above * budget {
            self.empty(self.config.busy_above * budget, &mut moves);
        } else if held < self.config.idle_below * budget && self.config.tiers.len() > 1 {
            self.fill(self.config.idle_below * budget, passed, &mut moves);
        }
        for tier in 1..self.tiers.len().saturating_sub(1) {
            self.write_on(tier, &mut moves);
        }
        self.settle();
        moves
    }

    /// Adapters that the next batch is expected to need, by what was asked for so far.
    fn expect_adapters(&mut self) {
        if self.expected_at == Some(self.requests) {
            return;
        }
        self.expected_at = Some(self.requests);
        if self.config.policy.expects_adapters() {
            self.situation.expected_adapters = self.expected_adapters();
        }
        if self.config.policy.is_lasting() {
            return;
        }
        for place in 0..self.adapters.len() {
            let node = self.adapters[place].node;
            if node != NONE {
                self.consider(node, 0);
            }
        }
    }

    fn expected_adapters(&self) -> f64 {
        let visits = |known: &super::Known| {
            self.nodes.get(known.node as usize).map_or(0.0, |node| f64::from(node.visits))
        };
        let visits: Vec<f64> = self.adapters.iter().filter(|known| known.is_pooled()).map(visits).collect();
        let all: f64 = visits.iter().sum();
        let probabilities = visits.iter().map(|visits| visits / all.max(1.0));
        expected_adapters(probabilities, self.recent.len() as u32)
    }

    fn rank_anew(&mut self) {
        if self.config.policy.is_lasting() {
            return;
        }
        for tier in 0..self.tiers.len() {
            let all = self.queues[tier].len();
            let ticks = if tier == 0 { RANKING_TICKS } else { STORED_RANKING_TICKS };
            let share = all.div_ceil(ticks).min(TICK_NODES);
            let first = self.ticked[tier] % all.max(1);
            for place in (first..all).chain(0..first).take(share) {
                // Places move while worths change; whoever is passed over is met the next time round.
                if let Some(node) = self.queues[tier].at(place) {
                    let worth = self.worth(node, tier);
                    self.queues[tier].put(&mut self.nodes, node, worth);
                }
            }
            self.ticked[tier] = self.ticked[tier].wrapping_add(share);
        }
    }

    /// Takes from memory down to a number of bytes; what is nowhere else is written first, and goes when that is done.
    fn empty(&mut self, bytes: f64, moves: &mut Vec<Op>) {
        while self.tiers[0].held_bytes() as f64 > bytes && self.give_up_keys() {}
        let mut going = self.tiers[0].held_bytes() as f64 - bytes - self.leaving_bytes() as f64;
        while going > 0.0 {
            let Some(node) = self.queues[0].first() else { return };
            let at = &self.nodes[node as usize];
            let own = match at.kind {
                Kind::Adapter => self.adapters[usize::from(at.variant)].bytes as f64,
                _ => self.chunk_bytes(0, node) as f64,
            };
            let is_stored = at.kind == Kind::Adapter || at.stored().is_some() || self.tiers.len() == 1;
            if !is_stored && let Some(op) = self.write_behind(node, 0) {
                self.nodes[node as usize].leaving = true;
                moves.push(op);
            } else {
                self.evict(node, 0);
            }
            going -= own;
        }
    }

    /// Bytes of what goes from memory once it is written.
    fn leaving_bytes(&self) -> u64 {
        let written = self.pending.values().filter(|op| matches!(op.kind, OpKind::Write { from: 0, .. }));
        let leaving = written.filter(|op| self.nodes[op.node as usize].leaving);
        leaving.map(|op| self.chunk_bytes(0, op.node)).sum()
    }

    /// Brings what is worth most into memory, up to a number of bytes held, and no more than can be read in the time
    /// between two ticks.
    fn fill(&mut self, bytes: f64, seconds: f64, moves: &mut Vec<Op>) {
        let mut left = (bytes - self.tiers[0].held_bytes() as f64)
            .min(seconds / self.config.costs.read.each.max(f64::MIN_POSITIVE));
        while let Some(node) = self.frontier.first() {
            let at = &self.nodes[node as usize];
            let (kind, variant, first) = (at.kind, at.variant, at.first);
            self.frontier.take(&mut self.nodes, node);
            let op = if kind == Kind::Adapter {
                // Nothing is taken out to bring something in.
                self.load_idle(variant, left)
            } else {
                // What it stood on, or its whole copy, may have gone since.
                if !self.is_supported(node) || !self.is_stored_whole(&self.nodes[node as usize]) {
                    continue;
                }
                let layers = usize::from(first)..self.config.layers;
                let own = self.tiers[0].chunk_bytes(layers, self.layers_of(&self.nodes[node as usize]));
                if own as f64 > left { None } else { self.read_idle(node) }
            };
            let Some(op) = op else {
                // Another time.
                self.offer(node);
                return;
            };
            left -= op.bytes as f64;
            moves.push(op);
        }
    }

    fn load_idle(&mut self, variant: u16, left: f64) -> Option<Op> {
        if self.adapters[usize::from(variant)].bytes as f64 > left {
            return None;
        }
        self.bring_adapter(variant, &[]).ok().flatten()
    }

    fn read_idle(&mut self, node: u32) -> Option<Op> {
        let from = self.nodes[node as usize].stored()?;
        let (first, layers) = (usize::from(self.nodes[node as usize].first), self.config.layers);
        let stored = self.layers_of(&self.nodes[node as usize]).clone();
        let list = self.tiers[0].take(first..layers, &stored)?;
        let at = &mut self.nodes[node as usize];
        (at.pages[0], at.top[0], at.ready) = (list, layers as u8, false);
        let pending = Pending { top: layers as u8, ..Pending::of(OpKind::Read { from }, node) };
        let bytes = self.chunk_bytes(0, node);
        let op = self.new_op(pending, bytes);
        self.enter(node, 0);
        Some(op)
    }

    /// What a middle tier has and the one below it has not is written on, into room that is free there: a chunk after those
    /// before it, without which it would be of no use. So many chunks are looked at in a tick, those before them included.
    fn write_on(&mut self, tier: usize, moves: &mut Vec<Op>) {
        let all = self.nodes.len();
        let mut left = all.min(TICK_NODES);
        while left > 0 {
            left -= 1;
            self.written[tier] = (self.written[tier] + 1) % all;
            let (mut at, mut path) = (self.written[tier] as u32, Vec::new());
            while self.nodes[at as usize].kind == Kind::Shared && self.nodes[at as usize].is_in(tier) {
                let Node { anchor, parent, busy, .. } = self.nodes[at as usize];
                if busy > 0 || self.nodes[at as usize].is_in(tier + 1) {
                    break;
                }
                path.push(at);
                path.extend(Some(anchor).filter(|anchor| *anchor != NONE));
                at = parent;
            }
            left = left.saturating_sub(path.len());
            for node in path.into_iter().rev() {
                // What makes room would be written again, and make room itself, for ever.
                if self.tiers[tier + 1].free_chunks() == 0 {
                    return;
                }
                moves.extend(self.write_behind(node, tier));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{PageElement, PoolGeometry};

    use super::*;
    use crate::{Config, Open, Salt};

    #[test]
    fn a_salt_is_forgotten_with_the_last_app_that_had_it() {
        let geometry =
            PoolGeometry { layers: 2, kv_heads: 1, head_dim: 32, element: PageElement::F16, slots: 8 };
        let mut manager = Manager::new(Config::in_memory(&geometry, 64)).unwrap();
        let tokens: Vec<u32> = (0..32).collect();
        for byte in 0..100 {
            let salt = Some(Salt([byte; 16]));
            let [one, other] = [manager.open_app(salt).unwrap(), manager.open_app(salt).unwrap()];
            let call = |app| Open {
                app,
                adapter: None,
                tokens: &tokens,
                most: 32,
                budget: 0.0,
                is_kept: true,
                now: 0.0,
            };
            let opened = manager.open(&call(one)).unwrap();
            assert_eq!(opened.reused, 0, "another app's of another salt");
            manager.append(opened.sequence, 32).unwrap();
            manager.commit(opened.sequence, &tokens, 0.0).unwrap();
            manager.close(opened.sequence, 0.0).unwrap();
            assert_eq!(manager.look_up(&call(other)), Ok(32));
            manager.close_app(other).unwrap();
            assert_eq!(manager.look_up(&call(one)), Ok(32));
            manager.close_app(one).unwrap();
            manager.check().unwrap();
        }
        assert_eq!((manager.salts.len(), manager.roots.len(), manager.chunks()), (2, 0, 0));
        assert!(manager.nodes.len() < 8, "{} nodes", manager.nodes.len());
    }
}
