//! Which of the adapters at hand is taken: a pure function, so that it can be tested without any.

use wgpu::DeviceType;

/// What the choice looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub name: String,
    pub kind: DeviceType,
}

/// The order of preference: a device with memory of its own first, a CPU that poses as a GPU last.
const fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// The index of the adapter to open: the best kind among those whose name contains `name`, the first of
/// equals.
pub(crate) fn choose(candidates: &[Candidate], name: Option<&str>) -> Option<usize> {
    let wanted = name.map(str::to_lowercase);
    candidates
        .iter()
        .enumerate()
        .filter(|(_, c)| wanted.as_ref().is_none_or(|w| c.name.to_lowercase().contains(w)))
        .min_by_key(|(_, c)| rank(c.kind))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Candidate> {
        [
            ("llvmpipe (LLVM 15.0.6, 256 bits)", DeviceType::Cpu),
            ("Integrated One", DeviceType::IntegratedGpu),
            ("Discrete One", DeviceType::DiscreteGpu),
            ("Discrete Two", DeviceType::DiscreteGpu),
        ]
        .map(|(name, kind)| Candidate { name: name.into(), kind })
        .into()
    }

    #[test]
    fn the_strongest_kind_wins_and_the_first_among_equals() {
        assert_eq!(choose(&some(), None), Some(2));
        assert_eq!(choose(&some()[..1], None), Some(0));
        assert_eq!(choose(&[], None), None);
    }

    #[test]
    fn a_name_restricts_the_choice() {
        assert_eq!(choose(&some(), Some("LLVMpipe")), Some(0));
        assert_eq!(choose(&some(), Some("two")), Some(3));
        assert_eq!(choose(&some(), Some("three")), None);
    }
}
