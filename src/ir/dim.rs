//! Symbolic dimensions: polynomials over named symbols, with floor division, maximum and minimum as atoms.
//!
//! The form is normal: two dims that are equal as polynomials are equal as values, so shape equality is `==`.
//! Arithmetic saturates at the limits of `i64`; a saturated size is refused later as too large.

use partita_plan::dim::DimItem;
use partita_plan::{DimExpr, DimOp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// Most terms a polynomial may have before it is treated as too large to reason about.
pub const MAX_TERMS: usize = 64;

/// Smallest value of a symbol: inputs are not empty.
pub const MIN_SYMBOL: i64 = 1;

/// First character of symbols for sizes that depend on data; they may be zero.
pub const DATA_LEAD: char = '~';

/// First character of sizes that have no name yet, see `Dim::unknown`.
const UNNAMED_LEAD: char = '?';

/// An indivisible factor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A named symbol.
    Symbol(Arc<str>),
    /// `floor(a / b)`.
    FloorDiv(Box<Dim>, Box<Dim>),
    /// `max(a, b)`.
    Max(Box<Dim>, Box<Dim>),
    /// `min(a, b)`.
    Min(Box<Dim>, Box<Dim>),
}

/// A dimension: a polynomial with integer coefficients over atoms. Also the value of a shape tensor's element.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Coefficient of each product of atoms (sorted); the empty product is the constant term.
    terms: BTreeMap<Vec<Atom>, i64>,
}

impl Dim {
    /// The constant `value`.
    pub fn known(value: i64) -> Self {
        Self::from_terms([(Vec::new(), value)])
    }

    /// The symbol `name`.
    pub fn symbol(name: &str) -> Self {
        Self::from_terms([(vec![Atom::Symbol(name.into())], 1)])
    }

    /// A size that only a run can tell, of axis `axis` of result `output` of the operator whose types are being
    /// inferred. It is given a name, unique in the graph, when the operator is added to one.
    pub fn unknown(output: usize, axis: usize) -> Self {
        Self::symbol(&format!("{UNNAMED_LEAD}{output}.{axis}"))
    }

    fn from_terms(terms: impl IntoIterator<Item = (Vec<Atom>, i64)>) -> Self {
        let mut out: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for (monomial, coefficient) in terms {
            let slot = out.entry(monomial).or_insert(0);
            *slot = slot.saturating_add(coefficient);
        }
        out.retain(|_, c| *c != 0);
        Self { terms: out }
    }

    fn atom(atom: Atom) -> Self {
        Self::from_terms([(vec![atom], 1)])
    }

    /// The value if no symbol is involved.
    pub fn as_known(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// The symbol's name if this is exactly one symbol.
    pub fn as_symbol(&self) -> Option<&str> {
        let (monomial, coefficient) = self.terms.iter().next()?;
        match (self.terms.len(), monomial.as_slice(), coefficient) {
            (1, [Atom::Symbol(name)], 1) => Some(name),
            _ => None,
        }
    }

    /// Whether it is the constant `value`.
    pub fn is(&self, value: i64) -> bool {
        self.as_known() == Some(value)
    }

    /// Number of terms; used to bound growth.
    pub fn n_terms(&self) -> usize {
        self.terms.len()
    }

    /// The exact quotient, when `divisor` is a single term that divides every term.
    pub fn exact_div(&self, divisor: &Self) -> Option<Self> {
        if self == divisor && !self.is(0) {
            return Some(Self::known(1));
        }
        if divisor.terms.len() != 1 {
            return None;
        }
        let (factor, by) = divisor.terms.iter().next()?;
        let mut out = Vec::new();
        for (monomial, coefficient) in &self.terms {
            if coefficient.checked_rem(*by)? != 0 {
                return None;
            }
            out.push((remove_factors(monomial, factor)?, coefficient / by));
        }
        Some(Self::from_terms(out))
    }

    /// `floor(self / divisor)`; exact where the polynomial divides. Division by zero gives zero.
    pub fn floor_div(&self, divisor: &Self) -> Self {
        if divisor.is(0) {
            return Self::known(0);
        }
        if let (Some(a), Some(b)) = (self.as_known(), divisor.as_known()) {
            let above = b < 0 && a.checked_rem_euclid(b).unwrap_or(0) != 0;
            return Self::known(a.checked_div_euclid(b).unwrap_or(i64::MAX) - i64::from(above));
        }
        self.exact_div(divisor)
            .unwrap_or_else(|| Self::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(divisor.clone()))))
    }

    /// `ceil(self / divisor)`.
    pub fn ceil_div(&self, divisor: &Self) -> Self {
        (self.clone() + divisor.clone() - Self::known(1)).floor_div(divisor)
    }

    /// The larger of two.
    pub fn larger(&self, other: &Self) -> Self {
        if other.is_at_most(self) {
            self.clone()
        } else if self.is_at_most(other) {
            other.clone()
        } else {
            Self::atom(Atom::Max(Box::new(self.clone()), Box::new(other.clone())))
        }
    }

    /// The smaller of two.
    pub fn smaller(&self, other: &Self) -> Self {
        if self.is_at_most(other) {
            self.clone()
        } else if other.is_at_most(self) {
            other.clone()
        } else {
            Self::atom(Atom::Min(Box::new(self.clone()), Box::new(other.clone())))
        }
    }

    /// Whether it never exceeds `other`, as far as that is easily seen.
    fn is_at_most(&self, other: &Self) -> bool {
        if (other.clone() - self.clone()).at_least().is_some_and(|d| d >= 0) {
            return true;
        }
        // min(a, b) <= a and a <= max(a, b).
        let is_below = match self.as_atom() {
            Some(Atom::Min(a, b)) => **a == *other || **b == *other,
            _ => false,
        };
        is_below
            || match other.as_atom() {
                Some(Atom::Max(a, b)) => **a == *self || **b == *self,
                _ => false,
            }
    }

    /// The atom, if this is exactly one.
    fn as_atom(&self) -> Option<&Atom> {
        let (monomial, coefficient) = self.terms.iter().next()?;
        match (self.terms.len(), monomial.as_slice(), coefficient) {
            (1, [atom], 1) => Some(atom),
            _ => None,
        }
    }

    /// A lower bound, given that every symbol is at least `MIN_SYMBOL`; `None` when none is easily seen.
    pub fn at_least(&self) -> Option<i64> {
        self.terms.iter().try_fold(0i64, |sum, (monomial, coefficient)| {
            if monomial.is_empty() {
                return Some(sum.saturating_add(*coefficient));
            }
            if *coefficient < 0 {
                return None;
            }
            let product = monomial.iter().try_fold(*coefficient, |product, atom| {
                atom.at_least().filter(|&b| b >= 0).map(|b| product.saturating_mul(b))
            })?;
            Some(sum.saturating_add(product))
        })
    }

    /// Evaluates with `lookup` giving the value of each symbol; `None` when a symbol is unknown.
    pub fn eval(&self, lookup: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        self.substitute(&|name| lookup(name).map(Self::known)).as_known()
    }

    /// Replaces symbols; those `lookup` does not know stay.
    pub fn substitute(&self, lookup: &dyn Fn(&str) -> Option<Self>) -> Self {
        let mut out = Self::known(0);
        for (monomial, coefficient) in &self.terms {
            let mut product = Self::known(*coefficient);
            for atom in monomial {
                product = product * atom.substitute(lookup);
            }
            out = out + product;
        }
        out
    }

    /// Adds the names of all symbols to `out`.
    pub fn symbols(&self, out: &mut BTreeSet<Arc<str>>) {
        for atom in self.terms.keys().flatten() {
            match atom {
                Atom::Symbol(name) => {
                    out.insert(name.clone());
                }
                Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.symbols(out);
                    b.symbols(out);
                }
            }
        }
    }

    /// The plan's postfix form; `index` numbers the symbols. `None` for a symbol it does not know.
    pub fn to_expr(&self, index: &dyn Fn(&str) -> Option<usize>) -> Option<DimExpr> {
        let mut items = Vec::new();
        self.push_items(index, &mut items)?;
        Some(DimExpr { items })
    }

    fn push_items(&self, index: &dyn Fn(&str) -> Option<usize>, items: &mut Vec<DimItem>) -> Option<()> {
        let item = |op: DimOp, value: i64| DimItem { op: op as i32, value };
        if self.terms.is_empty() {
            items.push(item(DimOp::Const, 0));
        }
        for (n, (monomial, coefficient)) in self.terms.iter().enumerate() {
            let mut n_factors = 0;
            if *coefficient != 1 || monomial.is_empty() {
                items.push(item(DimOp::Const, *coefficient));
                n_factors += 1;
            }
            for atom in monomial {
                atom.push_items(index, items)?;
                n_factors += 1;
                if n_factors > 1 {
                    items.push(item(DimOp::Mul, 0));
                }
            }
            if n > 0 {
                items.push(item(DimOp::Add, 0));
            }
        }
        Some(())
    }

    /// The terms as (atoms, coefficient), in a fixed order.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(m, c)| (m.as_slice(), *c))
    }
}

impl Atom {
    /// A lower bound; see `Dim::at_least`.
    fn at_least(&self) -> Option<i64> {
        match self {
            Self::Symbol(name) if name.starts_with([DATA_LEAD, UNNAMED_LEAD]) => Some(0),
            Self::Symbol(_) => Some(MIN_SYMBOL),
            Self::FloorDiv(a, b) => {
                let by = b.as_known().filter(|&b| b > 0)?;
                Some(a.at_least()?.div_euclid(by))
            }
            Self::Max(a, b) => a.at_least().into_iter().chain(b.at_least()).max(),
            Self::Min(a, b) => Some(a.at_least()?.min(b.at_least()?)),
        }
    }

    fn substitute(&self, lookup: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        match self {
            Self::Symbol(name) => lookup(name).unwrap_or_else(|| Dim::atom(self.clone())),
            Self::FloorDiv(a, b) => a.substitute(lookup).floor_div(&b.substitute(lookup)),
            Self::Max(a, b) => a.substitute(lookup).larger(&b.substitute(lookup)),
            Self::Min(a, b) => a.substitute(lookup).smaller(&b.substitute(lookup)),
        }
    }

    fn push_items(&self, index: &dyn Fn(&str) -> Option<usize>, items: &mut Vec<DimItem>) -> Option<()> {
        let (a, b, op) = match self {
            Self::Symbol(name) => {
                let value = i64::try_from(index(name)?).ok()?;
                items.push(DimItem { op: DimOp::Symbol as i32, value });
                return Some(());
            }
            Self::FloorDiv(a, b) => (a, b, DimOp::FloorDiv),
            Self::Max(a, b) => (a, b, DimOp::Max),
            Self::Min(a, b) => (a, b, DimOp::Min),
        };
        a.push_items(index, items)?;
        b.push_items(index, items)?;
        items.push(DimItem { op: op as i32, value: 0 });
        Some(())
    }
}

/// Result and axis of a size that has no name yet.
pub(crate) fn unnamed(symbol: &str) -> Option<(usize, usize)> {
    let (output, axis) = symbol.strip_prefix(UNNAMED_LEAD)?.split_once('.')?;
    Some((output.parse().ok()?, axis.parse().ok()?))
}

/// `monomial` without `factors`, or `None` when one of them is missing.
fn remove_factors(monomial: &[Atom], factors: &[Atom]) -> Option<Vec<Atom>> {
    let mut rest = monomial.to_vec();
    for factor in factors {
        let at = rest.iter().position(|a| a == factor)?;
        rest.remove(at);
    }
    Some(rest)
}

impl Add for Dim {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::from_terms(self.terms.into_iter().chain(other.terms))
    }
}

impl Sub for Dim {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * Self::known(-1)
    }
}

impl Mul for Dim {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let mut out = Vec::new();
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let mut monomial: Vec<Atom> = a.iter().chain(b).cloned().collect();
                monomial.sort();
                out.push((monomial, x.saturating_mul(*y)));
            }
        }
        Self::from_terms(out)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::known(value)
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Self::known(value.into())
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::known(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // Higher degrees first, constants last, as people write it: `batch*seq + 2*batch + 1`.
        let mut terms: Vec<(&Vec<Atom>, &i64)> = self.terms.iter().collect();
        terms.sort_by_key(|(monomial, _)| std::cmp::Reverse(monomial.len()));
        for (n, (monomial, coefficient)) in terms.into_iter().enumerate() {
            let sign = if *coefficient < 0 { "-" } else { "+" };
            match (n, *coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                // Its magnitude alone is no number that reads back.
                _ if *coefficient == i64::MIN => f.write_str(" + -")?,
                _ => write!(f, " {sign} ")?,
            }
            let magnitude = coefficient.unsigned_abs();
            let mut factors: Vec<String> = monomial.iter().map(ToString::to_string).collect();
            if magnitude != 1 || factors.is_empty() {
                factors.insert(0, magnitude.to_string());
            }
            f.write_str(&factors.join("*"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol(name) => f.write_str(&quote_symbol(name)),
            Self::FloorDiv(a, b) => write!(f, "floordiv({a}, {b})"),
            Self::Max(a, b) => write!(f, "max({a}, {b})"),
            Self::Min(a, b) => write!(f, "min({a}, {b})"),
        }
    }
}

/// Symbol names that are not identifiers are printed in quotes.
fn quote_symbol(name: &str) -> String {
    let ident = name
        .chars()
        .enumerate()
        .all(|(i, c)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit()));
    let reserved = matches!(name, "floordiv" | "max" | "min");
    if ident && !reserved && !name.is_empty() { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn polynomials_are_normal() {
        let a = (s("b") + 1.into()) * s("s");
        let b = s("s") * s("b") + s("s");
        assert_eq!(a, b);
        assert_eq!((a.clone() - b).as_known(), Some(0));
        assert_eq!(a.to_string(), "b*s + s");
    }

    #[test]
    fn exact_division() {
        let product = s("b") * s("s") * Dim::known(384);
        assert_eq!(product.exact_div(&(s("b") * 12.into())), Some(s("s") * 32.into()));
        assert_eq!(product.exact_div(&s("q")), None);
        assert_eq!(product.exact_div(&product), Some(1.into()));
    }

    #[test]
    fn floor_division_evaluates() {
        let half = (s("h") + 1.into()).floor_div(&2.into());
        assert_eq!(half.eval(&|_| Some(7)), Some(4));
        assert_eq!(half.to_string(), "floordiv(h + 1, 2)");
        let expr = half.to_expr(&|_| Some(0)).unwrap();
        assert_eq!(expr.eval(&[7]).unwrap(), 4);
    }

    #[test]
    fn bounds_simplify_minimum_and_maximum() {
        assert_eq!((s("b") * s("s") + 3.into()).at_least(), Some(4));
        assert_eq!((s("b") - s("s")).at_least(), None);
        assert_eq!((s("s") - 1.into()).larger(&0.into()), s("s") - 1.into());
        let low = s("s").smaller(&512.into());
        assert_eq!(low.to_string(), "min(s, 512)");
        assert_eq!(s("s").larger(&low), s("s"));
        assert_eq!(s("s").smaller(&s("s").larger(&512.into())), s("s"));
    }

    #[test]
    fn negative_terms_print_with_minus() {
        assert_eq!((s("n") - 2.into()).to_string(), "n - 2");
        assert_eq!((Dim::known(0) - s("n")).to_string(), "-n");
        let least = s("n") + i64::MIN.into();
        assert_eq!(least.to_string(), "n + -9223372036854775808");
        let expr = (s("n") * s("n") - 2.into()).to_expr(&|_| Some(0)).unwrap();
        assert_eq!(expr.eval(&[5]).unwrap(), 23);
    }
}
