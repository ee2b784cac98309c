//! Numpy broadcasting of a dense operand to the output's shape, as few runs as possible.
//!
//! Axes along which operand and output advance together are merged; what is left is walked as runs along
//! the innermost axis, whose step in the operand is 1 or 0.

/// One merged axis: its length and the operand's step along it, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    length: usize,
    step: usize,
}

/// How an operand maps to the flat index space of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast {
    /// Merged axes, outermost first; never empty.
    axes: Vec<Axis>,
}

/// A run of output elements: `len` elements from operand element `from`, advancing by `step` (0 or 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub from: usize,
    pub step: usize,
    pub len: usize,
}

impl Broadcast {
    /// `None` when `shape` does not broadcast to `output`.
    pub(crate) fn new(shape: &[usize], output: &[usize]) -> Option<Self> {
        if shape.len() > output.len() {
            return None;
        }
        let missing = output.len() - shape.len();
        let mut axes: Vec<Axis> = Vec::with_capacity(output.len());
        let mut stride = 1usize;
        for (axis, &length) in output.iter().enumerate().rev() {
            let own = if axis < missing { 1 } else { shape[axis - missing] };
            if own != length && own != 1 {
                return None;
            }
            let step = if own == 1 { 0 } else { stride };
            stride *= own;
            if length != 1 {
                merge(&mut axes, Axis { length, step });
            }
        }
        if axes.is_empty() {
            axes.push(Axis { length: 1, step: 1 });
        }
        axes.reverse();
        Some(Self { axes })
    }

    /// Whether operand and output have the same elements in the same order.
    pub(crate) fn is_dense(&self) -> bool {
        self.axes.len() == 1 && (self.axes[0].step == 1 || self.axes[0].length == 1)
    }

    /// Whether one element serves all of the output.
    pub(crate) fn is_scalar(&self) -> bool {
        self.axes.len() == 1 && (self.axes[0].step == 0 || self.axes[0].length == 1)
    }

    /// When the operand is one value per row of `columns` outputs, repeating after `rows` rows: `rows`.
    pub(crate) fn per_row(&self, columns: usize) -> Option<usize> {
        match *self.axes.as_slice() {
            [Axis { length: rows, step: 1 }, Axis { length, step: 0 }] if length == columns => Some(rows),
            [Axis { step: 0, .. }, Axis { length: rows, step: 1 }, Axis { length, step: 0 }]
                if length == columns =>
            {
                Some(rows)
            }
            _ => None,
        }
    }

    /// Whether the operand is one row of `columns` values that serves all rows of the output.
    pub(crate) fn per_column(&self, columns: usize) -> bool {
        match *self.axes.as_slice() {
            [Axis { length, step: 1 }] => length == columns,
            [Axis { step: 0, .. }, Axis { length, step: 1 }] => length == columns,
            _ => false,
        }
    }

    /// Calls `take(position, run)` for the runs that make up outputs `start..start + len`, in order.
    #[inline(always)]
    pub(crate) fn runs(&self, start: usize, len: usize, mut take: impl FnMut(usize, Run)) {
        if len == 0 {
            return;
        }
        let inner = self.axes[self.axes.len() - 1];
        let mut done = 0;
        while done < len {
            let at = start + done;
            let column = at % inner.length;
            let mut rest = at / inner.length;
            let mut from = column * inner.step;
            for axis in self.axes[..self.axes.len() - 1].iter().rev() {
                from += (rest % axis.length) * axis.step;
                rest /= axis.length;
            }
            let run = (inner.length - column).min(len - done);
            take(done, Run { from, step: inner.step, len: run });
            done += run;
        }
    }
}

/// Adds an outer axis to `axes` (innermost first), merged with the one before where steps allow.
fn merge(axes: &mut Vec<Axis>, outer: Axis) {
    match axes.last_mut() {
        Some(inner) if inner.step == 0 && outer.step == 0 => inner.length *= outer.length,
        Some(inner) if inner.step != 0 && outer.step == inner.step * inner.length => {
            inner.length *= outer.length;
        }
        _ => axes.push(outer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The operand element of output element `at`, by the definition.
    fn element(shape: &[usize], output: &[usize], at: usize) -> usize {
        let missing = output.len() - shape.len();
        let (mut rest, mut stride, mut from) = (at, 1, 0);
        for axis in (0..output.len()).rev() {
            let index = rest % output[axis];
            rest /= output[axis];
            if axis >= missing && shape[axis - missing] != 1 {
                from += index * stride;
                stride *= shape[axis - missing];
            }
        }
        from
    }

    proptest! {
        #[test]
        fn runs_visit_the_right_elements(
            output in prop::collection::vec(1usize..4, 0..5), keep in prop::collection::vec(any::<bool>(), 5),
            drop in 0usize..5, cut in 0usize..20,
        ) {
            let shape: Vec<usize> = output.iter().zip(&keep).skip(drop.min(output.len()))
                .map(|(&d, &k)| if k { d } else { 1 }).collect();
            let total: usize = output.iter().product();
            let map = Broadcast::new(&shape, &output).unwrap();
            let start = cut.min(total);
            let mut seen = Vec::new();
            map.runs(start, total - start, |position, run| {
                assert_eq!(position, seen.len());
                seen.extend((0..run.len).map(|i| run.from + i * run.step));
            });
            let want: Vec<usize> = (start..total).map(|at| element(&shape, &output, at)).collect();
            prop_assert_eq!(seen, want);
        }
    }

    #[test]
    fn common_forms_are_recognised() {
        let bias = Broadcast::new(&[8, 1, 1], &[2, 8, 5, 5]).unwrap();
        assert_eq!(bias.per_row(25), Some(8));
        assert!(Broadcast::new(&[8], &[2, 3, 8]).unwrap().per_column(8));
        assert!(Broadcast::new(&[2, 3], &[2, 3]).unwrap().is_dense());
        assert!(Broadcast::new(&[1], &[2, 3]).unwrap().is_scalar());
        assert_eq!(Broadcast::new(&[3], &[2, 4]), None);
    }
}
