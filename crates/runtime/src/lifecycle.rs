//! What apps and the system do to an engine's pages: apps come to the front and are killed, memory is wanted back.

use interleaf_kv::TrimLevel;
use interleaf_kv::policy::AppState;

use crate::active::Active;
use crate::cache::Caller;
use crate::generate::order;
use crate::{Engine, EngineError};

impl Engine {
    /// Gives memory of the cache back to the system, as far as nobody uses it. What is swapped out comes back when it is asked for.
    ///
    /// # Errors
    /// If the device fails.
    pub fn trim_memory(&mut self, level: TrimLevel) -> Result<(), EngineError> {
        // What is still being written stays until it is.
        self.flush_swap()?;
        self.cache.trim(level);
        self.is_trimmed = true;
        self.drop_unloaded()
    }

    /// What the cache may take of its pool from now on, in bytes, whole blocks. What is in use stays until it is not.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_kv_budget(&mut self, bytes: u64) -> Result<(), EngineError> {
        self.flush_swap()?;
        self.cache.set_budget(bytes);
        self.drop_unloaded()
    }

    /// The same while requests are under way: no more is held when this returns, but by sequences that are none of theirs. Those who
    /// come last give back what they have, and go on where they were once there is room.
    pub(crate) fn set_kv_budget_under(
        &mut self,
        bytes: u64,
        active: &mut [Active],
    ) -> Result<(), EngineError> {
        // There may be more room now than they made way for.
        active.iter_mut().for_each(Active::come_back);
        self.set_kv_budget(bytes)?;
        while self.cache.manager().excess_bytes(0) > 0 {
            let last = order(active).into_iter().rev().find(|index| active[*index].has_begun());
            match last {
                Some(index) => self.step_aside(&mut active[index])?,
                // Weights that are on their way have their blocks, and are nobody's by now.
                None if self.loader.is_busy() => {
                    let manager = self.cache.manager_mut();
                    self.loader.take(true).iter().for_each(|(op, _)| drop(manager.cancelled(*op)));
                }
                None => break,
            }
            self.set_kv_budget(bytes)?;
        }
        Ok(())
    }

    /// An app is another thing to its user.
    pub(crate) fn set_app_state(&mut self, caller: Caller, state: AppState) -> Result<(), EngineError> {
        // What a killed app gives back is not for idle work to fill again at once.
        self.is_trimmed |= state == AppState::Killed;
        let moves = self.cache.set_app_state(caller, state)?;
        match self.carry_out(moves) {
            Err(EngineError::GpuSuspended) => Ok(()),
            // What is being written leaves once it is; nobody else may come to see it end.
            Ok(()) if state == AppState::Killed => self.flush_swap(),
            carried => carried,
        }
    }
}
