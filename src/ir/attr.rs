//! Attributes of nodes.

use crate::{DType, Dim, Graph, Tensor, Type};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
    DType(DType),
    /// Sizes that may hold symbols.
    Dims(Vec<Dim>),
    Tensor(Tensor),
    /// A body: what a control flow operator runs.
    Graph(Body),
    /// A type, for empty sequences and optionals.
    Type(Type),
}

/// A graph inside an attribute; equal when its text is.
#[derive(Clone, Debug)]
pub struct Body(pub Arc<Graph>);

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || crate::text::print(&self.0) == crate::text::print(&other.0)
    }
}

/// Attributes by name, in name order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(BTreeMap<String, Attr>);

impl Attrs {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with `name` set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Attr>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets `name`.
    pub fn set(&mut self, name: &str, value: impl Into<Attr>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) -> Option<Attr> {
        self.0.remove(name)
    }

    /// The attribute `name`.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Attr::Int(v) => Some(*v),
            _ => None,
        }
    }

    /// An integer, or `default` when absent.
    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// A flag: an integer that is not zero; false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.int(name).is_some_and(|v| v != 0)
    }

    /// A float, or `default` when absent.
    pub fn float_or(&self, name: &str, default: f32) -> f32 {
        match self.get(name) {
            Some(Attr::Float(v)) => *v,
            _ => default,
        }
    }

    /// A string.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Attr::Str(v) => Some(v),
            _ => None,
        }
    }

    /// A list of integers; also from dims that are all known, and from one integer.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.get(name)? {
            Attr::Ints(v) => Some(v.clone()),
            Attr::Int(v) => Some(vec![*v]),
            Attr::Dims(v) => v.iter().map(Dim::as_known).collect(),
            _ => None,
        }
    }

    /// A list of dims; also from integers.
    pub fn dims(&self, name: &str) -> Option<Vec<Dim>> {
        match self.get(name)? {
            Attr::Dims(v) => Some(v.clone()),
            Attr::Ints(v) => Some(v.iter().map(|&d| Dim::known(d)).collect()),
            Attr::Int(v) => Some(vec![Dim::known(*v)]),
            _ => None,
        }
    }

    /// An element type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.get(name)? {
            Attr::DType(v) => Some(*v),
            _ => None,
        }
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.get(name)? {
            Attr::Tensor(v) => Some(v),
            _ => None,
        }
    }

    /// A list of strings.
    pub fn strs(&self, name: &str) -> Option<&[String]> {
        match self.get(name)? {
            Attr::Strs(v) => Some(v),
            _ => None,
        }
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.get(name)? {
            Attr::Floats(v) => Some(v),
            _ => None,
        }
    }

    /// A body.
    pub fn graph(&self, name: &str) -> Option<&Arc<Graph>> {
        match self.get(name)? {
            Attr::Graph(v) => Some(&v.0),
            _ => None,
        }
    }

    /// All bodies with their names.
    pub fn graphs(&self) -> impl Iterator<Item = (&str, &Arc<Graph>)> {
        self.0.iter().filter_map(|(name, attr)| match attr {
            Attr::Graph(body) => Some((name.as_str(), &body.0)),
            _ => None,
        })
    }

    /// A type.
    pub fn ty(&self, name: &str) -> Option<&Type> {
        match self.get(name)? {
            Attr::Type(v) => Some(v),
            _ => None,
        }
    }

    /// The attributes with symbols replaced by the values `lookup` gives; fully known dims become integers.
    #[must_use]
    pub fn bind(&self, lookup: &dyn Fn(&str) -> Option<i64>) -> Self {
        let bound = self.0.iter().map(|(name, attr)| {
            let attr = match attr {
                Attr::Dims(dims) => {
                    let dims: Vec<Dim> =
                        dims.iter().map(|d| d.substitute(&|n| lookup(n).map(Dim::known))).collect();
                    simplify_dims(dims)
                }
                other => other.clone(),
            };
            (name.clone(), attr)
        });
        Self(bound.collect())
    }

    /// A canonical text of all attributes: equal attributes give equal keys, different ones differ.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for (name, attr) in &self.0 {
            // Writing to a String cannot fail.
            let _ = match attr {
                Attr::Float(v) => write!(key, "{name}=f{:08x};", v.to_bits()),
                Attr::Floats(v) => {
                    let bits: Vec<String> = v.iter().map(|v| format!("{:08x}", v.to_bits())).collect();
                    write!(key, "{name}=F{};", bits.join(","))
                }
                Attr::Tensor(t) => write!(key, "{name}=T{};", t.key()),
                Attr::Graph(body) => write!(key, "{name}=G{};", crate::text::print(&body.0)),
                Attr::Dims(d) => write!(key, "{name}=D{d:?};"),
                other => write!(key, "{name}={other:?};"),
            };
        }
        key
    }
}

/// Known dims are held as integers, so that equal attributes compare equal.
pub(crate) fn simplify_dims(dims: Vec<Dim>) -> Attr {
    match dims.iter().map(Dim::as_known).collect::<Option<Vec<i64>>>() {
        Some(ints) => Attr::Ints(ints),
        None => Attr::Dims(dims),
    }
}

macro_rules! from {
    ($($ty:ty => $variant:ident),* $(,)?) => {
        $(impl From<$ty> for Attr {
            fn from(value: $ty) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! { i64 => Int, f32 => Float, &str => Str, String => Str, Vec<i64> => Ints, &[i64] => Ints, Vec<f32> => Floats,
DType => DType, Tensor => Tensor }

impl From<Vec<Dim>> for Attr {
    fn from(dims: Vec<Dim>) -> Self {
        simplify_dims(dims)
    }
}
