//! Integer programs for both objectives, on the neutral form of `milp.rs`.
//!
//! Common part: one binary per unit and candidate device, one row per unit, memory rows, and for equal devices
//! "the i-th heaviest unit uses one of the first i". Communication is `recv[tensor, b] >= reader on b - producer
//! on b`, split over source devices by `wire[tensor, a, b] <= producer on a`. Under endpoint costs one `cut`
//! variable per flow and charged device does. Latency adds start times and one order binary per pair that could
//! meet on a device or link; it is for very small problems only (the big-M rows give weak bounds).

use crate::load::LoadModel;
use crate::milp::Milp;
use crate::problem::Problem;
use crate::units::Units;
use std::collections::BTreeMap;

const INF: f64 = f64::INFINITY;

/// A program and which column stands for which unit on which device.
#[derive(Debug, Clone)]
pub(crate) struct PlacementProgram {
    pub(crate) milp: Milp,
    on: BTreeMap<(usize, usize), usize>,
}

impl PlacementProgram {
    fn new(p: &Problem, units: &Units) -> Self {
        let mut program = PlacementProgram { milp: Milp::default(), on: BTreeMap::new() };
        for (u, candidates) in units.candidates.iter().enumerate() {
            for &d in candidates {
                let column = program.milp.column(0.0, 1.0, 0.0, true);
                program.on.insert((u, d), column);
            }
            let terms = candidates.iter().map(|&d| (program.on[&(u, d)], 1.0)).collect();
            program.milp.row(1.0, 1.0, terms);
        }
        for (d, device) in p.devices.iter().enumerate() {
            let Some(room) = device.memory_bytes else { continue };
            let sizes = units.memory_bytes.iter().enumerate().filter(|(_, m)| **m > 0);
            let scale = (room as f64).max(1.0);
            let terms = sizes.filter_map(|(u, &m)| Some((program.get(u, d)?, m as f64 / scale))).collect();
            program.milp.row(-INF, room as f64 / scale, terms);
        }
        program
    }

    fn get(&self, u: usize, d: usize) -> Option<usize> {
        self.on.get(&(u, d)).copied()
    }

    /// `sign` times "unit `u` is on `d`", nothing when it cannot be.
    fn term(&self, u: usize, d: usize, sign: f64) -> Option<(usize, f64)> {
        self.get(u, d).map(|c| (c, sign))
    }

    /// The placement in a solution's values.
    pub(crate) fn read(&self, units: &Units, values: &[f64]) -> Vec<usize> {
        let value = |u: usize, d: usize| self.get(u, d).and_then(|c| values.get(c)).copied().unwrap_or(0.0);
        let better = |u: usize| move |a: usize, b: usize| if value(u, b) > value(u, a) { b } else { a };
        units
            .candidates
            .iter()
            .enumerate()
            .map(|(u, c)| c.iter().copied().reduce(better(u)).unwrap_or(0))
            .collect()
    }

    /// Forbids all but the first `i` equal devices to the i-th heaviest unit.
    fn break_symmetry(&mut self, p: &Problem, units: &Units) {
        for class in equal_devices(p, units) {
            for (i, &u) in heaviest(units, class[0]).iter().enumerate().take(class.len()) {
                for &d in &class[i + 1..] {
                    if let Some(c) = self.get(u, d) {
                        self.milp.columns[c].upper = 0.0;
                    }
                }
            }
        }
    }

    /// `recv` and `wire` columns of one producer's tensor: for each device the wires into it, by source.
    fn transport(
        &mut self,
        k: usize,
        producer: usize,
        consumers: &[usize],
    ) -> BTreeMap<(usize, usize), usize> {
        let mut wires = BTreeMap::new();
        for b in 0..k {
            if consumers.iter().all(|&c| self.get(c, b).is_none()) {
                continue;
            }
            let mut into = Vec::new();
            for a in (0..k).filter(|&a| a != b) {
                let Some(source) = self.get(producer, a) else { continue };
                let wire = self.milp.column(0.0, 1.0, 0.0, false);
                self.milp.row(-INF, 0.0, vec![(wire, 1.0), (source, -1.0)]);
                wires.insert((a, b), wire);
                into.push((wire, 1.0));
            }
            for &c in consumers {
                let Some(reader) = self.get(c, b) else { continue };
                let mut terms = into.clone();
                terms.push((reader, -1.0));
                terms.extend(self.term(producer, b, 1.0));
                self.milp.row(0.0, INF, terms);
            }
        }
        wires
    }
}

/// Classes of at least two exchangeable devices.
fn equal_devices(p: &Problem, units: &Units) -> Vec<Vec<usize>> {
    let class = units.device_classes(p);
    (0..p.devices.len())
        .map(|d| (0..p.devices.len()).filter(|&e| class[e] == d).collect::<Vec<usize>>())
        .filter(|c| c.len() > 1)
        .collect()
}

/// Units that may run on `d`, heaviest first.
fn heaviest(units: &Units, d: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..units.len()).filter(|&u| units.time_us[u][d].is_finite()).collect();
    order.sort_by(|&a, &b| units.time_us[b][d].total_cmp(&units.time_us[a][d]).then(a.cmp(&b)));
    order
}

/// Renames equal devices so that the heaviest units use them in order, as the program demands.
pub(crate) fn canonical(p: &Problem, units: &Units, device_of_unit: &[usize]) -> Vec<usize> {
    let mut device = device_of_unit.to_vec();
    for class in equal_devices(p, units) {
        let mut name: BTreeMap<usize, usize> = BTreeMap::new();
        for u in heaviest(units, class[0]) {
            let (d, next) = (device_of_unit[u], name.len());
            if class.contains(&d) {
                name.entry(d).or_insert_with(|| class[next]);
            }
        }
        for d in &mut device {
            *d = name.get(d).copied().unwrap_or(*d);
        }
    }
    device
}

/// The bottleneck program for values up to `horizon`, started from a placement when endpoints pay.
pub(crate) fn bottleneck(model: &LoadModel<'_>, start: Option<&[usize]>, horizon: f64) -> PlacementProgram {
    let (p, units) = (model.problem, model.units);
    let mut program = PlacementProgram::new(p, units);
    program.break_symmetry(p, units);
    let most = program.milp.column(0.0, horizon, 1.0, false);
    let mut load: Vec<Vec<(usize, f64)>> = vec![vec![(most, -1.0)]; model.k];
    for (&(u, d), &c) in &program.on {
        load[d].push((c, units.time_us[u][d]));
    }
    let mut cuts = Vec::new();
    if model.endpoints_pay() {
        cuts = endpoint_cuts(model, &mut program, &mut load);
    } else {
        link_rows(model, &mut program, most);
    }
    for terms in load {
        program.milp.row(-INF, 0.0, terms);
    }
    if let (Some(start), true) = (start, model.endpoints_pay()) {
        let start = canonical(p, units, start);
        program.milp.start = Some(start_values(model, &program, &start, most, &cuts));
    }
    program
}

/// One `cut` column per flow and charged device: at least the difference of producer and each reader there.
fn endpoint_cuts(
    model: &LoadModel<'_>,
    program: &mut PlacementProgram,
    load: &mut [Vec<(usize, f64)>],
) -> Vec<(usize, usize, usize)> {
    let mut cuts = Vec::new();
    for (f, flow) in model.units.flows.iter().enumerate().filter(|(_, flow)| flow.cost_us > 0.0) {
        for d in (0..model.k).filter(|&d| model.is_charged(d)) {
            let cut = program.milp.column(0.0, 1.0, 0.0, false);
            cuts.push((f, d, cut));
            load[d].push((cut, flow.cost_us));
            for &c in &flow.consumers {
                for sign in [1.0, -1.0] {
                    let mut terms = vec![(cut, 1.0)];
                    terms.extend(program.term(c, d, -sign));
                    terms.extend(program.term(flow.producer, d, sign));
                    program.milp.row(0.0, INF, terms);
                }
            }
        }
    }
    cuts
}

/// Link loads at most the bottleneck; wires without a path are forbidden.
fn link_rows(model: &LoadModel<'_>, program: &mut PlacementProgram, most: usize) {
    let mut busy: BTreeMap<(usize, usize), Vec<(usize, f64)>> = BTreeMap::new();
    for flow in &model.units.flows {
        for ((a, b), wire) in program.transport(model.k, flow.producer, &flow.consumers) {
            if model.problem.links[a][b].is_none() {
                program.milp.columns[wire].upper = 0.0;
            } else {
                busy.entry((a, b)).or_default().push((wire, model.link_us(flow, a, b)));
            }
        }
    }
    for (_, mut terms) in busy {
        terms.push((most, -1.0));
        program.milp.row(-INF, 0.0, terms);
    }
}

fn start_values(
    model: &LoadModel<'_>,
    program: &PlacementProgram,
    device: &[usize],
    most: usize,
    cuts: &[(usize, usize, usize)],
) -> Vec<f64> {
    let mut values = vec![0.0; program.milp.columns.len()];
    for (&(u, d), &c) in &program.on {
        values[c] = f64::from(u8::from(device[u] == d));
    }
    for &(f, d, cut) in cuts {
        let flow = &model.units.flows[f];
        let at_home = device[flow.producer] == d;
        let crossed = flow.consumers.iter().any(|&c| (device[c] == d) != at_home);
        values[cut] = f64::from(u8::from(crossed));
    }
    values[most] = model.value(device).unwrap_or(0.0);
    values
}

/// The latency program: start times, transfers, and an order for every pair that could meet.
pub(crate) fn latency(p: &Problem, units: &Units, horizon: f64) -> PlacementProgram {
    let mut program = PlacementProgram::new(p, units);
    let end = program.milp.column(0.0, horizon, 1.0, false);
    let start: Vec<usize> =
        (0..p.tasks.len()).map(|_| program.milp.column(0.0, horizon, 0.0, false)).collect();
    let mut builder = LatencyRows { p, units, program, start, horizon, sent: Vec::new() };
    for t in 0..p.tasks.len() {
        let mut terms = vec![(end, 1.0), (builder.start[t], -1.0)];
        terms.extend(builder.time_terms(t, -1.0));
        builder.program.milp.row(0.0, INF, terms);
    }
    for x in 0..p.tensors.len() {
        builder.tensor(x);
    }
    builder.device_orders();
    builder.link_orders();
    builder.program
}

/// A transfer column set: tensor, source, destination, the wire column and the start column.
#[derive(Debug, Clone, Copy)]
struct Sent {
    tensor: usize,
    from: usize,
    to: usize,
    wire: usize,
    start: usize,
}

struct LatencyRows<'a> {
    p: &'a Problem,
    units: &'a Units,
    program: PlacementProgram,
    start: Vec<usize>,
    horizon: f64,
    sent: Vec<Sent>,
}

impl LatencyRows<'_> {
    /// `sign` times the task's time, as terms on its unit's devices.
    fn time_terms(&self, t: usize, sign: f64) -> Vec<(usize, f64)> {
        let unit = self.units.unit_of_task[t];
        let time = |d: usize| Some((self.program.get(unit, d)?, sign * self.p.time_us(t, d)?));
        (0..self.p.devices.len()).filter_map(time).collect()
    }

    fn tensor(&mut self, x: usize) {
        let tensor = &self.p.tensors[x];
        let producer = self.units.unit_of_task[tensor.producer];
        let readers: Vec<usize> = tensor.consumers.iter().map(|&c| self.units.unit_of_task[c]).collect();
        for &c in &tensor.consumers {
            let mut terms = vec![(self.start[c], 1.0), (self.start[tensor.producer], -1.0)];
            terms.extend(self.time_terms(tensor.producer, -1.0));
            self.program.milp.row(0.0, INF, terms);
        }
        let wires = self.program.transport(self.p.devices.len(), producer, &readers);
        let mut start_of: BTreeMap<usize, usize> = BTreeMap::new();
        for (&(from, to), &wire) in &wires {
            if self.p.transfer_us(x, from, to).is_none() {
                self.program.milp.columns[wire].upper = 0.0;
                continue;
            }
            let milp = &mut self.program.milp;
            let start = *start_of.entry(to).or_insert_with(|| milp.column(0.0, self.horizon, 0.0, false));
            self.sent.push(Sent { tensor: x, from, to, wire, start });
        }
        for (&to, &start) in &start_of {
            self.arrival(x, to, start);
        }
    }

    /// The transfer starts after the producer; readers on `to` start after it ends.
    fn arrival(&mut self, x: usize, to: usize, start: usize) {
        let tensor = &self.p.tensors[x];
        let mut terms = vec![(start, 1.0), (self.start[tensor.producer], -1.0)];
        terms.extend(self.time_terms(tensor.producer, -1.0));
        self.program.milp.row(0.0, INF, terms);
        let into: Vec<Sent> = self.sent.iter().copied().filter(|s| s.tensor == x && s.to == to).collect();
        let producer = self.units.unit_of_task[tensor.producer];
        for &c in &tensor.consumers {
            let Some(here) = self.program.get(self.units.unit_of_task[c], to) else { continue };
            // Only binds when the reader is on `to` and the producer is not.
            let mut terms = vec![(self.start[c], 1.0), (start, -1.0), (here, -self.horizon)];
            terms.extend(self.program.term(producer, to, self.horizon));
            for s in &into {
                terms.push((s.wire, -self.p.transfer_us(x, s.from, s.to).unwrap_or(0.0)));
            }
            self.program.milp.row(-self.horizon, INF, terms);
        }
    }

    /// For every pair of tasks that could share a device: one before the other when they do.
    fn device_orders(&mut self) {
        let n = self.p.tasks.len();
        for (u, v) in (0..n).flat_map(|u| (u + 1..n).map(move |v| (u, v))) {
            let (a, b) = (self.units.unit_of_task[u], self.units.unit_of_task[v]);
            let shared: Vec<(usize, usize)> = (0..self.p.devices.len())
                .filter_map(|d| Some((self.program.get(a, d)?, self.program.get(b, d)?)))
                .collect();
            if shared.is_empty() {
                continue;
            }
            let first = self.program.milp.column(0.0, 1.0, 0.0, true);
            for (on_u, on_v) in shared {
                self.before(u, v, [on_u, on_v], (first, true));
                self.before(v, u, [on_u, on_v], (first, false));
            }
        }
    }

    /// `u` ends before `v` starts when both are on the device and `first` says so.
    fn before(&mut self, u: usize, v: usize, on: [usize; 2], first: (usize, bool)) {
        let mut terms = vec![(self.start[v], 1.0), (self.start[u], -1.0)];
        terms.extend(self.time_terms(u, -1.0));
        self.guard(terms, on, first);
    }

    /// Relaxes `terms >= 0` unless both switches are one and the order binary agrees.
    fn guard(&mut self, mut terms: Vec<(usize, f64)>, on: [usize; 2], (first, yes): (usize, bool)) {
        // Times and starts are within the horizon each, so twice the horizon switches a row off.
        let big = 2.0 * self.horizon;
        terms.extend(on.map(|c| (c, -big)));
        terms.push((first, if yes { -big } else { big }));
        self.program.milp.row(if yes { -3.0 * big } else { -2.0 * big }, INF, terms);
    }

    fn link_orders(&mut self) {
        let n = self.sent.len();
        for (i, j) in (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))) {
            let (s, t) = (self.sent[i], self.sent[j]);
            if (s.from, s.to) != (t.from, t.to) {
                continue;
            }
            let first = self.program.milp.column(0.0, 1.0, 0.0, true);
            for (a, b, yes) in [(s, t, true), (t, s, false)] {
                let us = self.p.transfer_us(a.tensor, a.from, a.to).unwrap_or(0.0);
                let terms = vec![(b.start, 1.0), (a.start, -1.0), (a.wire, -us)];
                self.guard(terms, [s.wire, t.wire], (first, yes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::improve::Scene;
    use crate::jobs::Shape;
    use crate::milp::{Backend, MilpLimits, MilpStatus};
    use crate::{Limits, Objective, text};

    const LIMITS: MilpLimits = MilpLimits { nodes: 100_000, threads: 1 };
    const ENDPOINT: &str = include_str!("fixtures/endpoint.problem");
    const BRANCHES: &str = include_str!("fixtures/branches.problem");

    fn backends() -> Vec<Backend> {
        let best = Backend::best_available();
        if matches!(best.0, Backend::Microlp) {
            println!("only microlp is tested: {}", best.1);
        }
        vec![Backend::Microlp, best.0]
    }

    /// The program's optimum is the exact search's, on every back end there is.
    #[test]
    fn bottleneck_program_agrees_with_the_search() {
        for input in [ENDPOINT, BRANCHES] {
            let p = text::parse(input).unwrap();
            let units = Units::new(&p);
            let model = LoadModel::new(&p, &units);
            let limits = Limits { highs: false, ..Limits::default() };
            let known = crate::solve(&p, Objective::Bottleneck, &limits).unwrap();
            for backend in backends() {
                let program = bottleneck(&model, None, 1e6);
                let answer = backend.solve(&program.milp, &LIMITS);
                assert_eq!(answer.status, MilpStatus::Optimal, "{}", backend.name());
                let device = program.read(&units, &answer.values.unwrap());
                let value = model.value(&device).unwrap();
                assert!((value - known.value).abs() < 1e-5, "{}: {value} {}", backend.name(), known.value);
                assert!((answer.bound - known.value).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn latency_program_agrees_with_the_search() {
        let p = text::parse(ENDPOINT).unwrap();
        let units = Units::new(&p);
        let limits = Limits { highs: false, ..Limits::default() };
        let known = crate::solve(&p, Objective::Latency, &limits).unwrap();
        let shape = Shape::new(&p);
        let scene = Scene { problem: &p, units: &units, shape: &shape };
        for backend in backends() {
            let program = latency(&p, &units, 200.0);
            let answer = backend.solve(&program.milp, &LIMITS);
            assert_eq!(answer.status, MilpStatus::Optimal, "{}", backend.name());
            let value = scene.value(&program.read(&units, &answer.values.unwrap())).unwrap();
            assert!((value - known.value).abs() < 1e-5, "{}: {value} {}", backend.name(), known.value);
        }
    }

    #[test]
    fn an_infeasible_program_is_said_so() {
        let mut milp = Milp::default();
        let x = milp.column(0.0, 1.0, 1.0, true);
        milp.row(2.0, INF, vec![(x, 1.0)]);
        for backend in backends() {
            assert_eq!(backend.solve(&milp, &LIMITS).status, MilpStatus::Infeasible, "{}", backend.name());
        }
    }
}
