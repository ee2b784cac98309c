//! Tile operations as WGSL templates: one row per operation, one column per kind of lane.
//!
//! `$0`, `$1`, `$2` stand for the operand registers; an empty template means the device does not have it.
//! Functions ending in `_f` and beginning with `i_` are defined in `wgsl/`.

use partita_plan::tile::{Lane, TileOp};

/// Operation, template for float lanes, template for integer lanes.
type Row = (TileOp, &'static str, &'static str);

/// `Load`, `Const`, `Wrap` and `RoundTo` depend on more than their operands and are rendered apart.
const OPS: &[Row] = &[
    (TileOp::Add, "$0 + $1", "i_add($0, $1)"),
    (TileOp::Sub, "$0 - $1", "i_sub($0, $1)"),
    (TileOp::Mul, "$0 * $1", "i_mul($0, $1)"),
    (TileOp::Div, "$0 / $1", "i_div($0, $1)"),
    (TileOp::Max, "max_f($0, $1)", "i_max($0, $1)"),
    (TileOp::Min, "min_f($0, $1)", "i_min($0, $1)"),
    (TileOp::Pow, "pow_f($0, $1)", ""),
    (TileOp::Mod, "mod_f($0, $1)", "i_mod($0, $1)"),
    (TileOp::Rem, "rem_f($0, $1)", "i_rem($0, $1)"),
    (TileOp::Neg, "-$0", "i_neg($0)"),
    (TileOp::Abs, "abs($0)", "i_abs($0)"),
    (TileOp::Sign, "sign_f($0)", "i_sign($0)"),
    (TileOp::Sqrt, "sqrt($0)", ""),
    (TileOp::Exp, "exp_f($0)", ""),
    (TileOp::Log, "log_f($0)", ""),
    (TileOp::Erf, "erf_f($0)", ""),
    (TileOp::Tanh, "tanh_f($0)", ""),
    (TileOp::Sin, "sin_f($0)", ""),
    (TileOp::Cos, "cos_f($0)", ""),
    (TileOp::Floor, "floor($0)", ""),
    (TileOp::Ceil, "ceil($0)", ""),
    (TileOp::Round, "round($0)", ""),
    (TileOp::Sigmoid, "sigmoid_f($0)", ""),
    (TileOp::Recip, "1.0 / $0", ""),
    (TileOp::Eq, "i_bool($0 == $1)", "i_bool(i_eq($0, $1))"),
    (TileOp::Lt, "i_bool($0 < $1)", "i_bool(i_lt($0, $1))"),
    (TileOp::Le, "i_bool($0 <= $1)", "i_bool(!i_lt($1, $0))"),
    (TileOp::Select, "select($2, $1, i_true($0))", "select($2, $1, i_true($0))"),
    (TileOp::Not, "i_bool(!i_true($0))", "i_bool(!i_true($0))"),
    (TileOp::And, "$0 & $1", "$0 & $1"),
    (TileOp::Or, "$0 | $1", "$0 | $1"),
    (TileOp::Xor, "$0 ^ $1", "$0 ^ $1"),
    (TileOp::ToFloat, "i_to_float($0)", "i_to_float($0)"),
    (TileOp::ToInt, "i_from_float($0)", "i_from_float($0)"),
    (TileOp::IsNan, "i_bool(is_nan($0))", "i_bool(is_nan($0))"),
    (TileOp::MulAdd, "$0 * $1 + $2", ""),
    (TileOp::Tan, "tan_f($0)", ""),
    (TileOp::Asin, "asin_f($0)", ""),
    (TileOp::Acos, "acos_f($0)", ""),
    (TileOp::Atan, "atan_f($0)", ""),
    (TileOp::Sinh, "sinh_f($0)", ""),
    (TileOp::Cosh, "cosh_f($0)", ""),
    (TileOp::Asinh, "asinh_f($0)", ""),
    (TileOp::Acosh, "acosh_f($0)", ""),
    (TileOp::Atanh, "atanh_f($0)", ""),
    (TileOp::Log1p, "log1p_f($0)", ""),
    (TileOp::Shl, "", "i_shl($0, $1)"),
    (TileOp::Shr, "", "i_shr($0, $1)"),
];

/// The template of an operation on a lane, if the device has it.
pub(crate) fn template(op: TileOp, lane: Lane) -> Option<&'static str> {
    let (_, float, int) = OPS.iter().find(|(o, _, _)| *o == op)?;
    let text = if lane == Lane::Float { float } else { int };
    (!text.is_empty()).then_some(*text)
}
