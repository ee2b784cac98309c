//! From planes of samples to pixels: colour planes of half the size are interpolated with fixed rounding, and
//! luminance and colour differences become red, green and blue.

/// Samples of one component.
pub(super) struct Plane {
    /// Samples of a row in memory.
    pub(super) stride: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) samples: Vec<u8>,
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        let start = y.min(self.height - 1) * self.stride;
        &self.samples[start..start + self.width]
    }

    /// Row `y` of the picture, which is `scale` times as wide and high as the plane.
    pub(super) fn enlarged(&self, y: usize, scale: (usize, usize)) -> Vec<u8> {
        let near = self.row(y / scale.1);
        // Rows of half the height blend with the one above or below, whichever is nearer.
        let below = y % 2 == 1;
        let far = self.row(if below { y / 2 + 1 } else { (y / 2).saturating_sub(1) });
        let sums = || near.iter().zip(far).map(|(&n, &f)| 3 * i32::from(n) + i32::from(f));
        match scale {
            (2, 1) if self.width > 2 => {
                let line: Vec<i32> = near.iter().map(|&v| i32::from(v)).collect();
                doubled(&line, 1, [1, 2])
            }
            (2, 2) if self.width > 2 => doubled(&sums().collect::<Vec<i32>>(), 4, [8, 7]),
            (1, 2) => sums().map(|v| ((v + if below { 2 } else { 1 }) >> 2) as u8).collect(),
            (wide, _) => near.iter().flat_map(|&v| std::iter::repeat_n(v, wide)).collect(),
        }
    }
}

/// Twice as many samples: each is blended 3 to 1 with its neighbours. `unit` is what a sample is multiplied with
/// already, `round` what is added before the division for the left and the right one.
fn doubled(line: &[i32], unit: i32, round: [i32; 2]) -> Vec<u8> {
    let by = (4 * unit).ilog2();
    let last = line.len() - 1;
    let pair = |i: usize| {
        let (left, right) = (line[i.saturating_sub(1)], line[(i + 1).min(last)]);
        [3 * line[i] + left + round[0], 3 * line[i] + right + round[1]].map(|v| (v >> by) as u8)
    };
    (0..line.len()).flat_map(pair).collect()
}

/// Red, green and blue of luminance and two colour differences (JFIF 1.02), in 16-bit fixed point.
pub(super) fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|v| v.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_stays_grey() {
        assert_eq!(rgb(77, 128, 128), [77, 77, 77]);
        assert_eq!(rgb(76, 85, 255), [254, 0, 0]);
    }

    #[test]
    fn doubling_blends_three_to_one() {
        let plane = Plane { stride: 4, width: 3, height: 1, samples: vec![0, 4, 100, 9] };
        assert_eq!(plane.enlarged(0, (2, 1)), [0, 1, 3, 28, 76, 100]);
        assert_eq!(plane.enlarged(0, (2, 2)), [0, 1, 3, 28, 76, 100]);
        let narrow = Plane { stride: 2, width: 2, height: 2, samples: vec![0, 4, 8, 8] };
        assert_eq!(narrow.enlarged(0, (2, 1)), [0, 0, 4, 4]);
        assert_eq!(narrow.enlarged(1, (1, 2)), [2, 5]);
    }
}
