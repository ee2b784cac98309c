//! The same input gives the same bytes.

use crate::cli::tool::{Tool, ok};
use crate::programs::{compiled, plan_bytes};
use crate::random::{net, seeds};
use crate::support::{fixture, machine};
use partita::pipeline::{CompileOptions, optimize};
use partita_ir::text::print;
use partita_models::{MODELS, Size};
use std::collections::BTreeMap;

#[test]
fn plans_are_the_same_bytes() {
    for machine in [machine("cpu.toml"), machine("cpu-h100-tpu-groq.toml")] {
        for (name, build) in MODELS {
            let graph = build(Size::Tiny).unwrap();
            let bytes = || plan_bytes(&compiled(&graph, &machine, &CompileOptions::default()).unwrap());
            assert!(bytes() == bytes(), "{name} on {}", machine.name);
        }
    }
}

#[test]
fn optimized_graphs_and_their_texts_are_the_same() {
    for seed in seeds(12) {
        let graph = net(seed, 20).graph;
        let text = || print(&optimize(graph.clone(), &CompileOptions::default()).unwrap().0);
        assert_eq!(text(), text());
    }
}

#[test]
fn exported_models_are_the_same_bytes() {
    let model = partita::load(&fixture("digits/digits.onnx"), &BTreeMap::new()).unwrap();
    let export = partita_onnx::ExportOptions::of(model.onnx.as_ref().unwrap());
    let bytes = || partita_onnx::save(&model.graph, &export).unwrap();
    assert!(bytes() == bytes());
}

/// Another process, another number of threads in the compiler's own pool, another folder.
#[test]
fn plan_files_do_not_depend_on_threads_or_folders() {
    let plans: Vec<Vec<u8>> = ["1", "4"]
        .iter()
        .map(|threads| {
            let tool = Tool::new();
            let model = fixture("digits/digits.onnx");
            let machine = fixture("machines/cpu-h100-tpu-groq.toml");
            ok(tool
                .command(&["compile"])
                .arg(&model)
                .args(["-o", "digits.plan", "--machine"])
                .arg(&machine)
                .env("RAYON_NUM_THREADS", threads));
            std::fs::read(tool.path("digits.plan")).unwrap()
        })
        .collect();
    assert!(plans[0] == plans[1]);
}
