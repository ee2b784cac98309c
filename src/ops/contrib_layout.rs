//! Windows and rotations that exist only in the domain `com.microsoft`.

use crate::common::{
    MOVES, PLAIN, attr, attr_error, axis_of, exactly, from_f64s, index_error, input, required, strides,
    tensor, type_error, work, work_move,
};
use crate::contrib_common::{ms, want_dtype};
use crate::elements::{take, walk};
use crate::eval::{result, same_dim, same_dtypes, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&M_ROTARY_EMBEDDING, &UNFOLD];

static UNFOLD: OpDef = OpDef {
    name: "unfold",
    doc: "all windows of `size` elements along axis `dim`, `step` apart, as a new last axis.",
    onnx: &[ms("UnfoldTensor")],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("dim", AttrKind::Int), required("size", AttrKind::Int), attr("step", AttrKind::Int)],
    traits: MOVES,
    infer: infer_unfold,
    content: None,
    eval: eval_unfold,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_unfold,
};

static M_ROTARY_EMBEDDING: OpDef = OpDef {
    name: "m_rotary_embedding",
    doc: "pairs of features rotated by angles of three positions (time, height, width) of every token.",
    onnx: &[ms("MRotaryEmbedding")],
    inputs: exactly(4),
    attrs: &[
        attr("interleaved", AttrKind::Int),
        attr("is_packed_batching", AttrKind::Int),
        attr("mrope_layout", AttrKind::Int),
        required("mrope_section", AttrKind::Ints),
        attr("num_heads", AttrKind::Int),
        attr("rotary_embedding_dim", AttrKind::Int),
        attr("scale", AttrKind::Float),
    ],
    traits: PLAIN,
    infer: infer_rotary,
    eval: eval_rotary,
    work: |ctx| work(ctx, 3.0 * crate::common::n_out(ctx), WorkKind::Vector),
    sample: sample_rotary,
    ..UNFOLD
};

/// Axis, size and step of the windows.
fn windows(attrs: &Attrs, rank: usize) -> Result<(usize, i64, i64), Diag> {
    let axis = axis_of(attrs.int_or("dim", -1), rank)?;
    let (size, step) = (attrs.int_or("size", 0), attrs.int_or("step", 1));
    if size < 1 || step < 1 {
        return Err(attr_error(format!("size {size} and step {step} must be 1 or more")));
    }
    Ok((axis, size, step))
}

fn infer_unfold(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let (axis, size, step) = windows(ctx.attrs, x.rank())?;
    let room = x.shape[axis].clone() - Dim::known(size);
    if room.as_known().is_some_and(|r| r < 0) {
        return Err(type_error(format!("windows of {size} do not fit axis {axis} of {x}")));
    }
    let mut shape = x.shape.clone();
    shape[axis] = room.floor_div(&Dim::known(step)) + Dim::known(1);
    shape.push(Dim::known(size));
    Ok(vec![Type::new(x.dtype, shape)])
}

fn eval_unfold(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (_, shape) = result(ctx, infer_unfold)?;
    let x = tensor(ctx, 0)?;
    let (axis, _, step) = windows(ctx.attrs, x.rank())?;
    let mut steps: Vec<i64> = strides(x.shape()).into_iter().map(|s| s as i64).collect();
    steps.push(steps[axis]);
    steps[axis] = steps[axis].saturating_mul(step);
    Ok(vec![take(x, &shape, &walk(&shape, 0, &steps))?])
}

fn sample_unfold(rng: &mut Rng) -> Sample {
    let mut shape = crate::samples::shape_of_rank(rng, 1);
    let axis = rng.below(shape.len());
    let size = 1 + rng.below(3);
    shape[axis] = size + rng.below(5);
    let dtype = crate::samples::any(rng);
    let mut sample = crate::common::sample_of(vec![crate::samples::values(rng, dtype, &shape)]);
    sample.attrs.set("dim", axis as i64);
    sample.attrs.set("size", size as i64);
    sample.attrs.set("step", rng.int(1, 3));
    sample
}

/// Sizes of a rotation.
struct Rotation {
    batch: usize,
    heads: usize,
    tokens: usize,
    head: usize,
    /// Features of a head that are rotated.
    rotated: usize,
    /// Whether heads come before tokens in memory.
    heads_first: bool,
}

impl Rotation {
    fn new(attrs: &Attrs, x: &[usize], half: usize) -> Result<Self, Diag> {
        let stated = usize::try_from(attrs.int_or("num_heads", 0)).unwrap_or(0);
        let (batch, heads, tokens, head, heads_first) = match *x {
            [batch, heads, tokens, head] => (batch, heads, tokens, head, true),
            [batch, tokens, hidden] => {
                let heads = if stated > 0 { stated } else { hidden / (2 * half).max(1) };
                if heads == 0 || hidden % heads != 0 {
                    return Err(attr_error(format!("a width of {hidden} does not split into {heads} heads")));
                }
                (batch, heads, tokens, hidden / heads, false)
            }
            _ => return Err(type_error("the data must have 3 or 4 dimensions")),
        };
        if 2 * half > head {
            return Err(type_error(format!("{half} angles do not fit heads of {head} features")));
        }
        Ok(Self { batch, heads, tokens, head, rotated: 2 * half, heads_first })
    }

    /// Where the features of a head of a token begin.
    fn start(&self, batch: usize, head: usize, token: usize) -> usize {
        let line = if self.heads_first {
            (batch * self.heads + head) * self.tokens + token
        } else {
            (batch * self.tokens + token) * self.heads + head
        };
        line * self.head
    }
}

/// Which of the three positions gives the angle of each feature pair.
fn streams(attrs: &Attrs, half: usize) -> Result<Vec<usize>, Diag> {
    let sections = attrs.ints("mrope_section").unwrap_or_default();
    let sections: Vec<usize> = sections.iter().filter_map(|&s| usize::try_from(s).ok()).collect();
    let sum = sections.iter().try_fold(0usize, |sum, s| sum.checked_add(*s));
    if sections.len() != 3 || sum != Some(half) {
        return Err(attr_error(format!("mrope_section must be three numbers whose sum is {half}")));
    }
    match attrs.int_or("mrope_layout", 0) {
        0 => Ok(sections.iter().enumerate().flat_map(|(n, &s)| std::iter::repeat_n(n, s)).collect()),
        1 => Ok((0..half)
            .map(|i| match i % 3 {
                n @ 1..=2 if i < 3 * sections[n] => n,
                _ => 0,
            })
            .collect()),
        other => Err(attr_error(format!("mrope_layout is {other}, not 0 or 1"))),
    }
}

/// Operands: data, positions [3, batch, tokens], cosines and sines [positions, angles].
fn infer_rotary(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    want_dtype(ctx, 1, DType::I64)?;
    let (cosines, sines) = (input(ctx, 2)?, input(ctx, 3)?);
    if same_dtypes(ctx, 2..4)? != x.dtype {
        return Err(type_error("cosines and sines must have the element type of the data"));
    }
    let [length, half] = cosines.shape.as_slice() else {
        return Err(type_error(format!("the cosines must be a matrix, they are {cosines}")));
    };
    let [length_again, half_again] = sines.shape.as_slice() else {
        return Err(type_error(format!("the sines must be a matrix, they are {sines}")));
    };
    same_dim(length, length_again, "the numbers of cosines and sines")?;
    same_dim(half, half_again, "the angles of cosines and sines")?;
    if !(3..=4).contains(&x.rank()) {
        return Err(type_error(format!("the data must have 3 or 4 dimensions, it is {x}")));
    }
    let tokens = &x.shape[x.rank() - 2];
    let [three, batch, tokens_again] = input(ctx, 1)?.shape.as_slice() else {
        return Err(type_error("the positions must be [3, batch, tokens]"));
    };
    same_dim(three, &Dim::known(3), "the kinds of positions")?;
    same_dim(batch, &x.shape[0], "the batches of data and positions")?;
    same_dim(tokens_again, tokens, "the tokens of data and positions")?;
    if let (Some(shape), Some(half)) = (x.known_shape(), half.as_known()) {
        let half = usize::try_from(half).unwrap_or(0);
        streams(ctx.attrs, half)?;
        Rotation::new(ctx.attrs, &shape, half)?;
    }
    Ok(vec![x.clone()])
}

fn eval_rotary(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_rotary)?;
    let cosines = tensor(ctx, 2)?;
    let (length, half) = (cosines.shape()[0], cosines.shape()[1]);
    let r = Rotation::new(ctx.attrs, &shape, half)?;
    let streams = streams(ctx.attrs, half)?;
    let positions = tensor(ctx, 1)?.to_i64s();
    if let Some(bad) = positions.iter().find(|p| !(0..length as i64).contains(*p)) {
        return Err(index_error(*bad, length));
    }
    let (cosines, sines) = (cosines.to_f64s(), tensor(ctx, 3)?.to_f64s());
    let scale = f64::from(ctx.attrs.float_or("scale", 1.0));
    let interleaved = ctx.attrs.flag("interleaved");
    let mut y = tensor(ctx, 0)?.to_f64s();
    for (batch, token) in (0..r.batch).flat_map(|b| (0..r.tokens).map(move |t| (b, t))) {
        for head in 0..r.heads {
            let line = &mut y[r.start(batch, head, token)..][..r.rotated];
            for (i, stream) in streams.iter().enumerate() {
                let position = positions[(stream * r.batch + batch) * r.tokens + token] as usize;
                let (cos, sin) = (cosines[position * half + i] * scale, sines[position * half + i] * scale);
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                (line[a], line[b]) = (line[a] * cos - line[b] * sin, line[b] * cos + line[a] * sin);
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_rotary(rng: &mut Rng) -> Sample {
    let [batch, heads, tokens] = [(); 3].map(|()| 1 + rng.below(3));
    let half = 2 + rng.below(4);
    let head = 2 * half + 2 * rng.below(2);
    let x =
        if rng.below(2) == 0 { vec![batch, tokens, heads * head] } else { vec![batch, heads, tokens, head] };
    let first = rng.below(half + 1);
    let second = rng.below(half - first + 1);
    let section = [first, second, half - first - second].map(|s| s as i64).to_vec();
    let attrs = Attrs::new()
        .with("mrope_section", section)
        .with("mrope_layout", rng.int(0, 1))
        .with("interleaved", rng.int(0, 1))
        .with("num_heads", heads as i64)
        .with("rotary_embedding_dim", 2 * half as i64);
    let inputs = vec![
        Some(rng.tensor(DType::F32, &x, -2.0, 2.0)),
        Some(rng.tensor(DType::I64, &[3, batch, tokens], 0.0, 7.0)),
        Some(rng.tensor(DType::F32, &[8, half], -1.0, 1.0)),
        Some(rng.tensor(DType::F32, &[8, half], -1.0, 1.0)),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}
