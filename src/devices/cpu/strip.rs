//! Rows of data between zeros: what a patch of results of a convolution needs, when windows reach over the sides.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::conv::Sizes;
use crate::window::{Channels, Window};

/// Distances in elements between neighbours in the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strides {
    pub image: usize,
    pub plane: usize,
    pub row: usize,
    pub pixel: usize,
    pub channel: usize,
}

/// Where a patch of results begins, and its rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Plane of results, of all images.
    pub plane: usize,
    pub row: usize,
    pub rows: usize,
    /// First pixel in its row.
    pub from: usize,
}

impl Place {
    /// Position of the first window's first element along the axes, and its image; padding may lie before the data.
    fn at(&self, w: &Window) -> ([isize; 3], usize) {
        let index = [self.plane % w.output[0], self.row, self.from];
        let at = std::array::from_fn(|i| (index[i] * w.stride[i]) as isize - w.pad[i] as isize);
        (at, self.plane / w.output[0])
    }
}

impl Strides {
    /// Of the data of a convolution.
    pub(crate) fn of(sizes: &Sizes, layout: Channels) -> Self {
        let (channels, [depth, height, width]) = (sizes.inputs * sizes.groups, sizes.window.input);
        let (pixel, channel) =
            if layout == Channels::Last { (channels, 1) } else { (1, depth * height * width) };
        Self {
            image: depth * height * width * channels,
            plane: height * width * pixel,
            row: width * pixel,
            pixel,
            channel,
        }
    }

    /// Address of the first window's first element; it may be padding, which must not be read.
    pub(crate) fn origin(&self, x: *const f32, w: &Window, place: &Place) -> *const f32 {
        let (at, image) = place.at(w);
        let steps = [self.plane, self.row, self.pixel];
        let offset = (0..3).fold(0isize, |sum, i| sum.wrapping_add(at[i].wrapping_mul(steps[i] as isize)));
        x.wrapping_add(image * self.image).wrapping_offset(offset)
    }

    /// Offsets of a window's elements; in a strip, planes follow each other without those that are skipped.
    pub(crate) fn taps(&self, w: &Window, strip: bool) -> Vec<usize> {
        let [_, height, width] = w.kernel;
        let plane = if strip { self.plane } else { self.plane.wrapping_mul(w.dilation[0]) };
        let at = |tap: usize| {
            let (d, h, x) = (tap / (height * width), tap / width % height, tap % width);
            let (h, x) =
                ((h * w.dilation[1]).wrapping_mul(self.row), (x * w.dilation[2]).wrapping_mul(self.pixel));
            d.wrapping_mul(plane).wrapping_add(h).wrapping_add(x)
        };
        (0..w.taps()).map(at).collect()
    }
}

/// A copy of the rows that a patch of results needs.
pub(crate) struct Strip {
    pub strides: Strides,
    /// Planes, rows and pixels it has room for, and channels that lie in planes of their own.
    planes: usize,
    rows: usize,
    width: usize,
    channels: usize,
}

impl Strip {
    /// For patches of `rows` rows with `width` pixels; `None` when it would be too large.
    pub(crate) fn new(sizes: &Sizes, layout: Channels, rows: usize, width: usize) -> Option<Self> {
        let (w, channels) = (&sizes.window, sizes.inputs * sizes.groups);
        let (rows, width, planes) = (w.reach(1, rows)?, w.reach(2, width)?, w.kernel[0]);
        let (pixel, channels) = if layout == Channels::Last { (channels, 1) } else { (1, channels) };
        let row = width.checked_mul(pixel)?;
        let plane = row.checked_mul(rows)?;
        let own = plane.checked_mul(planes)?;
        let image = own.checked_mul(channels)?;
        let channel = if layout == Channels::Last { 1 } else { own };
        let strides = Strides { image, plane, row, pixel, channel };
        (image < 1 << 32).then_some(Self { strides, planes, rows, width, channels })
    }

    /// Floats of the copy.
    pub(crate) fn floats(&self) -> usize {
        self.strides.image
    }

    /// Copies what the patch at `place` needs of `x` to `out`; what lies beside the data is zero.
    ///
    /// # Safety
    /// `x` has the data with strides `data`, `out` has room for the strip.
    pub(crate) unsafe fn fill(
        &self,
        x: *const f32,
        w: &Window,
        data: &Strides,
        place: &Place,
        out: *mut f32,
    ) {
        let ([top_plane, top, left], image) = place.at(w);
        let needed = (place.rows - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1;
        let x = x.wrapping_add(image * data.image);
        for channel in 0..self.channels {
            for plane in 0..self.planes {
                let z = inside(top_plane + (plane * w.dilation[0]) as isize, w.input[0]);
                for row in 0..needed.min(self.rows) {
                    let to =
                        channel * self.strides.channel + plane * self.strides.plane + row * self.strides.row;
                    let to = out.wrapping_add(to);
                    let y = inside(top + row as isize, w.input[1]);
                    // SAFETY: the row lies in the data and in the strip.
                    unsafe {
                        match (z, y) {
                            (Some(z), Some(y)) => {
                                let from = channel * data.channel + z * data.plane + y * data.row;
                                self.row(x.wrapping_add(from), left, w.input[2], to);
                            }
                            _ => std::slice::from_raw_parts_mut(to, self.strides.row).fill(0.0),
                        }
                    }
                }
            }
        }
    }

    /// Copies one row from pixel `left` on, zeros before and behind its `width` pixels.
    unsafe fn row(&self, x: *const f32, left: isize, width: usize, out: *mut f32) {
        let pixel = self.strides.pixel;
        let before = (left.min(0).unsigned_abs()).min(self.width);
        let from = (left.max(0) as usize).min(width);
        let count = (width - from).min(self.width - before);
        // SAFETY: `before + count` pixels lie in the strip's row, `from + count` in the data's.
        unsafe {
            let out = std::slice::from_raw_parts_mut(out, self.strides.row);
            let (zeros, rest) = out.split_at_mut(before * pixel);
            let (copy, behind) = rest.split_at_mut(count * pixel);
            zeros.fill(0.0);
            copy.copy_from_slice(std::slice::from_raw_parts(x.add(from * pixel), count * pixel));
            behind.fill(0.0);
        }
    }
}

fn inside(at: isize, size: usize) -> Option<usize> {
    usize::try_from(at).ok().filter(|&at| at < size)
}
