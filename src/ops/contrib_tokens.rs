//! Operators over lists of tokens: repeated n-grams, suffixes, hashes, and the cheapest path through a matrix.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_i64s, index_error, input, required, tensor, type_error,
    work, work_move,
};
use crate::contrib_common::{ms, want_dtype};
use crate::eval::{optional, optional_type, result, same_dim, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] =
    &[&BIFURCATION_DETECTOR, &DYNAMIC_TIME_WARPING, &MURMUR_HASH_3, &N_GRAM_REPEAT_BLOCK];

static N_GRAM_REPEAT_BLOCK: OpDef = OpDef {
    name: "n_gram_repeat_block",
    doc: "scores [B, V] with minus infinity for tokens that would repeat an n-gram of the tokens [B, L].",
    onnx: &[ms("NGramRepeatBlock")],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[required("ngram_size", AttrKind::Int)],
    traits: PLAIN,
    infer: infer_repeat,
    content: None,
    eval: eval_repeat,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_repeat,
};

static BIFURCATION_DETECTOR: OpDef = OpDef {
    name: "bifurcation_detector",
    doc: "tokens with those predicted up to the first that differs from the source, and where their suffix is.",
    onnx: &[ms("BifurcationDetector")],
    inputs: between(3, 4),
    outputs: exactly(2),
    attrs: &[attr("max_ngram_size", AttrKind::Int), attr("min_ngram_size", AttrKind::Int)],
    infer: infer_bifurcation,
    eval: eval_bifurcation,
    sample: sample_bifurcation,
    ..N_GRAM_REPEAT_BLOCK
};

static DYNAMIC_TIME_WARPING: OpDef = OpDef {
    name: "dynamic_time_warping",
    doc: "rows and columns of the cheapest path from the first to the last element of a matrix.",
    onnx: &[ms("DynamicTimeWarping")],
    inputs: exactly(1),
    attrs: &[],
    infer: infer_warping,
    eval: eval_warping,
    work: |ctx| {
        let n = ctx
            .inputs
            .first()
            .and_then(Option::as_ref)
            .map_or(0.0, |(_, s)| s.iter().map(|&d| d as f64).product::<f64>());
        work(ctx, 4.0 * n, WorkKind::Vector)
    },
    sample: |rng| {
        let mut shape = vec![1 + rng.below(5), 1 + rng.below(5)];
        if rng.below(2) == 0 {
            shape.insert(0, 1);
        }
        crate::common::sample_of(vec![rng.tensor(DType::F32, &shape, -2.0, 2.0)])
    },
    ..N_GRAM_REPEAT_BLOCK
};

static MURMUR_HASH_3: OpDef = OpDef {
    name: "murmur_hash_3",
    traits: crate::common::TEXT,
    doc: "the 32-bit MurmurHash3 of every element's bytes.",
    onnx: &[ms("MurmurHash3")],
    inputs: exactly(1),
    attrs: &[attr("positive", AttrKind::Int), attr("seed", AttrKind::Int)],
    infer: infer_hash,
    eval: eval_hash,
    work: |ctx| work(ctx, 20.0 * crate::common::n_out(ctx), WorkKind::Vector),
    sample: sample_hash,
    ..N_GRAM_REPEAT_BLOCK
};

fn infer_repeat(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_dtype(ctx, 0, DType::I64)?;
    let (tokens, scores) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(scores.dtype)?;
    let ([batch, _], [batch_again, _]) = (tokens.shape.as_slice(), scores.shape.as_slice()) else {
        return Err(type_error(format!(
            "tokens and scores must be matrices, they are {tokens} and {scores}"
        )));
    };
    same_dim(batch, batch_again, "the batches of tokens and scores")?;
    if ctx.attrs.int_or("ngram_size", 0) < 1 {
        return Err(attr_error("ngram_size must be 1 or more"));
    }
    Ok(vec![scores.clone()])
}

fn eval_repeat(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_repeat)?;
    let n = usize::try_from(ctx.attrs.int_or("ngram_size", 1)).unwrap_or(usize::MAX);
    let (tokens, words) = (tensor(ctx, 0)?, shape[1]);
    let length = tokens.shape()[1];
    let ids = tokens.to_i64s();
    let mut scores = tensor(ctx, 1)?.to_f64s();
    for (row, line) in ids.chunks(length.max(1)).enumerate() {
        if n > length {
            continue;
        }
        let suffix = &line[length + 1 - n..];
        for gram in line.windows(n).filter(|gram| gram[..n - 1] == *suffix) {
            let word = usize::try_from(gram[n - 1]).ok().filter(|w| *w < words);
            let word = word.ok_or_else(|| index_error(gram[n - 1], words))?;
            scores[row * words + word] = f64::NEG_INFINITY;
        }
    }
    Ok(vec![crate::common::from_f64s(dtype, &shape, &scores)?])
}

fn sample_repeat(rng: &mut Rng) -> Sample {
    let (batch, length) = (1 + rng.below(3), 1 + rng.below(8));
    let inputs = vec![
        Some(rng.tensor(DType::I64, &[batch, length], 0.0, 3.0)),
        Some(rng.tensor(DType::F32, &[batch, 4], -1.0, 1.0)),
    ];
    Sample { attrs: Attrs::new().with("ngram_size", rng.int(1, 4)), inputs, n_outputs: 1 }
}

/// Operands: source tokens, current tokens, where the last match ended, predicted tokens.
fn infer_bifurcation(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    for n in 0..ctx.inputs.len() {
        if optional_type(ctx, n).is_some() {
            want_dtype(ctx, n, DType::I64)?;
        }
    }
    for n in [0, 1, 3] {
        if optional_type(ctx, n).is_some_and(|t| t.rank() != 1) {
            return Err(type_error(format!("operand {n} must be a list of tokens")));
        }
    }
    let current = input(ctx, 1)?;
    let length = if optional_type(ctx, 3).is_some() { Dim::unknown(0, 0) } else { current.shape[0].clone() };
    Ok(vec![Type::new(DType::I64, [length]), Type::new(DType::I64, input(ctx, 2)?.shape.clone())])
}

/// Where `pattern` first occurs in `list` at or behind `from`.
fn find(list: &[i64], pattern: &[i64], from: usize) -> Option<usize> {
    let rest = list.get(from..)?;
    rest.windows(pattern.len().max(1)).position(|w| w == pattern).map(|at| from + at)
}

/// Behind the one place where the last tokens occur in the source, by the shortest n-gram that occurs once.
fn suffix_match(source: &[i64], tokens: &[i64], attrs: &Attrs) -> i64 {
    let (least, most) = (attrs.int_or("min_ngram_size", 1), attrs.int_or("max_ngram_size", 3));
    let sizes = (least.max(1)..=most).filter_map(|n| usize::try_from(n).ok());
    for n in sizes.take_while(|n| *n <= tokens.len()) {
        let gram = &tokens[tokens.len() - n..];
        let Some(at) = find(source, gram, 0) else { return -1 };
        if at + n >= source.len() || find(source, gram, at + n).is_none() {
            return (at + n) as i64;
        }
    }
    -1
}

fn eval_bifurcation(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let ranks = [tensor(ctx, 0)?.rank(), tensor(ctx, 1)?.rank(), optional(ctx, 3).map_or(1, Tensor::rank)];
    if ranks != [1; 3]
        || (0..ctx.inputs.len()).any(|n| optional(ctx, n).is_some_and(|t| t.dtype() != DType::I64))
    {
        return Err(type_error("the tokens must be lists of i64"));
    }
    let (source, mut tokens) = (tensor(ctx, 0)?.to_i64s(), tensor(ctx, 1)?.to_i64s());
    let previous = tensor(ctx, 2)?;
    if let Some(predicted) = optional(ctx, 3) {
        let start = previous.to_i64s().first().copied().unwrap_or(0);
        let start = usize::try_from(start).ok().filter(|s| *s <= source.len());
        let rest = start
            .map(|s| &source[s..])
            .ok_or_else(|| type_error("the last match lies outside of the source"))?;
        let predicted = predicted.to_i64s();
        let same = rest.iter().zip(&predicted).take_while(|(a, b)| a == b).count();
        tokens.extend(&predicted[..(same + 1).min(predicted.len())]);
    }
    let index = suffix_match(&source, &tokens, ctx.attrs);
    let indices = vec![index; previous.n_elements()];
    Ok(vec![
        from_i64s(DType::I64, &[tokens.len()], &tokens)?,
        from_i64s(DType::I64, previous.shape(), &indices)?,
    ])
}

fn sample_bifurcation(rng: &mut Rng) -> Sample {
    let mut list = |n: usize| Some(rng.tensor(DType::I64, &[n], 0.0, 3.0));
    let inputs = vec![list(6), list(4), Some(Tensor::scalar(2i64)), list(5)];
    let keep = 3 + rng.below(2);
    Sample { attrs: Attrs::new(), inputs: inputs.into_iter().take(keep).collect(), n_outputs: 2 }
}

fn infer_warping(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let cost = input(ctx, 0)?;
    want_float(cost.dtype)?;
    let (lead, sides) = cost.shape.split_at(cost.rank().saturating_sub(2));
    if sides.len() != 2 || lead.len() > 1 || lead.iter().any(|d| d.as_known().is_some_and(|d| d != 1)) {
        return Err(type_error(format!("the costs must be one matrix, they are {cost}")));
    }
    if sides.iter().any(|d| d.is(0)) {
        return Err(type_error("an empty matrix has no path"));
    }
    Ok(vec![Type::new(DType::I32, [Dim::known(2), Dim::unknown(0, 1)])])
}

/// Which neighbour a cell of the cheapest path comes from.
#[derive(Clone, Copy)]
enum From {
    Diagonal,
    Above,
    Left,
}

/// The cheapest sums end at the last cell; ties go to the left neighbour.
fn steps(cost: &[f32], rows: usize, columns: usize) -> Vec<From> {
    let wide = columns + 1;
    let mut sums = vec![f32::INFINITY; (rows + 1) * wide];
    sums[0] = 0.0;
    let mut steps = vec![From::Left; (rows + 1) * wide];
    (1..=rows).for_each(|i| steps[i * wide] = From::Above);
    for j in 1..=columns {
        for i in 1..=rows {
            let at = i * wide + j;
            let [diagonal, above, left] = [at - wide - 1, at - wide, at - 1].map(|n| sums[n]);
            let (best, step) = if diagonal < above && diagonal < left {
                (diagonal, From::Diagonal)
            } else if above < diagonal && above < left {
                (above, From::Above)
            } else {
                (left, From::Left)
            };
            sums[at] = cost[(i - 1) * columns + j - 1] + best;
            steps[at] = step;
        }
    }
    steps
}

fn eval_warping(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    infer_warping(&InferCtx {
        attrs: ctx.attrs,
        inputs: &[Some(partita_ir::op::Operand { ty: &Type::known(x.dtype(), x.shape()), content: None })],
        n_outputs: 1,
    })?;
    let [.., rows, columns] = x.shape() else { return Err(type_error("the costs must be a matrix")) };
    let (rows, columns) = (*rows, *columns);
    let cost: Vec<f32> = x.to_f64s().into_iter().map(|v| v as f32).collect();
    let steps = steps(&cost, rows, columns);
    let (mut i, mut j, mut path) = (rows, columns, Vec::new());
    while i > 0 || j > 0 {
        path.push((i as i64 - 1, j as i64 - 1));
        match steps[i * (columns + 1) + j] {
            From::Diagonal => (i, j) = (i - 1, j - 1),
            From::Above => i -= 1,
            From::Left => j -= 1,
        }
    }
    path.reverse();
    let flat: Vec<i64> = path.iter().map(|p| p.0).chain(path.iter().map(|p| p.1)).collect();
    Ok(vec![from_i64s(DType::I32, &[2, path.len()], &flat)?])
}

fn infer_hash(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let known = [DType::I32, DType::U32, DType::I64, DType::U64, DType::F32, DType::F64, DType::Str];
    if !known.contains(&x.dtype) {
        return Err(type_error(format!("{} cannot be hashed", x.dtype.name()))
            .hint("use 32- or 64-bit numbers or text"));
    }
    let dtype = if ctx.attrs.int_or("positive", 1) != 0 { DType::U32 } else { DType::I32 };
    Ok(vec![Type::new(dtype, x.shape.clone())])
}

/// MurmurHash3_x86_32; source: A. Appleby, 2011 (public domain description of the algorithm).
fn murmur(bytes: &[u8], seed: u32) -> u32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = seed;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        let k = block.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b));
        hash = (hash ^ mix(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        hash ^= mix(tail.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b)));
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

fn eval_hash(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_hash)?;
    let x = tensor(ctx, 0)?;
    let seed = ctx.attrs.int_or("seed", 0) as u32;
    let hashes: Vec<u32> = if x.dtype() == DType::Str {
        x.strings().into_iter().map(|s| murmur(s.as_bytes(), seed)).collect()
    } else {
        x.bytes().chunks(x.dtype().size_bytes()).map(|b| murmur(b, seed)).collect()
    };
    let signed = |h: u32| if dtype == DType::I32 { i64::from(h.cast_signed()) } else { i64::from(h) };
    let y: Vec<i64> = hashes.into_iter().map(signed).collect();
    Ok(vec![from_i64s(dtype, &shape, &y)?])
}

fn sample_hash(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::I32, DType::I64, DType::U32, DType::F32, DType::F64]);
    let shape = crate::samples::shape(rng);
    let mut sample = crate::common::sample_of(vec![crate::samples::values(rng, dtype, &shape)]);
    sample.attrs.set("positive", rng.int(0, 1));
    sample.attrs.set("seed", rng.int(0, 9));
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that are published for the algorithm.
    #[test]
    fn published_hashes() {
        assert_eq!(murmur(b"", 1), 0x514e_28b7);
        assert_eq!(murmur(b"test", 0), 0xba6b_d213);
        assert_eq!(murmur(b"Hello, world!", 0), 0xc036_3e43);
    }

    #[test]
    fn a_path_follows_the_cheap_cells() {
        let cost = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0];
        let x = Tensor::from_slice(&[3, 3], &cost.map(|v: f64| v as f32)).unwrap();
        let path =
            eval_warping(&EvalCtx { attrs: &Attrs::new(), inputs: &[Some(&x)], n_outputs: 1 }).unwrap();
        assert_eq!(path[0].to_i64s(), [0, 1, 2, 0, 1, 2]);
    }
}
