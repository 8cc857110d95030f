//! The tokenizer of a model: text to tokens and back.
//!
//! A thin wrapper over the `tokenizers` crate that keeps its types out of the API. Text that arrives a
//! token at a time is [`TextStream`]'s business.

mod stream;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use stream::TextStream;

use serde::de::IgnoredAny;

use crate::{ModelError, Source};

const FILE: &str = "tokenizer.json";

/// A tokenizer. Clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    file: Arc<str>,
    inner: Arc<tokenizers::Tokenizer>,
    /// Rows of the model's embedding: tokens from this number on do not exist for it.
    rows: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the vocabulary.
        f.debug_struct("Tokenizer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Opens the tokenizer of a model whose embedding has so many rows.
    ///
    /// A special token beyond them is let pass, since text models cut from multimodal ones have some (Gemma 3
    /// 1B's `<image_soft_token>`): it is refused where a text has it. Any other is refused here.
    pub(crate) fn open(source: &Source, rows: usize) -> Result<Option<Self>, ModelError> {
        if !source.exists(FILE) {
            return Ok(None);
        }
        let file: Arc<str> = source.describe(FILE).into();
        let text = source.read_text(FILE)?;
        // The crate panics on some texts that are no JSON.
        if let Err(source) = serde_json::from_str::<IgnoredAny>(&text) {
            return Err(ModelError::Json { file: file.to_string(), source });
        }
        let inner = guard(&file, || {
            let mut inner: tokenizers::Tokenizer = text.parse()?;
            // Training leaves these in the file; Hugging Face turns them off unless a call asks for them.
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(inner)
        })?;
        // Once: it is made anew by each call.
        let added = inner.get_added_tokens_decoder();
        let special = |id: u32| added.get(&id).is_some_and(|token| token.special);
        let vocabulary = inner.get_vocab(true).into_iter();
        let largest = vocabulary.filter(|(_, id)| !special(*id)).max_by_key(|(_, id)| *id);
        let tokenizer = Self { file, inner: Arc::new(inner), rows };
        if let Some((token, id)) = largest {
            tokenizer.check(id, || token)?;
        }
        tokenizer.encode("", true)?;
        Ok(Some(tokenizer))
    }

    /// The tokens of a text. `add_special_tokens` adds what the model expects around a text, such as
    /// a first token; special tokens written out in the text become tokens either way.
    ///
    /// # Errors
    /// If the tokenizer cannot represent the text, or the text has a special token that the model does not.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, ModelError> {
        let encode = || Ok(self.inner.encode_fast(text, add_special_tokens)?.get_ids().to_vec());
        let ids = guard(&self.file, encode)?;
        for &id in &ids {
            self.check(id, || self.inner.id_to_token(id).unwrap_or_default())?;
        }
        Ok(ids)
    }

    fn check(&self, id: u32, token: impl FnOnce() -> String) -> Result<(), ModelError> {
        if usize::try_from(id).is_ok_and(|id| id < self.rows) {
            return Ok(());
        }
        let (file, token, rows) = (self.file.to_string(), token(), self.rows);
        Err(ModelError::Vocabulary { file, token, id, rows })
    }

    /// The text of tokens. Bytes that are no UTF-8 become U+FFFD; tokens that the tokenizer does not
    /// know are left out, and special ones if `skip_special_tokens`.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, ModelError> {
        guard(&self.file, || self.inner.decode(ids, skip_special_tokens))
    }

    /// How many tokens there are, added ones included. The embedding may have more rows, and special tokens
    /// may have none.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token written as the vocabulary has it, such as `<|eos|>`.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether another one makes the same tokens of every text, and the same text of tokens: by what their files say, however
    /// it is written there.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let around = |Self { inner, .. }: &Self| {
            let before = (inner.get_normalizer(), inner.get_pre_tokenizer());
            let after = (inner.get_post_processor(), inner.get_decoder());
            serde_json::to_value((inner.get_added_vocabulary(), before, after)).ok()
        };
        self.inner.get_model() == other.inner.get_model()
            && around(self).is_some_and(|own| around(other) == Some(own))
    }

    /// A stream that turns tokens into text as they come.
    #[must_use]
    pub fn stream(&self, skip_special_tokens: bool) -> TextStream {
        TextStream::new(self.clone(), skip_special_tokens)
    }
}

/// Calls the `tokenizers` crate, which panics on some files that contradict themselves: here that is an
/// error like any other.
fn guard<T>(file: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    let error = |reason| ModelError::Tokenizer { file: file.into(), reason };
    // Nothing is left half changed: a tokenizer is only read once it is built, but for its caches,
    // which skip what they cannot lock.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| error(e.to_string())),
        Err(_) => Err(error("the tokenizer contradicts itself".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, byte_level_tokenizer};
    use serde_json::json;

    fn open(text: &str) -> Result<Option<Tokenizer>, ModelError> {
        let folder = Folder::new();
        folder.write(FILE, text);
        Tokenizer::open(&folder.source(), 257)
    }

    #[test]
    fn encodes_and_decodes() {
        let tokenizer = open(&byte_level_tokenizer().to_string()).unwrap().unwrap();
        let bos = tokenizer.token_id("<s>").unwrap();
        let ids = tokenizer.encode("naïve 日", false).unwrap();
        assert_eq!(ids.len(), "naïve 日".len());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "naïve 日");
        let with_bos = tokenizer.encode("a", true).unwrap();
        assert_eq!((with_bos[0], with_bos.len()), (bos, 2));
        assert_eq!(tokenizer.decode(&with_bos, true).unwrap(), "a");
        assert_eq!(tokenizer.decode(&with_bos, false).unwrap(), "<s>a");
        assert_eq!(tokenizer.encode("<s>", false).unwrap(), [bos]);
        assert_eq!(tokenizer.vocab_size(), 257);
        assert_eq!(tokenizer.token_id("absent"), None);
        assert_eq!(tokenizer.decode(&[u32::MAX], false).unwrap(), "");
    }

    #[test]
    fn tokenizers_are_the_same_by_what_they_say() {
        let file = byte_level_tokenizer();
        let one = open(&file.to_string()).unwrap().unwrap();
        let is_same = |file: &serde_json::Value| {
            one.is_same_as(&open(&serde_json::to_string_pretty(file).unwrap()).unwrap().unwrap())
        };
        assert!(is_same(&file), "with white space");
        let mut other = file.clone();
        let vocabulary = &mut other["model"]["vocab"];
        (vocabulary["a"], vocabulary["b"]) = (vocabulary["b"].clone(), vocabulary["a"].clone());
        assert!(!is_same(&other), "two tokens have changed places");
        let mut other = file.clone();
        other["post_processor"] = serde_json::Value::Null;
        assert!(!is_same(&other), "no token before a text");
    }

    #[test]
    fn truncation_and_padding_of_the_training_are_off() {
        let mut file = byte_level_tokenizer();
        file["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
        let tokenizer = open(&file.to_string()).unwrap().unwrap();
        assert_eq!(tokenizer.encode("abcd", false).unwrap().len(), 4);
    }

    #[test]
    fn names_the_file_that_is_no_tokenizer() {
        for text in ["", "{", "{\"decoder\": {\"type\" \"Fuse\"}}"] {
            let error = open(text).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json: not JSON"), "{error}");
        }
        for text in ["{}", "{\"model\": {\"type\": \"BPE\"}}"] {
            let error = open(text).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json: tokenizer: "), "{error}");
        }
        assert!(Tokenizer::open(&Folder::new().source(), 257).unwrap().is_none());
    }

    #[test]
    fn tokens_without_a_row_in_the_embedding_are_refused() {
        let mut file = byte_level_tokenizer();
        assert!(open(&file.to_string()).is_ok());
        // The largest number decides, not how many there are.
        file["model"]["vocab"]["!"] = json!(300);
        let error = open(&file.to_string()).unwrap_err().to_string();
        let expected = "tokenizer.json: token \"!\" is number 300, but the embedding has 257 rows";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn special_tokens_without_a_row_are_refused_where_a_text_has_them() {
        let mut file = byte_level_tokenizer();
        let token = |id: u32, special: bool| {
            json!({"id": id, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special})
        };
        let others = file["added_tokens"].as_array().unwrap().clone();
        file["added_tokens"] = others.iter().cloned().chain([token(257, true)]).collect();
        let tokenizer = open(&file.to_string()).unwrap().unwrap();
        assert_eq!(tokenizer.encode("image", false).unwrap().len(), 5);
        let error = tokenizer.encode("an <image>", false).unwrap_err().to_string();
        assert!(
            error.ends_with("token \"<image>\" is number 257, but the embedding has 257 rows"),
            "{error}"
        );
        file["added_tokens"] = others.into_iter().chain([token(257, false)]).collect();
        assert!(open(&file.to_string()).is_err(), "a word of the language needs its row");
    }

    #[test]
    fn a_tokenizer_that_contradicts_itself_is_an_error() {
        let mut file = byte_level_tokenizer();
        file["post_processor"]["special_tokens"] = json!({});
        let error = open(&file.to_string()).unwrap_err();
        assert!(matches!(&error, ModelError::Tokenizer { .. }), "{error}");
    }
}
