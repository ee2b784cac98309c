//! The macro-kernel: one block of C, with K cut so that a panel of B stays in the first cache level.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::{MR, NR};
use crate::micro::{Micro, Post, THIN, WIDE, kernels, wide_kernels};
use crate::pack::View;

/// Rows of B that are worked on at once: a panel of B (`NR` x `DEPTH` floats) fills two thirds of a first cache level
/// of 48 KiB, a block of A (`ROWS` x `DEPTH`) a quarter of the second.
const DEPTH: usize = 256;
/// Rows of A per block.
pub(crate) const ROWS: usize = 20 * MR;
/// Columns of B per block.
pub(crate) const COLUMNS: usize = 16 * NR;
/// The only segment of a plain matrix.
pub(crate) const ONE: &[usize] = &[0];

/// A: rows that are read where they lie, in segments of `depth` elements.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub ptr: *const f32,
    /// Distance of two rows and of two elements of a segment.
    pub row: usize,
    pub step: usize,
    /// Offsets of the segments.
    pub taps: &'a [usize],
    pub depth: usize,
}

impl Rows<'_> {
    /// A matrix with `k` columns.
    pub(crate) fn matrix(view: View, k: usize) -> Rows<'static> {
        Rows { ptr: view.ptr, row: view.row, step: view.column, taps: ONE, depth: k }
    }

    /// Depth of the product.
    pub(crate) fn k(&self) -> usize {
        self.taps.len() * self.depth
    }

    /// The same from row `row` on.
    pub(crate) fn from(&self, row: usize) -> Self {
        Self { ptr: self.ptr.wrapping_add(row * self.row), ..*self }
    }

    /// Segments or parts of one segment with about `DEPTH` elements: the part after `done` elements, and its end.
    fn part(&self, done: usize) -> (Self, usize) {
        if self.depth == 0 {
            return (*self, self.k());
        }
        let (tap, from) = (done / self.depth, done % self.depth);
        if self.depth < DEPTH {
            let left = self.taps.len() - tap;
            let parts = (left * self.depth).div_ceil(DEPTH + DEPTH / 8);
            let count = left.div_ceil(parts.max(1));
            let part = Self { taps: &self.taps[tap..tap + count], ..*self };
            return (part, done + count * self.depth);
        }
        let parts = self.depth.div_ceil(DEPTH);
        let size = self.depth.div_ceil(parts).min(self.depth - from);
        let ptr = self.ptr.wrapping_add(from * self.step);
        (Self { ptr, taps: &self.taps[tap..=tap], depth: size, ..*self }, done + size)
    }
}

/// B: panels of `NR` neighbouring columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub ptr: *const f32,
    /// Distance of two rows and of two panels.
    pub step: usize,
    pub panel: usize,
}

// SAFETY: an address of an operand or of packed scratch; see `Operand`.
unsafe impl Send for Columns {}
// SAFETY: as above.
unsafe impl Sync for Columns {}

impl Columns {
    /// Packed panels of depth `k`.
    pub(crate) fn packed(ptr: *const f32, k: usize) -> Self {
        Self { ptr, step: NR, panel: NR * k }
    }

    /// The same from column `column` on, a multiple of `NR`.
    pub(crate) fn from(&self, column: usize) -> Self {
        Self { ptr: self.ptr.wrapping_add(column / NR * self.panel), ..*self }
    }

    fn at(&self, row: usize, column: usize) -> *const f32 {
        self.ptr.wrapping_add(column / NR * self.panel + row * self.step)
    }
}

/// A block of C: `m` x `n` results at `c`, rows `ldc` apart.
pub(crate) struct Block<'a> {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub a: Rows<'a>,
    pub b: Columns,
    pub c: *mut f32,
    pub ldc: usize,
    pub post: Post,
}

impl Block<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// A has `m` rows and B `n` columns of the depth of A; C and the operands of `post` have the block's extent.
    pub(crate) unsafe fn run(&self) {
        if self.m <= MR {
            // SAFETY: the caller's contract.
            return unsafe { self.stream() };
        }
        let (k, mut done) = (self.a.k(), 0);
        loop {
            let (part, end) = self.a.part(done);
            // SAFETY: a part of the caller's depth.
            unsafe { self.slab(&part, done, end >= k) };
            done = end;
            if done >= k {
                return;
            }
        }
    }

    /// The call for the first tile of the panel at `column`, from row `from` of B on.
    fn micro<'a>(&self, a: &Rows<'a>, from: usize, column: usize) -> Micro<'a> {
        Micro {
            taps: a.taps,
            depth: a.depth,
            a: a.ptr,
            a_row: a.row,
            a_step: a.step,
            b: self.b.at(from, column),
            b_step: self.b.step,
            b_panel: self.b.panel,
            ahead: self.b.at(from, column + NR),
            c: self.c.wrapping_add(column),
            ldc: self.ldc,
            cols: (self.n - column).min(NR),
            add: from > 0,
            post: self.post.at(0, column, self.ldc),
        }
    }

    /// One tile of rows: B is read once, over its whole depth.
    unsafe fn stream(&self) {
        let kernel = kernels(self.isa)[self.m - 1];
        let wide = wide_kernels(self.isa).filter(|_| self.m <= THIN).map(|wide| wide[self.m - 1]);
        let mut column = 0;
        while column < self.n {
            let wide = wide.filter(|_| column + WIDE * NR <= self.n);
            // SAFETY: the tile, or the tiles of whole panels, lie in the block.
            unsafe { wide.unwrap_or(kernel)(&self.micro(&self.a, 0, column)) };
            column += if wide.is_some() { WIDE * NR } else { NR };
        }
    }

    /// All tiles over one part of the depth, which begins at row `from` of B.
    unsafe fn slab(&self, a: &Rows<'_>, from: usize, last: bool) {
        let kernels = kernels(self.isa);
        for column in (0..self.n).step_by(NR) {
            let first = self.micro(a, from, column);
            for (tile, row) in (0..self.m).step_by(MR).enumerate() {
                let micro = Micro {
                    a: first.a.wrapping_add(row * a.row),
                    // Each tile fetches one line per row: two of them fetch the next panel.
                    ahead: first.ahead.wrapping_add(tile * a.k() * NR / 2),
                    c: first.c.wrapping_add(row * self.ldc),
                    post: if last { first.post.at(row, 0, self.ldc) } else { Post::NONE },
                    ..first
                };
                // SAFETY: the tile lies in the block; the table has an entry for every number of rows.
                unsafe { kernels[(self.m - row).min(MR) - 1](&micro) };
            }
        }
    }
}
