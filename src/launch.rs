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
    /// Number of the value: two operands may be the same.
    pub value: usize,
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
    /// Values of the symbols in the kernel's parameters.
    pub symbols: Vec<i64>,
}

/// Sizes of attention over all heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub heads: f64,
    pub queries: f64,
    pub keys: f64,
    /// Columns of a key, and of a value.
    pub depth: f64,
    pub values: f64,
}

/// Product of sizes.
pub fn count(shape: &[usize]) -> f64 {
    shape.iter().map(|&d| d as f64).product()
}

impl<'a> Launch<'a> {
    /// A call of a graph; `size` gives the value of a symbol, `symbols` those of all in the order of the graph.
    pub fn of_call(
        graph: &Graph,
        call: &'a Call,
        size: &dyn Fn(&str) -> Option<i64>,
        symbols: &[i64],
    ) -> Self {
        let operand = |arg: &Arg| {
            let ty = graph.ty(arg.value);
            let dims = arg.view.as_ref().unwrap_or(&ty.shape);
            let shape = dims.iter().map(|d| d.eval(size).map_or(1, |n| n.max(0) as usize)).collect();
            let source = &graph.value(arg.value).source;
            let (constant, input) = (matches!(source, Source::Const(_)), matches!(source, Source::Input(_)));
            Operand { value: arg.value.index(), dtype: ty.dtype, shape, constant, input }
        };
        Self {
            kernel: &call.kernel,
            inputs: call.operands.iter().map(|arg| arg.as_ref().map(operand)).collect(),
            outputs: call.results.iter().map(operand).collect(),
            symbols: symbols.to_vec(),
        }
    }

    /// A step of a bound plan; `None` when the step names what the plan does not have.
    pub fn of_step(plan: &'a Plan, bound: &Bound, step: &Step) -> Option<Self> {
        let operand = |value: &u32| {
            let (found, shape) = (plan.values.get(*value as usize)?, bound.shapes.get(*value as usize)?);
            let dtype = ElementType::try_from(found.dtype).ok()?;
            let constant = found.storage() == Storage::Weight;
            let input = plan.inputs.iter().any(|port| port.value == *value);
            Some(Operand { value: *value as usize, dtype, shape: shape.clone(), constant, input })
        };
        Some(Self {
            kernel: plan.kernels.get(step.kernel as usize)?,
            inputs: step.inputs.iter().map(|v| operand(v).filter(|_| *v != NO_VALUE)).collect(),
            outputs: step.outputs.iter().map(operand).collect::<Option<_>>()?,
            symbols: bound.symbols.clone(),
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
            "gemm_n_bits" | "gemm_int" => Some(2.0 * out * from_back(&self.input(0)?.shape, 1)?),
            "conv" | "conv_int" => Some(2.0 * out * count(self.weight()?.shape.get(1..)?)),
            "conv_transpose" => Some(2.0 * self.input(0)?.count() * count(self.input(1)?.shape.get(1..)?)),
            "attention" => {
                let h = self.heads()?;
                Some(2.0 * h.heads * h.queries * h.keys * (h.depth + h.values))
            }
            _ => None,
        }
    }

    /// The second factor of a product or convolution.
    pub fn weight(&self) -> Option<&Operand> {
        // Products of integers have the scale and the zero point of the first in between.
        self.input(if self.kernel.library.ends_with("_int") { 3 } else { 1 })
    }

    /// Sizes of `attention`: stated where heads lie in place, else those of the operands.
    pub fn heads(&self) -> Option<Heads> {
        let stated = self.kernel.dims("sizes").iter().map(|d| d.eval(&self.symbols).map(|d| d.max(0) as f64));
        let stated: Vec<f64> = stated.collect::<Result<_, _>>().ok()?;
        if let [batch @ .., queries, keys, depth, values] = &stated[..] {
            let heads = batch.iter().product();
            return Some(Heads { heads, queries: *queries, keys: *keys, depth: *depth, values: *values });
        }
        let (q, v) = (self.input(0)?, self.input(2)?);
        let ([.., queries, depth], [.., keys, values]) = (&q.shape[..], &v.shape[..]) else { return None };
        let [queries, depth, keys, values] = [*queries, *depth, *keys, *values].map(|d| d as f64);
        Some(Heads { heads: q.count() / (queries * depth).max(1.0), queries, keys, depth, values })
    }

    /// Bytes read and written. What only picks from its first operand reads as much as it writes.
    pub fn bytes(&self) -> Moved {
        let written: f64 = self.outputs.iter().map(Operand::bytes).sum();
        let picks = matches!(self.kernel.library.as_str(), "gather" | "slice");
        let half = self.kernel.string("precision") == Some("bf16");
        let mut moved = Moved { total: written, ..Moved::default() };
        for (at, operand) in self.inputs.iter().enumerate() {
            let Some(operand) = operand else { continue };
            if self.inputs[..at].iter().flatten().any(|other| other.value == operand.value) {
                continue;
            }
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
            "conv" | "conv_int" | "conv_transpose" => self.window(),
            "reference" => self.kernel.string("op").map(str::to_owned),
            "pool" | "reduce" => self.kernel.string("mode").map(str::to_owned),
            _ => None,
        };
        detail.map_or(library.to_owned(), |detail| format!("{library} {detail}"))
    }

    /// `3x3`, with `/2` for strides and the word for one channel per group.
    fn window(&self) -> Option<String> {
        let w = &self.weight()?.shape;
        let sizes: Vec<String> = w.get(2..)?.iter().map(ToString::to_string).collect();
        let stride = self.kernel.ints("strides").iter().copied().max().unwrap_or(1);
        let stride = if stride > 1 { format!("/{stride}") } else { String::new() };
        let groups = match self.kernel.int("group").unwrap_or(1) {
            1 => "",
            _ if w.get(1) == Some(&1) => " depthwise",
            _ => " grouped",
        };
        Some(format!("{}{stride}{groups}", sizes.join("x")))
    }
}
