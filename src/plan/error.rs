//! Errors of plans: code, place, one sentence, a hint.

use crate::letters::visible;
use std::fmt;

/// What is wrong with a plan, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// Stable code, as `L003`.
    pub code: &'static str,
    /// Where: a byte, a step, a value.
    pub place: String,
    /// One sentence.
    pub message: String,
    /// What would fix it.
    pub hint: String,
}

impl PlanError {
    /// Builds an error from its four parts.
    pub fn new(
        code: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { code, place: place.into(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, message) = (visible(&self.place), visible(&self.message));
        write!(f, "error {} at {place}: {message}\n  hint: {}", self.code, visible(&self.hint))
    }
}

impl std::error::Error for PlanError {}
