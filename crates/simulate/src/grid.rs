//! Many runs at a time: workloads by policies by sizes of memory by seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::driver::{Simulation, SimulationError};
use crate::machine::Calibration;
use crate::policies::NamedPolicy;
use crate::row::Run;
use crate::working_set::working_set;
use crate::workload::Workload;

/// How much memory runs have.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// So many bytes.
    Bytes(u64),
    /// Shares of the workload's working set under the run's seed ([`working_set`]), in percent.
    Percent(Vec<u32>),
}

impl Default for Sizes {
    /// A quarter, half and three quarters of the working set.
    fn default() -> Self {
        Self::Percent(vec![25, 50, 75])
    }
}

/// Runs that are to be made.
#[derive(Debug, Clone)]
pub struct Grid {
    /// What happens.
    pub workloads: Vec<Workload>,
    /// What the cache goes by.
    pub policies: Vec<NamedPolicy>,
    /// How much memory there is.
    pub sizes: Sizes,
    /// Bytes of flash below memory for K and V, 0 for none.
    pub flash_bytes: u64,
    /// What workloads are drawn from.
    pub seeds: Vec<u64>,
    /// Requests of each run.
    pub requests: u64,
    /// The machine.
    pub calibration: Calibration,
}

/// A run of a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Its memory's share of the working set in percent, where that was given.
    pub percent: Option<u32>,
    /// How it went.
    pub run: Run,
}

impl Grid {
    /// Makes all runs, as many at a time as the machine has cores for. They come in the order of workloads, sizes, seeds
    /// and policies, and do not depend on each other.
    ///
    /// # Errors
    /// The first run's that cannot be made.
    pub fn run(&self) -> Result<Vec<Cell>, SimulationError> {
        let pairs: Vec<(&Workload, u64)> = self
            .workloads
            .iter()
            .flat_map(|workload| self.seeds.iter().map(move |seed| (workload, *seed)))
            .collect();
        let sets = match &self.sizes {
            Sizes::Bytes(_) => vec![0; pairs.len()],
            Sizes::Percent(_) => in_parallel(&pairs, |(workload, seed)| {
                working_set(workload, &self.calibration, self.requests, *seed)
            }),
        };
        let sized: Vec<(&Workload, u64, Option<u32>, u64)> = pairs
            .iter()
            .zip(sets)
            .flat_map(|((workload, seed), set)| {
                let sizes = match &self.sizes {
                    Sizes::Bytes(bytes) => vec![(None, *bytes)],
                    Sizes::Percent(shares) => shares
                        .iter()
                        .map(|percent| (Some(*percent), set / 100 * u64::from(*percent)))
                        .collect(),
                };
                sizes.into_iter().map(|(percent, bytes)| (*workload, *seed, percent, bytes))
            })
            .collect();
        let simulations: Vec<(Option<u32>, Simulation)> = sized
            .into_iter()
            .flat_map(|(workload, seed, percent, bytes)| {
                self.policies.iter().map(move |policy| {
                    let simulation = Simulation {
                        workload: workload.clone(),
                        calibration: self.calibration.clone(),
                        policy: policy.clone(),
                        bytes,
                        flash_bytes: self.flash_bytes,
                        requests: self.requests,
                        seed,
                        slots: Simulation::SLOTS,
                    };
                    (percent, simulation)
                })
            })
            .collect();
        in_parallel(&simulations, |(percent, simulation)| {
            Ok(Cell { percent: *percent, run: simulation.run()? })
        })
        .into_iter()
        .collect()
    }
}

/// Does something for each, on as many threads as there are cores; results are in the order of what they are of.
fn in_parallel<T: Sync, R: Send>(all: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(all.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(all.len())));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(place) else { break };
                    let result = of(one);
                    // A panic elsewhere has nothing to do with what is here; it is passed on when all have ended.
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}
