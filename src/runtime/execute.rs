//! Runs the queues of a bound plan: one on the calling thread, each other one on a thread of its own.
//!
//! The threads live as long as the session and sleep between runs. Progress counters are the plan's events.
//! Whatever goes wrong in one queue stops all of them, and the next run starts clean.

use crate::driver::Driver;
use crate::error::RuntimeError;
use crate::event::Event;
use crate::trace::{Recorder, Span};
use partita_plan::{Plan, Queue, Step};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

/// Looks at a counter before sleeping, when every queue can have a core (about 50 us).
const SPINS: u32 = 4000;
/// The same when queues must share cores: spinning would take time from whom we wait for.
const SPINS_CROWDED: u32 = 50;
/// Code of the error for a panic inside a driver.
pub(crate) const PANIC_CODE: &str = "R009";

/// Opened devices, in the plan's order.
pub(crate) type Devices = Vec<Box<dyn Driver>>;

/// The queues of a plan and the threads that run them.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The queue that the calling thread runs.
    home: Option<usize>,
}

struct Shared {
    plan: Arc<Plan>,
    /// Written only while no queue runs (binding), read by every queue during a run.
    devices: RwLock<Devices>,
    lanes: Vec<Lane>,
    /// Counts runs; threads start when it moves.
    go: Event,
    /// Counts threads that are through with the current run.
    through: Event,
    /// Set when a queue failed: all others stop at their next step.
    stop: AtomicBool,
    /// Set when the session ends.
    shutdown: AtomicBool,
    spins: u32,
}

/// What belongs to one queue.
#[derive(Default)]
struct Lane {
    /// Steps done in the current run; counted only where another queue waits for this one.
    done: Event,
    watched: bool,
    /// Held by the thread that runs the queue for the whole run.
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Room for one transfer between devices that cannot read each other's memory.
    staging: Vec<u8>,
    /// Bytes of each transfer; empty for compute queues.
    moved_bytes: Vec<usize>,
    recorder: Recorder,
    error: Option<RuntimeError>,
}

/// A lock whose holder panicked is still good here: slots are reset before each run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// Starts a thread for every queue with steps, but for the one that the caller runs itself.
    ///
    /// # Errors
    /// `R010` when a thread cannot be started.
    pub(crate) fn new(plan: &Arc<Plan>, devices: Devices) -> Result<Self, RuntimeError> {
        let busy: Vec<usize> = (0..plan.queues.len()).filter(|&q| !plan.queues[q].steps.is_empty()).collect();
        let home = busy.iter().copied().max_by_key(|&q| {
            let queue = &plan.queues[q];
            (!queue.copies, queue.steps.len(), std::cmp::Reverse(q))
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            plan: Arc::clone(plan),
            devices: RwLock::new(devices),
            lanes: (0..plan.queues.len())
                .map(|q| Lane { watched: watched(plan, q), ..Lane::default() })
                .collect(),
            go: Event::default(),
            through: Event::default(),
            stop: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            spins: if busy.len() <= cores { SPINS } else { SPINS_CROWDED },
        });
        // Threads are pushed one by one so that those already started end with the executor if one fails.
        let mut executor = Self { shared, threads: Vec::new(), home };
        for queue in busy.into_iter().filter(|&q| Some(q) != home) {
            let shared = Arc::clone(&executor.shared);
            let thread = std::thread::Builder::new().name(format!("queue {queue}"));
            let started =
                thread.spawn(move || shared.serve(queue)).map_err(|e| no_thread(plan, queue, &e))?;
            executor.threads.push(started);
        }
        Ok(executor)
    }

    /// The devices, for reading. Blocks nobody between runs.
    pub(crate) fn devices(&self) -> RwLockReadGuard<'_, Devices> {
        self.shared.devices.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices, for binding; no run is under way because runs take `&mut self`.
    pub(crate) fn devices_mut(&mut self) -> RwLockWriteGuard<'_, Devices> {
        self.shared.devices.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what runs with these value sizes need, so that runs allocate nothing.
    pub(crate) fn prepare(&mut self, sizes_bytes: &[usize], trace: bool) {
        let plan = &self.shared.plan;
        for (queue, lane) in plan.queues.iter().zip(&self.shared.lanes) {
            let mut slot = lock(&lane.slot);
            let moved = |s: &Step| s.inputs.first().map_or(0, |&v| sizes_bytes[v as usize]);
            slot.moved_bytes =
                if queue.copies { queue.steps.iter().map(moved).collect() } else { Vec::new() };
            // Pages of the staging room are touched only by transfers that need it.
            slot.staging = vec![0; slot.moved_bytes.iter().copied().max().unwrap_or(0)];
        }
        self.set_trace(trace);
    }

    /// Makes room to record every step, or none.
    pub(crate) fn set_trace(&mut self, trace: bool) {
        for (queue, lane) in self.shared.plan.queues.iter().zip(&self.shared.lanes) {
            lock(&lane.slot).recorder = Recorder::new(if trace { queue.steps.len() } else { 0 });
        }
    }

    /// Runs all queues to their ends.
    ///
    /// # Errors
    /// The failure of the first queue (in plan order) that failed; `R009` for a panic in a driver.
    pub(crate) fn run(&mut self) -> Result<(), RuntimeError> {
        let shared = &*self.shared;
        shared.reset();
        if !self.threads.is_empty() {
            shared.go.add_one();
        }
        if let Some(home) = self.home {
            shared.run_lane(home);
        }
        let threads = self.threads.len() as u32;
        // `shutdown` is never set during a run, so this waits for every thread, failed or not.
        shared.through.wait(shared.spins, &shared.shutdown, |count| count >= threads);
        match shared.lanes.iter().find_map(|lane| lock(&lane.slot).error.take()) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Start and end of every step of the last run, per queue; empty where tracing was off.
    pub(crate) fn spans(&self) -> Vec<Vec<Span>> {
        self.shared.lanes.iter().map(|lane| lock(&lane.slot).recorder.spans().to_vec()).collect()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.go.add_one();
        for thread in self.threads.drain(..) {
            // A worker catches every panic of a driver; there is nobody left to tell about any other.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn reset(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.through.set(0);
        let start = Recorder::clock();
        for lane in &self.lanes {
            lane.done.set(0);
            let mut slot = lock(&lane.slot);
            slot.error = None;
            slot.recorder.begin(start);
        }
    }

    /// Life of a worker thread.
    fn serve(&self, queue: usize) {
        let mut runs = 0;
        let never = AtomicBool::new(false);
        loop {
            self.go.wait(self.spins, &never, |count| count != runs);
            runs = self.go.count();
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            self.run_lane(queue);
            self.through.add_one();
        }
    }

    /// Runs one queue and keeps its failure.
    fn run_lane(&self, queue: usize) {
        let mut slot = lock(&self.lanes[queue].slot);
        let slot = &mut *slot;
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        let place = || format!("queue {}", self.plan.queues[queue].name);
        let Err(error) = guarded(place, || self.steps(queue, &devices, slot)) else { return };
        slot.error = Some(error);
        self.stop.store(true, Ordering::SeqCst);
        self.lanes.iter().for_each(|lane| lane.done.wake());
    }

    fn steps(&self, index: usize, devices: &Devices, slot: &mut Slot) -> Result<(), RuntimeError> {
        let queue = &self.plan.queues[index];
        for (at, step) in queue.steps.iter().enumerate() {
            if !self.ready(step) {
                return Ok(());
            }
            let start = slot.recorder.now();
            if queue.copies {
                transfer(devices, queue, step, slot.moved_bytes[at], &mut slot.staging)?;
            } else {
                devices[queue.device as usize].launch(index, at)?;
            }
            slot.recorder.record(start);
            if self.lanes[index].watched {
                self.lanes[index].done.set(at as u32 + 1);
            }
        }
        Ok(())
    }

    /// Waits for what the step waits for; false when the run has failed elsewhere.
    fn ready(&self, step: &Step) -> bool {
        step.waits.iter().all(|wait| {
            let done = &self.lanes[wait.queue as usize].done;
            done.wait(self.spins, &self.stop, |count| count >= wait.steps)
        }) && !self.stop.load(Ordering::Relaxed)
    }
}

/// Whether a step of any queue waits for this one.
fn watched(plan: &Plan, queue: usize) -> bool {
    plan.queues.iter().flat_map(|q| &q.steps).flat_map(|s| &s.waits).any(|w| w.queue as usize == queue)
}

/// Copies one value of `bytes` bytes between devices, in place or through the staging room.
fn transfer(
    devices: &Devices,
    queue: &Queue,
    step: &Step,
    bytes: usize,
    staging: &mut [u8],
) -> Result<(), RuntimeError> {
    let (Some(&from), Some(&to)) = (step.inputs.first(), step.outputs.first()) else { return Ok(()) };
    let (source, target) = (&devices[queue.from as usize], &devices[queue.device as usize]);
    if bytes == 0 {
        return Ok(());
    }
    if let Some(bytes) = source.host_bytes(from as usize) {
        return target.upload(to as usize, bytes);
    }
    let staging = &mut staging[..bytes];
    source.download(from as usize, staging)?;
    target.upload(to as usize, staging)
}

/// Calls into drivers; a panic in them becomes an error.
pub(crate) fn guarded<T>(
    place: impl FnOnce() -> String,
    call: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(place(), &*panic)))
}

fn panicked(place: String, panic: &(dyn Any + Send)) -> RuntimeError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    RuntimeError::new(
        PANIC_CODE,
        place,
        format!("the driver panicked: {text}"),
        "this is a fault of the program, not of your input; please report it with the plan",
    )
}

fn no_thread(plan: &Plan, queue: usize, error: &std::io::Error) -> RuntimeError {
    RuntimeError::new(
        "R010",
        format!("queue {}", plan.queues[queue].name),
        format!("no thread could be started: {error}"),
        "raise the limit of threads, or use a plan with fewer devices",
    )
}
