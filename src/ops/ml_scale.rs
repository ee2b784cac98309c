//! Feature preparation that keeps the shape: `Binarizer`, `Imputer`, `Normalizer` and `Scaler`.

use crate::common::{
    ELEMENTWISE, PLAIN, attr, attr_error, exactly, from_f64s, from_i64s, input, sample_of, tensor,
    type_error, work_elementwise,
};
use crate::eval::result;
use crate::ml_common::{ML_NUMBERS, Rows, floats, ml, want_dtype};
use crate::ml_linear::{sample_floats, sample_rows};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&BINARIZER, &FEATURE_SCALER, &IMPUTER, &NORMALIZER];

static BINARIZER: OpDef = OpDef {
    name: "binarizer",
    doc: "1 where x > threshold, else 0",
    onnx: &[ml("Binarizer", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("threshold", AttrKind::Float)],
    traits: ELEMENTWISE,
    infer: infer_binarizer,
    content: None,
    eval: eval_binarizer,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_binarizer,
};

static FEATURE_SCALER: OpDef = OpDef {
    name: "feature_scaler",
    doc: "(x - offset) * scale, per feature",
    onnx: &[ml("Scaler", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("offset", AttrKind::Floats), attr("scale", AttrKind::Floats)],
    traits: PLAIN,
    infer: infer_scaler,
    content: None,
    eval: eval_scaler,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_scaler,
};

static IMPUTER: OpDef = OpDef {
    name: "imputer",
    doc: "elements equal to one value are replaced by another, per feature",
    onnx: &[ml("Imputer", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("imputed_value_floats", AttrKind::Floats),
        attr("imputed_value_int64s", AttrKind::Ints),
        attr("replaced_value_float", AttrKind::Float),
        attr("replaced_value_int64", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_imputer,
    content: None,
    eval: eval_imputer,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_imputer,
};

static NORMALIZER: OpDef = OpDef {
    name: "normalizer",
    doc: "each row divided by its maximum, sum of magnitudes or length",
    onnx: &[ml("Normalizer", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("norm", AttrKind::Str)],
    traits: PLAIN,
    infer: infer_normalizer,
    content: None,
    eval: eval_normalizer,
    scalar: None,
    data: None,
    work: work_elementwise,
    sample: sample_normalizer,
};

/// The operand's type, which must be numeric.
fn numeric<'a>(ctx: &InferCtx<'a>) -> Result<&'a Type, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, ML_NUMBERS)?;
    Ok(x)
}

fn infer_binarizer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    Ok(vec![numeric(ctx)?.clone()])
}

fn eval_binarizer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_binarizer)?;
    let threshold = f64::from(ctx.attrs.float_or("threshold", 0.0));
    let above = |v: f64| f64::from(u8::from(v > threshold));
    let y: Vec<f64> = tensor(ctx, 0)?.to_f64s().into_iter().map(above).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Checks a list that is for all features, or for each feature one.
fn fits_features(x: &Type, n: usize, name: &str) -> Result<(), Diag> {
    let features = x.shape.last().and_then(partita_ir::Dim::as_known);
    if n == 1 || (n > 1 && x.rank() > 0 && features.is_none_or(|f| f == n as i64)) {
        return Ok(());
    }
    Err(type_error(format!("{name} has {n} elements, the operand is {x}"))
        .hint("there must be one element, or one for each feature"))
}

/// A list for features, `default` when it is not stated.
fn per_feature(attrs: &Attrs, name: &str, default: f64) -> Vec<f64> {
    floats(attrs, name).filter(|v| !v.is_empty()).unwrap_or_else(|| vec![default])
}

fn infer_scaler(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = numeric(ctx)?;
    fits_features(x, per_feature(ctx.attrs, "offset", 0.0).len(), "offset")?;
    fits_features(x, per_feature(ctx.attrs, "scale", 1.0).len(), "scale")?;
    Ok(vec![Type::new(DType::F32, x.shape.clone())])
}

fn eval_scaler(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_scaler)?;
    let (offset, scale) = (per_feature(ctx.attrs, "offset", 0.0), per_feature(ctx.attrs, "scale", 1.0));
    let scaled = |(i, x): (usize, f64)| (x - offset[i % offset.len()]) * scale[i % scale.len()];
    let y: Vec<f64> = tensor(ctx, 0)?.to_f64s().into_iter().enumerate().map(scaled).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The values that are put in, as many as there are.
fn n_imputed(attrs: &Attrs, dtype: DType) -> usize {
    if dtype.is_float() {
        floats(attrs, "imputed_value_floats").map_or(0, |v| v.len())
    } else {
        attrs.ints("imputed_value_int64s").map_or(0, |v| v.len())
    }
}

fn infer_imputer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = numeric(ctx)?;
    match n_imputed(ctx.attrs, x.dtype) {
        0 => Err(attr_error(format!("the imputer has no values for {}", x.dtype.name()))
            .hint("state imputed_value_floats for floats, imputed_value_int64s for integers")),
        n => {
            fits_features(x, n, "the list of imputed values")?;
            Ok(vec![x.clone()])
        }
    }
}

fn eval_imputer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_imputer)?;
    let x = tensor(ctx, 0)?;
    if dtype.is_float() {
        let values = floats(ctx.attrs, "imputed_value_floats").unwrap_or_default();
        let replaced = f64::from(ctx.attrs.float_or("replaced_value_float", 0.0));
        let same = |v: f64| v == replaced || (v.is_nan() && replaced.is_nan());
        let new = |(i, v): (usize, f64)| if same(v) { values[i % values.len()] } else { v };
        let y: Vec<f64> = x.to_f64s().into_iter().enumerate().map(new).collect();
        return Ok(vec![from_f64s(dtype, &shape, &y)?]);
    }
    let values = ctx.attrs.ints("imputed_value_int64s").unwrap_or_default();
    let replaced = ctx.attrs.int_or("replaced_value_int64", 0);
    let new = |(i, v): (usize, i64)| if v == replaced { values[i % values.len()] } else { v };
    let y: Vec<i64> = x.to_i64s().into_iter().enumerate().map(new).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

/// What a row is divided by.
#[derive(Clone, Copy)]
enum Norm {
    Max,
    L1,
    L2,
}

impl Norm {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        match attrs.str("norm").unwrap_or("MAX") {
            "MAX" => Ok(Self::Max),
            "L1" => Ok(Self::L1),
            "L2" => Ok(Self::L2),
            other => Err(attr_error(format!("norm {other} is unknown"))),
        }
    }

    fn of(self, row: &[f64]) -> f64 {
        match self {
            Self::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Self::L1 => row.iter().map(|v| v.abs()).sum(),
            Self::L2 => row.iter().map(|v| v * v).sum::<f64>().sqrt(),
        }
    }
}

fn infer_normalizer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = numeric(ctx)?;
    crate::ml_common::row_dims(x)?;
    Norm::read(ctx.attrs)?;
    Ok(vec![Type::new(DType::F32, x.shape.clone())])
}

fn eval_normalizer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_normalizer)?;
    let norm = Norm::read(ctx.attrs)?;
    let mut y = Vec::with_capacity(shape.iter().product());
    for row in Rows::new(tensor(ctx, 0)?).iter() {
        let divisor = norm.of(row);
        y.extend(row.iter().map(|v| if divisor == 0.0 { *v } else { v / divisor }));
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_binarizer(rng: &mut Rng) -> Sample {
    let threshold = rng.float(-2.0, 2.0) as f32;
    let x = sample_rows(rng, 3);
    Sample { attrs: Attrs::new().with("threshold", threshold), ..sample_of(vec![x]) }
}

fn sample_scaler(rng: &mut Rng) -> Sample {
    let width = 1 + rng.below(4);
    let n = if rng.below(2) == 0 { 1 } else { width };
    let attrs = Attrs::new().with("offset", sample_floats(rng, n)).with("scale", sample_floats(rng, n));
    Sample { attrs, ..sample_of(vec![sample_rows(rng, width)]) }
}

fn sample_imputer(rng: &mut Rng) -> Sample {
    let width = 1 + rng.below(4);
    let n = if rng.below(2) == 0 { 1 } else { width };
    let x = sample_rows(rng, width);
    let attrs = if x.dtype().is_float() {
        let replaced = if rng.below(2) == 0 { f32::NAN } else { 0.0 };
        Attrs::new()
            .with("imputed_value_floats", sample_floats(rng, n))
            .with("replaced_value_float", replaced)
    } else {
        let values: Vec<i64> = (0..n).map(|_| rng.int(-9, 9)).collect();
        Attrs::new().with("imputed_value_int64s", values).with("replaced_value_int64", rng.int(-2, 2))
    };
    Sample { attrs, ..sample_of(vec![x]) }
}

fn sample_normalizer(rng: &mut Rng) -> Sample {
    let width = 1 + rng.below(4);
    let norm = *rng.pick(&["MAX", "L1", "L2"]);
    Sample { attrs: Attrs::new().with("norm", norm), ..sample_of(vec![sample_rows(rng, width)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &OpDef, attrs: Attrs, x: &Tensor) -> Vec<f64> {
        let y = (op.eval)(&EvalCtx { attrs: &attrs, inputs: &[Some(x)], n_outputs: 1 }).unwrap();
        y[0].to_f64s()
    }

    #[test]
    fn missing_values_are_found() {
        let x = Tensor::from_slice(&[2, 2], &[f32::NAN, 1.0, 2.0, f32::NAN]).unwrap();
        let attrs = Attrs::new()
            .with("imputed_value_floats", vec![7.0f32, 8.0])
            .with("replaced_value_float", f32::NAN);
        assert_eq!(run(&IMPUTER, attrs, &x), [7.0, 1.0, 2.0, 8.0]);
    }

    #[test]
    fn a_row_of_zeros_stays() {
        let x = Tensor::from_slice(&[2, 2], &[0i64, 0, 3, -4]).unwrap();
        for (norm, want) in [("MAX", [1.0, -4.0 / 3.0]), ("L1", [3.0 / 7.0, -4.0 / 7.0]), ("L2", [0.6, -0.8])]
        {
            let y = run(&NORMALIZER, Attrs::new().with("norm", norm), &x);
            assert_eq!(y[..2], [0.0, 0.0]);
            assert!((y[2] - want[0]).abs() < 1e-6 && (y[3] - want[1]).abs() < 1e-6, "{norm} {y:?}");
        }
    }
}
