//! `ArrayFeatureExtractor` and `FeatureVectorizer`: choosing and joining features.

use crate::common::{
    MOVES, PLAIN, at_least, attr, attr_error, exactly, from_f64s, index_error, input, sample_of,
    sample_shape, tensor, type_error, work_move,
};
use crate::elements::take;
use crate::eval::{result, same_dim};
use crate::ml_common::{ML_NUMBERS, Rows, ml, row_dims, want_dtype};
use crate::ml_linear::sample_rows;
use crate::samples::{any, values};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&ARRAY_FEATURE_EXTRACTOR, &FEATURE_VECTORIZER];

static ARRAY_FEATURE_EXTRACTOR: OpDef = OpDef {
    name: "array_feature_extractor",
    doc: "the elements along the last axis that the second operand names",
    onnx: &[ml("ArrayFeatureExtractor", 1)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[],
    traits: MOVES,
    infer: infer_extractor,
    content: None,
    eval: eval_extractor,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_extractor,
};

static FEATURE_VECTORIZER: OpDef = OpDef {
    name: "feature_vectorizer",
    doc: "rows of all operands side by side as floats, each cut or filled with zeros to its stated width",
    onnx: &[ml("FeatureVectorizer", 1)],
    inputs: at_least(1),
    outputs: exactly(1),
    attrs: &[attr("inputdimensions", AttrKind::Ints)],
    traits: PLAIN,
    infer: infer_vectorizer,
    content: None,
    eval: eval_vectorizer,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_vectorizer,
};

/// The last axis shrinks to the number of indices; a vector becomes one row.
fn infer_extractor(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, indices) = (input(ctx, 0)?, input(ctx, 1)?);
    if indices.dtype != DType::I64 {
        return Err(type_error(format!("the indices must be i64, not {}", indices.dtype.name())));
    }
    let lead = match x.shape.as_slice() {
        [] => return Err(type_error("a scalar has no features")),
        [_] => vec![Dim::known(1)],
        [lead @ .., _] => lead.to_vec(),
    };
    Ok(vec![Type::new(x.dtype, [lead, vec![indices.n_elements()]].concat())])
}

fn eval_extractor(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (_, shape) = result(ctx, infer_extractor)?;
    let x = tensor(ctx, 0)?;
    let width = x.shape().last().copied().unwrap_or(0);
    let mut indices = Vec::new();
    for index in tensor(ctx, 1)?.to_i64s() {
        let known = usize::try_from(index).ok().filter(|&i| i < width);
        indices.push(known.ok_or_else(|| index_error(index, width))?);
    }
    let n_rows: usize = shape[..shape.len() - 1].iter().product();
    let positions: Vec<usize> =
        (0..n_rows).flat_map(|row| indices.iter().map(move |i| row * width + i)).collect();
    Ok(vec![take(x, &shape, &positions)?])
}

/// Widths of the operands in the result.
fn widths(attrs: &Attrs, types: &[&Type]) -> Result<Vec<Dim>, Diag> {
    let Some(stated) = attrs.ints("inputdimensions").filter(|v| !v.is_empty()) else {
        return types.iter().map(|t| Ok(row_dims(t)?.1)).collect();
    };
    if stated.len() != types.len() || stated.iter().any(|w| *w < 0) {
        let text = format!("inputdimensions {stated:?} do not fit {} operands", types.len());
        return Err(attr_error(text));
    }
    Ok(stated.into_iter().map(Dim::known).collect())
}

fn infer_vectorizer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let types: Vec<&Type> = (0..ctx.inputs.len()).map(|n| input(ctx, n)).collect::<Result<_, _>>()?;
    let (rows, _) = row_dims(types[0])?;
    for ty in &types {
        want_dtype(ty.dtype, ML_NUMBERS)?;
        same_dim(&rows, &row_dims(ty)?.0, "the operands' numbers of rows")?;
    }
    let width = widths(ctx.attrs, &types)?.into_iter().fold(Dim::known(0), |sum, w| sum + w);
    Ok(vec![Type::new(DType::F32, [rows, width])])
}

fn eval_vectorizer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_vectorizer)?;
    let rows: Vec<Rows> =
        (0..ctx.inputs.len()).map(|n| Ok(Rows::new(tensor(ctx, n)?))).collect::<Result<_, Diag>>()?;
    let stated = ctx.attrs.ints("inputdimensions").filter(|v| !v.is_empty());
    let width = |n: usize| stated.as_ref().map_or(rows[n].width, |s| usize::try_from(s[n]).unwrap_or(0));
    let mut y = Vec::with_capacity(shape.iter().product());
    for i in 0..shape[0] {
        for (n, rows) in rows.iter().enumerate() {
            let row = rows.row(i);
            y.extend((0..width(n)).map(|k| row.get(k).copied().unwrap_or(0.0)));
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_extractor(rng: &mut Rng) -> Sample {
    let rank = 1 + rng.below(3);
    let shape = sample_shape(rng, rank);
    let dtype = any(rng);
    let n = 1 + rng.below(4);
    let indices: Vec<i64> = (0..n).map(|_| rng.below(shape[rank - 1]) as i64).collect();
    let shape_of_indices = if rng.below(2) == 0 { vec![n] } else { vec![1, n] };
    let indices = Tensor::from_slice(&shape_of_indices, &indices).unwrap_or_else(|| Tensor::scalar(0i64));
    sample_of(vec![values(rng, dtype, &shape), indices])
}

fn sample_vectorizer(rng: &mut Rng) -> Sample {
    let first = sample_rows(rng, 2);
    let (dtype, shape) = (first.dtype(), first.shape().to_vec());
    let n = 1 + rng.below(3);
    let mut inputs = vec![first];
    inputs.extend((1..n).map(|_| values(rng, dtype, &shape)));
    let mut sample = sample_of(inputs);
    if rng.below(2) == 0 {
        let widths: Vec<i64> = (0..n).map(|_| rng.int(1, 3)).collect();
        sample.attrs.set("inputdimensions", widths);
    }
    sample
}
