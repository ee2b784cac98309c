//! Cost and transfer matrices: what every region costs on every device, and why.
//!
//! A CPU that was measured (`calibrate`) costs what the fits of the cost file say for the launches of a region. Where
//! there is no fit, and on every other device, the roofline decides; on CPUs with what shapes do to the matrix engine.

use crate::launch::Launch;
use crate::terms::{Caches, Terms, footprint_bytes};
use partita_codegen::{DeviceSpec, Lowered};
use partita_hw::{
    CostTable, Driver, Estimate, Machine, Precision, Work as HwWork, WorkKind as HwKind, estimate,
};
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

/// What prices are computed from beside the graph.
#[derive(Clone, Copy)]
pub struct Pricing<'a> {
    pub machine: &'a Machine,
    pub devices: &'a [DeviceSpec],
    /// What was measured, where anything was.
    pub costs: Option<&'a CostTable>,
    pub hints: &'a BTreeMap<String, i64>,
}

/// Prices every region on every device of the machine.
pub fn price(graph: &Graph, regions: &Regions, lowered: &[Lowered], pricing: &Pricing) -> Prices {
    let mut prices = Prices { rows: Vec::new(), work: Vec::new(), weight_bytes: Vec::new() };
    let size = |s: &str| pricing.hints.get(s).copied().or(Some(SYMBOL_HINT));
    let symbols: Vec<i64> = graph.all_symbols().iter().map(|s| size(s).unwrap_or(SYMBOL_HINT)).collect();
    let described = |l: &Lowered| -> Vec<Terms> {
        l.calls.iter().map(|call| Terms::of(&Launch::of_call(graph, call, &size, &symbols))).collect()
    };
    let described: Vec<Vec<Terms>> = lowered.iter().map(described).collect();
    let footprint_bytes = footprint_bytes(described.iter().flatten());
    for ((region, lowered), terms) in regions.list.iter().zip(lowered).zip(&described) {
        let (work, weight_bytes) = region_work(graph, region, pricing.hints);
        let asked = Asked { graph, lowered, work: &work, weight_bytes, terms, footprint_bytes };
        let row = pricing.devices.iter().zip(&pricing.machine.devices);
        prices.rows.push(row.map(|(spec, device)| one(&asked, spec, device, pricing.costs)).collect());
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

/// A region to price.
struct Asked<'a> {
    graph: &'a Graph,
    lowered: &'a Lowered,
    work: &'a Work,
    weight_bytes: u64,
    /// Its launches.
    terms: &'a [Terms],
    /// Bytes that a run of the whole graph touches.
    footprint_bytes: f64,
}

fn one(asked: &Asked, spec: &DeviceSpec, device: &partita_hw::Device, costs: Option<&CostTable>) -> Price {
    if asked.lowered.calls.is_empty() {
        return Price { time_us: Some(0.0), origin: "shares memory".to_owned() };
    }
    let refused = asked.lowered.calls.iter().find(|c| !c.runs_on(&spec.target, &|v| asked.graph.ty(v)));
    if let Some(call) = refused {
        let what = call.kernel.string("op").unwrap_or(&call.kernel.library);
        return Price { time_us: None, origin: format!("no kernel for {what} with these types") };
    }
    let threads = spec.device.threads;
    if let Some((time_us, origin)) =
        costs.and_then(|c| fitted(c, device, threads, asked.terms, asked.footprint_bytes))
    {
        return Price { time_us: Some(time_us), origin };
    }
    let launches = u32::try_from(asked.lowered.calls.len()).unwrap_or(u32::MAX);
    match estimate(device, &hw_work(asked.work, asked.weight_bytes as f64, launches)) {
        None => Price {
            time_us: None,
            origin: format!("no rate for {} in the device's profile", asked.work.dtype.name()),
        },
        Some(estimate) if device.driver == Driver::Cpu => {
            estimated(asked.lowered, &on_cpu(estimate, device, threads, asked.terms))
        }
        Some(estimate) => estimated(asked.lowered, &estimate),
    }
}

/// Microseconds of launches by the fits of a cost file, and where these come from; `None` where one is missing.
pub fn fitted(
    costs: &CostTable,
    device: &partita_hw::Device,
    threads: u32,
    launches: &[Terms],
    footprint_bytes: f64,
) -> Option<(f64, String)> {
    let caches = Caches::of(device, costs.far_bytes, footprint_bytes);
    let mut time_us = 0.0;
    let mut origins: Vec<String> = Vec::new();
    for terms in launches {
        let fit = costs.fit(&device.name, &terms.class, threads)?;
        time_us += fit.time_us(terms.amounts(threads, fit.grain, &caches).into_iter());
        let origin = format!("{}: {} ({})", terms.class, fit.origin, fit.date);
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    Some((time_us, origins.join("; ")))
}

/// GB/s that one core draws at least, where the memory gives as much: 38 to 42 were measured on Zen 5, 20 is common.
const CORE_GBS: f64 = 20.0;

/// The roofline of all cores, for those that take part, and for products with what their shapes cost.
fn on_cpu(mut estimate: Estimate, device: &partita_hw::Device, threads: u32, launches: &[Terms]) -> Estimate {
    let cores = f64::from(device.cores.or(device.threads).unwrap_or(1).max(1));
    let taking_part = f64::from(threads.max(1)).min(cores);
    let memory_gbs = device.bandwidth_gbs.as_ref().map_or(CORE_GBS, |fact| fact.value);
    let drawn = (taking_part / cores).max(CORE_GBS * taking_part / memory_gbs).min(1.0);
    let efficiency = launches.iter().map(Terms::efficiency).fold(1.0, f64::min);
    estimate.compute_us *= cores / taking_part / efficiency;
    estimate.memory_us /= drawn;
    estimate.time_us = estimate.compute_us.max(estimate.memory_us) + estimate.launch_us;
    estimate.joules = device.power_w.as_ref().map(|watts| watts.value * estimate.time_us * 1e-6);
    if efficiency < 0.99 {
        estimate.origin = format!("{}; shapes attain {efficiency:.2} of it: default", estimate.origin);
    }
    estimate
}

fn estimated(lowered: &Lowered, estimate: &Estimate) -> Price {
    let slow = lowered.calls.iter().any(|c| c.kernel.library == "reference");
    let factor = if slow { REFERENCE_SLOWDOWN } else { 1.0 };
    let note = if slow { "; reference evaluation, no fast kernel" } else { "" };
    Price { time_us: Some(estimate.time_us * factor), origin: format!("{}{note}", estimate.origin) }
}
