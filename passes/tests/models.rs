//! Real models through the whole optimizer, where they are at hand: `PARTITA_MODELS` names a folder of
//! `<model>/model.onnx`.
#![allow(clippy::print_stderr, reason = "tests say what they skip and what they found")]

use partita_passes::{Options, fuse, optimize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Folders of models, in name order; none when there is nothing to look at.
fn models() -> Vec<PathBuf> {
    let Some(root) = std::env::var_os("PARTITA_MODELS") else {
        eprintln!("skipped: PARTITA_MODELS is not set");
        return Vec::new();
    };
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path().join("model.onnx")).collect();
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
        eprintln!("== {}: {before} -> {} nodes, {} regions", path.display(), graph.n_nodes(), regions.list.len());
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
