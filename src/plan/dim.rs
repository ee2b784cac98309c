//! Sizes that may hold symbols, as postfix programs with checked evaluation.

use crate::PlanError;
use prost::Message;

/// Deepest operand stack a size may need; guards evaluation of untrusted plans.
const MAX_STACK: usize = 64;

/// Postfix operation of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DimOp {
    /// Pushes the constant.
    Const = 0,
    /// Pushes the value of the symbol with that index.
    Symbol = 1,
    Add = 2,
    Sub = 3,
    Mul = 4,
    /// Division rounded towards minus infinity.
    FloorDiv = 5,
    Max = 6,
    Min = 7,
}

/// One postfix item: an operation and, for `Const` and `Symbol`, its value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DimItem {
    #[prost(enumeration = "DimOp", tag = "1")]
    pub op: i32,
    #[prost(sint64, tag = "2")]
    pub value: i64,
}

/// A size: a constant, or an expression over the plan's symbols.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DimExpr {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<DimItem>,
}

impl DimExpr {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        Self { items: vec![DimItem { op: DimOp::Const as i32, value }] }
    }

    /// The value when no symbol is involved and the expression is a plain constant.
    pub fn as_constant(&self) -> Option<i64> {
        match self.items.as_slice() {
            [DimItem { op, value }] if *op == DimOp::Const as i32 => Some(*value),
            _ => None,
        }
    }

    /// Whether it mentions a symbol.
    pub fn is_symbolic(&self) -> bool {
        self.items.iter().any(|i| i.op == DimOp::Symbol as i32)
    }

    /// The symbol's index if this is exactly one symbol.
    pub fn as_symbol(&self) -> Option<usize> {
        match self.items.as_slice() {
            [one] if one.op == DimOp::Symbol as i32 => usize::try_from(one.value).ok(),
            _ => None,
        }
    }

    /// Indices of the symbols it mentions.
    pub fn symbols(&self) -> impl Iterator<Item = usize> {
        let symbols = self.items.iter().filter(|i| i.op == DimOp::Symbol as i32);
        symbols.filter_map(|i| usize::try_from(i.value).ok())
    }

    /// Evaluates with `symbols[i]` as the value of symbol `i`.
    ///
    /// # Errors
    /// `L020` for a malformed program, an unknown symbol, overflow or division by zero.
    pub fn eval(&self, symbols: &[i64]) -> Result<i64, PlanError> {
        let bad = |what: &str| PlanError::new("L020", "a size", what, "compile the model again");
        let mut stack: Vec<i64> = Vec::with_capacity(4);
        for item in &self.items {
            let op = DimOp::try_from(item.op).map_err(|_| bad("the size has an unknown operation"))?;
            let value = match op {
                DimOp::Const => item.value,
                DimOp::Symbol => usize::try_from(item.value)
                    .ok()
                    .and_then(|i| symbols.get(i).copied())
                    .ok_or_else(|| bad("the size names a symbol the plan does not have"))?,
                _ => {
                    let (Some(b), Some(a)) = (stack.pop(), stack.pop()) else {
                        return Err(bad("the size lacks an operand"));
                    };
                    apply(op, a, b).ok_or_else(|| bad("the size overflows or divides by zero"))?
                }
            };
            if stack.len() >= MAX_STACK {
                return Err(bad("the size nests too deeply"));
            }
            stack.push(value);
        }
        match stack.as_slice() {
            [value] => Ok(*value),
            _ => Err(bad("the size does not reduce to one number")),
        }
    }
}

fn apply(op: DimOp, a: i64, b: i64) -> Option<i64> {
    match op {
        DimOp::Add => a.checked_add(b),
        DimOp::Sub => a.checked_sub(b),
        DimOp::Mul => a.checked_mul(b),
        DimOp::FloorDiv => floor_div(a, b),
        DimOp::Max => Some(a.max(b)),
        DimOp::Min => Some(a.min(b)),
        DimOp::Const | DimOp::Symbol => None,
    }
}

fn floor_div(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let inexact = a.checked_rem(b)? != 0;
    Some(if inexact && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(op: DimOp, value: i64) -> DimItem {
        DimItem { op: op as i32, value }
    }

    #[test]
    fn evaluates_postfix_with_symbols() {
        let expr = DimExpr {
            items: vec![
                item(DimOp::Symbol, 0),
                item(DimOp::Const, 3),
                item(DimOp::Mul, 0),
                item(DimOp::Const, 1),
                item(DimOp::Add, 0),
            ],
        };
        assert_eq!(expr.eval(&[5]).unwrap(), 16);
        assert!(expr.is_symbolic());
    }

    #[test]
    fn floor_division_rounds_down() {
        assert_eq!(floor_div(-3, 2), Some(-2));
        assert_eq!(floor_div(3, 2), Some(1));
        assert_eq!(floor_div(1, 0), None);
    }

    #[test]
    fn malformed_programs_are_errors() {
        for items in [
            vec![],
            vec![item(DimOp::Add, 0)],
            vec![item(DimOp::Symbol, 7)],
            vec![item(DimOp::Const, 1), item(DimOp::Const, 2)],
        ] {
            assert!(DimExpr { items }.eval(&[1]).is_err());
        }
    }
}
