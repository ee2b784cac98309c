//! Mixtures of experts: every token goes through the `k` experts its router prefers, and their results are
//! mixed.

use crate::common::{
    PLAIN, attr, attr_error, between, exactly, from_f64s, input, tensor, type_error, unsupported, work,
};
use crate::contrib_common::{ms, want_dtype};
use crate::contrib_nbits::unpacked;
use crate::eval::{may_equal, optional, optional_type, result, same_dim, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, InferFn, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&MOE, &QMOE];

const ACTIVATION_ALPHA: AttrDef = attr("activation_alpha", AttrKind::Float);
const ACTIVATION_BETA: AttrDef = attr("activation_beta", AttrKind::Float);
const ACTIVATION_TYPE: AttrDef = attr("activation_type", AttrKind::Str);
const K: AttrDef = attr("k", AttrKind::Int);
const NORMALIZE: AttrDef = attr("normalize_routing_weights", AttrKind::Int);
const SWIGLU_FUSION: AttrDef = attr("swiglu_fusion", AttrKind::Int);
const SWIGLU_LIMIT: AttrDef = attr("swiglu_limit", AttrKind::Float);
const SPARSE_MIXER: AttrDef = attr("use_sparse_mixer", AttrKind::Int);

static MOE: OpDef = OpDef {
    name: "moe",
    doc: "every token through the k experts its router prefers, mixed by the router's weights.",
    onnx: &[ms("MoE")],
    inputs: between(3, 8),
    outputs: exactly(1),
    attrs: &[
        ACTIVATION_ALPHA,
        ACTIVATION_BETA,
        ACTIVATION_TYPE,
        K,
        NORMALIZE,
        SWIGLU_FUSION,
        SWIGLU_LIMIT,
        SPARSE_MIXER,
    ],
    traits: PLAIN,
    infer: infer_dense,
    content: None,
    eval: |ctx| eval(ctx, &DENSE, infer_dense),
    scalar: None,
    data: None,
    work: work_moe,
    sample: sample_moe,
};

static QMOE: OpDef = OpDef {
    name: "qmoe",
    doc: "as moe, with weights of 2, 4 or 8 bits with a scale per row or block.",
    onnx: &[ms("QMoE")],
    inputs: between(3, 21),
    attrs: &[
        attr("accuracy_level", AttrKind::Int),
        ACTIVATION_ALPHA,
        ACTIVATION_BETA,
        ACTIVATION_TYPE,
        attr("block_size", AttrKind::Int),
        attr("expert_weight_bits", AttrKind::Int),
        attr("fc1_expert_weight_bits", AttrKind::Int),
        attr("fc2_expert_weight_bits", AttrKind::Int),
        attr("fc3_expert_weight_bits", AttrKind::Int),
        K,
        NORMALIZE,
        attr("quant_type", AttrKind::Str),
        SWIGLU_FUSION,
        SWIGLU_LIMIT,
        SPARSE_MIXER,
        attr("weights_prepacked", AttrKind::Int),
    ],
    infer: infer_quantized,
    eval: |ctx| eval(ctx, &QUANTIZED, infer_quantized),
    sample: sample_qmoe,
    ..MOE
};

/// Where the operands of one projection are.
struct Projection {
    weight: usize,
    bias: usize,
    /// Scales and zero points of packed weights.
    packed: Option<(usize, usize)>,
    /// Attribute with the bits of packed weights.
    bits: &'static str,
}

/// Projections in and out of the experts, and the second one in.
struct Layout {
    fc: [Projection; 3],
    /// Operand with weights for the mixture, where they differ from those for the choice.
    mixing: Option<usize>,
    /// Whether shares by the router are always among the chosen experts only.
    among_chosen: bool,
}

const fn plain(weight: usize) -> Projection {
    Projection { weight, bias: weight + 1, packed: None, bits: "" }
}

const fn packed(weight: usize, zeros: usize, bits: &'static str) -> Projection {
    Projection { weight, bias: weight + 2, packed: Some((weight + 1, zeros)), bits }
}

const DENSE: Layout = Layout { fc: [plain(2), plain(4), plain(6)], mixing: None, among_chosen: false };

const QUANTIZED: Layout = Layout {
    fc: [
        packed(2, 11, "fc1_expert_weight_bits"),
        packed(5, 12, "fc2_expert_weight_bits"),
        packed(8, 13, "fc3_expert_weight_bits"),
    ],
    mixing: Some(14),
    among_chosen: true,
};

/// What an expert does between its projections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activation {
    Relu,
    Gelu,
    Silu,
    Identity,
    /// A gate and a linear part, each a projection of its own.
    Swiglu,
    /// The same with both parts in one projection, every second element.
    SwigluInterleaved,
    /// The same with both parts in one projection, one behind the other.
    SwigluJoined,
}

impl Activation {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        Ok(match (attrs.str("activation_type").unwrap_or("relu"), attrs.int_or("swiglu_fusion", 0)) {
            ("relu", _) => Self::Relu,
            ("gelu", _) => Self::Gelu,
            ("silu", _) => Self::Silu,
            ("identity", _) => Self::Identity,
            ("swiglu", 0) => Self::Swiglu,
            ("swiglu", 1) => Self::SwigluInterleaved,
            ("swiglu", 2) => Self::SwigluJoined,
            ("swiglu", other) => return Err(attr_error(format!("swiglu_fusion is {other}, not 0, 1 or 2"))),
            (other, _) => {
                return Err(attr_error(format!("activation_type is {other:?}"))
                    .hint("use relu, gelu, silu, swiglu or identity"));
            }
        })
    }

    /// Outputs of the first projection for each input of the last.
    fn fused(self) -> i64 {
        if matches!(self, Self::SwigluInterleaved | Self::SwigluJoined) { 2 } else { 1 }
    }
}

/// Numbers in one byte of a packed weight; 1 for weights that are not packed.
fn per_byte(attrs: &Attrs, fc: &Projection) -> Result<i64, Diag> {
    if fc.packed.is_none() {
        return Ok(1);
    }
    match attrs.int(fc.bits).unwrap_or_else(|| attrs.int_or("expert_weight_bits", 4)) {
        2 => Ok(4),
        4 => Ok(2),
        8 => Ok(1),
        other => Err(attr_error(format!("weights of {other} bits: they must have 2, 4 or 8"))),
    }
}

fn refuse_other_forms(attrs: &Attrs) -> Result<(), Diag> {
    if attrs.flag("use_sparse_mixer") {
        return Err(unsupported("a sparse mixer of experts is not supported"));
    }
    if attrs.int_or("weights_prepacked", 0) > 0 {
        return Err(unsupported("weights in the layout of one device are not supported"));
    }
    match attrs.str("quant_type") {
        None | Some("int") => Ok(()),
        Some(other) => Err(unsupported(format!("experts with weights of type {other:?} are not supported"))),
    }
}

/// Checks the operands of one projection to `rows` from `columns` numbers.
fn check_projection(ctx: &InferCtx, fc: &Projection, sizes: [&Dim; 3]) -> Result<(), Diag> {
    let weight = input(ctx, fc.weight)?;
    let fits = weight.rank() == 3 && weight.shape.iter().zip(sizes).all(|(a, b)| may_equal(a, b));
    if !fits {
        let [experts, rows, columns] = sizes;
        let text = format!("operand {} must be [{experts}, {rows}, {columns}], it is {weight}", fc.weight);
        return Err(type_error(text));
    }
    match fc.packed {
        None => want_float(weight.dtype)?,
        Some((scale, zero)) => {
            want_dtype(ctx, fc.weight, DType::U8)?;
            let scales = input(ctx, scale)?;
            want_float(scales.dtype)?;
            let rank = if ctx.attrs.int_or("block_size", 0) > 0 { 3 } else { 2 };
            let empty = scales.shape.get(2).is_some_and(|d| d.is(0));
            if scales.rank() != rank && scales.rank() != 3 || empty {
                return Err(type_error(format!(
                    "operand {scale} must have {rank} dimensions, it is {scales}"
                )));
            }
            same_dim(&scales.shape[0], sizes[0], "experts of weights and scales")?;
            same_dim(&scales.shape[1], sizes[1], "rows of weights and scales")?;
            if optional_type(ctx, zero).is_some() {
                want_dtype(ctx, zero, DType::U8)?;
            }
        }
    }
    let Some(bias) = optional_type(ctx, fc.bias) else { return Ok(()) };
    let [experts, rows] = bias.shape.as_slice() else {
        return Err(type_error(format!("operand {} must be a matrix, it is {bias}", fc.bias)));
    };
    same_dim(experts, sizes[0], "experts of weights and biases")?;
    same_dim(rows, sizes[1], "rows of weights and biases")
}

fn infer_dense(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    infer(ctx, &DENSE)
}

fn infer_quantized(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    infer(ctx, &QUANTIZED)
}

fn infer(ctx: &InferCtx, layout: &Layout) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    refuse_other_forms(ctx.attrs)?;
    let activation = Activation::read(ctx.attrs)?;
    if !(2..=3).contains(&x.rank()) {
        return Err(type_error(format!("the tokens must have 2 or 3 dimensions, they are {x}")));
    }
    let router = input(ctx, 1)?;
    let [tokens, experts] = router.shape.as_slice() else {
        return Err(type_error(format!("the router must be a matrix, it is {router}")));
    };
    let rows = x.shape[..x.rank() - 1].iter().fold(Dim::known(1), |n, d| n * d.clone());
    same_dim(tokens, &rows, "rows of the router and tokens")?;
    if let Some(mixing) = layout.mixing.and_then(|n| optional_type(ctx, n))
        && (mixing.rank() != 2 || mixing.shape.iter().zip(&router.shape).any(|(a, b)| !may_equal(a, b)))
    {
        return Err(type_error(format!("the router's weights must be {router}, they are {mixing}")));
    }
    let k = ctx.attrs.int_or("k", 1);
    if k < 1 || experts.as_known().is_some_and(|e| e < k) {
        return Err(attr_error(format!("k is {k}, there are {experts} experts")));
    }
    let hidden = &x.shape[x.rank() - 1];
    let [fc1, fc2, fc3] = &layout.fc;
    let inner = input(ctx, fc2.weight)?.shape.get(2).cloned().unwrap_or_else(|| Dim::known(0));
    let inner_size = inner.clone() * Dim::known(per_byte(ctx.attrs, fc2)?);
    let bytes = |fc: &Projection| -> Result<Dim, Diag> {
        Ok(hidden.floor_div(&Dim::known(per_byte(ctx.attrs, fc)?)))
    };
    let rows = inner_size.clone() * Dim::known(activation.fused());
    check_projection(ctx, fc1, [experts, &rows, &bytes(fc1)?])?;
    check_projection(ctx, fc2, [experts, hidden, &inner])?;
    if optional_type(ctx, fc3.weight).is_some() {
        check_projection(ctx, fc3, [experts, &inner_size, &bytes(fc3)?])?;
    } else if activation == Activation::Swiglu {
        return Err(type_error(format!("swiglu that is not fused needs operand {}", fc3.weight)));
    }
    Ok(vec![x.clone()])
}

/// The weight of `expert` row by row, and its bias.
fn weights(
    ctx: &EvalCtx,
    fc: &Projection,
    expert: usize,
    columns: usize,
) -> Result<(Vec<f64>, Option<Vec<f64>>), Diag> {
    let weight = tensor(ctx, fc.weight)?;
    let (rows, stored) = (weight.shape()[1], weight.shape()[2]);
    let bias = optional(ctx, fc.bias).map(|b| b.to_f64s()[expert * rows..(expert + 1) * rows].to_vec());
    let from = expert * rows * stored;
    let Some((scales, zeros)) = fc.packed else {
        return Ok((weight.to_f64s()[from..from + rows * stored].to_vec(), bias));
    };
    let bits = 8 / usize::try_from(per_byte(ctx.attrs, fc)?).unwrap_or(1);
    let scales = tensor(ctx, scales)?;
    let blocks = scales.shape().get(2).copied().unwrap_or(1);
    let per_row = scales.shape().len() == 3;
    let factors = scales.to_f64s();
    let block = columns.div_ceil(blocks.max(1)).max(1);
    let zeros = optional(ctx, zeros);
    let zero = |row: usize, n: usize| -> f64 {
        let Some(zeros) = zeros else { return f64::from(1u32 << (bits - 1)) };
        let stride = if per_row { (blocks * bits).div_ceil(8) } else { (rows * bits).div_ceil(8) };
        let line = if per_row { expert * rows + row } else { expert };
        let bytes = zeros.bytes().get(line * stride..(line + 1) * stride).unwrap_or_default();
        f64::from(unpacked(bytes, if per_row { n } else { row }, bits))
    };
    let mut out = Vec::with_capacity(rows * columns);
    for (row, packed) in weight.bytes()[from..from + rows * stored].chunks(stored.max(1)).enumerate() {
        for column in 0..columns {
            let n = column / block;
            let factor = factors[(expert * rows + row) * blocks + n];
            out.push((f64::from(unpacked(packed, column, bits)) - zero(row, n)) * factor);
        }
    }
    Ok((out, bias))
}

/// A row times the transposed weight, plus bias.
fn project(x: &[f64], (weight, bias): &(Vec<f64>, Option<Vec<f64>>)) -> Vec<f64> {
    let dot = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let add = |(n, w): (usize, &[f64])| dot(w) + bias.as_ref().map_or(0.0, |b| b[n]);
    weight.chunks(x.len().max(1)).enumerate().map(add).collect()
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-v))
}

/// The gate of swiglu times its linear part.
fn swiglu(attrs: &Attrs, gate: f64, linear: f64) -> f64 {
    let limit = f64::from(attrs.float_or("swiglu_limit", f32::INFINITY));
    let alpha = f64::from(attrs.float_or("activation_alpha", 1.0));
    let beta = f64::from(attrs.float_or("activation_beta", 0.0));
    let (gate, linear) = (gate.min(limit), linear.max(-limit).min(limit));
    gate * sigmoid(alpha * gate) * (linear + beta)
}

/// Factor of the tanh form of Gelu, which is the one experts use.
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// What goes into the last projection: `h` from the first, `other` from the second one in.
fn activated(attrs: &Attrs, activation: Activation, h: &[f64], other: Option<Vec<f64>>) -> Vec<f64> {
    let half = h.len() / 2;
    let single = |v: &f64| match activation {
        Activation::Relu => v.max(0.0),
        Activation::Gelu => 0.5 * v * (1.0 + libm::tanh(SQRT_2_OVER_PI * (v + 0.044_715 * v * v * v))),
        Activation::Silu => v * sigmoid(*v),
        _ => *v,
    };
    match (activation, other) {
        (Activation::SwigluInterleaved, _) => h.chunks(2).map(|p| swiglu(attrs, p[0], p[1])).collect(),
        (Activation::SwigluJoined, _) => (0..half).map(|i| swiglu(attrs, h[i], h[half + i])).collect(),
        (Activation::Swiglu, Some(other)) => h.iter().zip(other).map(|(g, l)| swiglu(attrs, *g, l)).collect(),
        (_, Some(other)) => h.iter().zip(other).map(|(v, o)| single(v) * o).collect(),
        (_, None) => h.iter().map(single).collect(),
    }
}

/// The preferred experts of a token and their shares: softmax over the chosen ones when shares are normalised or
/// `among_chosen`, else over all. `mixing` replaces the shares.
fn routed(attrs: &Attrs, row: &[f64], mixing: Option<&[f64]>, among_chosen: bool) -> Vec<(usize, f64)> {
    let k = usize::try_from(attrs.int_or("k", 1)).unwrap_or(1);
    let normal = attrs.flag("normalize_routing_weights");
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order.truncate(k);
    if let Some(mixing) = mixing {
        let sum: f64 = order.iter().map(|&e| mixing[e]).sum();
        let sum = if normal && sum != 0.0 { sum } else { 1.0 };
        return order.into_iter().map(|e| (e, mixing[e] / sum)).collect();
    }
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let power = |e: usize| libm::exp(row[e] - max);
    let sum: f64 = if normal || among_chosen {
        order.iter().map(|&e| power(e)).sum()
    } else {
        (0..row.len()).map(power).sum()
    };
    order.into_iter().map(|e| (e, power(e) / sum)).collect()
}

fn eval(ctx: &EvalCtx, layout: &Layout, infer: InferFn) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let activation = Activation::read(ctx.attrs)?;
    let hidden = shape[shape.len() - 1];
    let x = tensor(ctx, 0)?.to_f64s();
    let router = tensor(ctx, 1)?;
    let experts = router.shape()[1];
    let mixing = layout.mixing.and_then(|n| optional(ctx, n)).map(Tensor::to_f64s);
    let probabilities = router.to_f64s();
    let mut y = vec![0.0; x.len()];
    let [fc1, fc2, fc3] = &layout.fc;
    let shares: Vec<Vec<(usize, f64)>> = probabilities
        .chunks(experts.max(1))
        .enumerate()
        .map(|(t, row)| {
            let mixing = mixing.as_ref().map(|m| &m[t * experts..(t + 1) * experts]);
            routed(ctx.attrs, row, mixing, layout.among_chosen)
        })
        .collect();
    for expert in 0..experts {
        let chosen: Vec<(usize, f64)> = shares
            .iter()
            .enumerate()
            .flat_map(|(t, s)| s.iter().filter(|(e, _)| *e == expert).map(move |(_, share)| (t, *share)))
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let per_byte = usize::try_from(per_byte(ctx.attrs, fc2)?).unwrap_or(1);
        let inner = tensor(ctx, fc2.weight)?.shape()[2] * per_byte;
        let (first, last) = (weights(ctx, fc1, expert, hidden)?, weights(ctx, fc2, expert, inner)?);
        let second = match optional(ctx, fc3.weight) {
            Some(_) => Some(weights(ctx, fc3, expert, hidden)?),
            None => None,
        };
        for (token, share) in chosen {
            let row = &x[token * hidden..(token + 1) * hidden];
            let other = second.as_ref().map(|w| project(row, w));
            let inside = activated(ctx.attrs, activation, &project(row, &first), other);
            for (slot, v) in y[token * hidden..].iter_mut().zip(project(&inside, &last)) {
                *slot += share * v;
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn work_moe(ctx: &WorkCtx) -> Work {
    let weights: f64 = [2, 4, 5]
        .iter()
        .filter_map(|&n| ctx.inputs.get(n)?.as_ref())
        .filter(|(_, s)| s.len() == 3)
        .map(|(_, s)| s[1] as f64 * s[2] as f64)
        .sum();
    let tokens = ctx.inputs.get(1).and_then(Option::as_ref).map_or(0.0, |(_, s)| s[0] as f64);
    let k = ctx.attrs.int_or("k", 1) as f64;
    work(ctx, 2.0 * tokens * k * weights, WorkKind::Dense)
}

fn sample_attrs(rng: &mut Rng, experts: usize) -> Attrs {
    let mut attrs = Attrs::new()
        .with("k", rng.int(1, experts as i64))
        .with("normalize_routing_weights", rng.int(0, 1))
        .with("activation_type", *rng.pick(&["relu", "gelu", "silu", "identity", "swiglu"]));
    if attrs.str("activation_type") == Some("swiglu") {
        attrs.set("swiglu_fusion", rng.int(1, 2));
        attrs.set("swiglu_limit", 7.0f32);
        attrs.set("activation_alpha", 1.702f32);
        attrs.set("activation_beta", 1.0f32);
    }
    attrs
}

fn sample_moe(rng: &mut Rng) -> Sample {
    let [tokens, experts, hidden, inner] = [(); 4].map(|()| 1 + rng.below(4));
    let attrs = sample_attrs(rng, experts);
    let rows = if attrs.flag("swiglu_fusion") { 2 * inner } else { inner };
    let x = if rng.below(2) == 0 { vec![tokens, hidden] } else { vec![1, tokens, hidden] };
    let mut f32s = |shape: &[usize]| Some(rng.tensor(DType::F32, shape, -1.0, 1.0));
    let inputs = vec![
        f32s(&x),
        f32s(&[tokens, experts]),
        f32s(&[experts, rows, hidden]),
        f32s(&[experts, rows]),
        f32s(&[experts, hidden, inner]),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_qmoe(rng: &mut Rng) -> Sample {
    let [tokens, experts] = [(); 2].map(|()| 1 + rng.below(4));
    let (hidden, inner, bits) = (16, 16 * (1 + rng.below(2)), *rng.pick(&[4usize, 8]));
    let mut attrs = sample_attrs(rng, experts);
    attrs.set("expert_weight_bits", bits as i64);
    attrs.set("quant_type", "int");
    let blocked = rng.below(2) == 0;
    if blocked {
        attrs.set("block_size", 16i64);
    }
    let rows = if attrs.flag("swiglu_fusion") { 2 * inner } else { inner };
    let scales = |rows: usize, columns: usize| {
        if blocked { vec![experts, rows, columns / 16] } else { vec![experts, rows] }
    };
    let inputs = vec![
        Some(rng.tensor(DType::F32, &[tokens, hidden], -1.0, 1.0)),
        Some(rng.tensor(DType::F32, &[tokens, experts], -1.0, 1.0)),
        Some(rng.tensor(DType::U8, &[experts, rows, hidden * bits / 8], 0.0, 255.0)),
        Some(rng.tensor(DType::F32, &scales(rows, hidden), 0.01, 0.1)),
        None,
        Some(rng.tensor(DType::U8, &[experts, hidden, inner * bits / 8], 0.0, 255.0)),
        Some(rng.tensor(DType::F32, &scales(hidden, inner), 0.01, 0.1)),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}
