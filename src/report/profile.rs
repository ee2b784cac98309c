//! Where the time of a run goes: steps as measured, beside what was predicted and what the device could do.
//!
//! Work is counted from the kernels and the sizes at hand, so that it is right for every binding of the symbols;
//! kernels that are not listed here have the operations that the plan says. The limit of a step is the larger of
//! its arithmetic at the device's peak and its bytes at the bandwidth of where they must be.

use crate::price::precision;
use partita_hw::{Device, Machine};
use partita_plan::{ElementType, Kernel, NO_VALUE, Plan, Step, Storage};
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
    pub fn new(session: &Session, machine: &Machine, runs: &[Vec<TraceRow>]) -> Self {
        let plan = session.plan();
        let Some(bound) = session.bound() else { return Self::default() };
        let rates: Vec<Option<Rates>> = plan.devices.iter().map(|d| Rates::of(machine, d, bound)).collect();
        let mut steps = Vec::new();
        for queue in &plan.queues {
            for step in &queue.steps {
                let mut row = measured(plan, bound, step, rates[queue.device as usize].as_ref());
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

/// Work, prediction and limit of a step; its time comes from elsewhere.
fn measured(plan: &Plan, bound: &Bound, step: &Step, rates: Option<&Rates>) -> Row {
    let unknown = Kernel::default();
    let kernel = plan.kernels.get(step.kernel as usize).unwrap_or(&unknown);
    let sizes = Sizes { bound, step };
    let stated = step.why.as_ref().map_or(0.0, |w| w.flops);
    let flops = sizes.flops(kernel).unwrap_or(stated);
    let (bytes, weights) = sizes.bytes(kernel);
    let dtype = step.outputs.first().map_or(0, |&v| plan.values[v as usize].dtype);
    let dtype = ElementType::try_from(dtype).unwrap_or(ElementType::F32);
    Row {
        name: step.name.clone(),
        kernel: sizes.label(kernel),
        steps: 1,
        predicted_us: step.time_us,
        flops,
        bytes,
        limit_us: rates.map_or(0.0, |r| r.limit_us(dtype, flops, bytes, weights)),
        ..Row::default()
    }
}

/// The sizes of a step's operands and results.
struct Sizes<'a> {
    bound: &'a Bound,
    step: &'a Step,
}

impl Sizes<'_> {
    fn input(&self, index: usize) -> Option<&[usize]> {
        let value = *self.step.inputs.get(index)?;
        self.bound.shapes.get(value as usize).map(Vec::as_slice)
    }

    fn output(&self) -> Option<&[usize]> {
        self.bound.shapes.get(*self.step.outputs.first()? as usize).map(Vec::as_slice)
    }

    /// Operations of the kernels that matter; `None` for others.
    fn flops(&self, kernel: &Kernel) -> Option<f64> {
        let count = |shape: &[usize]| shape.iter().map(|&d| d as f64).product::<f64>();
        let back = |shape: &[usize], n: usize| shape.len().checked_sub(n).map(|at| shape[at] as f64);
        let out = count(self.output()?);
        match kernel.library.as_str() {
            "tile" => Some(out * kernel.program.as_ref()?.instrs.len() as f64),
            "gemm" => {
                let a = self.input(0)?;
                let transposed = kernel.int("trans_a").is_some_and(|t| t != 0);
                Some(2.0 * out * back(a, if transposed { 2 } else { 1 })?)
            }
            "conv" => {
                let w = self.input(1)?;
                Some(2.0 * out * count(w.get(1..)?))
            }
            "conv_transpose" => {
                let w = self.input(1)?;
                Some(2.0 * count(self.input(0)?) * count(w.get(1..)?))
            }
            "attention" => {
                let (q, v) = (self.input(0)?, self.input(2)?);
                Some(2.0 * (count(q) + out) * back(v, 2)?)
            }
            _ => None,
        }
    }

    /// Bytes read and written, and those of them that are weights. What only picks from its first operand reads
    /// as much as it writes.
    fn bytes(&self, kernel: &Kernel) -> (f64, f64) {
        let size = |&v: &u32| self.bound.sizes_bytes.get(v as usize).map_or(0.0, |&b| b as f64);
        let written: f64 = self.step.outputs.iter().map(size).sum();
        let picks = matches!(kernel.library.as_str(), "gather" | "slice");
        let (mut read, mut weights) = (0.0, 0.0);
        for (at, value) in self.step.inputs.iter().enumerate() {
            if *value == NO_VALUE || self.step.inputs[..at].contains(value) {
                continue;
            }
            let bytes = if picks && at == 0 { size(value).min(written) } else { size(value) };
            let weight = self.bound.plan.values.get(*value as usize);
            read += bytes;
            weights += if weight.is_some_and(|v| v.storage() == Storage::Weight) { bytes } else { 0.0 };
        }
        (read + written, weights)
    }

    /// The kernel's name with what tells its steps apart.
    fn label(&self, kernel: &Kernel) -> String {
        let library = kernel.library.as_str();
        let detail = match library {
            "conv" | "conv_transpose" => self.window(kernel),
            "reference" => kernel.string("op").map(str::to_owned),
            "pool" | "reduce" => kernel.string("mode").map(str::to_owned),
            _ => None,
        };
        detail.map_or(library.to_owned(), |detail| format!("{library} {detail}"))
    }

    /// `3x3`, with `/2` for strides and the word for one channel per group.
    fn window(&self, kernel: &Kernel) -> Option<String> {
        let w = self.input(1)?;
        let sizes: Vec<String> = w.get(2..)?.iter().map(ToString::to_string).collect();
        let stride = kernel.ints("strides").iter().copied().max().unwrap_or(1);
        let stride = if stride > 1 { format!("/{stride}") } else { String::new() };
        let groups = kernel.int("group").unwrap_or(1);
        let groups = match groups {
            1 => "",
            _ if w[1] == 1 => " depthwise",
            _ => " grouped",
        };
        Some(format!("{}{stride}{groups}", sizes.join("x")))
    }
}
