//! `devices` and `machine`: recorded machines, filters, what-if, exit codes.

use super::tool::{Tool, ok};
use crate::support::root;
use serde_json::Value;

fn recording(name: &str) -> String {
    root().join("fixtures/hardware").join(format!("{name}.recording")).display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn recorded_machines_are_listed() {
    let tool = Tool::new();
    let h100 = recording("nvidia-h100x8");
    let out = tool.ok(&["devices", "--recording", &h100]).stdout;
    assert!(out.contains("gpu7") && out.contains("0000:df:00.0") && out.contains("gpu0 -- gpu7"), "{out}");
    let report = json(&tool.ok(&["devices", "--recording", &h100, "--json"]).stdout);
    assert_eq!(report["schema"], 2);
    assert_eq!(report["devices"].as_array().unwrap().len(), 8);
    assert!(report.get("timings").is_none(), "times would differ from call to call");
    let timed = tool.ok(&["devices", "--recording", &h100, "--profile-timing"]).stdout;
    assert!(timed.contains("nvlink ") && timed.contains(" ms"), "{timed}");
}

#[test]
fn filters_columns_and_sums() {
    let tool = Tool::new();
    let intel = recording("intel-gpu");
    let shown = |more: &[&str]| {
        let args: Vec<&str> = ["devices", "--recording", &intel].iter().chain(more).copied().collect();
        tool.ok(&args).stdout
    };
    assert_eq!(
        shown(&["--kind", "gpu", "--min-memory", "64GiB", "--columns", "device,memory"]),
        "device     memory\ngpu1    128.0 GiB\n"
    );
    assert_eq!(shown(&["--family", "vulkan", "--tsv", "--columns", "what"]).lines().count(), 3);
    assert_eq!(shown(&["--best", "--computes", "bf16", "--tsv", "--columns", "device"]), "device\ngpu1\n");
    assert!(shown(&["--sort", "memory", "--columns", "device"]).starts_with("device\ngpu1\n"));
    assert!(shown(&["--summary"]).starts_with("3 devices: 1 cpu, 2 gpu\n"));
    let few = json(&shown(&["--json", "--min-memory", "64GiB"]));
    assert_eq!(
        (few["devices"].as_array().unwrap().len(), few["machine"]["devices"].as_array().unwrap().len()),
        (1, 2)
    );
}

#[test]
fn other_machines_are_put_together_from_profiles() {
    let tool = Tool::new();
    tool.ok(&["machine", "--recording", &recording("bare"), "--add", "h100-sxm:8", "-o", "big.toml"]);
    let text = tool.read("big.toml");
    assert_eq!(text.matches("nvidia-h100-sxm5-80gb").count(), 8);
    assert_eq!(text.matches("kind = \"nvlink4-h100\"").count(), 28);
    let edits = ["--replace", "gpu7=b200", "--remove", "cpu0", "--link", "gpu7:gpu0=pcie5-x16"];
    let args: Vec<&str> = ["machine", "--machine", "big.toml"].iter().chain(&edits).copied().collect();
    tool.write("other.toml", tool.ok(&args).stdout);
    let out = tool.ok(&["devices", "--machine", "other.toml"]).stdout;
    assert!(!out.contains("cpu0") && out.contains("NVIDIA B200") && out.contains("pcie5-x16"), "{out}");
    tool.write("small.graph", super::tool::SMALL);
    tool.ok(&["compile", "small.graph", "-o", "p.plan", "--machine", "big.toml"]);
}

#[test]
fn wrong_command_lines_end_with_two() {
    let tool = Tool::new();
    for args in [
        &["devices", "--min-memory", "many"][..],
        &["devices", "--frobnicate"],
        &["devices", "--family", "toaster"],
        &["devices", "--kind", "nvidia"],
        &["devices", "--columns", "colour"],
        &["devices", "--watch", "0"],
        &["devices", "--count", "3"],
        &["devices", "--add", "h100-sxm:0"],
        &["devices", "--add", "h100-sxm:99999"],
        &["devices", "--replace", "gpu0"],
        &["devices", "--json", "--tsv"],
        &["machine", "--link", "gpu0"],
        &["machine", "--bogus"],
    ] {
        let out = tool.command(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
    tool.refused(&["devices", "--recording", &recording("bare"), "--add", "zebra"], 1, "H006");
    tool.refused(&["machine", "--recording", &recording("bare"), "--remove", "gpu7"], 1, "H008");
    tool.refused(&["devices", "--root", "nowhere"], 1, "F001");
}

#[test]
fn watching_ends_after_a_count() {
    let tool = Tool::new();
    let out =
        tool.ok(&["devices", "--recording", &recording("bare"), "--watch", "0.01", "--count", "3"]).stdout;
    assert_eq!(out.matches("AMD EPYC").count(), 3, "{out}");
}

#[cfg(unix)]
#[test]
fn a_root_brings_its_own_tools_and_answers_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let tool = Tool::new();
    std::fs::create_dir_all(tool.path("machine/usr/bin")).unwrap();
    tool.write("machine/usr/bin/nvidia-smi", "#!/bin/sh\nprintf 'index, name\\n0, NVIDIA L4\\n'\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tool.path("machine/usr/bin/nvidia-smi"), mode).unwrap();
    let out = tool.ok(&["devices", "--root", "machine"]).stdout;
    assert!(out.contains("NVIDIA L4"), "{out}");
    let mut command = tool.command(&["devices", "--max-age", "600", "--json", "--tools", "machine/usr/bin"]);
    let first = ok(command.env("XDG_CACHE_HOME", tool.path("cache"))).stdout;
    assert!(tool.path("cache/partita/devices.json").exists());
    std::fs::remove_file(tool.path("machine/usr/bin/nvidia-smi")).unwrap();
    let mut command = tool.command(&["devices", "--max-age", "600", "--json", "--tools", "machine/usr/bin"]);
    let second = ok(command.env("XDG_CACHE_HOME", tool.path("cache"))).stdout;
    assert_eq!(json(&first)["devices"], json(&second)["devices"], "the answer was kept");
    assert!(first.contains("NVIDIA L4"));
}
