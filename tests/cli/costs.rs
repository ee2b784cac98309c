//! Cost files on the command line: what they change, that they decide alone, and what is wrong with some.

use super::tool::{SMALL, Tool, ok};
use crate::support::fixture;
use partita::devices;
use partita_hw::{CostTable, Fit};

/// A cost file for products on `cpu0`.
fn costs(processor: Option<String>, launch_us: f64) -> String {
    let mut table = CostTable::default();
    table.processor = processor;
    for class in ["gemm few rows", "softmax"] {
        let ns = [("launch".to_owned(), launch_us * 1e3)].into();
        let fit =
            Fit { ns, samples: 5, origin: "by hand".into(), date: "2026-11-01".into(), ..Fit::default() };
        table.insert_fit("cpu0", class, 1, fit);
    }
    table.to_toml()
}

fn compile(tool: &Tool, plan: &str, more: &[&str]) -> Vec<u8> {
    let machine = fixture("machines/cpu.toml");
    ok(tool.command(&["compile", "small.graph", "-o", plan, "--machine"]).arg(machine).args(more));
    std::fs::read(tool.path(plan)).unwrap()
}

fn with_costs(launch_us: f64) -> Tool {
    let tool = Tool::new();
    tool.write("small.graph", SMALL);
    tool.write("costs.toml", costs(None, launch_us));
    tool
}

#[test]
fn a_cost_file_decides_predictions_and_alone() {
    let tool = with_costs(321.0);
    let first = compile(&tool, "a.plan", &["--costs", "costs.toml"]);
    assert!(first == compile(&tool, "b.plan", &["--costs", "costs.toml"]), "the same costs, another plan");
    assert!(first != compile(&tool, "c.plan", &["--no-costs"]), "the costs change nothing");
    let text = tool.ok(&["explain", "a.plan", "m"]).stdout;
    assert!(text.contains("321.00 us") && text.contains("gemm few rows: by hand (2026-11-01)"), "{text}");
    // With the costs at hand a profile predicts too.
    let text = tool.ok(&["bench", "c.plan", "--runs", "3", "--profile", "--costs", "costs.toml"]).stdout;
    assert!(text.contains("predicted 0.642 ms"), "{text}");
}

#[test]
fn the_machine_finds_its_own_costs() {
    let tool = with_costs(1.0);
    let title = devices::detected(false).unwrap().devices[0].title.clone();
    std::fs::create_dir_all(tool.path("cache/partita")).unwrap();
    let own = |plan: &str| tool.ok(&["explain", plan, "m"]).stdout.contains("by hand");
    let predicted = |more: &[&str]| {
        tool.ok(&[&["compile", "small.graph", "-o", "own.plan"], more].concat());
        own("own.plan")
    };
    assert!(!predicted(&[]), "there is no file yet");
    tool.write("cache/partita/costs.toml", costs(title, 777.0));
    assert!(predicted(&[]));
    assert!(!predicted(&["--no-costs"]));
    tool.write("cache/partita/costs.toml", costs(Some("another".into()), 777.0));
    assert!(!predicted(&[]), "the costs are those of another processor");
    tool.write("cache/partita/costs.toml", costs(None, 777.0));
    compile(&tool, "described.plan", &[]);
    assert!(!own("described.plan"), "a machine that is described has the costs that are named");
}

#[test]
fn cost_files_that_are_wrong() {
    let tool = with_costs(1.0);
    let line = ["compile", "small.graph", "-o", "p", "--costs"];
    let refused = |name: &str, code: &str| tool.refused(&[&line[..], &[name]].concat(), 1, code);
    refused("no.toml", "F001");
    tool.write("bad.toml", "schema = 1\n[[fit]]\ndevice = \"cpu0\"\n");
    assert!(refused("bad.toml", "H004").contains("bad.toml"));
    tool.write("old.toml", "schema = 99\n");
    refused("old.toml", "H013");
    tool.write("other.toml", costs(Some("another processor".into()), 1.0));
    assert!(refused("other.toml", "M021").contains("another processor"));
    let both = tool.command(&[&line[..], &["costs.toml", "--no-costs"]].concat()).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn tuning_measures_once_and_then_decides_alone() {
    let tool = Tool::new();
    tool.write(
        "conv.graph",
        "graph g(%x: f32[1, 24, 10, 10]) -> (%y) {
          const %w: f32[24, 24, 3, 3] = random(1)
          const %v: f32[24, 24, 3, 3] = random(2)
          %a = conv %x, %w {pads = [1, 1, 1, 1]}
          %y = conv %a, %v {pads = [1, 1, 1, 1]}
        }",
    );
    let compile = |plan: &str, more: &[&str]| {
        let line = ["compile", "conv.graph", "-o", plan, "--threads", "1", "--costs", "tuned.toml"];
        let text = tool.ok(&[&line[..], more].concat()).stdout;
        (std::fs::read(tool.path(plan)).unwrap(), text)
    };
    let (first, text) = compile("a.plan", &["--tune"]);
    assert!(text.contains("1 sizes of convolutions have a choice, 1 were measured now"), "{text}");
    let (second, text) = compile("b.plan", &["--tune"]);
    assert!(text.contains("0 were measured now"), "{text}");
    assert!(first == second && first == compile("c.plan", &[]).0, "the same costs, another plan");
    let costs = std::fs::read_to_string(tool.path("tuned.toml")).unwrap();
    assert_eq!(costs.matches("conv 3x3 nhwc 1x10x10x24 to 24, ").count(), 3, "{costs}");
    assert!(costs.contains("partita") && costs.contains("date = "), "{costs}");
}
