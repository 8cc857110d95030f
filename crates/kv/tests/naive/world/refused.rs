//! A refusal changes nothing.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::{KvError, Manager, Open, SequenceId};

use super::{Sequence, World};

/// What is to stay of a sequence.
#[derive(Debug, PartialEq)]
struct State {
    tokens: usize,
    room: usize,
    /// Whole chunks that are found of it, where they are its own: what else is found may go to make room.
    found: Option<Result<usize, KvError>>,
}

impl World {
    /// Does something to a sequence that may be refused.
    pub(super) fn attempt(
        &mut self,
        place: usize,
        event: impl FnOnce(&mut Manager, SequenceId) -> Result<(), KvError>,
    ) -> Result<Result<(), KvError>, String> {
        let before = self.state(place)?;
        let result = event(&mut self.manager, self.sequences[place].id);
        match &result {
            Err(error) if self.state(place)? != before => {
                Err(format!("{error}; it had {before:?}, and now {:?}", self.state(place)?))
            }
            _ => Ok(result),
        }
    }

    fn state(&self, place: usize) -> Result<State, String> {
        let Sequence { id, app, adapter, under, ref tokens, is_kept, .. } = self.sequences[place];
        let has = self.manager.tokens(id).map_err(|e| e.to_string())?;
        let shared = self.manager.shared_tokens(id).map_err(|e| e.to_string())?;
        let open = Open {
            app: self.apps[app].id,
            adapter: adapter.map(|adapter| (adapter, under.from)),
            tokens,
            most: shared,
            budget: self.sequences[place].budget(),
            is_kept,
            now: self.now,
        };
        // After a loss of memory it may have stood beside others of the same tokens, and does not stand in for them now.
        let is_own = is_kept && !self.has_lost_memory;
        Ok(State {
            tokens: has,
            room: self.manager.room(id).map_err(|e| e.to_string())?,
            found: is_own.then(|| self.manager.look_up(&open).map(|tokens| tokens / CHUNK_TOKENS)),
        })
    }

    /// Tokens are not taken that have no room, nor such as diverge by more than they may or by no amount at all. There must be
    /// room for one.
    pub(super) fn attempt_wrong_commits(&mut self, place: usize) -> Result<(), String> {
        let Sequence { id, .. } = self.sequences[place];
        let room = self.manager.room(id).map_err(|e| e.to_string())?;
        let too_many = vec![1; room + 1];
        let refused = self.attempt(place, |manager, id| manager.commit(id, &too_many, 0.0))?;
        if !matches!(refused, Err(KvError::NoRoom { .. })) {
            return Err(format!("{} tokens in a room of {room}: {refused:?}", too_many.len()));
        }
        for drift in [self.sequences[place].budget() + 1.0, -1.0, f32::NAN] {
            let refused = self.attempt(place, |manager, id| manager.commit(id, &[1], drift))?;
            if !matches!(refused, Err(KvError::Drift { .. })) {
                return Err(format!("tokens with a drift of {drift}: {refused:?}"));
            }
        }
        Ok(())
    }
}
