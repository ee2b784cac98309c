//! CPU and graphics adapter in one run, where there is an adapter (a software one counts).

use crate::programs::{run_once, spread};
use crate::random::{Program, net, samples, seeds};
use crate::support::{close, fixture, inputs};
use partita::devices::{adapters, from_file};
use partita::npy;
use partita::pipeline::CompileOptions;
use partita_hw::Machine;
use partita_ir::interp;
use partita_models::{MODELS, Size};
use std::collections::BTreeMap;

/// The machine of the fixture, or nothing with a sentence where no adapter is here.
fn machine() -> Option<Machine> {
    if adapters().is_empty() {
        eprintln!("skipped: this machine has no graphics adapter that wgpu can use");
        return None;
    }
    Some(from_file(&fixture("machines/cpu-wgpu.toml")).unwrap())
}

#[test]
fn digits_on_both_devices() {
    let Some(machine) = machine() else { return };
    let graph = partita::load(&fixture("digits/digits.onnx"), &BTreeMap::new()).unwrap().graph;
    let read = |name: &str| npy::read(&fixture("digits").join(name)).unwrap();
    let (compiled, used) = spread(&graph, &machine, &CompileOptions::default()).unwrap();
    assert_eq!(used, 2, "both devices compute");
    let copies: usize =
        compiled.assembly.plan.queues.iter().filter(|q| q.copies).map(|q| q.steps.len()).sum();
    assert!(copies >= 2, "{copies} transfers");
    let have = run_once(&compiled, 2, &[read("images.npy")]).unwrap();
    close(&[read("probabilities.npy")], &have, 1e-4).unwrap();
}

#[test]
fn models_on_both_devices() {
    let Some(machine) = machine() else { return };
    for (name, build) in MODELS {
        let graph = build(Size::Tiny).unwrap();
        let inputs = inputs(&graph, 9, 2);
        let want = interp::run(&graph, &inputs).unwrap();
        let (compiled, used) = spread(&graph, &machine, &CompileOptions::default()).unwrap();
        assert_eq!(used, 2, "{name}: both devices compute");
        let have = run_once(&compiled, 1, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(&want, &have, 1e-4).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn every_operator_the_adapter_runs() {
    let Some(machine) = machine() else { return };
    let (mut failures, mut ran) = (Vec::new(), 0);
    for (seed, program) in samples(1) {
        let Ok(want) = interp::run(&program.graph, &program.inputs) else { continue };
        let options = CompileOptions::default();
        // Two devices take turns, the adapter second: most samples have a node for each.
        let Ok((compiled, _)) = spread(&program.graph, &machine, &options) else { continue };
        let on_adapter =
            compiled.assembly.plan.queues.iter().any(|q| !q.copies && q.device == 1 && !q.steps.is_empty());
        if on_adapter {
            ran += 1;
            let result = run_once(&compiled, 1, &program.inputs).and_then(|have| close(&want, &have, 1e-4));
            failures.extend(result.err().map(|e| format!("{}, seed {seed}: {e}", program.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 50, "{ran} samples had work for the adapter");
}

#[test]
fn random_graphs_on_both_devices() {
    let Some(machine) = machine() else { return };
    for seed in seeds(8) {
        let Program { name, graph, inputs } = net(seed, 16);
        let want = interp::run(&graph, &inputs).unwrap();
        let (compiled, _) = spread(&graph, &machine, &CompileOptions::default()).unwrap();
        let have = run_once(&compiled, 1, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(&want, &have, 1e-4).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
