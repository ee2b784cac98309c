//! Types of values, and what is known about their content at compile time.

use crate::{DType, Dim, Tensor};
use std::fmt;

/// Element type and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type {
    pub dtype: DType,
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// A type whose dims are all known.
    pub fn known(dtype: DType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.iter().map(|&d| d.into()).collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The shape when every dim is known and not negative.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
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
        Self { dtype: self.dtype, shape }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.dtype.name(), dims.join(", "))
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
