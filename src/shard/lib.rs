//! Plans for models larger than a device.
//!
//! *Contract.* A [`Request`] (a model as an architecture, a format of weights, a load) and a machine go in, a [`Plan`]
//! comes out: which devices hold which layers, how they work together, what it costs, and how far from the best plan it
//! can be. No graph is needed.
//!
//! *Invariants.* The same request gives the same plan: no clock is read, limits are counts. [`check`] shares no code
//! with the search. Adding a device never makes the estimate worse, since the planner may leave it unused.
//!
//! *Reading order.* `spec.rs` (models), `layer.rs` (what a layer costs), `pool.rs` (equal devices), `fill.rs` and
//! `block.rs` (pipelines), `search.rs` (replicas, phases), `plan.rs`, `check.rs`.

mod assemble;
mod block;
mod catalog;
mod check;
mod cloud;
mod error;
mod factors;
mod fill;
pub mod header;
mod joint;
mod layer;
mod plan;
mod planner;
mod pool;
mod prices;
mod quant;
mod report;
mod request;
mod search;
mod spec;
mod timing;
mod training;

pub use catalog::{guess, model, models};
pub use check::check;
pub use cloud::{CLOUD_SCHEMA, CloudTable, Offer, cloud};
pub use error::{Code, ShardError};
pub use layer::{ExpertSplit, Subject};
pub use plan::{Alternative, Certificate, PLAN_SCHEMA, Part, Plan, Role, Stage, Unused};
pub use planner::{plan, plan_largest_batch};
pub use quant::{QUANTS, Quant};
pub use request::{Allow, Caps, DEFAULT_WORK, MAX_BATCH, MAX_TOKENS, Objective, Phase, Request};
pub use spec::{Family, ModelSpec};
pub use timing::{Timing, simulate};
pub use training::{Method, TrainingMemory, training};
