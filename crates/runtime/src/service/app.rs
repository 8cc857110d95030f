//! Apps and their contexts, as callers hold them.

use std::sync::Arc;
use std::time::Instant;

use interleaf_kv::policy::AppState;
use interleaf_model::ChatMessage;

use super::fit::fit;
use super::generation::{Channel, Progress};
use super::queue::AppKey;
use super::shared::{Call, ContextEntry, Shared, State};
use super::{CallId, CallOptions, ContextId, Generation, Prompt, ServiceError};
use crate::feed::check_budget;
use crate::{AdapterChoice, EngineError, Request};

/// One app: its contexts are its own, and no other app can call, list or name them. Clones are the same app.
#[derive(Debug, Clone)]
pub struct App {
    pub(super) key: AppKey,
    pub(super) name: Arc<str>,
    pub(super) shared: Arc<Shared>,
}

impl App {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is to its user now.
    #[must_use]
    pub fn state(&self) -> AppState {
        self.shared.lock().app(self.key).map_or(AppState::Killed, |app| app.state)
    }

    /// It is another thing to its user from now on: calls of apps in the foreground go first, and what others have in memory goes
    /// first. Of an app that is killed calls are cancelled, and everything leaves memory that no other app uses; contexts stay.
    ///
    /// # Errors
    /// If the service has stopped.
    pub fn set_state(&self, to: AppState) -> Result<(), ServiceError> {
        let key = self.key;
        let mut state = self.shared.lock();
        if let Some(app) = state.apps.get_mut(key as usize) {
            app.state = to;
        }
        // All under one lock: calls that wait now are cancelled, and those of an app that is there again a moment later are not.
        let waiting = match to {
            AppState::Killed => state.take_waiting(|call| call.app == key),
            _ => Vec::new(),
        };
        let told = self.shared.ask_under(state, move |core| core.set_app_state(key, to));
        waiting.iter().for_each(Call::end_with_nothing);
        told?.recv().map_err(|_| ServiceError::Stopped)?
    }

    /// Begins an empty context. With a store it is there again after a restart, under its number, until it is deleted.
    ///
    /// # Errors
    /// If the app was killed, the service has stopped, or the context's file cannot be made.
    pub fn new_context(&self) -> Result<Context, ServiceError> {
        let mut state = self.shared.lock();
        state.check_alive(self)?;
        state.last_context += 1;
        let id = ContextId(state.last_context);
        drop(state);
        self.shared
            .journal(|journal| journal.create(id, &self.name).map_err(|error| (journal.path(id), error)))?;
        let tokens = Arc::from([]);
        self.shared.lock().contexts.insert(id, ContextEntry { app: self.key, tokens, busy: None });
        Ok(self.handle(id))
    }

    /// Its contexts, those of earlier runs included, in the order in which they began.
    #[must_use]
    pub fn contexts(&self) -> Vec<Context> {
        let state = self.shared.lock();
        let own = state.contexts.iter().filter(|(_, context)| context.app == self.key);
        own.map(|(id, _)| self.handle(*id)).collect()
    }

    /// One of its contexts, by its number.
    ///
    /// # Errors
    /// If it has none of that number.
    pub fn context(&self, id: ContextId) -> Result<Context, ServiceError> {
        self.shared.lock().own(self, id)?;
        Ok(self.handle(id))
    }

    fn handle(&self, id: ContextId) -> Context {
        Context { id, app: self.clone() }
    }
}

/// A text that an app goes on with from call to call. Clones are the same context.
#[derive(Debug, Clone)]
pub struct Context {
    id: ContextId,
    app: App,
}

impl Context {
    /// Its number: the same as long as it is there.
    #[must_use]
    pub const fn id(&self) -> ContextId {
        self.id
    }

    /// Its tokens: all prompts and answers so far.
    ///
    /// # Errors
    /// If it was deleted.
    pub fn tokens(&self) -> Result<Vec<u32>, ServiceError> {
        Ok(self.app.shared.lock().own(&self.app, self.id)?.tokens.to_vec())
    }

    /// Goes on with a prompt and an answer to it. What is in the cache of what it has is not computed again. When the answer ends the
    /// context has the prompt and all that was said; where the call fails, what it had before.
    ///
    /// # Errors
    /// If the context was deleted or answers another call, too many calls wait, the prompt has no tokens or does not fit, an option
    /// is out of range, the app was killed or the service has stopped. What the engine finds wrong later, such as an adapter that it
    /// does not know, the answer ends with.
    pub fn call(&self, prompt: &Prompt, options: &CallOptions) -> Result<Generation, ServiceError> {
        let asked = Instant::now();
        let shared = &self.app.shared;
        options.check()?;
        let to_route = match options.adapter {
            AdapterChoice::Auto { k } => Some(k),
            AdapterChoice::Base | AdapterChoice::Named(_) => None,
        };
        let (call, before) = self.begin_call()?;
        let request = shared.read(prompt, &before).and_then(|(kept, prompt)| {
            let limit = shared.facts.context;
            let fitted = fit(&before[..kept], &prompt, options.max_tokens, limit, options.when_full)?;
            Ok((options.request(fitted.tokens, &shared.facts.end_tokens), fitted.forgotten))
        });
        let mut state = shared.lock();
        // Meanwhile others may have come, or the context have gone.
        let checked = request.and_then(|request| {
            state.check_alive(&self.app)?;
            state.own(&self.app, self.id)?;
            state.check_queue(self.app.key)?;
            Ok(request)
        });
        let (request, forgotten) = checked.inspect_err(|_| state.release_context(self.id, call))?;
        let channel = Arc::new(Channel::default());
        if forgotten > 0 {
            channel.send(Progress::Forgotten { tokens: forgotten });
        }
        let generation = Generation { call, channel: Arc::clone(&channel), service: Arc::downgrade(shared) };
        let (app, context) = (self.app.key, self.id);
        state.queue.push(app, Call { id: call, app, context, request, to_route, channel, asked });
        shared.tell(state);
        Ok(generation)
    }

    /// Takes the context for a call, and gives what it has.
    fn begin_call(&self) -> Result<(CallId, Arc<[u32]>), ServiceError> {
        let mut state = self.app.shared.lock();
        state.check_alive(&self.app)?;
        state.check_queue(self.app.key)?;
        let id = state
            .own(&self.app, self.id)?
            .busy
            .map_or(Ok(CallId(state.last_call + 1)), |_| Err(ServiceError::ContextBusy(self.id)))?;
        state.last_call = id.0;
        let Some(context) = state.contexts.get_mut(&self.id) else {
            return Err(ServiceError::UnknownContext(self.id));
        };
        context.busy = Some(id);
        Ok((id, Arc::clone(&context.tokens)))
    }

    /// Deletes the context for good: a call of it is cancelled, its file is removed, and what is in the cache of it goes unless
    /// others use it.
    ///
    /// # Errors
    /// If it was deleted before, the service has stopped, or its file cannot be removed.
    pub fn delete(&self) -> Result<(), ServiceError> {
        let mut state = self.app.shared.lock();
        state.own(&self.app, self.id)?;
        let context = state.contexts.remove(&self.id);
        drop(state);
        let ContextEntry { tokens, busy, .. } = context.ok_or(ServiceError::UnknownContext(self.id))?;
        busy.into_iter().for_each(|call| self.app.shared.cancel(call));
        let key = self.app.key;
        self.app
            .shared
            .journal(|journal| journal.delete(self.id).map_err(|error| (journal.path(self.id), error)))?;
        self.app.shared.ask(move |core| core.forget(key, &tokens, busy))?
    }
}

impl Shared {
    /// A prompt's tokens, and how many of the context's stay before them.
    fn read(&self, prompt: &Prompt, before: &[u32]) -> Result<(usize, Vec<u32>), ServiceError> {
        let encode = |text: &str, special: bool| {
            let tokenizer = match (&self.facts.tokenizer, &self.facts.no_tokenizer) {
                (Some(tokenizer), _) => tokenizer,
                (None, Some(error)) => return Err(error.clone()),
                (None, None) => return Err(ServiceError::Stopped),
            };
            tokenizer.encode(text, special).map_err(|error| EngineError::from(error).into())
        };
        let (kept, tokens) = match prompt {
            Prompt::Tokens(tokens) => (before.len(), tokens.clone()),
            Prompt::Text(text) => (before.len(), encode(text, before.is_empty())?),
            Prompt::Chat(messages) => {
                let whole = encode(&self.render(messages)?, false)?;
                let kept = before.iter().zip(&whole).take_while(|(old, new)| old == new).count();
                // Of a conversation that has not changed the last token is read again, since its logits are wanted.
                let kept = kept.min(whole.len().saturating_sub(1));
                (kept, whole[kept..].to_vec())
            }
        };
        if kept + tokens.len() == 0 {
            return Err(EngineError::EmptyPrompt { request: 0 }.into());
        }
        Ok((kept, tokens))
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<String, ServiceError> {
        let template = self.facts.template.as_ref().ok_or(ServiceError::NoChatTemplate)?;
        template.render(messages, true).map_err(|error| EngineError::from(error).into())
    }
}

impl State {
    fn check_alive(&self, app: &App) -> Result<(), ServiceError> {
        if self.is_dead || self.is_stopping {
            return Err(ServiceError::Stopped);
        }
        match self.app(app.key) {
            Some(entry) if entry.state != AppState::Killed => Ok(()),
            _ => Err(ServiceError::AppKilled(app.name.to_string())),
        }
    }

    /// A context of an app's own.
    fn own(&self, app: &App, id: ContextId) -> Result<&ContextEntry, ServiceError> {
        let own = self.contexts.get(&id).filter(|context| context.app == app.key);
        own.ok_or(ServiceError::UnknownContext(id))
    }

    fn release_context(&mut self, id: ContextId, call: CallId) {
        if let Some(context) = self.contexts.get_mut(&id).filter(|context| context.busy == Some(call)) {
            context.busy = None;
        }
    }
}

impl CallOptions {
    fn check(&self) -> Result<(), ServiceError> {
        self.sampling.check()?;
        check_budget(self.drift)?;
        self.adapter.check()?;
        Ok(())
    }

    fn request(&self, prompt: Vec<u32>, models: &[u32]) -> Request {
        let Self { adapter, max_tokens, sampling, stop, end_tokens, drift, .. } = self.clone();
        let adapter = adapter.name().map(str::to_owned);
        let end_tokens = end_tokens.unwrap_or_else(|| models.to_vec());
        Request { prompt, adapter, max_tokens, sampling, stop, end_tokens, drift }
    }
}
