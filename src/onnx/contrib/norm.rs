//! Normalisations with what exporters fuse into them: a skip connection, embeddings, a layout, an activation.

use super::{
    Steps, all_taken, channels_first, channels_last, code, need, output, take_float, take_int, wrong_kind,
};
use crate::call::Call;
use partita_ir::{Attr, DType, Diag, Tensor, ValueId};

type Made = Result<Vec<ValueId>, Diag>;

/// `epsilon` of the fusions with skip connections and embeddings, when not stated.
const SMALL_EPSILON: f32 = 1e-12;
/// `epsilon` of the others.
const EPSILON: f32 = 1e-5;

/// What halves are computed in.
fn wide(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::Bf16) { DType::F32 } else { dtype }
}

/// The sum of input, skip and bias in the wide element type, and as result `n` when that is wanted.
fn skip_sum(
    call: &Call,
    s: &mut Steps,
    operands: &[usize],
    n: usize,
) -> Result<(ValueId, Option<ValueId>), Diag> {
    let x = need(call, 0)?;
    let dtype = s.dtype(x);
    let mut terms = vec![need(call, 0)?, need(call, 1)?];
    terms.extend(operands.iter().filter_map(|&n| call.input(n)));
    let name = output(call, n);
    let direct = wide(dtype) == dtype && !name.is_empty();
    let mut sum = s.cast(terms[0], wide(dtype))?;
    for (i, &term) in terms.iter().enumerate().skip(1) {
        let term = s.cast(term, wide(dtype))?;
        sum = if direct && i + 1 == terms.len() {
            s.named("Add", &[sum, term], vec![], name)?
        } else {
            s.node("Add", &[sum, term], vec![])?
        };
    }
    if direct {
        return Ok((sum, Some(sum)));
    }
    if name.is_empty() {
        return Ok((sum, None));
    }
    let narrow = s.named("Cast", &[sum], vec![("to", code(dtype))], name)?;
    Ok((sum, Some(narrow)))
}

/// Layer normalisation over the last axis of a wide value; results 0 to 2 of the call.
fn layer_norm(
    call: &Call,
    s: &mut Steps,
    x: ValueId,
    weights: [Option<ValueId>; 2],
    epsilon: f32,
    dtype: DType,
) -> Result<Vec<ValueId>, Diag> {
    let mut inputs = vec![Some(x)];
    for weight in weights {
        inputs.push(weight.map(|w| s.cast(w, wide(dtype))).transpose()?);
    }
    let attrs = vec![("axis", Attr::Int(-1)), ("epsilon", Attr::Float(epsilon))];
    let mut names: Vec<String> = (0..3).map(|n| output(call, n).to_owned()).collect();
    if wide(dtype) == dtype {
        return s.last("LayerNormalization", &inputs, attrs, &names);
    }
    names[0] = s.emit.fresh(&format!("{}_normal", s.name));
    let mut made = s.last("LayerNormalization", &inputs, attrs, &names)?;
    made[0] = s.named("Cast", &[made[0]], vec![("to", code(dtype))], output(call, 0))?;
    Ok(made)
}

/// Puts the results of a normalisation and a sum at their places.
fn with_sum(mut made: Vec<ValueId>, sum: Option<ValueId>) -> Vec<ValueId> {
    if let Some(sum) = sum {
        let first = made[0];
        made.resize(3, first);
        made.push(sum);
    }
    made
}

/// Layer normalisation of input + skip + bias.
pub(super) fn skip(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", SMALL_EPSILON)?;
    all_taken(call, 5)?;
    let dtype = s.dtype(need(call, 0)?);
    let (x, sum) = skip_sum(call, s, &[4], 3)?;
    let weights = [Some(need(call, 2)?), call.input(3)];
    Ok(with_sum(layer_norm(call, s, x, weights, epsilon, dtype)?, sum))
}

/// 1 / sqrt(mean(x^2) + epsilon) over axes `axis`.., in f32.
fn inverse_root(s: &mut Steps, x: ValueId, axis: i64, epsilon: f32, name: &str) -> Result<ValueId, Diag> {
    let rank = s.rank(x) as i64;
    let from = if axis < 0 { axis + rank } else { axis };
    let x = s.cast(x, DType::F32)?;
    let square = s.node("Mul", &[x, x], vec![])?;
    let mean = s.with_ints("ReduceMean", square, "axes", (from..rank).collect())?;
    let epsilon = s.number("epsilon", DType::F32, f64::from(epsilon))?;
    let sum = s.node("Add", &[mean, epsilon], vec![])?;
    let root = s.node("Sqrt", &[sum], vec![])?;
    s.named("Reciprocal", &[root], vec![], name)
}

/// Normalisation by the root of the mean square of a wide value, as result 0.
fn rms_norm(
    call: &Call,
    s: &mut Steps,
    x: ValueId,
    scale: ValueId,
    (axis, epsilon): (i64, f32),
    dtype: DType,
) -> Result<ValueId, Diag> {
    let scale = s.cast(scale, s.dtype(x))?;
    let attrs = vec![("axis", Attr::Int(axis)), ("epsilon", Attr::Float(epsilon))];
    if s.dtype(x) == dtype {
        return s.named("RMSNormalization", &[x, scale], attrs, output(call, 0));
    }
    let y = s.node("RMSNormalization", &[x, scale], attrs)?;
    s.named("Cast", &[y], vec![("to", code(dtype))], output(call, 0))
}

/// The result has the scale's element type.
pub(super) fn simplified(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", EPSILON)?;
    let axis = take_int(call, "axis", -1)?;
    take_int(call, "stash_type", 1)?;
    all_taken(call, 2)?;
    let (x, scale) = (need(call, 0)?, need(call, 1)?);
    let dtype = s.dtype(scale);
    let working = if s.dtype(x) == dtype { dtype } else { DType::F32 };
    let x = s.cast(x, working)?;
    let mut made = vec![rms_norm(call, s, x, scale, (axis, epsilon), dtype)?];
    if !output(call, 1).is_empty() {
        made.push(inverse_root(s, x, axis, epsilon, output(call, 1))?);
    }
    Ok(made)
}

/// Normalisation of input + skip + bias by the root of the mean square.
pub(super) fn skip_simplified(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", SMALL_EPSILON)?;
    all_taken(call, 4)?;
    if !output(call, 1).is_empty() {
        return Err(Diag::new("U011", "SkipSimplifiedLayerNormalization has no mean")
            .hint("leave result 1 out: the operator takes no mean"));
    }
    let dtype = s.dtype(need(call, 0)?);
    let (x, sum) = skip_sum(call, s, &[3], 3)?;
    let y = rms_norm(call, s, x, need(call, 2)?, (-1, epsilon), dtype)?;
    let mut made = vec![y, y];
    made.push(match output(call, 2) {
        "" => y,
        name => inverse_root(s, x, -1, epsilon, name)?,
    });
    Ok(with_sum(made, sum))
}

/// The rows of `table` at `ids`, dequantized when `scaled` gives scale and zero point.
fn rows(
    s: &mut Steps,
    table: ValueId,
    ids: ValueId,
    scaled: Option<(ValueId, ValueId)>,
) -> Result<ValueId, Diag> {
    let rows = s.node("Gather", &[table, ids], vec![("axis", Attr::Int(0))])?;
    dequantized(s, rows, scaled)
}

fn dequantized(s: &mut Steps, x: ValueId, scaled: Option<(ValueId, ValueId)>) -> Result<ValueId, Diag> {
    match scaled {
        Some((scale, zero)) => s.node("DequantizeLinear", &[x, scale, zero], vec![]),
        None => Ok(x),
    }
}

/// The embeddings of the first positions.
fn leading_rows(
    s: &mut Steps,
    table: ValueId,
    ids: ValueId,
    scaled: Option<(ValueId, ValueId)>,
) -> Result<ValueId, Diag> {
    let length = s.node("Shape", &[ids], vec![("start", Attr::Int(1)), ("end", Attr::Int(2))])?;
    let (start, axis) = (s.list("start", &[0])?, s.list("axis", &[0])?);
    let rows = s.node("Slice", &[table, start, length, axis], vec![])?;
    dequantized(s, rows, scaled)
}

/// How many ones each row of the mask has; zero without a mask.
fn mask_index(call: &Call, s: &mut Steps, mask: Option<ValueId>) -> Result<ValueId, Diag> {
    let name = output(call, 1).to_owned();
    let Some(mask) = mask else {
        let batch =
            s.node("Shape", &[need(call, 0)?], vec![("start", Attr::Int(0)), ("end", Attr::Int(1))])?;
        let zero = Tensor::from_slice(&[1], &[0i32]).ok_or_else(|| wrong_kind("value"))?;
        return s.named("ConstantOfShape", &[batch], vec![("value", Attr::Tensor(zero))], &name);
    };
    let one = s.number("one", s.dtype(mask), 1.0)?;
    let words = s.node("Equal", &[mask, one], vec![])?;
    let words = s.node("Cast", &[words], vec![("to", code(DType::I32))])?;
    let axes = s.list("mask_axes", &[1])?;
    s.named("ReduceSum", &[words, axes], vec![("keepdims", Attr::Int(0))], &name)
}

/// Tables and weights of an embedding.
struct Embedding {
    word: ValueId,
    position: ValueId,
    segment: Option<ValueId>,
    gamma: ValueId,
    beta: ValueId,
    mask: Option<ValueId>,
    position_ids: Option<ValueId>,
    /// Scale and zero point of the three tables.
    scaled: [Option<(ValueId, ValueId)>; 3],
}

fn embedded(call: &Call, s: &mut Steps, e: &Embedding, epsilon: f32) -> Made {
    let ids = need(call, 0)?;
    let word = rows(s, e.word, ids, e.scaled[0])?;
    let position = match e.position_ids {
        Some(ids) => rows(s, e.position, ids, e.scaled[1])?,
        None => leading_rows(s, e.position, ids, e.scaled[1])?,
    };
    let sum_name = if call.op_type.starts_with('Q') { "" } else { output(call, 2) };
    let segment = call.input(1).zip(e.segment);
    let mut sum = if segment.is_none() && !sum_name.is_empty() {
        s.named("Add", &[word, position], vec![], sum_name)?
    } else {
        s.node("Add", &[word, position], vec![])?
    };
    if let Some((ids, table)) = segment {
        let segment = rows(s, table, ids, e.scaled[2])?;
        sum = match sum_name {
            "" => s.node("Add", &[sum, segment], vec![])?,
            name => s.named("Add", &[sum, segment], vec![], name)?,
        };
    }
    let dtype = s.dtype(sum);
    let x = s.cast(sum, wide(dtype))?;
    let normal = Call { outputs: vec![output(call, 0).to_owned()], ..Call::default() };
    let mut made = layer_norm(&normal, s, x, [Some(e.gamma), Some(e.beta)], epsilon, dtype)?;
    let first = made[0];
    made.push(if output(call, 1).is_empty() { first } else { mask_index(call, s, e.mask)? });
    made.push(sum);
    Ok(made)
}

/// Layer normalisation of the sum of word, position and segment embeddings.
pub(super) fn embed(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", SMALL_EPSILON)?;
    take_int(call, "mask_index_type", 0)?;
    all_taken(call, 9)?;
    let e = Embedding {
        word: need(call, 2)?,
        position: need(call, 3)?,
        segment: call.input(4),
        gamma: need(call, 5)?,
        beta: need(call, 6)?,
        mask: call.input(7),
        position_ids: call.input(8),
        scaled: [None; 3],
    };
    embedded(call, s, &e, epsilon)
}

/// The same over quantized tables and weights.
pub(super) fn quantized_embed(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", SMALL_EPSILON)?;
    all_taken(call, 18)?;
    let pair = |scale: usize, zero: usize| call.input(scale).zip(call.input(zero));
    let gamma = dequantized(s, need(call, 5)?, pair(11, 16))?;
    let beta = dequantized(s, need(call, 6)?, pair(12, 17))?;
    let e = Embedding {
        word: need(call, 2)?,
        position: need(call, 3)?,
        segment: call.input(4),
        gamma,
        beta,
        mask: call.input(7),
        position_ids: None,
        scaled: [pair(8, 13), pair(9, 14), pair(10, 15)],
    };
    embedded(call, s, &e, epsilon)
}

/// Group normalisation of `x`, with layout and activation as the attributes say, as result 0.
fn grouped(call: &mut Call, s: &mut Steps, x: ValueId) -> Result<ValueId, Diag> {
    let last = take_int(call, "channels_last", 1)? != 0;
    let epsilon = take_float(call, "epsilon", EPSILON)?;
    let groups = take_int(call, "groups", 32)?;
    let silu = take_int(call, "activation", 0)?;
    if !(0..=1).contains(&silu) {
        return Err(Diag::new("V021", format!("activation {silu} of {} is not 0 or 1", call.op_type)));
    }
    let (gamma, beta) = (need(call, 1)?, need(call, 2)?);
    let (dtype, working, rank) = (s.dtype(x), s.dtype(gamma), s.rank(x));
    let mut y = s.cast(x, working)?;
    if last {
        y = s.transpose(y, channels_first(rank))?;
    }
    let attrs = vec![("epsilon", Attr::Float(epsilon)), ("num_groups", Attr::Int(groups))];
    y = s.node("GroupNormalization", &[y, gamma, beta], attrs)?;
    if silu == 1 {
        y = s.node("Swish", &[y], vec![])?;
    }
    if last {
        y = s.transpose(y, channels_last(rank))?;
    }
    s.named("Cast", &[y], vec![("to", code(dtype))], output(call, 0))
}

/// Group normalisation, channels last unless stated, perhaps followed by x * sigmoid(x).
pub(super) fn group(call: &mut Call, s: &mut Steps) -> Made {
    let x = need(call, 0)?;
    let y = grouped(call, s, x)?;
    all_taken(call, 3)?;
    Ok(vec![y])
}

/// The same of x + skip + bias; result 1 is the sum.
pub(super) fn skip_group(call: &mut Call, s: &mut Steps) -> Made {
    let (x, mut skip) = (need(call, 0)?, need(call, 3)?);
    if s.rank(skip) == 2 && s.rank(x) == 4 {
        let at = if call.int("channels_last").unwrap_or(1) != 0 { vec![1, 2] } else { vec![2, 3] };
        skip = s.with_ints("Unsqueeze", skip, "axes", at)?;
    }
    let bias = call.input(4);
    let name = output(call, 1).to_owned();
    let sum = match (bias, name.is_empty()) {
        (Some(bias), _) => {
            let sum = s.node("Add", &[x, skip], vec![])?;
            s.named("Add", &[sum, bias], vec![], &name)?
        }
        (None, _) => s.named("Add", &[x, skip], vec![], &name)?,
    };
    let y = grouped(call, s, sum)?;
    all_taken(call, 5)?;
    Ok(vec![y, sum])
}
