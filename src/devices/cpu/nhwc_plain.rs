//! Convolution and transposed convolution with the channels last, in plain loops.
//!
//! A result pixel is computed for a panel of output channels at a time; the panel's sums are an array the compiler
//! keeps in vectors. What the fast kernels do not cover runs here.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::conv::{check_bias, n_own, own_bias};
use crate::epilogue::{Epilogue, Matrix};
use crate::isa::{Isa, per_isa};
use crate::layout::{Layout, NR};
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, parts_for};
use crate::reference::Nothing;
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 50_000;

/// Where the weight of (group, output channel, tap, input channel) is.
#[derive(Clone, Copy)]
struct Weights {
    ptr: *const f32,
    group: usize,
    /// Distance of two panels of `NR` output channels, and of two channels of one panel.
    panel: usize,
    output: usize,
    tap: usize,
    input: usize,
}

/// A convolution in either direction: every result pixel is a sum over taps and input channels.
#[derive(Clone, Copy)]
struct Conv {
    window: Window,
    /// Whether the window's output is the data, as transposed convolutions see it.
    backwards: bool,
    batch: usize,
    groups: usize,
    /// Channels per group.
    inputs: usize,
    outputs: usize,
    /// Distance of two pixels and of two channels of the data.
    pixel: usize,
    channel: usize,
    x: *const f32,
    weights: Weights,
    bias: *const f32,
    y: *mut f32,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Conv {}
// SAFETY: as above.
unsafe impl Sync for Conv {}

impl Conv {
    fn sizes(&self) -> ([usize; 3], [usize; 3]) {
        let w = &self.window;
        if self.backwards { (w.output, w.input) } else { (w.input, w.output) }
    }

    /// The data's index along axis `i` that result index `at` meets at `tap`.
    #[inline(always)]
    fn source(&self, i: usize, at: usize, tap: usize) -> Option<usize> {
        let w = &self.window;
        if !self.backwards {
            return w.source(i, at, tap);
        }
        let shifted = (at + w.pad[i]).checked_sub(tap * w.dilation[i])?;
        let from = shifted / w.stride[i];
        (shifted.is_multiple_of(w.stride[i]) && from < w.output[i]).then_some(from)
    }

    fn pixels(&self) -> usize {
        self.sizes().1.iter().product::<usize>() * self.batch
    }

    /// The data's pixel under each tap of result pixel `at` (of all images), with the tap.
    #[inline(always)]
    fn taps(&self, at: usize, mut each: impl FnMut(usize, usize)) {
        let (input, output) = self.sizes();
        let [kd, kh, kw] = self.window.kernel;
        let plane: usize = output.iter().product();
        let (place, image) = (at % plane, at / plane);
        let (d, h, w) = (place / (output[1] * output[2]), place / output[2] % output[1], place % output[2]);
        for td in 0..kd {
            let Some(z) = self.source(0, d, td) else { continue };
            for th in 0..kh {
                let Some(y) = self.source(1, h, th) else { continue };
                for tw in 0..kw {
                    let Some(x) = self.source(2, w, tw) else { continue };
                    each((td * kh + th) * kw + tw, ((image * input[0] + z) * input[1] + y) * input[2] + x);
                }
            }
        }
    }

    /// The address of the first channel of a pixel of the data: pixels of an image may lie next to each other while
    /// images are apart.
    #[inline(always)]
    fn data(&self, pixel: usize) -> *const f32 {
        let plane: usize = self.sizes().0.iter().product();
        let image = pixel / plane * plane * self.inputs * self.groups;
        self.x.wrapping_add(image + pixel % plane * self.pixel)
    }
}

per_isa! {
    unsafe fn pixel = pixel_body(conv: &Conv, at: usize)
}

#[inline(always)]
unsafe fn pixel_body<const FMA: bool>(conv: &Conv, at: usize) {
    for group in 0..conv.groups {
        for first in (0..conv.outputs).step_by(NR) {
            let count = (conv.outputs - first).min(NR);
            let channel = group * conv.outputs + first;
            let mut sums = [0.0f32; NR];
            let weights = group * conv.weights.group + first / NR * conv.weights.panel;
            conv.taps(at, |tap, pixel| {
                let x = conv.data(pixel).wrapping_add(group * conv.inputs * conv.channel);
                let w = conv.weights.ptr.wrapping_add(weights + tap * conv.weights.tap);
                // SAFETY: taps lie in the data; operands were checked to have all channels and weights.
                unsafe { accumulate::<FMA>(conv, x, w, count, &mut sums) };
            });
            for (n, sum) in sums.iter().enumerate().take(count) {
                // SAFETY: the bias has one value per output channel, the result all pixels.
                unsafe {
                    let bias = if conv.bias.is_null() { 0.0 } else { *conv.bias.add(channel + n) };
                    *conv.y.add(at * conv.groups * conv.outputs + channel + n) = sum + bias;
                }
            }
        }
    }
}

/// Adds one tap's products over the input channels to the sums of a panel.
#[inline(always)]
unsafe fn accumulate<const FMA: bool>(
    conv: &Conv,
    x: *const f32,
    w: *const f32,
    count: usize,
    sums: &mut [f32; NR],
) {
    for c in 0..conv.inputs {
        // SAFETY: the caller's contract: a group's channels and the weights of the panel are readable.
        unsafe {
            let value = *x.add(c * conv.channel);
            let w = w.add(c * conv.weights.input);
            if conv.weights.output == 1 && count == NR {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = crate::math::fma::<FMA>(value, *w.add(n), *sum);
                }
            } else {
                for (n, sum) in sums.iter_mut().enumerate().take(count) {
                    *sum = crate::math::fma::<FMA>(value, *w.add(n * conv.weights.output), *sum);
                }
            }
        }
    }
}

struct Convolution {
    isa: Isa,
    conv: Conv,
    epilogue: Epilogue,
    members: usize,
}

impl Prepared for Convolution {
    fn scratch(&self) -> Scratch {
        Scratch { shared: 0, local: self.epilogue.scratch_bytes() }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let (conv, pixels) = (&self.conv, self.conv.pixels());
        let depth = conv.inputs.saturating_mul(conv.window.taps());
        let channels = conv.outputs * conv.groups;
        let work = pixels.saturating_mul(channels).saturating_mul(depth);
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let range = share(pixels, 1, part, parts);
            // SAFETY: members compute different pixels of the checked result; scratch is this member's.
            unsafe {
                for at in range.clone() {
                    pixel(self.isa, conv, at);
                }
                self.epilogue.apply(range.start, range.len(), 0, channels, channels, cx.local(part));
            }
        })
    }
}

/// Checks types, ranks and batch; returns x, w and y.
fn operands<'a>(call: &'a Call<'_>) -> Result<(&'a Operand, &'a Operand, &'a Operand), RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let float = [x, w, y].iter().all(|o| o.dtype == ElementType::F32);
    call.ensure(float, "convolutions are computed in f32")?;
    call.ensure(x.layout.is_none() && y.layout.is_none(), "only the weight may be packed")?;
    let axes = x.shape.len();
    call.ensure(
        axes >= 3 && w.shape.len() == axes && y.shape.len() == axes,
        "operands differ in their axes",
    )?;
    call.ensure(x.shape[0] == y.shape[0], "the result has the wrong batch")?;
    Ok((x, w, y))
}

fn groups(call: &Call<'_>, channels: usize) -> Result<usize, RuntimeError> {
    let groups = usize::try_from(call.kernel.int("group").unwrap_or(1)).unwrap_or(0);
    call.ensure(groups > 0 && channels.is_multiple_of(groups), "groups do not divide the channels")?;
    Ok(groups)
}

/// How the weight of a convolution is read: as it is (output channels, inputs, taps) or packed.
fn weights(
    call: &Call<'_>,
    w: &Operand,
    [groups, outputs, inputs, taps]: [usize; 4],
) -> Result<Weights, RuntimeError> {
    let depth = inputs.checked_mul(taps).filter(|&d| d < 1 << 40);
    let depth = depth.ok_or_else(|| call.bad("the weight is too large"))?;
    let ptr = w.f32().cast_const();
    let panel = NR * depth;
    match w.layout {
        None => Ok(Weights { ptr, group: outputs * depth, panel, output: depth, tap: 1, input: taps }),
        Some(layout) if layout == (Layout::ConvB { groups, depth, columns: outputs }) => {
            let group = outputs.div_ceil(NR) * panel;
            Ok(Weights { ptr, group, panel, output: 1, tap: inputs * NR, input: NR })
        }
        Some(layout)
            if layout == (Layout::Depthwise { taps, channels: groups }) && inputs == 1 && outputs == 1 =>
        {
            Ok(Weights { ptr, group: 1, panel: 0, output: 0, tap: groups, input: 0 })
        }
        Some(_) => Err(call.bad("the weight is packed for other sizes")),
    }
}

fn finish(call: &Call<'_>, conv: Conv, y: &Operand) -> Result<Box<dyn Prepared>, RuntimeError> {
    if y.len() == 0 {
        return Ok(Box::new(Nothing));
    }
    let matrix = Matrix { columns: conv.outputs * conv.groups, rows: conv.pixels() };
    let epilogue = Epilogue::tile_only(call, n_own(call), matrix)?;
    Ok(Box::new(Convolution { isa: call.isa, conv, epilogue, members: call.members }))
}

fn bias(call: &Call<'_>, channels: usize) -> Result<*const f32, RuntimeError> {
    check_bias(call, channels)?;
    Ok(own_bias(call).map_or(std::ptr::null(), |b| b.f32().cast_const()))
}

/// Prepares a `conv` step whose result has its channels last.
pub(crate) fn conv(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, w, y) = operands(call)?;
    let layout = Channels::of(call)?;
    let window = Window::over(call, layout.spatial_in(x), &w.shape[2..], Channels::Last.spatial_in(y))?;
    let groups = groups(call, w.shape[0])?;
    let (inputs, outputs) = (w.shape[1], w.shape[0] / groups);
    let channels = layout.count_in(x);
    call.ensure(inputs.checked_mul(groups) == Some(channels), "input channels do not fit the weight")?;
    call.ensure(Channels::Last.count_in(y) == w.shape[0], "the result has the wrong channels")?;
    let weights = weights(call, w, [groups, outputs, inputs, window.taps()])?;
    let bias = bias(call, w.shape[0])?;
    let depthwise = layout == Channels::Last && matches!(w.layout, Some(Layout::Depthwise { .. }));
    if depthwise && crate::depthwise_rows::has(&window) && y.len() > 0 {
        return crate::depthwise_rows::prepare(call, window, x.shape[0], channels);
    }
    let plane = window.input_len();
    let (pixel, channel) = if layout == Channels::Last { (channels, 1) } else { (1, plane) };
    let conv = Conv {
        backwards: false,
        batch: x.shape[0],
        groups,
        inputs,
        outputs,
        pixel,
        channel,
        x: x.f32(),
        weights,
        window,
        bias,
        y: y.f32(),
    };
    finish(call, conv, y)
}

/// Prepares a `conv_transpose` step with the channels last.
pub(crate) fn conv_transpose(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, w, y) = operands(call)?;
    call.ensure(Channels::of(call)? == Channels::Last, "the layout is unknown")?;
    // Seen backwards: the convolution goes from y to x.
    let window =
        Window::over(call, Channels::Last.spatial_in(y), &w.shape[2..], Channels::Last.spatial_in(x))?;
    let groups = groups(call, w.shape[0])?;
    let (inputs, outputs, taps) = (w.shape[0] / groups, w.shape[1], window.taps());
    call.ensure(Channels::Last.count_in(x) == w.shape[0], "input channels do not fit the weight")?;
    let channels = outputs.checked_mul(groups);
    call.ensure(channels == Some(Channels::Last.count_in(y)), "the result has the wrong channels")?;
    let bias = bias(call, outputs * groups)?;
    if y.len() > 0 && w.layout.is_some() {
        let packed =
            groups.checked_mul(taps).map(|groups| Layout::ConvB { groups, depth: inputs, columns: outputs });
        call.ensure(w.layout == packed, "the weight is packed for other sizes")?;
        let sizes = crate::conv_transpose_rows::Sizes { batch: x.shape[0], groups, inputs, outputs, window };
        return crate::conv_transpose_rows::prepare(call, sizes);
    }
    let weights = Weights {
        ptr: w.f32(),
        group: inputs * outputs * taps,
        panel: NR * taps,
        output: taps,
        tap: 1,
        input: outputs * taps,
    };
    let conv = Conv {
        window,
        backwards: true,
        batch: x.shape[0],
        groups,
        inputs,
        outputs,
        pixel: w.shape[0],
        channel: 1,
        x: x.f32(),
        weights,
        bias,
        y: y.f32(),
    };
    finish(call, conv, y)
}
