//! Sizes with symbols, as ONNX says them: `0` and `-1` in reshapes where these are right, else shape arithmetic.

use crate::writer::Writer;
use partita_ir::dim::Atom;
use partita_ir::graph::Node;
use partita_ir::op::SIZES;
use partita_ir::{Attr, Diag, Dim, Graph, NodeId, Tensor, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The reshape target `dims` for an operand of type `from`, with at most one `-1`; `None` when that cannot say it.
pub(crate) fn reshape_target(dims: &[Dim], from: &Type) -> Option<Vec<i64>> {
    let mut out = Vec::with_capacity(dims.len());
    let mut inferred = dims.iter().filter(|d| d.is(-1)).count();
    let n_symbolic = dims.iter().filter(|d| d.as_known().is_none()).count();
    // With one unknown size -1 says it even if the operand's type changes; 0 only where it must.
    let copy = inferred + n_symbolic > 1;
    for (axis, dim) in dims.iter().enumerate() {
        out.push(match dim.as_known() {
            Some(size) => size,
            None if copy && from.shape.get(axis) == Some(dim) => 0,
            None => {
                inferred += 1;
                -1
            }
        });
    }
    // Beside a real 0 the size that -1 stands for is not determined.
    let zero = dims.iter().any(|d| d.is(0));
    (inferred <= 1 && !(zero && n_symbolic > 0)).then_some(out)
}

/// Nodes such that producers come before their readers, and nodes that define a size before those that mention it.
pub(crate) fn order(graph: &Graph) -> Vec<NodeId> {
    let definers: BTreeMap<&str, NodeId> = graph
        .nodes()
        .flat_map(|(id, n)| n.attrs.strs(SIZES).unwrap_or_default().iter().map(move |s| (s.as_str(), id)))
        .collect();
    let usual = graph.topological();
    if definers.is_empty() {
        return usual;
    }
    let mut missing: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut readers: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let mut needs: BTreeSet<NodeId> =
            node.inputs.iter().flatten().filter_map(|v| graph.producer(*v)).collect();
        needs.extend(mentioned(node).iter().filter_map(|s| definers.get(&**s)).filter(|d| **d != id));
        missing.insert(id, needs.len());
        needs.into_iter().for_each(|n| readers.entry(n).or_default().push(id));
    }
    let mut ready: BTreeSet<NodeId> = missing.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id).collect();
    let mut out = Vec::with_capacity(usual.len());
    while let Some(id) = ready.pop_first() {
        out.push(id);
        for reader in readers.get(&id).into_iter().flatten() {
            if let Some(n) = missing.get_mut(reader) {
                *n -= 1;
                if *n == 0 {
                    ready.insert(*reader);
                }
            }
        }
    }
    if out.len() == usual.len() { out } else { usual }
}

/// Symbols in the attributes of a node, those of its bodies included.
fn mentioned(node: &Node) -> BTreeSet<Arc<str>> {
    let mut symbols = BTreeSet::new();
    for (_, attr) in node.attrs.iter() {
        match attr {
            Attr::Dims(dims) => dims.iter().for_each(|d| d.symbols(&mut symbols)),
            Attr::Graph(body) => symbols.extend(body.0.nodes().flat_map(|(_, inner)| mentioned(inner))),
            _ => {}
        }
    }
    symbols
}

impl Writer<'_> {
    /// The name of an i64 vector with these elements.
    ///
    /// # Errors
    /// `U009` for a symbol that no input's shape gives.
    pub(crate) fn sizes(&mut self, dims: &[Dim]) -> Result<String, Diag> {
        let known: Option<Vec<i64>> = dims.iter().map(Dim::as_known).collect();
        if let Some(values) = known {
            return Ok(self.ints(&values));
        }
        let parts: Vec<String> = dims.iter().map(|d| self.size(d)).collect::<Result<_, _>>()?;
        if let [only] = parts.as_slice() {
            return Ok(only.clone());
        }
        Ok(self.emit("Concat", &parts, &[("axis", Attr::Int(0))], "sizes"))
    }

    /// The name of an i64 vector of this one element.
    fn size(&mut self, dim: &Dim) -> Result<String, Diag> {
        if let Some(value) = dim.as_known() {
            return Ok(self.ints(&[value]));
        }
        if let Some(name) = self.sizes_made.get(dim) {
            return Ok(name.clone());
        }
        let mut sum: Option<String> = None;
        let terms: Vec<(Vec<Atom>, i64)> = dim.terms().map(|(atoms, c)| (atoms.to_vec(), c)).collect();
        for (atoms, coefficient) in terms {
            let term = self.product(&atoms, coefficient)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => self.emit("Add", &[sum, term], &[], "size"),
            });
        }
        let name = sum.unwrap_or_else(|| self.ints(&[0]));
        self.sizes_made.insert(dim.clone(), name.clone());
        Ok(name)
    }

    fn product(&mut self, atoms: &[Atom], coefficient: i64) -> Result<String, Diag> {
        let mut product = (coefficient != 1 || atoms.is_empty()).then(|| self.ints(&[coefficient]));
        for atom in atoms {
            let factor = self.atom(atom)?;
            product = Some(match product {
                None => factor,
                Some(product) => self.emit("Mul", &[product, factor], &[], "size"),
            });
        }
        Ok(product.unwrap_or_else(|| self.ints(&[1])))
    }

    fn atom(&mut self, atom: &Atom) -> Result<String, Diag> {
        let (a, b, op) = match atom {
            Atom::Symbol(name) => return self.symbol(name),
            // Sizes are not negative, so rounding towards zero is rounding down.
            Atom::FloorDiv(a, b) => (a, b, "Div"),
            Atom::Max(a, b) => (a, b, "Max"),
            Atom::Min(a, b) => (a, b, "Min"),
        };
        let operands = [self.size(a)?, self.size(b)?];
        Ok(self.emit(op, &operands, &[], "size"))
    }

    fn symbol(&mut self, name: &str) -> Result<String, Diag> {
        let dim = Dim::symbol(name);
        if let Some(made) = self.sizes_made.get(&dim) {
            return Ok(made.clone());
        }
        let Some((value, axis)) = self.places.get(name).cloned() else {
            let text = format!("symbol {name} is not a dimension of any input or earlier value");
            return Err(Diag::new("U009", text).hint(format!("fix it with --dim {name}=N")));
        };
        let axis = axis as i64;
        let range = [("start", Attr::Int(axis)), ("end", Attr::Int(axis + 1))];
        let made = self.emit("Shape", &[value], &range, &format!("size_{name}"));
        self.sizes_made.insert(dim, made.clone());
        Ok(made)
    }

    /// The name of a constant i64 vector.
    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        match Tensor::from_slice(&[values.len()], values) {
            Some(tensor) => self.constant("ints", &tensor),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::DType;

    #[test]
    fn reshape_targets() {
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let from = Type::new(DType::F32, vec![b.clone(), s.clone(), 384.into()]);
        let target = |dims: &[Dim]| reshape_target(dims, &from);
        assert_eq!(target(&[b.clone(), s.clone(), 12.into(), 32.into()]), Some(vec![0, 0, 12, 32]));
        assert_eq!(target(&[b.clone() * s.clone(), 384.into()]), Some(vec![-1, 384]));
        assert_eq!(target(&[s.clone(), b.clone(), 384.into()]), None);
        assert_eq!(target(&[b.clone(), s * 384.into()]), Some(vec![0, -1]));
        assert_eq!(target(&[b, 0.into()]), None);
        assert_eq!(target(&[0.into(), (-1).into()]), Some(vec![0, -1]));
    }
}
