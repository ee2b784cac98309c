//! Prints a problem of any size in the text form: `layered TASKS DEVICES [SEED]`.
//!
//! Layers of eight tasks, each reading two of the layer before and sometimes one far behind; a host, accelerators
//! of three speeds, two kinds of links, memory that takes all devices.
#![allow(clippy::print_stdout, reason = "an example prints")]

use partita_place::{CommModel, Device, Link, Problem, Task, Tensor, text};
use std::error::Error;

const LAYER: usize = 8;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let [tasks, devices, rest @ ..] = numbers.as_slice() else {
        return Err("usage: layered TASKS DEVICES [SEED]".into());
    };
    let problem = problem(*tasks as usize, *devices as usize, rest.first().copied().unwrap_or(1));
    problem.validate()?;
    print!("{}", text::print(&problem));
    Ok(())
}

fn problem(n: usize, k: usize, seed: u64) -> Problem {
    let mut rng = Rng(seed);
    let tasks: Vec<Task> = (0..n).map(|t| task(&mut rng, t, k)).collect();
    let total: u64 = tasks.iter().map(|t| t.memory_bytes).sum();
    let room = |d: usize| (d > 0).then(|| total / (k as u64 - 1) * 5 / 4);
    let devices = (0..k).map(|d| Device { name: format!("d{d}"), memory_bytes: room(d) }).collect();
    let tensors = (0..n).filter_map(|t| tensor(&mut rng, t, n)).collect();
    // Devices of one half share a fast link, the host and the halves a slow one.
    let near = |a: usize, b: usize| a > 0 && b > 0 && (a > k / 2) == (b > k / 2);
    let link = |a, b| Link { latency_us: 2.0, us_per_byte: if near(a, b) { 2e-6 } else { 2e-5 } };
    let links = (0..k).map(|a| (0..k).map(|b| (a != b).then(|| link(a, b))).collect()).collect();
    Problem { name: format!("layered {n} x {k}"), devices, tasks, tensors, links, comm: CommModel::Links }
}

fn task(rng: &mut Rng, t: usize, k: usize) -> Task {
    let work_us = (10 + rng.below(200)) as f64;
    let speed = |d: usize| [1.0, 8.0, 10.0, 16.0][if d == 0 { 0 } else { 1 + d % 3 }];
    let time = |rng: &mut Rng, d: usize| (d == 0 || rng.below(50) > 0).then(|| work_us / speed(d));
    let time_us = (0..k).map(|d| time(rng, d)).collect();
    let pin = (t == 0).then_some(0);
    Task { name: format!("t{t}"), time_us, memory_bytes: rng.below(1_000_000), colocate: None, pin }
}

fn tensor(rng: &mut Rng, producer: usize, n: usize) -> Option<Tensor> {
    let next = (producer / LAYER + 1) * LAYER;
    let mut consumers: Vec<usize> = (0..2).map(|_| next + rng.below(LAYER as u64) as usize).collect();
    if rng.below(20) == 0 {
        consumers.push(next + LAYER * (1 + rng.below(50) as usize));
    }
    consumers.retain(|&c| c < n);
    consumers.sort_unstable();
    consumers.dedup();
    let bytes = 1000 + rng.below(200_000);
    (!consumers.is_empty()).then(|| Tensor { name: format!("x{producer}"), bytes, producer, consumers })
}
