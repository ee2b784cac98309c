//! Products of one operand with several constant weights become one product with the weights side by side, and a
//! split: the projections of queries, keys and values.
//!
//! A split is free where only attention reads the parts, through nodes that arrange elements; elsewhere it would copy,
//! and nothing is merged. One product reads its operand once and leaves fewer, larger steps to share between threads.

use crate::driver::Ctx;
use partita_ir::diag::Diag;
use partita_ir::{Attrs, Dim, Graph, NodeId, OpRef, Tensor, Type, ValueId};
use std::collections::BTreeMap;

/// Nodes between a product and the attention that reads it.
const MAX_DEPTH: usize = 12;

/// A product with a constant, and what is added to it.
struct Projection {
    weight: ValueId,
    bias: Option<ValueId>,
    /// The product, with the bias when there is one.
    result: ValueId,
    node: NodeId,
}

/// The pass.
///
/// # Errors
/// None of its own.
pub fn run(ctx: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    let uses = graph.uses();
    let outputs: Vec<ValueId> = graph.outputs().map(|(_, v)| v).collect();
    let mut siblings: BTreeMap<(ValueId, NodeId), Vec<Projection>> = BTreeMap::new();
    for id in graph.topological() {
        let finder = Finder { graph: &graph, uses: &uses, outputs: &outputs };
        if let Some((family, projection)) = finder.projection(id) {
            siblings.entry(family).or_default().push(projection);
        }
    }
    for ((operand, _), all) in siblings {
        if all.len() < 2 || !ctx.pay() {
            continue;
        }
        if merge(&mut graph, operand, &all).is_some() {
            ctx.count("merge-products", 1);
        }
    }
    graph.remove_dead();
    Ok(graph)
}

struct Finder<'a> {
    graph: &'a Graph,
    uses: &'a [Vec<NodeId>],
    outputs: &'a [ValueId],
}

impl Finder<'_> {
    /// A product that may be merged, with its left operand and the attention it is for.
    fn projection(&self, id: NodeId) -> Option<((ValueId, NodeId), Projection)> {
        let node = self.graph.node(id);
        let &[Some(operand), Some(weight)] = node.inputs.as_slice() else { return None };
        let (left, right) = (self.graph.ty(operand), self.graph.ty(weight));
        let fits = node.op.name == "matmul"
            && self.graph.as_const(operand).is_none()
            && self.graph.as_const(weight).is_some()
            && left.rank() >= 2
            && right.rank() == 2;
        if !fits {
            return None;
        }
        let product = node.outputs[0];
        let (bias, result) = match self.bias(product) {
            Some((bias, sum)) => (Some(bias), sum),
            None => (None, product),
        };
        let attention = self.attention(result, 0)?;
        Some(((operand, attention), Projection { weight, bias, result, node: id }))
    }

    /// The constant that the only reader of `product` adds along its columns, and the sum.
    fn bias(&self, product: ValueId) -> Option<(ValueId, ValueId)> {
        let &[reader] = self.uses[product.index()].as_slice() else { return None };
        let node = self.graph.node(reader);
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        let bias = if a == product { b } else { a };
        let (columns, ty) = (self.graph.ty(product).shape.last()?, self.graph.ty(bias));
        let fits = node.op.name == "add"
            && !self.outputs.contains(&product)
            && self.graph.as_const(bias).is_some()
            && ty.rank() == 1
            && ty.shape[0] == *columns;
        fits.then_some((bias, node.outputs[0]))
    }

    /// The one attention that reads a value, by itself or through nodes that arrange elements.
    fn attention(&self, value: ValueId, depth: usize) -> Option<NodeId> {
        if depth == MAX_DEPTH || self.outputs.contains(&value) {
            return None;
        }
        let mut found = Vec::new();
        for &id in &self.uses[value.index()] {
            let node = self.graph.node(id);
            let arranges = matches!(node.op.name, "transpose" | "expand" | "split" | "slice")
                || (node.op.traits.reshapes && node.outputs.len() == 1);
            match node.op.name {
                "attention" => found.push(id),
                _ if arranges => {
                    for &output in &node.outputs {
                        found.push(self.attention(output, depth + 1)?);
                    }
                }
                _ => return None,
            }
        }
        let first = *found.first()?;
        found.iter().all(|id| *id == first).then_some(first)
    }
}

/// Writes the merged product; `None` when the operators are not there or types differ.
fn merge(graph: &mut Graph, operand: ValueId, all: &[Projection]) -> Option<()> {
    let [matmul, add, concat, split]: [OpRef; 4] = [
        partita_ops::op("matmul")?,
        partita_ops::op("add")?,
        partita_ops::op("concat")?,
        partita_ops::op("split")?,
    ];
    let first = graph.ty(all[0].weight).clone();
    if all.iter().any(|p| graph.ty(p.weight).dtype != first.dtype) {
        return None;
    }
    let widths: Vec<i64> =
        all.iter().map(|p| graph.ty(p.weight).shape[1].as_known()).collect::<Option<_>>()?;
    let total = Dim::known(widths.iter().sum());
    let name = format!("{}_merged", graph.node(all[0].node).name);
    let side_by_side = |graph: &mut Graph, part: &str, axis: i64, parts: &[ValueId], shape: Vec<Dim>| {
        let name = format!("{name}_{part}");
        let operands: Vec<Option<ValueId>> = parts.iter().copied().map(Some).collect();
        let ty = Type::new(first.dtype, shape);
        let id =
            graph.add_node(&name, concat, Attrs::new().with("axis", axis), &operands, &[(name.clone(), ty)]);
        graph.node(id).outputs[0]
    };
    let weights: Vec<ValueId> = all.iter().map(|p| p.weight).collect();
    let weight = side_by_side(graph, "weight", 1, &weights, vec![first.shape[0].clone(), total.clone()]);
    let mut shape = graph.ty(operand).shape.clone();
    *shape.last_mut()? = total.clone();
    let ty = Type::new(first.dtype, shape);
    let node = graph.add_node(
        &name,
        matmul,
        Attrs::new(),
        &[Some(operand), Some(weight)],
        &[(name.clone(), ty.clone())],
    );
    let mut sum = graph.node(node).outputs[0];
    if all.iter().any(|p| p.bias.is_some()) {
        let mut biases = Vec::new();
        for (n, (projection, width)) in all.iter().zip(&widths).enumerate() {
            let width = usize::try_from(*width).ok()?;
            let zeros = Tensor::from_f64s(first.dtype, &[width], &vec![0.0; width])?;
            biases
                .push(projection.bias.unwrap_or_else(|| graph.add_const(&format!("{name}_zeros{n}"), zeros)));
        }
        let bias = side_by_side(graph, "bias", 0, &biases, vec![total]);
        let label = format!("{name}_sum");
        let node =
            graph.add_node(&label, add, Attrs::new(), &[Some(sum), Some(bias)], &[(label.clone(), ty)]);
        sum = graph.node(node).outputs[0];
    }
    let results: Vec<(String, Type)> = all
        .iter()
        .enumerate()
        .map(|(n, p)| (format!("{name}_part{n}"), graph.ty(p.result).clone()))
        .collect();
    let attrs = Attrs::new().with("axis", graph.ty(sum).rank() as i64 - 1).with("split", widths);
    let node = graph.add_node(&format!("{name}_split"), split, attrs, &[Some(sum)], &results);
    for (projection, part) in all.iter().zip(graph.node(node).outputs.clone()) {
        graph.replace_uses(projection.result, part);
    }
    Some(())
}
