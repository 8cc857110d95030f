//! Encodes chunks that nobody uses any more, for calls that allow a loss, and says what that costs.

use std::fmt::Display;

use interleaf_contract::BackendError;
use interleaf_kv::{AdapterId, Op, OpKind};

use crate::adapters::{Acting, Activation};
use crate::forms::{Found, Residence};
use crate::{Engine, EngineError, widths};

impl Engine {
    /// Before an adapter's first call that allows a loss: looks into the store for its calibration. That may take every weight
    /// being read, for the model's digest, so it is done before the device is held, which others may wait for.
    pub(crate) fn find_calibration(&mut self, activation: Option<Activation>, drift: f32) {
        let Some(Activation { adapter, .. }) = activation else { return };
        let id = self.cache.id(adapter);
        // What goes to rest is encoded on the host.
        let takes_forms = self.cache.encodes() || self.at_rest;
        if drift <= 0.0 || !takes_forms || !self.store.is_kept() || self.calibrated.is_known(id) {
            return;
        }
        let Some(digest) = self.adapters.summary(adapter).map(|summary| summary.digest) else { return };
        let model = self.model_digest();
        match self.store.calibration(self.model.config(), model, digest) {
            Some(calibration) => self.calibrated.set_read(id, Box::new(calibration)),
            None => {
                self.calibrated.set_missing(id);
                if self.at_rest {
                    self.say_nothing_rests(adapter, "it has no calibration");
                }
            }
        }
    }

    /// Whoever asked for pages at rest would wait for them in vain.
    fn say_nothing_rests(&self, adapter: Acting, why: &str) {
        let name = self.adapters.summary(adapter).map(|summary| summary.name.as_str());
        tracing::warn!(adapter = name, "nothing of it goes to rest: {why}");
    }

    /// Takes the forms of an adapter's calibration that was found, which its pages may take from then on, for a call that allows
    /// a loss. Without one they have those that need none.
    pub(crate) fn take_forms(
        &mut self,
        activation: Option<Activation>,
        drift: f32,
    ) -> Result<(), EngineError> {
        let Some(Activation { adapter, .. }) = activation.filter(|_| drift > 0.0) else { return Ok(()) };
        let id = self.cache.id(adapter);
        let Some(summary) = self.adapters.summary(adapter).cloned() else { return Ok(()) };
        let Some(calibration) = self.calibrated.take_read(id) else { return Ok(()) };
        let Self { model, reserved, ropes, backend, fallback, cache, at_rest, .. } = self;
        let (config, pool) = (model.config(), &reserved.geometry);
        let of = (summary.digest, cache.shared_layers(adapter));
        let (is_last, rests) = (fallback.is_none(), *at_rest);
        let on = Residence { config, pool, ropes, backend: &mut **backend, is_last, adapter: of, rests };
        let found = match Found::new(&summary.name, &calibration, on) {
            Ok(found) => found,
            Err(error @ (BackendError::DeviceLost { .. } | BackendError::Device { .. })) => {
                // Another device may take them.
                self.calibrated.set_read(id, calibration);
                return Err(error.into());
            }
            Err(error) => {
                self.do_without(id, &summary.name, &error);
                return Ok(());
            }
        };
        let (rests, translation) = (found.rests(), found.translation().filter(|_| self.first_touch));
        match self.cache.add_forms(adapter, found.forms.clone()) {
            Ok(first) => {
                self.cache.set_translation(id, translation)?;
                self.calibrated.add(id, found, first);
                if self.at_rest && !rests {
                    self.say_nothing_rests(
                        adapter,
                        "its calibration measured no form for that, or none that saves",
                    );
                }
            }
            Err(error) => {
                found.drop_constants(&mut *self.backend)?;
                self.do_without(id, &summary.name, &error);
            }
        }
        Ok(())
    }

    /// A calibration that cannot be used costs its calls nothing but room.
    fn do_without(&mut self, id: AdapterId, name: &str, error: &dyn Display) {
        tracing::warn!(adapter = name, %error, "its calibration is not used");
        self.calibrated.set_missing(id);
    }

    /// Carries encodings out, one chunk after the other, and reports what each costs; then has written what is to be. What the
    /// manager does not keep it does not keep: the exact pages are there until then. With a device that is left for another
    /// they are gone anyway.
    ///
    /// # Errors
    /// If the device is suspended, or fails and may not be left. What is not encoded by then stays as it is.
    pub(crate) fn encode_pages(&mut self, moves: Vec<Op>) -> Result<(), EngineError> {
        if moves.is_empty() {
            return self.write_out(&[]);
        }
        let _span = tracing::debug_span!("encode", moves = moves.len()).entered();
        let mut left = moves;
        let mut writes = Vec::new();
        while let Some(op) = left.pop() {
            if matches!(op.kind, OpKind::Write { .. }) {
                writes.push(op);
                continue;
            }
            let manager = self.cache.manager();
            if let Some(rest) = manager.rest_of(op.id) {
                // All of them at once, so that what they are encoded with is read once.
                let mut all = vec![(op, rest)];
                left.retain(|op| {
                    let rest = manager.rest_of(op.id);
                    let stays = rest.is_none();
                    all.extend(rest.map(|rest| (*op, rest)));
                    stays
                });
                match self.put_to_rest(all) {
                    Ok(follows) => left.extend(follows),
                    Err(error) => {
                        left.into_iter().chain(writes).for_each(|op| drop(self.cache.encoded(op, None)));
                        return self.leave(error);
                    }
                }
                continue;
            }
            let (stored, all) = (manager.recodes(op.id), manager.comparisons(op.id));
            let losses = self.on_device(|engine| {
                engine.backend.recode_pages(&stored)?;
                Ok(engine.backend.compare_pages(&all)?)
            });
            match losses {
                Ok(losses) => {
                    let encoding = self.cache.manager().encoding(op.id);
                    let drift = match self.cache.manager().is_by_density(op.id) {
                        true => widths::divergence(&all, &losses),
                        false => self.calibrated.divergence(encoding, &all, &losses),
                    };
                    left.extend(self.cache.encoded(op, Some(drift)));
                }
                Err(error) => {
                    for op in left.into_iter().chain(writes).chain([op]) {
                        self.cache.encoded(op, None);
                    }
                    return self.leave(error);
                }
            }
        }
        // As they came: a chunk after those that it depends on.
        writes.sort_unstable_by_key(|op| op.id);
        self.write_out(&writes)
    }
}
