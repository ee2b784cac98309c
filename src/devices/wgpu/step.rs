//! One step of a plan as data: what the kernels are generated from, and what they are generated to.

use partita_plan::{ElementType, Kernel, Param};
use partita_runtime::RuntimeError;

/// An operand or result with its shape bound.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    /// Where the value starts in its binding, in 4-byte words.
    pub base_words: usize,
    /// Weights are bound read-only, values of the arena are not.
    pub read_only: bool,
}

impl Operand {
    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One step with everything a kernel needs to know.
pub(crate) struct Step<'a> {
    pub kernel: &'a Kernel,
    /// Values of the plan's symbols.
    pub symbols: &'a [i64],
    /// `None` for an omitted operand.
    pub inputs: Vec<Option<Operand>>,
    pub outputs: Vec<Operand>,
    /// Name for messages.
    pub place: String,
    /// Position in the queue, counted from 1; a kernel that refuses its operands reports it.
    pub number: u32,
    /// Most workgroups along one axis.
    pub max_groups: u32,
}

/// What a binding of a dispatch refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Input(usize),
    Output(usize),
    /// One word in which a kernel leaves the number of a step that refused its operands.
    Flag,
}

/// A binding: what, and whether the shader only reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub slot: Slot,
    pub read_only: bool,
}

/// One compute dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    pub source: String,
    pub groups: [u32; 3],
    pub bindings: Vec<Binding>,
}

impl Step<'_> {
    /// An error at this step.
    pub(crate) fn error(&self, message: impl Into<String>) -> RuntimeError {
        RuntimeError::new(
            "G004",
            self.place.clone(),
            message,
            "compile the model again, or place this step on another device",
        )
    }

    /// Operand `k`, which the kernel needs.
    pub(crate) fn input(&self, k: usize) -> Result<&Operand, RuntimeError> {
        self.inputs
            .get(k)
            .and_then(Option::as_ref)
            .ok_or_else(|| self.error(format!("operand {k} of kernel '{}' is missing", self.kernel.library)))
    }

    /// Whether operand `k` was given.
    pub(crate) fn has(&self, k: usize) -> bool {
        self.inputs.get(k).is_some_and(Option::is_some)
    }

    /// Result `k`.
    pub(crate) fn output(&self, k: usize) -> Result<&Operand, RuntimeError> {
        self.outputs
            .get(k)
            .ok_or_else(|| self.error(format!("result {k} of kernel '{}' is missing", self.kernel.library)))
    }

    /// Number of operands that belong to the kernel itself; the others are the epilogue's.
    pub(crate) fn n_own(&self) -> usize {
        let n = self.kernel.int("n_own").and_then(|n| usize::try_from(n).ok());
        n.unwrap_or(self.inputs.len()).min(self.inputs.len())
    }

    /// Whether own operand `k` was given.
    pub(crate) fn has_own(&self, k: usize) -> bool {
        k < self.n_own() && self.has(k)
    }

    /// An integer parameter with a default.
    pub(crate) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.kernel.int(name).unwrap_or(default)
    }

    /// A parameter of one integer per axis, stated as integers or as sizes; `default` when absent.
    pub(crate) fn list(&self, name: &str, n: usize, default: i64) -> Result<Vec<i64>, RuntimeError> {
        let list = match self.kernel.param(name) {
            None => vec![default; n],
            Some(Param { dims, ints, .. }) if dims.is_empty() => ints.clone(),
            Some(p) => p.dims.iter().map(|d| d.eval(self.symbols)).collect::<Result<_, _>>()?,
        };
        if list.len() == n {
            return Ok(list);
        }
        Err(self.error(format!("parameter '{name}' has {} entries where {n} are needed", list.len())))
    }

    /// An axis parameter below `rank`.
    pub(crate) fn axis(&self, rank: usize) -> Result<usize, RuntimeError> {
        let axis = self.int_or("axis", 0);
        usize::try_from(axis)
            .ok()
            .filter(|a| *a < rank)
            .ok_or_else(|| self.error(format!("axis {axis} is outside a shape of rank {rank}")))
    }
}
