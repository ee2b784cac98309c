//! Numbers as text and back, for casts: the shortest decimal that reads back as the same number.

use partita_ir::DType;
use partita_plan::rounding::rounded;

/// Magnitudes written without an exponent: at least the first, below the second (as Python and numpy do).
const PLAIN: (f64, f64) = (1e-4, 1e16);

/// Most digits after the first that tell all f64 numbers apart.
const MAX_DIGITS: usize = 17;

/// A number of the float type `dtype` as text.
pub(crate) fn float_text(dtype: DType, value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF" } else { "-INF" }.to_owned();
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let magnitude = value.abs();
    let scientific = shortest(dtype, magnitude);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if magnitude == 0.0 || (PLAIN.0..PLAIN.1).contains(&magnitude) {
        return format!("{sign}{}", plain(&mantissa.replace('.', ""), exponent));
    }
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{mantissa}e{exponent_sign}{:02}", exponent.unsigned_abs())
}

/// The shortest decimal with an exponent, as `1.5e-7`, that rounds to `value` in `dtype` (f32 for small types).
fn shortest(dtype: DType, value: f64) -> String {
    match dtype {
        DType::F64 => format!("{value:e}"),
        DType::F16 => {
            let same = |text: &String| text.parse().is_ok_and(|v| rounded(dtype, v) == value);
            let mut texts = (0..MAX_DIGITS).map(|digits| format!("{value:.digits$e}"));
            texts.find(same).unwrap_or_else(|| format!("{value:e}"))
        }
        // The other types are read as f32.
        _ => format!("{:e}", value as f32),
    }
}

/// Digits whose first one counts `10^exponent`, with a point and a digit on both sides of it.
fn plain(digits: &str, exponent: i32) -> String {
    let Ok(before) = usize::try_from(exponent) else {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("0.{zeros}{digits}");
    };
    let digits = format!("{digits:0<width$}", width = before + 2);
    let (whole, fraction) = digits.split_at(before + 1);
    format!("{whole}.{fraction}")
}

/// The number a text stands for: plain or with an exponent; infinity and NaN in any case.
pub(crate) fn parse_float(dtype: DType, text: &str) -> Option<f64> {
    let text = text.trim();
    // Read as f32 where that is wanted: through f64 it would be rounded twice.
    if dtype == DType::F32 { text.parse().ok().map(f32::into) } else { text.parse().ok() }
}

/// The integer a text stands for; a fraction is cut off.
pub(crate) fn parse_int(text: &str) -> Option<i128> {
    let text = text.trim();
    let cut = || parse_float(DType::F64, text).filter(|v| v.is_finite()).map(|v| v as i128);
    text.parse().ok().or_else(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_short_and_plain() {
        let texts = |dtype, values: &[f64]| -> Vec<String> {
            values.iter().map(|&v| float_text(dtype, rounded(dtype, v))).collect()
        };
        let values =
            [1.0, -0.0, 0.1, 1e8, 1e20, 1e-5, 314.159_27, 0.039_187_793, f64::NAN, f64::NEG_INFINITY];
        let want = [
            "1.0",
            "-0.0",
            "0.1",
            "100000000.0",
            "1e+20",
            "1e-05",
            "314.15927",
            "0.039187793",
            "NaN",
            "-INF",
        ];
        assert_eq!(texts(DType::F32, &values), want);
        assert_eq!(
            texts(DType::F64, &[1.5e300, 123.456, 1e15]),
            ["1.5e+300", "123.456", "1000000000000000.0"]
        );
        assert_eq!(texts(DType::F16, &[0.1, 65504.0, 6e-8]), ["0.1", "65500.0", "6e-08"]);
        assert_eq!(texts(DType::Bf16, &[0.1, 3e38]), ["0.100097656", "3.0040553e+38"]);
        assert_eq!(texts(DType::F8E4M3fn, &[0.1, 448.0]), ["0.1015625", "448.0"]);
    }

    #[test]
    fn texts_read_back() {
        for code in 0..0x7c00u16 {
            let value = half::f16::from_bits(code).to_f64();
            let text = float_text(DType::F16, value);
            assert_eq!(rounded(DType::F16, parse_float(DType::F16, &text).unwrap()), value, "{text}");
        }
        for text in ["INF", "+INF", "inf", "+inf"] {
            assert_eq!(parse_float(DType::F32, text), Some(f64::INFINITY));
        }
        assert!(parse_float(DType::F32, "NaN").unwrap().is_nan());
        assert_eq!(parse_float(DType::F32, "1E8"), Some(1e8));
        assert_eq!(parse_float(DType::F32, "Hello"), None);
    }

    #[test]
    fn integers_lose_fractions() {
        assert_eq!(parse_int("1000"), Some(1000));
        assert_eq!(parse_int(" -3 "), Some(-3));
        assert_eq!(parse_int("100.5"), Some(100));
        assert_eq!(parse_int("1e3"), Some(1000));
        assert_eq!(parse_int("18446744073709551615"), Some(i128::from(u64::MAX)));
        assert_eq!(parse_int("INF"), None);
        assert_eq!(parse_int(""), None);
    }
}
