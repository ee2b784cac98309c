//! Cost and transfer matrices: what every region costs on every device, and why.

use partita_codegen::{DeviceSpec, Lowered};
use partita_hw::{Estimate, Machine, Precision, Work as HwWork, WorkKind as HwKind, estimate};
use partita_ir::op::WorkCtx;
use partita_ir::{DType, Graph, Region, Regions, Type, ValueId, Work, WorkKind};
use std::collections::BTreeMap;

/// The reference evaluation of an operator against a fast kernel: it walks elements one by one in f64.
/// A guess on the safe side; placement only needs to know that it is slow.
const REFERENCE_SLOWDOWN: f64 = 50.0;

/// Size taken for a symbol nobody fixed, where a number is needed to compare costs.
const SYMBOL_HINT: i64 = 64;

/// What one region costs on one device.
#[derive(Clone, Debug)]
pub struct Price {
    /// Microseconds; `None` where the device cannot run it.
    pub time_us: Option<f64>,
    /// Where the figure comes from, or why there is none.
    pub origin: String,
}

/// The cost matrix and what it was computed from.
#[derive(Clone, Debug)]
pub struct Prices {
    /// One row per region, one column per device.
    pub rows: Vec<Vec<Price>>,
    /// Work of every region.
    pub work: Vec<Work>,
    /// Bytes of constants every region reads.
    pub weight_bytes: Vec<u64>,
}

/// Values taken for symbols when costs are compared: those fixed by `hints`, else 1 for the first axis of an input
/// (a batch) and 64 elsewhere.
pub fn symbol_hints(graph: &Graph, hints: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let place = |name: &str, place: Option<(usize, usize)>| match (hints.get(name), place) {
        (Some(n), _) => *n,
        (None, Some((_, 0))) => 1,
        _ => SYMBOL_HINT,
    };
    graph.input_symbols().into_iter().map(|(n, p)| (n.to_string(), place(&n, p))).collect()
}

/// Bytes of a value for the hinted sizes.
pub fn bytes_of(ty: &Type, hints: &BTreeMap<String, i64>) -> f64 {
    let n = ty.n_elements().eval(&|s| hints.get(s).copied().or(Some(SYMBOL_HINT)));
    n.unwrap_or(i64::MAX) as f64 * ty.dtype.size_bytes() as f64
}

/// Prices every region on every device of `machine`.
pub fn price(
    graph: &Graph,
    regions: &Regions,
    lowered: &[Lowered],
    machine: &Machine,
    devices: &[DeviceSpec],
    hints: &BTreeMap<String, i64>,
) -> Prices {
    let mut prices = Prices { rows: Vec::new(), work: Vec::new(), weight_bytes: Vec::new() };
    for (region, lowered) in regions.list.iter().zip(lowered) {
        let (work, weight_bytes) = region_work(graph, region, hints);
        let row = devices.iter().zip(&machine.devices);
        let row = row.map(|(spec, device)| one(graph, lowered, &work, weight_bytes, spec, device)).collect();
        prices.rows.push(row);
        prices.work.push(work);
        prices.weight_bytes.push(weight_bytes);
    }
    prices
}

/// Work of all nodes, but bytes only across the region's border: what stays inside stays in registers or cache.
fn region_work(graph: &Graph, region: &Region, hints: &BTreeMap<String, i64>) -> (Work, u64) {
    let mut total = Work::free();
    for id in &region.nodes {
        total = total.plus(node_work(graph, *id, hints));
    }
    let bytes = |v: &ValueId| bytes_of(graph.ty(*v), hints);
    let is_const = |v: &&ValueId| graph.as_const(**v).is_some();
    let weights: f64 = region.inputs.iter().filter(is_const).map(bytes).sum();
    if total.kind != WorkKind::Free {
        let all: f64 = region.inputs.iter().map(bytes).sum();
        // A gather or slice reads less than its whole operand.
        total.read_bytes = if region.nodes.len() == 1 { total.read_bytes.min(all) } else { all };
        total.written_bytes = region.outputs.iter().map(bytes).sum();
    }
    (total, weights as u64)
}

fn node_work(graph: &Graph, id: partita_ir::NodeId, hints: &BTreeMap<String, i64>) -> Work {
    let node = graph.node(id);
    let shape = |v: ValueId| {
        let ty = graph.ty(v).bind(&|s| hints.get(s).copied().or(Some(SYMBOL_HINT)));
        (ty.dtype, ty.known_shape().unwrap_or_default())
    };
    let inputs: Vec<Option<(DType, Vec<usize>)>> = node.inputs.iter().map(|v| v.map(shape)).collect();
    let outputs: Vec<(DType, Vec<usize>)> = node.outputs.iter().copied().map(shape).collect();
    let attrs = node.attrs.bind(&|s| hints.get(s).copied().or(Some(SYMBOL_HINT)));
    (node.op.work)(&WorkCtx { attrs: &attrs, inputs: &inputs, outputs: &outputs })
}

/// The rate an element type is computed at. Integers run on the general vector units, at the rate of f32.
pub(crate) fn precision(dtype: DType) -> Precision {
    match dtype {
        DType::F64 => Precision::Fp64,
        DType::F16 => Precision::Fp16,
        DType::Bf16 => Precision::Bf16,
        _ => Precision::Fp32,
    }
}

/// Our work in the form the roofline takes.
pub fn hw_work(work: &Work, weight_bytes: f64, launches: u32) -> HwWork {
    let kind = match work.kind {
        WorkKind::Dense => HwKind::Dense,
        WorkKind::Vector => HwKind::Vector,
        WorkKind::Move | WorkKind::Free => HwKind::Move,
    };
    let weights = weight_bytes.min(work.read_bytes);
    let mut out = HwWork::new(kind).with_bytes(work.read_bytes - weights, work.written_bytes, weights);
    if work.flops > 0.0 {
        out = out.with_flops(precision(work.dtype), work.flops);
    }
    out.launches = launches;
    out
}

fn one(
    graph: &Graph,
    lowered: &Lowered,
    work: &Work,
    weight_bytes: u64,
    spec: &DeviceSpec,
    device: &partita_hw::Device,
) -> Price {
    if lowered.calls.is_empty() {
        return Price { time_us: Some(0.0), origin: "shares memory".to_owned() };
    }
    let refused = lowered.calls.iter().find(|c| !c.runs_on(&spec.target, &|v| graph.ty(v)));
    if let Some(call) = refused {
        let what = call.kernel.string("op").unwrap_or(&call.kernel.library);
        return Price { time_us: None, origin: format!("no kernel for {what} with these types") };
    }
    let launches = u32::try_from(lowered.calls.len()).unwrap_or(u32::MAX);
    match estimate(device, &hw_work(work, weight_bytes as f64, launches)) {
        None => Price {
            time_us: None,
            origin: format!("no rate for {} in the device's profile", work.dtype.name()),
        },
        Some(estimate) => estimated(lowered, &estimate),
    }
}

fn estimated(lowered: &Lowered, estimate: &Estimate) -> Price {
    let slow = lowered.calls.iter().any(|c| c.kernel.library == "reference");
    let factor = if slow { REFERENCE_SLOWDOWN } else { 1.0 };
    let note = if slow { "; reference evaluation, no fast kernel" } else { "" };
    Price { time_us: Some(estimate.time_us * factor), origin: format!("{}{note}", estimate.origin) }
}
