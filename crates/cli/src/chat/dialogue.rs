//! A conversation with a model: who said what, under which adapter, and what it cost. No terminal.

use std::ops::ControlFlow;

use interleaf_runtime::{
    ChatMessage, Completion, Conversation, Engine, EngineError, Event, FinishReason, Request, SamplingOptions,
};

use crate::{CliError, answers, output, prompt};

/// Tokens of the base's that are computed between two turns at most, for adapters' pages to be kept over: a fraction of a
/// second's.
const IDLE_TOKENS: usize = 256;

/// How often as many tokens may go to rest or get narrower behind that.
const REST_ROUNDS: usize = 4;

/// A conversation under way.
pub struct Dialogue {
    pub engine: Engine,
    pub adapter: Option<String>,
    pub system: Option<String>,
    messages: Vec<ChatMessage>,
    conversation: Conversation,
    answering: Answering,
    pub totals: Totals,
    /// The last answer, and the adapter that was asked for it.
    pub last: Option<(Completion, Option<String>)>,
}

/// How turns are answered.
pub struct Answering {
    pub sampling: SamplingOptions,
    pub stop: Vec<String>,
    pub max_tokens: usize,
    pub drift: f32,
    /// Whether what nobody reads goes to rest or gets narrower between turns.
    pub is_patient: bool,
}

/// Sums over the turns since the start or the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers.
    pub turns: usize,
    /// Tokens of their prompts.
    pub prompt: usize,
    /// Of these, found in the cache.
    pub reused: usize,
    /// Tokens of the answers.
    pub generated: usize,
}

impl Dialogue {
    /// An empty conversation.
    pub fn new(
        engine: Engine,
        adapter: Option<String>,
        system: Option<String>,
        answering: Answering,
    ) -> Self {
        Self {
            engine,
            adapter,
            system,
            messages: Vec::new(),
            conversation: Conversation::default(),
            answering,
            totals: Totals::default(),
            last: None,
        }
    }

    /// Says something and takes the answer in. If that fails, nothing was said; but an answer that a failing device cut
    /// short stays as far as it came.
    pub fn say(
        &mut self,
        text: &str,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(), CliError> {
        /// No token of any vocabulary in use stands for more bytes: what is longer cannot fit, and tokenising it would
        /// take a hundred times its memory.
        const TOKEN_BYTES: usize = 128;
        let limit = self.engine.context();
        if text.len() / TOKEN_BYTES > limit {
            return Err(EngineError::ContextFull { needed: text.len() / TOKEN_BYTES, limit }.into());
        }
        self.messages.push(ChatMessage::new("user", text));
        let said = self.messages.len();
        let answered = self.answer(on_event);
        if answered.is_err() && self.messages.len() == said {
            self.messages.pop();
        }
        answered
    }

    fn answer(&mut self, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<(), CliError> {
        let system = self.system.as_ref().map(|text| ChatMessage::new("system", text));
        let messages: Vec<_> = system.into_iter().chain(self.messages.iter().cloned()).collect();
        let request = Request {
            prompt: prompt::conversation(&self.engine, &messages)?,
            adapter: self.adapter.clone(),
            max_tokens: self.answering.max_tokens,
            sampling: self.answering.sampling.clone(),
            stop: self.answering.stop.clone(),
            end_tokens: self.engine.model().generation_defaults().eos.clone(),
            drift: self.answering.drift,
        };
        let answered = self.engine.converse(&mut self.conversation, &request, on_event);
        let (mut answers, mut failure) = answers::kept(answered.map(|answer| vec![answer]))?;
        let answer = answers.remove(0);
        if answer.reason == FinishReason::ContextFull && answer.tokens.is_empty() {
            let (needed, limit) = (answer.prompt_tokens, self.engine.context());
            return Err(EngineError::ContextFull { needed, limit }.into());
        }
        if answer.reason == FinishReason::Cancelled && answer.tokens.is_empty() {
            // Nothing was answered, so nothing was asked; what was read of it stays cached.
            self.messages.pop();
            return Ok(());
        }
        if let Some(failure) = failure.take_if(|_| answer.tokens.is_empty()) {
            return Err(failure.into());
        }
        self.messages.push(ChatMessage::new("assistant", &*answer.text));
        self.totals.turns += 1;
        self.totals.prompt += answer.prompt_tokens;
        self.totals.reused += answer.reused_tokens;
        self.totals.generated += answer.tokens.len();
        self.last = Some((answer, request.adapter));
        if failure.is_none() && self.answering.drift > 0.0 {
            // The one who asks reads meanwhile. The answer is there whatever comes of it.
            if let Err(error) = self.tend() {
                output::note(format_args!("no work was done between turns: {error}"));
            }
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Works while nobody asks, and for so short a time that who asks again hardly waits: first on the base's pages, and what
    /// may rest does when these are there.
    fn tend(&mut self) -> Result<(), EngineError> {
        let rounds = if self.answering.is_patient { 1 + REST_ROUNDS } else { 1 };
        for _ in 0..rounds {
            if self.engine.tend(IDLE_TOKENS)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Answers with another adapter from now on.
    ///
    /// # Errors
    /// If there is none of that name; the present one then stays.
    pub fn set_adapter(&mut self, name: Option<String>) -> Result<(), CliError> {
        if name.is_some() {
            let sequence = self.engine.open_sequence(name.as_deref(), &[])?;
            self.engine.close_sequence(sequence)?;
        }
        self.adapter = name;
        Ok(())
    }

    /// Forgets what was said, and its cache.
    pub fn reset(&mut self) -> Result<(), CliError> {
        self.messages.clear();
        self.totals = Totals::default();
        self.last = None;
        Ok(self.engine.end_conversation(&mut self.conversation)?)
    }

    /// Tokens in the cache.
    pub fn cached_tokens(&self) -> usize {
        self.engine.cached_tokens(&self.conversation)
    }
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use interleaf_runtime::{BackendChoice, EngineOptions, GpuSettings};

    use super::*;
    use crate::load;

    #[test]
    fn an_answer_that_a_lost_device_cut_short_was_said() {
        let gpu = GpuSettings { lost_after: Some(5), ..GpuSettings::default() };
        let options = EngineOptions { backend: BackendChoice::Gpu, gpu, ..EngineOptions::default() };
        let mut engine = match load::open(load::demo_base(), &options) {
            Ok(engine) => engine,
            Err(e) => {
                assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {e}");
                return println!("SKIPPED on gpu: {e}");
            }
        };
        engine.reserve_kv(1, 256).unwrap();
        let answering = Answering {
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            max_tokens: 12,
            drift: 0.0,
            is_patient: false,
        };
        let mut dialogue = Dialogue::new(engine, None, None, answering);
        let lost = dialogue.say("What is ownership?", &mut |_| ControlFlow::Continue(()));
        assert!(lost.unwrap_err().to_string().contains("lost"));
        let (last, _) = dialogue.last.as_ref().unwrap();
        // The fifth step was under way when the sixth was refused.
        assert_eq!(
            (last.tokens.len(), last.reason, dialogue.messages.len()),
            (4, FinishReason::DeviceLost, 2)
        );
        // What was not answered at all was not asked either.
        dialogue.say("And borrowing?", &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!((dialogue.totals.turns, dialogue.messages.len()), (1, 2));
    }
}
