//! The CPU as a device of a session: one arena, one team of threads, every step prepared when the plan is
//! bound.
#![allow(unsafe_code, reason = "values are copied from and to raw memory whose bounds were checked")]

use crate::bind::{Machine, Place, Values};
use crate::isa::Isa;
use crate::lent::{Loans, Workshop};
use crate::memory::Memory;
use crate::prepared::{Cx, Prepared, Scratch};
use crate::team::{MAX_MEMBERS, Team};
use partita_plan::Plan;
use partita_runtime::driver::{Bound, Driver, DriverFactory, HostKernels, Lent};
use partita_runtime::error::RuntimeError;
use std::sync::{Arc, Mutex, PoisonError};

/// Opens CPU devices.
#[derive(Clone, Default)]
pub struct CpuFactory {
    threads: Option<usize>,
    host: Option<Arc<dyn HostKernels>>,
    isa: Option<Isa>,
}

impl CpuFactory {
    /// A factory whose devices use `threads` threads, or as many as the plan says.
    pub fn new(threads: Option<usize>) -> Self {
        Self { threads, host: None, isa: None }
    }

    /// Evaluates `reference` steps with `host`.
    #[must_use]
    pub fn with_host_kernels(mut self, host: Arc<dyn HostKernels>) -> Self {
        self.host = Some(host);
        self
    }

    /// Uses at most instruction set `isa`; for tests and comparisons.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa.min(Isa::detect()));
        self
    }

    fn members(&self, plan: &Plan, device: usize) -> usize {
        let planned = plan.devices.get(device).map_or(0, |d| d.threads as usize);
        let wanted = self.threads.filter(|&t| t > 0).unwrap_or(planned);
        let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let members = if wanted == 0 { available() } else { wanted };
        members.min(MAX_MEMBERS)
    }
}

impl DriverFactory for CpuFactory {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        if device >= plan.devices.len() {
            let message = format!("the plan has no device {device}");
            return Err(RuntimeError::new("R046", "the CPU driver", message, "compile the model again"));
        }
        let team = Team::new(self.members(plan, device));
        let isa = self.isa.unwrap_or_else(Isa::detect);
        Ok(Box::new(CpuDriver { device, team, isa, host: self.host.clone(), state: None }))
    }
}

/// An opened CPU.
struct CpuDriver {
    device: usize,
    team: Team,
    isa: Isa,
    host: Option<Arc<dyn HostKernels>>,
    state: Option<State>,
}

/// Steps of this device, by queue; empty for other queues.
pub(crate) type Steps = Vec<Vec<Box<dyn Prepared>>>;

/// What a bound plan needs. Steps hold addresses into the arena and the weights, so both live here.
struct State {
    steps: Steps,
    /// Places of this device's values.
    places: Vec<Option<Place>>,
    /// One launch at a time: the team and the scratch are shared by all steps.
    scratch: Mutex<Memory>,
    /// Bytes of the scratch of all members together, and of each.
    need: Scratch,
    loans: Loans,
    arena: Memory,
    bound: Arc<Bound>,
}

// SAFETY: places are addresses into the arena, the weights and what is lent; the plan's order decides who uses them when.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

fn not_bound() -> RuntimeError {
    RuntimeError::new("R047", "the CPU driver", "it has no such step or value", "bind the plan first")
}

impl CpuDriver {
    fn state(&self) -> Result<&State, RuntimeError> {
        self.state.as_ref().ok_or_else(not_bound)
    }

    fn place(&self, value: usize, bytes: usize) -> Result<Place, RuntimeError> {
        let place = self.state()?.places.get(value).copied().flatten().ok_or_else(not_bound)?;
        if place.bytes != bytes {
            let message = format!("{bytes} bytes were given for a value of {} bytes", place.bytes);
            return Err(RuntimeError::new(
                "R048",
                format!("value {value}"),
                message,
                "pass the value's size",
            ));
        }
        Ok(place)
    }

    /// Prepares all steps of this device's compute queues.
    fn steps(&self, values: &Values<'_>) -> Result<Steps, RuntimeError> {
        let machine = self.machine();
        let mut queues = Vec::with_capacity(values.bound.plan.queues.len());
        for queue in &values.bound.plan.queues {
            let own = !queue.copies && queue.device as usize == self.device;
            let steps = if own { queue.steps.as_slice() } else { &[] };
            let prepared = steps.iter().map(|step| values.prepare(step, machine, self.host.as_deref()));
            queues.push(prepared.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(queues)
    }

    fn machine(&self) -> Machine {
        Machine { isa: self.isa, members: self.team.members() }
    }

    /// Scratch memory for steps that need so much.
    fn scratch(&self, need: Scratch) -> Result<Memory, RuntimeError> {
        let total = need.local.checked_mul(self.team.members()).and_then(|l| l.checked_add(need.shared));
        Memory::new(total.unwrap_or(usize::MAX))
    }
}

/// Addresses of all values that lie on this device.
fn places(values: &Values<'_>) -> Result<Vec<Option<Place>>, RuntimeError> {
    let all = values.bound.plan.values.iter().enumerate();
    all.map(|(i, v)| (v.device as usize == values.device).then(|| values.place(i)).transpose()).collect()
}

impl Driver for CpuDriver {
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError> {
        self.state = None;
        let bytes = bound.arena_bytes.get(self.device).copied().unwrap_or(0);
        let arena = Memory::new(bytes)?;
        let loans = Loans::default();
        let values = Values { bound, device: self.device, arena: &arena, lent: &loans.lent };
        let (places, steps) = (places(&values)?, self.steps(&values)?);
        let need = steps.iter().flatten().fold(Scratch::default(), |need, step| need.max(step.scratch()));
        let need = need.aligned();
        let scratch = Mutex::new(self.scratch(need)?);
        let bound = Arc::clone(bound);
        self.state = Some(State { steps, places, scratch, need, loans, arena, bound });
        Ok(())
    }

    unsafe fn lend(&mut self, values: &[Lent]) -> Result<bool, RuntimeError> {
        for lent in values {
            self.place(lent.value, lent.bytes)?;
        }
        let Some(mut state) = self.state.take() else { return Err(not_bound()) };
        let (bound, arena) = (&*state.bound, &state.arena);
        let host = self.host.as_deref();
        let shop = Workshop { bound, device: self.device, arena, machine: self.machine(), host };
        let need = state.loans.apply(values, &shop, &mut state.steps)?.aligned().max(state.need);
        state.places = places(&shop.values(&state.loans.lent))?;
        if need != state.need {
            state.need = need;
            state.scratch = Mutex::new(self.scratch(need)?);
        }
        self.state = Some(state);
        Ok(true)
    }

    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError> {
        let state = self.state()?;
        let step = state.steps.get(queue).and_then(|steps| steps.get(step)).ok_or_else(not_bound)?;
        let scratch = state.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let local = scratch.ptr().wrapping_add(state.need.shared);
        step.launch(&Cx { team: &self.team, shared: scratch.ptr(), local, local_bytes: state.need.local })
    }

    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let place = self.place(value, bytes.len())?;
        if place.weight {
            return Err(RuntimeError::new(
                "R048",
                format!("value {value}"),
                "it is a weight",
                "do not write it",
            ));
        }
        // SAFETY: the place lies in the arena; the caller's order keeps others away.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.ptr, bytes.len()) };
        Ok(())
    }

    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        let place = self.place(value, bytes.len())?;
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(place.ptr, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn host_bytes(&self, value: usize) -> Option<&[u8]> {
        let place = self.state.as_ref()?.places.get(value).copied().flatten()?;
        // SAFETY: the place lies in the arena or the weights, which live as long as the state.
        Some(unsafe { std::slice::from_raw_parts(place.ptr, place.bytes) })
    }
}
