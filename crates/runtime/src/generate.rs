//! Answers to many requests at once: prompts in pieces beside answers token by token, each row under its
//! own adapter, in one batch.

use std::time::Instant;

use crate::active::{Active, OnEvent};
use crate::adapters::Activation;
use crate::ahead::{Ahead, Plan};
use crate::feed::check_budget;
use crate::request::{Completion, Event, FinishReason, Request};
use crate::{Engine, EngineError, GpuGate, SequenceHandle};

impl Engine {
    /// Answers requests in one mixed batch: every step holds the rows of all answers under way and, up
    /// to a bound, of the prompts still to be read. `on_event` sees progress and text as they come;
    /// breaking off ends every answer within one token and keeps what they have.
    ///
    /// The answers do not depend on which requests are in the batch. Of those that allow a loss that holds where keys are read
    /// in place ([`KeyPath::InPlace`](crate::KeyPath::InPlace)): else who reads over the same chunks beside them, and what room
    /// is left, has a say in how their keys are read, and so in their bits.
    ///
    /// # Errors
    /// If a request is refused (unknown adapter, empty or too long a prompt, an option out of range) or
    /// the device fails: [`EngineError::DeviceFailed`] has what the answers were up to then. A request that finds no room
    /// in the pool waits for others to finish, and ends with [`FinishReason::ContextFull`] if there are none.
    pub fn generate(
        &mut self,
        requests: &[Request],
        on_event: OnEvent<'_>,
    ) -> Result<Vec<Completion>, EngineError> {
        let start = Instant::now();
        for (index, request) in requests.iter().enumerate() {
            self.check_request(index, request)?;
        }
        let mut active = Vec::with_capacity(requests.len());
        let result =
            self.open_all(requests, &mut active).and_then(|()| self.run(&mut active, true, on_event));
        for a in active.iter().filter(|a| !a.is_over()) {
            self.end_sequence(a.sequence)?;
        }
        match result {
            Ok(()) => Ok(active.into_iter().map(|a| a.completion(start)).collect()),
            Err(error) => Err(broken_off(error, active, start, on_event)),
        }
    }

    /// What of a request is known to be wrong before it runs.
    pub(crate) fn check_request(&self, index: usize, request: &Request) -> Result<(), EngineError> {
        request.sampling.check()?;
        check_budget(request.drift)?;
        let vocabulary = self.config().vocab_size;
        if let Some(&(token, _)) =
            request.sampling.logit_bias.iter().find(|(token, _)| *token as usize >= vocabulary)
        {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt { request: index });
        }
        if request.prompt.len() > self.context {
            return Err(EngineError::ContextFull { needed: request.prompt.len(), limit: self.context });
        }
        Ok(())
    }

    fn open_all<'a>(
        &mut self,
        requests: &'a [Request],
        active: &mut Vec<Active<'a>>,
    ) -> Result<(), EngineError> {
        for (index, request) in requests.iter().enumerate() {
            let sequence = self.open_kept(request)?;
            let stream = self.tokenizer("text").ok().map(|t| t.stream(true));
            active.push(Active::new(index, request, sequence, stream));
            if request.max_tokens == 0 {
                self.close_sequence(sequence)?;
            }
        }
        Ok(())
    }

    /// An empty sequence of a request, whose pages others may find.
    pub(crate) fn open_kept(&mut self, request: &Request) -> Result<SequenceHandle, EngineError> {
        let activation = self.activation(request)?;
        self.find_calibration(activation, request.drift);
        Ok(SequenceHandle { id: self.cache.open(activation, &[], request.drift)?.sequence, activation })
    }

    /// Where the adapter of a request acts.
    pub(crate) fn activation(&self, request: &Request) -> Result<Option<Activation>, EngineError> {
        let activation = |name: &String| self.adapters.activation(name, &request.prompt);
        Ok(request.adapter.as_ref().map(activation).transpose()?.flatten())
    }

    /// A request takes part in its first step: it begins with what of its prompt is in the cache by now.
    fn begin(&mut self, a: &mut Active<'_>) -> Result<(), EngineError> {
        let empty = a.sequence;
        let (sequence, reused) = self.resume(empty.activation, a.prompt_tokens(), a.budget())?;
        let manager = self.cache.manager();
        a.begin(sequence, reused, manager.drift(sequence.id)?, manager.first_touch(sequence.id)?);
        self.close_sequence(empty)
    }

    /// All have begun that are to take part in its first step.
    fn choose(&mut self, a: &mut Active<'_>) -> Result<(), EngineError> {
        a.read_keys(self.choose_keys(a.sequence.id, Some(a.steps_at_most(self.context)))?);
        Ok(())
    }

    /// Runs requests until all are over. With `close` each gives its pages back as it ends, for others to
    /// use.
    pub(crate) fn run(
        &mut self,
        active: &mut [Active<'_>],
        close: bool,
        on_event: OnEvent<'_>,
    ) -> Result<(), EngineError> {
        let mut ahead = None;
        let result = self.run_ahead(active, close, &mut ahead, on_event);
        self.drop_ahead(&mut ahead);
        result
    }

    fn run_ahead(
        &mut self,
        active: &mut [Active<'_>],
        close: bool,
        ahead: &mut Option<Ahead>,
        on_event: OnEvent<'_>,
    ) -> Result<(), EngineError> {
        loop {
            // A step under way on a device that was left since comes to nothing.
            let is_lost = |&(index, _): &(usize, usize)| self.histories.is_lost(active[index].sequence.id);
            if ahead.as_ref().is_some_and(|ahead| ahead.plan(active).iter().any(is_lost)) {
                self.drop_ahead(ahead);
            }
            let mut plan = ahead.as_ref().map(|ahead| ahead.plan(active)).unwrap_or_default();
            if plan.is_empty() {
                self.drop_ahead(ahead);
                plan = self.plan(active);
            }
            if plan.is_empty() {
                // Whoever is left waits for room that nobody will free.
                let Some(a) = active.iter_mut().find(|a| !a.is_over()) else { return Ok(()) };
                let broken = a.finish(FinishReason::ContextFull, on_event);
                self.ended(a, close)?;
                if broken?.is_break() {
                    return self.cancel(active, close, on_event);
                }
                continue;
            }
            // Who suspends a GPU waits for what is under way; that stays where it is until the GPU may go on.
            if let Some(gate) = self.gate.clone().filter(GpuGate::is_suspended) {
                if on_event(Event::Suspended).is_break() {
                    return self.cancel(active, close, on_event);
                }
                gate.wait();
            }
            let to_begin = plan.iter().find(|(index, _)| !active[*index].has_begun());
            let to_choose = || plan.iter().find(|(index, _)| !active[*index].reads_keys());
            if let Some(&(index, _)) = to_begin.or_else(to_choose) {
                let a = &mut active[index];
                let ready = self.on_device(|engine| match a.has_begun() {
                    true => engine.choose(a),
                    false => engine.begin(a),
                });
                match ready {
                    // As below.
                    Ok(()) | Err(EngineError::GpuSuspended) => {}
                    Err(error) => self.leave(error)?,
                }
                continue;
            }
            let lost = |&&(index, _): &&(usize, usize)| self.histories.is_lost(active[index].sequence.id);
            if let Some(&(request, _)) = plan.iter().find(lost) {
                let (done, total) = self.regain_some(active[request].sequence)?;
                if on_event(Event::Prefill { request, done, total }).is_break() {
                    return self.cancel(active, close, on_event);
                }
                continue;
            }
            let (plan, fed) = match self.on_device(|engine| engine.next_step(plan, active, ahead)) {
                Ok(step) => step,
                // Between the look at the gate and this: the step has done nothing and is taken again.
                Err(EngineError::GpuSuspended) => continue,
                // On the CPU, if it goes on at all.
                Err(error) => {
                    self.leave(error)?;
                    continue;
                }
            };
            for (&(index, rows), fed) in plan.iter().zip(fed) {
                let a = &mut active[index];
                // Its row was started before it was known to have ended.
                if a.is_over() {
                    continue;
                }
                let broken = a.advance(rows, fed.token, self.context, on_event);
                self.ended(a, close)?;
                if broken?.is_break() {
                    return self.cancel(active, close, on_event);
                }
            }
        }
    }

    /// Ends every answer under way, with what it has.
    fn cancel(
        &mut self,
        active: &mut [Active<'_>],
        close: bool,
        on_event: OnEvent<'_>,
    ) -> Result<(), EngineError> {
        for a in active.iter_mut().filter(|a| !a.is_over()) {
            // The caller has broken off; what it answers to the last events is moot.
            let told = a.finish(FinishReason::Cancelled, on_event);
            self.ended(a, close)?;
            let _ = told?;
        }
        Ok(())
    }

    /// Closes a request's sequence. That its pages stay as they are, where the GPU is suspended, is nothing to break others
    /// off for.
    pub(crate) fn end_sequence(&mut self, sequence: SequenceHandle) -> Result<(), EngineError> {
        match self.close_sequence(sequence) {
            Err(EngineError::GpuSuspended) => Ok(()),
            closed => closed,
        }
    }

    /// Frees the pages of a request that has just ended, or those of what it has not said.
    fn ended(&mut self, a: &mut Active<'_>, close: bool) -> Result<(), EngineError> {
        if a.is_over() {
            a.keys_left(self.cache.manager().keys_read(a.sequence.id)?.1);
        }
        match (a.is_over(), close) {
            (true, true) => self.end_sequence(a.sequence),
            (true, false) => self.truncate_sequence(a.sequence, a.cached().len()),
            (false, _) => Ok(()),
        }
    }

    /// Which requests take part in the next step, and with how many rows. Every answer under way has its
    /// row; prompts share the bound in order. Who finds no room for its rows in the pool waits, and so does who will find
    /// in the cache what another is about to compute.
    fn plan(&self, active: &[Active<'_>]) -> Plan {
        let mut prompt_rows = self.prefill_rows;
        let lost = |a: &Active<'_>| self.chunks_lost(a.sequence);
        let wanted = |a: &Active<'_>| lost(a) + a.chunks(0, a.prompt_left().clamp(1, self.prefill_rows));
        let most = active.iter().filter(|a| !a.is_over()).map(wanted).sum();
        let mut chunks = self.cache.manager().available_chunks(most);
        let mut plan = Vec::new();
        for (index, a) in active.iter().enumerate().filter(|(_, a)| !a.is_over()) {
            let waits = || active.iter().take(index).any(|other| a.waits_for(other));
            if !a.has_begun() && self.cache.is_kept() && waits() {
                continue;
            }
            let left = a.prompt_left();
            let rows = if left > 0 { left.min(prompt_rows) } else { 1 };
            let needed = lost(a) + a.chunks(0, rows);
            if rows == 0 || needed > chunks {
                continue;
            }
            chunks -= needed;
            prompt_rows -= rows.min(left);
            plan.push((index, rows));
        }
        plan
    }
}

/// What comes of answers under way that ended with an error: where the device failed, they are kept with it.
pub fn broken_off(
    error: EngineError,
    active: Vec<Active<'_>>,
    start: Instant,
    on_event: OnEvent<'_>,
) -> EngineError {
    let EngineError::Backend(cause) = error else { return error };
    let Some(reason) = FinishReason::of_failure(&cause) else { return cause.into() };
    let mut completions = Vec::with_capacity(active.len());
    for mut a in active {
        if !a.is_over() {
            // The answers have ended: neither a caller who breaks off nor bytes that are no text yet change that.
            let _ = a.finish(reason, on_event);
        }
        completions.push(a.completion(start));
    }
    EngineError::DeviceFailed { cause, completions }
}
