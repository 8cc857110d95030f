//! Which of the adapters at hand is taken: a pure function, so that it can be tested without any.

use wgpu::DeviceType;

/// What the choice looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub key: String,
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

/// The index of the adapter to open: the one with the key, or the best kind among those whose name contains `name`, the
/// first of equals.
pub(crate) fn choose(candidates: &[Candidate], key: Option<&str>, name: Option<&str>) -> Option<usize> {
    if let Some(key) = key {
        return candidates.iter().position(|c| c.key == key);
    }
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
        .map(|(name, kind)| Candidate { key: format!("{name} of an API"), name: name.into(), kind })
        .into()
    }

    #[test]
    fn the_strongest_kind_wins_and_the_first_among_equals() {
        assert_eq!(choose(&some(), None, None), Some(2));
        assert_eq!(choose(&some()[..1], None, None), Some(0));
        assert_eq!(choose(&[], None, None), None);
    }

    #[test]
    fn a_name_restricts_the_choice() {
        assert_eq!(choose(&some(), None, Some("LLVMpipe")), Some(0));
        assert_eq!(choose(&some(), None, Some("two")), Some(3));
        assert_eq!(choose(&some(), None, Some("three")), None);
    }

    #[test]
    fn a_key_leaves_no_choice() {
        assert_eq!(choose(&some(), Some("Discrete Two of an API"), Some("one")), Some(3));
        assert_eq!(choose(&some(), Some("Discrete Two"), None), None);
    }
}
