//! Geometry of sliding windows, shared by convolutions and poolings: attributes, output sizes (symbolic), and
//! which input elements a window covers.

use crate::common::{attr_error, type_error};
use crate::eval::MAX_EVAL_ELEMENTS;
use partita_ir::Dim;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;

/// Largest kernel size, stride, dilation or pad; keeps products of two of them within i64.
pub(crate) const MAX_WINDOW: i64 = 1 << 31;

/// How pads are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoPad {
    /// As the `pads` attribute says.
    Explicit,
    /// No pads.
    Valid,
    /// As many as make the output `ceil(input / stride)`; an odd one goes to the end.
    SameUpper,
    /// The same with the odd one at the beginning.
    SameLower,
}

/// A window over `n` spatial axes as the attributes state it; all lists have `n` entries.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) kernel: Vec<i64>,
    pub(crate) strides: Vec<i64>,
    pub(crate) dilations: Vec<i64>,
    pub(crate) begin: Vec<i64>,
    pub(crate) end: Vec<i64>,
    pub(crate) auto_pad: AutoPad,
    pub(crate) ceil: bool,
}

/// A list of `n` attribute values in `low..=MAX_WINDOW`, or `default` for each.
fn list(attrs: &Attrs, name: &str, n: usize, low: i64, default: i64) -> Result<Vec<i64>, Diag> {
    let Some(values) = attrs.ints(name) else { return Ok(vec![default; n]) };
    if values.len() != n {
        return Err(attr_error(format!("{name} has {} entries, {n} are needed", values.len())));
    }
    match values.iter().find(|v| !(low..=MAX_WINDOW).contains(*v)) {
        Some(v) => Err(attr_error(format!("{name} holds {v}, allowed are {low} to {MAX_WINDOW}"))),
        None => Ok(values),
    }
}

fn auto_pad(attrs: &Attrs) -> Result<AutoPad, Diag> {
    match attrs.str("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => Ok(AutoPad::Explicit),
        "VALID" => Ok(AutoPad::Valid),
        "SAME_UPPER" => Ok(AutoPad::SameUpper),
        "SAME_LOWER" => Ok(AutoPad::SameLower),
        other => Err(attr_error(format!("auto_pad is {other:?}"))
            .hint("allowed are NOTSET, VALID, SAME_UPPER and SAME_LOWER")),
    }
}

impl Geometry {
    /// Reads `strides`, `dilations`, `pads`, `auto_pad` and `ceil_mode` for a window of size `kernel`.
    ///
    /// # Errors
    /// `V021` for entries out of range or lists of the wrong length.
    pub(crate) fn read(attrs: &Attrs, kernel: Vec<i64>) -> Result<Self, Diag> {
        let n = kernel.len();
        if let Some(k) = kernel.iter().find(|k| !(1..=MAX_WINDOW).contains(*k)) {
            return Err(attr_error(format!("the kernel has size {k}, allowed are 1 to {MAX_WINDOW}")));
        }
        let volume = kernel.iter().try_fold(1i64, |v, k| v.checked_mul(*k));
        if volume.is_none_or(|v| v > MAX_EVAL_ELEMENTS as i64) {
            return Err(attr_error("the kernel covers too many elements"));
        }
        let auto_pad = auto_pad(attrs)?;
        let pads =
            if auto_pad == AutoPad::Explicit { list(attrs, "pads", 2 * n, 0, 0)? } else { vec![0; 2 * n] };
        Ok(Self {
            kernel,
            strides: list(attrs, "strides", n, 1, 1)?,
            dilations: list(attrs, "dilations", n, 1, 1)?,
            begin: pads[..n].to_vec(),
            end: pads[n..].to_vec(),
            auto_pad,
            ceil: attrs.flag("ceil_mode"),
        })
    }

    /// Size of the dilated kernel along an axis.
    pub(crate) fn extent(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1).saturating_mul(self.dilations[axis]).saturating_add(1)
    }

    fn is_same(&self) -> bool {
        matches!(self.auto_pad, AutoPad::SameUpper | AutoPad::SameLower)
    }

    /// Output size along `axis` for the input size `input`.
    ///
    /// # Errors
    /// `V020` when the padded input is known to be smaller than the window.
    pub(crate) fn output(&self, axis: usize, input: &Dim) -> Result<Dim, Diag> {
        let stride = Dim::known(self.strides[axis]);
        if self.is_same() {
            return Ok(input.ceil_div(&stride));
        }
        let padded = input.clone() + Dim::known(self.begin[axis] + self.end[axis]);
        let room = padded - Dim::known(self.extent(axis));
        if room.as_known().is_some_and(|r| r < 0) {
            let text = format!("the window covers {}, the padded input is smaller", self.extent(axis));
            return Err(type_error(text).hint("reduce kernel or dilations, or add pads"));
        }
        let one = Dim::known(1);
        // Without pads the definition rounds down even in ceil_mode.
        if !self.ceil || self.auto_pad == AutoPad::Valid {
            return Ok(room.floor_div(&stride) + one);
        }
        // A window that would start in the end pads is left out.
        let last_start = input.clone() + Dim::known(self.begin[axis] - 1);
        Ok((room.ceil_div(&stride) + one.clone()).smaller(&(last_start.floor_div(&stride) + one)))
    }

    /// Output sizes of all spatial axes.
    ///
    /// # Errors
    /// See `output`.
    pub(crate) fn outputs(&self, input: &[Dim]) -> Result<Vec<Dim>, Diag> {
        input.iter().enumerate().map(|(axis, dim)| self.output(axis, dim)).collect()
    }

    /// Pads at the beginning and end of `axis` for concrete sizes.
    pub(crate) fn pads(&self, axis: usize, input: usize, output: usize) -> (i64, i64) {
        if !self.is_same() {
            return (self.begin[axis], self.end[axis]);
        }
        let covered =
            (output as i64 - 1).saturating_mul(self.strides[axis]).saturating_add(self.extent(axis));
        let total = covered.saturating_sub(input as i64).max(0);
        if self.auto_pad == AutoPad::SameUpper {
            (total / 2, total - total / 2)
        } else {
            (total - total / 2, total / 2)
        }
    }

    /// The window over an input of concrete spatial sizes.
    pub(crate) fn window(&self, input: &[usize], output: &[usize]) -> Window {
        let axis = |a: usize| {
            let (begin, end) = self.pads(a, input[a], output[a]);
            Axis {
                input: input[a] as i64,
                kernel: self.kernel[a],
                stride: self.strides[a],
                dilation: self.dilations[a],
                begin,
                end,
            }
        };
        Window { axes: (0..input.len()).map(axis).collect() }
    }
}

/// One axis of a window over a concrete input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) input: i64,
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
    pub(crate) dilation: i64,
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

impl Axis {
    /// Kernel positions `from..to` whose element lies in `low..high` of the input, for window `at`.
    fn covered(self, at: usize, low: i64, high: i64) -> (i64, i64) {
        let start = (at as i64).saturating_mul(self.stride).saturating_sub(self.begin);
        let first = low.saturating_sub(start).max(0);
        let from = first / self.dilation + i64::from(first % self.dilation != 0);
        let beyond = high.saturating_sub(start).max(0);
        let to = beyond / self.dilation + i64::from(beyond % self.dilation != 0);
        (from.min(self.kernel), to.min(self.kernel))
    }
}

/// One element under a window: its position in the input's spatial block and in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tap {
    pub(crate) element: usize,
    pub(crate) weight: usize,
}

/// A window over a concrete input.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) axes: Vec<Axis>,
}

impl Window {
    /// The elements window `at` covers, pads left out, in row-major order.
    pub(crate) fn taps(&self, at: &[usize]) -> Vec<Tap> {
        let mut taps = vec![Tap { element: 0, weight: 0 }];
        for (axis, &at) in self.axes.iter().zip(at) {
            let (from, to) = axis.covered(at, 0, axis.input);
            let start = at as i64 * axis.stride - axis.begin;
            taps = taps
                .iter()
                .flat_map(|t| {
                    (from..to).map(|k| Tap {
                        element: t.element * axis.input as usize + (start + k * axis.dilation) as usize,
                        weight: t.weight * axis.kernel as usize + k as usize,
                    })
                })
                .collect();
        }
        taps
    }

    /// Number of elements window `at` covers, stated pads included (what lies beyond the end pads, as
    /// `ceil_mode` makes it, is not counted).
    pub(crate) fn padded_count(&self, at: &[usize]) -> f64 {
        let count = |(axis, &at): (&Axis, &usize)| {
            let (from, to) = axis.covered(at, -axis.begin, axis.input + axis.end);
            (to - from) as f64
        };
        self.axes.iter().zip(at).map(count).product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(attrs: &Attrs, kernel: &[i64]) -> Geometry {
        Geometry::read(attrs, kernel.to_vec()).unwrap()
    }

    #[test]
    fn sizes_stay_symbolic() {
        let attrs = Attrs::new().with("strides", vec![2i64]).with("pads", vec![1i64, 1]);
        let out = geometry(&attrs, &[3]).output(0, &Dim::symbol("h")).unwrap();
        assert_eq!(out.eval(&|_| Some(7)), Some(4));
        let same = Attrs::new().with("strides", vec![2i64]).with("auto_pad", "SAME_UPPER");
        let out = geometry(&same, &[3]).output(0, &Dim::symbol("h")).unwrap();
        assert_eq!(out.to_string(), "floordiv(h + 1, 2)");
    }

    #[test]
    fn ceil_mode_drops_windows_in_the_end_pads() {
        let attrs =
            Attrs::new().with("strides", vec![2i64]).with("pads", vec![0i64, 1]).with("ceil_mode", 1i64);
        let out = geometry(&attrs, &[1]).output(0, &Dim::known(2)).unwrap();
        assert_eq!(out.as_known(), Some(1));
    }

    #[test]
    fn hostile_attributes_are_refused() {
        for (name, value) in [("strides", 0), ("dilations", 0), ("strides", i64::MAX), ("dilations", -1)] {
            let attrs = Attrs::new().with(name, vec![value]);
            assert_eq!(Geometry::read(&attrs, vec![3]).unwrap_err().code, "V021", "{name} {value}");
        }
        let pads = Attrs::new().with("pads", vec![i64::MAX, i64::MAX]);
        assert_eq!(Geometry::read(&pads, vec![3]).unwrap_err().code, "V021");
        assert_eq!(Geometry::read(&Attrs::new(), vec![0]).unwrap_err().code, "V021");
        assert_eq!(Geometry::read(&Attrs::new(), vec![1 << 20, 1 << 20]).unwrap_err().code, "V021");
    }

    #[test]
    fn taps_skip_pads() {
        let attrs = Attrs::new().with("pads", vec![1i64, 1]).with("dilations", vec![2i64]);
        let window = geometry(&attrs, &[2]).window(&[3], &[3]);
        assert_eq!(window.taps(&[0]), [Tap { element: 1, weight: 1 }]);
        assert_eq!(window.taps(&[1]).len(), 2);
    }
}
