//! A lower bound for the bottleneck by prices on the units, when the endpoints pay.
//!
//! Under endpoint costs the load of a device is a function of the set of units on it alone. For any prices, let
//! `V_d(T)` be the dearest set that device `d` can hold with a load of at most `T`. A placement with bottleneck
//! `T` spreads the units over the devices, so the prices of all units together are at most the sum of `V_d(T)`:
//! when the sum is smaller, the bottleneck is above `T`. This is the linear program over sets of the set
//! partitioning formulation (Gilmore and Gomory 1961), seen from its dual.
//!
//! `V` comes from a dynamic program over the states of `frontier.rs` and the load in whole steps of `T`, rounded
//! down; prices are whole numbers, so the comparison is exact. The prices are improved along the subgradient: up
//! where no device wants a unit, down where several do.

use crate::answer::Bound;
use crate::bound::load_bound;
use crate::frontier::{Frontier, Move};
use crate::load::LoadModel;

/// Cells of a table that is kept to read sets back from.
const KEPT_CELLS: usize = 1 << 24;
/// Rounds of improving prices and the share of the work as a divisor: first few steps of load, then more.
const LEVELS: [(u64, u64); 2] = [(600, 3), (250, 3)];
/// Least and most steps of load while prices improve.
const LEAST_STEPS: usize = 128;
const MOST_STEPS: usize = 4096;
/// Share of the newest subgradient in the direction.
const NEWS: f64 = 0.2;
/// After so many rounds without a better bound the best prices are taken up again, with shorter steps.
const STALE_ROUNDS: usize = 40;
const SLOWER: f64 = 0.7;
/// How far below zero the excess is aimed, relative to the sum of the prices.
const AIM: f64 = 0.01;
/// A level ends when steps along the direction are this short.
const LEAST_RATE: f64 = 0.02;
/// Most steps and share of the work for the final proof.
const FINAL_STEPS: u64 = 1 << 14;
const PROOF_SHARE: u64 = 6;
/// Work counted for this many cells.
const CELLS_PER_WORK: usize = 100;
/// Sum of the magnitudes of the prices.
const PRICE_SCALE: f64 = (1u32 << 28) as f64;
/// More than the sums of steps can be off by, in steps.
const ROUNDING: f64 = 1e-6;
/// The value of a cell that no set reaches.
const NEVER: i32 = i32::MIN / 2;
/// Most units this bound is tried on.
const MOST_UNITS: usize = 4_000;

/// Exchangeable devices: how many, times of units, decisions.
struct Class {
    count: i64,
    time_us: Vec<Option<f64>>,
    forced: Vec<bool>,
    frontier: Frontier,
}

/// The bound by prices, given the best known value; spends about `work`, and says how much.
pub(crate) fn bound(model: &LoadModel<'_>, known: f64, work: u64) -> (Option<Bound>, u64) {
    if !model.endpoints_pay() || model.units.len() > MOST_UNITS || known <= 0.0 || !known.is_finite() {
        return (None, 0);
    }
    let classes = classes(model);
    let moves: usize = classes.iter().map(|c| c.frontier.n_moves()).sum();
    let states: usize = classes.iter().map(|c| c.frontier.n_states()).sum();
    let cost = |steps: usize| (moves * steps / CELLS_PER_WORK).max(1) as u64;
    let mut price = load_prices(model);
    let mut spent = 0;
    for (rounds, share) in LEVELS {
        let cells = (work / share).saturating_mul(CELLS_PER_WORK as u64) / (rounds * moves.max(1) as u64);
        let steps = (cells as usize).min(KEPT_CELLS / states.max(1)).clamp(LEAST_STEPS, MOST_STEPS);
        let mut ascent = Ascent::new(&classes, price, known, steps);
        for _ in 0..rounds {
            if ascent.best_at + 1 >= steps || ascent.rate < LEAST_RATE || spent >= work {
                break;
            }
            spent += cost(steps);
            ascent.round();
        }
        price = ascent.best_price;
    }
    let fine = (work / PROOF_SHARE * CELLS_PER_WORK as u64 / moves.max(1) as u64)
        .clamp(LEAST_STEPS as u64, FINAL_STEPS);
    let steps = fine as usize;
    let at = prove(&classes, &price, known, steps);
    let value = at as f64 * (known / steps as f64) * (1.0 - 1e-12);
    (Some(Bound { value, kind: "prices" }), spent + cost(steps))
}

/// The prices by which the load bound is proven: the cheapest weighted time of each unit.
fn load_prices(model: &LoadModel<'_>) -> Vec<f64> {
    let (_, weight) = load_bound(model.units, model.k);
    let price = |row: &Vec<f64>| row.iter().zip(&weight).map(|(t, w)| t * w).fold(f64::INFINITY, f64::min);
    model.units.time_us.iter().map(price).collect()
}

fn classes(model: &LoadModel<'_>) -> Vec<Class> {
    let class_of = model.units.device_classes(model.problem);
    let one = |d: usize| {
        let time = |row: &Vec<f64>| Some(row[d]).filter(|t| t.is_finite());
        let count = class_of.iter().filter(|&&c| c == d).count() as i64;
        let charged = model.is_charged(d);
        Class {
            count,
            time_us: model.units.time_us.iter().map(time).collect(),
            forced: model.units.candidates.iter().map(|c| c == &[d]).collect(),
            frontier: if charged {
                Frontier::with_cuts(model.units)
            } else {
                Frontier::without_cuts(model.units)
            },
        }
    };
    (0..model.k).filter(|&d| class_of[d] == d).map(one).collect()
}

/// Loads as whole steps of `known / steps`.
///
/// A run of units inside, one after another in the order, is rounded as a whole: the difference of its ends in the
/// rounded sum of all times before, one less where that could be too much.
struct Table<'a> {
    class: &'a Class,
    width: usize,
    /// Per step and move, whole steps of load; `None` when it is not allowed or beyond the table.
    cost: Vec<Vec<Option<i32>>>,
}

impl<'a> Table<'a> {
    fn new(class: &'a Class, known: f64, width: usize) -> Self {
        let scale = width as f64 / known;
        let mut before = 0.0f64;
        let mut cost = Vec::with_capacity(class.frontier.steps.len());
        for step in &class.frontier.steps {
            let time = class.time_us[step.unit];
            let after = before + time.unwrap_or(0.0) * scale;
            let of = |m: &Move| {
                let cut = (m.cut_us * scale - ROUNDING).floor().max(0.0);
                let begin = if m.first { (before + ROUNDING).ceil() } else { (before - ROUNDING).floor() };
                let run = (after - ROUNDING).floor() - begin;
                let steps = cut + if m.inside { run } else { 0.0 };
                let allowed = if m.inside { time.is_some() } else { !class.forced[step.unit] };
                (allowed && steps < width as f64).then_some(steps as i32)
            };
            cost.push(step.moves.iter().map(of).collect());
            before = after;
        }
        Table { class, width, cost }
    }

    /// Runs the decisions from one row of cells to the next; the rows of all steps when they are to be kept.
    fn run(&self, price: &[i32], rows: &mut Vec<Vec<i32>>, keep: bool) -> Vec<i32> {
        let w = self.width;
        let steps = &self.class.frontier.steps;
        rows.resize_with(if keep { steps.len() + 1 } else { 2 }, Vec::new);
        fill(&mut rows[0], w);
        rows[0][0] = 0;
        let mut at = 0;
        for (step, cost) in steps.iter().zip(&self.cost) {
            let mut next = std::mem::take(&mut rows[if keep { at + 1 } else { 1 }]);
            fill(&mut next, step.n_states * w);
            for (m, cost) in step.moves.iter().zip(cost) {
                let Some(cost) = *cost else { continue };
                let gain = if m.inside { price[step.unit] } else { 0 };
                shift(&rows[at][m.from * w..][..w], &mut next[m.to * w..][..w], cost, gain);
            }
            at = if keep { at + 1 } else { 0 };
            let old = std::mem::replace(&mut rows[at], next);
            if !keep {
                rows[1] = old;
            }
        }
        rows[at].clone()
    }

    /// The dearest set with a load of at most `at`, by the kept rows.
    fn read_back(&self, price: &[i32], rows: &[Vec<i32>], at: usize) -> Vec<bool> {
        let w = self.width;
        let mut inside = vec![false; price.len()];
        let last = &rows[rows.len() - 1];
        let (mut state, mut j) = (0, (0..=at).max_by_key(|&j| (last[j], std::cmp::Reverse(j))).unwrap_or(0));
        for (i, (step, cost)) in self.class.frontier.steps.iter().zip(&self.cost).enumerate().rev() {
            let value = rows[i + 1][state * w + j];
            let moves = step.moves.iter().zip(cost).filter(|(m, _)| m.to == state);
            let hit =
                moves.flat_map(|(m, &cost)| Some((m, sources(cost?, j, w)))).find_map(|(m, mut from)| {
                    let gain = if m.inside { price[step.unit] } else { 0 };
                    from.find(|&b| rows[i][m.from * w + b] + gain == value).map(|b| (m, b))
                });
            let Some((m, before)) = hit else { break };
            inside[step.unit] = m.inside;
            (state, j) = (m.from, before);
        }
        inside
    }
}

fn fill(row: &mut Vec<i32>, cells: usize) {
    row.clear();
    row.resize(cells, NEVER);
}

/// `to[j + cost] = max(itself, from[j] + gain)`; costs may be slightly below zero, and stop at zero.
fn shift(from: &[i32], to: &mut [i32], cost: i32, gain: i32) {
    let back = cost.min(0).unsigned_abs() as usize;
    for &x in &from[..back.min(from.len())] {
        to[0] = to[0].max(x + gain);
    }
    let ahead = cost.max(0) as usize;
    let (from, to) = (&from[back.min(from.len())..from.len() - ahead], &mut to[ahead..]);
    for (y, &x) in to.iter_mut().zip(from) {
        *y = (*y).max(x + gain);
    }
}

/// The cells from which `shift` reaches cell `j` of `width`.
fn sources(cost: i32, j: usize, width: usize) -> std::ops::Range<usize> {
    let back = cost.min(0).unsigned_abs() as usize;
    let ahead = cost.max(0) as usize;
    if j < ahead {
        return 0..0;
    }
    let from = (j - ahead + back).min(width);
    let least = if j == 0 { 0 } else { from };
    least..(from + 1).min(width)
}

fn tables(classes: &[Class], known: f64, steps: usize) -> Vec<Table<'_>> {
    classes.iter().map(|class| Table::new(class, known, steps)).collect()
}

/// Prices as whole numbers.
fn whole(price: &[f64]) -> Vec<i32> {
    let sum: f64 = price.iter().map(|p| p.abs()).sum();
    let scale = if sum > 0.0 && sum.is_finite() { PRICE_SCALE / sum } else { 0.0 };
    price.iter().map(|p| (p * scale).clamp(-PRICE_SCALE, PRICE_SCALE) as i32).collect()
}

/// Sum over devices of the dearest set per load.
fn wanted(classes: &[Class], lasts: &[Vec<i32>]) -> Vec<i64> {
    let width = lasts.first().map_or(0, Vec::len);
    let mut sum = vec![0i64; width];
    for (class, last) in classes.iter().zip(lasts) {
        let mut most = NEVER;
        for (s, &v) in sum.iter_mut().zip(last) {
            most = most.max(v);
            *s += class.count * i64::from(most);
        }
    }
    sum
}

/// Steps of load below which no placement is, by these prices.
fn prove(classes: &[Class], price: &[f64], known: f64, steps: usize) -> usize {
    let price = whole(price);
    let lasts: Vec<Vec<i32>> =
        tables(classes, known, steps).iter().map(|t| t.run(&price, &mut Vec::new(), false)).collect();
    let all: i64 = price.iter().map(|&p| i64::from(p)).sum();
    wanted(classes, &lasts).iter().take_while(|&&v| v < all).count()
}

/// Improves prices; the load that is proven grows with them.
struct Ascent<'a> {
    classes: &'a [Class],
    tables: Vec<Table<'a>>,
    rows: Vec<Vec<Vec<i32>>>,
    price: Vec<f64>,
    direction: Vec<f64>,
    best_price: Vec<f64>,
    best_at: usize,
    rate: f64,
    stale: usize,
}

impl<'a> Ascent<'a> {
    fn new(classes: &'a [Class], price: Vec<f64>, known: f64, steps: usize) -> Self {
        let direction = vec![0.0; price.len()];
        let tables = tables(classes, known, steps);
        Ascent {
            classes,
            rows: vec![Vec::new(); tables.len()],
            tables,
            best_price: price.clone(),
            price,
            direction,
            best_at: 0,
            rate: 1.0,
            stale: 0,
        }
    }

    fn round(&mut self) {
        let price = whole(&self.price);
        let runs = self.tables.iter().zip(&mut self.rows);
        let lasts: Vec<Vec<i32>> = runs.map(|(table, rows)| table.run(&price, rows, true)).collect();
        let all: i64 = price.iter().map(|&p| i64::from(p)).sum();
        let wanted = wanted(self.classes, &lasts);
        let at = wanted.iter().take_while(|&&v| v < all).count();
        if at > self.best_at {
            (self.best_at, self.best_price, self.stale) = (at, self.price.clone(), 0);
        } else {
            self.stale += 1;
            if self.stale >= STALE_ROUNDS {
                self.stale = 0;
                self.rate *= SLOWER;
                self.price = self.best_price.clone();
            }
        }
        // Ahead of what is proven, further while the steps are long.
        let ahead = (wanted.len() - 1).saturating_sub(self.best_at) as f64;
        let goal = (self.best_at + (ahead * self.rate / 2.0) as usize).min(wanted.len() - 1);
        let mut cover = vec![-1.0; self.price.len()];
        for (table, rows) in self.tables.iter().zip(&self.rows) {
            for (c, inside) in cover.iter_mut().zip(table.read_back(&price, rows, goal)) {
                *c += if inside { table.class.count as f64 } else { 0.0 };
            }
        }
        self.step(&cover, (wanted[goal] - all) as f64 / PRICE_SCALE);
    }

    /// Along the averaged subgradient, as far as its length and the excess say (Polyak 1969).
    fn step(&mut self, cover: &[f64], excess: f64) {
        let sum: f64 = self.price.iter().map(|p| p.abs()).sum();
        for (d, c) in self.direction.iter_mut().zip(cover) {
            *d = (1.0 - NEWS) * *d + NEWS * c;
        }
        let length: f64 = self.direction.iter().map(|d| d * d).sum();
        if length < 1e-9 {
            // Every unit is wanted once: there is no better direction.
            return;
        }
        let pace = self.rate * (excess.max(0.0) + AIM) * sum / length;
        for (p, d) in self.price.iter_mut().zip(&self.direction) {
            *p -= pace * d;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{CommModel, Device, Problem, Task, Tensor};
    use crate::rng::Rng;
    use crate::units::Units;

    fn random(seed: u64) -> Problem {
        let mut rng = Rng::new(seed);
        let (n, k) = (4 + rng.below(5), 2 + rng.below(2));
        let devices = (0..k).map(|d| Device { name: format!("d{d}"), memory_bytes: None }).collect();
        let time = |rng: &mut Rng, d: usize| (d == 0 || rng.below(6) > 0).then(|| rng.below(40) as f64 / 4.0);
        let task = |rng: &mut Rng, t: usize| Task {
            name: format!("t{t}"),
            time_us: if t.is_multiple_of(3) {
                (0..k).map(|d| time(rng, d)).collect()
            } else {
                vec![time(rng, 0); k]
            },
            memory_bytes: 0,
            colocate: None,
            pin: None,
        };
        let tasks = (0..n).map(|t| task(&mut rng, t)).collect();
        let tensors: Vec<Tensor> = (0..n - 1)
            .map(|u| Tensor {
                name: format!("x{u}"),
                bytes: 0,
                producer: u,
                consumers: (u + 1..n).filter(|_| rng.below(3) == 0).collect(),
            })
            .collect();
        let comm = CommModel::Endpoint {
            cost_us: tensors.iter().map(|_| rng.below(30) as f64 / 4.0).collect(),
            charged: (0..k).map(|d| d > 0).collect(),
        };
        Problem { name: "random".into(), devices, tasks, tensors, links: vec![vec![None; k]; k], comm }
    }

    /// The bound is never above the optimum, and on average far above the load bound.
    #[test]
    fn no_placement_is_below_the_bound() {
        let (mut better, mut close) = (0, 0);
        for seed in 0..200 {
            let p = random(seed);
            let units = Units::new(&p);
            let model = LoadModel::new(&p, &units);
            let place = |code: usize| -> Vec<usize> {
                (0..units.len()).map(|u| code / model.k.pow(u as u32) % model.k).collect()
            };
            let values = (0..model.k.pow(units.len() as u32)).filter_map(|code| model.value(&place(code)));
            let best = values.fold(f64::INFINITY, f64::min);
            if best <= 0.0 {
                continue;
            }
            let (bound, _) = bound(&model, best, 40_000);
            let value = bound.unwrap().value;
            assert!(value <= best, "seed {seed}: {value} above {best}");
            better += usize::from(value > load_bound(&units, model.k).0.value * 1.001);
            close += usize::from(value > best * 0.97);
        }
        assert!(better > 80 && close > 80, "{better} better, {close} close");
    }
}
