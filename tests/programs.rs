//! Compiling and running in memory: machines, sessions, pins that spread a graph over a machine.

use partita::devices::drivers;
use partita::host_kernels::ReferenceKernels;
use partita::pipeline::{CompileOptions, Compiled, Model, compile};
use partita::session::run;
use partita_hw::Machine;
use partita_ir::{Graph, Tensor};
use partita_runtime::{Program, SessionOptions};
use std::collections::BTreeSet;

/// Compiles a graph.
pub(crate) fn compiled(
    graph: &Graph,
    machine: &Machine,
    options: &CompileOptions,
) -> partita::Result<Compiled> {
    compile(&Model { graph: graph.clone(), onnx: None }, machine, options, &|_| {})
}

/// The bytes of the plan file.
pub(crate) fn plan_bytes(compiled: &Compiled) -> Vec<u8> {
    let weights = compiled.assembly.weights.iter().map(|w| (w.offset_bytes, &w.bytes));
    partita_plan::file::encode(&compiled.assembly.plan, weights).unwrap()
}

/// Opens a compiled plan with a number of CPU threads.
pub(crate) fn session(compiled: &Compiled, threads: u32) -> Result<Program, String> {
    let options = SessionOptions { threads: Some(threads), verify_weights: true, ..Default::default() };
    Program::load(plan_bytes(compiled), &drivers(), Some(&ReferenceKernels), &options)
        .map_err(|e| e.to_string())
}

/// Runs a compiled plan once.
pub(crate) fn run_once(compiled: &Compiled, threads: u32, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    run(&mut session(compiled, threads)?, inputs).map_err(|e| e.to_string())
}

/// Compiles a graph so that every device takes turns: regions go round the devices that can run them.
/// Returns the plan and how many devices it computes on.
pub(crate) fn spread(
    graph: &Graph,
    machine: &Machine,
    options: &CompileOptions,
) -> Result<(Compiled, usize), String> {
    let free = compiled(graph, machine, options).map_err(|e| e.to_string())?;
    let mut options = options.clone();
    let mut turn = 0;
    for part in &free.parts {
        for (n, region) in part.regions.list.iter().enumerate() {
            let able = |d: &usize| part.prices.rows[n][*d].time_us.is_some();
            let able: Vec<usize> = (0..machine.devices.len()).filter(able).collect();
            if part.lowered[n].calls.is_empty() || able.is_empty() {
                continue;
            }
            let device = &machine.devices[able[turn % able.len()]].name;
            turn += 1;
            let node = part.graph.node(region.nodes[0]);
            options.wishes.pins.push((node.name.to_string(), device.clone()));
        }
    }
    let spread = compiled(graph, machine, &options).map_err(|e| e.to_string())?;
    let queues = spread.assembly.plan.parts().iter().flat_map(|p| &p.queues);
    let used: BTreeSet<u32> = queues.filter(|q| !q.copies && !q.steps.is_empty()).map(|q| q.device).collect();
    Ok((spread, used.len()))
}
