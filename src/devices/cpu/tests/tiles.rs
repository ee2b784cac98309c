//! Tile programs: every operation against the definition, types, broadcasting, running in place.

mod common;

use common::{Spec, Tensor, assert_close, check_f32, floats, run_all};
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{ElementType, TileInstr, TileProgram};
use proptest::prelude::*;

fn instr(op: TileOp, lane: Lane, args: &[u32], index: u32) -> TileInstr {
    TileInstr { op: op as i32, lane: lane as i32, args: args.to_vec(), index, float: 0.0, int: 0 }
}

/// Loads `inputs` operands of one lane and applies `op` to them.
fn apply(op: TileOp, lane: Lane) -> TileProgram {
    let count = op.arity() as u32;
    let mut instrs: Vec<TileInstr> = (0..count).map(|i| instr(TileOp::Load, lane, &[], i)).collect();
    instrs.push(instr(op, lane, &(0..count).collect::<Vec<_>>(), 0));
    TileProgram { inputs: count, instrs, outputs: vec![count] }
}

#[test]
fn float_functions_match() {
    type Function = (TileOp, fn(f64) -> f64);
    let table: [Function; 27] = [
        (TileOp::Neg, |v| -v),
        (TileOp::Abs, f64::abs),
        (TileOp::Sign, f64::signum),
        (TileOp::Sqrt, f64::sqrt),
        (TileOp::Exp, f64::exp),
        (TileOp::Log, f64::ln),
        (TileOp::Tanh, f64::tanh),
        (TileOp::Sin, f64::sin),
        (TileOp::Cos, f64::cos),
        (TileOp::Floor, f64::floor),
        (TileOp::Ceil, f64::ceil),
        (TileOp::Round, f64::round_ties_even),
        (TileOp::Sigmoid, |v| 1.0 / (1.0 + (-v).exp())),
        (TileOp::Recip, |v| 1.0 / v),
        (TileOp::IsNan, |v| f64::from(u8::from(v.is_nan()))),
        (TileOp::ToInt, |v| v as i64 as f64),
        (TileOp::Tan, f64::tan),
        (TileOp::Asin, f64::asin),
        (TileOp::Acos, f64::acos),
        (TileOp::Atan, f64::atan),
        (TileOp::Sinh, f64::sinh),
        (TileOp::Cosh, f64::cosh),
        (TileOp::Asinh, f64::asinh),
        (TileOp::Acosh, f64::acosh),
        (TileOp::Atanh, f64::atanh),
        (TileOp::Log1p, f64::ln_1p),
        (TileOp::Erf, erf),
    ];
    let mut values: Vec<f32> = common::noise(600, 1).iter().map(|v| v * 4.0).collect();
    values.extend([1e5, -3e4, f32::NAN, 0.5, 1.5, 2.5, f32::MAX]);
    for (op, function) in table {
        let want: Vec<f64> = values
            .iter()
            .map(|&v| function(f64::from(v)))
            .map(|v| if v.abs() > 3.4e38 { v.signum() * f64::INFINITY } else { v })
            .collect();
        let spec = Spec::new("tile").program(apply(op, Lane::Float));
        let outputs = [(ElementType::F32, vec![values.len()])];
        run_all(&spec, &[Some(Tensor::f32(&[values.len()], &values))], &outputs, |name, results| {
            for (i, (&g, &w)) in floats(&results[0]).iter().zip(&want).enumerate() {
                let same = f64::from(g) == w || (g.is_nan() && w.is_nan());
                assert!(
                    same || (f64::from(g) - w).abs() <= 1e-6 * w.abs().max(1.0),
                    "{op:?} {name} of {}: {g} {w}",
                    values[i]
                );
            }
        });
    }
}

/// `x / 2 (1 + erf(x scale))`, or with `tanh` of the cubic.
fn gelu(tanh: bool, scale: f64) -> TileProgram {
    let constant = |float| TileInstr { float, ..instr(TileOp::Const, Lane::Float, &[], 0) };
    let op = |op, args: &[u32]| instr(op, Lane::Float, args, 0);
    let mut instrs = vec![op(TileOp::Load, &[]), constant(0.5), constant(1.0), constant(scale)];
    if tanh {
        instrs.push(constant(0.044_715));
        instrs.extend([op(TileOp::Mul, &[0, 0]), op(TileOp::MulAdd, &[5, 4, 2]), op(TileOp::Mul, &[0, 6])]);
        instrs.extend([op(TileOp::Mul, &[7, 3]), op(TileOp::Tanh, &[8])]);
    } else {
        instrs.extend([op(TileOp::Mul, &[0, 3]), op(TileOp::Erf, &[4])]);
    }
    let inner = instrs.len() as u32 - 1;
    instrs.extend([op(TileOp::Add, &[inner, 2]), op(TileOp::Mul, &[0, 1])]);
    instrs.push(op(TileOp::Mul, &[inner + 2, inner + 1]));
    TileProgram { inputs: 1, instrs, outputs: vec![inner + 3] }
}

#[test]
fn chains_with_a_function_of_their_own_match() {
    let sigmoid = TileProgram {
        inputs: 1,
        instrs: vec![
            instr(TileOp::Load, Lane::Float, &[], 0),
            instr(TileOp::Sigmoid, Lane::Float, &[0], 0),
            instr(TileOp::Mul, Lane::Float, &[0, 1], 0),
        ],
        outputs: vec![2],
    };
    let root = (2.0 / std::f64::consts::PI).sqrt();
    type Function = fn(f64) -> f64;
    let erf_form: Function = |v| 0.5 * v * (1.0 + libm::erf(v / std::f64::consts::SQRT_2));
    let tanh_form: Function =
        |v| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v * v * v)).tanh());
    // Constants that are not those of the function stay what they are.
    let other: Function = |v| 0.5 * v * (1.0 + libm::erf(v * 0.7));
    let table: [(TileProgram, Function); 4] = [
        (gelu(false, std::f64::consts::FRAC_1_SQRT_2), erf_form),
        (gelu(true, root), tanh_form),
        (gelu(false, 0.7), other),
        (sigmoid, |v| v / (1.0 + (-v).exp())),
    ];
    let mut values: Vec<f32> = common::noise(1100, 1).iter().map(|v| v * 3.0).collect();
    values.extend([0.0, 1e-40, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -9.0]);
    for (program, function) in table {
        let want: Vec<f64> = values.iter().map(|&v| function(f64::from(v))).collect();
        for shape in [vec![values.len()], vec![values.len(), 1]] {
            let spec = Spec::new("tile").program(program.clone());
            check_f32(&spec, &[Some(Tensor::f32(&shape, &values))], &shape, &want);
        }
    }
}

/// The error function by its Taylor series (small) or continued fraction (large).
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let a = x.abs();
    if a < 3.0 {
        let (mut sum, mut term) = (a, a);
        for n in 1..200 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI * x.signum();
    }
    let mut fraction = 0.0;
    for n in (1..100).rev() {
        fraction = f64::from(n) / 2.0 / (a + fraction);
    }
    (1.0 - (-a * a).exp() / (a + fraction) / std::f64::consts::PI.sqrt()) * x.signum()
}

#[test]
fn float_pairs_match() {
    type Function = (TileOp, fn(f64, f64) -> f64);
    let table: [Function; 12] = [
        (TileOp::Add, |a, b| a + b),
        (TileOp::Sub, |a, b| a - b),
        (TileOp::Mul, |a, b| a * b),
        (TileOp::Div, |a, b| a / b),
        (TileOp::Max, |a, b| if a > b { a } else { b }),
        (TileOp::Min, |a, b| if a < b { a } else { b }),
        (TileOp::Pow, f64::powf),
        (TileOp::Mod, |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }),
        (TileOp::Rem, |a, b| a % b),
        (TileOp::Eq, |a, b| f64::from(u8::from(a == b))),
        (TileOp::Lt, |a, b| f64::from(u8::from(a < b))),
        (TileOp::Le, |a, b| f64::from(u8::from(a <= b))),
    ];
    let shape = [3, 4, 130];
    let (a, b) = (Tensor::noise(&shape, 1), Tensor::noise(&[4, 1], 2));
    let (av, bv) = (a.values(), b.values());
    for (op, function) in table {
        let want: Vec<f64> =
            av.iter().enumerate().map(|(i, &v)| function(f64::from(v), f64::from(bv[i / 130 % 4]))).collect();
        let spec = Spec::new("tile").program(apply(op, Lane::Float));
        let small: Vec<f64> = want.iter().map(|v| if v.abs() < 1e3 { *v } else { 0.0 }).collect();
        run_all(
            &spec,
            &[Some(a.clone()), Some(b.clone())],
            &[(ElementType::F32, shape.to_vec())],
            |name, results| {
                let got: Vec<f32> = floats(&results[0])
                    .iter()
                    .zip(&want)
                    .map(|(&g, w)| if w.abs() < 1e3 { g } else { 0.0 })
                    .collect();
                assert_close(&format!("{op:?} {name}"), &got, &small);
            },
        );
    }
}

#[test]
fn integers_match() {
    type Function = (TileOp, fn(i64, i64) -> i64);
    let table: [Function; 17] = [
        (TileOp::Add, i64::wrapping_add),
        (TileOp::Sub, i64::wrapping_sub),
        (TileOp::Mul, i64::wrapping_mul),
        (TileOp::Div, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        (TileOp::Max, i64::max),
        (TileOp::Min, i64::min),
        (TileOp::Mod, |a, b| {
            if b == 0 {
                0
            } else {
                let r = a.wrapping_rem(b);
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
        }),
        (TileOp::Rem, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        (TileOp::Eq, |a, b| i64::from(a == b)),
        (TileOp::Lt, |a, b| i64::from(a < b)),
        (TileOp::Le, |a, b| i64::from(a <= b)),
        (TileOp::And, |a, b| a & b),
        (TileOp::Or, |a, b| a | b),
        (TileOp::Xor, |a, b| a ^ b),
        (TileOp::Neg, |a, _| a.wrapping_neg()),
        (TileOp::Abs, |a, _| a.wrapping_abs()),
        (TileOp::Not, |a, _| i64::from(a == 0)),
    ];
    let a = [5, -5, i64::MIN, 0, 7, -1, i64::MAX, 12];
    let b = [3, 3, -1, 0, -2, -1, 2, 0];
    for (op, function) in table {
        let want: Vec<u8> = a.iter().zip(&b).flat_map(|(&a, &b)| function(a, b).to_ne_bytes()).collect();
        let spec = Spec::new("tile").program(apply(op, Lane::Int));
        let inputs = [Some(Tensor::i64(&[8], &a)), Some(Tensor::i64(&[8], &b))];
        let inputs = &inputs[..op.arity()];
        run_all(&spec, inputs, &[(ElementType::I64, vec![8])], |name, results| {
            assert_eq!(results[0], want, "{op:?} {name}");
        });
    }
}

#[test]
fn types_convert() {
    let cast =
        |lane| TileProgram { inputs: 1, instrs: vec![instr(TileOp::Load, lane, &[], 0)], outputs: vec![0] };
    let x = Tensor::i64(&[4], &[300, -1, 0, 1 << 40]);
    let spec = Spec::new("tile").program(cast(Lane::Int));
    let outs = [(ElementType::I8, vec![4])];
    run_all(&spec, &[Some(x.clone())], &outs, |_, r| assert_eq!(r[0], [44, 255, 0, 0]));
    let outs = [(ElementType::Bool, vec![4])];
    run_all(&spec, &[Some(x.clone())], &outs, |_, r| assert_eq!(r[0], [1, 1, 0, 1]));
    let outs = [(ElementType::F32, vec![4])];
    run_all(&spec, &[Some(x)], &outs, |_, r| {
        assert_eq!(floats(&r[0]), [300.0, -1.0, 0.0, 1_099_511_627_776.0]);
    });
    let halves = Tensor {
        dtype: ElementType::F16,
        shape: vec![2],
        bytes: [0x3c00u16, 0xc000].iter().flat_map(|v| v.to_ne_bytes()).collect(),
        weight: false,
    };
    let spec = Spec::new("tile").program(cast(Lane::Float));
    let outs = [(ElementType::F32, vec![2])];
    run_all(&spec, &[Some(halves.clone())], &outs, |_, r| assert_eq!(floats(&r[0]), [1.0, -2.0]));
    let outs = [(ElementType::Bf16, vec![2])];
    run_all(&spec, &[Some(halves)], &outs, |_, r| assert_eq!(r[0], [0x80, 0x3f, 0x00, 0xc0]));
}

#[test]
fn selection_and_two_results() {
    let f = Lane::Float;
    let program = TileProgram {
        inputs: 2,
        instrs: vec![
            instr(TileOp::Load, f, &[], 0),
            instr(TileOp::Load, f, &[], 1),
            instr(TileOp::Lt, f, &[0, 1], 0),
            instr(TileOp::Select, f, &[2, 0, 1], 0),
            instr(TileOp::MulAdd, f, &[0, 1, 3], 0),
        ],
        outputs: vec![4, 2],
    };
    let (a, b) = (Tensor::noise(&[1000], 1), Tensor::noise(&[1], 2));
    let (av, bv) = (a.values(), f64::from(b.values()[0]));
    let want: Vec<f64> = av.iter().map(|&a| f64::from(a) * bv + f64::from(a).min(bv)).collect();
    let outs = [(ElementType::F32, vec![1000]), (ElementType::Bool, vec![1000])];
    run_all(&Spec::new("tile").program(program), &[Some(a), Some(b)], &outs, |name, results| {
        assert_close(name, &floats(&results[0]), &want);
        let flags: Vec<u8> = av.iter().map(|&a| u8::from(f64::from(a) < bv)).collect();
        assert_eq!(results[1], flags);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn random_programs_match(ops in prop::collection::vec((0usize..6, any::<u16>(), any::<u16>()), 1..30), rows in 1usize..6, columns in 1usize..400) {
        let table = [TileOp::Add, TileOp::Sub, TileOp::Max, TileOp::Min, TileOp::Neg, TileOp::Tanh];
        let mut instrs: Vec<TileInstr> = (0..3).map(|i| instr(TileOp::Load, Lane::Float, &[], i)).collect();
        for (op, a, b) in ops {
            let reg = |v: u16| u32::from(v) % instrs.len() as u32;
            let args = [reg(a), reg(b)];
            let op = table[op];
            let halved = instr(op, Lane::Float, &args[..op.arity()], 0);
            instrs.push(halved);
            // Keeps magnitudes small.
            let last = instrs.len() as u32 - 1;
            instrs.push(instr(TileOp::Tanh, Lane::Float, &[last], 0));
            if b % 5 == 0 {
                instrs.push(TileInstr { float: 0.25, ..instr(TileOp::Const, Lane::Float, &[], 0) });
            }
        }
        let inputs = [Tensor::noise(&[rows, columns], 1), Tensor::noise(&[columns], 2), Tensor::noise(&[rows, 1], 3)];
        let values: Vec<Vec<f32>> = inputs.iter().map(Tensor::values).collect();
        let want: Vec<f64> = (0..rows * columns).map(|at| {
            let mut regs: Vec<f64> = vec![values[0][at].into(), values[1][at % columns].into(), values[2][at / columns].into()];
            for i in &instrs[3..] {
                let arg = |n: usize| regs[i.args[n] as usize];
                let value = match TileOp::try_from(i.op).unwrap() {
                    TileOp::Add => arg(0) + arg(1),
                    TileOp::Sub => arg(0) - arg(1),
                    TileOp::Max => arg(0).max(arg(1)),
                    TileOp::Min => arg(0).min(arg(1)),
                    TileOp::Neg => -arg(0),
                    TileOp::Const => i.float,
                    _ => arg(0).tanh(),
                };
                regs.push(value);
            }
            regs[instrs.len() - 1]
        }).collect();
        let outputs = vec![instrs.len() as u32 - 1];
        let spec = Spec::new("tile").program(TileProgram { inputs: 3, instrs, outputs });
        check_f32(&spec, &inputs.map(Some), &[rows, columns], &want);
    }
}
