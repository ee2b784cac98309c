//! Starts for the latency search: earliest-finish list placement, and a path over one topological order.

use crate::jobs::Shape;
use crate::problem::Problem;
use crate::units::Units;

/// Places tasks by falling upward rank, each where it ends first given what is placed already. A task whose
/// unit is placed follows it. Memory is respected as long as some candidate has room.
pub(crate) fn earliest_finish(p: &Problem, units: &Units, shape: &Shape) -> Vec<usize> {
    let (n, k) = (shape.n_tasks, shape.k);
    let mut order: Vec<usize> = shape.order.clone();
    let rank = upward_rank(p, shape);
    order.sort_by(|&a, &b| rank[b].total_cmp(&rank[a]));
    let mut inputs = vec![Vec::new(); n];
    for (x, tensor) in p.tensors.iter().enumerate() {
        tensor.consumers.iter().for_each(|&c| inputs[c].push(x));
    }
    let mut place: Vec<Option<usize>> = vec![None; units.len()];
    let (mut end, mut free) = (vec![0.0f64; n], vec![0.0f64; k]);
    let mut room: Vec<u64> = p.devices.iter().map(|d| d.memory_bytes.unwrap_or(u64::MAX)).collect();
    for t in order {
        let unit = units.unit_of_task[t];
        let ready = |d: usize| {
            inputs[t].iter().fold(0.0f64, |latest, &x| {
                let u = p.tensors[x].producer;
                let from = place[units.unit_of_task[u]].unwrap_or(d);
                latest.max(end[u] + shape.wire.us(x, from, d))
            })
        };
        let finish = |d: usize| ready(d).max(free[d]) + p.time_us(t, d).unwrap_or(f64::INFINITY);
        let d = match place[unit] {
            Some(d) => d,
            None => {
                let key = |d: usize| (units.memory_bytes[unit] > room[d], finish(d));
                let better = |a: usize, b: usize| if key(b) < key(a) { b } else { a };
                units.candidates[unit].iter().copied().reduce(better).unwrap_or(0)
            }
        };
        let done = finish(d);
        end[t] = done;
        free[d] = done;
        if place[unit].is_none() {
            room[d] = room[d].saturating_sub(units.memory_bytes[unit]);
            place[unit] = Some(d);
        }
    }
    place.into_iter().map(|d| d.unwrap_or(0)).collect()
}

/// Mean time of a task plus the dearest way to the end; a hair more per step keeps it topological.
fn upward_rank(p: &Problem, shape: &Shape) -> Vec<f64> {
    let mut rank = vec![0.0f64; shape.n_tasks];
    let pairs = (shape.k * shape.k.saturating_sub(1)).max(1) as f64;
    for &t in shape.order.iter().rev() {
        let mut after = 0.0f64;
        for &x in &shape.produced[t] {
            let all = (0..shape.k).flat_map(|a| (0..shape.k).map(move |b| (a, b)));
            let us: f64 = all.map(|(a, b)| shape.wire.us(x, a, b)).filter(|v| v.is_finite()).sum();
            for &c in &p.tensors[x].consumers {
                after = after.max(rank[c] + us / pairs);
            }
        }
        let times: Vec<f64> = (0..shape.k).filter_map(|d| p.time_us(t, d)).collect();
        rank[t] = after * (1.0 + 1e-12) + times.iter().sum::<f64>() / times.len().max(1) as f64 + 1e-9;
    }
    rank
}

/// Shortest path over (position in the unit order, device), paying the tensors read from the place the device
/// was changed: as if everything ran one after another. Memory is not looked at; units with a single candidate
/// stay out of the path.
pub(crate) fn order_path(p: &Problem, units: &Units, shape: &Shape) -> Vec<usize> {
    let (n, k) = (units.len(), shape.k);
    let live = live_tensors(p, units, shape);
    let mut best = vec![f64::INFINITY; (n + 1) * k];
    let mut from = vec![0usize; (n + 1) * k];
    best[..k].fill(0.0);
    for (i, &u) in units.order.iter().enumerate() {
        for d in 0..k {
            for a in 0..k {
                let (messages, size) = live[i];
                let value = if units.candidates[u].len() == 1 {
                    best[i * k + a] + if a == d { 0.0 } else { f64::INFINITY }
                } else {
                    best[i * k + a] + shape.wire.sum_us(messages, size, a, d) + units.time_us[u][d]
                };
                if value < best[(i + 1) * k + d] {
                    best[(i + 1) * k + d] = value;
                    from[(i + 1) * k + d] = a;
                }
            }
        }
    }
    let mut device: Vec<usize> = units.candidates.iter().map(|c| c[0]).collect();
    let cheaper = |a: usize, b: usize| if best[n * k + b] < best[n * k + a] { b } else { a };
    let mut d = (0..k).reduce(cheaper).unwrap_or(0);
    if best[n * k + d].is_infinite() {
        return device;
    }
    for i in (0..n).rev() {
        if units.candidates[units.order[i]].len() > 1 {
            device[units.order[i]] = d;
        }
        d = from[(i + 1) * k + d];
    }
    device
}

/// Number and total size of the tensors that cross each position of the unit order. A tensor counts until its
/// next reader: that one moves it, and later ones are taken to read it where it then is.
fn live_tensors(p: &Problem, units: &Units, shape: &Shape) -> Vec<(f64, f64)> {
    let mut position = vec![0usize; units.len()];
    for (i, &u) in units.order.iter().enumerate() {
        position[u] = i;
    }
    let mut change = vec![(0.0, 0.0); units.len() + 2];
    for (x, tensor) in p.tensors.iter().enumerate() {
        let first = position[units.unit_of_task[tensor.producer]];
        let later = tensor.consumers.iter().map(|&c| position[units.unit_of_task[c]]).filter(|&i| i > first);
        if let Some(next) = later.min() {
            let size = shape.wire.size(x);
            change[first + 1].0 += 1.0;
            change[first + 1].1 += size;
            change[next + 1].0 -= 1.0;
            change[next + 1].1 -= size;
        }
    }
    let mut sum = (0.0, 0.0);
    change
        .iter()
        .map(|c| {
            sum = (sum.0 + c.0, f64::max(0.0, sum.1 + c.1));
            sum
        })
        .collect()
}
