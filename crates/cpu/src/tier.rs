//! The tiers by name, what this machine has of them, and the one that a backend runs on.

use std::fmt;
use std::str::FromStr;

use crate::isa::Interleave;

/// The environment variable that forces a tier.
pub const VARIABLE: &str = "INTERLEAF_CPU";

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// What every machine of the architecture has.
    Scalar,
    /// 64-bit ARM.
    Neon,
    /// ARM with dot products, from ARMv8.2 on.
    NeonDotprod,
    /// ARM with integer matrix products, from ARMv8.6 on.
    NeonI8mm,
    /// x86 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    Avx2Vnni,
    /// x86 with AVX-512 and VNNI.
    Avx512,
}

impl Tier {
    /// All tiers, the best last.
    pub const ALL: [Self; 7] = [
        Self::Scalar,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
    ];

    /// The name used in reports and by `INTERLEAF_CPU`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
        }
    }

    /// Why a tier cannot run here; `None` if it can.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Scalar => None,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => list(crate::avx2::Avx2::<false>::missing()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Vnni => list(crate::avx2::Avx2::<true>::missing()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => list(crate::avx512::Avx512::missing()),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => list(crate::neon::Neon::missing()),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => list(crate::neon_dotprod::NeonDotprod::missing()),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => list(crate::neon_i8mm::NeonI8mm::missing()),
            _ => Some(format!("this machine is of {}", std::env::consts::ARCH)),
        }
    }

    /// The best tier that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|tier| tier.missing().is_none()).unwrap_or(Self::Scalar)
    }

    /// How the tier's integer products want the codes.
    pub(crate) fn interleave(self) -> Interleave {
        struct Of;
        impl Call for Of {
            type Output = Interleave;
            fn call<I: crate::isa::Isa>(self) -> Interleave {
                I::INTERLEAVE
            }
        }
        self.call(Of)
    }

    /// Calls something with the tier's type.
    pub(crate) fn call<C: Call>(self, call: C) -> C::Output {
        match self {
            Self::Scalar => call.call::<crate::scalar::Scalar>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Vnni => call.call::<crate::avx2::Avx2<true>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => call.call::<crate::avx2::Avx2<false>>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => call.call::<crate::avx512::Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => call.call::<crate::neon::Neon>(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => call.call::<crate::neon_dotprod::NeonDotprod>(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => call.call::<crate::neon_i8mm::NeonI8mm>(),
            // A tier of another architecture is never chosen.
            _ => call.call::<crate::scalar::Scalar>(),
        }
    }
}

/// Something that is done with a tier's type.
pub trait Call {
    /// What it returns.
    type Output;

    /// Does it.
    fn call<I: crate::isa::Isa>(self) -> Self::Output;
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn list(missing: Vec<&str>) -> Option<String> {
    (!missing.is_empty()).then(|| format!("the machine has no {}", missing.join(", ")))
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|tier| tier.name() == name).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_of_this_machine() {
        for tier in Tier::ALL {
            println!(
                "{tier}: {}",
                tier.missing().map_or("tested".into(), |reason| format!("SKIPPED, {reason}"))
            );
        }
        assert_eq!(Tier::Scalar.missing(), None);
    }

    #[test]
    fn names_are_read_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
        }
        assert_eq!("sse2".parse::<Tier>(), Err(()));
    }

    #[test]
    fn the_best_tier_of_the_machine_is_chosen() {
        let chosen = Tier::detect();
        println!("chosen: {chosen}");
        assert_eq!(chosen.missing(), None);
        let best = Tier::ALL.into_iter().rfind(|tier| tier.missing().is_none());
        assert_eq!(best, Some(chosen));
        // Whoever knows what machine this is says so.
        if let Some(expected) = std::env::var_os("INTERLEAF_EXPECTED_TIER") {
            assert_eq!(chosen.name(), expected);
        }
    }

    #[test]
    fn a_tier_of_another_architecture_says_so() {
        let foreign = if cfg!(target_arch = "x86_64") { Tier::Neon } else { Tier::Avx2 };
        assert!(foreign.missing().is_some_and(|reason| reason.contains(std::env::consts::ARCH)));
    }
}
