//! Bodies: scoping, types of what loops carry, letters, and the way out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::make::{bytes, float, int, model, node, open, opset, value};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use partita_ir::verify::verify;
use partita_ir::{Diag, Tensor, interp};
use partita_onnx::{ExportOptions, Imported, Limits, Options, load_bytes, save};

fn graph(nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> GraphProto {
    let infos = |names: &[&str]| names.iter().map(|n| open(n)).collect::<Vec<ValueInfoProto>>();
    GraphProto {
        node: nodes,
        input: infos(inputs),
        output: infos(outputs),
        name: "body".to_owned(),
        ..Default::default()
    }
}

fn body(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        g: Some(g).into(),
        type_: AttributeType::GRAPH.into(),
        ..Default::default()
    }
}

fn scalar(name: &str, data_type: i32, number: i32) -> TensorProto {
    let mut proto = TensorProto { name: name.to_owned(), data_type, ..Default::default() };
    match data_type {
        7 => proto.int64_data = vec![number.into()],
        _ => proto.int32_data = vec![number],
    }
    proto
}

fn load(proto: &ModelProto) -> Result<Imported, Vec<Diag>> {
    load_bytes("bodies", bytes(proto), None, &Options::default())
}

fn results(imported: &Imported, x: &[f32]) -> Vec<f64> {
    verify(&imported.graph).unwrap();
    let x = Tensor::from_slice(&[x.len()], x).unwrap();
    interp::run(&imported.graph, &[x]).unwrap()[0].to_f64s()
}

/// Runs the model as it is and after it was written and read again.
fn run(proto: &ModelProto, x: &[f32]) -> Vec<f64> {
    let imported = load(proto).unwrap();
    let first = results(&imported, x);
    let written = save(&imported.graph, &ExportOptions::of(&imported)).unwrap();
    let again = load_bytes("again", partita_ir::Bytes::from_vec(written), None, &Options::default()).unwrap();
    assert_eq!(results(&again, x), first);
    first
}

fn codes(proto: &ModelProto) -> Vec<&'static str> {
    load(proto).map(|_| ()).unwrap_err().iter().map(|d| d.code).collect()
}

/// y = If(sum(x) > 0) { x + t } else { Neg(t) } with t = 2x, read from around the branches.
fn branches() -> ModelProto {
    let then = graph(vec![node("Add", &["x", "t"], &["s"], vec![])], &[], &["s"]);
    let other = graph(vec![node("Neg", &["t"], &["s"], vec![])], &[], &["s"]);
    let nodes = vec![
        node("Add", &["x", "x"], &["t"], vec![]),
        node("ReduceSum", &["x"], &["r"], vec![int("keepdims", 0)]),
        node("Greater", &["r", "zero"], &["c"], vec![]),
        node("If", &["c"], &["y"], vec![body("then_branch", then), body("else_branch", other)]),
    ];
    let zero =
        TensorProto { name: "zero".to_owned(), data_type: 1, float_data: vec![0.0], ..Default::default() };
    model(17, nodes, vec![value("x", &[-1])], vec![open("y")], vec![zero])
}

#[test]
fn branches_read_values_around_them() {
    assert_eq!(run(&branches(), &[1.0, 2.0]), [3.0, 6.0]);
    assert_eq!(run(&branches(), &[-1.0]), [2.0]);
}

#[test]
fn a_known_condition_leaves_no_branch() {
    let mut proto = branches();
    let nodes = &mut proto.graph.as_mut().unwrap().node;
    nodes[3].input = vec!["truth".to_owned()];
    proto.graph.as_mut().unwrap().initializer.push(scalar("truth", 9, 1));
    let imported = load(&proto).unwrap();
    assert!(imported.graph.nodes().all(|(_, n)| n.op.name != "if"));
    assert_eq!(run(&proto, &[1.0]), [3.0]);
}

/// Three runs of `v = Concat(v, v)`, and the sum of what went in, stacked.
fn doubling() -> ModelProto {
    let nodes = vec![
        node("Concat", &["v", "v"], &["w"], vec![int("axis", 0)]),
        node("ReduceSum", &["v"], &["s"], vec![int("keepdims", 0)]),
        node("Identity", &["go"], &["go_on"], vec![]),
    ];
    let inner = graph(nodes, &["i", "go", "v"], &["go_on", "w", "s"]);
    let nodes = vec![
        node("Loop", &["n", "", "x"], &["w", "sums"], vec![body("body", inner)]),
        node("Shape", &["w"], &["size"], vec![]),
        node("Cast", &["size"], &["f"], vec![int("to", 1)]),
        node("Concat", &["sums", "f"], &["y"], vec![int("axis", 0)]),
    ];
    model(17, nodes, vec![value("x", &[2])], vec![open("y")], vec![scalar("n", 7, 3)])
}

#[test]
fn what_a_loop_carries_may_grow() {
    assert_eq!(run(&doubling(), &[1.0, 2.0]), [3.0, 6.0, 12.0, 16.0]);
}

#[test]
fn a_carried_value_may_change_its_rank_but_not_its_type() {
    let inner = |last: NodeProto| {
        let nodes = vec![last, node("Identity", &["go"], &["go_on"], vec![])];
        graph(nodes, &["i", "go", "v"], &["go_on", "w"])
    };
    let with = |last| {
        let nodes = vec![
            node("Loop", &["n", "", "x"], &["w"], vec![body("body", inner(last))]),
            node("ReduceSum", &["w"], &["y"], vec![int("keepdims", 0)]),
        ];
        model(
            17,
            nodes,
            vec![value("x", &[2])],
            vec![open("y")],
            vec![scalar("n", 7, 2), scalar("zero", 7, 0)],
        )
    };
    let mut grow = with(node("Unsqueeze", &["v", "axes"], &["w"], vec![]));
    let axes = TensorProto { dims: vec![1], ..scalar("axes", 7, 0) };
    grow.graph.as_mut().unwrap().initializer.push(axes);
    assert_eq!(run(&grow, &[1.0, 2.0]), [3.0]);
    assert_eq!(codes(&with(node("Cast", &["v"], &["w"], vec![int("to", 7)]))), ["I022"]);
}

/// Running sums of x, which Scan takes element by element; the carried sum starts at `x[0] * 0`.
#[test]
fn scans_carry_and_stack() {
    let nodes =
        vec![node("Add", &["sum", "e"], &["next"], vec![]), node("Identity", &["next"], &["out"], vec![])];
    let inner = graph(nodes, &["sum", "e"], &["next", "out"]);
    let nodes =
        vec![node("Scan", &["zero", "x"], &["", "y"], vec![body("body", inner), int("num_scan_inputs", 1)])];
    let zero =
        TensorProto { name: "zero".to_owned(), data_type: 1, float_data: vec![0.0], ..Default::default() };
    let proto = model(17, nodes, vec![value("x", &[-1])], vec![open("y")], vec![zero]);
    assert_eq!(run(&proto, &[1.0, 2.0, 3.0]), [1.0, 3.0, 6.0]);
}

#[test]
fn scans_of_a_batch_become_two_scans() {
    let nodes =
        vec![node("Add", &["sum", "e"], &["next"], vec![]), node("Identity", &["next"], &["out"], vec![])];
    let inner = graph(nodes, &["sum", "e"], &["next", "out"]);
    let attrs = vec![body("body", inner), int("num_scan_inputs", 1)];
    let nodes = vec![
        node("Reshape", &["x", "shape"], &["batch"], vec![]),
        node("Scan", &["", "start", "batch"], &["", "sums"], attrs),
        node("Reshape", &["sums", "flat"], &["y"], vec![]),
    ];
    let ints = |name: &str, values: Vec<i64>| TensorProto {
        dims: vec![values.len() as i64],
        int64_data: values,
        name: name.to_owned(),
        data_type: 7,
        ..Default::default()
    };
    let start = TensorProto {
        name: "start".to_owned(),
        dims: vec![2],
        data_type: 1,
        float_data: vec![0.0, 10.0],
        ..Default::default()
    };
    let inits = vec![ints("shape", vec![2, 2]), ints("flat", vec![4]), start];
    let proto = model(8, nodes, vec![value("x", &[4])], vec![open("y")], inits);
    assert_eq!(run(&proto, &[1.0, 2.0, 3.0, 4.0]), [1.0, 3.0, 13.0, 17.0]);
}

/// A function whose body has a branch that reads the function's operand and attribute, called with a name that the
/// branch uses for a value of its own.
#[test]
fn functions_keep_their_names_inside_branches() {
    let mut alpha = float("alpha", 0.0);
    alpha.ref_attr_name = "slope".to_owned();
    let then = vec![node("Neg", &["a"], &["x"], vec![]), node("LeakyRelu", &["x"], &["r"], vec![alpha])];
    let other = vec![node("Identity", &["a"], &["r"], vec![])];
    let nodes = vec![
        node("ReduceSum", &["a"], &["total"], vec![int("keepdims", 0)]),
        node("Cast", &["total"], &["c"], vec![int("to", 9)]),
        node(
            "If",
            &["c"],
            &["b"],
            vec![
                body("then_branch", graph(then, &[], &["r"])),
                body("else_branch", graph(other, &[], &["r"])),
            ],
        ),
    ];
    let function = FunctionProto {
        name: "F".to_owned(),
        domain: "local".to_owned(),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        attribute: vec!["slope".to_owned()],
        node: nodes,
        opset_import: vec![opset("", 17)],
        ..Default::default()
    };
    let call =
        NodeProto { domain: "local".to_owned(), ..node("F", &["x"], &["y"], vec![float("slope", 0.5)]) };
    let mut proto = model(17, vec![call], vec![value("x", &[2])], vec![open("y")], vec![]);
    proto.functions = vec![function];
    proto.opset_import.push(opset("local", 1));
    assert_eq!(run(&proto, &[4.0, -2.0]), [-2.0, 2.0]);
    assert_eq!(run(&proto, &[2.0, -2.0]), [2.0, -2.0]);
}

#[test]
fn what_is_wrong_inside_says_where() {
    let then = graph(vec![node("Add", &["x", "nothing"], &["s"], vec![])], &[], &["s"]);
    let other = graph(vec![node("Frobnicate", &["x"], &["s"], vec![])], &[], &["s"]);
    let mut proto = branches();
    let nodes = &mut proto.graph.as_mut().unwrap().node;
    nodes[3].attribute = vec![body("then_branch", then), body("else_branch", other)];
    let diags = load(&proto).map(|_| ()).unwrap_err();
    assert_eq!(diags[0].code, "U002", "{diags:?}");
    assert!(diags[0].place.node.as_ref().is_some_and(|n| n.contains("else_branch")), "{diags:?}");
}

#[test]
fn nesting_and_repeated_work_are_limited() {
    let mut inner = graph(
        vec![node("Identity", &["v"], &["w"], vec![]), node("Identity", &["go"], &["g"], vec![])],
        &["i", "go", "v"],
        &["g", "w"],
    );
    for level in 0..20 {
        let nodes = vec![
            node("Loop", &["n", "", "v"], &["w"], vec![body("body", inner)]),
            node("Identity", &["go"], &["g"], vec![]),
        ];
        inner = graph(nodes, &["i", "go", "v"], &["g", "w"]);
        if level == 3 {
            let proto = outermost(inner.clone());
            let limits = Limits { nodes: 12, ..Limits::default() };
            let options = Options { limits, ..Options::default() };
            let few = load_bytes("few", bytes(&proto), None, &options).map(|_| ()).unwrap_err();
            assert_eq!(few[0].code, "I007");
            assert_eq!(run(&proto, &[1.0]), [1.0]);
        }
    }
    assert!(codes(&outermost(inner)).contains(&"I006"));
}

fn outermost(inner: GraphProto) -> ModelProto {
    let nodes = vec![node("Loop", &["n", "", "x"], &["y"], vec![body("body", inner)])];
    model(17, nodes, vec![value("x", &[1])], vec![open("y")], vec![scalar("n", 7, 1)])
}

#[test]
fn texts_and_metadata_come_back() {
    let mut proto = branches();
    let entry = StringStringEntryProto { key: "k".to_owned(), value: "v".to_owned(), ..Default::default() };
    let g = proto.graph.as_mut().unwrap();
    g.doc_string = "about".to_owned();
    g.node[0].doc_string = "twice".to_owned();
    g.node[0].metadata_props = vec![entry];
    // Device configurations are newer than the schema: a field that is not known.
    g.node[0].special_fields.mut_unknown_fields().add_length_delimited(10, vec![0x0a, 1, b'c']);
    let imported = load(&proto).unwrap();
    let written = save(&imported.graph, &ExportOptions::of(&imported)).unwrap();
    use onnx_protobuf::Message;
    let again = ModelProto::parse_from_bytes(&written).unwrap();
    let first = again.graph.node.iter().find(|n| n.op_type == "Add").unwrap();
    assert_eq!((again.graph.doc_string.as_str(), first.doc_string.as_str()), ("about", "twice"));
    assert_eq!(first.metadata_props[0].value, "v");
    assert_eq!(first.special_fields.unknown_fields().iter().count(), 1);
}
