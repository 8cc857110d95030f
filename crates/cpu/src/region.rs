//! One parallel region for a whole step: every worker walks all operations, and a barrier stands between two
//! that depend on each other. Work is split into static ranges, so that a result never depends on timing.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// How often a worker looks whether the others have come before it sleeps: some tens of microseconds, longer than
/// most operations take, shorter than a time slice that another program could use.
const SPINS: usize = 4000;

/// Where workers wait for each other.
#[derive(Debug, Default)]
pub struct Barrier {
    workers: usize,
    arrived: AtomicUsize,
    /// Counts the times that all have come.
    generation: AtomicUsize,
    sleeping: AtomicUsize,
    broken: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    /// A barrier for so many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    fn wait(&self) {
        if self.workers <= 1 {
            return;
        }
        let generation = self.generation.load(Ordering::SeqCst);
        // Whoever has failed said so before it opened this generation.
        self.check();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
            self.arrived.store(0, Ordering::Relaxed);
            self.open();
            return;
        }
        for _ in 0..SPINS {
            if self.generation.load(Ordering::Acquire) != generation {
                return self.check();
            }
            std::hint::spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        while self.generation.load(Ordering::SeqCst) == generation {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        self.check();
    }

    fn open(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // Whoever went to sleep before the line above is counted; whoever comes after it does not sleep.
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Ends a worker whose fellow has panicked: nobody will open the barrier again.
    fn check(&self) {
        if self.broken.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("another worker of the step has failed"));
        }
    }
}

/// A worker's place in a region.
#[derive(Debug)]
pub struct Worker<'a> {
    /// Which one.
    pub index: usize,
    /// Of how many.
    pub count: usize,
    barrier: &'a Barrier,
}

impl<'a> Worker<'a> {
    /// Worker `index` of those that wait at the barrier.
    pub fn new(index: usize, barrier: &'a Barrier) -> Self {
        Self { index, count: barrier.workers.max(1), barrier }
    }

    /// Waits until all workers are here. What they wrote before is then seen by all.
    pub fn wait(&self) {
        self.barrier.wait();
    }

    /// This worker's part of `n` items: contiguous, and the same whatever the others do.
    pub fn range(&self, n: usize) -> Range<usize> {
        n * self.index / self.count..n * (self.index + 1) / self.count
    }

    /// Whether this is the one that does what is not split.
    pub fn is_first(&self) -> bool {
        self.index == 0
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.barrier.broken.store(true, Ordering::SeqCst);
            self.barrier.open();
        }
    }
}

/// Memory that the workers of a region share: each writes its own part, and reads what others wrote before the
/// last barrier.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a, T> {
    first: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: access is by `part` and `part_mut`, whose conditions rule out that two threads race.
unsafe impl<T: Send + Sync> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares a slice for as long as it is borrowed.
    pub fn new(values: &'a mut [T]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// A part, to be read.
    ///
    /// # Safety
    /// Nobody writes it between two barriers.
    pub unsafe fn part(&self, range: Range<usize>) -> &'a [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of {} ends at {}",
            self.len,
            range.end
        );
        // SAFETY: in bounds; the caller rules out writers.
        unsafe { std::slice::from_raw_parts(self.first.add(range.start), range.len()) }
    }

    /// A part, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes it between two barriers.
    #[allow(clippy::mut_from_ref, reason = "the condition stands in for the borrow")]
    pub unsafe fn part_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of {} ends at {}",
            self.len,
            range.end
        );
        // SAFETY: in bounds; the caller rules out everybody else.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// Where a part is, for kernels whose results may take the place of what they read.
    ///
    /// Reading and writing through it is under the conditions of [`Shared::part`] and [`Shared::part_mut`].
    pub fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of {} ends at {}",
            self.len,
            range.end
        );
        self.first.wrapping_add(range.start)
    }

    /// All of it, to be read.
    ///
    /// # Safety
    /// As [`Shared::part`].
    pub unsafe fn all(&self) -> &'a [T] {
        // SAFETY: the caller's condition.
        unsafe { self.part(0..self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for count in [1, 2, 3, 7] {
            let barrier = Barrier::new(count);
            for n in [0, 1, 5, 6, 7, 8, 100] {
                let workers: Vec<Worker<'_>> = (0..count).map(|i| Worker::new(i, &barrier)).collect();
                let covered: Vec<usize> = workers.iter().flat_map(|w| w.range(n)).collect();
                assert_eq!(covered, (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_is_written_before_a_barrier_is_seen_after_it() {
        const WORKERS: usize = 4;
        let barrier = Barrier::new(WORKERS);
        let mut values = vec![0usize; WORKERS];
        let shared = Shared::new(&mut values);
        std::thread::scope(|scope| {
            for index in 0..WORKERS {
                let (barrier, shared) = (&barrier, &shared);
                scope.spawn(move || {
                    let worker = Worker::new(index, barrier);
                    for round in 1..2000 {
                        // SAFETY: each writes its own element, and reads all between two barriers.
                        unsafe { shared.part_mut(index..index + 1)[0] = round };
                        worker.wait();
                        // SAFETY: nobody writes between these two barriers.
                        let all = unsafe { shared.all() };
                        assert!(all.iter().all(|v| *v == round), "{all:?} in round {round}");
                        worker.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn a_worker_that_comes_after_the_panic_ends_too() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let barrier = &barrier;
            let failed = scope.spawn(move || {
                let _worker = Worker::new(1, barrier);
                std::panic::resume_unwind(Box::new("worker 1 fails"));
            });
            assert!(failed.join().is_err());
            let late = scope.spawn(move || Worker::new(0, barrier).wait());
            assert!(late.join().is_err());
        });
    }

    #[test]
    fn a_panic_ends_all_workers() {
        let barrier = Barrier::new(3);
        let outcomes: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|index| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let worker = Worker::new(index, barrier);
                        worker.wait();
                        assert!(index != 1, "worker 1 fails");
                        worker.wait();
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().is_err()).collect()
        });
        assert_eq!(outcomes, [true; 3]);
    }
}
