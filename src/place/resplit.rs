//! Local search for the bottleneck when the endpoints pay: what two devices hold is divided between them anew,
//! almost optimally, by a dynamic program over a narrow order of the units.
//!
//! A state is, for each edge that reaches over the present place, on which of the two devices it has been seen; a
//! label is the load of the first device in steps, and of all partial divisions with equal state and step the one
//! with the least load on the second device is kept. Loads themselves are exact, only the choice among labels of
//! one step is not.

use crate::anneal::Placed;
use crate::frontier::{Edge, edges, narrow_order};
use crate::load::LoadModel;
use crate::rng::Rng;
use std::collections::BTreeMap;

/// Steps of load of the first device.
const STEPS: usize = 2048;
/// Most states between two units; beyond, the pair is left as it is.
const MAX_STATES: usize = 128;
/// Most labels kept to read the division back.
const MAX_LABELS: usize = 1 << 23;
/// Most units of one pair.
const MAX_UNITS: usize = 1000;
/// Work counted for this many labels.
const LABELS_PER_WORK: u64 = 4;
/// Share of the value that counts as better.
const BETTER: f64 = 1e-9;
const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// A label: exact loads and where it came from.
#[derive(Debug, Clone, Copy)]
struct Label {
    first_us: f64,
    second_us: f64,
    from: u32,
    to_first: bool,
}

/// Divides pairs anew until none gets better or the work is spent; the result and the work.
pub(crate) fn improve(model: &LoadModel<'_>, start: &Placed, seed: u64, work: u64) -> (Placed, u64) {
    let mut best = start.clone();
    if !model.endpoints_pay() || model.k < 2 {
        return (best, 0);
    }
    let edges = edges(model.units);
    let order = narrow_order(model.units, &edges);
    let mut search = Search { model, edges, order, spent: 0 };
    let mut rng = Rng::new(seed);
    let mut idle = 0;
    while search.spent < work && idle < 2 * model.k {
        let (load, _) = model.loads(&best.device_of_unit);
        let most = (0..model.k).fold(0, |a, d| if load[d] > load[a] { d } else { a });
        // Every other time two devices that do not hold the bottleneck make room.
        let a = if idle % 2 == 0 { most } else { rng.below(model.k) };
        let mut others: Vec<usize> = (0..model.k).filter(|&d| d != a).collect();
        others.rotate_left(rng.below(model.k - 1));
        idle += 1;
        for b in others {
            let Some(device) = search.divide(&best.device_of_unit, a, b, &load) else { continue };
            if let Some(value) = model.value(&device)
                && value <= best.value
            {
                idle = if value < best.value * (1.0 - BETTER) { 0 } else { idle };
                best = Placed { device_of_unit: device, value };
                break;
            }
        }
    }
    (best, search.spent)
}

struct Search<'a> {
    model: &'a LoadModel<'a>,
    edges: Vec<Edge>,
    order: Vec<usize>,
    spent: u64,
}

/// The units of a pair and the edges among them.
struct Pair {
    units: Vec<usize>,
    /// Edges of each unit, by place.
    edges_of: Vec<Vec<usize>>,
    /// Last place of each edge, and whether a third device has a part of it.
    last: BTreeMap<usize, (usize, bool)>,
}

type States = BTreeMap<Vec<(usize, u8)>, Vec<Option<Label>>>;

impl Search<'_> {
    /// A division of what `a` and `b` hold with a smaller maximum, or an equal one with a smaller sum.
    fn divide(&mut self, device: &[usize], a: usize, b: usize, load: &[f64]) -> Option<Vec<usize>> {
        let pair = self.pair(device, a, b);
        let limit = load[a].max(load[b]);
        if pair.units.len() > MAX_UNITS || limit <= 0.0 {
            return None;
        }
        let mut states: States = BTreeMap::from([(Vec::new(), vec![None; STEPS])]);
        states.values_mut().for_each(|row| {
            row[0] = Some(Label { first_us: 0.0, second_us: 0.0, from: 0, to_first: false });
        });
        let mut history: Vec<Vec<Option<Label>>> = Vec::new();
        let mut kept = 0;
        for place in 0..pair.units.len() {
            let next = self.step(&pair, place, (a, b), &states, limit);
            history.push(states.into_values().flatten().collect());
            states = next;
            kept += states.len() * STEPS;
            self.spent += (states.len() * STEPS) as u64 / LABELS_PER_WORK;
            if states.is_empty() || states.len() > MAX_STATES || kept > MAX_LABELS {
                return None;
            }
        }
        let last: Vec<Option<Label>> = states.into_values().flatten().collect();
        let key = |l: &Label| (l.first_us.max(l.second_us), l.first_us + l.second_us);
        let better = |x: Label, y: Label| if key(&y) < key(&x) { y } else { x };
        let end = last.iter().flatten().copied().reduce(better)?;
        let before = (limit, load[a] + load[b]);
        let (most, sum) = key(&end);
        if most > before.0 * (1.0 - BETTER) && sum > before.1 * (1.0 - BETTER) {
            return None;
        }
        let mut device = device.to_vec();
        let mut label = end;
        for (place, rows) in history.iter().enumerate().rev() {
            device[pair.units[place]] = if label.to_first { a } else { b };
            label = rows.get(label.from as usize).copied().flatten()?;
        }
        Some(device)
    }

    fn pair(&self, device: &[usize], a: usize, b: usize) -> Pair {
        let held = |u: usize| device[u] == a || device[u] == b;
        let units: Vec<usize> = self.order.iter().copied().filter(|&u| held(u)).collect();
        let place: BTreeMap<usize, usize> = units.iter().enumerate().map(|(i, &u)| (u, i)).collect();
        let (mut edges_of, mut last) = (vec![Vec::new(); units.len()], BTreeMap::new());
        for (e, edge) in self.edges.iter().enumerate() {
            let mut end = None;
            for i in edge.units.iter().filter_map(|u| place.get(u).copied()) {
                edges_of[i].push(e);
                end = end.max(Some(i));
            }
            if let Some(end) = end {
                last.insert(e, (end, edge.units.iter().any(|&u| !held(u))));
            }
        }
        Pair { units, edges_of, last }
    }

    /// Labels after the unit at `place` has gone to either device.
    fn step(&self, pair: &Pair, place: usize, (a, b): (usize, usize), states: &States, limit: f64) -> States {
        let unit = pair.units[place];
        let scale = STEPS as f64 / (limit * (1.0 + 1e-12));
        let mut next = States::new();
        for (i, (state, row)) in states.iter().enumerate() {
            for (to_first, d) in [(true, a), (false, b)] {
                let time = self.model.units.time_us[unit][d];
                if !time.is_finite() {
                    continue;
                }
                let (after, first, second) = self.decide(pair, place, state, to_first, (a, b));
                let (first, second) =
                    (first + if to_first { time } else { 0.0 }, second + if to_first { 0.0 } else { time });
                let out = next.entry(after).or_insert_with(|| vec![None; STEPS]);
                for (j, label) in row.iter().enumerate() {
                    let Some(l) = label else { continue };
                    let (first_us, second_us) = (l.first_us + first, l.second_us + second);
                    if first_us > limit || second_us > limit {
                        continue;
                    }
                    let cell = &mut out[((first_us * scale) as usize).min(STEPS - 1)];
                    if cell.is_none_or(|old| second_us < old.second_us) {
                        *cell = Some(Label { first_us, second_us, from: (i * STEPS + j) as u32, to_first });
                    }
                }
            }
        }
        next
    }

    /// The state after a unit's decision and what it makes each device pay.
    fn decide(
        &self,
        pair: &Pair,
        place: usize,
        state: &[(usize, u8)],
        to_first: bool,
        (a, b): (usize, usize),
    ) -> (Vec<(usize, u8)>, f64, f64) {
        let mut after = state.to_vec();
        let (mut first, mut second) = (0.0, 0.0);
        let side = if to_first { FIRST } else { SECOND };
        for &e in &pair.edges_of[place] {
            let at = after.binary_search_by_key(&e, |s| s.0);
            let seen = at.map_or(0, |i| after[i].1);
            let now = seen | side;
            let (last, elsewhere) = pair.last[&e];
            // A device pays once it has a part and something is outside it.
            let pays = |seen: u8, who: u8| seen & who != 0 && (elsewhere || seen == FIRST | SECOND);
            for (who, d, sum) in [(FIRST, a, &mut first), (SECOND, b, &mut second)] {
                if self.model.is_charged(d) && pays(now, who) && !pays(seen, who) {
                    *sum += self.edges[e].cost_us;
                }
            }
            match at {
                Ok(i) if last == place => drop(after.remove(i)),
                Ok(i) => after[i].1 = now,
                Err(i) if last > place => after.insert(i, (e, now)),
                Err(_) => {}
            }
        }
        (after, first, second)
    }
}
