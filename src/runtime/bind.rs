//! Symbols to numbers: shapes, sizes, offsets and arenas of a plan for one set of input shapes.

use crate::driver::{Bound, WeightBytes};
use crate::error::RuntimeError;
use partita_plan::limits::{ARENA_ALIGN_BYTES, MAX_ARENA_BYTES, MAX_DIM, MAX_VALUE_BYTES};
use partita_plan::memory::{self, Item};
use partita_plan::{DimExpr, ElementType, Plan, Storage, Value};
use std::sync::Arc;

/// Evaluates every size of a checked plan and lays out its arenas.
///
/// # Errors
/// `R006` an arena is larger than the limit or the device, `R007` a size is negative or too large for these
/// symbols, `L020` a size cannot be evaluated.
pub(crate) fn bind(
    plan: &Arc<Plan>,
    roots: &[u32],
    symbols: &[i64],
    weights: &WeightBytes,
    max_arena_bytes: u64,
) -> Result<Bound, RuntimeError> {
    let mut shapes = Vec::with_capacity(plan.values.len());
    let mut sizes = Vec::with_capacity(plan.values.len());
    for value in &plan.values {
        let shape = shape(value, symbols)?;
        sizes.push(size_bytes(value, &shape)?);
        shapes.push(shape);
    }
    aliases_fit(plan, roots, &sizes)?;
    let (mut offsets, arenas) =
        if symbols.is_empty() { stated_arenas(plan) } else { planned_arenas(plan, roots, &sizes) };
    for value in 0..offsets.len() {
        offsets[value] = offsets[roots[value] as usize];
    }
    arenas_fit(plan, &arenas, max_arena_bytes)?;
    Ok(Bound {
        plan: Arc::clone(plan),
        symbols: symbols.to_vec(),
        shapes,
        sizes_bytes: all_usize(sizes)?,
        offsets_bytes: all_usize(offsets)?,
        arena_bytes: all_usize(arenas)?,
        weights: Arc::clone(weights),
    })
}

fn all_usize(numbers: Vec<u64>) -> Result<Vec<usize>, RuntimeError> {
    let convert = |n: u64| usize::try_from(n).map_err(|_| too_large("a size or offset", n));
    numbers.into_iter().map(convert).collect()
}

fn shape(value: &Value, symbols: &[i64]) -> Result<Vec<usize>, RuntimeError> {
    let dim = |expr: &DimExpr| {
        let size = expr.eval(symbols)?;
        let size = usize::try_from(size).ok().filter(|_| size <= MAX_DIM);
        size.ok_or_else(|| bad_size(value, "a dimension is negative or beyond the limit for these inputs"))
    };
    value.shape.iter().map(dim).collect()
}

fn size_bytes(value: &Value, shape: &[usize]) -> Result<u64, RuntimeError> {
    if value.storage == Storage::Weight as i32 {
        return Ok(value.stored_bytes);
    }
    let element = ElementType::try_from(value.dtype).map_or(0, ElementType::size_bytes) as u64;
    let bytes = shape.iter().try_fold(element, |bytes, &dim| bytes.checked_mul(dim as u64));
    let bytes = bytes.filter(|&b| b <= MAX_VALUE_BYTES);
    bytes.ok_or_else(|| bad_size(value, "its size is beyond the limit for these inputs"))
}

fn aliases_fit(plan: &Plan, roots: &[u32], sizes: &[u64]) -> Result<(), RuntimeError> {
    match (0..sizes.len()).find(|&v| sizes[v] > sizes[roots[v] as usize]) {
        None => Ok(()),
        Some(value) => {
            Err(bad_size(&plan.values[value], "it is larger than the value whose bytes it shares"))
        }
    }
}

/// Offsets and arenas as the plan of constant shapes states them.
fn stated_arenas(plan: &Plan) -> (Vec<u64>, Vec<u64>) {
    let offsets = plan.values.iter().map(|v| v.offset).collect();
    (offsets, plan.devices.iter().map(|d| d.arena_bytes).collect())
}

/// Offsets and arenas planned for these sizes, device by device.
fn planned_arenas(plan: &Plan, roots: &[u32], sizes: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let mut offsets: Vec<u64> = plan.values.iter().map(|v| v.offset).collect();
    let mut arenas = Vec::with_capacity(plan.devices.len());
    let mut owners: Vec<Vec<usize>> = vec![Vec::new(); plan.devices.len()];
    for (index, value) in plan.values.iter().enumerate() {
        if roots[index] as usize == index && value.storage == Storage::Arena as i32 {
            owners[value.device as usize].push(index);
        }
    }
    for owners in owners {
        let items: Vec<Item> = owners.iter().map(|&v| item(&plan.values[v], sizes[v])).collect();
        let planned = memory::plan(&items);
        for (&value, offset) in owners.iter().zip(planned.offsets) {
            offsets[value] = offset;
        }
        arenas.push(planned.total_bytes);
    }
    (offsets, arenas)
}

fn item(value: &Value, bytes: u64) -> Item {
    Item { bytes, align: ARENA_ALIGN_BYTES, first: value.first, last: value.last }
}

fn arenas_fit(plan: &Plan, arenas: &[u64], max_arena_bytes: u64) -> Result<(), RuntimeError> {
    for (device, &bytes) in plan.devices.iter().zip(arenas) {
        let known = if device.memory_bytes == 0 { MAX_ARENA_BYTES } else { device.memory_bytes };
        if bytes > known.min(max_arena_bytes) {
            return Err(too_large(&format!("device {}", device.name), bytes));
        }
    }
    Ok(())
}

fn too_large(place: &str, bytes: u64) -> RuntimeError {
    RuntimeError::new(
        "R006",
        place,
        format!("the run needs {bytes} bytes, more than the device or the limit allows"),
        "use smaller inputs, or raise `max_arena_bytes`",
    )
}

fn bad_size(value: &Value, what: &str) -> RuntimeError {
    RuntimeError::new("R007", format!("value {}", value.name), what, "give inputs of other shapes")
}
