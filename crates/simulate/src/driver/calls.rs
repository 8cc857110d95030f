//! What a request goes through: it starts, has brought what it uses again, waits for what is brought for others and for
//! room, is computed and is over.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::{KvError, Op, OpId, Open, SequenceId};

use super::costs::{self, Work};
use super::{Driver, SimulationError};
use crate::event::Request;
use crate::server::Needs;
use crate::text;

/// A request that came and is not over.
#[derive(Debug)]
pub(super) struct Call {
    request: Request,
    arrived: f64,
    /// When it got its slot, and when all that it uses again was there.
    started: f64,
    ready: f64,
    stage: Stage,
    /// What it has open.
    open: Option<SequenceId>,
    /// Moves that are carried out for it, and all that were.
    moves: Vec<OpId>,
    work: Work,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has no slot, or it has one and there is no room for its adapter.
    Closed,
    /// What it uses again is brought.
    Loading,
    /// It waits for what is brought for others, or for room.
    Open,
    /// It is prefilled or answers.
    Computing,
    /// It does not fit into memory.
    Refused,
}

impl Call {
    /// Tokens that are computed for it in all: of the last token of an answer nobody needs K and V yet.
    fn tokens(&self) -> usize {
        (self.request.prompt_tokens() + u64::from(self.request.answer.tokens)).saturating_sub(1) as usize
    }
}

impl Driver<'_> {
    /// A request comes.
    pub(super) fn admit(&mut self, number: u64, at: f64, request: Request) -> Result<(), SimulationError> {
        let (context, urgency) =
            (request.context, self.is_behind.get(&request.app).copied().unwrap_or(false));
        let call = Call {
            request,
            arrived: at,
            started: at,
            ready: at,
            stage: Stage::Closed,
            open: None,
            moves: Vec::new(),
            work: Work::default(),
        };
        self.tally.came += 1;
        let chunks = call.tokens().div_ceil(CHUNK_TOKENS) as u64;
        let weights = call.request.adapter.map_or(0, |adapter| self.adapter_bytes[adapter as usize]);
        let needed = chunks * costs::chunk_bytes(&self.simulation.calibration.model) + weights;
        if needed > self.manager.budget_bytes(0) {
            self.tally.refused += 1;
            return Ok(());
        }
        self.calls.insert(number, call);
        self.server.admit(at, number, context, u8::from(urgency))?;
        Ok(())
    }

    /// It has a slot. Those that wait for room go first.
    pub(super) fn start(&mut self, number: u64, at: f64) -> Result<(), SimulationError> {
        if let Some(call) = self.calls.get_mut(&number) {
            call.started = at;
        }
        if !self.short.is_empty() || !self.open(number, at)? {
            self.short.insert(number);
        }
        Ok(())
    }

    /// Opens its sequence and has brought what that uses again. Returns whether there was room for its adapter.
    fn open(&mut self, number: u64, now: f64) -> Result<bool, SimulationError> {
        let Some(call) = self.calls.get_mut(&number) else { return Ok(true) };
        self.text.clear();
        text::tokens(&call.request.prompt, &mut self.text);
        let opened = self.manager.open(&Open {
            app: self.apps[call.request.app as usize % self.apps.len()],
            adapter: call.request.adapter.map(|adapter| (self.adapters[adapter as usize], 0)),
            tokens: &self.text,
            most: self.text.len().saturating_sub(1),
            budget: 0.0,
            is_kept: true,
            now,
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(KvError::AdapterFull { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let work = Work::of(&opened.moves);
        self.tally.touched(opened.reused);
        self.tally.moved(&work, opened.moves.len());
        call.open = Some(opened.sequence);
        call.moves = opened.moves.iter().map(|op: &Op| op.id).collect();
        call.work = work;
        call.stage = Stage::Loading;
        self.served += 1;
        let calibration = &self.simulation.calibration;
        let needs = Needs {
            load_seconds: work.load_seconds(calibration),
            read_seconds: work.read_seconds(calibration),
            recompute_seconds: work.recompute_seconds(calibration, opened.reused),
            asks_again: true,
            ..Needs::default()
        };
        self.server.start(number, needs)?;
        Ok(true)
    }

    /// What was brought for it is there, or its prefill begins.
    pub(super) fn ready(&mut self, number: u64, at: f64) -> Result<(), SimulationError> {
        let Some(call) = self.calls.get_mut(&number).filter(|call| call.stage == Stage::Loading) else {
            return Ok(());
        };
        call.stage = Stage::Open;
        let moved = std::mem::take(&mut call.moves);
        self.served -= 1;
        self.report(&moved)?;
        self.compute_if_ready(number, at)
    }

    /// Goes on to the prefill if all it waits for is there, or waits in its place.
    fn compute_if_ready(&mut self, number: u64, at: f64) -> Result<(), SimulationError> {
        let Some(call) = self.calls.get_mut(&number) else { return Ok(()) };
        let Some(sequence) = call.open else { return Ok(()) };
        if !self.manager.is_ready(sequence)? {
            self.waiting.push(number);
            return Ok(());
        }
        call.ready = at;
        if !self.compute(number)? {
            self.short.insert(number);
        }
        Ok(())
    }

    /// Makes room for all that it will have, and begins its prefill. Returns whether there was room.
    fn compute(&mut self, number: u64) -> Result<bool, SimulationError> {
        let Some(call) = self.calls.get_mut(&number) else { return Ok(true) };
        let Some(sequence) = call.open else { return Ok(true) };
        let had = self.manager.tokens(sequence)?;
        match self.manager.append(sequence, call.tokens().saturating_sub(self.manager.room(sequence)?)) {
            Ok(()) => {}
            Err(KvError::Full { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let prompt = call.request.prompt_tokens();
        call.stage = Stage::Computing;
        self.served += 1;
        self.tally.touched(call.tokens().saturating_sub(had));
        self.tally.found(prompt, had, &call.work);
        // What its context had once and is found no more is computed before its new tokens are (LLMS, §3: a switch takes
        // until the context's K and V are there).
        let context = call.request.context;
        let past = self.pasts.insert(context, call.tokens()).unwrap_or(0);
        let lost = past.min(prompt as usize - 1).saturating_sub(had);
        let lost = self.simulation.calibration.prefill.seconds(lost as u32, had as u32);
        self.tally.switch.record(call.ready - call.started + lost);
        self.server.start(
            number,
            Needs {
                prefill_tokens: (prompt - had as u64) as u32,
                context_tokens: had as u32,
                output_tokens: call.request.answer.tokens,
                ..Needs::default()
            },
        )?;
        Ok(true)
    }

    /// Its prompt is computed.
    pub(super) fn first_token(&mut self, number: u64, at: f64) -> Result<(), SimulationError> {
        let Some(call) = self.calls.get(&number).filter(|call| call.stage == Stage::Computing) else {
            return Ok(());
        };
        let Some(sequence) = call.open else { return Ok(()) };
        self.tally.ttft.record(at - call.arrived);
        self.text.clear();
        text::tokens(&call.request.prompt, &mut self.text);
        let had = self.manager.tokens(sequence)?;
        self.manager.commit(sequence, &self.text[had..], 0.0)?;
        Ok(())
    }

    /// Its answer is there.
    pub(super) fn done(&mut self, number: u64, at: f64) -> Result<(), SimulationError> {
        let Some(call) = self.calls.remove(&number) else { return Ok(()) };
        let (Stage::Computing, Some(sequence)) = (call.stage, call.open) else { return Ok(()) };
        self.served -= 1;
        self.text.clear();
        text::tokens(&[call.request.answer], &mut self.text);
        self.text.pop();
        self.manager.commit(sequence, &self.text, 0.0)?;
        self.close(sequence, at)?;
        self.tally.done(&self.manager, at);
        Ok(())
    }

    /// Closes a sequence, and has written what that wants written.
    fn close(&mut self, sequence: SequenceId, at: f64) -> Result<(), SimulationError> {
        self.tally.touched(self.manager.room(sequence)?);
        let moves = self.manager.close(sequence, at)?;
        self.is_freed = true;
        self.in_background(&moves)
    }

    /// Whoever waited goes on, as far as what happened lets it.
    pub(super) fn go_on(&mut self, at: f64) -> Result<(), SimulationError> {
        for number in std::mem::take(&mut self.waiting) {
            self.compute_if_ready(number, at)?;
        }
        while let Some(&first) = self.short.first() {
            let is_idle = self.served == 0 && self.background.is_empty();
            if !std::mem::take(&mut self.is_freed) && !is_idle {
                break;
            }
            if self.has_room(first, at)? {
                self.short.remove(&first);
                // There may be room for the next one, too.
                self.is_freed = true;
            } else if is_idle {
                // Nothing is under way that would release anything.
                self.give_up(at)?;
            }
        }
        Ok(())
    }

    fn has_room(&mut self, number: u64, at: f64) -> Result<bool, SimulationError> {
        match self.calls.get(&number).map(|call| call.stage) {
            Some(Stage::Open) => self.compute(number),
            _ => self.open(number, at),
        }
    }

    /// All wait for room, and hold some: the last that came lets go of its. Where only the first holds any, it does not fit
    /// even alone and is refused.
    fn give_up(&mut self, at: f64) -> Result<(), SimulationError> {
        let Some(&first) = self.short.first() else { return Ok(()) };
        let has_open = |number: &u64| self.calls.get(number).is_some_and(|call| call.open.is_some());
        let last = self.short.iter().copied().rev().find(has_open).filter(|last| *last != first);
        let Some(call) = self.calls.get_mut(&last.unwrap_or(first)) else { return Ok(()) };
        let sequence = call.open.take();
        call.stage = if last.is_some() { Stage::Closed } else { Stage::Refused };
        if let Some(sequence) = sequence {
            self.close(sequence, at)?;
        }
        if last.is_some() {
            self.tally.retried += 1;
        } else {
            self.tally.refused += 1;
            self.short.remove(&first);
            // It needs nothing any more, and so is over at once.
            self.server.start(first, Needs::default())?;
        }
        Ok(())
    }
}
