//! The latency objective of the MSR instances and a heuristic for it.
//!
//! Each accelerator runs one subgraph that must be contiguous: it starts when all its inputs are there, takes
//! the costs of its inputs, the sum of its times and the costs of its outputs, and everything in it ends then.
//! CPU nodes run as soon as their inputs are there, any number at once. The heuristic cuts several linear orders
//! into segments by dynamic programming and improves the best by annealing under the exact evaluator.

use crate::answer::{Answer, Bound, Limits, Status, relative_gap};
use crate::bottleneck::in_parallel;
use crate::error::PlaceError;
use crate::msr::Instance;
use crate::msr_split;
use crate::rng::Rng;
use crate::schedule::{Schedule, Slot};

/// Number of a subgraph, or [`CPU`].
pub(crate) type Place = u32;
/// The place of nodes outside all subgraphs.
pub(crate) const CPU: Place = u32::MAX;
/// Work counted per node and edge of one evaluation, and for a move that needs none.
const WORK_PER_ITEM: u64 = 1;
const WORK_PER_MOVE: u64 = 10;
/// Energy per fraction of an accelerator's memory exceeded, relative to the start's latency.
const OVERFLOW_PRICE: f64 = 1.0;
/// Annealing chains; a constant, so that threads do not change the answer.
const CHAINS: u64 = 4;

/// A latency and the placement of groups that has it.
type Scored = (f64, Vec<Place>);

/// The instance in the form the evaluator wants: adjacency lists and colour groups.
#[derive(Debug, Clone)]
pub(crate) struct Net<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) inputs: Vec<Vec<u32>>,
    pub(crate) outputs: Vec<Vec<u32>>,
    pub(crate) group_of: Vec<usize>,
    pub(crate) groups: Vec<Vec<usize>>,
    pub(crate) size: Vec<f64>,
    pub(crate) supported: Vec<bool>,
}

impl<'a> Net<'a> {
    pub(crate) fn new(instance: &'a Instance) -> Self {
        let n = instance.nodes.len();
        let (mut inputs, mut outputs) = (vec![Vec::new(); n], vec![Vec::new(); n]);
        for &(u, v) in &instance.edges {
            outputs[u].push(v as u32);
            inputs[v].push(u as u32);
        }
        let mut of_color = std::collections::BTreeMap::new();
        let (mut groups, mut group_of): (Vec<Vec<usize>>, Vec<usize>) = (Vec::new(), Vec::new());
        for (i, node) in instance.nodes.iter().enumerate() {
            let fresh = groups.len();
            let g = node.color.map_or(fresh, |c| *of_color.entry(c).or_insert(fresh));
            if g == fresh {
                groups.push(Vec::new());
            }
            groups[g].push(i);
            group_of.push(g);
        }
        let size = groups.iter().map(|g| g.iter().map(|&i| instance.nodes[i].size).sum()).collect();
        let supported = groups.iter().map(|g| g.iter().all(|&i| instance.nodes[i].acc.is_some())).collect();
        Net { instance, inputs, outputs, group_of, groups, size, supported }
    }

    fn fits(&self, place: &[Place]) -> bool {
        let mut used = vec![0.0; self.instance.accelerators];
        for (g, &s) in place.iter().enumerate() {
            if s != CPU {
                used[s as usize] += self.size[g];
            }
        }
        used.iter().all(|&m| m <= self.instance.memory_bytes)
    }
}

/// Buffers of the evaluator, reused from call to call.
#[derive(Debug, Clone)]
pub(crate) struct Evaluator {
    finish: Vec<f64>,
    waiting: Vec<u32>,
    /// Per subgraph: edges from outside not yet done, members, latest input, work.
    sub_waiting: Vec<u32>,
    sub_size: Vec<u32>,
    sub_ready: Vec<f64>,
    sub_time: Vec<f64>,
    sub_members: Vec<Vec<u32>>,
    seen: Vec<u32>,
    stack: Vec<u32>,
}

impl Evaluator {
    pub(crate) fn new(net: &Net<'_>) -> Self {
        let (n, k) = (net.group_of.len(), net.instance.accelerators);
        Evaluator {
            finish: vec![0.0; n],
            waiting: vec![0; n],
            sub_waiting: vec![0; k],
            sub_size: vec![0; k],
            sub_ready: vec![0.0; k],
            sub_time: vec![0.0; k],
            sub_members: vec![Vec::new(); k],
            seen: vec![0; k],
            stack: Vec::new(),
        }
    }

    /// Latency of a placement of groups; infinite when a subgraph is not contiguous.
    pub(crate) fn latency(&mut self, net: &Net<'_>, place: &[Place]) -> f64 {
        let n = net.group_of.len();
        self.prepare(net, place);
        let at = |i: usize| place[net.group_of[i]];
        for i in 0..n {
            if at(i) == CPU && self.waiting[i] == 0 {
                self.stack.push(i as u32);
            }
        }
        let mut latest = 0.0f64;
        let mut done = 0;
        let subgraphs = 0..self.sub_size.len();
        let first: Vec<usize> =
            subgraphs.filter(|&s| self.sub_size[s] > 0 && self.sub_waiting[s] == 0).collect();
        for s in first {
            done += self.finish_subgraph(net, place, s, &mut latest);
        }
        while let Some(i) = self.stack.pop() {
            let i = i as usize;
            let ready = net.inputs[i].iter().map(|&u| self.finish[u as usize]).fold(0.0, f64::max);
            self.finish[i] = ready + net.instance.nodes[i].cpu;
            latest = latest.max(self.finish[i]);
            done += 1;
            done += self.release(net, place, i, &mut latest);
        }
        if done == n { latest } else { f64::INFINITY }
    }

    fn prepare(&mut self, net: &Net<'_>, place: &[Place]) {
        self.stack.clear();
        for s in 0..self.sub_size.len() {
            (self.sub_waiting[s], self.sub_size[s], self.sub_ready[s], self.sub_time[s]) = (0, 0, 0.0, 0.0);
            self.sub_members[s].clear();
        }
        self.seen.fill(u32::MAX);
        for i in 0..net.group_of.len() {
            let here = place[net.group_of[i]];
            self.waiting[i] = net.inputs[i].len() as u32;
            // Inputs of a subgraph: once per producer; outputs: once per member read outside.
            let mut leaves = false;
            for &v in &net.outputs[i] {
                let there = place[net.group_of[v as usize]];
                if there == here && here != CPU {
                    continue;
                }
                leaves = true;
                if there != CPU {
                    let s = there as usize;
                    self.sub_waiting[s] += 1;
                    if self.seen[s] != i as u32 {
                        self.seen[s] = i as u32;
                        self.sub_time[s] += net.instance.nodes[i].out_cost;
                    }
                }
            }
            if here != CPU {
                let (s, node) = (here as usize, &net.instance.nodes[i]);
                self.sub_size[s] += 1;
                self.sub_members[s].push(i as u32);
                self.sub_time[s] +=
                    node.acc.unwrap_or(f64::INFINITY) + if leaves { node.out_cost } else { 0.0 };
            }
        }
    }

    /// Tells the readers of a finished node; returns how many nodes that finished in turn.
    fn release(&mut self, net: &Net<'_>, place: &[Place], i: usize, latest: &mut f64) -> usize {
        let here = place[net.group_of[i]];
        let mut done = 0;
        for &v in &net.outputs[i] {
            let there = place[net.group_of[v as usize]];
            if there == CPU {
                self.waiting[v as usize] -= 1;
                if self.waiting[v as usize] == 0 {
                    self.stack.push(v);
                }
            } else if there != here {
                let s = there as usize;
                self.sub_ready[s] = self.sub_ready[s].max(self.finish[i]);
                self.sub_waiting[s] -= 1;
                if self.sub_waiting[s] == 0 {
                    done += self.finish_subgraph(net, place, s, latest);
                }
            }
        }
        done
    }

    fn finish_subgraph(&mut self, net: &Net<'_>, place: &[Place], s: usize, latest: &mut f64) -> usize {
        let end = self.sub_ready[s] + self.sub_time[s];
        *latest = latest.max(end);
        let members = std::mem::take(&mut self.sub_members[s]);
        members.iter().for_each(|&i| self.finish[i as usize] = end);
        let mut done = members.len();
        for &i in &members {
            done += self.release(net, place, i as usize, latest);
        }
        self.sub_members[s] = members;
        done
    }

    /// Start and end of each node after [`Evaluator::latency`].
    fn slots(&self, net: &Net<'_>, place: &[Place]) -> Vec<Slot> {
        (0..net.group_of.len())
            .map(|i| match place[net.group_of[i]] {
                CPU => {
                    let end_us = self.finish[i];
                    Slot { start_us: end_us - net.instance.nodes[i].cpu, end_us }
                }
                s => Slot { start_us: self.sub_ready[s as usize], end_us: self.finish[i] },
            })
            .collect()
    }
}

/// Latency of a placement given as device per node (CPUs first); infinite when it is not contiguous.
pub fn latency(instance: &Instance, device_of_node: &[usize]) -> f64 {
    let mut net = Net::new(instance);
    // Evaluated node by node, so that a split colour class is scored as it stands.
    net.group_of = (0..instance.nodes.len()).collect();
    let place: Vec<Place> = device_of_node.iter().map(|&d| place_of(instance, d)).collect();
    Evaluator::new(&net).latency(&net, &place)
}

fn place_of(instance: &Instance, device: usize) -> Place {
    if device < instance.cpus { CPU } else { (device - instance.cpus) as Place }
}

/// Solves the latency objective of an instance.
///
/// # Errors
/// `P006` when the edges form a cycle, `P004` when there is no CPU for a node no accelerator supports,
/// `P005` when nothing feasible was found.
pub fn solve(instance: &Instance, limits: &Limits) -> Result<Answer, PlaceError> {
    instance.to_problem()?;
    let net = Net::new(instance);
    let mut evaluator = Evaluator::new(&net);
    let mut starts: Vec<Scored> = msr_split::starts(&net)
        .into_iter()
        .filter(|s| net.fits(s) && (instance.cpus > 0 || !s.contains(&CPU)))
        .map(|s| (evaluator.latency(&net, &s), s))
        .filter(|s| s.0.is_finite())
        .collect();
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    starts.dedup();
    starts.truncate(CHAINS as usize);
    let (mut value, mut place) = starts
        .first()
        .cloned()
        .ok_or_else(|| PlaceError::not_found("no contiguous placement that fits the memory was found"))?;
    let mut solver = "linear split";
    let mut work = 0;
    for (stage, hots) in [(0, [0.05, 0.02, 0.5, 0.2]), (1, [0.1, 0.03, 0.01, 0.003])] {
        let each = limits.work / (2 * CHAINS);
        let from = |i: usize| -> &Scored { if stage == 0 { &starts[i % starts.len()] } else { &starts[0] } };
        let runs: Vec<(u64, f64, &Scored)> = (0..CHAINS)
            .map(|i| (limits.seed + stage * CHAINS + i, hots[i as usize % 4], from(i as usize)))
            .collect();
        let results = in_parallel(&runs, limits.threads, |&(seed, hot, (value, place))| {
            Search::new(&net, place, *value, seed).run(each, hot * value)
        });
        work += each * CHAINS;
        for (v, p) in results {
            if v < value {
                (value, place, solver) = (v, p, "annealing");
            }
        }
        starts[0] = (value, place.clone());
    }
    value = evaluator.latency(&net, &place);
    let tasks = evaluator.slots(&net, &place);
    let bound = lower_bound(&net);
    let lower_bound = bound.value.min(value);
    let status = if bound.proves(value) { Status::Optimal } else { Status::Feasible };
    let device = |i: usize| match place[net.group_of[i]] {
        CPU => 0,
        s => instance.cpus + s as usize,
    };
    Ok(Answer {
        device_of_task: (0..instance.nodes.len()).map(device).collect(),
        schedule: Schedule { tasks, transfers: Vec::new(), makespan_us: value },
        value,
        lower_bound,
        bound_kind: bound.kind,
        gap: relative_gap(value, lower_bound),
        status,
        solver: solver.into(),
        work_used: work,
    })
}

/// Longest path when every node takes its shorter time: holds because whatever runs a chain of nodes, in one
/// subgraph or in several, takes at least the sum.
fn lower_bound(net: &Net<'_>) -> Bound {
    let n = net.group_of.len();
    let mut waiting: Vec<usize> = net.inputs.iter().map(Vec::len).collect();
    let mut stack: Vec<usize> = (0..n).filter(|&i| waiting[i] == 0).collect();
    let mut end = vec![0.0f64; n];
    let mut most = 0.0f64;
    while let Some(i) = stack.pop() {
        let node = &net.instance.nodes[i];
        let on_cpu = if net.instance.cpus > 0 { node.cpu } else { f64::INFINITY };
        end[i] += on_cpu.min(node.acc.unwrap_or(f64::INFINITY));
        most = most.max(end[i]);
        for &v in &net.outputs[i] {
            let v = v as usize;
            end[v] = end[v].max(end[i]);
            waiting[v] -= 1;
            if waiting[v] == 0 {
                stack.push(v);
            }
        }
    }
    Bound { value: most * (1.0 - 1e-12), kind: "path" }
}

/// Annealing over placements of groups.
struct Search<'a> {
    net: &'a Net<'a>,
    evaluator: Evaluator,
    place: Vec<Place>,
    used: Vec<f64>,
    order: Vec<usize>,
    position: Vec<usize>,
    energy: f64,
    /// Latency of the start.
    scale: f64,
    best: (f64, Vec<Place>),
    rng: Rng,
}

impl<'a> Search<'a> {
    fn new(net: &'a Net<'a>, place: &[Place], value: f64, seed: u64) -> Self {
        let mut used = vec![0.0; net.instance.accelerators];
        for (g, &s) in place.iter().enumerate().filter(|(_, s)| **s != CPU) {
            used[s as usize] += net.size[g];
        }
        let order = msr_split::depth_first(net);
        let mut position = vec![0; order.len()];
        order.iter().enumerate().for_each(|(i, &g)| position[g] = i);
        let best = (value, place.to_vec());
        let (evaluator, place, rng) = (Evaluator::new(net), place.to_vec(), Rng::new(seed));
        Search { net, evaluator, place, used, order, position, energy: value, scale: value, best, rng }
    }

    fn run(mut self, work: u64, hot: f64) -> (f64, Vec<Place>) {
        let per_step = (self.net.group_of.len() + self.net.instance.edges.len()) as u64 * WORK_PER_ITEM + 1;
        let cold = self.scale * 1e-5;
        let mut spent = 0;
        while spent < work && !self.place.is_empty() {
            let temperature = hot * (cold / hot).powf(spent as f64 / work as f64);
            let moves = self.propose();
            spent += if self.attempt(&moves, temperature) { per_step } else { WORK_PER_MOVE };
        }
        self.best
    }

    fn random_place(&mut self, g: usize) -> Place {
        // Mostly where a neighbour is: other places break contiguity more often than not.
        if self.rng.below(8) > 0 {
            let members = &self.net.groups[g];
            let i = members[self.rng.below(members.len())];
            let (a, b) = (&self.net.inputs[i], &self.net.outputs[i]);
            if a.len() + b.len() > 0 {
                let pick = self.rng.below(a.len() + b.len());
                let other = if pick < a.len() { a[pick] } else { b[pick - a.len()] };
                return self.place[self.net.group_of[other as usize]];
            }
        }
        let s = self.rng.below(self.net.instance.accelerators + 1);
        if s == self.net.instance.accelerators { CPU } else { s as Place }
    }

    fn propose(&mut self) -> Vec<(usize, Place)> {
        let g = self.rng.below(self.place.len());
        let to = self.random_place(g);
        match self.rng.below(8) {
            0..=3 => return vec![(g, to)],
            4 => return self.exchange(g),
            _ => {}
        }
        let length = 2usize << self.rng.below(5);
        let from = self.place[g];
        let back = self.rng.below(length);
        let first = self.position[g].saturating_sub(back);
        let run = self.order[first..].iter().take(length);
        run.filter(|&&h| self.place[h] == from).map(|&h| (h, to)).collect()
    }

    /// Swaps the places of a group and of one of another place nearby in the order.
    fn exchange(&mut self, g: usize) -> Vec<(usize, Place)> {
        let n = self.order.len();
        let near = (self.position[g] + n + self.rng.below(65.min(n)) - 32.min(n)) % n;
        let h = self.order[near];
        vec![(g, self.place[h]), (h, self.place[g])]
    }

    fn set(&mut self, g: usize, to: Place) {
        let from = self.place[g];
        if from != CPU {
            self.used[from as usize] -= self.net.size[g];
        }
        if to != CPU {
            self.used[to as usize] += self.net.size[g];
        }
        self.place[g] = to;
    }

    fn allowed(&self, g: usize, to: Place) -> bool {
        if to == CPU { self.net.instance.cpus > 0 } else { self.net.supported[g] }
    }

    /// Makes a move or not; whether it had to be evaluated.
    fn attempt(&mut self, moves: &[(usize, Place)], temperature: f64) -> bool {
        let changes: Vec<(usize, Place)> =
            moves.iter().copied().filter(|&(g, to)| self.place[g] != to && self.allowed(g, to)).collect();
        if changes.is_empty() {
            return false;
        }
        let before: Vec<(usize, Place)> = changes.iter().map(|&(g, _)| (g, self.place[g])).collect();
        let used = self.used.clone();
        changes.iter().for_each(|&(g, to)| self.set(g, to));
        let value = self.evaluator.latency(self.net, &self.place);
        let overflow = self.overflow();
        let energy = value + overflow;
        let rise = energy - self.energy;
        if rise <= 0.0 || self.rng.unit() < (-rise / temperature).exp() {
            self.energy = energy;
            if overflow == 0.0 && value < self.best.0 {
                self.best = (value, self.place.clone());
            }
            return true;
        }
        before.iter().for_each(|&(g, from)| self.place[g] = from);
        self.used = used;
        true
    }

    /// The price of memory beyond capacity: searches may pass through it, answers may not.
    fn overflow(&self) -> f64 {
        let room = self.net.instance.memory_bytes * (1.0 - 1e-12);
        let over = self.used.iter().filter(|&&m| m > room).map(|m| 0.02 + (m - room) / room.max(1.0));
        over.sum::<f64>() * OVERFLOW_PRICE * self.scale
    }
}
