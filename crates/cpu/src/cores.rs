//! Which cores are fast. Phones mix fast and slow ones, and a step's static ranges end when the slowest worker does.
//!
//! It does not schedule: the system does, among the cores that workers are confined to.

use std::thread::available_parallelism;

/// Capacity, of the fastest core's, from which on a core counts as fast: the middle cores of a phone have six to
/// nine tenths of the largest one's, the small ones two to three.
#[cfg(any(target_os = "linux", target_os = "android", test))]
const FAST: f64 = 0.5;

/// The fast cores of this machine, where it has slow ones too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerformanceCores {
    /// How many there are.
    pub count: usize,
    /// Their numbers; empty where the system lets nobody choose.
    pub numbers: Vec<usize>,
}

/// How many workers there are, and on which cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Workers.
    pub threads: usize,
    /// What they are confined to; `None` for every core that the process may use.
    pub cores: Option<PerformanceCores>,
}

impl Placement {
    /// Places so many threads, 0 for one per core. With `performance` they are kept on fast cores, if those are
    /// enough for them.
    pub fn new(threads: usize, performance: bool) -> Self {
        let all = available_parallelism().map_or(1, usize::from);
        Self::among(threads, all, if performance { performance_cores() } else { None })
    }

    fn among(threads: usize, all: usize, cores: Option<PerformanceCores>) -> Self {
        let fast = cores.as_ref().map_or(all, |cores| cores.count.min(all));
        let threads = if threads == 0 { fast } else { threads };
        Self { threads, cores: cores.filter(|cores| threads <= cores.count) }
    }

    /// Whether threads are to be confined.
    pub fn confines(&self) -> bool {
        self.cores.as_ref().is_some_and(|cores| !cores.numbers.is_empty())
    }

    /// Confines the calling thread. False where the system refuses: it has its reasons, and the thread runs anywhere.
    pub fn apply(&self) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(cores) = self.cores.as_ref().filter(|cores| !cores.numbers.is_empty()) {
            let mut set = rustix::thread::CpuSet::new();
            for &core in &cores.numbers {
                set.set(core);
            }
            return rustix::thread::sched_setaffinity(None, &set).is_ok();
        }
        true
    }
}

/// The fast cores, or `None` where all that this process may use are alike or the system does not tell them apart.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn performance_cores() -> Option<PerformanceCores> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let allowed: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    of_sysfs(std::path::Path::new("/sys/devices"), &allowed)
}

/// Threads of an application run on these cores first; there is no confining them.
#[cfg(target_os = "macos")]
fn performance_cores() -> Option<PerformanceCores> {
    use sysctl::Sysctl;
    let read = |name: &str| sysctl::Ctl::new(name).ok()?.value_string().ok()?.trim().parse::<usize>().ok();
    let (count, all) = (read("hw.perflevel0.logicalcpu")?, read("hw.logicalcpu")?);
    (count > 0 && count < all).then(|| PerformanceCores { count, numbers: Vec::new() })
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
fn performance_cores() -> Option<PerformanceCores> {
    None
}

/// What Linux says of its cores: arm64 gives each a capacity, x86 lists the fast ones of a hybrid machine.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn of_sysfs(devices: &std::path::Path, allowed: &[usize]) -> Option<PerformanceCores> {
    let capacity = |core: &usize| {
        let file = devices.join(format!("system/cpu/cpu{core}/cpu_capacity"));
        std::fs::read_to_string(file).ok()?.trim().parse::<f64>().ok()
    };
    let fast: Vec<usize> = match allowed.iter().map(capacity).collect::<Option<Vec<f64>>>() {
        Some(capacities) => {
            let most = capacities.iter().copied().fold(0.0, f64::max);
            let pairs = allowed.iter().zip(capacities);
            pairs.filter(|(_, capacity)| *capacity >= FAST * most).map(|(core, _)| *core).collect()
        }
        None => {
            let listed = core_list(&std::fs::read_to_string(devices.join("cpu_core/cpus")).ok()?)?;
            allowed.iter().copied().filter(|core| listed.contains(core)).collect()
        }
    };
    let some = !fast.is_empty() && fast.len() < allowed.len();
    some.then_some(PerformanceCores { count: fast.len(), numbers: fast })
}

/// `0-3,8`.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // No kernel is built for more; a longer list is not a list of cores.
        if last >= 1 << 16 {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, file: &str, text: &str) {
        let file = folder.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn a_phones_small_cores_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (core, capacity) in [250, 250, 250, 250, 744, 744, 744, 1024].into_iter().enumerate() {
            write(folder.path(), &format!("system/cpu/cpu{core}/cpu_capacity"), &format!("{capacity}\n"));
        }
        let all: Vec<usize> = (0..8).collect();
        let fast = of_sysfs(folder.path(), &all).unwrap();
        assert_eq!((fast.count, fast.numbers), (4, vec![4, 5, 6, 7]));
        // A process in the background, confined to the small ones, has no others.
        assert_eq!(of_sysfs(folder.path(), &[0, 1, 2, 3]), None);
        assert_eq!(of_sysfs(folder.path(), &[2, 3, 7]).unwrap().numbers, [7]);
    }

    #[test]
    fn a_hybrid_machine_lists_its_fast_cores() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_sysfs(folder.path(), &[0, 1]), None);
        write(folder.path(), "cpu_core/cpus", "0-3,6\n");
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(of_sysfs(folder.path(), &all).unwrap().numbers, [0, 1, 2, 3, 6]);
        for text in ["", "x", "0-", "3-99999999999", "1-70000"] {
            assert_eq!(core_list(text), None, "{text:?}");
        }
    }

    #[test]
    fn threads_stay_on_fast_cores_if_those_are_enough() {
        let fast = PerformanceCores { count: 4, numbers: vec![4, 5, 6, 7] };
        let placed = |threads, cores: &Option<PerformanceCores>| Placement::among(threads, 8, cores.clone());
        let some = Some(fast.clone());
        assert_eq!(placed(0, &some), Placement { threads: 4, cores: some.clone() });
        assert_eq!(placed(2, &some), Placement { threads: 2, cores: some.clone() });
        assert_eq!(placed(6, &some), Placement { threads: 6, cores: None });
        assert_eq!(placed(0, &None), Placement { threads: 8, cores: None });
        // A quota of fewer cores than are fast.
        assert_eq!(Placement::among(0, 2, some.clone()), Placement { threads: 2, cores: some });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_confined_thread_is_confined() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let last = (0..rustix::thread::CpuSet::MAX_CPU).rfind(|&core| allowed.is_set(core)).unwrap();
        let cores = Some(PerformanceCores { count: 1, numbers: vec![last] });
        let confined = std::thread::spawn(move || {
            assert!(Placement { threads: 1, cores }.apply());
            rustix::thread::sched_getaffinity(None).unwrap()
        });
        let confined = confined.join().unwrap();
        assert!(confined.count() == 1 && confined.is_set(last));
    }
}
