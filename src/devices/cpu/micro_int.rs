//! Micro-kernels over bytes: a tile of up to `MR` x `NR` sums of products of unsigned and signed bytes, exact in i32.
//!
//! A is read where it lies, as in `micro`, but four steps of the depth at a time; B is packed in rows of `NR` columns of
//! four bytes (`int-b`). AVX-512 VNNI sums four products per lane in one instruction. AVX2 has only an instruction that
//! saturates sums of two products in 16 bits, so there even and odd bytes are widened and summed apart.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::{MR, NR};

/// Steps of the depth in one row of B.
pub(crate) const STEPS: usize = 4;
/// Makes signed bytes unsigned, 128 more, and back.
pub(crate) const FLIP: u8 = 0x80;

/// One call of a micro-kernel.
pub(crate) struct Micro<'a> {
    /// Offsets of the segments of A.
    pub taps: &'a [usize],
    /// Bytes of a segment, a multiple of `STEPS`.
    pub depth: usize,
    pub a: *const u8,
    /// Distance of two rows of A.
    pub a_row: usize,
    /// Whether A holds signed bytes, which count as 128 more.
    pub flip: bool,
    pub b: *const i8,
    pub sums: *mut [i32; NR],
}

pub(crate) type Kernel = unsafe fn(&Micro<'_>);

macro_rules! table {
    ($f:ident) => {
        [
            $f::<1>, $f::<2>, $f::<3>, $f::<4>, $f::<5>, $f::<6>, $f::<7>, $f::<8>, $f::<9>, $f::<10>,
            $f::<11>, $f::<12>, $f::<13>, $f::<14>,
        ]
    };
}

static PORTABLE: [Kernel; MR] = table!(portable);
#[cfg(target_arch = "x86_64")]
static AVX2: [Kernel; MR] = table!(avx2);
#[cfg(target_arch = "x86_64")]
static VNNI: [Kernel; MR] = table!(vnni);

/// The micro-kernels; entry `r - 1` serves r rows.
pub(crate) fn kernels(isa: Isa) -> &'static [Kernel; MR] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => &VNNI,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 => &AVX2,
        _ => &PORTABLE,
    }
}

/// Four steps of a row of A.
#[inline(always)]
unsafe fn word(m: &Micro<'_>, a: *const u8, row: usize) -> u32 {
    // SAFETY: A has the row, and segments are whole words.
    let word = unsafe { a.wrapping_add(row * m.a_row).cast::<u32>().read_unaligned() };
    if m.flip { word ^ u32::from_ne_bytes([FLIP; 4]) } else { word }
}

unsafe fn portable<const R: usize>(m: &Micro<'_>) {
    for row in 0..R {
        let mut sums = [0i32; NR];
        let mut b = m.b;
        for &tap in m.taps {
            for step in (0..m.depth).step_by(STEPS) {
                // SAFETY: A has R rows; B has a row for every step.
                let (a, line) = unsafe {
                    let a = word(m, m.a.wrapping_add(tap + step), row);
                    (a.to_ne_bytes().map(i32::from), *b.cast::<[[i8; STEPS]; NR]>())
                };
                for (sum, b) in sums.iter_mut().zip(&line) {
                    let b = b.map(i32::from);
                    *sum = sum.wrapping_add(a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]);
                }
                b = b.wrapping_add(NR * STEPS);
            }
        }
        // SAFETY: there is a row of sums for each row.
        unsafe { *m.sums.add(row) = sums };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(m: &Micro<'_>) {
    for row in (0..R).step_by(3) {
        for column in (0..NR).step_by(16) {
            // SAFETY: rows and columns lie in the tile.
            unsafe {
                match R - row {
                    1 => avx2_part::<1>(m, row, column),
                    2 => avx2_part::<2>(m, row, column),
                    _ => avx2_part::<3>(m, row, column),
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_part<const R: usize>(m: &Micro<'_>, row: usize, column: usize) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    let low = _mm256_set1_epi16(0xff);
    let mut b = m.b.wrapping_add(column * STEPS);
    // SAFETY: A has R rows from `row` on; B has a row for every step.
    unsafe {
        for &tap in m.taps {
            for step in (0..m.depth).step_by(STEPS) {
                let lines = [0, 32].map(|at| _mm256_loadu_si256(b.add(at).cast()));
                let even = lines.map(|b| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)));
                let odd = lines.map(|b| _mm256_srai_epi16::<8>(b));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(word(m, m.a.wrapping_add(tap + step), row + r) as i32);
                    let (a_even, a_odd) = (_mm256_and_si256(a, low), _mm256_srli_epi16::<8>(a));
                    for half in 0..2 {
                        let pairs = _mm256_add_epi32(
                            _mm256_madd_epi16(a_even, even[half]),
                            _mm256_madd_epi16(a_odd, odd[half]),
                        );
                        sums[half] = _mm256_add_epi32(sums[half], pairs);
                    }
                }
                b = b.add(NR * STEPS);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let to = m.sums.add(row + r).cast::<i32>().add(column);
            _mm256_storeu_si256(to.cast(), sums[0]);
            _mm256_storeu_si256(to.add(8).cast(), sums[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn vnni<const R: usize>(m: &Micro<'_>) {
    // SAFETY: the same contract.
    unsafe { if m.flip { vnni_tile::<R, true>(m) } else { vnni_tile::<R, false>(m) } }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn vnni_tile<const R: usize, const FLIPPED: bool>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    let flip = _mm512_set1_epi8(FLIP as i8);
    let (mut b, row) = (m.b, m.a_row);
    // SAFETY: A has R rows; B has a row for every step.
    unsafe {
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(tap);
            for _ in 0..m.depth / STEPS {
                let low = _mm512_loadu_si512(b.cast());
                let high = _mm512_loadu_si512(b.add(64).cast());
                for (r, sums) in sums.iter_mut().enumerate() {
                    let word = a.wrapping_add(r * row).cast::<i32>().read_unaligned();
                    let mut value = _mm512_set1_epi32(word);
                    if FLIPPED {
                        value = _mm512_xor_si512(value, flip);
                    }
                    sums[0] = _mm512_dpbusd_epi32(sums[0], value, low);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], value, high);
                }
                a = a.wrapping_add(STEPS);
                b = b.add(NR * STEPS);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let to = m.sums.add(r).cast::<i32>();
            _mm512_storeu_si512(to.cast(), sums[0]);
            _mm512_storeu_si512(to.add(16).cast(), sums[1]);
        }
    }
}
