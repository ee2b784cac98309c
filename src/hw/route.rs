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
        best[from] = Some(Reach { cost: 0.0, link: None, previous: from });
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
                best[next] = Some(Reach { cost, link: Some(index), previous: here });
            }
        }
    }

    fn collect(&self, from: usize, to: usize, best: &[Option<Reach>]) -> Option<Path> {
        let mut path = Path { latency_us: 0.0, us_per_byte: 0.0, hops: vec![to], origin: String::new() };
        let mut origins = Vec::new();
        let mut here = to;
        while here != from {
            let reach = best[here]?;
            let link = &self.links[reach.link?];
            path.latency_us += link.latency_us;
            path.us_per_byte += link.us_per_byte();
            origins.push(link.origin.as_str());
            here = reach.previous;
            path.hops.push(here);
        }
        origins.reverse();
        path.hops.reverse();
        path.origin = if origins.is_empty() { "same device".to_owned() } else { origins.join("; then ") };
        Some(path)
    }
}

/// How a device is reached best so far.
#[derive(Clone, Copy)]
struct Reach {
    cost: f64,
    link: Option<usize>,
    previous: usize,
}

/// The open device reached at the lowest cost; ties go to the first.
fn nearest_open(best: &[Option<Reach>], open: &[bool]) -> Option<usize> {
    let reached = |device: usize| best[device].filter(|_| open[device]).map(|reach| (reach.cost, device));
    (0..best.len()).filter_map(reached).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, device)| device)
}
