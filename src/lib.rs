//! Partita compiles models for machines with unlike processors, explains what it decided, and runs the result.
//!
//! **Contract.** `pipeline::load` and `pipeline::compile` turn a model and a machine into a plan; `session::open`
//! runs a plan. The command line is a thin layer over these.
//!
//! **Invariants.** Only `main.rs` prints, exits and reads arguments. `pipeline` is the only file that knows
//! the order of the stages. Reports read everything and change nothing.
//!
//! **Reading order.** `pipeline`, `placement`, `price`, `devices`, then the crates from the floor up: `partita_ir`,
//! `partita_ops`, `partita_passes`, `partita_place`, `partita_codegen`, `partita_plan`, `partita_runtime`.

pub mod alternatives;
pub mod calibrate;
pub mod cli;
mod covers;
pub mod devices;
pub mod error;
pub mod fit;
pub mod host_kernels;
mod host_ops;
pub mod launch;
mod link;
pub mod npy;
pub mod pipeline;
pub mod placement;
pub mod price;
pub mod report;
pub mod session;
pub mod terms;

pub use error::{Error, Result};
pub use pipeline::{CompileOptions, Compiled, Model, compile, load};
