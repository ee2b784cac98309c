//! Fits costs to measured times: non-negative costs per amount with small relative errors.
//!
//! Least squares of relative errors with costs that are not negative (active sets: Lawson and Hanson, "Solving least squares
//! problems", 1974) nor beyond what is physical, reweighted so that large errors count by their size and not by its square: times on a busy machine
//! have outliers. Nothing here reads a clock or depends on the order of hashes.

use crate::terms::{Caches, Terms};
use partita_hw::Fit;
use std::collections::BTreeMap;

/// Rounds of reweighting; errors change in the third digit after half of them.
const ROUNDS: usize = 12;
/// Errors below this count by their square.
const SMALL_ERROR: f64 = 0.03;
/// Grains tried: work of 2^8 to 2^22.
const GRAINS: std::ops::RangeInclusive<u32> = 8..=22;

/// Most nanoseconds of a byte: 5 GB/s for one core, slower than any memory of a machine that runs nets. Bytes are few in
/// some launches, and what disturbed these must not become their cost.
const MOST_NS_PER_BYTE: f64 = 0.2;

/// One measured launch; where its bytes are found depends on what the last cache keeps.
#[derive(Clone, Debug)]
pub struct Sample {
    pub terms: Terms,
    pub caches: Caches,
    pub us: f64,
}

/// A fit for `threads` threads and the relative error of every sample, or `None` without samples.
pub fn fit(samples: &[&Sample], threads: u32) -> Option<(Fit, Vec<f64>)> {
    let grains: Vec<f64> =
        if threads <= 1 { vec![0.0] } else { GRAINS.map(|power| f64::from(1u32 << power)).collect() };
    let mut best: Option<(f64, Fit, Vec<f64>)> = None;
    for grain in grains {
        let ns = costs(samples, threads, grain)?;
        let fit = Fit { grain, ns, samples: samples.len() as u32, ..Fit::default() };
        let errors: Vec<f64> = samples.iter().map(|s| error(&fit, s, threads)).collect();
        let mean = errors.iter().map(|e| e.min(1.0)).sum::<f64>() / errors.len() as f64;
        // The smallest grain of those that explain the times equally well.
        if best.as_ref().is_none_or(|(least, ..)| mean < least - 1e-4) {
            best = Some((mean, fit, errors));
        }
    }
    best.map(|(_, fit, errors)| (fit, errors))
}

/// Relative error of a fit for a sample.
pub fn error(fit: &Fit, sample: &Sample, threads: u32) -> f64 {
    let predicted = fit.time_us(sample.terms.amounts(threads, fit.grain, &sample.caches).into_iter());
    (predicted / sample.us - 1.0).abs()
}

/// The value below which a share of `values` lies; 0 without any.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Nanoseconds per amount.
fn costs(samples: &[&Sample], threads: u32, grain: f64) -> Option<BTreeMap<String, f64>> {
    let rows: Vec<BTreeMap<&str, f64>> =
        samples.iter().map(|s| s.terms.amounts(threads, grain, &s.caches).into_iter().collect()).collect();
    let mut names: Vec<&str> = rows.iter().flat_map(|row| row.keys().copied()).collect();
    names.sort_unstable();
    names.dedup();
    // Amounts by the time in ns: the right-hand side is then 1. Columns are scaled to a largest entry of 1.
    let share = |(row, sample): (&BTreeMap<&str, f64>, &&Sample)| -> Vec<f64> {
        names.iter().map(|name| row.get(name).unwrap_or(&0.0) / (sample.us.max(1e-3) * 1e3)).collect()
    };
    let mut matrix: Vec<Vec<f64>> = rows.iter().zip(samples).map(share).collect();
    let scales: Vec<f64> =
        (0..names.len()).map(|c| matrix.iter().map(|row| row[c]).fold(f64::MIN_POSITIVE, f64::max)).collect();
    for row in &mut matrix {
        row.iter_mut().zip(&scales).for_each(|(entry, scale)| *entry /= scale);
    }
    let most = |(name, scale): (&&str, &f64)| {
        if name.contains("byte") { MOST_NS_PER_BYTE * scale } else { f64::INFINITY }
    };
    let most: Vec<f64> = names.iter().zip(&scales).map(most).collect();
    let solution = reweighted(&matrix, &most)?;
    let costs = names.iter().zip(solution).zip(&scales).filter(|((_, x), _)| *x > 0.0);
    Some(costs.map(|((name, x), scale)| ((*name).to_owned(), rounded(x / scale))).collect())
}

/// Four digits: more would be noise.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// `0 <= x <= most` with small `|matrix · x - 1|`.
fn reweighted(matrix: &[Vec<f64>], most: &[f64]) -> Option<Vec<f64>> {
    let mut weights = vec![1.0; matrix.len()];
    let mut solution = Vec::new();
    for _ in 0..ROUNDS {
        solution = bounded(matrix, &weights, most)?;
        for (weight, row) in weights.iter_mut().zip(matrix) {
            let error = (dot(row, &solution) - 1.0).abs();
            *weight = 1.0 / error.max(SMALL_ERROR);
        }
    }
    Some(solution)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `0 <= x <= most` with a small weighted sum of squares of `matrix · x - 1`: entries beyond their most are held there,
/// and the others explain the rest.
fn bounded(matrix: &[Vec<f64>], weights: &[f64], most: &[f64]) -> Option<Vec<f64>> {
    let n = matrix.first()?.len();
    let gram =
        |a: usize, b: usize| -> f64 { matrix.iter().zip(weights).map(|(row, w)| w * row[a] * row[b]).sum() };
    let square: Vec<Vec<f64>> = (0..n).map(|a| (0..n).map(|b| gram(a, b)).collect()).collect();
    let sums = |c: usize| -> f64 { matrix.iter().zip(weights).map(|(row, w)| w * row[c]).sum() };
    let right: Vec<f64> = (0..n).map(sums).collect();
    let mut full = vec![false; n];
    loop {
        let given = |r: usize| -> f64 { (0..n).filter(|&c| full[c]).map(|c| square[r][c] * most[c]).sum() };
        let rest: Vec<f64> = (0..n).map(|r| right[r] - given(r)).collect();
        let mut x = non_negative(&square, &rest, &full);
        let beyond: Vec<usize> = (0..n).filter(|&c| x[c] > most[c]).collect();
        (0..n).filter(|&c| full[c]).for_each(|c| x[c] = most[c]);
        if beyond.is_empty() {
            return Some(x);
        }
        beyond.into_iter().for_each(|c| full[c] = true);
    }
}

/// `x >= 0` with the least `x · square · x / 2 - right · x`; `held` entries stay zero.
fn non_negative(square: &[Vec<f64>], right: &[f64], held: &[bool]) -> Vec<f64> {
    let n = right.len();
    let largest = right.iter().copied().fold(0.0, f64::max);
    let (mut x, mut free) = (vec![0.0; n], vec![false; n]);
    for _ in 0..3 * n {
        let gradient: Vec<f64> = (0..n).map(|c| right[c] - dot(&square[c], &x)).collect();
        let rising = (0..n).filter(|&c| !free[c] && !held[c] && gradient[c] > 1e-9 * largest);
        let Some(next) = rising.max_by(|&a, &b| gradient[a].total_cmp(&gradient[b])) else { break };
        free[next] = true;
        descend(square, right, &mut x, &mut free);
    }
    x
}

/// Moves `x` to the best point whose entries are free, holding those at zero that would leave.
fn descend(square: &[Vec<f64>], right: &[f64], x: &mut [f64], free: &mut [bool]) {
    for _ in 0..x.len() {
        let best = solved(square, right, free);
        let leaving = |c: &usize| free[*c] && best[*c] <= 0.0;
        let step = (0..x.len()).filter(leaving).map(|c| x[c] / (x[c] - best[c]).max(f64::MIN_POSITIVE));
        let step = step.fold(1.0, f64::min);
        let inside = !(0..x.len()).any(|c| leaving(&c));
        for c in 0..x.len() {
            x[c] += step * (best[c] - x[c]);
            if free[c] && x[c] <= 1e-14 {
                (x[c], free[c]) = (0.0, false);
            }
        }
        if inside {
            return;
        }
    }
}

/// The solution of the equations of the free entries, by elimination; the others are zero.
fn solved(square: &[Vec<f64>], right: &[f64], free: &[bool]) -> Vec<f64> {
    let entries: Vec<usize> = (0..free.len()).filter(|&c| free[c]).collect();
    let ridge = |c: usize| square[c][c] * 1e-12;
    let equation = |&r: &usize| -> Vec<f64> {
        let left = entries.iter().map(|&c| square[r][c] + if r == c { ridge(c) } else { 0.0 });
        left.chain([right[r]]).collect()
    };
    let mut rows: Vec<Vec<f64>> = entries.iter().map(equation).collect();
    for at in 0..rows.len() {
        let pivot = rows[at].clone();
        for row in rows.iter_mut().skip(at + 1) {
            let factor = row[at] / if pivot[at].abs() > 0.0 { pivot[at] } else { f64::MIN_POSITIVE };
            row.iter_mut().zip(&pivot).for_each(|(entry, p)| *entry -= factor * p);
        }
    }
    let (mut out, mut found) = (vec![0.0; free.len()], vec![0.0; entries.len()]);
    for at in (0..rows.len()).rev() {
        let row = &rows[at];
        let known: f64 = (at + 1..rows.len()).map(|c| row[c] * found[c]).sum();
        let pivot = row[at];
        found[at] = if pivot.abs() > 0.0 { (row[rows.len()] - known) / pivot } else { 0.0 };
        out[entries[at]] = found[at];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::{Launch, Operand};
    use partita_plan::{ElementType, Kernel};

    /// A product with a constant second operand.
    fn product(m: usize, k: usize, n: usize) -> Terms {
        let operand = |value, shape: &[usize], constant| Operand {
            value,
            dtype: ElementType::F32,
            shape: shape.to_vec(),
            constant,
            input: false,
        };
        let kernel = Kernel { library: "gemm".to_owned(), ..Kernel::default() };
        Terms::of(&Launch {
            kernel: &kernel,
            inputs: vec![Some(operand(0, &[m, k], false)), Some(operand(1, &[k, n], true))],
            outputs: vec![operand(2, &[m, n], false)],
            symbols: Vec::new(),
        })
    }

    /// Products of many sizes, with times by `truth`.
    fn samples(truth: &Fit, threads: u32) -> Vec<Sample> {
        let caches = Caches { near_bytes: 7e5, far_bytes: 1e7, footprint_bytes: 3e7 };
        let sizes = [15, 28, 50, 100, 224, 400].into_iter().flat_map(|m| {
            [16, 64, 200, 512, 1000].into_iter().flat_map(move |k| [10, 48, 250, 768].map(|n| (m, k, n)))
        });
        let timed = |(m, k, n)| {
            let terms = product(m, k, n);
            let us = truth.time_us(terms.amounts(threads, truth.grain, &caches).into_iter());
            Sample { terms, caches, us }
        };
        sizes.map(timed).collect()
    }

    fn truth(grain: f64) -> Fit {
        let costs = [
            ("launch", 250.0),
            ("fork", 1800.0),
            ("multiply-add", 0.0081),
            ("tile", 30.0),
            ("byte written", 0.02),
        ];
        let ns = costs.into_iter().map(|(name, ns)| (name.to_owned(), ns)).collect();
        Fit { grain, ns, ..Fit::default() }
    }

    #[test]
    fn synthetic_times_give_their_costs_back() {
        for (threads, grain) in [(1, 0.0), (2, 262_144.0)] {
            let truth = truth(grain);
            let samples = samples(&truth, threads);
            let (found, errors) = fit(&samples.iter().collect::<Vec<_>>(), threads).unwrap();
            assert!(quantile(&errors, 1.0) < 0.01, "{found:?}");
            assert_eq!(found.grain, grain);
            for (name, ns) in truth.ns.iter().filter(|(name, _)| threads > 1 || *name != "fork") {
                let got = found.ns.get(name).copied().unwrap_or(0.0);
                assert!((got / ns - 1.0).abs() < 0.05, "{name}: {got} for {ns}");
            }
        }
    }

    #[test]
    fn a_few_disturbed_times_change_little() {
        let mut samples = samples(&truth(0.0), 1);
        samples.iter_mut().step_by(9).for_each(|s| s.us *= 3.0);
        let (_, errors) = fit(&samples.iter().collect::<Vec<_>>(), 1).unwrap();
        assert!(quantile(&errors, 0.5) < 0.02);
    }

    #[test]
    fn bytes_never_cost_more_than_memory_could() {
        let mut samples = samples(&truth(0.0), 1);
        samples.iter_mut().for_each(|s| s.us += 1e4);
        let (found, _) = fit(&samples.iter().collect::<Vec<_>>(), 1).unwrap();
        let bytes = found.ns.iter().filter(|(name, _)| name.contains("byte"));
        assert!(bytes.into_iter().all(|(_, ns)| *ns <= MOST_NS_PER_BYTE * 1.001), "{found:?}");
    }

    #[test]
    fn nothing_measured_is_no_fit() {
        assert_eq!(fit(&[], 1), None);
    }
}
