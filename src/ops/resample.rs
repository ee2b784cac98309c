//! Interpolation along one axis: which elements a result element blends, and with which weights.

use crate::common::attr_error;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;

/// How values between elements are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// How an output position maps to an input position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

/// Which element is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// An interpolation as the attributes state it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interpolation {
    mode: Mode,
    coordinates: Coordinates,
    nearest: Nearest,
    cubic_a: f64,
    exclude_outside: bool,
    /// Whether the kernel is stretched where the axis shrinks.
    antialias: bool,
    extrapolation: f64,
}

/// An element and its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    element: usize,
    weight: f64,
}

/// One axis: sizes before and after, the scale between them, the part of the input that is used (0 to 1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) scale: f64,
    pub(crate) roi: (f64, f64),
}

impl Span {
    /// The length that corners are aligned over: `scale * input`, which need not be whole. The specification's
    /// text speaks of the resized tensor's length; its reference and conformance cases use this one.
    fn resized_length(&self) -> f64 {
        /// Closer than this, the difference comes from rounding a scale that was a ratio of sizes.
        const WHOLE: f64 = 1e-6;
        let (output, scaled) = (self.output as f64, self.scale * self.input as f64);
        if (scaled - output).abs() < WHOLE || scaled <= 1.0 { output } else { scaled }
    }
}

/// The value of `name` in `table`.
fn choose<T: Copy>(what: &str, name: &str, table: &[(&str, T)]) -> Result<T, Diag> {
    table.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(n, _)| *n).collect();
        attr_error(format!("{what} is {name:?}")).hint(format!("allowed are {}", names.join(", ")))
    })
}

impl Interpolation {
    /// An interpolation from its names; the numbers are read from `attrs`.
    ///
    /// # Errors
    /// `V021` for an unknown name.
    pub(crate) fn read(mode: &str, coordinates: &str, nearest: &str, attrs: &Attrs) -> Result<Self, Diag> {
        use Coordinates::{
            AlignCorners, Asymmetric, HalfPixel, HalfPixelSymmetric, PytorchHalfPixel, TfCropAndResize,
        };
        let modes = [("nearest", Mode::Nearest), ("linear", Mode::Linear), ("cubic", Mode::Cubic)];
        let all_coordinates = [
            ("half_pixel", HalfPixel),
            ("half_pixel_symmetric", HalfPixelSymmetric),
            ("pytorch_half_pixel", PytorchHalfPixel),
            ("align_corners", AlignCorners),
            ("asymmetric", Asymmetric),
            ("tf_crop_and_resize", TfCropAndResize),
        ];
        let nearests = [
            ("round_prefer_floor", Nearest::RoundPreferFloor),
            ("round_prefer_ceil", Nearest::RoundPreferCeil),
            ("floor", Nearest::Floor),
            ("ceil", Nearest::Ceil),
        ];
        Ok(Self {
            mode: choose("mode", mode, &modes)?,
            coordinates: choose("coordinate_transformation_mode", coordinates, &all_coordinates)?,
            nearest: choose("nearest_mode", nearest, &nearests)?,
            cubic_a: f64::from(attrs.float_or("cubic_coeff_a", -0.75)),
            exclude_outside: attrs.flag("exclude_outside"),
            antialias: attrs.flag("antialias"),
            extrapolation: f64::from(attrs.float_or("extrapolation_value", 0.0)),
        })
    }

    /// Checks the region of interest against the number of axes.
    ///
    /// # Errors
    /// `V021` when it is needed and missing, or has the wrong length.
    pub(crate) fn check(&self, roi: Option<&[f64]>, n_axes: usize) -> Result<(), Diag> {
        match roi {
            Some(roi) if roi.len() != 2 * n_axes => {
                Err(attr_error(format!("roi has {} entries, {} are needed", roi.len(), 2 * n_axes)))
            }
            None if self.coordinates == Coordinates::TfCropAndResize => {
                Err(attr_error("tf_crop_and_resize needs a roi"))
            }
            _ => Ok(()),
        }
    }

    /// Where output position `at` lies in the input.
    fn place(&self, at: usize, s: Span) -> f64 {
        let (x, input, output) = (at as f64, s.input as f64, s.output as f64);
        let half_pixel = (x + 0.5) / s.scale - 0.5;
        match self.coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = output / (s.scale * input);
                input / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinates::PytorchHalfPixel if s.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::AlignCorners if s.output == 1 => 0.0,
            Coordinates::AlignCorners => x * (input - 1.0) / (s.resized_length() - 1.0),
            Coordinates::Asymmetric => x / s.scale,
            Coordinates::TfCropAndResize => {
                let (from, to) = s.roi;
                let step = if s.output == 1 {
                    (to - from) * (input - 1.0) / 2.0
                } else {
                    x * (to - from) * (input - 1.0) / (output - 1.0)
                };
                from * (input - 1.0) + step
            }
        }
    }

    /// The taps of every output position; `None` where the result is the extrapolation value.
    pub(crate) fn table(&self, span: Span) -> Vec<Option<Vec<Tap>>> {
        let outside = |x: f64| {
            self.coordinates == Coordinates::TfCropAndResize && (x < 0.0 || x > span.input as f64 - 1.0)
        };
        let taps = |at: usize| {
            let x = self.place(at, span);
            (!outside(x) && span.input > 0).then(|| self.taps(x, span))
        };
        (0..span.output).map(taps).collect()
    }

    /// The elements around position `x` that the kernel reaches, and its value at each.
    fn kernel(&self, x: f64, scale: f64) -> Vec<(f64, f64)> {
        let floor = x.floor();
        let ratio = x - floor;
        let shrink = if self.antialias { scale.min(1.0) } else { 1.0 };
        let (reach, value): (f64, fn(f64, f64) -> f64) = match self.mode {
            Mode::Nearest => return vec![(self.nearest_to(x), 1.0)],
            Mode::Linear => (1.0, |d, _| (1.0 - d).max(0.0)),
            Mode::Cubic => (2.0, |d, a| if d < 2.0 { keys_cubic(d, a) } else { 0.0 }),
        };
        let first = (-reach / shrink).floor() as i64 + 1;
        (first..2 - first)
            .map(|k| (floor + k as f64, value((k as f64 - ratio).abs() * shrink, self.cubic_a)))
            .collect()
    }

    fn taps(&self, x: f64, span: Span) -> Vec<Tap> {
        let last = span.input as f64 - 1.0;
        let drop = |p: f64| self.exclude_outside && self.mode != Mode::Nearest && !(0.0..=last).contains(&p);
        let kept = self.kernel(x, span.scale).into_iter().map(|(p, w)| (p, if drop(p) { 0.0 } else { w }));
        let mut taps: Vec<Tap> =
            kept.map(|(p, weight)| Tap { element: p.clamp(0.0, last) as usize, weight }).collect();
        let sum: f64 = taps.iter().map(|t| t.weight).sum();
        if (self.exclude_outside || self.antialias) && sum != 0.0 {
            taps.iter_mut().for_each(|t| t.weight /= sum);
        }
        taps
    }

    /// For every output position the element that is nearest, where elements are taken as they are; `None`
    /// where the result is the extrapolation value.
    pub(crate) fn nearest_table(&self, span: Span) -> Option<Vec<Option<usize>>> {
        let nearest = |taps: &Option<Vec<Tap>>| Some(taps.as_ref()?.first()?.element);
        (self.mode == Mode::Nearest).then(|| self.table(span).iter().map(nearest).collect())
    }

    /// The value outside of the region of interest.
    pub(crate) fn extrapolation(&self) -> f64 {
        self.extrapolation
    }

    fn nearest_to(&self, x: f64) -> f64 {
        match self.nearest {
            Nearest::RoundPreferFloor => (x - 0.5).ceil(),
            Nearest::RoundPreferCeil => (x + 0.5).floor(),
            Nearest::Floor => x.floor(),
            Nearest::Ceil => x.ceil(),
        }
    }

    /// The blend of a line's elements.
    pub(crate) fn blend(&self, line: &[f64], taps: Option<&[Tap]>) -> f64 {
        match taps {
            None => self.extrapolation,
            Some(taps) => taps.iter().filter(|t| t.weight != 0.0).map(|t| line[t.element] * t.weight).sum(),
        }
    }
}

/// The cubic convolution kernel at distance `x` (Keys 1981, equation 4).
pub(crate) fn keys_cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one() {
        for mode in ["nearest", "linear", "cubic"] {
            let how = Interpolation::read(mode, "half_pixel", "floor", &Attrs::new()).unwrap();
            for taps in how.table(Span { input: 5, output: 13, scale: 2.6, roi: (0.0, 1.0) }) {
                let sum: f64 = taps.unwrap().iter().map(|t| t.weight).sum();
                assert!((sum - 1.0).abs() < 1e-12, "{mode}: {sum}");
            }
        }
    }

    #[test]
    fn halves_go_where_the_mode_says() {
        let nearest = |name: &str| {
            Interpolation::read("nearest", "asymmetric", name, &Attrs::new()).unwrap().nearest_to(1.5)
        };
        assert_eq!(
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"].map(nearest),
            [1., 2., 1., 2.]
        );
    }
}
