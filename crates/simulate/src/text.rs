//! Text that is described instead of stored: streams of pseudo-random tokens, of which a prompt takes the first so many,
//! one after the other.

/// Tokens that there are: 2¹⁵, about Llama 2's 32,000.
pub const VOCABULARY: u32 = 1 << 15;

/// Tokens that one mixed word gives, 16 bits each, of which 15 count.
const PER_WORD: usize = 4;

/// The first tokens of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Which stream.
    pub source: u64,
    /// How many tokens are taken of it.
    pub tokens: u32,
}

/// SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), after one
/// step of its counter, so that 0 is not left as it is.
pub(crate) const fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Adds the tokens of a text, each below [`VOCABULARY`]. The same segments always give the same tokens, on every platform.
/// Streams of different sources agree in a place by chance alone, once in 32,768.
pub fn tokens(text: &[Segment], into: &mut Vec<u32>) {
    for segment in text {
        let from = into.len();
        into.resize(from + segment.tokens as usize, 0);
        let key = mix(segment.source);
        let (words, rest) = into[from..].as_chunks_mut::<PER_WORD>();
        let word = |place: usize| {
            let word = mix(key.wrapping_add(place as u64));
            [word, word >> 16, word >> 32, word >> 48].map(|bits| bits as u32 % VOCABULARY)
        };
        let whole = words.len();
        for (place, four) in words.iter_mut().enumerate() {
            *four = word(place);
        }
        for (token, drawn) in rest.iter_mut().zip(word(whole)) {
            *token = drawn;
        }
    }
}

/// Tokens of a text.
#[must_use]
pub fn length(text: &[Segment]) -> u64 {
    text.iter().map(|segment| u64::from(segment.tokens)).sum()
}

/// Tokens that two texts begin with in common, from their descriptions alone. Behind these they agree by chance alone.
#[must_use]
pub fn shared_prefix(a: &[Segment], b: &[Segment]) -> u64 {
    let mut shared = 0;
    for (x, y) in a.iter().zip(b) {
        if x.source != y.source {
            break;
        }
        shared += u64::from(x.tokens.min(y.tokens));
        if x.tokens != y.tokens {
            break;
        }
    }
    shared
}

/// Where streams that prompts have in common are numbered from 0, new text is numbered from here.
const FIRST_NEW: u64 = 1 << 32;

/// Gives text that nobody has written yet.
#[derive(Debug, Clone)]
pub(crate) struct Writer(u64);

impl Writer {
    pub const fn new() -> Self {
        Self(FIRST_NEW)
    }

    /// The first tokens of a stream of its own.
    pub const fn write(&mut self, tokens: u32) -> Segment {
        let source = self.0;
        self.0 += 1;
        Segment { source, tokens }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expand(text: &[Segment]) -> Vec<u32> {
        let mut all = Vec::new();
        tokens(text, &mut all);
        all
    }

    #[test]
    fn tokens_are_these_for_ever() {
        let text = [Segment { source: 0, tokens: 5 }, Segment { source: FIRST_NEW, tokens: 2 }];
        assert_eq!(expand(&text), GOLDEN);
    }

    const GOLDEN: [u32; 7] = [32367, 19737, 23855, 9990, 27007, 11598, 15200];

    #[test]
    fn tokens_are_even_over_the_vocabulary() {
        let all = expand(&[Segment { source: 3, tokens: 1 << 20 }]);
        let mut counts = [0_u32; 256];
        for token in &all {
            assert!(*token < VOCABULARY);
            counts[(token % 256) as usize] += 1;
        }
        let expected = f64::from(1 << 12);
        let square: f64 = counts.iter().map(|c| (f64::from(*c) - expected).powi(2) / expected).sum();
        // Chi-square of 255 degrees of freedom: 255 ± 23; 5 of these away.
        assert!((255.0 - 115.0..255.0 + 115.0).contains(&square), "{square}");
    }

    #[test]
    fn sources_differ_from_their_first_token_on() {
        let first = |source| expand(&[Segment { source, tokens: 1 }])[0];
        let same = (0..100_000).filter(|source| first(*source) == first(FIRST_NEW + source)).count();
        // 3 are expected by chance.
        assert!(same < 15, "{same}");
    }

    fn texts() -> impl Strategy<Value = (Vec<Segment>, Vec<Segment>)> {
        // Few sources and lengths, so that texts often begin alike.
        let segment = (0_u64..3, 1_u32..7).prop_map(|(source, tokens)| Segment { source, tokens });
        let text = prop::collection::vec(segment, 0..6);
        (text.clone(), text)
    }

    proptest! {
        #[test]
        fn texts_begin_alike_as_far_as_their_segments_say((a, b) in texts()) {
            let (x, y) = (expand(&a), expand(&b));
            prop_assert_eq!(x.len() as u64, length(&a));
            let shared = shared_prefix(&a, &b) as usize;
            prop_assert_eq!(&x[..shared], &y[..shared]);
            // Of these few short streams no two agree where one goes on and the other begins anew, unless it is the same
            // stream from its start that follows.
            if a == b {
                prop_assert_eq!(shared, x.len());
            } else if shared < x.len() && shared < y.len() {
                prop_assert_ne!(x[shared], y[shared]);
            }
        }

        #[test]
        fn expanding_in_parts_is_expanding_at_once((a, b) in texts()) {
            let mut parts = expand(&a);
            tokens(&b, &mut parts);
            prop_assert_eq!(parts, expand(&[a, b].concat()));
        }
    }
}
