//! Operators that ONNX has not are written as several nodes that compute the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use partita_ir::op::Rng;
use partita_ir::{Attr, Attrs, Builder, Bytes, DType, Tensor, Type, interp};
use partita_onnx::{ExportOptions, Options, load_bytes, save};

/// One operator on random f32 operands, before and after a round through ONNX.
fn assert_same(op: &str, attrs: Attrs, shapes: &[&[usize]]) {
    let mut b = Builder::new(op);
    let inputs: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| b.input(&format!("x{n}"), Type::known(DType::F32, shape)))
        .collect();
    let y = b.op(partita_ops::op(op).unwrap(), attrs, &inputs).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let bytes = save(&graph, &ExportOptions::default()).unwrap();
    let again = load_bytes(op, Bytes::from_vec(bytes), None, &Options::default()).unwrap().graph;
    let mut rng = Rng(7);
    let tensors: Vec<Tensor> = shapes.iter().map(|s| rng.tensor(DType::F32, s, -2.0, 2.0)).collect();
    let want = interp::run(&graph, &tensors).unwrap();
    let have = interp::run(&again, &tensors).unwrap();
    assert_eq!(have[0].shape(), want[0].shape(), "{op}");
    for (h, w) in have[0].to_f64s().into_iter().zip(want[0].to_f64s()) {
        assert!((h - w).abs() < 1e-6, "{op}: {h} is not {w}");
    }
}

#[test]
fn silu() {
    assert_same("silu", Attrs::new(), &[&[2, 3]]);
    assert_same("silu", Attrs::new().with("alpha", 1.5f32), &[&[2, 3]]);
}

#[test]
fn attention_over_transposed_keys() {
    let attrs = Attrs::new().with("k_transposed", 1i64).with("scale", 0.3f32);
    assert_same("attention", attrs, &[&[1, 2, 3, 4], &[1, 2, 4, 5], &[1, 2, 5, 4]]);
    assert_same("attention", Attrs::new(), &[&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 4]]);
}

#[test]
fn channels_last() {
    for layout in ["nchw", "nhwc", "nchw_nhwc"] {
        let attrs = Attrs::new().with("layout", layout).with("pads", vec![1i64, 0, 1, 0]);
        let x: [usize; 4] = if layout == "nhwc" { [2, 5, 4, 3] } else { [2, 3, 5, 4] };
        assert_same("conv", attrs.clone(), &[&x, &[2, 3, 3, 2], &[2]]);
        assert_same("max_pool", attrs.with("kernel_shape", vec![3i64, 2]), &[&x]);
    }
}

#[test]
fn upsample() {
    let mut attrs = Attrs::new();
    attrs.set("scales", Attr::Floats(vec![1.0, 1.0, 2.0, 2.0]));
    assert_same("upsample", attrs, &[&[1, 1, 2, 2]]);
}
