//! From what was said to the tokens that the model goes on from.

use interleaf_runtime::{ChatMessage, Engine};

use crate::CliError;

/// The tokens of a whole conversation, through the model's chat template.
///
/// # Errors
/// If the model has no chat template or no tokenizer, or the template refuses the messages.
pub fn conversation(engine: &Engine, messages: &[ChatMessage]) -> Result<Vec<u32>, CliError> {
    let template = engine.chat_template().ok_or_else(|| {
        CliError::Usage("this model has no chat template; use `interleaf generate --raw`".into())
    })?;
    // The template writes the special tokens itself.
    Ok(engine.tokenizer("a prompt in text")?.encode(&template.render(messages, true)?, false)?)
}

/// The tokens of one question: through the chat template where the model has one, unless `raw`.
///
/// # Errors
/// If the model has no tokenizer, or there is a system message and no template to put it in.
pub fn one_turn(engine: &Engine, system: Option<&str>, user: &str, raw: bool) -> Result<Vec<u32>, CliError> {
    match system {
        _ if !raw && engine.chat_template().is_some() => {
            let system = system.map(|text| ChatMessage::new("system", text));
            let messages: Vec<_> = system.into_iter().chain([ChatMessage::new("user", user)]).collect();
            conversation(engine, &messages)
        }
        None => Ok(engine.tokenizer("a prompt in text")?.encode(user, true)?),
        Some(_) if raw => Err(CliError::Usage("--system and --raw exclude each other".into())),
        Some(_) => {
            Err(CliError::Usage("--system needs a chat template, which this model does not have".into()))
        }
    }
}
