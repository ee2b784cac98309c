//! Depthwise convolution of bytes with AVX-512 VNNI, from data to rounded bytes in registers.
//!
//! One instruction sums four products per lane, so bytes of four taps are brought side by side, channel by channel: they
//! are woven. That leaves channels in the order of 128-bit lanes; constants are woven alike, and packing the results to
//! bytes undoes it. Where pixels have few channels and steps of one pixel, several pixels fill a vector.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::int_finish::Round;
use crate::micro_int::FLIP;
use crate::micro_int_depthwise::SPAN;
use std::arch::x86_64::*;

/// Most taps.
pub(crate) const MOST_TAPS: usize = 64;

/// Rows of result pixels, for up to `SPAN` channels.
pub(crate) struct Job<'a> {
    /// First window of the first row; signed bytes count as 128 more.
    pub x: *const u8,
    pub signed: bool,
    /// Distances of two rows' and two pixels' windows.
    pub x_row: usize,
    pub x_step: usize,
    /// Offsets of taps in a window, at most `MOST_TAPS`.
    pub taps: &'a [usize],
    /// Weights of the first channel; `channels` from tap to tap.
    pub w: *const u8,
    pub channels: usize,
    /// Channels of this job.
    pub count: usize,
    /// Rows, pixels of a row, and of a vector: more than one only if `count * pixels` fills it and pixels of data and
    /// result follow each other without a gap.
    pub rows: usize,
    pub width: usize,
    pub pixels: usize,
    pub y: *mut u8,
    pub y_row: usize,
    pub y_step: usize,
}

/// What holds for up to `SPAN` channels.
pub(crate) struct Held {
    pub offset: [i32; SPAN],
    pub factor: [f32; SPAN],
    pub bias: [f32; SPAN],
    pub round: Round,
}

/// Whether the processor has the instructions.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// Values of channels, as often as there are pixels in a vector.
fn repeated<T: Copy + Default>(job: &Job<'_>, values: &[T]) -> [T; SPAN] {
    let mut line = [T::default(); SPAN];
    for pixel in line[..job.count * job.pixels].chunks_exact_mut(job.count) {
        pixel.copy_from_slice(&values[..job.count]);
    }
    line
}

/// The same in the order that weaving leaves: four channels of each 128 bits to each vector.
fn rearranged<T: Copy + Default>(job: &Job<'_>, values: &[T]) -> [[T; 16]; 4] {
    let mut out = [[T::default(); 16]; 4];
    for (at, four) in repeated(job, values).as_chunks::<4>().0.iter().enumerate() {
        out[at % 4][at / 4 * 4..][..4].copy_from_slice(four);
    }
    out
}

/// Bytes of four vectors, one of each side by side.
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

/// The weights of one tap, repeated for every pixel of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn tap(job: &Job<'_>, tap: usize) -> __m512i {
    // SAFETY: the tap has the job's channels; the line is a vector.
    unsafe {
        let line = repeated(job, std::slice::from_raw_parts(job.w.add(tap * job.channels), job.count));
        _mm512_loadu_si512(line.as_ptr().cast())
    }
}

/// Bytes of what `weave` writes.
pub(crate) fn woven_bytes(taps: usize) -> usize {
    size_of::<Constants>() + taps.div_ceil(4) * size_of::<[__m512i; 4]>()
}

/// Writes constants and weights of the job's channels to `to`, as `run` wants them.
///
/// # Safety
/// The weights are readable, `to` has `woven_bytes` bytes, aligned as a vector; `available` said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(crate) unsafe fn weave(job: &Job<'_>, held: &Held, to: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        to.cast::<Constants>().write(Constants::new(job, held));
        let weights = to.add(size_of::<Constants>()).cast::<[__m512i; 4]>();
        for group in 0..job.taps.len().div_ceil(4) {
            let mut lines = [_mm512_setzero_si512(); 4];
            for (line, at) in lines.iter_mut().zip(group * 4..job.taps.len()) {
                *line = tap(job, at);
            }
            weights.add(group).write(woven(lines));
        }
    }
}

/// Computes the job.
///
/// # Safety
/// Windows are readable and results writable for all rows, pixels and channels; `from` holds what `weave` wrote for the
/// same channels and number of pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(crate) unsafe fn run(job: &Job<'_>, from: *const u8) {
    let groups = job.taps.len().div_ceil(4);
    // Taps that there are not have no weight and read the window's first element.
    let mut offsets = [job.taps[0]; MOST_TAPS];
    offsets[..job.taps.len()].copy_from_slice(job.taps);
    // SAFETY: the caller's contract.
    let (constants, weights) = unsafe {
        let weights = from.add(size_of::<Constants>()).cast();
        (&*from.cast::<Constants>(), std::slice::from_raw_parts(weights, groups))
    };
    let taps = Taps { weights, offsets: &offsets.as_chunks().0[..groups] };
    for row in 0..job.rows {
        let (x, y) = (job.x.wrapping_add(row * job.x_row), job.y.wrapping_add(row * job.y_row));
        for pixel in (0..job.width).step_by(job.pixels) {
            let bytes = job.count * job.pixels.min(job.width - pixel);
            let mask = if bytes >= SPAN { u64::MAX } else { (1u64 << bytes) - 1 };
            let (x, y) = (x.wrapping_add(pixel * job.x_step), y.wrapping_add(pixel * job.y_step));
            // SAFETY: the pixels lie in data and result; masked lanes are not touched.
            unsafe {
                let sums = taps.sums(constants, x, mask);
                _mm512_mask_storeu_epi8(y.cast(), mask, constants.bytes(sums));
            }
        }
    }
}

/// Woven weights and offsets of taps, four by four.
struct Taps<'a> {
    weights: &'a [[__m512i; 4]],
    offsets: &'a [[usize; 4]],
}

impl Taps<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn sums(&self, c: &Constants, x: *const u8, mask: u64) -> [__m512i; 4] {
        let mut sums = c.offset;
        for (w, offsets) in self.weights.iter().zip(self.offsets) {
            let mut lines = [_mm512_setzero_si512(); 4];
            for (line, offset) in lines.iter_mut().zip(offsets) {
                // SAFETY: the caller's contract.
                let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, x.wrapping_add(*offset).cast()) };
                *line = _mm512_xor_si512(bytes, c.flip);
            }
            let lines = woven(lines);
            for at in 0..4 {
                sums[at] = _mm512_dpbusd_epi32(sums[at], lines[at], w[at]);
            }
        }
        sums
    }
}

/// What holds for channels, woven, and the rounding.
struct Constants {
    offset: [__m512i; 4],
    factor: [__m512; 4],
    bias: [__m512; 4],
    flip: __m512i,
    inverse: __m512,
    low: __m512,
    high: __m512,
    zero: __m512i,
    signed: bool,
}

impl Constants {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn new(job: &Job<'_>, held: &Held) -> Self {
        let (offset, factor, bias) =
            (rearranged(job, &held.offset), rearranged(job, &held.factor), rearranged(job, &held.bias));
        let mut all = Self {
            offset: [_mm512_setzero_si512(); 4],
            factor: [_mm512_setzero_ps(); 4],
            bias: [_mm512_setzero_ps(); 4],
            flip: _mm512_set1_epi8(if job.signed { FLIP as i8 } else { 0 }),
            inverse: _mm512_set1_ps(held.round.inverse),
            low: _mm512_set1_ps(held.round.low),
            high: _mm512_set1_ps(held.round.high),
            zero: _mm512_set1_epi16(held.round.zero as i16),
            signed: held.round.low + held.round.zero < 0.0,
        };
        for at in 0..4 {
            // SAFETY: each array is a vector.
            unsafe {
                all.offset[at] = _mm512_loadu_si512(offset[at].as_ptr().cast());
                all.factor[at] = _mm512_loadu_ps(factor[at].as_ptr());
                all.bias[at] = _mm512_loadu_ps(bias[at].as_ptr());
            }
        }
        all
    }

    /// Numbers of woven sums, less the zero point.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn rounded(&self, sum: __m512i, at: usize) -> __m512i {
        let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), self.factor[at], self.bias[at]);
        let value = _mm512_mul_ps(value, self.inverse);
        // The second operand is the result for NaN: the lower bound.
        _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, self.low), self.high))
    }

    /// Bytes of woven sums, in the order of channels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn bytes(&self, sums: [__m512i; 4]) -> __m512i {
        let first = _mm512_packs_epi32(self.rounded(sums[0], 0), self.rounded(sums[1], 1));
        let second = _mm512_packs_epi32(self.rounded(sums[2], 2), self.rounded(sums[3], 3));
        let (first, second) = (_mm512_add_epi16(first, self.zero), _mm512_add_epi16(second, self.zero));
        match self.signed {
            true => _mm512_packs_epi16(first, second),
            false => _mm512_packus_epi16(first, second),
        }
    }
}
