//! Kernels that move elements without looking at them: transpose, slice, expand, concat, split, copy, pad.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::prepared::{Call, Cx, Operand, Prepared, parts_for};
use crate::strided::{Axis, Copy, strides};
use partita_runtime::error::RuntimeError;

/// Elements below which another thread does not pay.
const GRAIN: usize = 65_536;

/// Copies that write disjoint parts of the results, after an optional fill.
struct Move {
    fill: Option<Fill>,
    copies: Vec<Copy>,
    members: usize,
}

/// What a padded result is filled with first.
struct Fill {
    out: Operand,
    /// The element, or where it is read at launch.
    element: [u8; 8],
    from: Option<Operand>,
}

impl Prepared for Move {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        if let Some(fill) = &self.fill {
            // SAFETY: operands were checked when they were bound.
            unsafe { fill.run() };
        }
        let work = self.copies.iter().map(Copy::len).sum();
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            for copy in &self.copies {
                // SAFETY: addresses were checked when the copy was made; members copy different parts.
                unsafe { copy.run(part, parts) };
            }
        })
    }
}

impl Fill {
    unsafe fn run(&self) {
        let size = self.out.dtype.size_bytes();
        let mut element = self.element;
        // SAFETY: the operand has one element, the output its bytes.
        unsafe {
            if let Some(from) = &self.from {
                std::ptr::copy_nonoverlapping(from.ptr, element.as_mut_ptr(), size);
            }
            fill_elements(self.out.ptr, &element[..size], self.out.len());
        }
    }
}

/// Writes `count` copies of `element` (1, 2, 4 or 8 bytes).
///
/// # Safety
/// `count` elements are writable at `out`.
pub(crate) unsafe fn fill_elements(out: *mut u8, element: &[u8], count: usize) {
    // SAFETY: the caller's contract; addresses are aligned to the element.
    unsafe {
        match *element {
            [one] => out.write_bytes(one, count),
            [a, b] => repeat(out.cast(), u16::from_ne_bytes([a, b]), count),
            [a, b, c, d] => repeat(out.cast(), u32::from_ne_bytes([a, b, c, d]), count),
            [a, b, c, d, e, f, g, h] => {
                repeat(out.cast(), u64::from_ne_bytes([a, b, c, d, e, f, g, h]), count);
            }
            _ => {}
        }
    }
}

unsafe fn repeat<T: std::marker::Copy>(out: *mut T, value: T, count: usize) {
    // SAFETY: the contract of `fill_elements`.
    unsafe { std::slice::from_raw_parts_mut(out, count) }.fill(value);
}

/// Operand and result of a movement: row-major, one type.
fn pair<'a>(call: &'a Call<'_>) -> Result<(&'a Operand, &'a Operand), RuntimeError> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    for operand in call.inputs.iter().flatten().take(1).chain(&call.outputs) {
        call.ensure(operand.layout.is_none(), "a packed weight cannot be moved")?;
        call.ensure(operand.dtype == x.dtype, "operand and result differ in type")?;
    }
    Ok((x, y))
}

fn finish(call: &Call<'_>, copies: Vec<Copy>, fill: Option<Fill>) -> Box<dyn Prepared> {
    let copies = copies.into_iter().filter(|c| c.len() > 0).collect();
    Box::new(Move { fill, copies, members: call.members })
}

/// One copy from view to view over `shape`.
fn copy(shape: &[usize], from: &[isize], to: &[isize], src: *const u8, dst: *mut u8, size: usize) -> Copy {
    let axes: Vec<Axis> =
        shape.iter().zip(from).zip(to).map(|((&length, &from), &to)| Axis { length, from, to }).collect();
    Copy::new(&axes, src, dst, size)
}

fn at(base: *mut u8, elements: isize, size: usize) -> *mut u8 {
    base.wrapping_offset(elements * size as isize)
}

/// Prepares `transpose`.
pub(crate) fn transpose(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = pair(call)?;
    let rank = x.shape.len();
    let perm = call.kernel.ints("perm").iter().map(|&p| usize::try_from(p).ok().filter(|&p| p < rank));
    let perm: Vec<usize> =
        perm.collect::<Option<_>>().ok_or_else(|| call.bad("`perm` names an axis that is not there"))?;
    let mut seen = vec![false; rank];
    perm.iter().for_each(|&p| seen[p] = true);
    call.ensure(perm.len() == rank && seen.iter().all(|&s| s), "`perm` is not a permutation of the axes")?;
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape[p]).collect();
    call.ensure(shape == y.shape, "the result has the wrong shape")?;
    let steps = strides(&x.shape);
    let from: Vec<isize> = perm.iter().map(|&p| steps[p]).collect();
    let job = copy(&y.shape, &from, &strides(&y.shape), x.ptr, y.ptr, x.dtype.size_bytes());
    Ok(finish(call, vec![job], None))
}

/// Prepares `slice`.
pub(crate) fn slice(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = pair(call)?;
    let rank = x.shape.len();
    let eval = |name: &str| -> Result<Vec<i64>, RuntimeError> {
        let dims = call.kernel.dims(name).iter().map(|d| d.eval(call.symbols));
        dims.collect::<Result<_, _>>()
    };
    let (starts, steps) = (eval("starts")?, eval("steps")?);
    call.ensure(
        starts.len() == rank && steps.len() == rank && y.shape.len() == rank,
        "parameters and axes differ in number",
    )?;
    let own = strides(&x.shape);
    let (mut from, mut start) = (Vec::with_capacity(rank), 0isize);
    for axis in 0..rank {
        if y.len() == 0 {
            break;
        }
        let last =
            (y.shape[axis] as i64 - 1).checked_mul(steps[axis]).and_then(|d| d.checked_add(starts[axis]));
        let inside = |v: i64| usize::try_from(v).is_ok_and(|v| v < x.shape[axis]);
        call.ensure(
            inside(starts[axis]) && last.is_some_and(inside),
            "the slice reaches outside of the operand",
        )?;
        let step = if y.shape[axis] == 1 { 0 } else { steps[axis] };
        from.push(own[axis] * step as isize);
        start += own[axis] * starts[axis] as isize;
    }
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let size = x.dtype.size_bytes();
    let job = copy(&y.shape, &from, &strides(&y.shape), at(x.ptr, start, size), y.ptr, size);
    Ok(finish(call, vec![job], None))
}

/// Prepares `expand`.
pub(crate) fn expand(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = pair(call)?;
    let missing = y.shape.len().checked_sub(x.shape.len());
    let missing = missing.ok_or_else(|| call.bad("the operand has more axes than the result"))?;
    let fits = x.shape.iter().zip(&y.shape[missing..]).all(|(&a, &b)| a == b || a == 1);
    call.ensure(fits, "the operand does not broadcast to the result")?;
    let mut from = vec![0isize; missing];
    from.extend(strides(&x.shape).iter().zip(&x.shape).map(|(&s, &d)| if d == 1 { 0 } else { s }));
    let job = copy(&y.shape, &from, &strides(&y.shape), x.ptr, y.ptr, x.dtype.size_bytes());
    Ok(finish(call, vec![job], None))
}

/// Prepares `copy`.
pub(crate) fn reshape(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = pair(call)?;
    call.ensure(x.len() == y.len(), "operand and result differ in size")?;
    if x.ptr == y.ptr {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let job = copy(&[x.len()], &[1], &[1], x.ptr, y.ptr, x.dtype.size_bytes());
    Ok(finish(call, vec![job], None))
}

/// Copies between `whole` and the parts that make it up along `axis`.
fn along(
    call: &Call<'_>,
    whole: &Operand,
    parts: &[&Operand],
    gather: bool,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let axis = call.axis("axis", whole.shape.len())?;
    let (size, steps) = (whole.dtype.size_bytes(), strides(&whole.shape));
    let (mut copies, mut start) = (Vec::with_capacity(parts.len()), 0usize);
    for part in parts {
        let same = |i: usize| i == axis || part.shape[i] == whole.shape[i];
        let fits = part.shape.len() == whole.shape.len() && (0..part.shape.len()).all(same);
        call.ensure(
            fits && part.dtype == whole.dtype && part.layout.is_none(),
            "the parts do not fit the whole",
        )?;
        let place = at(whole.ptr, steps[axis].wrapping_mul(start as isize), size);
        let own = strides(&part.shape);
        copies.push(if gather {
            copy(&part.shape, &own, &steps, part.ptr, place, size)
        } else {
            copy(&part.shape, &steps, &own, place, part.ptr, size)
        });
        start = start.saturating_add(part.shape[axis]);
    }
    call.ensure(start == whole.shape[axis], "the parts do not add up to the whole")?;
    Ok(finish(call, copies, None))
}

/// Prepares `concat`.
pub(crate) fn concat(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    call.ensure(call.inputs.iter().all(Option::is_some), "an operand is missing")?;
    let parts: Vec<&Operand> = call.inputs.iter().flatten().collect();
    along(call, call.output(0)?, &parts, true)
}

/// Prepares `split`.
pub(crate) fn split(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let parts: Vec<&Operand> = call.outputs.iter().collect();
    let whole = call.input(0)?;
    call.ensure(whole.layout.is_none(), "a packed weight cannot be moved")?;
    along(call, whole, &parts, false)
}

/// Padding in front of every axis, checked against the shapes.
fn pads(call: &Call<'_>, x: &Operand, y: &Operand) -> Result<Vec<i64>, RuntimeError> {
    let rank = x.shape.len();
    let all = call.kernel.dims("pads").iter().map(|d| d.eval(call.symbols)).collect::<Result<Vec<_>, _>>()?;
    call.ensure(
        all.len() == rank * 2 && y.shape.len() == rank,
        "parameter `pads` does not have two sizes per axis",
    )?;
    for axis in 0..rank {
        let length =
            (x.shape[axis] as i64).checked_add(all[axis]).and_then(|l| l.checked_add(all[rank + axis]));
        call.ensure(length == Some(y.shape[axis] as i64), "the result has the wrong shape")?;
    }
    Ok(all[..rank].to_vec())
}

/// Prepares `pad`.
pub(crate) fn pad(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, y) = pair(call)?;
    let front = pads(call, x, y)?;
    match call.kernel.string("mode").unwrap_or("constant") {
        "constant" => pad_constant(call, x, y, &front),
        mode => crate::pad::prepare(call, x, y, &front, mode),
    }
}

fn pad_constant(
    call: &Call<'_>,
    x: &Operand,
    y: &Operand,
    front: &[i64],
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let from = call.optional(1).cloned();
    if let Some(value) = &from {
        call.ensure(
            value.dtype == x.dtype && value.len() == 1 && value.layout.is_none(),
            "the value must be one element of the operand's type",
        )?;
    }
    let element =
        crate::fill::encode(x.dtype, crate::fill::Number::Float(call.kernel.float("value").unwrap_or(0.0)));
    let fill = Some(Fill { out: y.clone(), element, from });
    let (own, steps) = (strides(&x.shape), strides(&y.shape));
    let (mut shape, mut src, mut dst) = (Vec::new(), 0isize, 0isize);
    for axis in 0..x.shape.len() {
        // Elements of the operand in `first..last` are kept.
        let first = (-front[axis]).max(0);
        let last = (y.shape[axis] as i64 - front[axis]).min(x.shape[axis] as i64);
        shape.push(usize::try_from(last - first).unwrap_or(0));
        src = src.wrapping_add(own[axis].wrapping_mul(first as isize));
        dst = dst.wrapping_add(steps[axis].wrapping_mul((first + front[axis]) as isize));
    }
    let size = x.dtype.size_bytes();
    let job = copy(&shape, &own, &steps, at(x.ptr, src, size), at(y.ptr, dst, size), size);
    Ok(finish(call, vec![job], fill))
}
