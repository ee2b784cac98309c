//! Errors of a run: code, place, one sentence, a hint.

use partita_plan::PlanError;
use std::fmt;

/// What went wrong while a plan was loaded, bound or run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeError {
    /// Stable code, as `R003`; plan errors keep theirs.
    pub code: &'static str,
    /// Where: a device, a step, a value.
    pub place: String,
    /// One sentence.
    pub message: String,
    /// What would fix it.
    pub hint: String,
}

impl RuntimeError {
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

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} at {}: {}\n  hint: {}", self.code, self.place, self.message, self.hint)
    }
}

impl std::error::Error for RuntimeError {}

impl From<PlanError> for RuntimeError {
    fn from(e: PlanError) -> Self {
        Self { code: e.code, place: e.place, message: e.message, hint: e.hint }
    }
}
