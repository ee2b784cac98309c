//! Everything that is not a case in a file, one module per subject. See `README.md`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod cli;
mod control;
mod determinism;
mod differential;
mod faults;
mod heads;
mod lending;
mod operators;
mod programs;
mod random;
mod real_models;
mod regressions;
mod support;
mod text;
mod threads;
mod tidy;
mod wgpu;
