//! Recurrent operators over whole sequences: RNN, GRU and LSTM, in one or both directions.
//!
//! Sequences of one batch may have different lengths: a shorter one ends early, its results beyond the end are 0, and
//! the reverse direction starts at its own end. A sequence of length 0 has the final state 0.

use crate::common::{PLAIN, attr, attr_error, between, from_f64s, input, onnx, tensor, type_error, work};
use crate::eval::{optional, optional_type, results, same_dim, want_float};
use crate::rnn_cell::{Cell, Kind, activations, clip};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, InferCtx, InferFn, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&GRU, &LSTM, &RNN];

/// Attributes of all three, with place for one more.
const fn with(more: AttrDef) -> [AttrDef; 8] {
    [
        attr("activation_alpha", AttrKind::Floats),
        attr("activation_beta", AttrKind::Floats),
        attr("activations", AttrKind::Strs),
        attr("clip", AttrKind::Float),
        attr("direction", AttrKind::Str),
        attr("hidden_size", AttrKind::Int),
        attr("layout", AttrKind::Int),
        more,
    ]
}

static GRU_ATTRS: [AttrDef; 8] = with(attr("linear_before_reset", AttrKind::Int));
static LSTM_ATTRS: [AttrDef; 8] = with(attr("input_forget", AttrKind::Int));

static RNN: OpDef = OpDef {
    name: "rnn",
    doc: "h = f(W x + R h + b) along a sequence: all h, and the last.",
    onnx: &[onnx("RNN", 14)],
    // x, W, R, b, lengths, h.
    inputs: between(3, 6),
    outputs: between(1, 2),
    attrs: GRU_ATTRS.split_at(7).0,
    traits: PLAIN,
    infer: |c| infer_recurrent(c, Kind::Rnn),
    content: None,
    eval: |c| eval_recurrent(c, Kind::Rnn, |c| infer_recurrent(c, Kind::Rnn)),
    scalar: None,
    data: None,
    work: |c| work_recurrent(c, Kind::Rnn),
    sample: |rng| sample_recurrent(rng, Kind::Rnn),
};

static GRU: OpDef = OpDef {
    name: "gru",
    doc: "Gated recurrent units along a sequence: all h, and the last.",
    onnx: &[onnx("GRU", 14)],
    attrs: &GRU_ATTRS,
    infer: |c| infer_recurrent(c, Kind::Gru),
    eval: |c| eval_recurrent(c, Kind::Gru, |c| infer_recurrent(c, Kind::Gru)),
    work: |c| work_recurrent(c, Kind::Gru),
    sample: |rng| sample_recurrent(rng, Kind::Gru),
    ..RNN
};

static LSTM: OpDef = OpDef {
    name: "lstm",
    doc: "Long short-term memory along a sequence: all h, the last, and the last cell.",
    onnx: &[onnx("LSTM", 14)],
    // Also the cell and the peepholes.
    inputs: between(3, 8),
    outputs: between(1, 3),
    attrs: &LSTM_ATTRS,
    infer: |c| infer_recurrent(c, Kind::Lstm),
    eval: |c| eval_recurrent(c, Kind::Lstm, |c| infer_recurrent(c, Kind::Lstm)),
    work: |c| work_recurrent(c, Kind::Lstm),
    sample: |rng| sample_recurrent(rng, Kind::Lstm),
    ..RNN
};

/// Number of directions, and whether each goes backwards.
fn directions(attrs: &Attrs) -> Result<&'static [bool], Diag> {
    match attrs.str("direction") {
        None | Some("forward") => Ok(&[false]),
        Some("reverse") => Ok(&[true]),
        Some("bidirectional") => Ok(&[false, true]),
        Some(other) => Err(attr_error(format!("direction is \"{other}\""))
            .hint("use \"forward\", \"reverse\" or \"bidirectional\"")),
    }
}

/// The sizes of a use: sequence, batch, input, hidden, directions.
struct Sizes {
    seq: Dim,
    batch: Dim,
    input: Dim,
    hidden: Dim,
    directions: Dim,
}

impl Sizes {
    fn of(ctx: &InferCtx) -> Result<Self, Diag> {
        let (x, r) = (input(ctx, 0)?, input(ctx, 2)?);
        if x.rank() != 3 || r.rank() != 3 {
            return Err(type_error(format!(
                "the sequence is {x} and the recurrence {r}, both have 3 dimensions"
            )));
        }
        let hidden = match ctx.attrs.int("hidden_size") {
            Some(n) if n < 1 => return Err(attr_error(format!("hidden_size is {n}"))),
            Some(n) => Dim::known(n),
            None => r.shape[2].clone(),
        };
        let batch_first = ctx.attrs.flag("layout");
        let (seq, batch) = if batch_first { (1, 0) } else { (0, 1) };
        Ok(Self {
            seq: x.shape[seq].clone(),
            batch: x.shape[batch].clone(),
            input: x.shape[2].clone(),
            hidden,
            directions: directions(ctx.attrs)?.len().into(),
        })
    }

    /// Shape of a state in the layout of the operands.
    fn state(&self, attrs: &Attrs) -> [Dim; 3] {
        let (a, b) = (self.directions.clone(), self.batch.clone());
        if attrs.flag("layout") { [b, a, self.hidden.clone()] } else { [a, b, self.hidden.clone()] }
    }
}

/// Checks the shape of operand `n` where it is given, and that it has the element type of the sequence.
fn check(ctx: &InferCtx, n: usize, want: &[Dim]) -> Result<(), Diag> {
    let (Some(ty), dtype) = (optional_type(ctx, n), input(ctx, 0)?.dtype) else { return Ok(()) };
    if ty.dtype != dtype || ty.rank() != want.len() {
        let text = format!("operand {n} is {ty}, {} dimensions of {} are wanted", want.len(), dtype.name());
        return Err(type_error(text));
    }
    ty.shape.iter().zip(want).try_for_each(|(d, w)| same_dim(d, w, &format!("sizes of operand {n}")))
}

fn infer_recurrent(ctx: &InferCtx, kind: Kind) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let s = Sizes::of(ctx)?;
    let (d, h) = (s.directions.clone(), s.hidden.clone());
    let rows = |n: usize| h.clone() * Dim::from(n * kind.n_gates());
    check(ctx, 1, &[d.clone(), rows(1), s.input.clone()])?;
    check(ctx, 2, &[d.clone(), rows(1), h.clone()])?;
    check(ctx, 3, &[d.clone(), rows(2)])?;
    if let Some(lens) = optional_type(ctx, 4) {
        if lens.rank() != 1 || !matches!(lens.dtype, DType::I32 | DType::I64) {
            return Err(type_error(format!("the sequences' lengths are {lens}, a vector of i32 is wanted")));
        }
        same_dim(&lens.shape[0], &s.batch, "the batch and the number of lengths")?;
    }
    let state = s.state(ctx.attrs);
    check(ctx, 5, &state)?;
    check(ctx, 6, &state)?;
    check(ctx, 7, &[d.clone(), h.clone() * Dim::known(3)])?;
    activations(ctx.attrs, kind, directions(ctx.attrs)?.len())?;
    clip(ctx.attrs)?;
    let all = if ctx.attrs.flag("layout") { [s.batch, s.seq, d, h] } else { [s.seq, d, s.batch, h] };
    let state = Type::new(x.dtype, state);
    let mut types = vec![Type::new(x.dtype, all), state.clone(), state];
    types.truncate(ctx.n_outputs.max(1));
    Ok(types)
}

/// Sizes of a use as numbers, and where its elements are.
struct Plan {
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
    batch_first: bool,
}

impl Plan {
    /// Position of a step's input.
    fn x(&self, t: usize, b: usize) -> usize {
        self.input * if self.batch_first { b * self.seq + t } else { t * self.batch + b }
    }

    /// Position of a step's result.
    fn y(&self, t: usize, d: usize, b: usize) -> usize {
        let at = if self.batch_first {
            (b * self.seq + t) * self.directions + d
        } else {
            (t * self.directions + d) * self.batch + b
        };
        at * self.hidden
    }

    /// Position of a state.
    fn state(&self, d: usize, b: usize) -> usize {
        self.hidden * if self.batch_first { b * self.directions + d } else { d * self.batch + b }
    }
}

/// The lengths of the sequences of a batch.
fn lengths(ctx: &EvalCtx, plan: &Plan) -> Result<Vec<usize>, Diag> {
    let Some(lens) = optional(ctx, 4) else { return Ok(vec![plan.seq; plan.batch]) };
    let fits = |n: i64| {
        usize::try_from(n).ok().filter(|&n| n <= plan.seq).ok_or_else(|| {
            Diag::new("X020", format!("a sequence of length {n} does not fit {} steps", plan.seq))
                .hint("check the lengths that are fed to the model")
        })
    };
    lens.to_i64s().into_iter().map(fits).collect()
}

/// The part of an optional operand's elements that belongs to direction `d`.
fn part(all: &[f64], d: usize, n_directions: usize) -> &[f64] {
    let n = all.len() / n_directions;
    &all[d * n..(d + 1) * n]
}

fn eval_recurrent(ctx: &EvalCtx, kind: Kind, infer: InferFn) -> Result<Vec<Tensor>, Diag> {
    let types = results(ctx, infer)?;
    let floats = |n: usize| optional(ctx, n).map(Tensor::to_f64s).unwrap_or_default();
    let (x, w, r, b, p) = (floats(0), floats(1), floats(2), floats(3), floats(7));
    let (first_h, first_c) = (floats(5), floats(6));
    let backwards = directions(ctx.attrs)?;
    let all = activations(ctx.attrs, kind, backwards.len())?;
    let shape = tensor(ctx, 0)?.shape();
    let batch_first = ctx.attrs.flag("layout");
    let (seq, batch) = if batch_first { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let hidden = types[0].1[3];
    let plan = Plan { seq, batch, input: shape[2], hidden, directions: backwards.len(), batch_first };
    let lens = lengths(ctx, &plan)?;
    let n_states = plan.directions * batch * hidden;
    let mut out = [vec![0.0; seq * n_states], vec![0.0; n_states], vec![0.0; n_states]];
    for (d, &backwards) in backwards.iter().enumerate() {
        let n = plan.directions;
        let cell = Cell {
            kind,
            hidden,
            w: part(&w, d, n),
            r: part(&r, d, n),
            b: part(&b, d, n),
            p: part(&p, d, n),
            activations: &all[d * all.len() / n..(d + 1) * all.len() / n],
            clip: clip(ctx.attrs)?,
            linear_before_reset: ctx.attrs.flag("linear_before_reset"),
            couple_forget: ctx.attrs.flag("input_forget"),
        };
        for (b, &len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
            let at = plan.state(d, b);
            let first =
                |all: &[f64]| all.get(at..at + hidden).map_or_else(|| vec![0.0; hidden], <[f64]>::to_vec);
            let (mut h, mut c) = (first(&first_h), first(&first_c));
            for step in 0..len {
                let t = if backwards { len - 1 - step } else { step };
                let from = plan.x(t, b);
                cell.step(&x[from..from + plan.input], &mut h, &mut c);
                out[0][plan.y(t, d, b)..][..hidden].copy_from_slice(&h);
            }
            out[1][at..at + hidden].copy_from_slice(&h);
            out[2][at..at + hidden].copy_from_slice(&c);
        }
    }
    types.iter().zip(&out).map(|((dtype, shape), values)| from_f64s(*dtype, shape, values)).collect()
}

/// Two operations per weight and step.
fn work_recurrent(ctx: &WorkCtx, kind: Kind) -> Work {
    let shape = |n: usize| ctx.inputs.get(n).and_then(Option::as_ref).map_or(&[][..], |(_, s)| s.as_slice());
    let ([a, b, input], [directions, _, hidden]) = (shape(0), shape(2)) else { return Work::free() };
    let weights = kind.n_gates() * hidden * (input + hidden);
    work(ctx, 2.0 * (a * b) as f64 * (directions * weights) as f64, WorkKind::Dense)
}

fn sample_recurrent(rng: &mut Rng, kind: Kind) -> Sample {
    let [seq, batch, input, hidden] = [(); 4].map(|()| 1 + rng.below(3));
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F64]);
    let direction = *rng.pick(&["forward", "reverse", "bidirectional"]);
    let batch_first = rng.below(2) == 0;
    let d = if direction == "bidirectional" { 2 } else { 1 };
    let mut attrs = Attrs::new().with("direction", direction).with("hidden_size", hidden as i64);
    attrs.set("layout", i64::from(batch_first));
    match kind {
        Kind::Rnn => {}
        Kind::Gru => attrs.set("linear_before_reset", rng.int(0, 1)),
        Kind::Lstm => attrs.set("input_forget", rng.int(0, 1)),
    }
    if rng.below(3) == 0 {
        attrs.set("clip", 0.5f32);
    }
    let rows = kind.n_gates() * hidden;
    let x = if batch_first { [batch, seq, input] } else { [seq, batch, input] };
    let state = if batch_first { [batch, d, hidden] } else { [d, batch, hidden] };
    let mut floats = |shape: &[usize]| Some(rng.tensor(dtype, shape, -1.0, 1.0));
    let mut inputs = vec![floats(&x), floats(&[d, rows, input]), floats(&[d, rows, hidden])];
    let more = [floats(&[d, 2 * rows]), None, floats(&state), floats(&state), floats(&[d, 3 * hidden])];
    inputs.extend(more.into_iter().take(if kind == Kind::Lstm { 5 } else { 3 }));
    if rng.below(2) == 0 {
        inputs[4] = Some(rng.tensor(DType::I32, &[batch], -0.49, seq as f64 + 0.49));
    }
    inputs.truncate(3 + rng.below(inputs.len() - 2));
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    Sample { attrs, inputs, n_outputs: 1 + rng.below(if kind == Kind::Lstm { 3 } else { 2 }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::Attr;

    fn run(attrs: &Attrs, x: &[f64], lens: Option<&[i32]>) -> Vec<Vec<f64>> {
        let n = attrs.str("direction").map_or(1, |d| if d == "bidirectional" { 2 } else { 1 });
        let x = Tensor::from_f64s(DType::F64, &[3, x.len() / 3, 1], x).unwrap();
        let one = Tensor::from_f64s(DType::F64, &[n, 1, 1], &vec![1.0; n]).unwrap();
        let lens = lens.map(|l| Tensor::from_slice(&[l.len()], l).unwrap());
        let inputs = [Some(&x), Some(&one), Some(&one), None, lens.as_ref()];
        let y = (RNN.eval)(&EvalCtx { attrs, inputs: &inputs, n_outputs: 2 }).unwrap();
        y.iter().map(Tensor::to_f64s).collect()
    }

    /// With the identity as activation and weights of 1, states are running sums.
    fn sums(direction: &str) -> Attrs {
        let n = if direction == "bidirectional" { 2 } else { 1 };
        Attrs::new()
            .with("direction", direction)
            .with("activations", Attr::Strs(vec!["Affine".to_owned(); n]))
    }

    #[test]
    fn states_run_in_the_stated_direction() {
        assert_eq!(run(&sums("forward"), &[1.0, 2.0, 4.0], None), [vec![1.0, 3.0, 7.0], vec![7.0]]);
        assert_eq!(run(&sums("reverse"), &[1.0, 2.0, 4.0], None), [vec![7.0, 6.0, 4.0], vec![7.0]]);
        let both = run(&sums("bidirectional"), &[1.0, 2.0, 4.0], None);
        assert_eq!(both, [vec![1.0, 7.0, 3.0, 6.0, 7.0, 4.0], vec![7.0, 7.0]]);
    }

    #[test]
    fn short_sequences_end_early() {
        let x = [1.0, 10.0, 2.0, 20.0, 4.0, 40.0];
        let y = run(&sums("forward"), &x, Some(&[2, 0]));
        assert_eq!(y, [vec![1.0, 0.0, 3.0, 0.0, 0.0, 0.0], vec![3.0, 0.0]]);
        let y = run(&sums("reverse"), &x, Some(&[2, 3]));
        assert_eq!(y, [vec![3.0, 70.0, 2.0, 60.0, 0.0, 40.0], vec![3.0, 70.0]]);
    }
}
