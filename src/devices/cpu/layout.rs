//! Packed layouts of constant operands. They are the same for every instruction set, so one plan runs on
//! every machine.
//!
//! `gemm-b:<K>x<N>`: column panels of `NR` columns, each K rows of `NR` floats; the last panel is padded
//! with zeros.

use std::fmt;

/// Columns of a panel of B.
pub const NR: usize = 32;
/// Rows of a tile of results: with `NR` columns they fill 28 of AVX-512's 32 registers.
pub const MR: usize = 14;
/// Largest number of floats a packed operand may have; guards against sizes from damaged plans.
const MAX_FLOATS: usize = 1 << 40;

/// A packed layout with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Weight of a `gemm`, K x N.
    GemmB { k: usize, n: usize },
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GemmB { k, n } => write!(f, "gemm-b:{k}x{n}"),
        }
    }
}

impl Layout {
    /// Reads a layout string; `None` when it is not one of ours or its sizes are not plausible.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, sizes) = text.split_once(':')?;
        let sizes: Vec<usize> = sizes.splitn(4, 'x').map(|s| s.parse().ok()).collect::<Option<_>>()?;
        let layout = match (name, sizes.as_slice()) {
            ("gemm-b", &[k, n]) => Self::GemmB { k, n },
            _ => return None,
        };
        layout.floats().map(|_| layout)
    }

    /// Number of floats, padding included; `None` when it exceeds the limit.
    pub fn floats(&self) -> Option<usize> {
        let product = match *self {
            Self::GemmB { k, n } => n.checked_next_multiple_of(NR)?.checked_mul(k)?,
        };
        (product <= MAX_FLOATS).then_some(product)
    }

    /// Stored bytes, padding included.
    pub fn bytes(&self) -> Option<usize> {
        self.floats().map(|floats| floats * size_of::<f32>())
    }
}

/// Packs `b` (K x N row-major, or N x K when `transposed`) into `gemm-b`. `b` must have `k * n` elements.
pub fn pack_gemm_b(b: &[f32], k: usize, n: usize, transposed: bool) -> Vec<u8> {
    let (row_stride, column_stride) = if transposed { (1, k) } else { (n, 1) };
    let mut out = Vec::with_capacity(n.next_multiple_of(NR) * k * size_of::<f32>());
    for panel in (0..n).step_by(NR) {
        for row in 0..k {
            for column in panel..panel + NR {
                let value = if column < n { b[row * row_stride + column * column_stride] } else { 0.0 };
                out.extend_from_slice(&value.to_ne_bytes());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_round_trip() {
        for layout in [Layout::GemmB { k: 3, n: 40 }] {
            assert_eq!(Layout::parse(&layout.to_string()), Some(layout));
        }
    }

    #[test]
    fn damaged_strings_are_refused() {
        for text in ["", "gemm-b", "gemm-b:3", "gemm-b:3x4x5", "gemm-b:-1x4", "x:1x1"] {
            assert_eq!(Layout::parse(text), None, "{text}");
        }
        assert_eq!(Layout::parse("gemm-b:18446744073709551615x18446744073709551615"), None);
        assert_eq!(Layout::parse("gemm-b:1099511627776x64"), None);
    }

    #[test]
    fn packing_pads_with_zeros() {
        let packed = pack_gemm_b(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, false);
        assert_eq!(packed.len(), Layout::GemmB { k: 2, n: 3 }.bytes().unwrap());
        let at = |i: usize| f32::from_ne_bytes(packed[i * 4..i * 4 + 4].try_into().unwrap());
        assert_eq!([at(0), at(1), at(2), at(3), at(NR), at(NR + 2)], [1.0, 2.0, 3.0, 0.0, 4.0, 6.0]);
        let transposed = pack_gemm_b(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], 2, 3, true);
        assert_eq!(packed, transposed);
    }
}
