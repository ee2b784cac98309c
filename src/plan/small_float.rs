//! Floats of at most 8 bits: codes to numbers and back.
//!
//! A format is described by its exponent and mantissa bits, its bias and what its largest codes mean; all the
//! formats with a sign follow from one description. `F8E8M0` is a bare exponent.

use crate::ElementType;

/// What the codes beyond the finite numbers mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Specials {
    /// Infinity and NaNs as in IEEE 754.
    Ieee,
    /// Only the all-ones code (of either sign) is NaN.
    OnlyNan,
    /// Only the code of negative zero is NaN.
    NegativeZeroNan,
    /// None.
    None,
}

struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    specials: Specials,
}

fn format(dtype: ElementType) -> Option<Format> {
    let of = |exponent_bits, mantissa_bits, bias, specials| {
        Some(Format { exponent_bits, mantissa_bits, bias, specials })
    };
    match dtype {
        ElementType::F8E4M3fn => of(4, 3, 7, Specials::OnlyNan),
        ElementType::F8E4M3fnuz => of(4, 3, 8, Specials::NegativeZeroNan),
        ElementType::F8E5M2 => of(5, 2, 15, Specials::Ieee),
        ElementType::F8E5M2fnuz => of(5, 2, 16, Specials::NegativeZeroNan),
        ElementType::F6E2M3 => of(2, 3, 1, Specials::None),
        ElementType::F6E3M2 => of(3, 2, 3, Specials::None),
        ElementType::F4E2M1 => of(2, 1, 1, Specials::None),
        _ => None,
    }
}

impl Format {
    fn sign_bit(&self) -> u8 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// The largest code (without sign) of a finite number.
    fn largest(&self) -> u8 {
        let all = self.sign_bit() - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.mantissa_bits),
            Specials::OnlyNan => all - 1,
            Specials::NegativeZeroNan | Specials::None => all,
        }
    }

    /// The number of a code without sign, as if there were no special codes.
    fn magnitude(&self, code: u8) -> f64 {
        let exponent = i32::from(code >> self.mantissa_bits);
        let fraction = f64::from(code & ((1 << self.mantissa_bits) - 1));
        let unit = 2f64.powi(1 - self.bias - self.mantissa_bits as i32);
        if exponent == 0 {
            fraction * unit
        } else {
            (fraction + f64::from(1u32 << self.mantissa_bits)) * unit * 2f64.powi(exponent - 1)
        }
    }

    fn decode(&self, code: u8) -> f64 {
        let negative = code & self.sign_bit() != 0;
        let magnitude = code & (self.sign_bit() - 1);
        if self.specials == Specials::NegativeZeroNan && negative && magnitude == 0 {
            return f64::NAN;
        }
        if magnitude > self.largest() {
            let infinite = self.specials == Specials::Ieee && magnitude == self.largest() + 1;
            return if !infinite {
                f64::NAN
            } else if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            };
        }
        let value = self.magnitude(magnitude);
        if negative { -value } else { value }
    }

    /// See the function `encode`.
    fn encode(&self, value: f64, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        if value.is_nan() {
            return self.nan(sign);
        }
        let code = self.nearest(value.abs());
        if code > self.largest() {
            return if saturate { sign | self.largest() } else { self.beyond(sign) };
        }
        // These formats have no negative zero: its code is NaN.
        if code == 0 && self.specials == Specials::NegativeZeroNan { 0 } else { sign | code }
    }

    /// The code whose magnitude is nearest, as if codes went on for ever; at most one beyond the largest.
    fn nearest(&self, magnitude: f64) -> u8 {
        let beyond = self.largest() + 1;
        let (mut low, mut high) = (0u8, beyond);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.magnitude(middle) < magnitude { low = middle + 1 } else { high = middle }
        }
        if low == 0 {
            return 0;
        }
        let (below, above) = (magnitude - self.magnitude(low - 1), self.magnitude(low) - magnitude);
        let up = above < below || (above == below && low.is_multiple_of(2));
        if up { low } else { low - 1 }
    }

    /// What stands for numbers that are too large.
    fn beyond(&self, sign: u8) -> u8 {
        match self.specials {
            Specials::Ieee => sign | (self.largest() + 1),
            Specials::None => sign | self.largest(),
            _ => self.nan(sign),
        }
    }

    fn nan(&self, sign: u8) -> u8 {
        match self.specials {
            // Quiet, as hardware makes it.
            Specials::Ieee => sign | (self.largest() + 1) | 1 << (self.mantissa_bits - 1),
            Specials::OnlyNan => sign | (self.sign_bit() - 1),
            // Without a NaN, negative zero takes its place.
            Specials::NegativeZeroNan | Specials::None => self.sign_bit(),
        }
    }
}

/// The number a code of `dtype` stands for; NaN for a type that is no small float.
pub fn decode(dtype: ElementType, code: u8) -> f64 {
    if dtype == ElementType::F8E8M0 {
        return if code == u8::MAX { f64::NAN } else { 2f64.powi(i32::from(code) - 127) };
    }
    format(dtype).map_or(f64::NAN, |f| f.decode(code))
}

/// The code of `value` in `dtype`, rounded half to even; what is too large becomes the largest number when
/// `saturate`, else infinity or NaN. `F8E8M0` rounds to the nearest power of two.
pub fn encode(dtype: ElementType, value: f64, saturate: bool) -> u8 {
    if dtype == ElementType::F8E8M0 {
        return encode_power(value, Direction::Nearest, saturate);
    }
    format(dtype).map_or(0, |f| f.encode(value, saturate))
}

/// Where a number between two powers of two goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the larger one.
    Up,
    /// To the smaller one.
    Down,
    /// To the nearer one; from the middle to the larger one.
    Nearest,
}

/// Exponents of the least and the greatest `F8E8M0`.
const POWERS: (i32, i32) = (-127, 127);
/// The code of the greatest `F8E8M0`; one more is NaN.
const LARGEST_POWER: u8 = 254;

/// The `F8E8M0` code of the magnitude of `value`. What is out of range becomes the least or greatest power when
/// `saturate`, else NaN.
pub fn encode_power(value: f64, direction: Direction, saturate: bool) -> u8 {
    let magnitude = value.abs();
    let (least, greatest) = (2f64.powi(POWERS.0), 2f64.powi(POWERS.1));
    if magnitude.is_nan() || (!saturate && !(least..=greatest).contains(&magnitude)) {
        return u8::MAX;
    }
    if magnitude <= least {
        return 0;
    }
    if magnitude >= greatest {
        return LARGEST_POWER;
    }
    // A normal f64, so its exponent field is the exponent.
    let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
    let low = 2f64.powi(exponent);
    let up = match direction {
        Direction::Up => magnitude > low,
        Direction::Down => false,
        Direction::Nearest => magnitude >= 1.5 * low,
    };
    (exponent - POWERS.0 + i32::from(up)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: [ElementType; 7] = [
        ElementType::F8E4M3fn,
        ElementType::F8E4M3fnuz,
        ElementType::F8E5M2,
        ElementType::F8E5M2fnuz,
        ElementType::F4E2M1,
        ElementType::F6E2M3,
        ElementType::F6E3M2,
    ];

    #[test]
    fn codes_survive() {
        for dtype in SIGNED {
            let n_codes = 1u32 << dtype.bits();
            for code in 0..n_codes as u8 {
                let value = decode(dtype, code);
                if value.is_finite() {
                    assert_eq!(encode(dtype, value, true), code, "{dtype:?} {code}");
                }
            }
        }
        for code in 0..255u8 {
            assert_eq!(encode(ElementType::F8E8M0, decode(ElementType::F8E8M0, code), true), code);
        }
    }

    #[test]
    fn largest_numbers() {
        let largest = |d| decode(d, encode(d, 1e9, true));
        assert_eq!(SIGNED.map(largest), [448.0, 240.0, 57344.0, 57344.0, 6.0, 7.5, 28.0]);
        assert!(decode(ElementType::F8E4M3fn, encode(ElementType::F8E4M3fn, 1e9, false)).is_nan());
        assert_eq!(decode(ElementType::F8E5M2, encode(ElementType::F8E5M2, 1e9, false)), f64::INFINITY);
        assert_eq!(decode(ElementType::F4E2M1, encode(ElementType::F4E2M1, -1e9, false)), -6.0);
    }

    #[test]
    fn nearest_is_nearest_and_ties_go_to_even_codes() {
        for dtype in SIGNED {
            let largest = encode(dtype, 1e9, true);
            for code in 0..largest {
                let middle = f64::midpoint(decode(dtype, code), decode(dtype, code + 1));
                let even = code + code % 2;
                assert_eq!(encode(dtype, middle, true), even, "{dtype:?} {code}");
                assert_eq!(encode(dtype, middle.next_up(), true), code + 1, "{dtype:?} {code}");
                assert_eq!(encode(dtype, middle.next_down(), true), code, "{dtype:?} {code}");
            }
        }
    }

    #[test]
    fn special_values() {
        let codes = |value: f64| SIGNED.map(|d| encode(d, value, true));
        assert_eq!(codes(f64::NAN), [0x7f, 0x80, 0x7e, 0x80, 0x08, 0x20, 0x20]);
        assert_eq!(codes(f64::NEG_INFINITY), [0xfe, 0xff, 0xfb, 0xff, 0x0f, 0x3f, 0x3f]);
        assert_eq!(codes(-0.0), [0x80, 0, 0x80, 0, 0x08, 0x20, 0x20]);
        let loose = SIGNED.map(|d| encode(d, f64::NEG_INFINITY, false));
        assert_eq!(loose, [0xff, 0x80, 0xfc, 0x80, 0x0f, 0x3f, 0x3f]);
    }

    #[test]
    fn powers_round_in_three_directions() {
        let code = |value: f64, direction| encode_power(value, direction, true);
        for (value, up, down, nearest) in [
            (0.0, 0, 0, 0),
            (1.0, 127, 127, 127),
            (1.4, 128, 127, 127),
            (1.5, 128, 127, 128),
            (2f64.powi(-127) * 1.5, 1, 0, 1),
            (2f64.powi(-140), 0, 0, 0),
            (f64::INFINITY, 254, 254, 254),
            (2f64.powi(127) * 1.9, 254, 254, 254),
        ] {
            let got = [Direction::Up, Direction::Down, Direction::Nearest].map(|d| code(value, d));
            assert_eq!(got, [up, down, nearest], "{value}");
        }
        for value in [0.0, f64::INFINITY, f64::NAN, 1e300] {
            assert_eq!(encode_power(value, Direction::Nearest, false), 255, "{value}");
        }
        assert_eq!(code(f64::NAN, Direction::Up), 255);
    }
}
