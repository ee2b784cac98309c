//! Measures the ways to compute the convolutions of one model, where there is a choice, and notes the times in the cost
//! file: from then on they decide, and the same file gives the same plan.
//!
//! Each way is compiled as any model is, with a cost file that makes it win, and timed with several weights side by side,
//! so that weights come from where they come from in a net: not from the nearest cache.

use super::measure::{self, Timed};
use super::nets::Net;
use crate::devices;
use crate::error::Result;
use crate::fit::quantile;
use crate::launch::Launch;
use crate::pipeline::{CompileOptions, Compiled, Model, compile};
use crate::price::symbol_hints;
use partita_codegen::algorithm::{ALGORITHMS, Candidate, Sizes};
use partita_codegen::lower::Precision;
use partita_hw::{CostTable, Device, Driver, Machine, Measurement};
use partita_ir::Graph;
use partita_ir::attr::Attrs;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most time for one way; shorter when there are many.
const MOST_TIME: Duration = Duration::from_millis(150);
/// Bytes of weights in their plain form that one net should have: with them transformed, more than most caches.
const WEIGHT_BYTES: usize = 8 << 20;
/// Most convolutions of one net.
const MOST_COPIES: usize = 8;

/// How to tune.
pub struct Tuning<'a> {
    /// Time for all measurements together.
    pub time: Duration,
    /// Today, as year-month-day.
    pub date: &'a str,
    pub progress: &'a dyn Fn(&str),
}

/// What was done, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuned {
    /// Convolutions of different sizes that have a choice.
    pub convolutions: usize,
    /// Of these, the ones that were not in the cost file.
    pub measured: usize,
}

/// The key of a candidate in a cost file: times hold for a number of threads.
pub fn key(candidate: &Candidate, threads: u32) -> String {
    format!("{candidate}, {threads} threads")
}

/// Measures for `model` what `costs` does not have yet. Without a CPU there is nothing to choose.
///
/// # Errors
/// What compiling and running say.
pub fn tune(
    model: &Model,
    machine: &Machine,
    options: &CompileOptions,
    costs: &mut CostTable,
    how: &Tuning,
) -> Result<Tuned> {
    let specs = devices::specs(machine, options.threads)?;
    let of_cpu = specs.iter().zip(&machine.devices).find(|(_, d)| d.driver == Driver::Cpu);
    let Some((spec, device)) = of_cpu else { return Ok(Tuned::default()) };
    let threads = spec.device.threads;
    let alone = Machine {
        devices: vec![device.clone()],
        links: Vec::new(),
        fabrics: Vec::new(),
        host: 0,
        ..machine.clone()
    };
    let choices = choices(&compile(model, machine, options, how.progress)?);
    let known = |(sizes, precision): &(Sizes, Precision)| {
        let one = |algorithm| Candidate { sizes: *sizes, precision: *precision, algorithm };
        ALGORITHMS.iter().all(|a| costs.get(&device.name, &key(&one(a), threads)).is_some())
    };
    let missing: Vec<_> = choices.iter().filter(|choice| !known(choice)).collect();
    let candidates: Vec<Candidate> = missing
        .iter()
        .flat_map(|&&(sizes, precision)| {
            ALGORITHMS.map(|algorithm| Candidate { sizes, precision, algorithm })
        })
        .collect();
    let begin = Instant::now();
    for (n, candidate) in candidates.iter().enumerate() {
        (how.progress)(&super::bar(n, candidates.len()));
        let left = how.time.saturating_sub(begin.elapsed()) / (candidates.len() - n) as u32;
        let us = measured(candidate, &alone, device, threads, left.min(MOST_TIME))?;
        let origin =
            format!("partita {} compile --tune: low time of several runs", env!("CARGO_PKG_VERSION"));
        let measurement = Measurement { us, origin, date: how.date.to_owned(), samples: None };
        costs.insert(&device.name, &key(candidate, threads), measurement);
    }
    Ok(Tuned { convolutions: choices.len(), measured: missing.len() })
}

/// Sizes of the convolutions that have a choice, and what they multiply.
fn choices(compiled: &Compiled) -> BTreeSet<(Sizes, Precision)> {
    let mut choices = BTreeSet::new();
    for part in &compiled.parts {
        let hints = symbol_hints(&part.graph, &std::collections::BTreeMap::new());
        let size = |name: &str| hints.get(name).copied();
        for call in part.lowered.iter().flat_map(|l| &l.calls) {
            if call.kernel.string("algorithm").is_some() {
                let launch = Launch::of_call(&part.graph, call, &size, &[]);
                choices.extend(sizes(&launch));
            }
        }
    }
    choices
}

fn sizes(launch: &Launch) -> Option<(Sizes, Precision)> {
    let &[images, height, width, outputs] = launch.output()?.shape.as_slice() else { return None };
    let inputs = *launch.weight()?.shape.get(1)?;
    let rounds = launch.kernel.string("precision") == Some("bf16");
    let precision = if rounds { Precision::Bf16 } else { Precision::F32 };
    Some((Sizes { images, height, width, inputs, outputs }, precision))
}

/// Microseconds of one convolution computed that way.
fn measured(
    candidate: &Candidate,
    machine: &Machine,
    device: &Device,
    threads: u32,
    time: Duration,
) -> Result<f64> {
    let options = CompileOptions {
        precision: candidate.precision,
        threads: Some(threads),
        costs: Some(Arc::new(decided(candidate, device, threads))),
        ..CompileOptions::default()
    };
    let plan = Arc::new(measure::plan(net(&candidate.sizes)?, machine, &options)?);
    let timed = measure::steps(&plan, threads, time)?;
    let of_conv = timed.into_iter().filter(|t: &Timed| t.terms.class.starts_with("conv "));
    let us = quantile(&of_conv.map(|t| t.us).collect::<Vec<_>>(), 0.5);
    // Nanoseconds are more than the clock can tell.
    Ok((us * 1e3).round() / 1e3)
}

/// Costs by which the candidate wins.
fn decided(candidate: &Candidate, device: &Device, threads: u32) -> CostTable {
    let mut costs = CostTable::default();
    for algorithm in ALGORITHMS {
        let us = if algorithm == candidate.algorithm { 1.0 } else { 2.0 };
        let measurement = Measurement { us, origin: String::new(), date: String::new(), samples: None };
        costs.insert(&device.name, &key(&Candidate { algorithm, ..*candidate }, threads), measurement);
    }
    costs
}

/// Convolutions of one operand, channels last, with weights of their own.
fn net(sizes: &Sizes) -> Result<Graph> {
    let Sizes { images, height, width, inputs, outputs } = *sizes;
    let bytes = 9 * inputs * outputs * size_of::<f32>();
    let copies = (WEIGHT_BYTES / bytes.max(1)).clamp(1, MOST_COPIES);
    let mut net = Net::new("tune");
    let x = net.input(&[images, height, width, inputs]);
    for _ in 0..copies {
        let weight = net.weight(&[outputs, inputs, 3, 3], 9 * inputs);
        let attrs = Attrs::new().with("pads", vec![1i64; 4]).with("layout", "nhwc");
        let y = net.op("conv", attrs, &[x, weight])?;
        let y = net.plain("relu", &[y])?;
        net.output(y);
    }
    Ok(net.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let mut net = Net::new("two");
        let x = net.input(&[1, 20, 12, 12]);
        let mut y = x;
        for _ in 0..2 {
            let weight = net.weight(&[20, 20, 3, 3], 180);
            y = net.op("conv", Attrs::new().with("pads", vec![1i64; 4]), &[y, weight]).unwrap();
        }
        net.output(y);
        Model { graph: net.finish(), onnx: None }
    }

    #[test]
    fn what_was_measured_decides_and_is_measured_once() {
        let machine = crate::devices::detected(false).unwrap();
        let how = Tuning { time: Duration::ZERO, date: "2026-01-02", progress: &|_| {} };
        let options = CompileOptions { threads: Some(1), ..CompileOptions::default() };
        let mut costs = CostTable::default();
        let tuned = tune(&model(), &machine, &options, &mut costs, &how).unwrap();
        assert_eq!(tuned, Tuned { convolutions: 1, measured: 1 });
        assert_eq!(costs.len(), ALGORITHMS.len());
        let again = tune(&model(), &machine, &options, &mut costs, &how).unwrap();
        assert_eq!(again, Tuned { convolutions: 1, measured: 0 });
        let least = costs.iter().min_by(|a, b| a.2.us.total_cmp(&b.2.us)).unwrap().1.to_owned();
        let options = CompileOptions { costs: Some(Arc::new(costs)), ..options };
        let compiled = compile(&model(), &machine, &options, &|_| {}).unwrap();
        let mut kernels = compiled.assembly.plan.kernels.iter().filter_map(|k| k.string("algorithm"));
        assert!(kernels.all(|algorithm| least.contains(algorithm)), "{least}");
    }
}
