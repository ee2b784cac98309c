//! Training modes and random numbers mean the same in every opset.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::make::{bytes, float, int, ints, model, node, open, value};
use onnx_protobuf::{AttributeProto, NodeProto};
use partita_ir::{DType, Tensor, interp};
use partita_onnx::{ExportOptions, Options, load_bytes, save};

fn run(
    version: i64,
    nodes: Vec<NodeProto>,
    inputs: &[(&str, &[usize], &[f32])],
    outputs: &[&str],
) -> Vec<Tensor> {
    let values = inputs.iter().map(|(name, shape, _)| {
        let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        value(name, &shape)
    });
    let outputs = outputs.iter().map(|name| open(name)).collect();
    let proto = model(version, nodes, values.collect(), outputs, vec![]);
    let imported = load_bytes("m", bytes(&proto), None, &Options::default()).unwrap();
    let tensors: Vec<Tensor> =
        inputs.iter().map(|(_, shape, v)| Tensor::from_slice(shape, v).unwrap()).collect();
    interp::run(&imported.graph, &tensors).unwrap()
}

const STATISTICS: [&str; 5] = ["x", "s", "b", "m", "v"];

/// One channel of the values 1 and 3, with `n` results.
fn batch_norm(version: i64, n: usize, mut attrs: Vec<AttributeProto>) -> Vec<Vec<f64>> {
    attrs.push(float("epsilon", 0.0));
    let names = ["y", "mean", "var", "saved_mean", "saved_var"];
    let nodes = vec![node("BatchNormalization", &STATISTICS, &names[..n], attrs)];
    let inputs: [(&str, &[usize], &[f32]); 5] = [
        ("x", &[2, 1], &[1.0, 3.0]),
        ("s", &[1], &[1.0]),
        ("b", &[1], &[0.0]),
        ("m", &[1], &[0.0]),
        ("v", &[1], &[1.0]),
    ];
    run(version, nodes, &inputs, &names[..n]).iter().map(Tensor::to_f64s).collect()
}

#[test]
fn batch_normalization_trains_when_it_says_so() {
    let (known, own) = (vec![vec![1.0, 3.0]], vec![vec![-1.0, 1.0]]);
    assert_eq!(batch_norm(9, 1, vec![]), known);
    assert_eq!(batch_norm(15, 1, vec![]), known);
    assert_eq!(batch_norm(15, 1, vec![int("training_mode", 1)]), own);
    assert_eq!(batch_norm(6, 1, vec![int("is_test", 1)]), known);
    assert_eq!(batch_norm(6, 1, vec![int("is_test", 0)]), own);
    let half = || float("momentum", 0.5);
    let all = batch_norm(9, 5, vec![half()]);
    assert_eq!(all[1..], [vec![1.0], vec![1.0], vec![2.0], vec![1.0]]);
    assert_eq!(batch_norm(14, 3, vec![half(), int("training_mode", 1)]), all[..3]);
}

#[test]
fn batch_normalization_per_feature() {
    let nodes = |n: usize| {
        let names = ["y", "mean", "var", "saved_mean"];
        vec![node(
            "BatchNormalization",
            &STATISTICS,
            &names[..n],
            vec![int("spatial", 0), float("epsilon", 0.0)],
        )]
    };
    let inputs: [(&str, &[usize], &[f32]); 5] = [
        ("x", &[2, 1, 2], &[1.0, 2.0, 3.0, 6.0]),
        ("s", &[1, 2], &[1.0, 10.0]),
        ("b", &[1, 2], &[0.0, 5.0]),
        ("m", &[1, 2], &[0.0, 1.0]),
        ("v", &[1, 2], &[1.0, 1.0]),
    ];
    let y = run(7, nodes(1), &inputs, &["y"]);
    assert_eq!((y[0].shape(), y[0].to_f64s()), (&[2, 1, 2][..], vec![1.0, 15.0, 3.0, 55.0]));
    let y = run(7, nodes(4), &inputs, &["y", "saved_mean"]);
    assert_eq!(y[0].to_f64s(), [-1.0, -5.0, 1.0, 15.0]);
    assert_eq!((y[1].shape(), y[1].to_f64s()), (&[1, 2][..], vec![2.0, 4.0]));
}

#[test]
fn masks_had_the_type_of_the_data() {
    let x: [(&str, &[usize], &[f32]); 1] = [("x", &[2], &[1.0, 2.0])];
    for (version, dtype) in [(7, DType::F32), (10, DType::Bool), (13, DType::Bool)] {
        let y = run(version, vec![node("Dropout", &["x"], &["y", "mask"], vec![])], &x, &["y", "mask"]);
        assert_eq!((y[1].dtype(), y[1].to_f64s()), (dtype, vec![1.0, 1.0]), "opset {version}");
    }
}

/// What only old opsets can say is not written in a newer one.
#[test]
fn old_forms_are_not_written() {
    for (version, code) in [(7, Some("U008")), (10, None)] {
        let nodes = vec![node("Dropout", &["x"], &["y", "mask"], vec![])];
        let proto = model(version, nodes, vec![value("x", &[2])], vec![open("y"), open("mask")], vec![]);
        let imported = load_bytes("m", bytes(&proto), None, &Options::default()).unwrap();
        let written = save(&imported.graph, &ExportOptions::default());
        assert_eq!(written.err().map(|d| d[0].code), code, "opset {version}");
    }
}

#[test]
fn nodes_without_a_seed_draw_different_numbers_every_import_the_same() {
    let draw = || {
        let shape = || vec![ints("shape", &[4])];
        let nodes =
            vec![node("RandomNormal", &[], &["a"], shape()), node("RandomNormal", &[], &["b"], shape())];
        run(22, nodes, &[], &["a", "b"])
    };
    let (first, second) = (draw(), draw());
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
}

/// Numbers for the seed 42 from numpy, which the reference implementation of ONNX uses.
#[test]
fn stated_seeds_give_the_reference_numbers() {
    let attrs = vec![ints("shape", &[3]), float("seed", 42.0)];
    let y = run(22, vec![node("RandomUniform", &[], &["y"], attrs.clone())], &[], &["y"]);
    let want = [0.374_540_12, 0.950_714_3, 0.731_993_94];
    assert!(y[0].to_f64s().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", y[0].to_f64s());
    let y = run(22, vec![node("RandomNormal", &[], &["y"], attrs)], &[], &["y"]);
    let want = [0.496_714_15, -0.138_264_3, 0.647_688_54];
    assert!(y[0].to_f64s().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", y[0].to_f64s());
}

#[test]
fn derivatives_are_refused() {
    let mut gradient = node("Gradient", &["x"], &["y"], vec![]);
    "ai.onnx.preview.training".clone_into(&mut gradient.domain);
    let mut proto = model(13, vec![gradient], vec![value("x", &[2])], vec![open("y")], vec![]);
    let domain = onnx_protobuf::OperatorSetIdProto {
        domain: "ai.onnx.preview.training".to_owned(),
        version: 1,
        ..Default::default()
    };
    proto.opset_import.push(domain);
    let diags = load_bytes("m", bytes(&proto), None, &Options::default()).map(|_| ()).unwrap_err();
    assert_eq!(diags[0].code, "U001");
}
