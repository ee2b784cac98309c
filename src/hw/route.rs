//! The way of a transfer through the links of a machine.

use crate::machine::Machine;

/// Routes are chosen for transfers of this many bytes; a route does not change with the size, so that costs stay
/// linear in it.
const REFERENCE_BYTES: f64 = 1024.0 * 1024.0;

/// A way from one device to another. Each hop stores the whole tensor before it forwards it, so costs add up.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Sum of the latencies, in us.
    pub latency_us: f64,
    /// Sum of the transfer times per byte, in us.
    pub us_per_byte: f64,
    /// Devices on the way, both ends included.
    pub hops: Vec<usize>,
    /// Where the figures of each hop come from.
    pub origin: String,
}

impl Machine {
    /// The fastest way from one device to another, `None` when no link leads there.
    ///
    /// A device reaches itself at no cost.
    pub fn path(&self, from: usize, to: usize) -> Option<Path> {
        let count = self.devices.len();
        if from >= count || to >= count {
            return None;
        }
        let mut best: Vec<Option<Reach>> = vec![None; count];
        best[from] = Some(Reach { cost: 0.0, edge: None, previous: from });
        let mut open: Vec<bool> = vec![true; count];
        while let Some(here) = nearest_open(&best, &open) {
            open[here] = false;
            self.relax(here, &mut best);
        }
        self.collect(from, to, &best)
    }

    fn relax(&self, here: usize, best: &mut [Option<Reach>]) {
        let Some(start) = best[here].map(|reach| reach.cost) else { return };
        for (index, link) in self.links.iter().enumerate() {
            let next = if link.from == here { link.to } else { link.from };
            if next >= best.len() || !link.carries(here, next) {
                continue;
            }
            let cost = start + link.latency_us + REFERENCE_BYTES * link.us_per_byte();
            if best[next].is_none_or(|known| cost < known.cost) {
                best[next] = Some(Reach { cost, edge: Some(Edge::Link(index)), previous: here });
            }
        }
        for (index, fabric) in self.fabrics.iter().enumerate() {
            let hop = fabric.latency_us + fabric.command_us + REFERENCE_BYTES * fabric.us_per_byte();
            let cost = start + hop;
            for next in fabric.neighbours(here) {
                if next < best.len() && best[next].is_none_or(|known| cost < known.cost) {
                    best[next] = Some(Reach { cost, edge: Some(Edge::Fabric(index)), previous: here });
                }
            }
        }
    }

    /// Which devices the host reaches (`down`), or which reach the host.
    pub(crate) fn reached(&self, down: bool) -> Vec<bool> {
        let mut seen = vec![false; self.devices.len()];
        let mut open = vec![self.host];
        while let Some(here) = open.pop() {
            if here >= seen.len() || std::mem::replace(&mut seen[here], true) {
                continue;
            }
            for link in &self.links {
                let next = if link.from == here { link.to } else { link.from };
                let (from, to) = if down { (here, next) } else { (next, here) };
                if link.carries(from, to) {
                    open.push(next);
                }
            }
            let joined = self.fabrics.iter().filter(|fabric| fabric.devices.contains(&here));
            open.extend(joined.flat_map(|fabric| &fabric.devices).filter(|&&next| !seen[next]));
        }
        seen
    }

    fn collect(&self, from: usize, to: usize, best: &[Option<Reach>]) -> Option<Path> {
        let mut path = Path { latency_us: 0.0, us_per_byte: 0.0, hops: vec![to], origin: String::new() };
        let mut origins = Vec::new();
        let mut here = to;
        while here != from {
            let reach = best[here]?;
            let (latency_us, us_per_byte, origin) = match reach.edge? {
                Edge::Link(index) => {
                    let link = &self.links[index];
                    (link.latency_us, link.us_per_byte(), link.origin.as_str())
                }
                Edge::Fabric(index) => {
                    let fabric = &self.fabrics[index];
                    (fabric.latency_us + fabric.command_us, fabric.us_per_byte(), fabric.origin.as_str())
                }
            };
            path.latency_us += latency_us;
            path.us_per_byte += us_per_byte;
            origins.push(origin);
            here = reach.previous;
            path.hops.push(here);
        }
        origins.reverse();
        path.hops.reverse();
        path.origin = if origins.is_empty() { "same device".to_owned() } else { origins.join("; then ") };
        Some(path)
    }
}

/// What a hop goes over, by position in the machine.
#[derive(Clone, Copy)]
enum Edge {
    Link(usize),
    Fabric(usize),
}

/// How a device is reached best so far.
#[derive(Clone, Copy)]
struct Reach {
    cost: f64,
    edge: Option<Edge>,
    previous: usize,
}

/// The open device reached at the lowest cost; ties go to the first.
fn nearest_open(best: &[Option<Reach>], open: &[bool]) -> Option<usize> {
    let reached = |device: usize| best[device].filter(|_| open[device]).map(|reach| (reach.cost, device));
    (0..best.len()).filter_map(reached).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, device)| device)
}
