//! Scaled dot-product attention: per head and block of query rows, scores stay in scratch.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, Columns, Rows};
use crate::broadcast::Broadcast;
use crate::isa::{Isa, per_isa};
use crate::layout::MR;
use crate::math::fma;
use crate::micro::{Post, THIN};
use crate::pack::{View, pack_b, packed_b};
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, aligned, parts_for};
use crate::softmax::softmax_row;
use crate::team::share;
use crate::vector;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::from_raw_parts;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 100_000;
/// Query rows per unit of work.
const QUERIES: usize = 10 * MR;

/// An additive mask: offset per head, steps along queries and keys.
struct Mask {
    ptr: *const f32,
    offsets: Vec<usize>,
    row: usize,
    column: usize,
}

struct Attention {
    isa: Isa,
    queries: usize,
    keys: usize,
    depth: usize,
    values: usize,
    scale: f32,
    causal: bool,
    k_transposed: bool,
    /// Offsets of q, k and v for every head.
    heads: Vec<[usize; 3]>,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    mask: Option<Mask>,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Attention {}
// SAFETY: as above.
unsafe impl Sync for Attention {}

per_isa! {
    /// `row = row * scale + mask`, the mask's elements `step` apart.
    unsafe fn scale_and_mask = scale_and_mask_body(row: &mut [f32], scale: f32, mask: *const f32, step: usize)
}

#[inline(always)]
unsafe fn scale_and_mask_body<const FMA: bool>(row: &mut [f32], scale: f32, mask: *const f32, step: usize) {
    // SAFETY: the mask covers the row.
    unsafe {
        if step == 1 {
            let mask = from_raw_parts(mask, row.len());
            row.iter_mut().zip(mask).for_each(|(v, &m)| *v = fma::<FMA>(*v, scale, m));
        } else {
            let m = *mask;
            row.iter_mut().for_each(|v| *v = fma::<FMA>(*v, scale, m));
        }
    }
}

impl Attention {
    fn blocks(&self) -> usize {
        self.queries.div_ceil(QUERIES)
    }

    fn is_thin(&self) -> bool {
        self.queries <= THIN
    }

    /// Floats of the parts of a member's scratch: keys, values, scores.
    fn parts(&self) -> [usize; 3] {
        let rows = self.queries.min(QUERIES);
        if self.is_thin() {
            return [0, 0, rows * self.keys];
        }
        [packed_b(self.depth, self.keys), packed_b(self.keys, self.values), rows * self.keys]
    }

    fn scratch_parts(&self, local: *mut u8) -> [*mut f32; 3] {
        let mut at = local;
        self.parts().map(|floats| {
            let part = at;
            at = at.wrapping_add(aligned(floats * 4));
            part.cast()
        })
    }

    /// The first key that query `row` does not see.
    fn visible(&self, row: usize) -> usize {
        if self.causal { (row + 1).min(self.keys) } else { self.keys }
    }

    /// Turns the scores of query `row` of head `head` into weights.
    unsafe fn weigh(&self, head: usize, row: usize, scores: *mut f32) {
        let visible = self.visible(row);
        // SAFETY: the row of scores has `keys` floats, the mask was checked.
        unsafe {
            let all = std::slice::from_raw_parts_mut(scores, self.keys);
            let (seen, hidden) = all.split_at_mut(visible);
            hidden.fill(0.0);
            match &self.mask {
                Some(mask) => {
                    let at = mask.ptr.add(mask.offsets[head] + row * mask.row);
                    scale_and_mask(self.isa, seen, self.scale, at, mask.column);
                }
                None => vector::scale_row(self.isa, seen, self.scale),
            }
            softmax_row(self.isa, scores, scores, visible);
        }
    }

    unsafe fn unit(&self, unit: usize, packed: &mut Option<usize>, local: *mut u8) {
        let (head, block) = (unit / self.blocks(), unit % self.blocks());
        let from = block * QUERIES;
        let rows = (self.queries - from).min(QUERIES);
        let [keys, values, scores] = self.scratch_parts(local);
        let [q, k, v] = self.heads[head];
        let q = View::new(self.q.wrapping_add(q + from * self.depth), rows, self.depth, false);
        let y = self.y.wrapping_add((head * self.queries + from) * self.values);
        // SAFETY: sizes were checked against the operands; the scratch holds all parts.
        unsafe {
            if *packed != Some(head) {
                let k = View::new(self.k.wrapping_add(k), self.depth, self.keys, !self.k_transposed);
                pack_b(self.isa, k, 0, self.keys, self.depth, keys);
                let v = View::new(self.v.wrapping_add(v), self.keys, self.values, false);
                pack_b(self.isa, v, 0, self.values, self.keys, values);
                *packed = Some(head);
            }
            let mut product = Block {
                isa: self.isa,
                m: rows,
                n: self.visible(from + rows - 1),
                a: Rows::matrix(q, self.depth),
                b: Columns::packed(keys, self.depth),
                c: scores,
                ldc: self.keys,
                post: Post::NONE,
                copy: std::ptr::null_mut(),
            };
            product.run();
            for row in 0..rows {
                self.weigh(head, from + row, scores.add(row * self.keys));
            }
            let a = Rows::matrix(View::new(scores, rows, self.keys, false), self.keys);
            let b = Columns::packed(values, self.keys);
            product = Block { n: self.values, a, b, c: y, ldc: self.values, ..product };
            product.run();
        }
    }

    /// Few queries: keys and values are read once, where they are.
    unsafe fn thin(&self, head: usize, local: *mut u8) {
        let [.., scores] = self.scratch_parts(local);
        let [q, k, v] = self.heads[head].map(|offset| offset);
        let (q, k) = (self.q.wrapping_add(q), self.k.wrapping_add(k));
        let mut product = Block {
            isa: self.isa,
            m: self.queries,
            n: self.keys,
            a: Rows::matrix(View::new(q, self.queries, self.depth, false), self.depth),
            b: Columns::raw(k, self.keys),
            c: scores,
            ldc: self.keys,
            post: Post::NONE,
            copy: std::ptr::null_mut(),
        };
        // SAFETY: sizes were checked against the operands; the scratch holds the scores.
        unsafe {
            if self.k_transposed {
                product.run();
            } else {
                for row in 0..self.queries {
                    let q = from_raw_parts(q.add(row * self.depth), self.depth);
                    for key in 0..self.keys {
                        let k = from_raw_parts(k.add(key * self.depth), self.depth);
                        *scores.add(row * self.keys + key) = vector::dot(self.isa, q, k);
                    }
                }
            }
            for row in 0..self.queries {
                self.weigh(head, row, scores.add(row * self.keys));
            }
            product = Block {
                n: self.values,
                a: Rows::matrix(View::new(scores, self.queries, self.keys, false), self.keys),
                b: Columns::raw(self.v.wrapping_add(v), self.values),
                c: self.y.wrapping_add(head * self.queries * self.values),
                ldc: self.values,
                ..product
            };
            product.run();
        }
    }
}

impl Prepared for Attention {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: self.parts().iter().map(|floats| aligned(floats * 4)).sum() }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let units = self.heads.len() * self.blocks();
        let work = self.heads.len().saturating_mul(self.queries).saturating_mul(self.keys);
        let parts = parts_for(work.saturating_mul(self.depth + self.values), GRAIN, self.members);
        cx.run(parts, &|part| {
            let mut packed = None;
            for unit in share(units, 1, part, parts) {
                // SAFETY: units are different rows of the result; scratch belongs to this member.
                unsafe {
                    if self.is_thin() {
                        self.thin(unit, cx.local(part));
                    } else {
                        self.unit(unit, &mut packed, cx.local(part));
                    }
                }
            }
        })
    }
}

/// Element offsets of an operand's matrices (its last two axes) for every entry of the batch.
fn offsets(call: &Call<'_>, shape: &[usize], batch: &[usize]) -> Result<Vec<usize>, RuntimeError> {
    let (leading, matrix) = shape.split_at(shape.len().saturating_sub(2));
    let map = Broadcast::new(leading, batch);
    let map = map.ok_or_else(|| call.bad("the operands' leading axes do not broadcast"))?;
    let (size, count): (usize, usize) = (matrix.iter().product(), batch.iter().product());
    let mut all = Vec::with_capacity(count);
    map.runs(0, count, |_, run| all.extend((0..run.len).map(|i| (run.from + i * run.step) * size)));
    Ok(all)
}

fn mask(
    call: &Call<'_>,
    mask: &Operand,
    batch: &[usize],
    queries: usize,
    keys: usize,
) -> Result<Mask, RuntimeError> {
    let mut shape = mask.shape.clone();
    while shape.len() < 2 {
        shape.insert(0, 1);
    }
    let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let fits = (rows == 1 || rows == queries) && (columns == 1 || columns == keys);
    call.ensure(fits, "the mask does not broadcast to the scores")?;
    call.ensure(mask.dtype == ElementType::F32 && mask.layout.is_none(), "the mask must be f32")?;
    Ok(Mask {
        ptr: mask.f32(),
        offsets: offsets(call, &shape, batch)?,
        row: if rows == 1 { 0 } else { columns },
        column: usize::from(columns != 1),
    })
}

/// Prepares an `attention` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (q, k, v, y) = (call.input(0)?, call.input(1)?, call.input(2)?, call.output(0)?);
    let all = [q, k, v, y];
    let dense = all.iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none() && o.shape.len() >= 2);
    call.ensure(dense, "attention takes f32, row-major operands of two axes at least")?;
    let last = |o: &Operand| [o.shape[o.shape.len() - 2], o.shape[o.shape.len() - 1]];
    let ([queries, depth], [keys, values]) = (last(q), last(v));
    let k_transposed = call.flag("k_transposed");
    let want = if k_transposed { [depth, keys] } else { [keys, depth] };
    call.ensure(last(k) == want && last(y) == [queries, values], "queries, keys and values do not fit")?;
    let batch = &y.shape[..y.shape.len() - 2];
    let [q_at, k_at, v_at] =
        [offsets(call, &q.shape, batch)?, offsets(call, &k.shape, batch)?, offsets(call, &v.shape, batch)?];
    let heads = q_at.into_iter().zip(k_at).zip(v_at).map(|((q, k), v)| [q, k, v]).collect();
    let mask = call.optional(3).map(|m| mask(call, m, batch, queries, keys)).transpose()?;
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    call.ensure(keys > 0, "attention over no keys has no kernel")?;
    Ok(Box::new(Attention {
        isa: call.isa,
        queries,
        keys,
        depth,
        values,
        scale: call.kernel.float("scale").unwrap_or(1.0) as f32,
        causal: call.flag("causal"),
        k_transposed,
        heads,
        q: q.f32(),
        k: k.f32(),
        v: v.f32(),
        mask,
        y: y.f32(),
        members: call.members,
    }))
}
