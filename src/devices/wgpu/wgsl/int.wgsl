// 64-bit integers as (low, high) words, two's complement: core WGSL has no i64, and an integer lane is one.

fn i_bool(c: bool) -> vec2<u32> {
    return vec2<u32>(select(0u, 1u, c), 0u);
}

fn i_true(a: vec2<u32>) -> bool {
    return (a.x | a.y) != 0u;
}

fn i_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn i_neg(a: vec2<u32>) -> vec2<u32> {
    return i_add(~a, vec2<u32>(1u, 0u));
}

fn i_sub(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

// 32 x 32 -> 64 bits from 16-bit halves.
fn mul_wide(a: u32, b: u32) -> vec2<u32> {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let cross = al * bh + (mid & 0xffffu);
    return vec2<u32>((cross << 16u) | (low & 0xffffu), ah * bh + (mid >> 16u) + (cross >> 16u));
}

fn i_mul(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let wide = mul_wide(a.x, b.x);
    return vec2<u32>(wide.x, wide.y + a.x * b.y + a.y * b.x);
}

fn i_negative(a: vec2<u32>) -> bool {
    return (a.y >> 31u) == 1u;
}

fn i_eq(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x == b.x && a.y == b.y;
}

fn u_lt(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn i_lt(a: vec2<u32>, b: vec2<u32>) -> bool {
    let flip = vec2<u32>(0u, 0x80000000u);
    return u_lt(a ^ flip, b ^ flip);
}

fn i_max(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(b, a, i_lt(b, a));
}

fn i_min(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(b, a, i_lt(a, b));
}

fn i_abs(a: vec2<u32>) -> vec2<u32> {
    return select(a, i_neg(a), i_negative(a));
}

fn i_sign(a: vec2<u32>) -> vec2<u32> {
    return select(i_bool(i_true(a)), vec2<u32>(0xffffffffu, 0xffffffffu), i_negative(a));
}

// Unsigned quotient (xy) and remainder (zw); b is not zero.
fn u_divide(a: vec2<u32>, b: vec2<u32>) -> vec4<u32> {
    if (a.y == 0u && b.y == 0u) {
        let q = a.x / b.x;
        return vec4<u32>(q, 0u, a.x - q * b.x, 0u);
    }
    var q = vec2<u32>(0u, 0u);
    var r = vec2<u32>(0u, 0u);
    for (var k = 0u; k < 64u; k = k + 1u) {
        let bit = 63u - k;
        let word = select(a.x, a.y, bit >= 32u);
        let lost = r.y >> 31u;
        r = vec2<u32>((r.x << 1u) | ((word >> (bit & 31u)) & 1u), (r.y << 1u) | (r.x >> 31u));
        q = vec2<u32>(q.x << 1u, (q.y << 1u) | (q.x >> 31u));
        if (lost == 1u || !u_lt(r, b)) {
            r = i_sub(r, b);
            q.x = q.x | 1u;
        }
    }
    return vec4<u32>(q, r);
}

fn i_div(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    if (!i_true(b)) { return vec2<u32>(0u, 0u); }
    let q = u_divide(i_abs(a), i_abs(b)).xy;
    return select(q, i_neg(q), i_negative(a) != i_negative(b));
}

fn i_rem(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    if (!i_true(b)) { return vec2<u32>(0u, 0u); }
    let r = u_divide(i_abs(a), i_abs(b)).zw;
    return select(r, i_neg(r), i_negative(a));
}

fn i_mod(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let r = i_rem(a, b);
    return select(r, i_add(r, b), i_true(r) && i_negative(r) != i_negative(b));
}

// Shifts by less than 32 in the words, by 32 across them. Shifting everything out gives 0, or the sign.
fn i_shl(a: vec2<u32>, n: vec2<u32>) -> vec2<u32> {
    if (n.y != 0u || n.x >= 64u) { return vec2<u32>(0u, 0u); }
    if (n.x == 0u) { return a; }
    if (n.x >= 32u) { return vec2<u32>(0u, a.x << (n.x - 32u)); }
    return vec2<u32>(a.x << n.x, (a.y << n.x) | (a.x >> (32u - n.x)));
}

// Unsigned, by 0..=63.
fn u_shr(a: vec2<u32>, n: u32) -> vec2<u32> {
    if (n == 0u) { return a; }
    if (n >= 32u) { return vec2<u32>(a.y >> (n - 32u), 0u); }
    return vec2<u32>((a.x >> n) | (a.y << (32u - n)), a.y >> n);
}

// With the sign; counts below 0 and above 63 count as these.
fn i_shr(a: vec2<u32>, n: vec2<u32>) -> vec2<u32> {
    if (i_negative(n)) { return a; }
    var count = n.x;
    if (n.y != 0u || n.x > 63u) { count = 63u; }
    let flip = select(vec2<u32>(0u, 0u), vec2<u32>(0xffffffffu, 0xffffffffu), i_negative(a));
    return u_shr(a ^ flip, count) ^ flip;
}

fn i_extend(a: u32) -> vec2<u32> {
    return vec2<u32>(a, bitcast<u32>(bitcast<i32>(a) >> 31u));
}

fn i_wrap_signed(a: vec2<u32>, bits: u32) -> vec2<u32> {
    let unused = 32u - bits;
    return i_extend(bitcast<u32>(bitcast<i32>(a.x << unused) >> unused));
}

fn i_wrap_unsigned(a: vec2<u32>, bits: u32) -> vec2<u32> {
    let unused = 32u - bits;
    return vec2<u32>((a.x << unused) >> unused, 0u);
}

// Nearest f32, half to even: the top 24 bits with a sticky bit decide.
fn i_to_float(a: vec2<u32>) -> f32 {
    let m = i_abs(a);
    var word = m.x;
    var shift = 0u;
    if (m.y != 0u) {
        shift = 32u - countLeadingZeros(m.y);
        let kept = u_shr(m, shift);
        let back = i_shl(kept, vec2<u32>(shift, 0u));
        word = kept.x | select(1u, 0u, i_eq(back, m));
    }
    var exact = word;
    let top = 32u - countLeadingZeros(word);
    if (top > 24u) {
        let drop = top - 24u;
        let rest = word & ((1u << drop) - 1u);
        let half = 1u << (drop - 1u);
        exact = word >> drop;
        if (rest > half || (rest == half && (exact & 1u) == 1u)) { exact = exact + 1u; }
        shift = shift + drop;
    }
    let y = f32(exact) * bitcast<f32>((shift + 127u) << 23u);
    return select(y, -y, i_negative(a));
}

// Towards zero, saturating, NaN gives 0.
fn i_from_float(x: f32) -> vec2<u32> {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    if (bits > 0x7f800000u || bits < 0x3f800000u) { return vec2<u32>(0u, 0u); }
    let exponent = bits >> 23u;
    let negative = (bitcast<u32>(x) >> 31u) == 1u;
    if (exponent >= 190u) {
        return select(vec2<u32>(0xffffffffu, 0x7fffffffu), vec2<u32>(0u, 0x80000000u), negative);
    }
    let m = vec2<u32>((bits & 0x007fffffu) | 0x00800000u, 0u);
    var y = u_shr(m, 150u - min(exponent, 150u));
    if (exponent > 150u) { y = i_shl(m, vec2<u32>(exponent - 150u, 0u)); }
    return select(y, i_neg(y), negative);
}
