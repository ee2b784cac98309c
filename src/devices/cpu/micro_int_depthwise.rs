//! Sums of a depthwise convolution over bytes: some pixels, `SPAN` channels.
//!
//! AVX-512 VNNI sums four products per lane, so bytes of four taps are brought side by side, channel by channel. That
//! leaves channels in the order of 128-bit lanes; sums are put in order before they are stored.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::layout::NR;
use crate::micro_int::FLIP;

/// Panels of channels that are computed together.
pub(crate) const PANELS: usize = 2;
/// Channels of them.
pub(crate) const SPAN: usize = PANELS * NR;
/// Most taps of the form with VNNI.
#[cfg(target_arch = "x86_64")]
const MOST_TAPS: usize = 64;

/// Neighbouring result pixels.
pub(crate) struct Pixels<'a> {
    pub x: *const u8,
    /// Distance of two pixels' windows.
    pub step: usize,
    /// Offsets of taps in a window.
    pub taps: &'a [usize],
    /// Weights of the first channel; `channels` from tap to tap.
    pub w: *const u8,
    pub channels: usize,
    /// Channels that there are, at most `SPAN`.
    pub count: usize,
    /// Whether data are signed bytes, which count as 128 more.
    pub signed: bool,
}

/// Computes the sums of `out.len()` pixels, a row of `SPAN` for each.
///
/// # Safety
/// Windows of the pixels are readable for the channels, the weight for the taps; `isa` exists here.
pub(crate) unsafe fn sums(isa: Isa, p: &Pixels<'_>, out: &mut [[i32; SPAN]]) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && p.taps.len() <= MOST_TAPS && is_x86_feature_detected!("avx512vnni") {
            return vnni(p, out);
        }
        any(isa, p, out);
    }
}

per_isa! {
    unsafe fn any = any_body(p: &Pixels<'_>, out: &mut [[i32; SPAN]])
}

#[inline(always)]
unsafe fn any_body<const FMA: bool>(p: &Pixels<'_>, out: &mut [[i32; SPAN]]) {
    let flip = if p.signed { FLIP } else { 0 };
    for (pixel, out) in out.iter_mut().enumerate() {
        *out = [0; SPAN];
        for (tap, offset) in p.taps.iter().enumerate() {
            // SAFETY: windows lie in what is read, taps in the weight.
            let (x, w) = unsafe {
                let x = std::slice::from_raw_parts(p.x.add(pixel * p.step + offset), p.count);
                (x, std::slice::from_raw_parts(p.w.add(tap * p.channels), p.count))
            };
            for ((sum, x), w) in out.iter_mut().zip(x).zip(w) {
                // The product of two bytes fits 16 bits.
                *sum += i32::from(i16::from(*x ^ flip).wrapping_mul(i16::from(*w as i8)));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Bytes of four vectors, one of each side by side, in the order of 128-bit lanes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn woven(v: [__m512i; 4]) -> [__m512i; 4] {
    let (a, b) = (_mm512_unpacklo_epi8(v[0], v[1]), _mm512_unpackhi_epi8(v[0], v[1]));
    let (c, d) = (_mm512_unpacklo_epi8(v[2], v[3]), _mm512_unpackhi_epi8(v[2], v[3]));
    [
        _mm512_unpacklo_epi16(a, c),
        _mm512_unpackhi_epi16(a, c),
        _mm512_unpacklo_epi16(b, d),
        _mm512_unpackhi_epi16(b, d),
    ]
}

/// Four vectors of sums in the order of channels: a transposition of 128-bit lanes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn ordered(v: [__m512i; 4]) -> [__m512i; 4] {
    let (a, b) = (_mm512_shuffle_i32x4::<0x44>(v[0], v[1]), _mm512_shuffle_i32x4::<0xee>(v[0], v[1]));
    let (c, d) = (_mm512_shuffle_i32x4::<0x44>(v[2], v[3]), _mm512_shuffle_i32x4::<0xee>(v[2], v[3]));
    [
        _mm512_shuffle_i32x4::<0x88>(a, c),
        _mm512_shuffle_i32x4::<0xdd>(a, c),
        _mm512_shuffle_i32x4::<0x88>(b, d),
        _mm512_shuffle_i32x4::<0xdd>(b, d),
    ]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn vnni(p: &Pixels<'_>, out: &mut [[i32; SPAN]]) {
    let mask = if p.count >= SPAN { u64::MAX } else { (1u64 << p.count) - 1 };
    let flip = _mm512_set1_epi8(if p.signed { FLIP as i8 } else { 0 });
    let zero = _mm512_setzero_si512();
    let groups = p.taps.len().div_ceil(4);
    let mut weights = [[zero; 4]; MOST_TAPS / 4];
    let mut offsets = [0usize; MOST_TAPS];
    // SAFETY: masked lanes are not read; taps that there are not have no weight and read the first window element.
    unsafe {
        for (tap, offset) in offsets.iter_mut().enumerate().take(groups * 4) {
            *offset = p.taps.get(tap).copied().unwrap_or(p.taps[0]);
        }
        for (group, weights) in weights.iter_mut().enumerate().take(groups) {
            let mut lines = [zero; 4];
            for (line, tap) in lines.iter_mut().zip(group * 4..p.taps.len()) {
                *line = _mm512_maskz_loadu_epi8(mask, p.w.wrapping_add(tap * p.channels).cast());
            }
            *weights = woven(lines);
        }
        for (pixel, out) in out.iter_mut().enumerate() {
            let x = p.x.wrapping_add(pixel * p.step);
            let mut sums = [zero; 4];
            for (weights, offsets) in weights[..groups].iter().zip(offsets.as_chunks::<4>().0) {
                let mut lines = [zero; 4];
                for (line, offset) in lines.iter_mut().zip(offsets) {
                    let bytes = _mm512_maskz_loadu_epi8(mask, x.wrapping_add(*offset).cast());
                    *line = _mm512_xor_si512(bytes, flip);
                }
                for ((sum, x), w) in sums.iter_mut().zip(woven(lines)).zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, *w);
                }
            }
            for (at, sums) in ordered(sums).into_iter().enumerate() {
                _mm512_storeu_si512(out.as_mut_ptr().add(at * 16).cast(), sums);
            }
        }
    }
}
