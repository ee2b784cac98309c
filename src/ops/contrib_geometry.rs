//! Distances, crops and inverses of matrices.

use crate::common::{
    PLAIN, attr, attr_error, exactly, from_f64s, index_error, indices, input, tensor, type_error,
    unsupported, work,
};
use crate::contrib_common::{ms, want_dtype};
use crate::eval::{result, same_dim, same_dtypes, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CDIST, &CROP_AND_RESIZE, &INVERSE];

static CDIST: OpDef = OpDef {
    name: "cdist",
    doc: "the distance of every row of a [M, N] to every row of b [K, N].",
    onnx: &[ms("CDist")],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[attr("metric", AttrKind::Str)],
    traits: PLAIN,
    infer: infer_cdist,
    content: None,
    eval: eval_cdist,
    scalar: None,
    data: None,
    work: |ctx| {
        let n = ctx.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| s.last().copied());
        work(ctx, 3.0 * n.unwrap_or(0) as f64 * crate::common::n_out(ctx), WorkKind::Vector)
    },
    sample: sample_cdist,
};

static CROP_AND_RESIZE: OpDef = OpDef {
    name: "crop_and_resize",
    doc: "boxes of images [N, C, H, W], each resized to one size, bilinear or nearest, corners aligned.",
    onnx: &[ms("CropAndResize")],
    inputs: exactly(4),
    attrs: &[attr("extrapolation_value", AttrKind::Float), attr("mode", AttrKind::Str)],
    infer: infer_crop,
    eval: eval_crop,
    work: |ctx| work(ctx, 8.0 * crate::common::n_out(ctx), WorkKind::Vector),
    sample: sample_crop,
    ..CDIST
};

static INVERSE: OpDef = OpDef {
    name: "inverse",
    doc: "the inverse of every square matrix over the last two axes.",
    onnx: &[ms("Inverse")],
    inputs: exactly(1),
    attrs: &[],
    infer: infer_inverse,
    eval: eval_inverse,
    work: |ctx| {
        let n = ctx.outputs.first().and_then(|(_, s)| s.last().copied()).unwrap_or(0);
        work(ctx, 2.0 * n as f64 * crate::common::n_out(ctx), WorkKind::Vector)
    },
    sample: sample_inverse,
    ..CDIST
};

/// Whether distances are squared.
fn squared(attrs: &Attrs) -> Result<bool, Diag> {
    match attrs.str("metric") {
        None | Some("sqeuclidean") => Ok(true),
        Some("euclidean") => Ok(false),
        Some(other) => Err(unsupported(format!("the metric {other:?} is not supported"))
            .hint("supported are \"euclidean\" and \"sqeuclidean\"")),
    }
}

fn infer_cdist(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    squared(ctx.attrs)?;
    let dtype = same_dtypes(ctx, 0..2)?;
    want_float(dtype)?;
    let (a, b) = (input(ctx, 0)?, input(ctx, 1)?);
    let ([m, n], [k, n_again]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(type_error(format!("the operands must be matrices, they are {a} and {b}")));
    };
    same_dim(n, n_again, "the widths of both operands")?;
    Ok(vec![Type::new(dtype, [m.clone(), k.clone()])])
}

fn eval_cdist(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_cdist)?;
    let squared = squared(ctx.attrs)?;
    let n = tensor(ctx, 0)?.shape()[1];
    let (a, b) = (tensor(ctx, 0)?.to_f64s(), tensor(ctx, 1)?.to_f64s());
    let distance = |at: Vec<usize>| {
        let (x, y) = (&a[at[0] * n..(at[0] + 1) * n], &b[at[1] * n..(at[1] + 1) * n]);
        let sum: f64 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
        if squared { sum } else { sum.sqrt() }
    };
    let y: Vec<f64> = indices(&shape).map(distance).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_cdist(rng: &mut Rng) -> Sample {
    let [m, k, n] = [(); 3].map(|()| 1 + rng.below(4));
    let dtype = *rng.pick(&[DType::F32, DType::F64]);
    let mut attrs = Attrs::new();
    if rng.below(3) > 0 {
        attrs.set("metric", *rng.pick(&["euclidean", "sqeuclidean"]));
    }
    let inputs =
        vec![Some(rng.tensor(dtype, &[m, n], -3.0, 3.0)), Some(rng.tensor(dtype, &[k, n], -3.0, 3.0))];
    Sample { attrs, inputs, n_outputs: 1 }
}

/// Whether crops take the nearest element.
fn nearest(attrs: &Attrs) -> Result<bool, Diag> {
    match attrs.str("mode") {
        None | Some("bilinear") => Ok(false),
        Some("nearest") => Ok(true),
        Some(other) => Err(attr_error(format!("mode is {other:?}")).hint("use \"bilinear\" or \"nearest\"")),
    }
}

/// Operands: images, boxes, the image of each box, the size of all crops.
fn infer_crop(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    nearest(ctx.attrs)?;
    let dtype = same_dtypes(ctx, 0..2)?;
    want_float(dtype)?;
    want_dtype(ctx, 2, DType::I32)?;
    want_dtype(ctx, 3, DType::I32)?;
    let (x, boxes) = (input(ctx, 0)?, input(ctx, 1)?);
    let ([_, channels, _, _], [n, four]) = (x.shape.as_slice(), boxes.shape.as_slice()) else {
        return Err(type_error(format!("images {x} must have 4 dimensions, boxes {boxes} must have 2")));
    };
    same_dim(four, &Dim::known(4), "the coordinates of a box")?;
    match input(ctx, 2)?.shape.as_slice() {
        [n_again] => same_dim(n, n_again, "the numbers of boxes and of their images")?,
        _ => return Err(type_error("the images of the boxes must be a list")),
    }
    let sizes = crate::content::dims(ctx, 3).unwrap_or_else(|| vec![Dim::unknown(0, 2), Dim::unknown(0, 3)]);
    let [height, width] = sizes.as_slice() else {
        return Err(type_error("the size of the crops must be two numbers"));
    };
    if [height, width].iter().any(|d| d.as_known().is_some_and(|d| d < 1)) {
        return Err(type_error("the crops must have at least one row and one column"));
    }
    Ok(vec![Type::new(dtype, [n.clone(), channels.clone(), height.clone(), width.clone()])])
}

/// Where line `n` of `count` of a crop from `low` to `high` (fractions of the image) lies among `size` lines;
/// `None` outside of the image.
fn place(n: usize, count: usize, low: f32, high: f32, size: usize) -> Option<f32> {
    let last = size as f32 - 1.0;
    let at = if count > 1 {
        let step = (high - low) * last / (count as f32 - 1.0);
        low * last + n as f32 * step
    } else {
        0.5 * (low + high) * last
    };
    (0.0..=last).contains(&at).then_some(at)
}

/// The value of a plane of `width` columns between its elements.
fn interpolated(plane: &[f64], width: usize, y: f32, x: f32) -> f64 {
    let at = |y: f32, x: f32| plane[y as usize * width + x as usize];
    let (dy, dx) = (f64::from(y - y.floor()), f64::from(x - x.floor()));
    let row = |y: f32| at(y, x.floor()) + (at(y, x.ceil()) - at(y, x.floor())) * dx;
    let (top, bottom) = (row(y.floor()), row(y.ceil()));
    top + (bottom - top) * dy
}

fn eval_crop(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_crop)?;
    let x = tensor(ctx, 0)?;
    let (images, height, width) = (x.shape()[0], x.shape()[2], x.shape()[3]);
    let (values, boxes) = (x.to_f64s(), tensor(ctx, 1)?.to_f64s());
    let image_of = tensor(ctx, 2)?.to_i64s();
    let outside = f64::from(ctx.attrs.float_or("extrapolation_value", 0.0));
    let nearest = nearest(ctx.attrs)?;
    if let Some(bad) = image_of.iter().find(|i| !(0..images as i64).contains(*i)) {
        return Err(index_error(*bad, images));
    }
    let value = |at: Vec<usize>| {
        let corner = |n: usize| boxes[at[0] * 4 + n] as f32;
        let y = place(at[2], shape[2], corner(0), corner(2), height);
        let x = place(at[3], shape[3], corner(1), corner(3), width);
        let (Some(y), Some(x)) = (y, x) else { return outside };
        let plane = (image_of[at[0]] as usize * shape[1] + at[1]) * height * width;
        let plane = &values[plane..plane + height * width];
        if nearest {
            plane[y.round() as usize * width + x.round() as usize]
        } else {
            interpolated(plane, width, y, x)
        }
    };
    let y: Vec<f64> = indices(&shape).map(value).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_crop(rng: &mut Rng) -> Sample {
    let [images, channels, boxes] = [(); 3].map(|()| 1 + rng.below(3));
    let (height, width) = (1 + rng.below(6), 1 + rng.below(6));
    let size = [1 + rng.below(4) as i32, 1 + rng.below(4) as i32];
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("mode", *rng.pick(&["bilinear", "nearest"]));
        attrs.set("extrapolation_value", 7.0f32);
    }
    let inputs = vec![
        Some(rng.tensor(DType::F32, &[images, channels, height, width], -3.0, 3.0)),
        Some(rng.tensor(DType::F32, &[boxes, 4], -0.2, 1.2)),
        Some(rng.tensor(DType::I32, &[boxes], 0.0, images as f64 - 1.0)),
        Tensor::from_slice(&[2], &size),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}

fn infer_inverse(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let [.., rows, columns] = x.shape.as_slice() else {
        return Err(type_error(format!("the operand must hold matrices, it is {x}")));
    };
    same_dim(rows, columns, "rows and columns of a square matrix")?;
    Ok(vec![x.clone()])
}

/// The inverse of an n x n matrix by elimination with the largest pivot of each column.
fn inverse(matrix: &[f64], n: usize) -> Vec<f64> {
    let wide = 2 * n;
    let mut a = vec![0.0; n * wide];
    for (i, row) in matrix.chunks(n.max(1)).enumerate() {
        a[i * wide..i * wide + n].copy_from_slice(row);
        a[i * wide + n + i] = 1.0;
    }
    for column in 0..n {
        let size = |row: &usize| a[row * wide + column].abs();
        let pivot = (column..n).max_by(|x, y| size(x).total_cmp(&size(y))).unwrap_or(column);
        (0..wide).for_each(|j| a.swap(column * wide + j, pivot * wide + j));
        let factor = a[column * wide + column];
        a[column * wide..(column + 1) * wide].iter_mut().for_each(|v| *v /= factor);
        let lead = a[column * wide..(column + 1) * wide].to_vec();
        for row in (0..n).filter(|&row| row != column) {
            let factor = a[row * wide + column];
            a[row * wide..(row + 1) * wide].iter_mut().zip(&lead).for_each(|(v, l)| *v -= factor * l);
        }
    }
    a.chunks(wide.max(1)).flat_map(|row| row[n..].to_vec()).collect()
}

fn eval_inverse(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_inverse)?;
    let n = shape[shape.len() - 1];
    let x = tensor(ctx, 0)?.to_f64s();
    let y: Vec<f64> = x.chunks((n * n).max(1)).flat_map(|m| inverse(m, n)).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_inverse(rng: &mut Rng) -> Sample {
    let (n, dtype) = (1 + rng.below(4), *rng.pick(&[DType::F32, DType::F64, DType::F16]));
    let batch: Vec<usize> = crate::samples::shape(rng).into_iter().take(2).collect();
    let shape: Vec<usize> = batch.into_iter().chain([n, n]).collect();
    let mut values = rng.tensor(DType::F64, &shape, -1.0, 1.0).to_f64s();
    // A heavy diagonal keeps the matrices far from singular.
    values.iter_mut().enumerate().filter(|(i, _)| i % (n * n) % (n + 1) == 0).for_each(|(_, v)| *v += 4.0);
    let x = Tensor::from_f64s(dtype, &shape, &values);
    Sample { attrs: Attrs::new(), inputs: vec![x], n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::inverse;

    #[test]
    fn a_zero_on_the_diagonal_is_no_obstacle() {
        assert_eq!(inverse(&[0.0, 2.0, 4.0, 0.0], 2), [0.0, 0.25, 0.5, 0.0]);
        assert!(inverse(&[], 0).is_empty());
    }
}
