//! How a 3 x 3 convolution is computed: directly, or by minimal filtering (Winograd), which takes fewer products but
//! transforms data and results, reads more weights and rounds differently.
//!
//! The choice counts cycles of a core with two vector units of sixteen lanes, whose ratios hold for narrower ones: what
//! is compared are products, transforms and bytes of weights, from the sizes alone. Where all ways were measured for the
//! sizes at hand, the measurement decides.

use crate::lower::Precision;
use std::fmt;

/// Sizes of a convolution with windows of 3 x 3, steps of 1 and one group; `height` and `width` are its results'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sizes {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// The ways to compute such a convolution: what the parameter `algorithm` of its kernel may be.
pub const ALGORITHMS: [&str; 3] = ["direct", "winograd2", "winograd4"];

/// One way for one convolution. What it prints is its key among measured times.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub sizes: Sizes,
    pub precision: Precision,
    pub algorithm: &'static str,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { images, height, width, inputs, outputs } = self.sizes;
        write!(f, "conv 3x3 nhwc {images}x{height}x{width}x{inputs} to {outputs}")?;
        if self.precision == Precision::Bf16 {
            write!(f, ", bf16")?;
        }
        write!(f, ", {}", self.algorithm)
    }
}

/// Microseconds of a candidate, where it was measured.
pub type Measured<'a> = &'a dyn Fn(&Candidate) -> Option<f64>;

/// A way to compute the results square by square.
struct Way {
    name: &'static str,
    /// Results of a square along an axis.
    m: usize,
    /// Cycles to transform one channel of a square of data, and of results.
    data: f64,
    results: f64,
}

const WAYS: [Way; 2] = [
    Way { name: "winograd2", m: 2, data: 3.0, results: 3.0 },
    Way { name: "winograd4", m: 4, data: 9.0, results: 8.0 },
];

/// Multiply-adds per cycle, and the part of them that products reach.
const RATE: f64 = 32.0;
const DIRECT: f64 = 0.88;
const SQUARES: f64 = 0.80;
/// Cycles to start a tile of results, and its rows and columns.
const START: f64 = 40.0;
const TILE: (usize, usize) = (14, 32);
/// Bytes of weights that memory delivers per cycle.
const WEIGHT_RATE: f64 = 8.0;
/// How much faster another way than the direct one must seem.
const MARGIN: f64 = 0.9;

impl Sizes {
    /// Output channels that are computed, whole vectors.
    fn columns(&self) -> f64 {
        self.outputs.next_multiple_of(16) as f64
    }

    /// Cycles of `count` products of `rows` rows each, with all weights in reach of memory.
    fn products(&self, rows: usize, count: usize, part: f64) -> f64 {
        let (depth, count) = (self.inputs as f64, count as f64);
        let tiles = (rows.div_ceil(TILE.0) * self.outputs.div_ceil(TILE.1)) as f64;
        let compute = rows as f64 * count * depth * self.columns() / RATE / part + tiles * count * START;
        let weights = 4.0 * count * depth * self.outputs as f64 / WEIGHT_RATE;
        compute.max(weights)
    }

    fn direct(&self) -> f64 {
        // One product: kernel elements are part of its depth.
        let deep = Self { inputs: 9 * self.inputs, ..*self };
        deep.products(self.images * self.height * self.width, 1, DIRECT)
    }

    fn squares(&self, way: &Way) -> f64 {
        let squares = self.images * self.height.div_ceil(way.m) * self.width.div_ceil(way.m);
        let transforms = self.inputs as f64 * way.data + self.columns() * way.results;
        self.products(squares, (way.m + 2).pow(2), SQUARES) + squares as f64 * transforms
    }

    /// The fastest way: as measured when all of them were, else as counted.
    pub(crate) fn algorithm(&self, precision: Precision, measured: Measured) -> &'static str {
        let time = |algorithm: &'static str| {
            let us = measured(&Candidate { sizes: *self, precision, algorithm })?;
            Some((algorithm, us))
        };
        let times: Option<Vec<(&str, f64)>> = ALGORITHMS.into_iter().map(time).collect();
        match times.and_then(|all| all.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))) {
            Some((algorithm, _)) => algorithm,
            None => self.counted(precision),
        }
    }

    /// The way that takes the fewest cycles. Only the direct one multiplies faster in bfloat16, once it has rounded.
    fn counted(&self, precision: Precision) -> &'static str {
        let windows = (self.images * self.height * self.width) as f64;
        let direct = match precision {
            Precision::Bf16 => self.direct() / 2.0 + windows * rounding(9 * self.inputs, 9),
            Precision::F32 => self.direct(),
        };
        let mut best = (ALGORITHMS[0], direct * MARGIN);
        for way in &WAYS {
            let cycles = self.squares(way);
            if cycles < best.1 {
                best = (way.name, cycles);
            }
        }
        best.0
    }
}

/// Cycles per element of depth to gather and round a window to bfloat16, or a row that lies in one piece; per kernel
/// element, and per window.
const ROUND: f64 = 0.5;
const ROUND_ROW: f64 = 0.2;
const ROUND_TAP: f64 = 10.0;
const ROUND_WINDOW: f64 = 40.0;

/// Cycles to gather and round one window.
fn rounding(depth: usize, taps: usize) -> f64 {
    let windows = if taps > 1 { ROUND } else { ROUND_ROW };
    depth as f64 * windows + taps as f64 * ROUND_TAP + ROUND_WINDOW
}

/// Whether a convolution gains from multiplying in bfloat16 at twice the rate, when its windows must be rounded first.
/// `depth` is that of a group's product, `outputs` its output channels.
pub(crate) fn rounding_pays(depth: usize, taps: usize, outputs: usize) -> bool {
    let direct = depth as f64 * outputs.next_multiple_of(16) as f64 / RATE / DIRECT;
    direct / 2.0 + rounding(depth, taps) < direct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(side: usize, inputs: usize, outputs: usize) -> &'static str {
        Sizes { images: 1, height: side, width: side, inputs, outputs }.algorithm(Precision::F32, &|_| None)
    }

    #[test]
    fn what_was_measured_decides_when_all_was() {
        let sizes = Sizes { images: 1, height: 56, width: 56, inputs: 64, outputs: 64 };
        let all = |c: &Candidate| Some(if c.algorithm == "winograd2" { 1.0 } else { 2.0 });
        assert_eq!(sizes.algorithm(Precision::F32, &all), "winograd2");
        let some = |c: &Candidate| (c.algorithm != "winograd4").then_some(1.0);
        assert_eq!(sizes.algorithm(Precision::F32, &some), "winograd4");
        let key = Candidate { sizes, precision: Precision::Bf16, algorithm: "direct" }.to_string();
        assert_eq!(key, "conv 3x3 nhwc 1x56x56x64 to 64, bf16, direct");
    }

    #[test]
    fn large_squares_pay_where_weights_are_few() {
        assert_eq!(choice(56, 64, 64), "winograd4");
        assert_eq!(choice(128, 32, 32), "winograd4");
        assert_ne!(choice(7, 512, 512), "winograd4");
    }

    #[test]
    fn tiny_convolutions_stay_direct() {
        assert_eq!(choice(1, 64, 64), "direct");
        assert_eq!(choice(256, 1, 16), "direct");
        assert_eq!(choice(2, 512, 512), "direct");
    }

    #[test]
    fn rounding_pays_for_many_channels() {
        assert!(rounding_pays(960, 1, 160));
        assert!(rounding_pays(9 * 64, 9, 64));
        assert!(!rounding_pays(16, 1, 96));
        assert!(!rounding_pays(9 * 16, 9, 16));
    }
}
