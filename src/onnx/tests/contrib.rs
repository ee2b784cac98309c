//! Operators of the domain `com.microsoft` that are read as standard ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::make::{bytes, float, int, model, node, open, opset, value};
use onnx_protobuf::AttributeProto;
use partita_ir::{Graph, Tensor, interp};
use partita_onnx::{Options, load_bytes};

type Operand<'a> = (&'a [usize], &'a [f32]);

/// One operator on f32 operands; an operand without a shape is left out, a result without a name unwanted.
fn import(op: &str, operands: &[Option<Operand>], outputs: &[&str], attrs: Vec<AttributeProto>) -> Graph {
    let names: Vec<String> =
        operands.iter().enumerate().map(|(n, o)| o.map_or(String::new(), |_| format!("x{n}"))).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let shape = |(s, _): &Operand| s.iter().map(|&d| d as i64).collect::<Vec<i64>>();
    let given = operands.iter().zip(&refs).filter_map(|(o, n)| o.as_ref().map(|o| value(n, &shape(o))));
    let results = outputs.iter().filter(|n| !n.is_empty()).map(|n| open(n)).collect();
    let mut call = node(op, &refs, outputs, attrs);
    call.domain = "com.microsoft".to_owned();
    let mut proto = model(17, vec![call], given.collect(), results, vec![]);
    proto.opset_import.push(opset("com.microsoft", 1));
    load_bytes(op, bytes(&proto), None, &Options::default()).unwrap_or_else(|d| panic!("{op}: {d:?}")).graph
}

fn run(
    op: &str,
    operands: &[Option<Operand>],
    outputs: &[&str],
    attrs: Vec<AttributeProto>,
) -> Vec<Vec<f64>> {
    let graph = import(op, operands, outputs, attrs);
    let tensors: Vec<Tensor> =
        operands.iter().flatten().map(|(shape, v)| Tensor::from_slice(shape, v).unwrap()).collect();
    interp::run(&graph, &tensors).unwrap().iter().map(Tensor::to_f64s).collect()
}

#[test]
fn results_keep_their_places() {
    let x: Operand = (&[1, 1, 2], &[1.0, 2.0]);
    let skip: Operand = (&[1, 2], &[2.0, 5.0]);
    let gamma: Operand = (&[2], &[1.0, 1.0]);
    let y = run("SkipLayerNormalization", &[Some(x), Some(skip), Some(gamma)], &["y", "", "", "sum"], vec![]);
    assert_eq!(y[1], [3.0, 7.0]);
    assert!(y[0].iter().zip([-1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
}

#[test]
fn products_with_transpositions_and_a_factor() {
    let a: Operand = (&[3, 1], &[1.0, 2.0, 3.0]);
    let b: Operand = (&[3, 1], &[1.0, 1.0, 1.0]);
    let y = run("FusedMatMul", &[Some(a), Some(b)], &["y"], vec![int("transA", 1), float("alpha", 0.5)]);
    assert_eq!(y, [[3.0]]);
}

#[test]
fn distinct_values_in_order_of_appearance() {
    let x: Operand = (&[6], &[2.0, 1.0, 1.0, 3.0, 4.0, 3.0]);
    let y = run("Unique", &[Some(x)], &["values", "which", "counts"], vec![]);
    assert_eq!(y[0], [2.0, 1.0, 3.0, 4.0]);
    assert_eq!(y[1], [0.0, 1.0, 1.0, 2.0, 3.0, 2.0]);
    assert_eq!(y[2], [1.0, 2.0, 2.0, 1.0]);
}

#[test]
fn unknown_attributes_are_refused() {
    let x: Operand = (&[1], &[1.0]);
    let mut call = node("Gelu", &["x"], &["y"], vec![int("mystery", 1)]);
    call.domain = "com.microsoft".to_owned();
    let mut proto = model(17, vec![call], vec![value("x", &[x.0.len() as i64])], vec![open("y")], vec![]);
    proto.opset_import.push(opset("com.microsoft", 1));
    let diags = load_bytes("gelu", bytes(&proto), None, &Options::default()).unwrap_err();
    assert!(diags.iter().any(|d| d.code == "U006"), "{diags:?}");
}
