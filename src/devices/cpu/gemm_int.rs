//! Matrix product of bytes with scales, zero points and an epilogue.
//!
//! B is a packed weight, or is packed at every launch. A is read where it lies when its rows are whole steps of four
//! bytes, else its rows are copied.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::ONE;
use crate::int_finish::Finish;
use crate::int_panels::{Matrix, Rows, constants, pack, panel_bytes, product, row_sums};
use crate::isa::Isa;
use crate::layout::{Layout, MR, NR};
use crate::micro_int::STEPS;
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, Shared, aligned, parts_for};
use crate::team::share;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 800_000;
/// Bytes of A that are worked on at once: a quarter of a second-level cache of 1 MiB.
const BLOCK_BYTES: usize = 1 << 18;

/// Where B comes from.
#[derive(Clone, Copy)]
enum Source {
    Packed(*const u8),
    Raw(Matrix),
}

struct GemmInt {
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: *const u8,
    b: Source,
    /// Offsets of the matrices of A and B of every product.
    offsets: Vec<(usize, usize)>,
    finish: Finish,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for GemmInt {}
// SAFETY: as above.
unsafe impl Sync for GemmInt {}

impl GemmInt {
    fn padded(&self) -> usize {
        self.k.next_multiple_of(STEPS)
    }

    fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Rows of A per block.
    fn rows(&self) -> usize {
        (BLOCK_BYTES / self.padded().max(1) / MR * MR).max(MR).min(self.m)
    }

    /// Bytes of a block's copy, of its sums, and of a packed B.
    fn parts(&self) -> [usize; 3] {
        let copy = if self.k == self.padded() { 0 } else { self.rows() * self.padded() };
        let b = if matches!(self.b, Source::Raw(_)) { self.panels() * panel_bytes(self.padded()) } else { 0 };
        [aligned(copy), aligned(self.rows() * 4), aligned(b)]
    }

    /// Rows `rows` and panels `panels` of product `item` with B at `b`.
    unsafe fn area(
        &self,
        item: usize,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const u8,
        local: *mut u8,
    ) {
        let [copy, ..] = self.parts();
        let a = self.a.wrapping_add(self.offsets[item].0);
        let zero_b = self.finish.zero_b();
        let sums = local.wrapping_add(copy).cast::<i32>();
        for row in rows.clone().step_by(self.rows().max(1)) {
            let count = (rows.end - row).min(self.rows());
            let block = a.wrapping_add(row * self.k);
            // SAFETY: the rows lie in A; the scratch was sized for a block.
            unsafe {
                if zero_b != 0 {
                    let sums = std::slice::from_raw_parts_mut(sums, count);
                    row_sums(
                        self.isa,
                        block,
                        self.k,
                        self.k,
                        self.finish.flips(),
                        sums,
                        zero_b.wrapping_neg(),
                    );
                }
                let block = if copy > 0 { self.copied(block, count, local) } else { block };
                let a = Rows { ptr: block, row: self.padded(), taps: ONE, depth: self.padded() };
                for panel in panels.clone() {
                    let (column, ptr) = (panel * NR, b.wrapping_add(panel * panel_bytes(self.padded())));
                    let constants = constants(&self.finish, ptr, column, (self.n - column).min(NR), self.k);
                    let offsets = if zero_b == 0 { std::ptr::null() } else { sums.cast_const() };
                    let place = (count, item * self.m + row);
                    product(self.isa, &self.finish, &a, (ptr, &constants), place, offsets);
                }
            }
        }
    }

    /// Copies rows next to each other, each padded with zeros.
    unsafe fn copied(&self, a: *const u8, rows: usize, to: *mut u8) -> *const u8 {
        for row in 0..rows {
            // SAFETY: the rows lie in A, the scratch has room for them.
            unsafe {
                let to = to.add(row * self.padded());
                std::ptr::copy_nonoverlapping(a.add(row * self.k), to, self.k);
                std::slice::from_raw_parts_mut(to.add(self.k), self.padded() - self.k).fill(0);
            }
        }
        to
    }

    /// Panels `panels` of B of product `item`, packed at `out`.
    unsafe fn pack(&self, item: usize, panels: Range<usize>, out: *mut u8) {
        let Source::Raw(matrix) = self.b else { return };
        let matrix = Matrix { ptr: matrix.ptr.wrapping_add(self.offsets[item].1), ..matrix };
        for panel in panels {
            let to = out.wrapping_add(panel * panel_bytes(self.padded()));
            // SAFETY: the matrix lies in B; the scratch has room for its panels.
            unsafe { pack(self.isa, &matrix, panel * NR, self.finish.lowers(), to) };
        }
    }

    /// One product, split over the team.
    fn single(&self, cx: &Cx<'_>, parts: usize) -> Result<(), RuntimeError> {
        let packed = Shared(cx.shared);
        if matches!(self.b, Source::Raw(_)) {
            cx.run(parts, &|part| {
                // SAFETY: members pack different panels.
                unsafe { self.pack(0, share(self.panels(), 1, part, parts), packed.get()) };
            })?;
        }
        let (over_rows, over_panels) = crate::gemm::grid(parts, self.m.div_ceil(MR), self.panels());
        cx.run(parts, &|part| {
            let rows = share(self.m, MR, part % over_rows, over_rows);
            let panels = share(self.panels(), 1, part / over_rows, over_panels);
            let b = match self.b {
                Source::Packed(ptr) => ptr,
                Source::Raw(_) => packed.get().cast_const(),
            };
            // SAFETY: members compute different parts of the result with scratch of their own.
            unsafe { self.area(0, rows, panels, b, cx.local(part)) };
        })
    }
}

impl Prepared for GemmInt {
    fn scratch(&self) -> Scratch {
        let [copy, sums, b] = self.parts();
        let (shared, own) = if self.offsets.len() == 1 { (b, 0) } else { (0, b) };
        Scratch { shared, local: copy + sums + own }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let count = self.offsets.len();
        let work = self.m.saturating_mul(self.n).saturating_mul(self.k).saturating_mul(count);
        let parts = parts_for(work, GRAIN, self.members);
        if count == 1 {
            return self.single(cx, parts);
        }
        let [copy, sums, _] = self.parts();
        cx.run(parts, &|part| {
            for item in share(count, 1, part, parts) {
                let local = cx.local(part);
                let own = local.wrapping_add(copy + sums);
                // SAFETY: members compute different products with scratch of their own.
                unsafe {
                    self.pack(item, 0..self.panels(), own);
                    let b = if let Source::Packed(ptr) = self.b { ptr } else { own.cast_const() };
                    self.area(item, 0..self.m, 0..self.panels(), b, local);
                }
            }
        })
    }
}

/// The product of `m` rows of `k` bytes, a multiple of `STEPS`, with a packed weight of `n` columns.
pub(crate) fn of_rows(
    call: &Call<'_>,
    (m, n, k): (usize, usize, usize),
    (a, b): (*const u8, *const u8),
    finish: Finish,
) -> Box<dyn Prepared> {
    let (isa, members, offsets) = (call.isa, call.members, vec![(0, 0)]);
    Box::new(GemmInt { isa, m, n, k, a, b: Source::Packed(b), offsets, finish, members })
}

/// Checks B and says where its columns are.
fn source(call: &Call<'_>, b: &Operand, k: usize, n: usize) -> Result<Source, RuntimeError> {
    if let Some(layout) = b.layout {
        let want = Layout::IntB { groups: 1, taps: 1, depth: k, columns: n };
        call.ensure(layout == want, "the weight is packed for other sizes")?;
        return Ok(Source::Packed(b.ptr));
    }
    let (row, column) = if call.flag("trans_b") { (1, k) } else { (n, 1) };
    Ok(Source::Raw(Matrix { ptr: b.ptr, row, column, rows: k, columns: n }))
}

/// Prepares a `gemm_int` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (a, b, out) = (call.input(0)?, call.input(3)?, call.output(0)?);
    let [.., mut m, k] = a.shape[..] else { return Err(call.bad("operands of a product must be matrices")) };
    let [ref batch @ .., rows, n] = out.shape[..] else {
        return Err(call.bad("the result must be a matrix"));
    };
    let [.., b_rows, b_columns] = b.shape[..] else { return Err(call.bad("operands must be matrices")) };
    let turned = call.flag("trans_b");
    let fits = (k, n) == if turned { (b_columns, b_rows) } else { (b_rows, b_columns) };
    call.ensure(fits && rows == m, "the operands' sizes do not fit")?;
    call.ensure(a.layout.is_none() && out.layout.is_none(), "only B may be packed")?;
    call.ensure(b.layout.is_none() || b.shape.len() == 2, "a packed weight must have two axes")?;
    let count: usize = batch.iter().product();
    if out.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let a_offsets = crate::gemm::offsets(call, a, batch)?;
    let b_offsets = if b.layout.is_some() { vec![0; count] } else { crate::gemm::offsets(call, b, batch)? };
    let dense =
        a_offsets.iter().enumerate().all(|(i, &o)| o == i * m * k) && b_offsets.iter().all(|&o| o == 0);
    let mut offsets: Vec<(usize, usize)> = a_offsets.into_iter().zip(b_offsets).collect();
    if count > 1 && dense {
        m *= count;
        offsets.truncate(1);
    }
    let finish = Finish::new(call, n)?;
    let b = source(call, b, k, n)?;
    Ok(Box::new(GemmInt { isa: call.isa, m, n, k, a: a.ptr, b, offsets, finish, members: call.members }))
}
