//! A copy of the rows of bytes that some rows of results of a convolution need, with the zero point around the data and
//! the channels last.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::micro_int::STEPS;
use crate::window::{Channels, Window};

/// Sizes of the data of a convolution over bytes.
#[derive(Clone, Copy)]
pub(crate) struct Data {
    pub window: Window,
    pub channels: Channels,
    pub groups: usize,
    /// Channels of one group.
    pub inputs: usize,
}

/// Distances in what the kernels read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strides {
    pub plane: usize,
    pub row: usize,
    pub pixel: usize,
    pub group: usize,
}

/// Rows of results: plane of all images, first row and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub plane: usize,
    pub row: usize,
    pub rows: usize,
}

impl Data {
    /// Whether neighbouring elements of a window's row are one segment: nothing lies between their channels.
    pub(crate) fn is_whole(&self) -> bool {
        self.groups == 1 && self.window.dilation[2] == 1
    }

    /// Segments of a window and bytes of each.
    pub(crate) fn segments(&self) -> (usize, usize) {
        let across = self.window.kernel[2];
        match self.is_whole() {
            true => (self.window.taps() / across, across.saturating_mul(self.inputs)),
            false => (self.window.taps(), self.inputs),
        }
    }

    /// Whether windows reach over the data, or its channels are not whole steps side by side.
    pub(crate) fn needs_copy(&self) -> bool {
        let w = &self.window;
        let reaches = |i: usize| w.pad[i] > 0 || w.extent(i).is_none_or(|e| e > w.input[i]);
        self.channels != Channels::Last || !self.segments().1.is_multiple_of(STEPS) || (0..3).any(reaches)
    }

    /// Strides of the data itself, channels last.
    pub(crate) fn direct(&self) -> Strides {
        let pixel = self.groups * self.inputs;
        let row = self.window.input[2] * pixel;
        Strides { plane: self.window.input[1] * row, row, pixel, group: self.inputs }
    }

    /// Strides of a copy for `rows` rows of results, and its bytes; `None` when it would be too large.
    pub(crate) fn copied(&self, rows: usize) -> Option<(Strides, usize)> {
        let w = &self.window;
        // Segments are read in whole steps.
        let whole = if self.is_whole() { 1 } else { STEPS };
        let group = self.inputs.checked_next_multiple_of(whole)?;
        let pixel = group.checked_mul(self.groups)?;
        let row = w.extent(2)?.checked_mul(pixel)?;
        let plane = self.copied_rows(rows)?.checked_mul(row)?;
        let bytes = plane.checked_mul(w.kernel[0])?.checked_add(STEPS)?;
        (bytes < 1 << 31).then_some((Strides { plane, row, pixel, group }, bytes))
    }

    fn copied_rows(&self, rows: usize) -> Option<usize> {
        let w = &self.window;
        let halo = (w.kernel[1] - 1).checked_mul(w.dilation[1])?;
        rows.checked_sub(1)?.checked_mul(w.stride[1])?.checked_add(halo)?.checked_add(1)
    }

    /// Address of the first window's first byte where data is read as it lies.
    pub(crate) fn origin(&self, x: *const u8, at: &Place) -> *const u8 {
        let (w, s) = (&self.window, self.direct());
        let (image, plane) = (at.plane / w.output[0], at.plane % w.output[0]);
        let offset =
            image * w.input[0] * s.plane + plane * w.stride[0] * s.plane + at.row * w.stride[1] * s.row;
        x.wrapping_add(offset)
    }

    /// Copies what the rows at `at` need of `x` to `out`; what lies beside the data is `zero`.
    ///
    /// # Safety
    /// `x` has the data, `out` the bytes that `copied` says for at least as many rows, with these strides.
    pub(crate) unsafe fn copy(
        &self,
        x: *const u8,
        at: &Place,
        zero: u8,
        (out, strides): (*mut u8, &Strides),
    ) {
        let w = &self.window;
        let (image, plane) = (at.plane / w.output[0], at.plane % w.output[0]);
        let x = x.wrapping_add(image * w.input_len() * self.groups * self.inputs);
        for kd in 0..w.kernel[0] {
            let z = w.source(0, plane, kd);
            for row in 0..self.copied_rows(at.rows).unwrap_or(0) {
                let y = (at.row * w.stride[1] + row).checked_sub(w.pad[1]).filter(|&y| y < w.input[1]);
                let to = out.wrapping_add(kd * strides.plane + row * strides.row);
                // SAFETY: the row lies in the copy, the data has row `y` of plane `z`.
                unsafe {
                    match (z, y) {
                        (Some(z), Some(y)) => self.copy_row(x, z * w.input[1] + y, zero, to, strides),
                        _ => std::ptr::write_bytes(to, zero, strides.row),
                    }
                }
            }
        }
    }

    /// Copies row `line` of an image between zeros.
    unsafe fn copy_row(&self, x: *const u8, line: usize, zero: u8, to: *mut u8, strides: &Strides) {
        let (width, pixels) = (self.window.input[2], strides.row / strides.pixel.max(1));
        let before = self.window.pad[2].min(pixels);
        let count = width.min(pixels - before);
        // SAFETY: `before + count` pixels lie in the copy, `count` in the data.
        unsafe {
            std::ptr::write_bytes(to, zero, before * strides.pixel);
            let (behind, rest) = (before + count, pixels - before - count);
            std::ptr::write_bytes(to.add(behind * strides.pixel), zero, rest * strides.pixel);
            let to = to.add(before * strides.pixel);
            if self.channels == Channels::Last {
                self.pixels(x.add(line * width * self.groups * self.inputs), count, to, strides);
            } else {
                self.planes(x.add(line * width), count, to, strides);
            }
        }
    }

    /// Pixels whose channels lie side by side.
    unsafe fn pixels(&self, x: *const u8, count: usize, to: *mut u8, strides: &Strides) {
        let bytes = self.groups * self.inputs;
        // SAFETY: the caller's contract.
        unsafe {
            if strides.pixel == bytes {
                return std::ptr::copy_nonoverlapping(x, to, count * bytes);
            }
            for group in 0..count * self.groups {
                let to = to.add(group * strides.group);
                std::ptr::copy_nonoverlapping(x.add(group * self.inputs), to, self.inputs);
                std::ptr::write_bytes(to.add(self.inputs), 0, strides.group - self.inputs);
            }
        }
    }

    /// Pixels whose channels lie in planes of their own.
    unsafe fn planes(&self, x: *const u8, count: usize, to: *mut u8, strides: &Strides) {
        let plane = self.window.input_len();
        for channel in 0..self.groups * self.inputs {
            let place = channel / self.inputs * strides.group + channel % self.inputs;
            // SAFETY: the caller's contract.
            unsafe {
                let (from, to) = (x.add(channel * plane), to.add(place));
                (0..count).for_each(|pixel| *to.add(pixel * strides.pixel) = *from.add(pixel));
            }
        }
    }
}
