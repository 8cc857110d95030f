//! Known faults of drivers, in one table: who has them, what they look like, who found them, and what is done.
//! What needs something done on some devices only is done by [`avoid`]; the rest no kernel of this crate meets.

use crate::limits::Caps;

/// PCI vendors, and Khronos' own number for software.
const QUALCOMM: u32 = 0x5143;
const ARM: u32 = 0x13b5;
const IMAGINATION: u32 = 0x1010;
pub(crate) const AMD: u32 = 0x1002;
pub(crate) const INTEL: u32 = 0x8086;
pub(crate) const NVIDIA: u32 = 0x10de;
const MESA: u32 = 0x10005;

/// A fault of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    vendor: u32,
    /// Part of the adapter's name; empty for all of the vendor's.
    adapter: &'static str,
    /// Part of the driver's name and version; empty for all.
    driver: &'static str,
    /// What goes wrong.
    pub symptom: &'static str,
    /// Where it was reported.
    pub source: &'static str,
    remedy: Remedy,
}

/// What is done about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Kernels without subgroups.
    NoSubgroups,
    /// So many kernels to a command buffer.
    Split(usize),
    /// Nothing on the device: no kernel does what would meet it.
    ByDesign(&'static str),
}

const FAULTS: [Fault; 10] = [
    Fault {
        vendor: QUALCOMM,
        adapter: "830",
        driver: "",
        symptom: "pipelines that reduce through subgroups alone fail to compile",
        source: "https://github.com/ggml-org/llama.cpp/issues/28635",
        remedy: Remedy::NoSubgroups,
    },
    Fault {
        vendor: QUALCOMM,
        adapter: "750",
        driver: "",
        symptom: "the device is lost over large command buffers",
        source: "https://github.com/ggml-org/llama.cpp/issues/8743",
        remedy: Remedy::Split(32),
    },
    Fault {
        vendor: QUALCOMM,
        adapter: "840",
        driver: "",
        symptom: "matrix tiles of near-square workgroups are wrong",
        source: "https://github.com/pytorch/executorch/issues/22327",
        remedy: Remedy::ByDesign("workgroups have one dimension"),
    },
    Fault {
        vendor: QUALCOMM,
        adapter: "",
        driver: "",
        symptom: "private arrays with computed indices are miscompiled on old drivers",
        source: "https://github.com/gfx-rs/wgpu/issues/2252",
        remedy: Remedy::ByDesign("registers have names, written out by the templates"),
    },
    Fault {
        vendor: ARM,
        adapter: "",
        driver: "",
        symptom: "both arms of a select are read, and one beyond an array loses the device",
        source: "https://github.com/linebender/vello/issues/1815",
        remedy: Remedy::ByDesign("indices are clamped before they are used"),
    },
    Fault {
        vendor: ARM,
        adapter: "",
        driver: "",
        symptom: "atomics on workgroup memory misexecute",
        source: "https://github.com/gfx-rs/wgpu/issues/8643",
        remedy: Remedy::ByDesign("there are none"),
    },
    Fault {
        vendor: AMD,
        adapter: "",
        driver: "",
        symptom: "the zeroing of workgroup memory is miscompiled",
        source: "https://github.com/gfx-rs/wgpu/issues/4591",
        remedy: Remedy::ByDesign("it is turned off: kernels write that memory before they read it"),
    },
    Fault {
        vendor: IMAGINATION,
        adapter: "",
        driver: "",
        symptom: "numbers are wrong without any error",
        source: "https://github.com/ggml-org/llama.cpp/issues/28214",
        remedy: Remedy::ByDesign("kernels are compared with the reference before they are trusted"),
    },
    Fault {
        vendor: MESA,
        adapter: "llvmpipe",
        driver: "22.3",
        symptom: "a bitcast from u32 to two f16 gives other numbers",
        source: "found here, with naga 30.0.1",
        remedy: Remedy::ByDesign("halves are unpacked by unpack2x16float or by integers"),
    },
    Fault {
        vendor: MESA,
        adapter: "llvmpipe",
        driver: "22.3",
        symptom: "loops bounded by a parameter are compiled anew at every dispatch",
        source: "found here, with a debugger",
        remedy: Remedy::ByDesign("the loops over K of large kernels have bounds that are no constants"),
    },
];

impl Fault {
    /// What is done about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self.remedy {
            Remedy::NoSubgroups => "kernels without subgroups run".into(),
            Remedy::Split(kernels) => format!("{kernels} kernels go into a command buffer at most"),
            Remedy::ByDesign(how) => format!("nothing: {how}"),
        }
    }
}

/// The faults that a device may have.
pub(crate) fn of(info: &wgpu::AdapterInfo) -> Vec<Fault> {
    let driver = format!("{} {}", info.driver, info.driver_info);
    let has = |fault: &&Fault| {
        fault.vendor == info.vendor && info.name.contains(fault.adapter) && driver.contains(fault.driver)
    };
    FAULTS.iter().filter(has).copied().collect()
}

/// What kernels may rely on, and how many go into a command buffer, on a device with faults. A number that the
/// caller chose stays.
pub(crate) fn avoid(faults: &[Fault], mut caps: Caps, mut dispatches: usize) -> (Caps, usize) {
    for fault in faults {
        match fault.remedy {
            Remedy::NoSubgroups => caps.subgroup = 0,
            Remedy::Split(kernels) if dispatches == 0 => dispatches = kernels,
            Remedy::Split(_) | Remedy::ByDesign(_) => {}
        }
    }
    (caps, dispatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(vendor: u32, name: &str, driver_info: &str) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::IntegratedGpu, wgpu::Backend::Vulkan);
        (info.vendor, info.name, info.driver_info) = (vendor, name.into(), driver_info.into());
        info
    }

    #[test]
    fn faults_are_avoided_where_they_are() {
        let caps = Caps { subgroup: 64, ..Caps::lowest() };
        let on = |name, dispatches| avoid(&of(&info(QUALCOMM, name, "")), caps, dispatches);
        assert_eq!(on("Adreno (TM) 830", 0), (Caps { subgroup: 0, ..caps }, 0));
        assert_eq!(on("Adreno (TM) 750", 0), (caps, 32));
        assert_eq!(on("Adreno (TM) 750", 5), (caps, 5));
        assert_eq!(on("Adreno (TM) 732", 0), (caps, 0));
        assert_eq!(of(&info(MESA, "llvmpipe (LLVM 15)", "Mesa 22.3.6")).len(), 2);
        assert!(of(&info(MESA, "llvmpipe (LLVM 15)", "Mesa 25.0.7")).is_empty());
    }

    #[test]
    fn every_fault_says_what_it_is_who_found_it_and_what_is_done() {
        for fault in FAULTS {
            assert!(!fault.symptom.is_empty() && !fault.remedy().is_empty(), "{fault:?}");
            assert!(fault.source.starts_with("https://") || fault.source.starts_with("found here"));
        }
    }
}
