//! Tile programs from chains of elementwise nodes.

use crate::call::Arg;
use crate::lower::Ctx;
use partita_ir::op::ScalarCtx;
use partita_ir::tile::{Reg, TileBuilder, fits_lanes};
use partita_ir::{DType, NodeId, ValueId};
use partita_plan::TileProgram;
use std::collections::BTreeMap;

/// A program under construction: registers of the values computed or loaded so far.
pub(crate) struct Chain<'a> {
    ctx: &'a Ctx<'a>,
    builder: TileBuilder,
    regs: BTreeMap<ValueId, Reg>,
    operands: Vec<Arg>,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(ctx: &'a Ctx<'a>) -> Self {
        Self { ctx, builder: TileBuilder::new(), regs: BTreeMap::new(), operands: Vec::new() }
    }

    /// Input 0 of an epilogue: the anchor's result.
    pub(crate) fn accumulator(&mut self, value: ValueId, dtype: DType) -> Reg {
        let reg = self.builder.input(dtype);
        self.regs.insert(value, reg);
        reg
    }

    /// Builder for hand-written arithmetic.
    pub(crate) fn builder(&mut self) -> &mut TileBuilder {
        &mut self.builder
    }

    /// Says that `value` is in `reg`.
    pub(crate) fn define(&mut self, value: ValueId, reg: Reg) {
        self.regs.insert(value, reg);
    }

    /// The register of a value; loads it, or inlines it when it is a constant of one element.
    pub(crate) fn read(&mut self, arg: &Arg) -> Option<Reg> {
        if let Some(reg) = self.regs.get(&arg.value) {
            return Some(*reg);
        }
        let dtype = self.ctx.graph.ty(arg.value).dtype;
        if !fits_lanes(dtype) {
            return None;
        }
        let constant = self.ctx.graph.as_const(arg.value).filter(|t| t.n_elements() == 1);
        let reg = match constant {
            Some(t) if dtype.is_float() => self.builder.float(t.to_f64s()[0]),
            Some(t) => self.builder.int(t.to_i64s()[0]),
            None => {
                self.operands.push(arg.clone());
                self.builder.input(dtype)
            }
        };
        self.regs.insert(arg.value, reg);
        Some(reg)
    }

    /// Adds one elementwise node; `None` when it has no tile form for these types.
    pub(crate) fn node(&mut self, id: NodeId, last: bool) -> Option<Reg> {
        let node = self.ctx.graph.node(id);
        let scalar = node.op.scalar?;
        let [output] = node.outputs.as_slice() else { return None };
        let dtype = self.ctx.graph.ty(*output).dtype;
        let mut regs = Vec::new();
        let mut dtypes = Vec::new();
        for value in &node.inputs {
            // Elementwise rows with omitted operands in the middle state their own defaults; they see a prefix.
            let Some(value) = value else { break };
            regs.push(self.read(&Arg::of(*value))?);
            dtypes.push(self.ctx.graph.ty(*value).dtype);
        }
        if regs.len() != node.inputs.len() || !fits_lanes(dtype) {
            return None;
        }
        let ctx = ScalarCtx { attrs: &node.attrs, inputs: &dtypes, output: dtype };
        let mut reg = scalar(&ctx, &mut self.builder, &regs)?;
        // A store narrows by itself; in the middle of a chain the narrowing must be explicit.
        if !last && dtype != DType::Bool {
            reg = self.builder.convert(reg, dtype);
        }
        self.regs.insert(*output, reg);
        Some(reg)
    }

    /// The program storing `output`, and the operands it loads.
    pub(crate) fn finish(self, output: Reg) -> (TileProgram, Vec<Arg>) {
        (self.builder.finish(&[output]), self.operands)
    }
}
