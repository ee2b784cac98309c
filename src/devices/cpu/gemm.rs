//! Matrix product with epilogue: one product split over the team, or many small ones side by side.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, COLUMNS, Columns, Format, ROWS, Rows, copy_floats};
use crate::epilogue::{Epilogue, Matrix};
use crate::isa::Isa;
use crate::layout::{Layout, MR, NR};
use crate::pack::{View, pack_b, packed_b};
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, Shared, aligned, parts_for};
use crate::team::share;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;

/// Where B comes from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// Packed when the plan was compiled.
    Packed(*const f32, Format),
    /// A matrix in memory.
    Raw(View),
}

/// Sizes and operands of one product.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: View,
    pub b: Source,
    pub c: *mut f32,
    /// First row of C in the output, for the epilogue.
    pub row: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Product {}
// SAFETY: as above.
unsafe impl Sync for Product {}

/// Rows up to which B is read where it lies; beyond, a copy in panels is read again and again.
const RAW_ROWS: usize = 2 * MR;

impl Product {
    /// B as the kernels read it, unless it must be packed first.
    fn columns(&self) -> Option<Columns> {
        match self.b {
            Source::Packed(ptr, format) => Some(Columns::in_format(format, ptr, self.k)),
            Source::Raw(view) if view.column == 1 && self.m <= RAW_ROWS => {
                Some(Columns::raw(view.ptr, view.row))
            }
            Source::Raw(_) => None,
        }
    }

    /// Most floats that a copy of rows of A takes.
    fn copy_floats(&self) -> usize {
        let format = self.columns().map_or(Format::F32, |b| b.format);
        copy_floats(&Rows::matrix(self.a, self.k), format, self.m, self.n)
    }

    /// Floats of packed B that the product needs scratch for.
    fn scratch_floats(&self) -> usize {
        if self.columns().is_some() { 0 } else { packed_b(self.k, self.n) }
    }

    /// Computes rows `rows` and columns `columns` (starting at a panel).
    ///
    /// # Safety
    /// B has the product's columns; C and the epilogue's operands cover the area; scratch suffices.
    unsafe fn area(
        &self,
        epilogue: &Epilogue,
        rows: Range<usize>,
        columns: Range<usize>,
        b: Columns,
        scratch: *mut u8,
    ) {
        let a = Rows::matrix(self.a, self.k);
        // SAFETY: the caller's contract.
        let to = Target { c: self.c, ldc: self.n, row: self.row };
        // SAFETY: the caller's contract.
        unsafe { area(self.isa, &a, &b, &to, epilogue, (rows, columns), scratch) };
    }
}

/// Where results go: C, its row distance, and the row of the output its first row is, for the epilogue.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub c: *mut f32,
    pub ldc: usize,
    pub row: usize,
}

/// Floats of C between two runs of an epilogue that is a program: they should still be in cache.
const TILE_FLOATS: usize = 16_384;

/// Elements of A in a block that is rounded to bfloat16: 384 KiB of them, less than half of a second cache level.
const HALF_FLOATS: usize = 196_608;

/// Computes rows `rows` and columns `columns` (starting at a panel) of the product of `a` and `b`, block by block.
///
/// # Safety
/// A and B have these rows and columns; C and the epilogue's operands cover the area; scratch suffices.
pub(crate) unsafe fn area(
    isa: Isa,
    a: &Rows<'_>,
    b: &Columns,
    to: &Target,
    epilogue: &Epilogue,
    (rows, columns): (Range<usize>, Range<usize>),
    scratch: *mut u8,
) {
    let copy_floats = copy_floats(a, b.format, rows.len(), columns.len());
    let (copy, scratch) = match copy_floats {
        0 => (std::ptr::null_mut::<f32>(), scratch),
        floats => (scratch.cast(), scratch.wrapping_add(aligned(floats * 4))),
    };
    let most = if b.format == Format::F32 { ROWS } else { (HALF_FLOATS / a.k().max(1)).clamp(MR, ROWS) };
    let height = rows.len().div_ceil(rows.len().div_ceil(most).max(1)).max(1);
    for row in rows.clone().step_by(height) {
        let m = (rows.end - row).min(height);
        let width = match (epilogue.is_program(), copy.is_null()) {
            (true, _) => (TILE_FLOATS / m / NR * NR).clamp(4 * NR, COLUMNS),
            (false, true) => COLUMNS,
            // The copy is made once for all columns.
            (false, false) => columns.len().max(1),
        };
        for column in columns.clone().step_by(width) {
            let n = (columns.end - column).min(width);
            let block = Block {
                isa,
                m,
                n,
                a: a.from(row),
                b: b.from(column),
                c: to.c.wrapping_add(row * to.ldc + column),
                ldc: to.ldc,
                post: epilogue.post(to.row + row, column, to.ldc),
                copy,
            };
            // SAFETY: the block lies in the area.
            unsafe {
                block.run();
                epilogue.apply(to.row + row, m, column, n, to.ldc, scratch);
            }
        }
    }
}

/// How a team is cut into a grid over rows and columns of C: the cut with the smallest largest share.
pub(crate) fn grid(parts: usize, row_panels: usize, column_panels: usize) -> (usize, usize) {
    let cost = |rows: usize| {
        let columns = parts / rows;
        (row_panels.div_ceil(rows) * column_panels.div_ceil(columns), rows)
    };
    let rows = (1..=parts).filter(|r| parts.is_multiple_of(*r)).min_by_key(|&r| cost(r)).unwrap_or(1);
    (rows, parts / rows)
}

/// One large product.
struct Single {
    product: Product,
    epilogue: Epilogue,
    members: usize,
}

impl Single {
    fn parts(&self) -> usize {
        let p = &self.product;
        parts_for(p.m.saturating_mul(p.n).saturating_mul(p.k), GRAIN, self.members)
    }
}

impl Prepared for Single {
    fn scratch(&self) -> Scratch {
        let shared = aligned(self.product.scratch_floats() * 4);
        Scratch {
            shared,
            local: aligned(self.product.copy_floats() * 4) + aligned(self.epilogue.scratch_bytes()),
        }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let p = &self.product;
        let parts = self.parts();
        let packed = Shared(cx.shared.cast::<f32>());
        let own = p.columns();
        if let (None, Source::Raw(view)) = (own, p.b) {
            cx.run(parts, &|part| {
                let columns = share(p.n, NR, part, parts);
                // SAFETY: members pack different panels into scratch of sufficient size.
                unsafe { pack_b(p.isa, view, columns.start, columns.end, p.k, packed.get()) };
            })?;
        }
        let (grid_rows, grid_columns) = grid(parts, p.m.div_ceil(MR), p.n.div_ceil(NR));
        cx.run(parts, &|part| {
            let rows = share(p.m, MR, part % grid_rows, grid_rows);
            let columns = share(p.n, NR, part / grid_rows, grid_columns);
            let b = own.unwrap_or_else(|| Columns::packed(packed.get(), p.k));
            // SAFETY: members compute different parts of C; B was packed above where it had to be.
            unsafe { p.area(&self.epilogue, rows, columns, b, cx.local(part)) };
        })
    }
}

/// Many products of the same size.
struct Batched {
    /// The product with the operands of the first matrices.
    product: Product,
    /// Offsets in elements of A's and B's matrix for every product.
    offsets: Vec<(usize, usize)>,
    /// Parts into which the rows of each product are cut.
    cuts: usize,
    epilogue: Epilogue,
    members: usize,
}

impl Batched {
    fn of(&self, item: usize) -> Product {
        let (a, b) = self.offsets[item];
        let mut product = self.product;
        product.a.ptr = product.a.ptr.wrapping_add(a);
        if let Source::Raw(view) = &mut product.b {
            view.ptr = view.ptr.wrapping_add(b);
        }
        product.row = item * product.m;
        product.c = product.c.wrapping_add(item * product.m * product.n);
        product
    }

    /// Part `cut` of the rows of product `item`; `packed` says which B the scratch holds.
    unsafe fn unit(&self, item: usize, cut: usize, packed: &mut Option<usize>, local: *mut u8) {
        let p = self.of(item);
        let rows = share(p.m, MR, cut, self.cuts);
        if rows.is_empty() {
            return;
        }
        let own: *mut f32 = local.cast();
        let rest = local.wrapping_add(aligned(p.scratch_floats() * 4));
        // SAFETY: the scratch was sized for these operands; units are disjoint parts of the output.
        unsafe {
            let b = match (p.columns(), p.b) {
                (None, Source::Raw(view)) => {
                    if *packed != Some(self.offsets[item].1) {
                        pack_b(p.isa, view, 0, p.n, p.k, own);
                        *packed = Some(self.offsets[item].1);
                    }
                    Columns::packed(own, p.k)
                }
                (Some(columns), _) => columns,
                (None, Source::Packed(ptr, format)) => Columns::in_format(format, ptr, p.k),
            };
            p.area(&self.epilogue, rows, 0..p.n, b, rest);
        }
    }
}

impl Prepared for Batched {
    fn scratch(&self) -> Scratch {
        let local = aligned(self.product.scratch_floats() * 4) + aligned(self.product.copy_floats() * 4);
        Scratch { shared: 0, local: local + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let p = &self.product;
        let units = self.offsets.len() * self.cuts;
        let work = p.m.saturating_mul(p.n).saturating_mul(p.k).saturating_mul(self.offsets.len());
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let mut packed = None;
            for unit in share(units, 1, part, parts) {
                // SAFETY: members work on different units and own scratch.
                unsafe { self.unit(unit / self.cuts, unit % self.cuts, &mut packed, cx.local(part)) };
            }
        })
    }
}

/// Shapes of a product, checked.
struct Shapes {
    m: usize,
    n: usize,
    k: usize,
    /// Leading axes of the output.
    batch: Vec<usize>,
}

fn shapes(call: &Call<'_>, a: &Operand, b: &Operand, out: &Operand) -> Result<Shapes, RuntimeError> {
    let ranks = a.shape.len() >= 2 && b.shape.len() >= 2 && out.shape.len() >= 2;
    call.ensure(ranks, "operands of a product must have two axes at least")?;
    let last = |o: &Operand, turned: bool| {
        let (rows, columns) = (o.shape[o.shape.len() - 2], o.shape[o.shape.len() - 1]);
        if turned { (columns, rows) } else { (rows, columns) }
    };
    let packed = b.layout.is_some();
    let (m, k) = last(a, call.flag("trans_a"));
    let (b_k, n) = match b.layout {
        Some(Layout::GemmB { k, n } | Layout::GemmBHalf { k, n }) => (k, n),
        Some(_) => return Err(call.bad("the weight is packed for another kernel")),
        None => last(b, call.flag("trans_b")),
    };
    call.ensure(a.layout.is_none() && out.layout.is_none(), "only B may be packed")?;
    call.ensure(!packed || b.shape.len() == 2, "a packed weight must have two axes")?;
    call.ensure(b_k == k, "the operands differ in depth")?;
    call.ensure(last(out, false) == (m, n), "the result has the wrong rows or columns")?;
    let batch = out.shape[..out.shape.len() - 2].to_vec();
    Ok(Shapes { m, n, k, batch })
}

/// Offset of the matrix of `operand` for every entry of the batch.
pub(crate) fn offsets(
    call: &Call<'_>,
    operand: &Operand,
    batch: &[usize],
) -> Result<Vec<usize>, RuntimeError> {
    let rank = operand.shape.len();
    let map = crate::broadcast::Broadcast::new(&operand.shape[..rank - 2], batch);
    let map = map.ok_or_else(|| call.bad("the operands' leading axes do not broadcast"))?;
    let size = operand.shape[rank - 2] * operand.shape[rank - 1];
    let count = batch.iter().product();
    let mut all = Vec::with_capacity(count);
    map.runs(0, count, |_, run| all.extend((0..run.len).map(|i| (run.from + i * run.step) * size)));
    Ok(all)
}

/// Prepares a `gemm` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (a, b, out) = (call.input(0)?, call.input(1)?, call.output(0)?);
    call.ensure([a, b, out].iter().all(|o| o.dtype == ElementType::F32), "products are computed in f32")?;
    let Shapes { mut m, n, k, batch } = shapes(call, a, b, out)?;
    let n_own = call.kernel.int("n_own").map_or(2, |v| usize::try_from(v).unwrap_or(2));
    let turned = call.flag("trans_a");
    let mut count: usize = batch.iter().product();
    let a_offsets = offsets(call, a, &batch)?;
    let b_offsets = if b.layout.is_some() { vec![0; count] } else { offsets(call, b, &batch)? };
    let dense_a = a_offsets.iter().enumerate().all(|(i, &o)| o == i * m * k);
    let one_b = b_offsets.iter().all(|&o| o == 0);
    if count > 1 && one_b && dense_a && !turned {
        m *= count;
        count = 1;
    }
    let matrix = Matrix { columns: n, rows: m };
    let epilogue = Epilogue::new(call, n_own, matrix, None)?;
    let b_view = View::new(b.f32(), k, n, call.flag("trans_b"));
    let source = match b.layout {
        None => Source::Raw(b_view),
        Some(Layout::GemmBHalf { .. }) => Source::Packed(b.f32(), Format::Bf16),
        Some(_) => Source::Packed(b.f32(), Format::F32),
    };
    let product = Product {
        isa: call.isa,
        m,
        n,
        k,
        a: View::new(a.f32(), m, k, turned),
        b: source,
        c: out.f32(),
        row: 0,
    };
    let members = call.members;
    if count == 0 || m == 0 || n == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    if count == 1 {
        return Ok(Box::new(Single { product, epilogue, members }));
    }
    let cuts = if count >= members { 1 } else { members.div_ceil(count).min(m.div_ceil(MR)) };
    let offsets = a_offsets.into_iter().zip(b_offsets).collect();
    Ok(Box::new(Batched { product, offsets, cuts, epilogue, members }))
}
