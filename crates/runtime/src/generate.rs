//! Answers to many requests at once: prompts in pieces beside answers token by token, each row under its
//! own adapter, in one batch.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use interleaf_contract::{CHUNK_TOKENS, RowKind};
use interleaf_model::TextStream;

use crate::text::StopFilter;
use crate::{Engine, EngineError, Feed, SamplingOptions, SequenceHandle, Want};

/// A prompt and how to answer it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The adapter's name; `None` for the base model.
    pub adapter: Option<String>,
    /// The longest answer.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// The answer ends at any of these.
    pub end_tokens: Vec<u32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model chose one of the end tokens.
    EndToken,
    /// A stop string appeared.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The context or the KV pool has no more room.
    ContextFull,
    /// The caller broke off.
    Cancelled,
}

impl FinishReason {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndToken => "end",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContextFull => "context_full",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What happens while requests are answered, by the request's index.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the prompt is in the cache.
    Prefill {
        /// The request.
        request: usize,
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More of the answer.
    Text {
        /// The request.
        request: usize,
        /// Whole characters.
        text: String,
        /// Tokens generated so far.
        tokens: usize,
    },
    /// The answer is complete.
    Finished {
        /// The request.
        request: usize,
        /// Why.
        reason: FinishReason,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The text, without the end token or stop string. Empty for a model without a tokenizer.
    pub text: String,
    /// The generated tokens, an end token left out.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub reason: FinishReason,
    /// The first position that the adapter acted on; `None` where the base answered, as it does where a
    /// prompt does not have the invocation of an activated LoRA.
    pub adapter_from: Option<usize>,
    /// From the call to the first token.
    pub first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Completion {
    /// Tokens after the first per second of decoding; 0 if there is no second token.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = self.decode.as_secs_f64();
        if seconds > 0.0 { self.tokens.len().saturating_sub(1) as f64 / seconds } else { 0.0 }
    }
}

/// A request under way.
struct Active<'a> {
    request: &'a Request,
    sequence: SequenceHandle,
    /// Whether the sequence still holds its pages.
    open: bool,
    /// Prompt, then answer: what the repeat penalty looks at.
    tokens: Vec<u32>,
    /// How many of `tokens` are in the cache.
    cached: usize,
    stream: Option<TextStream>,
    filter: StopFilter,
    text: String,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    reason: Option<FinishReason>,
}

impl Active<'_> {
    fn prompt(&self) -> usize {
        self.request.prompt.len()
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt()
    }
}

impl Engine {
    /// Answers requests in one mixed batch: every step holds the rows of all answers under way and, up
    /// to a bound, of the prompts still to be read. `on_event` sees progress and text as they come;
    /// breaking off ends every answer within one token and keeps what they have.
    ///
    /// The answers do not depend on which requests are in the batch.
    ///
    /// # Errors
    /// If a request is refused (unknown adapter, empty or too long a prompt, an option out of range) or
    /// the device fails. A request that finds no room in the pool waits for others to finish, and ends
    /// with [`FinishReason::ContextFull`] if there are none.
    pub fn generate(
        &mut self,
        requests: &[Request],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Vec<Completion>, EngineError> {
        let start = Instant::now();
        for (request, r) in requests.iter().enumerate() {
            r.sampling.check()?;
            if r.prompt.is_empty() {
                return Err(EngineError::EmptyPrompt { request });
            }
            if r.prompt.len() > self.context {
                return Err(EngineError::ContextFull { needed: r.prompt.len(), limit: self.context });
            }
        }
        let mut active = Vec::with_capacity(requests.len());
        let result = self.run(requests, &mut active, on_event);
        for a in &mut active {
            self.release(a)?;
        }
        result?;
        Ok(active.into_iter().map(|a| completion(a, start)).collect())
    }

    fn run<'a>(
        &mut self,
        requests: &'a [Request],
        active: &mut Vec<Active<'a>>,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for request in requests {
            active.push(Active {
                request,
                sequence: self.open_sequence(request.adapter.as_deref(), &request.prompt)?,
                open: true,
                tokens: request.prompt.clone(),
                cached: 0,
                stream: self.tokenizer("text").ok().map(|t| t.stream(true)),
                filter: StopFilter::new(&request.stop),
                text: String::new(),
                first_token: None,
                last_token: None,
                reason: (request.max_tokens == 0).then_some(FinishReason::Length),
            });
        }
        loop {
            let plan = self.plan(active);
            if plan.is_empty() {
                // Whoever is left waits for room that nobody will free.
                let Some(index) = active.iter().position(|a| a.reason.is_none()) else { return Ok(()) };
                let broken = finish(index, &mut active[index], FinishReason::ContextFull, on_event)?;
                self.release(&mut active[index])?;
                if broken.is_break() {
                    return self.cancel(active, on_event);
                }
                continue;
            }
            let feeds: Vec<Feed<'_>> = plan
                .iter()
                .map(|&(index, rows)| {
                    let a = &active[index];
                    let end = a.cached + rows;
                    let kind = if a.cached < a.prompt() { RowKind::Prompt } else { RowKind::Generated };
                    let step = u32::try_from(a.generated()).unwrap_or(u32::MAX);
                    let want = if end == a.tokens.len() {
                        Want::Token(a.request.sampling.sampler(step, &a.tokens))
                    } else {
                        Want::Nothing
                    };
                    Feed { sequence: a.sequence, tokens: &a.tokens[a.cached..end], kind, want }
                })
                .collect();
            let fed = self.feed(&feeds)?;
            for (&(index, rows), fed) in plan.iter().zip(fed) {
                let broken = self.advance(index, rows, fed.token, &mut active[index], on_event)?;
                if active[index].reason.is_some() {
                    self.release(&mut active[index])?;
                }
                if broken.is_break() {
                    return self.cancel(active, on_event);
                }
            }
        }
    }

    /// Ends every answer under way, with what it has.
    fn cancel(
        &mut self,
        active: &mut [Active<'_>],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for (request, a) in active.iter_mut().enumerate().filter(|(_, a)| a.reason.is_none()) {
            // The caller has broken off; what it answers to the last events is moot.
            let _ = finish(request, a, FinishReason::Cancelled, on_event)?;
            self.release(a)?;
        }
        Ok(())
    }

    /// Frees the pages of a request, once.
    fn release(&mut self, a: &mut Active<'_>) -> Result<(), EngineError> {
        if std::mem::take(&mut a.open) {
            self.close_sequence(a.sequence)?;
        }
        Ok(())
    }

    /// Which requests take part in the next step, and with how many rows. Every answer under way has its
    /// row; prompts share the bound in order. Who finds no room for its rows in the pool waits.
    fn plan(&self, active: &[Active<'_>]) -> Vec<(usize, usize)> {
        let mut prompt_rows = self.prefill_rows;
        let mut chunks = self.kv.free_tokens() / CHUNK_TOKENS;
        let mut plan = Vec::new();
        for (index, a) in active.iter().enumerate().filter(|(_, a)| a.reason.is_none()) {
            let left = a.prompt().saturating_sub(a.cached);
            let rows = if left > 0 { left.min(prompt_rows) } else { 1 };
            let needed = (a.cached + rows).div_ceil(CHUNK_TOKENS) - a.cached.div_ceil(CHUNK_TOKENS);
            if rows == 0 || needed > chunks {
                continue;
            }
            chunks -= needed;
            prompt_rows -= rows.min(left);
            plan.push((index, rows));
        }
        plan
    }

    /// Takes in what a step gave one request.
    fn advance(
        &self,
        index: usize,
        rows: usize,
        token: Option<u32>,
        a: &mut Active<'_>,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, EngineError> {
        a.cached += rows;
        if a.cached <= a.prompt() {
            let event = Event::Prefill { request: index, done: a.cached, total: a.prompt() };
            if on_event(event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let Some(token) = token else { return Ok(ControlFlow::Continue(())) };
        let now = Instant::now();
        a.first_token.get_or_insert(now);
        a.last_token = Some(now);
        if a.request.end_tokens.contains(&token) {
            return finish(index, a, FinishReason::EndToken, on_event);
        }
        a.tokens.push(token);
        let text = match &mut a.stream {
            Some(stream) => stream.push(token)?,
            None => String::new(),
        };
        let passed = a.filter.push(&text);
        a.text.push_str(&passed.text);
        let event = Event::Text { request: index, text: passed.text, tokens: a.generated() };
        if on_event(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if passed.stopped {
            return finish(index, a, FinishReason::Stop, on_event);
        }
        if a.generated() >= a.request.max_tokens {
            return finish(index, a, FinishReason::Length, on_event);
        }
        if a.tokens.len() > self.context {
            return finish(index, a, FinishReason::ContextFull, on_event);
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Ends an answer; what was held back of its text is shown unless a stop string cut it.
fn finish(
    request: usize,
    a: &mut Active<'_>,
    reason: FinishReason,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, EngineError> {
    a.reason = Some(reason);
    if reason != FinishReason::Stop {
        let rest = a.stream.as_mut().map(TextStream::finish).transpose()?.unwrap_or_default();
        let passed = a.filter.push(&rest);
        let mut text = passed.text;
        if !passed.stopped {
            text.push_str(&a.filter.finish());
        }
        if !text.is_empty() {
            a.text.push_str(&text);
            if on_event(Event::Text { request, text, tokens: a.generated() }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(on_event(Event::Finished { request, reason }))
}

fn completion(a: Active<'_>, start: Instant) -> Completion {
    let decode = match (a.first_token, a.last_token) {
        (Some(first), Some(last)) => last - first,
        _ => Duration::ZERO,
    };
    Completion {
        prompt_tokens: a.prompt(),
        tokens: a.tokens[a.prompt()..].to_vec(),
        text: a.text,
        reason: a.reason.unwrap_or(FinishReason::Cancelled),
        adapter_from: a.sequence.adapter_from(),
        first_token: a.first_token.map(|at| at - start),
        decode,
    }
}
