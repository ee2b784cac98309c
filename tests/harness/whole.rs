//! Cases of the whole compiler: a graph and a machine; what every region costs where, and the value and bound of
//! the placement. Not the assignment, so that a better solver does not churn them; it is checked and run instead.

use super::file::{Case, File};
use crate::support::{close, graph, inputs, machine, round_trip};
use partita::pipeline::{CompileOptions, Compiled, Model, compile};
use partita::session::{load_compiled, run};
use partita_ir::interp;
use partita_place::{Objective, check};
use std::fmt::Write as _;

/// Kernels round in another order than the interpreter.
const RELATIVE: f64 = 1e-4;

pub(super) fn actual(file: &File, case: &Case) -> Result<Option<String>, String> {
    Ok(Some(describe(&compiled(file, case)?)))
}

fn compiled(file: &File, case: &Case) -> Result<Compiled, String> {
    let model = Model { graph: graph(&case.input)?, onnx: None };
    let mut options = CompileOptions { dims: file.header.dims.clone(), ..Default::default() };
    if file.header.throughput {
        options.wishes.objective = Objective::Bottleneck;
    }
    compile(&model, &machine(&file.header.machine), &options, &|_| {}).map_err(|e| e.to_string())
}

fn describe(compiled: &Compiled) -> String {
    let (problem, answer) = (&compiled.parts[0].placement.problem, &compiled.parts[0].placement.answer);
    let mut out = format!(
        "{} operators, {} after optimization\nvalue {:.3} us, bound {:.3} us, {}\n",
        compiled.imported.n_nodes(),
        compiled.optimized.n_nodes(),
        answer.value,
        answer.lower_bound,
        answer.status.word()
    );
    for task in &problem.tasks {
        let times = problem.devices.iter().zip(&task.time_us).map(|(d, t)| match t {
            Some(us) => format!("{} {us:.3} us", d.name),
            None => format!("{} cannot", d.name),
        });
        let _ = writeln!(out, "{}: {}", task.name, times.collect::<Vec<_>>().join(", "));
    }
    out
}

pub(super) fn laws(file: &File, case: &Case) -> Result<(), String> {
    let compiled = compiled(file, case)?;
    let (problem, answer) = (&compiled.parts[0].placement.problem, &compiled.parts[0].placement.answer);
    let objective = if file.header.throughput { Objective::Bottleneck } else { Objective::Latency };
    if let Some(violation) = check(problem, objective, answer).first() {
        return Err(format!("{violation:?}"));
    }
    round_trip(&compiled.imported)?;
    round_trip(&compiled.optimized)?;
    let plan = &compiled.assembly.plan;
    partita_plan::check::check(plan).map_err(|e| e.to_string())?;
    for step in plan.queues.iter().filter(|q| !q.copies).flat_map(|q| &q.steps) {
        let why = partita::report::explain::explain(plan, &step.name).map_err(|e| e.to_string())?;
        let silent = plan.devices.iter().find(|d| !why.contains(&d.name));
        if let Some(device) = silent {
            return Err(format!("explain {} does not mention {}:\n{why}", step.name, device.name));
        }
    }
    if plan.devices.iter().any(|d| d.driver == "wgpu") {
        return Ok(());
    }
    let mut session = load_compiled(&compiled).map_err(|e| e.to_string())?;
    let inputs = inputs(&compiled.imported, 5, 3);
    let want = interp::run(&compiled.imported, &inputs).map_err(|e| e.to_string())?;
    let have = run(&mut session, &inputs).map_err(|e| e.to_string())?;
    close(&want, &have, RELATIVE)
}
