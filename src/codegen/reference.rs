//! The `reference` kernel: an operator's name and attributes as kernel parameters, and back.

use crate::params::{KernelBuilder, SymbolIndex, exprs};
use partita_ir::attr::{Attr, Attrs, Body};
use partita_ir::tensor::{Bytes, Tensor};
use partita_ir::text::parse_type;
use partita_ir::{DType, Graph, OpRef};
use partita_plan::{Kernel, Param};
use std::sync::Arc;

/// Prefix of attribute parameters, so that they cannot clash with `op`.
const PREFIX: &str = "attr.";

/// The kernel that evaluates `op` by its definition; `None` when an attribute holds an unbound symbol.
pub fn kernel(op: OpRef, attrs: &Attrs, symbols: SymbolIndex) -> Option<Kernel> {
    let mut builder = KernelBuilder::new("reference").string("op", op.name);
    for (name, attr) in attrs.iter() {
        builder = builder.param(encode(&format!("{PREFIX}{name}"), attr, symbols)?);
    }
    Some(builder.finish())
}

fn encode(name: &str, attr: &Attr, symbols: SymbolIndex) -> Option<Param> {
    let mut param = Param { name: name.to_owned(), ..Default::default() };
    let kind = match attr {
        Attr::Int(v) => {
            param.ints = vec![*v];
            "int"
        }
        Attr::Float(v) => {
            param.floats = vec![f64::from(*v)];
            "float"
        }
        Attr::Str(_) => "str",
        Attr::Ints(v) => {
            param.ints.clone_from(v);
            "ints"
        }
        Attr::Floats(v) => {
            param.floats = v.iter().map(|v| f64::from(*v)).collect();
            "floats"
        }
        Attr::Strs(_) => "strs",
        Attr::DType(v) => {
            param.ints = vec![i64::from(*v as i32)];
            "dtype"
        }
        Attr::Dims(v) => {
            param.dims = exprs(v, symbols)?;
            "dims"
        }
        Attr::Tensor(t) => {
            param.ints = tensor_ints(t);
            "tensor"
        }
        Attr::Graph(_) => "body",
        Attr::Type(_) => "type",
    };
    param.strings = vec![kind.to_owned()];
    match attr {
        Attr::Str(v) => param.strings.push(v.clone()),
        Attr::Strs(v) => param.strings.extend(v.iter().cloned()),
        Attr::Tensor(t) => param.strings.extend(t.strings().into_iter().map(str::to_owned)),
        Attr::Type(ty) => param.strings.push(ty.to_string()),
        // What a body computes is a block of the plan; its signature is all that evaluation looks at.
        Attr::Graph(body) => param.strings.extend(body.0.outputs().map(|(_, v)| body.0.ty(v).to_string())),
        _ => {}
    }
    Some(param)
}

/// A graph that has these outputs and nothing else.
fn signature(types: &[String]) -> Option<Graph> {
    let mut graph = Graph::new("body");
    for (n, text) in types.iter().enumerate() {
        let name = n.to_string();
        let value = graph.add_input(&name, parse_type(text).ok()?);
        graph.add_output(&name, value);
    }
    Some(graph)
}

/// Element type, rank, dims, then one number per byte: small tensors only ever are attributes. Text follows as
/// strings.
fn tensor_ints(t: &Tensor) -> Vec<i64> {
    let head = [i64::from(t.dtype() as i32), t.rank() as i64];
    let dims = t.shape().iter().map(|d| *d as i64);
    let bytes = if t.dtype() == DType::Str { &[] } else { t.bytes() };
    head.into_iter().chain(dims).chain(bytes.iter().map(|b| i64::from(*b))).collect()
}

fn tensor_of(ints: &[i64], strings: &[String]) -> Option<Tensor> {
    let dtype = DType::try_from(i32::try_from(*ints.first()?).ok()?).ok()?;
    let rank = usize::try_from(*ints.get(1)?).ok()?;
    let dims: Vec<usize> = ints
        .get(2..2usize.checked_add(rank)?)?
        .iter()
        .map(|d| usize::try_from(*d).ok())
        .collect::<Option<_>>()?;
    if dtype == DType::Str {
        return Tensor::from_strings(&dims, strings);
    }
    let bytes: Vec<u8> = ints[2 + rank..].iter().map(|b| u8::try_from(*b).ok()).collect::<Option<_>>()?;
    Tensor::new(dtype, &dims, Bytes::from_vec(bytes))
}

/// The operator's name and attributes of a `reference` kernel with its symbols bound; `None` when malformed.
pub fn decode(kernel: &Kernel, symbols: &[i64]) -> Option<(String, Attrs)> {
    let op = kernel.string("op")?.to_owned();
    let mut attrs = Attrs::new();
    for param in &kernel.params {
        if let Some(name) = param.name.strip_prefix(PREFIX) {
            attrs.set(name, decode_attr(param, symbols)?);
        }
    }
    Some((op, attrs))
}

fn decode_attr(param: &Param, symbols: &[i64]) -> Option<Attr> {
    let (kind, strings) = param.strings.split_first()?;
    Some(match kind.as_str() {
        "int" => Attr::Int(*param.ints.first()?),
        "float" => Attr::Float(*param.floats.first()? as f32),
        "str" => Attr::Str(strings.first()?.clone()),
        "ints" => Attr::Ints(param.ints.clone()),
        "floats" => Attr::Floats(param.floats.iter().map(|v| *v as f32).collect()),
        "strs" => Attr::Strs(strings.to_vec()),
        "dtype" => Attr::DType(DType::try_from(i32::try_from(*param.ints.first()?).ok()?).ok()?),
        "dims" => Attr::Ints(param.dims.iter().map(|d| d.eval(symbols).ok()).collect::<Option<_>>()?),
        "tensor" => Attr::Tensor(tensor_of(&param.ints, strings)?),
        "type" => Attr::Type(parse_type(strings.first()?).ok()?),
        "body" => Attr::Graph(Body(Arc::new(signature(strings)?))),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::Dim;

    #[test]
    fn attributes_survive() {
        let attrs = Attrs::new()
            .with("axis", -1i64)
            .with("mode", "linear")
            .with("scale", 0.5f32)
            .with("sizes", vec![1i64, 2])
            .with("to", DType::I64)
            .with("value", Tensor::from_slice(&[2], &[1.5f32, -2.0]).unwrap())
            .with("shape", vec![Dim::symbol("n"), Dim::known(3)]);
        let op = partita_ops::op("relu").unwrap();
        let kernel = kernel(op, &attrs, &|_| Some(0)).unwrap();
        let (name, back) = decode(&kernel, &[7]).unwrap();
        assert_eq!(name, "relu");
        assert_eq!(back, attrs.bind(&|_| Some(7)));
    }
}
