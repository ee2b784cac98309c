//! Packs the operands of `gemm_n_bits`: numbers of few bits row by row, with what holds for each block of a row,
//! into panels of `NR` columns.

use crate::layout::{Layout, NR};
use partita_plan::{ElementType, Kernel};

/// Sizes of a weight as its kernel states them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub k: usize,
    pub n: usize,
    pub bits: usize,
    /// Numbers that share a scale.
    pub block: usize,
}

impl Sizes {
    /// Reads and checks the parameters of `kernel`.
    pub(crate) fn of(kernel: &Kernel) -> Option<Self> {
        let size = |name| kernel.int(name).and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
        let sizes = Self { k: size("k")?, n: size("n")?, bits: size("bits")?, block: size("block")? };
        let known = matches!(sizes.bits, 4 | 8) && sizes.block.is_power_of_two() && sizes.block >= 16;
        let small = sizes.padded()?.checked_mul(sizes.n.checked_next_multiple_of(NR)?)? < 1 << 40;
        (known && small).then_some(sizes)
    }

    /// Blocks of one row.
    pub(crate) fn blocks(self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// K as a whole number of blocks.
    pub(crate) fn padded(self) -> Option<usize> {
        self.k.checked_next_multiple_of(self.block)
    }
}

/// Packs operand `operand` of `kernel`: numbers, scales or zero points.
pub(crate) fn pack_n_bits(
    kernel: &Kernel,
    operand: usize,
    raw: &[u8],
    dtype: ElementType,
) -> Option<(String, Vec<u8>)> {
    let sizes = Sizes::of(kernel)?;
    let (n, k, blocks) = (sizes.n, sizes.padded()?, sizes.blocks());
    let layout = Layout::BitsBlock { blocks, n }.to_string();
    match (operand, dtype) {
        (1, ElementType::U8) => {
            let row = k * sizes.bits / 8;
            let layout = Layout::BitsB { bits: sizes.bits, k, n }.to_string();
            // Eight numbers of 4 bits are a word of four bytes.
            let unit = if sizes.bits == 4 { 4 } else { 1 };
            (raw.len() == row * n).then(|| (layout, panels(raw, n, row, unit)))
        }
        (2, ElementType::F32) => {
            (raw.len() == n * blocks * 4).then(|| (layout, panels(raw, n, blocks * 4, 4)))
        }
        (3, ElementType::U8) => {
            let row = (blocks * sizes.bits).div_ceil(8);
            let zeros: Vec<u8> = raw.chunks(row).flat_map(|row| numbers(row, sizes.bits, blocks)).collect();
            (raw.len() == row * n).then(|| (layout, panels(&zeros, n, blocks, 1)))
        }
        _ => None,
    }
}

/// The first `count` numbers of a row.
fn numbers(row: &[u8], bits: usize, count: usize) -> Vec<u8> {
    match bits {
        4 => row.iter().flat_map(|b| [b & 15, b >> 4]).take(count).collect(),
        _ => row.to_vec(),
    }
}

/// `n` rows of `row` bytes as columns: units of `unit` bytes of `NR` rows become neighbours.
fn panels(rows: &[u8], n: usize, row: usize, unit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(n.next_multiple_of(NR) * row);
    for panel in (0..n).step_by(NR) {
        for at in (0..row).step_by(unit) {
            for column in panel..panel + NR {
                let from = column * row + at;
                let bytes = if column < n { rows.get(from..from + unit) } else { None };
                out.extend_from_slice(bytes.unwrap_or(&[0; 4][..unit]));
            }
        }
    }
    out
}
