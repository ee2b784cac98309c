//! The static execution plan: what runs where, when, out of which memory, with which kernels, and why.
//!
//! **Contract.** A plan is a value: messages (prost, no map fields, so equal plans give equal bytes) in front
//! of a weight section that is memory-mapped. It decodes without knowing the graph it came from.
//!
//! **Invariants.** No graph, no operator, no solver is known here. Whatever `decode` accepts and `check`
//! passes can be executed without a bounds error; sizes are checked before anything is allocated.
//!
//! **Reading order.** This file (the messages), `dim` (sizes with symbols), `tile` (elementwise programs),
//! `limits`, `order` (which step happens before which), `reserve` (when a value needs its bytes), `memory`
//! (lifetimes to offsets), `file` and `scan` (encode and bounded decode), `check` with `check_flow` and
//! `check_memory`, `text`. Beside them what runs: `tensor`, `datum`, `rounding`,
//! `small_float`.

pub mod budget;
pub mod check;
mod check_flow;
mod check_memory;
mod check_program;
pub mod datum;
pub mod dim;
pub mod dtype;
pub mod error;
pub mod file;
pub mod letters;
pub mod limits;
pub mod memory;
pub mod order;
pub mod program;
pub mod reserve;
pub mod rounding;
mod scan;
pub mod small_float;
pub mod tensor;
pub mod text;
pub mod tile;
pub mod tile_eval;

pub use datum::Datum;
pub use dim::{DimExpr, DimOp};
pub use dtype::ElementType;
pub use error::PlanError;
pub use file::PlanFile;
pub use order::Order;
pub use program::{Block, Program};
pub use tensor::{Bytes, Tensor};
pub use tile::{TileInstr, TileProgram};

use prost::Message;

/// Version of the plan format; a plan of another version is refused with a sentence.
pub const PLAN_VERSION: u32 = 1;

/// "No value": an omitted optional operand of a step.
pub const NO_VALUE: u32 = u32::MAX;

/// A whole execution plan without its weights.
#[derive(Clone, PartialEq, Message)]
pub struct Plan {
    /// Name of the model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Devices, in the order that `Value::device` and `Queue::device` refer to.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<Device>,
    /// Named dimensions that a run binds from its inputs' shapes.
    #[prost(message, repeated, tag = "3")]
    pub symbols: Vec<Symbol>,
    /// Every tensor that has storage, one entry per device that holds it.
    #[prost(message, repeated, tag = "4")]
    pub values: Vec<Value>,
    /// Kernels, each used by one or more steps.
    #[prost(message, repeated, tag = "5")]
    pub kernels: Vec<Kernel>,
    /// Queues: steps of one queue run in order, queues run side by side.
    #[prost(message, repeated, tag = "6")]
    pub queues: Vec<Queue>,
    /// Values a run is given, in the model's order.
    #[prost(message, repeated, tag = "7")]
    pub inputs: Vec<Port>,
    /// Values a run returns, in the model's order.
    #[prost(message, repeated, tag = "8")]
    pub outputs: Vec<Port>,
    /// How the plan came about.
    #[prost(message, optional, tag = "9")]
    pub provenance: Option<Provenance>,
    /// Bytes of the weight section behind the message.
    #[prost(uint64, tag = "10")]
    pub weight_bytes: u64,
    /// How to run a model that is not static as a whole; such a plan has no steps of its own.
    #[prost(message, optional, tag = "11")]
    pub program: Option<Program>,
}

/// A processor the plan runs on.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// Name in the machine file, as `cpu0`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How it executes: `cpu`, `wgpu` or `sim`.
    #[prost(string, tag = "2")]
    pub driver: String,
    /// Hardware profile, or empty.
    #[prost(string, tag = "3")]
    pub profile: String,
    /// Worker threads (CPU), 0 elsewhere.
    #[prost(uint32, tag = "4")]
    pub threads: u32,
    /// Which adapter a GPU driver opens (index or part of a name), or empty for the first.
    #[prost(string, tag = "5")]
    pub adapter: String,
    /// Memory limit in bytes, 0 when unknown.
    #[prost(uint64, tag = "6")]
    pub memory_bytes: u64,
    /// Arena bytes for a plan without free symbols, else 0.
    #[prost(uint64, tag = "7")]
    pub arena_bytes: u64,
}

/// A named dimension, bound from the shape of an input.
#[derive(Clone, PartialEq, Message)]
pub struct Symbol {
    /// Name, as `batch`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index into `Plan::inputs` of the input that binds it; `NO_VALUE` in a part of a program when the program
    /// gives it.
    #[prost(uint32, tag = "2")]
    pub input: u32,
    /// Axis of that input.
    #[prost(uint32, tag = "3")]
    pub axis: u32,
    /// The size it was taken to have for predictions.
    #[prost(uint64, tag = "4")]
    pub likely: u64,
    /// The least size the plan was made for.
    #[prost(uint64, tag = "5")]
    pub least: u64,
}

/// Where a value's bytes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Storage {
    /// In the device's arena, at `Value::offset` (or where the binder puts it when sizes are symbolic).
    Arena = 0,
    /// In the weight section at `Value::offset`.
    Weight = 1,
    /// The same bytes as value `Value::alias_of` (a reshape).
    Alias = 2,
}

/// A tensor with storage on one device.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// Name in the model; copies on other devices carry `@device`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Element type.
    #[prost(enumeration = "ElementType", tag = "2")]
    pub dtype: i32,
    /// Dimensions, outermost first.
    #[prost(message, repeated, tag = "3")]
    pub shape: Vec<DimExpr>,
    /// Index into `Plan::devices`.
    #[prost(uint32, tag = "4")]
    pub device: u32,
    /// Where the bytes are.
    #[prost(enumeration = "Storage", tag = "5")]
    pub storage: i32,
    /// Byte offset in the arena (plans without symbols) or in the weight section.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// Stored bytes of a weight (packed layouts differ from shape times element size), else 0.
    #[prost(uint64, tag = "7")]
    pub stored_bytes: u64,
    /// The value whose bytes an alias shares.
    #[prost(uint32, tag = "8")]
    pub alias_of: u32,
    /// First position in its device's compute queue at which the bytes must be reserved.
    #[prost(uint32, tag = "9")]
    pub first: u32,
    /// Last such position (inclusive).
    #[prost(uint32, tag = "10")]
    pub last: u32,
    /// Layout of a packed weight as the kernel names it, or empty for row-major.
    #[prost(string, tag = "11")]
    pub layout: String,
}

/// A named kernel parameter.
#[derive(Clone, PartialEq, Message)]
pub struct Param {
    /// Name, as `strides`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Integers.
    #[prost(sint64, repeated, tag = "2")]
    pub ints: Vec<i64>,
    /// Floats.
    #[prost(double, repeated, tag = "3")]
    pub floats: Vec<f64>,
    /// Strings.
    #[prost(string, repeated, tag = "4")]
    pub strings: Vec<String>,
    /// Sizes that may hold symbols.
    #[prost(message, repeated, tag = "5")]
    pub dims: Vec<DimExpr>,
}

/// What a step launches: a library kernel with parameters, and a tile program where it has one.
#[derive(Clone, PartialEq, Message)]
pub struct Kernel {
    /// Library name, as `gemm`, `conv`, `tile`.
    #[prost(string, tag = "1")]
    pub library: String,
    /// Parameters, sorted by name.
    #[prost(message, repeated, tag = "2")]
    pub params: Vec<Param>,
    /// The elementwise program (`tile`) or epilogue (`gemm`, `conv`, ...).
    #[prost(message, optional, tag = "3")]
    pub program: Option<TileProgram>,
}

/// Waits until queue `queue` has finished its first `steps` steps.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Wait {
    /// Index into `Plan::queues`.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// How many of its steps must be done.
    #[prost(uint32, tag = "2")]
    pub steps: u32,
}

/// One launch or one transfer.
#[derive(Clone, PartialEq, Message)]
pub struct Step {
    /// Name of the operators it stands for.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index into `Plan::kernels`; unused on copy queues.
    #[prost(uint32, tag = "2")]
    pub kernel: u32,
    /// Values read; `NO_VALUE` marks an omitted operand. A transfer reads one.
    #[prost(uint32, repeated, tag = "3")]
    pub inputs: Vec<u32>,
    /// Values written. A transfer writes one.
    #[prost(uint32, repeated, tag = "4")]
    pub outputs: Vec<u32>,
    /// Progress of other queues that must be reached first.
    #[prost(message, repeated, tag = "5")]
    pub waits: Vec<Wait>,
    /// Predicted start in microseconds from the start of the run.
    #[prost(double, tag = "6")]
    pub start_us: f64,
    /// Predicted duration in microseconds.
    #[prost(double, tag = "7")]
    pub time_us: f64,
    /// Why it is here: alternatives with their times, bound, source of the figures.
    #[prost(message, optional, tag = "8")]
    pub why: Option<Why>,
    /// Nodes of the model as read that this step stands for.
    #[prost(string, repeated, tag = "9")]
    pub covers: Vec<String>,
}

/// Why a step runs on its device.
#[derive(Clone, PartialEq, Message)]
pub struct Why {
    /// One row per device of the plan's machine.
    #[prost(message, repeated, tag = "1")]
    pub choices: Vec<Choice>,
    /// Floating-point or integer operations.
    #[prost(double, tag = "2")]
    pub flops: f64,
    /// Bytes read and written.
    #[prost(double, tag = "3")]
    pub bytes: f64,
    /// The sentence a person reads.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// The constraint that holds it here: `time`, `memory`, `support`, `pin`, `indifferent`, `search`, or empty when
    /// nobody looked.
    #[prost(string, tag = "5")]
    pub binds: String,
}

/// What one device would have cost.
#[derive(Clone, PartialEq, Message)]
pub struct Choice {
    /// Device name.
    #[prost(string, tag = "1")]
    pub device: String,
    /// Predicted microseconds; negative when it cannot run the step.
    #[prost(double, tag = "2")]
    pub time_us: f64,
    /// Where the figure comes from, or why there is none.
    #[prost(string, tag = "3")]
    pub origin: String,
    /// Objective of the whole plan in microseconds with this step here and all others where they are; 0 when nobody
    /// looked, negative when there is no such plan.
    #[prost(double, tag = "4")]
    pub plan_us: f64,
    /// Why the step may not be here although the device could run it (memory, pin), else empty.
    #[prost(string, tag = "5")]
    pub barred: String,
}

/// Steps in order on one device, or over one link.
#[derive(Clone, PartialEq, Message)]
pub struct Queue {
    /// Name, as `cpu0` or `cpu0->gpu0`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The device whose compute queue this is; for a copy queue the destination.
    #[prost(uint32, tag = "2")]
    pub device: u32,
    /// True for transfers: every step copies one value.
    #[prost(bool, tag = "3")]
    pub copies: bool,
    /// The source device of a copy queue.
    #[prost(uint32, tag = "4")]
    pub from: u32,
    /// Steps in order.
    #[prost(message, repeated, tag = "5")]
    pub steps: Vec<Step>,
}

/// An input or output of the model.
#[derive(Clone, PartialEq, Message)]
pub struct Port {
    /// Name in the model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index into `Plan::values`.
    #[prost(uint32, tag = "2")]
    pub value: u32,
}

/// How the plan came about, and the certificate of its placement.
#[derive(Clone, PartialEq, Message)]
pub struct Provenance {
    /// Name and version of the compiler.
    #[prost(string, tag = "1")]
    pub compiler: String,
    /// Name of the machine.
    #[prost(string, tag = "2")]
    pub machine: String,
    /// `latency` or `throughput`.
    #[prost(string, tag = "3")]
    pub objective: String,
    /// Objective value in microseconds.
    #[prost(double, tag = "4")]
    pub value_us: f64,
    /// Proven lower bound in microseconds.
    #[prost(double, tag = "5")]
    pub bound_us: f64,
    /// `optimal`, `feasible` or `limit`.
    #[prost(string, tag = "6")]
    pub status: String,
    /// Which solver and which bound.
    #[prost(string, tag = "7")]
    pub solver: String,
    /// Operators of the model as read, and after optimization.
    #[prost(uint32, tag = "8")]
    pub nodes_before: u32,
    /// See `nodes_before`.
    #[prost(uint32, tag = "9")]
    pub nodes_after: u32,
    /// Rules that fired and how often, as `name count`.
    #[prost(string, repeated, tag = "10")]
    pub rules: Vec<String>,
    /// What each device would take for everything, in the order of the devices; empty when nobody looked.
    #[prost(message, repeated, tag = "11")]
    pub alone: Vec<Alone>,
}

/// The plan that one device makes without the others.
#[derive(Clone, PartialEq, Message)]
pub struct Alone {
    /// Device name.
    #[prost(string, tag = "1")]
    pub device: String,
    /// Objective in microseconds; negative when there is no such plan.
    #[prost(double, tag = "2")]
    pub value_us: f64,
    /// Why there is none, else empty.
    #[prost(string, tag = "3")]
    pub barred: String,
}

impl Kernel {
    /// The parameter `name`, if present.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }

    /// The first integer of parameter `name`.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.param(name).and_then(|p| p.ints.first().copied())
    }

    /// All integers of parameter `name`; empty when absent.
    pub fn ints(&self, name: &str) -> &[i64] {
        self.param(name).map_or(&[], |p| &p.ints)
    }

    /// The first float of parameter `name`.
    pub fn float(&self, name: &str) -> Option<f64> {
        self.param(name).and_then(|p| p.floats.first().copied())
    }

    /// The first string of parameter `name`.
    pub fn string(&self, name: &str) -> Option<&str> {
        self.param(name).and_then(|p| p.strings.first().map(String::as_str))
    }

    /// The sizes of parameter `name`; empty when absent.
    pub fn dims(&self, name: &str) -> &[DimExpr] {
        self.param(name).map_or(&[], |p| &p.dims)
    }
}
