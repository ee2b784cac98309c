//! Random numbers for operators: the Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), with uniform and normal
//! numbers drawn from it the way numpy's `RandomState` does, as ONNX's reference implementation uses that one.

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// A stream of random numbers that depends on its seed only.
#[derive(Clone)]
pub(crate) struct Twister {
    state: [u32; SIZE],
    next: usize,
    /// The second of a pair of normal numbers.
    spare: Option<f64>,
}

impl Twister {
    /// The stream of `seed`.
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for i in 1..SIZE {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: SIZE, spare: None }
    }

    fn refill(&mut self) {
        for i in 0..SIZE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % SIZE] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn bits(&mut self) -> u32 {
        if self.next == SIZE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in 0..1, with 53 random bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        let (high, low) = (self.bits() >> 5, self.bits() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// Normal with mean 0 and deviation 1 (polar method, Marsaglia 1964).
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (a, b) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = a * a + b * b;
            if square < 1.0 && square != 0.0 {
                let factor = (-2.0 * libm::log(square) / square).sqrt();
                self.spare = Some(factor * a);
                return factor * b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the seed 5489 that the authors publish with the generator.
    #[test]
    fn first_numbers_are_the_published_ones() {
        let mut twister = Twister::new(5489);
        assert_eq!([twister.bits(), twister.bits()], [3_499_211_612, 581_869_302]);
        let mut twister = Twister::new(5489);
        let last = (0..10_000).map(|_| twister.bits()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
