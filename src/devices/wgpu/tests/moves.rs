//! Data movement against index loops, for elements of 1, 2, 4 and 8 bytes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{Tensor, at, bits, coords, kernel, run, with_dims, with_float, with_ints, with_string};
use partita_plan::{ElementType, Kernel};
use proptest::prelude::*;

const TYPES: [ElementType; 4] = [ElementType::U8, ElementType::F16, ElementType::F32, ElementType::I64];

fn few() -> ProptestConfig {
    ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() }
}

/// A tensor of random bytes.
fn noise(seed: u64, dtype: ElementType, shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    let size = dtype.size_bytes();
    let bytes = bits(seed, n).iter().flat_map(|b| b.to_le_bytes()[..size].to_vec()).collect();
    Tensor { dtype, shape: shape.to_vec(), bytes }
}

/// Element `i` as bytes.
fn element(t: &Tensor, i: usize) -> &[u8] {
    let size = t.dtype.size_bytes();
    &t.bytes[i * size..(i + 1) * size]
}

fn check(kernel: &Kernel, inputs: &[Tensor], outputs: &[Tensor]) {
    let given: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
    let types: Vec<_> = outputs.iter().map(|t| (t.dtype, t.shape.clone())).collect();
    let Some(result) = run(kernel.clone(), &given, &types) else { return };
    for (got, want) in result.unwrap_or_else(|e| panic!("{e}")).iter().zip(outputs) {
        assert_eq!(got, &want.bytes, "{kernel:?}");
    }
}

/// The tensor of `shape` whose element at coordinates `c` is element `from(c)` of `x`, or zero.
fn taken(x: &Tensor, shape: &[usize], from: impl Fn(&[usize]) -> Option<usize>) -> Tensor {
    let zero = vec![0u8; x.dtype.size_bytes()];
    let bytes =
        coords(shape).iter().flat_map(|c| from(c).map_or(zero.clone(), |i| element(x, i).to_vec())).collect();
    Tensor { dtype: x.dtype, shape: shape.to_vec(), bytes }
}

fn shape3() -> impl Strategy<Value = [usize; 3]> {
    [1usize..5, 1..6, 1..7]
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn transpose_matches(shape in shape3(), perm in Just([0i64, 1, 2]).prop_shuffle()) {
        for dtype in TYPES {
            let x = noise(1, dtype, &shape);
            let out: Vec<usize> = perm.iter().map(|p| shape[*p as usize]).collect();
            let want = taken(&x, &out, |c| {
                let mut from = [0; 3];
                for k in 0..3 { from[perm[k] as usize] = c[k]; }
                Some(at(&shape, &from))
            });
            check(&with_ints(kernel("transpose"), "perm", &perm), &[x], &[want]);
        }
    }

    #[test]
    fn slice_matches(shape in shape3(), step in 1i64..3, back in any::<bool>()) {
        for dtype in TYPES {
            let x = noise(2, dtype, &shape);
            let (start, step) = if back { (shape[1] as i64 - 1, -step) } else { (0, step) };
            let out = [shape[0], shape[1].div_ceil(step.unsigned_abs() as usize), shape[2]];
            let want = taken(&x, &out, |c| Some(at(&shape, &[c[0], (start + c[1] as i64 * step) as usize, c[2]])));
            let k = with_dims(with_dims(kernel("slice"), "starts", &[0, start, 0]), "steps", &[1, step, 1]);
            check(&k, &[x], &[want]);
        }
    }

    #[test]
    fn expand_and_copy_match(shape in shape3(), ones in 0u8..8) {
        for dtype in TYPES {
            let from: Vec<usize> = (0..3).map(|k| if ones >> k & 1 == 1 { 1 } else { shape[k] }).collect();
            let x = noise(3, dtype, &from);
            let want = taken(&x, &shape, |c| Some(at(&from, c)));
            check(&kernel("expand"), std::slice::from_ref(&x), &[want]);
            let flat = Tensor { shape: vec![from.iter().product()], ..x.clone() };
            check(&kernel("copy"), &[x], &[flat]);
        }
    }

    #[test]
    fn split_and_concat_match(shape in shape3(), axis in 0usize..3, first in 0usize..4) {
        for dtype in TYPES {
            let x = noise(4, dtype, &shape);
            let first = first.min(shape[axis]);
            let part = |from: usize, size: usize| {
                let mut out = shape;
                out[axis] = size;
                taken(&x, &out, |c| { let mut c = c.to_vec(); c[axis] += from; Some(at(&shape, &c)) })
            };
            let parts = [part(0, first), part(first, shape[axis] - first)];
            check(&with_ints(kernel("split"), "axis", &[axis as i64]), std::slice::from_ref(&x), &parts);
            if dtype.size_bytes() >= 4 {
                check(&with_ints(kernel("concat"), "axis", &[axis as i64]), &parts, &[x]);
            }
        }
    }

    #[test]
    fn pad_matches(shape in shape3(), mode in 0usize..4, begin in -1i64..4, end in -1i64..4) {
        let mode = ["constant", "reflect", "edge", "wrap"][mode];
        let n = shape[1] as i64;
        if n + begin + end <= 0 { return Ok(()); }
        for dtype in TYPES {
            let x = noise(5, dtype, &shape);
            let out = [shape[0], (n + begin + end) as usize, shape[2]];
            let want = taken(&x, &out, |c| {
                let p = c[1] as i64 - begin;
                let turn = 2 * (n - 1);
                let p = match mode {
                    "constant" => p,
                    "edge" => p.clamp(0, n - 1),
                    "wrap" => p.rem_euclid(n),
                    _ if n == 1 => 0,
                    _ => p.rem_euclid(turn).min(turn - p.rem_euclid(turn)),
                };
                (0..n).contains(&p).then(|| at(&shape, &[c[0], p as usize, c[2]]))
            });
            let k = with_dims(with_string(kernel("pad"), "mode", mode), "pads", &[0, begin, 0, 0, end, 0]);
            check(&k, &[x], &[want]);
        }
    }

    #[test]
    fn gather_matches(shape in shape3(), axis in 0usize..3, n in 1usize..5, wide in any::<bool>()) {
        let size = shape[axis] as i64;
        let picks: Vec<i64> = bits(6, 2 * n).iter().map(|b| (b % (2 * size as u64)) as i64 - size).collect();
        let indices = if wide { Tensor::i64(&[2, n], &picks) } else {
            let bytes = picks.iter().flat_map(|p| (*p as i32).to_le_bytes()).collect();
            Tensor { dtype: ElementType::I32, shape: vec![2, n], bytes }
        };
        for dtype in TYPES {
            let x = noise(7, dtype, &shape);
            let out = [&shape[..axis], &[2, n], &shape[axis + 1..]].concat();
            let want = taken(&x, &out, |c| {
                let pick = picks[c[axis] * n + c[axis + 1]].rem_euclid(size) as usize;
                Some(at(&shape, &[&c[..axis], &[pick], &c[axis + 2..]].concat()))
            });
            check(&with_ints(kernel("gather"), "axis", &[axis as i64]), &[x, indices.clone()], &[want]);
        }
    }
}

#[test]
fn indices_out_of_range_are_refused() {
    let x = noise(1, ElementType::F32, &[3, 2]);
    for bad in [3, -4, 1 << 32, -(1 << 32), i64::MIN] {
        let inputs = [Some(x.clone()), Some(Tensor::i64(&[2], &[0, bad]))];
        let kernel = with_ints(kernel("gather"), "axis", &[0]);
        let Some(result) = run(kernel, &inputs, &[(ElementType::F32, vec![2, 2])]) else { return };
        let error = result.unwrap_err();
        assert_eq!((error.code, error.place.as_str()), ("G007", "step 'gather' on gpu0"));
    }
}

#[test]
fn padding_takes_its_value_from_a_parameter_or_an_operand() {
    let x = Tensor::f32(&[2], &[1.0, 2.0]);
    let k = with_dims(kernel("pad"), "pads", &[1, 1]);
    check(
        &with_float(k.clone(), "value", -3.5),
        std::slice::from_ref(&x),
        &[Tensor::f32(&[4], &[-3.5, 1.0, 2.0, -3.5])],
    );
    check(&k, &[x, Tensor::f32(&[], &[0.25])], &[Tensor::f32(&[4], &[0.25, 1.0, 2.0, 0.25])]);
    let long = Tensor::i64(&[1], &[7]);
    check(&k, &[long, Tensor::i64(&[], &[-1 << 40])], &[Tensor::i64(&[3], &[-1 << 40, 7, -1 << 40])]);
}

#[test]
fn dims_and_fill() {
    let values = [3, -1, 1 << 40];
    check(&with_dims(kernel("dims"), "values", &values), &[], &[Tensor::i64(&[3], &values)]);
    check(&with_float(kernel("fill"), "value", 1.5), &[], &[Tensor::f32(&[3, 3], &[1.5; 9])]);
    check(&with_ints(kernel("fill"), "int", &[-2]), &[], &[Tensor::i64(&[5], &[-2; 5])]);
    let bytes = Tensor { dtype: ElementType::Bool, shape: vec![7], bytes: vec![1; 7] };
    check(&with_ints(kernel("fill"), "int", &[1]), &[], &[bytes]);
}
