//! Errors as letters to a person: a stable code, the place, one sentence, a hint.

use std::fmt;

use crate::nearest;

/// What went wrong, with a code that stays the same between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// H001: the text is not TOML.
    Syntax,
    /// H002: a field this format does not have.
    UnknownField,
    /// H003: a field of the wrong type.
    WrongType,
    /// H004: a field that must be there is not.
    MissingField,
    /// H005: a value out of its range.
    BadValue,
    /// H006: no processor profile of that id.
    UnknownProfile,
    /// H007: no interconnect of that id.
    UnknownLinkKind,
    /// H008: no device of that name in this machine.
    UnknownDevice,
    /// H009: the same name twice.
    Duplicate,
    /// H010: a documented limit is exceeded.
    Limit,
    /// H011: a simulated device about whose speed nothing is known.
    NoRates,
    /// H012: a device that no link reaches.
    Unreachable,
    /// H013: a schema version this program cannot read.
    Schema,
}

impl Code {
    /// The printed form, such as "H006".
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Syntax => "H001",
            Code::UnknownField => "H002",
            Code::WrongType => "H003",
            Code::MissingField => "H004",
            Code::BadValue => "H005",
            Code::UnknownProfile => "H006",
            Code::UnknownLinkKind => "H007",
            Code::UnknownDevice => "H008",
            Code::Duplicate => "H009",
            Code::Limit => "H010",
            Code::NoRates => "H011",
            Code::Unreachable => "H012",
            Code::Schema => "H013",
        }
    }
}

/// An error in a hardware file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HwError {
    /// Which kind of error.
    pub code: Code,
    /// The file as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// One sentence.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub hint: String,
}

impl fmt::Display for HwError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.line, self.column, self.code.as_str(), self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}

impl std::error::Error for HwError {}

/// A hint that names the known words closest to a wrong one, or `otherwise` when none is close.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let near = nearest::nearest(word, known);
    if near.is_empty() { otherwise.to_owned() } else { format!("did you mean {}?", near.join(", ")) }
}
