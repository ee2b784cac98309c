//! Exact search for small bottleneck problems: branch and bound over units, largest first.
//!
//! Loads only grow as units are placed, so the partial maximum is a bound; the other is the weighted load bound
//! with the part already placed counted as it is. Equal devices are used in order.

use crate::anneal::Placed;
use crate::answer::OPTIMAL_RELATIVE;
use crate::bound::load_bound;
use crate::load::LoadModel;

/// Result: a better placement if there is one, whether the search was complete, and the work.
#[derive(Debug, Clone)]
pub(crate) struct ExactLoad {
    pub(crate) better: Option<Placed>,
    pub(crate) complete: bool,
    pub(crate) work: u64,
}

/// Searches for a bottleneck below `known`, spending at most `work`.
pub(crate) fn search(model: &LoadModel<'_>, known: f64, work: u64) -> ExactLoad {
    let units = model.units;
    let least = |u: usize| units.time_us[u].iter().copied().fold(f64::INFINITY, f64::min);
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by(|&a, &b| least(b).total_cmp(&least(a)).then(a.cmp(&b)));
    let (_, weight) = load_bound(units, model.k);
    let cheapest = |u: usize| -> f64 {
        units.candidates[u].iter().map(|&d| weight[d] * units.time_us[u][d]).fold(f64::INFINITY, f64::min)
    };
    let mut rest = vec![0.0; order.len() + 1];
    for i in (0..order.len()).rev() {
        rest[i] = rest[i + 1] + cheapest(order[i]);
    }
    let mut search = Search {
        model,
        class: units.device_classes(model.problem),
        order,
        weight,
        rest,
        device: vec![None; units.len()],
        used: vec![0; model.k],
        best: known,
        result: ExactLoad { better: None, complete: true, work: 0 },
        budget: work,
    };
    search.branch(0, &vec![0.0; model.n_resources()], &model.capacity.clone());
    search.result
}

struct Search<'a> {
    model: &'a LoadModel<'a>,
    class: Vec<usize>,
    order: Vec<usize>,
    weight: Vec<f64>,
    rest: Vec<f64>,
    device: Vec<Option<usize>>,
    used: Vec<usize>,
    best: f64,
    result: ExactLoad,
    budget: u64,
}

impl Search<'_> {
    fn branch(&mut self, depth: usize, load: &[f64], room: &[u64]) {
        if self.result.work >= self.budget {
            self.result.complete = false;
            return;
        }
        let Some(&u) = self.order.get(depth) else {
            self.leaf();
            return;
        };
        let mut children: Vec<(f64, usize, Vec<f64>)> = Vec::new();
        for &d in &self.model.units.candidates[u] {
            let twin_unused = (0..d).any(|e| self.class[e] == self.class[d] && self.used[e] == 0);
            if self.model.units.memory_bytes[u] > room[d] || (self.used[d] == 0 && twin_unused) {
                continue;
            }
            let mut next = load.to_vec();
            self.model.add_unit(u, d, &self.device, &mut next);
            self.result.work += 2 + self.model.units.flows_of_unit[u].len() as u64;
            children.push((next.iter().copied().fold(0.0, f64::max), d, next));
        }
        children.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (most, d, next) in children {
            let spread: f64 = next.iter().zip(&self.weight).map(|(l, w)| l * w).sum();
            let bound = most.max((spread + self.rest[depth + 1]) * (1.0 - 1e-12));
            if bound >= self.best * (1.0 - OPTIMAL_RELATIVE / 2.0) {
                continue;
            }
            let mut room = room.to_vec();
            room[d] -= self.model.units.memory_bytes[u];
            self.device[u] = Some(d);
            self.used[d] += 1;
            self.branch(depth + 1, &next, &room);
            self.used[d] -= 1;
            self.device[u] = None;
        }
    }

    fn leaf(&mut self) {
        let device: Vec<usize> = self.device.iter().map(|d| d.unwrap_or(0)).collect();
        if let Some(value) = self.model.value(&device)
            && value < self.best
        {
            self.best = value;
            self.result.better = Some(Placed { device_of_unit: device, value });
        }
    }
}
