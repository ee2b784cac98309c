//! Rows of A times panels of B in bytes: the loop that products and convolutions of integers share, and packing of B at
//! run time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::int_finish::{Finish, Panel, finish};
use crate::isa::{Isa, per_isa};
use crate::layout::{MR, NR};
use crate::micro_int::{FLIP, Micro, STEPS, kernels};

/// Bytes in front of a panel: the sums of its columns.
pub(crate) const HEAD: usize = NR * size_of::<i32>();

/// Bytes of one panel with `depth` steps, taps included, each tap a multiple of `STEPS`.
pub(crate) fn panel_bytes(depth: usize) -> usize {
    HEAD + depth * NR
}

/// Rows of bytes that are read where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub ptr: *const u8,
    /// Distance of two rows.
    pub row: usize,
    /// Offsets of the segments and their bytes, a multiple of `STEPS`.
    pub taps: &'a [usize],
    pub depth: usize,
}

/// What the columns of a panel need beside its bytes.
///
/// # Safety
/// `b` is the panel of `count` columns from `column` on, whose sums of columns lie in front.
pub(crate) unsafe fn constants(f: &Finish, b: *const u8, column: usize, count: usize, depth: usize) -> Panel {
    // SAFETY: the caller's contract.
    let sums = unsafe { b.cast::<[i32; NR]>().read_unaligned() };
    f.panel(column, count, &sums, depth)
}

/// Computes `rows` rows for the panel `b` and stores them from result row `row` on.
///
/// # Safety
/// A has the rows, the panel their depth, the result and the epilogue's operands the rows and columns; `offsets` is null
/// or has a number for each row.
pub(crate) unsafe fn product(
    isa: Isa,
    f: &Finish,
    a: &Rows<'_>,
    (b, panel): (*const u8, &Panel),
    (rows, row): (usize, usize),
    offsets: *const i32,
) {
    let kernels = kernels(isa);
    #[cfg(target_arch = "x86_64")]
    let fused = isa == Isa::Avx512 && offsets.is_null() && crate::int_wide::in_registers(f);
    let tiles = rows.div_ceil(MR);
    let mut done = 0;
    for tile in 0..tiles {
        let count = (rows - done).div_ceil(tiles - tile);
        let mut sums = std::mem::MaybeUninit::<[[i32; NR]; MR]>::uninit();
        let micro = Micro {
            taps: a.taps,
            depth: a.depth,
            a: a.ptr.wrapping_add(done * a.row),
            a_row: a.row,
            flip: f.flips(),
            b: b.wrapping_add(HEAD).cast(),
            sums: sums.as_mut_ptr().cast(),
        };
        let offsets = if offsets.is_null() { offsets } else { offsets.wrapping_add(done) };
        // SAFETY: the caller's contract; the tables have an entry for every number of rows.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if fused {
                crate::int_wide::TILES[count - 1](&micro, f, panel, row + done);
                done += count;
                continue;
            }
            kernels[count - 1](&micro);
            // The kernel has written the rows.
            let sums = std::slice::from_raw_parts(sums.as_ptr().cast(), count);
            finish(isa, f, panel, sums, offsets, row + done);
        }
        done += count;
    }
}

/// A matrix of bytes in memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub ptr: *const u8,
    /// Distance of two rows and of two columns; one of them is 1.
    pub row: usize,
    pub column: usize,
    pub rows: usize,
    pub columns: usize,
}

per_isa! {
    /// Packs columns `from..from + NR` of `b` (fewer at the end) as a panel at `out`; unsigned bytes are lowered by 128.
    ///
    /// # Safety
    /// The matrix lies in its operand, `out` has room for a panel.
    pub(crate) unsafe fn pack = pack_body(b: &Matrix, from: usize, unsigned: bool, out: *mut u8)
}

#[inline(always)]
unsafe fn pack_body<const FMA: bool>(b: &Matrix, from: usize, unsigned: bool, out: *mut u8) {
    let count = (b.columns - from).min(NR);
    let flip = if unsigned { FLIP } else { 0 };
    let mut sums = [0i32; NR];
    for step in (0..b.rows).step_by(STEPS) {
        let steps = (b.rows - step).min(STEPS);
        let mut line = [[0u8; STEPS]; NR];
        // SAFETY: steps and columns lie in the matrix.
        unsafe {
            if b.column == 1 && steps == STEPS && count == NR {
                let from = b.ptr.add(step * b.row + from);
                let rows: [[u8; NR]; STEPS] =
                    std::array::from_fn(|s| *from.add(s * b.row).cast::<[u8; NR]>());
                for (c, bytes) in line.iter_mut().enumerate() {
                    *bytes = [rows[0][c] ^ flip, rows[1][c] ^ flip, rows[2][c] ^ flip, rows[3][c] ^ flip];
                }
            } else {
                for (c, bytes) in line.iter_mut().enumerate().take(count) {
                    for (s, byte) in bytes.iter_mut().enumerate().take(steps) {
                        *byte = *b.ptr.add((step + s) * b.row + (from + c) * b.column) ^ flip;
                    }
                }
            }
            for (sum, bytes) in sums.iter_mut().zip(&line) {
                *sum += bytes.iter().map(|b| i32::from(*b as i8)).sum::<i32>();
            }
            *out.add(HEAD + step * NR).cast::<[[u8; STEPS]; NR]>() = line;
        }
    }
    // SAFETY: the panel begins with them.
    unsafe { out.cast::<[i32; NR]>().write_unaligned(sums) };
}

per_isa! {
    /// Sums of `rows` rows of `depth` bytes, `row` apart, times `factor`; signed bytes count as 128 more.
    ///
    /// # Safety
    /// The rows are readable, `out` has a number for each.
    pub(crate) unsafe fn row_sums = row_sums_body(a: *const u8, row: usize, depth: usize, signed: bool, out: &mut [i32], factor: i32)
}

#[inline(always)]
unsafe fn row_sums_body<const FMA: bool>(
    a: *const u8,
    row: usize,
    depth: usize,
    signed: bool,
    out: &mut [i32],
    factor: i32,
) {
    let flip = if signed { FLIP } else { 0 };
    for (r, out) in out.iter_mut().enumerate() {
        // SAFETY: the caller's contract.
        let bytes = unsafe { std::slice::from_raw_parts(a.add(r * row), depth) };
        let sum: u32 = bytes.iter().map(|b| u32::from(b ^ flip)).fold(0, u32::wrapping_add);
        *out = (sum as i32).wrapping_mul(factor);
    }
}
