//! The engine protocol: one case in a process, or many, with tensors as ONNX .pb files.

use super::tool::{Tool, answer};
use crate::support::{close, fixture, graph, inputs};
use partita_ir::{Bytes, Graph, Tensor, interp};
use partita_onnx::{ExportOptions, save_file, tensor_from_pb, tensor_to_pb};

const MODEL: &str = "graph g(%x: f32[2, 3], %z: i64[2]) -> (%y, %s) {
  const %w: f32[3, 4] = random(1)
  %y = matmul %x, %w
  %s = add %z, %z
}
";

/// A folder with the model and its inputs; returns the graph and the inputs.
fn case(tool: &Tool, folder: &str) -> (Graph, Vec<Tensor>) {
    std::fs::create_dir_all(tool.path(folder).join("out")).unwrap();
    let graph = graph(MODEL).unwrap();
    save_file(&tool.path(folder).join("model.onnx"), &graph, &ExportOptions::default()).unwrap();
    let inputs = inputs(&graph, 4, 2);
    for (n, tensor) in inputs.iter().enumerate() {
        tool.write(&format!("{folder}/input_{n}.pb"), tensor_to_pb("any", tensor));
    }
    (graph, inputs)
}

fn outputs_are_right(tool: &Tool, folder: &str, graph: &Graph, inputs: &[Tensor]) {
    let read = |n: usize| {
        let bytes = std::fs::read(tool.path(folder).join(format!("out/output_{n}.pb"))).unwrap();
        tensor_from_pb(Bytes::from_vec(bytes)).unwrap()
    };
    let want = interp::run(graph, inputs).unwrap();
    let have: Vec<Tensor> = (0..want.len()).map(|n| read(n).1).collect();
    close(&want, &have, 1e-5).unwrap();
    assert_eq!(read(1).0, "s");
}

#[test]
fn one_case() {
    let tool = Tool::new();
    let (graph, inputs) = case(&tool, "a");
    tool.ok(&["conformance", "a/model.onnx", "a", "a/out"]);
    outputs_are_right(&tool, "a", &graph, &inputs);
    let unknown = fixture("onnx/bad/unknown_op.onnx");
    let mut command = tool.command(&["conformance"]);
    assert_eq!(answer(command.arg(unknown).args(["a", "a/out"])).code, 3);
    tool.write("a/input_1.pb", "no tensor");
    assert_eq!(answer(&mut tool.command(&["conformance", "a/model.onnx", "a", "a/out"])).code, 1);
    std::fs::remove_file(tool.path("a/input_1.pb")).unwrap();
    tool.refused(&["conformance", "a/model.onnx", "a", "a/out"], 1, "F001");
}

#[test]
fn many_cases_in_one_process() {
    let tool = Tool::new();
    let (graph, inputs) = case(&tool, "a");
    case(&tool, "b");
    tool.write("b/input_0.pb", "no tensor");
    let unknown = fixture("onnx/bad/unknown_op.onnx");
    let lines = format!(
        "a/model.onnx\ta\ta/out\nb/model.onnx\tb\tb/out\n{}\ta\tc/out\nnone.onnx\ta\td\n",
        unknown.display()
    );
    tool.write("cases.txt", lines);
    let out = tool.ok(&["conformance", "--cases", "cases.txt"]).stdout;
    assert_eq!(out, "1 of 4 cases ran\n");
    outputs_are_right(&tool, "a", &graph, &inputs);
    for (folder, word) in [("a/out", "ok"), ("b/out", "error"), ("c/out", "unsupported"), ("d", "error")] {
        let status = tool.read(&format!("{folder}/status.txt"));
        assert_eq!(status.lines().next(), Some(word), "{folder}: {status}");
    }
    tool.write("cases.txt", "one field\n");
    tool.refused(&["conformance", "--cases", "cases.txt"], 1, "F021");
}
