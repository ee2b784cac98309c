//! Real models through the whole optimizer, where they are at hand: `PARTITA_MODELS` names a folder of
//! `<model>/model.onnx`.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a test: it says what it skips and found")]

use partita_ir::op::{Rng, WorkCtx};
use partita_ir::{Graph, Tensor, ValueId, interp};
use partita_passes::{Options, fuse, optimize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Folders of models, in name order; none when there is nothing to look at.
fn models() -> Vec<PathBuf> {
    let Some(root) = std::env::var_os("PARTITA_MODELS") else {
        eprintln!("skipped: PARTITA_MODELS is not set");
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("model.onnx"))
        .collect();
    found.retain(|p| p.is_file());
    found.sort();
    found
}

#[test]
fn models_get_smaller_and_cheaper() {
    for path in models() {
        let imported = partita_onnx::load(&path, &partita_onnx::Options::default()).unwrap();
        let before = imported.graph.n_nodes();
        let (graph, history) = optimize(imported.graph, &Options::default()).unwrap();
        let regions = fuse(&graph, &partita_passes::fuse::Rules::default());
        eprintln!(
            "== {}: {before} -> {} nodes, {} regions",
            path.display(),
            graph.n_nodes(),
            regions.list.len()
        );
        for pass in &history.passes {
            eprintln!("   {}: {} -> {}", pass.pass, pass.nodes_before, pass.nodes_after);
            if let Some(s) = &pass.saturation {
                eprintln!("      {s:?}");
            }
        }
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, node) in graph.nodes() {
            *ops.entry(node.op.name).or_default() += 1;
        }
        eprintln!("   ops {ops:?}\n   fired {:?}", history.fired());
        let costs = history.passes.iter().filter_map(|p| p.saturation.as_ref());
        assert!(costs.into_iter().all(|s| s.cost_after_us <= s.cost_before_us));
        assert!(graph.n_nodes() < before);
        assert!(partita_passes::fuse::is_partition(&graph, &regions));
    }
}

/// Runs both in the interpreter where that takes seconds.
const MAX_FLOPS: f64 = 1.5e9;

/// What a symbol is bound to when a model is run.
const SYMBOL_SIZE: i64 = 6;

/// Values that most models accept: small integers, floats around 0.
fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut rng = Rng(7);
    let tensor = |v: &ValueId| {
        let ty = graph.ty(*v).bind(&|_| Some(SYMBOL_SIZE));
        let high = if ty.dtype.is_float() { 1.0 } else { 1.4 };
        rng.tensor(ty.dtype, &ty.known_shape().unwrap(), if ty.dtype.is_float() { -1.0 } else { 0.0 }, high)
    };
    graph.inputs().iter().map(tensor).collect()
}

fn flops(graph: &Graph) -> f64 {
    let shape = |v: &ValueId| {
        let ty = graph.ty(*v).bind(&|_| Some(SYMBOL_SIZE));
        (ty.dtype, ty.known_shape().unwrap_or_default())
    };
    let work = |node: &partita_ir::graph::Node| {
        let inputs: Vec<_> = node.inputs.iter().map(|v| v.as_ref().map(shape)).collect();
        let outputs: Vec<_> = node.outputs.iter().map(shape).collect();
        let attrs = node.attrs.bind(&|_| Some(SYMBOL_SIZE));
        (node.op.work)(&WorkCtx { attrs: &attrs, inputs: &inputs, outputs: &outputs }).flops
    };
    graph.nodes().map(|(_, node)| work(node)).sum()
}

#[test]
fn models_compute_the_same() {
    for path in models() {
        let graph = partita_onnx::load(&path, &partita_onnx::Options::default()).unwrap().graph;
        if flops(&graph) > MAX_FLOPS {
            eprintln!("skipped: {} has {:.1} GFLOP", path.display(), flops(&graph) / 1e9);
            continue;
        }
        let inputs = inputs(&graph);
        let want = interp::run(&graph, &inputs).unwrap();
        let (graph, _) = optimize(graph, &Options::default()).unwrap();
        let have = interp::run(&graph, &inputs).unwrap();
        for (want, have) in want.iter().zip(&have) {
            let (w, h) = (want.to_f64s(), have.to_f64s());
            let largest = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let worst = w.iter().zip(&h).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            eprintln!("{}: largest {largest}, worst {worst}", path.display());
            assert!(worst <= 1e-4 * largest, "{}: {worst} of {largest}", path.display());
        }
    }
}

/// Transpositions whose results somebody inside of the graph reads.
fn inner_transposes(graph: &Graph) -> usize {
    let read = |v: &ValueId| graph.nodes().any(|(_, n)| n.inputs.contains(&Some(*v)));
    graph.nodes().filter(|(_, n)| n.op.name == "transpose" && n.outputs.iter().any(read)).count()
}

#[test]
fn channels_last_nets_have_no_transpositions_inside() {
    for path in models() {
        let imported = partita_onnx::load(&path, &partita_onnx::Options::default()).unwrap();
        let (before, _) = optimize(imported.graph, &Options::default()).unwrap();
        let options = Options::default();
        let (after, history) =
            partita_passes::run_passes(before.clone(), partita_passes::CHANNELS_LAST, &options).unwrap();
        eprintln!("== {}: {:?}", path.display(), history.fired());
        let n_convolutions = before.nodes().filter(|(_, n)| n.op.name.starts_with("conv")).count() as u64;
        assert_eq!(
            history.fired().get("channels-last").copied().unwrap_or(0),
            n_convolutions,
            "{}",
            path.display()
        );
        assert!(inner_transposes(&after) <= inner_transposes(&before), "{}", path.display());
    }
}
