//! Random small problems, brute force, and where the shared instances are.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use partita_place::{CommModel, Device, Link, Problem, Task, Tensor};
use proptest::prelude::*;
use std::path::PathBuf;

/// The folder with public instances, when this machine has one.
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let named = std::env::var_os("PARTITA_SHARED").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = named.unwrap_or(beside).join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not on this machine", path.display());
    None
}

/// A problem of `n` tasks and `k` devices drawn from a seed; half of them with endpoint costs.
pub(crate) fn random_problem(seed: u64, n: usize, k: usize, endpoint: bool) -> Problem {
    let mut state = seed.wrapping_add(1);
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let devices = (0..k)
        .map(|d| Device {
            name: format!("d{d}"),
            memory_bytes: if d > 0 && next(3) == 0 { Some(60 + next(200)) } else { None },
        })
        .collect();
    let tasks: Vec<Task> = (0..n)
        .map(|t| Task {
            name: format!("t{t}"),
            time_us: (0..k)
                .map(|d| if d > 0 && next(6) == 0 { None } else { Some(next(20) as f64 / 2.0) })
                .collect(),
            memory_bytes: next(60),
            colocate: if next(4) == 0 { Some(next(2) as u32) } else { None },
            pin: if next(7) == 0 { Some(0) } else { None },
        })
        .collect();
    let mut tensors = Vec::new();
    for u in 0..n.saturating_sub(1) {
        let consumers: Vec<usize> = (u + 1..n).filter(|v| next(1 + (v - u) as u64) == 0).collect();
        if !consumers.is_empty() {
            tensors.push(Tensor { name: format!("x{u}"), bytes: next(50), producer: u, consumers });
        }
    }
    let mut link = |a: usize, b: usize| {
        (a != b && (a == 0 || b == 0 || next(5) > 0))
            .then(|| Link { latency_us: next(4) as f64 / 2.0, us_per_byte: next(8) as f64 / 64.0 })
    };
    let links = (0..k).map(|a| (0..k).map(|b| link(a, b)).collect()).collect();
    let comm = if endpoint {
        let cost_us = tensors.iter().map(|t: &Tensor| t.bytes as f64 / 8.0).collect();
        CommModel::Endpoint { cost_us, charged: (0..k).map(|d| d > 0).collect() }
    } else {
        CommModel::Links
    };
    Problem { name: format!("random {seed}"), devices, tasks, tensors, links, comm }
}

/// Random problems of a few tasks on two or three devices.
pub(crate) fn problems(most_tasks: usize) -> impl Strategy<Value = Problem> {
    (any::<u64>(), 1..=most_tasks, 2usize..=3, any::<bool>())
        .prop_map(|(seed, n, k, endpoint)| random_problem(seed, n, k, endpoint))
}

/// All placements that respect candidates, pins, colocation, memory and paths.
pub(crate) fn placements(p: &Problem) -> Vec<Vec<usize>> {
    let (n, k) = (p.tasks.len(), p.devices.len());
    (0..k.pow(n as u32))
        .map(|code| (0..n).map(|t| code / k.pow(t as u32) % k).collect::<Vec<usize>>())
        .filter(|device| allowed(p, device))
        .collect()
}

fn allowed(p: &Problem, device: &[usize]) -> bool {
    let runs =
        |t: usize| p.tasks[t].time_us[device[t]].is_some() && p.tasks[t].pin.is_none_or(|d| d == device[t]);
    let together = |a: usize, b: usize| {
        p.tasks[a].colocate.is_none() || p.tasks[a].colocate != p.tasks[b].colocate || device[a] == device[b]
    };
    let n = p.tasks.len();
    let bytes =
        |d: usize| -> u64 { (0..n).filter(|&t| device[t] == d).map(|t| p.tasks[t].memory_bytes).sum() };
    let path = |a: usize, b: usize| a == b || p.comm != CommModel::Links || p.links[a][b].is_some();
    (0..n).all(runs)
        && (0..n).all(|a| (0..n).all(|b| together(a, b)))
        && p.devices.iter().enumerate().all(|(d, x)| x.memory_bytes.is_none_or(|room| bytes(d) <= room))
        && p.tensors.iter().all(|x| x.consumers.iter().all(|&c| path(device[x.producer], device[c])))
}

/// Shortest makespan of a placement over all orders in which tasks and transfers can be appended.
pub(crate) fn shortest(p: &Problem, device: &[usize], known: f64) -> f64 {
    let mut ops: Vec<(f64, usize, Vec<usize>)> = Vec::new();
    for (t, task) in p.tasks.iter().enumerate() {
        ops.push((task.time_us[device[t]].unwrap_or(f64::NAN), device[t], Vec::new()));
    }
    for (x, tensor) in p.tensors.iter().enumerate() {
        let home = device[tensor.producer];
        for b in 0..p.devices.len() {
            let here: Vec<usize> = tensor.consumers.iter().copied().filter(|&c| device[c] == b).collect();
            if here.is_empty() {
                continue;
            }
            let mut source = tensor.producer;
            if b != home {
                let us = p.transfer_us(x, home, b).unwrap_or(f64::NAN);
                ops.push((us, 100 + home * 10 + b, vec![tensor.producer]));
                source = ops.len() - 1;
            }
            here.iter().for_each(|&c| ops[c].2.push(source));
        }
    }
    let mut end = vec![None; ops.len()];
    let mut best = known;
    append(&ops, &mut end, &mut std::collections::BTreeMap::new(), &mut best);
    best
}

type Free = std::collections::BTreeMap<usize, f64>;

fn append(ops: &[(f64, usize, Vec<usize>)], end: &mut Vec<Option<f64>>, free: &mut Free, best: &mut f64) {
    let so_far = end.iter().flatten().copied().fold(0.0, f64::max);
    if so_far >= *best {
        return;
    }
    if end.iter().all(Option::is_some) {
        *best = so_far;
        return;
    }
    for (i, (time, resource, inputs)) in ops.iter().enumerate() {
        if end[i].is_some() || inputs.iter().any(|&u| end[u].is_none()) {
            continue;
        }
        let ready = inputs.iter().filter_map(|&u| end[u]).fold(0.0, f64::max);
        let before = free.get(resource).copied();
        let done = ready.max(before.unwrap_or(0.0)) + time;
        end[i] = Some(done);
        free.insert(*resource, done);
        append(ops, end, free, best);
        end[i] = None;
        free.insert(*resource, before.unwrap_or(0.0));
    }
}
