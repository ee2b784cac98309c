//! Placement and schedule as numbers: problems, solvers, bounds, an independent checker.
//!
//! Contract: a [`Problem`] goes in, an [`Answer`] comes out: a device per task, a schedule, the value, a proven
//! lower bound and which argument proves it. An answer is called optimal only when its value meets the bound.
//!
//! Invariants, as absences: nothing here knows a graph, an operator or what a device is; no clock is read, so the
//! same problem and limits give the same answer on any number of threads; `check` shares no code with the
//! solvers.
//!
//! Reading order: `problem`, `answer`, `solve`; then `units` and `load` with `dpl`, `anneal`, `resplit`, `exact_load`,
//! `bottleneck` and its bound in `frontier` and `prices`, or `jobs` and `schedule` with `heft`, `improve`, `exact`,
//! `latency`; `milp`, `ilp` and the back ends `microlp` and `highs`; `text`, `solution` and `msr` for files. `helix`,
//! `piper` and `strategy` are problems of their own.

mod anneal;
pub mod answer;
mod bottleneck;
mod bound;
pub mod check;
mod dpl;
pub mod error;
mod exact;
mod exact_load;
mod frontier;
mod heft;
pub mod helix;
pub mod highs;
mod ilp;
mod improve;
mod input;
mod jobs;
mod latency;
mod load;
pub mod lp;
mod microlp;
pub mod milp;
pub mod msr;
pub mod msr_latency;
mod msr_split;
mod orders;
pub mod piper;
mod prices;
pub mod problem;
mod resplit;
mod rng;
pub mod schedule;
pub mod solution;
pub mod solve;
pub mod strategy;
pub mod text;
mod units;
mod wire;

pub use answer::{Answer, Limits, Objective, Status};
pub use check::{Violation, check};
pub use error::PlaceError;
pub use input::text_of;
pub use problem::{CommModel, Device, Link, Problem, Task, Tensor};
pub use schedule::{Schedule, list_schedule};
pub use solve::{Format, solve, solve_text};
