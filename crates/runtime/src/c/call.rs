//! The header's ways of calling a context: what is asked, and how it is to be answered.

use interleaf_model::ChatMessage;

use super::choices::{CALL_FLAGS, END_TOKENS, FORGET};
use super::failure::{Failure, guard};
use super::generation::Answering;
use super::raw::{Handle, In, Many, Out};
use super::records::{CallSettings, LogitBias, Message};
use crate::{AdapterChoice, CallOptions, Context, Prompt, SamplingOptions, WhenFull};

type Answer = Out<Option<Box<Answering>>>;

/// Takes the call, unless something is wrong with it.
fn call(
    context: Handle<Context>,
    prompt: impl FnOnce() -> Result<Prompt, Failure>,
    settings: In<CallSettings>,
    generation: Answer,
) -> i32 {
    guard(|| {
        generation.give("generation", || {
            let context = context.get("context")?;
            let options = options(&settings.read("options")?)?;
            Ok(Answering::new(context.call(&prompt()?, &options)?))
        })
    })
}

fn options(settings: &CallSettings) -> Result<CallOptions, Failure> {
    let &CallSettings { flags, max_tokens, keep_first, seed, temperature, top_k, min_p, drift, .. } =
        settings;
    CALL_FLAGS.check(flags)?;
    let default = CallOptions::default();
    // SAFETY: by the header there are as many of each as their counts say.
    let (stops, end_tokens, biases) = unsafe {
        (
            settings.stops.copied(settings.stop_count as usize, "stops")?,
            settings.end_tokens.copied(settings.end_token_count as usize, "end_tokens")?,
            settings.logit_biases.copied(settings.logit_bias_count as usize, "logit_biases")?,
        )
    };
    if flags & END_TOKENS == 0 && !end_tokens.is_empty() {
        return Err(Failure::argument("end_tokens", "INTERLEAF_CALL_END_TOKENS among the flags"));
    }
    let SamplingOptions { top_p, repeat_penalty, repeat_window, .. } = default.sampling;
    Ok(CallOptions {
        adapter: match (settings.adapter.optional("adapter")?, settings.route_among) {
            (name, 0) => name.into(),
            (None, k) => AdapterChoice::Auto { k: k as usize },
            (Some(_), _) => return Err(Failure::argument("adapter", "NULL where route_among is not 0")),
        },
        max_tokens: if max_tokens == 0 { default.max_tokens } else { max_tokens as usize },
        sampling: SamplingOptions {
            logit_bias: biases.into_iter().map(|LogitBias { token, bias }| (token, bias)).collect(),
            temperature,
            top_k,
            top_p: if settings.top_p == 0.0 { top_p } else { settings.top_p },
            min_p,
            repeat_penalty: if settings.repeat_penalty == 0.0 {
                repeat_penalty
            } else {
                settings.repeat_penalty
            },
            repeat_window: if settings.repeat_window == 0 {
                repeat_window
            } else {
                settings.repeat_window as usize
            },
            seed,
        },
        stop: stops.into_iter().map(|stop| stop.required("stops")).collect::<Result<_, _>>()?,
        end_tokens: (flags & END_TOKENS != 0).then_some(end_tokens),
        drift,
        when_full: if flags & FORGET == 0 {
            WhenFull::Refuse
        } else {
            WhenFull::KeepFirstAndRecent { first: keep_first as usize }
        },
    })
}

/// `interleaf_call_text`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_call_text(
    context: Handle<Context>,
    text: Many<u8>,
    length: usize,
    options: In<CallSettings>,
    generation: Answer,
) -> i32 {
    let prompt = || {
        // SAFETY: by the header the text has as many bytes.
        let bytes = unsafe { text.copied(length, "text") }?;
        String::from_utf8(bytes).map(Prompt::Text).map_err(|_| Failure::argument("text", "UTF-8"))
    };
    call(context, prompt, options, generation)
}

/// `interleaf_call_tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_call_tokens(
    context: Handle<Context>,
    tokens: Many<u32>,
    count: usize,
    options: In<CallSettings>,
    generation: Answer,
) -> i32 {
    // SAFETY: by the header there are as many tokens.
    let prompt = || unsafe { tokens.copied(count, "tokens") }.map(Prompt::Tokens);
    call(context, prompt, options, generation)
}

/// `interleaf_call_chat`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_call_chat(
    context: Handle<Context>,
    messages: Many<Message>,
    count: usize,
    options: In<CallSettings>,
    generation: Answer,
) -> i32 {
    let prompt = || {
        // SAFETY: by the header there are as many messages.
        let messages = unsafe { messages.copied(count, "messages") }?.into_iter();
        let read = |Message { role, content }: Message| {
            Ok(ChatMessage::new(role.required("role")?, content.required("content")?))
        };
        messages.map(read).collect::<Result<_, Failure>>().map(Prompt::Chat)
    };
    call(context, prompt, options, generation)
}
