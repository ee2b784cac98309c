//! The block of mobile networks as one kernel: a product with each pixel (expand), a depthwise convolution, another
//! product (project), with the channels last.
//!
//! The expanded pixels are the largest tensor of such a net by far, and never exist as one: a member computes bands of
//! rows one after another, keeps the expanded rows that the next band's windows reach too, and so stays within the
//! second cache level. Rows at the edge of two members' shares are expanded twice.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::activation::Activation;
use crate::blocks::{Columns, Format, ONE, Rows, copy_floats};
use crate::depthwise_rows::{self, Ends, Stage};
use crate::epilogue::{Epilogue, Matrix};
use crate::gemm::{Target, area};
use crate::isa::Isa;
use crate::layout::Layout;
use crate::micro::Post;
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;
use std::ops::Range;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;
/// Floats of the rows a member keeps: three eighths of a second cache level of 1 MiB.
const KEPT_FLOATS: usize = 98_304;
/// Most rows of a band.
const BAND: usize = 16;

/// Operands of the kernel itself: x, then weight and bias of each stage.
const N_OWN: usize = 7;

/// A product with each pixel.
struct Pointwise {
    w: *const f32,
    inputs: usize,
    outputs: usize,
}

struct MobileBlock {
    isa: Isa,
    batch: usize,
    expand: Pointwise,
    expanded: Epilogue,
    stage: Stage,
    filtered: Epilogue,
    project: Pointwise,
    projected: Epilogue,
    /// Result rows of a band.
    band: usize,
    x: *const f32,
    y: *mut f32,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for MobileBlock {}
// SAFETY: as above.
unsafe impl Sync for MobileBlock {}

impl MobileBlock {
    /// Input rows of an image that result rows `lines` of it reach.
    fn reached(&self, lines: &Range<usize>) -> Range<usize> {
        let w = &self.stage.window;
        let last = (lines.end - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1;
        let to = last.saturating_sub(w.pad[1]).min(w.input[1]);
        (lines.start * w.stride[1]).saturating_sub(w.pad[1]).min(to)..to
    }

    /// Floats of the parts of a member's scratch: expanded rows, filtered rows, copies of the products.
    fn parts(&self) -> [usize; 3] {
        let (w, channels) = (&self.stage.window, self.stage.channels);
        let rows = kept_rows(w, self.band);
        let (expanded, filtered) = (rows * w.input[2], self.band * w.output[2]);
        let copy = |p: &Pointwise, pixels| copy_floats(&p.pixels(self.x), Format::F32, pixels, p.outputs);
        let copies = copy(&self.expand, expanded).max(copy(&self.project, filtered));
        [expanded * channels, filtered * channels, copies]
    }

    /// Computes result rows `rows` (of all images).
    unsafe fn run(&self, rows: Range<usize>, local: *mut u8) {
        let [expanded, filtered, _] = self.parts();
        let kept: *mut f32 = local.cast();
        let between: *mut f32 = local.wrapping_add(aligned(expanded * 4)).cast();
        let rest = local.wrapping_add(aligned(expanded * 4) + aligned(filtered * 4));
        let (w, channels) = (&self.stage.window, self.stage.channels);
        let (mut held, mut first) = (0..0, rows.start);
        while first < rows.end {
            let (image, line) = (first / w.output[1], first % w.output[1]);
            let end = (first + self.band).min(rows.end).min((image + 1) * w.output[1]);
            let need = self.reached(&(line..line + end - first));
            let ends = Ends {
                x: kept.wrapping_sub((image * w.input[1] + need.start) * w.input[2] * channels),
                y: between.wrapping_sub(first * w.output[2] * channels),
                epilogue: &self.filtered,
            };
            // SAFETY: bands are sized for the scratch, and lie in the data and the result.
            unsafe {
                if line == 0 || first == rows.start {
                    held = need.start..need.start;
                }
                self.expand(image, &held, &need, kept, rest);
                self.stage.band(&ends, first..end, 0..channels);
                self.project(first * w.output[2]..end * w.output[2], between, rest);
            }
            (held, first) = (need, end);
        }
    }

    /// Brings rows `need` of an image into `kept`, which has rows `held`.
    unsafe fn expand(
        &self,
        image: usize,
        held: &Range<usize>,
        need: &Range<usize>,
        kept: *mut f32,
        rest: *mut u8,
    ) {
        let w = &self.stage.window;
        let (width, row) = (w.input[2], w.input[2] * self.stage.channels);
        let again = need.start.clamp(held.start, held.end)..held.end;
        let fresh = again.end.max(need.start)..need.end.max(again.end);
        let pixel = (image * w.input[1] + fresh.start) * width;
        let a = self.expand.pixels(self.x.wrapping_add(pixel * self.expand.inputs));
        let b = Columns::packed(self.expand.w, self.expand.inputs);
        let c = kept.wrapping_add((fresh.start - need.start) * row);
        let to = Target { c, ldc: self.expand.outputs, row: 0 };
        let sizes = (0..fresh.len() * width, 0..self.expand.outputs);
        // SAFETY: the caller's contract; rows that windows reach again are moved to the front first.
        unsafe {
            std::ptr::copy(kept.wrapping_add((again.start - held.start) * row), kept, again.len() * row);
            if !fresh.is_empty() {
                area(self.isa, &a, &b, &to, &self.expanded, sizes, rest);
            }
        }
    }

    /// Computes result pixels `pixels` from filtered ones.
    unsafe fn project(&self, pixels: Range<usize>, filtered: *const f32, rest: *mut u8) {
        let outputs = self.project.outputs;
        let a = self.project.pixels(filtered);
        let b = Columns::packed(self.project.w, self.project.inputs);
        let c = self.y.wrapping_add(pixels.start * outputs);
        let to = Target { c, ldc: outputs, row: pixels.start };
        // SAFETY: the caller's contract.
        unsafe { area(self.isa, &a, &b, &to, &self.projected, (0..pixels.len(), 0..outputs), rest) };
    }
}

impl Pointwise {
    /// Pixels from `x` on as rows of a matrix.
    fn pixels(&self, x: *const f32) -> Rows<'static> {
        Rows { ptr: x, row: self.inputs, step: 1, taps: ONE, depth: self.inputs }
    }
}

impl Prepared for MobileBlock {
    fn scratch(&self) -> Scratch {
        let local: usize = self.parts().iter().map(|floats| aligned(floats * 4)).sum();
        Scratch { shared: 0, local: local + aligned(self.projected.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let w = &self.stage.window;
        let expand = self.expand.inputs.saturating_mul(w.input_len());
        let filter = (w.taps() + self.project.outputs).saturating_mul(w.output_len());
        let work = expand.saturating_add(filter).saturating_mul(self.stage.channels * self.batch);
        let parts = parts_for(work, GRAIN, self.members);
        cx.run(parts, &|part| {
            let rows = share(self.batch * w.output[1], 1, part, parts);
            // SAFETY: members compute different rows of the result with own scratch.
            unsafe { self.run(rows, cx.local(part)) };
        })
    }
}

/// Most expanded rows that `band` result rows reach.
fn kept_rows(w: &Window, band: usize) -> usize {
    ((band - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1).min(w.input[1].max(1))
}

/// The activation and bounds behind stage `stage`, with its bias.
fn between(call: &Call<'_>, stage: usize, channels: usize) -> Result<Epilogue, RuntimeError> {
    let mut post = Post { active: true, ..Post::NONE };
    if let Some(bias) = call.optional(2 + 2 * stage) {
        let fits = bias.dtype == ElementType::F32 && bias.layout.is_none() && bias.shape == [channels];
        call.ensure(fits, "a bias must be f32 with one value per channel")?;
        post.column_bias = bias.f32();
    }
    let (names, values) = (call.kernel.param("activations"), call.kernel.param("values"));
    let name = names.and_then(|p| p.strings.get(stage)).map_or("identity", String::as_str);
    let number = |i: usize| values.and_then(|p| p.floats.get(2 * stage + i)).map_or(0.0, |&v| v as f32);
    match name {
        "identity" => {}
        "clip" => (post.low, post.high) = (number(0), number(1)),
        "relu" => post.low = 0.0,
        "leaky_relu" => post.activation = Activation::Leaky { slope: number(0) },
        "hard_sigmoid" => post.activation = Activation::HardSigmoid { slope: number(0), shift: number(1) },
        "hard_swish" => post.activation = Activation::HardSwish { slope: 1.0 / 6.0, shift: 0.5 },
        _ => return Err(call.bad("parameter `activations` names no activation")),
    }
    Ok(Epilogue::of(post))
}

/// The weight of a product with each pixel.
fn pointwise(call: &Call<'_>, w: &Operand) -> Result<Pointwise, RuntimeError> {
    let bad = || call.bad("the weight of a product with each pixel must be packed");
    let &[outputs, inputs, 1, 1] = w.shape.as_slice() else { return Err(bad()) };
    if w.layout != Some(Layout::ConvB { groups: 1, depth: inputs, columns: outputs }) {
        return Err(bad());
    }
    Ok(Pointwise { w: w.f32(), inputs, outputs })
}

/// Prepares a `mobile_block` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(3)?, call.output(0)?);
    call.ensure(x.dtype == ElementType::F32 && y.dtype == ElementType::F32, "mobile blocks take f32")?;
    let dense = [x, y].iter().all(|o| o.layout.is_none() && o.shape.len() == 4);
    call.ensure(dense && w.shape.len() == 4, "mobile blocks take four axes, packed weights only")?;
    let (expand, project) = (pointwise(call, call.input(1)?)?, pointwise(call, call.input(5)?)?);
    let layout = Channels::Last;
    let window = Window::over(call, layout.spatial_in(x), &w.shape[2..], layout.spatial_in(y))?;
    let channels = expand.outputs;
    let packed = w.layout == Some(Layout::Depthwise { taps: window.taps(), channels });
    let (bias, fits) = (call.optional(6), w.shape[..2] == [channels, 1] && project.inputs == channels);
    call.ensure(packed && fits, "the stages differ in their channels")?;
    let ends = x.shape[3] == expand.inputs && y.shape[3] == project.outputs && x.shape[0] == y.shape[0];
    call.ensure(ends && depthwise_rows::has(&window), "operands and weights differ in their channels")?;
    let own = bias
        .is_none_or(|b| b.dtype == ElementType::F32 && b.layout.is_none() && b.shape == [project.outputs]);
    call.ensure(own, "a bias must be f32 with one value per channel")?;
    let (expanded, filtered) = (between(call, 0, channels)?, between(call, 1, channels)?);
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let matrix = Matrix { columns: project.outputs, rows: y.len() / project.outputs };
    let row = |band: usize| {
        let pixels = kept_rows(&window, band).checked_mul(window.input[2])?;
        pixels.checked_add(band.checked_mul(window.output[2])?)?.checked_mul(channels)
    };
    call.ensure(row(1).is_some_and(|floats| floats < 1 << 30), "a row is too large")?;
    let fits = |band: &usize| row(*band).is_some_and(|floats| floats <= KEPT_FLOATS);
    let band = (1..=BAND.min(window.output[1])).rev().find(fits).unwrap_or(1);
    Ok(Box::new(MobileBlock {
        isa: call.isa,
        batch: x.shape[0],
        expand,
        expanded,
        stage: Stage::new(call.isa, window, channels, w.f32()),
        filtered,
        project,
        projected: Epilogue::over_columns(call, N_OWN, matrix, bias)?,
        band,
        x: x.f32(),
        y: y.f32(),
        members: call.members,
    }))
}
