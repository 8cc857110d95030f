//! Adapters replaced while they are in use: what was opened under one keeps it, what is opened from then on has the next.

use interleaf_model::Source;

use super::{AdapterSummary, Adapters, Residence};
use crate::{Engine, EngineError};

impl Engine {
    /// Registers another adapter under the name of one that is there. Requests and sequences that have begun, and those that wait, keep
    /// the one that had the name when they came; with the last of them it goes, and what was computed under it.
    ///
    /// # Errors
    /// If none is registered under the name, or as [`Engine::register_adapter`]; the old one stays then.
    pub fn replace_adapter(&mut self, name: &str, source: &Source) -> Result<AdapterSummary, EngineError> {
        let Some(old) = self.adapters.by_name.remove(name) else {
            let known = self.adapters.by_name.keys().cloned().collect();
            return Err(EngineError::UnknownAdapter { name: name.into(), known });
        };
        let registered = self.register_adapter(name, source);
        if registered.is_err() {
            self.adapters.by_name.insert(name.into(), old);
            return registered;
        }
        self.adapters.replaced.extend(old.acting);
        self.let_go_of_replaced()?;
        registered
    }

    /// Lets go of adapters that were replaced and that nobody uses any more.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn let_go_of_replaced(&mut self) -> Result<(), EngineError> {
        if self.adapters.replaced.is_empty() {
            return Ok(());
        }
        // One of the pool that has the same contents as another is that one, which may have a name, or a name again.
        let Adapters { by_name, replaced, .. } = &mut self.adapters;
        replaced.retain(|acting| by_name.values().all(|named| named.acting != Some(*acting)));
        replaced.sort_unstable();
        replaced.dedup();
        let (used, gone): (Vec<_>, Vec<_>) =
            self.adapters.replaced.drain(..).partition(|acting| self.cache.is_used(*acting));
        self.adapters.replaced = used;
        for acting in gone {
            self.cache.remove_adapter(acting)?;
            self.forget_swapped();
            let resident = &mut self.adapters.resident[acting.0];
            if matches!(resident.residence, Residence::Pooled(_)) {
                self.adapters.stats.unloads += u64::from(resident.id.is_some());
            }
            // What it was to be made resident from again is not wanted either.
            resident.residence = Residence::Always(None);
            if let Some(id) = resident.id.take() {
                self.backend.drop_adapter(id)?;
            }
        }
        Ok(())
    }
}
