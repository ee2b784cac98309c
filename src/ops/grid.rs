//! Sampling at positions that are data: `grid_sample`, and `affine_grid`, which makes such positions.

use crate::common::{
    PLAIN, attr, attr_error, data_dependent, exactly, from_f64s, indices, input, onnx, strides, tensor,
    type_error, work,
};
use crate::crop::zero_bytes;
use crate::elements::from_bytes;
use crate::eval::{result, same_dim, want_float};
use crate::resample::keys_cubic;
use crate::samples::{any, float, list, values};
use crate::shapes::{or_unknown, unknown_shape};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&AFFINE_GRID, &GRID_SAMPLE];

static GRID_SAMPLE: OpDef = OpDef {
    name: "grid_sample",
    doc: "Interpolates x at the positions that a grid names; -1 and 1 are the ends of each axis.",
    onnx: &[onnx("GridSample", 20)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[
        attr("align_corners", AttrKind::Int),
        attr("mode", AttrKind::Str),
        attr("padding_mode", AttrKind::Str),
    ],
    traits: PLAIN,
    infer: infer_grid_sample,
    content: None,
    eval: eval_grid_sample,
    scalar: None,
    data: None,
    work: work_grid_sample,
    sample: sample_grid_sample,
};

static AFFINE_GRID: OpDef = OpDef {
    name: "affine_grid",
    doc: "Positions of a regular grid after an affine map, in the form that grid_sample reads.",
    onnx: &[onnx("AffineGrid", 20)],
    attrs: &[attr("align_corners", AttrKind::Int)],
    infer: infer_affine_grid,
    eval: eval_affine_grid,
    work: |c| {
        let n = c.outputs.first().and_then(|(_, s)| n_elements(s)).unwrap_or(0);
        work(c, 8.0 * n as f64, WorkKind::Vector)
    },
    sample: sample_affine_grid,
    ..GRID_SAMPLE
};

/// How values between elements are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// What lies outside the data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// A sampling as the attributes state it.
#[derive(Clone, Copy)]
struct Sampling {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
    /// Whether positions are computed in f64; otherwise in f32, on which ties of `nearest` depend.
    wide: bool,
}

/// An element of an axis (none: zero) and its weight.
type Tap = (Option<usize>, f64);

impl Sampling {
    fn read(attrs: &Attrs, grid: DType) -> Result<Self, Diag> {
        let mode = match attrs.str("mode").unwrap_or("linear") {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" | "bicubic" => Mode::Cubic,
            other => {
                return Err(
                    attr_error(format!("mode is {other:?}")).hint("allowed are nearest, linear and cubic")
                );
            }
        };
        let padding = match attrs.str("padding_mode").unwrap_or("zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => {
                return Err(attr_error(format!("padding_mode is {other:?}"))
                    .hint("allowed are zeros, border and reflection"));
            }
        };
        Ok(Self { mode, padding, align_corners: attrs.flag("align_corners"), wide: grid == DType::F64 })
    }

    /// The position in elements of the normalised position `v` on an axis of `len` elements.
    fn place(&self, v: f64, len: usize) -> f64 {
        let round = |v: f64| if self.wide { v } else { f64::from(v as f32) };
        let len = len as f64;
        let from_left = round(v + 1.0);
        if self.align_corners {
            round(from_left / 2.0 * (len - 1.0))
        } else {
            round(round(round(from_left * len) - 1.0) / 2.0)
        }
    }

    /// The ends of an axis, at which positions are reflected.
    fn ends(&self, len: usize) -> (f64, f64) {
        if self.align_corners { (0.0, len as f64 - 1.0) } else { (-0.5, len as f64 - 0.5) }
    }

    /// The elements of an axis that the normalised position `v` blends.
    fn taps(&self, v: f64, len: usize) -> Vec<Tap> {
        let mut x = self.place(v, len);
        if self.mode == Mode::Nearest {
            x = x.round_ties_even();
        }
        let (low, high) = self.ends(len);
        if x < low || x > high {
            x = match self.padding {
                Padding::Zeros => x,
                Padding::Border => x.clamp(0.0, (len as f64 - 1.0).max(0.0)),
                Padding::Reflection => reflect(x, low, high),
            };
        }
        let floor = x.floor();
        let ratio = x - floor;
        let at = |offset: f64, weight: f64| (self.element(floor + offset, len), weight);
        match self.mode {
            Mode::Nearest => vec![at(0.0, 1.0)],
            Mode::Linear => vec![at(0.0, 1.0 - ratio), at(1.0, ratio)],
            Mode::Cubic => {
                [-1.0, 0.0, 1.0, 2.0].map(|k: f64| at(k, keys_cubic((k - ratio).abs(), CUBIC_A))).to_vec()
            }
        }
    }

    /// The element at a whole position, after padding.
    fn element(&self, x: f64, len: usize) -> Option<usize> {
        let last = len as f64 - 1.0;
        if (0.0..=last).contains(&x) {
            return Some(x as usize);
        }
        let inside = match self.padding {
            Padding::Zeros => return None,
            Padding::Border => x,
            Padding::Reflection => {
                let (low, high) = self.ends(len);
                reflect(x, low, high).trunc()
            }
        };
        (len > 0).then(|| inside.clamp(0.0, last) as usize)
    }
}

/// The coefficient of the cubic kernel that the definition fixes.
const CUBIC_A: f64 = -0.75;

/// `x` reflected at both ends until it lies between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let beyond = if x < low {
        low - x
    } else if x > high {
        x - high
    } else {
        return x;
    };
    let turns = (beyond / range).trunc();
    let rest = beyond - turns * range;
    // After an even number of turns the rest is counted from the end that was passed.
    if (turns % 2.0 == 0.0) == (x < low) { low + rest } else { high - rest }
}

fn infer_grid_sample(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (x, grid) = (input(ctx, 0)?, input(ctx, 1)?);
    want_float(grid.dtype)?;
    let sampling = Sampling::read(ctx.attrs, grid.dtype)?;
    if x.dtype == DType::Str && sampling.mode != Mode::Nearest {
        return Err(type_error("text cannot be interpolated").hint("set mode to nearest"));
    }
    if x.rank() < 3 || grid.rank() != x.rank() {
        return Err(type_error(format!("the data is {x} and the grid {grid}"))
            .hint("data is [batch, channels, spatial...], a grid [batch, spatial..., axes]"));
    }
    same_dim(&x.shape[0], &grid.shape[0], "batches of data and grid")?;
    let axes = Dim::from(x.rank() - 2);
    same_dim(&grid.shape[grid.rank() - 1], &axes, "spatial axes and entries of a position")?;
    let mut shape = x.shape[..2].to_vec();
    shape.extend_from_slice(&grid.shape[1..grid.rank() - 1]);
    Ok(vec![Type::new(x.dtype, shape)])
}

/// The elements of one channel that a position blends; `position` counts axes from the last.
fn blend(sampling: &Sampling, position: &[f64], spatial: &[usize]) -> Vec<Tap> {
    let mut taps: Vec<Tap> = vec![(Some(0), 1.0)];
    for ((&v, &len), stride) in position.iter().rev().zip(spatial).zip(strides(spatial)) {
        let axis = sampling.taps(v, len);
        let both = |a: &Tap, b: &Tap| (a.0.zip(b.0).map(|(a, b)| a + b * stride), a.1 * b.1);
        taps = taps.iter().flat_map(|a| axis.iter().map(move |b| both(a, b))).collect();
    }
    taps
}

fn eval_grid_sample(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_grid_sample)?;
    let (x, grid) = (tensor(ctx, 0)?, tensor(ctx, 1)?);
    let sampling = Sampling::read(ctx.attrs, grid.dtype())?;
    let (spatial, n_axes) = (&x.shape()[2..], x.rank() - 2);
    let n_places: usize = shape[2..].iter().product();
    let positions = grid.to_f64s();
    let taps: Vec<Vec<Tap>> =
        positions.chunks(n_axes).map(|position| blend(&sampling, position, spatial)).collect();
    let channel: usize = spatial.iter().product();
    // For every result element, where its channel starts and what is blended.
    let places = (0..shape[0] * shape[1]).flat_map(|c| {
        let first = c / shape[1] * n_places;
        taps[first..first + n_places].iter().map(move |t| (c * channel, t))
    });
    if sampling.mode == Mode::Nearest {
        let nearest = places.map(|(start, taps)| Some(start + taps.first()?.0?));
        return Ok(vec![pick(x, &shape, nearest)?]);
    }
    let values = x.to_f64s();
    let sum = |(start, taps): (usize, &Vec<Tap>)| -> f64 {
        taps.iter().filter(|t| t.1 != 0.0).filter_map(|t| Some(values[start + t.0?] * t.1)).sum()
    };
    let y: Vec<f64> = places.map(sum).collect();
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// The elements of `x` at `positions`, zero where there is none.
fn pick(x: &Tensor, shape: &[usize], positions: impl Iterator<Item = Option<usize>>) -> Result<Tensor, Diag> {
    let (size, zero) = (x.dtype().size_bytes(), zero_bytes(x.dtype()));
    let mut bytes = Vec::new();
    for position in positions {
        match position {
            None => bytes.extend_from_slice(&zero),
            Some(p) => bytes.extend(
                x.bytes().get(p * size..(p + 1) * size).ok_or_else(|| type_error("an element is missing"))?,
            ),
        }
    }
    from_bytes(x.dtype(), shape, bytes)
}

/// Taps: 1, 2 or 4 along each axis.
fn work_grid_sample(ctx: &WorkCtx) -> Work {
    let taps: f64 = match ctx.attrs.str("mode") {
        Some("nearest") => 1.0,
        Some("cubic" | "bicubic") => 4.0,
        _ => 2.0,
    };
    let (axes, n) = ctx
        .outputs
        .first()
        .map_or((0, 0), |(_, s)| (s.len().saturating_sub(2), n_elements(s).unwrap_or(usize::MAX)));
    work(ctx, 2.0 * taps.powi(axes.min(8) as i32) * n as f64, WorkKind::Vector)
}

fn sample_grid_sample(rng: &mut Rng) -> Sample {
    let axes = 1 + rng.below(3);
    let size = |rng: &mut Rng| 1 + rng.below(4);
    let (mut shape, mut grid) = (vec![1 + rng.below(2), size(rng)], Vec::new());
    grid.push(shape[0]);
    for _ in 0..axes {
        shape.push(size(rng));
        grid.push(size(rng));
    }
    grid.push(axes);
    let (dtype, positions) = (any(rng), float(rng));
    let inputs = vec![Some(values(rng, dtype, &shape)), Some(rng.tensor(positions, &grid, -1.6, 1.6))];
    let attrs = Attrs::new()
        .with("align_corners", rng.int(0, 1))
        .with("mode", *rng.pick(&["nearest", "linear", "cubic"]))
        .with("padding_mode", *rng.pick(&["zeros", "border", "reflection"]));
    Sample { attrs, inputs, n_outputs: 1 }
}

fn infer_affine_grid(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact_affine_grid(ctx), || {
        let theta = input(ctx, 0).ok()?;
        let axes = theta.shape.get(1)?.as_known().filter(|a| (2..=3).contains(a))? as usize;
        let mut shape = unknown_shape(0, axes + 2);
        shape[0] = theta.shape[0].clone();
        shape[axes + 1] = axes.into();
        Some(vec![Type::new(theta.dtype, shape)])
    })
}

fn exact_affine_grid(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let theta = input(ctx, 0)?;
    want_float(theta.dtype)?;
    let size = crate::content::dims(ctx, 1).ok_or_else(data_dependent)?;
    let axes = size.len().saturating_sub(2);
    if theta.rank() != 3 || !(2..=3).contains(&axes) {
        return Err(type_error(format!("theta is {theta} for {} sizes", size.len()))
            .hint("theta is [batch, 2, 3] for 4 sizes, [batch, 3, 4] for 5"));
    }
    if size.iter().any(|d| d.as_known().is_some_and(|d| d < 0)) {
        return Err(attr_error("a size is negative"));
    }
    same_dim(&theta.shape[0], &size[0], "batches of theta and size")?;
    same_dim(&theta.shape[1], &axes.into(), "rows of theta and spatial axes")?;
    same_dim(&theta.shape[2], &(axes + 1).into(), "columns of theta and spatial axes plus one")?;
    let mut shape = vec![theta.shape[0].clone()];
    shape.extend_from_slice(&size[2..]);
    shape.push(axes.into());
    Ok(vec![Type::new(theta.dtype, shape)])
}

/// Normalised position of element `at` of `len`.
fn normalised(at: usize, len: usize, align_corners: bool) -> f64 {
    match (align_corners, len) {
        (true, 1) => -1.0,
        (true, _) => at as f64 * 2.0 / (len as f64 - 1.0) - 1.0,
        (false, _) => (2.0 * at as f64 + 1.0) / len as f64 - 1.0,
    }
}

fn eval_affine_grid(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_affine_grid)?;
    let align = ctx.attrs.flag("align_corners");
    let axes = shape.len() - 2;
    let spatial = &shape[1..=axes];
    let mut y = Vec::with_capacity(n_elements(&shape).unwrap_or(0));
    for theta in tensor(ctx, 0)?.to_f64s().chunks(axes * (axes + 1)) {
        for index in indices(spatial) {
            let at: Vec<f64> =
                index.iter().zip(spatial).rev().map(|(&i, &len)| normalised(i, len, align)).collect();
            let row = |row: &[f64]| row.iter().zip(&at).map(|(t, x)| t * x).sum::<f64>() + row[axes];
            y.extend(theta.chunks(axes + 1).map(row));
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn sample_affine_grid(rng: &mut Rng) -> Sample {
    let (batch, axes) = (1 + rng.below(2), 2 + rng.below(2));
    let mut size = vec![batch as i64, rng.int(1, 3)];
    size.extend((0..axes).map(|_| rng.int(1, 4)));
    let dtype = float(rng);
    let theta = rng.tensor(dtype, &[batch, axes, axes + 1], -2.0, 2.0);
    let attrs = Attrs::new().with("align_corners", rng.int(0, 1));
    Sample { attrs, inputs: vec![Some(theta), Some(list(&size))], n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_goes_back_and_forth() {
        // The example of the definition: -3.5 becomes 1.5, then 0.5, between the borders -1 and 1.
        assert!((reflect(-3.5, -1.0, 1.0) - 0.5).abs() < 1e-12);
        assert_eq!(reflect(3.0, 0.0, 2.0), 1.0);
        assert_eq!(reflect(7.0, 0.0, 0.0), 0.0);
        assert_eq!(reflect(1.25, 0.0, 2.0), 1.25);
    }
}
