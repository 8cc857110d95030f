//! How a model's makers suggest to generate: `generation_config.json`, and the tokens to stop at.
//!
//! Suggestions only: nothing here samples.

use crate::json::Object;
use crate::{ModelError, Source};

const FILE: &str = "generation_config.json";

/// The defaults of `generation_config.json`. `None` where it, or the whole file, is silent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// The tokens that end an answer: those of `generation_config.json` if it names any, else those
    /// of `config.json`.
    pub eos: Vec<u32>,
    /// Whether to sample; greedy if not.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep the shortest run of most likely tokens whose probabilities reach it.
    pub top_p: Option<f32>,
    /// Keep tokens at least this share as likely as the most likely one.
    pub min_p: Option<f32>,
    /// Divides positive logits of tokens already seen, multiplies negative ones.
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    /// Reads the file if there is one. `eos` is what `config.json` names.
    pub(crate) fn read(source: &Source, eos: &[u32]) -> Result<Self, ModelError> {
        if !source.exists(FILE) {
            return Ok(Self { eos: eos.to_vec(), ..Self::default() });
        }
        let config = Object::read(source, FILE)?;
        let number = |field, expected, accepts: fn(f64) -> bool| match config.number(field)? {
            Some(n) if !accepts(n) => Err(config.error(field, expected)),
            n => Ok(n.map(|n| n as f32)),
        };
        let share = |n| (0.0..=1.0).contains(&n);
        Ok(Self {
            eos: config.token_ids("eos_token_id")?.unwrap_or_else(|| eos.to_vec()),
            do_sample: config.boolean("do_sample")?,
            temperature: number("temperature", "0 or above", |n| n >= 0.0)?,
            top_k: config.integer("top_k")?,
            top_p: number("top_p", "from 0 to 1", share)?,
            min_p: number("min_p", "from 0 to 1", share)?,
            repetition_penalty: number("repetition_penalty", "above 0", |n| n > 0.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Folder;

    fn read(text: &str) -> Result<GenerationDefaults, ModelError> {
        let folder = Folder::new();
        folder.write(FILE, text);
        GenerationDefaults::read(&folder.source(), &[2])
    }

    #[test]
    fn its_own_list_of_end_tokens_wins() {
        assert_eq!(read(r#"{"eos_token_id": [128001, 128008]}"#).unwrap().eos, [128001, 128008]);
        assert_eq!(read(r#"{"eos_token_id": null}"#).unwrap().eos, [2]);
        assert_eq!(read("{}").unwrap(), GenerationDefaults { eos: vec![2], ..Default::default() });
        let absent = GenerationDefaults::read(&Folder::new().source(), &[2]).unwrap();
        assert_eq!(absent.eos, [2]);
    }

    #[test]
    fn reads_what_is_said_and_refuses_what_makes_no_sense() {
        let said = read(
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}"#,
        );
        let said = said.unwrap();
        assert_eq!((said.do_sample, said.temperature, said.top_k), (Some(true), Some(0.6), Some(50)));
        assert_eq!((said.top_p, said.min_p, said.repetition_penalty), (Some(0.9), None, Some(1.1)));
        for (text, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"top_k": 0.5}"#, "top_k"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains("generation_config.json") && message.contains(field), "{message}");
        }
    }
}
