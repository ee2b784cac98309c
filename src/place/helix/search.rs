//! Local search over spans with the real flow as the value: links decide which nodes of a kind stand where.

use super::flow::Flow;
use super::model::{Cluster, End, Span};
use crate::rng::Rng;

/// First and last temperature; the energy is the flow relative to the aim, and a share of the cuts.
const HOT: f64 = 0.1;
const COLD: f64 = 1e-3;
const CUT_SHARE: f64 = 0.5;

/// Anneals from `start` for so many flows; the best spans and their flow.
///
/// The flow is a minimum over all cuts and says nothing of the others, so the energy also has, for each layer's
/// beginning, how much of the aim could pass there.
pub(crate) fn anneal(cluster: &Cluster, start: &[Span], run: &Run) -> (f64, Vec<Span>) {
    let mut promise = Promise::default();
    let mut rng = Rng::new(run.seed);
    let mut span = start.to_vec();
    let mut energy = promise.of(cluster, &span, run.aim);
    let mut best = (promise.value, span.clone());
    for i in 0..run.flows {
        if best.0 >= run.enough {
            break;
        }
        let temperature = HOT * (COLD / HOT).powf(i as f64 / run.flows as f64);
        let mut next = span.clone();
        if !change(cluster, &mut next, &mut rng) {
            continue;
        }
        let after = promise.of(cluster, &next, run.aim);
        if after >= energy || rng.unit() < ((after - energy) / temperature).exp() {
            (span, energy) = (next, after);
            if promise.value > best.0 {
                best = (promise.value, span.clone());
            }
        }
    }
    best
}

/// One run of the annealing.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) flows: u64,
    /// The flow the stages were made for.
    pub(crate) aim: f64,
    /// The flow at which to stop.
    pub(crate) enough: f64,
}

/// The energy of spans, and the flow it was made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promise {
    flow: Flow,
    pub(crate) value: f64,
}

impl Promise {
    pub(crate) fn of(&mut self, cluster: &Cluster, span: &[Span], aim: f64) -> f64 {
        self.value = self.flow.value(cluster, span);
        self.value / aim + CUT_SHARE * cuts(cluster, span, aim)
    }
}

/// Sum over the beginnings of layers of the part of the aim that links and spans let pass there.
fn cuts(cluster: &Cluster, span: &[Span], aim: f64) -> f64 {
    let layers = cluster.layers;
    let mut pass = vec![0.0; layers + 1];
    for (node, &(start, h)) in cluster.nodes.iter().zip(span).filter(|(_, s)| s.1 > 0) {
        let t = node.throughput.get(h).copied().unwrap_or(0.0);
        pass[(start + 1).min(layers)..(start + h).min(layers)].iter_mut().for_each(|p| *p += t);
    }
    for link in cluster.links.iter().filter(|l| cluster.open(l, span)) {
        let at = match (link.from, link.to) {
            (End::Node(n), _) => (span[n].0 + span[n].1).min(layers),
            (_, End::Node(n)) => span[n].0.min(layers),
            _ => continue,
        };
        pass[at] += link.capacity;
    }
    pass.iter().map(|p| (p / aim).min(1.0)).sum()
}

/// One random change; whether it is allowed and changes something.
fn change(cluster: &Cluster, span: &mut [Span], rng: &mut Rng) -> bool {
    let n = span.len();
    let (a, b) = (rng.below(n), rng.below(n));
    match rng.below(16) {
        0..=8 => {
            span.swap(a, b);
            span[a] != span[b] && fits(cluster, span, a) && fits(cluster, span, b)
        }
        9 | 10 => {
            let changed = span[a] != span[b];
            span[a] = span[b];
            changed && fits(cluster, span, a)
        }
        11..=13 => move_border(cluster, span, rng),
        _ => exchange(cluster, span, rng),
    }
}

fn fits(cluster: &Cluster, span: &[Span], node: usize) -> bool {
    let (start, h) = span[node];
    h == 0 || (start + h <= cluster.layers && cluster.nodes[node].throughput.get(h).is_some_and(|&t| t > 0.0))
}

/// A layer at which some span ends and another begins goes one up or down, with all spans that touch it.
fn move_border(cluster: &Cluster, span: &mut [Span], rng: &mut Rng) -> bool {
    let (start, h) = span[rng.below(span.len())];
    let (old, up) = (start + h, rng.below(2) == 0);
    if h == 0 || old == 0 || old >= cluster.layers {
        return false;
    }
    let new = if up { old + 1 } else { old - 1 };
    for i in 0..span.len() {
        let (s, h) = span[i];
        if h == 0 {
            continue;
        }
        let (begin, end) = (if s == old { new } else { s }, if s + h == old { new } else { s + h });
        span[i] = (begin, end.saturating_sub(begin));
        if span[i].1 == 0 || !fits(cluster, span, i) {
            return false;
        }
    }
    true
}

/// Two neighbouring stages trade places.
fn exchange(cluster: &Cluster, span: &mut [Span], rng: &mut Rng) -> bool {
    let first = span[rng.below(span.len())];
    let middle = first.0 + first.1;
    let followers: Vec<Span> = span.iter().copied().filter(|s| s.0 == middle && s.1 > 0).collect();
    if first.1 == 0 || followers.is_empty() {
        return false;
    }
    let second = followers[rng.below(followers.len())];
    for i in 0..span.len() {
        if span[i] == first {
            span[i].0 = first.0 + second.1;
        } else if span[i] == second {
            span[i].0 = first.0;
        }
        if !fits(cluster, span, i) {
            return false;
        }
    }
    true
}
