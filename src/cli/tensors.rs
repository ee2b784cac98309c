//! Inputs of a run: files, or seeded random values.

use crate::error::{Error, Result};
use partita_ir::op::Rng;
use partita_ir::{Bytes, DType, Datum, Tensor};
use partita_onnx::PortKind;
use partita_plan::program::PortForm;
use partita_plan::{DimExpr, Plan};
use std::collections::BTreeMap;
use std::path::Path;

/// Size of a free symbol in random inputs.
const RANDOM_SYMBOL: i64 = 8;

/// A tensor from a `.npy` or `.pb` file.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    if path.extension().is_some_and(|e| e == "pb") {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        let (_, tensor) =
            partita_onnx::tensor_from_pb(Bytes::from_vec(bytes)).map_err(|d| Error::from(d).in_file(path))?;
        return Ok(tensor);
    }
    crate::npy::read(path)
}

/// A value of any kind from a `.pb` file.
pub(crate) fn read_pb(path: &Path, kind: PortKind) -> Result<Datum> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    partita_onnx::datum_from_pb(&Bytes::from_vec(bytes), kind).map_err(|d| Error::from(d).in_file(path))
}

/// What is known of an input before the program runs.
struct Wanted<'a> {
    name: &'a str,
    dtype: DType,
    /// `None` where only a value can tell: text, sequences, tensors of any rank.
    shape: Option<&'a [DimExpr]>,
}

/// Names of symbols and the inputs of a plan of any kind.
fn wanted(plan: &Plan) -> (Vec<&str>, Vec<Wanted<'_>>) {
    let dtype = |code: i32| DType::try_from(code).unwrap_or(DType::F32);
    let Some(program) = &plan.program else {
        let inputs = plan.inputs.iter().map(|port| {
            let value = &plan.values[port.value as usize];
            Wanted { name: &port.name, dtype: dtype(value.dtype), shape: Some(&value.shape) }
        });
        return (plan.symbols.iter().map(|s| s.name.as_str()).collect(), inputs.collect());
    };
    let ports = program.blocks.first().map_or(&[][..], |b| &b.inputs);
    let inputs = ports.iter().map(|port| {
        let tensor = port.form == PortForm::Tensor as i32 && dtype(port.dtype) != DType::Str;
        Wanted { name: &port.name, dtype: dtype(port.dtype), shape: tensor.then_some(&port.shape) }
    });
    (program.symbols.iter().map(String::as_str).collect(), inputs.collect())
}

/// Every input of the plan: from `given` by name, or random when `fill`.
pub(crate) fn inputs(
    plan: &Plan,
    mut given: BTreeMap<String, Datum>,
    fill: Option<u64>,
    dims: &BTreeMap<String, i64>,
) -> Result<Vec<Datum>> {
    let (names, wanted) = wanted(plan);
    let symbols = sizes(&names, &wanted, &given, dims);
    let mut rng = Rng(fill.unwrap_or(0));
    let mut out = Vec::new();
    for want in &wanted {
        out.push(match (given.remove(want.name), want.shape.filter(|_| fill.is_some())) {
            (Some(datum), _) => datum,
            (None, Some(shape)) => Datum::Tensor(random(want.dtype, shape, &symbols, &mut rng)?),
            (None, None) => {
                let hint = format!("give --input {}=FILE.npy, or --input random", want.name);
                return Err(Error::new("F010", format!("input {} is missing", want.name), hint));
            }
        });
    }
    match given.into_keys().next() {
        None => Ok(out),
        Some(name) => {
            let known: Vec<&str> = wanted.iter().map(|w| w.name).collect();
            Err(Error::new(
                "F011",
                format!("the model has no input {name}"),
                format!("it has: {}", known.join(", ")),
            ))
        }
    }
}

/// Values of the symbols: as fixed, as the given tensors tell, or a small number.
fn sizes(
    names: &[&str],
    wanted: &[Wanted],
    given: &BTreeMap<String, Datum>,
    dims: &BTreeMap<String, i64>,
) -> Vec<i64> {
    let mut symbols: Vec<i64> =
        names.iter().map(|n| dims.get(*n).copied().unwrap_or(RANDOM_SYMBOL)).collect();
    for want in wanted {
        let (Some(shape), Some(tensor)) = (want.shape, given.get(want.name).and_then(Datum::as_tensor))
        else {
            continue;
        };
        for (dim, &size) in shape.iter().zip(tensor.shape()) {
            if let Some(slot) = dim.as_symbol().and_then(|s| symbols.get_mut(s)) {
                *slot = size as i64;
            }
        }
    }
    symbols
}

fn random(dtype: DType, shape: &[DimExpr], symbols: &[i64], rng: &mut Rng) -> Result<Tensor> {
    let shape = shape
        .iter()
        .map(|d| d.eval(symbols).map(|d| d.max(0) as usize))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    // Integers are often indices or masks: 0 and 1 are valid for both.
    let (low, high) = if dtype.is_float() { (-1.0, 1.0) } else { (0.0, 1.0) };
    Ok(rng.tensor(dtype, &shape, low, high))
}

/// A file name for a tensor: names of tensors may hold anything.
pub(crate) fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}
