//! A kernel with the sizes of its operands: what it computes and moves, whoever asks.
//!
//! Prices ask before there is a plan, profiles and calibration ask about the steps of a bound plan; all of them get
//! the same numbers.

use partita_codegen::{Arg, Call};
use partita_ir::{Graph, Source};
use partita_plan::{ElementType, Kernel, NO_VALUE, Plan, Step, Storage};
use partita_runtime::Bound;

/// An operand or result.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    /// Known when the plan is made.
    pub constant: bool,
    /// Given to the run.
    pub input: bool,
}

/// Bytes that a launch moves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moved {
    /// Read and written.
    pub total: f64,
    /// Of these, constants and inputs of the run.
    pub weights: f64,
    pub inputs: f64,
}

impl Operand {
    /// Number of elements.
    pub fn count(&self) -> f64 {
        count(&self.shape)
    }

    /// Bytes in row-major order.
    pub fn bytes(&self) -> f64 {
        self.count() * self.dtype.size_bytes() as f64
    }
}

/// A kernel and its operands.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// `None` for omitted ones.
    pub inputs: Vec<Option<Operand>>,
    pub outputs: Vec<Operand>,
}

/// Product of sizes.
pub fn count(shape: &[usize]) -> f64 {
    shape.iter().map(|&d| d as f64).product()
}

impl<'a> Launch<'a> {
    /// A call of a graph; `size` gives the value of a symbol.
    pub fn of_call(graph: &Graph, call: &'a Call, size: &dyn Fn(&str) -> Option<i64>) -> Self {
        let operand = |arg: &Arg| {
            let ty = graph.ty(arg.value);
            let dims = arg.view.as_ref().unwrap_or(&ty.shape);
            let shape = dims.iter().map(|d| d.eval(size).map_or(1, |n| n.max(0) as usize)).collect();
            let source = &graph.value(arg.value).source;
            let (constant, input) = (matches!(source, Source::Const(_)), matches!(source, Source::Input(_)));
            Operand { dtype: ty.dtype, shape, constant, input }
        };
        Self {
            kernel: &call.kernel,
            inputs: call.operands.iter().map(|arg| arg.as_ref().map(operand)).collect(),
            outputs: call.results.iter().map(operand).collect(),
        }
    }

    /// A step of a bound plan; `None` when the step names what the plan does not have.
    pub fn of_step(plan: &'a Plan, bound: &Bound, step: &Step) -> Option<Self> {
        let operand = |value: &u32| {
            let (found, shape) = (plan.values.get(*value as usize)?, bound.shapes.get(*value as usize)?);
            let dtype = ElementType::try_from(found.dtype).ok()?;
            let constant = found.storage() == Storage::Weight;
            let input = plan.inputs.iter().any(|port| port.value == *value);
            Some(Operand { dtype, shape: shape.clone(), constant, input })
        };
        Some(Self {
            kernel: plan.kernels.get(step.kernel as usize)?,
            inputs: step.inputs.iter().map(|v| operand(v).filter(|_| *v != NO_VALUE)).collect(),
            outputs: step.outputs.iter().map(operand).collect::<Option<_>>()?,
        })
    }

    /// Input `index`, if there.
    pub fn input(&self, index: usize) -> Option<&Operand> {
        self.inputs.get(index)?.as_ref()
    }

    /// The first result.
    pub fn output(&self) -> Option<&Operand> {
        self.outputs.first()
    }

    /// Operations of the kernels that matter, a multiply-add counted twice; `None` for others.
    pub fn flops(&self) -> Option<f64> {
        let from_back = |shape: &[usize], n: usize| shape.len().checked_sub(n).map(|at| shape[at] as f64);
        let out = self.output()?.count();
        match self.kernel.library.as_str() {
            "tile" => Some(out * self.kernel.program.as_ref()?.instrs.len() as f64),
            "gemm" => {
                let transposed = self.kernel.int("trans_a").is_some_and(|t| t != 0);
                Some(2.0 * out * from_back(&self.input(0)?.shape, if transposed { 2 } else { 1 })?)
            }
            "gemm_n_bits" => Some(2.0 * out * from_back(&self.input(0)?.shape, 1)?),
            "conv" => Some(2.0 * out * count(self.input(1)?.shape.get(1..)?)),
            "conv_transpose" => Some(2.0 * self.input(0)?.count() * count(self.input(1)?.shape.get(1..)?)),
            "attention" => {
                let (q, v) = (self.input(0)?, self.input(2)?);
                Some(2.0 * (q.count() + out) * from_back(&v.shape, 2)?)
            }
            _ => None,
        }
    }

    /// Bytes read and written. What only picks from its first operand reads as much as it writes.
    pub fn bytes(&self) -> Moved {
        let written: f64 = self.outputs.iter().map(Operand::bytes).sum();
        let picks = matches!(self.kernel.library.as_str(), "gather" | "slice");
        let half = self.kernel.string("precision") == Some("bf16");
        let mut moved = Moved { total: written, ..Moved::default() };
        for (at, operand) in self.inputs.iter().enumerate() {
            let Some(operand) = operand else { continue };
            let bytes = match at {
                0 if picks => operand.bytes().min(written),
                1 if half && operand.constant => operand.bytes() / 2.0,
                _ => operand.bytes(),
            };
            moved.total += bytes;
            moved.weights += if operand.constant { bytes } else { 0.0 };
            moved.inputs += if operand.input { bytes } else { 0.0 };
        }
        moved
    }

    /// The kernel's name with what tells its launches apart, as `conv 3x3/2 depthwise`.
    pub fn label(&self) -> String {
        let library = self.kernel.library.as_str();
        let detail = match library {
            "conv" | "conv_transpose" => self.window(),
            "reference" => self.kernel.string("op").map(str::to_owned),
            "pool" | "reduce" => self.kernel.string("mode").map(str::to_owned),
            _ => None,
        };
        detail.map_or(library.to_owned(), |detail| format!("{library} {detail}"))
    }

    /// `3x3`, with `/2` for strides and the word for one channel per group.
    fn window(&self) -> Option<String> {
        let w = &self.input(1)?.shape;
        let sizes: Vec<String> = w.get(2..)?.iter().map(ToString::to_string).collect();
        let stride = self.kernel.ints("strides").iter().copied().max().unwrap_or(1);
        let stride = if stride > 1 { format!("/{stride}") } else { String::new() };
        let groups = match self.kernel.int("group").unwrap_or(1) {
            1 => "",
            _ if w[1] == 1 => " depthwise",
            _ => " grouped",
        };
        Some(format!("{}{stride}{groups}", sizes.join("x")))
    }
}
