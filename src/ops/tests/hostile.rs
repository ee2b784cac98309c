//! No operand and no attribute makes a row panic: wrong ones are refused with a letter.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

use partita_ir::attr::Attr;
use partita_ir::builder::infer_op;
use partita_ir::op::{EvalCtx, Operand, Rng, Sample};
use partita_ir::tensor::n_elements;
use partita_ir::types::{Content, Type};
use partita_ir::{DType, Dim, OpRef, Tensor};
use partita_ops::registry;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Mutated uses tried for each row.
const N_USES: u64 = 400;

/// Results larger than this are inferred, but not evaluated.
const MAX_EVALUATED: usize = 1 << 16;

const EXTREMES: &[i64] =
    &[i64::MIN, i64::MAX, -1, 0, 1, 2, 3, -2, 7, i32::MAX as i64, i32::MIN as i64, 1 << 62, -9];

fn any_tensor(rng: &mut Rng) -> Tensor {
    let rank = rng.below(4);
    let shape: Vec<usize> = (0..rank).map(|_| rng.below(4)).collect();
    let dtype = *rng.pick(&[DType::F32, DType::I64, DType::Bool, DType::U8, DType::I32, DType::F16]);
    if dtype == DType::I64 && rng.below(2) == 0 {
        let n = n_elements(&shape).unwrap();
        let values: Vec<i64> = (0..n).map(|_| *rng.pick(EXTREMES)).collect();
        return Tensor::from_slice(&shape, &values).unwrap();
    }
    rng.tensor(dtype, &shape, -4.0, 4.0)
}

fn any_ints(rng: &mut Rng) -> Vec<i64> {
    (0..rng.below(6)).map(|_| *rng.pick(EXTREMES)).collect()
}

fn mutate(rng: &mut Rng, op: OpRef, sample: &mut Sample) {
    for _ in 0..=rng.below(2) {
        match rng.below(4) {
            0 if !sample.inputs.is_empty() => {
                let at = rng.below(sample.inputs.len());
                sample.inputs[at] = Some(any_tensor(rng));
            }
            1 if sample.inputs.len() < op.inputs.max => sample.inputs.push(Some(any_tensor(rng))),
            2 if !sample.inputs.is_empty() => {
                let at = rng.below(sample.inputs.len());
                sample.inputs[at] = None;
            }
            _ if !op.attrs.is_empty() => mutate_attr(rng, op, sample),
            _ => {}
        }
    }
}

fn mutate_attr(rng: &mut Rng, op: OpRef, sample: &mut Sample) {
    let name = rng.pick(op.attrs).name;
    match rng.below(6) {
        0 => drop(sample.attrs.remove(name)),
        1 => sample.attrs.set(name, *rng.pick(EXTREMES)),
        2 => sample.attrs.set(name, any_ints(rng)),
        3 => sample.attrs.set(name, Attr::Str("odd".to_owned())),
        4 => sample.attrs.set(name, f32::NAN),
        _ => sample.attrs.set(name, any_tensor(rng)),
    }
}

/// Infers the use with known and with symbolic sizes, and evaluates it when the result is small.
fn try_use(op: OpRef, sample: &Sample) {
    for symbolic in [true, false] {
        let dim = |&d: &usize| if symbolic && d == 2 { Dim::symbol("n") } else { d.into() };
        let typed: Vec<Option<(Type, Content)>> = sample
            .inputs
            .iter()
            .map(|t| {
                let t = t.as_ref()?;
                let shape: Vec<Dim> = t.shape().iter().map(dim).collect();
                Some((Type::new(t.dtype(), shape), Content::Const(t.clone())))
            })
            .collect();
        let operands: Vec<Option<Operand>> =
            typed.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
        let Ok(inferred) = infer_op(op, &sample.attrs, &operands, sample.n_outputs) else { continue };
        let small =
            |t: &Type| t.known_shape().is_some_and(|s| n_elements(&s).is_some_and(|n| n <= MAX_EVALUATED));
        if !symbolic && inferred.types.iter().all(small) {
            let inputs: Vec<Option<&Tensor>> = sample.inputs.iter().map(Option::as_ref).collect();
            let ctx = EvalCtx { attrs: &sample.attrs, inputs: &inputs, n_outputs: sample.n_outputs };
            let Ok(results) = (op.eval)(&ctx) else { continue };
            for (tensor, ty) in results.iter().zip(&inferred.types) {
                assert_eq!(Type::known(tensor.dtype(), tensor.shape()), *ty, "{}", op.name);
            }
        }
    }
}

#[test]
fn nothing_panics() {
    let mut failures = Vec::new();
    for op in registry().iter() {
        let seed = op.name.bytes().fold(3u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        for n in 0..N_USES {
            let mut rng = Rng(seed.wrapping_add(n));
            let mut sample = (op.sample)(&mut rng);
            mutate(&mut rng, op, &mut sample);
            if catch_unwind(AssertUnwindSafe(|| try_use(op, &sample))).is_err() {
                failures.push(format!("{} on {sample:?}", op.name));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
