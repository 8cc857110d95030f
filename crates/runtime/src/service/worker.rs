//! The service's thread: it has the engine, lets calls into the batch, takes steps, and does what else is asked between them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use interleaf_kv::KvError;
use interleaf_kv::policy::AppState;

use super::generation::Progress;
use super::queue::AppKey;
use super::scribe::{Ended, Scribe};
use super::shared::{Call, Job, Shared};
use super::{CallId, ServiceError, ServiceStats};
use crate::active::Active;
use crate::ahead::Ahead;
use crate::cache::Caller;
use crate::generate::{Failed, Turn};
use crate::{Engine, EngineError, Event, FinishReason};

/// How long it is at most until it is seen that a suspended GPU was resumed by another way than the service's.
const SUSPENDED: Duration = Duration::from_millis(50);

/// What the service's thread has.
pub struct Core {
    engine: Engine,
    shared: Arc<Shared>,
    scribe: Scribe,
    /// Apps as the cache knows them; one that has not called has none.
    callers: BTreeMap<AppKey, Caller>,
    active: Vec<Active>,
    ahead: Option<Ahead>,
    /// Of those that are active and have not ended, by the name that events have for them.
    calls: BTreeMap<usize, Call>,
    stats: ServiceStats,
}

/// How long it waits for news before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Step,
    Resumed,
    IdleWork,
    Call,
}

/// What has come since it looked last.
struct News {
    jobs: VecDeque<Job>,
    admitted: Vec<Call>,
    is_stopping: bool,
}

/// Nobody answers once this is dropped, whether the thread was told to stop or panicked.
pub(super) struct Alive(pub(super) Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_dead = true;
        let jobs = std::mem::take(&mut state.jobs);
        let waiting = state.queue.take_if(|_| true);
        waiting.iter().for_each(|call| state.release(call));
        drop(state);
        // Whoever waits for them hears that the service has stopped.
        drop((jobs, waiting));
    }
}

impl Core {
    pub fn new(engine: Engine, shared: Arc<Shared>) -> Result<Self, ServiceError> {
        Ok(Self {
            engine,
            scribe: Scribe::start(&shared)?,
            shared,
            callers: BTreeMap::new(),
            active: Vec::new(),
            ahead: None,
            calls: BTreeMap::new(),
            stats: ServiceStats::default(),
        })
    }

    pub const fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub fn stats(&self) -> ServiceStats {
        let state = self.shared.lock();
        ServiceStats {
            waiting: state.queue.len(),
            under_way: self.calls.len() + self.scribe.pending(),
            answered: self.stats.answered + state.left,
            cancelled: self.stats.cancelled + state.left,
            overloaded: state.overloaded,
            adapters: self.engine.adapter_stats(),
            swap: self.engine.swap_stats(),
            ..self.stats
        }
    }

    /// Serves until it is told to stop.
    pub fn run(mut self) -> Engine {
        let _alive = Alive(Arc::clone(&self.shared));
        let mut next = Next::Call;
        loop {
            let News { jobs, admitted, is_stopping } = self.look(next);
            if is_stopping {
                break;
            }
            let has_news = !jobs.is_empty() || !admitted.is_empty();
            jobs.into_iter().for_each(|job| job(&mut self));
            admitted.into_iter().for_each(|call| self.begin(call));
            self.cancel_if(|call| call.channel.is_unwanted());
            next = match self.turn() {
                Turn::Taken | Turn::BrokenOff => Next::Step,
                Turn::Suspended => Next::Resumed,
                Turn::Over if has_news || next != Next::Call => self.tend(),
                Turn::Over => Next::Call,
            };
        }
        self.cancel_if(|_| true);
        self.engine.drop_ahead(&mut self.ahead);
        // They may come again, by another service with the same engine; until then nobody looks at them.
        for caller in std::mem::take(&mut self.callers).into_values() {
            if let Err(error) = self.engine.set_app_state(caller, AppState::Cached) {
                tracing::debug!("after {error}: an app was not left in order");
            }
        }
        let Self { engine, .. } = self;
        engine
    }

    /// Sees what has come, for which it waits where there is nothing else to do.
    fn look(&mut self, next: Next) -> News {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.wait(match next {
            Next::Step | Next::IdleWork => Some(Duration::ZERO),
            Next::Resumed => Some(SUSPENDED),
            Next::Call => None,
        });
        let jobs = std::mem::take(&mut state.jobs);
        let mut admitted: Vec<Call> = Vec::new();
        while self.calls.len() + admitted.len() < shared.facts.options.most_under_way {
            let apps: Vec<u8> = (0..state.apps.len()).map(|app| state.rank(app as AppKey)).collect();
            let under_way = |app| self.calls.values().chain(&admitted).filter(|call| call.app == app).count();
            let rank = |app: AppKey| apps.get(app as usize).copied().unwrap_or(0);
            match state.queue.take(rank, under_way) {
                Some(call) => admitted.push(call),
                None => break,
            }
        }
        for a in &mut self.active {
            a.rank = self.calls.get(&a.index()).map_or(0, |call| state.rank(call.app));
        }
        for call in &admitted {
            debug_assert!(!self.calls.contains_key(&call.index()), "calls are numbered once");
        }
        News { jobs, admitted, is_stopping: state.is_stopping }
    }

    /// Lets a call into the batch.
    fn begin(&mut self, call: Call) {
        let checked = match (call.to_route, self.engine.router()) {
            (Some(_), None) => Err(EngineError::NoRouter),
            _ => self.engine.check_request(0, &call.request),
        };
        let begun = checked.map_err(ServiceError::from).and_then(|()| {
            let caller = self.caller(call.app)?;
            Ok((caller, self.engine.open_kept(caller, &call.request)?))
        });
        match begun {
            Ok((caller, sequence)) => {
                let stream = self.engine.tokenizer("text").ok().map(|tokenizer| tokenizer.stream(true));
                let mut a = Active::new(call.index(), call.request.clone(), caller, sequence, stream);
                (a.rank, a.fails_alone) = (self.shared.lock().rank(call.app), true);
                a.to_route = call.to_route;
                // One that is to say nothing has nothing to wait for.
                if a.is_over()
                    && let Err(error) = self.engine.end_sequence(sequence)
                {
                    self.fail(call, error.into());
                    return self.collect();
                }
                self.calls.insert(call.index(), call);
                self.active.push(a);
            }
            Err(error) => self.fail(call, error),
        }
        self.collect();
    }

    /// An app as the cache knows it.
    fn caller(&mut self, app: AppKey) -> Result<Caller, ServiceError> {
        if let Some(caller) = self.callers.get(&app) {
            return Ok(*caller);
        }
        let (name, salt, state) = match self.shared.lock().app(app) {
            Some(entry) => (entry.name.clone(), entry.salt, entry.state),
            None => (String::new(), None, AppState::Killed),
        };
        let opened = match self.engine.cache.open_app(&name, salt) {
            Err(KvError::TooManyApps { most }) => {
                self.forget_a_killed_app(most)?;
                self.engine.cache.open_app(&name, salt)
            }
            opened => opened,
        };
        let caller = opened.map_err(EngineError::from)?;
        self.callers.insert(app, caller);
        self.engine.set_app_state(caller, state)?;
        Ok(caller)
    }

    /// Frees the place in the cache of an app that has not come to this service, or was killed.
    fn forget_a_killed_app(&mut self, most: usize) -> Result<(), ServiceError> {
        let has_come = |caller: &Caller| self.callers.values().any(|known| known == caller);
        let of_others = self.engine.cache.apps().find(|caller| !has_come(caller));
        let state = self.shared.lock();
        let is_killed = |app: AppKey| state.app(app).is_some_and(|entry| entry.state == AppState::Killed);
        let is_idle = |app: AppKey| self.calls.values().all(|call| call.app != app);
        let killed = self.callers.keys().copied().find(|app| is_killed(*app) && is_idle(*app));
        drop(state);
        let caller = of_others.or_else(|| killed.and_then(|app| self.callers.remove(&app)));
        let caller = caller.ok_or(ServiceError::TooManyApps { most })?;
        if let Some(router) = &mut self.engine.router {
            router.forget(caller, None);
        }
        self.engine.cache.close_app(caller).map_err(EngineError::from)?;
        self.engine.forget_swapped();
        Ok(())
    }

    /// What the cache may take of its pool from now on.
    pub fn set_budget(&mut self, bytes: u64) -> Result<(), EngineError> {
        self.engine.drop_ahead(&mut self.ahead);
        self.engine.set_kv_budget_under(bytes, &mut self.active)
    }

    /// An app is another thing to its user.
    pub fn set_app_state(&mut self, app: AppKey, to: AppState) -> Result<(), ServiceError> {
        if to == AppState::Killed {
            self.cancel_if(|call| call.app == app);
        }
        // One that has not called yet may have called an earlier service.
        let earlier = || {
            let entry = self.shared.lock().app(app).map(|entry| (entry.name.clone(), entry.salt));
            entry.and_then(|(name, salt)| self.engine.cache.known_app(&name, salt))
        };
        if let Some(caller) = self.callers.get(&app).copied().or_else(earlier) {
            self.engine.set_app_state(caller, to)?;
        }
        Ok(())
    }

    /// A context is gone: its call ends, and what is in the cache of its text goes unless others use it. Under which adapters that
    /// was computed nobody has kept: under all.
    pub fn forget(&mut self, app: AppKey, tokens: &[u32], busy: Option<CallId>) -> Result<(), ServiceError> {
        self.cancel_if(|call| Some(call.id) == busy);
        // Also of one that has not called yet: an earlier run may have left something on flash.
        match self.caller(app) {
            Ok(caller) => Ok(self.engine.forget_text(caller, tokens)?),
            Err(ServiceError::TooManyApps { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the next turn of the batch.
    fn turn(&mut self) -> Turn {
        if self.calls.is_empty() {
            self.engine.drop_ahead(&mut self.ahead);
            self.active.clear();
            return Turn::Over;
        }
        let Self { engine, active, ahead, calls, .. } = self;
        let turn = engine.turn(active, true, ahead, &mut |event| tell(calls, event));
        match turn {
            Ok(turn) => {
                self.tell_of_routes();
                self.collect();
                turn
            }
            Err(Failed { request, error }) => {
                self.failed(request, error);
                Turn::Taken
            }
        }
    }

    /// Tells those of their adapters who have left the choice to the router and not been told.
    fn tell_of_routes(&mut self) {
        for a in &self.active {
            let Some((call, routed)) = self.calls.get_mut(&a.index()).zip(a.routed()) else { continue };
            if call.to_route.take().is_some() {
                call.channel.send(Progress::Adapter { name: routed.adapter.clone() });
            }
        }
    }

    /// A turn has failed, for one call or for all.
    fn failed(&mut self, one: Option<usize>, error: EngineError) {
        let error = Arc::new(error);
        let reason = match &*error {
            EngineError::Backend(cause) => FinishReason::of_failure(cause),
            _ => None,
        };
        self.engine.drop_ahead(&mut self.ahead);
        for place in 0..self.active.len() {
            let a = &mut self.active[place];
            if a.is_over() || one.is_some_and(|one| one != place) {
                continue;
            }
            let calls = &self.calls;
            let told = a.finish(reason.unwrap_or(FinishReason::Cancelled), &mut |event| tell(calls, event));
            // The device may be lost, and what it had with it.
            let closed = self.engine.end_sequence(a.sequence);
            if let Some(error) = told.err().or(closed.err()) {
                tracing::debug!("after {error}: a call was not ended in order");
            }
            // What a device that failed was asked for has what it has; else there is nothing to be had.
            if reason.is_none()
                && let Some(call) = self.calls.remove(&self.active[place].index())
            {
                self.fail(call, ServiceError::Engine(Arc::clone(&error)));
            }
        }
        if reason.is_some() {
            tracing::warn!("{error}: the answers under way have ended");
        }
        self.collect();
    }

    /// Ends calls with what they have.
    fn cancel_if(&mut self, is_meant: impl Fn(&Call) -> bool) {
        for a in self.active.iter_mut().filter(|a| !a.is_over()) {
            let Some(call) = self.calls.get(&a.index()).filter(|call| is_meant(call)) else { continue };
            let channel = Arc::clone(&call.channel);
            let told = a.finish(FinishReason::Cancelled, &mut |event| send(&channel, event));
            if let Some(error) = told.err().or(self.engine.ended(a, true).err()) {
                tracing::debug!("after {error}: a cancelled call was not ended in order");
            }
        }
        self.collect();
    }

    /// Takes leave of those that have ended.
    fn collect(&mut self) {
        for a in self.active.iter().filter(|a| a.is_over()) {
            let Some(call) = self.calls.remove(&a.index()) else { continue };
            let completion = a.completion(call.asked);
            self.stats.count(&completion);
            self.scribe.take(Ended { call, completion });
        }
        if self.active.iter().any(Active::is_over) {
            self.active.iter_mut().for_each(Active::come_back);
        }
        // A step under way knows them by their places.
        if self.ahead.is_none() {
            self.active.retain(|a| !a.is_over());
        }
    }

    fn fail(&mut self, call: Call, error: ServiceError) {
        self.stats.failed += 1;
        self.shared.lock().release(&call);
        call.channel.end(Err(error));
    }

    /// Does some idle work, and says whether there may be more.
    fn tend(&mut self) -> Next {
        let tokens = self.shared.facts.options.tend;
        if tokens == 0 {
            return Next::Call;
        }
        match self.engine.tend(tokens) {
            Ok(0) => Next::Call,
            Ok(_) => Next::IdleWork,
            Err(EngineError::GpuSuspended) => Next::Call,
            Err(error) => {
                tracing::warn!("idle work was left: {error}");
                Next::Call
            }
        }
    }
}

/// Tells who called of an event.
fn tell(calls: &BTreeMap<usize, Call>, event: Event) -> ControlFlow<()> {
    let (Event::Prefill { request, .. } | Event::Text { request, .. } | Event::Finished { request, .. }) =
        event
    else {
        return ControlFlow::Continue(());
    };
    calls.get(&request).map_or(ControlFlow::Continue(()), |call| send(&call.channel, event))
}

/// The end is told once the context is durable.
fn send(channel: &super::generation::Channel, event: Event) -> ControlFlow<()> {
    match event {
        Event::Prefill { done, total, .. } => channel.send(Progress::Prefill { done, total }),
        Event::Text { text, tokens, .. } => channel.send(Progress::Text { text, tokens }),
        Event::Suspended | Event::Finished { .. } => {}
    }
    ControlFlow::Continue(())
}
