//! Sums of a depthwise convolution over bytes: some pixels, `SPAN` channels.
//!
//! The form with AVX-512 VNNI is in `depthwise_wide`.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::layout::NR;
use crate::micro_int::FLIP;

/// Panels of channels that are computed together.
pub(crate) const PANELS: usize = 2;
/// Channels of them.
pub(crate) const SPAN: usize = PANELS * NR;

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
    unsafe { any(isa, p, out) };
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
