//! Packing of strided matrices into panels of `NR` columns at run time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::per_isa;
use crate::layout::NR;

/// A matrix in memory: element (i, j) is `ptr[i * row + j * column]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub ptr: *const f32,
    pub row: usize,
    pub column: usize,
}

// SAFETY: a view is an address; see `Operand`.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A row-major matrix with rows of `columns`, or the transpose of a row-major one with rows of `rows`.
    pub(crate) fn new(ptr: *const f32, rows: usize, columns: usize, transposed: bool) -> Self {
        if transposed { Self { ptr, row: 1, column: rows } } else { Self { ptr, row: columns, column: 1 } }
    }

    /// The view that starts at (`i`, `j`).
    pub(crate) fn at(&self, i: usize, j: usize) -> Self {
        Self { ptr: self.ptr.wrapping_add(i * self.row + j * self.column), ..*self }
    }
}

/// Floats of `k` x `n` packed as B.
pub(crate) fn packed_b(k: usize, n: usize) -> usize {
    n.next_multiple_of(NR) * k
}

per_isa! {
    /// Packs columns `from..to` (`from` a multiple of `NR`) of a matrix with `k` rows into column panels at `out`.
    ///
    /// # Safety
    /// The view covers the columns, `out` has room for all columns of the matrix below `to`.
    pub(crate) unsafe fn pack_b = pack_b_body(b: View, from: usize, to: usize, k: usize, out: *mut f32)
}

#[inline(always)]
unsafe fn pack_b_body<const FMA: bool>(b: View, from: usize, to: usize, k: usize, out: *mut f32) {
    let turned = View { ptr: b.ptr, row: b.column, column: b.row };
    for panel in (from..to).step_by(NR) {
        let columns = (to - panel).min(NR);
        // SAFETY: the panel lies in the view and in `out`.
        unsafe { panels::<NR>(turned.at(panel, 0), columns, k, out.add(panel * k)) };
    }
}

/// Packs `lines` (at most `W`) lines of `k` elements so that `W` elements of one position are neighbours.
#[inline(always)]
unsafe fn panels<const W: usize>(a: View, lines: usize, k: usize, out: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        if lines < W {
            std::slice::from_raw_parts_mut(out, k * W).fill(0.0);
        }
        if a.row == 1 && lines == W {
            for position in 0..k {
                let src = a.ptr.add(position * a.column);
                std::ptr::copy_nonoverlapping(src, out.add(position * W), W);
            }
        } else if a.row == 1 {
            for position in 0..k {
                let src = a.ptr.add(position * a.column);
                (0..lines).for_each(|line| *out.add(position * W + line) = *src.add(line));
            }
        } else if a.column == 1 && lines == W {
            transpose::<W>(a, k, out);
        } else {
            for line in 0..lines {
                let src = a.ptr.add(line * a.row);
                (0..k).for_each(|position| *out.add(position * W + line) = *src.add(position * a.column));
            }
        }
    }
}

/// `panels` for `W` contiguous lines: squares of 4 x 4 go through registers.
#[inline(always)]
unsafe fn transpose<const W: usize>(a: View, k: usize, out: *mut f32) {
    let whole = k / 4 * 4;
    // SAFETY: the caller's contract.
    unsafe {
        for position in (0..whole).step_by(4) {
            for line in (0..W).step_by(4) {
                let src = a.ptr.add(line * a.row + position);
                let dst = out.add(position * W + line);
                let rows: [[f32; 4]; 4] = [
                    *src.cast(),
                    *src.add(a.row).cast(),
                    *src.add(2 * a.row).cast(),
                    *src.add(3 * a.row).cast(),
                ];
                for (i, column) in (0..4).map(|i| rows.map(|row| row[i])).enumerate() {
                    *dst.add(i * W).cast::<[f32; 4]>() = column;
                }
            }
        }
        for position in whole..k {
            for line in 0..W {
                *out.add(position * W + line) = *a.ptr.add(line * a.row + position);
            }
        }
    }
}
