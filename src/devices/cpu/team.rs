//! A fixed team of threads with a static split of work and a barrier that spins before it sleeps.
//!
//! A run hands one closure to all members; member 0 is the calling thread. Nothing is allocated per run.
#![allow(unsafe_code, reason = "a borrowed closure is shown to worker threads for the length of one run")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Most members a team may have.
pub(crate) const MAX_MEMBERS: usize = 256;
/// Rounds a worker spins for new work before it sleeps; about 0.1 to 0.3 milliseconds.
const SPINS: usize = 8_000;
/// Rounds between two yields while the caller waits for the workers.
const SPINS_PER_YIELD: usize = 4096;

/// The work of one run: a function of the part's index.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A worker panicked in this or an earlier run; the team does no further work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poisoned;

struct Shared {
    /// Grows by one per run; workers act when it changes.
    generation: AtomicUsize,
    job: UnsafeCell<Option<Job<'static>>>,
    /// Parts of the current run.
    parts: AtomicUsize,
    /// Workers that have not finished the current run.
    running: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
    poisoned: AtomicBool,
}

// SAFETY: `job` is written only by the caller while `running` is 0, and read by workers only between the
// release of `generation` and their decrement of `running`.
unsafe impl Sync for Shared {}
// SAFETY: the only non-Send content is the borrowed closure, which is `Sync`.
unsafe impl Send for Shared {}

/// A team of `members` threads, the caller included.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts `members - 1` workers (fewer when the system refuses a thread).
    pub(crate) fn new(members: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            parts: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        });
        let mut workers = Vec::new();
        for member in 1..members.clamp(1, MAX_MEMBERS) {
            let shared = Arc::clone(&shared);
            let name = format!("partita-cpu-{member}");
            match std::thread::Builder::new().name(name).spawn(move || work(&shared, member)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        Self { shared, workers }
    }

    /// Number of members, the caller included.
    pub(crate) fn members(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(part)` for every part below `parts`, part p on member p; `parts` is cut to the members.
    /// Must not be called from two threads at once (the driver holds a lock).
    ///
    /// # Errors
    /// `Poisoned` when a worker panicked, now or earlier.
    pub(crate) fn run(&self, parts: usize, job: Job<'_>) -> Result<(), Poisoned> {
        if self.shared.poisoned.load(Ordering::Relaxed) {
            return Err(Poisoned);
        }
        if parts <= 1 || self.workers.is_empty() {
            if parts > 0 {
                job(0);
            }
            return Ok(());
        }
        self.publish(parts.min(self.members()), job);
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        self.wait();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if self.shared.poisoned.load(Ordering::Acquire) { Err(Poisoned) } else { Ok(()) }
    }

    fn publish(&self, parts: usize, job: Job<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `run` does not return before every worker is done with it.
        let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        // SAFETY: no worker reads `job` now: all finished the previous run (`running` was 0).
        unsafe { *shared.job.get() = Some(job) };
        shared.parts.store(parts, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.lock.lock());
            shared.wake.notify_all();
        }
    }

    fn wait(&self) {
        let mut spins = 0usize;
        while self.shared.running.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
            spins += 1;
            if spins.is_multiple_of(SPINS_PER_YIELD) {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.lock.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was recorded as poison already.
            let _ = worker.join();
        }
    }
}

/// The loop of one worker.
fn work(shared: &Shared, member: usize) {
    let mut seen = 0;
    loop {
        seen = next_generation(shared, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the generation was acquired, and the caller waits for `running` before it writes again.
        let job = unsafe { *shared.job.get() };
        if let (Some(job), true) = (job, member < shared.parts.load(Ordering::Relaxed))
            && catch_unwind(AssertUnwindSafe(|| job(member))).is_err()
        {
            shared.poisoned.store(true, Ordering::Release);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until the generation differs from `seen`: first spinning, then asleep.
fn next_generation(shared: &Shared, seen: usize) -> usize {
    for _ in 0..SPINS {
        let now = shared.generation.load(Ordering::Acquire);
        if now != seen {
            return now;
        }
        std::hint::spin_loop();
    }
    shared.sleepers.fetch_add(1, Ordering::SeqCst);
    let mut guard = shared.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        let now = shared.generation.load(Ordering::SeqCst);
        if now != seen {
            shared.sleepers.fetch_sub(1, Ordering::SeqCst);
            return now;
        }
        guard = shared.wake.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

/// The share `part` of `parts` of `0..total`, in multiples of `unit` except at the end.
pub(crate) fn share(total: usize, unit: usize, part: usize, parts: usize) -> std::ops::Range<usize> {
    let unit = unit.max(1);
    let units = total.div_ceil(unit);
    let edge = |p: usize| ((units * p / parts.max(1)) * unit).min(total);
    edge(part)..edge(part + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        for members in [1, 2, 3] {
            let team = Team::new(members);
            for round in 0..200 {
                let counts: Vec<AtomicUsize> = (0..members).map(|_| AtomicUsize::new(0)).collect();
                let parts = round % members + 1;
                team.run(parts, &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                for (part, count) in counts.iter().enumerate() {
                    assert_eq!(count.load(Ordering::Relaxed), usize::from(part < parts));
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let team = Team::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let count = AtomicUsize::new(0);
            team.run(2, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(count.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn a_panicking_worker_poisons_the_team() {
        let team = Team::new(2);
        assert_eq!(team.run(2, &|part| assert!(part == 0, "meant to fail")), Err(Poisoned));
        assert_eq!(team.run(2, &|_| {}), Err(Poisoned));
    }

    #[test]
    fn shares_cover_everything() {
        for (total, unit, parts) in [(10, 3, 2), (0, 4, 3), (7, 1, 7), (100, 32, 3)] {
            let mut next = 0;
            for part in 0..parts {
                let range = share(total, unit, part, parts);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, total);
        }
    }
}
