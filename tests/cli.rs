//! The built binary as a user runs it: what commands print, their exit codes, their letters.

mod commands;
mod conformance;
mod costs;
mod explaining;
mod hardware;
mod letters;
mod shard;
pub(crate) mod tool;
