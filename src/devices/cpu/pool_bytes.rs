//! Maximum of windows over bytes. With the channels last a pixel is a row of bytes; other planes go byte by byte.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::{Isa, per_isa};
use crate::micro_int::FLIP;
use crate::prepared::{Call, Cx, Prepared, parts_for};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Elementary operations below which another thread does not pay.
const GRAIN: usize = 200_000;

struct PoolBytes {
    isa: Isa,
    window: Window,
    pixels: usize,
    channels: usize,
    /// Makes signed bytes compare as unsigned ones.
    flip: u8,
    x: *const u8,
    y: *mut u8,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for PoolBytes {}
// SAFETY: as above.
unsafe impl Sync for PoolBytes {}

/// Whether it is an 8-bit integer.
pub(crate) fn is_byte(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::I8 | ElementType::U8)
}

per_isa! {
    /// `to = max(to, from)` for `count` bytes.
    unsafe fn raise = raise_body(from: *const u8, to: *mut u8, count: usize, flip: u8)
}

#[inline(always)]
unsafe fn raise_body<const FMA: bool>(from: *const u8, to: *mut u8, count: usize, flip: u8) {
    // SAFETY: the caller's contract.
    let (from, to) =
        unsafe { (std::slice::from_raw_parts(from, count), std::slice::from_raw_parts_mut(to, count)) };
    for (to, from) in to.iter_mut().zip(from) {
        *to = (*to ^ flip).max(*from ^ flip) ^ flip;
    }
}

impl PoolBytes {
    /// Result pixel `pixel` of all images.
    unsafe fn pixel(&self, pixel: usize) {
        let (w, c) = (&self.window, self.channels);
        let [_, height, width] = w.output;
        let (image, at) = (pixel / w.output_len(), pixel % w.output_len());
        let at = [at / (height * width), at / width % height, at % width];
        let (x, y) = (self.x.wrapping_add(image * w.input_len() * c), self.y.wrapping_add(pixel * c));
        let mut first = true;
        for tap in 0..w.taps() {
            let tap = [tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1], tap % w.kernel[2]];
            let [Some(d), Some(h), Some(k)] = [0, 1, 2].map(|i| w.source(i, at[i], tap[i])) else { continue };
            let from = x.wrapping_add(((d * w.input[1] + h) * w.input[2] + k) * c);
            // SAFETY: the pixels lie in data and result.
            unsafe {
                if first {
                    std::ptr::copy_nonoverlapping(from, y, c);
                } else {
                    raise(self.isa, from, y, c, self.flip);
                }
            }
            first = false;
        }
        if first {
            // SAFETY: the pixel lies in the result. A window that only meets padding gives 0.
            unsafe { std::ptr::write_bytes(y, 0, c) };
        }
    }
}

impl Prepared for PoolBytes {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let work = self.pixels.saturating_mul(self.channels).saturating_mul(self.window.taps());
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            for pixel in share(self.pixels, 1, part, parts) {
                // SAFETY: members compute different pixels.
                unsafe { self.pixel(pixel) };
            }
        })
    }
}

/// Prepares a `pool` step over bytes.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let max = call.kernel.string("mode") == Some("max");
    call.ensure(max && is_byte(x.dtype) && x.dtype == y.dtype, "only maxima of bytes are pooled")?;
    let axes = x.shape.len();
    call.ensure(axes >= 3 && y.shape.len() == axes, "operands differ in their axes")?;
    call.ensure(x.layout.is_none() && y.layout.is_none(), "operands of a pooling are not packed")?;
    let kernel = call.sizes("kernel", axes - 2, 1)?;
    // A plane of one channel is an image with its channels last.
    let last = Channels::of(call)? == Channels::Last;
    let (spatial, channel) = if last { (1..axes - 1, axes - 1) } else { (2..axes, 1) };
    let window = Window::over(call, &x.shape[spatial.clone()], &kernel, &y.shape[spatial])?;
    let fits = x.shape[0] == y.shape[0] && x.shape[channel] == y.shape[channel];
    call.ensure(fits, "the result has the wrong batch or channels")?;
    let (images, channels) = if last { (x.shape[0], x.shape[channel]) } else { (x.shape[0] * x.shape[1], 1) };
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    Ok(Box::new(PoolBytes {
        isa: call.isa,
        window,
        pixels: images * window.output_len(),
        channels,
        flip: if x.dtype == ElementType::I8 { FLIP } else { 0 },
        x: x.ptr,
        y: y.ptr,
        members: call.members,
    }))
}
