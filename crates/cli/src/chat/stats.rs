//! What `/stats` and `/adapter` show.

use super::dialogue::Dialogue;
use crate::memory::{MemoryRow, backend_line};
use crate::table::{Align, bytes, render};
use crate::{CliError, first_touch, generate, keys, output};

/// What the last answer and the conversation cost, and what the cache saved.
pub fn stats(dialogue: &Dialogue) -> Result<(), CliError> {
    let mut rows =
        vec![("answering", dialogue.adapter.clone().unwrap_or_else(|| "none (base model)".into()))];
    if let Some((last, adapter)) = &dialogue.last {
        let acted = match (adapter, last.adapter_from) {
            (None, _) => "none (base model)".into(),
            (Some(name), Some(0)) => format!("{name}, on every token"),
            (Some(name), Some(from)) => format!("{name}, from token {from} on"),
            (Some(name), None) => {
                format!("{name}, nowhere: its invocation is not in the prompt, or it changes nothing")
            }
        };
        let first = generate::ttft_ms(last).map_or_else(|| "none".into(), |ms| format!("{ms:.1} ms"));
        rows.push(("last adapter", acted));
        let read = generate::reuse(last.prompt_tokens, last.reused_tokens) + &generate::drift(last);
        rows.push(("last prompt", read));
        rows.extend(first_touch::line(last.first_touch).map(|line| ("last prefix", line)));
        rows.extend(keys::line(last.keys).map(|line| ("last keys", line)));
        rows.push((
            "last answer",
            format!(
                "{} tokens ({}), first after {first}, then {:.1} tokens/s",
                last.tokens.len(),
                last.reason.name(),
                last.tokens_per_second()
            ),
        ));
    }
    let totals = dialogue.totals;
    rows.push(("answers", format!("{}, {} tokens", totals.turns, totals.generated)));
    rows.push(("all prompts", generate::reuse(totals.prompt, totals.reused)));
    let memory = dialogue.engine.memory();
    rows.push((
        "KV cache",
        format!(
            "{} of this conversation's tokens; {} of {} held",
            dialogue.cached_tokens(),
            bytes(memory.kv_in_use + memory.kv_cached),
            bytes(memory.backend.kv)
        ),
    ));
    rows.push(("memory", MemoryRow::of(&dialogue.engine).line().trim_start_matches("memory: ").into()));
    rows.push(("backend", backend_line(&dialogue.engine)));
    rows.iter().try_for_each(|(what, value)| output::line(format_args!("{what:<18} {value}")))
}

/// The adapters there are; a star marks the one that answers.
pub fn adapters(dialogue: &Dialogue) -> Result<(), CliError> {
    let star = |name: Option<&str>| if dialogue.adapter.as_deref() == name { "*" } else { "" }.to_owned();
    let base = vec![star(None), "none".into(), String::new(), String::new(), "the base model".into()];
    let rows: Vec<Vec<String>> = std::iter::once(base)
        .chain(dialogue.engine.adapters().map(|a| {
            let kind = if a.activated { "activated" } else { "" };
            vec![star(Some(&a.name)), a.name.clone(), a.max_rank.to_string(), bytes(a.bytes), kind.into()]
        }))
        .collect();
    let columns = [
        ("", Align::Left),
        ("adapter", Align::Left),
        ("rank", Align::Right),
        ("bytes", Align::Right),
        ("", Align::Left),
    ];
    render(&columns, &rows).into_iter().try_for_each(output::line)
}
