//! What flows between operators beside plain tensors: sequences, optionals and maps.
//!
//! A static plan holds tensors only. Operators that make or take anything else are evaluated on the host.

use crate::Tensor;

/// Deepest nesting of sequences and optionals.
pub const MAX_DATUM_DEPTH: usize = 8;

/// A value at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    Tensor(Tensor),
    Sequence(Vec<Datum>),
    /// `None` is an optional without an element.
    Optional(Option<Box<Datum>>),
    /// Keys (integers or strings, one dimension) and as many values.
    Map {
        keys: Tensor,
        values: Tensor,
    },
}

impl Datum {
    /// The tensor; `None` for anything else.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Self::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Its kind in a word, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tensor(_) => "a tensor",
            Self::Sequence(_) => "a sequence",
            Self::Optional(_) => "an optional",
            Self::Map { .. } => "a map",
        }
    }

    /// Bytes held, for limits.
    pub fn size_bytes(&self) -> usize {
        let mut todo = vec![self];
        let mut bytes = 0usize;
        while let Some(next) = todo.pop() {
            match next {
                Self::Tensor(t) => bytes = bytes.saturating_add(t.bytes().len()),
                Self::Sequence(items) => todo.extend(items),
                Self::Optional(item) => todo.extend(item.as_deref()),
                Self::Map { keys, values } => {
                    bytes = bytes.saturating_add(keys.bytes().len()).saturating_add(values.bytes().len());
                }
            }
        }
        bytes
    }
}

impl From<Tensor> for Datum {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}
