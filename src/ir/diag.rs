//! Diagnostics: letters to a person, with a stable code, a place, one sentence and a hint.

use partita_plan::letters::visible;
use std::fmt;

/// Where something is wrong; the parts that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// File name as the user gave it.
    pub file: Option<String>,
    /// Line and column in a text file, from 1.
    pub line_column: Option<(usize, usize)>,
    /// Byte offset in a binary file.
    pub byte: Option<u64>,
    /// Node, as `name (op)`.
    pub node: Option<String>,
    /// Value name.
    pub value: Option<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diag {
    /// Stable code, as `V009`.
    pub code: &'static str,
    /// Where (boxed, so that results stay small).
    pub place: Box<Place>,
    /// One sentence.
    pub message: String,
    /// What would fix it; empty when there is nothing to say.
    pub hint: String,
}

impl Diag {
    /// A diagnostic without a place yet.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, place: Box::default(), message: message.into(), hint: String::new() }
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds the file, unless one is known already.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.place.file.get_or_insert_with(|| file.into());
        self
    }

    /// Adds the node, unless one is known already.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.place.node.get_or_insert_with(|| node.into());
        self
    }

    /// Adds the value, unless one is known already.
    #[must_use]
    pub fn at_value(mut self, value: impl Into<String>) -> Self {
        self.place.value.get_or_insert_with(|| value.into());
        self
    }

    /// Adds the byte offset.
    #[must_use]
    pub fn at_byte(mut self, byte: u64) -> Self {
        self.place.byte = Some(byte);
        self
    }

    /// Adds line and column.
    #[must_use]
    pub fn at_line(mut self, line: usize, column: usize) -> Self {
        self.place.line_column = Some((line, column));
        self
    }

    /// Whether this refuses something that is valid but not supported (as opposed to wrong).
    /// Such codes start with `U`.
    pub fn is_unsupported(&self) -> bool {
        self.code.starts_with('U')
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match (&self.file, self.line_column) {
            (Some(file), Some((line, column))) => parts.push(format!("{file}:{line}:{column}")),
            (Some(file), None) => parts.push(file.clone()),
            (None, Some((line, column))) => parts.push(format!("line {line}, column {column}")),
            (None, None) => {}
        }
        parts.extend(self.byte.map(|b| format!("byte {b}")));
        parts.extend(self.node.as_ref().map(|n| format!("node {n}")));
        parts.extend(self.value.as_ref().map(|v| format!("value %{v}")));
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, message) = (self.place.to_string(), visible(&self.message));
        if place.is_empty() {
            write!(f, "error {}: {message}", self.code)?;
        } else {
            write!(f, "error {} at {}: {message}", self.code, visible(&place))?;
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", visible(&self.hint)) }
    }
}

impl std::error::Error for Diag {}

impl From<partita_plan::PlanError> for Diag {
    fn from(error: partita_plan::PlanError) -> Self {
        Self::new(error.code, format!("{}: {}", error.place, error.message)).hint(error.hint)
    }
}
