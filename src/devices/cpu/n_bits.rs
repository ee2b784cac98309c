//! Matrix product with a weight of few bits: few rows stream the packed numbers, many rows turn one panel of columns
//! into floats at a time and take the ordinary product.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Columns, Rows};
use crate::epilogue::{Epilogue, Matrix};
use crate::gemm::{Target, area};
use crate::isa::{Isa, per_isa};
use crate::layout::{Layout, NR};
use crate::micro::Post;
use crate::micro_n_bits::{FEW, Few, Panel, product, values};
use crate::pack::View;
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;

struct NBits {
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    c: *mut f32,
    /// The first panel.
    panel: Panel,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for NBits {}
// SAFETY: as above.
unsafe impl Sync for NBits {}

impl NBits {
    /// K as a whole number of blocks.
    fn padded(&self) -> usize {
        self.panel.blocks * self.panel.block
    }

    /// The panel of the columns from `column` on.
    fn panel(&self, column: usize) -> Panel {
        let (p, panel) = (&self.panel, column / NR);
        let of_blocks = panel * p.blocks * NR;
        Panel {
            numbers: p.numbers.wrapping_add(panel * self.padded() * NR * p.bits / 8),
            scales: p.scales.wrapping_add(of_blocks),
            zeros: if p.zeros.is_null() { p.zeros } else { p.zeros.wrapping_add(of_blocks) },
            ..*p
        }
    }

    /// Floats of the copy of few rows, and of the sums behind it.
    fn few_floats(&self) -> (usize, usize) {
        (FEW * self.padded(), FEW * self.panel.blocks)
    }

    /// Up to `FEW` rows from `row` on, for columns `from..to`.
    unsafe fn few(&self, row: usize, (from, to): (usize, usize), local: *mut u8) {
        let rows = (self.m - row).min(FEW);
        let (copy, sums) = self.few_floats();
        let a: *mut f32 = local.cast();
        let few =
            Few { rows, a, a_row: self.padded(), sums: a.wrapping_add(copy), sums_row: self.panel.blocks };
        let scratch = local.wrapping_add(aligned((copy + sums) * 4));
        // SAFETY: the scratch was sized for the copy; the columns lie in C.
        unsafe {
            for r in 0..rows {
                self.copy_row(row + r, a.add(r * few.a_row), a.add(copy + r * few.sums_row));
            }
            for column in (from..to).step_by(NR) {
                let mut sums = [[0f32; NR]; FEW];
                product(self.isa, &few, &self.panel(column), &mut sums);
                let (count, c) = ((to - column).min(NR), self.c.add(row * self.n + column));
                let post = self.epilogue.post(row, column, self.n);
                store(self.isa, &sums[..rows], count, c, self.n, &post);
            }
            self.epilogue.apply(row, rows, from, to - from, self.n, scratch);
        }
    }

    /// Copies a row of A, padded with zeros, and sums its blocks.
    unsafe fn copy_row(&self, row: usize, to: *mut f32, sums: *mut f32) {
        // SAFETY: A has the row, the scratch the room.
        unsafe {
            std::ptr::copy_nonoverlapping(self.a.add(row * self.k), to, self.k);
            std::slice::from_raw_parts_mut(to.add(self.k), self.padded() - self.k).fill(0.0);
            let padded = std::slice::from_raw_parts(to, self.padded());
            for (block, values) in padded.chunks(self.panel.block).enumerate() {
                let mut ways = [0f32; 8];
                values.chunks(8).for_each(|v| ways.iter_mut().zip(v).for_each(|(w, v)| *w += v));
                *sums.add(block) = ways.iter().sum();
            }
        }
    }

    /// All rows, for columns `from..to`, panel by panel.
    unsafe fn many(&self, from: usize, to: usize, local: *mut u8) {
        let floats: *mut f32 = local.cast();
        let scratch = local.wrapping_add(aligned(self.padded() * NR * 4));
        let a = Rows::matrix(View::new(self.a, self.m, self.k, false), self.k);
        for column in (from..to).step_by(NR) {
            let place = floats.wrapping_sub(column / NR * self.padded() * NR);
            let b = Columns::packed(place, self.padded());
            let target = Target { c: self.c, ldc: self.n, row: 0 };
            let area_of = (0..self.m, column..(column + NR).min(to));
            // SAFETY: the scratch holds one panel; the columns lie in C.
            unsafe {
                values(self.isa, &self.panel(column), floats);
                area(self.isa, &a, &b, &target, &self.epilogue, area_of, scratch);
            }
        }
    }
}

impl Prepared for NBits {
    fn scratch(&self) -> Scratch {
        let own = if self.m <= FEW {
            let (copy, sums) = self.few_floats();
            copy + sums
        } else {
            self.padded() * NR
        };
        Scratch { shared: 0, local: aligned(own * 4) + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let work = self.m.saturating_mul(self.n).saturating_mul(self.k);
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let columns = share(self.n, NR, part, parts);
            if columns.is_empty() {
                return;
            }
            // SAFETY: members compute different columns with scratch of their own.
            unsafe {
                if self.m <= FEW {
                    self.few(0, (columns.start, columns.end), cx.local(part));
                } else {
                    self.many(columns.start, columns.end, cx.local(part));
                }
            }
        })
    }
}

per_isa! {
    /// Finishes and stores the first `count` columns of rows that are `ldc` apart in C.
    ///
    /// # Safety
    /// C and the operands of `post` have the rows and columns.
    unsafe fn store = store_body(rows: &[[f32; NR]], count: usize, c: *mut f32, ldc: usize, post: &Post)
}

#[inline(always)]
unsafe fn store_body<const FMA: bool>(
    rows: &[[f32; NR]],
    count: usize,
    c: *mut f32,
    ldc: usize,
    post: &Post,
) {
    for (r, row) in rows.iter().enumerate() {
        let mut values = *row;
        // SAFETY: the caller's contract.
        unsafe {
            if post.active {
                let add = |values: &mut [f32; NR], other: *const f32| {
                    (0..count).for_each(|j| values[j] += *other.add(j));
                };
                if !post.row_bias.is_null() {
                    let bias = *post.row_bias.add(r);
                    values.iter_mut().for_each(|v| *v += bias);
                }
                if !post.column_bias.is_null() {
                    add(&mut values, post.column_bias);
                }
                if !post.residual.is_null() {
                    add(&mut values, post.residual.add(r * ldc));
                }
                values.iter_mut().for_each(|v| *v = post.last([*v])[0]);
            }
            std::ptr::copy_nonoverlapping(values.as_ptr(), c.add(r * ldc), count);
        }
    }
}

/// Checks the packed operands and gives the first panel.
fn first_panel(call: &Call<'_>, k: usize, n: usize) -> Result<Panel, RuntimeError> {
    let size = |name: &str| call.kernel.int(name).and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
    let (bits, block) = (size("bits"), size("block"));
    call.ensure(size("k") == k && size("n") == n, "the sizes differ from the operands")?;
    call.ensure(
        matches!(bits, 4 | 8) && block.is_power_of_two() && block >= 16,
        "no such numbers or blocks",
    )?;
    let padded = k.checked_next_multiple_of(block).ok_or_else(|| call.bad("the weight is too large"))?;
    let (numbers, scales) = (call.input(1)?, call.input(2)?);
    let zeros = if crate::conv::n_own(call) >= 4 { call.optional(3) } else { None };
    let blocks = Some(Layout::BitsBlock { blocks: padded / block, n });
    let types = scales.dtype == ElementType::F32 && zeros.is_none_or(|z| z.dtype == ElementType::U8);
    let fits = numbers.layout == Some(Layout::BitsB { bits, k: padded, n })
        && scales.layout == blocks
        && zeros.is_none_or(|z| z.layout == blocks);
    call.ensure(fits && types, "the weight is not packed for this product")?;
    Ok(Panel {
        bits,
        block,
        blocks: padded / block,
        numbers: numbers.ptr,
        scales: scales.f32(),
        zeros: zeros.map_or(std::ptr::null(), |z| z.ptr.cast_const()),
        zero: f32::from(1u8 << (bits - 1)),
    })
}

/// Prepares a `gemm_n_bits` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (a, out) = (call.input(0)?, call.output(0)?);
    let plain = [a, out].iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none());
    call.ensure(plain, "products are computed in f32")?;
    let (Some((&k, rows)), Some((&n, out_rows))) = (a.shape.split_last(), out.shape.split_last()) else {
        return Err(call.bad("operands of a product must have an axis"));
    };
    call.ensure(rows == out_rows, "operand and result differ in rows")?;
    let panel = first_panel(call, k, n)?;
    let m = rows.iter().product();
    if out.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let epilogue = Epilogue::new(call, crate::conv::n_own(call), Matrix { columns: n, rows: m }, None)?;
    Ok(Box::new(NBits {
        isa: call.isa,
        m,
        n,
        k,
        a: a.f32(),
        c: out.f32(),
        panel,
        epilogue,
        members: call.members,
    }))
}
