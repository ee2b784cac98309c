//! Rotary position embedding with halves: pairs (x, x + half) of a row are turned by an angle of their own.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::heads::{Matrices, naturals};
use crate::isa::{Isa, per_isa};
use crate::math::fma;
use crate::prepared::{Call, Cx, Operand, Prepared, parts_for};
use crate::team::share;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Elements below which another thread does not pay.
const GRAIN: usize = 16_384;

/// An operand: where the rows of each entry of the batch begin, and their distance.
struct Rows {
    ptr: *const f32,
    offsets: Vec<usize>,
    step: usize,
}

struct Rotary {
    isa: Isa,
    /// Rows of an entry of the batch.
    rows: usize,
    columns: usize,
    x: Rows,
    cos: Rows,
    sin: Rows,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Rotary {}
// SAFETY: as above.
unsafe impl Sync for Rotary {}

per_isa! {
    /// `y = x * cos + (-x2, x1) * sin` for the halves x1 and x2 of a row.
    unsafe fn turn = turn_body(x: &[f32], cos: &[f32], sin: &[f32], y: &mut [f32])
}

#[inline(always)]
unsafe fn turn_body<const FMA: bool>(x: &[f32], cos: &[f32], sin: &[f32], y: &mut [f32]) {
    let half = y.len() / 2;
    let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
    let ((cos1, cos2), (sin1, sin2)) = (cos.split_at(half), sin.split_at(half));
    for i in 0..half {
        y1[i] = fma::<FMA>(x1[i], cos1[i], -(x2[i] * sin1[i]));
    }
    for i in 0..half {
        y2[i] = fma::<FMA>(x2[i], cos2[i], x1[i] * sin2[i]);
    }
}

impl Rows {
    /// Operand `n`, whose rows the parameter `name` finds.
    fn new(call: &Call<'_>, n: usize, name: &str, sizes: &[usize]) -> Result<Self, RuntimeError> {
        let operand: &Operand = call.input(n)?;
        let (batch, matrix) = sizes.split_at(sizes.len() - 2);
        let rows = Matrices::given(call, name, batch.len())?;
        let plain = operand.dtype == ElementType::F32 && operand.layout.is_none() && rows.column == 1;
        call.ensure(plain, "operands must be f32 with contiguous rows")?;
        let reach = rows.reach(batch, matrix[0], matrix[1]);
        call.ensure(reach.is_some_and(|r| r <= operand.len()), "a row reaches outside of its operand")?;
        Ok(Self { ptr: operand.f32(), offsets: rows.offsets(batch), step: rows.row })
    }

    unsafe fn row(&self, entry: usize, row: usize, columns: usize) -> &[f32] {
        // SAFETY: the reach of all rows was checked.
        unsafe { from_raw_parts(self.ptr.add(self.offsets[entry] + row * self.step), columns) }
    }
}

impl Prepared for Rotary {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let total = self.x.offsets.len() * self.rows;
        let parts = parts_for(total * self.columns, GRAIN, self.members);
        cx.run(parts, &|part| {
            for at in share(total, 1, part, parts) {
                let (entry, row) = (at / self.rows, at % self.rows);
                // SAFETY: rows were checked; members work on different ones.
                unsafe {
                    let [x, cos, sin] =
                        [&self.x, &self.cos, &self.sin].map(|o| o.row(entry, row, self.columns));
                    let y = from_raw_parts_mut(self.y.add(at * self.columns), self.columns);
                    turn(self.isa, x, cos, sin, y);
                }
            }
        })
    }
}

/// Prepares a `rotary` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (sizes, y) = (naturals(call, "sizes")?, call.output(0)?);
    let &[.., rows, columns] = sizes.as_slice() else {
        return Err(call.bad("parameter `sizes` has too few sizes"));
    };
    let elements = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let fits = elements == Some(y.len()) && y.dtype == ElementType::F32 && y.layout.is_none();
    call.ensure(fits && columns.is_multiple_of(2), "sizes and result do not fit")?;
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    Ok(Box::new(Rotary {
        isa: call.isa,
        rows,
        columns,
        x: Rows::new(call, 0, "x", &sizes)?,
        cos: Rows::new(call, 1, "cos", &sizes)?,
        sin: Rows::new(call, 2, "sin", &sizes)?,
        y: y.f32(),
        members: call.members,
    }))
}
