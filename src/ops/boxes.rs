//! Choosing among overlapping boxes: `non_max_suppression`. How many remain is known only at run time.

use crate::common::{PLAIN, attr, between, data_dependent, from_i64s, input, onnx, tensor, type_error, work};
use crate::eval::{optional, optional_type, same_dim};
use crate::shapes::or_unknown;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&NON_MAX_SUPPRESSION];

static NON_MAX_SUPPRESSION: OpDef = OpDef {
    name: "non_max_suppression",
    doc: "Per batch and class the boxes of highest score that do not overlap a better one too much.",
    onnx: &[onnx("NonMaxSuppression", 10)],
    inputs: between(2, 5),
    outputs: between(1, 1),
    attrs: &[attr("center_point_box", AttrKind::Int)],
    traits: PLAIN,
    infer: infer_suppression,
    content: None,
    eval: eval_suppression,
    scalar: None,
    data: None,
    work: |c| {
        // Each box is compared with those chosen before it: at most all of them.
        const FLOPS_PER_PAIR: f64 = 16.0;
        let scores: &[usize] = c.inputs.get(1).and_then(Option::as_ref).map_or(&[], |(_, s)| s);
        let [batches, classes, boxes] = [0, 1, 2].map(|i| scores.get(i).map_or(0.0, |&d| d as f64));
        work(c, FLOPS_PER_PAIR * batches * classes * boxes * boxes, WorkKind::Vector)
    },
    sample: sample_suppression,
};

/// Checks the operands' types.
fn check(ctx: &InferCtx) -> Result<(), Diag> {
    let (boxes, scores) = (input(ctx, 0)?, input(ctx, 1)?);
    if boxes.rank() != 3 || scores.rank() != 3 {
        return Err(type_error(format!("the boxes are {boxes}, the scores {scores}"))
            .hint("boxes are [batch, boxes, 4], scores [batch, classes, boxes]"));
    }
    same_dim(&boxes.shape[2], &4.into(), "corners of a box and 4")?;
    same_dim(&boxes.shape[0], &scores.shape[0], "batches of boxes and scores")?;
    same_dim(&boxes.shape[1], &scores.shape[2], "numbers of boxes and scores")?;
    let wanted = [DType::F32, DType::F32, DType::I64, DType::F32, DType::F32];
    for (n, dtype) in wanted.into_iter().enumerate() {
        match optional_type(ctx, n) {
            Some(ty) if ty.dtype != dtype => {
                return Err(type_error(format!("operand {n} is {ty}, {} is wanted", dtype.name())));
            }
            Some(ty) if n > 1 && ty.n_elements().as_known().is_some_and(|d| d > 1) => {
                return Err(type_error(format!("operand {n} is {ty}, one number is wanted")));
            }
            _ => {}
        }
    }
    Ok(())
}

fn infer_suppression(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    or_unknown(exact(ctx), || Some(vec![Type::new(DType::I64, [Dim::unknown(0, 0), 3.into()])]))
}

/// Inference by evaluation, where all operands are constants.
fn exact(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    check(ctx)?;
    let mut tensors = Vec::with_capacity(ctx.inputs.len());
    for operand in ctx.inputs {
        tensors.push(match operand {
            None => None,
            Some(o) => Some(o.content.and_then(|c| c.as_const()).ok_or_else(data_dependent)?),
        });
    }
    let known = EvalCtx { attrs: ctx.attrs, inputs: &tensors, n_outputs: ctx.n_outputs };
    Ok(vec![Type::known(DType::I64, &[chosen(&known)?.len(), 3])])
}

/// A box by its corners; f32 throughout, as the comparison with the threshold is part of the result.
#[derive(Clone, Copy)]
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    fn new(values: &[f32], center: bool) -> Self {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| values.get(i).copied().unwrap_or(0.0));
        if center {
            let half = [c / 2.0, d / 2.0];
            return Self { low: [a - half[0], b - half[1]], high: [a + half[0], b + half[1]] };
        }
        let sorted = |x: f32, y: f32| if x >= y { (y, x) } else { (x, y) };
        let ((low_x, high_x), (low_y, high_y)) = (sorted(b, d), sorted(a, c));
        Self { low: [low_x, low_y], high: [high_x, high_y] }
    }

    fn area(self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Whether intersection over union exceeds `threshold`.
    fn overlaps(self, other: Self, threshold: f32) -> bool {
        let side = |axis: usize| self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis]);
        let (width, height) = (side(0), side(1));
        if width <= 0.0 || height <= 0.0 {
            return false;
        }
        let (both, a, b) = (width * height, self.area(), other.area());
        let either = a + b - both;
        both > 0.0 && a > 0.0 && b > 0.0 && either > 0.0 && both / either > threshold
    }
}

/// The only element of an optional operand.
fn number<T: partita_ir::tensor::Element>(ctx: &EvalCtx, n: usize) -> Option<T> {
    optional(ctx, n)?.as_slice::<T>()?.first().copied()
}

fn f32s(ctx: &EvalCtx, n: usize) -> Result<Vec<f32>, Diag> {
    let values = tensor(ctx, n)?.as_slice::<f32>();
    values.map(std::borrow::Cow::into_owned).ok_or_else(|| type_error(format!("operand {n} must be f32")))
}

/// The boxes of one class that remain, best first.
fn survivors(boxes: &[Corners], scores: &[f32], limit: usize, iou: f32, least: Option<f32>) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..boxes.len()).filter(|&i| least.is_none_or(|least| scores[i] > least)).collect();
    // Equal scores keep the order of the boxes: the sort is stable.
    // Adding zero makes negative zero equal to zero.
    order.sort_by(|&a, &b| (scores[b] + 0.0).total_cmp(&(scores[a] + 0.0)));
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if kept.len() >= limit {
            break;
        }
        if !kept.iter().any(|&k| boxes[i].overlaps(boxes[k], iou)) {
            kept.push(i);
        }
    }
    kept
}

/// Batch, class and box of everything that remains.
fn chosen(ctx: &EvalCtx) -> Result<Vec<[i64; 3]>, Diag> {
    let limit = usize::try_from(number::<i64>(ctx, 2).unwrap_or(0)).unwrap_or(0);
    let (iou, least) = (number::<f32>(ctx, 3).unwrap_or(0.0), number::<f32>(ctx, 4));
    let center = ctx.attrs.flag("center_point_box");
    let (boxes, scores) = (f32s(ctx, 0)?, f32s(ctx, 1)?);
    let (n_boxes, n_classes) = (tensor(ctx, 0)?.shape()[1], tensor(ctx, 1)?.shape()[1]);
    let mut out = Vec::new();
    if n_boxes == 0 || n_classes == 0 || limit == 0 {
        return Ok(out);
    }
    let batches = boxes.chunks(n_boxes * 4).zip(scores.chunks(n_classes * n_boxes));
    for (batch, (boxes, scores)) in batches.enumerate() {
        let boxes: Vec<Corners> = boxes.chunks(4).map(|b| Corners::new(b, center)).collect();
        for (class, scores) in scores.chunks(n_boxes).enumerate() {
            let kept = survivors(&boxes, scores, limit, iou, least);
            out.extend(kept.into_iter().map(|i| [batch as i64, class as i64, i as i64]));
        }
    }
    Ok(out)
}

fn eval_suppression(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    crate::shapes::result_types(ctx, |c| check(c).map(|()| Vec::new()))?;
    let chosen = chosen(ctx)?;
    Ok(vec![from_i64s(DType::I64, &[chosen.len(), 3], &chosen.concat())?])
}

fn sample_suppression(rng: &mut Rng) -> Sample {
    let (batch, n, classes) = (1 + rng.below(2), 1 + rng.below(8), 1 + rng.below(3));
    let mut inputs = vec![
        Some(rng.tensor(DType::F32, &[batch, n, 4], 0.0, 4.0)),
        Some(rng.tensor(DType::F32, &[batch, classes, n], 0.0, 1.0)),
        Some(Tensor::scalar(rng.int(0, 4))),
    ];
    if rng.below(3) > 0 {
        inputs.push(Some(Tensor::scalar(*rng.pick(&[0.0f32, 0.3, 0.5]))));
    }
    if inputs.len() == 4 && rng.below(2) == 0 {
        inputs.push(Some(Tensor::scalar(0.4f32)));
    }
    let attrs = Attrs::new().with("center_point_box", rng.int(0, 1));
    Sample { attrs, inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_at_the_threshold_stays() {
        let (a, b) = (Corners::new(&[0.0, 0.0, 1.0, 1.0], false), Corners::new(&[0.0, 1.0, 0.5, 0.0], false));
        assert!(!a.overlaps(b, 0.5));
        assert!(a.overlaps(b, 0.49));
        let boxes = [a, b];
        assert_eq!(survivors(&boxes, &[0.5, 0.5], 9, 0.4, None), [0]);
        assert_eq!(survivors(&boxes, &[0.4, 0.5], 9, 0.6, Some(0.4)), [1]);
    }
}
