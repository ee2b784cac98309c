//! `partita optimize`.

use super::Io;
use super::args::OptimizeArgs;
use crate::error::{Error, Result};
use crate::pipeline::{load_with, optimize};
use partita_onnx::ExportOptions;
use partita_passes::History;
use std::fmt::Write as _;

pub(super) fn execute(args: &OptimizeArgs, io: &mut Io) -> Result<()> {
    let options = args.compiling.options()?;
    (io.progress)("loading");
    let model = load_with(&args.model, &args.compiling.import()?)?;
    let before = model.graph.n_nodes();
    (io.progress)("optimizing");
    let (graph, history) = optimize(model.graph, &options)?;
    (io.progress)("writing");
    if args.output.extension().is_some_and(|e| e == "graph") {
        let text = partita_ir::text::print(&graph);
        std::fs::write(&args.output, text).map_err(|e| Error::io("write", &args.output, &e))?;
    } else {
        let export = model.onnx.as_ref().map(ExportOptions::of).unwrap_or_default();
        partita_onnx::save_file(&args.output, &graph, &export)?;
    }
    let mut text = format!("{before} operators as read, {} written\n", graph.n_nodes());
    if args.report {
        text.push_str(&report(&history));
    }
    io.write(&text)
}

fn report(history: &History) -> String {
    let mut out = String::new();
    for record in &history.passes {
        let _ = writeln!(
            out,
            "{:<16} {:>6} -> {:>6} operators",
            record.pass, record.nodes_before, record.nodes_after
        );
        if let Some(s) = &record.saturation {
            let _ = writeln!(
                out,
                "  e-graph: {} -> {} e-nodes in {} classes, {:?}; predicted {:.2} -> {:.2} us",
                s.e_nodes_before, s.e_nodes, s.classes, s.stop, s.cost_before_us, s.cost_after_us
            );
            if !s.kept_input.is_empty() {
                let _ = writeln!(out, "  kept the input: {}", s.kept_input);
            }
        }
        for (rule, n) in &record.fired {
            let _ = writeln!(out, "  {rule} x{n}");
        }
    }
    if let Some(left) = history.fuel_left {
        let _ = writeln!(out, "fuel left: {left}");
    }
    out
}
