//! A fixed team of threads with a static split of work, handed out and collected through single cache lines.
//!
//! A run hands one closure to all members; member 0 is the calling thread. Nothing is allocated per run, and no
//! lock is taken. The caller posts generation, number of parts and closure in one line that all workers watch;
//! each worker answers in a line of its own.
//!
//! Every part is claimed before it runs, so whoever comes first runs it: a worker that sleeps, or whose core the
//! system gave to somebody else, costs nothing but the parallelism, since the caller runs its part. Which thread
//! runs a part changes no result. Workers without work spin, then yield, then sleep.
#![allow(unsafe_code, reason = "a borrowed closure is shown to worker threads for the length of one run")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Most members a team may have.
pub(crate) const MAX_MEMBERS: usize = 256;
/// Looks of a worker at the post before it yields between looks (50 to 200 microseconds), when every member can
/// have a core.
const SPINS: u32 = 4_000;
/// The same when members must share cores: spinning takes time from whom it waits for.
const SPINS_CROWDED: u32 = 20;
/// Looks with a yield between them before a worker sleeps; about a millisecond when nobody else wants the core.
const YIELDS: u32 = 2_000;

/// The work of one run: a function of the part's index.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A worker panicked in this or an earlier run; the team does no further work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poisoned;

/// What the workers watch: generation, parts and whether somebody sleeps, in one number, so that a worker sees
/// all of them as of one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    /// Set by a worker before it sleeps; a post that finds it set must wake.
    const ASLEEP: u64 = 1;
    const PARTS_AT: u32 = 1;
    const GENERATION_AT: u32 = 10;

    /// Generations do not wrap: at one a microsecond they last for 500 years.
    fn new(generation: u64, parts: usize) -> Self {
        Self(generation << Self::GENERATION_AT | (parts as u64) << Self::PARTS_AT)
    }

    fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_AT
    }

    fn parts(self) -> usize {
        (self.0 >> Self::PARTS_AT) as usize & (2 * MAX_MEMBERS - 1)
    }

    fn asleep(self) -> bool {
        self.0 & Self::ASLEEP != 0
    }
}

/// Alone in its (pair of) cache lines.
#[repr(align(128))]
struct Line<T>(T);

/// What the caller writes.
struct Post {
    word: AtomicU64,
    job: UnsafeCell<Option<Job<'static>>>,
}

/// What belongs to one worker.
struct Seat {
    /// The last generation whose part was claimed, by the worker or by the caller in its place.
    claimed: AtomicU64,
    /// The last generation whose part the worker has finished.
    done: AtomicU64,
}

impl Seat {
    /// True for the caller when the worker has not begun; the caller then runs the part.
    fn take(&self, generation: u64) -> bool {
        let taken = self.claim(generation);
        if taken {
            self.done.store(generation, Ordering::Relaxed);
        }
        taken
    }

    /// True for the one who may run the part of this generation. Generations only grow, so whoever comes late
    /// with an old one never gets it.
    fn claim(&self, generation: u64) -> bool {
        self.claimed.load(Ordering::Relaxed) < generation
            && self.claimed.fetch_max(generation, Ordering::Relaxed) < generation
    }
}

struct Shared {
    post: Line<Post>,
    /// Seat m - 1 is that of member m.
    seats: Vec<Line<Seat>>,
    spins: u32,
    stop: AtomicBool,
    poisoned: AtomicBool,
}

// SAFETY: `job` is written only by the caller, while no claimed part is unfinished; a worker reads it only
// after it has claimed its part of the generation that it read with acquire from `word`, and the caller waits
// for every part that a worker has claimed before it writes again.
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
        let members = members.clamp(1, MAX_MEMBERS);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let seat = || Line(Seat { claimed: AtomicU64::new(0), done: AtomicU64::new(0) });
        let shared = Arc::new(Shared {
            post: Line(Post { word: AtomicU64::new(0), job: UnsafeCell::new(None) }),
            seats: (1..members).map(|_| seat()).collect(),
            spins: if members <= cores { SPINS } else { SPINS_CROWDED },
            stop: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        });
        let mut workers = Vec::new();
        for member in 1..members {
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

    /// Runs `job(part)` once for every part below `parts`, part p on member p where that one is awake; `parts` is
    /// cut to the members. Must not be called from two threads at once (the driver holds a lock).
    ///
    /// # Errors
    /// `Poisoned` when a worker panicked, now or earlier.
    pub(crate) fn run(&self, parts: usize, job: Job<'_>) -> Result<(), Poisoned> {
        if self.shared.poisoned.load(Ordering::Relaxed) {
            return Err(Poisoned);
        }
        let parts = parts.min(self.members());
        if parts <= 1 {
            if parts > 0 {
                job(0);
            }
            return Ok(());
        }
        let generation = self.publish(parts, job);
        let own = catch_unwind(AssertUnwindSafe(|| {
            job(0);
            self.take_over(generation, parts, job);
        }));
        self.wait(generation, parts);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if self.shared.poisoned.load(Ordering::Relaxed) { Err(Poisoned) } else { Ok(()) }
    }

    fn publish(&self, parts: usize, job: Job<'_>) -> u64 {
        let post = &self.shared.post.0;
        // SAFETY: only the lifetime changes; `run` does not return before every worker is done with it.
        let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        // SAFETY: no worker reads `job` now: `wait` saw the end of every part that one of them had claimed.
        unsafe { *post.job.get() = Some(job) };
        let generation = Word(post.word.load(Ordering::Relaxed)).generation() + 1;
        let word = Word::new(generation, parts);
        // The flag is part of the number that changes, so no sleeper is missed: it either sees this number
        // before it sleeps, or it has set the flag that is swapped out here.
        let before = Word(post.word.swap(word.0, Ordering::AcqRel));
        if before.asleep() {
            self.wake(parts);
        }
        generation
    }

    #[cold]
    fn wake(&self, parts: usize) {
        if parts < self.members() {
            // Who has no part may sleep on; a later post still has to wake it.
            self.shared.post.0.word.fetch_or(Word::ASLEEP, Ordering::Relaxed);
        }
        self.workers[..parts - 1].iter().for_each(|worker| worker.thread().unpark());
    }

    /// Runs the parts that no worker has begun.
    fn take_over(&self, generation: u64, parts: usize, job: Job<'_>) {
        for part in 1..parts {
            if self.shared.seats[part - 1].0.take(generation) {
                job(part);
            }
        }
    }

    /// Waits for the parts that workers have claimed, and keeps the others from being claimed.
    fn wait(&self, generation: u64, parts: usize) {
        for Line(seat) in &self.shared.seats[..parts - 1] {
            let mut spins = 0;
            // Parts are there to be taken only when the caller's own work panicked.
            while seat.done.load(Ordering::Acquire) < generation && !seat.take(generation) {
                pause(&mut spins, self.shared.spins);
            }
        }
    }
}

/// Passes a moment: spins at first, then lets others have the core.
fn pause(count: &mut u32, spins: u32) {
    *count = count.saturating_add(1);
    if *count <= spins { std::hint::spin_loop() } else { std::thread::yield_now() }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let word = &self.shared.post.0.word;
        let generation = Word(word.load(Ordering::Relaxed)).generation() + 1;
        word.swap(Word::new(generation, 0).0, Ordering::AcqRel);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panic was recorded as poison already.
            let _ = worker.join();
        }
    }
}

/// The loop of one worker.
fn work(shared: &Shared, member: usize) {
    let seat = &shared.seats[member - 1].0;
    let mut seen = 0;
    loop {
        let word = next(shared, seen);
        seen = word.generation();
        if member >= word.parts() {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
        } else if seat.claim(seen) {
            // SAFETY: the generation was acquired and this part of it claimed, so the caller waits for `done`
            // before it writes again.
            let job = unsafe { *shared.post.0.job.get() };
            if let Some(job) = job
                && catch_unwind(AssertUnwindSafe(|| job(member))).is_err()
            {
                shared.poisoned.store(true, Ordering::Relaxed);
            }
            seat.done.store(seen, Ordering::Release);
        }
    }
}

/// Waits until the generation differs from `seen`: spinning, then yielding, then asleep.
fn next(shared: &Shared, seen: u64) -> Word {
    let word = &shared.post.0.word;
    let mut count = 0;
    while count < shared.spins + YIELDS {
        let now = Word(word.load(Ordering::Acquire));
        if now.generation() != seen {
            return now;
        }
        pause(&mut count, shared.spins);
    }
    loop {
        let now = Word(word.fetch_or(Word::ASLEEP, Ordering::AcqRel));
        if now.generation() != seen {
            return now;
        }
        std::thread::park();
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
    use std::sync::atomic::AtomicUsize;

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
    fn more_members_than_cores_get_through() {
        let team = Team::new(9);
        for round in 1..300 {
            let sum = AtomicUsize::new(0);
            let parts = round % 9 + 1;
            team.run(parts, &|part| {
                sum.fetch_add(part + 1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(sum.load(Ordering::Relaxed), parts * (parts + 1) / 2);
        }
    }

    #[test]
    fn parts_are_split_among_awake_workers() {
        // Both parts wait for each other, so two threads must be at it, asleep before or not.
        let team = Team::new(2);
        for pause_ms in [0, 0, 20, 0] {
            std::thread::sleep(std::time::Duration::from_millis(pause_ms));
            let there = AtomicUsize::new(0);
            team.run(2, &|_| {
                there.fetch_add(1, Ordering::AcqRel);
                while there.load(Ordering::Acquire) < 2 {
                    std::thread::yield_now();
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn a_panicking_caller_leaves_the_team_whole() {
        let team = Team::new(3);
        for bad in 0..3 {
            let caller = std::thread::current().id();
            let run = || {
                let _ = team.run(3, &|part| {
                    // On the caller only: its own part, or one that it has taken over.
                    assert!(part < bad || std::thread::current().id() != caller, "meant to fail");
                });
            };
            let _ = catch_unwind(AssertUnwindSafe(run));
            let count = AtomicUsize::new(0);
            team.run(3, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(count.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn a_panicking_worker_poisons_the_team() {
        let team = Team::new(2);
        let there = AtomicUsize::new(0);
        let both = |part| {
            there.fetch_add(1, Ordering::AcqRel);
            // So that the caller does not take the worker's part.
            while there.load(Ordering::Acquire) < 2 {
                std::thread::yield_now();
            }
            assert!(part == 0, "meant to fail");
        };
        assert_eq!(team.run(2, &both), Err(Poisoned));
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
