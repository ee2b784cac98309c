//! Values of tensor operators against formulations that share no code with their rows.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests stop at the first surprise")]

use partita_ir::op::{EvalCtx, Rng, Sample};
use partita_ir::{Attrs, DType, Tensor};
use partita_ops::op;

fn eval(name: &str, attrs: &Attrs, inputs: &[Option<&Tensor>], n_outputs: usize) -> Vec<Tensor> {
    let row = op(name).unwrap_or_else(|| panic!("{name} has no row"));
    (row.eval)(&EvalCtx { attrs, inputs, n_outputs }).unwrap_or_else(|d| panic!("{name}: {d}"))
}

fn eval1(name: &str, attrs: &Attrs, inputs: &[&Tensor]) -> Tensor {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
    eval(name, attrs, &inputs, 1).remove(0)
}

fn eval_sample(name: &str, sample: &Sample) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = sample.inputs.iter().map(Option::as_ref).collect();
    eval(name, &sample.attrs, &inputs, sample.n_outputs)
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    for (i, (a, b)) in a.to_f64s().iter().zip(b.to_f64s()).enumerate() {
        assert!((a - b).abs() < 1e-5, "{what}: element {i} is {a}, not {b}");
    }
}

#[test]
fn matmul_agrees_with_loops() {
    for seed in 0..100 {
        let mut rng = Rng(seed);
        let [b, m, k, n] = [(); 4].map(|()| 1 + rng.below(5));
        let x = rng.tensor(DType::F64, &[b, m, k], -2.0, 2.0);
        let y = rng.tensor(DType::F64, &[k, n], -2.0, 2.0);
        let (xs, ys) = (x.to_f64s(), y.to_f64s());
        let mut want = Vec::new();
        for row in 0..b * m {
            for column in 0..n {
                want.push((0..k).map(|i| xs[row * k + i] * ys[i * n + column]).sum());
            }
        }
        let want = Tensor::from_f64s(DType::F64, &[b, m, n], &want).unwrap();
        assert_close(&eval1("matmul", &Attrs::new(), &[&x, &y]), &want, &format!("seed {seed}"));
    }
}

#[test]
fn gemm_agrees_with_matmul() {
    for seed in 0..100 {
        let s = (op("gemm").unwrap().sample)(&mut Rng(seed));
        if s.inputs.len() > 2 || s.attrs.flag("trans_a") {
            continue;
        }
        let (a, b) = (s.inputs[0].clone().unwrap(), s.inputs[1].clone().unwrap());
        let equation = if s.attrs.flag("trans_b") { "ij,kj->ik" } else { "ij,jk->ik" };
        let product = eval1("einsum", &Attrs::new().with("equation", equation), &[&a, &b]);
        let alpha = f64::from(s.attrs.float_or("alpha", 1.0));
        let scaled: Vec<f64> = product.to_f64s().iter().map(|v| v * alpha).collect();
        let want = Tensor::from_f64s(DType::F32, product.shape(), &scaled).unwrap();
        assert_close(&eval_sample("gemm", &s)[0], &want, &format!("seed {seed}"));
    }
}

/// Attention without masks is a product, a softmax and a product.
#[test]
fn attention_is_its_parts() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let [b, h, m, n, d] = [(); 5].map(|()| 1 + rng.below(4));
        let [q, k, v] =
            [[b, h, m, d], [b, h, n, d], [b, h, n, d]].map(|s| rng.tensor(DType::F64, &s, -2.0, 2.0));
        let mask = rng.tensor(DType::F64, &[m, n], -2.0, 0.0);
        let scores = eval1("einsum", &Attrs::new().with("equation", "bhqd,bhkd->bhqk"), &[&q, &k]);
        let scaled: Vec<f64> = scores
            .to_f64s()
            .iter()
            .enumerate()
            .map(|(i, s)| s / (d as f64).sqrt() + mask.to_f64s()[i % (m * n)])
            .collect();
        let scaled = Tensor::from_f64s(DType::F64, scores.shape(), &scaled).unwrap();
        let weights = eval1("softmax", &Attrs::new(), &[&scaled]);
        let want = eval1("matmul", &Attrs::new(), &[&weights, &v]);
        let have = eval1("attention", &Attrs::new(), &[&q, &k, &v, &mask]);
        assert_close(&have, &want, &format!("seed {seed}"));
    }
}

#[test]
fn causal_attention_ignores_later_keys() {
    let mut rng = Rng(1);
    let [q, k, v] = [(); 3].map(|()| rng.tensor(DType::F32, &[1, 1, 3, 2], -2.0, 2.0));
    let attrs = Attrs::new().with("is_causal", 1i64);
    let y = eval1("attention", &attrs, &[&q, &k, &v]).to_f64s();
    assert_eq!(y[..2], v.to_f64s()[..2], "the first query sees the first value only");
    let none = Tensor::from_bools(&[1, 3], &[false; 3]).unwrap();
    let blind = eval1("attention", &Attrs::new(), &[&q, &k, &v, &none]);
    assert_eq!(blind.splat_f64(), Some(0.0));
}

#[test]
fn normalised_lines_have_mean_0_and_variance_1() {
    let x = Rng(3).tensor(DType::F64, &[4, 50], -3.0, 9.0);
    let y = eval1("layer_norm", &Attrs::new().with("epsilon", 1e-12f32), &[&x]).to_f64s();
    for line in y.chunks(50) {
        let mean = line.iter().sum::<f64>() / 50.0;
        let variance = line.iter().map(|v| v * v).sum::<f64>() / 50.0;
        assert!(mean.abs() < 1e-9 && (variance - 1.0).abs() < 1e-6);
    }
}

/// Instance normalisation is group normalisation with one channel a group, and layer normalisation of channels.
#[test]
fn normalisations_agree_with_each_other() {
    let mut rng = Rng(5);
    let x = rng.tensor(DType::F32, &[2, 3, 4, 5], -3.0, 3.0);
    let (scale, bias) = (rng.tensor(DType::F32, &[3], 0.5, 2.0), rng.tensor(DType::F32, &[3], -1.0, 1.0));
    let instance = eval1("instance_norm", &Attrs::new(), &[&x, &scale, &bias]);
    let group = eval1("group_norm", &Attrs::new().with("num_groups", 3i64), &[&x, &scale, &bias]);
    assert_close(&instance, &group, "group_norm");
    let [scale, bias] = [scale, bias].map(|t| t.reshaped(&[3, 1, 1]).unwrap());
    let layer = eval1("layer_norm", &Attrs::new().with("axis", 2i64), &[&x, &scale, &bias]);
    assert_close(&instance, &layer, "layer_norm");
}

#[test]
fn max_pool_positions_point_at_the_maxima() {
    for seed in 0..100 {
        let s = (op("max_pool").unwrap().sample)(&mut Rng(seed));
        if s.n_outputs < 2 || s.attrs.flag("storage_order") {
            continue;
        }
        let x = s.inputs[0].as_ref().unwrap().to_f64s();
        let results = eval_sample("max_pool", &s);
        for (value, at) in results[0].to_f64s().iter().zip(results[1].to_i64s()) {
            assert_eq!(*value, x[at as usize], "seed {seed}");
        }
    }
}

#[test]
fn average_pool_counts_pads_only_if_asked() {
    let x = floats(&[1, 1, 2], &[2.0, 4.0]);
    let attrs = Attrs::new().with("kernel_shape", vec![2i64]).with("pads", vec![1i64, 0]);
    assert_eq!(eval1("average_pool", &attrs, &[&x]).to_f64s(), [2.0, 3.0]);
    let attrs = attrs.with("count_include_pad", 1i64);
    assert_eq!(eval1("average_pool", &attrs, &[&x]).to_f64s(), [1.0, 3.0]);
}

#[test]
fn quantisation_rounds_halves_to_even_and_saturates() {
    let x = floats(&[6], &[0.5, 1.5, 2.5, -0.5, 1000.0, -1000.0]);
    let (scale, zero) = (floats(&[], &[1.0]), Tensor::from_i64s(DType::I8, &[], &[0]).unwrap());
    let y = eval1("quantize_linear", &Attrs::new(), &[&x, &scale, &zero]);
    assert_eq!(y.to_i64s(), [0, 2, 2, 0, 127, -128]);
    let back = eval1("dequantize_linear", &Attrs::new(), &[&y, &scale, &zero]);
    assert_eq!(back.to_f64s(), [0.0, 2.0, 2.0, 0.0, 127.0, -128.0]);
}

#[test]
fn ties_go_to_the_lower_index() {
    let x = floats(&[4], &[1.0, 3.0, 3.0, 2.0]);
    assert_eq!(eval1("arg_max", &Attrs::new(), &[&x]).to_i64s(), [1]);
    let last = Attrs::new().with("select_last_index", 1i64);
    assert_eq!(eval1("arg_max", &last, &[&x]).to_i64s(), [2]);
    let top = eval("top_k", &Attrs::new().with("k", vec![3i64]), &[Some(&x)], 2);
    assert_eq!(top[0].to_f64s(), [3.0, 3.0, 2.0]);
    assert_eq!(top[1].to_i64s(), [1, 2, 3]);
}

#[test]
fn reductions_of_nothing_have_their_neutral_value() {
    let empty = floats(&[0], &[]);
    let value = |name: &str| eval1(name, &Attrs::new(), &[&empty]).to_f64s()[0];
    assert_eq!(value("reduce_sum"), 0.0);
    assert_eq!(value("reduce_prod"), 1.0);
    assert_eq!(value("reduce_max"), f64::NEG_INFINITY);
    assert_eq!(value("reduce_min"), f64::INFINITY);
    assert!(value("reduce_mean").is_nan());
    let empty = Tensor::from_i64s(DType::I16, &[0], &[]).unwrap();
    assert_eq!(eval1("reduce_max", &Attrs::new(), &[&empty]).to_i64s(), [i64::from(i16::MIN)]);
}

#[test]
fn nan_wins_in_extremes_and_unsigned_order_holds() {
    let x = floats(&[3], &[1.0, f32::NAN, 2.0]);
    assert!(eval1("reduce_max", &Attrs::new(), &[&x]).to_f64s()[0].is_nan());
    let x = Tensor::from_slice(&[2], &[u64::MAX, 1]).unwrap();
    assert_eq!(eval1("reduce_max", &Attrs::new(), &[&x]), Tensor::from_slice(&[1], &[u64::MAX]).unwrap());
}

#[test]
fn resize_by_whole_factors_repeats() {
    let x = floats(&[1, 1, 1, 2], &[1.0, 2.0]);
    let attrs = Attrs::new().with("scales", vec![1.0f32, 1.0, 1.0, 2.0]);
    assert_eq!(eval1("resize", &attrs, &[&x]).to_f64s(), [1.0, 1.0, 2.0, 2.0]);
    let linear = attrs.clone().with("mode", "linear");
    assert_eq!(eval1("resize", &linear, &[&x]).to_f64s(), [1.0, 1.25, 1.75, 2.0]);
    let scales = floats(&[4], &[1.0, 1.0, 1.0, 2.0]);
    assert_eq!(eval1("upsample", &Attrs::new(), &[&x, &scales]).to_f64s(), [1.0, 1.0, 2.0, 2.0]);
}
