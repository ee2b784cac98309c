//! Building kernels and their parameters.

use partita_ir::Dim;
use partita_plan::{DimExpr, Kernel, Param, TileProgram};

/// Numbers the symbols of a plan.
pub(crate) type SymbolIndex<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// A kernel under construction; parameters end up sorted by name.
pub(crate) struct KernelBuilder {
    kernel: Kernel,
}

impl KernelBuilder {
    pub(crate) fn new(library: &str) -> Self {
        Self { kernel: Kernel { library: library.to_owned(), ..Default::default() } }
    }

    /// Whether it is a product of integers.
    pub(crate) fn is_of_integers(&self) -> bool {
        matches!(self.kernel.library.as_str(), "gemm_int" | "conv_int")
    }

    pub(crate) fn param(mut self, param: Param) -> Self {
        self.kernel.params.push(param);
        self
    }

    pub(crate) fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.param(Param { name: name.to_owned(), ints: ints.to_vec(), ..Default::default() })
    }

    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        self.ints(name, &[value])
    }

    pub(crate) fn float(self, name: &str, value: f64) -> Self {
        self.param(Param { name: name.to_owned(), floats: vec![value], ..Default::default() })
    }

    pub(crate) fn string(self, name: &str, value: &str) -> Self {
        self.param(Param { name: name.to_owned(), strings: vec![value.to_owned()], ..Default::default() })
    }

    pub(crate) fn dims(self, name: &str, dims: Vec<DimExpr>) -> Self {
        self.param(Param { name: name.to_owned(), dims, ..Default::default() })
    }

    pub(crate) fn program(mut self, program: TileProgram) -> Self {
        self.kernel.program = Some(program);
        self
    }

    pub(crate) fn finish(mut self) -> Kernel {
        self.kernel.params.sort_by(|a, b| a.name.cmp(&b.name));
        self.kernel
    }
}

/// Dims in the plan's form; `None` when one holds a symbol the plan does not bind.
pub(crate) fn exprs(dims: &[Dim], symbols: SymbolIndex) -> Option<Vec<DimExpr>> {
    dims.iter().map(|d| d.to_expr(symbols)).collect()
}
