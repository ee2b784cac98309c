//! Measures what kernels cost on the running CPU, and writes it down as a few costs per class of kernels.
//!
//! Small nets of the usual families and single operators (`nets`, `parts`) are compiled as any model is, run, and every
//! step of them timed (`measure`). Steps are sorted into classes and described by amounts (`crate::terms`), and each class
//! gets the costs that explain its times best (`crate::fit`). Nets of other sizes, not fitted to, say how well that works.
//! Whatever kernels become: measuring again is all it takes.

mod measure;
mod nets;
mod parts;
mod sets;
pub mod tune;

use crate::error::{Error, Result};
use crate::fit::{self, Sample, quantile};
use crate::pipeline::CompileOptions;
use crate::terms::{Caches, footprint_bytes};
use measure::Timed;
use partita_hw::{CostTable, Device, Driver, Machine};
use sets::Probe;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Visits to every net; the better one counts, so that a disturbance must last to be believed.
const VISITS: usize = 2;

/// Shares of the last cache that may turn out to be kept: virtual machines see the whole of one that others use too.
const FAR_SHARES: [f64; 6] = [0.15, 0.3, 0.45, 0.6, 0.75, 1.0];

/// What was measured.
pub struct Calibration {
    pub costs: CostTable,
    /// How well it fits, for people.
    pub report: String,
}

/// How to measure.
pub struct Calibrating<'a> {
    /// Thread counts, each measured.
    pub threads: &'a [u32],
    pub time: Duration,
    /// Today, as year-month-day.
    pub date: &'a str,
    pub progress: &'a dyn Fn(&str),
}

/// A compiled probe.
struct Ready {
    plan: Arc<Vec<u8>>,
    held: bool,
}

/// Measures the CPU of `machine`, on which this runs.
///
/// # Errors
/// `M022` when the machine has no CPU; what compiling and running say.
pub fn calibrate(machine: &Machine, how: &Calibrating) -> Result<Calibration> {
    measured(machine, how, &sets::all())
}

fn measured(machine: &Machine, how: &Calibrating, probes: &[Probe]) -> Result<Calibration> {
    let device = machine.devices.iter().find(|d| d.driver == Driver::Cpu);
    let device = device.ok_or_else(|| {
        Error::new("M022", "the machine has no CPU to measure", "see what partita devices lists")
    })?;
    let begin = Instant::now();
    let ready = compiled(machine, how, probes)?;
    let mut times = BTreeMap::new();
    let visits = VISITS * how.threads.len() * ready.len();
    for visit in 0..visits {
        let (probe, threads) = (visit % ready.len(), how.threads[visit / ready.len() % how.threads.len()]);
        (how.progress)(&bar(visit, visits));
        let left = how.time.saturating_sub(begin.elapsed()) / (visits - visit) as u32;
        let timed = measure::steps(&ready[probe].plan, threads, left)?;
        merge(times.entry((threads, probe)).or_default(), timed);
    }
    let of = |threads: u32, held: bool, far_bytes: f64| -> Vec<Sample> {
        let kept = times.iter().filter(|((t, probe), _)| *t == threads && ready[*probe].held == held);
        kept.flat_map(|(_, timed)| samples(timed, device, far_bytes)).collect()
    };
    let far_bytes = kept_far(device, &|far_bytes| of(how.threads[0], false, far_bytes));
    let mut costs = CostTable::default();
    costs.processor.clone_from(&device.title);
    costs.far_bytes = Some(far_bytes);
    let mut report = String::new();
    for &threads in how.threads {
        let (fitted_to, held) = (of(threads, false, far_bytes), of(threads, true, far_bytes));
        fitted(device, threads, (&fitted_to, &held), how.date, &mut costs, &mut report);
    }
    Ok(Calibration { costs, report })
}

/// Bytes that the last cache keeps: those that explain the times on one thread best.
fn kept_far(device: &Device, samples: &dyn Fn(f64) -> Vec<Sample>) -> f64 {
    let last = device.last_level_cache_bytes().unwrap_or(16 << 20) as f64;
    let error = |share: &f64| -> f64 {
        let samples = samples(share * last);
        let fits = by_class(&samples).into_values().filter_map(|samples| fit::fit(&samples, 1));
        fits.flat_map(|(_, errors)| errors).map(|e| e.min(1.0)).sum()
    };
    let best = FAR_SHARES.iter().min_by(|a, b| error(a).total_cmp(&error(b)));
    best.copied().unwrap_or(1.0) * last
}

fn by_class(samples: &[Sample]) -> BTreeMap<&str, Vec<&Sample>> {
    let mut classes: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    samples.iter().for_each(|s| classes.entry(&s.terms.class).or_default().push(s));
    classes
}

fn compiled(machine: &Machine, how: &Calibrating, probes: &[Probe]) -> Result<Vec<Ready>> {
    let one = |(n, probe): (usize, &Probe)| {
        (how.progress)(&format!("compiling net {} of {}", n + 1, probes.len()));
        let options = CompileOptions { precision: probe.precision, ..CompileOptions::default() };
        Ok(Ready { plan: Arc::new(measure::plan(probe.build()?, machine, &options)?), held: probe.held })
    };
    probes.iter().enumerate().map(one).collect()
}

/// `measuring [######....] 60 %`.
fn bar(done: usize, of: usize) -> String {
    const WIDTH: usize = 30;
    let filled = WIDTH * done / of.max(1);
    format!("measuring [{}{}] {} %", "#".repeat(filled), ".".repeat(WIDTH - filled), 100 * done / of.max(1))
}

/// Keeps the shorter time of each step.
fn merge(kept: &mut Vec<Timed>, other: Vec<Timed>) {
    if kept.is_empty() {
        *kept = other;
    } else {
        kept.iter_mut().zip(other).for_each(|(a, b)| a.us = a.us.min(b.us));
    }
}

fn samples(timed: &[Timed], device: &Device, far_bytes: f64) -> Vec<Sample> {
    let footprint = footprint_bytes(timed.iter().map(|t| &t.terms));
    let caches = Caches::of(device, Some(far_bytes), footprint);
    timed.iter().map(|t| Sample { terms: t.terms.clone(), caches, us: t.us }).collect()
}

/// Fits every class for one number of threads, and says how well.
fn fitted(
    device: &Device,
    threads: u32,
    (measured, held): (&[Sample], &[Sample]),
    date: &str,
    costs: &mut CostTable,
    report: &mut String,
) {
    let (mut all, mut others) = (Vec::new(), Vec::new());
    let head = format!("{threads} threads");
    let _ = writeln!(report, "{head:<38} launches  median     90 %   held out  median");
    for (class, samples) in by_class(measured) {
        let Some((mut fit, errors)) = fit::fit(&samples, threads) else { continue };
        let of_class = held.iter().filter(|s| s.terms.class == class);
        let apart: Vec<f64> = of_class.map(|s| fit::error(&fit, s, threads)).collect();
        let (median, most) = (quantile(&errors, 0.5), quantile(&errors, 0.9));
        let _ = writeln!(
            report,
            "  {class:<36} {:>8} {:>5.1} % {:>6.1} % {:>10} {:>5.1} %",
            errors.len(),
            100.0 * median,
            100.0 * most,
            apart.len(),
            100.0 * quantile(&apart, 0.5)
        );
        fit.origin = format!(
            "partita {} calibrate: median error {:.1} %, 90 % within {:.1} %",
            env!("CARGO_PKG_VERSION"),
            100.0 * median,
            100.0 * most
        );
        date.clone_into(&mut fit.date);
        costs.insert_fit(&device.name, class, threads, fit);
        all.extend(errors);
        others.extend(apart);
    }
    for (what, errors) in [("fitted", all), ("held out", others)] {
        let (median, most) = (100.0 * quantile(&errors, 0.5), 100.0 * quantile(&errors, 0.9));
        let _ = writeln!(
            report,
            "  {what}: {} launches, median error {median:.1} %, 90 % within {most:.1} %",
            errors.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::nets::Family;
    use crate::calibrate::parts::Part;

    #[test]
    fn small_nets_are_measured_and_written_down() {
        let mobile = Family::Mobile { side: 8, width: 8, kernel: 3, squeeze: true, activation: "hard_swish" };
        let encoder = Family::Encoder { tokens: 20, width: 32, heads: 2, layers: 1 };
        let mut probes: Vec<Probe> = [mobile, encoder].map(|net| Probe::net(net, false)).into();
        probes.extend(Part::of_rows((3, 64, 4)).into_iter().map(|part| Probe::part(part, true)));
        let machine = crate::devices::detected(false).unwrap();
        let how =
            Calibrating { threads: &[1, 2], time: Duration::ZERO, date: "2026-01-02", progress: &|_| {} };
        let Calibration { costs, report } = measured(&machine, &how, &probes).unwrap();
        for class in ["gemm", "conv depthwise nhwc", "attention", "layer_norm"] {
            let fit = costs.fit("cpu0", class, 2).unwrap_or_else(|| panic!("no {class}: {report}"));
            assert!(fit.samples > 0 && fit.date == "2026-01-02");
            assert!(fit.ns.values().all(|ns| *ns > 0.0 && ns.is_finite()), "{fit:?}");
        }
        let again = CostTable::parse("costs.toml", &costs.to_toml()).unwrap();
        assert_eq!(again, costs);
        assert!(report.contains("held out"), "{report}");
    }
}
