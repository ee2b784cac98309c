//! Loops over f32 rows that several kernels share, compiled for each instruction set.
#![allow(unsafe_code, reason = "the loops are compiled for instruction sets that are detected at run time")]

use crate::isa::per_isa;
use crate::math;

/// Independent partial results of a fold, so that it vectorises.
const WAYS: usize = 64;

/// Elements of one vector; the rest of a row is padded to whole vectors only.
const LANES: usize = 16;

/// Folds `row` with `step` from `start`, which joins without effect, then the partial results with `join`.
#[inline(always)]
fn fold(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    if row.len() <= LANES {
        return fold_short(row, start, step, join);
    }
    let mut sums = [start; WAYS];
    let chunks = row.chunks_exact(WAYS);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum = step(*sum, v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum = step(*sum, v);
    }
    let mut width = WAYS / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] = join(sums[i], sums[i + width]);
        }
        width /= 2;
    }
    sums[0]
}

/// The same in the same order, without partial results that nothing went into.
#[inline(always)]
fn fold_short(
    row: &[f32],
    start: f32,
    step: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [start; LANES];
    for (sum, &v) in sums.iter_mut().zip(row) {
        *sum = step(*sum, v);
    }
    let mut width = row.len().next_power_of_two() / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] = join(sums[i], sums[i + width]);
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}

/// Element of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    Plain,
    Square,
    Magnitude,
}

per_isa! { pub(crate) unsafe fn maximum = maximum_body(row: &[f32]) -> f32 }
per_isa! { pub(crate) unsafe fn minimum = minimum_body(row: &[f32]) -> f32 }
per_isa! { pub(crate) unsafe fn product = product_body(row: &[f32]) -> f32 }
per_isa! { pub(crate) unsafe fn sum = sum_body(row: &[f32], term: Term) -> f32 }
per_isa! {
    /// Sum of `(v - shift)^2`.
    pub(crate) unsafe fn sum_squared_from = sum_squared_from_body(row: &[f32], shift: f32) -> f32
}
per_isa! {
    /// Writes `exp(v * scale - shift)`, the exponents not above 0 but for rounding, and returns the sum.
    pub(crate) unsafe fn exp_row = exp_row_body(src: *const f32, dst: *mut f32, len: usize, scale: f32, shift: f32) -> f32
}
per_isa! {
    /// Sum of `exp(v - shift)` for a shift that is not below any element.
    pub(crate) unsafe fn sum_exp = sum_exp_body(row: &[f32], shift: f32) -> f32
}
per_isa! { pub(crate) unsafe fn scale_row = scale_row_body(row: &mut [f32], factor: f32) }
per_isa! {
    /// `dst = src - shift`.
    pub(crate) unsafe fn shift_row = shift_row_body(src: *const f32, dst: *mut f32, len: usize, shift: f32)
}
#[inline(always)]
unsafe fn maximum_body<const FMA: bool>(row: &[f32]) -> f32 {
    largest(row)
}

/// The largest element, NaN when there is one; to be inlined where the instruction set is known.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    fold(row, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
unsafe fn minimum_body<const FMA: bool>(row: &[f32]) -> f32 {
    fold(row, f32::INFINITY, smaller, smaller)
}

#[inline(always)]
unsafe fn product_body<const FMA: bool>(row: &[f32]) -> f32 {
    fold(row, 1.0, |p, v| p * v, |a, b| a * b)
}

#[inline(always)]
unsafe fn sum_body<const FMA: bool>(row: &[f32], term: Term) -> f32 {
    let add = |a: f32, b: f32| a + b;
    match term {
        Term::Plain => fold(row, 0.0, add, add),
        Term::Square => fold(row, 0.0, |s, v| math::fma::<FMA>(v, v, s), add),
        Term::Magnitude => fold(row, 0.0, |s, v| s + v.abs(), add),
    }
}

#[inline(always)]
unsafe fn sum_squared_from_body<const FMA: bool>(row: &[f32], shift: f32) -> f32 {
    fold(
        row,
        0.0,
        |s, v| {
            let d = v - shift;
            math::fma::<FMA>(d, d, s)
        },
        |a, b| a + b,
    )
}

#[inline(always)]
unsafe fn exp_row_body<const FMA: bool>(
    src: *const f32,
    dst: *mut f32,
    len: usize,
    scale: f32,
    shift: f32,
) -> f32 {
    let mut sums = [0f32; WAYS];
    let whole = len / WAYS * WAYS;
    // SAFETY: `len` elements are valid at both; a block is read before it is written.
    unsafe {
        for from in (0..whole).step_by(WAYS) {
            let mut block: [f32; WAYS] = *src.add(from).cast();
            for (v, sum) in block.iter_mut().zip(&mut sums) {
                *v = math::exp_down::<FMA>(math::fma::<FMA>(*v, scale, -shift));
                *sum += *v;
            }
            *dst.add(from).cast() = block;
        }
        for from in (whole..len).step_by(LANES) {
            let (count, mut block) = (LANES.min(len - from), [f32::NEG_INFINITY; LANES]);
            std::ptr::copy_nonoverlapping(src.add(from), block.as_mut_ptr(), count);
            for (v, sum) in block.iter_mut().zip(&mut sums[from - whole..]) {
                *v = math::exp_down::<FMA>(math::fma::<FMA>(*v, scale, -shift));
                *sum += *v;
            }
            std::ptr::copy_nonoverlapping(block.as_ptr(), dst.add(from), count);
        }
    }
    total(&mut sums)
}

#[inline(always)]
unsafe fn sum_exp_body<const FMA: bool>(row: &[f32], shift: f32) -> f32 {
    let mut sums = [0f32; WAYS];
    let chunks = row.chunks_exact(WAYS);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &v) in sums.iter_mut().zip(chunk) {
            *sum += math::exp_down::<FMA>(v - shift);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum += math::exp_down::<FMA>(v - shift);
    }
    total(&mut sums)
}

/// Sum of partial results, in halves.
#[inline(always)]
fn total(sums: &mut [f32; WAYS]) -> f32 {
    let mut width = WAYS / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
unsafe fn scale_row_body<const FMA: bool>(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|v| *v *= factor);
}

#[inline(always)]
unsafe fn shift_row_body<const FMA: bool>(src: *const f32, dst: *mut f32, len: usize, shift: f32) {
    for i in 0..len {
        // SAFETY: `len` elements are valid at both.
        unsafe { *dst.add(i) = *src.add(i) - shift };
    }
}
