//! Cutting or padding around the centre: `center_crop_pad`.

use crate::common::{MOVES, attr, work_move};
use crate::common::{attr_error, data_dependent, exactly, input, onnx, tensor, type_error};
use crate::layout::{by_tables, empty};
use crate::samples::{any, list, shape_of_rank, values};
use crate::shapes::{normal_axes, or_unknown, result_shape};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CENTER_CROP_PAD];

static CENTER_CROP_PAD: OpDef = OpDef {
    name: "center_crop_pad",
    doc: "x cut or padded with zeros on both sides of its axes to given sizes.",
    onnx: &[onnx("CenterCropPad", 18)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[attr("axes", AttrKind::Ints)],
    traits: MOVES,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: work_move,
    sample,
};

fn axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, Diag> {
    let all = || (0..rank as i64).collect();
    normal_axes(&attrs.ints("axes").unwrap_or_else(all), rank)
}

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact(ctx), || {
        let x = input(ctx, 0).ok()?;
        let mut shape = x.shape.clone();
        for axis in axes(ctx.attrs, x.rank()).ok()? {
            shape[axis] = Dim::unknown(0, axis);
        }
        Some(vec![Type::new(x.dtype, shape)])
    })
}

fn exact(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, sizes) = (input(ctx, 0)?, input(ctx, 1)?);
    let axes = axes(ctx.attrs, x.rank())?;
    if !matches!(sizes.dtype, DType::I32 | DType::I64) || sizes.rank() != 1 {
        return Err(type_error(format!("the sizes are {sizes}, a list of i32 or i64 is wanted")));
    }
    let wanted = crate::content::dims(ctx, 1).ok_or_else(data_dependent)?;
    if wanted.len() != axes.len() {
        return Err(attr_error(format!("{} sizes are given for {} axes", wanted.len(), axes.len())));
    }
    let mut shape = x.shape.clone();
    for (axis, size) in axes.into_iter().zip(wanted) {
        if size.as_known().is_some_and(|s| s < 0) {
            return Err(attr_error(format!("size {size} is negative")));
        }
        shape[axis] = size;
    }
    Ok(vec![Type::new(x.dtype, shape)])
}

/// Which elements of an axis of size `from` an axis of size `to` shows; an odd one is cut or added at the end.
fn centred(from: usize, to: usize) -> Vec<Option<usize>> {
    let (cut, pad) = (from.saturating_sub(to) / 2, to.saturating_sub(from) / 2);
    (0..to).map(|i| i.checked_sub(pad).filter(|&i| i < from).map(|i| i + cut)).collect()
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let shape = result_shape(ctx, infer)?;
    let x = tensor(ctx, 0)?;
    if let Some(empty) = empty(x, &shape) {
        return Ok(empty);
    }
    let tables: Vec<Vec<Option<usize>>> =
        x.shape().iter().zip(&shape).map(|(&from, &to)| centred(from, to)).collect();
    Ok(vec![by_tables(x, &tables, &zero_bytes(x.dtype()))?])
}

/// The bytes of a zero; for text, of an index beyond any table, which is the empty string.
pub(crate) fn zero_bytes(dtype: DType) -> Vec<u8> {
    vec![if dtype == DType::Str { 0xff } else { 0 }; dtype.size_bytes()]
}

fn sample(rng: &mut Rng) -> Sample {
    let (dtype, shape) = (any(rng), shape_of_rank(rng, 1));
    let mut attrs = Attrs::new();
    let mut n = shape.len();
    if rng.below(2) == 0 {
        n = 1;
        attrs.set("axes", vec![rng.int(-(shape.len() as i64), shape.len() as i64 - 1)]);
    }
    let sizes: Vec<i64> = (0..n).map(|_| rng.int(0, 6)).collect();
    Sample { attrs, inputs: vec![Some(values(rng, dtype, &shape)), Some(list(&sizes))], n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ones_go_to_the_end() {
        assert_eq!(centred(5, 2), [Some(1), Some(2)]);
        assert_eq!(centred(2, 5), [None, Some(0), Some(1), None, None]);
        assert_eq!(centred(3, 3), [Some(0), Some(1), Some(2)]);
    }
}
