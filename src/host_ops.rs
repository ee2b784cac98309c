//! The evaluation of operators on values of any kind, for what a program runs on the host.

use crate::host_kernels::{ReferenceKernels, operator};
use partita_codegen::reference::decode;
use partita_ir::data::{Bodies, DataCtx, evaluate};
use partita_ir::{Datum, Diag, OpRef};
use partita_plan::Kernel;
use partita_runtime::{Blocks, HostCall, HostOp, HostOps, RuntimeError};
use std::cell::RefCell;

impl HostOps for ReferenceKernels {
    fn prepare(&self, kernel: &Kernel) -> Result<Box<dyn HostOp>, RuntimeError> {
        let op = operator(kernel.string("op").unwrap_or_default())?;
        Ok(Box::new(Evaluation { op, kernel: kernel.clone() }))
    }
}

struct Evaluation {
    op: OpRef,
    kernel: Kernel,
}

impl HostOp for Evaluation {
    fn run(&self, call: &HostCall<'_>) -> Result<Vec<Datum>, RuntimeError> {
        let (_, attrs) = decode(&self.kernel, call.symbols).ok_or_else(|| {
            self.error("R050", "its attributes are malformed, or need a size that is not known yet")
        })?;
        let bodies = Forward { blocks: call.blocks, error: RefCell::new(None) };
        let ctx = DataCtx { attrs: &attrs, inputs: call.inputs, n_outputs: call.n_outputs, bodies: &bodies };
        evaluate(self.op, &ctx).map_err(|diag| {
            // What went wrong inside a body has its own place.
            bodies.error.take().unwrap_or_else(|| {
                let hint =
                    if diag.hint.is_empty() { "check the inputs' values".to_owned() } else { diag.hint };
                RuntimeError::new("R052", format!("operator {}", self.op.name), diag.message, hint)
            })
        })
    }
}

impl Evaluation {
    fn error(&self, code: &'static str, message: &str) -> RuntimeError {
        RuntimeError::new(code, format!("operator {}", self.op.name), message, "compile the model again")
    }
}

/// Hands bodies to the runtime and keeps its error.
struct Forward<'a> {
    blocks: &'a dyn Blocks,
    error: RefCell<Option<RuntimeError>>,
}

impl Forward<'_> {
    fn keep<T>(&self, result: Result<T, RuntimeError>) -> Result<T, Diag> {
        result.map_err(|error| {
            let diag = Diag::new(error.code, error.message.clone());
            *self.error.borrow_mut() = Some(error);
            diag
        })
    }
}

impl Bodies for Forward<'_> {
    fn run(&self, name: &str, inputs: Vec<Datum>) -> Result<Vec<Datum>, Diag> {
        self.keep(self.blocks.run(name, inputs))
    }

    fn hold(&self, bytes: usize) -> Result<(), Diag> {
        self.keep(self.blocks.hold(bytes))
    }

    fn room(&self, bytes: usize) -> Result<(), Diag> {
        self.keep(self.blocks.room(bytes))
    }
}
