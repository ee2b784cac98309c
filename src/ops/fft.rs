//! The discrete Fourier transform of one line, in f64, for any length.

/// Real and imaginary part.
pub(crate) type Complex = (f64, f64);

fn mul(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

fn add(a: Complex, b: Complex) -> Complex {
    (a.0 + b.0, a.1 + b.1)
}

/// A transform of one length, whose roots of unity are computed once.
pub(crate) struct Fourier {
    /// `exp(-2 pi i k / n)`, or with the other sign.
    roots: Vec<Complex>,
}

/// `exp(2 pi i k / n)`: the angle is folded into an eighth of the circle, so that roots on the axes and
/// diagonals are exact and the others correct to the last digits.
fn root(k: usize, n: usize) -> Complex {
    let eighth = 8 * k / n;
    // Distance from the nearest multiple of a quarter turn, in units of 1 / (4 n) turns.
    let quarter = eighth.div_ceil(2);
    let rest = 4.0 * k as f64 - quarter as f64 * n as f64;
    let angle = std::f64::consts::FRAC_PI_2 * rest / n as f64;
    let (sin, cos) = libm::sincos(angle);
    match quarter % 4 {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

impl Fourier {
    /// The transform of lines of `n`; the inverse one is not divided by `n`.
    pub(crate) fn new(n: usize, inverse: bool) -> Self {
        let signed = |c: Complex| if inverse { c } else { (c.0, -c.1) };
        Self { roots: (0..n).map(|k| signed(root(k, n))).collect() }
    }

    /// The transform of `x`, whose length is that of the transform.
    pub(crate) fn transform(&self, x: &[Complex]) -> Vec<Complex> {
        self.part(x, 0, 1, x.len())
    }

    /// The transform of the `n` elements `start`, `start + step`, …: interleaved parts are transformed and
    /// joined (Cooley and Tukey, 1965), for the smallest prime factor of `n`.
    fn part(&self, x: &[Complex], start: usize, step: usize, n: usize) -> Vec<Complex> {
        let radix = smallest_factor(n);
        if radix >= n {
            return self.direct(x, start, step, n);
        }
        let m = n / radix;
        let parts: Vec<Vec<Complex>> =
            (0..radix).map(|r| self.part(x, start + r * step, step * radix, m)).collect();
        (0..n)
            .map(|k| {
                let term = |r: usize| mul(self.roots[r * k % n * step], parts[r][k % m]);
                (0..radix).map(term).fold((0.0, 0.0), add)
            })
            .collect()
    }

    /// The transform by its definition.
    fn direct(&self, x: &[Complex], start: usize, step: usize, n: usize) -> Vec<Complex> {
        let term = |i: usize, k: usize| mul(x[start + i * step], self.roots[i * k % n * step]);
        (0..n).map(|k| (0..n).map(|i| term(i, k)).fold((0.0, 0.0), add)).collect()
    }
}

fn smallest_factor(n: usize) -> usize {
    (2..).take_while(|p| p * p <= n).find(|p| n.is_multiple_of(*p)).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_exact_on_the_axes() {
        let axes = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)];
        assert_eq!([0, 3, 6, 9].map(|k| root(k, 12)), axes);
        for n in 1..40 {
            for k in 0..n {
                let (sin, cos) = (std::f64::consts::TAU * k as f64 / n as f64).sin_cos();
                let (re, im) = root(k, n);
                assert!((re - cos).abs() < 1e-14 && (im - sin).abs() < 1e-14, "{k} of {n}");
            }
        }
    }

    #[test]
    fn every_length_follows_the_definition_and_back() {
        for n in 1..50usize {
            let x: Vec<Complex> = (0..n).map(|i| ((i * i % 7) as f64 - 3.0, (i % 5) as f64)).collect();
            let forward = Fourier::new(n, false);
            let y = forward.transform(&x);
            let direct = forward.direct(&x, 0, 1, n);
            assert!(y.iter().zip(&direct).all(|(a, b)| (a.0 - b.0).abs() + (a.1 - b.1).abs() < 1e-10), "{n}");
            let back = Fourier::new(n, true).transform(&y);
            let close =
                |(a, b): (&Complex, &Complex)| (a.0 / n as f64 - b.0).abs() + (a.1 / n as f64 - b.1).abs();
            assert!(back.iter().zip(&x).map(close).all(|d| d < 1e-10), "{n}");
        }
    }
}
