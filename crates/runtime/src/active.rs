//! One request under way: what it has been given, what it has said, and why it ended.
//!
//! It knows nothing of batches: see `generate` for who takes part in a step.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use interleaf_contract::{CHUNK_TOKENS, RowKind, Sampler};
use interleaf_kv::FirstTouch;
use interleaf_model::TextStream;

use crate::adapters::Activation;
use crate::cache::Caller;
use crate::request::{Completion, Event, FinishReason, Request};
use crate::text::StopFilter;
use crate::{EngineError, Feed, KeyReads, Routed, SequenceHandle, Want};

/// Who hears of progress, and may break off.
pub type OnEvent<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Steps in which a prompt is passed over before it goes first once: what goes before it by rank leaves it one of so many.
const PATIENCE: u32 = 16;

/// A request under way.
pub struct Active {
    request: Request,
    /// Its place among the requests, for events.
    index: usize,
    /// Whose it is.
    pub caller: Caller,
    /// Of two prompts the one of the higher rank is read first.
    pub rank: u8,
    /// Whether it alone ends where no token can be chosen for it, and not all that are in the step.
    pub fails_alone: bool,
    /// From how many of the likeliest adapters its own is to be chosen once it has room; `None` where that is no question, or none
    /// any more.
    pub to_route: Option<usize>,
    /// How it was.
    routed: Option<Routed>,
    pub sequence: SequenceHandle,
    /// Whether it has been looked up what of the prompt is in the cache.
    has_begun: bool,
    /// Prompt, then answer: what the repeat penalty looks at.
    tokens: Vec<u32>,
    /// How many of `tokens` are read as a prompt: the prompt's, and once it had to make way those said until then.
    to_read: usize,
    /// Whether it made way for others, who have not ended since.
    is_aside: bool,
    /// How many steps have read others' prompts alone.
    passed_over: u32,
    /// How many of `tokens` are in the cache.
    cached: usize,
    /// How many of them were there before.
    reused: usize,
    /// What those may make the output diverge by.
    drift: f32,
    /// What became of a prefix that only the base had.
    first_touch: FirstTouch,
    /// How their keys are read; `None` until that is chosen.
    keys: Option<KeyReads>,
    stream: Option<TextStream>,
    filter: StopFilter,
    text: String,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    reason: Option<FinishReason>,
}

impl Active {
    /// A request that has an empty sequence.
    pub fn new(
        index: usize,
        request: Request,
        caller: Caller,
        sequence: SequenceHandle,
        stream: Option<TextStream>,
    ) -> Self {
        Self {
            index,
            caller,
            rank: 0,
            fails_alone: false,
            to_route: None,
            routed: None,
            sequence,
            has_begun: false,
            tokens: request.prompt.clone(),
            to_read: request.prompt.len(),
            is_aside: false,
            passed_over: 0,
            cached: 0,
            reused: 0,
            drift: 0.0,
            first_touch: FirstTouch::Nothing,
            keys: None,
            stream,
            filter: StopFilter::new(&request.stop),
            text: String::new(),
            first_token: None,
            last_token: None,
            reason: (request.max_tokens == 0).then_some(FinishReason::Length),
            request,
        }
    }

    /// Its adapter has been chosen, which acts so on its prompt.
    pub fn route(&mut self, routed: Routed, activation: Option<Activation>) {
        (self.routed, self.to_route, self.sequence.activation) = (Some(routed), None, activation);
    }

    /// How its adapter was chosen, if it has been.
    pub const fn routed(&self) -> Option<&Routed> {
        self.routed.as_ref()
    }

    /// Whether it takes part in steps: before, [`Active::begin`] says what it has.
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Begins with a sequence that has the first `reused` tokens of what it is to read, at a cost.
    pub fn begin(&mut self, sequence: SequenceHandle, reused: usize, drift: f32, first_touch: FirstTouch) {
        (self.sequence, self.cached, self.has_begun) = (sequence, reused, true);
        self.drift = self.drift.max(drift);
        if self.first_touch == FirstTouch::Nothing {
            self.first_touch = first_touch;
        }
        if self.generated() == 0 {
            self.reused = reused;
        }
    }

    /// Makes way for others, with an empty sequence: once there is room it goes on where it was, and what it has read and said
    /// is read again, as far as it is not in the cache by then.
    pub fn step_aside(&mut self, empty: SequenceHandle) {
        (self.sequence, self.cached, self.has_begun, self.keys) = (empty, 0, false, None);
        (self.to_read, self.is_aside) = (self.tokens.len(), true);
    }

    /// Has not begun, and waits until somebody has ended.
    pub const fn wait_for_others(&mut self) {
        self.is_aside = true;
    }

    /// Whether it made way for others.
    pub const fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// Somebody whom it made way for has ended.
    pub const fn come_back(&mut self) {
        self.is_aside = false;
    }

    /// Whether it goes first, whatever its rank.
    pub const fn was_passed_over(&self) -> bool {
        self.passed_over >= PATIENCE
    }

    /// Whether another one, which has not begun either, is to wait until there is room for this one, which was passed over for long.
    pub const fn comes_before(&self, other: &Self) -> bool {
        other.rank <= self.rank || self.passed_over >= 8 * PATIENCE
    }

    /// A step was planned, with rows of it or without.
    pub const fn planned(&mut self, has_rows: bool) {
        self.passed_over = if has_rows { 0 } else { self.passed_over.saturating_add(1) };
    }

    /// Whether it is chosen how keys are read, which is as soon as all have begun that take part in a step with it.
    pub const fn reads_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Reads the keys of what it has found in some way.
    pub const fn read_keys(&mut self, keys: KeyReads) {
        self.keys = Some(keys);
    }

    /// Steps of one token each that are still to come at most: the prompt's last one chooses the first.
    pub fn steps_at_most(&self, context: usize) -> usize {
        let room = (context + 1).saturating_sub(self.prompt());
        self.request.max_tokens.min(room).saturating_sub(1)
    }

    /// At its end it read materialised keys of so many chunks.
    pub fn keys_left(&mut self, chunks: usize) {
        if let Some(keys) = &mut self.keys {
            keys.given_up = keys.materialised.saturating_sub(chunks);
        }
    }

    /// What the output may diverge by.
    pub const fn budget(&self) -> f32 {
        self.request.drift
    }

    /// What is read as a prompt.
    pub fn prompt_tokens(&self) -> &[u32] {
        &self.tokens[..self.to_read]
    }

    /// Whether this request, which has not begun, would rather find what another one is about to compute.
    pub fn waits_for(&self, other: &Self) -> bool {
        let (own, others) = (self.prompt_tokens(), other.prompt_tokens());
        // Up to the end of the chunk that the other is at, whose own last token is computed in any case.
        let next = (other.cached / CHUNK_TOKENS + 1) * CHUNK_TOKENS;
        self.sequence.activation == other.sequence.activation
            && self.caller.salt == other.caller.salt
            && self.budget() == other.budget()
            && !other.is_over()
            && own.len() > next
            && others.get(..next).is_some_and(|others| own[..next] == *others)
    }

    fn prompt(&self) -> usize {
        self.request.prompt.len()
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt()
    }

    pub fn is_over(&self) -> bool {
        self.reason.is_some()
    }

    /// What events name it by.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The tokens whose K and V are cached.
    pub fn cached(&self) -> &[u32] {
        &self.tokens[..self.cached]
    }

    /// Tokens of the prompt that are still to be read.
    pub fn prompt_left(&self) -> usize {
        self.to_read.saturating_sub(self.cached)
    }

    /// The next `rows` tokens, as the engine takes them in; from the last known one a token is wanted.
    pub fn feed(&self, rows: usize) -> Feed<'_> {
        let end = self.cached + rows;
        let kind = if self.cached < self.to_read { RowKind::Prompt } else { RowKind::Generated };
        let want = if end == self.tokens.len() { Want::Token(self.sampler(0)) } else { Want::Nothing };
        Feed { sequence: self.sequence, tokens: &self.tokens[self.cached..end], kind, want }
    }

    /// How the token is chosen that comes so many after the next one.
    pub fn sampler(&self, later: usize) -> Sampler {
        let step = u32::try_from(self.generated() + later).unwrap_or(u32::MAX);
        self.request.sampling.sampler(step, &self.tokens)
    }

    /// Chunks that `rows` more tokens take, once `before` more than now are cached.
    pub fn chunks(&self, before: usize, rows: usize) -> usize {
        let cached = self.cached + before;
        (cached + rows).div_ceil(CHUNK_TOKENS) - cached.div_ceil(CHUNK_TOKENS)
    }

    /// Whether a step of `rows` chooses a token behind which, unless it is itself the end, there comes another one that can
    /// be chosen without a look at it.
    pub fn goes_on(&self, rows: usize, context: usize) -> bool {
        let chooses = self.cached + rows == self.tokens.len();
        chooses
            && self.generated() + 1 < self.request.max_tokens
            && self.tokens.len() < context
            && self.request.sampling.repeat_penalty == 1.0
    }

    /// Takes in what a step gave: `rows` more tokens are cached, and a token may have been chosen. No
    /// sequence is longer than `context`.
    pub fn advance(
        &mut self,
        rows: usize,
        token: Option<u32>,
        context: usize,
        on_event: OnEvent<'_>,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.cached += rows;
        if self.cached <= self.to_read {
            let event = Event::Prefill { request: self.index, done: self.cached, total: self.to_read };
            if on_event(event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let Some(token) = token else { return Ok(ControlFlow::Continue(())) };
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        if self.request.end_tokens.contains(&token) {
            return self.finish(FinishReason::EndToken, on_event);
        }
        self.tokens.push(token);
        let text = match &mut self.stream {
            Some(stream) => stream.push(token)?,
            None => String::new(),
        };
        let passed = self.filter.push(&text);
        self.text.push_str(&passed.text);
        let event = Event::Text { request: self.index, text: passed.text, tokens: self.generated() };
        if on_event(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if passed.stopped {
            return self.finish(FinishReason::Stop, on_event);
        }
        if self.generated() >= self.request.max_tokens {
            return self.finish(FinishReason::Length, on_event);
        }
        if self.tokens.len() > context {
            return self.finish(FinishReason::ContextFull, on_event);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Ends the answer; what was held back of its text is shown unless a stop string cut it.
    pub fn finish(
        &mut self,
        reason: FinishReason,
        on_event: OnEvent<'_>,
    ) -> Result<ControlFlow<()>, EngineError> {
        let request = self.index;
        self.reason = Some(reason);
        let rest = self.stream.as_mut().map(TextStream::finish).transpose()?.unwrap_or_default();
        if reason != FinishReason::Stop {
            let passed = self.filter.push(&rest);
            let mut text = passed.text;
            if !passed.stopped {
                text.push_str(&self.filter.finish());
            }
            if !text.is_empty() {
                self.text.push_str(&text);
                if on_event(Event::Text { request, text, tokens: self.generated() }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(on_event(Event::Finished { request, reason }))
    }

    /// The answer to a call that began at `start`.
    pub fn completion(&self, start: Instant) -> Completion {
        let decode = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        };
        Completion {
            prompt_tokens: self.prompt(),
            reused_tokens: self.reused,
            drift: self.drift,
            first_touch: self.first_touch,
            keys: self.keys.unwrap_or_default(),
            tokens: self.tokens[self.prompt()..].to_vec(),
            text: self.text.clone(),
            reason: self.reason.unwrap_or(FinishReason::Cancelled),
            adapter_from: self.sequence.adapter_from(),
            routed: self.routed.clone(),
            first_token: self.first_token.map(|at| at - start),
            decode,
        }
    }
}
