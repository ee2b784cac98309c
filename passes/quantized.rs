//! Quantised graphs: integers flow between products instead of the floats they stand for.
//!
//! Models say "quantised" with QuantizeLinear and DequantizeLinear around float operators. Here those with one scale
//! become the elementwise `quantize` and `dequantize`; `dequantize` moves behind what only moves elements, where it
//! may meet a `quantize` with the same numbers and both vanish; products of dequantised operands become products of
//! integers. This must happen before constants are folded: weights should stay bytes. Two passes that run last of all
//! fit the result to kernels.

use crate::driver::Ctx;
use partita_ir::diag::Diag;
use partita_ir::graph::Node;
use partita_ir::{Attrs, DType, Graph, NodeId, Tensor, Type, ValueId};

/// Operators that move elements of their first operand, which may as well be bytes.
const MOVES: &[&str] =
    &["flatten", "gather", "identity", "max_pool", "reshape", "slice", "squeeze", "transpose", "unsqueeze"];

/// The pass.
///
/// # Errors
/// None.
pub fn run(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    for id in graph.topological() {
        let Some((what, value)) = rewritten(&mut graph, id) else { continue };
        if !ctx.spend(what) {
            break;
        }
        let output = graph.node(id).outputs[0];
        graph.replace_uses(output, value);
    }
    graph.remove_dead();
    Ok(graph)
}

/// Gives every elementwise reader a `dequantize` of its own, so that each can be computed with what reads it.
///
/// # Errors
/// None.
pub fn apart(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    for id in graph.topological() {
        if graph.node(id).op.name != "dequantize" {
            continue;
        }
        let (node, output) = (graph.node(id).clone(), graph.node(id).outputs[0]);
        let kept = graph.outputs().any(|(_, v)| v == output);
        let readers = graph.consumers(id).into_iter().filter(|r| graph.node(*r).op.traits.elementwise);
        for reader in readers.skip(usize::from(!kept)).collect::<Vec<_>>() {
            if !ctx.spend("dequantize-apart") {
                return Ok(graph);
            }
            let copy = add(&mut graph, &node, "dequantize", node.attrs.clone(), &node.inputs, None);
            let Some(copy) = copy else { break };
            for operand in 0..graph.node(reader).inputs.len() {
                if graph.node(reader).inputs[operand] == Some(output) {
                    graph.set_input(reader, operand, Some(copy));
                }
            }
        }
    }
    Ok(graph)
}

/// Turns convolutions of integers back that have no layout: their kernels want the channels last.
///
/// # Errors
/// None.
pub fn rest(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    for id in graph.topological() {
        let node = graph.node(id).clone();
        let plain = matches!(node.attrs.str("layout"), None | Some("nchw"));
        if node.op.name != "quantized_conv" || !plain {
            continue;
        }
        let Some(value) = with_floats(&mut graph, &node) else { continue };
        if !ctx.spend("dequantize-rest") {
            break;
        }
        graph.replace_uses(node.outputs[0], value);
    }
    graph.remove_dead();
    Ok(graph)
}

/// The convolution of dequantised data with the weight as floats.
fn with_floats(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let (w, scales) = (graph.as_const(node.inputs[3]?)?, graph.as_const(node.inputs[4]?)?.to_f64s());
    let zero = graph.as_const(node.inputs[5]?)?.to_f64s()[0];
    let per_channel = w.shape()[1..].iter().product::<usize>().max(1);
    let scale = |i: usize| scales[if scales.len() == 1 { 0 } else { i / per_channel }];
    let values: Vec<f64> = w.to_f64s().iter().enumerate().map(|(i, v)| (v - zero) * scale(i)).collect();
    let (tensor, name) = (Tensor::from_f64s(DType::F32, w.shape(), &values)?, node.name.to_string());
    let w = graph.add_const(&fresh(graph, &name), tensor);
    let x = node.inputs[0]?;
    let ty = Type::new(DType::F32, graph.ty(x).shape.clone());
    let result = (fresh(graph, &graph.value(x).name), ty);
    let op = partita_ops::op("dequantize")?;
    let values = graph.add_node(&name, op, Attrs::new(), &node.inputs[..3], &[result]);
    let mut inputs = vec![Some(graph.node(values).outputs[0]), Some(w)];
    inputs.extend(node.inputs.get(6));
    add(graph, node, "conv", node.attrs.clone(), &inputs, None)
}

/// The value that stands for a node's only result, and the name of the rewrite.
fn rewritten(graph: &mut Graph, id: NodeId) -> Option<(&'static str, ValueId)> {
    let node = graph.node(id).clone();
    let [_] = node.outputs.as_slice() else { return None };
    match node.op.name {
        "quantize_linear" => quantize(graph, &node),
        "dequantize_linear" => dequantize(graph, &node).map(|v| ("to-dequantize", v)),
        "conv" => conv(graph, &node).map(|v| ("quantized-conv", v)),
        "matmul" => matmul(graph, &node).map(|v| ("quantized-matmul", v)),
        "gemm" => gemm(graph, &node).map(|v| ("quantized-matmul", v)),
        "concat" => concat(graph, &node).map(|v| ("dequantize-last", v)),
        name if MOVES.contains(&name) => moved(graph, &node).map(|v| ("dequantize-last", v)),
        _ => None,
    }
}

/// Adds a node beside `like` and returns its result, of the type of `like`'s with other elements if asked for.
fn add(
    graph: &mut Graph,
    like: &Node,
    op: &str,
    attrs: Attrs,
    inputs: &[Option<ValueId>],
    dtype: Option<DType>,
) -> Option<ValueId> {
    let output = *like.outputs.first()?;
    let ty = graph.ty(output).clone();
    let ty = match dtype {
        Some(dtype) => Type::new(dtype, ty.shape),
        None => ty,
    };
    let name = fresh(graph, &graph.value(output).name);
    let id = graph.add_node(&like.name, partita_ops::op(op)?, attrs, inputs, &[(name, ty)]);
    Some(graph.node(id).outputs[0])
}

/// A name that no value has.
fn fresh(graph: &Graph, base: &str) -> String {
    let taken = |name: &str| graph.values().any(|(_, v)| *v.name == *name);
    // Values are never removed, so their number makes a name new but for a coincidence.
    let mut n = graph.n_values();
    loop {
        let name = format!("{base}.{n}");
        if !taken(&name) {
            return name;
        }
        n += 1;
    }
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8)
}

/// Numbers with one scale and one zero point: `dequantize`d ones, or what `quantize` would make.
#[derive(Clone, Copy)]
struct Numbers {
    x: ValueId,
    scale: ValueId,
    zero: ValueId,
}

impl Numbers {
    fn operands(self) -> [Option<ValueId>; 3] {
        [Some(self.x), Some(self.scale), Some(self.zero)]
    }

    /// The operands of the `dequantize` that produces `value`.
    fn behind(graph: &Graph, value: Option<ValueId>) -> Option<Self> {
        let node = graph.node(graph.producer(value?)?);
        match (node.op.name, node.inputs.as_slice()) {
            ("dequantize", &[Some(x), Some(scale), Some(zero)]) => Some(Self { x, scale, zero }),
            _ => None,
        }
    }

    /// Whether both have the same scale and zero point.
    fn agrees(self, graph: &Graph, other: Self) -> bool {
        let same = |a: ValueId, b: ValueId| a == b || constants_equal(graph, a, b);
        same(self.scale, other.scale) && same(self.zero, other.zero)
    }
}

fn constants_equal(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    match (graph.as_const(a), graph.as_const(b)) {
        (Some(a), Some(b)) => a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes(),
        _ => false,
    }
}

/// The constant as one number without axes; `zero` where the value is missing.
fn number(graph: &mut Graph, value: Option<ValueId>, zero: DType) -> Option<ValueId> {
    let tensor = match value {
        Some(value) => {
            let tensor = graph.as_const(value)?;
            if tensor.rank() == 0 {
                return Some(value);
            }
            (tensor.n_elements() == 1)
                .then(|| Tensor::from_f64s(tensor.dtype(), &[], &tensor.to_f64s()))??
        }
        None => Tensor::from_f64s(zero, &[], &[0.0])?,
    };
    let name = fresh(graph, value.map_or("zero", |v| &graph.value(v).name));
    Some(graph.add_const(&name, tensor))
}

/// The operands of a QuantizeLinear or DequantizeLinear that has one scale and bytes on its integer side.
fn numbers(graph: &mut Graph, node: &Node, dtype: DType, float: DType) -> Option<Numbers> {
    let operand = |n: usize| node.inputs.get(n).copied().flatten();
    let plain = node.attrs.get("precision").is_none() && node.attrs.get("block_size").is_none();
    let scale = graph.as_const(operand(1)?)?;
    if !plain || !is_byte(dtype) || float != DType::F32 || scale.dtype() != DType::F32 {
        return None;
    }
    // What a scale that is not positive and finite gives is a matter of the operators' definition.
    if !scale.to_f64s().iter().all(|s| *s > 0.0 && s.is_finite()) {
        return None;
    }
    let scale = number(graph, operand(1), DType::F32)?;
    let zero = number(graph, operand(2), dtype)?;
    Some(Numbers { x: operand(0)?, scale, zero })
}

fn quantize(graph: &mut Graph, node: &Node) -> Option<(&'static str, ValueId)> {
    let (dtype, float) = (graph.ty(node.outputs[0]).dtype, graph.ty(node.inputs[0]?).dtype);
    let numbers = numbers(graph, node, dtype, float)?;
    if let Some(source) = Numbers::behind(graph, Some(numbers.x)).filter(|s| s.agrees(graph, numbers)) {
        return Some(("dequantize-quantize", source.x));
    }
    Some(("to-quantize", add(graph, node, "quantize", Attrs::new(), &numbers.operands(), None)?))
}

fn dequantize(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let (dtype, float) = (graph.ty(node.inputs[0]?).dtype, graph.ty(node.outputs[0]).dtype);
    let numbers = numbers(graph, node, dtype, float)?;
    add(graph, node, "dequantize", Attrs::new(), &numbers.operands(), None)
}

/// `dequantize` behind what moves elements.
fn moved(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let source = Numbers::behind(graph, *node.inputs.first()?)?;
    if node.op.name == "max_pool" && node.attrs.flag("ceil_mode") {
        // A window that only meets padding has no maximum, which bytes cannot say.
        return None;
    }
    let mut inputs = node.inputs.clone();
    inputs[0] = Some(source.x);
    let dtype = graph.ty(source.x).dtype;
    let moved = add(graph, node, node.op.name, node.attrs.clone(), &inputs, Some(dtype))?;
    add(graph, node, "dequantize", Attrs::new(), &Numbers { x: moved, ..source }.operands(), None)
}

/// The same for a concatenation of numbers that agree.
fn concat(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let parts: Option<Vec<Numbers>> = node.inputs.iter().map(|v| Numbers::behind(graph, *v)).collect();
    let parts = parts?;
    let (first, rest) = parts.split_first()?;
    let dtype = graph.ty(first.x).dtype;
    if !rest.iter().all(|p| p.agrees(graph, *first) && graph.ty(p.x).dtype == dtype) {
        return None;
    }
    let inputs: Vec<Option<ValueId>> = parts.iter().map(|p| Some(p.x)).collect();
    let joined = add(graph, node, "concat", node.attrs.clone(), &inputs, Some(dtype))?;
    add(graph, node, "dequantize", Attrs::new(), &Numbers { x: joined, ..*first }.operands(), None)
}

/// A constant weight in signed bytes around zero, with one scale or one for each slice along `axis`.
fn weight(graph: &mut Graph, value: Option<ValueId>, axis: usize) -> Option<[Option<ValueId>; 3]> {
    let node = graph.node(graph.producer(value?)?).clone();
    if !matches!(node.op.name, "dequantize" | "dequantize_linear") || node.attrs.get("block_size").is_some() {
        return None;
    }
    let (w, scale) = (node.inputs[0]?, node.inputs[1]?);
    let tensor = graph.as_const(w).filter(|t| t.dtype() == DType::I8 && axis < t.rank())?;
    let rank = tensor.rank() as i64;
    let stated = node.attrs.int_or("axis", 1);
    let along = if stated < 0 { stated + rank } else { stated } == axis as i64;
    let scales = graph.as_const(scale).filter(|t| t.dtype() == DType::F32)?;
    let per_slice = scales.shape() == [tensor.shape()[axis]] && along;
    let centred = node
        .inputs
        .get(2)
        .copied()
        .flatten()
        .is_none_or(|zero| graph.as_const(zero).is_some_and(|t| t.to_f64s().iter().all(|z| *z == 0.0)));
    if !centred || graph.ty(node.outputs[0]).dtype != DType::F32 {
        return None;
    }
    let scale = if per_slice { scale } else { number(graph, Some(scale), DType::F32)? };
    let zero = number(graph, None, DType::I8)?;
    Some([Some(w), Some(scale), Some(zero)])
}

/// A bias that is a vector of f32, or will be one once constants are folded.
fn bias(graph: &Graph, value: Option<ValueId>) -> Option<Option<ValueId>> {
    match value {
        None => Some(None),
        Some(v) => (graph.ty(v).dtype == DType::F32 && graph.ty(v).rank() == 1).then_some(Some(v)),
    }
}

/// A product of integers with these operands.
fn product(
    graph: &mut Graph,
    node: &Node,
    op: &str,
    attrs: Attrs,
    operands: ([Option<ValueId>; 3], [Option<ValueId>; 3], Option<ValueId>),
) -> Option<ValueId> {
    let (a, b, bias) = operands;
    let mut inputs = [a, b].concat();
    inputs.push(bias);
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    add(graph, node, op, attrs, &inputs, None)
}

fn conv(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let operand = |n: usize| node.inputs.get(n).copied().flatten();
    let x = Numbers::behind(graph, operand(0))?;
    let bias = bias(graph, operand(2))?;
    let w = weight(graph, operand(1), 0)?;
    product(graph, node, "quantized_conv", node.attrs.clone(), (x.operands(), w, bias))
}

fn matmul(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let (a, b) = (node.inputs[0], node.inputs[1]);
    let left = Numbers::behind(graph, a)?;
    let matrices = [a?, b?].iter().all(|v| graph.ty(*v).rank() >= 2);
    if !matrices {
        return None;
    }
    let right = match graph.ty(b?).rank() {
        2 => weight(graph, b, 1).or_else(|| Some(Numbers::behind(graph, b)?.operands())),
        _ => Some(Numbers::behind(graph, b)?.operands()),
    }?;
    product(graph, node, "quantized_matmul", Attrs::new(), (left.operands(), right, None))
}

fn gemm(graph: &mut Graph, node: &Node) -> Option<ValueId> {
    let operand = |n: usize| node.inputs.get(n).copied().flatten();
    let plain = ["alpha", "beta"].iter().all(|name| node.attrs.float_or(name, 1.0) == 1.0);
    let turned = node.attrs.flag("trans_b");
    let a = Numbers::behind(graph, operand(0)).filter(|_| plain && !node.attrs.flag("trans_a"))?;
    let bias = bias(graph, operand(2))?;
    if let Some(bias) = bias {
        let columns = graph.ty(node.outputs[0]).shape.last()?.clone();
        (graph.ty(bias).shape[0] == columns).then_some(())?;
    }
    let b = weight(graph, operand(1), usize::from(!turned))?;
    let attrs = Attrs::new().with("trans_b", i64::from(turned));
    product(graph, node, "quantized_matmul", attrs, (a.operands(), b, bias))
}
