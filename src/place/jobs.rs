//! The job graph of a fixed placement: tasks and transfers with durations, resources and successors.
//!
//! Operations `0..n` are the tasks, the rest are transfers, one per tensor and other device that reads it.
//! Resources are the devices `0..k` and the directed links `k + from * k + to`.

use crate::problem::Problem;
use crate::wire::Wire;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// What does not change from placement to placement.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) k: usize,
    pub(crate) n_tasks: usize,
    pub(crate) order: Vec<usize>,
    /// Tensors each task produces.
    pub(crate) produced: Vec<Vec<usize>>,
    pub(crate) wire: Wire,
}

impl Shape {
    pub(crate) fn new(p: &Problem) -> Shape {
        let mut produced = vec![Vec::new(); p.tasks.len()];
        for (t, tensor) in p.tensors.iter().enumerate() {
            produced[tensor.producer].push(t);
        }
        let order = p.topological_order().unwrap_or_default();
        Shape { k: p.devices.len(), n_tasks: p.tasks.len(), order, produced, wire: Wire::new(p) }
    }
}

/// One transfer operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) tensor: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The job graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs {
    pub(crate) n_tasks: usize,
    pub(crate) n_resources: usize,
    pub(crate) moves: Vec<Move>,
    pub(crate) duration: Vec<f64>,
    pub(crate) resource: Vec<u32>,
    /// Edges as (before, after) while the graph is built, then sorted into the two lists below.
    edges: Vec<(u32, u32)>,
    first_successor: Vec<u32>,
    successor: Vec<u32>,
    pub(crate) n_before: Vec<u32>,
    /// Longest way from the start of the operation to the end of everything.
    pub(crate) tail: Vec<f64>,
}

impl Jobs {
    /// Builds the job graph of a placement; `None` when a tensor has no path.
    pub(crate) fn new(p: &Problem, shape: &Shape, device: &[usize]) -> Option<Jobs> {
        let (n, k) = (shape.n_tasks, shape.k);
        let mut jobs = Jobs { n_tasks: n, n_resources: k + k * k, ..Jobs::default() };
        for (t, &d) in device.iter().enumerate() {
            jobs.push(p.time_us(t, d)?, d);
        }
        let mut op_of_device: Vec<u32> = vec![u32::MAX; k];
        for (x, tensor) in p.tensors.iter().enumerate() {
            let (u, a) = (tensor.producer, device[tensor.producer]);
            for &c in &tensor.consumers {
                let b = device[c];
                if a == b {
                    jobs.link(u, c);
                    continue;
                }
                if op_of_device[b] == u32::MAX {
                    let us = shape.wire.us(x, a, b);
                    if us.is_infinite() {
                        return None;
                    }
                    op_of_device[b] = jobs.duration.len() as u32;
                    jobs.moves.push(Move { tensor: x, from: a, to: b });
                    jobs.push(us, k + a * k + b);
                    jobs.link(u, op_of_device[b] as usize);
                }
                jobs.link(op_of_device[b] as usize, c);
            }
            tensor.consumers.iter().for_each(|&c| op_of_device[device[c]] = u32::MAX);
        }
        jobs.sort_edges();
        jobs.compute_tails(shape);
        Some(jobs)
    }

    pub(crate) fn len(&self) -> usize {
        self.duration.len()
    }

    fn push(&mut self, duration: f64, resource: usize) {
        self.duration.push(duration);
        self.resource.push(resource as u32);
        self.n_before.push(0);
    }

    fn link(&mut self, before: usize, after: usize) {
        self.edges.push((before as u32, after as u32));
        self.n_before[after] += 1;
    }

    /// Operations that wait for `op`.
    pub(crate) fn successors(&self, op: usize) -> &[u32] {
        &self.successor[self.first_successor[op] as usize..self.first_successor[op + 1] as usize]
    }

    fn sort_edges(&mut self) {
        let mut first = vec![0u32; self.len() + 1];
        self.edges.iter().for_each(|e| first[e.0 as usize + 1] += 1);
        for op in 0..self.len() {
            first[op + 1] += first[op];
        }
        let mut at = first.clone();
        self.successor = vec![0; self.edges.len()];
        for &(before, after) in &self.edges {
            self.successor[at[before as usize] as usize] = after;
            at[before as usize] += 1;
        }
        self.first_successor = first;
        self.edges = Vec::new();
    }

    fn compute_tails(&mut self, shape: &Shape) {
        self.tail = vec![0.0; self.len()];
        for &t in shape.order.iter().rev() {
            for i in self.first_successor[t]..self.first_successor[t + 1] {
                let s = self.successor[i as usize] as usize;
                if s >= self.n_tasks {
                    self.tail[s] = self.duration[s] + self.longest_after(s);
                }
            }
            self.tail[t] = self.duration[t] + self.longest_after(t);
        }
    }

    fn longest_after(&self, op: usize) -> f64 {
        self.successors(op).iter().map(|&s| self.tail[s as usize]).fold(0.0, f64::max)
    }

    /// The better of the two list schedules.
    pub(crate) fn best_list(&self) -> Vec<f64> {
        let (a, b) = (self.eager_list(), self.ranked_list());
        if self.makespan(&b) < self.makespan(&a) { b } else { a }
    }

    pub(crate) fn makespan(&self, start: &[f64]) -> f64 {
        start.iter().zip(&self.duration).map(|(s, d)| s + d).fold(0.0, f64::max)
    }

    /// Starts when no resource idles while it has something ready; the longest tail first.
    pub(crate) fn eager_list(&self) -> Vec<f64> {
        let mut start = vec![0.0; self.len()];
        let mut waiting = self.n_before.clone();
        let mut ready: Vec<BinaryHeap<(Key, Reverse<u32>)>> = vec![BinaryHeap::new(); self.n_resources];
        let mut busy = vec![false; self.n_resources];
        let mut ends: BinaryHeap<Reverse<(Key, u32)>> = BinaryHeap::new();
        let mut touched: BTreeSet<u32> = BTreeSet::new();
        let mut now = 0.0;
        for op in (0..self.len()).filter(|&op| waiting[op] == 0) {
            ready[self.resource[op] as usize].push((Key(self.tail[op]), Reverse(op as u32)));
            touched.insert(self.resource[op]);
        }
        loop {
            for r in std::mem::take(&mut touched) {
                let r = r as usize;
                if busy[r] {
                    continue;
                }
                if let Some((_, Reverse(op))) = ready[r].pop() {
                    start[op as usize] = now;
                    busy[r] = true;
                    ends.push(Reverse((Key(now + self.duration[op as usize]), op)));
                }
            }
            let Some(&Reverse((Key(next), _))) = ends.peek() else { return start };
            now = next;
            while let Some(&Reverse((Key(end), op))) = ends.peek() {
                if end > now {
                    break;
                }
                ends.pop();
                let r = self.resource[op as usize];
                busy[r as usize] = false;
                touched.insert(r);
                for &s in self.successors(op as usize) {
                    waiting[s as usize] -= 1;
                    if waiting[s as usize] == 0 {
                        let r = self.resource[s as usize];
                        ready[r as usize].push((Key(self.tail[s as usize]), Reverse(s)));
                        touched.insert(r);
                    }
                }
            }
        }
    }

    /// Starts when operations are appended in the order of their tails, resources idling for longer ones.
    pub(crate) fn ranked_list(&self) -> Vec<f64> {
        let mut start = vec![0.0f64; self.len()];
        let mut free = vec![0.0f64; self.n_resources];
        let mut waiting = self.n_before.clone();
        let mut ready: BinaryHeap<(Key, Reverse<u32>)> = (0..self.len())
            .filter(|&op| waiting[op] == 0)
            .map(|op| (Key(self.tail[op]), Reverse(op as u32)))
            .collect();
        while let Some((_, Reverse(op))) = ready.pop() {
            let (op, r) = (op as usize, self.resource[op as usize] as usize);
            start[op] = start[op].max(free[r]);
            let end = start[op] + self.duration[op];
            free[r] = end;
            for &s in self.successors(op) {
                let s = s as usize;
                start[s] = start[s].max(end);
                waiting[s] -= 1;
                if waiting[s] == 0 {
                    ready.push((Key(self.tail[s]), Reverse(s as u32)));
                }
            }
        }
        start
    }
}

/// A finite number as an ordered key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Key(pub(crate) f64);

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
