//! The reverse of sliding windows: `col2im` adds blocks up into an image, `max_unpool` puts maxima back.

use crate::common::{
    PLAIN, attr, attr_error, between, data_dependent, exactly, from_f64s, from_i64s, index_error, indices,
    input, onnx, required, tensor, type_error, work,
};
use crate::eval::{MAX_EVAL_ELEMENTS, optional_type, result, same_dim};
use crate::samples::{float, list, number, values};
use crate::shapes::{list_len, or_unknown, unknown_type};
use crate::window::Geometry;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&COL2IM, &MAX_UNPOOL];

static COL2IM: OpDef = OpDef {
    name: "col2im",
    doc: "Adds up blocks of an image, one a column, where a sliding window would have cut them out.",
    onnx: &[onnx("Col2Im", 18)],
    inputs: exactly(3),
    outputs: exactly(1),
    attrs: &[
        attr("dilations", AttrKind::Ints),
        attr("pads", AttrKind::Ints),
        attr("strides", AttrKind::Ints),
    ],
    traits: PLAIN,
    infer: infer_col2im,
    content: None,
    eval: eval_col2im,
    scalar: None,
    data: None,
    work: |c| {
        let n = c.inputs.first().and_then(Option::as_ref).and_then(|(_, s)| n_elements(s)).unwrap_or(0);
        work(c, n as f64, WorkKind::Vector)
    },
    sample: sample_col2im,
};

static MAX_UNPOOL: OpDef = OpDef {
    name: "max_unpool",
    doc: "Puts each element of a pooled tensor where its index says; zero everywhere else.",
    onnx: &[onnx("MaxUnpool", 9)],
    inputs: between(2, 3),
    attrs: &[
        required("kernel_shape", AttrKind::Ints),
        attr("pads", AttrKind::Ints),
        attr("strides", AttrKind::Ints),
    ],
    infer: infer_unpool,
    eval: eval_unpool,
    work: crate::common::work_move,
    sample: sample_unpool,
    ..COL2IM
};

/// What the operands of `col2im` say.
struct Blocks {
    geometry: Geometry,
    image: Vec<Dim>,
    /// Elements of a block.
    volume: i64,
}

fn blocks(ctx: &InferCtx) -> Result<Blocks, Diag> {
    let image = crate::content::dims(ctx, 1).ok_or_else(data_dependent)?;
    let block = crate::content::dims(ctx, 2).ok_or_else(data_dependent)?;
    let block: Option<Vec<i64>> = block.iter().map(Dim::as_known).collect();
    let block = block.ok_or_else(data_dependent)?;
    if block.len() != image.len() || image.is_empty() {
        let text = format!("the image has {} axes, the block {}", image.len(), block.len());
        return Err(attr_error(text).hint("image_shape and block_shape have one entry an axis"));
    }
    if image.iter().any(|d| d.as_known().is_some_and(|d| d < 0)) {
        return Err(attr_error("a size of the image is negative"));
    }
    let geometry = Geometry::read(ctx.attrs, block)?;
    let volume = geometry.kernel.iter().product();
    Ok(Blocks { geometry, image, volume })
}

fn infer_col2im(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_col2im(ctx), || {
        let mut types = unknown_type(ctx, list_len(ctx, 1)? + 2)?;
        types[0].shape[0] = input(ctx, 0).ok()?.shape.first()?.clone();
        Some(types)
    })
}

fn exact_col2im(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    if x.dtype == DType::Str {
        return Err(type_error("text cannot be added up"));
    }
    let Blocks { geometry, image, volume } = blocks(ctx)?;
    if x.rank() != 3 {
        return Err(
            type_error(format!("the columns are {x}")).hint("[batch, channels * block, blocks] is wanted")
        );
    }
    let count = geometry.outputs(&image)?.into_iter().fold(Dim::known(1), |n, d| n * d);
    same_dim(&x.shape[2], &count, "numbers of columns and of blocks in the image")?;
    let volume = Dim::known(volume);
    if let (Some(c), Some(v)) = (x.shape[1].as_known(), volume.as_known())
        && c % v != 0
    {
        return Err(type_error(format!("{c} rows do not divide into blocks of {v} elements")));
    }
    let mut shape = vec![x.shape[0].clone(), x.shape[1].floor_div(&volume)];
    shape.extend(image);
    Ok(vec![Type::new(x.dtype, shape)])
}

/// For every element of a column block, in order, where it goes in the image; none in the pads.
fn places(ctx: &EvalCtx, image: &[usize]) -> Result<Vec<(usize, usize)>, Diag> {
    let geometry = Geometry::read(ctx.attrs, tensor(ctx, 2)?.to_i64s())?;
    let dims: Vec<Dim> = image.iter().map(|&d| d.into()).collect();
    let out: Option<Vec<usize>> =
        geometry.outputs(&dims)?.iter().map(|d| usize::try_from(d.as_known()?).ok()).collect();
    let out = out.ok_or_else(|| type_error("the number of blocks is not known"))?;
    let (window, n_blocks) = (geometry.window(image, &out), out.iter().product::<usize>());
    let mut places = Vec::new();
    for (n, at) in indices(&out).enumerate() {
        places.extend(window.taps(&at).iter().map(|t| (t.weight * n_blocks + n, t.element)));
    }
    Ok(places)
}

fn eval_col2im(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_col2im)?;
    let x = tensor(ctx, 0)?;
    let places = places(ctx, &shape[2..])?;
    let n_images = shape[0] * shape[1];
    let (from, to) = (x.n_elements() / n_images.max(1), shape[2..].iter().product::<usize>());
    if dtype.is_float() {
        let v = x.to_f64s();
        let mut y = vec![0.0; n_images * to];
        for n in 0..n_images {
            places.iter().for_each(|&(i, o)| y[n * to + o] += v[n * from + i]);
        }
        return Ok(vec![from_f64s(dtype, &shape, &y)?]);
    }
    let v = x.to_i64s();
    let mut y = vec![0i64; n_images * to];
    for n in 0..n_images {
        places.iter().for_each(|&(i, o)| y[n * to + o] = y[n * to + o].wrapping_add(v[n * from + i]));
    }
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn sample_col2im(rng: &mut Rng) -> Sample {
    let axes = 1 + rng.below(3);
    let block: Vec<i64> = (0..axes).map(|_| rng.int(1, 3)).collect();
    let image: Vec<i64> = block.iter().map(|b| 2 * b + rng.int(0, 3)).collect();
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("strides", (0..axes).map(|_| rng.int(1, 2)).collect::<Vec<i64>>());
    }
    if rng.below(2) == 0 {
        attrs.set("pads", (0..2 * axes).map(|_| rng.int(0, 1)).collect::<Vec<i64>>());
    }
    if rng.below(2) == 0 {
        attrs.set("dilations", (0..axes).map(|_| rng.int(1, 2)).collect::<Vec<i64>>());
    }
    let volume: i64 = block.iter().product();
    let dims: Vec<Dim> = image.iter().map(|&d| d.into()).collect();
    let count = Geometry::read(&attrs, block.clone()).and_then(|g| g.outputs(&dims));
    let count: i64 = count.unwrap_or_default().iter().filter_map(Dim::as_known).product();
    let shape = [1 + rng.below(2), volume as usize * (1 + rng.below(2)), usize::try_from(count).unwrap_or(0)];
    let dtype = number(rng);
    let inputs = vec![Some(values(rng, dtype, &shape)), Some(list(&image)), Some(list(&block))];
    Sample { attrs, inputs, n_outputs: 1 }
}

/// The shape of what was pooled, as far as the pooled shape tells.
fn unpooled(ctx: &InferCtx) -> Result<Vec<Dim>, Diag> {
    let x = input(ctx, 0)?;
    let kernel = ctx.attrs.ints("kernel_shape").ok_or_else(|| attr_error("kernel_shape is missing"))?;
    if x.rank() < 3 || kernel.len() != x.rank() - 2 {
        let text = format!("kernel_shape has {} entries, data of rank {} is given", kernel.len(), x.rank());
        return Err(attr_error(text).hint("the layout is [batch, channels, spatial...]"));
    }
    let g = Geometry::read(ctx.attrs, kernel)?;
    let mut shape = x.shape[..2].to_vec();
    for (axis, dim) in x.shape[2..].iter().enumerate() {
        let fixed = g.kernel[axis] - g.begin[axis] - g.end[axis];
        let size = (dim.clone() - Dim::known(1)) * Dim::known(g.strides[axis]) + Dim::known(fixed);
        if size.as_known().is_some_and(|s| s < 0) {
            return Err(attr_error("the pads are larger than the result"));
        }
        shape.push(size);
    }
    Ok(shape)
}

fn infer_unpool(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_unpool(ctx), || unknown_type(ctx, input(ctx, 0).ok()?.rank()))
}

fn exact_unpool(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, index) = (input(ctx, 0)?, input(ctx, 1)?);
    if index.dtype != DType::I64 || index.rank() != x.rank() {
        return Err(type_error(format!("the data is {x}, the indices are {index}"))
            .hint("indices are i64 and have the shape of the data"));
    }
    for (a, b) in x.shape.iter().zip(&index.shape) {
        same_dim(a, b, "sizes of data and indices")?;
    }
    let least = unpooled(ctx)?;
    if optional_type(ctx, 2).is_none() {
        return Ok(vec![Type::new(x.dtype, least)]);
    }
    let shape = crate::content::dims(ctx, 2).ok_or_else(data_dependent)?;
    let fits = shape.len() == least.len()
        && shape.iter().zip(&least).all(|(s, l)| match (s.as_known(), l.as_known()) {
            (Some(s), Some(l)) => s >= l,
            (Some(s), None) => s >= 0,
            _ => true,
        });
    if fits {
        return Ok(vec![Type::new(x.dtype, shape)]);
    }
    Err(attr_error("output_shape is smaller than what was pooled").hint("check output_shape and pads"))
}

fn eval_unpool(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_unpool)?;
    let x = tensor(ctx, 0)?;
    // The indices count within the shape that kernel, strides and pads give; a larger output_shape adds zeros
    // behind it.
    let least = crate::shapes::result_shape(ctx, |c| Ok(vec![Type::new(input(c, 0)?.dtype, unpooled(c)?)]))?;
    let strides = crate::common::strides(&shape);
    let n = n_elements(&least).filter(|&n| n <= MAX_EVAL_ELEMENTS).unwrap_or(0);
    let size = dtype.size_bytes();
    let mut bytes = vec![0u8; n_elements(&shape).unwrap_or(0) * size];
    for (element, index) in x.bytes().chunks_exact(size).zip(tensor(ctx, 1)?.to_i64s()) {
        let mut rest = usize::try_from(index).ok().filter(|&i| i < n).ok_or_else(|| index_error(index, n))?;
        let mut at = 0;
        for (dim, stride) in least.iter().zip(&strides).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        bytes[at * size..(at + 1) * size].copy_from_slice(element);
    }
    Ok(vec![crate::elements::from_bytes(dtype, &shape, bytes)?])
}

fn sample_unpool(rng: &mut Rng) -> Sample {
    let axes = 1 + rng.below(3);
    let kernel: Vec<i64> = (0..axes).map(|_| rng.int(1, 3)).collect();
    let mut shape = vec![1 + rng.below(2), 1 + rng.below(2)];
    shape.extend((0..axes).map(|_| 1 + rng.below(3)));
    let spatial = kernel.iter().zip(&shape[2..]).map(|(k, &d)| (d as i64 - 1) * k + k);
    let full: Vec<i64> = shape[..2].iter().map(|&d| d as i64).chain(spatial).collect();
    let (n, n_full): (usize, i64) = (shape.iter().product(), full.iter().product());
    let index: Vec<i64> = (0..n).map(|_| rng.int(0, n_full - 1)).collect();
    let dtype = float(rng);
    let mut inputs = vec![Some(values(rng, dtype, &shape)), Tensor::from_slice(&shape, &index)];
    if rng.below(2) == 0 {
        let wider: Vec<i64> =
            full.iter().enumerate().map(|(a, &d)| d + i64::from(a > 1) * rng.int(0, 2)).collect();
        inputs.push(Some(list(&wider)));
    }
    let attrs = Attrs::new().with("strides", kernel.clone()).with("kernel_shape", kernel);
    Sample { attrs, inputs, n_outputs: 1 }
}
