//! Gates and normalisations over branches (streams) of one feature tensor. They compute in f32 whatever the
//! element type is, and round once.

use super::{Steps, all_taken, code, need, output, take_float, take_int, take_str};
use crate::call::Call;
use partita_ir::{Attr, DType, Diag, Dim, ValueId};

type Made = Result<Vec<ValueId>, Diag>;

/// `epsilon` when not stated.
const EPSILON: f32 = 1e-5;

/// The value in f32 (in f64 where it is f64).
fn wide(s: &mut Steps, x: ValueId) -> Result<ValueId, Diag> {
    if s.dtype(x) == DType::F64 { Ok(x) } else { s.cast(x, DType::F32) }
}

/// The value in the element type of `like`, as result `n`.
fn narrow(call: &Call, s: &mut Steps, x: ValueId, like: ValueId, n: usize) -> Result<ValueId, Diag> {
    let to = code(s.dtype(like));
    s.named("Cast", &[x], vec![("to", to)], output(call, n))
}

/// A size that must be known to split an axis.
fn known(dim: Option<&Dim>, what: &str) -> Result<i64, Diag> {
    dim.and_then(Dim::as_known).ok_or_else(|| {
        Diag::new("U001", format!("{what} must be known before the program runs"))
            .hint("export the model with fixed sizes of the feature axes")
    })
}

/// The value with its last axis split in two, of which the second has `size` elements.
fn split_last(s: &mut Steps, x: ValueId, size: i64) -> Result<ValueId, Diag> {
    let mut shape = vec![0; s.rank(x).saturating_sub(1)];
    shape.extend([-1, size]);
    s.with_ints("Reshape", x, "shape", shape)
}

/// The value with its last two axes joined.
fn join_last(s: &mut Steps, x: ValueId) -> Result<ValueId, Diag> {
    let mut shape = vec![0; s.rank(x).saturating_sub(2)];
    shape.push(-1);
    s.with_ints("Reshape", x, "shape", shape)
}

/// x / sqrt(mean(x^2) + epsilon) over the last axis.
fn rms(s: &mut Steps, x: ValueId, epsilon: f32) -> Result<ValueId, Diag> {
    let square = s.node("Mul", &[x, x], vec![])?;
    let mean = s.with_ints("ReduceMean", square, "axes", vec![-1])?;
    let epsilon = s.number("epsilon", s.dtype(x), f64::from(epsilon))?;
    let sum = s.node("Add", &[mean, epsilon], vec![])?;
    let root = s.node("Sqrt", &[sum], vec![])?;
    s.node("Div", &[x, root], vec![])
}

/// `[..., C, H]` of streams that are grouped, or flattened with a stated number of branches; and whether they were
/// flattened.
fn branches(call: &mut Call, s: &mut Steps) -> Result<(ValueId, bool), Diag> {
    let count = take_int(call, "num_branches", 0)?;
    let x = need(call, 0)?;
    if count == 0 {
        return Ok((x, false));
    }
    let last = known(s.emit.ty(x).shape.last(), "the width of the streams")?;
    if count < 1 || last % count != 0 {
        let text = format!("streams of width {last} do not split into {count} branches");
        return Err(Diag::new("V021", text));
    }
    Ok((split_last(s, x, last / count)?, true))
}

/// Scale or gates of branches in a shape that broadcasts with `[..., C, H]`: `lead` leading axes, then C, C and
/// 1, C and H, or C * H joined.
fn gates(s: &mut Steps, gate: ValueId, lead: usize, x: ValueId) -> Result<ValueId, Diag> {
    let gate = wide(s, gate)?;
    let ty = s.emit.ty(x);
    let [.., c, h] = ty.shape.as_slice() else {
        return Err(Diag::new("V021", format!("streams need two axes, the operand is {ty}"))
            .hint("state the number of branches"));
    };
    let (c, h) = (c.clone(), h.clone());
    let last = s.emit.ty(gate).shape.last().cloned();
    if s.rank(gate) == lead + 2 {
        return Ok(gate);
    }
    if last.as_ref() == Some(&c) {
        return s.with_ints("Unsqueeze", gate, "axes", vec![-1]);
    }
    let h = known(Some(&h), "the width of a branch")?;
    split_last(s, gate, h)
}

/// Normalisation of each branch by the root of its mean square.
pub(super) fn branchwise_rms_norm(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", EPSILON)?;
    let (grouped, flat) = branches(call, s)?;
    all_taken(call, 2)?;
    let x = wide(s, grouped)?;
    let mut y = rms(s, x, epsilon)?;
    if let Some(scale) = call.input(1) {
        let features = s.emit.ty(y).shape.last().cloned();
        let scale = if s.rank(scale) == 1 && s.emit.ty(scale).shape.first() == features.as_ref() {
            wide(s, scale)?
        } else {
            gates(s, scale, 0, y)?
        };
        y = s.node("Mul", &[y, scale], vec![])?;
    }
    if flat {
        y = join_last(s, y)?;
    }
    Ok(vec![narrow(call, s, y, grouped, 0)?])
}

/// Normalisation of groups of the last axis, times scale, times an activation of the gate.
pub(super) fn gated_rms_norm(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", EPSILON)?;
    let activation = take_str(call, "activation")?.unwrap_or_else(|| "silu".to_owned());
    all_taken(call, 3)?;
    let (input, scale) = (need(call, 0)?, need(call, 1)?);
    let size = known(s.emit.ty(scale).shape.first(), "the length of the scale")?;
    let x = wide(s, input)?;
    let x = split_last(s, x, size)?;
    let y = rms(s, x, epsilon)?;
    let scale = wide(s, scale)?;
    let y = s.node("Mul", &[y, scale], vec![])?;
    let y = join_last(s, y)?;
    let gate = wide(s, need(call, 2)?)?;
    let gate = match activation.as_str() {
        "silu" | "swish" => s.node("Swish", &[gate], vec![])?,
        "sigmoid" => s.node("Sigmoid", &[gate], vec![])?,
        other => {
            return Err(Diag::new("V021", format!("activation {other:?} is not silu, swish or sigmoid")));
        }
    };
    let y = s.node("Mul", &[y, gate], vec![])?;
    Ok(vec![narrow(call, s, y, input, 0)?])
}

/// The gated sum of the branches, times a factor.
pub(super) fn pre_mix(call: &mut Call, s: &mut Steps) -> Made {
    let factor = take_float(call, "reduction_scale", 1.0)?;
    let (grouped, _) = branches(call, s)?;
    all_taken(call, 2)?;
    let x = wide(s, grouped)?;
    let gate = gates(s, need(call, 1)?, s.rank(x).saturating_sub(2), x)?;
    let y = s.node("Mul", &[x, gate], vec![])?;
    let axes = s.list("axes", &[-2])?;
    let y = s.node("ReduceSum", &[y, axes], vec![("keepdims", Attr::Int(0))])?;
    let factor = s.number("factor", s.dtype(y), f64::from(factor))?;
    let y = s.node("Mul", &[y, factor], vec![])?;
    Ok(vec![narrow(call, s, y, grouped, 0)?])
}

/// The branches mixed with each other, plus the gated output of a block.
pub(super) fn post_mix(call: &mut Call, s: &mut Steps) -> Made {
    let (grouped, flat) = branches(call, s)?;
    all_taken(call, 4)?;
    let mut x = wide(s, grouped)?;
    let rank = s.rank(x);
    if let Some(mix) = call.input(3) {
        let mix = wide(s, mix)?;
        let mut perm: Vec<usize> = (0..s.rank(mix)).collect();
        perm.swap(rank - 1, rank - 2);
        let mix = s.transpose(mix, perm)?;
        x = s.node("MatMul", &[mix, x], vec![])?;
    }
    let block = wide(s, need(call, 1)?)?;
    let block = s.with_ints("Unsqueeze", block, "axes", vec![-2])?;
    let gate = gates(s, need(call, 2)?, rank - 2, x)?;
    let injected = s.node("Mul", &[gate, block], vec![])?;
    let mut y = s.node("Add", &[x, injected], vec![])?;
    if flat {
        y = join_last(s, y)?;
    }
    Ok(vec![narrow(call, s, y, grouped, 0)?])
}

/// sigmoid of the signed root of the product of normalised keys and queries, times the value.
pub(super) fn engram_gate(call: &mut Call, s: &mut Steps) -> Made {
    let epsilon = take_float(call, "epsilon", EPSILON)?;
    all_taken(call, 6)?;
    let mut sides = Vec::new();
    for (x, scale) in [(0, 3), (1, 4)] {
        let x = wide(s, need(call, x)?)?;
        let scale = wide(s, need(call, scale)?)?;
        let y = rms(s, x, epsilon)?;
        sides.push(s.node("Mul", &[y, scale], vec![])?);
    }
    let width = known(s.emit.ty(sides[0]).shape.last(), "the hidden size")?;
    let dot = s.node("Mul", &[sides[0], sides[1]], vec![])?;
    let axes = s.list("axes", &[-1])?;
    let dot = s.node("ReduceSum", &[dot, axes], vec![])?;
    let root = s.number("root", s.dtype(dot), (width as f64).sqrt())?;
    let dot = s.node("Div", &[dot, root], vec![])?;
    let size = s.node("Abs", &[dot], vec![])?;
    let least = s.number("least", s.dtype(dot), 1e-6)?;
    let size = s.node("Max", &[size, least], vec![])?;
    let size = s.node("Sqrt", &[size], vec![])?;
    let sign = s.node("Sign", &[dot], vec![])?;
    let gate = s.node("Mul", &[sign, size], vec![])?;
    let gate = s.node("Sigmoid", &[gate], vec![])?;
    let value = wide(s, need(call, 2)?)?;
    let value = s.with_ints("Unsqueeze", value, "axes", vec![2])?;
    let gated = s.node("Mul", &[gate, value], vec![])?;
    let like = need(call, 0)?;
    let mut made = vec![narrow(call, s, gated, like, 0)?];
    if !output(call, 1).is_empty() {
        let y = rms(s, gated, epsilon)?;
        let scale = wide(s, need(call, 5)?)?;
        let y = s.node("Mul", &[y, scale], vec![])?;
        made.push(narrow(call, s, y, like, 1)?);
    }
    Ok(made)
}

/// decay_scale * softplus(a + bias); result 1 is sigmoid(b).
pub(super) fn linear_attention_gate(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 4)?;
    let a = need(call, 0)?;
    let sum = wide(s, a)?;
    let (bias, scale) = (wide(s, need(call, 1)?)?, wide(s, need(call, 2)?)?);
    let sum = s.node("Add", &[sum, bias], vec![])?;
    let y = s.node("Softplus", &[sum], vec![])?;
    let y = s.node("Mul", &[y, scale], vec![])?;
    let mut made = vec![narrow(call, s, y, a, 0)?];
    if !output(call, 1).is_empty() {
        made.push(s.named("Sigmoid", &[need(call, 3)?], vec![], output(call, 1))?);
    }
    Ok(made)
}
