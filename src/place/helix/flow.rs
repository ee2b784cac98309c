//! Maximum flow from the source to the sink for fixed spans (Dinic 1970).

use super::model::{Cluster, End, Span};

/// Flows below this are rounding.
const EPSILON: f64 = 1e-9;

/// Buffers of the flow, reused from call to call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    /// Arcs by pairs: an arc and its reverse.
    to: Vec<u32>,
    left: Vec<f64>,
    next: Vec<u32>,
    first: Vec<u32>,
    level: Vec<u32>,
    at: Vec<u32>,
    queue: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Flow {
    /// Tokens per second that get through with these spans.
    pub(crate) fn value(&mut self, cluster: &Cluster, span: &[Span]) -> f64 {
        let n = cluster.nodes.len();
        self.to.clear();
        self.left.clear();
        self.next.clear();
        self.first.clear();
        self.first.resize(2 * n + 2, NONE);
        for (i, node) in cluster.nodes.iter().enumerate() {
            let t = node.throughput.get(span[i].1).copied().unwrap_or(0.0);
            if span[i].1 > 0 && t > 0.0 {
                self.arc(2 * i, 2 * i + 1, t);
            }
        }
        for link in cluster.links.iter().filter(|l| cluster.open(l, span)) {
            self.arc(out_of(link.from, n), into(link.to, n), link.capacity);
        }
        let mut total = 0.0;
        while self.levels(2 * n, 2 * n + 1) {
            self.at.clone_from(&self.first);
            loop {
                let pushed = self.push(2 * n, 2 * n + 1, f64::INFINITY);
                if pushed <= EPSILON {
                    break;
                }
                total += pushed;
            }
        }
        total
    }

    fn arc(&mut self, a: usize, b: usize, capacity: f64) {
        for (from, to, left) in [(a, b, capacity), (b, a, 0.0)] {
            self.next.push(self.first[from]);
            self.first[from] = self.to.len() as u32;
            self.to.push(to as u32);
            self.left.push(left);
        }
    }

    fn levels(&mut self, source: usize, sink: usize) -> bool {
        self.level.clear();
        self.level.resize(self.first.len(), NONE);
        self.level[source] = 0;
        self.queue.clear();
        self.queue.push(source as u32);
        let mut head = 0;
        while head < self.queue.len() {
            let u = self.queue[head] as usize;
            head += 1;
            let mut e = self.first[u];
            while e != NONE {
                let v = self.to[e as usize] as usize;
                if self.left[e as usize] > EPSILON && self.level[v] == NONE {
                    self.level[v] = self.level[u] + 1;
                    self.queue.push(v as u32);
                }
                e = self.next[e as usize];
            }
        }
        self.level[sink] != NONE
    }

    fn push(&mut self, u: usize, sink: usize, most: f64) -> f64 {
        if u == sink {
            return most;
        }
        while self.at[u] != NONE {
            let e = self.at[u] as usize;
            let v = self.to[e] as usize;
            if self.left[e] > EPSILON && self.level[v] == self.level[u] + 1 {
                let pushed = self.push(v, sink, most.min(self.left[e]));
                if pushed > EPSILON {
                    self.left[e] -= pushed;
                    self.left[e ^ 1] += pushed;
                    return pushed;
                }
            }
            self.at[u] = self.next[e];
        }
        0.0
    }
}

fn out_of(end: End, n: usize) -> usize {
    match end {
        End::Node(i) => 2 * i + 1,
        End::Source => 2 * n,
        End::Sink => 2 * n + 1,
    }
}

fn into(end: End, n: usize) -> usize {
    match end {
        End::Node(i) => 2 * i,
        End::Source => 2 * n,
        End::Sink => 2 * n + 1,
    }
}
