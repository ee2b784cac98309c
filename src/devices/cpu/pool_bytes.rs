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

/// Pixels of a window that are compared at once.
const MOST_TAPS: usize = 32;

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
    /// The greatest of `count` bytes of each of `from`; signed ones are flipped to compare.
    unsafe fn greatest = greatest_body(from: &[*const u8], to: *mut u8, count: usize, flip: u8)
}

/// Bytes that are compared at once.
const LINE: usize = 64;

#[inline(always)]
unsafe fn greatest_body<const FMA: bool>(from: &[*const u8], to: *mut u8, count: usize, flip: u8) {
    for at in (0..count).step_by(LINE) {
        let mut most = [0u8; LINE];
        // SAFETY: the caller's contract.
        unsafe {
            let bytes = (count - at).min(LINE);
            for from in from {
                if bytes == LINE {
                    let line = from.add(at).cast::<[u8; LINE]>().read_unaligned();
                    most.iter_mut().zip(&line).for_each(|(m, b)| *m = (*m).max(*b ^ flip));
                } else {
                    let line = std::slice::from_raw_parts(from.add(at), bytes);
                    most.iter_mut().zip(line).for_each(|(m, b)| *m = (*m).max(*b ^ flip));
                }
            }
            most.iter_mut().for_each(|m| *m ^= flip);
            std::ptr::copy_nonoverlapping(most.as_ptr(), to.add(at), bytes);
        }
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
        let mut met = [std::ptr::null(); MOST_TAPS];
        let mut count = 0;
        for tap in 0..w.taps() {
            let tap = [tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1], tap % w.kernel[2]];
            let [Some(d), Some(h), Some(k)] = [0, 1, 2].map(|i| w.source(i, at[i], tap[i])) else { continue };
            met[count] = x.wrapping_add(((d * w.input[1] + h) * w.input[2] + k) * c);
            count += 1;
            if count == MOST_TAPS {
                // SAFETY: the pixels lie in data and result, which then counts as one of them.
                unsafe { greatest(self.isa, &met, y, c, self.flip) };
                met[0] = y.cast_const();
                count = 1;
            }
        }
        // SAFETY: the pixels lie in data and result. A window that only meets padding gives 0.
        unsafe {
            match count {
                0 => std::ptr::write_bytes(y, 0, c),
                count => greatest(self.isa, &met[..count], y, c, self.flip),
            }
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
