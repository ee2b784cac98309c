//! Packed layouts of constant operands. They are the same for every instruction set, so one plan runs on
//! every machine.
//!
//! `gemm-b:<K>x<N>`: column panels of `NR` columns, each K rows of `NR` floats; the last panel is padded
//! with zeros. `gemm-b-bf16:<K>x<N>`: the same rounded to bfloat16, rows 2i and 2i + 1 as the low and high halves of 32
//! bits; an odd last row is paired with zero. `n-bits-b:<bits>x<K>x<N>`: numbers of 4 or 8 bits in column panels of `NR` columns; a row of 4 bits
//! is 8 steps of K, one word of 8 numbers per column, lowest bits first; a row of 8 bits is one step of K.
//! `n-bits-block:<B>x<N>`: what holds for a block of K (scales, zero points) in panels of `NR` columns, B rows each.
//!
//! For convolutions whose result has its channels last: `conv-b:<G>x<K>x<N>` is, per group, `gemm-b` with one column
//! per output channel; K runs over the kernel window (row-major) and inside it over the input channels of the group.
//! A transposed convolution with its channels last has a group for every group and kernel element (row-major), whose
//! depth is the input channels. `depthwise:<T>x<C>`, one input and one output channel per group: T taps (row-major) of C floats, nothing padded.
//!
//! For products of integers: `int-b:<G>x<T>x<D>x<N>` has per group panels of `NR` columns: `NR` sums of columns (i32),
//! then for each of T taps D steps of the depth, four signed bytes per column side by side, padded with zeros.
//! `int-depthwise:<T>x<C>` has T taps of C signed bytes.

use partita_plan::ElementType;
use std::fmt;

/// Columns of a panel of B.
pub const NR: usize = 32;
/// Rows of a tile of results: with `NR` columns they fill 28 of AVX-512's 32 registers.
pub const MR: usize = 14;
/// Largest number of elements a packed operand may have; guards against sizes from damaged plans.
const MAX_ELEMENTS: usize = 1 << 40;

/// A packed layout with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Weight of a `gemm`, K x N.
    GemmB { k: usize, n: usize },
    /// The same rounded to bfloat16.
    GemmBHalf { k: usize, n: usize },
    /// Weight of a `conv` with channels last: groups, depth, output channels per group.
    ConvB { groups: usize, depth: usize, columns: usize },
    /// The same rounded to bfloat16.
    ConvBHalf { groups: usize, depth: usize, columns: usize },
    /// Weight of a depthwise `conv` with channels last: kernel elements, channels.
    Depthwise { taps: usize, channels: usize },
    /// Weight of a product or convolution of integers: groups, taps, depth of a tap, columns per group.
    IntB { groups: usize, taps: usize, depth: usize, columns: usize },
    /// Weight of a depthwise convolution of integers: kernel elements, channels.
    IntDepthwise { taps: usize, channels: usize },
    /// Numbers of a `gemm_n_bits` weight; K is a whole number of blocks.
    BitsB { bits: usize, k: usize, n: usize },
    /// Scales (f32) or zero points (u8) of a `gemm_n_bits` weight.
    BitsBlock { blocks: usize, n: usize },
    /// Weight of a 3 x 3 `conv` with channels last as `winograd_weight` packs it.
    Winograd { m: usize, inputs: usize, outputs: usize },
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GemmB { k, n } => write!(f, "gemm-b:{k}x{n}"),
            Self::GemmBHalf { k, n } => write!(f, "gemm-b-bf16:{k}x{n}"),
            Self::ConvB { groups, depth, columns } => write!(f, "conv-b:{groups}x{depth}x{columns}"),
            Self::ConvBHalf { groups, depth, columns } => write!(f, "conv-b-bf16:{groups}x{depth}x{columns}"),
            Self::Depthwise { taps, channels } => write!(f, "depthwise:{taps}x{channels}"),
            Self::IntB { groups, taps, depth, columns } => {
                write!(f, "int-b:{groups}x{taps}x{depth}x{columns}")
            }
            Self::IntDepthwise { taps, channels } => write!(f, "int-depthwise:{taps}x{channels}"),
            Self::BitsB { bits, k, n } => write!(f, "n-bits-b:{bits}x{k}x{n}"),
            Self::BitsBlock { blocks, n } => write!(f, "n-bits-block:{blocks}x{n}"),
            Self::Winograd { m, inputs, outputs } => write!(f, "winograd:{m}x{inputs}x{outputs}"),
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
            ("gemm-b-bf16", &[k, n]) => Self::GemmBHalf { k, n },
            ("conv-b", &[groups, depth, columns]) => Self::ConvB { groups, depth, columns },
            ("conv-b-bf16", &[groups, depth, columns]) => Self::ConvBHalf { groups, depth, columns },
            ("depthwise", &[taps, channels]) => Self::Depthwise { taps, channels },
            ("int-b", &[groups, taps, depth, columns]) => Self::IntB { groups, taps, depth, columns },
            ("int-depthwise", &[taps, channels]) => Self::IntDepthwise { taps, channels },
            ("n-bits-b", &[bits, k, n]) if bits == 8 || (bits == 4 && k.is_multiple_of(8)) => {
                Self::BitsB { bits, k, n }
            }
            ("n-bits-block", &[blocks, n]) => Self::BitsBlock { blocks, n },
            ("winograd", &[m @ (2 | 4), inputs, outputs]) => Self::Winograd { m, inputs, outputs },
            _ => return None,
        };
        layout.elements().map(|_| layout)
    }

    /// Number of elements, padding included; `None` when it exceeds the limit.
    pub fn elements(&self) -> Option<usize> {
        let product = match *self {
            Self::GemmBHalf { k, n } => n.checked_next_multiple_of(NR)?.checked_mul(k.div_ceil(2))?,
            Self::GemmB { k, n } | Self::BitsB { k, n, .. } => {
                n.checked_next_multiple_of(NR)?.checked_mul(k)?
            }
            Self::BitsBlock { blocks, n } => n.checked_next_multiple_of(NR)?.checked_mul(blocks)?,
            Self::ConvB { groups, depth, columns } => {
                columns.checked_next_multiple_of(NR)?.checked_mul(depth)?.checked_mul(groups)?
            }
            Self::ConvBHalf { groups, depth, columns } => {
                columns.checked_next_multiple_of(NR)?.checked_mul(depth.div_ceil(2))?.checked_mul(groups)?
            }
            Self::Depthwise { taps, channels } | Self::IntDepthwise { taps, channels } => {
                taps.checked_mul(channels)?
            }
            Self::Winograd { m, inputs, outputs } => {
                outputs.checked_next_multiple_of(NR)?.checked_mul(inputs)?.checked_mul((m + 2) * (m + 2))?
            }
            Self::IntB { groups, taps, depth, columns } => {
                let rows =
                    depth.checked_next_multiple_of(4)?.checked_mul(taps)?.checked_add(size_of::<i32>())?;
                columns.checked_next_multiple_of(NR)?.checked_mul(rows)?.checked_mul(groups)?
            }
        };
        (product <= MAX_ELEMENTS).then_some(product)
    }

    /// Stored bytes of an operand of type `dtype`, padding included; `None` when the layout is not for that type.
    pub fn bytes(&self, dtype: ElementType) -> Option<usize> {
        let bits = match (self, dtype) {
            (Self::BitsBlock { .. }, ElementType::U8) => 8,
            (Self::BitsB { bits, .. }, ElementType::U8) => *bits,
            (Self::IntB { .. } | Self::IntDepthwise { .. }, ElementType::I8) => 8,
            (Self::BitsB { .. } | Self::IntB { .. } | Self::IntDepthwise { .. }, _) => return None,
            (_, ElementType::F32) => 32,
            _ => return None,
        };
        self.elements()?.checked_mul(bits).map(|b| b / 8)
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

/// Rounds panels with `k` rows, as `pack_gemm_b` makes them, to `gemm-b-bf16`.
pub fn round_gemm_b(panels: &[u8], k: usize) -> Vec<u8> {
    let (floats, _) = panels.as_chunks::<4>();
    let half = |row: usize, at: usize| match row < k {
        true => half::bf16::from_f32(f32::from_ne_bytes(floats[at])).to_bits(),
        false => 0,
    };
    let mut out = Vec::with_capacity(panels.len() / 2);
    for panel in (0..floats.len()).step_by((k * NR).max(1)) {
        for row in (0..k).step_by(2) {
            for at in panel + row * NR..panel + (row + 1) * NR {
                out.extend_from_slice(&half(row, at).to_ne_bytes());
                out.extend_from_slice(&half(row + 1, at + NR).to_ne_bytes());
            }
        }
    }
    out
}

/// Packs convolution weights (`groups * columns` x `inputs` x `taps`, row-major) into `conv-b`.
pub fn pack_conv_b(w: &[f32], groups: usize, columns: usize, inputs: usize, taps: usize) -> Vec<u8> {
    let depth = inputs * taps;
    let mut out = Vec::with_capacity(groups * columns.next_multiple_of(NR) * depth * size_of::<f32>());
    for group in 0..groups {
        for panel in (0..columns).step_by(NR) {
            for row in 0..depth {
                let (tap, input) = (row / inputs, row % inputs);
                for column in panel..panel + NR {
                    let at = ((group * columns + column) * inputs + input) * taps + tap;
                    let value = if column < columns { w[at] } else { 0.0 };
                    out.extend_from_slice(&value.to_ne_bytes());
                }
            }
        }
    }
    out
}

/// Packs weights of a transposed convolution (`groups * inputs` x `outputs` x `taps`, row-major) into `conv-b` with one
/// group per group and tap.
pub fn pack_conv_transpose_b(
    w: &[f32],
    groups: usize,
    inputs: usize,
    outputs: usize,
    taps: usize,
) -> Vec<u8> {
    let at = |group: usize, tap: usize, column: usize, row: usize| {
        ((group * inputs + row) * outputs + column) * taps + tap
    };
    let mut turned = Vec::with_capacity(w.len());
    for group in 0..groups {
        for tap in 0..taps {
            for column in 0..outputs {
                turned.extend((0..inputs).map(|row| w[at(group, tap, column, row)]));
            }
        }
    }
    pack_conv_b(&turned, groups * taps, outputs, inputs, 1)
}

/// Packs depthwise weights (`channels` x `taps`, row-major) into `depthwise`.
pub fn pack_depthwise(w: &[f32], taps: usize, channels: usize) -> Vec<u8> {
    let at = |i: usize| w[i % channels * taps + i / channels];
    (0..taps * channels).flat_map(|i| at(i).to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_round_trip() {
        let bits = [4, 8].map(|bits| Layout::BitsB { bits, k: 32, n: 5 });
        for layout in [
            Layout::GemmB { k: 3, n: 40 },
            Layout::ConvB { groups: 2, depth: 27, columns: 13 },
            Layout::Depthwise { taps: 9, channels: 24 },
            Layout::IntDepthwise { taps: 9, channels: 40 },
            Layout::IntB { groups: 2, taps: 9, depth: 5, columns: 40 },
            Layout::BitsBlock { blocks: 2, n: 9 },
            bits[0],
            bits[1],
        ] {
            assert_eq!(Layout::parse(&layout.to_string()), Some(layout));
        }
    }

    #[test]
    fn damaged_strings_are_refused() {
        for text in [
            "n-bits-b:4x7x3",
            "n-bits-b:5x8x3",
            "",
            "gemm-b",
            "gemm-b:3",
            "gemm-b:3x4x5",
            "gemm-b:-1x4",
            "x:1x1",
        ] {
            assert_eq!(Layout::parse(text), None, "{text}");
        }
        assert_eq!(Layout::parse("gemm-b:18446744073709551615x18446744073709551615"), None);
        assert_eq!(Layout::parse("gemm-b:1099511627776x64"), None);
    }

    #[test]
    fn packing_pads_with_zeros() {
        let packed = pack_gemm_b(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, false);
        assert_eq!(packed.len(), Layout::GemmB { k: 2, n: 3 }.bytes(ElementType::F32).unwrap());
        let at = |i: usize| f32::from_ne_bytes(packed[i * 4..i * 4 + 4].try_into().unwrap());
        assert_eq!([at(0), at(1), at(2), at(3), at(NR), at(NR + 2)], [1.0, 2.0, 3.0, 0.0, 4.0, 6.0]);
        let transposed = pack_gemm_b(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], 2, 3, true);
        assert_eq!(packed, transposed);
    }

    #[test]
    fn channels_are_innermost_in_the_depth() {
        let floats =
            |b: &[u8]| -> Vec<f32> { b.as_chunks::<4>().0.iter().map(|c| f32::from_ne_bytes(*c)).collect() };
        // Two output channels of two input channels of three taps.
        let w: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let packed = floats(&pack_conv_b(&w, 1, 2, 2, 3));
        assert_eq!(
            packed.len() * 4,
            Layout::ConvB { groups: 1, depth: 6, columns: 2 }.bytes(ElementType::F32).unwrap()
        );
        let column: Vec<f32> = packed.iter().step_by(NR).copied().collect();
        assert_eq!(column, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(packed[1], 6.0);
        assert_eq!(
            floats(&pack_depthwise(&w, 3, 4)),
            [0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0]
        );
    }
}
