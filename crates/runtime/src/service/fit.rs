//! What of a context is kept where it, a prompt and the answer do not fit together.

use interleaf_contract::CHUNK_TOKENS;

use super::{ServiceError, WhenFull};

/// A context with a prompt behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fitted {
    pub tokens: Vec<u32>,
    /// How many of the context's had to go.
    pub forgotten: usize,
}

/// Puts a prompt behind a context so that an answer fits behind them, of `answer` tokens or half of what there is room for if that
/// is less.
///
/// What goes is in the middle: the first tokens, whole chunks that are in the cache, and half of what there is room for besides,
/// the most recent, stay. So it is not soon necessary again, each time of which what stays behind the first tokens is computed
/// anew.
///
/// # Errors
/// If they do not fit and nothing may go, or not enough.
pub fn fit(
    context: &[u32],
    prompt: &[u32],
    answer: usize,
    limit: usize,
    when_full: WhenFull,
) -> Result<Fitted, ServiceError> {
    let whole = context.len() + prompt.len();
    let (room, first) = match when_full {
        // What does not fit of the answer is not said.
        WhenFull::Refuse => (limit, 0),
        WhenFull::KeepFirstAndRecent { first } => (limit - answer.min(limit / 2), first),
    };
    if whole <= room {
        return Ok(Fitted { tokens: [context, prompt].concat(), forgotten: 0 });
    }
    let first = first.min(context.len()).next_multiple_of(CHUNK_TOKENS).min(context.len());
    let least = first + prompt.len();
    if when_full == WhenFull::Refuse || least > room {
        let needed = if when_full == WhenFull::Refuse { whole } else { least };
        return Err(ServiceError::ContextFull { needed, limit: room });
    }
    let recent = ((room - first) / 2).saturating_sub(prompt.len()).min(context.len() - first);
    let tokens = [&context[..first], &context[context.len() - recent..], prompt].concat();
    Ok(Fitted { forgotten: whole - tokens.len(), tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: WhenFull = WhenFull::KeepFirstAndRecent { first: 20 };

    fn text(tokens: std::ops::Range<u32>) -> Vec<u32> {
        tokens.collect()
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        for when_full in [WhenFull::Refuse, KEEP] {
            let fitted = fit(&text(0..40), &text(40..50), 14, 64, when_full).unwrap();
            assert_eq!(fitted, Fitted { tokens: text(0..50), forgotten: 0 });
        }
    }

    #[test]
    fn the_middle_goes_and_what_is_left_has_room_to_grow() {
        let fitted = fit(&text(0..200), &text(200..210), 28, 228, KEEP).unwrap();
        // 32 of the beginning, and half of the 168 that there are besides.
        let tokens = [text(0..32), text(126..210)].concat();
        assert_eq!(fitted, Fitted { forgotten: 94, tokens });
    }

    #[test]
    fn what_may_not_go_is_not_cut() {
        let refused = |prompt: u32, when_full| fit(&text(0..50), &text(0..prompt), 8, 64, when_full);
        let is_full = |result: Result<Fitted, ServiceError>, most: usize| matches!(result, Err(ServiceError::ContextFull { limit, needed }) if limit == most && needed > most);
        assert!(is_full(refused(20, WhenFull::Refuse), 64));
        assert!(is_full(refused(40, KEEP), 56));
        let long = fit(&[], &text(0..100), 8, 64, KEEP);
        assert!(is_full(long, 56));
        let all = WhenFull::KeepFirstAndRecent { first: usize::MAX };
        assert!(is_full(refused(40, all), 56));
    }

    #[test]
    fn a_long_answer_takes_half_of_the_room_at_most() {
        let fitted = fit(&text(0..30), &text(30..32), 1000, 64, KEEP).unwrap();
        assert_eq!(fitted.forgotten, 0);
    }
}
