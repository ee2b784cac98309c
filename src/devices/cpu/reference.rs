//! The `reference` kernel: hands a step to host kernels that the program provides, and the empty step.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::prepared::{Call, Cx, Operand, Prepared};
use partita_runtime::driver::{HostKernel, HostKernels, HostType};
use partita_runtime::error::RuntimeError;
use smallvec::SmallVec;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// A step without elements.
pub(crate) struct Nothing;

impl Prepared for Nothing {
    fn launch(&self, _: &Cx<'_>) -> Result<(), RuntimeError> {
        Ok(())
    }
}

/// Operands up to this number need no allocation at launch.
const INLINE: usize = 8;

struct Reference {
    kernel: Box<dyn HostKernel>,
    inputs: Vec<Option<Operand>>,
    outputs: Vec<Operand>,
}

impl Prepared for Reference {
    fn launch(&self, _: &Cx<'_>) -> Result<(), RuntimeError> {
        // SAFETY: operands were checked when they were bound, and results overlap nothing.
        let view = |o: &Operand| unsafe { from_raw_parts(o.ptr.cast_const(), o.bytes) };
        let inputs: SmallVec<[Option<&[u8]>; INLINE]> =
            self.inputs.iter().map(|i| i.as_ref().map(view)).collect();
        // SAFETY: as above.
        let view = |o: &Operand| unsafe { from_raw_parts_mut(o.ptr, o.bytes) };
        let mut outputs: SmallVec<[&mut [u8]; INLINE]> = self.outputs.iter().map(view).collect();
        self.kernel.run(&inputs, &mut outputs)
    }
}

/// Prepares a `reference` step with `kernels`.
pub(crate) fn prepare(
    call: &Call<'_>,
    kernels: Option<&dyn HostKernels>,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let Some(kernels) = kernels else {
        let op = call.kernel.string("op").unwrap_or("unknown");
        return Err(RuntimeError::new(
            "R042",
            format!("step `{}`", call.place),
            format!(
                "operator `{op}` has no CPU kernel, and this program does not link the reference evaluation"
            ),
            "give the CPU factory host kernels",
        ));
    };
    let unpacked = call.inputs.iter().flatten().chain(&call.outputs).all(|o| o.layout.is_none());
    call.ensure(unpacked, "the reference evaluation takes no packed weights")?;
    let describe = |o: &Operand| HostType { dtype: o.dtype, shape: o.shape.clone() };
    let inputs: Vec<Option<HostType>> = call.inputs.iter().map(|i| i.as_ref().map(describe)).collect();
    let outputs: Vec<HostType> = call.outputs.iter().map(describe).collect();
    let kernel = kernels.prepare(call.kernel, &inputs, &outputs, call.symbols)?;
    Ok(Box::new(Reference { kernel, inputs: call.inputs.clone(), outputs: call.outputs.clone() }))
}
