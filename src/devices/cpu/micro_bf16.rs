//! Micro-kernels over pairs of bfloat16: the tiles of `micro`, with two steps of depth in every 32-bit element of A and B.
//!
//! Sums are kept in f32. AVX-512 with BF16 multiplies and adds a pair in one instruction (Intel, "BFLOAT16 hardware
//! numerics definition", 2018: denormals are taken as zero there); elsewhere pairs are widened to f32, which is exact.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::layout::{MR, NR};
use crate::micro::{Kernel, LINE, Micro, THIN, WIDE};

#[cfg(target_arch = "x86_64")]
static NATIVE: [Kernel; MR] = crate::micro::table!(native);
#[cfg(target_arch = "x86_64")]
static NATIVE_WIDE: [Kernel; THIN] = [native_wide::<1>, native_wide::<2>, native_wide::<3>];
static WIDENED: [Kernel; MR] = crate::micro::table!(portable);
#[cfg(target_arch = "x86_64")]
static WIDENED_AVX2: [Kernel; MR] = crate::micro::table!(avx2);

/// Whether the processor multiplies bfloat16 itself.
pub(crate) fn is_native(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// The micro-kernels for one panel; entry `r - 1` serves r rows.
pub(crate) fn kernels(isa: Isa) -> &'static [Kernel; MR] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_native(isa) {
            return &NATIVE;
        }
        if isa >= Isa::Avx2 {
            return &WIDENED_AVX2;
        }
    }
    let _ = isa;
    &WIDENED
}

/// The micro-kernels for few rows and `WIDE` whole panels, where the processor has them.
pub(crate) fn wide_kernels(isa: Isa) -> Option<&'static [Kernel; THIN]> {
    #[cfg(target_arch = "x86_64")]
    if is_native(isa) {
        return Some(&NATIVE_WIDE);
    }
    let _ = isa;
    None
}

unsafe fn portable<const R: usize>(m: &Micro<'_>) {
    // SAFETY: the same contract.
    unsafe { widened::<R, { crate::isa::PORTABLE_FMA }>(m) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(m: &Micro<'_>) {
    // SAFETY: the same contract.
    unsafe { widened::<R, true>(m) };
}

/// The earlier and the later element of a pair.
#[inline(always)]
fn widen(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}

/// Columns the widening form holds at once.
const WIDTH: usize = 16;

#[inline(always)]
unsafe fn widened<const R: usize, const FMA: bool>(m: &Micro<'_>) {
    for column in (0..m.cols).step_by(WIDTH) {
        let count = (m.cols - column).min(WIDTH);
        for row in 0..R {
            let mut sums = [0f32; WIDTH];
            for tap in m.taps {
                for at in 0..m.depth {
                    // SAFETY: A has the row; packed panels have all columns of a row of B.
                    unsafe {
                        let [x, y] = widen(*m.a.add(row * m.a_row + tap + at * m.a_step));
                        let line = m.b.add(at * m.b_step + column);
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let [u, v] = widen(*line.add(j));
                            *sum = crate::math::fma::<FMA>(y, v, crate::math::fma::<FMA>(x, u, *sum));
                        }
                    }
                }
            }
            // SAFETY: the row and the columns lie in the tile.
            unsafe { m.store(row, column, sums.as_ptr(), count) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn native<const R: usize>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    // SAFETY: the bias has the tile's columns.
    let mut sums = [unsafe { m.start(0) }; R];
    let (mut a, mut b, mut ahead) = (m.a, m.b, m.ahead);
    // SAFETY: packed panels have whole rows, A has R rows; fetching ahead reads nothing.
    unsafe {
        for _ in 0..m.depth {
            let (low, high) = (pairs(b), pairs(b.wrapping_add(16)));
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(LINE).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = broadcast(a.wrapping_add(r * m.a_row));
                sums[0] = _mm512_dpbf16_ps(sums[0], value, low);
                sums[1] = _mm512_dpbf16_ps(sums[1], value, high);
            }
            a = a.wrapping_add(m.a_step);
            b = b.wrapping_add(m.b_step);
            ahead = ahead.wrapping_add(m.ahead_step);
        }
        m.store_panel(&sums, 0);
    }
}

/// `R` rows of `WIDE` whole panels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn native_wide<const R: usize>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    // SAFETY: the bias has the columns of all panels.
    let mut sums: [[_; R]; WIDE] = std::array::from_fn(|p| [unsafe { m.start(p * NR) }; R]);
    let (mut a, mut b) = (m.a, m.b);
    // SAFETY: the panels are whole, A has R rows; fetching ahead reads nothing.
    unsafe {
        for _ in 0..m.depth {
            let values: [__m512bh; R] = std::array::from_fn(|r| broadcast(a.wrapping_add(r * m.a_row)));
            for (p, sums) in sums.iter_mut().enumerate() {
                let line = b.wrapping_add(p * m.b_panel);
                crate::micro::fetch(line, m.b_step);
                let (low, high) = (pairs(line), pairs(line.wrapping_add(16)));
                for (sums, &value) in sums.iter_mut().zip(&values) {
                    sums[0] = _mm512_dpbf16_ps(sums[0], value, low);
                    sums[1] = _mm512_dpbf16_ps(sums[1], value, high);
                }
            }
            a = a.wrapping_add(m.a_step);
            b = b.wrapping_add(m.b_step);
        }
        for (p, sums) in sums.iter().enumerate() {
            m.store_panel(sums, p * NR);
        }
    }
}

/// Sixteen pairs.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(from: *const f32) -> std::arch::x86_64::__m512bh {
    // SAFETY: the caller's pointer has sixteen elements; both types are 64 plain bytes.
    unsafe { std::mem::transmute(std::arch::x86_64::_mm512_loadu_ps(from)) }
}

/// One pair in all lanes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast(from: *const f32) -> std::arch::x86_64::__m512bh {
    use std::arch::x86_64::*;
    // SAFETY: the caller's pointer has an element; both types are 64 plain bytes.
    unsafe { std::mem::transmute(_mm512_set1_epi32(*from.cast::<i32>())) }
}

/// A pair from two floats, rounded to nearest even.
pub(crate) fn pair(x: f32, y: f32) -> f32 {
    let [x, y] = [x, y].map(|v| u32::from(half::bf16::from_f32(v).to_bits()));
    f32::from_bits(x | y << 16)
}

/// Rounds `count` floats to pairs; an odd one out is paired with zero.
///
/// # Safety
/// `from` has `count` floats, `to` room for the pairs; the instruction set exists.
pub(crate) unsafe fn round_pairs(isa: Isa, from: *const f32, count: usize, to: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    if is_native(isa) {
        // SAFETY: the caller's contract.
        return unsafe { round_native(from, count, to) };
    }
    // SAFETY: the caller's contract.
    unsafe { round_each(isa, from, count, to) };
}

per_isa! {
    unsafe fn round_each = round_each_body(from: *const f32, count: usize, to: *mut f32)
}

#[inline(always)]
unsafe fn round_each_body<const FMA: bool>(from: *const f32, count: usize, to: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        for i in 0..count / 2 {
            *to.add(i) = pair(*from.add(2 * i), *from.add(2 * i + 1));
        }
        if count % 2 == 1 {
            *to.add(count / 2) = pair(*from.add(count - 1), 0.0);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn round_native(from: *const f32, count: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    let whole = count / 32 * 32;
    // SAFETY: 32 floats of the row become 16 pairs; the rest goes one by one.
    unsafe {
        for i in (0..whole).step_by(32) {
            let (low, high) = (_mm512_loadu_ps(from.add(i)), _mm512_loadu_ps(from.add(i + 16)));
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(to.add(i / 2).cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
        }
        round_each_body::<true>(from.add(whole), count - whole, to.add(whole / 2));
    }
}
