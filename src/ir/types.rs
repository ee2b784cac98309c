//! Types of values, and what is known about their content at compile time.

use crate::{DType, Dim, Tensor};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What kind of value a type describes. Everything but `Tensor` is only fully known when the program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// A tensor of `dtype` and `shape`.
    #[default]
    Tensor,
    /// A tensor of `dtype` whose number of dimensions is not known.
    Unranked,
    /// A tensor of which nothing is known, or a value that is not known to be a tensor.
    Any,
    Sequence(Box<Type>),
    Optional(Box<Type>),
    /// From keys of `dtype` to values of the other type.
    Map(DType),
}

/// Element type and shape of a tensor, or another form of value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type {
    pub dtype: DType,
    /// Empty when `form` is not `Tensor`.
    pub shape: Vec<Dim>,
    pub form: Form,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Self { dtype, shape: shape.into(), form: Form::Tensor }
    }

    /// A tensor of `dtype` with any number of dimensions.
    pub fn unranked(dtype: DType) -> Self {
        Self { form: Form::Unranked, ..Self::new(dtype, []) }
    }

    /// Nothing is known.
    pub fn any() -> Self {
        Self { form: Form::Any, ..Self::new(DType::F32, []) }
    }

    /// A sequence of `item`.
    pub fn sequence(item: Self) -> Self {
        Self { form: Form::Sequence(Box::new(item.clone())), ..Self::new(item.dtype, []) }
    }

    /// An optional `item`.
    pub fn optional(item: Self) -> Self {
        Self { form: Form::Optional(Box::new(item.clone())), ..Self::new(item.dtype, []) }
    }

    /// A map from `key` to tensors of `value`.
    pub fn map(key: DType, value: DType) -> Self {
        Self { form: Form::Map(value), ..Self::new(key, []) }
    }

    /// Whether it is a tensor with a known number of dimensions.
    pub fn is_tensor(&self) -> bool {
        self.form == Form::Tensor
    }

    /// Whether a kernel on a device can hold it: a tensor of known rank, not of text.
    pub fn is_static(&self) -> bool {
        self.is_tensor() && self.dtype != DType::Str
    }

    /// Names of all symbols in its dims.
    pub fn symbols(&self) -> BTreeSet<Arc<str>> {
        let mut out = BTreeSet::new();
        self.shape.iter().for_each(|d| d.symbols(&mut out));
        out
    }

    /// A type whose dims are all known.
    pub fn known(dtype: DType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.iter().map(|&d| d.into()).collect(), form: Form::Tensor }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The shape of a tensor when every dim is known and not negative.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        if !self.is_tensor() {
            return None;
        }
        self.shape.iter().map(|d| usize::try_from(d.as_known()?).ok()).collect()
    }

    /// Number of elements as a dim.
    pub fn n_elements(&self) -> Dim {
        self.shape.iter().fold(Dim::known(1), |n, d| n * d.clone())
    }

    /// The type with symbols replaced by the values `lookup` gives.
    #[must_use]
    pub fn bind(&self, lookup: &dyn Fn(&str) -> Option<i64>) -> Self {
        let shape = self.shape.iter().map(|d| d.substitute(&|n| lookup(n).map(Dim::known))).collect();
        Self { dtype: self.dtype, shape, form: self.form.clone() }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Tensor => {
                let dims: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
                write!(f, "{}[{}]", self.dtype.name(), dims.join(", "))
            }
            Form::Unranked => write!(f, "{}[*]", self.dtype.name()),
            Form::Any => f.write_str("any"),
            Form::Sequence(item) => write!(f, "seq({item})"),
            Form::Optional(item) => write!(f, "opt({item})"),
            Form::Map(value) => write!(f, "map({}, {})", self.dtype.name(), value.name()),
        }
    }
}

/// What is known about a value before the program runs.
#[derive(Clone, Debug)]
pub enum Content {
    /// Everything.
    Const(Tensor),
    /// A small integer tensor (rank 0 or 1) whose elements are dims.
    Dims(Vec<Dim>),
}

impl Content {
    /// The elements as dims when this is an integer tensor of rank 0 or 1.
    pub fn as_dims(&self) -> Option<Vec<Dim>> {
        match self {
            Self::Dims(dims) => Some(dims.clone()),
            Self::Const(t) if t.rank() <= 1 && !t.dtype().is_float() && t.n_elements() <= 4096 => {
                Some(t.to_i64s().into_iter().map(Dim::known).collect())
            }
            Self::Const(_) => None,
        }
    }

    /// The tensor, if everything is known.
    pub fn as_const(&self) -> Option<&Tensor> {
        match self {
            Self::Const(t) => Some(t),
            Self::Dims(_) => None,
        }
    }
}
