//! f16 and bf16 operands of kernels that compute in f32: converted before, results converted after.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::prepared::{Call, Cx, Operand, Prepared, Scratch, parts_for};
use crate::team::share;
use crate::tile_memory::{from_f32, to_f32};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Elements below which another thread does not pay.
const GRAIN: usize = 32_768;

/// An operand and its f32 twin.
struct Twin {
    operand: Operand,
    buffer: Box<[f32]>,
    ptr: *mut f32,
}

struct Widened {
    inner: Box<dyn Prepared>,
    inputs: Vec<Twin>,
    outputs: Vec<Twin>,
    members: usize,
}

// SAFETY: the addresses in it are operands or own buffers, used by one launch at a time.
unsafe impl Send for Widened {}
// SAFETY: as above.
unsafe impl Sync for Widened {}

impl Twin {
    fn of(operand: &Operand) -> Self {
        let mut buffer = vec![0f32; operand.len()].into_boxed_slice();
        let ptr = buffer.as_mut_ptr();
        Self { operand: operand.clone(), buffer, ptr }
    }

    fn operand(&self) -> Operand {
        Operand {
            ptr: self.ptr.cast(),
            bytes: self.buffer.len() * 4,
            dtype: ElementType::F32,
            ..self.operand.clone()
        }
    }
}

impl Widened {
    fn convert(&self, cx: &Cx<'_>, twin: &Twin, widen: bool) -> Result<(), RuntimeError> {
        let count = twin.buffer.len();
        let parts = parts_for(count, GRAIN, self.members);
        let (dtype, size) = (twin.operand.dtype, twin.operand.dtype.size_bytes());
        let (narrow, wide) = (crate::prepared::Shared(twin.operand.ptr), crate::prepared::Shared(twin.ptr));
        cx.run(parts, &|part| {
            let range = share(count, 64, part, parts);
            let narrow = narrow.get().wrapping_add(range.start * size);
            let wide = wide.get().wrapping_add(range.start);
            // SAFETY: both have `count` elements; members convert different ranges.
            unsafe {
                if widen {
                    to_f32(dtype, narrow, wide, range.len());
                } else {
                    from_f32(dtype, wide, narrow, range.len());
                }
            }
        })
    }
}

impl Prepared for Widened {
    fn scratch(&self) -> Scratch {
        self.inner.scratch()
    }

    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        for twin in &self.inputs {
            self.convert(cx, twin, true)?;
        }
        self.inner.launch(cx)?;
        for twin in &self.outputs {
            self.convert(cx, twin, false)?;
        }
        Ok(())
    }
}

fn is_half(operand: &Operand) -> bool {
    matches!(operand.dtype, ElementType::F16 | ElementType::Bf16) && operand.layout.is_none()
}

/// Prepares a kernel that computes in f32, with twins for operands of half the width.
pub(crate) fn prepare(
    call: Call<'_>,
    kernel: fn(&Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError>,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    if !call.inputs.iter().flatten().chain(&call.outputs).any(is_half) {
        return kernel(&call);
    }
    let mut call = call;
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for operand in call.inputs.iter_mut().flatten().filter(|o| is_half(o)) {
        let twin = Twin::of(operand);
        call.widened = Some(operand.dtype);
        *operand = twin.operand();
        inputs.push(twin);
    }
    for operand in call.outputs.iter_mut().filter(|o| is_half(o)) {
        let twin = Twin::of(operand);
        *operand = twin.operand();
        outputs.push(twin);
    }
    let members = call.members;
    Ok(Box::new(Widened { inner: kernel(&call)?, inputs, outputs, members }))
}
