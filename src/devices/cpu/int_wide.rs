//! Products of integers with AVX-512: results are finished as vectors, and where they are plainly rounded to bytes, while
//! the sums are still in registers.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::int_finish::{Finish, Out, Panel, Round, Term};
use crate::layout::{MR, NR};
use crate::micro_int::{FLIP, Micro, STEPS};
use std::arch::x86_64::*;

/// A tile that is finished in registers: from result row `row` on.
pub(crate) type Tile = unsafe fn(&Micro<'_>, &Finish, &Panel, usize);

/// Tiles for `Finish`es that only round; entry `r - 1` serves r rows.
pub(crate) static TILES: [Tile; MR] = [
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>,
    tile::<10>, tile::<11>, tile::<12>, tile::<13>, tile::<14>,
];

/// Whether `TILES` serve results that are finished so.
pub(crate) fn in_registers(f: &Finish) -> bool {
    f.rounds().is_some() && is_x86_feature_detected!("avx512vnni")
}

/// The columns that a panel has.
fn mask(panel: &Panel) -> u32 {
    if panel.count >= NR { u32::MAX } else { (1u32 << panel.count) - 1 }
}

/// Both halves of a row of results.
type Pair<T> = [T; 2];

/// Bounds of a rounding as vectors, and the zero point.
#[derive(Clone, Copy)]
struct Bounds {
    inverse: __m512,
    low: __m512,
    high: __m512,
    zero: __m512i,
    signed: bool,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn bounds(round: &Round) -> Bounds {
    Bounds {
        inverse: _mm512_set1_ps(round.inverse),
        low: _mm512_set1_ps(round.low),
        high: _mm512_set1_ps(round.high),
        zero: _mm512_set1_epi16(round.zero as i16),
        // Numbers below zero are stored as signed bytes, others may be stored either way.
        signed: round.low + round.zero < 0.0,
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn bounded(v: __m512, to: &Bounds) -> __m512 {
    // The second operand is the result for NaN: the lower bound.
    _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(v, to.inverse), to.low), to.high)
}

/// A row of values as bytes in the order of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn numbers(v: Pair<__m512>, to: &Bounds) -> __m256i {
    let (low, high) = (_mm512_cvtps_epi32(bounded(v[0], to)), _mm512_cvtps_epi32(bounded(v[1], to)));
    let words = _mm512_add_epi16(_mm512_packs_epi32(low, high), to.zero);
    let bytes = if to.signed { _mm512_packs_epi16(words, words) } else { _mm512_packus_epi16(words, words) };
    // Packing works in lanes of 128 bits: each holds four columns of both halves.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes))
}

/// The constants of a panel.
#[derive(Clone, Copy)]
struct Constants {
    offset: Pair<__m512i>,
    factor: Pair<__m512>,
    bias: Pair<__m512>,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn constants(panel: &Panel) -> Constants {
    // SAFETY: every array has two vectors.
    unsafe {
        let floats = |p: *const f32| [_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(NR / 2))];
        Constants {
            offset: integers(&panel.offset),
            factor: floats(panel.factor.as_ptr()),
            bias: floats(panel.bias.as_ptr()),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn integers(row: &[i32; NR]) -> Pair<__m512i> {
    let p = row.as_ptr();
    // SAFETY: the array has two vectors.
    unsafe { [_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(NR / 2).cast())] }
}

/// Values of a row of sums, offsets added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn values(sums: Pair<__m512i>, c: &Constants) -> Pair<__m512> {
    [
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[0]), c.factor[0], c.bias[0]),
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[1]), c.factor[1], c.bias[1]),
    ]
}

/// Rounded to numbers and back to values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn again(v: __m512, to: &Bounds, scale: __m512) -> __m512 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm512_mul_ps(_mm512_roundscale_ps::<NEAREST>(bounded(v, to)), scale)
}

/// Finishes rows of sums in memory; see `int_finish::finish`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(crate) unsafe fn finish(f: &Finish, panel: &Panel, sums: &[[i32; NR]], offsets: *const i32, row: usize) {
    let mask = mask(panel);
    // SAFETY: the caller's contract; lanes beyond the mask are not touched.
    unsafe {
        let c = constants(panel);
        let inner = f.inner.as_ref().map(|r| bounds(r));
        let last = if let Out::Bytes(_, r) = &f.out { Some(bounds(r)) } else { None };
        let scale = _mm512_set1_ps(f.inner_scale);
        for (r, sums) in sums.iter().enumerate() {
            let at = (row + r) * f.columns + panel.column;
            let more = _mm512_set1_epi32(if offsets.is_null() { 0 } else { *offsets.add(r) });
            let sums = integers(sums);
            let low = _mm512_add_epi32(_mm512_add_epi32(sums[0], c.offset[0]), more);
            let high = _mm512_add_epi32(_mm512_add_epi32(sums[1], c.offset[1]), more);
            let mut v = values([low, high], &c);
            if let Some(inner) = &inner {
                v = [again(v[0], inner, scale), again(v[1], inner, scale)];
            }
            let v = add(f, panel.column, at, mask, v);
            match (f.out, &last) {
                (Out::Bytes(out, _), Some(last)) => {
                    _mm256_mask_storeu_epi8(out.wrapping_add(at).cast(), mask, numbers(v, last));
                }
                (Out::Bytes(..), None) => {}
                (Out::Floats(out), _) => {
                    let (low, high) = (_mm512_set1_ps(f.low), _mm512_set1_ps(f.high));
                    // NaN is within all bounds.
                    let out = out.wrapping_add(at);
                    let bounded = [_mm512_max_ps(low, v[0]), _mm512_max_ps(low, v[1])];
                    _mm512_mask_storeu_ps(out, mask as u16, _mm512_min_ps(high, bounded[0]));
                    let out = out.wrapping_add(NR / 2);
                    _mm512_mask_storeu_ps(out, (mask >> 16) as u16, _mm512_min_ps(high, bounded[1]));
                }
            }
        }
    }
}

/// Adds the epilogue's term to a row of values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn add(f: &Finish, column: usize, at: usize, mask: u32, v: Pair<__m512>) -> Pair<__m512> {
    // SAFETY: the caller's contract; lanes beyond the mask are not read.
    unsafe {
        let floats = match f.term {
            Term::None => return v,
            Term::Column(ptr) => ptr.wrapping_add(column),
            Term::Floats(ptr) => ptr.wrapping_add(at),
            Term::Bytes { ptr, signed, scale, zero } => {
                let bytes = _mm256_maskz_loadu_epi8(mask, ptr.wrapping_add(at).cast());
                let flip = _mm256_set1_epi8(if signed { FLIP as i8 } else { 0 });
                let bytes = _mm256_xor_si256(bytes, flip);
                let low = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(bytes)));
                let high = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(bytes)));
                let (scale, zero) = (_mm512_set1_ps(scale), _mm512_set1_ps(zero));
                let terms = [low, high].map(|t| _mm512_mul_ps(_mm512_sub_ps(t, zero), scale));
                return [_mm512_add_ps(v[0], terms[0]), _mm512_add_ps(v[1], terms[1])];
            }
        };
        let low = _mm512_maskz_loadu_ps(mask as u16, floats);
        let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, floats.wrapping_add(NR / 2));
        [_mm512_add_ps(low, v[0]), _mm512_add_ps(high, v[1])]
    }
}

/// A tile of `R` rows of a panel whose results are rounded to bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tile<const R: usize>(m: &Micro<'_>, f: &Finish, panel: &Panel, row: usize) {
    // SAFETY: A has R rows, B a row for every step, the result the rows and columns.
    unsafe {
        let mut sums = [integers(&panel.offset); R];
        let flip = _mm512_set1_epi8(if m.flip { FLIP as i8 } else { 0 });
        let (mut b, a_row) = (m.b, m.a_row);
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(tap);
            for _ in 0..m.depth / STEPS {
                let low = _mm512_loadu_si512(b.cast());
                let high = _mm512_loadu_si512(b.add(64).cast());
                for (r, sums) in sums.iter_mut().enumerate() {
                    let word = a.wrapping_add(r * a_row).cast::<i32>().read_unaligned();
                    let value = _mm512_xor_si512(_mm512_set1_epi32(word), flip);
                    sums[0] = _mm512_dpbusd_epi32(sums[0], value, low);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], value, high);
                }
                a = a.wrapping_add(STEPS);
                b = b.add(NR * STEPS);
            }
        }
        let Out::Bytes(out, last) = &f.out else { return };
        let (mask, c, last) = (mask(panel), constants(panel), bounds(last));
        let out = out.wrapping_add(row * f.columns + panel.column);
        // Spelled out: a loop over the rows would keep the sums in memory all the time.
        macro_rules! rows {
            ($($r:literal)*) => {
                $(if $r < R {
                    let bytes = numbers(values(sums[$r], &c), &last);
                    _mm256_mask_storeu_epi8(out.wrapping_add($r * f.columns).cast(), mask, bytes);
                })*
            };
        }
        rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}
