//! The optimizer: normal form, constant folding, equality saturation, regions.
//!
//! **Contract.** `optimize` takes a verified graph and gives one that computes the same (within the numerics the
//! options allow), is never dearer by the caller's cost function, and comes with a history of what was done.
//!
//! **Invariants.** No device by name: time comes as a function of work. Rules are data; the matcher knows no
//! operator. Budgets are counts, so equal input gives equal output on every machine.
//!
//! **Reading order.** `driver` (passes, order, fuel), `normalise`, `fold_constants`, `cse`, `egraph`, `channels_last`, `quantized`, `fuse`.

pub mod channels_last;
pub mod cse;
pub mod dead_code;
pub mod driver;
pub mod egraph;
pub mod fold_constants;
pub mod fuse;
pub mod history;
pub mod merge_products;
pub mod normalise;
pub mod quantized;
pub mod rules;
pub mod saturation;

pub use driver::{CHANNELS_LAST, Ctx, DEFAULT, HEADS, LAST, Options, PASSES, Pass, optimize, run_passes};
pub use egraph::cost::roofline;
pub use egraph::saturate::Limits;
pub use fuse::fuse;
pub use history::{History, PassRecord, SaturationRecord};
