//! Placement explains itself: `explain`, `diff`, `check`, `--what-if`, the HTML report, DOT of a neighbourhood.

use super::tool::{SMALL, Tool, answer, ok};
use crate::support::{fixture, root};
use partita_plan::Storage;

/// Two branches, one of which is worth a faraway accelerator.
const BRANCHES: &str = "graph branches(%x: f32[64, 256]) -> (%y) {
  const %a: f32[256, 4096] = random(1)
  const %b: f32[4096, 256] = random(2)
  %wide = matmul %x, %a
  %bent = relu %wide
  %left = matmul %bent, %b
  %right = softmax %x {axis = 1}
  %y = add %left, %right
}
";

/// A folder with plans of `BRANCHES` for one device and for two.
fn branches() -> Tool {
    let tool = Tool::new();
    tool.write("branches.graph", BRANCHES);
    compile(&tool, "cpu.plan", "cpu.toml", &[]);
    compile(&tool, "two.plan", "slow-cpu-h100.toml", &[]);
    tool
}

fn compile(tool: &Tool, plan: &str, machine: &str, more: &[&str]) -> String {
    let machine = fixture("machines").join(machine);
    let mut command = tool.command(&["compile", "branches.graph", "-o", plan, "--machine"]);
    ok(command.arg(machine).args(more)).stdout
}

/// Compares a text with the file of that name; `BLESS=1` writes the file.
fn expected(name: &str, text: &str) {
    let path = root().join("tests/cli/expected").join(name);
    if std::env::var_os("BLESS").is_some() && std::env::var_os("CI").is_none() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == text, "{name} differs; BLESS=1 writes it. It is now:\n{text}");
}

#[test]
fn explain_says_what_others_would_cost() {
    let tool = branches();
    expected("explain.txt", &tool.ok(&["explain", "two.plan", "left"]).stdout);
    expected("list.txt", &tool.ok(&["explain", "two.plan"]).stdout);
}

#[test]
fn fused_nodes_are_found_and_wrong_names_get_near_ones() {
    let tool = branches();
    // The activation is part of the product before it.
    let text = tool.ok(&["explain", "two.plan", "bent"]).stdout;
    assert!(text.contains("bent") && text.contains("as kernel gemm"), "{text}");
    let letter = tool.refused(&["explain", "two.plan", "rihgt"], 1, "E001");
    assert!(letter.contains("did you mean right"), "{letter}");
    let letter = tool.refused(&["inspect", "two.plan", "--format", "dot", "--around", "lfet"], 1, "E001");
    assert!(letter.contains("did you mean left"), "{letter}");
}

#[test]
fn pins_bind_and_are_priced() {
    let tool = branches();
    compile(&tool, "pinned.plan", "slow-cpu-h100.toml", &["--pin", "right=gpu0"]);
    let text = tool.ok(&["explain", "pinned.plan", "right"]).stdout;
    assert!(text.contains("decided by pin") && text.contains("pinned to gpu0"), "{text}");
}

#[test]
fn diff_says_what_moved_and_ends_with_one() {
    let tool = branches();
    let differ = answer(&mut tool.command(&["diff", "cpu.plan", "two.plan"]));
    assert_eq!((differ.code, differ.stderr.as_str()), (1, ""));
    assert!(differ.stdout.contains("device     gpu0 (new)"), "{}", differ.stdout);
    compile(&tool, "pinned.plan", "slow-cpu-h100.toml", &["--pin", "left=cpu0"]);
    let moved = answer(&mut tool.command(&["diff", "two.plan", "pinned.plan"]));
    assert_eq!(moved.code, 1);
    expected("diff.txt", &moved.stdout);
    let same = tool.ok(&["diff", "cpu.plan", "cpu.plan"]);
    assert_eq!(same.stdout, "the plans are equal\n");
    tool.refused(&["diff", "cpu.plan", "no.plan"], 1, "R001");
}

#[test]
fn weights_alone_make_plans_differ() {
    let tool = branches();
    tool.write("branches.graph", BRANCHES.replace("random(2)", "random(3)"));
    compile(&tool, "other.plan", "cpu.toml", &[]);
    let differ = answer(&mut tool.command(&["diff", "cpu.plan", "other.plan"]));
    assert_eq!(differ.code, 1);
    assert!(differ.stdout.contains("the weights are not"), "{}", differ.stdout);
}

#[test]
fn check_fits_plans_to_machines() {
    let tool = branches();
    let machine = |name: &str| fixture("machines").join(name);
    let good =
        ok(tool.command(&["check", "two.plan", "--machine"]).arg(machine("slow-cpu-h100.toml"))).stdout;
    for word in ["format", "structure", "device gpu0", "memory gpu0", "kernels gpu0"] {
        assert!(good.contains(word), "{word}: {good}");
    }
    // Here there is a CPU, and whatever is simulated.
    assert!(tool.ok(&["check", "two.plan"]).stdout.contains("simulated on the CPU"));
    let bad = answer(tool.command(&["check", "two.plan", "--machine"]).arg(machine("cpu.toml")));
    assert_eq!(bad.code, 1);
    assert!(bad.stdout.contains("device gpu0") && bad.stdout.contains("K001"), "{}", bad.stdout);
    assert!(bad.stderr.contains("error K001") && bad.stderr.contains("hint: "), "{}", bad.stderr);
    let other =
        answer(tool.command(&["check", "two.plan", "--machine"]).arg(machine("cpu-h100-tpu-groq.toml")));
    assert_eq!(other.code, 0, "{}", other.stderr);
}

/// A plan that was changed after the fact, written as a file.
fn changed(tool: &Tool, name: &str, change: impl Fn(&mut partita_plan::Plan)) {
    let bytes = std::fs::read(tool.path("two.plan")).unwrap();
    let file = partita_plan::PlanFile::decode(&bytes).unwrap();
    let (mut plan, weights) = (file.plan.clone(), &bytes[file.weights]);
    change(&mut plan);
    tool.write(name, partita_plan::file::encode(&plan, [(0, weights)]).unwrap());
}

#[test]
fn check_refuses_plans_that_do_not_hold() {
    let tool = branches();
    changed(&tool, "alias.plan", |plan| plan.queues[1].steps[0].inputs[0] = 4000);
    tool.refused(&["check", "alias.plan"], 1, "L05");
    changed(&tool, "driver.plan", |plan| plan.devices[1].driver = "steam".into());
    changed(&tool, "kernel.plan", |plan| plan.kernels.iter_mut().for_each(|k| k.library = "abacus".into()));
    changed(&tool, "memory.plan", |plan| {
        // Its values would fit, its weights do not.
        plan.devices[1].memory_bytes = plan.devices[1].arena_bytes;
    });
    for (file, code) in [("driver.plan", "K002"), ("kernel.plan", "K004"), ("memory.plan", "K003")] {
        let bad = answer(&mut tool.command(&["check", file]));
        assert_eq!(bad.code, 1, "{file}: {}", bad.stdout);
        assert!(bad.stderr.contains(&format!("error {code}")), "{file}: {}", bad.stderr);
    }
    let bytes = std::fs::read(tool.path("two.plan")).unwrap();
    tool.write("cut.plan", &bytes[..200]);
    tool.refused(&["check", "cut.plan"], 1, "L");
}

#[test]
fn what_if_compares_and_writes_nothing() {
    let tool = branches();
    let machine = fixture("machines/slow-cpu-h100.toml");
    let what_if = |changes: &[&str]| {
        let mut command = tool.command(&["compile", "branches.graph", "--machine"]);
        command.arg(&machine);
        for change in changes {
            command.args(["--what-if", change]);
        }
        command
    };
    let text = ok(&mut what_if(&["remove=gpu0"])).stdout;
    assert!(text.contains("predicted us") && text.contains("gpu0 (gone)"), "{text}");
    let text = ok(&mut what_if(&["remove=gpu0", "add=nvidia-a100-sxm4-80gb:2"])).stdout;
    assert!(text.contains("gpu1"), "{text}");
    assert!(!tool.path("a.plan").exists());
    for (change, exit, code) in [
        ("remove=gpu9", 1, "H008"),
        ("add=abacus", 1, "H006"),
        ("add=nvidia", 1, "H006"),
        ("grow=gpu0", 2, "expected remove=DEVICE"),
        ("add=nvidia-a100:0", 2, "count"),
    ] {
        let answer = answer(&mut what_if(&[change]));
        assert_eq!(answer.code, exit, "{change}: {}", answer.stderr);
        assert!(answer.stderr.contains(code), "{change}: {}", answer.stderr);
    }
    let alone = answer(&mut what_if(&["remove=gpu0", "remove=cpu0"]));
    assert!(alone.code == 1 && alone.stderr.contains("H004"), "{}", alone.stderr);
}

#[test]
fn splitting_is_said_with_figures() {
    let tool = branches();
    let pays = compile(&tool, "p.plan", "slow-cpu-h100.toml", &["--pin", "right=cpu0"]);
    assert!(pays.contains("splitting pays: ") || pays.contains("splitting does not pay: "), "{pays}");
    tool.write("small.graph", SMALL);
    let mut command = tool.command(&["compile", "small.graph", "-o", "s.plan", "--machine"]);
    let text = ok(command.arg(fixture("machines/dual-gpu.toml"))).stdout;
    assert!(text.contains("splitting does not pay: cpu0 alone takes"), "{text}");
    assert!(text.contains("the best single move, the plan takes"), "{text}");
    assert!(text.contains("gpu1 is not used: a plan with it takes longer"), "{text}");
    let mut command =
        tool.command(&["compile", "small.graph", "-o", "s.plan", "--require", "gpu1", "--machine"]);
    let letter = super::tool::refused(command.arg(fixture("machines/dual-gpu.toml")), 1, "M003");
    assert!(letter.contains(" us instead of "), "{letter}");
}

#[test]
fn the_page_escapes_names_and_needs_nothing_else() {
    let tool = Tool::new();
    let hostile = "</title><script>alert(1)</script>";
    let image = "<img src=x onerror=alert(2)>&\\\"'";
    let graph = SMALL.replace("%m", &format!("%\"{image}\"")).replace("%y", &format!("%\"{hostile}\""));
    tool.write("small.graph", graph.replace("graph small", &format!("graph \"{hostile}\"")));
    let machine = fixture("machines/slow-cpu-h100.toml");
    let compile = |page: &str| {
        let mut command =
            tool.command(&["compile", "small.graph", "-o", "p.plan", "--report", page, "--machine"]);
        ok(command.arg(&machine));
        tool.read(page)
    };
    let page = compile("a.html");
    assert!(page == compile("b.html"), "the same plan, another page");
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(page.contains("&lt;script&gt;") && page.contains("<svg"), "{page}");
    for outside in ["http:", "https:", "src=\"", "href", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(tool.ok(&["inspect", "p.plan", "--format", "html"]).stdout, page);
}

#[test]
fn the_page_shows_what_was_measured() {
    let tool = Tool::with_plan();
    tool.ok(&["bench", "small.plan", "--runs", "2", "--trace", "t.json"]);
    let profile = tool.ok(&["bench", "small.plan", "--runs", "2", "--profile", "--json"]).stdout;
    tool.write("p.json", profile);
    for file in ["t.json", "p.json"] {
        let page = tool.ok(&["inspect", "small.plan", "--format", "html", "--measured", file]).stdout;
        assert!(page.contains("Predicted and measured"), "{file}");
    }
    // Simulated devices are compared by their own clock.
    let tool = branches();
    tool.ok(&["run", "two.plan", "--input", "random", "--trace", "t.json"]);
    let page = tool.ok(&["inspect", "two.plan", "--format", "html", "--measured", "t.json"]).stdout;
    assert!(page.contains("simulated") && page.contains("ratio 1.00"), "{page}");
    let tool = Tool::with_plan();
    tool.write("bad.json", "{}");
    tool.refused(&["inspect", "small.plan", "--format", "html", "--measured", "bad.json"], 1, "F017");
    tool.write("other.json", r#"{"traceEvents": []}"#);
    tool.refused(&["inspect", "small.plan", "--format", "html", "--measured", "other.json"], 1, "F018");
}

#[test]
fn pictures_show_a_neighbourhood_and_collapse() {
    let tool = branches();
    let dot = |more: &[&str]| tool.ok(&[&["inspect", "two.plan", "--format", "dot"], more].concat()).stdout;
    let near = dot(&["--around", "right", "--hops", "1"]);
    assert!(near.contains("around right") && near.len() < dot(&[]).len(), "{near}");
    assert!(dot(&[]).contains("subgraph cluster_"));
    assert!(dot(&["--collapse-above", "1"]).contains("steps"));
}

#[test]
fn old_plans_stay_readable() {
    let tool = branches();
    changed(&tool, "old.plan", |plan| {
        plan.provenance.as_mut().unwrap().alone.clear();
        for why in plan.queues.iter_mut().flat_map(|q| &mut q.steps).filter_map(|s| s.why.as_mut()) {
            why.binds.clear();
            why.choices.iter_mut().for_each(|c| (c.plan_us, c.barred) = (0.0, String::new()));
        }
        assert!(plan.values.iter().any(|v| v.storage == Storage::Weight as i32));
    });
    assert!(tool.ok(&["explain", "old.plan", "left"]).stdout.contains("not recorded"));
    assert!(tool.ok(&["inspect", "old.plan", "--format", "html"]).stdout.contains("not recorded"));
    tool.ok(&["inspect", "old.plan"]);
    tool.ok(&["check", "old.plan"]);
}
