//! The `reference` kernel: an operator's name and attributes as kernel parameters, and back.

use crate::params::{KernelBuilder, SymbolIndex, exprs};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::tensor::{Bytes, Tensor};
use partita_ir::{DType, OpRef};
use partita_plan::{Kernel, Param};

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
    };
    param.strings = vec![kind.to_owned()];
    match attr {
        Attr::Str(v) => param.strings.push(v.clone()),
        Attr::Strs(v) => param.strings.extend(v.iter().cloned()),
        _ => {}
    }
    Some(param)
}

/// Element type, rank, dims, then one number per byte: small tensors only ever are attributes.
fn tensor_ints(t: &Tensor) -> Vec<i64> {
    let head = [i64::from(t.dtype() as i32), t.rank() as i64];
    let dims = t.shape().iter().map(|d| *d as i64);
    head.into_iter().chain(dims).chain(t.bytes().iter().map(|b| i64::from(*b))).collect()
}

fn tensor_of(ints: &[i64]) -> Option<Tensor> {
    let dtype = DType::try_from(i32::try_from(*ints.first()?).ok()?).ok()?;
    let rank = usize::try_from(*ints.get(1)?).ok()?;
    let dims: Vec<usize> = ints
        .get(2..2usize.checked_add(rank)?)?
        .iter()
        .map(|d| usize::try_from(*d).ok())
        .collect::<Option<_>>()?;
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
        "tensor" => Attr::Tensor(tensor_of(&param.ints)?),
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
