//! Convolution as a matrix product: weights times windows packed panel by panel.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{COLUMNS, Columns, Format, Rows, copy_floats};
use crate::epilogue::{Epilogue, Matrix};
use crate::gemm::{Target, area};
use crate::im2col::Panel;
use crate::isa::Isa;
use crate::layout::{MR, NR};
use crate::pack::{View, pack_b};
use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;
/// Floats of packed windows per block: a quarter of a second-level cache of 1 MiB.
const BLOCK_FLOATS: usize = 65_536;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub groups: usize,
    /// Input and output channels per group.
    pub inputs: usize,
    pub outputs: usize,
    pub window: Window,
}

impl Sizes {
    /// Depth of the product.
    pub(crate) fn depth(&self) -> usize {
        self.inputs * self.window.taps()
    }
}

/// Reads and checks the operands of `conv`: x, w, bias?, y.
fn sizes(call: &Call<'_>) -> Result<Sizes, RuntimeError> {
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let float = [x, w, y].iter().all(|o| o.dtype == ElementType::F32);
    call.ensure(float, "convolutions are computed in f32")?;
    call.ensure([x, w, y].iter().all(|o| o.layout.is_none()), "operands of a convolution are not packed")?;
    let axes = x.shape.len();
    call.ensure(
        axes >= 3 && w.shape.len() == axes && y.shape.len() == axes,
        "operands differ in their axes",
    )?;
    let window = Window::new(call, x, &w.shape[2..], y)?;
    let groups = usize::try_from(call.kernel.int("group").unwrap_or(1)).unwrap_or(0);
    call.ensure(groups > 0 && w.shape[0].is_multiple_of(groups), "groups do not divide the channels")?;
    let sizes = Sizes { batch: x.shape[0], groups, inputs: w.shape[1], outputs: w.shape[0] / groups, window };
    call.ensure(
        sizes.inputs.checked_mul(groups) == Some(x.shape[1]),
        "input channels do not fit the weight",
    )?;
    call.ensure(
        y.shape[0] == x.shape[0] && y.shape[1] == w.shape[0],
        "the result has the wrong batch or channels",
    )?;
    call.ensure(
        w.shape[1].checked_mul(window.taps()).is_some_and(|d| d < 1 << 40),
        "the weight is too large",
    )?;
    check_bias(call, w.shape[0])?;
    Ok(sizes)
}

/// Checks operand 2, the bias, against the number of output channels.
pub(crate) fn check_bias(call: &Call<'_>, channels: usize) -> Result<(), RuntimeError> {
    if let Some(bias) = own_bias(call) {
        let fits = bias.dtype == ElementType::F32 && bias.layout.is_none() && bias.shape == [channels];
        call.ensure(fits, "the bias must be f32 with one value per output channel")?;
    }
    Ok(())
}

/// How many operands belong to the kernel itself.
pub(crate) fn n_own(call: &Call<'_>) -> usize {
    call.kernel.int("n_own").and_then(|v| usize::try_from(v).ok()).unwrap_or(3)
}

/// The bias, when it is one of the kernel's own operands.
pub(crate) fn own_bias<'a>(call: &'a Call<'_>) -> Option<&'a Operand> {
    if n_own(call) >= 3 { call.optional(2) } else { None }
}

struct Conv {
    isa: Isa,
    sizes: Sizes,
    x: *const f32,
    w: *const f32,
    y: *mut f32,
    /// Columns per block, a multiple of `NR`.
    columns: usize,
    /// Parts into which the rows of each group are cut.
    cuts: usize,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Conv {}
// SAFETY: as above.
unsafe impl Sync for Conv {}

impl Conv {
    /// The rows of weights of a group.
    fn weights(&self, group: usize) -> Rows<'static> {
        let (rows, depth) = (self.sizes.outputs, self.sizes.depth());
        Rows::matrix(View::new(self.w.wrapping_add(group * rows * depth), rows, depth, false), depth)
    }

    fn chunks(&self) -> usize {
        self.sizes.window.output_len().div_ceil(self.columns)
    }

    /// Packs the windows of output positions `from..to` of one group's image.
    unsafe fn windows(&self, x: *const f32, from: usize, to: usize, out: *mut f32) {
        let (window, depth) = (&self.sizes.window, self.sizes.depth());
        // SAFETY: `x` has the group's planes, `out` room for the panels.
        unsafe {
            if window.is_pointwise() {
                let image = View::new(x.wrapping_add(from), depth, window.input_len(), false);
                return pack_b(self.isa, image, 0, to - from, depth, out);
            }
            for first in (from..to).step_by(NR) {
                let panel = Panel::new(window, first, (to - first).min(NR));
                panel.pack(self.isa, x, self.sizes.inputs, out.add((first - from) * depth));
            }
        }
    }

    unsafe fn unit(&self, unit: usize, local: *mut u8) {
        let (s, depth, plane) = (&self.sizes, self.sizes.depth(), self.sizes.window.output_len());
        let (cut, rest) = (unit % self.cuts, unit / self.cuts);
        let (chunk, image) = (rest % self.chunks(), rest / self.chunks());
        let group = image % s.groups;
        let rows = share(s.outputs, MR, cut, self.cuts);
        let columns = chunk * self.columns..((chunk + 1) * self.columns).min(plane);
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        let windows: *mut f32 = local.cast();
        let scratch = local.wrapping_add(aligned(self.columns * depth * 4));
        let x = self.x.wrapping_add(image * s.inputs * s.window.input_len());
        let y =
            Target { c: self.y.wrapping_add(image * s.outputs * plane), ldc: plane, row: image * s.outputs };
        // The product finds a panel by its column in the plane; this block's windows start at its first.
        let b = Columns::packed(windows.cast_const().wrapping_sub(columns.start * depth), depth);
        // SAFETY: sizes were checked against the operands, the scratch holds a block of windows.
        unsafe {
            self.windows(x, columns.start, columns.end, windows);
            area(self.isa, &self.weights(group), &b, &y, &self.epilogue, (rows, columns), scratch);
        }
    }
}

impl Prepared for Conv {
    fn scratch(&self) -> Scratch {
        let windows = aligned(self.columns * self.sizes.depth() * 4);
        let copy = copy_floats(&self.weights(0), Format::F32, self.sizes.outputs, self.columns);
        Scratch { shared: 0, local: windows + aligned(copy * 4) + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let s = &self.sizes;
        let images = s.batch * s.groups;
        let work = images.saturating_mul(s.outputs).saturating_mul(s.window.output_len());
        let parts = parts_for(work.saturating_mul(s.depth()), GRAIN, self.members);
        let units = images * self.chunks() * self.cuts;
        cx.run(parts, &|part| {
            for unit in share(units, 1, part, parts) {
                // SAFETY: units are disjoint parts of the output, scratch belongs to this member.
                unsafe { self.unit(unit, cx.local(part)) };
            }
        })
    }
}

/// Columns per block and row cuts, so that every member gets the same number of units where possible.
fn split(sizes: &Sizes, members: usize) -> (usize, usize) {
    let panels = sizes.window.output_len().div_ceil(NR).max(1);
    let per_block = (BLOCK_FLOATS / (sizes.depth().max(1) * NR)).clamp(1, COLUMNS / NR);
    let images = sizes.batch * sizes.groups;
    let mut chunks = panels.div_ceil(per_block);
    if !images.is_multiple_of(members) {
        chunks = chunks.next_multiple_of(members).min(panels);
    }
    let columns = panels.div_ceil(chunks) * NR;
    let units = images * panels.div_ceil(panels.div_ceil(chunks));
    let cuts = if units >= members { 1 } else { members.div_ceil(units.max(1)) };
    (columns, cuts.min(sizes.outputs.div_ceil(MR)).max(1))
}

/// Prepares a `conv` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let layout = Channels::of(call)?;
    if layout != Channels::First {
        let groups = call.kernel.int("group").and_then(|g| usize::try_from(g).ok());
        let w = call.input(1)?.shape.get(..2);
        let depthwise = layout == Channels::Last && w.is_some_and(|w| w[1] == 1 && Some(w[0]) == groups);
        return if depthwise {
            crate::nhwc_plain::conv(call)
        } else {
            crate::conv_rows::prepare(call, layout)
        };
    }
    let sizes = sizes(call)?;
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let matrix = Matrix { columns: sizes.window.output_len(), rows: sizes.outputs * sizes.groups };
    let epilogue = Epilogue::new(call, n_own(call), matrix, own_bias(call))?;
    let window = &sizes.window;
    let plane = window.input[0] == 1 && window.output[0] == 1;
    let flat = plane && window.kernel[0] == 1 && window.pad[0] == 0;
    if sizes.inputs == 1 && sizes.outputs == 1 && flat {
        return crate::depthwise::prepare(call, sizes, epilogue);
    }
    let (columns, cuts) = split(&sizes, call.members);
    Ok(Box::new(Conv {
        isa: call.isa,
        sizes,
        x: x.f32(),
        w: w.f32(),
        y: y.f32(),
        columns,
        cuts,
        epilogue,
        members: call.members,
    }))
}
