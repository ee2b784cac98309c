//! Older forms of operators mean what they meant.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::make::{bytes, float, floats, int, ints, model, node, open, value};
use onnx_protobuf::{AttributeProto, TensorProto};
use partita_ir::{Tensor, interp};
use partita_onnx::{Options, load_bytes};

/// Runs one operator on f32 operands.
fn run(op: &str, version: i64, operands: &[(&[usize], &[f32])], attrs: Vec<AttributeProto>) -> Vec<f64> {
    let names: Vec<String> = (0..operands.len()).map(|n| format!("x{n}")).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let shapes = operands.iter().map(|(shape, _)| shape.iter().map(|&d| d as i64).collect::<Vec<i64>>());
    let inputs = shapes.zip(&refs).map(|(shape, name)| value(name, &shape)).collect();
    let proto = model(version, vec![node(op, &refs, &["y"], attrs)], inputs, vec![open("y")], vec![]);
    let imported = load_bytes(op, bytes(&proto), None, &Options::default()).expect(op);
    let tensors: Vec<Tensor> =
        operands.iter().map(|(shape, v)| Tensor::from_slice(shape, v).unwrap()).collect();
    interp::run(&imported.graph, &tensors).unwrap()[0].to_f64s()
}

#[test]
fn attributes_that_became_operands() {
    let x: (&[usize], &[f32]) = (&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(run("Clip", 6, &[x], vec![float("min", 2.0), float("max", 3.0)]), [2.0, 2.0, 3.0, 3.0]);
    assert_eq!(run("Squeeze", 11, &[x], vec![ints("axes", &[0])]).len(), 4);
    let slice = vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[1])];
    assert_eq!(run("Slice", 9, &[x], slice), [2.0, 3.0]);
    assert_eq!(run("ReduceSum", 11, &[x], vec![ints("axes", &[1])]), [10.0]);
    let pad = vec![ints("pads", &[0, 1, 0, 0]), float("value", 9.0)];
    assert_eq!(run("Pad", 2, &[x], pad), [9.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(run("Reshape", 4, &[x], vec![ints("shape", &[2, -1])]).len(), 4);
    assert_eq!(run("TopK", 9, &[x], vec![int("k", 2)]), [4.0, 3.0]);
}

#[test]
fn softmax_over_a_flattened_operand() {
    let x: (&[usize], &[f32]) = (&[1, 2, 2], &[0.0; 4]);
    // All four elements share one sum; since opset 13 it would be two of two.
    assert_eq!(run("Softmax", 11, &[x], vec![int("axis", 1)]), [0.25; 4]);
    assert_eq!(run("Softmax", 11, &[x], vec![int("axis", 2)]), [0.5; 4]);
    assert_eq!(run("Softmax", 13, &[x], vec![int("axis", 1)]), [0.5; 4]);
}

#[test]
fn broadcasting_along_an_axis() {
    let x: (&[usize], &[f32]) = (&[2, 2], &[0.0; 4]);
    let b: (&[usize], &[f32]) = (&[2], &[1.0, 2.0]);
    let attrs = vec![int("broadcast", 1), int("axis", 0)];
    assert_eq!(run("Add", 6, &[x, b], attrs), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(run("Add", 7, &[x, b], vec![]), [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn upsampling_repeats_elements() {
    let x: (&[usize], &[f32]) = (&[1, 1, 1, 2], &[1.0, 2.0]);
    let scales = vec![floats("scales", &[1.0, 1.0, 1.0, 2.0])];
    assert_eq!(run("Upsample", 7, &[x], scales), [1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn group_normalization_had_scales_per_group() {
    let x: (&[usize], &[f32]) = (&[1, 4, 1], &[-1.0, 1.0, -1.0, 1.0]);
    let scale: (&[usize], &[f32]) = (&[2], &[1.0, 10.0]);
    let bias: (&[usize], &[f32]) = (&[2], &[0.0, 5.0]);
    let attrs = vec![int("num_groups", 2), float("epsilon", 0.0)];
    assert_eq!(run("GroupNormalization", 18, &[x, scale, bias], attrs), [-1.0, 1.0, -5.0, 15.0]);
}

fn codes(version: i64, op: &str, attrs: Vec<AttributeProto>) -> Vec<&'static str> {
    let proto = model(
        version,
        vec![node(op, &["x"], &["y"], attrs)],
        vec![value("x", &[2])],
        vec![open("y")],
        vec![],
    );
    match load_bytes(op, bytes(&proto), None, &Options::default()) {
        Ok(_) => vec![],
        Err(diags) => diags.iter().map(|d| d.code).collect(),
    }
}

#[test]
fn a_wrong_opset_is_noticed() {
    assert_eq!(codes(19, "Gelu", vec![]), ["I027"]);
    assert!(codes(20, "Gelu", vec![]).is_empty());
    assert_eq!(codes(13, "Clip", vec![float("min", 0.0)]), ["I020"]);
    assert_eq!(codes(99, "Relu", vec![]), ["U005"]);
    assert_eq!(codes(13, "Relu", vec![float("slope", 0.0)]), ["U006"]);
    assert_eq!(codes(13, "Concat", vec![]), ["I028"]);
    assert_eq!(codes(13, "LeakyRelu", vec![int("alpha", 1)]), ["I019"]);
}

#[test]
fn all_findings_are_listed() {
    let weight = TensorProto { name: "w".to_owned(), dims: vec![3], data_type: 1, ..Default::default() };
    let nodes = vec![
        node("Frobnicate", &["x"], &["a"], vec![]),
        node("Add", &["a", "w"], &["b"], vec![]),
        node("Twist", &["b"], &["y"], vec![]),
        node("Relu", &["gone"], &["z"], vec![]),
    ];
    let proto = model(13, nodes, vec![value("x", &[2])], vec![open("y")], vec![weight]);
    let diags = load_bytes("m", bytes(&proto), None, &Options::default()).map(|_| ()).unwrap_err();
    let mut codes: Vec<&str> = diags.iter().map(|d| d.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["I015", "I040", "U002", "U002"]);
}
