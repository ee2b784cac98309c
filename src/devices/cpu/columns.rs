//! Folds down columns: the sum or the largest of vectors of neighbouring elements, over up to three axes.
//!
//! Pooling and reductions with the channels last are this; the folded vectors stay in registers.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::lanes::{Lanes, per_lanes};

/// Rows that are folded: `counts` along each axis, `steps` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Folded {
    pub x: *const f32,
    pub counts: [usize; 3],
    pub steps: [usize; 3],
}

per_lanes! {
    /// Folds `columns` columns into `y`: the largest (NaN where one is), or the sum times `factor`. `width` is `columns`.
    ///
    /// # Safety
    /// The rows have the columns, and `y` has room for them.
    pub(crate) unsafe fn fold = fold_body(rows: &Folded, largest: bool, factor: f32, columns: usize, y: *mut f32)
}

#[inline(always)]
unsafe fn fold_body<V: Lanes>(rows: &Folded, largest: bool, factor: f32, columns: usize, y: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        if largest {
            blocks::<V, true>(rows, factor, columns, y);
        } else {
            blocks::<V, false>(rows, factor, columns, y);
        }
    }
}

#[inline(always)]
unsafe fn blocks<V: Lanes, const MAX: bool>(rows: &Folded, factor: f32, columns: usize, y: *mut f32) {
    let mut at = 0;
    // SAFETY: the caller's contract; the last vector ends with the columns.
    unsafe {
        while at + 8 * V::COUNT <= columns {
            block::<V, 8, MAX>(rows, factor, at, y);
            at += 8 * V::COUNT;
        }
        while at + 2 * V::COUNT <= columns {
            block::<V, 2, MAX>(rows, factor, at, y);
            at += 2 * V::COUNT;
        }
        while at < columns {
            block::<V, 1, MAX>(rows, factor, at.min(columns - V::COUNT), y);
            at += V::COUNT;
        }
    }
}

/// `N` vectors from column `at` on.
#[inline(always)]
unsafe fn block<V: Lanes, const N: usize, const MAX: bool>(
    rows: &Folded,
    factor: f32,
    at: usize,
    y: *mut f32,
) {
    let ([c0, c1, c2], [s0, s1, s2]) = (rows.counts, rows.steps);
    // SAFETY: the caller's contract.
    unsafe {
        let mut folded = [V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 }); N];
        for i in 0..c0 {
            for j in 0..c1 {
                let mut row = rows.x.wrapping_add(at + i * s0 + j * s1);
                for _ in 0..c2 {
                    for (n, folded) in folded.iter_mut().enumerate() {
                        let value = V::load(row.wrapping_add(n * V::COUNT));
                        *folded = if MAX { folded.larger(value) } else { folded.add(value) };
                    }
                    row = row.wrapping_add(s2);
                }
            }
        }
        for (n, folded) in folded.into_iter().enumerate() {
            let value = if MAX { folded } else { folded.mul(V::splat(factor)) };
            value.store(y.wrapping_add(at + n * V::COUNT));
        }
    }
}
