//! Operators that differ from a standard one by name, by defaults, or by one step before or after it.

use super::{
    Steps, all_taken, channels_first, channels_last, code, need, output, take_float, take_int, take_str,
};
use crate::call::Call;
use partita_ir::{Attr, DType, Diag, ValueId};

type Made = Result<Vec<ValueId>, Diag>;

pub(super) fn identity(call: &mut Call, s: &mut Steps) -> Made {
    s.rename(call, "Identity")
}

pub(super) fn gelu(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 1)?;
    s.rename(call, "Gelu")
}

pub(super) fn gather_nd(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    s.rename(call, "GatherND")
}

pub(super) fn trilu(call: &mut Call, s: &mut Steps) -> Made {
    s.rename(call, "Trilu")
}

pub(super) fn quantize_linear(call: &mut Call, s: &mut Steps) -> Made {
    s.rename(call, "QuantizeLinear")
}

pub(super) fn dequantize_linear(call: &mut Call, s: &mut Steps) -> Made {
    s.rename(call, "DequantizeLinear")
}

/// x * sigmoid(alpha * x).
pub(super) fn quick_gelu(call: &mut Call, s: &mut Steps) -> Made {
    let alpha = take_float(call, "alpha", 1.702)?;
    call.attrs.insert("alpha".to_owned(), Attr::Float(alpha));
    s.rename(call, "Swish")
}

/// The interpolation modes have the names of opset 16.
pub(super) fn grid_sample(call: &mut Call, s: &mut Steps) -> Made {
    let mode = match take_str(call, "mode")?.as_deref() {
        None | Some("bilinear") => "linear".to_owned(),
        Some("bicubic") => "cubic".to_owned(),
        Some(other) => other.to_owned(),
    };
    call.attrs.insert("mode".to_owned(), Attr::Str(mode));
    s.rename(call, "GridSample")
}

/// The axis is an i32 operand.
pub(super) fn expand_dims(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    let (x, axis) = (need(call, 0)?, need(call, 1)?);
    let known = s.emit.builder.graph().as_const(axis).map(|t| t.to_i64s());
    let axes = match known {
        Some(axis) => s.list("axes", &axis)?,
        None => {
            let wide = s.cast(axis, DType::I64)?;
            s.with_ints("Reshape", wide, "shape", vec![1])?
        }
    };
    Ok(vec![s.named("Unsqueeze", &[x, axes], vec![], output(call, 0))?])
}

/// Pads may be a row, the fill value a list of one.
pub(super) fn pad(call: &mut Call, s: &mut Steps) -> Made {
    let mode = take_str(call, "mode")?.unwrap_or_else(|| "constant".to_owned());
    all_taken(call, 3)?;
    let (x, mut pads) = (need(call, 0)?, need(call, 1)?);
    if s.rank(pads) == 2 {
        pads = match s.emit.builder.graph().as_const(pads).map(|t| t.to_i64s()) {
            Some(known) => s.list("pads", &known)?,
            None => s.with_ints("Reshape", pads, "shape", vec![-1])?,
        };
    }
    let value = call.input(2).map(|v| scalar(v, s)).transpose()?;
    let inputs = [Some(x), Some(pads), value];
    s.last("Pad", &inputs, vec![("mode", Attr::Str(mode))], &call.outputs)
}

/// A list of one as a scalar.
pub(super) fn scalar(value: ValueId, s: &mut Steps) -> Result<ValueId, Diag> {
    if s.rank(value) == 0 {
        return Ok(value);
    }
    if let Some(known) = s.emit.builder.graph().as_const(value).and_then(|t| t.reshaped(&[])) {
        let wish = format!("{}_scalar", s.name);
        return Ok(s.emit.constant(&wish, known));
    }
    s.with_ints("Reshape", value, "shape", vec![])
}

/// The step may be left out; all three may be lists of one.
pub(super) fn range(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 3)?;
    let start = scalar(need(call, 0)?, s)?;
    let limit = scalar(need(call, 1)?, s)?;
    let delta = match call.input(2) {
        Some(delta) => scalar(delta, s)?,
        None => s.number("delta", s.dtype(start), 1.0)?,
    };
    Ok(vec![s.named("Range", &[start, limit, delta], vec![], output(call, 0))?])
}

/// Values in order of appearance, where each element's value is, and how often it occurs.
pub(super) fn unique(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 1)?;
    let x = need(call, 0)?;
    let names: Vec<String> =
        [Some(0), None, Some(1), Some(2)].map(|n| n.map_or("", |n| output(call, n)).to_owned()).to_vec();
    let made = s.last("Unique", &[Some(x)], vec![("sorted", Attr::Int(0))], &names)?;
    Ok([0, 2, 3].iter().filter_map(|&n| made.get(n).copied()).collect())
}

pub(super) fn bias_gelu(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    let sum = s.node("Add", &[need(call, 0)?, need(call, 1)?], vec![])?;
    Ok(vec![s.named("Gelu", &[sum], vec![], output(call, 0))?])
}

/// Gelu by the hyperbolic tangent, over x or x + bias.
pub(super) fn fast_gelu(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    let x = need(call, 0)?;
    let sum = match call.input(1) {
        Some(bias) => s.node("Add", &[x, bias], vec![])?,
        None => x,
    };
    let form = vec![("approximate", Attr::from("tanh"))];
    Ok(vec![s.named("Gelu", &[sum], form, output(call, 0))?])
}

/// x + bias + skip.
pub(super) fn bias_add(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 3)?;
    let sum = s.node("Add", &[need(call, 0)?, need(call, 1)?], vec![])?;
    Ok(vec![s.named("Add", &[sum, need(call, 2)?], vec![], output(call, 0))?])
}

/// The left half of x + bias times the Gelu of the right half.
pub(super) fn bias_split_gelu(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    let sum = s.node("Add", &[need(call, 0)?, need(call, 1)?], vec![])?;
    let names = ["left", "right"].map(|half| s.emit.fresh(&format!("{}_{half}", s.name)));
    let attrs = vec![("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(2))];
    let halves = s.last("Split", &[Some(sum)], attrs, &names)?;
    let gate = s.node("Gelu", &[halves[1]], vec![])?;
    Ok(vec![s.named("Mul", &[halves[0], gate], vec![], output(call, 0))?])
}

/// x + y * gate.
pub(super) fn gated_add(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 3)?;
    let scaled = s.node("Mul", &[need(call, 1)?, need(call, 2)?], vec![])?;
    Ok(vec![s.named("Add", &[need(call, 0)?, scaled], vec![], output(call, 0))?])
}

/// z * sigmoid(z) with z = scale * x, each rounded to the element type.
pub(super) fn scaled_silu(call: &mut Call, s: &mut Steps) -> Made {
    let alpha = take_float(call, "alpha", 1.0)?;
    all_taken(call, 2)?;
    let x = need(call, 0)?;
    let dtype = s.dtype(x);
    let scale = match call.input(1) {
        Some(scale) => s.cast(scale, DType::F32)?,
        None => s.number("alpha", DType::F32, f64::from(alpha))?,
    };
    let scale = scalar(scale, s)?;
    let wide = s.cast(x, DType::F32)?;
    let scaled = s.node("Mul", &[wide, scale], vec![])?;
    let z = s.cast(scaled, dtype)?;
    let gate = s.node("Sigmoid", &[z], vec![])?;
    Ok(vec![s.named("Mul", &[z, gate], vec![], output(call, 0))?])
}

/// i16 times i16 in i32.
pub(super) fn matmul_integer_16(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 2)?;
    let a = s.node("Cast", &[need(call, 0)?], vec![("to", code(DType::I32))])?;
    let b = s.node("Cast", &[need(call, 1)?], vec![("to", code(DType::I32))])?;
    Ok(vec![s.named("MatMul", &[a, b], vec![], output(call, 0))?])
}

/// Maximum pooling of `[N, ..., C]`.
pub(super) fn nhwc_max_pool(call: &mut Call, s: &mut Steps) -> Made {
    with_channels_first(call, s, "MaxPool")
}

/// Quantized convolution, perhaps of `[N, ..., C]`; the weight has its channels first either way.
pub(super) fn qlinear_conv(call: &mut Call, s: &mut Steps) -> Made {
    if take_int(call, "channels_last", 0)? == 0 {
        return s.rename(call, "QLinearConv");
    }
    with_channels_first(call, s, "QLinearConv")
}

fn with_channels_first(call: &mut Call, s: &mut Steps, op: &str) -> Made {
    let x = need(call, 0)?;
    let rank = s.rank(x);
    let turned = s.transpose(x, channels_first(rank))?;
    call.set_input(0, turned);
    let y = s.hidden(call, op)?;
    let perm = super::axes(channels_last(rank));
    Ok(vec![s.named("Transpose", &[y], vec![("perm", perm)], output(call, 0))?])
}
