//! Rounding of f64 numbers to 16-bit floats, once and exactly. (Going through f32 with ordinary rounding would
//! round twice, and dropping the low half of the f64 would lose what breaks ties.)

use crate::ElementType;
use crate::small_float;
use half::{bf16, f16};

/// `value` as f32, rounded to odd: an inexact result gets its last bit set, so that rounding it again to a float
/// of at most 22 bits gives what rounding `value` itself would (Boldo and Melquiond 2008).
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    if back == value || value.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    // The neighbour on the other side of `value`; both have an odd last bit where `near` has an even one.
    let away = if (back < value) == (value > 0.0) { 1 } else { u32::MAX };
    f32::from_bits(near.to_bits().wrapping_add(away))
}

/// The f16 nearest to `value`, halves to even.
pub fn to_f16(value: f64) -> f16 {
    f16::from_f32(to_odd(value))
}

/// The bf16 nearest to `value`, halves to even.
pub fn to_bf16(value: f64) -> bf16 {
    bf16::from_f32(to_odd(value))
}

/// `value` as the nearest number of a float type, halves to even; itself for other types.
pub fn rounded(dtype: ElementType, value: f64) -> f64 {
    match dtype {
        ElementType::F32 => f64::from(value as f32),
        ElementType::F16 => to_f16(value).to_f64(),
        ElementType::Bf16 => to_bf16(value).to_f64(),
        _ if dtype.is_small_float() => small_float::decode(dtype, small_float::encode(dtype, value, true)),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Just above and below the middle of two neighbours, by less than f32 can tell.
    #[test]
    fn ties_are_broken_by_the_last_bits() {
        for code in 0..0x7bffu16 {
            let (low, high) = (f16::from_bits(code).to_f64(), f16::from_bits(code + 1).to_f64());
            let middle = f64::midpoint(low, high);
            let even = if code.is_multiple_of(2) { code } else { code + 1 };
            assert_eq!(to_f16(middle).to_bits(), even);
            assert_eq!(to_f16(middle.next_up()).to_bits(), code + 1);
            assert_eq!(to_f16(middle.next_down()).to_bits(), code);
            assert_eq!(to_f16(-middle.next_up()).to_bits(), 0x8000 | (code + 1));
        }
        for code in (0..0x7f7fu16).step_by(7) {
            let (low, high) = (bf16::from_bits(code).to_f64(), bf16::from_bits(code + 1).to_f64());
            let middle = f64::midpoint(low, high);
            let even = if code.is_multiple_of(2) { code } else { code + 1 };
            assert_eq!(to_bf16(middle).to_bits(), even);
            assert_eq!(to_bf16(middle.next_up()).to_bits(), code + 1);
            assert_eq!(to_bf16(middle.next_down()).to_bits(), code);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(to_f16(65519.999).to_f64(), 65504.0);
        assert_eq!(to_f16(65520.0), f16::INFINITY);
        assert_eq!(to_f16(-1e300), f16::NEG_INFINITY);
        assert_eq!(to_bf16(1e300), bf16::INFINITY);
        assert!(to_bf16(f64::NAN).is_nan() && to_f16(f64::NAN).is_nan());
        assert_eq!(to_f16(1e-300).to_bits(), 0);
        assert_eq!(to_f16(-1e-300).to_bits(), 0x8000);
        assert_eq!(rounded(ElementType::F8E4M3fn, 1000.0), 448.0);
    }
}
