//! The built binary as a user runs it: what commands print, their exit codes, their letters.

mod commands;
mod conformance;
mod costs;
mod explaining;
mod letters;
pub(crate) mod tool;
