//! What can go wrong, as letters to a person: a stable code, a place, one sentence and a hint.
//!
//! Codes: P001 the text is not in the grammar, P002 the problem contradicts itself, P003 a limit is exceeded,
//! P004 no placement can exist, P005 no placement was found within the work limit, P006 the file is not the
//! MSR format, P007 the file is not a strategy-selection problem, P008 the text is not in the LP form, P009 the
//! file is not in the TMPC form, P010 the program is not one of Helix, P011 the file is not text.

use thiserror::Error;

/// An error with a stable code, the place it is about, one sentence, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{code} at {place}: {message} ({hint})")]
pub struct PlaceError {
    /// Stable code, `P001` and so on.
    pub code: &'static str,
    /// Line and column, or the name of the task, tensor or device.
    pub place: String,
    /// One sentence.
    pub message: String,
    /// What the reader can do.
    pub hint: String,
}

impl PlaceError {
    /// Builds an error from its four parts.
    pub fn new(
        code: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        PlaceError { code, place: place.into(), message: message.into(), hint: hint.into() }
    }

    pub(crate) fn text(line: usize, column: usize, message: impl Into<String>) -> Self {
        let place = format!("line {line}, column {column}");
        PlaceError::new("P001", place, message, "see the grammar in the header of text.rs")
    }

    pub(crate) fn invalid(place: impl Into<String>, message: impl Into<String>) -> Self {
        PlaceError::new("P002", place, message, "correct the problem; nothing was solved")
    }

    pub(crate) fn limit(place: impl Into<String>, message: impl Into<String>) -> Self {
        PlaceError::new("P003", place, message, "split the problem or merge tasks before placing them")
    }

    pub(crate) fn impossible(place: impl Into<String>, message: impl Into<String>) -> Self {
        let hint = "relax the pin, the colocation or the memory limit named here";
        PlaceError::new("P004", place, message, hint)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        PlaceError::new("P005", "problem", message, "raise the work limit, or give the devices more memory")
    }

    pub(crate) fn lp(line: usize, message: impl Into<String>) -> Self {
        PlaceError::new("P008", format!("line {line}"), message, "the reader takes the LP text form")
    }

    pub(crate) fn helix(place: impl Into<String>, message: impl Into<String>) -> Self {
        let hint = "the reader takes the placement programs of Helix with their variables hold_, start_, switch_, flow_";
        PlaceError::new("P010", place, message, hint)
    }

    pub(crate) fn unreadable(message: impl Into<String>) -> Self {
        PlaceError::new("P011", "file", message, "problems are UTF-8 text, plain or gzipped")
    }

    pub(crate) fn tmpc(place: impl Into<String>, message: impl Into<String>) -> Self {
        PlaceError::new("P009", place, message, "the reader takes Piper's JSON with TMPCs per node")
    }

    pub(crate) fn msr(place: impl Into<String>, message: impl Into<String>) -> Self {
        let hint = "the reader takes the format msr-dnn-partitioning/compact-v1";
        PlaceError::new("P006", place, message, hint)
    }

    pub(crate) fn strategy(place: impl Into<String>, message: impl Into<String>) -> Self {
        let hint = "the reader takes the JSON of google/iopddl, plain or gzipped";
        PlaceError::new("P007", place, message, hint)
    }
}
