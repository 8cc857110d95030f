//! Ends of calls on their way to disk: on a thread of its own, so that no step waits for a file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::ServiceError;
use super::generation::Answer;
use super::shared::{Call, Shared};
use crate::Completion;
use crate::sync::mpsc::{Sender, channel};
use crate::sync::thread::{self, JoinHandle};

/// A call that has ended.
#[derive(Debug)]
pub struct Ended {
    pub call: Call,
    pub completion: Completion,
}

/// Writes down what calls have left in their contexts, in the order in which they ended, and then tells of their ends.
#[derive(Debug)]
pub struct Scribe {
    /// Ends that have been taken and not been told.
    pending: Arc<AtomicUsize>,
    sender: Option<Sender<Ended>>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(shared: &Arc<Shared>) -> Result<Self, ServiceError> {
        let (sender, receiver) = channel::<Ended>();
        let shared: Weak<Shared> = Arc::downgrade(shared);
        let pending = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&pending);
        let thread = thread::Builder::new().name("interleaf-scribe".into()).spawn(move || {
            let mut has_failed = false;
            for ended in receiver {
                let Some(shared) = shared.upgrade() else { return };
                shared.write_down(ended, &mut has_failed, &told);
            }
        });
        Ok(Self { pending, sender: Some(sender), thread: Some(thread.map_err(ServiceError::thread)?) })
    }

    /// Calls that have ended and whose ends have not been told yet.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    pub fn take(&self, ended: Ended) {
        if let Some(sender) = &self.sender {
            self.pending.fetch_add(1, Ordering::SeqCst);
            // Where nobody takes it the call ends as it is dropped.
            let _ = sender.send(ended);
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.sender = None;
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn write_down(&self, Ended { call, completion }: Ended, has_failed: &mut bool, pending: &AtomicUsize) {
        let tokens: Arc<[u32]> = [&call.request.prompt[..], &completion.tokens].concat().into();
        let before = self.lock().contexts.get(&call.context).map(|context| Arc::clone(&context.tokens));
        let written = before.as_ref().map(|before| {
            let kept = before.iter().zip(&*tokens).take_while(|(old, new)| old == new).count();
            let _span = tracing::debug_span!("write_context", tokens = tokens.len() - kept).entered();
            let write = self.journal(|journal| {
                journal
                    .append(call.context, kept, &tokens)
                    .map_err(|error| (journal.path(call.context), error))
            });
            // Meanwhile the context may have been deleted.
            write.map(|written| written == Some(true))
        });
        let is_durable = match written.transpose() {
            Ok(written) => written.unwrap_or(false),
            Err(error) => {
                if !std::mem::replace(has_failed, true) {
                    tracing::warn!("{error}; answers go on, and contexts may not survive a crash");
                }
                false
            }
        };
        let mut state = self.lock();
        if let Some(context) = state.contexts.get_mut(&call.context) {
            context.tokens = tokens;
        }
        state.release(&call);
        drop(state);
        // Whoever hears of the end finds that it is over.
        pending.fetch_sub(1, Ordering::SeqCst);
        call.channel.end(Ok(Answer { completion, is_durable }));
    }
}
