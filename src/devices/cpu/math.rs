//! Elementary functions on one f32 without branches, so that loops over them vectorise.
//!
//! Polynomials are own minimax fits (Lawson iteration on Chebyshev nodes, 40 digits). `FMA` says whether
//! fused multiply-add is an instruction here; without it the product and the sum round separately.

#![expect(clippy::excessive_precision, reason = "coefficients are kept as fitted")]

/// `a * b + c`.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Polynomial with coefficients from the constant term up.
#[inline(always)]
fn poly<const FMA: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = fma::<FMA>(sum, x, c[i]);
    }
    sum
}

/// Adding and subtracting it rounds to the nearest integer, half to even, below 2^22.
const ROUNDER: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_375;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `2^n` for an integral `n` in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// e^x; within 2 ulp, infinite above 88.73, zero below -104.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    let rounded = fma::<FMA>(clamped, std::f32::consts::LOG2_E, ROUNDER);
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let whole = rounded - ROUNDER;
    let r = fma::<FMA>(whole, -LN2_HIGH, clamped);
    let r = fma::<FMA>(whole, -LN2_LOW, r);
    let p = poly::<FMA, 7>(r, EXP);
    // Two factors, so that results near the ends of the range neither overflow early nor lose denormals.
    let half = n >> 1;
    let value = p * power_of_two(half) * power_of_two(n - half);
    if x.is_nan() { x } else { value }
}

/// Coefficients of e^r around 0.
const EXP: [f32; 7] = [1.0, 1.0, 0.5, 1.666641482e-01, 4.166608214e-02, 8.375183324e-03, 1.395613995e-03];
/// `ROUNDER` plus the bias of an exponent: the low bits of a sum with it are those of a power of two.
const BIASED_ROUNDER: f32 = ROUNDER + 127.0;

/// e^x for exponents that are hardly above 0; within 2 ulp, and zero below -87, where results have no full precision.
#[inline(always)]
pub(crate) fn exp_down<const FMA: bool>(x: f32) -> f32 {
    let rounded = fma::<FMA>(x, std::f32::consts::LOG2_E, BIASED_ROUNDER);
    let whole = rounded - BIASED_ROUNDER;
    let r = fma::<FMA>(whole, -LN2_HIGH, x);
    let r = fma::<FMA>(whole, -LN2_LOW, r);
    let value = poly::<FMA, 7>(r, EXP) * f32::from_bits(rounded.to_bits() << 23);
    if x < -87.0 { 0.0 } else { value }
}

/// 2^x for -126 <= x < 1; within 2 ulp.
#[inline(always)]
fn power_down<const FMA: bool>(x: f32) -> f32 {
    let rounded = x + BIASED_ROUNDER;
    let r = x - (rounded - BIASED_ROUNDER);
    let p = poly::<FMA, 6>(
        r,
        [
            1.000000119e+00,
            6.931469440e-01,
            2.402212024e-01,
            5.550713465e-02,
            9.675540961e-03,
            1.327640959e-03,
        ],
    );
    p * f32::from_bits(rounded.to_bits() << 23)
}

/// x Phi(x) = max(x, 0) - |x| Phi(-|x|), where `tail` approximates the smooth log2 Phi(-|x|) up to `bound`.
#[inline(always)]
fn gated<const FMA: bool, const N: usize>(x: f32, bound: f32, tail: [f32; N]) -> f32 {
    let magnitude = x.abs();
    let bounded = if magnitude > bound { bound } else { magnitude };
    let tail = power_down::<FMA>(poly::<FMA, N>(bounded, tail));
    let positive = if x > 0.0 { x } else { 0.0 };
    let value = fma::<FMA>(-bounded, tail, positive);
    if x < f32::MIN { f32::NAN } else { value }
}

/// x (1 + erf(x / sqrt 2)) / 2; absolute error below 1e-7.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    gated::<FMA, 9>(
        x,
        6.0,
        [
            -9.999991655e-01,
            -1.151122689e+00,
            -4.591061473e-01,
            -5.275413767e-02,
            7.398016751e-03,
            -3.755846701e-04,
            -9.210954886e-05,
            2.026554466e-05,
            -1.280253969e-06,
        ],
    )
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2; absolute error below 1e-7.
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    gated::<FMA, 11>(
        x,
        5.5,
        [
            -1.000000834e+00,
            -1.151082873e+00,
            -4.593606293e-01,
            -5.112579092e-02,
            7.349737920e-03,
            -2.208508085e-04,
            2.522340801e-04,
            -6.639169296e-04,
            2.414942865e-04,
            -3.495523924e-05,
            1.864036335e-06,
        ],
    )
}

/// e^x - 1 without cancellation near zero, by way of tanh(x/2).
#[inline(always)]
fn tanh_small<const FMA: bool>(x: f32) -> f32 {
    let t = x * x;
    let p = poly::<FMA, 6>(
        t,
        [
            -3.333332937e-01,
            1.333317093e-01,
            -5.394318956e-02,
            2.168335062e-02,
            -8.137567086e-03,
            2.108231969e-03,
        ],
    );
    fma::<FMA>(x * t, p, x)
}

/// Hyperbolic tangent; within 2 ulp, also near zero.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    let bounded = if magnitude > 10.0 { 10.0 } else { magnitude };
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * bounded) + 1.0);
    let small = tanh_small::<FMA>(x);
    let value = if magnitude < 0.625 { small } else { large.copysign(x) };
    if x.is_nan() { x } else { value }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Error function; absolute error below 2e-7.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = x * x;
    let small = x * poly::<FMA, 7>(
        t,
        [
            1.128379166e+00,
            -3.761262714e-01,
            1.128360018e-01,
            -2.685444459e-02,
            5.189535343e-03,
            -8.020841309e-04,
            7.889119625e-05,
        ],
    );
    let bounded = if magnitude > 4.0 { 4.0 } else { magnitude };
    let log_erfc = poly::<FMA, 9>(
        bounded,
        [
            2.725285537e-04,
            -1.130015880e+00,
            -6.322500600e-01,
            -1.096202403e-01,
            2.611792098e-02,
            -4.635217003e-03,
            5.658259177e-04,
            -4.177511919e-05,
            1.385491255e-06,
        ],
    );
    let large = (1.0 - exp::<FMA>(log_erfc)).copysign(x);
    let value = if magnitude < 1.0 { small } else { large };
    if x.is_nan() { x } else { value }
}

/// Natural logarithm; within 2 ulp. Negative gives NaN, zero minus infinity.
#[inline(always)]
pub(crate) fn log<const FMA: bool>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits();
    // Splits so that the mantissa lies in [sqrt(1/2), sqrt(2)).
    let offset = bits.wrapping_sub(0x3f35_04f3);
    let exponent = (offset as i32) >> 23;
    let mantissa = f32::from_bits((offset & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let e = exponent as f32 - if tiny { 23.0 } else { 0.0 };
    let f = mantissa - 1.0;
    let p = poly::<FMA, 9>(
        f,
        [
            3.333331058e-01,
            -2.499998663e-01,
            2.000221928e-01,
            -1.666924532e-01,
            1.421878046e-01,
            -1.238449409e-01,
            1.187230880e-01,
            -1.178880028e-01,
            6.915580317e-02,
        ],
    );
    let square = f * f;
    let tail = fma::<FMA>(e, LN2_LOW, square * f * p);
    let tail = fma::<FMA>(-0.5, square, tail);
    let value = fma::<FMA>(e, LN2_HIGH, f + tail);
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    if x < 0.0 || x.is_nan() { f32::NAN } else { value }
}

/// Largest magnitude for which `sin` and `cos` reduce their argument exactly enough.
pub(crate) const TRIG_LIMIT: f32 = 8192.0;

/// The quadrant of `x` and the rest in [-pi/4, pi/4] (Cody-Waite, three parts of pi/2).
#[inline(always)]
fn quadrant<const FMA: bool>(x: f32) -> (i32, f32) {
    let rounded = fma::<FMA>(x, std::f32::consts::FRAC_2_PI, ROUNDER);
    let q = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let n = rounded - ROUNDER;
    let r = fma::<FMA>(n, -1.570_312_5, x);
    let r = fma::<FMA>(n, -4.837_512_969_970_703e-4, r);
    let r = fma::<FMA>(n, -7.549_789_415_861_596e-8, r);
    (q, r)
}

/// sin of the rest in quadrant `q`.
#[inline(always)]
fn sin_in_quadrant<const FMA: bool>(q: i32, r: f32) -> f32 {
    let t = r * r;
    let s = poly::<FMA, 4>(t, [-1.666666666e-01, 8.333331876e-03, -1.984008725e-04, 2.724997684e-06]);
    let sine = fma::<FMA>(r * t, s, r);
    let c = poly::<FMA, 3>(t, [4.166666466e-02, -1.388830355e-03, 2.454802019e-05]);
    let cosine = fma::<FMA>(t * t, c, fma::<FMA>(t, -0.5, 1.0));
    let value = if q & 1 == 0 { sine } else { cosine };
    if q & 2 == 0 { value } else { -value }
}

/// sin for magnitudes up to `TRIG_LIMIT`.
#[inline(always)]
pub(crate) fn sin<const FMA: bool>(x: f32) -> f32 {
    let (q, r) = quadrant::<FMA>(x);
    sin_in_quadrant::<FMA>(q, r)
}

/// cos for magnitudes up to `TRIG_LIMIT`.
#[inline(always)]
pub(crate) fn cos<const FMA: bool>(x: f32) -> f32 {
    let (q, r) = quadrant::<FMA>(x);
    sin_in_quadrant::<FMA>(q.wrapping_add(1), r)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(low: f64, high: f64, check: impl Fn(f32)) {
        for i in 0..=200_000 {
            check((low + (high - low) * f64::from(i) / 200_000.0) as f32);
        }
    }

    fn near(got: f32, want: f64, relative: f64, x: f32) {
        let error = (f64::from(got) - want).abs();
        assert!(error <= relative * want.abs() + 1e-37, "{x}: {got} instead of {want}");
    }

    #[test]
    fn exponentials_are_accurate() {
        sweep(-87.0, 88.5, |x| {
            near(exp::<true>(x), f64::from(x).exp(), 2.5e-7, x);
            near(exp::<false>(x), f64::from(x).exp(), 2.5e-7, x);
        });
        sweep(-30.0, 30.0, |x| near(sigmoid::<true>(x), 1.0 / (1.0 + (-f64::from(x)).exp()), 4e-7, x));
        sweep(-12.0, 12.0, |x| near(tanh::<false>(x), f64::from(x).tanh(), 3e-7, x));
        sweep(-1e-3, 1e-3, |x| near(tanh::<true>(x), f64::from(x).tanh(), 2e-7, x));
        assert_eq!((exp::<true>(0.0), exp::<true>(-200.0)), (1.0, 0.0));
        assert_eq!(exp::<false>(100.0), f32::INFINITY);
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan() && tanh::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn falling_exponentials_are_accurate() {
        sweep(-87.0, 1.0, |x| {
            near(exp_down::<true>(x), f64::from(x).exp(), 2.5e-7, x);
            near(exp_down::<false>(x), f64::from(x).exp(), 2.5e-7, x);
        });
        assert_eq!((exp_down::<true>(0.0), exp_down::<true>(-1e30)), (1.0, 0.0));
        assert_eq!(exp_down::<false>(f32::NEG_INFINITY), 0.0);
        assert!(exp_down::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_is_accurate() {
        let inner = (2.0 / std::f64::consts::PI).sqrt();
        let tanh_form = |x: f64| 0.5 * x * (1.0 + (inner * (x + 0.044_715 * x * x * x)).tanh());
        let erf_form = |x: f64| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
        sweep(-12.0, 12.0, |x| {
            let wide = f64::from(x);
            let bound = 1e-7 + 1.2e-7 * wide.abs();
            assert!((f64::from(gelu::<true>(x)) - erf_form(wide)).abs() < bound, "gelu({x})");
            assert!((f64::from(gelu::<false>(x)) - erf_form(wide)).abs() < bound, "gelu({x})");
            assert!((f64::from(gelu_tanh::<true>(x)) - tanh_form(wide)).abs() < bound, "gelu_tanh({x})");
            assert!((f64::from(gelu_tanh::<false>(x)) - tanh_form(wide)).abs() < bound, "gelu_tanh({x})");
        });
        assert_eq!(gelu::<true>(f32::INFINITY), f32::INFINITY);
        assert!(gelu::<true>(f32::NEG_INFINITY).is_nan() && gelu::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn logarithm_is_accurate() {
        sweep(1e-3, 4.0, |x| {
            let want = f64::from(x).ln();
            assert!(
                (f64::from(log::<true>(x)) - want).abs() <= 2e-7 * want.abs() + 6e-8 * want.abs().min(1.0)
            );
        });
        sweep(1.0, 1e6, |x| near(log::<false>(x), f64::from(x).ln(), 3e-7, x));
        near(log::<true>(1e-40), 1e-40f32.ln().into(), 3e-7, 1e-40);
        assert_eq!(log::<true>(0.0), f32::NEG_INFINITY);
        assert_eq!(log::<true>(f32::INFINITY), f32::INFINITY);
        assert!(log::<true>(-1.0).is_nan() && log::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn trigonometry_is_accurate() {
        sweep(-8192.0, 8192.0, |x| {
            assert!((f64::from(sin::<true>(x)) - f64::from(x).sin()).abs() < 3e-7, "sin {x}");
            assert!((f64::from(cos::<true>(x)) - f64::from(x).cos()).abs() < 3e-7, "cos {x}");
        });
    }

    #[test]
    fn error_function_matches_known_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_878),
            (0.95, 0.820_890_807),
            (1.0, 0.842_700_793),
            (1.05, 0.862_436_106),
            (1.5, 0.966_105_146),
            (2.0, 0.995_322_265),
            (3.0, 0.999_977_910),
            (9.0, 1.0),
        ] {
            for sign in [1.0, -1.0] {
                let got = f64::from(erf::<true>((sign * x) as f32));
                assert!((got - sign * want).abs() < 2e-7, "erf({x}) = {got}");
                assert!((f64::from(erf::<false>((sign * x) as f32)) - sign * want).abs() < 2e-7);
            }
        }
        assert!(erf::<true>(f32::NAN).is_nan());
    }
}
