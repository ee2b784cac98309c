//! Scaled dot-product attention: per head and block of query rows, scores stay in scratch.
//!
//! Weights are left unnormalised: each row of the result is divided by the sum of its weights at the end, which is
//! shorter work than dividing the weights. Few queries read keys and values where they lie, in one pass.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, Columns, Format, Rows, copy_floats};
use crate::heads::{Heads, Sizes};
use crate::isa::{Isa, per_isa};
use crate::layout::MR;
use crate::math::fma;
use crate::micro::{LINE, Post};
use crate::pack::{View, pack_b, packed_b};
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::vector;
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 40_000;
/// Floats of scores that are worked on at once: a quarter of a second cache level of 1 MiB.
const SCORES: usize = 1 << 16;
/// Most query rows of a block.
const MOST_ROWS: usize = 10 * MR;
/// Queries up to which keys and values are read where they lie.
const FEW: usize = 8;

/// A mask: added numbers, or booleans that hide keys.
struct Mask {
    ptr: *const u8,
    boolean: bool,
    row: usize,
    column: usize,
}

/// Where one head begins in each operand.
#[derive(Clone, Copy)]
struct Head {
    q: usize,
    k: usize,
    v: usize,
    mask: usize,
    y: usize,
}

struct Attention {
    isa: Isa,
    sizes: Sizes,
    scale: f32,
    causal: bool,
    /// Query rows of a block.
    rows: usize,
    heads: Vec<Head>,
    q: View,
    k: View,
    v: View,
    mask: Option<Mask>,
    y: *mut f32,
    y_row: usize,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Attention {}
// SAFETY: as above.
unsafe impl Sync for Attention {}

per_isa! {
    /// `row = row * scale + mask`, the mask's elements `step` apart; returns the largest.
    unsafe fn mask_row = mask_row_body(row: &mut [f32], scale: f32, mask: *const f32, step: usize) -> f32
}

#[inline(always)]
unsafe fn mask_row_body<const FMA: bool>(row: &mut [f32], scale: f32, mask: *const f32, step: usize) -> f32 {
    // SAFETY: the mask covers the row.
    unsafe {
        if step == 1 {
            let mask = from_raw_parts(mask, row.len());
            row.iter_mut().zip(mask).for_each(|(v, &m)| *v = fma::<FMA>(*v, scale, m));
        } else {
            for (i, v) in row.iter_mut().enumerate() {
                *v = fma::<FMA>(*v, scale, *mask.add(i * step));
            }
        }
    }
    vector::largest(row)
}

per_isa! {
    /// `row = row * scale` where the mask is true, else minus infinity; returns the largest.
    unsafe fn hide_row = hide_row_body(row: &mut [f32], scale: f32, mask: *const u8, step: usize) -> f32
}

#[inline(always)]
unsafe fn hide_row_body<const FMA: bool>(row: &mut [f32], scale: f32, mask: *const u8, step: usize) -> f32 {
    for (i, v) in row.iter_mut().enumerate() {
        // SAFETY: the mask covers the row.
        let seen = unsafe { *mask.add(i * step) } != 0;
        *v = *v * scale + if seen { 0.0 } else { f32::NEG_INFINITY };
    }
    vector::largest(row)
}

per_isa! {
    /// Products of a vector of `depth` with `keys` vectors `step` apart.
    unsafe fn dots = dots_body(q: *const f32, k: *const f32, step: usize, depth: usize, out: &mut [f32])
}

/// Vectors that are multiplied at once.
const TOGETHER: usize = 4;

#[inline(always)]
unsafe fn dots_body<const FMA: bool>(
    q: *const f32,
    k: *const f32,
    step: usize,
    depth: usize,
    out: &mut [f32],
) {
    let whole = out.len() / TOGETHER * TOGETHER;
    // SAFETY: every vector has `depth` elements.
    unsafe {
        for key in (0..whole).step_by(TOGETHER) {
            let sums = dots_together::<FMA, TOGETHER>(q, k.add(key * step), step, depth);
            out[key..key + TOGETHER].copy_from_slice(&sums);
        }
        for (key, out) in out.iter_mut().enumerate().skip(whole) {
            [*out] = dots_together::<FMA, 1>(q, k.add(key * step), step, depth);
        }
    }
}

#[inline(always)]
unsafe fn dots_together<const FMA: bool, const N: usize>(
    q: *const f32,
    k: *const f32,
    step: usize,
    depth: usize,
) -> [f32; N] {
    const LANES: usize = 16;
    let whole = depth / LANES * LANES;
    let mut sums = [[0f32; LANES]; N];
    for at in (0..whole).step_by(LANES) {
        // SAFETY: both vectors have these lanes.
        let q: [f32; LANES] = unsafe { *q.add(at).cast() };
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let k: [f32; LANES] = unsafe { *k.add(n * step + at).cast() };
            for lane in 0..LANES {
                sums[lane] = fma::<FMA>(q[lane], k[lane], sums[lane]);
            }
        }
    }
    let mut out = [0f32; N];
    for (n, (out, sums)) in out.iter_mut().zip(&mut sums).enumerate() {
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
            width /= 2;
        }
        *out = sums[0];
        for at in whole..depth {
            // SAFETY: as above.
            *out = unsafe { fma::<FMA>(*q.add(at), *k.add(n * step + at), *out) };
        }
    }
    out
}

/// Distance of two rows of scores, so that rows neither share lines of a cache nor compete for them.
fn pitch(width: usize) -> usize {
    width.next_multiple_of(LINE) + LINE
}

/// Rows of weights as the left operand of a product.
fn weights(scores: *const f32, width: usize) -> Rows<'static> {
    Rows::matrix(View { ptr: scores, row: pitch(width), column: 1 }, width)
}

/// The view of the head that begins `by` elements on.
fn moved(view: View, by: usize) -> View {
    View { ptr: view.ptr.wrapping_add(by), ..view }
}

impl Attention {
    fn blocks(&self) -> usize {
        self.sizes.queries.div_ceil(self.rows)
    }

    fn is_thin(&self) -> bool {
        self.sizes.queries <= FEW
    }

    /// Floats of the parts of a member's scratch: keys, values, scores, sums of the weights of each row, a copy of
    /// queries that lie at a bad distance.
    fn parts(&self) -> [usize; 5] {
        let Sizes { keys, depth, values, .. } = self.sizes;
        let scores = self.rows * pitch(keys);
        if self.is_thin() {
            let packed = if self.v.column == 1 { 0 } else { packed_b(keys, values) };
            return [0, packed, scores, self.rows, 0];
        }
        let copy = copy_floats(&Rows::matrix(self.q, depth), Format::F32, self.rows, keys);
        [packed_b(depth, keys), packed_b(keys, values), scores, self.rows, copy]
    }

    fn scratch_parts(&self, local: *mut u8) -> [*mut f32; 5] {
        let mut at = local;
        self.parts().map(|floats| {
            let part = at;
            at = at.wrapping_add(aligned(floats * 4));
            part.cast()
        })
    }

    /// The first key that query `row` does not see.
    fn visible(&self, row: usize) -> usize {
        if self.causal { (row + 1).min(self.sizes.keys) } else { self.sizes.keys }
    }

    /// Turns the first `width` scores of query `row` into weights; returns their sum.
    unsafe fn weigh(&self, head: &Head, row: usize, scores: *mut f32, width: usize) -> f32 {
        let visible = self.visible(row);
        // SAFETY: the row of scores has `width` floats, the mask was checked.
        unsafe {
            let (seen, hidden) = from_raw_parts_mut(scores, width).split_at_mut(visible);
            hidden.fill(0.0);
            let (scale, largest) = match &self.mask {
                None if self.scale > 0.0 => (self.scale, vector::maximum(self.isa, seen) * self.scale),
                None => {
                    vector::scale_row(self.isa, seen, self.scale);
                    (1.0, vector::maximum(self.isa, seen))
                }
                Some(mask) => {
                    let at = head.mask + row * mask.row;
                    let largest = if mask.boolean {
                        hide_row(self.isa, seen, self.scale, mask.ptr.add(at), mask.column)
                    } else {
                        mask_row(self.isa, seen, self.scale, mask.ptr.cast::<f32>().add(at), mask.column)
                    };
                    if largest == f32::NEG_INFINITY {
                        // A query that sees nothing gets nothing.
                        seen.fill(0.0);
                        return 1.0;
                    }
                    (1.0, largest)
                }
            };
            vector::exp_row(self.isa, scores, scores, visible, scale, largest)
        }
    }

    /// Weights of all rows of a block of scores; leaves their sums in `sums`.
    unsafe fn weigh_rows(&self, head: &Head, from: usize, scores: *mut f32, width: usize, sums: &mut [f32]) {
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's block.
            *sum = unsafe { self.weigh(head, from + row, scores.add(row * pitch(width)), width) };
        }
    }

    /// Divides rows of the result by the sums of their weights.
    unsafe fn normalise(&self, y: *mut f32, sums: &[f32]) {
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: the rows lie in the result.
            unsafe {
                let row = from_raw_parts_mut(y.add(row * self.y_row), self.sizes.values);
                vector::scale_row(self.isa, row, 1.0 / sum);
            }
        }
    }

    unsafe fn unit(&self, unit: usize, packed: &mut Option<[usize; 2]>, local: *mut u8) {
        let Sizes { queries, keys, depth, values } = self.sizes;
        let (head, from) = (&self.heads[unit / self.blocks()], unit % self.blocks() * self.rows);
        let rows = (queries - from).min(self.rows);
        let [packed_k, packed_v, scores, sums, copy] = self.scratch_parts(local);
        let copy = if self.parts()[4] == 0 { std::ptr::null_mut() } else { copy };
        let (q, k) = (self.q.at(from, 0), View { row: self.k.column, column: self.k.row, ..self.k });
        let y = self.y.wrapping_add(head.y + from * self.y_row);
        let width = self.visible(from + rows - 1);
        // SAFETY: sizes were checked against the operands; the scratch holds all parts.
        unsafe {
            let sums = from_raw_parts_mut(sums, rows);
            if *packed != Some([head.k, head.v]) {
                pack_b(self.isa, moved(k, head.k), 0, keys, depth, packed_k);
                pack_b(self.isa, moved(self.v, head.v), 0, values, keys, packed_v);
                *packed = Some([head.k, head.v]);
            }
            let product = Block {
                isa: self.isa,
                m: rows,
                n: width,
                a: Rows::matrix(moved(q, head.q), depth),
                b: Columns::packed(packed_k, depth),
                c: scores,
                ldc: pitch(width),
                post: Post::NONE,
                copy,
            };
            product.run();
            self.weigh_rows(head, from, scores, width, sums);
            let (a, b) = (weights(scores, width), Columns::packed(packed_v, keys));
            Block { n: values, a, b, c: y, ldc: self.y_row, copy: std::ptr::null_mut(), ..product }.run();
            self.normalise(y, sums);
        }
    }

    /// Few queries: keys and values are read once, where they are.
    unsafe fn thin(&self, head: &Head, local: *mut u8) {
        let Sizes { queries, keys, values, .. } = self.sizes;
        let [_, packed_v, scores, sums, _] = self.scratch_parts(local);
        let y = self.y.wrapping_add(head.y);
        let v = moved(self.v, head.v);
        // SAFETY: sizes were checked against the operands; the scratch holds all parts.
        unsafe {
            let sums = from_raw_parts_mut(sums, queries);
            self.thin_scores(head, scores);
            self.weigh_rows(head, 0, scores, keys, sums);
            let b = if v.column == 1 {
                Columns::raw(v.ptr, v.row)
            } else {
                pack_b(self.isa, v, 0, values, keys, packed_v);
                Columns::packed(packed_v, keys)
            };
            let a = weights(scores, keys);
            self.few(values, a, b, y, self.y_row).run();
            self.normalise(y, sums);
        }
    }

    /// A product with few rows.
    fn few(&self, n: usize, a: Rows<'static>, b: Columns, c: *mut f32, ldc: usize) -> Block<'static> {
        let (m, post, copy) = (self.sizes.queries, Post::NONE, std::ptr::null_mut());
        Block { isa: self.isa, m, n, a, b, c, ldc, post, copy }
    }

    /// Scores of few queries.
    unsafe fn thin_scores(&self, head: &Head, scores: *mut f32) {
        let Sizes { queries, keys, depth, .. } = self.sizes;
        let (q, k) = (moved(self.q, head.q), moved(self.k, head.k));
        // SAFETY: the caller's contract.
        unsafe {
            if k.row == 1 {
                let (a, b) = (Rows::matrix(q, depth), Columns::raw(k.ptr, k.column));
                return self.few(keys, a, b, scores, pitch(keys)).run();
            }
            for row in 0..queries {
                let out = from_raw_parts_mut(scores.add(row * pitch(keys)), keys);
                if q.column == 1 && k.column == 1 {
                    dots(self.isa, q.at(row, 0).ptr, k.ptr, k.row, depth, out);
                    continue;
                }
                for (key, out) in out.iter_mut().enumerate() {
                    let term = |i: usize| *q.at(row, i).ptr * *k.at(key, i).ptr;
                    *out = (0..depth).map(term).sum();
                }
            }
        }
    }
}

impl Prepared for Attention {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: self.parts().iter().map(|floats| aligned(floats * 4)).sum() }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let Sizes { queries, keys, depth, values } = self.sizes;
        let units = self.heads.len() * self.blocks();
        let work = self.heads.len().saturating_mul(queries).saturating_mul(keys);
        let parts = parts_for(work.saturating_mul(depth + values), GRAIN, self.members);
        cx.run(parts, &|part| {
            let mut packed = None;
            for unit in share(units, 1, part, parts) {
                // SAFETY: units are different rows of the result; scratch belongs to this member.
                unsafe {
                    if self.is_thin() {
                        self.thin(&self.heads[unit], cx.local(part));
                    } else {
                        self.unit(unit, &mut packed, cx.local(part));
                    }
                }
            }
        })
    }
}

/// Query rows of a block: scores stay in cache, and a causal mask skips what no row of a block sees.
fn block_rows(sizes: &Sizes, causal: bool) -> usize {
    let fitting = SCORES / sizes.keys.max(1) / MR * MR;
    let skipping = if causal { (sizes.queries / 8).next_multiple_of(MR).max(2 * MR) } else { MOST_ROWS };
    fitting.clamp(MR, MOST_ROWS).min(skipping).min(sizes.queries)
}

/// Prepares an `attention` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let geometry = Heads::new(call)?;
    let y = call.output(0)?;
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    call.ensure(geometry.sizes.keys > 0, "attention over no keys has no kernel")?;
    let causal = call.flag("causal");
    let geometry = if causal { geometry } else { geometry.stacked() };
    let Heads { batch, sizes, q, k, v, mask, y: result } = geometry;
    let [q_at, k_at, v_at, y_at] = [&q, &k, &v, &result].map(|m| m.offsets(&batch));
    let mask_at = mask.as_ref().map(|m| m.offsets(&batch));
    let head = |n: usize| Head {
        q: q_at[n],
        k: k_at[n],
        v: v_at[n],
        mask: mask_at.as_ref().map_or(0, |m| m[n]),
        y: y_at[n],
    };
    let view = |n: usize, row, column| call.input(n).map(|o| View { ptr: o.f32(), row, column });
    let mask = mask.zip(call.optional(3)).map(|(m, operand)| Mask {
        ptr: operand.ptr,
        boolean: operand.dtype == ElementType::Bool,
        row: m.row,
        column: m.column,
    });
    Ok(Box::new(Attention {
        isa: call.isa,
        rows: block_rows(&sizes, causal),
        sizes,
        scale: call.kernel.float("scale").unwrap_or(1.0) as f32,
        causal,
        heads: (0..y_at.len()).map(head).collect(),
        q: view(0, q.row, q.column)?,
        k: view(1, k.row, k.column)?,
        v: view(2, v.row, v.column)?,
        mask,
        y: y.f32(),
        y_row: result.row,
        members: call.members,
    }))
}
