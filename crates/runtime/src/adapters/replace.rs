//! Adapters replaced while they are in use: what was opened under one keeps it, what is opened from then on has the next.

use interleaf_model::Source;

use super::{AdapterSummary, Residence};
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
        // One of the pool that has the same contents is the same.
        let is_named = |acting| self.adapters.by_name.values().any(|other| other.acting == Some(acting));
        if let Some(acting) = old.acting.filter(|acting| !is_named(*acting)) {
            self.adapters.replaced.push(acting);
            self.let_go_of_replaced()?;
        }
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
        let (used, gone): (Vec<_>, Vec<_>) =
            self.adapters.replaced.drain(..).partition(|acting| self.cache.is_used(*acting));
        self.adapters.replaced = used;
        for acting in gone {
            self.cache.remove_adapter(acting)?;
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
