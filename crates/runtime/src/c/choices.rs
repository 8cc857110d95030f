//! The enums of the header, and bits that are set together, as what they stand for.

use interleaf_kv::TrimLevel;
use interleaf_kv::policy::AppState;
use interleaf_model::WeightFormat;

use super::failure::Failure;
use crate::{BackendChoice, FinishReason};

/// An enum whose numbers begin at 0, with the names that the header gives them.
#[derive(Debug)]
pub struct Choices<T: 'static> {
    /// What is chosen, in messages.
    pub what: &'static str,
    pub all: &'static [(&'static str, T)],
}

impl<T: Copy> Choices<T> {
    /// What a number stands for.
    pub fn get(&self, number: i32) -> Result<T, Failure> {
        let known = usize::try_from(number).ok().and_then(|place| self.all.get(place));
        known.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = self.all.iter().map(|(name, _)| *name).collect();
            Failure::argument(self.what, format_args!("one of {}, not {number}", names.join(", ")))
        })
    }
}

pub static BACKENDS: Choices<BackendChoice> = Choices {
    what: "backend",
    all: &[
        ("INTERLEAF_BACKEND_AUTO", BackendChoice::Auto),
        ("INTERLEAF_BACKEND_CPU", BackendChoice::Cpu),
        ("INTERLEAF_BACKEND_GPU", BackendChoice::Gpu),
        ("INTERLEAF_BACKEND_REFERENCE", BackendChoice::Ref),
    ],
};

pub static WEIGHTS: Choices<WeightFormat> = Choices {
    what: "weights",
    all: &[
        ("INTERLEAF_WEIGHTS_STORED", WeightFormat::Stored),
        ("INTERLEAF_WEIGHTS_F16", WeightFormat::F16),
        ("INTERLEAF_WEIGHTS_BF16", WeightFormat::Bf16),
        ("INTERLEAF_WEIGHTS_Q8", WeightFormat::Q8_0),
        ("INTERLEAF_WEIGHTS_Q4", WeightFormat::Q4_0),
    ],
};

pub static TRIM_LEVELS: Choices<TrimLevel> = Choices {
    what: "level",
    all: &[
        ("INTERLEAF_TRIM_UI_HIDDEN", TrimLevel::UiHidden),
        ("INTERLEAF_TRIM_BACKGROUND", TrimLevel::Background),
        ("INTERLEAF_TRIM_WARNING", TrimLevel::Warning),
    ],
};

pub static APP_STATES: Choices<AppState> = Choices {
    what: "state",
    all: &[
        ("INTERLEAF_APP_STATE_KILLED", AppState::Killed),
        ("INTERLEAF_APP_STATE_CACHED", AppState::Cached),
        ("INTERLEAF_APP_STATE_BACKGROUND", AppState::Background),
        ("INTERLEAF_APP_STATE_VISIBLE", AppState::Visible),
        ("INTERLEAF_APP_STATE_FOREGROUND", AppState::Foreground),
    ],
};

/// An app's state as the header numbers it.
pub const fn app_state(state: AppState) -> i32 {
    match state {
        AppState::Killed => 0,
        AppState::Cached => 1,
        AppState::Background => 2,
        AppState::Visible => 3,
        AppState::Foreground => 4,
    }
}

/// Why an answer ended, likewise.
pub const fn finish(reason: FinishReason) -> i32 {
    match reason {
        FinishReason::EndToken => 0,
        FinishReason::Stop => 1,
        FinishReason::Length => 2,
        FinishReason::ContextFull => 3,
        FinishReason::Cancelled => 4,
        FinishReason::NotANumber => 5,
        FinishReason::DeviceLost => 6,
        FinishReason::OutOfMemory => 7,
        FinishReason::DeviceFailed => 8,
    }
}

/// Bits, of which each stands for what its name says, with their names in the header.
#[derive(Debug)]
pub struct Bits(pub &'static [(&'static str, u32)]);

impl Bits {
    /// Refuses bits that have no name.
    pub fn check(&self, found: u32) -> Result<(), Failure> {
        let known = self.0.iter().fold(0, |known, (_, bit)| known | bit);
        if found & !known == 0 {
            return Ok(());
        }
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        Err(Failure::argument("flags", format_args!("bits of {}, not {found:#x}", names.join(", "))))
    }
}

pub const ALL_CORES: u32 = 1;
pub const NO_PREFIX_CACHE: u32 = 2;
pub const AT_REST: u32 = 4;
pub const NO_IDLE_WORK: u32 = 8;
pub const POOL_ADAPTERS: u32 = 16;
pub const RETRY_LOAD: u32 = 32;

pub static OPEN_FLAGS: Bits = Bits(&[
    ("INTERLEAF_OPEN_ALL_CORES", ALL_CORES),
    ("INTERLEAF_OPEN_NO_PREFIX_CACHE", NO_PREFIX_CACHE),
    ("INTERLEAF_OPEN_AT_REST", AT_REST),
    ("INTERLEAF_OPEN_NO_IDLE_WORK", NO_IDLE_WORK),
    ("INTERLEAF_OPEN_POOL_ADAPTERS", POOL_ADAPTERS),
    ("INTERLEAF_OPEN_RETRY_LOAD", RETRY_LOAD),
]);

pub const FORGET: u32 = 1;
pub const END_TOKENS: u32 = 2;

pub static CALL_FLAGS: Bits =
    Bits(&[("INTERLEAF_CALL_FORGET", FORGET), ("INTERLEAF_CALL_END_TOKENS", END_TOKENS)]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bits_that_there_are_not_are_refused_by_name() {
        for number in [-1, 3] {
            let message = TRIM_LEVELS.get(number).unwrap_err().message;
            assert!(message.starts_with("level: expected one of INTERLEAF_TRIM_UI_HIDDEN, "), "{message}");
        }
        for (number, (_, state)) in APP_STATES.all.iter().enumerate() {
            assert_eq!(app_state(*state), number as i32);
        }
        assert_eq!(OPEN_FLAGS.check(63), Ok(()));
        let message = CALL_FLAGS.check(6).unwrap_err().message;
        assert!(message.contains("INTERLEAF_CALL_FORGET") && message.ends_with("not 0x6"), "{message}");
    }
}
