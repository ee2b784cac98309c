//! Square windows over one plane with AVX-512: depthwise convolution and max pooling with steps 1 and 2.
//!
//! Sixteen neighbouring results of several rows are computed at once, so that every input vector is loaded
//! once per column of the window. Padding is a masked load; with step 2 two loads are sifted into one.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::micro::Post;
use crate::window::Window;

/// Largest window.
const MAX_KERNEL: usize = 5;

/// A window with what is the same for all planes.
pub(crate) struct Stencil {
    window: Window,
    /// For every 16 columns of the result and tap: lanes that are neither padding nor past the row.
    masks: Vec<[u16; MAX_KERNEL]>,
    function: Function,
}

/// One plane to compute.
pub(crate) struct Plane {
    pub x: *const f32,
    /// Window weights; unused by pooling.
    pub weights: *const f32,
    pub y: *mut f32,
    /// Added to and bounding the results; the row bias is one value.
    pub post: Post,
}

impl Stencil {
    /// Computes one plane.
    ///
    /// # Safety
    /// The plane has the extent of the window's input and output, and its operands that of the result.
    pub(crate) unsafe fn run(&self, plane: &Plane) {
        // SAFETY: the instruction set was checked when the stencil was made.
        unsafe { (self.function)(self, plane) }
    }
}

/// The stencil for this window, if there is one.
pub(crate) fn find(isa: Isa, window: &Window, max: bool) -> Option<Stencil> {
    let plane = window.input[0] == 1 && window.output[0] == 1 && window.kernel[0] == 1;
    let plain = window.dilation == [1; 3] && window.pad[0] == 0;
    let square = window.kernel[1] == window.kernel[2] && window.stride[1] == window.stride[2];
    if isa != Isa::Avx512 || !plane || !plain || !square {
        return None;
    }
    let function = find_wide(window.kernel[1], window.stride[1], max)?;
    let chunks = window.output[2].div_ceil(16);
    let tap_mask = |chunk, tap| if tap < window.kernel[2] { column_mask(window, chunk * 16, tap) } else { 0 };
    let masks = (0..chunks).map(|chunk| std::array::from_fn(|tap| tap_mask(chunk, tap))).collect();
    Some(Stencil { window: *window, masks, function })
}

type Function = unsafe fn(&Stencil, &Plane);

#[cfg(not(target_arch = "x86_64"))]
fn find_wide(_: usize, _: usize, _: bool) -> Option<Function> {
    None
}

#[cfg(target_arch = "x86_64")]
fn find_wide(kernel: usize, stride: usize, max: bool) -> Option<Function> {
    Some(match (kernel, stride, max) {
        (3, 1, false) => wide::<3, 1, 4, false>,
        (3, 2, false) => wide::<3, 2, 2, false>,
        (5, 1, false) => wide::<5, 1, 4, false>,
        (5, 2, false) => wide::<5, 2, 2, false>,
        (2, 2, true) => wide::<2, 2, 2, true>,
        (3, 1, true) => wide::<3, 1, 4, true>,
        (3, 2, true) => wide::<3, 2, 2, true>,
        (5, 1, true) => wide::<5, 1, 4, true>,
        _ => return None,
    })
}

/// Lanes of 16 results from column `first` on whose tap `tap` is neither padding nor past the row.
fn column_mask(window: &Window, first: usize, tap: usize) -> u16 {
    let valid = window.valid(2, tap);
    let low = valid.start.saturating_sub(first).min(16);
    let high = valid.end.saturating_sub(first).min(16);
    (((1u32 << high) - 1) & !((1u32 << low) - 1)) as u16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
unsafe fn wide<const K: usize, const S: usize, const ROWS: usize, const MAX: bool>(
    stencil: &Stencil,
    plane: &Plane,
) {
    for (chunk, masks) in stencil.masks.iter().enumerate() {
        for row in (0..stencil.window.output[1]).step_by(ROWS) {
            // SAFETY: rows and columns lie in the plane.
            unsafe { block::<K, S, ROWS, MAX>(&stencil.window, plane, masks, row, chunk * 16) };
        }
    }
}

/// Results of `ROWS` rows from `row` on, 16 columns from `first` on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
unsafe fn block<const K: usize, const S: usize, const ROWS: usize, const MAX: bool>(
    w: &Window,
    plane: &Plane,
    masks: &[u16; MAX_KERNEL],
    row: usize,
    first: usize,
) {
    use std::arch::x86_64::*;
    let [_, height, width] = w.input;
    let start = if MAX { f32::NEG_INFINITY } else { 0.0 };
    let mut results = [_mm512_set1_ps(start); ROWS];
    for line in 0..(ROWS - 1) * S + K {
        let at = (row * S + line).wrapping_sub(w.pad[1]);
        if at >= height {
            continue;
        }
        let src = plane.x.wrapping_add(at * width + first * S).wrapping_sub(w.pad[2]);
        for (tap, &mask) in masks.iter().enumerate().take(K) {
            // SAFETY: lanes of the mask lie in the input row.
            let value = unsafe { fetch::<S>(src.wrapping_add(tap), mask, start) };
            for (r, result) in results.iter_mut().enumerate() {
                let Some(tap_row) = line.checked_sub(r * S).filter(|&t| t < K) else { continue };
                *result = if MAX {
                    // NaN wins, as in the plain form.
                    let larger = _mm512_max_ps(value, *result);
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
                    _mm512_mask_mov_ps(larger, nan, value)
                } else {
                    // SAFETY: there are K x K weights.
                    let weight = unsafe { _mm512_set1_ps(*plane.weights.add(tap_row * K + tap)) };
                    _mm512_fmadd_ps(value, weight, *result)
                };
            }
        }
    }
    let mask = ((1u32 << (w.output[2] - first).min(16)) - 1) as u16;
    for (r, &result) in results.iter().enumerate().take(w.output[1] - row) {
        // SAFETY: the row lies in the output.
        unsafe { store(plane, (row + r) * w.output[2] + first, mask, result) };
    }
}

/// Sixteen elements `S` apart from `src` on; lanes outside of the mask are `fill`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
unsafe fn fetch<const S: usize>(src: *const f32, mask: u16, fill: f32) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::*;
    let fill = _mm512_set1_ps(fill);
    // SAFETY: only lanes of the mask are accessed.
    unsafe {
        if S == 1 {
            return _mm512_mask_loadu_ps(fill, mask, src);
        }
        let spread = _pdep_u32(u32::from(mask), 0x5555_5555);
        let low = _mm512_mask_loadu_ps(fill, spread as u16, src);
        let high = _mm512_mask_loadu_ps(fill, (spread >> 16) as u16, src.wrapping_add(16));
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        _mm512_permutex2var_ps(low, even, high)
    }
}

/// Adds and bounds, then stores sixteen results from element `at` of the plane on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
unsafe fn store(plane: &Plane, at: usize, mask: u16, mut value: std::arch::x86_64::__m512) {
    use std::arch::x86_64::*;
    let post = &plane.post;
    // SAFETY: lanes of the mask lie in the plane; operands have its extent.
    unsafe {
        if post.active {
            if !post.row_bias.is_null() {
                value = _mm512_add_ps(value, _mm512_set1_ps(*post.row_bias));
            }
            for extra in [post.column_bias, post.residual] {
                if !extra.is_null() {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, extra.wrapping_add(at)));
                }
            }
            value = post.last(value);
        }
        _mm512_mask_storeu_ps(plane.y.wrapping_add(at), mask, value);
    }
}
