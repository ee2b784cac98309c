//! Rules as values: what a line of a rule file says.

use partita_ir::{Attr, OpRef};

/// How a rule changes numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Numerics {
    /// The same bits, for every input.
    Exact,
    /// Equal in real arithmetic; rounding differs by a few units in the last place per term.
    Reassociating,
    /// Equal only on a restricted domain, or to a stated accuracy.
    Approximate,
}

/// Number of a variable in its rule.
pub type Var = usize;

/// What a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VarKind {
    /// A value of the graph.
    Class,
    /// One attribute, which may be absent.
    Attr,
    /// All attributes an operator pattern does not list.
    Attrs,
    /// The operands an operator pattern does not list.
    List,
}

/// An operator pattern's demand on one attribute.
#[derive(Clone, Debug)]
pub enum AttrPattern {
    /// Binds the attribute, present or absent.
    Bind(Var),
    /// Must be equal.
    Is(Attr),
    /// Must be equal or absent (it is the operator's default).
    IsOrAbsent(Attr),
}

/// Left-hand side.
#[derive(Clone, Debug)]
pub enum Pattern {
    Var(Var),
    /// A constant whose elements all are this number.
    Number(f64),
    /// An omitted operand.
    Omitted,
    Op(OpPattern),
}

/// An operator applied to patterns.
#[derive(Clone, Debug)]
pub struct OpPattern {
    pub op: OpRef,
    pub attrs: Vec<(String, AttrPattern)>,
    /// Binds what `attrs` does not list; without it nothing else may be present.
    pub rest: Option<Var>,
    pub children: Vec<Pattern>,
    /// Binds the operands after `children`.
    pub tail: Option<Var>,
}

/// A value computed while a rule is applied.
#[derive(Clone, Debug)]
pub enum Expr {
    Var(Var),
    Literal(Attr),
    Call(&'static super::functions::Function, Vec<Expr>),
}

/// Right-hand side.
#[derive(Clone, Debug)]
pub enum Term {
    Var(Var),
    /// A scalar constant of the root's element type.
    Number(f64),
    Omitted,
    Op(OpTerm),
    /// A constant computed by a function.
    Constant(Expr),
}

/// An operator to be added.
#[derive(Clone, Debug)]
pub struct OpTerm {
    pub op: OpRef,
    pub attrs: Vec<(String, Expr)>,
    pub rest: Option<Var>,
    pub children: Vec<Term>,
    /// Lists of operands after `children`.
    pub tails: Vec<Var>,
}

/// A side condition.
#[derive(Clone, Debug)]
pub struct Condition {
    pub test: &'static super::functions::Test,
    pub args: Vec<Expr>,
}

/// One rewrite rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique; rules over an operator class carry the operator after a slash.
    pub name: String,
    pub theme: String,
    pub numerics: Numerics,
    /// Rules of phase n take part from the n-th round of saturation on.
    pub phase: u32,
    pub vars: Vec<(String, VarKind)>,
    pub lhs: OpPattern,
    pub rhs: Term,
    pub conditions: Vec<Condition>,
}
