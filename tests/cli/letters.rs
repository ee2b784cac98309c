//! What is wrong gets a letter: code, place, sentence, hint, and the exit code that fits.

use super::tool::{SMALL, Tool, answer, refused};
use crate::support::fixture;
use partita::npy;
use partita_ir::{DType, Tensor};

fn save(tool: &Tool, name: &str, dtype: DType, shape: &[usize]) {
    let n: usize = shape.iter().product();
    let tensor = Tensor::from_f64s(dtype, shape, &vec![0.5; n]).unwrap();
    npy::write(&tool.path(name), &tensor).unwrap();
}

#[test]
fn a_wrong_command_line_is_two() {
    let tool = Tool::new();
    let lines: &[&[&str]] = &[
        &[],
        &["fly"],
        &["compile"],
        &["compile", "m.onnx"],
        &["compile", "m.onnx", "-o", "p", "--dim", "N"],
        &["compile", "m.onnx", "-o", "p", "--dim", "N=-3"],
        &["compile", "m.onnx", "-o", "p", "--threads", "0"],
        &["compile", "m.onnx", "-o", "p", "--objective", "beauty"],
        &["compile", "m.onnx", "-o", "p", "--pin", "node"],
        &["inspect", "p", "--format", "pdf"],
        &["compile", "m.onnx", "--what-if", "grow=gpu0"],
        &["compile", "m.onnx", "-o", "p", "--what-if", "remove=gpu0"],
        &["diff", "p"],
        &["conformance"],
        &["conformance", "--cases", "c.txt", "m.onnx", "in", "out"],
    ];
    for line in lines {
        let answer = answer(&mut tool.command(line));
        assert_eq!(answer.code, 2, "{line:?}: {}", answer.stderr);
        assert!(answer.stderr.contains("--help"), "{line:?}: {}", answer.stderr);
    }
}

#[test]
fn files_that_are_not_there() {
    let tool = Tool::with_plan();
    for line in [
        vec!["run", "no.plan"],
        vec!["bench", "no.onnx"],
        vec!["inspect", "no.plan"],
        vec!["explain", "no.plan", "x"],
        vec!["diff", "small.plan", "no.plan"],
        vec!["check", "no.plan"],
        vec!["check", "small.plan", "--machine", "no.toml"],
        vec!["optimize", "no.graph", "-o", "o.onnx"],
        vec!["compile", "no.onnx", "-o", "p"],
        vec!["compile", "small.graph", "-o", "p", "--machine", "no.toml"],
        vec!["compile", "small.graph", "-o", "p", "--rules", "no.rules"],
        vec!["compile", "small.graph", "-o", "no/folder/p"],
        vec!["optimize", "small.graph", "-o", "no/folder/o.onnx"],
        vec!["run", "small.plan", "--input", "x=no.npy"],
        vec!["conformance", "--cases", "no.txt"],
        vec!["place", "no.problem", "-o", "s"],
    ] {
        let answer = answer(&mut tool.command(&line));
        assert_eq!(answer.code, 1, "{line:?}: {}", answer.stderr);
        assert!(
            answer.stderr.starts_with("error ") && answer.stderr.contains("no"),
            "{line:?}: {}",
            answer.stderr
        );
        assert!(answer.stderr.contains("hint: "), "{line:?}: {}", answer.stderr);
    }
    tool.refused(&["bench", "small.plan", "--inputs-dir", "no"], 1, "F014");
}

#[test]
fn inputs_that_do_not_fit() {
    let tool = Tool::with_plan();
    save(&tool, "f64.npy", DType::F64, &[2, 8]);
    save(&tool, "wide.npy", DType::F32, &[2, 9]);
    save(&tool, "flat.npy", DType::F32, &[16]);
    tool.write("not.npy", "hello");
    tool.write("not.pb", [0xffu8; 40]);
    let run = |input: &str, code: &str| tool.refused(&["run", "small.plan", "--input", input], 1, code);
    run("x=f64.npy", "X002");
    assert!(run("x=wide.npy", "R004").contains("f32[N, 8]"));
    run("x=flat.npy", "R004");
    run("x=not.npy", "F002");
    run("z=flat.npy", "F010");
    run("noise", "F013");
    answer(&mut tool.command(&["run", "small.plan", "--input", "x=not.pb"]));
    tool.refused(&["run", "small.plan"], 1, "F010");
    tool.refused(&["run", "small.plan", "--input", "random", "--input", "z=flat.npy"], 1, "F011");
}

#[test]
fn plans_that_are_damaged() {
    let tool = Tool::with_plan();
    let plan = std::fs::read(tool.path("small.plan")).unwrap();
    tool.write("cut.plan", &plan[..plan.len() / 2]);
    tool.write("head.plan", &plan[..12]);
    let mut flipped = plan.clone();
    flipped[40] ^= 0x10;
    tool.write("flipped.plan", &flipped);
    for file in ["cut.plan", "head.plan", "flipped.plan"] {
        for line in [
            vec!["run", file, "--input", "random"],
            vec!["inspect", file],
            vec!["explain", file, "y"],
            vec!["check", file],
        ] {
            refused(&mut tool.command(&line), 1, "L");
        }
    }
    tool.refused(&["inspect", "small.graph"], 1, "L");
    tool.refused(&["explain", "small.plan", "nothing of that name"], 1, "E001");
}

#[test]
fn models_that_are_wrong() {
    let tool = Tool::new();
    for (file, exit, code) in [
        ("truncated", 1, "I004"),
        ("cyclic", 1, "I016"),
        ("wrong_types", 1, "V020"),
        ("missing_weights", 1, "I031"),
        ("escape", 1, "I030"),
        ("unknown_op", 3, "U002"),
    ] {
        let path = fixture("onnx/bad").join(format!("{file}.onnx"));
        for command in [&["compile", "-o", "p"][..], &["optimize", "-o", "o.onnx"], &["run"], &["bench"]] {
            refused(tool.command(command).arg(&path), exit, code);
        }
    }
    tool.write("g.graph", "graph g(%x: f32[2]) -> (%y) {\n  %y = rellu %x\n}\n");
    let letter = tool.refused(&["compile", "g.graph", "-o", "p"], 1, "T016");
    assert!(letter.contains("g.graph:2:8") && letter.contains("did you mean relu?"), "{letter}");
    tool.write("empty.graph", "");
    tool.refused(&["compile", "empty.graph", "-o", "p"], 1, "T014");
    tool.write(
        "weights.graph",
        "graph g(%x: f32[2]) -> (%y) {\n  const %w: f32[2] = file \"../w\"[0..8]\n  %y = add %x, %w\n}\n",
    );
    tool.refused(&["compile", "weights.graph", "-o", "p"], 1, "T025");
}

#[test]
fn machines_pins_and_rules_that_are_wrong() {
    let tool = Tool::new();
    tool.write("small.graph", SMALL);
    let compile = |more: &[&str], code: &str| {
        let mut line = vec!["compile", "small.graph", "-o", "p"];
        line.extend(more);
        tool.refused(&line, 1, code)
    };
    assert!(compile(&["--pin", "y=gpu9"], "M001").contains("cpu0"));
    compile(&["--pin", "nobody=cpu0"], "M002");
    tool.write("bad.rules", "a: (foo ?x) => ?x\n");
    assert!(compile(&["--rules", "bad.rules"], "O003").contains("bad.rules:1"));
    tool.write("bad.toml", "schema = 1\nname = \"m\"\n[[device]]\nname = \"a\"\ndriver = \"steam\"\n");
    assert!(compile(&["--machine", "bad.toml"], "").contains("bad.toml:5"));
    tool.write("cut.toml", "schema = ");
    compile(&["--machine", "cut.toml"], "");
    tool.write(
        "wild.toml",
        "schema = 1\nname = \"m\"\n[[device]]\nname = \"a\"\ndriver = \"sim\"\nprofile = \"abacus\"\n",
    );
    compile(&["--machine", "wild.toml"], "");
}

#[test]
fn a_device_that_is_absent() {
    let tool = Tool::new();
    tool.write("small.graph", SMALL);
    let text = std::fs::read_to_string(fixture("machines/cpu-wgpu.toml")).unwrap();
    tool.write("far.toml", text.replace("adapter = 0 ", "adapter = 63 "));
    let compile = ["compile", "small.graph", "-o", "p.plan", "--machine", "far.toml", "--pin", "y=gpu0"];
    let compiled = answer(&mut tool.command(&compile));
    if compiled.code == 0 {
        tool.refused(&["run", "p.plan", "--input", "random"], 1, "");
    } else {
        assert!(compiled.stderr.contains("hint: "), "{}", compiled.stderr);
    }
}

#[test]
fn placement_problems_that_are_none() {
    let tool = Tool::new();
    tool.write("p.json", "{}");
    tool.refused(&["place", "p.json", "--format", "iopddl", "-o", "s"], 1, "P");
    tool.refused(&["place", "p.json", "--format", "msr", "-o", "s"], 1, "P");
    tool.write("p.problem", "problem x\ntask\n");
    tool.refused(&["place", "p.problem", "-o", "s"], 1, "P");
}
