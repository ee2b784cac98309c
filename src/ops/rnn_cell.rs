//! One step of each recurrent cell, in f64.

use crate::common::{attr_error, type_error, unsupported};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;

/// Which recurrent operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    /// Blocks of hidden rows in the weights.
    pub(crate) fn n_gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// Activation functions of one direction when none are stated.
    fn default_activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation function with its parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activation {
    f: fn(f64, f64, f64) -> f64,
    alpha: f64,
    beta: f64,
}

impl Activation {
    fn at(self, v: f64) -> f64 {
        (self.f)(v, self.alpha, self.beta)
    }
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-v))
}

fn softplus(v: f64) -> f64 {
    v.max(0.0) + libm::log1p(libm::exp(-v.abs()))
}

/// Name in lower case, how many of alpha and beta it takes, their defaults, and the function.
type ActivationRow = (&'static str, usize, (f64, f64), fn(f64, f64, f64) -> f64);

/// The functions that ONNX names for recurrent operators.
const ACTIVATIONS: &[ActivationRow] = &[
    ("affine", 2, (1.0, 0.0), |v, a, b| a * v + b),
    ("elu", 1, (1.0, 0.0), |v, a, _| if v < 0.0 { a * libm::expm1(v) } else { v }),
    ("hardsigmoid", 2, (0.2, 0.5), |v, a, b| (a * v + b).clamp(0.0, 1.0)),
    ("leakyrelu", 1, (0.01, 0.0), |v, a, _| if v < 0.0 { a * v } else { v }),
    ("relu", 0, (0.0, 0.0), |v, _, _| if v < 0.0 { 0.0 } else { v }),
    // There is no operator to take defaults from.
    ("scaledtanh", 2, (f64::NAN, f64::NAN), |v, a, b| a * libm::tanh(b * v)),
    ("sigmoid", 0, (0.0, 0.0), |v, _, _| sigmoid(v)),
    ("softplus", 0, (0.0, 0.0), |v, _, _| softplus(v)),
    ("softsign", 0, (0.0, 0.0), |v, _, _| v / (1.0 + v.abs())),
    ("tanh", 0, (0.0, 0.0), |v, _, _| libm::tanh(v)),
    ("thresholdedrelu", 1, (1.0, 0.0), |v, a, _| if v > a { v } else { 0.0 }),
];

/// The activation functions of all directions, in order; parameters go to the functions that take them.
///
/// # Errors
/// `V021` for an unknown function or a wrong number of them.
pub(crate) fn activations(attrs: &Attrs, kind: Kind, n_directions: usize) -> Result<Vec<Activation>, Diag> {
    let names: Vec<String> = match attrs.get("activations") {
        Some(Attr::Strs(names)) if !names.is_empty() => names.clone(),
        _ => kind.default_activations().repeat(n_directions).into_iter().map(str::to_owned).collect(),
    };
    if names.len() != n_directions * kind.default_activations().len() {
        return Err(attr_error(format!(
            "{} activation functions are given for {n_directions} directions",
            names.len()
        ))
        .hint("state all functions of every direction"));
    }
    let floats = |name: &str| match attrs.get(name) {
        Some(Attr::Floats(v)) => v.clone(),
        _ => Vec::new(),
    };
    let (mut alphas, mut betas) =
        (floats("activation_alpha").into_iter(), floats("activation_beta").into_iter());
    let mut one = |name: &String| {
        let row = ACTIVATIONS.iter().find(|row| row.0.eq_ignore_ascii_case(name));
        let (_, n, (alpha, beta), f) =
            *row.ok_or_else(|| attr_error(format!("activation function \"{name}\" is not known")))?;
        let alpha = if n > 0 { alphas.next().map_or(alpha, f64::from) } else { alpha };
        let beta = if n > 1 { betas.next().map_or(beta, f64::from) } else { beta };
        if alpha.is_nan() || beta.is_nan() {
            return Err(unsupported(format!("{name} without its parameters is not defined")));
        }
        Ok(Activation { f, alpha, beta })
    };
    names.iter().map(&mut one).collect()
}

/// The weights and settings of one direction.
pub(crate) struct Cell<'a> {
    pub(crate) kind: Kind,
    pub(crate) hidden: usize,
    /// Rows of gates, `[n_gates * hidden, input]`.
    pub(crate) w: &'a [f64],
    /// Rows of gates, `[n_gates * hidden, hidden]`.
    pub(crate) r: &'a [f64],
    /// `[2 * n_gates * hidden]`: of the input, then of the state; or nothing.
    pub(crate) b: &'a [f64],
    /// Peepholes `[3 * hidden]` of the input, output and forget gate; or nothing.
    pub(crate) p: &'a [f64],
    pub(crate) activations: &'a [Activation],
    /// Bound of what goes into the gates.
    pub(crate) clip: Option<f64>,
    pub(crate) linear_before_reset: bool,
    pub(crate) couple_forget: bool,
}

/// A matrix of rows as long as `v` times `v`.
fn times(m: &[f64], v: &[f64]) -> Vec<f64> {
    if v.is_empty() {
        return Vec::new();
    }
    m.chunks_exact(v.len()).map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}

impl Cell<'_> {
    fn bias(&self, i: usize) -> f64 {
        self.b.get(i).copied().unwrap_or(0.0)
    }

    /// Gates of the input: `W x + Wb` with `n_gates * hidden` elements.
    fn of_input(&self, x: &[f64]) -> Vec<f64> {
        let mut y = times(self.w, x);
        y.resize(self.kind.n_gates() * self.hidden, 0.0);
        y.iter_mut().enumerate().for_each(|(i, v)| *v += self.bias(i));
        y
    }

    /// `R h + Rb` for the gates `gates`.
    fn of_state(&self, h: &[f64], gates: std::ops::Range<usize>) -> Vec<f64> {
        let n = self.hidden;
        let mut y = times(&self.r[gates.start * n * n..gates.end * n * n], h);
        let first = self.kind.n_gates() * n + gates.start * n;
        y.iter_mut().enumerate().for_each(|(i, v)| *v += self.bias(first + i));
        y
    }

    /// Activation `k` of a value within the bound.
    fn activate(&self, k: usize, v: f64) -> f64 {
        self.activations[k].at(self.clip.map_or(v, |c| v.max(-c).min(c)))
    }

    /// The next state after input `x`; `c` is the cell of an LSTM.
    pub(crate) fn step(&self, x: &[f64], h: &mut Vec<f64>, c: &mut [f64]) {
        let gates = self.of_input(x);
        *h = match self.kind {
            Kind::Rnn => {
                let state = self.of_state(h, 0..1);
                gates.iter().zip(state).map(|(g, s)| self.activate(0, g + s)).collect()
            }
            Kind::Gru => self.gru(&gates, h),
            Kind::Lstm => self.lstm(&gates, h, c),
        };
    }

    /// Gates in the order update, reset, hidden.
    fn gru(&self, gates: &[f64], h: &[f64]) -> Vec<f64> {
        let n = self.hidden;
        let state = self.of_state(h, 0..2);
        let gate = |i: usize| self.activate(0, gates[i] + state[i]);
        let (update, reset): (Vec<f64>, Vec<f64>) = (0..n).map(|i| (gate(i), gate(n + i))).unzip();
        let candidate: Vec<f64> = if self.linear_before_reset {
            self.of_state(h, 2..3).iter().zip(&reset).map(|(s, r)| r * s).collect()
        } else {
            let kept: Vec<f64> = h.iter().zip(&reset).map(|(h, r)| r * h).collect();
            self.of_state(&kept, 2..3)
        };
        let next = |i: usize| {
            let new = self.activate(1, gates[2 * n + i] + candidate[i]);
            (1.0 - update[i]) * new + update[i] * h[i]
        };
        (0..n).map(next).collect()
    }

    /// Gates in the order input, output, forget, cell.
    fn lstm(&self, gates: &[f64], h: &[f64], c: &mut [f64]) -> Vec<f64> {
        let n = self.hidden;
        let state = self.of_state(h, 0..4);
        let peep = |k: usize, i: usize| self.p.get(k * n + i).copied().unwrap_or(0.0);
        let at = |k: usize, i: usize| gates[k * n + i] + state[k * n + i];
        let next = |i: usize| {
            let input = self.activate(0, at(0, i) + peep(0, i) * c[i]);
            let forget =
                if self.couple_forget { 1.0 - input } else { self.activate(0, at(2, i) + peep(2, i) * c[i]) };
            c[i] = forget * c[i] + input * self.activate(1, at(3, i));
            let output = self.activate(0, at(1, i) + peep(1, i) * c[i]);
            // The cell itself is not bounded by `clip`.
            output * self.activations[2].at(c[i])
        };
        (0..n).map(next).collect()
    }
}

/// The bound `clip`, which is positive.
///
/// # Errors
/// `V021` when it is not.
pub(crate) fn clip(attrs: &Attrs) -> Result<Option<f64>, Diag> {
    match attrs.get("clip") {
        None => Ok(None),
        Some(Attr::Float(v)) if *v > 0.0 => Ok(Some(f64::from(*v))),
        // Some exporters write 0 for "no bound".
        Some(Attr::Float(v)) if *v == 0.0 => Ok(None),
        Some(_) => Err(type_error("clip is negative").hint("use a positive bound, or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_to_the_functions_that_take_them() {
        let attrs = Attrs::new()
            .with("activations", Attr::Strs(["HardSigmoid", "tanh", "LeakyRelu"].map(str::to_owned).to_vec()))
            .with("activation_alpha", vec![0.5f32, 0.25])
            .with("activation_beta", vec![0.75f32]);
        let all = activations(&attrs, Kind::Lstm, 1).unwrap();
        assert_eq!(all[0].at(0.5), 1.0);
        assert_eq!(all[0].at(0.0), 0.75);
        assert_eq!(all[2].at(-4.0), -1.0);
        assert_eq!(activations(&attrs, Kind::Lstm, 2).unwrap_err().code, "V021");
    }
}
