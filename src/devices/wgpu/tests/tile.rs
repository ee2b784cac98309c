//! Tile programs on the adapter against a scalar evaluator: every operation, broadcasting, all storable types.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{Tensor, floats, longs};
use common::{at, bits, coords, instr, kernel, load, random, run};
use partita_plan::tile::{Lane, TileInstr, TileOp, TileProgram};
use partita_plan::tile_eval::Scalar;
use partita_plan::{ElementType, Kernel};

/// Libm's error function is not in std: the series near zero, the continued fraction elsewhere.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (a + fraction);
    }
    (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction)).copysign(x)
}

fn float_op(op: TileOp, v: &[f32]) -> f64 {
    let [a, b, c] = [0, 1, 2].map(|k| f64::from(v.get(k).copied().unwrap_or(0.0)));
    let flag = |c: bool| f64::from(u8::from(c));
    match op {
        TileOp::Add => a + b,
        TileOp::Sub => a - b,
        TileOp::Mul => a * b,
        TileOp::Div => a / b,
        TileOp::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        TileOp::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        TileOp::Pow => a.powf(b),
        TileOp::Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }
        TileOp::Rem => a % b,
        TileOp::Neg => -a,
        TileOp::Abs => a.abs(),
        TileOp::Sign => {
            if a == 0.0 || a.is_nan() {
                a
            } else {
                a.signum()
            }
        }
        TileOp::Sqrt => a.sqrt(),
        TileOp::Exp => a.exp(),
        TileOp::Log => a.ln(),
        TileOp::Erf => erf(a),
        TileOp::Tanh => a.tanh(),
        TileOp::Sin => a.sin(),
        TileOp::Cos => a.cos(),
        TileOp::Floor => a.floor(),
        TileOp::Ceil => a.ceil(),
        TileOp::Round => a.round_ties_even(),
        TileOp::Sigmoid => 1.0 / (1.0 + (-a).exp()),
        TileOp::Recip => 1.0 / a,
        TileOp::Eq => flag(a == b),
        TileOp::Lt => flag(a < b),
        TileOp::Le => flag(a <= b),
        TileOp::IsNan => flag(a.is_nan()),
        TileOp::MulAdd => a * b + c,
        TileOp::Tan => a.tan(),
        TileOp::Asin => a.asin(),
        TileOp::Acos => a.acos(),
        TileOp::Atan => a.atan(),
        TileOp::Sinh => a.sinh(),
        TileOp::Cosh => a.cosh(),
        TileOp::Asinh => a.asinh(),
        TileOp::Acosh => a.acosh(),
        TileOp::Atanh => a.atanh(),
        TileOp::Log1p => a.ln_1p(),
        _ => unreachable!("{op:?}"),
    }
}

fn tile(program: TileProgram) -> Kernel {
    Kernel { program: Some(program), ..kernel("tile") }
}

/// A program of one operation on as many operands as it takes.
fn single(op: TileOp, lane: Lane) -> TileProgram {
    let n = op.arity() as u32;
    let mut instrs: Vec<TileInstr> = (0..n).map(|k| load(lane, k)).collect();
    instrs.push(instr(op, lane, &(0..n).collect::<Vec<u32>>()));
    TileProgram { inputs: n, instrs, outputs: vec![n] }
}

/// Compares one float operation on columns of operands.
fn check_float(op: TileOp, columns: &[Vec<f32>], relative: f64) {
    let n = columns[0].len();
    let inputs: Vec<Option<Tensor>> = columns.iter().map(|c| Some(Tensor::f32(&[n], c))).collect();
    let is_int = op.result_lane(Lane::Float) == Lane::Int;
    let dtype = if is_int { ElementType::I32 } else { ElementType::F32 };
    let Some(result) = run(tile(single(op, Lane::Float)), &inputs, &[(dtype, vec![n])]) else { return };
    let bytes = &result.unwrap_or_else(|e| panic!("{e}"))[0];
    for k in 0..n {
        let operands: Vec<f32> = columns.iter().map(|c| c[k]).collect();
        let want = float_op(op, &operands);
        let got = match is_int {
            true => f64::from(i32::from_le_bytes(bytes[4 * k..4 * k + 4].try_into().unwrap())),
            false => f64::from(floats(bytes)[k]),
        };
        let nearest = f64::from(want as f32);
        // Numbers below the normal range may be flushed to zero by the adapter.
        let same = got == nearest || (got.is_nan() && want.is_nan());
        let near = (got - want).abs() <= relative * want.abs() + 2e-38;
        assert!(same || near, "{op:?} {operands:?}: got {got}, want {want}");
    }
}

/// Numbers of all magnitudes between `low` and `high`, and the ends.
fn spread(seed: u64, low: f32, high: f32) -> Vec<f32> {
    let mut list = vec![low, high];
    list.extend(random(seed, 150).iter().map(|r| low + (high - low) * (r * 0.5 + 0.5)));
    for k in 0..20 {
        let small = 2f32.powi(-k);
        list.extend([small, -small, small * 1.5].into_iter().filter(|v| (low..=high).contains(v)));
    }
    list
}

#[test]
fn unary_floats() {
    let table = [
        (TileOp::Neg, -9.0, 9.0, 0.0),
        (TileOp::Abs, -9.0, 9.0, 0.0),
        (TileOp::Sign, -9.0, 9.0, 0.0),
        (TileOp::Sqrt, 0.0, 1e6, 4e-7),
        (TileOp::Exp, -87.0, 88.0, 1e-6),
        (TileOp::Log, 1e-30, 1e30, 1e-6),
        (TileOp::Log, 0.5, 2.0, 1e-6),
        (TileOp::Log1p, -0.999, 9.0, 1e-6),
        (TileOp::Erf, -5.0, 5.0, 1e-6),
        (TileOp::Tanh, -12.0, 12.0, 1e-6),
        (TileOp::Sigmoid, -80.0, 80.0, 1e-6),
        (TileOp::Floor, -9.0, 9.0, 0.0),
        (TileOp::Ceil, -9.0, 9.0, 0.0),
        (TileOp::Round, -9.0, 9.0, 0.0),
        (TileOp::Recip, 0.1, 1e6, 4e-7),
        (TileOp::IsNan, -1.0, 1.0, 0.0),
        (TileOp::Asin, -1.0, 1.0, 1e-6),
        (TileOp::Acos, -1.0, 0.9, 1e-6),
        (TileOp::Atan, -1e3, 1e3, 1e-6),
        (TileOp::Sinh, -80.0, 80.0, 2e-6),
        (TileOp::Cosh, -80.0, 80.0, 2e-6),
        (TileOp::Asinh, -1e4, 1e4, 1e-6),
        (TileOp::Acosh, 1.0, 1e4, 1e-6),
        (TileOp::Atanh, -0.99, 0.99, 1e-6),
    ];
    for (k, (op, low, high, relative)) in table.into_iter().enumerate() {
        check_float(op, &[spread(k as u64, low, high)], relative);
    }
}

#[test]
fn angles_are_reduced_at_every_magnitude() {
    let mut list = spread(5, -10.0, 10.0);
    list.extend(spread(6, -1e4, 1e4));
    list.extend([16384.0, 2e4, -3e5, 1e7, 1.5e9, 1e20, -3.4e38, 16777216.0]);
    for op in [TileOp::Sin, TileOp::Cos, TileOp::Tan] {
        let columns: Vec<f32> = list.iter().copied().filter(|v| far_from_zero(op, *v)).collect();
        check_float(op, &[columns], 2e-6);
    }
}

/// Relative errors next to a zero or pole say more about the reduction than f32 can hold.
fn far_from_zero(op: TileOp, v: f32) -> bool {
    let v = f64::from(v);
    match op {
        TileOp::Sin => v.sin().abs() > 0.05 || v.abs() < 1.0,
        TileOp::Cos => v.cos().abs() > 0.05,
        _ => (v.sin().abs() > 0.05 || v.abs() < 1.0) && v.cos().abs() > 0.05,
    }
}

#[test]
fn special_numbers() {
    let list = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e38, -1e38];
    use TileOp::{
        Acos, Asinh, Atan, Cos, Cosh, Erf, Exp, IsNan, Log, Log1p, Sigmoid, Sign, Sinh, Sqrt, Tanh,
    };
    for op in [Exp, Log, Erf, Tanh, Sigmoid, Sign, IsNan, Sqrt, Atan, Sinh, Cosh, Asinh, Acos, Cos, Log1p] {
        let columns: Vec<f32> =
            list.iter().copied().filter(|v| op != Cos || v.abs() < 1e30 || !v.is_finite()).collect();
        check_float(op, &[columns], 1e-6);
    }
}

#[test]
fn binary_floats() {
    let (a, b) = (spread(1, -20.0, 20.0), spread(2, -3.0, 3.0));
    let n = a.len().min(b.len());
    let columns = [a[..n].to_vec(), b[..n].to_vec()];
    for op in [TileOp::Add, TileOp::Sub, TileOp::Mul, TileOp::Div, TileOp::Max, TileOp::Min] {
        check_float(op, &columns, 4e-7);
    }
    for op in [TileOp::Mod, TileOp::Rem, TileOp::Eq, TileOp::Lt, TileOp::Le] {
        check_float(op, &columns, 0.0);
    }
    check_float(
        TileOp::Rem,
        &[vec![1e30, -1e30, 5.0, 7.5, 1.0], vec![0.7, 3.0, f32::INFINITY, -2.0, 0.0]],
        0.0,
    );
    check_float(
        TileOp::MulAdd,
        &[columns[0][..152].to_vec(), columns[1][..152].to_vec(), spread(3, 5.0, 9.0)[..152].to_vec()],
        2e-5,
    );
    let nan = [vec![f32::NAN, 1.0, f32::NAN], vec![1.0, f32::NAN, f32::NAN]];
    for op in [TileOp::Eq, TileOp::Lt, TileOp::Le, TileOp::Max, TileOp::Min] {
        check_float(op, &nan, 0.0);
    }
}

#[test]
fn powers() {
    let bases = spread(4, 0.01, 30.0);
    for exponent in [0.5, -0.5, 2.0, 3.0, -2.0, 1.7, 0.333, -3.3, 0.0, 7.25] {
        check_float(TileOp::Pow, &[bases.clone(), vec![exponent; bases.len()]], 3e-6);
    }
    let bases = vec![-2.0, -2.0, 0.0, 0.0, -3.0, 1.0, f32::INFINITY, -1.5, 1e-30, 1e30];
    let exponents = vec![3.0, 2.0, 2.0, -1.0, 0.5, f32::NAN, 2.0, -3.0, 0.5, -1.0];
    check_float(TileOp::Pow, &[bases, exponents], 1e-6);
}

/// Integers of all widths, close to the ends of each.
fn integers(seed: u64, n: usize) -> Vec<i64> {
    let ends =
        [0, 1, -1, 2, i64::MAX, i64::MIN, 1 << 31, -(1 << 31), 1 << 32, u32::MAX.into(), 63, 64, 7, 33];
    bits(seed, n)
        .iter()
        .map(|b| match b % 5 {
            0 => ends[(b >> 8) as usize % ends.len()],
            1 => (*b as i64) >> 4,
            2 => (*b as i64) >> 33,
            3 => (*b as i64) >> 58,
            _ => (*b as i64) >> 20,
        })
        .collect()
}

/// Runs an integer program on columns and compares it with its definition.
fn check_ints(program: &TileProgram, columns: &[Vec<i64>]) {
    let n = columns[0].len();
    let inputs: Vec<Option<Tensor>> = columns.iter().map(|c| Some(Tensor::i64(&[n], c))).collect();
    let Some(result) = run(tile(program.clone()), &inputs, &[(ElementType::I64, vec![n])]) else { return };
    let got = longs(&result.unwrap_or_else(|e| panic!("{e}"))[0]);
    for k in 0..n {
        let operands: Vec<Scalar> = columns.iter().map(|c| Scalar::Int(c[k])).collect();
        let want = program.eval_scalar(&operands).unwrap()[0];
        assert_eq!(Scalar::Int(got[k]), want, "{operands:?} {program:?}");
    }
}

const INT_OPS: &[TileOp] = &[
    TileOp::Add,
    TileOp::Sub,
    TileOp::Mul,
    TileOp::Div,
    TileOp::Rem,
    TileOp::Mod,
    TileOp::Max,
    TileOp::Min,
    TileOp::Neg,
    TileOp::Abs,
    TileOp::Sign,
    TileOp::Eq,
    TileOp::Lt,
    TileOp::Le,
    TileOp::Select,
    TileOp::Not,
    TileOp::And,
    TileOp::Or,
    TileOp::Xor,
    TileOp::Shl,
    TileOp::Shr,
];

#[test]
fn integer_lanes_are_64_bits_wide() {
    let columns = [integers(1, 300), integers(2, 300), integers(3, 300)];
    for op in INT_OPS {
        check_ints(&single(*op, Lane::Int), &columns[..op.arity()]);
    }
}

#[test]
fn random_integer_programs_match_their_definition() {
    let wraps = [ElementType::I8, ElementType::U16, ElementType::I32, ElementType::U32, ElementType::Bool];
    for seed in 0..6 {
        let mut instrs = vec![load(Lane::Int, 0), load(Lane::Int, 1)];
        for b in bits(seed, 24) {
            let arg = |shift: u32| (b >> shift) as u32 % instrs.len() as u32;
            let next = match b % 6 {
                0 => TileInstr {
                    index: wraps[(b >> 8) as usize % 5] as u32,
                    ..instr(TileOp::Wrap, Lane::Int, &[arg(20)])
                },
                1 => TileInstr { int: b as i64 >> (b % 60), ..instr(TileOp::Const, Lane::Int, &[]) },
                _ => {
                    let op = INT_OPS[(b >> 8) as usize % INT_OPS.len()];
                    instr(op, Lane::Int, &[arg(20), arg(30), arg(40)][..op.arity()])
                }
            };
            instrs.push(next);
        }
        let last = instrs.len() as u32 - 1;
        let program = TileProgram { inputs: 2, instrs, outputs: vec![last] };
        check_ints(&program, &[integers(seed, 200), integers(seed + 50, 200)]);
    }
}

#[test]
fn lanes_convert_exactly() {
    let n = 400;
    let ints = integers(9, n);
    let program = TileProgram {
        inputs: 1,
        instrs: vec![load(Lane::Int, 0), instr(TileOp::ToFloat, Lane::Float, &[0])],
        outputs: vec![1],
    };
    let input = Some(Tensor::i64(&[n], &ints));
    let Some(result) = run(tile(program), &[input], &[(ElementType::F32, vec![n])]) else { return };
    let want: Vec<f32> = ints.iter().map(|v| *v as f32).collect();
    assert_eq!(floats(&result.unwrap()[0]), want);
    let mut values =
        vec![0.0, -0.9, 1.5, -2.5, 1e9, -1e18, 1e19, -1e19, f32::INFINITY, f32::NAN, 16_777_216.0, 3e12];
    values.extend(random(4, 50).iter().map(|v| v * 1e10));
    let n = values.len();
    let program = TileProgram {
        inputs: 1,
        instrs: vec![load(Lane::Float, 0), instr(TileOp::ToInt, Lane::Float, &[0])],
        outputs: vec![1],
    };
    let input = Some(Tensor::f32(&[n], &values));
    let Some(result) = run(tile(program), &[input], &[(ElementType::I64, vec![n])]) else { return };
    let want: Vec<i64> = values.iter().map(|v| *v as i64).collect();
    assert_eq!(longs(&result.unwrap()[0]), want);
}

#[test]
fn narrow_types_are_loaded_wrapped_and_stored() {
    let n = 37;
    let words = bits(11, n);
    let types = [
        ElementType::I8,
        ElementType::U8,
        ElementType::I16,
        ElementType::U16,
        ElementType::I32,
        ElementType::U32,
        ElementType::Bool,
    ];
    for from in types {
        let size = from.size_bytes();
        let mask = if from == ElementType::Bool { 1 } else { u64::MAX };
        let bytes: Vec<u8> = words.iter().flat_map(|w| (w & mask).to_le_bytes()[..size].to_vec()).collect();
        let input = Tensor { dtype: from, shape: vec![n], bytes: bytes.clone() };
        let value = |k: usize| {
            narrow(
                u64::from_le_bytes(std::array::from_fn(|b| if b < size { bytes[k * size + b] } else { 0 })),
                from,
            )
        };
        for to in types.into_iter().filter(|t| t.size_bytes() != 2) {
            let wrap = TileInstr { index: to as u32, ..instr(TileOp::Wrap, Lane::Int, &[0]) };
            let program = TileProgram { inputs: 1, instrs: vec![load(Lane::Int, 0), wrap], outputs: vec![1] };
            let Some(result) = run(tile(program), &[Some(input.clone())], &[(to, vec![n])]) else { return };
            let got = result.unwrap_or_else(|e| panic!("{e}")).remove(0);
            let want: Vec<u8> = (0..n)
                .flat_map(|k| {
                    let v = narrow(value(k) as u64, to);
                    v.to_le_bytes()[..to.size_bytes()].to_vec()
                })
                .collect();
            assert_eq!(got, want, "{from:?} to {to:?}");
        }
    }
}

fn narrow(v: u64, dtype: ElementType) -> i64 {
    match dtype {
        ElementType::I8 => i64::from(v as i8),
        ElementType::U8 => i64::from(v as u8),
        ElementType::I16 => i64::from(v as i16),
        ElementType::U16 => i64::from(v as u16),
        ElementType::I32 => i64::from(v as i32),
        ElementType::U32 => i64::from(v as u32),
        ElementType::Bool => i64::from(v as u8 != 0),
        _ => v as i64,
    }
}

#[test]
fn floats_are_rounded_to_narrow_types() {
    let values =
        vec![1.0, 1.0009766, 1.000_488_3, 0.1, 65519.0, 65520.0, 6e-8, 2.9e-8, -3.3e-5, 1e-7, f32::NAN];
    let half = vec![
        1.0,
        1.0009766,
        1.0,
        0.099975586,
        65504.0,
        f32::INFINITY,
        5.9604645e-8,
        0.0,
        -3.3020973e-5,
        1.1920929e-7,
        f32::NAN,
    ];
    let brain: Vec<f32> = values
        .iter()
        .map(|v| {
            let b = v.to_bits();
            if v.is_nan() {
                *v
            } else {
                f32::from_bits(b.wrapping_add(0x7fff + ((b >> 16) & 1)) & 0xffff_0000)
            }
        })
        .collect();
    for (dtype, want) in [(ElementType::F16, half), (ElementType::Bf16, brain)] {
        let round = TileInstr { index: dtype as u32, ..instr(TileOp::RoundTo, Lane::Float, &[0]) };
        let program = TileProgram { inputs: 1, instrs: vec![load(Lane::Float, 0), round], outputs: vec![1] };
        let n = values.len();
        common::check(tile(program), &[Some(Tensor::f32(&[n], &values))], &[n], &want, 0.0);
    }
}

#[test]
fn operands_are_broadcast() {
    let shapes: [&[usize]; 4] = [&[2, 3, 4, 5], &[3, 1, 1], &[2, 1, 4, 1], &[5]];
    let out = shapes[0];
    let inputs: Vec<Option<Tensor>> =
        shapes.iter().enumerate().map(|(k, s)| Some(Tensor::random(k as u64, s))).collect();
    let mut instrs: Vec<TileInstr> = (0..4).map(|k| load(Lane::Float, k)).collect();
    instrs.push(instr(TileOp::MulAdd, Lane::Float, &[0, 1, 2]));
    instrs.push(instr(TileOp::Add, Lane::Float, &[4, 3]));
    let program = TileProgram { inputs: 4, instrs, outputs: vec![5] };
    let data: Vec<Vec<f32>> = inputs.iter().flatten().map(Tensor::floats).collect();
    let want: Vec<f32> = coords(out)
        .iter()
        .map(|c| {
            let v: Vec<f32> = data.iter().zip(shapes).map(|(d, s)| d[at(s, c)]).collect();
            v[0] * v[1] + v[2] + v[3]
        })
        .collect();
    common::check(tile(program), &inputs, out, &want, 1e-6);
}

#[test]
fn several_results_of_different_types() {
    let data = random(3, 70);
    let zero = instr(TileOp::Const, Lane::Float, &[]);
    let instrs = vec![
        load(Lane::Float, 0),
        zero,
        instr(TileOp::Lt, Lane::Float, &[0, 1]),
        instr(TileOp::Neg, Lane::Float, &[0]),
        instr(TileOp::Select, Lane::Float, &[2, 3, 0]),
    ];
    let program = TileProgram { inputs: 1, instrs, outputs: vec![2, 4] };
    let outputs = [(ElementType::Bool, vec![7, 10]), (ElementType::F32, vec![7, 10])];
    let Some(result) = run(tile(program), &[Some(Tensor::f32(&[7, 10], &data))], &outputs) else { return };
    let result = result.unwrap();
    assert_eq!(result[0], data.iter().map(|v| u8::from(*v < 0.0)).collect::<Vec<u8>>());
    assert_eq!(floats(&result[1]), data.iter().map(|v| v.abs()).collect::<Vec<f32>>());
}
