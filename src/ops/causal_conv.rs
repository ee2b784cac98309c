//! Causal convolution along a sequence, each channel by itself, that carries the end of the sequence over to the
//! next call.

use crate::common::{
    PLAIN, attr, attr_error, between, from_f64s, input, onnx, tensor, type_error, unsupported, work,
};
use crate::contrib_common::ms;

use crate::eval::{optional, optional_type, results, rounding, same_dim, same_dtypes, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CAUSAL_CONV, &DILATED_CAUSAL_CONV];

/// Operands by their place.
const BIAS: usize = 2;
const PAST: usize = 3;

/// Most states that are kept.
const MAX_WINDOW: i64 = 8;

/// Most places between two taps.
const MAX_DILATION: i64 = 1 << 16;

/// A convolution that looks back only.
static CAUSAL_CONV: OpDef = OpDef {
    name: "causal_conv_with_state",
    doc: "convolution of x [N, C, L] with w [C, 1, k] over the places before each place; also the last k-1 places",
    onnx: &[onnx("CausalConvWithState", 27)],
    inputs: between(2, 4),
    outputs: between(1, 2),
    attrs: &[attr("activation", AttrKind::Str)],
    traits: PLAIN,
    infer: infer_conv,
    content: None,
    eval: eval_conv,
    scalar: None,
    data: None,
    work: work_conv,
    sample: |rng| sample_conv(rng, 1, 0),
};

/// The same with spaced taps, other layouts and several states.
static DILATED_CAUSAL_CONV: OpDef = OpDef {
    name: "dilated_causal_conv_with_state",
    doc: "causal_conv_with_state with `dilation`, sequence-major layout, and the states after the last places",
    onnx: &[ms("CausalConvWithState")],
    attrs: &[
        attr("activation", AttrKind::Str),
        attr("channels_last", AttrKind::Int),
        attr("dilation", AttrKind::Int),
        attr("ndim", AttrKind::Int),
        attr("state_window", AttrKind::Int),
    ],
    sample: |rng| {
        let (dilation, window) = (1 + rng.below(2), rng.below(3));
        sample_conv(rng, dilation, window)
    },
    ..CAUSAL_CONV
};

/// The attributes, checked.
struct Form {
    dilation: i64,
    window: i64,
    channels_last: bool,
    silu: bool,
}

impl Form {
    fn new(attrs: &Attrs) -> Result<Self, Diag> {
        let silu = match attrs.str("activation").unwrap_or("none") {
            "none" => false,
            "silu" | "swish" => true,
            other => {
                let text = format!("activation is \"{other}\"");
                return Err(attr_error(text).hint("use \"none\", \"silu\" or \"swish\""));
            }
        };
        if attrs.int_or("ndim", 1) != 1 {
            return Err(unsupported("causal convolution over more than one axis is not supported"));
        }
        let (dilation, window) = (attrs.int_or("dilation", 1), attrs.int_or("state_window", 0));
        if !(1..=MAX_DILATION).contains(&dilation) || !(0..=MAX_WINDOW).contains(&window) {
            return Err(attr_error(format!("dilation is {dilation}, state_window {window}"))
                .hint(format!("dilation is 1 to {MAX_DILATION}, state_window 0 to {MAX_WINDOW}")));
        }
        Ok(Self { dilation, window, channels_last: attrs.flag("channels_last"), silu })
    }

    /// Batch, channels and length of data in this layout.
    fn sizes(&self, x: &Type) -> Result<[Dim; 3], Diag> {
        match x.shape.as_slice() {
            [n, c, l] if !self.channels_last => Ok([n, c, l].map(Clone::clone)),
            [n, l, c @ ..] if self.channels_last && !c.is_empty() => {
                let channels = c.iter().fold(Dim::known(1), |all, d| all * d.clone());
                Ok([n.clone(), channels, l.clone()])
            }
            _ => Err(type_error(format!("the data of a causal convolution has rank 3, it is {x}"))),
        }
    }

    /// Shape of the state.
    fn state(&self, x: &Type, length: Dim) -> Vec<Dim> {
        let mut shape = x.shape.clone();
        shape[if self.channels_last { 1 } else { 2 }] = length;
        if self.window > 0 {
            shape.insert(0, Dim::known(self.window));
        }
        shape
    }
}

fn infer_conv(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    want_float(same_dtypes(ctx, 0..4)?)?;
    let form = Form::new(ctx.attrs)?;
    let (x, weight) = (input(ctx, 0)?, input(ctx, 1)?);
    let [_, channels, _] = form.sizes(x)?;
    let [c, one, taps] = weight.shape.as_slice() else {
        return Err(type_error(format!("the weights must have rank 3, they are {weight}")));
    };
    same_dim(c, &channels, "channels of the data and of the weights")?;
    same_dim(one, &Dim::known(1), "the second dimension of the weights and 1")?;
    if taps.as_known().is_some_and(|k| k < 1) {
        return Err(type_error("the weights have no taps"));
    }
    let state = form.state(x, (taps.clone() - Dim::known(1)) * Dim::known(form.dilation));
    if let Some(bias) = optional_type(ctx, BIAS) {
        match bias.shape.as_slice() {
            [n] => same_dim(n, &channels, "channels of the data and of the bias")?,
            _ => return Err(type_error(format!("the bias must be a vector, it is {bias}"))),
        }
    }
    if let Some(past) = optional_type(ctx, PAST) {
        if past.rank() != state.len() {
            return Err(type_error(format!("the past state must have rank {}, it is {past}", state.len())));
        }
        past.shape.iter().zip(&state).try_for_each(|(a, b)| same_dim(a, b, "sizes of past and new state"))?;
    }
    let types = [x.clone(), Type::new(x.dtype, state)];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// A matrix per batch with its axes exchanged: channels last to first, and back.
fn exchange(values: &[f64], batches: usize, rows: usize, columns: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(values.len());
    for batch in 0..batches {
        for column in 0..columns {
            out.extend((0..rows).map(|row| values[(batch * rows + row) * columns + column]));
        }
    }
    out
}

fn eval_conv(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer_conv)?;
    let (form, x, weight) = (Form::new(ctx.attrs)?, tensor(ctx, 0)?, tensor(ctx, 1)?);
    let known = |d: &Dim| d.as_known().and_then(|d| usize::try_from(d).ok()).unwrap_or(0);
    let dims = form.sizes(&Type::known(x.dtype(), x.shape()))?;
    let [batches, channels, length] = [known(&dims[0]), known(&dims[1]), known(&dims[2])];
    let (taps, step) = (weight.shape()[2], usize::try_from(form.dilation).unwrap_or(1));
    let (carried, slots) = ((taps - 1) * step, usize::try_from(form.window).unwrap_or(0).max(1));
    let first = |values: Vec<f64>, length| match form.channels_last {
        true => exchange(&values, batches, length, channels),
        false => values,
    };
    let last = |values: Vec<f64>, length| match form.channels_last {
        true => exchange(&values, batches, channels, length),
        false => values,
    };
    let state_len = batches * channels * carried;
    let past = optional(ctx, PAST).map(|t| t.to_f64s().split_off((slots - 1) * state_len));
    let past = first(past.unwrap_or_else(|| vec![0.0; state_len]), carried);
    let new = first(x.to_f64s(), length);
    // Each line is what was carried over, then the new places.
    let lines: Vec<Vec<f64>> = (0..batches * channels)
        .map(|i| [&past[i * carried..(i + 1) * carried], &new[i * length..(i + 1) * length]].concat())
        .collect();
    let (w, bias) = (weight.to_f64s(), optional(ctx, BIAS).map(Tensor::to_f64s));
    let round = rounding(x.dtype());
    let mut y = Vec::with_capacity(new.len());
    for (i, line) in lines.iter().enumerate() {
        let channel = i % channels;
        for place in 0..length {
            let sum: f64 = (0..taps).map(|tap| w[channel * taps + tap] * line[place + tap * step]).sum();
            let sum = round(sum + bias.as_ref().map_or(0.0, |b| b[channel]));
            y.push(if form.silu { sum / (1.0 + libm::exp(-sum)) } else { sum });
        }
    }
    let mut states = Vec::with_capacity(slots * state_len);
    for slot in 0..slots {
        let state = match (length + slot + 1).checked_sub(slots) {
            Some(end) if end > 0 || slot + 1 == slots => {
                lines.iter().flat_map(|line| line[end..end + carried].iter().copied()).collect()
            }
            _ => vec![0.0; state_len],
        };
        states.extend(last(state, carried));
    }
    let all = [last(y, length), states];
    types.iter().zip(all).map(|((dtype, shape), values)| from_f64s(*dtype, shape, &values)).collect()
}

fn work_conv(ctx: &WorkCtx) -> Work {
    let n = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map(|(_, s)| s);
    let elements: usize = n(0).map_or(0, |s| s.iter().product());
    let taps = n(1).and_then(|s| s.last()).copied().unwrap_or(1);
    work(ctx, 2.0 * elements as f64 * taps as f64, WorkKind::Vector)
}

fn sample_conv(rng: &mut Rng, dilation: usize, window: usize) -> Sample {
    let [n, c, l, k] = [(); 4].map(|()| 1 + rng.below(4));
    let carried = (k - 1) * dilation;
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("activation", *rng.pick(&["none", "silu", "swish"]));
    }
    let mut state = vec![n, c, carried];
    if dilation > 1 {
        attrs.set("dilation", dilation as i64);
    }
    if window > 0 {
        attrs.set("state_window", window as i64);
        state.insert(0, window);
    }
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F16]);
    let mut inputs = vec![Some(rng.tensor(dtype, &[n, c, l], -2.0, 2.0))];
    inputs.push(Some(rng.tensor(dtype, &[c, 1, k], -2.0, 2.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[c], -2.0, 2.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &state, -2.0, 2.0)));
    Sample { attrs, inputs, n_outputs: 2 }
}
