//! Padding by reflection, by the edge and by wrapping around: every axis gets a table of source indices.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::prepared::{Call, Cx, Operand, Prepared, parts_for};
use crate::strided::strides;
use crate::team::share;
use partita_runtime::error::RuntimeError;

/// Elements below which another thread does not pay.
const GRAIN: usize = 65_536;

struct Pad {
    /// For each axis, the offset in elements of every index of the result.
    tables: Vec<Vec<usize>>,
    size: usize,
    x: *const u8,
    y: *mut u8,
    elements: usize,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Pad {}
// SAFETY: as above.
unsafe impl Sync for Pad {}

impl Pad {
    unsafe fn row<T: Copy>(&self, row: usize) {
        let Some((inner, outer)) = self.tables.split_last() else { return };
        let (mut rest, mut base) = (row, 0);
        for table in outer.iter().rev() {
            base += table[rest % table.len()];
            rest /= table.len();
        }
        let (x, y) = (self.x.cast::<T>(), self.y.cast::<T>().wrapping_add(row * inner.len()));
        for (i, &at) in inner.iter().enumerate() {
            // SAFETY: tables hold indices inside the operand; the row lies in the result.
            unsafe { *y.add(i) = *x.add(base + at) };
        }
    }
}

impl Prepared for Pad {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let parts = parts_for(self.elements, GRAIN, self.members);
        let rows = self.elements / self.tables.last().map_or(1, Vec::len);
        cx.run(parts, &|part| {
            for row in share(rows, 1, part, parts) {
                // SAFETY: `size` is the element size; members fill different rows.
                unsafe {
                    match self.size {
                        1 => self.row::<u8>(row),
                        2 => self.row::<u16>(row),
                        4 => self.row::<u32>(row),
                        _ => self.row::<u64>(row),
                    }
                }
            }
        })
    }
}

/// The index in `0..length` that mode `mode` shows at `at`.
fn source(mode: &str, at: i64, length: i64) -> Option<i64> {
    match mode {
        "edge" => Some(at.clamp(0, length - 1)),
        "wrap" => Some(at.rem_euclid(length)),
        "reflect" if length == 1 => Some(0),
        "reflect" => {
            let period = 2 * (length - 1);
            let folded = at.rem_euclid(period);
            Some(folded.min(period - folded))
        }
        _ => None,
    }
}

/// Prepares `pad` in a mode other than `constant`.
pub(crate) fn prepare(
    call: &Call<'_>,
    x: &Operand,
    y: &Operand,
    front: &[i64],
    mode: &str,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    call.ensure(x.len() > 0, "an empty operand cannot be extended")?;
    let steps = strides(&x.shape);
    let mut tables = Vec::with_capacity(x.shape.len());
    for axis in 0..x.shape.len() {
        let length = x.shape[axis] as i64;
        let of = |i: usize| {
            source(mode, i as i64 - front[axis], length).map(|s| s as usize * steps[axis] as usize)
        };
        let table: Option<Vec<usize>> = (0..y.shape[axis]).map(of).collect();
        tables.push(table.ok_or_else(|| call.bad("parameter `mode` names no way of padding"))?);
    }
    if tables.is_empty() {
        tables.push(vec![0]);
    }
    Ok(Box::new(Pad {
        tables,
        size: x.dtype.size_bytes(),
        x: x.ptr,
        y: y.ptr,
        elements: y.len(),
        members: call.members,
    }))
}
