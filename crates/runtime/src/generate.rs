//! Answers to many requests at once: prompts in pieces beside answers token by token, each row under its
//! own adapter, in one batch.

use std::cmp::Reverse;
use std::time::Instant;

use interleaf_kv::KvError;

use crate::active::{Active, OnEvent};
use crate::adapters::Activation;
use crate::ahead::{Ahead, Plan};
use crate::cache::Caller;
use crate::feed::check_budget;
use crate::request::{Completion, Event, FinishReason, Request};
use crate::swap::chunk_bytes;
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
        let biased = request.sampling.logit_bias.iter().map(|(token, _)| token);
        if let Some(&token) = biased.chain(&request.prompt).find(|token| **token as usize >= vocabulary) {
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

    fn open_all(&mut self, requests: &[Request], active: &mut Vec<Active>) -> Result<(), EngineError> {
        for (index, request) in requests.iter().enumerate() {
            let caller = self.cache.own();
            let sequence = self.open_kept(caller, request)?;
            let stream = self.tokenizer("text").ok().map(|t| t.stream(true));
            active.push(Active::new(index, request.clone(), caller, sequence, stream));
            if request.max_tokens == 0 {
                self.close_sequence(sequence)?;
            }
        }
        Ok(())
    }

    /// An empty sequence of a request, whose pages others may find.
    pub(crate) fn open_kept(
        &mut self,
        caller: Caller,
        request: &Request,
    ) -> Result<SequenceHandle, EngineError> {
        let activation = self.activation(request)?;
        self.find_calibration(activation, request.drift);
        self.open_empty(caller, activation)
    }

    /// An empty sequence under some adapter, whose pages others may find.
    pub(crate) fn open_empty(
        &mut self,
        caller: Caller,
        activation: Option<Activation>,
    ) -> Result<SequenceHandle, EngineError> {
        Ok(SequenceHandle { id: self.cache.open_empty(caller, activation)?, activation })
    }

    /// Where the adapter of a request acts.
    pub(crate) fn activation(&self, request: &Request) -> Result<Option<Activation>, EngineError> {
        let activation = |name: &String| self.adapters.activation(name, &request.prompt);
        Ok(request.adapter.as_ref().map(activation).transpose()?.flatten())
    }

    /// A request takes part in its first step: it begins with what of its prompt is in the cache by now.
    fn begin(&mut self, a: &mut Active) -> Result<(), EngineError> {
        let empty = a.sequence;
        let (sequence, reused) = self.resume(a.caller, empty.activation, a.prompt_tokens(), a.budget())?;
        let manager = self.cache.manager();
        a.begin(sequence, reused, manager.drift(sequence.id)?, manager.first_touch(sequence.id)?);
        self.close_sequence(empty)
    }

    /// Chooses the adapter of a request that leaves that to the router.
    fn route_request(&mut self, a: &mut Active, k: usize) -> Result<(), EngineError> {
        let routed = self.route_for(a.caller, a.prompt_tokens(), k)?;
        let activation = |name: &String| self.adapters.activation(name, a.prompt_tokens());
        let activation = routed.adapter.as_ref().map(activation).transpose()?.flatten();
        self.cache.hold(a.sequence.id, activation);
        a.route(routed, activation);
        Ok(())
    }

    /// All have begun that are to take part in its first step.
    fn choose(&mut self, a: &mut Active) -> Result<(), EngineError> {
        a.read_keys(self.choose_keys(a.sequence.id, Some(a.steps_at_most(self.context)))?);
        Ok(())
    }

    /// Runs requests until all are over. With `close` each gives its pages back as it ends, for others to
    /// use.
    pub(crate) fn run(
        &mut self,
        active: &mut [Active],
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
        active: &mut [Active],
        close: bool,
        ahead: &mut Option<Ahead>,
        on_event: OnEvent<'_>,
    ) -> Result<(), EngineError> {
        loop {
            match self.turn(active, close, ahead, on_event).map_err(|failed| failed.error)? {
                Turn::Taken => {}
                Turn::Over => return Ok(()),
                Turn::BrokenOff => return self.cancel(active, close, on_event),
                Turn::Suspended => {
                    if on_event(Event::Suspended).is_break() {
                        return self.cancel(active, close, on_event);
                    }
                    self.gate.iter().for_each(GpuGate::wait);
                }
            }
        }
    }

    /// Does the next thing that brings answers on: lets a request begin, or takes a step.
    pub(crate) fn turn(
        &mut self,
        active: &mut [Active],
        close: bool,
        ahead: &mut Option<Ahead>,
        on_event: OnEvent<'_>,
    ) -> Result<Turn, Failed> {
        let _span = tracing::debug_span!("turn", calls = active.len()).entered();
        self.take_written()?;
        self.take_loaded(false)?;
        self.drop_unloaded()?;
        let forgotten = |a: &Active| a.has_begun() && !a.is_over() && self.is_load_forgotten(a.sequence);
        if let Some(index) = active.iter().position(forgotten) {
            self.step_aside(&mut active[index])?;
            return Ok(Turn::Taken);
        }
        let lacks = |a: &Active| match a.has_begun() && !a.is_over() {
            true => self.why_not_loaded(a.sequence),
            false => None,
        };
        if let Some((request, error)) = active.iter().enumerate().find_map(|(i, a)| Some((i, lacks(a)?))) {
            return Err(Failed { request: Some(request), error });
        }
        // A step under way on a device that was left since comes to nothing.
        let is_lost = |&(index, _): &(usize, usize)| self.histories.is_lost(active[index].sequence.id);
        if ahead.as_ref().is_some_and(|ahead| ahead.plan(active).iter().any(is_lost)) {
            self.drop_ahead(ahead);
        }
        let mut plan = ahead.as_ref().map(|ahead| ahead.plan(active)).unwrap_or_default();
        let is_new = plan.is_empty();
        if is_new {
            self.drop_ahead(ahead);
            plan = self.plan(active);
        }
        // Who suspends a GPU waits for what is under way; that stays where it is until the GPU may go on.
        if self.is_suspended() && active.iter().any(|a| !a.is_over()) {
            return Ok(Turn::Suspended);
        }
        if plan.is_empty() {
            // What is being written cannot go, and soon can; and weights are on their way.
            if active.iter().any(|a| !a.is_over()) && (self.await_write()? || self.take_loaded(true)?) {
                return Ok(Turn::Taken);
            }
            return self.make_way(active, close, on_event);
        }
        let to_begin = plan.iter().find(|(index, _)| !active[*index].has_begun());
        let to_choose = || plan.iter().find(|(index, _)| !active[*index].reads_keys());
        if let Some(&(index, _)) = to_begin.or_else(to_choose) {
            let a = &mut active[index];
            let routes = a.to_route;
            let ready = self.on_device(|engine| match (routes, a.has_begun()) {
                (Some(k), _) => engine.route_request(a, k),
                (None, true) => engine.choose(a),
                (None, false) => engine.begin(a),
            });
            if routes.is_some() && ready.is_ok() {
                self.find_calibration(a.sequence.activation, a.budget());
            }
            match ready {
                // As below.
                Ok(()) | Err(EngineError::GpuSuspended) => {}
                // There is room for an adapter once others' weights may go.
                Err(EngineError::Kv(KvError::AdapterFull { .. }))
                    if active.iter().any(|a| a.has_begun() && !a.is_over()) =>
                {
                    active[index].wait_for_others();
                }
                Err(error) => self.leave(error).map_err(|error| Failed { request: Some(index), error })?,
            }
            return Ok(Turn::Taken);
        }
        let lost = |&&(index, _): &&(usize, usize)| self.histories.is_lost(active[index].sequence.id);
        if let Some(&(request, _)) = plan.iter().find(lost) {
            let (done, total) = self.regain_some(active[request].sequence)?;
            let told = on_event(Event::Prefill { request: active[request].index(), done, total });
            return Ok(if told.is_break() { Turn::BrokenOff } else { Turn::Taken });
        }
        if is_new {
            for (index, a) in active.iter_mut().enumerate() {
                a.planned(plan.iter().any(|(planned, _)| *planned == index));
            }
        }
        let (plan, fed) = match self.on_device(|engine| engine.next_step(plan, active, ahead)) {
            Ok(step) => step,
            // Between the look at the gate and this: the step has done nothing and is taken again.
            Err(EngineError::GpuSuspended) => return Ok(Turn::Taken),
            // On the CPU, if it goes on at all.
            Err(error) => {
                self.leave(error)?;
                return Ok(Turn::Taken);
            }
        };
        let mut failed = None;
        for (&(index, rows), fed) in plan.iter().zip(fed) {
            let a = &mut active[index];
            // Its row was started before it was known to have ended.
            if a.is_over() {
                continue;
            }
            let told = match fed.is_broken {
                true => a.finish(FinishReason::NotANumber, on_event),
                false => a.advance(rows, fed.token, self.context, on_event),
            };
            self.ended(a, close)?;
            match told {
                Ok(told) if told.is_break() => return Ok(Turn::BrokenOff),
                Ok(_) => {}
                // The others have their tokens all the same.
                Err(error) => failed = Some(Failed { request: Some(index), error }),
            }
        }
        if active.iter().any(Active::is_over) {
            active.iter_mut().for_each(Active::come_back);
        }
        failed.map_or(Ok(Turn::Taken), Err)
    }

    /// Nobody finds room for a row. Of several who have begun the last one makes way for the others; one alone waits for room
    /// that nobody will free.
    fn make_way(
        &mut self,
        active: &mut [Active],
        close: bool,
        on_event: OnEvent<'_>,
    ) -> Result<Turn, Failed> {
        let order = order(active);
        let begun: Vec<usize> = order.iter().copied().filter(|index| active[*index].has_begun()).collect();
        if let [_, .., last] = begun[..] {
            self.step_aside(&mut active[last])?;
            return Ok(Turn::Taken);
        }
        let Some(&index) = begun.first().or(order.first()) else { return Ok(Turn::Over) };
        let told = active[index].finish(FinishReason::ContextFull, on_event);
        self.ended(&mut active[index], close)?;
        Ok(if told?.is_break() { Turn::BrokenOff } else { Turn::Taken })
    }

    /// A request gives back what it has, and begins anew when others have ended.
    pub(crate) fn step_aside(&mut self, a: &mut Active) -> Result<(), EngineError> {
        let empty = self.open_empty(a.caller, a.sequence.activation)?;
        let old = a.sequence;
        a.step_aside(empty);
        self.end_sequence(old)
    }

    /// Ends every answer under way, with what it has.
    fn cancel(
        &mut self,
        active: &mut [Active],
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
    pub(crate) fn ended(&mut self, a: &mut Active, close: bool) -> Result<(), EngineError> {
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
    /// in the cache what another is about to compute, and who has not begun and has no room for all of its prompt beside others.
    /// Where that one was passed over for long, and there can be room for it, nobody begins before it who does not come before it
    /// by rank; and in the end nobody at all.
    fn plan(&self, active: &[Active]) -> Plan {
        let mut prompt_rows = self.prefill_rows;
        let order = order(active);
        let is_alone = !order.iter().any(|index| active[*index].has_begun());
        let lost = |a: &Active| self.chunks_lost(a.sequence);
        let whole = |a: &Active| !is_alone && !a.has_begun();
        let wanted = |a: &Active| match whole(a) {
            true => lost(a) + a.chunks(0, a.prompt_left()),
            false => lost(a) + a.chunks(0, a.prompt_left().clamp(1, self.prefill_rows)),
        };
        let most = order.iter().map(|index| wanted(&active[*index])).sum();
        let mut chunks = self.cache.manager().available_chunks(most);
        let mut plan = Vec::new();
        let mut kept_free_for: Option<&Active> = None;
        let all_chunks = self.cache.manager().budget_bytes(0) / chunk_bytes(&self.reserved.geometry).max(1);
        for (place, &index) in order.iter().enumerate() {
            let a = &active[index];
            let waits = || order[..place].iter().any(|other| a.waits_for(&active[*other]));
            if !a.has_begun() && (a.is_aside() && !is_alone || self.cache.is_kept() && waits()) {
                continue;
            }
            if a.has_begun() && !self.has_weights(a.sequence) {
                continue;
            }
            if !a.has_begun() && kept_free_for.is_some_and(|first| first.comes_before(a)) {
                continue;
            }
            let left = a.prompt_left();
            let rows = if left > 0 { left.min(prompt_rows) } else { 1 };
            let needed = if whole(a) { wanted(a) } else { lost(a) + a.chunks(0, rows) };
            if rows == 0 || needed > chunks {
                if !a.has_begun() && a.was_passed_over() && needed as u64 <= all_chunks {
                    kept_free_for = kept_free_for.or(Some(a));
                }
                continue;
            }
            chunks -= needed;
            prompt_rows -= rows.min(left);
            plan.push((index, rows));
        }
        plan
    }
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Something was done.
    Taken,
    /// There is nothing left to do.
    Over,
    /// Whoever hears of progress wants no more of it.
    BrokenOff,
    /// The GPU is suspended, and nothing is done until it is resumed.
    Suspended,
}

/// Why a turn failed.
#[derive(Debug)]
pub struct Failed {
    /// The one request that it failed for, by place; `None` where it is all of them.
    pub request: Option<usize>,
    pub error: EngineError,
}

impl<E: Into<EngineError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { request: None, error: error.into() }
    }
}

/// Those that are not over, in the order in which they get rows: who was passed over for long, then by rank, then as they came.
pub fn order(active: &[Active]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..active.len()).filter(|index| !active[*index].is_over()).collect();
    order.sort_by_key(|index| Reverse((active[*index].was_passed_over(), active[*index].rank)));
    order
}

/// What comes of answers under way that ended with an error: where the device failed, they are kept with it.
pub fn broken_off(
    error: EngineError,
    mut active: Vec<Active>,
    start: Instant,
    on_event: OnEvent<'_>,
) -> EngineError {
    let EngineError::Backend(cause) = error else { return error };
    let Some(reason) = FinishReason::of_failure(&cause) else { return cause.into() };
    let mut completions = Vec::with_capacity(active.len());
    for a in &mut active {
        if !a.is_over() {
            // The answers have ended: neither a caller who breaks off nor bytes that are no text yet change that.
            let _ = a.finish(reason, on_event);
        }
        completions.push(a.completion(start));
    }
    EngineError::DeviceFailed { cause, completions }
}
