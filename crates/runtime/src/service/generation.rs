//! One answer as its caller sees it: a stream of events that can be waited for by a thread or polled by any executor.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::shared::Shared;
use super::{CallId, ServiceError};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::{Completion, Request};

/// What happens while a call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More of the prompt is in the cache. It comes again where a call had to make way for others and reads on.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens to do.
        total: usize,
    },
    /// The router has chosen the adapter ([`AdapterChoice::Auto`](crate::AdapterChoice::Auto)).
    Adapter {
        /// Its name; `None` for the base.
        name: Option<String>,
    },
    /// Tokens of the context had to go, for the prompt and the answer to fit
    /// ([`WhenFull::KeepFirstAndRecent`](super::WhenFull::KeepFirstAndRecent)).
    Forgotten {
        /// How many.
        tokens: usize,
    },
    /// More of the answer.
    Text {
        /// Whole characters.
        text: String,
        /// Tokens generated so far.
        tokens: usize,
    },
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was said, and what it took. [`Completion::first_token`] counts from the call.
    pub completion: Completion,
    /// Whether the context's tokens are on disk: they come back after a crash. Never without a store; else the system's error is
    /// said in a warning.
    pub is_durable: bool,
}

impl Answer {
    /// Of a call that ended before it began.
    pub(super) fn nothing(request: &Request) -> Self {
        Self { completion: Completion::cancelled(request.prompt.len()), is_durable: false }
    }
}

/// Between the service's thread and who called.
#[derive(Debug, Default)]
pub struct Channel {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Progress>,
    end: Option<Result<Answer, ServiceError>>,
    waker: Option<Waker>,
    is_unwanted: bool,
}

impl Channel {
    pub fn send(&self, event: Progress) {
        self.change(|inner| inner.events.push_back(event));
    }

    /// The call has ended; only the first end counts.
    pub fn end(&self, end: Result<Answer, ServiceError>) {
        self.change(|inner| {
            inner.end.get_or_insert(end);
        });
    }

    /// Whether who called wants no more of it.
    pub fn is_unwanted(&self) -> bool {
        self.lock().is_unwanted
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        let waker = inner.waker.take();
        drop(inner);
        self.changed.notify_all();
        waker.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer under way. Its events come in order, whoever asks for them; dropping it cancels the call.
///
/// Threads use [`Generation::next`] and [`Generation::wait`]. Executors use it as a stream (`futures_core::Stream`), and
/// [`Generation::completed`]; no executor of any kind is needed.
#[derive(Debug)]
pub struct Generation {
    pub(super) call: CallId,
    pub(super) channel: Arc<Channel>,
    pub(super) service: Weak<Shared>,
}

impl Generation {
    /// The next event, once there is one; `None` when the call has ended and all have been seen.
    #[must_use]
    pub fn next(&self) -> Option<Progress> {
        let mut inner = self.channel.lock();
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Some(event);
            }
            if inner.end.is_some() {
                return None;
            }
            inner = self.channel.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same, waiting at most so long for it.
    pub fn next_within(&self, most: Duration) -> Poll<Option<Progress>> {
        let start = Instant::now();
        let mut inner = self.channel.lock();
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if inner.end.is_some() {
                return Poll::Ready(None);
            }
            let left = most.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Poll::Pending;
            }
            let waited = self.channel.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next event, if there is one now.
    #[must_use]
    pub fn try_next(&self) -> Option<Progress> {
        self.channel.lock().events.pop_front()
    }

    /// Whether the call has ended; there may be events left to see.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.channel.lock().end.is_some()
    }

    /// How the call has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<Result<Answer, ServiceError>> {
        self.channel.lock().end.clone()
    }

    /// The next event, for an executor: as [`Generation::next`] without waiting.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        let mut inner = self.channel.lock();
        if let Some(event) = inner.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if inner.end.is_some() {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the answer within one step, with what it has; the context keeps that. Nothing happens to one that has ended.
    pub fn cancel(&self) {
        self.channel.change(|inner| inner.is_unwanted = true);
        if let Some(service) = self.service.upgrade() {
            service.cancel(self.call);
        }
    }

    /// Waits for the end, and gives the whole answer.
    ///
    /// # Errors
    /// What the call failed with.
    pub fn wait(self) -> Result<Answer, ServiceError> {
        let mut inner = self.channel.lock();
        loop {
            if let Some(end) = &inner.end {
                return end.clone();
            }
            inner = self.channel.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same for an executor.
    ///
    /// # Errors
    /// Likewise.
    pub async fn completed(self) -> Result<Answer, ServiceError> {
        poll_fn(|cx| {
            let mut inner = self.channel.lock();
            if let Some(end) = &inner.end {
                return Poll::Ready(end.clone());
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl futures_core::Stream for Generation {
    type Item = Progress;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        Self::poll_next(&self, cx)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_waited_for_as_long_as_was_said_and_the_end_is_there_from_then_on() {
        let channel = Arc::new(Channel::default());
        let generation = Generation { call: CallId(1), channel: Arc::clone(&channel), service: Weak::new() };
        let ms = Duration::from_millis;
        assert_eq!(
            (generation.next_within(ms(0)), generation.next_within(ms(1))),
            (Poll::Pending, Poll::Pending)
        );
        assert!(generation.end().is_none());
        let event = Progress::Prefill { done: 1, total: 2 };
        channel.send(event.clone());
        assert_eq!(generation.next_within(ms(0)), Poll::Ready(Some(event)));
        let ends = std::thread::spawn(move || channel.end(Err(ServiceError::Stopped)));
        assert_eq!(generation.next_within(Duration::MAX), Poll::Ready(None));
        ends.join().unwrap();
        for _ in 0..2 {
            assert!(matches!(generation.end(), Some(Err(ServiceError::Stopped))));
        }
    }
}
