//! The header's part about an answer under way. What it points callers to lives as long as the header says.

use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::choices::finish;
use super::failure::{Failure, guard};
use super::raw::{Fill, Handle};
use super::records::{AnswerFacts, Event};
use super::status::Status;
use crate::{Answer, Completion, Generation, Progress};

/// What an event is, as the header numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    Pending = 0,
    Prefill = 1,
    Forgotten = 2,
    Text = 3,
    End = 4,
    Adapter = 5,
}

/// An answer under way, with what callers have been pointed to.
#[derive(Debug)]
pub struct Answering {
    generation: Generation,
    /// The text of the last event, and a NUL.
    text: Mutex<String>,
    /// The whole answer, with a NUL behind its text.
    answer: OnceLock<Answer>,
}

impl Answering {
    pub const fn new(generation: Generation) -> Self {
        Self { generation, text: Mutex::new(String::new()), answer: OnceLock::new() }
    }

    /// The next event, for which it waits at most so many milliseconds.
    fn poll(&self, timeout_ms: i32) -> Result<Event, Failure> {
        let polled = match u64::try_from(timeout_ms) {
            Ok(most) => self.generation.next_within(Duration::from_millis(most)),
            Err(_) if timeout_ms == -1 => Poll::Ready(self.generation.next()),
            Err(_) => {
                let expected = format_args!("at least 0, or -1 for as long as it takes, not {timeout_ms}");
                return Err(Failure::argument("timeout_ms", expected));
            }
        };
        let event = |kind: Kind, done: usize, total: usize| Event {
            size: 0,
            kind: kind as i32,
            done: done as u64,
            total: total as u64,
            text: ptr::null(),
            text_length: 0,
        };
        Ok(match polled {
            Poll::Pending => event(Kind::Pending, 0, 0),
            Poll::Ready(None) => event(Kind::End, 0, 0),
            Poll::Ready(Some(Progress::Prefill { done, total })) => event(Kind::Prefill, done, total),
            Poll::Ready(Some(Progress::Forgotten { tokens })) => event(Kind::Forgotten, tokens, 0),
            Poll::Ready(Some(Progress::Text { text, tokens })) => {
                self.with_text(text, event(Kind::Text, tokens, 0))
            }
            Poll::Ready(Some(Progress::Adapter { name })) => match name {
                Some(name) => self.with_text(name, event(Kind::Adapter, 0, 0)),
                None => event(Kind::Adapter, 0, 0),
            },
        })
    }

    /// An event that points to a text, which is held until the next one.
    fn with_text(&self, text: String, event: Event) -> Event {
        let mut held = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let text_length = text.len();
        *held = text + "\0";
        Event { text: held.as_ptr().cast(), text_length, ..event }
    }

    fn answer(&self) -> Result<&Answer, Failure> {
        if let Some(answer) = self.answer.get() {
            return Ok(answer);
        }
        let end = self
            .generation
            .end()
            .ok_or_else(|| Failure::new(Status::NotEnded, "the call has not ended: poll it until its end"))?;
        let mut answer = end?;
        answer.completion.text.push('\0');
        Ok(self.answer.get_or_init(|| answer))
    }
}

/// `interleaf_poll`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_poll(generation: Handle<Answering>, timeout_ms: i32, event: Fill<Event>) -> i32 {
    guard(|| {
        // An event that has no place must not be lost.
        event.check("event")?;
        event.set(&generation.get("generation")?.poll(timeout_ms)?, "event")
    })
}

/// `interleaf_answer_of`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_answer_of(generation: Handle<Answering>, answer: Fill<AnswerFacts>) -> i32 {
    guard(|| {
        answer.check("answer")?;
        let Answer { completion, is_durable } = generation.get("generation")?.answer()?;
        let Completion { text, tokens, prompt_tokens, reused_tokens, drift, reason, adapter_from, .. } =
            completion;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let facts = AnswerFacts {
            size: 0,
            reason: finish(*reason),
            text: text.as_ptr().cast(),
            text_length: text.len() - 1,
            tokens: tokens.as_ptr(),
            token_count: tokens.len(),
            prompt_tokens: *prompt_tokens as u64,
            reused_tokens: *reused_tokens as u64,
            adapter_from: adapter_from.and_then(|from| i64::try_from(from).ok()).unwrap_or(-1),
            first_token_ms: completion.first_token.map_or(-1.0, ms),
            decode_ms: ms(completion.decode),
            drift: *drift,
            durable: (*is_durable).into(),
        };
        answer.set(&facts, "answer")
    })
}

/// `interleaf_cancel`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_cancel(generation: Handle<Answering>) -> i32 {
    guard(|| {
        generation.get("generation")?.generation.cancel();
        Ok(())
    })
}

/// `interleaf_generation_close`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_generation_close(generation: Option<Box<Answering>>) {
    guard(|| {
        drop(generation);
        Ok(())
    });
}
