//! Words as the strongest responses to windows of their characters.

use crate::common::{PLAIN, attr, exactly, from_f64s, index_error, input, tensor, type_error, work};
use crate::contrib_common::{ms, want_dtype};
use crate::eval::{result, same_dim, same_dtypes, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&WORD_CONV_EMBEDDING];

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
