//! Errors as letters to a person: a stable code, one sentence, a hint.

use std::fmt;

/// What went wrong, with a code that stays the same between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// S001: a value of the request is out of range.
    Input,
    /// S002: no model of that name.
    UnknownModel,
    /// S003: no quantization of that name.
    UnknownQuant,
    /// S004: nothing fits.
    DoesNotFit,
    /// S005: a requested device stays unused.
    Unused,
    /// S006: a file header that cannot be read.
    Header,
    /// S007: no plan meets the caps on time, price or power.
    Caps,
    /// S008: a price table that cannot be read.
    Prices,
    /// S009: no device of that name.
    UnknownDevice,
}

impl Code {
    /// The printed form, such as "S004".
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Input => "S001",
            Code::UnknownModel => "S002",
            Code::UnknownQuant => "S003",
            Code::DoesNotFit => "S004",
            Code::Unused => "S005",
            Code::Header => "S006",
            Code::Caps => "S007",
            Code::Prices => "S008",
            Code::UnknownDevice => "S009",
        }
    }
}

/// An error of the planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardError {
    /// Which kind of error.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl ShardError {
    /// An error with its hint.
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> ShardError {
        ShardError { code, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}

impl std::error::Error for ShardError {}
