//! Operators as rows: everything the compiler needs to know about one, in one place.

use crate::attr::Attrs;
use crate::data::DataCtx;
use crate::diag::Diag;
use crate::tile::{Reg, TileBuilder};
use crate::types::{Content, Type};
use crate::work::Work;
use crate::{DType, Datum, Dim, Tensor};
use std::fmt;

/// Shared reference to an operator's row.
#[derive(Clone, Copy)]
pub struct OpRef(pub &'static OpDef);

/// Facts about an operator that rules and passes rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Each output element depends only on the input elements at the same (broadcast) position.
    pub elementwise: bool,
    /// Operands may be swapped (first two).
    pub commutative: bool,
    /// Moves elements without arithmetic.
    pub moves_data: bool,
    /// Only reinterprets the shape; the bytes stay.
    pub reshapes: bool,
    /// The result is not determined by the inputs (random numbers).
    pub random: bool,
    /// Takes text; operators that do not are refused text wherever they stand.
    pub text: bool,
}

/// Kind of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    Int,
    Float,
    Str,
    Ints,
    Floats,
    Strs,
    DType,
    Dims,
    Tensor,
    Graph,
    Type,
}

/// An attribute an operator may have.
#[derive(Clone, Copy, Debug)]
pub struct AttrDef {
    pub name: &'static str,
    pub kind: AttrKind,
    /// Where newer forms of the operator take it as an operand: the operand's index. A known operand is
    /// turned into the attribute when the graph is normalised, and back when ONNX is written.
    pub operand: Option<usize>,
    pub required: bool,
}

/// A name of the operator in ONNX.
#[derive(Clone, Copy, Debug)]
pub struct OnnxName {
    /// Domain; empty for the default one.
    pub domain: &'static str,
    pub op_type: &'static str,
    /// First opset in which the form read here exists (older forms are adapted by the importer).
    pub since: i64,
}

/// How many operands or results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    pub min: usize,
    /// `usize::MAX` for any number.
    pub max: usize,
}

/// An operand as inference sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    pub ty: &'a Type,
    pub content: Option<&'a Content>,
}

/// Name of the attribute, allowed on every operator, that names the sizes of its results which depend on data, in
/// order of their appearance.
pub const SIZES: &str = "size_names";

/// Name of the attribute of operators with bodies: how many of the last operands are values that the bodies capture.
/// They are the last inputs of every body, in the same order.
pub const CAPTURES: &str = "captures";

/// What inference is given.
#[derive(Clone, Copy, Debug)]
pub struct InferCtx<'a> {
    pub attrs: &'a Attrs,
    /// `None` for an omitted optional operand.
    pub inputs: &'a [Option<Operand<'a>>],
    pub n_outputs: usize,
}

/// What reference evaluation is given. Attributes hold no symbols any more.
#[derive(Clone, Copy, Debug)]
pub struct EvalCtx<'a> {
    pub attrs: &'a Attrs,
    pub inputs: &'a [Option<&'a Tensor>],
    pub n_outputs: usize,
}

/// What costing is given: concrete shapes.
#[derive(Clone, Copy, Debug)]
pub struct WorkCtx<'a> {
    pub attrs: &'a Attrs,
    pub inputs: &'a [Option<(DType, Vec<usize>)>],
    pub outputs: &'a [(DType, Vec<usize>)],
}

/// What elementwise lowering is given.
#[derive(Clone, Copy, Debug)]
pub struct ScalarCtx<'a> {
    pub attrs: &'a Attrs,
    pub inputs: &'a [DType],
    pub output: DType,
}

/// A valid use of an operator, drawn at random for property tests.
#[derive(Clone, Debug)]
pub struct Sample {
    pub attrs: Attrs,
    pub inputs: Vec<Option<Tensor>>,
    pub n_outputs: usize,
}

/// A small deterministic generator for samples.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits (splitmix64, Steele et al. 2014).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next_u64() % n as u64) as usize }
    }

    /// Uniform in `low..=high`.
    pub fn int(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(usize::try_from(high - low + 1).unwrap_or(1)) as i64
    }

    /// Uniform in `low..high`.
    pub fn float(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A tensor with elements uniform in `low..high` (integers rounded).
    pub fn tensor(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> Tensor {
        let n = crate::tensor::n_elements(shape).unwrap_or(0);
        let values: Vec<f64> = (0..n).map(|_| self.float(low, high)).collect();
        let values: Vec<f64> =
            if dtype.is_float() { values } else { values.into_iter().map(f64::round).collect() };
        Tensor::from_f64s(dtype, shape, &values).unwrap_or_else(|| Tensor::scalar(0.0f32))
    }
}

/// Output types, or what is wrong.
pub type InferFn = fn(&InferCtx) -> Result<Vec<Type>, Diag>;
/// What is known about the outputs before the program runs.
pub type ContentFn = fn(&InferCtx) -> Option<Vec<Dim>>;
/// Reference evaluation.
pub type EvalFn = fn(&EvalCtx) -> Result<Vec<Tensor>, Diag>;
/// Evaluation over any values; see `OpDef::data`.
pub type DataFn = fn(&DataCtx) -> Result<Vec<Datum>, Diag>;
/// Elementwise lowering; `None` when this combination of types has no tile form.
pub type ScalarFn = fn(&ScalarCtx, &mut TileBuilder, &[Reg]) -> Option<Reg>;
/// Device-free cost.
pub type WorkFn = fn(&WorkCtx) -> Work;
/// A random valid use.
pub type SampleFn = fn(&mut Rng) -> Sample;

/// The whole truth about one operator.
pub struct OpDef {
    /// Name in the text form, lower snake case.
    pub name: &'static str,
    /// One sentence: what it computes.
    pub doc: &'static str,
    pub onnx: &'static [OnnxName],
    pub inputs: Arity,
    pub outputs: Arity,
    pub attrs: &'static [AttrDef],
    pub traits: Traits,
    pub infer: InferFn,
    /// For small integer results that are known symbolically (shape arithmetic). Constants fold by `eval`.
    pub content: Option<ContentFn>,
    pub eval: EvalFn,
    /// For operators that take or make anything but tensors, or that have bodies; `eval` is not used then. They
    /// run on the host.
    pub data: Option<DataFn>,
    /// For elementwise operators.
    pub scalar: Option<ScalarFn>,
    pub work: WorkFn,
    pub sample: SampleFn,
}

impl OpDef {
    /// The attribute row `name`.
    pub fn attr(&self, name: &str) -> Option<&'static AttrDef> {
        self.attrs.iter().find(|a| a.name == name)
    }
}

impl std::ops::Deref for OpRef {
    type Target = OpDef;
    fn deref(&self) -> &OpDef {
        self.0
    }
}

impl PartialEq for OpRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for OpRef {}

impl fmt::Debug for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// All operators, by name.
#[derive(Clone, Copy, Debug)]
pub struct Registry {
    rows: &'static [&'static OpDef],
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Registry {
    /// A registry over `rows`, which must be sorted by name (a test of the table's owner checks it).
    pub const fn new(rows: &'static [&'static OpDef]) -> Self {
        Self { rows }
    }

    /// The operator called `name`.
    pub fn get(&self, name: &str) -> Option<OpRef> {
        self.rows.binary_search_by(|row| row.name.cmp(name)).ok().map(|i| OpRef(self.rows[i]))
    }

    /// All operators in name order.
    pub fn iter(&self) -> impl Iterator<Item = OpRef> {
        self.rows.iter().map(|row| OpRef(row))
    }

    /// Names most like `name`, for hints.
    pub fn similar(&self, name: &str) -> Option<&'static str> {
        self.rows
            .iter()
            .map(|r| (distance(name, r.name), r.name))
            .min()
            .filter(|(d, _)| *d <= 3)
            .map(|(_, n)| n)
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
