//! Stop strings in streamed text, also where they cross token borders.

/// Passes text on until a stop string appears; holds back what may be the beginning of one.
#[derive(Debug, Clone, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a filter lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text to show.
    pub text: String,
    /// Whether a stop string was found; it and what follows are dropped.
    pub stopped: bool,
}

impl StopFilter {
    /// A filter for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - keep);
        Passed { text: std::mem::replace(&mut self.held, held), stopped: false }
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest).rev().find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            let passed = filter.push(piece);
            shown.push_str(&passed.text);
            if passed.stopped {
                return (shown, true);
            }
        }
        shown.push_str(&filter.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_across_three_pieces_is_found_and_dropped() {
        assert_eq!(run(&["\n\nUser:"], &["fine.\n", "\nUs", "er: more"]), ("fine.".into(), true));
    }

    #[test]
    fn what_only_begins_like_a_stop_is_shown_in_the_end() {
        assert_eq!(run(&["END"], &["the E", "N", "d"]), ("the ENd".into(), false));
        assert_eq!(run(&["END"], &["EN"]), ("EN".into(), false));
    }

    #[test]
    fn the_earliest_stop_wins_and_empty_ones_are_ignored() {
        assert_eq!(run(&["", "b", "ab"], &["xab"]), ("x".into(), true));
        assert_eq!(run(&[""], &["x"]), ("x".into(), false));
    }

    #[test]
    fn a_held_beginning_is_cut_only_at_a_character_border() {
        // "é" is two bytes; the stop begins with the first byte of another two-byte character.
        assert_eq!(run(&["è!"], &["caf", "é", " noir"]), ("café noir".into(), false));
        assert_eq!(run(&["é!"], &["caf", "é", "!"]), ("caf".into(), true));
    }
}
