//! A conversation with a model: who said what, under which adapter, and what it cost. No terminal.

use std::ops::ControlFlow;

use interleaf_runtime::{
    ChatMessage, Completion, Conversation, Engine, EngineError, Event, FinishReason, Request, SamplingOptions,
};

use crate::{CliError, prompt};

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

    /// Says something and takes the answer in. If that fails, nothing was said.
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
        let answered = self.answer(on_event);
        if answered.is_err() {
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
        };
        let answer = self.engine.converse(&mut self.conversation, &request, on_event)?;
        if answer.reason == FinishReason::ContextFull && answer.tokens.is_empty() {
            let (needed, limit) = (answer.prompt_tokens, self.engine.context());
            return Err(EngineError::ContextFull { needed, limit }.into());
        }
        if answer.reason == FinishReason::Cancelled && answer.tokens.is_empty() {
            // Nothing was answered, so nothing was asked; what was read of it stays cached.
            self.messages.pop();
            return Ok(());
        }
        self.messages.push(ChatMessage::new("assistant", &*answer.text));
        self.totals.turns += 1;
        self.totals.prompt += answer.prompt_tokens;
        self.totals.reused += answer.reused_tokens;
        self.totals.generated += answer.tokens.len();
        self.last = Some((answer, request.adapter));
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
        self.conversation.cached_tokens()
    }
}
