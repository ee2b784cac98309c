//! Inputs of a run: files, or seeded random values.

use crate::error::{Error, Result};
use partita_ir::op::Rng;
use partita_ir::{Bytes, DType, Tensor};
use partita_plan::Plan;
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

/// Every input of the plan: from `given` by name, or random when `fill`.
pub(crate) fn inputs(
    plan: &Plan,
    mut given: BTreeMap<String, Tensor>,
    fill: Option<u64>,
    dims: &BTreeMap<String, i64>,
) -> Result<Vec<Tensor>> {
    let mut symbols: Vec<i64> =
        plan.symbols.iter().map(|s| dims.get(&s.name).copied().unwrap_or(RANDOM_SYMBOL)).collect();
    for (n, symbol) in plan.symbols.iter().enumerate() {
        let bound = plan.inputs.get(symbol.input as usize).and_then(|p| given.get(&p.name));
        if let Some(size) = bound.and_then(|t| t.shape().get(symbol.axis as usize)) {
            symbols[n] = *size as i64;
        }
    }
    let mut rng = Rng(fill.unwrap_or(0));
    let mut out = Vec::new();
    for port in &plan.inputs {
        out.push(match given.remove(&port.name) {
            Some(tensor) => tensor,
            None if fill.is_some() => random(plan, port.value, &symbols, &mut rng)?,
            None => {
                let hint = format!("give --input {}=FILE.npy, or --input random", port.name);
                return Err(Error::new("F010", format!("input {} is missing", port.name), hint));
            }
        });
    }
    match given.into_keys().next() {
        None => Ok(out),
        Some(name) => {
            let known: Vec<&str> = plan.inputs.iter().map(|p| p.name.as_str()).collect();
            Err(Error::new(
                "F011",
                format!("the model has no input {name}"),
                format!("it has: {}", known.join(", ")),
            ))
        }
    }
}

fn random(plan: &Plan, value: u32, symbols: &[i64], rng: &mut Rng) -> Result<Tensor> {
    let value = &plan.values[value as usize];
    let shape = value
        .shape
        .iter()
        .map(|d| d.eval(symbols).map(|d| d.max(0) as usize))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let dtype = DType::try_from(value.dtype).unwrap_or(DType::F32);
    // Integers are often indices or masks: 0 and 1 are valid for both.
    let (low, high) = if dtype.is_float() { (-1.0, 1.0) } else { (0.0, 1.0) };
    Ok(rng.tensor(dtype, &shape, low, high))
}

/// A file name for a tensor: names of tensors may hold anything.
pub(crate) fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}
