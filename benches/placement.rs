//! How long does placement take for a given work limit, and what do proofs cost beyond searches?
//!
//! Work is counted, so the answers are the same everywhere and only the time is measured. `layered` are generated
//! graphs over a host and three accelerators, one of them small; `digits` is a real one. HiGHS is left out, so that
//! figures of two machines compare.

mod common;

use common::{compiled, digits, group, machine};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita_ir::op::Rng;
use partita_place::{
    CommModel, Device, Limits, Link, Objective, Problem, Task, Tensor, check, list_schedule, solve,
};

const LAYER: usize = 8;
const DEVICES: usize = 4;
const SEARCH_WORK: u64 = 2_000_000;
const PROOF_WORK: u64 = 10_000_000;

/// Layers of eight tasks, each reading two of the layer before.
fn layered(n_tasks: usize) -> Problem {
    let mut rng = Rng(n_tasks as u64);
    let devices = (0..DEVICES)
        .map(|d| Device { name: format!("d{d}"), memory_bytes: (d == 3).then_some(n_tasks as u64 * 100_000) })
        .collect();
    let mut tasks: Vec<Task> = (0..n_tasks).map(|t| task(&mut rng, t)).collect();
    tasks[0].pin = Some(0);
    let tensors = (0..n_tasks).filter_map(|t| tensor(&mut rng, t, n_tasks)).collect();
    let link = |a: usize, b: usize| (a != b).then_some(Link { latency_us: 5.0, us_per_byte: 1e-4 });
    let links = (0..DEVICES).map(|a| (0..DEVICES).map(|b| link(a, b)).collect()).collect();
    Problem { name: format!("layered {n_tasks}"), devices, tasks, tensors, links, comm: CommModel::Links }
}

fn task(rng: &mut Rng, t: usize) -> Task {
    let host_us = rng.float(50.0, 500.0);
    let faster = |rng: &mut Rng| (rng.below(8) > 0).then(|| host_us / rng.float(1.0, 12.0));
    let mut time_us = vec![Some(host_us)];
    time_us.extend((1..DEVICES).map(|_| faster(rng)));
    let memory_bytes = rng.below(400_000) as u64;
    Task { name: format!("t{t}"), time_us, memory_bytes, colocate: None, pin: None }
}

fn tensor(rng: &mut Rng, producer: usize, n_tasks: usize) -> Option<Tensor> {
    let next = (producer / LAYER + 1) * LAYER;
    let mut consumers: Vec<usize> =
        (0..2).map(|_| next + rng.below(LAYER)).filter(|c| *c < n_tasks).collect();
    consumers.sort_unstable();
    consumers.dedup();
    let bytes = rng.below(1_000_000) as u64;
    (!consumers.is_empty()).then(|| Tensor { name: format!("x{producer}"), bytes, producer, consumers })
}

fn limits(exact: bool) -> Limits {
    let work = if exact { PROOF_WORK } else { SEARCH_WORK };
    Limits { work, exact, highs: false, ..Limits::default() }
}

fn measure(c: &mut Criterion, exact: bool, problems: &[Problem]) {
    for objective in [Objective::Latency, Objective::Bottleneck] {
        let word = if exact { "and prove" } else { "search" };
        let mut group = group(c, &format!("place {} {word}", objective.word()));
        for problem in problems {
            group.throughput(Throughput::Elements(problem.tasks.len() as u64));
            group.bench_function(&*problem.name, |b| {
                b.iter(|| solve(problem, objective, &limits(exact)).expect("a placement exists"));
            });
        }
    }
}

fn searches(c: &mut Criterion) {
    measure(c, false, &[layered(32), layered(128), layered(512)]);
}

fn proofs(c: &mut Criterion) {
    let model = digits();
    let mut digits =
        compiled(&model, &machine("cpu-h100-tpu-groq.toml"), 2).parts.remove(0).placement.problem;
    digits.name = "digits".to_owned();
    measure(c, true, &[layered(8), digits]);
}

/// The two that run inside every search: evaluating one placement, and the independent checker.
fn parts(c: &mut Criterion) {
    let problem = layered(512);
    let device_of = vec![0; problem.tasks.len()];
    let answer = solve(&problem, Objective::Latency, &limits(false)).expect("a placement exists");
    let mut group = group(c, "place parts");
    group.throughput(Throughput::Elements(problem.tasks.len() as u64));
    group.bench_function("list schedule", |b| b.iter(|| list_schedule(&problem, &device_of)));
    group.bench_function("check", |b| b.iter(|| check(&problem, Objective::Latency, &answer)));
}

criterion_group!(benches, searches, proofs, parts);
criterion_main!(benches);
