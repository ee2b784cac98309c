// Float functions in f32, about 1e-7 relative, built from +, -, *, / and bit patterns only: the precision that WGSL
// promises for its own exp, tanh, sin, atan and pow differs by driver and is too low for a reproducible result.
// Coefficients are minimax fits over the stated intervals.

fn inf_f() -> f32 {
    var bits = 0x7f800000u;
    return bitcast<f32>(bits);
}

fn nan_f() -> f32 {
    var bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}

// Bit tests: fast-math compilers fold x != x.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_inf(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

// The second operand where either is NaN; said in bits, since GL compilers turn a comparison and a choice into fmax.
fn max_f(a: f32, b: f32) -> f32 {
    return select(select(b, a, a > b), b, is_nan(a) || is_nan(b));
}

fn min_f(a: f32, b: f32) -> f32 {
    return select(select(b, a, a < b), b, is_nan(a) || is_nan(b));
}

// 2^n for n in -126..=127.
fn pow2(n: i32) -> f32 {
    return bitcast<f32>(bitcast<u32>(n + 127) << 23u);
}

// x * 2^n for n in -252..=254, in two steps so that the factors are representable.
fn scale(x: f32, n: i32) -> f32 {
    let h = n >> 1u;
    return x * pow2(h) * pow2(n - h);
}

// Reduction to |r| <= ln(2)/2 with ln(2) in two parts, then 1 + r + r*r*P(r).
fn exp_f(x: f32) -> f32 {
    let c = clamp(x, -104.0, 89.0);
    let n = round(c * 1.4426950408889634);
    let r = (c - n * 0.6923828125) - n * 0.0007643680599452862;
    let p = (((0.0013952968874946237 * r + 0.008370321244001389) * r + 0.041666168719530106) * r
        + 0.16666506230831146) * r + 0.5;
    let y = select(scale(1.0 + (r + r * r * p), i32(n)), 0.0, x < -104.0);
    return select(y, x, is_nan(x));
}

// ln(1 + f) for f in -0.293..0.415 through atanh: s = f / (2 + f).
fn log1p_core(f: f32) -> f32 {
    let s = f / (2.0 + f);
    let z = s * s;
    let p = (0.14960183203220367 * z + 0.1998792439699173) * z + 0.33333393931388855;
    return 2.0 * (s + s * z * p);
}

fn log_f(x: f32) -> f32 {
    if (is_nan(x) || x < 0.0) { return nan_f(); }
    if (x == 0.0) { return -inf_f(); }
    if (is_inf(x)) { return x; }
    let tiny = x < 1.1754943508222875e-38;
    let bits = bitcast<u32>(select(x, x * 8388608.0, tiny));
    let n = bitcast<i32>(bits - 0x3f3504f3u) >> 23u;
    let f = bitcast<f32>(bits - (bitcast<u32>(n) << 23u)) - 1.0;
    let e = f32(select(n, n - 23, tiny));
    return e * 0.6923828125 + (e * 0.0007643680599452862 + log1p_core(f));
}

fn log1p_f(x: f32) -> f32 {
    if (x > -0.29 && x < 0.41) { return log1p_core(x); }
    return log_f(1.0 + x);
}

fn sigmoid_f(x: f32) -> f32 {
    let e = exp_f(-abs(x));
    let y = select(1.0, e, x < 0.0) / (1.0 + e);
    return select(y, x, is_nan(x));
}

fn tanh_f(x: f32) -> f32 {
    let a = abs(x);
    if (a < 0.632) {
        let z = x * x;
        let p = ((((0.0021227409597486258 * z - 0.008156274445354939) * z + 0.021692603826522827) * z
            - 0.053945377469062805) * z + 0.13333195447921753) * z - 0.3333333134651184;
        return x + x * z * p;
    }
    let t = 1.0 - 2.0 / (exp_f(2.0 * min(a, 20.0)) + 1.0);
    return select(select(t, -t, x < 0.0), x, is_nan(x));
}

fn erf_f(x: f32) -> f32 {
    let a = abs(x);
    if (a < 1.0) {
        let z = x * x;
        let p = ((((((-9.680135008238722e-06 * z + 0.00011270544200669974) * z - 0.00084847112884745) * z
            + 0.005221074912697077) * z - 0.02686544507741928) * z + 0.11283782869577408) * z
            - 0.37612637877464294) * z + 1.128379225730896;
        return x * p;
    }
    let c = min(a, 4.1);
    let t = 2.0 / (2.0 + c);
    let p = (((((((-0.07645175606012344 * t + 0.3567129969596863) * t - 0.6141906380653381) * t
        + 0.40133076906204224) * t - 0.0983424186706543) * t + 0.22808444499969482) * t
        + 0.2378261536359787) * t + 0.2829500436782837) * t + 0.2820625901222229;
    let y = 1.0 - t * exp_f(-c * c) * p;
    return select(select(y, -y, x < 0.0), x, is_nan(x));
}

fn sinh_f(x: f32) -> f32 {
    let a = abs(x);
    if (a < 1.0) {
        let z = x * x;
        let p = ((2.817439735736116e-06 * z + 0.0001983606634894386) * z + 0.008333350531756878) * z
            + 0.1666666716337204;
        return x + x * z * p;
    }
    let h = exp_f(0.5 * a);
    let y = (0.5 * h) * h - 0.5 / (h * h);
    return select(select(y, -y, x < 0.0), x, is_nan(x));
}

fn cosh_f(x: f32) -> f32 {
    let h = exp_f(0.5 * abs(x));
    return (0.5 * h) * h + 0.5 / (h * h);
}

// 96 bits of 2/pi from bit `at` of its expansion, which starts with 32 zero bits.
fn two_over_pi(at: u32) -> vec3<u32> {
    var words = array<u32, 10>(0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u,
        0xfe5163abu, 0xdebbc561u, 0xb7246e3au);
    let w = at >> 5u;
    let s = at & 31u;
    if (s == 0u) { return vec3<u32>(words[w], words[w + 1u], words[w + 2u]); }
    let r = 32u - s;
    return vec3<u32>((words[w] << s) | (words[w + 1u] >> r), (words[w + 1u] << s) | (words[w + 2u] >> r),
        (words[w + 2u] << s) | (words[w + 3u] >> r));
}

// Payne-Hanek: x * 2/pi modulo 4 in integers, for |x| from 2^14 up. Gives the rest in -pi/4..pi/4 and the quadrant.
fn reduce_large(x: f32) -> vec2<f32> {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    let m = (bits & 0x007fffffu) | 0x00800000u;
    // x = m * 2^(exponent - 150); bits of 2/pi above weight 4 / 2^(exponent - 150) only add multiples of 4.
    let w = two_over_pi((bits >> 23u) - 120u);
    let low = mul_wide(m, w.z);
    let mid = mul_wide(m, w.y);
    let word1 = mid.x + low.y;
    let carry = select(0u, 1u, word1 < mid.x);
    let word0 = m * w.x + mid.y + carry;
    let q = (word0 + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(word0 - (q << 30u));
    let turn = f32(rest) * 9.313225746154785e-10 + f32(word1) * 2.168404344971009e-19;
    let r = turn * 1.5707963267948966;
    let negative = x < 0.0;
    return vec2<f32>(select(r, -r, negative), f32(select(q, (4u - q) & 3u, negative)));
}

// The rest in -pi/4..pi/4 and the quadrant 0..=3.
fn reduce_angle(x: f32) -> vec2<f32> {
    if (abs(x) >= 16384.0) { return reduce_large(x); }
    let k = round(x * 0.6366197723675814);
    let r = ((x - k * 1.5703125) - k * 0.00048351287841796875) - k * 3.1385570764541626e-07
        - k * 6.077094383272197e-11;
    return vec2<f32>(r, f32(i32(k) & 3));
}

fn sin_core(r: f32) -> f32 {
    let z = r * r;
    let p = (-0.00019510870333760977 * z + 0.008332131430506706) * z - 0.16666653752326965;
    return r + r * z * p;
}

fn cos_core(r: f32) -> f32 {
    let z = r * r;
    let p = (2.443123776174616e-05 * z - 0.0013887305976822972) * z + 0.04166664555668831;
    return (1.0 - 0.5 * z) + z * z * p;
}

fn sin_quadrant(r: f32, q: u32) -> f32 {
    let y = select(sin_core(r), cos_core(r), (q & 1u) == 1u);
    return select(y, -y, (q & 2u) == 2u);
}

fn sin_f(x: f32) -> f32 {
    if (is_nan(x) || is_inf(x)) { return nan_f(); }
    let a = reduce_angle(x);
    return sin_quadrant(a.x, u32(a.y));
}

fn cos_f(x: f32) -> f32 {
    if (is_nan(x) || is_inf(x)) { return nan_f(); }
    let a = reduce_angle(x);
    return sin_quadrant(a.x, u32(a.y) + 1u);
}

fn tan_f(x: f32) -> f32 {
    if (is_nan(x) || is_inf(x)) { return nan_f(); }
    let a = reduce_angle(x);
    let s = sin_core(a.x);
    let c = cos_core(a.x);
    if ((u32(a.y) & 1u) == 1u) { return -c / s; }
    return s / c;
}

// asin for |x| <= 0.5.
fn asin_core(x: f32) -> f32 {
    let z = x * x;
    let p = (((0.0422305203974247 * z + 0.02414100244641304) * z + 0.04547834023833275) * z
        + 0.07495232671499252) * z + 0.16666753590106964;
    return x + x * z * p;
}

fn asin_f(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || a > 1.0) { return nan_f(); }
    if (a <= 0.5) { return asin_core(x); }
    let y = 1.5707963267948966 - 2.0 * asin_core(sqrt(0.5 * (1.0 - a)));
    return select(y, -y, x < 0.0);
}

fn acos_f(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || a > 1.0) { return nan_f(); }
    if (a <= 0.5) { return 1.5707963267948966 - asin_core(x); }
    let y = 2.0 * asin_core(sqrt(0.5 * (1.0 - a)));
    return select(y, 3.141592653589793 - y, x < 0.0);
}

// atan for |x| <= tan(pi/8).
fn atan_core(x: f32) -> f32 {
    let z = x * x;
    let p = ((0.08036024868488312 * z - 0.13872845470905304) * z + 0.19977329671382904) * z - 0.3333294093608856;
    return x + x * z * p;
}

fn atan_f(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x)) { return x; }
    if (a <= 0.41421356) { return atan_core(x); }
    var y = 1.5707963267948966;
    if (a < 2.4142135) {
        y = 0.7853981633974483 + atan_core((a - 1.0) / (a + 1.0));
    } else if (!is_inf(a)) {
        y = 1.5707963267948966 - atan_core(1.0 / a);
    }
    return select(y, -y, x < 0.0);
}

fn asinh_f(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || is_inf(x)) { return x; }
    var y = 0.0;
    if (a > 1.0e9) {
        y = log_f(a) + 0.6931471805599453;
    } else {
        let z = a * a;
        y = log1p_f(a + z / (1.0 + sqrt(1.0 + z)));
    }
    return select(y, -y, x < 0.0);
}

fn acosh_f(x: f32) -> f32 {
    if (is_nan(x) || x < 1.0) { return nan_f(); }
    if (is_inf(x)) { return x; }
    if (x > 1.0e9) { return log_f(x) + 0.6931471805599453; }
    let t = x - 1.0;
    return log1p_f(t + sqrt(2.0 * t + t * t));
}

fn atanh_f(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || a > 1.0) { return nan_f(); }
    if (a == 1.0) { return select(inf_f(), -inf_f(), x < 0.0); }
    let y = 0.5 * log1p_f(2.0 * a / (1.0 - a));
    return select(y, -y, x < 0.0);
}

// a^n by squaring, n in 0..=64.
fn pow_int(a: f32, n: u32) -> f32 {
    var r = 1.0;
    var b = a;
    for (var k = n; k > 0u; k = k >> 1u) {
        if ((k & 1u) == 1u) { r = r * b; }
        b = b * b;
    }
    return r;
}

// a^y for a > 0, finite: exp(y * ln(a)) with the whole powers of two taken out exactly.
fn pow_positive(a: f32, y: f32) -> f32 {
    let tiny = a < 1.1754943508222875e-38;
    let bits = bitcast<u32>(select(a, a * 8388608.0, tiny));
    let n = bitcast<i32>(bits - 0x3f3504f3u) >> 23u;
    let l = 1.4426950408889634 * log1p_core(bitcast<f32>(bits - (bitcast<u32>(n) << 23u)) - 1.0);
    let e = f32(select(n, n - 23, tiny));
    let k = round(clamp(y * (e + l), -252.0, 254.0));
    let high = bitcast<f32>(bitcast<u32>(y) & 0xfffff000u);
    let rest = ((high * e - k) + (y - high) * e) + y * l;
    let r = exp_f(0.6931471805599453 * rest);
    return scale(r, i32(k));
}

// |x|^y, before the sign.
fn pow_magnitude(a: f32, y: f32) -> f32 {
    if (a == 1.0) { return 1.0; }
    if (a == 0.0 || is_inf(a)) { return select(0.0, inf_f(), (a == 0.0) == (y < 0.0)); }
    if (is_inf(y)) { return select(0.0, inf_f(), (a > 1.0) == (y > 0.0)); }
    if (y == 0.5) { return sqrt(a); }
    if (y == -0.5) { return 1.0 / sqrt(a); }
    if (round(y) == y && abs(y) <= 64.0) {
        let p = pow_int(a, u32(abs(y)));
        if (y > 0.0) { return p; }
        if (p == 0.0) { return inf_f(); }
        return 1.0 / p;
    }
    return pow_positive(a, y);
}

fn pow_f(x: f32, y: f32) -> f32 {
    if (y == 0.0 || x == 1.0) { return 1.0; }
    if (is_nan(x) || is_nan(y)) { return nan_f(); }
    let whole = is_inf(y) || round(y) == y;
    let p = pow_magnitude(abs(x), y);
    if ((bitcast<u32>(x) >> 31u) == 0u) { return p; }
    if (!whole) { return select(nan_f(), p, x == 0.0 || is_inf(x)); }
    let odd = abs(y) < 16777216.0 && (i32(y) & 1) == 1;
    return select(p, -p, odd);
}

// C fmod, exact: subtracts y * 2^k from the largest k down.
fn rem_f(x: f32, y: f32) -> f32 {
    let a = abs(x);
    let b = abs(y);
    if (is_nan(x) || is_nan(y) || is_inf(x) || b == 0.0) { return nan_f(); }
    if (is_inf(y) || a < b) { return x; }
    let d = i32(bitcast<u32>(a) >> 23u) - i32(bitcast<u32>(b) >> 23u);
    var r = a;
    for (var k = d; k >= 0; k = k - 1) {
        let t = scale(b, k);
        if (r >= t) { r = r - t; }
    }
    return select(r, -r, x < 0.0);
}

// Python %: the sign of the divisor.
fn mod_f(x: f32, y: f32) -> f32 {
    let r = rem_f(x, y);
    if (r != 0.0 && (r < 0.0) != (y < 0.0) && !is_inf(y)) { return r + y; }
    if (is_inf(y) && r != 0.0 && (r < 0.0) != (y < 0.0)) { return y; }
    return r;
}

fn sign_f(x: f32) -> f32 {
    if (x > 0.0) { return 1.0; }
    if (x < 0.0) { return -1.0; }
    return x;
}

// Nearest f16, half to even.
fn round_f16(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || is_inf(x)) { return x; }
    if (a >= 65520.0) { return select(inf_f(), -inf_f(), x < 0.0); }
    if (a < 6.103515625e-05) { return round(x * 16777216.0) * 5.960464477539063e-08; }
    let b = bitcast<u32>(x);
    return bitcast<f32>((b + 0xfffu + ((b >> 13u) & 1u)) & 0xffffe000u);
}

// Nearest bf16, half to even.
fn round_bf16(x: f32) -> f32 {
    if (is_nan(x)) { return x; }
    let b = bitcast<u32>(x);
    return bitcast<f32>((b + 0x7fffu + ((b >> 16u) & 1u)) & 0xffff0000u);
}
