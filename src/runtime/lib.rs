//! Plan to session: load, bind, run. Arenas, queues, waits, drivers, trace.
//!
//! **Contract.** A session runs what a plan says on the devices whose drivers it is given.
//!
//! **Invariants.** No graph, no operator, no solver, no device by name. Nothing is allocated on the host
//! after a shape has been bound once.
//!
//! **Reading order.** `driver` (what a device can do), `session` (load, bind, run), `bind` (symbols to sizes),
//! `execute` with `event` (queues on threads), `lend` (inputs and outputs in the
//! caller's memory), `trace` (clock and simulated clock), `source` and `arena`
//! (bytes), `fault` (failures for tests).

pub mod arena;
mod bind;
pub mod driver;
pub mod error;
mod event;
mod execute;
pub mod fault;
mod lend;
pub mod program;
pub mod session;
pub mod source;
pub mod trace;

pub use driver::{Bound, Driver, DriverFactory, HostKernel, HostKernels, HostType, Lent, WeightBytes};
pub use error::RuntimeError;
pub use program::{Blocks, HostCall, HostOp, HostOps, Program};
pub use session::{Drivers, OutputBytes, PortInfo, Session, SessionOptions};
pub use source::{PlanSource, read_plan};
pub use trace::{Span, Timeline, TraceRow};
