//! Reports: they read everything and change nothing.

pub mod dot;
pub mod explain;
pub mod json;
pub mod profile;
pub mod program;
pub mod stages;
pub mod summary;
pub mod trace;
