//! Work: what an operation costs, free of any device.

use crate::DType;

/// What bounds an operation on most devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkKind {
    /// Matrix products and convolutions: dense multiply-add units.
    Dense,
    /// Elementwise arithmetic and reductions: vector units and bandwidth.
    Vector,
    /// Moves or reinterprets bytes.
    Move,
    /// Nothing at run time (a reshape).
    Free,
}

/// Work of one operation for concrete shapes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Multiply and add counted separately.
    pub flops: f64,
    /// Bytes read, weights included.
    pub read_bytes: f64,
    /// Bytes written.
    pub written_bytes: f64,
    /// Element type the arithmetic runs in.
    pub dtype: DType,
    pub kind: WorkKind,
}

impl Work {
    /// Work that costs nothing.
    pub fn free() -> Self {
        Self { flops: 0.0, read_bytes: 0.0, written_bytes: 0.0, dtype: DType::F32, kind: WorkKind::Free }
    }

    /// The sum of both; the kind is the more demanding of the two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let first = self.kind <= other.kind;
        Self {
            flops: self.flops + other.flops,
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            dtype: if first { self.dtype } else { other.dtype },
            kind: self.kind.min(other.kind),
        }
    }
}
