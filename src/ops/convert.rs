//! Conversion of tensors between element types, as `cast` defines it.

use crate::common::{attr_error, from_f64s, from_i64s};
use crate::elements::{from_bytes, from_ints, ints};
use crate::text_numbers::{float_text, parse_float, parse_int};
use half::f16;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::{DType, Tensor};
use partita_plan::small_float::{Direction, encode, encode_power};

/// What happens where a number does not fit its new type exactly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounding {
    /// Numbers too large for an 8-bit float become the largest one, else infinity or NaN.
    pub(crate) saturate: bool,
    /// For powers of two (`F8E8M0`); other types round to the nearest.
    pub(crate) direction: Direction,
}

impl Rounding {
    /// What the attributes `saturate` and `round_mode` say.
    ///
    /// # Errors
    /// `V021` for an unknown mode.
    pub(crate) fn of(attrs: &Attrs) -> Result<Self, Diag> {
        let direction = match attrs.str("round_mode").unwrap_or("up") {
            "up" => Direction::Up,
            "down" => Direction::Down,
            "nearest" => Direction::Nearest,
            other => {
                let text = format!("round_mode is {other:?}");
                return Err(attr_error(text).hint("allowed are up, down and nearest"));
            }
        };
        Ok(Self { saturate: attrs.int_or("saturate", 1) != 0, direction })
    }
}

/// `x` in the element type `to`.
///
/// # Errors
/// `X021` for text that is no number.
pub(crate) fn converted(x: &Tensor, to: DType, rounding: Rounding) -> Result<Tensor, Diag> {
    match (x.dtype().is_float(), to.is_float()) {
        // An infinite 8-bit float saturates even where its type stays.
        _ if x.dtype() == to && !to.is_small_float() => Ok(x.clone()),
        _ if x.dtype() == DType::Str => from_text(x, to, rounding),
        _ if to == DType::Str => to_text(x),
        (_, true) if to.is_small_float() => small_floats(to, x.shape(), &x.to_f64s(), rounding),
        (true, true) => from_f64s(to, x.shape(), &x.to_f64s()),
        (true, false) if to == DType::Bool => from_f64s(to, x.shape(), &x.to_f64s()),
        (true, false) if to == DType::U64 => {
            let wide = |v: f64| if v < 0.0 { i128::from(v as i64) } else { i128::from(v as u64) };
            let values: Vec<i128> = x.to_f64s().into_iter().map(wide).collect();
            from_ints(to, x.shape(), &values)
        }
        // Through i64, as tile programs do: saturating there, then wrapping.
        (true, false) => from_i64s(to, x.shape(), &x.to_i64s()),
        (false, true) => ints_to_floats(x, to),
        (false, false) => from_ints(to, x.shape(), &ints(x)),
    }
}

/// A tensor of 8- or 4-bit floats.
///
/// # Errors
/// When the number of values does not match the shape.
pub(crate) fn small_floats(
    dtype: DType,
    shape: &[usize],
    values: &[f64],
    rounding: Rounding,
) -> Result<Tensor, Diag> {
    let code = |&v: &f64| match dtype {
        DType::F8E8M0 => encode_power(v, rounding.direction, rounding.saturate),
        _ => encode(dtype, v, rounding.saturate),
    };
    from_bytes(dtype, shape, values.iter().map(code).collect())
}

/// Integers rounded once to the float type.
fn ints_to_floats(x: &Tensor, to: DType) -> Result<Tensor, Diag> {
    let values = ints(x);
    let floats: Vec<f64> = match to {
        DType::F64 => values.into_iter().map(|v| v as f64).collect(),
        // Larger numbers overflow, so that f32 is wide enough on the way.
        DType::F16 => values.into_iter().map(|v| f16::from_f32(v as f32).to_f64()).collect(),
        _ => values.into_iter().map(|v| f64::from(v as f32)).collect(),
    };
    from_f64s(to, x.shape(), &floats)
}

fn to_text(x: &Tensor) -> Result<Tensor, Diag> {
    let texts: Vec<String> = if x.dtype().is_float() {
        x.to_f64s().into_iter().map(|v| float_text(x.dtype(), v)).collect()
    } else {
        ints(x).into_iter().map(|v| v.to_string()).collect()
    };
    Tensor::from_strings(x.shape(), &texts)
        .ok_or_else(|| crate::common::type_error("a result has the wrong number of elements"))
}

fn from_text(x: &Tensor, to: DType, rounding: Rounding) -> Result<Tensor, Diag> {
    let texts = x.strings();
    let no_number = |text: &str| {
        let start: String = text.chars().take(40).collect();
        Diag::new("X021", format!("the text {start:?} is no {}", to.name()))
            .hint("only numbers, INF and NaN can be cast")
    };
    if to.is_float() || to == DType::Bool {
        let parse = |t: &&str| parse_float(to, t).ok_or_else(|| no_number(t));
        let values: Vec<f64> = texts.iter().map(parse).collect::<Result<_, _>>()?;
        return if to.is_small_float() {
            small_floats(to, x.shape(), &values, rounding)
        } else {
            from_f64s(to, x.shape(), &values)
        };
    }
    let parse = |t: &&str| parse_int(t).ok_or_else(|| no_number(t));
    let values: Vec<i128> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    from_ints(to, x.shape(), &values)
}
