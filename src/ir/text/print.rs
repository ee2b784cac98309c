//! Graph to text, in canonical form.

use crate::attr::{Attr, Attrs};
use crate::graph::{Graph, NodeId, Source, ValueId};
use crate::tensor::Tensor;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Constants up to this many elements are always written inline.
const INLINE_ELEMENTS: usize = 16;

/// Where large constants go: returns the file name and the offset at which the tensor's bytes were put, or
/// `None` to have them written inline.
pub type WeightSink<'a> = &'a mut dyn FnMut(&Tensor) -> Option<(String, usize)>;

/// A sink that writes every constant inline.
pub fn inline_weights(_: &Tensor) -> Option<(String, usize)> {
    None
}

/// The canonical text of a graph, constants inline.
pub fn print(graph: &Graph) -> String {
    print_with(graph, &mut inline_weights)
}

/// The canonical text of a graph; large constants go to `sink`.
pub fn print_with(graph: &Graph, sink: WeightSink) -> String {
    let printer = Printer { graph, names: names(graph) };
    let mut out = printer.header();
    for value in printer.used_constants() {
        printer.constant(value, sink, &mut out);
    }
    for node in graph.topological() {
        printer.node(node, &mut out);
    }
    out.push_str("}\n");
    out
}

/// A unique printable name for every value.
fn names(graph: &Graph) -> Vec<String> {
    let mut taken = BTreeSet::new();
    graph
        .values()
        .map(|(id, value)| {
            let mut name =
                if value.name.is_empty() { id.index().to_string() } else { value.name.to_string() };
            while !taken.insert(name.clone()) {
                name.push('\'');
            }
            name
        })
        .collect()
}

struct Printer<'a> {
    graph: &'a Graph,
    names: Vec<String>,
}

impl Printer<'_> {
    fn value(&self, id: ValueId) -> String {
        format!("%{}", quoted(&self.names[id.index()]))
    }

    fn header(&self) -> String {
        let params: Vec<String> = self
            .graph
            .inputs()
            .iter()
            .map(|v| format!("{}: {}", self.value(*v), self.graph.ty(*v)))
            .collect();
        let outputs: Vec<String> = self
            .graph
            .outputs()
            .map(|(name, v)| {
                if name == self.names[v.index()] {
                    self.value(v)
                } else {
                    format!("{name:?} = {}", self.value(v))
                }
            })
            .collect();
        format!("graph {}({}) -> ({}) {{\n", quoted(&self.graph.name), params.join(", "), outputs.join(", "))
    }

    /// Constants that a node or an output reads, in order of creation.
    fn used_constants(&self) -> BTreeSet<ValueId> {
        let read = self.graph.nodes().flat_map(|(_, n)| n.inputs.iter().flatten().copied());
        read.chain(self.graph.outputs().map(|(_, v)| v))
            .filter(|v| self.graph.as_const(*v).is_some())
            .collect()
    }

    fn constant(&self, id: ValueId, sink: WeightSink, out: &mut String) {
        if let Source::Const(tensor) = &self.graph.value(id).source {
            let _ = writeln!(
                out,
                "  const {}: {} = {}",
                self.value(id),
                self.graph.ty(id),
                literal(tensor, sink)
            );
        }
    }

    fn node(&self, id: NodeId, out: &mut String) {
        let node = self.graph.node(id);
        let list = |items: Vec<String>| items.join(", ");
        let results = list(node.outputs.iter().map(|v| self.value(*v)).collect());
        let _ = write!(out, "  {results} = {}", node.op.name);
        let operands: Vec<String> =
            node.inputs.iter().map(|v| v.map_or_else(|| "_".to_owned(), |v| self.value(v))).collect();
        if !operands.is_empty() {
            let _ = write!(out, " {}", list(operands));
        }
        out.push_str(&attributes(&node.attrs));
        let _ =
            write!(out, " : {}", list(node.outputs.iter().map(|v| self.graph.ty(*v).to_string()).collect()));
        if *node.name != *self.names[node.outputs[0].index()] {
            let _ = write!(out, " loc({:?})", &*node.name);
        }
        out.push('\n');
    }
}

fn attributes(attrs: &Attrs) -> String {
    if attrs.is_empty() {
        return String::new();
    }
    let parts: Vec<String> =
        attrs.iter().map(|(name, attr)| format!("{name} = {}", attribute(attr))).collect();
    format!(" {{{}}}", parts.join(", "))
}

fn attribute(attr: &Attr) -> String {
    fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
        format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
    }
    match attr {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => float(f64::from(*v), &format!("{v:?}")),
        Attr::Str(v) => format!("{v:?}"),
        Attr::Ints(v) => list(v, ToString::to_string),
        Attr::Floats(v) => list(v, |v| float(f64::from(*v), &format!("{v:?}"))),
        Attr::Strs(v) => list(v, |v| format!("{v:?}")),
        Attr::DType(v) => v.name().to_owned(),
        Attr::Dims(v) => list(v, ToString::to_string),
        Attr::Tensor(t) => {
            let dims: Vec<String> = t.shape().iter().map(ToString::to_string).collect();
            format!("{}[{}] {}", t.dtype().name(), dims.join(", "), literal(t, &mut inline_weights))
        }
        Attr::Graph(body) => print(&body.0).trim_end().replace('\n', "\n  "),
        Attr::Type(ty) => ty.to_string(),
    }
}

/// `text` for finite values (Debug keeps a point), else a word.
fn float(value: f64, text: &str) -> String {
    match value {
        v if v.is_nan() => "nan".to_owned(),
        v if v == f64::INFINITY => "inf".to_owned(),
        v if v == f64::NEG_INFINITY => "-inf".to_owned(),
        _ => text.to_owned(),
    }
}

fn literal(tensor: &Tensor, sink: WeightSink) -> String {
    if tensor.dtype() == crate::DType::Str {
        let strings: Vec<String> = tensor.strings().iter().map(|s| format!("{s:?}")).collect();
        return format!("dense [{}]", strings.join(", "));
    }
    let size = tensor.dtype().size_bytes();
    let uniform =
        tensor.n_elements() > 1 && tensor.bytes().chunks_exact(size).all(|c| c == &tensor.bytes()[..size]);
    if uniform {
        return format!("splat {}", elements(tensor, 1)[0]);
    }
    let large = tensor.n_elements() > INLINE_ELEMENTS;
    if let Some((file, offset)) = large.then(|| sink(tensor)).flatten() {
        let end = offset + tensor.bytes().len();
        return format!("file {file:?}[{offset}..{end}] hash {:?}", tensor.key());
    }
    format!("dense [{}]", elements(tensor, tensor.n_elements()).join(", "))
}

/// The first `n` elements as text that reads back to the same bits.
fn elements(tensor: &Tensor, n: usize) -> Vec<String> {
    if !tensor.dtype().is_float() {
        return tensor.to_i64s().into_iter().take(n).map(|v| v.to_string()).collect();
    }
    tensor.to_f64s().into_iter().take(n).map(|v| float(v, &shortest(v, tensor.dtype()))).collect()
}

fn shortest(v: f64, dtype: crate::DType) -> String {
    match dtype {
        crate::DType::F64 => format!("{v:?}"),
        // f16 and bf16 values are f32 values, so the shortest f32 text reads back exactly.
        _ => format!("{:?}", v as f32),
    }
}

/// Identifiers and numbers as they are, everything else in quotes.
fn quoted(name: &str) -> String {
    let ident = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
        && name != "_";
    let number = !name.is_empty()
        && name.len() < 18
        && name.chars().all(|c| c.is_ascii_digit())
        && (name == "0" || !name.starts_with('0'));
    if ident || number { name.to_owned() } else { format!("{name:?}") }
}
