//! Linearised dynamic programming for the bottleneck objective: one topological order, cut into contiguous
//! segments, each on one device, so that the dearest segment is as cheap as possible.
//!
//! Devices that can be exchanged form a class, and the state is how many of each class are used. The order is
//! coarsened when it is too long for the quadratic work. Units with a single candidate are fixed beforehand and
//! only their communication counts. When links pay, a segment's cost is the largest of its time and its
//! incoming and outgoing traffic over the best link: an estimate the annealing then corrects.

use crate::load::LoadModel;
use crate::orders::settle;
use crate::rng::Rng;

/// Most steps of the innermost loop.
const MAX_STEPS: f64 = 4.0e7;
/// Units above which only one order is split.
const LONG_ORDER: usize = 3000;
/// Most random orders tried.
const MAX_RANDOM_ORDERS: u64 = 64;
/// Most states (counts of used devices per class).
const MAX_STATES: usize = 4096;

/// The best contiguous splits over the fixed orders, their settled forms, and as many random ones as `work`
/// allows; the best first, at most `keep` of different value.
pub(crate) fn best_splits(
    model: &LoadModel<'_>,
    seed: u64,
    work: u64,
    keep: usize,
) -> Vec<(f64, Vec<usize>)> {
    let units = model.units;
    let mut rng = Rng::new(seed);
    let mut found: Vec<(f64, Vec<usize>)> = Vec::new();
    let try_order = |order: &[usize], found: &mut Vec<(f64, Vec<usize>)>| {
        if let Some(split) = linear_split(model, order) {
            let value = model.value(&split).unwrap_or(f64::INFINITY);
            found.push((value, split));
        }
    };
    // Long orders are dear to split: one is enough there.
    if units.len() > LONG_ORDER {
        try_order(&units.order, &mut found);
        return found;
    }
    for order in units.quotient.orders() {
        try_order(&settle(&order, &units.flows), &mut found);
        try_order(&order, &mut found);
    }
    for _ in 0..(work / split_work(model)).min(MAX_RANDOM_ORDERS) {
        let order = units.quotient.random(&mut rng);
        try_order(&settle(&order, &units.flows), &mut found);
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.dedup_by(|b, a| a.0 == b.0);
    found.truncate(keep);
    found
}

/// Steps of one split.
fn split_work(model: &LoadModel<'_>) -> u64 {
    let classes = classes(model);
    let n_states = classes.iter().map(|c| c.len() + 1).product::<usize>();
    let n = model.units.len() as f64;
    ((n * n / 2.0 * (classes.len() * (n_states + 10)) as f64).min(MAX_STEPS) as u64).max(1)
}

/// The best contiguous split of an order; `None` when no split fits.
fn linear_split(model: &LoadModel<'_>, order: &[usize]) -> Option<Vec<usize>> {
    let classes = classes(model);
    let n_states = classes.iter().map(|c| c.len() + 1).product::<usize>();
    let chain: Vec<usize> = order.iter().copied().filter(|&u| model.units.candidates[u].len() > 1).collect();
    let most = (MAX_STEPS / (n_states * classes.len().max(1)) as f64).sqrt() as usize;
    let per_block = chain.len().div_ceil(most.max(1)).max(1);
    let blocks: Vec<&[usize]> = chain.chunks(per_block).collect();
    let mut table = Table::new(blocks.len(), n_states);
    for start in 0..blocks.len() {
        extend_from(model, &classes, &blocks, start, &mut table);
    }
    read_back(model, &classes, &blocks, &table)
}

/// Device classes, fastest first, as many as the state space allows.
fn classes(model: &LoadModel<'_>) -> Vec<Vec<usize>> {
    let class = model.units.device_classes(model.problem);
    let total =
        |d: usize| -> f64 { model.units.time_us.iter().map(|row| row[d]).filter(|t| t.is_finite()).sum() };
    let mut classes: Vec<Vec<usize>> = (0..model.k)
        .filter(|&d| class[d] == d)
        .map(|d| (0..model.k).filter(|&e| class[e] == d).collect())
        .collect();
    classes.sort_by(|a, b| total(a[0]).total_cmp(&total(b[0])).then(a[0].cmp(&b[0])));
    let mut states = 1usize;
    classes.retain(|c| {
        let fits = states.saturating_mul(c.len() + 1) <= MAX_STATES;
        states *= if fits { c.len() + 1 } else { 1 };
        fits
    });
    classes
}

/// `best[position * n_states + state]` and how it was reached: previous position and class.
struct Table {
    n_states: usize,
    best: Vec<f64>,
    from: Vec<(u32, u8)>,
}

impl Table {
    fn new(n_blocks: usize, n_states: usize) -> Self {
        let size = (n_blocks + 1) * n_states;
        let mut best = vec![f64::INFINITY; size];
        best[0] = 0.0;
        Table { n_states, best, from: vec![(0, 0); size] }
    }
}

/// Extends every state at `start` by one segment of each class and every length.
fn extend_from(
    model: &LoadModel<'_>,
    classes: &[Vec<usize>],
    blocks: &[&[usize]],
    start: usize,
    table: &mut Table,
) {
    let n = table.n_states;
    let mut stride = 1;
    for (c, class) in classes.iter().enumerate() {
        let live: Vec<usize> = (0..n)
            .filter(|s| s / stride % (class.len() + 1) < class.len() && table.best[start * n + s].is_finite())
            .collect();
        let mut segment = Segment::new(model, class[0]);
        for end in start + 1..=blocks.len() {
            if live.is_empty() || !blocks[end - 1].iter().all(|&u| segment.add(u)) {
                break;
            }
            let cost = segment.cost();
            for &s in &live {
                let value = table.best[start * n + s].max(cost);
                let to = end * n + s + stride;
                if value < table.best[to] {
                    table.best[to] = value;
                    table.from[to] = (start as u32, c as u8);
                }
            }
        }
        stride *= class.len() + 1;
    }
}

fn read_back(
    model: &LoadModel<'_>,
    classes: &[Vec<usize>],
    blocks: &[&[usize]],
    table: &Table,
) -> Option<Vec<usize>> {
    let n = table.n_states;
    let last = blocks.len() * n;
    let mut state = (0..n).min_by(|&a, &b| table.best[last + a].total_cmp(&table.best[last + b]))?;
    if table.best[last + state].is_infinite() {
        return None;
    }
    let strides: Vec<usize> =
        classes.iter().scan(1, |s, c| Some(std::mem::replace(s, *s * (c.len() + 1)))).collect();
    let mut device: Vec<usize> = model.units.candidates.iter().map(|c| c[0]).collect();
    let mut end = blocks.len();
    while end > 0 {
        let (start, c) = table.from[end * n + state];
        let (start, c) = (start as usize, c as usize);
        state -= strides[c];
        let d = classes[c][state / strides[c] % (classes[c].len() + 1)];
        for &u in blocks[start..end].iter().copied().flatten() {
            device[u] = d;
        }
        end = start;
    }
    Some(device)
}

/// Cost of a growing segment on one device, everything else elsewhere.
struct Segment<'a> {
    model: &'a LoadModel<'a>,
    device: usize,
    inside: Vec<bool>,
    readers: Vec<u32>,
    time_us: f64,
    in_us: f64,
    out_us: f64,
    bytes: u64,
}

impl<'a> Segment<'a> {
    fn new(model: &'a LoadModel<'a>, device: usize) -> Self {
        let (inside, readers) = (vec![false; model.units.len()], vec![0; model.units.flows.len()]);
        let (time_us, in_us, out_us, bytes) = (0.0, 0.0, 0.0, 0);
        let mut segment = Segment { model, device, inside, readers, time_us, in_us, out_us, bytes };
        for u in 0..model.units.len() {
            if model.units.candidates[u] == [device] {
                segment.add(u);
            }
        }
        segment
    }

    /// Adds a unit; false when the device cannot take it.
    fn add(&mut self, u: usize) -> bool {
        let units = self.model.units;
        let time = units.time_us[u][self.device];
        self.bytes = self.bytes.saturating_add(units.memory_bytes[u]);
        if !time.is_finite() || self.bytes > self.model.capacity[self.device] {
            return false;
        }
        self.time_us += time;
        self.inside[u] = true;
        for &f in &units.flows_of_unit[u] {
            self.touch(f, u);
        }
        true
    }

    fn touch(&mut self, f: usize, u: usize) {
        let flow = &self.model.units.flows[f];
        let (into, out) = self.flow_us(f);
        let n = flow.consumers.len() as u32;
        if flow.producer == u {
            self.in_us -= if self.readers[f] > 0 { into } else { 0.0 };
            self.out_us += if self.readers[f] < n { out } else { 0.0 };
            return;
        }
        self.readers[f] += 1;
        if self.inside[flow.producer] {
            self.out_us -= if self.readers[f] == n { out } else { 0.0 };
        } else if self.readers[f] == 1 {
            self.in_us += into;
        }
    }

    /// What the device pays when the flow comes in and when it goes out.
    fn flow_us(&self, f: usize) -> (f64, f64) {
        let (model, flow) = (self.model, &self.model.units.flows[f]);
        if model.endpoints_pay() {
            let cost = if model.is_charged(self.device) { flow.cost_us } else { 0.0 };
            return (cost, cost);
        }
        let others = || (0..model.k).filter(|&d| d != self.device);
        let into = others().map(|d| model.link_us(flow, d, self.device)).fold(f64::INFINITY, f64::min);
        let out = others().map(|d| model.link_us(flow, self.device, d)).fold(f64::INFINITY, f64::min);
        (into, out)
    }

    fn cost(&self) -> f64 {
        if self.model.endpoints_pay() {
            return self.time_us + self.in_us + self.out_us;
        }
        self.time_us.max(self.in_us).max(self.out_us)
    }
}
