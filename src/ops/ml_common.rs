//! What the operators of ONNX's classical machine-learning domain share: names, readers of attributes and feature
//! rows, class labels, and the transforms of scores.

use crate::common::{attr, attr_error, type_error};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, OnnxName};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};

/// Element types the domain's numeric operators read.
pub(crate) const ML_NUMBERS: &[DType] = &[DType::F32, DType::F64, DType::I64, DType::I32];

/// The attribute that every scoring operator has.
pub(crate) const POST_TRANSFORM: AttrDef = attr("post_transform", AttrKind::Str);

/// A name in the machine-learning domain.
pub(crate) const fn ml(op_type: &'static str, since: i64) -> OnnxName {
    OnnxName { domain: "ai.onnx.ml", op_type, since }
}

/// The floats of attribute `name`, or of the tensor attribute `<name>_as_tensor`.
pub(crate) fn floats(attrs: &Attrs, name: &str) -> Option<Vec<f64>> {
    match attrs.get(name) {
        Some(Attr::Floats(v)) => Some(v.iter().map(|&v| f64::from(v)).collect()),
        _ => attrs.tensor(&format!("{name}_as_tensor")).map(Tensor::to_f64s),
    }
}

/// Checks that an element type is one of `allowed`.
///
/// # Errors
/// `V020` when it is not.
pub(crate) fn want_dtype(dtype: DType, allowed: &[DType]) -> Result<(), Diag> {
    if allowed.contains(&dtype) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(|d| d.name()).collect();
    Err(type_error(format!("the operand is of {}, it must be one of {}", dtype.name(), names.join(", "))))
}

/// Rows and features of a `[n, f]` operand; one dimension is one row.
///
/// # Errors
/// `V020` for another rank.
pub(crate) fn row_dims(ty: &Type) -> Result<(Dim, Dim), Diag> {
    match ty.shape.as_slice() {
        [features] => Ok((Dim::known(1), features.clone())),
        [rows, features] => Ok((rows.clone(), features.clone())),
        _ => Err(type_error(format!("the operand must be rows of features, it is {ty}"))),
    }
}

/// Feature rows as numbers.
pub(crate) struct Rows {
    pub(crate) n: usize,
    pub(crate) width: usize,
    values: Vec<f64>,
}

impl Rows {
    /// The rows of a tensor of rank 1 or 2. Integers are rounded to f32, the type the models' numbers have.
    pub(crate) fn new(x: &Tensor) -> Self {
        let width = x.shape().last().copied().unwrap_or(1);
        let n = if x.rank() < 2 { 1 } else { x.shape()[0] };
        let values = if x.dtype().is_float() {
            x.to_f64s()
        } else {
            x.to_i64s().into_iter().map(|v| f64::from(v as f32)).collect()
        };
        Self { n, width, values }
    }

    /// Row `i`.
    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// All rows in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.n).map(|i| self.row(i))
    }
}

/// Class labels or categories: integers or texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Labels {
    Ints(Vec<i64>),
    Strs(Vec<String>),
}

impl Labels {
    /// The labels of a classifier: `classlabels_strings`, or the integers called `ints_name`.
    ///
    /// # Errors
    /// `V021` when there are none.
    pub(crate) fn read(attrs: &Attrs, ints_name: &str) -> Result<Self, Diag> {
        let strs = attrs.strs("classlabels_strings").filter(|s| !s.is_empty());
        match (strs, attrs.ints(ints_name)) {
            (Some(strs), _) => Ok(Self::Strs(strs.to_vec())),
            (None, Some(ints)) if !ints.is_empty() => Ok(Self::Ints(ints)),
            _ => Err(attr_error(format!("class labels are missing: {ints_name} or classlabels_strings"))),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ints(v) => v.len(),
            Self::Strs(v) => v.len(),
        }
    }

    /// Element type of a tensor of labels.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Ints(_) => DType::I64,
            Self::Strs(_) => DType::Str,
        }
    }

    /// The labels numbered `picks`, as a vector.
    ///
    /// # Errors
    /// `V020` when there are too many.
    pub(crate) fn vector(&self, picks: &[usize]) -> Result<Tensor, Diag> {
        let vector = match self {
            Self::Ints(labels) => {
                let picked: Vec<i64> = picks.iter().map(|&p| labels[p]).collect();
                Tensor::from_slice(&[picks.len()], &picked)
            }
            Self::Strs(labels) => {
                let picked: Vec<&str> = picks.iter().map(|&p| labels[p].as_str()).collect();
                Tensor::from_strings(&[picks.len()], &picked)
            }
        };
        vector.ok_or_else(|| type_error("a result has the wrong number of elements"))
    }

    /// The labels of a yes-or-no score: (no, yes). With two labels those; with fewer 0 and 1.
    pub(crate) fn binary(self) -> Self {
        match self {
            two if two.len() == 2 => two,
            Self::Ints(_) => Self::Ints(vec![0, 1]),
            Self::Strs(_) => Self::Strs(vec!["0".to_owned(), "1".to_owned()]),
        }
    }
}

/// Transform of a row of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

impl Post {
    /// From the attribute `post_transform`, a name or (in `TreeEnsemble`) a number.
    ///
    /// # Errors
    /// `V021` for another one.
    pub(crate) fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let number = attrs.int("post_transform");
        match (attrs.str("post_transform"), number) {
            (None, None) | (Some("NONE"), _) | (_, Some(0)) => Ok(Self::None),
            (Some("SOFTMAX"), _) | (_, Some(1)) => Ok(Self::Softmax),
            (Some("LOGISTIC"), _) | (_, Some(2)) => Ok(Self::Logistic),
            (Some("SOFTMAX_ZERO"), _) | (_, Some(3)) => Ok(Self::SoftmaxZero),
            (Some("PROBIT"), _) | (_, Some(4)) => Ok(Self::Probit),
            (name, number) => {
                let name = name.map_or_else(|| number.unwrap_or(0).to_string(), str::to_owned);
                Err(attr_error(format!("post_transform {name} is unknown")))
            }
        }
    }

    /// Transforms one row.
    pub(crate) fn apply(self, scores: &mut [f64]) {
        match self {
            Self::None => {}
            Self::Softmax => scores.copy_from_slice(&crate::softmax::softmax(scores)),
            Self::Logistic => scores.iter_mut().for_each(|s| *s = logistic(*s)),
            Self::SoftmaxZero => softmax_zero(scores),
            Self::Probit => scores.iter_mut().for_each(|s| *s = probit(*s)),
        }
    }
}

/// 1 / (1 + exp(-x)) without overflow.
pub(crate) fn logistic(x: f64) -> f64 {
    let v = 1.0 / (1.0 + libm::exp(-x.abs()));
    if x < 0.0 { 1.0 - v } else { v }
}

/// Softmax in which scores of zero stay (nearly) zero.
fn softmax_zero(scores: &mut [f64]) {
    const ZERO: f64 = 1e-7;
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for s in scores.iter_mut() {
        *s = if s.abs() > ZERO { libm::exp(*s - max) } else { *s * libm::exp(-max) };
    }
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s = if sum == 0.0 { 0.5 } else { *s / sum });
}

/// Quantile of the normal distribution by Winitzki's approximation of the inverse error function, which is what
/// ONNX's reference uses (S. Winitzki, "A handy approximation for the error function and its inverse", 2008).
fn probit(x: f64) -> f64 {
    const A: f64 = 0.147;
    let y = 2.0 * x - 1.0;
    let rest = (1.0 - y) * (1.0 + y);
    if rest == 0.0 {
        return 0.0;
    }
    let log = libm::log(rest);
    let half = 2.0 / (std::f64::consts::PI * A) + 0.5 * log;
    let root = ((half * half - log / A).sqrt() - half).sqrt();
    std::f64::consts::SQRT_2 * if y < 0.0 { -root } else { root }
}

/// The first of the greatest.
pub(crate) fn arg_max(scores: &[f64]) -> usize {
    let mut best = 0;
    for (i, s) in scores.iter().enumerate() {
        if *s > scores[best] {
            best = i;
        }
    }
    best
}

/// Rounds to f32, the element type scores have, so that labels and printed scores agree.
pub(crate) fn round_f32(scores: &mut [f64]) {
    scores.iter_mut().for_each(|s| *s = f64::from(*s as f32));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms() {
        let of = |post: Post, x: &[f64]| {
            let mut y = x.to_vec();
            post.apply(&mut y);
            y
        };
        assert_eq!(of(Post::Logistic, &[0.0, -1e9, 1e9]), [0.5, 0.0, 1.0]);
        assert_eq!(of(Post::Softmax, &[2.0, 2.0]), [0.5, 0.5]);
        assert_eq!(of(Post::SoftmaxZero, &[0.0, 5.0]), [0.0, 1.0]);
        assert_eq!(of(Post::SoftmaxZero, &[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(of(Post::Probit, &[0.5])[0].abs(), 0.0);
        // The approximation is good to two digits.
        assert!((of(Post::Probit, &[0.975])[0] - 1.96).abs() < 0.01);
    }

    #[test]
    fn unknown_transforms_are_refused() {
        assert_eq!(Post::read(&Attrs::new().with("post_transform", "ODD")).unwrap_err().code, "V021");
        assert_eq!(Post::read(&Attrs::new().with("post_transform", 7i64)).unwrap_err().code, "V021");
        assert_eq!(Post::read(&Attrs::new()).unwrap(), Post::None);
    }
}
