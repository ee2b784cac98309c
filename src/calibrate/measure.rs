//! Times of the steps of a graph on the running CPU.

use crate::error::Result;
use crate::fit::quantile;
use crate::launch::Launch;
use crate::pipeline::{CompileOptions, Model, compile};
use crate::session::{encoded, load_encoded};
use crate::terms::Terms;
use partita_hw::Machine;
use partita_ir::Graph;
use partita_plan::Step;
use partita_runtime::{PlanSource, PortInfo, Session, TraceRow};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least runs whose times count, however long they take.
const LEAST_RUNS: usize = 3;
/// Most runs; more tell nothing new.
const MOST_RUNS: usize = 300;

/// A step and how long it took.
pub(super) struct Timed {
    pub(super) terms: Terms,
    pub(super) us: f64,
}

/// The plan file of a graph.
pub(super) fn plan(graph: Graph, machine: &Machine, options: &CompileOptions) -> Result<Vec<u8>> {
    encoded(&compile(&Model { graph, onnx: None }, machine, options, &|_| {})?)
}

/// Runs a plan on `threads` threads for about `time`.
pub(super) fn steps(plan: &Arc<Vec<u8>>, threads: u32, time: Duration) -> Result<Vec<Timed>> {
    let begin = Instant::now();
    let mut program = load_encoded(PlanSource::Bytes(plan.clone()), Some(threads))?;
    let Some(session) = program.session() else { return Ok(Vec::new()) };
    let inputs = inputs(session);
    let views: Vec<(&[u8], &[usize])> = inputs.iter().map(|(b, s)| (b.as_slice(), s.as_slice())).collect();
    session.set_trace(true);
    session.run(&views)?;
    let mut runs = Vec::new();
    while runs.len() < LEAST_RUNS || (begin.elapsed() < time && runs.len() < MOST_RUNS) {
        session.run(&views)?;
        runs.push(session.trace());
    }
    Ok(timed(session, &runs))
}

fn timed(session: &Session, runs: &[Vec<TraceRow>]) -> Vec<Timed> {
    let Some(bound) = session.bound() else { return Vec::new() };
    let plan = session.plan();
    let steps = plan.queues.iter().filter(|q| !q.copies).flat_map(|q| &q.steps).enumerate();
    let one = |(n, step): (usize, &Step)| {
        let times = runs.iter().filter_map(|run| run.get(n)).map(|row| row.end_us - row.start_us);
        Some(Timed {
            terms: Terms::of(&Launch::of_step(plan, bound, step)?),
            us: typical(&times.collect::<Vec<_>>()),
        })
    };
    steps.filter_map(one).collect()
}

/// A low time, but not the least: what others on the machine take only ever adds.
fn typical(times: &[f64]) -> f64 {
    quantile(times, 0.1)
}

/// Inputs between -1 and 1.
fn inputs(session: &Session) -> Vec<(Vec<u8>, Vec<usize>)> {
    let value = |n: usize| ((n.wrapping_mul(2_654_435_761) >> 8) % 2048) as f32 / 1024.0 - 1.0;
    let one = |port: &PortInfo| {
        let shape: Vec<usize> = port.shape.iter().map(|d| d.unwrap_or(1)).collect();
        let bytes = (0..shape.iter().product()).flat_map(|n| value(n).to_le_bytes()).collect();
        (bytes, shape)
    };
    session.inputs().iter().map(one).collect()
}
