//! The inverse cosine transform of a block, in the integer arithmetic that common decoders agree on bit by bit:
//! the algorithm of Loeffler, Ligtenberg and Moschytz (1989) with constants of 13 bits.

/// Bits behind the point of the constants.
const BITS: u32 = 13;
/// Extra bits kept between the two passes.
const EXTRA: u32 = 2;

/// Constants, times `2^BITS`, rounded; named after the value.
const C0_298: i64 = 2446;
const C0_390: i64 = 3196;
const C0_541: i64 = 4433;
const C0_765: i64 = 6270;
const C0_899: i64 = 7373;
const C1_175: i64 = 9633;
const C1_501: i64 = 12299;
const C1_847: i64 = 15137;
const C1_961: i64 = 16069;
const C2_053: i64 = 16819;
const C2_562: i64 = 20995;
const C3_072: i64 = 25172;

/// The transform of eight values, times `2^BITS`, before rounding.
fn eight(x: [i64; 8]) -> [i64; 8] {
    // The even part.
    let both = (x[2] + x[6]) * C0_541;
    let (a, b) = (both - x[6] * C1_847, both + x[2] * C0_765);
    let (sum, difference) = ((x[0] + x[4]) << BITS, (x[0] - x[4]) << BITS);
    let even = [sum + b, difference + a, difference - a, sum - b];
    // The odd part.
    let all = (x[7] + x[3] + x[5] + x[1]) * C1_175;
    let (z1, z2) = (-(x[7] + x[1]) * C0_899, -(x[5] + x[3]) * C2_562);
    let (z3, z4) = (all - (x[7] + x[3]) * C1_961, all - (x[5] + x[1]) * C0_390);
    let odd =
        [x[1] * C1_501 + z1 + z4, x[3] * C3_072 + z2 + z3, x[5] * C2_053 + z2 + z4, x[7] * C0_298 + z1 + z3];
    std::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}

/// `v / 2^n`, rounded half up.
fn descale(v: i64, n: u32) -> i64 {
    (v + (1 << (n - 1))) >> n
}

/// The samples of a block: `coefficients` and `quantisation` row by row.
pub(super) fn samples(coefficients: &[i16], quantisation: &[u16; 64]) -> [u8; 64] {
    let mut between = [0i64; 64];
    for column in 0..8 {
        let at = |i: usize| i64::from(coefficients[i * 8 + column]) * i64::from(quantisation[i * 8 + column]);
        for (i, v) in eight(std::array::from_fn(at)).into_iter().enumerate() {
            between[i * 8 + column] = descale(v, BITS - EXTRA);
        }
    }
    let mut out = [0u8; 64];
    for row in 0..8 {
        let values = eight(std::array::from_fn(|i| between[row * 8 + i]));
        for (i, v) in values.into_iter().enumerate() {
            out[row * 8 + i] = (descale(v, BITS + EXTRA + 3) + 128).clamp(0, 255) as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_definition() {
        let coefficients: [i16; 64] = std::array::from_fn(|i| ((i * 37 + 11) % 23) as i16 - 11);
        let got = samples(&coefficients, &[3; 64]);
        for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
            let mut want = 0.0;
            for (v, u) in (0..8).flat_map(|v| (0..8).map(move |u| (v, u))) {
                let wave = |at: usize, k: usize| {
                    let scale = if k == 0 { 0.5f64.sqrt() } else { 1.0 };
                    scale * ((2.0 * at as f64 + 1.0) * k as f64 * std::f64::consts::PI / 16.0).cos()
                };
                want += f64::from(coefficients[v * 8 + u] * 3) * wave(y, v) * wave(x, u) / 4.0;
            }
            assert!((f64::from(got[y * 8 + x]) - (want + 128.0).clamp(0.0, 255.0)).abs() < 1.0);
        }
    }
}
