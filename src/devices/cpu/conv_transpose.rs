//! Transposed convolution: a product per image, whose rows are then added to where their taps fall.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::blocks::{Block, Columns, Rows};
use crate::conv::{check_bias, n_own, own_bias};
use crate::epilogue::{Epilogue, Matrix};
use crate::isa::Isa;
use crate::layout::MR;
use crate::micro::Post;
use crate::pack::{View, pack_b, packed_b};
use crate::prepared::{Call, Cx, Prepared, Scratch, aligned, parts_for};
use crate::team::share;
use crate::window::{Channels, Window};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Multiply-adds below which another thread does not pay.
const GRAIN: usize = 200_000;

struct ConvTranspose {
    isa: Isa,
    batch: usize,
    groups: usize,
    /// Channels per group.
    inputs: usize,
    outputs: usize,
    /// The convolution whose gradient this is: its output is our input.
    window: Window,
    x: *const f32,
    w: *const f32,
    y: *mut f32,
    bias: Option<*const f32>,
    /// Output channels per unit of work.
    block: usize,
    epilogue: Epilogue,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for ConvTranspose {}
// SAFETY: as above.
unsafe impl Sync for ConvTranspose {}

impl ConvTranspose {
    /// Floats of the parts of a member's scratch: packed image, product.
    fn parts(&self) -> [usize; 2] {
        let (rows, columns) = (self.block * self.window.taps(), self.window.output_len());
        [packed_b(self.inputs, columns), rows * columns]
    }

    fn blocks(&self) -> usize {
        self.outputs.div_ceil(self.block)
    }

    unsafe fn unit(&self, unit: usize, packed: &mut Option<usize>, local: *mut u8) {
        let [b_floats, c_floats] = self.parts();
        let packed_x: *mut f32 = local.cast();
        let c: *mut f32 = local.wrapping_add(aligned(b_floats * 4)).cast();
        let scratch = c.cast::<u8>().wrapping_add(aligned(c_floats * 4));
        let (image, block) = (unit / self.blocks(), unit % self.blocks());
        let group = image % self.groups;
        let channels = block * self.block..((block + 1) * self.block).min(self.outputs);
        let (taps, columns, k) = (self.window.taps(), self.window.output_len(), self.inputs);
        let m = channels.len() * taps;
        let x = self.x.wrapping_add(image * k * columns);
        let w = self.w.wrapping_add(group * k * self.outputs * taps + channels.start * taps);
        let turned = View { ptr: w, row: 1, column: self.outputs * taps };
        let a = Rows::matrix(turned, k);
        let b = Columns::packed(packed_x, k);
        let product = Block {
            isa: self.isa,
            m,
            n: columns,
            a,
            b,
            c,
            ldc: columns,
            post: Post::NONE,
            copy: std::ptr::null_mut(),
        };
        // SAFETY: sizes were checked against the operands; the scratch holds all parts.
        unsafe {
            if *packed != Some(image) {
                pack_b(self.isa, View::new(x, k, columns, false), 0, columns, k, packed_x);
                *packed = Some(image);
            }
            product.run();
            for (index, channel) in channels.enumerate() {
                let row = image * self.outputs + channel;
                self.fold(row, c.add(index * taps * columns));
                let plane = self.window.input_len();
                self.epilogue.apply(row, 1, 0, plane, plane, scratch);
            }
        }
    }

    /// Adds the taps of one output channel to its plane.
    unsafe fn fold(&self, row: usize, taps: *const f32) {
        let w = &self.window;
        let plane = w.input_len();
        let y = self.y.wrapping_add(row * plane);
        let [_, kernel_h, kernel_w] = w.kernel;
        // SAFETY: the plane and the bias were checked; taps have one image of `output_len` floats each.
        unsafe {
            let start = self.bias.map_or(0.0, |b| *b.add(row % (self.outputs * self.groups)));
            std::slice::from_raw_parts_mut(y, plane).fill(start);
            for tap in 0..w.taps() {
                let at = [tap / (kernel_h * kernel_w), tap / kernel_w % kernel_h, tap % kernel_w];
                self.fold_tap(at, taps.add(tap * w.output_len()), y);
            }
        }
    }

    unsafe fn fold_tap(&self, tap: [usize; 3], src: *const f32, y: *mut f32) {
        let w = &self.window;
        let columns = w.valid(2, tap[2]);
        if columns.is_empty() {
            return;
        }
        for d in w.valid(0, tap[0]) {
            for h in w.valid(1, tap[1]) {
                let (Some(to_d), Some(to_h), Some(to_w)) =
                    (w.source(0, d, tap[0]), w.source(1, h, tap[1]), w.source(2, columns.start, tap[2]))
                else {
                    continue;
                };
                let from = (d * w.output[1] + h) * w.output[2] + columns.start;
                let to = (to_d * w.input[1] + to_h) * w.input[2] + to_w;
                let step = w.stride[2];
                for i in 0..columns.len() {
                    // SAFETY: `valid` keeps both indices inside their planes.
                    unsafe { *y.add(to + i * step) += *src.add(from + i) };
                }
            }
        }
    }
}

impl Prepared for ConvTranspose {
    fn scratch(&self) -> Scratch {
        let local: usize = self.parts().iter().map(|floats| aligned(floats * 4)).sum();
        Scratch { shared: 0, local: local + aligned(self.epilogue.scratch_bytes()) }
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let images = self.batch * self.groups;
        let work = images * self.inputs * self.outputs * self.window.taps();
        let parts = parts_for(work.saturating_mul(self.window.output_len()), GRAIN, self.members);
        cx.run(parts, &|part| {
            let mut packed = None;
            for unit in share(images * self.blocks(), 1, part, parts) {
                // SAFETY: units are different channels; scratch belongs to this member.
                unsafe { self.unit(unit, &mut packed, cx.local(part)) };
            }
        })
    }
}

/// Prepares a `conv_transpose` step.
pub(crate) fn prepare(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    if Channels::of(call)? != Channels::First {
        return crate::nhwc_plain::conv_transpose(call);
    }
    let (x, w, y) = (call.input(0)?, call.input(1)?, call.output(0)?);
    let dense = [x, w, y].iter().all(|o| o.dtype == ElementType::F32 && o.layout.is_none());
    call.ensure(dense, "transposed convolutions take f32, row-major operands")?;
    let axes = x.shape.len();
    call.ensure(
        axes >= 3 && w.shape.len() == axes && y.shape.len() == axes,
        "operands differ in their axes",
    )?;
    // Seen backwards: the convolution goes from y to x.
    let window = Window::new(call, y, &w.shape[2..], x)?;
    let groups = usize::try_from(call.kernel.int("group").unwrap_or(1)).unwrap_or(0);
    call.ensure(groups > 0 && w.shape[0].is_multiple_of(groups), "groups do not divide the channels")?;
    let (inputs, outputs) = (w.shape[0] / groups, w.shape[1]);
    call.ensure(x.shape[1] == w.shape[0], "input channels do not fit the weight")?;
    let channels = outputs.checked_mul(groups);
    call.ensure(
        channels == Some(y.shape[1]) && x.shape[0] == y.shape[0],
        "the result has the wrong channels",
    )?;
    check_bias(call, y.shape[1])?;
    if y.len() == 0 {
        return Ok(Box::new(crate::reference::Nothing));
    }
    let rows = window.taps().saturating_mul(window.output_len()).saturating_mul(outputs);
    call.ensure(rows < 1 << 34, "the product is too large")?;
    let matrix = Matrix { columns: window.input_len(), rows: y.shape[1] };
    let epilogue = Epilogue::tile_only(call, n_own(call), matrix)?;
    let images = x.shape[0] * groups;
    let wanted = (call.members * 2).div_ceil(images.max(1)).max(outputs * window.taps() / (20 * MR)).max(1);
    let block = outputs.div_ceil(wanted).max(1);
    Ok(Box::new(ConvTranspose {
        isa: call.isa,
        batch: x.shape[0],
        groups,
        inputs,
        outputs,
        window,
        x: x.f32(),
        w: w.f32(),
        y: y.f32(),
        bias: own_bias(call).map(|b| b.f32().cast_const()),
        block,
        epilogue,
        members: call.members,
    }))
}
