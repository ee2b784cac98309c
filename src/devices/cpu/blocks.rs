//! The macro-kernel: one block of C from packed panels of A and B, with K cut so that panels stay in cache.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::{MR, NR};
use crate::micro::{Micro, Post, kernels, thin_kernels};
use crate::pack::View;

/// Rows of B that are worked on at once: a panel of B (`NR` x `DEPTH` floats) fills the first cache level,
/// a block of A (`ROWS` x `DEPTH`) a quarter of the second.
const DEPTH: usize = 256;
/// Rows of A per block.
pub(crate) const ROWS: usize = 20 * MR;
/// Columns of B per block.
pub(crate) const COLUMNS: usize = 16 * NR;

/// A block of C: `m` x `n` results at `c`, rows `ldc` apart, from whole panels of depth `k`.
pub(crate) struct Block {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: *const f32,
    pub b: *const f32,
    pub c: *mut f32,
    pub ldc: usize,
    pub post: Post,
}

impl Block {
    /// Computes the block.
    ///
    /// # Safety
    /// A and B are packed with depth `k` for `m` rows and `n` columns, C and the operands of `post` have the
    /// block's extent.
    pub(crate) unsafe fn run(&self) {
        let cuts = self.k.div_ceil(DEPTH).max(1);
        let depth = self.k.div_ceil(cuts);
        for cut in 0..cuts {
            let from = (cut * depth).min(self.k);
            let to = (from + depth).min(self.k);
            // SAFETY: a part of the caller's depth.
            unsafe { self.slab(from, to, cut + 1 == cuts) };
        }
    }

    /// Depth `from..to` for all tiles.
    unsafe fn slab(&self, from: usize, to: usize, last: bool) {
        let kernels = kernels(self.isa);
        for column in (0..self.n).step_by(NR) {
            let b = self.b.wrapping_add(column * self.k + from * NR);
            for row in (0..self.m).step_by(MR) {
                let micro = Micro {
                    k: to - from,
                    a: self.a.wrapping_add(row * self.k + from * MR),
                    a_row: 1,
                    a_step: MR,
                    b,
                    b_step: NR,
                    c: self.c.wrapping_add(row * self.ldc + column),
                    ldc: self.ldc,
                    cols: (self.n - column).min(NR),
                    add: from > 0,
                    post: if last { self.post.at(row, column, self.ldc) } else { Post::NONE },
                };
                // SAFETY: the tile lies in the block; the table has an entry for every number of rows.
                unsafe { kernels[(self.m - row).min(MR) - 1](&micro) };
            }
        }
    }
}

/// Few rows of C: A and B are read where they are. B's columns must be neighbours.
pub(crate) struct Thin {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: View,
    /// First row of B, its row distance and the distance of two panels of `NR` columns.
    pub b: *const f32,
    pub b_step: usize,
    pub b_panel: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub post: Post,
}

impl Thin {
    /// Computes the rows.
    ///
    /// # Safety
    /// As for `Block::run`; `m` is at most `MR`.
    pub(crate) unsafe fn run(&self) {
        let kernel = thin_kernels(self.isa)[self.m - 1];
        for column in (0..self.n).step_by(NR) {
            let micro = Micro {
                k: self.k,
                a: self.a.ptr,
                a_row: self.a.row,
                a_step: self.a.column,
                b: self.b.wrapping_add(column / NR * self.b_panel),
                b_step: self.b_step,
                c: self.c.wrapping_add(column),
                ldc: self.ldc,
                cols: (self.n - column).min(NR),
                add: false,
                post: self.post.at(0, column, self.ldc),
            };
            // SAFETY: the tile lies in the block.
            unsafe { kernel(&micro) };
        }
    }
}
