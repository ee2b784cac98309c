//! Reductions over any set of axes. Neighbouring axes that are both kept or both reduced are merged; the
//! innermost merged axis is either folded as a row or carries a vector of results.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::columns::{Folded, fold};
use crate::isa::{Isa, per_isa};
use crate::math;
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::vector::{self, Term};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Elements below which another thread does not pay.
const GRAIN: usize = 16_384;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    SumSquare,
    L1,
    L2,
    LogSum,
    LogSumExp,
}

impl Mode {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "sum" => Self::Sum,
            "mean" => Self::Mean,
            "max" => Self::Max,
            "min" => Self::Min,
            "prod" => Self::Prod,
            "sum_square" => Self::SumSquare,
            "l1" => Self::L1,
            "l2" => Self::L2,
            "log_sum" => Self::LogSum,
            "log_sum_exp" => Self::LogSumExp,
            _ => return None,
        })
    }

    pub(crate) fn on_ints(self) -> bool {
        matches!(self, Self::Sum | Self::Max | Self::Min | Self::Prod)
    }

    fn start(self) -> f32 {
        match self {
            Self::Max => f32::NEG_INFINITY,
            Self::Min => f32::INFINITY,
            Self::Prod => 1.0,
            _ => 0.0,
        }
    }

    #[inline(always)]
    fn join(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Max => {
                if b > a || b.is_nan() {
                    b
                } else {
                    a
                }
            }
            Self::Min => {
                if b < a || b.is_nan() {
                    b
                } else {
                    a
                }
            }
            Self::Prod => a * b,
            _ => a + b,
        }
    }

    fn finish(self, total: f32, count: usize) -> f32 {
        match self {
            Self::Mean => total / count as f32,
            Self::L2 => total.sqrt(),
            Self::LogSum => total.ln(),
            _ => total,
        }
    }
}

/// A merged axis: length and step in the input.
#[derive(Clone, Copy, Debug)]
struct Axis {
    length: usize,
    step: usize,
}

/// Kept and reduced axes, outermost first.
struct Axes {
    kept: Vec<Axis>,
    reduced: Vec<Axis>,
    /// The innermost axis, if it is reduced, is in `reduced`; else in `kept`.
    inner_reduced: bool,
}

fn merge(shape: &[usize], reduced: &[bool]) -> Axes {
    let mut axes: Vec<(Axis, bool)> = Vec::new();
    let mut step = 1;
    for (&length, &reduce) in shape.iter().zip(reduced).rev() {
        match axes.last_mut() {
            Some((axis, r)) if *r == reduce => axis.length *= length,
            _ if length == 1 => {}
            _ => axes.push((Axis { length, step }, reduce)),
        }
        step *= length;
    }
    let inner_reduced = axes.first().is_none_or(|(_, r)| *r);
    let of = |want: bool| axes.iter().rev().filter(|(_, r)| *r == want).map(|(a, _)| *a).collect();
    Axes { kept: of(false), reduced: of(true), inner_reduced }
}

/// Number of index combinations.
fn count(axes: &[Axis]) -> usize {
    axes.iter().map(|a| a.length).product()
}

/// Offset of combination `index`.
#[inline(always)]
fn offset(axes: &[Axis], mut index: usize) -> usize {
    let mut at = 0;
    for axis in axes.iter().rev() {
        at += index % axis.length * axis.step;
        index /= axis.length;
    }
    at
}

struct Reduce {
    isa: Isa,
    mode: Mode,
    /// Outer axes; the innermost one is split off.
    kept: Vec<Axis>,
    reduced: Vec<Axis>,
    inner: usize,
    inner_reduced: bool,
    /// Elements per result.
    count: usize,
    x: *const f32,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Reduce {}
// SAFETY: as above.
unsafe impl Sync for Reduce {}

impl Reduce {
    unsafe fn fold_row(&self, mode: Mode, row: &[f32]) -> f32 {
        // SAFETY: `isa` exists here.
        unsafe {
            match mode {
                Mode::Max => vector::maximum(self.isa, row),
                Mode::Min => vector::minimum(self.isa, row),
                Mode::Prod => vector::product(self.isa, row),
                Mode::SumSquare | Mode::L2 => vector::sum(self.isa, row, Term::Square),
                Mode::L1 => vector::sum(self.isa, row, Term::Magnitude),
                _ => vector::sum(self.isa, row, Term::Plain),
            }
        }
    }

    /// One result from rows along the innermost axis.
    unsafe fn fold_rows(&self, index: usize) -> f32 {
        let base = offset(&self.kept, index);
        let rows = || (0..count(&self.reduced)).map(|i| base + offset(&self.reduced, i));
        // SAFETY: every row lies in the operand.
        let row = |at: usize| unsafe { from_raw_parts(self.x.wrapping_add(at), self.inner) };
        // SAFETY: as above.
        let total = |mode: Mode| unsafe {
            rows().fold(mode.start(), |t, at| mode.join(t, self.fold_row(mode, row(at))))
        };
        if self.mode != Mode::LogSumExp {
            return self.mode.finish(total(self.mode), self.count);
        }
        let largest = total(Mode::Max);
        let shift = if largest.is_finite() { largest } else { 0.0 };
        // SAFETY: as above.
        let sum: f32 = rows().map(|at| unsafe { vector::sum_exp(self.isa, row(at), shift) }).sum();
        sum.ln() + shift
    }

    /// A vector of results along the innermost axis, columns `from..to` of it.
    unsafe fn vector(&self, index: usize, from: usize, to: usize, scratch: *mut f32) {
        let base = offset(&self.kept, index) + from;
        // SAFETY: the vector lies in the output; the scratch holds as many floats.
        unsafe {
            let y = from_raw_parts_mut(self.y.add(index * self.inner + from), to - from);
            if self.mode != Mode::LogSumExp {
                self.accumulate(self.mode, base, y);
                y.iter_mut().for_each(|v| *v = self.mode.finish(*v, self.count));
                return;
            }
            let largest = from_raw_parts_mut(scratch, to - from);
            self.accumulate(Mode::Max, base, largest);
            largest.iter_mut().for_each(|v| *v = if v.is_finite() { *v } else { 0.0 });
            y.fill(0.0);
            for i in 0..count(&self.reduced) {
                let row = from_raw_parts(self.x.add(base + offset(&self.reduced, i)), to - from);
                add_exp(self.isa, y, row, largest);
            }
            y.iter_mut().zip(largest).for_each(|(v, m)| *v = v.ln() + *m);
        }
    }

    unsafe fn accumulate(&self, mode: Mode, base: usize, y: &mut [f32]) {
        if matches!(mode, Mode::Sum | Mode::Mean | Mode::Max) && self.reduced.len() <= 3 {
            let mut axes = [Axis { length: 1, step: 0 }; 3];
            axes[3 - self.reduced.len()..].copy_from_slice(&self.reduced);
            let x = self.x.wrapping_add(base);
            let rows = Folded { x, counts: axes.map(|a| a.length), steps: axes.map(|a| a.step) };
            // SAFETY: all rows lie in the operand.
            unsafe { fold(self.isa, y.len(), &rows, mode == Mode::Max, 1.0, y.len(), y.as_mut_ptr()) };
            return;
        }
        y.fill(mode.start());
        for i in 0..count(&self.reduced) {
            // SAFETY: the row lies in the operand.
            unsafe {
                let row = from_raw_parts(self.x.add(base + offset(&self.reduced, i)), y.len());
                join_rows(self.isa, mode, y, row);
            }
        }
    }
}

per_isa! {
    unsafe fn add_exp = add_exp_body(y: &mut [f32], row: &[f32], shift: &[f32])
}

#[inline(always)]
unsafe fn add_exp_body<const FMA: bool>(y: &mut [f32], row: &[f32], shift: &[f32]) {
    for ((y, &v), &s) in y.iter_mut().zip(row).zip(shift) {
        *y += math::exp::<FMA>(v - s);
    }
}

per_isa! {
    unsafe fn join_rows = join_rows_body(mode: Mode, y: &mut [f32], row: &[f32])
}

#[inline(always)]
unsafe fn join_rows_body<const FMA: bool>(mode: Mode, y: &mut [f32], row: &[f32]) {
    let pairs = y.iter_mut().zip(row);
    match mode {
        Mode::Max => pairs.for_each(|(y, &v)| *y = Mode::Max.join(*y, v)),
        Mode::Min => pairs.for_each(|(y, &v)| *y = Mode::Min.join(*y, v)),
        Mode::Prod => pairs.for_each(|(y, &v)| *y *= v),
        Mode::SumSquare | Mode::L2 => pairs.for_each(|(y, &v)| *y = math::fma::<FMA>(v, v, *y)),
        Mode::L1 => pairs.for_each(|(y, &v)| *y += v.abs()),
        _ => pairs.for_each(|(y, &v)| *y += v),
    }
}

/// Columns of a vector of results that are worked on at once.
const COLUMNS: usize = 1024;

impl Reduce {
    /// Columns of a unit of work: so few that every member gets some.
    fn columns(&self) -> usize {
        let wanted = self.members.div_ceil(count(&self.kept).max(1));
        self.inner.div_ceil(wanted).next_multiple_of(16).min(COLUMNS)
    }
}

impl Prepared for Reduce {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: if self.inner_reduced { 0 } else { aligned(self.columns() * 4) } }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let outer = count(&self.kept);
        let columns = self.columns();
        let chunks = if self.inner_reduced { 1 } else { self.inner.div_ceil(columns) };
        let width = if self.inner_reduced { 1 } else { self.inner };
        let parts = parts_for(outer * width * self.count, GRAIN, self.members);
        cx.run(parts, &|part| {
            for unit in share(outer * chunks, 1, part, parts) {
                // SAFETY: members compute different results.
                unsafe {
                    if self.inner_reduced {
                        *self.y.add(unit) = self.fold_rows(unit);
                    } else {
                        let from = unit % chunks * columns;
                        let to = (from + columns).min(self.inner);
                        self.vector(unit / chunks, from, to, cx.local(part).cast());
                    }
                }
            }
        })
    }
}

/// Reductions of integers, in i64 and one by one.
struct ReduceInts {
    mode: Mode,
    axes: Axes,
    x: Operand,
    y: Operand,
}

impl Prepared for ReduceInts {
    fn launch(&self, _: &Cx<'_>) -> Result<(), RuntimeError> {
        let start = match self.mode {
            Mode::Max => i64::MIN,
            Mode::Min => i64::MAX,
            Mode::Prod => 1,
            _ => 0,
        };
        for result in 0..count(&self.axes.kept) {
            let base = offset(&self.axes.kept, result);
            let mut total = start;
            for i in 0..count(&self.axes.reduced) {
                let at = base + offset(&self.axes.reduced, i);
                // SAFETY: the element lies in the operand.
                let value = unsafe { crate::tile_memory::read_int(self.x.dtype, self.x.ptr, at) };
                total = match self.mode {
                    Mode::Max => total.max(value),
                    Mode::Min => total.min(value),
                    Mode::Prod => total.wrapping_mul(value),
                    _ => total.wrapping_add(value),
                };
            }
            // SAFETY: the element lies in the result.
            unsafe { crate::tile_memory::write_int(self.y.dtype, self.y.ptr, result, total) };
        }
        Ok(())
    }
}

/// A reduction over no elements: every result is the neutral one.
struct OverNothing {
    mode: Mode,
    y: Operand,
}

impl OverNothing {
    fn float(&self) -> f32 {
        match self.mode {
            Mode::Prod => 1.0,
            Mode::Max | Mode::LogSum | Mode::LogSumExp => f32::NEG_INFINITY,
            Mode::Min => f32::INFINITY,
            Mode::Mean => f32::NAN,
            Mode::Sum | Mode::SumSquare | Mode::L1 | Mode::L2 => 0.0,
        }
    }

    fn int(&self) -> i64 {
        let bits = 8 * self.y.dtype.size_bytes() as u32;
        let signed =
            matches!(self.y.dtype, ElementType::I8 | ElementType::I16 | ElementType::I32 | ElementType::I64);
        match (self.mode, signed) {
            (Mode::Prod, _) => 1,
            (Mode::Max, true) => i64::MIN >> (64 - bits),
            (Mode::Min, true) => i64::MAX >> (64 - bits),
            (Mode::Min, false) if self.y.dtype == ElementType::Bool => 1,
            (Mode::Min, false) => ((1u64 << (bits - 1)) | ((1u64 << (bits - 1)) - 1)).cast_signed(),
            _ => 0,
        }
    }
}

impl Prepared for OverNothing {
    fn launch(&self, _: &Cx<'_>) -> Result<(), RuntimeError> {
        for at in 0..self.y.len() {
            // SAFETY: the element lies in the result.
            unsafe {
                if self.y.dtype == ElementType::F32 {
                    self.y.ptr.cast::<f32>().add(at).write_unaligned(self.float());
                } else {
                    crate::tile_memory::write_int(self.y.dtype, self.y.ptr, at, self.int());
                }
            }
        }
        Ok(())
    }
}

/// Prepares a `reduce` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let mode = call.kernel.string("mode").and_then(Mode::parse);
    let mode = mode.ok_or_else(|| call.bad("parameter `mode` names no reduction"))?;
    let mut reduced = vec![false; x.shape.len()];
    for &axis in call.kernel.ints("axes") {
        let slot = usize::try_from(axis).ok().and_then(|a| reduced.get_mut(a));
        *slot.ok_or_else(|| call.bad("parameter `axes` names an axis the operand does not have"))? = true;
    }
    let dims = |want: bool| x.shape.iter().zip(&reduced).filter(move |(_, r)| **r == want).map(|(&d, _)| d);
    let (kept, folded): (usize, usize) = (dims(false).product(), dims(true).product());
    call.ensure(kept == y.len(), "the result has the wrong number of elements")?;
    call.ensure(x.layout.is_none() && y.layout.is_none() && x.dtype == y.dtype, "operand and result differ")?;
    if kept == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    if folded == 0 {
        return Ok(Box::new(OverNothing { mode, y: y.clone() }));
    }
    let mut axes = merge(&x.shape, &reduced);
    if x.dtype != ElementType::F32 {
        call.ensure(mode.on_ints() && !x.dtype.is_float(), "this type is not reduced this way here")?;
        return Ok(Box::new(ReduceInts { mode, axes, x: x.clone(), y: y.clone() }));
    }
    let last = if axes.inner_reduced { axes.reduced.pop() } else { axes.kept.pop() };
    Ok(Box::new(Reduce {
        isa: call.isa,
        mode,
        inner: last.map_or(1, |a| a.length),
        inner_reduced: axes.inner_reduced,
        kept: axes.kept,
        reduced: axes.reduced,
        count: folded,
        x: x.f32(),
        y: y.f32(),
        members: call.members,
    }))
}
