//! Text from tokens that come one at a time: whole characters only, at a cost linear in their number.
//!
//! A token may end in the middle of a character, and some decoders treat the first token of a text
//! differently. So what is decoded is a short window: the tokens shown last, for context, and those
//! after them.

use super::Tokenizer;
use crate::ModelError;

/// What decoders write for bytes that are no UTF-8, and so for a character's first bytes.
const INCOMPLETE: char = '\u{FFFD}';

/// Tokens after which a window is closed though its text does not end with a whole character. Text
/// that is UTF-8 at all comes to a token boundary between characters far sooner.
const LONGEST_WINDOW: usize = 256;

/// Decodes a stream of tokens. Its pieces make up the text of all tokens.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    /// The tokens of the window.
    window: Vec<u32>,
    /// How many of them are there for context: the text up to their end has been returned.
    context: usize,
    /// The part of the window's text that has been returned.
    shown: String,
}

impl TextStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, window: Vec::new(), context: 0, shown: String::new() }
    }

    /// Takes a token and returns the text that is complete with it, which may be empty. While the
    /// text ends in U+FFFD the rest of a character may follow, so that part is held back.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, ModelError> {
        self.window.push(token);
        if self.window.len() > LONGEST_WINDOW {
            return self.finish();
        }
        let text = self.decode(&self.window)?;
        let complete = text.trim_end_matches(INCOMPLETE);
        if complete.len() < text.len() {
            let new = complete.strip_prefix(&self.shown).unwrap_or_default().to_owned();
            self.shown.push_str(&new);
            return Ok(new);
        }
        let new = self.after_shown(&text)?;
        if !new.is_empty() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.shown = self.decode(&self.window)?;
        }
        Ok(new)
    }

    /// Returns what was held back, with U+FFFD for a character that was not finished, and starts over.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        let text = self.decode(&self.window)?;
        let rest = self.after_shown(&text)?;
        self.window.clear();
        self.context = 0;
        self.shown.clear();
        Ok(rest)
    }

    /// The part of the window's text that was not returned yet. Some decoders go back on text when
    /// bytes that follow make it no UTF-8; what was returned stays, and the tokens after it are
    /// decoded on their own.
    fn after_shown(&self, text: &str) -> Result<String, ModelError> {
        match text.strip_prefix(&self.shown) {
            Some(rest) => Ok(rest.to_owned()),
            None => self.decode(&self.window[self.context..]),
        }
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.tokenizer.decode(tokens, self.skip_special_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, byte_fallback_tokenizer, byte_level_tokenizer};
    use proptest::prelude::*;
    use serde_json::Value;

    fn tokenizer(file: &Value) -> Tokenizer {
        let folder = Folder::new();
        folder.write("tokenizer.json", file.to_string());
        Tokenizer::open(&folder.source(), usize::MAX).unwrap().unwrap()
    }

    /// What each token adds, and what the end does.
    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream(true);
        let mut pieces: Vec<_> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = tokenizer(&byte_level_tokenizer());
        let ids = tokenizer.encode("é日🦀!", false).unwrap();
        assert_eq!(pieces(&tokenizer, &ids), ["", "é", "", "", "日", "", "", "", "🦀", "!", ""]);
    }

    #[test]
    fn an_unfinished_character_is_flushed_at_the_end() {
        let tokenizer = tokenizer(&byte_level_tokenizer());
        let ids = tokenizer.encode("a🦀", false).unwrap();
        assert_eq!(pieces(&tokenizer, &ids[..3]), ["a", "", "", "\u{FFFD}"]);
        let mut stream = tokenizer.stream(true);
        for id in &ids[..3] {
            stream.push(*id).unwrap();
        }
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
        assert_eq!(stream.finish().unwrap(), "");
        assert_eq!(stream.push(ids[0]).unwrap(), "a");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hold_up_what_follows() {
        let tokenizer = tokenizer(&byte_level_tokenizer());
        let broken = tokenizer.encode("🦀", false).unwrap()[0];
        let ids: Vec<u32> = std::iter::repeat_n(broken, 3 * LONGEST_WINDOW).collect();
        let text = pieces(&tokenizer, &ids).concat();
        assert_eq!(text, "\u{FFFD}".repeat(ids.len()));
        let then_text = [vec![broken], tokenizer.encode("ok", false).unwrap()].concat();
        assert_eq!(pieces(&tokenizer, &then_text), ["", "\u{FFFD}o", "k", ""]);
    }

    #[test]
    fn special_tokens_are_skipped_or_shown() {
        let tokenizer = tokenizer(&byte_level_tokenizer());
        let ids = tokenizer.encode("a<s>b", false).unwrap();
        assert_eq!(pieces(&tokenizer, &ids), ["a", "", "b", ""]);
        let mut stream = tokenizer.stream(false);
        let shown: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(shown, "a<s>b");
    }

    #[test]
    fn spaces_at_the_front_of_tokens_stay() {
        let tokenizer = tokenizer(&byte_fallback_tokenizer());
        let word = tokenizer.token_id("▁a").unwrap();
        // The decoder strips one space at the front of a text, and only there.
        assert_eq!(pieces(&tokenizer, &[word, word, word]), ["a", " a", " a", ""]);
    }

    #[test]
    fn fallback_bytes_come_whole() {
        let tokenizer = tokenizer(&byte_fallback_tokenizer());
        let byte = |b: u8| tokenizer.token_id(&format!("<0x{b:02X}>")).unwrap();
        let bytes: Vec<u32> = "日é".bytes().map(byte).collect();
        assert_eq!(pieces(&tokenizer, &bytes), ["", "", "日", "", "é", ""]);
        // A run of bytes that turns out to be no text takes nothing back that was shown.
        let word = tokenizer.token_id("▁a").unwrap();
        let run = [&bytes[..3], &[byte(0xE6), word]].concat();
        let shown = pieces(&tokenizer, &run);
        assert_eq!(shown[..4], ["", "", "日", ""]);
        assert!(shown[4].ends_with(" a"), "{shown:?}");
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_text(text in "\\PC{0,40}", cut in 0usize..200) {
            let tokenizer = tokenizer(&byte_level_tokenizer());
            let mut ids = tokenizer.encode(&text, false).unwrap();
            ids.truncate(cut);
            let pieces = pieces(&tokenizer, &ids);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
            let (_, streamed) = pieces.split_last().unwrap();
            prop_assert!(text.starts_with(&streamed.concat()));
        }
    }
}
