//! Numbers that are checked once, when they are read: what is out of bounds never gets into a workload or a machine.

use serde::Deserialize;

/// A finite number above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Positive(f64);

/// A finite number of 0 or more.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct NonNegative(f64);

/// A number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Probability(f64);

/// Whole numbers from `min` to `max`, both among them; at least 1. In a file: `[min, max]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "[u32; 2]")]
pub struct Between {
    min: u32,
    max: u32,
}

/// A conversion that checks, and the way back.
macro_rules! checked {
    ($name:ident, $expected:literal, $number:ident => $lawful:expr) => {
        impl TryFrom<f64> for $name {
            type Error = String;

            fn try_from($number: f64) -> Result<Self, String> {
                if $lawful { Ok(Self($number)) } else { Err(format!("{}, expected {}", $number, $expected)) }
            }
        }

        impl $name {
            /// The number.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }
        }
    };
}

checked!(Positive, "a finite number above 0", number => number.is_finite() && number > 0.0);
checked!(NonNegative, "a finite number of 0 or more", number => number.is_finite() && number >= 0.0);
checked!(Probability, "a number from 0 to 1", number => (0.0..=1.0).contains(&number));

impl TryFrom<[u32; 2]> for Between {
    type Error = String;

    fn try_from([min, max]: [u32; 2]) -> Result<Self, String> {
        match 0 < min && min <= max {
            true => Ok(Self { min, max }),
            false => Err(format!("[{min}, {max}], expected [min, max] with 1 <= min <= max")),
        }
    }
}

impl Between {
    /// The least.
    #[must_use]
    pub const fn min(self) -> u32 {
        self.min
    }

    /// The most.
    #[must_use]
    pub const fn max(self) -> u32 {
        self.max
    }

    /// The middle.
    #[must_use]
    pub fn mean(self) -> f64 {
        f64::midpoint(f64::from(self.min), f64::from(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for bad in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert!(Positive::try_from(bad).is_err(), "{bad}");
        }
        for bad in [-1e-300, f64::INFINITY, f64::NAN] {
            assert!(NonNegative::try_from(bad).is_err(), "{bad}");
        }
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(Probability::try_from(bad).is_err(), "{bad}");
        }
        for bad in [[2, 1], [0, 0], [0, 4]] {
            assert!(Between::try_from(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Between::try_from([3, 3]).map(Between::mean), Ok(3.0));
        assert_eq!(Probability::try_from(1.0).map(Probability::get), Ok(1.0));
    }
}
