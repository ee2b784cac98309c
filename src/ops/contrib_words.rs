//! Words as the strongest responses to windows of their characters, and maximum pooling that ends at a mask.

use crate::common::{
    PLAIN, attr, exactly, from_f64s, index_error, indices, input, required, tensor, type_error, work,
};
use crate::contrib_common::{ms, want_dtype};
use crate::conv::sample_window;
use crate::eval::{may_equal, result, same_dim, same_dtypes, want_float};
use crate::pool::geometry;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MASKED_MAX_POOL, &WORD_CONV_EMBEDDING];

static WORD_CONV_EMBEDDING: OpDef = OpDef {
    name: "word_conv_embedding",
    doc: "for each word the greatest tanh(window * w + b) over the windows of its characters' embeddings.",
    onnx: &[ms("WordConvEmbedding")],
    inputs: exactly(4),
    outputs: exactly(1),
    attrs: &[
        attr("char_embedding_size", AttrKind::Int),
        attr("conv_window_size", AttrKind::Int),
        attr("embedding_size", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_words,
    content: None,
    eval: eval_words,
    scalar: None,
    data: None,
    work: work_words,
    sample: sample_words,
};

static MASKED_MAX_POOL: OpDef = OpDef {
    name: "masked_max_pool",
    doc: "maximum under a sliding window, each of whose lines ends at the first zero of the mask.",
    onnx: &[ms("MaxpoolWithMask")],
    inputs: exactly(2),
    attrs: &[
        attr("auto_pad", AttrKind::Str),
        required("kernel_shape", AttrKind::Ints),
        attr("pads", AttrKind::Ints),
        attr("storage_order", AttrKind::Int),
        attr("strides", AttrKind::Ints),
    ],
    infer: infer_masked,
    eval: eval_masked,
    work: |ctx| {
        let volume: f64 =
            ctx.attrs.ints("kernel_shape").unwrap_or_default().iter().map(|&k| k as f64).product();
        work(ctx, volume * crate::common::n_out(ctx), WorkKind::Vector)
    },
    sample: sample_masked,
    ..WORD_CONV_EMBEDDING
};

/// Operands: characters [words, length], weight [filters, 1, window, features], bias, embeddings of characters.
fn infer_words(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_dtype(ctx, 0, DType::I32)?;
    let dtype = same_dtypes(ctx, 1..4)?;
    want_float(dtype)?;
    let (words, weight, table) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 3)?);
    let ([lines, length], [filters, one, window, features], [_, features_again]) =
        (words.shape.as_slice(), weight.shape.as_slice(), table.shape.as_slice())
    else {
        let text =
            format!("words {words}, weight {weight} and table {table} must have 2, 4 and 2 dimensions");
        return Err(type_error(text));
    };
    if one.as_known().is_some_and(|d| d != 1) || window.is(0) {
        return Err(type_error(format!("the weight must be [filters, 1, window, features], it is {weight}")));
    }
    same_dim(features, features_again, "the features of weight and table")?;
    match input(ctx, 2)?.shape.as_slice() {
        [d] => same_dim(d, filters, "bias and filters")?,
        _ => return Err(type_error("the bias must be a vector")),
    }
    if let (Some(window), Some(length)) = (window.as_known(), length.as_known())
        && window > length
    {
        return Err(type_error(format!("a window of {window} characters is longer than words of {length}")));
    }
    Ok(vec![Type::new(dtype, [lines.clone(), filters.clone()])])
}

fn eval_words(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_words)?;
    let (words, weight, table) = (tensor(ctx, 0)?, tensor(ctx, 1)?, tensor(ctx, 3)?);
    let (length, window) = (words.shape()[1], weight.shape()[2]);
    let (entries, features) = (table.shape()[0], table.shape()[1]);
    let (ids, w, table) = (words.to_i64s(), weight.to_f64s(), table.to_f64s());
    let bias = tensor(ctx, 2)?.to_f64s();
    let mut y = vec![0.0; shape[0] * shape[1]];
    for (word, out) in ids.chunks(length.max(1)).zip(y.chunks_mut(shape[1].max(1))) {
        let used = word.iter().take_while(|c| **c > 0).count();
        if used == 0 {
            continue;
        }
        let mut line = Vec::with_capacity(length * features);
        for &c in &word[..used.max(window)] {
            let c =
                usize::try_from(c).ok().filter(|c| *c < entries).ok_or_else(|| index_error(c, entries))?;
            line.extend(&table[c * features..(c + 1) * features]);
        }
        for (n, slot) in out.iter_mut().enumerate() {
            let filter = &w[n * window * features..(n + 1) * window * features];
            let response = |at: usize| {
                let sum: f64 = line[at * features..].iter().zip(filter).map(|(a, b)| a * b).sum();
                libm::tanh(sum + bias[n])
            };
            *slot = (0..=used.max(window) - window).map(response).fold(f64::NEG_INFINITY, f64::max);
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn work_words(ctx: &WorkCtx) -> Work {
    let length = ctx.inputs.first().and_then(Option::as_ref).map_or(0.0, |(_, s)| s[1] as f64);
    let filter: f64 = ctx.inputs.get(1).and_then(Option::as_ref).map_or(0.0, |(_, s)| (s[2] * s[3]) as f64);
    work(ctx, 2.0 * length * filter * crate::common::n_out(ctx), WorkKind::Dense)
}

fn sample_words(rng: &mut Rng) -> Sample {
    let (words, window, features, filters) =
        (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
    let length = window + rng.below(4);
    let inputs = vec![
        Some(rng.tensor(DType::I32, &[words, length], 0.0, 5.0)),
        Some(rng.tensor(DType::F32, &[filters, 1, window, features], -1.0, 1.0)),
        Some(rng.tensor(DType::F32, &[filters], -1.0, 1.0)),
        Some(rng.tensor(DType::F32, &[6, features], -1.0, 1.0)),
    ];
    Sample { attrs: Attrs::new(), inputs, n_outputs: 1 }
}

fn infer_masked(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, mask) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(x.dtype)?;
    want_dtype(ctx, 1, DType::I32)?;
    let geometry = geometry(ctx.attrs, x.rank())?;
    let fits =
        mask.rank() == x.rank() && mask.shape[2..].iter().zip(&x.shape[2..]).all(|(a, b)| may_equal(a, b));
    if !fits || mask.shape[..2].iter().any(|d| d.is(0)) {
        return Err(type_error(format!("the mask {mask} does not fit the data {x}")));
    }
    let mut shape = x.shape[..2].to_vec();
    shape.extend(geometry.outputs(&x.shape[2..])?);
    Ok(vec![Type::new(x.dtype, shape)])
}

fn eval_masked(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_masked)?;
    let (x, mask) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let window = geometry(ctx.attrs, x.rank())?.window(&x.shape()[2..], &shape[2..]);
    let spatial: usize = x.shape()[2..].iter().product();
    let row = x.shape()[x.rank() - 1].max(1);
    let mask_channels = mask.shape()[0] * mask.shape()[1];
    let (values, mask) = (x.to_f64s(), mask.to_i64s());
    let mut y = Vec::with_capacity(shape.iter().product());
    for channel in 0..shape[0] * shape[1] {
        let plane = &values[channel * spatial..(channel + 1) * spatial];
        let masked = &mask[channel % mask_channels * spatial..][..spatial];
        for at in indices(&shape[2..]) {
            let mut best = f64::from(f32::MIN);
            let mut ended = None;
            for tap in window.taps(&at) {
                let line = tap.element / row;
                // The first element counts whatever the mask says.
                if ended == Some(line) || tap.element > 0 && masked[tap.element] == 0 {
                    ended = Some(line);
                } else if plane[tap.element] > best {
                    best = plane[tap.element];
                }
            }
            y.push(best);
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_masked(rng: &mut Rng) -> Sample {
    let spatial = 1 + rng.below(3);
    let kernel: Vec<i64> = (0..spatial).map(|_| rng.int(1, 3)).collect();
    let mut attrs = sample_window(rng, &kernel).with("kernel_shape", kernel);
    attrs.remove("dilations");
    let mut shape = vec![1 + rng.below(2), 1 + rng.below(2)];
    shape.extend((0..spatial).map(|_| 5 + rng.below(3)));
    let inputs =
        vec![Some(rng.tensor(DType::F32, &shape, -3.0, 3.0)), Some(rng.tensor(DType::I32, &shape, 0.0, 1.0))];
    Sample { attrs, inputs, n_outputs: 1 }
}
