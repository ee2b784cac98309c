//! Few rows times one panel of `NR` columns whose numbers have 4 or 8 bits, and such a panel as floats.
//!
//! The product of a block is `scale * (sum of a * q - zero * sum of a)`: numbers become floats in registers and meet
//! the zero point once per block. A register of 4-bit numbers holds 8 steps of K for 16 columns; shifted right, its
//! lowest bits are the index of a table look-up, which AVX-512 has as one instruction.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::layout::NR;
use crate::math::fma;

/// Most rows that share one reading of the numbers.
pub(crate) const FEW: usize = 4;
/// Steps of K in a word of 4-bit numbers.
const PER_WORD: usize = 8;

/// One panel of the weight.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub bits: usize,
    /// Numbers that share a scale, a multiple of `PER_WORD`.
    pub block: usize,
    pub blocks: usize,
    pub numbers: *const u8,
    /// `NR` values for each block.
    pub scales: *const f32,
    /// The same, or null where `zero` holds for all.
    pub zeros: *const u8,
    pub zero: f32,
}

/// Up to `FEW` rows, padded to whole blocks, with the sums of their blocks.
#[derive(Clone, Copy)]
pub(crate) struct Few {
    pub rows: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub sums: *const f32,
    pub sums_row: usize,
}

impl Panel {
    /// Scales and zero points of block `block`.
    #[inline(always)]
    unsafe fn constants(&self, block: usize) -> ([f32; NR], [f32; NR]) {
        // SAFETY: every block has `NR` of both.
        unsafe {
            let scales = *self.scales.add(block * NR).cast::<[f32; NR]>();
            if self.zeros.is_null() {
                return (scales, [self.zero; NR]);
            }
            (scales, (*self.zeros.add(block * NR).cast::<[u8; NR]>()).map(f32::from))
        }
    }
}

/// Computes the product of the rows with a panel into `out`.
///
/// # Safety
/// The panel has its blocks, rows are padded to as many; `isa` exists here.
pub(crate) unsafe fn product(isa: Isa, few: &Few, panel: &Panel, out: &mut [[f32; NR]; FEW]) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => wide::product(few, panel, out),
            _ => any_product(isa, few, panel, out),
        }
    }
}

per_isa! {
    unsafe fn any_product = any_product_body(few: &Few, panel: &Panel, out: &mut [[f32; NR]; FEW])
}

#[inline(always)]
unsafe fn any_product_body<const FMA: bool>(few: &Few, panel: &Panel, out: &mut [[f32; NR]; FEW]) {
    for (row, out) in out.iter_mut().enumerate().take(few.rows) {
        // SAFETY: the caller's contract.
        unsafe {
            let (a, sums) = (few.a.add(row * few.a_row), few.sums.add(row * few.sums_row));
            match panel.bits {
                4 => any_row::<FMA, 4>(a, sums, panel, out),
                _ => any_row::<FMA, 8>(a, sums, panel, out),
            }
        }
    }
}

/// Columns that are summed in registers at once, in `WAYS` independent sums each.
const COLUMNS: usize = 16;
const WAYS: usize = 2;

#[inline(always)]
unsafe fn any_row<const FMA: bool, const BITS: usize>(
    a: *const f32,
    block_sums: *const f32,
    panel: &Panel,
    out: &mut [f32; NR],
) {
    *out = [0.0; NR];
    for block in 0..panel.blocks {
        // SAFETY: the block lies in the panel and in the row.
        unsafe {
            let (scales, zeros) = panel.constants(block);
            let sum = *block_sums.add(block);
            for column in (0..NR).step_by(COLUMNS) {
                let mut sums = [[0f32; COLUMNS]; WAYS];
                for k in (block * panel.block..(block + 1) * panel.block).step_by(PER_WORD) {
                    let steps = steps::<BITS>(panel.numbers, k, column);
                    for (j, step) in steps.iter().enumerate() {
                        let a = *a.add(k + j);
                        for (sum, &q) in sums[j % WAYS].iter_mut().zip(step) {
                            *sum = fma::<FMA>(a, q, *sum);
                        }
                    }
                }
                for (at, (x, y)) in (column..).zip(sums[0].iter().zip(&sums[1])) {
                    let centred = fma::<FMA>(-zeros[at], sum, x + y);
                    out[at] = fma::<FMA>(centred, scales[at], out[at]);
                }
            }
        }
    }
}

/// `PER_WORD` steps of K from `k` on, for columns from `column` on.
#[inline(always)]
unsafe fn steps<const BITS: usize>(
    numbers: *const u8,
    k: usize,
    column: usize,
) -> [[f32; COLUMNS]; PER_WORD] {
    // SAFETY: the steps and the columns lie in the panel.
    unsafe {
        if BITS == 4 {
            let words = numbers.cast::<u32>().add(k / PER_WORD * NR + column);
            let words = words.cast::<[u32; COLUMNS]>().read_unaligned();
            return std::array::from_fn(|j| words.map(|w| (w >> (4 * j) & 15) as i32 as f32));
        }
        std::array::from_fn(|j| {
            (*numbers.add((k + j) * NR + column).cast::<[u8; COLUMNS]>()).map(|q| i32::from(q) as f32)
        })
    }
}

per_isa! {
    /// Writes the panel's values, `(number - zero) * scale`, as rows of `NR` floats.
    ///
    /// # Safety
    /// `out` has room for all steps of K of the panel.
    pub(crate) unsafe fn values = values_body(panel: &Panel, out: *mut f32)
}

#[inline(always)]
unsafe fn values_body<const FMA: bool>(panel: &Panel, out: *mut f32) {
    for block in 0..panel.blocks {
        // SAFETY: the block lies in the panel, its values in `out`.
        unsafe {
            let (scales, zeros) = panel.constants(block);
            for k in (block * panel.block..(block + 1) * panel.block).step_by(PER_WORD) {
                for column in (0..NR).step_by(COLUMNS) {
                    let steps = match panel.bits {
                        4 => steps::<4>(panel.numbers, k, column),
                        _ => steps::<8>(panel.numbers, k, column),
                    };
                    for (j, step) in steps.iter().enumerate() {
                        let to = out.add((k + j) * NR + column);
                        for (c, &q) in step.iter().enumerate() {
                            *to.add(c) = (q - zeros[column + c]) * scales[column + c];
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! The product with AVX-512.

    use super::{FEW, Few, NR, PER_WORD, Panel};
    use std::arch::x86_64::*;

    /// Bytes between what is read and what is asked for; about a memory latency at the rate of streaming.
    const FETCH_BYTES: usize = 4096;
    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// As the general form.
    pub(super) unsafe fn product(few: &Few, panel: &Panel, out: &mut [[f32; NR]; FEW]) {
        // SAFETY: the caller's contract. Fewer rows need more independent sums each to hide the latency of adding.
        unsafe {
            match (panel.bits, few.rows) {
                (4, 1) => rows::<4, 1, 4>(few, panel, out),
                (4, 2) => rows::<4, 2, 2>(few, panel, out),
                (4, 3) => rows::<4, 3, 2>(few, panel, out),
                (4, _) => rows::<4, 4, 1>(few, panel, out),
                (_, 1) => rows::<8, 1, 4>(few, panel, out),
                (_, 2) => rows::<8, 2, 2>(few, panel, out),
                (_, 3) => rows::<8, 3, 2>(few, panel, out),
                _ => rows::<8, 4, 1>(few, panel, out),
            }
        }
    }

    /// 16 columns of step `j`, out of the words of 4-bit numbers or from bytes.
    #[inline(always)]
    unsafe fn step<const BITS: usize>(b: *const u8, words: __m512i, j: usize, half: usize) -> __m512 {
        // SAFETY: the panel has `PER_WORD` steps here; AVX-512 is enabled in the caller.
        unsafe {
            if BITS == 4 {
                let table = _mm512_setr_ps(
                    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
                );
                // Only the lowest four bits of an index count.
                return _mm512_permutexvar_ps(
                    _mm512_srlv_epi32(words, _mm512_set1_epi32(4 * j as i32)),
                    table,
                );
            }
            let bytes = _mm_loadu_si128(b.add(j * NR + half * 16).cast());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn rows<const BITS: usize, const R: usize, const WAYS: usize>(
        few: &Few,
        panel: &Panel,
        out: &mut [[f32; NR]; FEW],
    ) {
        let zero = _mm512_setzero_ps();
        let mut totals = [[zero; 2]; R];
        let (mut b, mut k) = (panel.numbers, 0);
        // SAFETY: blocks lie in the panel and in the padded rows; fetching ahead reads nothing.
        unsafe {
            for block in 0..panel.blocks {
                let mut sums = [[[zero; 2]; WAYS]; R];
                for _ in 0..panel.block / PER_WORD {
                    let words = [0, 64].map(|half| match BITS {
                        4 => _mm512_loadu_si512(b.add(half).cast()),
                        _ => _mm512_setzero_si512(),
                    });
                    for line in 0..BITS * NR * PER_WORD / 8 / LINE {
                        _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(FETCH_BYTES + line * LINE).cast());
                    }
                    for j in 0..PER_WORD {
                        let q = [step::<BITS>(b, words[0], j, 0), step::<BITS>(b, words[1], j, 1)];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let a = _mm512_set1_ps(*few.a.wrapping_add(r * few.a_row + k + j));
                            let sums = &mut sums[j % WAYS];
                            sums[0] = _mm512_fmadd_ps(a, q[0], sums[0]);
                            sums[1] = _mm512_fmadd_ps(a, q[1], sums[1]);
                        }
                    }
                    b = b.add(BITS * NR);
                    k += PER_WORD;
                }
                for half in 0..2 {
                    let at = block * NR + half * 16;
                    let scale = _mm512_loadu_ps(panel.scales.add(at));
                    let zero = match panel.zeros.is_null() {
                        true => _mm512_set1_ps(panel.zero),
                        false => {
                            let bytes = _mm_loadu_si128(panel.zeros.add(at).cast());
                            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
                        }
                    };
                    for (r, (sums, totals)) in sums.iter().zip(&mut totals).enumerate() {
                        let sum = sums[1..].iter().fold(sums[0][half], |s, way| _mm512_add_ps(s, way[half]));
                        let of_a = _mm512_set1_ps(*few.sums.wrapping_add(r * few.sums_row + block));
                        let centred = _mm512_fnmadd_ps(zero, of_a, sum);
                        totals[half] = _mm512_fmadd_ps(centred, scale, totals[half]);
                    }
                }
            }
            for (out, totals) in out.iter_mut().zip(&totals) {
                _mm512_storeu_ps(out.as_mut_ptr(), totals[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), totals[1]);
            }
        }
    }
}
