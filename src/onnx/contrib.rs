//! Operators of the domain `com.microsoft` that say what standard operators say: written as those, so that every
//! rule, kernel and fusion of the standard ones holds for them too. Operators of their own kind are rows.
//!
//! Source: the operator schemas of ONNX Runtime's contrib operators.

mod fused;
mod norm;
mod plain;
mod quantized;
mod streams;

use crate::adapt::NEWEST_OPSET;
use crate::call::{Call, Emit};
use partita_ir::{Attr, DType, Diag, Tensor, ValueId};
use std::collections::BTreeMap;

/// The domain of these operators.
pub(crate) const DOMAIN: &str = "com.microsoft";

/// Adds the nodes of a call; returns the call's results in order. An unwanted result may be any value.
type Rule = fn(&mut Call, &mut Steps) -> Result<Vec<ValueId>, Diag>;

/// How each such operator is written.
const RULES: &[(&str, Rule)] = &[
    ("BiasAdd", plain::bias_add),
    ("BiasGelu", plain::bias_gelu),
    ("BiasSplitGelu", plain::bias_split_gelu),
    ("BranchwiseRMSNorm", streams::branchwise_rms_norm),
    ("ConvTransposeWithDynamicPads", fused::conv_transpose),
    ("DequantizeLinear", plain::dequantize_linear),
    ("DynamicQuantizeMatMul", quantized::dynamic_quantize_matmul),
    ("EmbedLayerNormalization", norm::embed),
    ("EngramGate", streams::engram_gate),
    ("ExpandDims", plain::expand_dims),
    ("FastGelu", plain::fast_gelu),
    ("FusedConv", fused::conv),
    ("FusedGemm", fused::gemm),
    ("FusedMatMul", fused::matmul),
    ("FusedMatMulActivation", fused::matmul_activation),
    ("GatedAdd", plain::gated_add),
    ("GatedRMSNorm", streams::gated_rms_norm),
    ("GatherND", plain::gather_nd),
    ("Gelu", plain::gelu),
    ("GridSample", plain::grid_sample),
    ("GroupNorm", norm::group),
    ("HyperConnectionPostMix", streams::post_mix),
    ("HyperConnectionPreMix", streams::pre_mix),
    ("LinearAttentionGate", streams::linear_attention_gate),
    ("MatMulInteger16", plain::matmul_integer_16),
    ("MatMulIntegerToFloat", quantized::matmul_integer_to_float),
    ("NhwcMaxPool", plain::nhwc_max_pool),
    ("Pad", plain::pad),
    ("QAttention", quantized::attention),
    ("QEmbedLayerNormalization", norm::quantized_embed),
    ("QLinearConv", plain::qlinear_conv),
    ("QLinearReduceMean", quantized::reduce_mean),
    ("QuantizeLinear", plain::quantize_linear),
    ("QuickGelu", plain::quick_gelu),
    ("Range", plain::range),
    ("SampleOp", plain::identity),
    ("ScaledSiLU", plain::scaled_silu),
    ("SimplifiedLayerNormalization", norm::simplified),
    ("SkipGroupNorm", norm::skip_group),
    ("SkipLayerNormalization", norm::skip),
    ("SkipSimplifiedLayerNormalization", norm::skip_simplified),
    ("TransposeMatMul", fused::matmul),
    ("Trilu", plain::trilu),
    ("Unique", plain::unique),
];

/// Operators that exporters put into the standard domain although ONNX never had them.
const STRAYS: &[&str] = &["FusedGemm", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"];

/// Whether calls of the operator are written by `rewrite`.
pub(crate) fn knows(domain: &str, op_type: &str) -> bool {
    let here = domain == DOMAIN || domain.is_empty() && STRAYS.contains(&op_type);
    here && RULES.iter().any(|(op, _)| *op == op_type)
}

/// Adds the nodes that compute the call; returns its results in order.
///
/// # Errors
/// `U006` for an attribute the operator does not have, `I019` for one of the wrong kind, `V002` for a missing
/// operand, and from the nodes that are added.
pub(crate) fn rewrite(mut call: Call, emit: &mut Emit) -> Result<Vec<ValueId>, Diag> {
    let label = call.label();
    let Some((_, rule)) = RULES.iter().find(|(op, _)| *op == call.op_type) else {
        return Err(emit.unknown(&call));
    };
    let mut steps = Steps { name: call.name.clone(), emit };
    rule(&mut call, &mut steps).map_err(|d| d.at_node(label))
}

/// The nodes a call is written as.
pub(crate) struct Steps<'a> {
    name: String,
    emit: &'a mut Emit,
}

impl Steps<'_> {
    fn call(&self, inputs: &[Option<ValueId>], attrs: Vec<(&str, Attr)>) -> Call {
        let attrs: BTreeMap<String, Attr> = attrs.into_iter().map(|(n, a)| (n.to_owned(), a)).collect();
        Call {
            name: self.name.clone(),
            version: NEWEST_OPSET,
            inputs: inputs.to_vec(),
            attrs,
            ..Call::default()
        }
    }

    /// A node of the standard operator `op` whose result has an invented name.
    fn node(&mut self, op: &str, inputs: &[ValueId], attrs: Vec<(&str, Attr)>) -> Result<ValueId, Diag> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let call = self.call(&inputs, attrs);
        self.emit.step(call, op)
    }

    /// A node whose results have the names `outputs`, some operands perhaps left out.
    fn last(
        &mut self,
        op: &str,
        inputs: &[Option<ValueId>],
        attrs: Vec<(&str, Attr)>,
        outputs: &[String],
    ) -> Result<Vec<ValueId>, Diag> {
        let mut call = self.call(inputs, attrs);
        op.clone_into(&mut call.op_type);
        call.outputs = outputs.to_vec();
        self.emit.call(call)
    }

    /// As `last` for one result and operands that are all there.
    fn named(
        &mut self,
        op: &str,
        inputs: &[ValueId],
        attrs: Vec<(&str, Attr)>,
        output: &str,
    ) -> Result<ValueId, Diag> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.last(op, &inputs, attrs, &[output.to_owned()])?[0])
    }

    /// The whole call as the operator `op` of this domain.
    fn renamed_here(&mut self, call: &mut Call, op: &str) -> Result<Vec<ValueId>, Diag> {
        let mut renamed = std::mem::take(call);
        op.clone_into(&mut renamed.op_type);
        DOMAIN.clone_into(&mut renamed.domain);
        self.emit.call(renamed)
    }

    /// The whole call as the standard operator `op`.
    fn rename(&mut self, call: &mut Call, op: &str) -> Result<Vec<ValueId>, Diag> {
        let mut renamed = std::mem::take(call);
        op.clone_into(&mut renamed.op_type);
        renamed.domain.clear();
        renamed.version = NEWEST_OPSET;
        self.emit.call(renamed)
    }

    /// The call as the standard operator `op`, its result under an invented name.
    fn hidden(&mut self, call: &Call, op: &str) -> Result<ValueId, Diag> {
        let call = Call { version: NEWEST_OPSET, ..call.clone() };
        self.emit.step(call, op)
    }

    /// Integers that an operator takes as operand 1 or as the attribute `attr`.
    fn with_ints(&mut self, op: &str, x: ValueId, attr: &str, values: Vec<i64>) -> Result<ValueId, Diag> {
        if self.emit.has_attr(op, attr) {
            return self.node(op, &[x], vec![(attr, Attr::Ints(values))]);
        }
        let list = self.list(attr, &values)?;
        self.node(op, &[x, list], vec![])
    }

    /// A constant list.
    fn list(&mut self, what: &str, values: &[i64]) -> Result<ValueId, Diag> {
        let tensor = Tensor::from_slice(&[values.len()], values)
            .ok_or_else(|| Diag::new("I019", "a list of sizes is too long"))?;
        Ok(self.emit.constant(&format!("{}_{what}", self.name), tensor))
    }

    /// A constant number.
    fn number(&mut self, what: &str, dtype: DType, value: f64) -> Result<ValueId, Diag> {
        let tensor = Tensor::from_f64s(dtype, &[], &[value])
            .ok_or_else(|| Diag::new("I019", "a number cannot be written"))?;
        Ok(self.emit.constant(&format!("{}_{what}", self.name), tensor))
    }

    fn dtype(&self, value: ValueId) -> DType {
        self.emit.ty(value).dtype
    }

    fn rank(&self, value: ValueId) -> usize {
        self.emit.ty(value).rank()
    }

    /// The value in the element type `to`; itself when it is already.
    fn cast(&mut self, value: ValueId, to: DType) -> Result<ValueId, Diag> {
        if self.dtype(value) == to {
            return Ok(value);
        }
        self.node("Cast", &[value], vec![("to", code(to))])
    }

    fn transpose(&mut self, value: ValueId, perm: Vec<usize>) -> Result<ValueId, Diag> {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return Ok(value);
        }
        self.node("Transpose", &[value], vec![("perm", axes(perm))])
    }
}

/// ONNX's number of an element type, as an attribute.
fn code(dtype: DType) -> Attr {
    Attr::Int(i64::from(crate::dtypes::code_of(dtype)))
}

fn axes(list: Vec<usize>) -> Attr {
    Attr::Ints(list.into_iter().map(|a| a as i64).collect())
}

/// `[N, ..., C]` to `[N, C, ...]`.
fn channels_first(rank: usize) -> Vec<usize> {
    let last = rank.saturating_sub(1);
    (0..rank.min(1)).chain(last.max(1)..rank).chain(1..last).collect()
}

/// `[N, C, ...]` to `[N, ..., C]`.
fn channels_last(rank: usize) -> Vec<usize> {
    (0..rank.min(1)).chain(2.min(rank)..rank).chain(1..rank.min(2)).collect()
}

/// An operand that must be given.
fn need(call: &Call, n: usize) -> Result<ValueId, Diag> {
    call.input(n).ok_or_else(|| Diag::new("V002", format!("operand {n} of {} is required", call.op_type)))
}

/// The name of result `n`; empty when nobody wants it.
fn output(call: &Call, n: usize) -> &str {
    call.outputs.get(n).map_or("", String::as_str)
}

fn wrong_kind(name: &str) -> Diag {
    Diag::new("I019", format!("attribute {name} has the wrong kind"))
        .hint("the model is damaged; export it again")
}

/// Takes an integer attribute.
fn take_int(call: &mut Call, name: &str, default: i64) -> Result<i64, Diag> {
    match call.attrs.remove(name) {
        None => Ok(default),
        Some(Attr::Int(v)) => Ok(v),
        Some(_) => Err(wrong_kind(name)),
    }
}

/// Takes a float attribute.
fn take_float(call: &mut Call, name: &str, default: f32) -> Result<f32, Diag> {
    match call.attrs.remove(name) {
        None => Ok(default),
        Some(Attr::Float(v)) => Ok(v),
        Some(_) => Err(wrong_kind(name)),
    }
}

/// Takes a text attribute.
fn take_str(call: &mut Call, name: &str) -> Result<Option<String>, Diag> {
    match call.attrs.remove(name) {
        None => Ok(None),
        Some(Attr::Str(v)) => Ok(Some(v)),
        Some(_) => Err(wrong_kind(name)),
    }
}

/// Checks that every attribute has been taken, and that there are at most `operands`.
fn all_taken(call: &Call, operands: usize) -> Result<(), Diag> {
    if let Some(name) = call.attrs.keys().next() {
        let text = format!("attribute {name} of {} is not supported", call.op_type);
        return Err(Diag::new("U006", text).hint("remove it if the model does not need it"));
    }
    if call.inputs.iter().skip(operands).any(Option::is_some) {
        let text = format!("{} has at most {operands} operands", call.op_type);
        return Err(Diag::new("U011", text).hint("the model is damaged; export it again"));
    }
    Ok(())
}
