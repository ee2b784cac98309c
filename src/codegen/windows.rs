//! Convolution and pooling: resolving `auto_pad` and defaults to the plain form kernels take.

use crate::params::KernelBuilder;
use partita_ir::attr::Attrs;

/// Strides, pads, dilations and kernel sizes, one per spatial axis (pads: begins, then ends).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) kernel: Vec<i64>,
    pub(crate) strides: Vec<i64>,
    pub(crate) dilations: Vec<i64>,
    pub(crate) pads: Vec<i64>,
}

impl Windows {
    /// Reads a node's attributes. `spatial` are the input's spatial sizes where known; `None` when `auto_pad`
    /// needs one that is not.
    pub(crate) fn new(attrs: &Attrs, kernel: Vec<i64>, spatial: &[Option<i64>]) -> Option<Self> {
        let n = kernel.len();
        let list = |name: &str| attrs.ints(name).unwrap_or_else(|| vec![1; n]);
        let (strides, dilations) = (list("strides"), list("dilations"));
        if strides.len() != n || dilations.len() != n || spatial.len() != n || strides.contains(&0) {
            return None;
        }
        let mut windows = Self { kernel, strides, dilations, pads: vec![0; 2 * n] };
        match attrs.str("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" => windows.same_pads(spatial, false)?,
            "SAME_LOWER" => windows.same_pads(spatial, true)?,
            "NOTSET" => windows.pads = attrs.ints("pads").unwrap_or_else(|| vec![0; 2 * n]),
            _ => {}
        }
        (windows.pads.len() == 2 * n).then_some(windows)
    }

    fn same_pads(&mut self, spatial: &[Option<i64>], lower: bool) -> Option<()> {
        let n = self.kernel.len();
        for (axis, size) in spatial.iter().enumerate() {
            let size = (*size)?;
            let out = size.checked_add(self.strides[axis] - 1)?.checked_div(self.strides[axis])?;
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let total = ((out - 1) * self.strides[axis] + reach - size).max(0);
            let small = total / 2;
            let (begin, end) = if lower { (total - small, small) } else { (small, total - small) };
            self.pads[axis] = begin;
            self.pads[n + axis] = end;
        }
        Some(())
    }

    /// The parameters common to all window kernels.
    pub(crate) fn params(&self, builder: KernelBuilder) -> KernelBuilder {
        builder.ints("strides", &self.strides).ints("dilations", &self.dilations).ints("pads", &self.pads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_upper_puts_the_odd_pad_behind() {
        let attrs = Attrs::new().with("auto_pad", "SAME_UPPER").with("strides", vec![2i64]);
        let w = Windows::new(&attrs, vec![3], &[Some(8)]).unwrap();
        assert_eq!(w.pads, [0, 1]);
        assert!(Windows::new(&attrs, vec![3], &[None]).is_none());
    }
}
