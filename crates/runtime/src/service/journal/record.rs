//! The bytes of a context's file: who it belongs to, then one record for each change of its tokens. All numbers are little-endian.
//!
//! ```text
//! header   "ILEAFCX1" · model digest 32 · id u64 · length of the app's name u32 · name · check 8
//! record   length of its tokens u32 · kept u32 · tokens u32 … · check 8
//! ```
//!
//! A record says: of what there was the first `kept` tokens stay, and these follow. A check is the beginning of the BLAKE3 digest of
//! the file's own header, of where the record begins and of its bytes, so that no record is taken for another file's, or for one at
//! another place.

use interleaf_model::Digest;

use crate::checked::{CHECK, check};

/// What a file begins with; the last character counts versions.
pub const MAGIC: [u8; 8] = *b"ILEAFCX1";

const FIXED: usize = 8 + 32 + 8 + 4;

/// The longest name of an app, in bytes.
pub const MOST_NAME: usize = 1 << 12;

/// Whose tokens a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub model: Digest,
    pub id: u64,
    pub app: String,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], self.model.as_bytes(), &self.id.to_le_bytes()].concat();
        bytes.extend((self.app.len() as u32).to_le_bytes());
        bytes.extend(self.app.as_bytes());
        let check = check(&[&bytes]);
        bytes.extend(check);
        bytes
    }

    /// The header that a file begins with, and its length; `None` if it begins with none that is whole.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let fixed = bytes.get(..FIXED)?;
        let name = u32::from_le_bytes(fixed[48..52].try_into().ok()?) as usize;
        let end = FIXED + name;
        if fixed[..8] != MAGIC || name > MOST_NAME || bytes.get(end..end + CHECK)? != check(&[&bytes[..end]])
        {
            return None;
        }
        let model = Digest::from_bytes(fixed[8..40].try_into().ok()?);
        let id = u64::from_le_bytes(fixed[40..48].try_into().ok()?);
        let app = String::from_utf8(bytes[FIXED..end].to_vec()).ok()?;
        Some((Self { model, id, app }, end + CHECK))
    }
}

/// A record that begins at `at` in a file of this header.
pub fn encode(header: &[u8], at: u64, kept: usize, tokens: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + 4 * tokens.len() + CHECK);
    bytes.extend((tokens.len() as u32).to_le_bytes());
    bytes.extend((kept as u32).to_le_bytes());
    tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
    let check = check(&[header, &at.to_le_bytes(), &bytes]);
    bytes.extend(check);
    bytes
}

/// Tokens as the records behind a header leave them, and how many bytes of the file that is: what is behind these is no record, or
/// none that is whole.
pub fn replay(bytes: &[u8], header: usize) -> (Vec<u32>, usize) {
    let (mut tokens, mut at) = (Vec::new(), header);
    while let Some((kept, new, length)) = record(bytes, header, at) {
        if kept > tokens.len() {
            break;
        }
        tokens.truncate(kept);
        tokens.extend(new);
        at += length;
    }
    (tokens, at)
}

fn record(bytes: &[u8], header: usize, at: usize) -> Option<(usize, Vec<u32>, usize)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (count, kept) = (number(at)? as usize, number(at + 4)? as usize);
    let end = at.checked_add(8)?.checked_add(count.checked_mul(4)?)?;
    let own = bytes.get(at..end)?;
    if bytes.get(end..end + CHECK)? != check(&[&bytes[..header], &(at as u64).to_le_bytes(), own]) {
        return None;
    }
    let tokens = own[8..].as_chunks().0.iter().map(|token| u32::from_le_bytes(*token)).collect();
    Some((kept, tokens, own.len() + CHECK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Header, Vec<u8>, usize) {
        let header = Header { model: Digest::from_bytes([7; 32]), id: 9, app: "org.example.mail".into() };
        let mut bytes = header.encode();
        let start = bytes.len();
        for (kept, tokens) in [(0, vec![1, 2, 3]), (2, vec![9, 10]), (4, vec![])] {
            let record = encode(&bytes[..start], bytes.len() as u64, kept, &tokens);
            bytes.extend(record);
        }
        (header, bytes, start)
    }

    #[test]
    fn records_say_what_stays_and_what_follows() {
        let (header, bytes, start) = file();
        assert_eq!(Header::decode(&bytes), Some((header, start)));
        assert_eq!(replay(&bytes, start), (vec![1, 2, 9, 10], bytes.len()));
    }

    #[test]
    fn whatever_byte_is_cut_off_what_was_whole_before_it_is_there() {
        let (_, bytes, start) = file();
        let ends: Vec<usize> =
            (start..=bytes.len()).filter(|end| replay(&bytes[..*end], start).1 == *end).collect();
        assert_eq!(ends.len(), 4);
        for end in start..bytes.len() {
            let whole = ends.iter().rfind(|whole| **whole <= end).copied().unwrap();
            assert_eq!(replay(&bytes[..end], start), replay(&bytes[..whole], start), "{end}");
        }
        assert!((0..start).all(|end| Header::decode(&bytes[..end]).is_none()));
    }

    #[test]
    fn no_flipped_bit_is_taken_for_tokens() {
        let (_, bytes, start) = file();
        let whole = replay(&bytes, start);
        for bit in 0..8 * bytes.len() {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if bit / 8 < start {
                assert_eq!(Header::decode(&bytes), None, "{bit}");
            } else {
                assert!(replay(&bytes, start).1 < whole.1, "{bit}");
            }
        }
    }

    #[test]
    fn a_record_of_another_place_is_none() {
        let (_, mut bytes, start) = file();
        let first = bytes[start..start + 28].to_vec();
        bytes.truncate(start);
        bytes.extend([&first[..], &first[..]].concat());
        assert_eq!(replay(&bytes, start), (vec![1, 2, 3], start + 28));
    }
}
