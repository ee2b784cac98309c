//! `take` along one axis.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::prepared::{Call, Cx, Operand, Prepared, parts_for};
use crate::team::share;
use crate::tile_memory::read_int;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Bytes below which another thread does not pay.
const GRAIN: usize = 262_144;

struct Gather {
    place: String,
    outer: usize,
    /// Length of the axis.
    length: usize,
    /// Bytes of one entry along the axis.
    entry: usize,
    count: usize,
    x: *const u8,
    indices: Operand,
    y: *mut u8,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Gather {}
// SAFETY: as above.
unsafe impl Sync for Gather {}

impl Gather {
    /// Index `i`, counted from the front, if it is in range.
    fn index(&self, i: usize) -> Option<usize> {
        // SAFETY: `indices` has `count` elements.
        let index = unsafe { read_int(self.indices.dtype, self.indices.ptr, i) };
        let index = if index < 0 { index.wrapping_add(self.length as i64) } else { index };
        usize::try_from(index).ok().filter(|&index| index < self.length)
    }

    fn out_of_range(&self, i: usize) -> RuntimeError {
        RuntimeError::new(
            "R043",
            format!("step `{}` (gather)", self.place),
            format!("index number {i} is outside of an axis of {}", self.length),
            "check the input that holds the indices",
        )
    }
}

impl Prepared for Gather {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        if let Some(bad) = (0..self.count).find(|&i| self.index(i).is_none()) {
            return Err(self.out_of_range(bad));
        }
        let rows = self.outer * self.count;
        let parts = parts_for(rows * self.entry, GRAIN, self.members);
        cx.run(parts, &|part| {
            for row in share(rows, 1, part, parts) {
                // Read again: an operand that changes while we run must not move us out of bounds.
                let Some(index) = self.index(row % self.count) else { continue };
                let from = (row / self.count * self.length + index) * self.entry;
                let to = row * self.entry;
                // SAFETY: both entries lie in their operands.
                unsafe { std::ptr::copy_nonoverlapping(self.x.add(from), self.y.add(to), self.entry) };
            }
        })
    }
}

/// Prepares a `gather` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, indices, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let axis = call.axis("axis", x.shape.len())?;
    call.ensure(x.dtype == y.dtype, "operand and result differ in type")?;
    let plain = [x, indices, y].iter().all(|o| o.layout.is_none());
    call.ensure(plain, "a packed weight cannot be gathered from")?;
    let ints = matches!(indices.dtype, ElementType::I32 | ElementType::I64);
    call.ensure(ints, "indices must be i32 or i64")?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    call.ensure(shape == y.shape, "the result has the wrong shape")?;
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let inner: usize = x.shape[axis + 1..].iter().product();
    Ok(Box::new(Gather {
        place: call.place.to_owned(),
        outer: x.shape[..axis].iter().product(),
        length: x.shape[axis],
        entry: inner * x.dtype.size_bytes(),
        count: indices.len(),
        x: x.ptr,
        indices: indices.clone(),
        y: y.ptr,
        members: call.members,
    }))
}
