//! The macro-kernel: one block of C, with K cut so that a panel of B stays in the first cache level.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::layout::{MR, NR};
use crate::micro::{self, Kernel, LINE, Micro, Post, THIN, WIDE};
use crate::micro_bf16::{self, round_pairs};
use crate::pack::View;

/// Rows of B that are worked on at once. A panel of B is then 128 KiB: it streams through the first cache level for
/// every tile of rows, which costs nothing because each row of it is fetched long before it is read.
pub(crate) const DEPTH: usize = 1024;
/// Rows of A per block: with `DEPTH` about half of a second cache level of 1 MiB.
pub(crate) const ROWS: usize = 10 * MR;
/// Rows of B between reading one and fetching one when nothing of B is read twice: about a memory latency.
const FETCH_ROWS: usize = 32;
/// A distance of rows in floats at which all rows of a tile compete for the same lines of the first cache level.
const COLLISION: usize = 1024;
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

    /// Rows of `depth` pairs of bfloat16 each, `row` elements of 32 bits apart.
    pub(crate) fn pairs(ptr: *const f32, row: usize, depth: usize) -> Rows<'static> {
        Rows { ptr, row, step: 1, taps: ONE, depth }
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
    pub(crate) fn part(&self, done: usize) -> (Self, usize) {
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

/// What the elements of B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    /// Pairs of bfloat16, two rows of B in one; A is rounded to the same while it is copied.
    Bf16,
}

impl Format {
    /// Rows of packed B for a depth of `k`.
    fn rows(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Bf16 => k.div_ceil(2),
        }
    }

    fn kernels(self, isa: Isa) -> &'static [Kernel; MR] {
        match self {
            Self::F32 => micro::kernels(isa),
            Self::Bf16 => micro_bf16::kernels(isa),
        }
    }

    fn wide_kernels(self, isa: Isa) -> Option<&'static [Kernel; THIN]> {
        match self {
            Self::F32 => micro::wide_kernels(isa),
            Self::Bf16 => micro_bf16::wide_kernels(isa),
        }
    }
}

/// B: panels of `NR` neighbouring columns.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub format: Format,
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
        Self::in_format(Format::F32, ptr, k)
    }

    /// Packed panels of depth `k` with elements of `format`.
    pub(crate) fn in_format(format: Format, ptr: *const f32, k: usize) -> Self {
        Self { format, ptr, step: NR, panel: NR * format.rows(k) }
    }

    /// Rows of neighbouring columns in memory, `step` apart.
    pub(crate) fn raw(ptr: *const f32, step: usize) -> Self {
        Self { format: Format::F32, ptr, step, panel: NR }
    }

    /// The same from column `column` on, a multiple of `NR`.
    pub(crate) fn from(&self, column: usize) -> Self {
        Self { ptr: self.ptr.wrapping_add(column / NR * self.panel), ..*self }
    }

    pub(crate) fn at(&self, row: usize, column: usize) -> *const f32 {
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
    /// Room for `copy_floats` floats, or null.
    pub copy: *mut f32,
}

/// Floats of a copy of A that a block of `m` rows wants: nothing for most.
///
/// Rows whose distance is a multiple of a page fall on the same lines of the cache; they are copied closer together,
/// unless there are too few rows or columns to make up for it. For bfloat16 the copy is where A is rounded.
pub(crate) fn copy_floats(a: &Rows<'_>, format: Format, m: usize, n: usize) -> usize {
    let m = m.min(ROWS);
    if format == Format::Bf16 {
        return m * (format.rows(a.k()) + LINE);
    }
    let collides = a.row.is_multiple_of(COLLISION) && a.row > 0 && a.step == 1 && a.taps.len() == 1;
    if collides && n >= 4 * NR && m > MR { m * (a.depth.min(DEPTH) + LINE) } else { 0 }
}

impl Block<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// A has `m` rows and B `n` columns of the depth of A; C and the operands of `post` have the block's extent; the
    /// copy has what `copy_floats` says, or is null where that is nothing.
    pub(crate) unsafe fn run(&self) {
        // SAFETY: the caller's contract; parts of the depth keep to it.
        unsafe {
            if self.b.format == Format::Bf16 {
                return self.run_pairs(&self.rounded());
            }
            if self.m <= MR && self.copy.is_null() {
                return self.stream(&self.a);
            }
            let (k, mut done) = (self.a.k(), 0);
            loop {
                let (part, end) = self.a.part(done);
                self.slab(&self.closer(part), done, end >= k);
                done = end;
                if done >= k {
                    return;
                }
            }
        }
    }

    /// Computes the block from rows of A that are pairs of bfloat16 already.
    ///
    /// # Safety
    /// As for `run`, of `a` instead of the block's own.
    pub(crate) unsafe fn run_pairs(&self, a: &Rows<'_>) {
        // SAFETY: the caller's contract.
        unsafe { if self.m <= MR { self.stream(a) } else { self.slab(a, 0, true) } }
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
            ahead: self.b.at(from + FETCH_ROWS, column),
            ahead_step: 2 * LINE,
            c: self.c.wrapping_add(column),
            ldc: self.ldc,
            cols: (self.n - column).min(NR),
            add: from > 0,
            post: self.post.at(0, column, self.ldc),
        }
    }

    /// One tile of rows: B is read once, over its whole depth.
    unsafe fn stream(&self, a: &Rows<'_>) {
        let kernel = self.b.format.kernels(self.isa)[self.m - 1];
        let wide = self.b.format.wide_kernels(self.isa).filter(|_| self.m <= THIN);
        let wide = wide.map(|wide| wide[self.m - 1]);
        let mut column = 0;
        while column < self.n {
            let wide = wide.filter(|_| column + WIDE * NR <= self.n);
            // SAFETY: the tile, or the tiles of whole panels, lie in the block.
            unsafe { wide.unwrap_or(kernel)(&self.micro(a, 0, column)) };
            column += if wide.is_some() { WIDE * NR } else { NR };
        }
    }

    /// The block's rows of A, rounded to pairs of bfloat16: all segments of a row behind each other.
    unsafe fn rounded(&self) -> Rows<'static> {
        let (a, depth) = (&self.a, self.b.format.rows(self.a.k()));
        let row = depth + LINE;
        for r in 0..self.m {
            // SAFETY: A has the rows, and the copy was sized for them.
            unsafe { self.round_row(a.ptr.wrapping_add(r * a.row), self.copy.add(r * row)) };
        }
        Rows::pairs(self.copy, row, depth)
    }

    unsafe fn round_row(&self, from: *const f32, to: *mut f32) {
        let a = &self.a;
        // SAFETY: the caller's contract; a pair never crosses segments of even length that lie side by side.
        unsafe {
            if a.step == 1 && (a.depth.is_multiple_of(2) || a.taps.len() == 1) {
                for (n, tap) in a.taps.iter().enumerate() {
                    round_pairs(self.isa, from.wrapping_add(*tap), a.depth, to.add(n * a.depth / 2));
                }
                return;
            }
            let at = |i: usize| match i < a.k() {
                true => *from.wrapping_add(a.taps[i / a.depth] + i % a.depth * a.step),
                false => 0.0,
            };
            for i in 0..a.k().div_ceil(2) {
                *to.add(i) = micro_bf16::pair(at(2 * i), at(2 * i + 1));
            }
        }
    }

    /// Copies the block's rows of `a` next to each other when there is room for it.
    unsafe fn closer<'a>(&self, a: Rows<'a>) -> Rows<'a> {
        if self.copy.is_null() {
            return a;
        }
        let row = a.depth + LINE;
        for r in 0..self.m {
            let from = a.ptr.wrapping_add(r * a.row + a.taps[0]);
            // SAFETY: A has the rows, and the copy was sized for them.
            unsafe { std::ptr::copy_nonoverlapping(from, self.copy.add(r * row), a.depth) };
        }
        Rows { ptr: self.copy, row, taps: ONE, ..a }
    }

    /// All tiles over one part of the depth, which begins at row `from` of B.
    unsafe fn slab(&self, a: &Rows<'_>, from: usize, last: bool) {
        let (kernels, tiles) = (self.b.format.kernels(self.isa), self.m.div_ceil(MR));
        for column in (0..self.n).step_by(NR) {
            let first = self.micro(a, from, column);
            let next = self.b.at(from, column + NR);
            let mut row = 0;
            for tile in 0..tiles {
                // Tiles of nearly the same height: a short last one would waste registers.
                let rows = (self.m - row).div_ceil(tiles - tile);
                // Two tiles fetch the next panel, the others what they read anyway.
                let (ahead, ahead_step) = if tile < 2 {
                    (next.wrapping_add(tile * a.k() * LINE), LINE)
                } else {
                    (first.b, 2 * LINE)
                };
                let micro = Micro {
                    a: first.a.wrapping_add(row * a.row),
                    ahead,
                    ahead_step,
                    c: first.c.wrapping_add(row * self.ldc),
                    post: if last { first.post.at(row, 0, self.ldc) } else { Post::NONE },
                    ..first
                };
                // SAFETY: the tile lies in the block; the table has an entry for every number of rows.
                unsafe { kernels[rows - 1](&micro) };
                row += rows;
            }
        }
    }
}
