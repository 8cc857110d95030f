//! Windows of tokens: cut from a text, or as a safetensors file has them.

use interleaf_model::{Digest, Tokenizer};
use interleaf_runtime::EngineError;
use safetensors::{Dtype, SafeTensors};

use crate::CalibrateError;

/// Windows of one length, each to be run on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Where they are from, for messages and for the file of a calibration.
    pub text: String,
    /// What they are from, as bytes ([`Digest::of_bytes`]).
    pub digest: Digest,
    /// The tokens of each.
    pub rows: Vec<Vec<u32>>,
}

impl Windows {
    /// The same, with what turns an activated LoRA on behind the first token of each window that does not have it, since it acts
    /// on nothing before it. They stay as long as they are; one that has no room for it stays as it is.
    #[must_use]
    pub fn invoking(mut self, invocation: &[u32]) -> Self {
        let mut changed = 0;
        for row in &mut self.rows {
            let has_it = row.windows(invocation.len().max(1)).any(|tokens| tokens == invocation);
            let length = row.len();
            if has_it || length < 2 + invocation.len() {
                continue;
            }
            row.splice(1..1, invocation.iter().copied());
            row.truncate(length);
            changed += 1;
        }
        if changed > 0 {
            self.text = format!("{}, the adapter's invocation put into {changed} windows of it", self.text);
        }
        self
    }
}

/// Cuts a text into windows of `length` tokens. If the tokenizer puts tokens before a text, they start every window. What is
/// left at the end is not a window, unless there is no other.
///
/// # Errors
/// If the text cannot be encoded.
pub fn cut(tokenizer: &Tokenizer, name: &str, text: &str, length: usize) -> Result<Windows, CalibrateError> {
    let plain = tokenizer.encode(text, false).map_err(EngineError::from)?;
    let marked = tokenizer.encode(text, true).map_err(EngineError::from)?;
    let before = marked.len().checked_sub(plain.len()).filter(|n| marked[*n..] == plain[..]).unwrap_or(0);
    let start = &marked[..before];
    let pieces = plain.chunks(length.saturating_sub(before).max(1));
    let mut rows: Vec<Vec<u32>> = pieces.map(|piece| [start, piece].concat()).collect();
    if rows.len() > 1 && rows.last().is_some_and(|last| last.len() < length) {
        rows.pop();
    }
    Ok(Windows { text: name.into(), digest: Digest::of_bytes(text.as_bytes()), rows })
}

/// Reads the windows of a tensor of 32-bit integers, windows × tokens.
///
/// # Errors
/// If the bytes are no safetensors file with such a tensor, or a token is negative.
pub fn read_windows(text: &str, bytes: &[u8], tensor: &str) -> Result<Windows, CalibrateError> {
    let refused = |field: &'static str, expected: String, found: String| CalibrateError::Windows {
        text: text.into(),
        field,
        expected,
        found,
    };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| refused("the file", "safetensors".into(), e.to_string()))?;
    let view = file
        .tensor(tensor)
        .map_err(|_| refused("a tensor", tensor.to_owned(), format!("{:?}", file.names())))?;
    let shape = view.shape();
    let [_, length] = *shape else {
        return Err(refused("input_ids", "windows × tokens".into(), format!("{shape:?}")));
    };
    if view.dtype() != Dtype::I32 {
        return Err(refused("input_ids", "I32".into(), format!("{:?}", view.dtype())));
    }
    let mut tokens = Vec::with_capacity(view.data().len() / 4);
    for bytes in view.data().chunks_exact(4) {
        let id = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let id = u32::try_from(id).map_err(|_| refused("a token", "0 or above".into(), id.to_string()))?;
        tokens.push(id);
    }
    let rows = tokens.chunks(length.max(1)).map(<[u32]>::to_vec).collect();
    Ok(Windows { text: text.into(), digest: Digest::of_bytes(bytes), rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_do_not_invoke_an_adapter_are_made_to() {
        let rows = vec![vec![1, 2, 3, 4, 5, 6], vec![1, 5, 7, 8, 2, 3], vec![1, 2, 3]];
        let windows = Windows { text: "a book".into(), digest: Digest::of_bytes(b"a"), rows };
        let found = windows.clone().invoking(&[7, 8]);
        assert_eq!(found.rows, [vec![1, 7, 8, 2, 3, 4], vec![1, 5, 7, 8, 2, 3], vec![1, 2, 3]]);
        assert_eq!(found.text, "a book, the adapter's invocation put into 1 windows of it");
        assert_eq!(found.digest, windows.digest, "it is the same text");
        let again = found.clone().invoking(&[7, 8]);
        assert_eq!(again, found);
    }
}
