//! From a graph that is not static as a whole to a program: blocks of static parts and operators on the host.

use crate::error::{Error, Result};
use crate::pipeline::{Part, Setting, optimize, plan_part};
use partita_codegen::cut::why_on_host;
use partita_codegen::weights::{StoredBytes, StoredWeight, WEIGHT_ALIGN};
use partita_codegen::{Assembly, Stage, cut, reference};
use partita_ir::op::SIZES;
use partita_ir::{Form, Graph, NodeId, Tensor, Type, ValueId};
use partita_plan::program::{Bind, Block, BodyUse, Constant, ConstantUse, Item, PortForm, Program, SlotPort};
use partita_plan::{DimExpr, NO_VALUE, Plan, Storage};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The program of `graph` with its static parts.
///
/// # Errors
/// What planning a part says.
pub(crate) fn link(graph: &Graph, setting: &Setting) -> Result<(Vec<Part>, Assembly)> {
    let mut linker = Linker {
        setting,
        program: Program::default(),
        symbols: RefCell::default(),
        parts: Vec::new(),
        weights: Vec::new(),
        weight_bytes: 0,
    };
    linker.block(graph)?;
    Ok(linker.finish(graph))
}

struct Linker<'a> {
    setting: &'a Setting<'a>,
    program: Program,
    /// Names of sizes, numbered as they are met.
    symbols: RefCell<Vec<String>>,
    parts: Vec<Part>,
    weights: Vec<StoredWeight>,
    weight_bytes: u64,
}

/// A block under construction.
#[derive(Default)]
struct Slots {
    block: Block,
    of: BTreeMap<ValueId, u32>,
}

impl Slots {
    /// A new slot for the value.
    fn fill(&mut self, value: ValueId) -> u32 {
        let slot = self.block.slots;
        self.block.slots += 1;
        self.of.insert(value, slot);
        slot
    }
}

impl Linker<'_> {
    /// The block of a graph; its index is smaller than those of the bodies in it.
    fn block(&mut self, graph: &Graph) -> Result<u32> {
        let index = self.program.blocks.len();
        self.program.blocks.push(Block::default());
        let mut slots =
            Slots { block: Block { name: graph.name.clone(), ..Default::default() }, ..Default::default() };
        for value in graph.inputs() {
            let slot = slots.fill(*value);
            let port = self.port(&graph.value(*value).name, slot, graph.ty(*value));
            slots.block.inputs.push(port);
        }
        for stage in cut(graph) {
            let item = match stage {
                Stage::Static { graph: part, inputs, outputs } => {
                    self.part(graph, *part, &inputs, &outputs, &mut slots)?
                }
                Stage::Host(node) => self.host(graph, node, &mut slots)?,
            };
            slots.block.items.push(item);
        }
        for (name, value) in graph.outputs() {
            let slot = self.slot(graph, value, &mut slots);
            let port = self.port(name, slot, graph.ty(value));
            slots.block.outputs.push(port);
        }
        self.program.blocks[index] = slots.block;
        Ok(index as u32)
    }

    /// The number of a size.
    fn symbol(&self, name: &str) -> usize {
        let mut symbols = self.symbols.borrow_mut();
        symbols.iter().position(|s| s == name).unwrap_or_else(|| {
            symbols.push(name.to_owned());
            symbols.len() - 1
        })
    }

    fn port(&self, name: &str, slot: u32, ty: &Type) -> SlotPort {
        let form = match ty.form {
            Form::Tensor => PortForm::Tensor,
            Form::Unranked => PortForm::Unranked,
            Form::Any => PortForm::Any,
            Form::Sequence(_) | Form::Optional(_) | Form::Map(_) => PortForm::Other,
        };
        let number = |name: &str| Some(self.symbol(name));
        let shape: Vec<DimExpr> = ty.shape.iter().filter_map(|d| d.to_expr(&number)).collect();
        let (form, dtype) = (form as i32, ty.dtype as i32);
        SlotPort { name: name.to_owned(), slot, form, dtype, shape, text: ty.to_string() }
    }

    /// The slot of a value that is read; a constant gets one now.
    fn slot(&mut self, graph: &Graph, value: ValueId, slots: &mut Slots) -> u32 {
        if let Some(slot) = slots.of.get(&value) {
            return *slot;
        }
        let slot = slots.fill(value);
        if let Some(tensor) = graph.as_const(value) {
            let constant = self.constant(tensor);
            slots.block.constants.push(ConstantUse { slot, constant });
        }
        slot
    }

    fn constant(&mut self, tensor: &Tensor) -> u32 {
        let shape = tensor.shape().iter().map(|&d| d as u64).collect();
        let strings: Vec<String> = tensor.strings().into_iter().map(str::to_owned).collect();
        let offset = self.weight_bytes;
        if tensor.table().is_none() && !tensor.bytes().is_empty() {
            let bytes = StoredBytes::Raw(tensor.clone());
            self.weights.push(StoredWeight { offset_bytes: offset, bytes, layout: String::new() });
            self.weight_bytes = (offset + tensor.bytes().len() as u64).next_multiple_of(WEIGHT_ALIGN);
        }
        self.program.constants.push(Constant { dtype: tensor.dtype() as i32, shape, offset, strings });
        (self.program.constants.len() - 1) as u32
    }

    fn part(
        &mut self,
        graph: &Graph,
        part: Graph,
        inputs: &[ValueId],
        outputs: &[ValueId],
        slots: &mut Slots,
    ) -> Result<Item> {
        let name = part.name.clone();
        let (part, assembly) = plan_part(part, true, self.setting)?;
        self.parts.push(part);
        let plan = self.program.plans.len() as u32;
        let shift = self.weight_bytes;
        let moved = |w: StoredWeight| StoredWeight { offset_bytes: w.offset_bytes + shift, ..w };
        self.weights.extend(assembly.weights.into_iter().map(moved));
        self.weight_bytes = (shift + assembly.plan.weight_bytes).next_multiple_of(WEIGHT_ALIGN);
        let mut planned = assembly.plan;
        let weights = planned.values.iter_mut().filter(|v| v.storage == Storage::Weight as i32);
        weights.for_each(|v| v.offset += shift);
        self.program.plans.push(planned);
        let inputs = inputs.iter().map(|v| self.slot(graph, *v, slots)).collect();
        let outputs = outputs.iter().map(|v| slots.fill(*v)).collect();
        Ok(Item { name, plan, inputs, outputs, ..Default::default() })
    }

    fn host(&mut self, graph: &Graph, id: NodeId, slots: &mut Slots) -> Result<Item> {
        let node = graph.node(id);
        let number = |name: &str| Some(self.symbol(name));
        let kernel = reference::kernel(node.op, &node.attrs, &number).ok_or_else(|| {
            Error::new(
                "C001",
                format!("an attribute of {} cannot be written", node.name),
                "please report this",
            )
        })?;
        let mut bodies = Vec::new();
        for (name, body) in node.attrs.graphs() {
            // A body that the passes cannot improve runs as it is.
            let improved = optimize((**body).clone(), self.setting.options);
            let body = improved.map_or_else(|_| (**body).clone(), |(graph, _)| graph);
            bodies.push(BodyUse { name: name.to_owned(), block: self.block(&body)? });
        }
        let operand = |v: &Option<ValueId>| v.map(|v| self.slot(graph, v, slots)).unwrap_or(NO_VALUE);
        let inputs = node.inputs.iter().map(operand).collect();
        let outputs = node.outputs.iter().map(|v| slots.fill(*v)).collect();
        let (name, kernel) = (format!("{} ({})", node.name, node.op.name), Some(kernel));
        let why = why_on_host(graph, id).unwrap_or_default().to_owned();
        Ok(Item { name, plan: NO_VALUE, kernel, inputs, outputs, bodies, binds: self.binds(graph, id), why })
    }

    /// Sizes that a node's results tell.
    fn binds(&self, graph: &Graph, id: NodeId) -> Vec<Bind> {
        let node = graph.node(id);
        let own = node.attrs.strs(SIZES).unwrap_or_default();
        let mut binds = Vec::new();
        for (output, value) in node.outputs.iter().enumerate() {
            for (axis, dim) in graph.ty(*value).shape.iter().enumerate() {
                if let Some(name) = dim.as_symbol().filter(|s| own.iter().any(|o| o == s)) {
                    let symbol = self.symbol(name) as u32;
                    binds.push(Bind { symbol, output: output as u32, axis: axis as u32 });
                }
            }
        }
        binds
    }

    fn finish(mut self, graph: &Graph) -> (Vec<Part>, Assembly) {
        self.program.symbols = self.symbols.into_inner();
        for plan in &mut self.program.plans {
            plan.weight_bytes = self.weight_bytes;
        }
        let devices = self.setting.specs.iter().map(|s| s.device.clone()).collect();
        let plan = Plan {
            name: graph.name.clone(),
            devices,
            weight_bytes: self.weight_bytes,
            program: Some(self.program),
            ..Default::default()
        };
        (self.parts, Assembly { plan, weights: self.weights })
    }
}
