//! Sliding windows over up to three spatial axes: the geometry that convolution and pooling share.

use crate::prepared::{Call, Operand};
use partita_runtime::error::RuntimeError;

/// Geometry of a window, always three spatial axes (missing ones have size 1 in front).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    /// Padding in front.
    pub pad: [usize; 3],
    pub dilation: [usize; 3],
}

/// Where data and result have their channels: the parameter `layout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channels {
    /// [N, C, spatial...].
    First,
    /// [N, spatial..., C].
    Last,
    /// The data first, the result last.
    FirstToLast,
}

impl Channels {
    /// What the kernel says.
    ///
    /// # Errors
    /// For a word that is not a layout.
    pub(crate) fn of(call: &Call<'_>) -> Result<Self, RuntimeError> {
        match call.kernel.string("layout").unwrap_or("nchw") {
            "nchw" => Ok(Self::First),
            "nhwc" => Ok(Self::Last),
            "nchw_nhwc" => Ok(Self::FirstToLast),
            _ => Err(call.bad("parameter `layout` is unknown")),
        }
    }

    /// Spatial sizes of the data `x`; none when it has too few axes.
    pub(crate) fn spatial_in(self, x: &Operand) -> &[usize] {
        let axes = if self == Self::Last { 1..x.shape.len().saturating_sub(1) } else { 2..x.shape.len() };
        x.shape.get(axes).unwrap_or_default()
    }

    /// Channels of the data `x`; 0 when it has too few axes.
    pub(crate) fn count_in(self, x: &Operand) -> usize {
        let count = if self == Self::Last { x.shape.last() } else { x.shape.get(1) };
        count.copied().unwrap_or(0)
    }
}

/// Largest extent of one spatial plane, so that offsets fit 32-bit lanes.
const MAX_PLANE: usize = 1 << 30;

impl Window {
    /// Reads the parameters of `call` for `x` (N, C, spatial...) with windows of `kernel` and results `out`.
    ///
    /// # Errors
    /// When axes or sizes do not fit.
    pub(crate) fn new(
        call: &Call<'_>,
        x: &Operand,
        kernel: &[usize],
        out: &Operand,
    ) -> Result<Self, RuntimeError> {
        let channels = Channels::First;
        Self::over(call, channels.spatial_in(x), kernel, channels.spatial_in(out))
    }

    /// Reads the parameters of `call` for windows of `kernel` over spatial sizes `input` with results `output`.
    ///
    /// # Errors
    /// When axes or sizes do not fit.
    pub(crate) fn over(
        call: &Call<'_>,
        input: &[usize],
        kernel: &[usize],
        output: &[usize],
    ) -> Result<Self, RuntimeError> {
        let axes = input.len();
        call.ensure((1..=3).contains(&axes), "windows slide over one to three axes")?;
        call.ensure(output.len() == axes && kernel.len() == axes, "operands differ in their axes")?;
        let stride = call.sizes("strides", axes, 1)?;
        let dilation = call.sizes("dilations", axes, 1)?;
        let pads = call.sizes("pads", axes * 2, 0)?;
        let positive = stride.iter().chain(&dilation).chain(kernel).all(|&v| v > 0);
        call.ensure(positive, "strides, dilations and windows must be positive")?;
        let window = Self {
            input: spread(input),
            output: spread(output),
            kernel: spread(kernel),
            stride: spread(&stride),
            pad: spread_with(&pads[..axes], 0),
            dilation: spread(&dilation),
        };
        let planes = window.input_len() <= MAX_PLANE && window.output_len() <= MAX_PLANE;
        call.ensure(planes && window.taps() <= MAX_PLANE, "a plane exceeds 2^30 elements")?;
        let extents = (0..3).all(|i| window.extent(i).is_some_and(|e| e <= MAX_PLANE));
        call.ensure(extents, "a window is too large")?;
        Ok(window)
    }

    /// Input elements between the first and the last that the windows of axis `i` touch, padding included.
    pub(crate) fn extent(&self, i: usize) -> Option<usize> {
        self.reach(i, self.output[i])
    }

    /// The same for `count` neighbouring windows.
    pub(crate) fn reach(&self, i: usize, count: usize) -> Option<usize> {
        let steps = count.saturating_sub(1).checked_mul(self.stride[i])?;
        (self.kernel[i] - 1).checked_mul(self.dilation[i])?.checked_add(steps)?.checked_add(1)
    }

    /// Whether a window reaches over the sides of a row or beyond the planes, or one over several planes over any side.
    pub(crate) fn overhangs(&self) -> bool {
        let over = |i: usize| self.pad[i] > 0 || self.extent(i).is_none_or(|e| e > self.input[i]);
        over(2) || over(0) || (self.kernel[0] > 1 && over(1))
    }

    /// Elements of one input plane.
    pub(crate) fn input_len(&self) -> usize {
        self.input.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Elements of one output plane.
    pub(crate) fn output_len(&self) -> usize {
        self.output.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Elements of a window.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// The input index along axis `i` of window position `out` and tap `tap`, if it is not padding.
    #[inline(always)]
    pub(crate) fn source(&self, i: usize, out: usize, tap: usize) -> Option<usize> {
        let at = out * self.stride[i] + tap * self.dilation[i];
        at.checked_sub(self.pad[i]).filter(|&at| at < self.input[i])
    }

    /// Taps along axis `i` that are not padding at window position `out`.
    #[inline(always)]
    pub(crate) fn inside(&self, i: usize, out: usize) -> std::ops::Range<usize> {
        let at = out * self.stride[i];
        let tap = |edge: usize| edge.saturating_sub(at).div_ceil(self.dilation[i]).min(self.kernel[i]);
        let (from, to) = (tap(self.pad[i]), tap(self.input[i] + self.pad[i]));
        from.min(to)..to
    }

    /// The input index along axis `i` of window position `out` and tap `tap`; 0 when it is padding.
    #[inline(always)]
    pub(crate) fn first(&self, i: usize, out: usize, tap: usize) -> usize {
        self.source(i, out, tap).unwrap_or(0)
    }

    /// Window positions along axis `i` for which tap `tap` is not padding.
    pub(crate) fn valid(&self, i: usize, tap: usize) -> std::ops::Range<usize> {
        let shift = tap * self.dilation[i];
        let from = self.pad[i].saturating_sub(shift).div_ceil(self.stride[i]);
        let to = (self.input[i] + self.pad[i]).saturating_sub(shift).div_ceil(self.stride[i]);
        let to = to.min(self.output[i]);
        from.min(to)..to
    }

    /// Whether the output plane is the input plane: windows of one element, step 1, no padding.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.stride == [1; 3] && self.pad == [0; 3] && self.input == self.output
    }
}

fn spread_with(sizes: &[usize], fill: usize) -> [usize; 3] {
    let mut all = [fill; 3];
    all[3 - sizes.len()..].copy_from_slice(sizes);
    all
}

fn spread(sizes: &[usize]) -> [usize; 3] {
    spread_with(sizes, 1)
}
