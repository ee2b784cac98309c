//! Plan to session: load, bind, run. Arenas, queues, waits, drivers, trace.
//!
//! **Contract.** A session runs what a plan says on the devices whose drivers it is given.
//!
//! **Invariants.** No graph, no operator, no solver, no device by name. Nothing is allocated on the host
//! after a shape has been bound once.

pub mod driver;
pub mod error;

pub use driver::{Bound, Driver, DriverFactory, HostKernel, HostKernels, HostType, WeightBytes};
pub use error::RuntimeError;
