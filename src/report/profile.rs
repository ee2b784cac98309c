//! Where the time of a run goes: steps as measured, beside what was predicted and what the device could do.
//!
//! Work is counted from the kernels and the sizes at hand, so that it is right for every binding of the symbols;
//! kernels that are not listed here have the operations that the plan says. The limit of a step is the larger of
//! its arithmetic at the device's peak and its bytes at the bandwidth of where they must be. With a cost file predictions
//! are for the sizes at hand too; without one they are those of the plan.

use crate::launch::{Launch, Moved};
use crate::price::{fitted, precision};
use crate::terms::{Terms, footprint_bytes};
use partita_hw::{CostTable, Device, Machine};
use partita_plan::{ElementType, Plan, Step};
use partita_runtime::{Bound, Session, TraceRow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One step, or all steps of a kind.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    /// The kernel with what tells it from others of its library, as `conv 3x3`.
    pub kernel: String,
    pub device: String,
    pub steps: usize,
    /// Median over the runs.
    pub time_us: f64,
    pub predicted_us: f64,
    /// A multiply-add is two.
    pub flops: f64,
    /// Read and written, weights included.
    pub bytes: f64,
    /// The least time the device could take; 0 when nobody knows its rates.
    pub limit_us: f64,
}

/// Where the time went.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// In the order of the plan.
    pub steps: Vec<Row>,
    /// Median of whole traced runs.
    pub run_us: f64,
    pub runs: usize,
    /// The rates behind the limits, in words.
    pub limits: Vec<String>,
}

impl Profile {
    /// A profile from the traces of some runs.
    pub fn new(
        session: &Session,
        machine: &Machine,
        costs: Option<&CostTable>,
        runs: &[Vec<TraceRow>],
    ) -> Self {
        let plan = session.plan();
        let Some(bound) = session.bound() else { return Self::default() };
        let rates: Vec<Option<Rates>> = plan.devices.iter().map(|d| Rates::of(machine, d, bound)).collect();
        let footprint = touched(plan, bound);
        let mut steps = Vec::new();
        for queue in &plan.queues {
            let rates = rates[queue.device as usize].as_ref();
            for step in &queue.steps {
                let mut row = measured(plan, bound, step, rates);
                if let (Some(rates), Some(costs), false) = (rates, costs, queue.copies) {
                    let us = predicted((plan, bound), step, (rates.device, rates.threads), costs, footprint);
                    row.predicted_us = us.unwrap_or(row.predicted_us);
                }
                row.device = plan.devices[queue.device as usize].name.clone();
                if queue.copies {
                    (row.kernel, row.flops, row.limit_us) = ("transfer".to_owned(), 0.0, 0.0);
                }
                let spans = runs.iter().filter_map(|run| run.get(steps.len()));
                row.time_us = median(spans.map(|span| span.end_us - span.start_us).collect());
                steps.push(row);
            }
        }
        let limits = rates.iter().flatten().map(Rates::sentence).collect();
        let last = |run: &Vec<TraceRow>| run.iter().map(|row| row.end_us).fold(0.0, f64::max);
        Self { steps, run_us: median(runs.iter().map(last).collect()), runs: runs.len(), limits }
    }

    /// The steps summed by kernel, the costliest first.
    pub fn kernels(&self) -> Vec<Row> {
        let mut sums: BTreeMap<(&str, &str), Row> = BTreeMap::new();
        for row in &self.steps {
            let sum = sums.entry((&row.kernel, &row.device)).or_insert_with(|| Row {
                kernel: row.kernel.clone(),
                device: row.device.clone(),
                ..Row::default()
            });
            sum.add(row);
        }
        let mut rows: Vec<Row> = sums.into_values().collect();
        rows.sort_by(|a, b| b.time_us.total_cmp(&a.time_us));
        rows
    }

    /// All steps as one.
    pub fn total(&self) -> Row {
        let mut sum = Row { kernel: "all steps".to_owned(), ..Row::default() };
        self.steps.iter().for_each(|row| sum.add(row));
        sum
    }

    /// Two tables: by kernel, then step by step.
    pub fn text(&self) -> String {
        let mut out = format!("profile of {} traced runs, medians; {}\n", self.runs, self.limits.join("; "));
        let total = self.total();
        let head = format!(
            "{:>10} {:>6} {:>9} {:>9} {:>8} {:>7} {:>6} {:>9} {:>6}",
            "us", "share", "MFLOP", "kB", "GFLOP/s", "GB/s", "limit", "predicted", "ratio"
        );
        let _ = writeln!(out, "{head} {:>5}  kernel", "steps");
        for row in self.kernels().iter().chain([&total]) {
            let _ = writeln!(out, "{} {:>5}  {}", row.figures(total.time_us), row.steps, row.kernel);
        }
        let between = self.run_us - total.time_us;
        let _ = writeln!(out, "{:>10.2} the whole run, {between:.2} outside of steps", self.run_us);
        let _ = writeln!(out, "\n{head}  {:<20} step", "kernel");
        for row in &self.steps {
            let _ = writeln!(out, "{}  {:<20} {}", row.figures(total.time_us), row.kernel, row.name);
        }
        out
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let total = self.total();
        let rows = |rows: &[Row]| -> Value { rows.iter().map(|r| r.json(total.time_us)).collect() };
        json!({
            "runs": self.runs, "run_us": self.run_us, "limits": self.limits,
            "total": total.json(total.time_us), "kernels": rows(&self.kernels()), "steps": rows(&self.steps),
        })
    }
}

impl Row {
    fn add(&mut self, row: &Row) {
        self.steps += row.steps;
        self.time_us += row.time_us;
        self.predicted_us += row.predicted_us;
        self.flops += row.flops;
        self.bytes += row.bytes;
        self.limit_us += row.limit_us;
    }

    /// Per thousand microseconds: giga per second.
    fn rate(&self, amount: f64) -> f64 {
        if self.time_us > 0.0 { amount / self.time_us / 1e3 } else { 0.0 }
    }

    fn percent_of_limit(&self) -> Option<f64> {
        (self.limit_us > 0.0 && self.time_us > 0.0).then(|| 100.0 * self.limit_us / self.time_us)
    }

    /// Predicted over measured.
    fn ratio(&self) -> Option<f64> {
        (self.time_us > 0.0).then(|| self.predicted_us / self.time_us)
    }

    fn figures(&self, total_us: f64) -> String {
        let share = 100.0 * self.time_us / total_us.max(f64::MIN_POSITIVE);
        let limit = self.percent_of_limit().map_or("-".to_owned(), |p| format!("{p:.0} %"));
        let ratio = self.ratio().map_or("-".to_owned(), |r| format!("{r:.2}"));
        format!(
            "{:>10.2} {share:>4.1} % {:>9.3} {:>9.1} {:>8.1} {:>7.1} {limit:>6} {:>9.2} {ratio:>6}",
            self.time_us,
            self.flops / 1e6,
            self.bytes / 1e3,
            self.rate(self.flops),
            self.rate(self.bytes),
            self.predicted_us
        )
    }

    fn json(&self, total_us: f64) -> Value {
        json!({
            "name": self.name, "kernel": self.kernel, "device": self.device, "steps": self.steps,
            "time_us": self.time_us, "share": self.time_us / total_us.max(f64::MIN_POSITIVE),
            "flops": self.flops, "bytes": self.bytes,
            "gflops": self.rate(self.flops), "gbs": self.rate(self.bytes),
            "limit_us": self.limit_us, "percent_of_limit": self.percent_of_limit(),
            "predicted_us": self.predicted_us, "predicted_over_measured": self.ratio(),
        })
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// What a device of the plan could do at best.
struct Rates<'a> {
    device: &'a Device,
    /// Share of the device's arithmetic that the plan's threads have.
    share: f64,
    threads: u32,
    /// Whether weights, and whether the rest, stay in the last-level cache from run to run.
    weights_cached: bool,
    arena_cached: bool,
}

impl<'a> Rates<'a> {
    fn of(machine: &'a Machine, device: &partita_plan::Device, bound: &Bound) -> Option<Self> {
        let found = &machine.devices[machine.device(&device.name)?];
        let at = bound.plan.devices.iter().position(|d| d.name == device.name)?;
        let arena = bound.arena_bytes.get(at).copied().unwrap_or(0) as f64;
        let cache = found.last_level_cache_bytes().unwrap_or(0) as f64;
        let threads = device.threads.max(1);
        let cores = found.cores.or(found.threads).unwrap_or(threads).max(1);
        let share = if device.threads == 0 { 1.0 } else { f64::from(threads.min(cores)) / f64::from(cores) };
        let weights_cached = arena + bound.plan.weight_bytes as f64 <= cache;
        Some(Self { device: found, share, threads, weights_cached, arena_cached: arena <= cache })
    }

    fn tflops(&self, dtype: ElementType) -> Option<f64> {
        Some(self.device.dense_rate(precision(dtype))?.tflops * self.share)
    }

    fn limit_us(&self, dtype: ElementType, flops: f64, bytes: f64, weights: f64) -> f64 {
        let (Some(tflops), Some(per_us)) = (self.tflops(dtype), self.device.bandwidth_bytes_per_us()) else {
            return 0.0;
        };
        let gain = |cached: bool| if cached { partita_hw::CACHE_OVER_MEMORY } else { 1.0 };
        let weights_us = weights / (per_us * gain(self.weights_cached));
        let others_us = (bytes - weights) / (per_us * gain(self.arena_cached));
        (flops / (tflops * 1e6)).max(weights_us + others_us)
    }

    fn sentence(&self) -> String {
        let gflops = self.tflops(ElementType::F32).unwrap_or(0.0) * 1e3;
        let gbs = self.device.bandwidth_bytes_per_us().unwrap_or(0.0) / 1e3;
        let cached = match (self.weights_cached, self.arena_cached) {
            (true, _) => format!(", x {} for what stays in cache: everything", partita_hw::CACHE_OVER_MEMORY),
            (_, true) => {
                format!(", x {} for what stays in cache: all but weights", partita_hw::CACHE_OVER_MEMORY)
            }
            _ => String::new(),
        };
        let Self { device, threads, .. } = self;
        format!(
            "limit of {} with {threads} threads: {gflops:.0} GFLOP/s f32, {gbs:.1} GB/s{cached}",
            device.name
        )
    }
}

/// Bytes that a run of the plan touches.
fn touched(plan: &Plan, bound: &Bound) -> f64 {
    let steps = plan.queues.iter().filter(|q| !q.copies).flat_map(|q| &q.steps);
    let terms = steps.filter_map(|step| Some(Terms::of(&Launch::of_step(plan, bound, step)?)));
    footprint_bytes(terms.collect::<Vec<_>>().iter())
}

/// Microseconds of a step by the cost file; `None` where it does not say.
fn predicted(
    (plan, bound): (&Plan, &Bound),
    step: &Step,
    (device, threads): (&Device, u32),
    costs: &CostTable,
    footprint: f64,
) -> Option<f64> {
    let terms = Terms::of(&Launch::of_step(plan, bound, step)?);
    Some(fitted(costs, device, threads, &[terms], footprint)?.0)
}

/// Work, prediction and limit of a step; its time comes from elsewhere.
fn measured(plan: &Plan, bound: &Bound, step: &Step, rates: Option<&Rates>) -> Row {
    let Some(launch) = Launch::of_step(plan, bound, step) else { return Row::default() };
    let stated = step.why.as_ref().map_or(0.0, |w| w.flops);
    let flops = launch.flops().unwrap_or(stated);
    let Moved { total: bytes, weights, .. } = launch.bytes();
    let dtype = launch.output().map_or(ElementType::F32, |o| o.dtype);
    Row {
        name: step.name.clone(),
        kernel: launch.label(),
        steps: 1,
        predicted_us: step.time_us,
        flops,
        bytes,
        limit_us: rates.map_or(0.0, |r| r.limit_us(dtype, flops, bytes, weights)),
        ..Row::default()
    }
}
