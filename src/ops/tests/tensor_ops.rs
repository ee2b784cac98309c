//! Properties of the rows of tensor operators: inference agrees with evaluation, symbols flow, hostile
//! attributes are refused.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests stop at the first surprise")]

use partita_ir::builder::infer_op;
use partita_ir::op::{EvalCtx, Operand, Rng, Sample, WorkCtx};
use partita_ir::types::{Content, Type};
use partita_ir::{Attr, Attrs, DType, Diag, Dim, OpRef, Tensor};
use partita_ops::op;

const NAMES: &[&str] = &[
    "arg_max",
    "arg_min",
    "attention",
    "average_pool",
    "batch_norm",
    "causal_conv_with_state",
    "conv",
    "conv_transpose",
    "decoder_masked_multi_head_attention",
    "dequantize_linear",
    "dilated_causal_conv_with_state",
    "einsum",
    "gemm",
    "global_average_pool",
    "global_lp_pool",
    "global_max_pool",
    "group_norm",
    "group_query_attention",
    "hardmax",
    "indexed_rotary_embedding",
    "instance_norm",
    "layer_norm",
    "linear_attention",
    "log_softmax",
    "lp_pool",
    "lrn",
    "matmul",
    "max_pool",
    "mean_variance_normalization",
    "multi_head_attention",
    "projected_attention",
    "quantize_linear",
    "reduce_l1",
    "reduce_l2",
    "reduce_log_sum",
    "reduce_log_sum_exp",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
    "resize",
    "rms_norm",
    "rotary_embedding",
    "softmax",
    "swiglu",
    "tensor_scatter",
    "top_k",
    "upsample",
    "windowed_linear_attention",
];

const SEEDS: u64 = 60;

fn each_sample(mut f: impl FnMut(OpRef, Sample, &str)) {
    for name in NAMES {
        let row = op(name).unwrap_or_else(|| panic!("{name} has no row"));
        for seed in 0..SEEDS {
            f(row, (row.sample)(&mut Rng(seed)), &format!("{name}, seed {seed}"));
        }
    }
}

fn types(sample: &Sample) -> Vec<Option<(Type, Content)>> {
    let describe = |t: &Tensor| (Type::known(t.dtype(), t.shape()), Content::Const(t.clone()));
    sample.inputs.iter().map(|t| t.as_ref().map(describe)).collect()
}

fn infer(row: OpRef, sample: &Sample, types: &[Option<(Type, Content)>]) -> Result<Vec<Type>, Diag> {
    let operands: Vec<Option<Operand>> = types
        .iter()
        .map(|o| o.as_ref().map(|(ty, content)| Operand { ty, content: Some(content) }))
        .collect();
    Ok(infer_op(row, &sample.attrs, &operands, sample.n_outputs)?.types)
}

fn eval(row: OpRef, sample: &Sample) -> Result<Vec<Tensor>, Diag> {
    let inputs: Vec<Option<&Tensor>> = sample.inputs.iter().map(Option::as_ref).collect();
    (row.eval)(&EvalCtx { attrs: &sample.attrs, inputs: &inputs, n_outputs: sample.n_outputs })
}

#[test]
fn inference_agrees_with_evaluation() {
    each_sample(|row, sample, what| {
        let inferred = infer(row, &sample, &types(&sample)).unwrap_or_else(|d| panic!("{what}: {d}"));
        let results = eval(row, &sample).unwrap_or_else(|d| panic!("{what}: {d}"));
        assert_eq!(results.len(), sample.n_outputs, "{what}");
        for (ty, result) in inferred.iter().zip(&results) {
            assert_eq!(*ty, Type::known(result.dtype(), result.shape()), "{what}");
        }
    });
}

#[test]
fn inference_with_a_symbol_agrees_once_it_is_bound() {
    each_sample(|row, sample, what| {
        let concrete = infer(row, &sample, &types(&sample)).unwrap();
        for (operand, tensor) in sample.inputs.iter().enumerate() {
            for (axis, &size) in tensor.iter().flat_map(|t| t.shape().iter().enumerate()) {
                let mut types = types(&sample);
                if let Some((ty, _)) = types[operand].as_mut() {
                    ty.shape[axis] = Dim::symbol("s");
                }
                // Some sizes must be known, as a kernel's.
                let Ok(inferred) = infer(row, &sample, &types) else { continue };
                for (with_symbol, known) in inferred.iter().zip(&concrete) {
                    let bound = with_symbol.bind(&|_| Some(size as i64));
                    assert_eq!(bound, *known, "{what}, operand {operand}, axis {axis}: {with_symbol}");
                }
            }
        }
    });
}

#[test]
fn batch_and_sequence_flow_through() {
    let shape = |name: &str, attrs: Attrs, shapes: &[&[Dim]]| {
        let types: Vec<Type> = shapes.iter().map(|s| Type::new(DType::F32, s.to_vec())).collect();
        let operands: Vec<_> = types.iter().map(|ty| Some(Operand { ty, content: None })).collect();
        infer_op(op(name).unwrap(), &attrs, &operands, 1).unwrap().types[0].to_string()
    };
    let [b, s, h] = ["b", "s", "h"].map(Dim::symbol);
    let n = Dim::known;
    let heads = [b.clone(), n(12), s.clone(), n(64)];
    let image = [b.clone(), n(3), h.clone(), h.clone()];
    let window = Attrs::new().with("strides", vec![2i64, 2]).with("pads", vec![1i64; 4]);
    let pool = window.clone().with("kernel_shape", vec![3i64, 3]);
    let same = Attrs::new().with("strides", vec![2i64, 2]).with("auto_pad", "SAME_UPPER");
    let kernel = [n(8), n(3), n(3), n(3)];
    let none = Attrs::new;
    assert_eq!(shape("matmul", none(), &[&[b.clone(), s.clone(), n(8)], &[n(8), n(9)]]), "f32[b, s, 9]");
    assert_eq!(shape("attention", none(), &[&heads, &heads, &heads]), "f32[b, 12, s, 64]");
    assert_eq!(shape("softmax", none(), &[&[b.clone(), n(12), s.clone(), s]]), "f32[b, 12, s, s]");
    let halved = "floordiv(h - 1, 2) + 1";
    assert_eq!(shape("conv", window, &[&image, &kernel]), format!("f32[b, 8, {halved}, {halved}]"));
    assert_eq!(shape("max_pool", pool, &[&image]), format!("f32[b, 3, {halved}, {halved}]"));
    let rounded = "floordiv(h + 1, 2)";
    assert_eq!(shape("conv", same, &[&image, &kernel]), format!("f32[b, 8, {rounded}, {rounded}]"));
    assert_eq!(shape("global_average_pool", none(), &[&image]), "f32[b, 3, 1, 1]");
    let twice = Attrs::new().with("scales", vec![1.0f32, 1.0, 2.0, 0.5]);
    assert_eq!(shape("resize", twice, &[&image]), "f32[b, 3, 2*h, floordiv(h, 2)]");
}

#[test]
fn attributes_of_samples_are_declared() {
    each_sample(|row, sample, what| {
        for (name, _) in sample.attrs.iter() {
            assert!(row.attr(name).is_some(), "{what}: {name}");
        }
        assert!((row.inputs.min..=row.inputs.max).contains(&sample.inputs.len()), "{what}");
    });
}

#[test]
fn work_counts_bytes_and_flops() {
    each_sample(|row, sample, what| {
        let shaped = |t: &Tensor| (t.dtype(), t.shape().to_vec());
        let inputs: Vec<_> = sample.inputs.iter().map(|t| t.as_ref().map(shaped)).collect();
        let outputs: Vec<_> = eval(row, &sample).unwrap().iter().map(shaped).collect();
        let work = (row.work)(&WorkCtx { attrs: &sample.attrs, inputs: &inputs, outputs: &outputs });
        assert!(work.flops.is_finite() && work.flops >= 0.0, "{what}: {work:?}");
        assert!(work.written_bytes > 0.0, "{what}: {work:?}");
    });
}

/// Every integer attribute in turn is replaced by extreme values: an error or a result, never a panic.
#[test]
fn hostile_integers_do_not_panic() {
    let extremes = [i64::MIN, -1, 0, 1 << 31, i64::MAX];
    each_sample(|row, sample, what| {
        for def in row.attrs {
            for value in extremes {
                let hostile = match sample.attrs.get(def.name) {
                    Some(Attr::Int(_)) => Attr::Int(value),
                    Some(Attr::Ints(v)) => Attr::Ints(vec![value; v.len()]),
                    _ => continue,
                };
                let mut bad = sample.clone();
                bad.attrs.set(def.name, hostile);
                check_refused_or_right(row, &bad, &format!("{what}, {} = {value}", def.name));
            }
        }
    });
}

fn check_refused_or_right(row: OpRef, sample: &Sample, what: &str) {
    match infer(row, sample, &types(sample)) {
        Err(d) => assert!(["V020", "V021", "U001"].contains(&d.code), "{what}: {d}"),
        Ok(types) => {
            let n = types[0].known_shape().and_then(|s| partita_ir::tensor::n_elements(&s));
            // Large results are right but slow.
            if n.is_some_and(|n| n < 10_000) {
                let results = eval(row, sample).unwrap_or_else(|d| panic!("{what}: {d}"));
                assert_eq!(types[0], Type::known(results[0].dtype(), results[0].shape()), "{what}");
            }
        }
    }
}

/// Rank 0 operands and empty tensors: an error or a result, never a panic.
#[test]
fn degenerate_operands_do_not_panic() {
    each_sample(|row, sample, _| {
        for at in 0..sample.inputs.len() {
            for shape in [&[][..], &[0], &[0, 0, 0], &[1, 0, 3, 3], &[2, 3, 0, 4]] {
                let mut odd = sample.clone();
                let dtype = odd.inputs[at].as_ref().map_or(DType::F32, Tensor::dtype);
                let n = shape.iter().product();
                odd.inputs[at] = Tensor::from_f64s(dtype, shape, &vec![1.0; n]);
                if infer(row, &odd, &types(&odd)).is_ok() {
                    let _ = eval(row, &odd);
                }
            }
        }
    });
}

#[test]
fn products_and_sums_of_shapes_stay_symbolic() {
    let dims = Content::Dims(vec![Dim::symbol("b"), Dim::known(4), Dim::symbol("s")]);
    let ty = Type::known(DType::I64, &[3]);
    let operands = [Some(Operand { ty: &ty, content: Some(&dims) })];
    let content = |name: &str| {
        let attrs = Attrs::new().with("keepdims", 0i64);
        let inferred = infer_op(op(name).unwrap(), &attrs, &operands, 1).unwrap();
        inferred.contents[0].as_ref().and_then(Content::as_dims).unwrap()[0].to_string()
    };
    assert_eq!(content("reduce_prod"), "4*b*s");
    assert_eq!(content("reduce_sum"), "b + s + 4");
}

#[test]
fn integer_reductions_wrap_at_the_width() {
    let x = Tensor::from_slice(&[2], &[i32::MAX, 1]).unwrap();
    let row = op("reduce_sum").unwrap();
    let sample = Sample { attrs: Attrs::new(), inputs: vec![Some(x)], n_outputs: 1 };
    assert_eq!(eval(row, &sample).unwrap()[0].to_i64s(), [i64::from(i32::MIN)]);
}
