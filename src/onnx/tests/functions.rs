//! Functions of a model: expanded with their attributes, and never without end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::make::{bytes, float, model, node, open, opset, value};
use onnx_protobuf::{AttributeProto, FunctionProto, ModelProto, NodeProto};
use partita_ir::{Diag, Tensor, interp};
use partita_onnx::{Imported, Limits, Options, load_bytes};

fn function(name: &str, inputs: &[&str], outputs: &[&str], body: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.to_owned(),
        domain: "local".to_owned(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        node: body,
        opset_import: vec![opset("", 17), opset("local", 1)],
        ..Default::default()
    }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str], attrs: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: "local".to_owned(), ..node(name, inputs, outputs, attrs) }
}

fn with_functions(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
    let mut proto = model(17, nodes, vec![value("x", &[2])], vec![open("y")], vec![]);
    proto.functions = functions;
    proto.opset_import.push(opset("local", 1));
    proto
}

fn load(proto: &ModelProto, limits: Limits) -> Result<Imported, Vec<Diag>> {
    load_bytes("functions", bytes(proto), None, &Options { limits, ..Options::default() })
}

/// y = leaky_relu(t, slope), z = t where t = x + x.
fn leaky() -> FunctionProto {
    let mut alpha = float("alpha", 0.0);
    alpha.ref_attr_name = "slope".to_owned();
    let body = vec![node("Add", &["x", "x"], &["t"], vec![]), node("LeakyRelu", &["t"], &["y"], vec![alpha])];
    FunctionProto {
        attribute_proto: vec![float("slope", 0.5)],
        ..function("Leaky", &["x"], &["y", "t"], body)
    }
}

fn run(proto: &ModelProto) -> Vec<f64> {
    let imported = load(proto, Limits::default()).unwrap();
    let x = Tensor::from_slice(&[2], &[-1.0f32, 1.0]).unwrap();
    interp::run(&imported.graph, &[x]).unwrap()[0].to_f64s()
}

#[test]
fn bodies_take_the_place_of_calls() {
    let given = call("Leaky", &["x"], &["y"], vec![float("slope", 0.25)]);
    assert_eq!(run(&with_functions(vec![given], vec![leaky()])), [-0.5, 2.0]);
    let default = call("Leaky", &["x"], &["y"], vec![]);
    assert_eq!(run(&with_functions(vec![default], vec![leaky()])), [-1.0, 2.0]);
}

#[test]
fn calls_nest_and_names_stay_apart() {
    let body = vec![call("Leaky", &["x"], &["t"], vec![]), call("Leaky", &["t"], &["y"], vec![])];
    let twice = function("Twice", &["x"], &["y"], body);
    // A value of the graph has the name that expansion would pick first.
    let nodes = vec![node("Neg", &["x"], &["call1/t"], vec![]), call("Twice", &["call1/t"], &["y"], vec![])];
    assert_eq!(run(&with_functions(nodes, vec![leaky(), twice])), [4.0, -1.0]);
}

#[test]
fn an_operand_may_be_a_result() {
    let same = function("Same", &["x"], &["x"], vec![]);
    assert_eq!(run(&with_functions(vec![call("Same", &["x"], &["y"], vec![])], vec![same])), [-1.0, 1.0]);
}

#[test]
fn endless_and_doubling_calls_are_refused() {
    let endless = function("Endless", &["x"], &["y"], vec![call("Endless", &["x"], &["y"], vec![])]);
    let proto = with_functions(vec![call("Endless", &["x"], &["y"], vec![])], vec![endless]);
    assert_eq!(load(&proto, Limits::default()).map(|_| ()).unwrap_err()[0].code, "I024");

    let doubling = (0..40).map(|n| {
        let next = format!("F{}", n + 1);
        let body = vec![call(&next, &["x"], &["t"], vec![]), call(&next, &["t"], &["y"], vec![])];
        function(&format!("F{n}"), &["x"], &["y"], body)
    });
    let last = function("F40", &["x"], &["y"], vec![node("Relu", &["x"], &["y"], vec![])]);
    let proto = with_functions(vec![call("F0", &["x"], &["y"], vec![])], doubling.chain([last]).collect());
    let limits = Limits { nodes: 10_000, ..Limits::default() };
    assert_eq!(load(&proto, limits).map(|_| ()).unwrap_err()[0].code, "I007");
}
