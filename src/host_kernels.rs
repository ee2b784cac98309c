//! The reference evaluation of operators as host kernels, for what a plan runs without a fast kernel.

use partita_codegen::reference::decode;
use partita_ir::op::{EvalCtx, OpRef};
use partita_ir::{Attrs, Bytes, Tensor};
use partita_plan::Kernel;
use partita_runtime::{HostKernel, HostKernels, HostType, RuntimeError};

/// Host kernels from the operator dictionary.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceKernels;

struct Prepared {
    op: OpRef,
    attrs: Attrs,
    inputs: Vec<Option<HostType>>,
    outputs: Vec<HostType>,
}

impl HostKernels for ReferenceKernels {
    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Option<HostType>],
        outputs: &[HostType],
        symbols: &[i64],
    ) -> Result<Box<dyn HostKernel>, RuntimeError> {
        let (name, attrs) = decode(kernel, symbols).ok_or_else(|| {
            RuntimeError::new(
                "R050",
                "a reference kernel",
                "its attributes are malformed",
                "compile the model again",
            )
        })?;
        let op = operator(&name)?;
        Ok(Box::new(Prepared { op, attrs, inputs: inputs.to_vec(), outputs: outputs.to_vec() }))
    }
}

/// The operator called `name`.
pub(crate) fn operator(name: &str) -> Result<OpRef, RuntimeError> {
    partita_ops::op(name).ok_or_else(|| {
        let message = format!("this build has no operator {name}");
        RuntimeError::new(
            "R051",
            "a reference kernel",
            message,
            "run the plan with the version that compiled it",
        )
    })
}

impl Prepared {
    fn error(&self, message: impl Into<String>) -> RuntimeError {
        RuntimeError::new("R052", format!("operator {}", self.op.name), message, "check the inputs' values")
    }
}

impl HostKernel for Prepared {
    fn run(&self, inputs: &[Option<&[u8]>], outputs: &mut [&mut [u8]]) -> Result<(), RuntimeError> {
        let mut tensors = Vec::with_capacity(inputs.len());
        for (ty, bytes) in self.inputs.iter().zip(inputs) {
            tensors.push(match (ty, bytes) {
                (Some(ty), Some(bytes)) => {
                    let tensor = Tensor::new(ty.dtype, &ty.shape, Bytes::from_vec(bytes.to_vec()));
                    Some(tensor.ok_or_else(|| self.error("an operand has the wrong size"))?)
                }
                _ => None,
            });
        }
        let refs: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
        let ctx = EvalCtx { attrs: &self.attrs, inputs: &refs, n_outputs: outputs.len() };
        let results = (self.op.eval)(&ctx).map_err(|d| self.error(d.message))?;
        for ((result, output), want) in results.iter().zip(outputs.iter_mut()).zip(&self.outputs) {
            if result.shape() != want.shape || result.bytes().len() != output.len() {
                return Err(self.error(format!(
                    "the result is {:?}, the plan expects {:?}",
                    result.shape(),
                    want.shape
                )));
            }
            output.copy_from_slice(result.bytes());
        }
        Ok(())
    }
}
