//! Shared by the integration tests of this crate.

pub(crate) mod plans;
