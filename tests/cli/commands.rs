//! Every command with its options, on inputs that are right.

use super::tool::{Tool, answer, ok};
use crate::support::{fixture, root};
use partita::npy;
use partita_ir::{DType, Tensor};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim_end().lines().last().unwrap_or_default())
        .or_else(|_| serde_json::from_str(text))
        .unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn write_npy(tool: &Tool, name: &str, tensor: &Tensor) {
    npy::write(&tool.path(name), tensor).unwrap();
}

fn batch(n: usize) -> Tensor {
    partita_ir::op::Rng(3).tensor(DType::F32, &[n, 8], -1.0, 1.0)
}

#[test]
fn help_teaches() {
    let tool = Tool::new();
    let help = tool.ok(&["--help"]).stdout;
    assert!(help.contains("Exit codes:"), "{help}");
    let commands = [
        "compile",
        "run",
        "bench",
        "calibrate",
        "inspect",
        "optimize",
        "explain",
        "devices",
        "machine",
        "conformance",
        "place",
        "shard",
    ];
    for command in commands {
        assert!(help.contains(command), "{command}");
        let help = tool.ok(&[command, "--help"]).stdout;
        assert!(help.contains("Example:") && help.contains(&format!("partita {command}")), "{help}");
    }
    assert!(tool.ok(&["--version"]).stdout.starts_with("partita "));
}

#[test]
fn compile_says_what_it_did_and_draws_it() {
    let tool = Tool::new();
    let out = ok(tool
        .command(&["compile"])
        .arg(fixture("digits/digits.onnx"))
        .args(["-o", "d.plan", "--dump-dot", "dots", "--threads", "1", "--dim", "N=4"])
        .args(["--objective", "throughput", "--work", "100000", "--machine"])
        .arg(fixture("machines/cpu-h100-tpu-groq.toml")));
    for word in ["operators", "placement", "throughput", "transfers", "rules", "cpu0", "gpu0", "tpu0", "lpu0"]
    {
        assert!(out.stdout.contains(word), "{word}: {}", out.stdout);
    }
    let mut dots: Vec<_> = std::fs::read_dir(tool.path("dots")).unwrap().map(|e| e.unwrap().path()).collect();
    dots.sort();
    assert_eq!(dots.len(), 4);
    for dot in dots {
        is_dot(&std::fs::read_to_string(dot).unwrap());
    }
}

/// Braces and quotes balance, every edge joins nodes that exist.
fn is_dot(text: &str) {
    assert!(text.starts_with("digraph"), "{text}");
    let quotes = text.replace("\\\\", "").replace("\\\"", "").matches('"').count();
    assert_eq!(quotes % 2, 0, "{text}");
    let mut bare = String::new();
    let mut quoted = false;
    for c in text.replace("\\\\", "").replace("\\\"", "").chars() {
        quoted ^= c == '"';
        if !quoted {
            bare.push(c);
        }
    }
    assert_eq!(bare.matches('{').count(), bare.matches('}').count(), "{text}");
    let defined = |name: &str| bare.lines().any(|l| l.trim_start().starts_with(&format!("{name} [")));
    let edges: Vec<(&str, &str)> = bare.lines().filter_map(|l| l.trim().split_once(" -> ")).collect();
    assert!(!edges.is_empty(), "{text}");
    for (from, to) in edges {
        let to = to.split([' ', ';', '[']).next().unwrap_or_default();
        assert!(defined(from.trim()) && defined(to), "{from} -> {to}: {text}");
    }
}

#[test]
fn plans_and_models_run() {
    let tool = Tool::with_plan();
    write_npy(&tool, "x.npy", &batch(3));
    let pb = partita_onnx::tensor_to_pb("x", &batch(3));
    tool.write("x.pb", pb);
    let mut outputs = Vec::new();
    for (program, input) in [("small.plan", "x=x.npy"), ("small.plan", "x=x.pb"), ("small.graph", "x=x.npy")]
    {
        let args = ["run", program, "--input", input, "--output-dir", "out", "--threads", "2"];
        let out = tool.ok(&args).stdout;
        assert!(out.starts_with("y: f32[3, 4] = ["), "{out}");
        outputs.push(npy::read(&tool.path("out/y.npy")).unwrap().to_f64s());
    }
    assert_eq!(outputs[0], outputs[1]);
    crate::support::close(
        &[Tensor::from_f64s(DType::F64, &[12], &outputs[0]).unwrap()],
        &[Tensor::from_f64s(DType::F64, &[12], &outputs[2]).unwrap()],
        1e-6,
    )
    .unwrap();
    let seeded = |seed: &str| tool.ok(&["run", "small.plan", "--input", "random", "--seed", seed]).stdout;
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
    assert!(
        tool.ok(&["run", "small.graph", "--input", "random", "--dim", "N=5"]).stdout.contains("f32[5, 4]")
    );
    tool.ok(&["run", "small.plan", "--input", "random", "--trace", "trace.json"]);
    let trace: Value = serde_json::from_str(&tool.read("trace.json")).unwrap();
    let events = trace.as_array().or_else(|| trace["traceEvents"].as_array()).unwrap();
    assert!(!events.is_empty());
}

#[test]
fn bench_ends_with_one_json_object() {
    let tool = Tool::with_plan();
    std::fs::create_dir(tool.path("in")).unwrap();
    write_npy(&tool, "in/x.npy", &batch(2));
    let args = ["bench", "small.plan", "--inputs-dir", "in", "--output-dir", "out", "--threads", "1"];
    let out = ok(tool.command(&args).args(["--runs", "3", "--json"]));
    let object = json(&out.stdout);
    assert_eq!(object["schema"], 1);
    assert_eq!(object["runs"], 3);
    assert_eq!(object["outputs_dir"], "out");
    for key in ["median_ms", "min_ms", "p90_ms", "load_ms", "peak_rss_bytes"] {
        assert!(object[key].is_number(), "{key}: {object}");
    }
    assert_eq!(npy::read(&tool.path("out/y.npy")).unwrap().shape(), [2, 4]);
    assert!(object["profile"].is_null());
    assert!(tool.ok(&["bench", "small.graph", "--runs", "1"]).stdout.contains("median"));
}

#[test]
fn bench_says_where_the_time_goes() {
    let tool = Tool::with_plan();
    let args = ["bench", "small.plan", "--runs", "3", "--profile", "--trace", "t.json"];
    let text = tool.ok(&args).stdout;
    assert!(text.contains("GFLOP/s") && text.contains("all steps") && text.contains("median"), "{text}");
    let trace: Value = serde_json::from_str(&tool.read("t.json")).unwrap();
    assert!(!trace["traceEvents"].as_array().unwrap().is_empty());
    let profile = &json(&ok(tool.command(&args).arg("--json")).stdout)["profile"];
    let steps = profile["steps"].as_array().unwrap();
    let sum = |key: &str| steps.iter().map(|s| s[key].as_f64().unwrap()).sum::<f64>();
    for key in ["time_us", "flops", "bytes", "predicted_us"] {
        let total = profile["total"][key].as_f64().unwrap();
        assert!(sum(key) > 0.0 && (sum(key) - total).abs() <= 1e-9 * total, "{key}: {profile}");
    }
    let gemm = steps.iter().find(|s| s["kernel"] == "gemm").unwrap();
    // Eight rows, as the random inputs have: [8, 8] x [8, 4].
    assert_eq!(gemm["flops"], 512.0);
}

#[test]
fn inspect_and_explain_show_the_plan() {
    let tool = Tool::with_plan();
    let text = tool.ok(&["inspect", "small.plan"]).stdout;
    assert!(text.contains("placement") && text.contains("cpu0 is the only device"), "{text}");
    is_dot(&tool.ok(&["inspect", "small.plan", "--format", "dot"]).stdout);
    let plan: Value =
        serde_json::from_str(&tool.ok(&["inspect", "small.plan", "--format", "json"]).stdout).unwrap();
    assert_eq!(plan["schema"], 1);
    assert_eq!(plan["symbols"][0], "N");
    assert_eq!(plan["inputs"][0]["shape"], serde_json::json!([null, 8]));
    let step = plan["queues"][0]["steps"][0]["name"].as_str().unwrap().to_owned();
    let why = tool.ok(&["explain", "small.plan", &step]).stdout;
    assert!(why.contains("runs on cpu0") && why.contains("why  "), "{why}");
}

#[test]
fn optimize_writes_onnx_and_text() {
    let tool = Tool::new();
    let model = fixture("digits/digits.onnx");
    let out = ok(tool.command(&["optimize"]).arg(&model).args(["-o", "small.onnx", "--report"])).stdout;
    assert!(
        out.contains("operators as read") && out.contains("saturate") && out.contains("batch-norm"),
        "{out}"
    );
    ok(tool.command(&["optimize"]).arg(&model).args(["-o", "small.graph", "--dim", "N=2"]));
    assert!(!tool.read("small.graph").contains("batch_norm"));
    let images = fixture("digits/images.npy");
    let input = format!("image={}", images.display());
    for (n, program) in ["small.onnx", model.to_str().unwrap()].iter().enumerate() {
        tool.ok(&["run", program, "--input", &input, "--output-dir", &format!("out{n}")]);
    }
    let read = |n: usize| npy::read(&tool.path(&format!("out{n}/probabilities.npy"))).unwrap();
    crate::support::close(&[read(0)], &[read(1)], 1e-5).unwrap();
}

#[test]
fn fuel_rules_and_strictness_steer_the_optimizer() {
    let tool = Tool::new();
    tool.write("g.graph", "graph g(%x: f32[4]) -> (%y) { %e = sinh %x %y = asinh %e }");
    tool.write("my.rules", "@phase 1\n@numerics reassociating\nmine: (asinh (sinh ?x)) => ?x\n");
    let nodes = |more: &[&str]| {
        let mut args = vec!["optimize", "g.graph", "-o", "o.graph", "--rules", "my.rules"];
        args.extend(more);
        tool.ok(&args);
        tool.read("o.graph").matches(" = ").count()
    };
    assert!(nodes(&[]) < nodes(&["--fuel", "0"]));
    assert_eq!(nodes(&["--strict"]), nodes(&["--no-egraph"]));
    let report =
        tool.ok(&["optimize", "g.graph", "-o", "o.graph", "--rules", "my.rules", "--report", "--fuel", "9"]);
    assert!(report.stdout.contains("mine x1") && report.stdout.contains("fuel left"), "{}", report.stdout);
}

#[test]
fn pins_are_obeyed() {
    let tool = Tool::new();
    tool.write("small.graph", super::tool::SMALL);
    let machine = fixture("machines/cpu-h100-tpu-groq.toml");
    for device in ["cpu0", "gpu0", "tpu0", "lpu0"] {
        let pin = format!("y={device}");
        ok(tool
            .command(&["compile", "small.graph", "-o", "p.plan", "--pin", &pin, "--machine"])
            .arg(&machine));
        let why = tool.ok(&["explain", "p.plan", "y"]).stdout;
        assert!(why.contains(&format!("runs on {device}")), "{why}");
        assert!(tool.ok(&["run", "p.plan", "--input", "random"]).stdout.starts_with("y: f32"));
    }
}

#[test]
fn the_machine_describes_itself() {
    let tool = Tool::new();
    assert!(tool.ok(&["devices"]).stdout.contains("cpu"));
    let report = json(&tool.ok(&["devices", "--json"]).stdout);
    assert!(report["schema"].is_number(), "{report}");
    let machine = tool.ok(&["machine"]).stdout;
    tool.write("machine.toml", &machine);
    tool.write("small.graph", super::tool::SMALL);
    tool.ok(&["compile", "small.graph", "-o", "p.plan", "--machine", "machine.toml"]);
}

#[test]
fn placement_problems_are_solved() {
    let tool = Tool::new();
    let problem = |name: &str| root().join("src/place/fixtures").join(name);
    for objective in ["latency", "throughput"] {
        let mut command = tool.command(&["place"]);
        command.arg(problem("branches.problem")).args(["--objective", objective, "-o", "s.txt"]);
        let out = ok(&mut command).stdout;
        assert!(out.starts_with("value ") && out.contains("gap"), "{out}");
        assert!(!tool.read("s.txt").is_empty());
        let mut command = tool.command(&["place"]);
        command.arg(problem("msr_small.json")).args(["--format", "msr", "--work", "20000", "--threads", "2"]);
        ok(command.args(["--objective", objective, "-o", "s.json"]));
        let _: Value = serde_json::from_str(&tool.read("s.json")).unwrap();
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let tool = Tool::with_plan();
    let mut child = tool
        .command(&["inspect", "small.plan"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
    assert_eq!(answer(&mut tool.command(&["inspect", "small.plan"])).code, 0);
}
