//! A naive device for tests: one arena, tile programs element by element, nothing allocated by a launch.
//!
//! Also included by the tests of the simulated device.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "an arena that several threads write, as real devices have")]

#[path = "../../../plan/tests/common/plans.rs"]
pub mod plans;

use partita_plan::file::encode;
use partita_plan::tile::TileOp;
use partita_plan::{Plan, Storage, TileProgram};
use partita_runtime::{Bound, Driver, DriverFactory, Drivers, RuntimeError, Session, SessionOptions};
use std::cell::UnsafeCell;
use std::sync::Arc;

/// Opens naive devices.
pub struct Naive {
    pub name: &'static str,
    /// Whether the host may read the arena in place.
    pub readable: bool,
}

impl DriverFactory for Naive {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        let plan = Arc::clone(plan);
        Ok(Box::new(NaiveDevice {
            plan,
            device,
            readable: self.readable,
            bound: None,
            arena: Box::default(),
        }))
    }
}

/// Drivers `naive` (memory read by download only) and `open` (readable in place).
pub fn drivers() -> Drivers {
    let naive = Naive { name: "naive", readable: false };
    Drivers::new().with(Arc::new(naive)).with(Arc::new(Naive { name: "open", readable: true }))
}

pub fn load((plan, weights): (Plan, Vec<u8>), drivers: &Drivers, trace: bool) -> Session {
    let bytes = encode(&plan, [(0, weights)]).unwrap();
    Session::load(bytes, drivers, SessionOptions { trace, ..SessionOptions::default() }).unwrap()
}

pub fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

struct NaiveDevice {
    plan: Arc<Plan>,
    device: usize,
    readable: bool,
    bound: Option<Arc<Bound>>,
    arena: Box<[UnsafeCell<u8>]>,
}

// SAFETY: the session never lets two threads touch the same value at once unless both read; values that are in
// use at the same time do not overlap (checked by the plan's check).
unsafe impl Sync for NaiveDevice {}

impl NaiveDevice {
    fn bytes(&self, value: usize) -> &[u8] {
        let bound = self.bound.as_ref().unwrap();
        let (at, size) = (bound.offsets_bytes[value], bound.sizes_bytes[value]);
        let plan = &bound.plan.values[value];
        assert_eq!(plan.device as usize, self.device);
        if plan.storage == Storage::Weight as i32 {
            return &(*bound.weights).as_ref()[at..at + size];
        }
        let cells = &self.arena[at..at + size];
        // SAFETY: see the `Sync` above: nobody writes this value now.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), size) }
    }

    #[expect(clippy::mut_from_ref, reason = "an arena hands out disjoint parts")]
    fn bytes_mut(&self, value: usize) -> &mut [u8] {
        let bound = self.bound.as_ref().unwrap();
        let (at, size) = (bound.offsets_bytes[value], bound.sizes_bytes[value]);
        let cells = &self.arena[at..at + size];
        // SAFETY: see the `Sync` above: nobody else touches this value now.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), size) }
    }

    fn float(&self, value: usize, element: usize) -> f32 {
        let bytes = self.bytes(value);
        let at = if bytes.len() == 4 { 0 } else { element * 4 };
        f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }
}

impl Driver for NaiveDevice {
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError> {
        let size = bound.arena_bytes[self.device];
        self.arena = (0..size).map(|_| UnsafeCell::new(0xee)).collect();
        self.bound = Some(Arc::clone(bound));
        Ok(())
    }

    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError> {
        let step = &self.plan.queues[queue].steps[step];
        let program = self.plan.kernels[step.kernel as usize].program.as_ref().unwrap();
        let target = step.outputs[0] as usize;
        for element in 0..self.bytes(target).len() / 4 {
            let result = evaluate(program, |input| self.float(step.inputs[input] as usize, element));
            self.bytes_mut(target)[element * 4..][..4].copy_from_slice(&result.to_le_bytes());
        }
        Ok(())
    }

    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.bytes_mut(value).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        bytes.copy_from_slice(self.bytes(value));
        Ok(())
    }

    fn host_bytes(&self, value: usize) -> Option<&[u8]> {
        self.readable.then(|| self.bytes(value))
    }
}

/// One element of a program with one output and the few operations that the test plans use.
fn evaluate(program: &TileProgram, load: impl Fn(usize) -> f32) -> f32 {
    let mut registers = [0f32; 16];
    for (at, instr) in program.instrs.iter().enumerate() {
        let arg = |i: usize| registers[instr.args[i] as usize];
        registers[at] = match TileOp::try_from(instr.op).unwrap() {
            TileOp::Load => load(instr.index as usize),
            TileOp::Const => instr.float as f32,
            TileOp::Add => arg(0) + arg(1),
            TileOp::Mul => arg(0) * arg(1),
            other => panic!("the naive device has no {other:?}"),
        };
    }
    registers[program.outputs[0] as usize]
}
