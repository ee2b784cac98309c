//! What must hold for every row of the dictionary, checked on its own samples.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

use partita_ir::builder::infer_op;
use partita_ir::op::{EvalCtx, Operand, Rng, Sample, ScalarCtx, WorkCtx};
use partita_ir::tile::TileBuilder;
use partita_ir::types::{Content, Form, Type};
use partita_ir::{DType, Dim, OpRef, Tensor};
use partita_ops::elements::broadcast_walk;
use partita_ops::registry;
use partita_plan::tile_eval::Scalar;
use std::collections::BTreeSet;

/// Samples drawn for each row.
const N_SAMPLES: u64 = 100;

fn samples(op: OpRef) -> impl Iterator<Item = Sample> {
    let seed = op.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    (0..N_SAMPLES).map(move |n| (op.sample)(&mut Rng(seed + n)))
}

/// Rows over tensors; those over other values and bodies have their own cases.
fn rows() -> impl Iterator<Item = OpRef> {
    partita_ops::registry().iter().filter(|op| op.data.is_none()).collect::<Vec<_>>().into_iter()
}

/// Whether a type that was inferred is right for a result: sizes that only a run can tell fit any.
fn fits(ty: &Type, tensor: &Tensor) -> bool {
    let size = |(d, &size): (&Dim, &usize)| d.as_known().is_none_or(|d| d == size as i64);
    let shape = ty.rank() == tensor.rank() && ty.shape.iter().zip(tensor.shape()).all(size);
    match ty.form {
        Form::Any => true,
        Form::Unranked => ty.dtype == tensor.dtype(),
        _ => ty.is_tensor() && ty.dtype == tensor.dtype() && shape,
    }
}

fn eval(op: OpRef, sample: &Sample) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = sample.inputs.iter().map(Option::as_ref).collect();
    let ctx = EvalCtx { attrs: &sample.attrs, inputs: &inputs, n_outputs: sample.n_outputs };
    (op.eval)(&ctx).unwrap_or_else(|d| panic!("{} on {sample:?}: {d}", op.name))
}

/// Types of the operands, with every size above 1 replaced by a symbol when `symbolic`.
fn types(sample: &Sample, symbolic: bool) -> Vec<Option<(Type, Content)>> {
    let dim = |&d: &usize| if symbolic && d > 1 { Dim::symbol(&format!("s{d}")) } else { d.into() };
    let one = |t: &Tensor| {
        let shape: Vec<Dim> = t.shape().iter().map(dim).collect();
        // Lists of sizes keep their length: what they hold is known.
        let shape = if t.rank() <= 1 && t.dtype() == DType::I64 {
            Type::known(DType::I64, t.shape()).shape
        } else {
            shape
        };
        (Type::new(t.dtype(), shape), Content::Const(t.clone()))
    };
    sample.inputs.iter().map(|t| t.as_ref().map(one)).collect()
}

/// The value of the symbol `s{n}`.
fn value_of(name: &str) -> Option<i64> {
    name.strip_prefix('s')?.parse().ok()
}

#[test]
fn names_are_unique_and_sorted() {
    let names: Vec<&str> = registry().iter().map(|op| op.name).collect();
    assert!(names.windows(2).all(|w| w[0] < w[1]), "{names:?}");
    let onnx: Vec<(&str, &str)> =
        registry().iter().flat_map(|op| op.0.onnx.iter().map(|n| (n.domain, n.op_type))).collect();
    assert_eq!(onnx.iter().collect::<BTreeSet<_>>().len(), onnx.len());
    for op in registry().iter() {
        assert_eq!(registry().get(op.name), Some(op));
        assert!(op.doc.len() > 2, "{} has no sentence", op.name);
        let mut attrs: Vec<&str> = op.attrs.iter().map(|a| a.name).collect();
        attrs.sort_unstable();
        attrs.dedup();
        assert_eq!(attrs.len(), op.attrs.len(), "attributes of {}", op.name);
    }
}

#[test]
fn inference_agrees_with_evaluation() {
    for op in rows() {
        for sample in samples(op) {
            let want: Vec<Type> =
                eval(op, &sample).iter().map(|t| Type::known(t.dtype(), t.shape())).collect();
            let known = types(&sample, false);
            let operands: Vec<Option<Operand>> =
                known.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
            let got = infer_op(op, &sample.attrs, &operands, sample.n_outputs)
                .unwrap_or_else(|d| panic!("{} on {sample:?}: {d}", op.name));
            assert_eq!(got.types, want, "{} on {sample:?}", op.name);
            assert_eq!(want.len(), sample.n_outputs, "{}", op.name);
        }
    }
}

/// With symbols for sizes, what inference says must be right for the sizes they stand for.
#[test]
fn symbolic_inference_is_right() {
    for op in rows() {
        for sample in samples(op) {
            let results = eval(op, &sample);
            let known = types(&sample, true);
            // Contents only for small integer tensors, so that nothing is folded.
            let is_list = |t: &Type| t.rank() <= 1 && !t.dtype.is_float();
            let operands: Vec<Option<Operand>> = known
                .iter()
                .map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: is_list(ty).then_some(c) }))
                .collect();
            let inferred = match infer_op(op, &sample.attrs, &operands, sample.n_outputs) {
                Ok(inferred) => inferred,
                Err(d) => {
                    assert!(d.is_unsupported() || d.code == "V020", "{} on {sample:?}: {d}", op.name);
                    continue;
                }
            };
            for (ty, tensor) in inferred.types.iter().zip(&results) {
                let bound = ty.bind(&value_of);
                assert!(fits(&bound, tensor), "{} {ty} {tensor:?} {sample:?}", op.name);
            }
            if let (Some(f), true) = (op.content, inferred.types[0].rank() <= 1) {
                let ctx = partita_ir::op::InferCtx {
                    attrs: &sample.attrs,
                    inputs: &operands,
                    n_outputs: sample.n_outputs,
                };
                let Some(dims) = f(&ctx) else { continue };
                let bound: Option<Vec<i64>> = dims.iter().map(|d| d.eval(&value_of)).collect();
                assert_eq!(bound.unwrap(), results[0].to_i64s(), "{} on {sample:?}", op.name);
            }
        }
    }
}

#[test]
fn work_is_finite() {
    for op in rows() {
        for sample in samples(op) {
            let outputs: Vec<(DType, Vec<usize>)> =
                eval(op, &sample).iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
            let inputs: Vec<Option<(DType, Vec<usize>)>> =
                sample.inputs.iter().map(|t| t.as_ref().map(|t| (t.dtype(), t.shape().to_vec()))).collect();
            let work = (op.work)(&WorkCtx { attrs: &sample.attrs, inputs: &inputs, outputs: &outputs });
            for figure in [work.flops, work.read_bytes, work.written_bytes] {
                assert!(figure.is_finite() && figure >= 0.0, "{} on {sample:?}: {work:?}", op.name);
            }
        }
    }
}

fn scalar_at(t: &Tensor, at: usize, floats: &[f64], ints: &[i64]) -> Scalar {
    if t.dtype().is_float() { Scalar::Float(floats[at] as f32) } else { Scalar::Int(ints[at]) }
}

/// Relative tolerance of one store to the element type; f32 lanes round after every instruction.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::Bf16 => 1.6e-2,
        _ => 2e-5,
    }
}

#[test]
fn lowering_agrees_with_evaluation() {
    let mut n_checked = 0;
    for op in registry().iter().filter(|op| op.scalar.is_some()) {
        assert!(op.traits.elementwise, "{} is lowered but not elementwise", op.name);
        for sample in samples(op) {
            n_checked += usize::from(check_lowering(op, &sample));
        }
    }
    assert!(n_checked > 100);
}

fn check_lowering(op: OpRef, sample: &Sample) -> bool {
    let want = eval(op, sample);
    let inputs: Vec<&Tensor> = sample.inputs.iter().flatten().collect();
    let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
    let (dtype, shape) = (want[0].dtype(), want[0].shape());
    let mut builder = TileBuilder::new();
    let registers: Vec<_> = dtypes.iter().map(|&d| builder.input(d)).collect();
    let ctx = ScalarCtx { attrs: &sample.attrs, inputs: &dtypes, output: dtype };
    let Some(result) = op.scalar.and_then(|lower| lower(&ctx, &mut builder, &registers)) else {
        return false;
    };
    let program = builder.finish(&[result]);
    let walks: Vec<Vec<usize>> = inputs.iter().map(|t| broadcast_walk(shape, t.shape())).collect();
    let floats: Vec<Vec<f64>> = inputs.iter().map(|t| t.to_f64s()).collect();
    let ints: Vec<Vec<i64>> = inputs.iter().map(|t| t.to_i64s()).collect();
    let (want_floats, want_ints) = (want[0].to_f64s(), want[0].to_i64s());
    for at in 0..want[0].n_elements() {
        let loaded: Vec<Scalar> =
            (0..inputs.len()).map(|n| scalar_at(inputs[n], walks[n][at], &floats[n], &ints[n])).collect();
        let got = program.eval_scalar(&loaded).unwrap()[0].stored(dtype);
        match got {
            Scalar::Int(v) => assert_eq!(v, want_ints[at], "{} on {loaded:?}, {sample:?}", op.name),
            Scalar::Float(v) => {
                let (v, w) = (f64::from(v), want_floats[at]);
                let close = v == w
                    || (v.is_nan() && w.is_nan())
                    || (v - w).abs() <= tolerance(dtype) * w.abs().max(0.1);
                assert!(close, "{} on {loaded:?}: {v} instead of {w}, {sample:?}", op.name);
            }
        }
    }
    true
}
