//! Compiled plans against the reference interpreter: models, random graphs, every operator, the digits.

use crate::programs::{compiled, run_once, session, spread};
use crate::random::{Program, net, samples, seeds, symbolic_net};
use crate::support::{close, fixture, graph, inputs, machine};
use partita::npy;
use partita::pipeline::CompileOptions;
use partita::session::run;
use partita_hw::Machine;
use partita_ir::{Graph, Tensor, interp};
use partita_models::{MODELS, Size};
use std::collections::BTreeMap;

/// Relative to the largest element; kernels add in another order than the interpreter.
const RELATIVE: f64 = 1e-4;
/// Four devices, three of them simulated.
const ACCELERATORS: &str = "cpu-h100-tpu-groq.toml";

fn options(egraph: bool) -> CompileOptions {
    CompileOptions { egraph, ..Default::default() }
}

/// With and without e-graph, one and two threads, must equal the interpreter on the graph as given.
fn on_cpu(graph: &Graph, inputs: &[Tensor], cpu: &Machine) -> Result<(), String> {
    let want = interp::run(graph, inputs).map_err(|d| format!("interpreter: {d}"))?;
    for egraph in [true, false] {
        let compiled = compiled(graph, cpu, &options(egraph)).map_err(|e| e.to_string())?;
        for threads in [1, 2] {
            run_once(&compiled, threads, inputs)
                .and_then(|have| close(&want, &have, RELATIVE))
                .map_err(|e| format!("e-graph {egraph}, {threads} threads: {e}"))?;
        }
    }
    Ok(())
}

/// Spread over all devices of a machine; returns on how many it ran.
fn on_machine(graph: &Graph, inputs: &[Tensor], machine: &Machine) -> Result<usize, String> {
    let want = interp::run(graph, inputs).map_err(|d| format!("interpreter: {d}"))?;
    let (compiled, used) = spread(graph, machine, &options(true))?;
    close(&want, &run_once(&compiled, 1, inputs)?, RELATIVE)?;
    Ok(used)
}

#[test]
fn models_on_the_cpu() {
    let cpu = machine("cpu.toml");
    for (name, build) in MODELS {
        let graph = build(Size::Tiny).unwrap();
        for symbol in [1, 3] {
            let result = on_cpu(&graph, &inputs(&graph, 11, symbol), &cpu);
            result.unwrap_or_else(|e| panic!("{name}, symbols {symbol}: {e}"));
        }
    }
}

#[test]
fn models_on_simulated_accelerators() {
    let machine = machine(ACCELERATORS);
    for (name, build) in MODELS {
        let graph = build(Size::Tiny).unwrap();
        let used = on_machine(&graph, &inputs(&graph, 12, 2), &machine);
        let used = used.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(used >= 3, "{name} ran on {used} devices");
    }
}

#[test]
fn one_session_takes_many_sizes() {
    let cpu = machine("cpu.toml");
    for (name, build) in MODELS {
        let graph = build(Size::Tiny).unwrap();
        if graph.input_symbols().is_empty() {
            continue;
        }
        let compiled = compiled(&graph, &cpu, &options(true)).unwrap();
        let mut session = session(&compiled, 2).unwrap();
        for symbol in [2, 5, 1, 2] {
            let inputs = inputs(&graph, symbol as u64, symbol);
            let want = interp::run(&graph, &inputs).unwrap();
            let have = run(&mut session, &inputs).unwrap_or_else(|e| panic!("{name}, {symbol}: {e}"));
            close(&want, &have, RELATIVE).unwrap_or_else(|e| panic!("{name}, symbols {symbol}: {e}"));
        }
    }
}

#[test]
fn random_graphs_of_any_size_from_one_session() {
    let machines = [machine("cpu.toml"), machine(ACCELERATORS)];
    for seed in seeds(16) {
        let graph = symbolic_net(seed, 16);
        for machine in &machines {
            let (compiled, _) = spread(&graph, machine, &options(true)).unwrap();
            let mut session = session(&compiled, 1).unwrap();
            for symbol in [2, 5, 1, 4, 2] {
                let inputs = inputs(&graph, seed, symbol);
                // Some graphs mix the symbol's axis with another, and fit one size only.
                let Ok(want) = interp::run(&graph, &inputs) else { continue };
                let have = run(&mut session, &inputs).map_err(|e| e.to_string());
                have.and_then(|have| close(&want, &have, RELATIVE))
                    .unwrap_or_else(|e| panic!("seed {seed}, {symbol}, {}: {e}", machine.name));
            }
        }
    }
}

#[test]
fn random_graphs_everywhere() {
    let (cpu, accelerators) = (machine("cpu.toml"), machine(ACCELERATORS));
    for seed in seeds(24) {
        let Program { name, graph, inputs } = net(seed, 16);
        on_cpu(&graph, &inputs, &cpu).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
        on_machine(&graph, &inputs, &accelerators).unwrap_or_else(|e| panic!("{name} spread: {e}"));
    }
}

/// What became of samples of every operator.
#[derive(Default)]
struct Tally {
    ran: usize,
    /// Refusals as unsupported, by operator: legal where the size of a result depends on data.
    refused: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, seed: u64, program: &Program, result: Result<(), String>) {
        match result {
            Ok(()) => self.ran += 1,
            Err(e) if e.contains("error U") => *self.refused.entry(program.name.clone()).or_insert(0) += 1,
            Err(e) => {
                let text = partita_ir::text::print(&program.graph);
                self.failures.push(format!("{}, seed {seed}: {e}\n{text}", program.name));
            }
        }
    }

    fn finish(self, least: usize) {
        let Self { ran, refused, failures } = self;
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        assert!(ran >= least, "{ran} samples ran, refused: {refused:?}");
        assert!(refused.len() < 20, "refused: {refused:?}");
    }
}

#[test]
fn every_operator_on_the_cpu() {
    let cpu = machine("cpu.toml");
    let mut tally = Tally::default();
    for (seed, program) in samples(3) {
        let result = on_cpu(&program.graph, &program.inputs, &cpu);
        tally.count(seed, &program, result);
    }
    tally.finish(300);
}

/// As ONNX and back it computes the same.
#[test]
fn every_operator_through_onnx() {
    let mut tally = Tally::default();
    for (seed, program) in samples(3) {
        let result = through_onnx(&program);
        tally.count(seed, &program, result);
    }
    tally.finish(300);
}

fn through_onnx(program: &Program) -> Result<(), String> {
    let say = |all: Vec<partita_ir::Diag>| partita::Error::from(all).to_string();
    let bytes = partita_onnx::save(&program.graph, &partita_onnx::ExportOptions::default()).map_err(say)?;
    let bytes = partita_ir::Bytes::from_vec(bytes);
    let again = partita_onnx::load_bytes("m.onnx", bytes, None, &partita_onnx::Options::default());
    let again = again.map_err(|e| format!("the exported model: {}", say(e)))?.graph;
    let want = interp::run(&program.graph, &program.inputs).map_err(|d| d.to_string())?;
    let have = interp::run(&again, &program.inputs).map_err(|d| format!("the exported model: {d}"))?;
    close(&want, &have, 1e-5)
}

/// Graphs that once came out wrong, each with the reason.
const ONCE_WRONG: &[(&str, &str)] = &[
    (
        "an empty constant shared its place in the plan file with the next one, which was then left out",
        "graph g(%x: f32[1, 2]) -> (%y) {
           const %a: f32[1, 0] = dense []
           const %b: f32[1, 3] = dense [1, 2, 3]
           %y = concat %x, %a, %b {axis = 1}
         }",
    ),
    (
        "a product with a vector was copied to another device in the shape of a matrix",
        "graph g(%x: f32[2, 3, 4], %v: f32[4]) -> (%m, %y) {
           %m = matmul %x, %v
           %y = exp %m
         }",
    ),
];

#[test]
fn graphs_that_were_wrong_once() {
    let (cpu, accelerators) = (machine("cpu.toml"), machine(ACCELERATORS));
    for (why, text) in ONCE_WRONG {
        let graph = graph(text).unwrap();
        let inputs = inputs(&graph, 1, 2);
        on_cpu(&graph, &inputs, &cpu).unwrap_or_else(|e| panic!("{why}: {e}"));
        on_machine(&graph, &inputs, &accelerators).unwrap_or_else(|e| panic!("{why}: {e}"));
    }
}

fn digits() -> (Graph, Tensor, Tensor, Tensor) {
    let graph = partita::load(&fixture("digits/digits.onnx"), &BTreeMap::new()).unwrap().graph;
    let read = |name: &str| npy::read(&fixture("digits").join(name)).unwrap();
    (graph, read("images.npy"), read("labels.npy"), read("probabilities.npy"))
}

#[test]
fn digits_are_classified() {
    let (graph, images, labels, probabilities) = digits();
    let machines = [machine("cpu.toml"), machine(ACCELERATORS)];
    for (n, machine) in machines.iter().enumerate() {
        let (compiled, used) = spread(&graph, machine, &options(true)).unwrap();
        assert!(n == 0 || used >= 3, "digits ran on {used} devices");
        for threads in [1, 2] {
            let have = run_once(&compiled, threads, std::slice::from_ref(&images)).unwrap();
            close(std::slice::from_ref(&probabilities), &have, 1e-5).unwrap();
            let right = accuracy(&have[0], &labels);
            assert!(right >= 0.97, "{right} of the digits are right");
        }
    }
}

/// The part of rows whose largest element is at their label.
fn accuracy(probabilities: &Tensor, labels: &Tensor) -> f64 {
    let (values, labels) = (probabilities.to_f64s(), labels.to_i64s());
    let classes = values.len() / labels.len();
    let largest = |row: &[f64]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    let right = values.chunks(classes).zip(&labels).filter(|(row, label)| largest(row) as i64 == **label);
    right.count() as f64 / labels.len() as f64
}
