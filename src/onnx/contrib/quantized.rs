//! Products of quantized matrices, written as the integer product and the scaling of its result.

use super::plain::scalar;
use super::{Steps, all_taken, code, need, output, take_int};
use crate::call::Call;
use partita_ir::{Attr, Diag, ValueId};

type Made = Result<Vec<ValueId>, Diag>;

/// The integer product, its zero points, and what makes values of it.
struct Product {
    operands: [Option<ValueId>; 4],
    a_scale: ValueId,
    b_scale: ValueId,
    bias: Option<ValueId>,
}

fn scaled(call: &Call, s: &mut Steps, p: Product) -> Made {
    let dtype = s.dtype(p.b_scale);
    let name = s.emit.fresh(&format!("{}_product", s.name));
    let sums = s.last("MatMulInteger", &p.operands, vec![], &[name])?[0];
    let sums = s.node("Cast", &[sums], vec![("to", code(dtype))])?;
    let a_scale = scalar(p.a_scale, s)?;
    let b_scale = if s.rank(sums) == 0 { scalar(p.b_scale, s)? } else { p.b_scale };
    let scale = s.node("Mul", &[a_scale, b_scale], vec![])?;
    let Some(bias) = p.bias else {
        return Ok(vec![s.named("Mul", &[sums, scale], vec![], output(call, 0))?]);
    };
    let y = s.node("Mul", &[sums, scale], vec![])?;
    Ok(vec![s.named("Add", &[y, bias], vec![], output(call, 0))?])
}

/// a * b over 8-bit numbers, as floats.
pub(super) fn matmul_integer_to_float(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 7)?;
    let product = Product {
        operands: [Some(need(call, 0)?), Some(need(call, 1)?), call.input(4), call.input(5)],
        a_scale: need(call, 2)?,
        b_scale: need(call, 3)?,
        bias: call.input(6),
    };
    scaled(call, s, product)
}

/// a * b with b of 8-bit numbers and a quantized by its range.
pub(super) fn dynamic_quantize_matmul(call: &mut Call, s: &mut Steps) -> Made {
    all_taken(call, 5)?;
    let names = ["numbers", "scale", "zero"].map(|what| s.emit.fresh(&format!("{}_{what}", s.name)));
    let a = s.last("DynamicQuantizeLinear", &[Some(need(call, 0)?)], vec![], &names)?;
    let product = Product {
        operands: [Some(a[0]), Some(need(call, 1)?), Some(a[2]), call.input(3)],
        a_scale: a[1],
        b_scale: need(call, 2)?,
        bias: call.input(4),
    };
    scaled(call, s, product)
}

/// The mean over axes of 8-bit numbers.
pub(super) fn reduce_mean(call: &mut Call, s: &mut Steps) -> Made {
    let keep = take_int(call, "keepdims", 1)?;
    let axes = match call.attrs.remove("axes") {
        Some(Attr::Ints(axes)) => Some(s.list("axes", &axes)?),
        Some(_) => return Err(super::wrong_kind("axes")),
        None => None,
    };
    all_taken(call, 5)?;
    let name = |s: &mut Steps, what: &str| [s.emit.fresh(&format!("{}_{what}", s.name))];
    let values = name(s, "values");
    let inputs = [Some(need(call, 0)?), Some(need(call, 1)?), call.input(2)];
    let values = s.last("DequantizeLinear", &inputs, vec![], &values)?[0];
    let mean = name(s, "mean");
    let mean = s.last("ReduceMean", &[Some(values), axes], vec![("keepdims", Attr::Int(keep))], &mean)?[0];
    let inputs = [Some(mean), Some(need(call, 3)?), call.input(4)];
    s.last("QuantizeLinear", &inputs, vec![], &[output(call, 0).to_owned()])
}

/// Attention over quantized data and weights: that over their values.
pub(super) fn attention(call: &mut Call, s: &mut Steps) -> Made {
    let values = |s: &mut Steps, inputs: [Option<ValueId>; 3], axis: i64| -> Result<ValueId, Diag> {
        let name = s.emit.fresh(&format!("{}_values", s.name));
        let attrs = vec![("axis", Attr::Int(axis))];
        Ok(s.last("DequantizeLinear", &inputs, attrs, &[name])?[0])
    };
    let x = values(s, [Some(need(call, 0)?), Some(need(call, 3)?), call.input(6)], 0)?;
    let weight = values(s, [Some(need(call, 1)?), Some(need(call, 4)?), call.input(7)], 1)?;
    call.inputs = vec![Some(x), Some(weight), call.input(2), call.input(5), call.input(8)];
    s.renamed_here(call, "Attention")
}
