//! Copies between strided views of elements of any size: the engine below all data movement.
//!
//! Axes that advance together in source and destination are merged. Runs of neighbours are copied as bytes,
//! a transposition of two axes goes through blocks that fit the first cache level.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::team::share;

/// One axis of a copy; steps in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub length: usize,
    pub from: isize,
    pub to: isize,
}

/// A copy of `axes` elements.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    axes: Vec<Axis>,
    src: *const u8,
    dst: *mut u8,
    size: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Copy {}
// SAFETY: as above.
unsafe impl Sync for Copy {}

/// Side of the blocks of a transposition, in elements.
const TILE: usize = 16;

impl Copy {
    /// A copy from element address `src` to `dst`; `size` is 1, 2, 4 or 8 bytes.
    pub(crate) fn new(axes: &[Axis], src: *const u8, dst: *mut u8, size: usize) -> Self {
        let mut merged: Vec<Axis> = Vec::new();
        for &axis in axes.iter().rev() {
            if axis.length == 1 {
                continue;
            }
            match merged.last_mut() {
                Some(inner) if continues(inner, &axis) => inner.length *= axis.length,
                _ => merged.push(axis),
            }
        }
        if merged.is_empty() {
            merged.push(Axis { length: 1, from: 1, to: 1 });
        }
        merged.reverse();
        let mut copy = Self { axes: merged, src, dst, size };
        copy.pair_up();
        copy
    }

    /// Moves the axis that is contiguous in the source next to the innermost one, for transpositions.
    fn pair_up(&mut self) {
        let last = self.axes.len() - 1;
        if self.axes[last].from == 1 || last == 0 {
            return;
        }
        if let Some(at) = self.axes[..last].iter().position(|a| a.from == 1) {
            let axis = self.axes.remove(at);
            self.axes.insert(last - 1, axis);
        }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.axes.iter().map(|a| a.length).product()
    }

    /// Copies part `part` of `parts`.
    ///
    /// # Safety
    /// All addresses the axes reach are valid, and source and destination do not overlap.
    pub(crate) unsafe fn run(&self, part: usize, parts: usize) {
        let Some(cut) = (0..self.axes.len()).max_by_key(|&i| (self.axes[i].length, std::cmp::Reverse(i)))
        else {
            return;
        };
        let range = share(self.axes[cut].length, TILE.min(self.axes[cut].length), part, parts);
        let length = |i: usize| if i == cut { range.len() } else { self.axes[i].length };
        let start = self.shift(cut, range.start);
        let last = self.axes.len() - 1;
        let turned =
            last > 0 && self.axes[last - 1].from == 1 && self.axes[last].from != 1 && self.axes[last].to == 1;
        let outer = if turned { last - 1 } else { last };
        let total: usize = (0..outer).map(length).product();
        if range.is_empty() {
            return;
        }
        for index in 0..total {
            let (mut rest, mut at) = (index, start);
            for i in (0..outer).rev() {
                let step = self.shift(i, rest % length(i));
                at = (at.0 + step.0, at.1 + step.1);
                rest /= length(i);
            }
            let src = self.src.wrapping_offset(at.0 * self.size as isize);
            let dst = self.dst.wrapping_offset(at.1 * self.size as isize);
            // SAFETY: the caller's contract; `size` is one of four.
            unsafe {
                if turned {
                    self.transpose(src, dst, length(last - 1), length(last));
                } else {
                    self.line(src, dst, length(last));
                }
            }
        }
    }

    /// Steps of `count` along axis `i`, in source and destination.
    fn shift(&self, i: usize, count: usize) -> (isize, isize) {
        (self.axes[i].from * count as isize, self.axes[i].to * count as isize)
    }

    unsafe fn line(&self, src: *const u8, dst: *mut u8, length: usize) {
        let axis = &self.axes[self.axes.len() - 1];
        // SAFETY: the caller's contract.
        unsafe {
            if axis.from == 1 && axis.to == 1 {
                return std::ptr::copy_nonoverlapping(src, dst, length * self.size);
            }
            match self.size {
                1 => line::<u8>(src.cast(), dst.cast(), length, axis),
                2 => line::<u16>(src.cast(), dst.cast(), length, axis),
                4 => line::<u32>(src.cast(), dst.cast(), length, axis),
                _ => line::<u64>(src.cast(), dst.cast(), length, axis),
            }
        }
    }

    unsafe fn transpose(&self, src: *const u8, dst: *mut u8, rows: usize, columns: usize) {
        let last = self.axes.len() - 1;
        let steps = (self.axes[last].from, self.axes[last - 1].to);
        // SAFETY: the caller's contract.
        unsafe {
            match self.size {
                1 => transpose::<u8>(src.cast(), dst.cast(), rows, columns, steps),
                2 => transpose::<u16>(src.cast(), dst.cast(), rows, columns, steps),
                4 => transpose::<u32>(src.cast(), dst.cast(), rows, columns, steps),
                _ => transpose::<u64>(src.cast(), dst.cast(), rows, columns, steps),
            }
        }
    }
}

fn continues(inner: &Axis, outer: &Axis) -> bool {
    let length = inner.length as isize;
    outer.from == inner.from * length && outer.to == inner.to * length
}

unsafe fn line<T: std::marker::Copy>(src: *const T, dst: *mut T, length: usize, axis: &Axis) {
    // SAFETY: the caller's contract.
    unsafe {
        if axis.from == 0 && axis.to == 1 {
            return std::slice::from_raw_parts_mut(dst, length).fill(*src);
        }
        for i in 0..length as isize {
            *dst.wrapping_offset(i * axis.to) = *src.wrapping_offset(i * axis.from);
        }
    }
}

/// Element (r, c) goes from `src + r + c * from` to `dst + r * to + c`.
unsafe fn transpose<T: std::marker::Copy>(
    src: *const T,
    dst: *mut T,
    rows: usize,
    columns: usize,
    (from, to): (isize, isize),
) {
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            let src = src.wrapping_add(row).wrapping_offset(column as isize * from);
            let dst = dst.wrapping_add(column).wrapping_offset(row as isize * to);
            for r in 0..(rows - row).min(TILE) {
                for c in 0..(columns - column).min(TILE) {
                    let (at, into) = (c as isize * from, r as isize * to);
                    // SAFETY: the caller's contract.
                    unsafe {
                        *dst.wrapping_offset(into).wrapping_add(c) = *src.wrapping_offset(at).wrapping_add(r);
                    };
                }
            }
        }
    }
}

/// Row-major steps of a shape.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut steps = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        steps[i - 1] = steps[i].wrapping_mul(shape[i] as isize);
    }
    steps
}
