//! Scaled dot-product attention over heads: what every attention operator computes once its operands are
//! split into heads and its masks are one number per score.

use crate::common::type_error;
use crate::eval::rounding;
use partita_ir::diag::Diag;
use partita_ir::{DType, Tensor};

/// One vector per batch, head and place, row-major over `[batch, heads, len, size]`.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    pub(crate) values: Vec<f64>,
    pub(crate) shape: [usize; 4],
}

impl Heads {
    /// The heads of `[batch, heads, len, size]`, or of `[batch, len, heads * size]`.
    ///
    /// # Errors
    /// For any other rank.
    pub(crate) fn new(t: &Tensor, heads: usize) -> Result<Self, Diag> {
        match *t.shape() {
            [b, h, s, d] => Ok(Self { values: t.to_f64s(), shape: [b, h, s, d] }),
            [b, s, hidden] => Ok(Self::split(&t.to_f64s(), [b, heads, s, hidden / heads.max(1)])),
            _ => Err(type_error(format!("heads have rank 3 or 4, not {}", t.rank()))),
        }
    }

    /// From values in the order `[batch, len, heads, size]`; `shape` is `[batch, heads, len, size]`.
    pub(crate) fn split(values: &[f64], shape: [usize; 4]) -> Self {
        let [b, h, s, d] = shape;
        let mut out = Vec::with_capacity(values.len());
        for at in 0..b * h * s {
            let (batch, head, place) = (at / (h * s).max(1), at / s.max(1) % h.max(1), at % s.max(1));
            let from = ((batch * s + place) * h + head) * d;
            out.extend_from_slice(&values[from..from + d]);
        }
        Self { values: out, shape }
    }

    /// The values in the order `[batch, len, heads, size]`.
    pub(crate) fn merged(&self) -> Vec<f64> {
        let [b, h, s, d] = self.shape;
        Self::split(&self.values, [b, s, h, d]).values
    }

    /// The vector of a batch, head and place.
    pub(crate) fn at(&self, batch: usize, head: usize, place: usize) -> &[f64] {
        let [_, h, s, d] = self.shape;
        let start = ((batch * h + head) * s + place) * d;
        &self.values[start..start + d]
    }

    /// `self` and then `more` along the places.
    pub(crate) fn joined(&self, more: &Self) -> Self {
        let [b, h, s, d] = self.shape;
        let n = more.shape[2];
        let mut values = Vec::with_capacity(self.values.len() + more.values.len());
        for i in 0..b * h {
            values.extend_from_slice(&self.values[i * s * d..(i + 1) * s * d]);
            values.extend_from_slice(&more.values[i * n * d..(i + 1) * n * d]);
        }
        Self { values, shape: [b, h, s + n, d] }
    }

    /// With places and elements exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let [b, h, s, d] = self.shape;
        let at = |i: usize| {
            let (head, place, e) = (i / (s * d).max(1), i % s.max(1), i / s.max(1) % d.max(1));
            self.values[(head * s + place) * d + e]
        };
        Self { values: (0..self.values.len()).map(at).collect(), shape: [b, h, d, s] }
    }

    /// With `f` applied to every value.
    pub(crate) fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.values.iter_mut().for_each(|v| *v = f(*v));
        self
    }

    /// Adds a number to each element of each head; `bias` is `[heads * size]`.
    pub(crate) fn shift(&mut self, bias: &[f64]) {
        let [_, h, s, d] = self.shape;
        for (i, v) in self.values.iter_mut().enumerate() {
            *v += bias[i / (s * d) % h * d + i % d];
        }
    }

    /// The heads `from..from + n`.
    pub(crate) fn range(&self, from: usize, n: usize) -> Self {
        let [b, h, s, d] = self.shape;
        let values = (0..b).flat_map(|i| self.values[(i * h + from) * s * d..][..n * s * d].iter().copied());
        Self { values: values.collect(), shape: [b, n, s, d] }
    }

    /// The first `n` places.
    pub(crate) fn first(&self, n: usize) -> Self {
        let [b, h, s, d] = self.shape;
        let values = (0..b * h).flat_map(|i| self.values[i * s * d..(i * s + n) * d].iter().copied());
        Self { values: values.collect(), shape: [b, h, n, d] }
    }
}

/// Which numbers a caller wants besides the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The scaled products of queries and keys.
    Raw,
    /// After the soft cap.
    Capped,
    /// After the bias.
    Biased,
    /// After softmax.
    Weights,
}

/// An attention with its operands. Heads of the keys are shared by groups of heads of the queries.
pub(crate) struct Sdpa<'a> {
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    /// Factor of the products.
    pub(crate) scale: f64,
    /// The scores go through `softcap * tanh(score / softcap)` when it is positive.
    pub(crate) softcap: f64,
    /// Element type the scores are rounded to at every step.
    pub(crate) scores: DType,
    /// Element type of softmax.
    pub(crate) softmax: DType,
    /// Element type of the weights and of the result.
    pub(crate) weights: DType,
    /// What is added to the score of `[batch, head, query, key]`.
    pub(crate) bias: &'a dyn Fn([usize; 4]) -> f64,
    /// A score per query head that takes part in softmax but has no value.
    pub(crate) sink: Option<&'a [f64]>,
}

impl Sdpa<'_> {
    /// The result, and the numbers of a stage as `[batch, heads, queries, keys]`.
    pub(crate) fn run(&self, keep: Option<Stage>) -> (Heads, Vec<f64>) {
        let [batches, heads, queries, _] = self.q.shape;
        let (mut y, mut kept) = (Vec::new(), Vec::new());
        for batch in 0..batches {
            for head in 0..heads {
                for query in 0..queries {
                    self.row([batch, head, query], keep, &mut y, &mut kept);
                }
            }
        }
        (Heads { values: y, shape: [batches, heads, queries, self.v.shape[3]] }, kept)
    }

    /// The head of keys and values that a query head uses.
    fn shared(&self, head: usize) -> usize {
        head / (self.q.shape[1] / self.k.shape[1].max(1)).max(1)
    }

    fn row(&self, at: [usize; 3], keep: Option<Stage>, y: &mut Vec<f64>, kept: &mut Vec<f64>) {
        let [batch, head, query] = at;
        let (round, shared) = (rounding(self.scores), self.shared(head));
        let q = self.q.at(batch, head, query);
        let dot = |key| q.iter().zip(self.k.at(batch, shared, key)).map(|(a, b)| a * b).sum::<f64>();
        let raw: Vec<f64> = (0..self.k.shape[2]).map(|key| round(dot(key) * self.scale)).collect();
        let capped = self.capped(&raw);
        let bias: Vec<f64> = (0..raw.len()).map(|key| (self.bias)([batch, head, query, key])).collect();
        let biased: Vec<f64> = capped.iter().zip(&bias).map(|(s, b)| round(s + b)).collect();
        // A query that may look at nothing gives zeros, whatever its scores are.
        let weights = if bias.iter().all(|b| *b == f64::NEG_INFINITY) {
            vec![0.0; bias.len()]
        } else {
            let weights = softmax(&biased, self.softmax, self.sink.map(|s| s[head]));
            weights.into_iter().map(rounding(self.weights)).collect()
        };
        self.mix(at, &weights, y);
        match keep {
            Some(Stage::Raw) => kept.extend(raw),
            Some(Stage::Capped) => kept.extend(capped),
            Some(Stage::Biased) => kept.extend(biased),
            Some(Stage::Weights) => kept.extend(weights),
            None => {}
        }
    }

    /// The values of a query's batch and head, weighted.
    fn mix(&self, [batch, head, _]: [usize; 3], weights: &[f64], y: &mut Vec<f64>) {
        let shared = self.shared(head);
        for e in 0..self.v.shape[3] {
            let column = weights.iter().enumerate().map(|(key, w)| w * self.v.at(batch, shared, key)[e]);
            y.push(rounding(self.weights)(column.sum()));
        }
    }

    /// The result for weights that are given, `[batch, heads, queries, keys]`.
    pub(crate) fn weighted(&self, weights: &[f64]) -> Vec<f64> {
        let [batches, heads, queries, _] = self.q.shape;
        let n_keys = self.k.shape[2];
        let mut y = Vec::new();
        for row in 0..batches * heads * queries {
            let at = [row / (heads * queries), row / queries % heads, row % queries];
            self.mix(at, &weights[row * n_keys..(row + 1) * n_keys], &mut y);
        }
        y
    }

    fn capped(&self, raw: &[f64]) -> Vec<f64> {
        let (round, cap) = (rounding(self.scores), self.softcap);
        let capped = |s: &f64| round(round(libm::tanh(round(s / cap))) * cap);
        if cap > 0.0 { raw.iter().map(capped).collect() } else { raw.to_vec() }
    }
}

/// Softmax rounded at every step; zeros when there is nothing to choose from. `sink` takes part in the sum.
pub(crate) fn softmax(scores: &[f64], dtype: DType, sink: Option<f64>) -> Vec<f64> {
    let round = rounding(dtype);
    let scores: Vec<f64> = scores.iter().map(|s| round(*s)).collect();
    let max = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
    let power = |s: f64| round(libm::exp(round(s - shift)));
    let powers: Vec<f64> = scores.into_iter().map(power).collect();
    let sum = round(powers.iter().copied().chain(sink.map(power)).sum());
    let sum = if sum == 0.0 { 1.0 } else { sum };
    powers.into_iter().map(|p| round(p / sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_split_and_merge() {
        let values: Vec<f64> = (0..24).map(f64::from).collect();
        let heads = Heads::split(&values, [1, 2, 3, 4]);
        assert_eq!(heads.at(0, 1, 2), [20.0, 21.0, 22.0, 23.0]);
        assert_eq!(heads.at(0, 0, 1), [8.0, 9.0, 10.0, 11.0]);
        assert_eq!(heads.merged(), values);
    }

    #[test]
    fn a_sink_takes_its_part() {
        let weights = softmax(&[0.0, 0.0], DType::F64, Some(0.0));
        assert!(weights.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12));
        assert_eq!(softmax(&[f64::NEG_INFINITY; 2], DType::F32, None), [0.0, 0.0]);
    }
}
