//! `partita shard` as a user runs it.

use super::tool::{Tool, answer, ok};
use crate::support::fixture;
use serde_json::Value;

fn shard(tool: &Tool, machine: &str, args: &[&str]) -> std::process::Command {
    let mut command = tool.command(&["shard", "--machine"]);
    command.arg(fixture(&format!("machines/{machine}.toml"))).args(args);
    command
}

#[test]
fn a_model_by_name_is_planned_as_table_and_json() {
    let tool = Tool::new();
    let args = ["--model", "llama-3-70b", "--quant", "int8"];
    let out = ok(&mut shard(&tool, "h100x8-epyc2", &args));
    for word in ["tensor 8", "tokens/s", "gap", "unused: cpu0 cpu1", "other strategies", "one device"] {
        assert!(out.stdout.contains(word), "{word}: {}", out.stdout);
    }
    let out = ok(shard(&tool, "h100x8-epyc2", &args).arg("--json"));
    let plan: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(plan["schema"], 1);
    assert_eq!(plan["parts"][0]["stages"][0]["layers"], 80);
}

#[test]
fn a_size_alone_is_guessed_and_said_to_be() {
    let tool = Tool::new();
    let args = ["--params", "70B", "--quant", "q4_k_m", "--batch", "max", "--objective", "throughput"];
    let out = ok(&mut shard(&tool, "four-gpus", &args));
    assert!(out.stdout.contains("guessed from the parameter count: 80 layers"), "{}", out.stdout);
}

#[test]
fn what_if_compares() {
    let tool = Tool::new();
    let args = ["--model", "llama-3-8b", "--add", "h100-sxm5:2", "--remove", "a100"];
    let out = ok(&mut shard(&tool, "four-gpus", &args));
    assert!(out.stdout.contains("without the changes"), "{}", out.stdout);
    let bad = answer(&mut shard(&tool, "four-gpus", &["--model", "llama-3-8b", "--add", "h100"]));
    assert_eq!(bad.code, 1);
    assert!(bad.stderr.contains("H006") && bad.stderr.contains("nvidia-h100-pcie-80gb"), "{}", bad.stderr);
}

#[test]
fn training_and_rented_machines() {
    let tool = Tool::new();
    let out = tool.ok(&["shard", "--params", "7B", "--training", "full", "--context", "2048"]);
    assert!(out.stdout.contains("16 bytes per parameter"), "{}", out.stdout);
    let out = tool.ok(&["shard", "--model", "llama-3-70b", "--quant", "int8", "--cloud"]);
    assert!(out.stdout.contains("cheapest that fits"), "{}", out.stdout);
    assert!(tool.ok(&["shard", "--models"]).stdout.contains("mixtral-8x7b"));
}

#[test]
fn wrong_requests_are_letters() {
    let tool = Tool::new();
    for (args, code, word) in [
        (&["--model", "llama-9"][..], 1, "S002"),
        (&["--model", "llama-3-8b", "--quant", "fp12"], 1, "S003"),
        (&["--params", "5T", "--quant", "fp32"], 1, "S004"),
        (&["--model", "llama-3-8b", "--require", "cpu0", "--phase", "decode"], 1, "S005"),
        (&["--model", "llama-3-8b", "--deadline", "0.001"], 1, "S007"),
        (&["--model", "llama-3-8b", "--require", "gpu77"], 1, "S009"),
        (&["--params", "bogus"], 2, "is not a size"),
        (&["--model", "llama-3-8b", "--params", "8B"], 2, "cannot be used with"),
        (&["--batch", "0", "--params", "8B"], 2, "is not a batch"),
    ] {
        let out = answer(&mut shard(&tool, "h100x8-epyc2", args));
        assert_eq!(out.code, code, "{args:?}: {}", out.stderr);
        assert!(out.stderr.contains(word), "{args:?}: {}", out.stderr);
    }
}
