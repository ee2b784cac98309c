//! From a placed graph to a plan.
//!
//! **Contract.** `lower` turns regions into calls of library kernels; `assemble` turns calls, a placement and a
//! schedule into a plan with its weights.
//!
//! **Invariants.** No e-graph, no solver, no device by name: what a device can run and how it wants weights
//! packed arrives as a `Target`. Kernel names and parameters are those of `KERNELS.md`.
//!
//! **Reading order.** `call` (what a region becomes), `lower` (the table of operators), `windows` (convolution and
//! pooling), `program` (elementwise chains), `views` and `heads` (attention over operands that stay where they are), `assemble`, `weights`.

pub mod algorithm;
mod arenas;
pub mod assemble;
pub mod call;
pub mod cut;
mod heads;
pub mod lower;
mod params;
mod program;
pub mod reference;
mod rotary;
mod views;
pub mod weights;
mod windows;

pub use assemble::{Assembly, DeviceSpec, Placed, assemble};
pub use call::{Arg, Call, Lowered, Target};
pub use cut::{Stage, cut, is_static};
pub use lower::lower_regions;
