//! The order of the stages. Nothing else knows it.
//!
//! load -> optimize -> layout -> regions -> lower -> price -> place -> assemble, each a function from one named value to
//! the next; `Compiled` keeps what reports read.

use crate::calibrate::tune;
use crate::error::{Error, Result};
use crate::link::link;
use crate::placement::{Placement, Wishes, place};
use crate::price::{Prices, Pricing, bytes_of, price, symbol_hints};
use crate::report::summary;
use crate::{covers, devices};
use partita_codegen::algorithm::Candidate;
use partita_codegen::lower::{Precision, takes_epilogue};
use partita_codegen::{
    Assembly, DeviceSpec, Lowered, Placed, Target, assemble, is_static, lower::Ctx, lower_regions,
};
use partita_hw::{CostTable, Driver, Machine};
use partita_ir::builder::infer_graph;
use partita_ir::{Graph, Regions};

use partita_passes::History;
use partita_passes::fuse::Rules as FuseRules;
use partita_plan::{Alone, Plan, Provenance};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Work limit of the placement of one model: a few seconds on hundreds of operators and several devices.
pub const DEFAULT_WORK: u64 = 20_000_000;

/// Everything a compilation may be told.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Sizes of symbols that are fixed.
    pub dims: BTreeMap<String, i64>,
    /// Sizes that free symbols are likely to have, for predictions; the plan stays general.
    pub hints: BTreeMap<String, i64>,
    /// Stop after this many rewrites.
    pub fuel: Option<u64>,
    /// Texts of the user's own rule files, with their names.
    pub rules: Vec<(String, String)>,
    /// Bit-exact rewrites only.
    pub strict: bool,
    /// What products and convolutions multiply.
    pub precision: Precision,
    /// Leave the e-graph out.
    pub egraph: bool,
    /// Channels last inside convolution nets, where every device has the kernels.
    pub channels_last: bool,
    /// Threads of CPU devices; `None` takes the machine's.
    pub threads: Option<u32>,
    /// What was measured on the machine, for predictions; the same costs give the same plan.
    pub costs: Option<Arc<CostTable>>,
    /// Devices that must get work; it is an error when one gets none.
    pub required: Vec<String>,
    pub wishes: Wishes,
}

impl Default for CompileOptions {
    fn default() -> Self {
        let wishes = Wishes {
            objective: partita_place::Objective::Latency,
            limits: partita_place::Limits { work: DEFAULT_WORK, ..Default::default() },
            pins: Vec::new(),
        };
        Self {
            dims: BTreeMap::new(),
            hints: BTreeMap::new(),
            fuel: None,
            rules: Vec::new(),
            strict: false,
            precision: Precision::F32,
            egraph: true,
            channels_last: true,
            threads: None,
            costs: None,
            required: Vec::new(),
            wishes,
        }
    }
}

/// Told the name of each stage as it begins.
pub type Progress<'a> = &'a dyn Fn(&str);

/// A model as loaded.
pub struct Model {
    pub graph: Graph,
    /// What ONNX had to say beside the graph; `None` for the text form.
    pub onnx: Option<partita_onnx::Imported>,
}

/// A static graph with everything its plan was made from.
pub struct Part {
    pub graph: Graph,
    /// What was done to the graph for the devices of the machine.
    pub history: History,
    pub regions: Regions,
    pub lowered: Vec<Lowered>,
    pub prices: Prices,
    pub placement: Placement,
}

/// A plan with everything reports are made of.
pub struct Compiled {
    pub imported: Graph,
    pub optimized: Graph,
    pub history: History,
    /// One part for a static model; the parts of a program in the order of its plans.
    pub parts: Vec<Part>,
    pub machine: Machine,
    pub assembly: Assembly,
}

impl Compiled {
    /// Predicted microseconds of all static parts, each run once.
    pub fn predicted_us(&self) -> f64 {
        self.parts.iter().map(|p| p.placement.answer.value).sum()
    }
}

/// Reads a model: ONNX, or the text form when the name ends in `.graph`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, dims: &BTreeMap<String, i64>) -> Result<Model> {
    load_with(path, &partita_onnx::Options { dims: dims.clone(), ..Default::default() })
}

/// Reads a model with what the importer may be told.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with(path: &Path, options: &partita_onnx::Options) -> Result<Model> {
    if path.extension().is_some_and(|e| e == "graph") {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
        return load_text(&text, path);
    }
    let imported = partita_onnx::load(path, options).map_err(|d| Error::from(d).in_file(path))?;
    Ok(Model { graph: imported.graph.clone(), onnx: Some(imported) })
}

fn load_text(text: &str, path: &Path) -> Result<Model> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let read = |name: &str| {
        let plain = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !plain {
            return Err("it lies outside the folder of the text".to_owned());
        }
        std::fs::read(folder.join(name)).map(partita_ir::Bytes::from_vec).map_err(|e| e.to_string())
    };
    let graphs = partita_ir::text::parse(text, &partita_ops::registry(), &read)
        .map_err(|d| Error::from(d).in_file(path))?;
    let graph = graphs.into_iter().next().ok_or_else(|| {
        Error::new("T014", "the file holds no graph", "write graph NAME(...) -> (...) {...}")
    })?;
    Ok(Model { graph, onnx: None })
}

/// Optimizes a graph.
///
/// # Errors
/// When a user's rule is malformed, or the graph is not valid.
pub fn optimize(graph: Graph, options: &CompileOptions) -> Result<(Graph, History)> {
    let pass_options = partita_passes::Options {
        fuel: options.fuel,
        rules: options.rules.clone(),
        strict: options.strict,
        egraph: options.egraph,
        ..Default::default()
    };
    Ok(partita_passes::optimize(graph, &pass_options)?)
}

/// Gives the graph the layout that the kernels of all devices prefer, and the form they take.
fn layout(graph: Graph, setting: &Setting) -> Result<(Graph, History)> {
    let all = |takes: fn(&Target) -> bool| setting.specs.iter().all(|s| takes(&s.target));
    let mut passes: Vec<&str> = Vec::new();
    if all(|t| t.heads_in_place) {
        passes.extend(partita_passes::HEADS);
    }
    if setting.options.channels_last && all(|t| t.channels_last) {
        passes.extend(partita_passes::CHANNELS_LAST);
    }
    passes.extend(partita_passes::LAST);
    let options = partita_passes::Options { fuel: setting.fuel, ..Default::default() };
    Ok(partita_passes::run_passes(graph, &passes, &options)?)
}

/// What compiling needs beside the graph.
pub(crate) struct Setting<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) options: &'a CompileOptions,
    pub(crate) specs: Vec<DeviceSpec>,
    /// What optimizing left of the fuel.
    fuel: Option<u64>,
    progress: Progress<'a>,
}

/// Compiles a loaded model for a machine.
///
/// # Errors
/// What any stage says.
pub fn compile(
    model: &Model,
    machine: &Machine,
    options: &CompileOptions,
    progress: Progress,
) -> Result<Compiled> {
    let imported = model.graph.clone();
    progress("optimizing");
    let (optimized, history) = optimize(imported.clone(), options)?;
    let specs = devices::specs(machine, options.threads)?;
    let setting = Setting { machine, options, specs, fuel: history.fuel_left, progress };
    let (parts, mut assembly) = if is_static(&optimized) {
        let (part, assembly) = plan_part(optimized.clone(), false, &setting)?;
        (vec![part], assembly)
    } else {
        link(&optimized, &setting)?
    };
    mark_covers(&imported, &mut assembly.plan);
    assembly.plan.provenance = Some(provenance(&imported, &optimized, &history, &setting, &parts));
    check_required(&assembly.plan, &options.required)?;
    Ok(Compiled { imported, optimized, history, parts, machine: machine.clone(), assembly })
}

fn mark_covers(imported: &Graph, plan: &mut Plan) {
    match &mut plan.program {
        None => covers::mark(imported, plan),
        Some(program) => program.plans.iter_mut().for_each(|p| covers::mark(imported, p)),
    }
}

/// Plans a static graph; `given` when it is a part of a program.
pub(crate) fn plan_part(graph: Graph, given: bool, setting: &Setting) -> Result<(Part, Assembly)> {
    let Setting { machine, options, specs, progress, .. } = setting;
    let (graph, history) = layout(graph, setting)?;
    let regions = partita_passes::fuse::fuse(&graph, &FuseRules { takes_epilogue: &takes_epilogue });
    let lowered = lower(&graph, &regions, setting)?;
    let hints = symbol_hints(&graph, &options.hints);
    progress("placing");
    let pricing = Pricing { machine, devices: specs, costs: options.costs.as_deref(), hints: &hints };
    let prices = price(&graph, &regions, &lowered, &pricing);
    let mut wishes = options.wishes.clone();
    if given {
        wishes.pins.retain(|(name, _)| names(&graph, name));
    }
    let placement = place(&graph, &regions, &lowered, &prices, machine, &hints, &wishes)?;
    progress("packing weights");
    let part = Part { graph, history, regions, lowered, prices, placement };
    let mut assembly = build(&part, setting, given, &hints)?;
    for symbol in &mut assembly.plan.symbols {
        symbol.likely = hints.get(&symbol.name).map_or(1, |n| n.unsigned_abs());
    }
    Ok((part, assembly))
}

/// Whether the graph has a node or value of that name.
fn names(graph: &Graph, name: &str) -> bool {
    graph.nodes().any(|(_, n)| *n.name == *name) || graph.values().any(|(_, v)| *v.name == *name)
}

fn check_required(plan: &Plan, required: &[String]) -> Result<()> {
    for name in required {
        let Some(device) = plan.devices.iter().position(|d| d.name == *name) else {
            return Err(Error::new(
                "M001",
                format!("the machine has no device {name}"),
                "partita devices lists them",
            ));
        };
        if let Some(sentence) = summary::unused(plan, device) {
            return Err(Error::new(
                "M003",
                sentence,
                "pin nodes to it with --pin NODE=DEVICE, or leave --require out",
            ));
        }
    }
    Ok(())
}

fn lower(graph: &Graph, regions: &Regions, setting: &Setting) -> Result<Vec<Lowered>> {
    let Setting { specs, options, .. } = setting;
    let inference = infer_graph(graph)?;
    let names: Vec<String> = graph.all_symbols().iter().map(ToString::to_string).collect();
    let symbols = |name: &str| names.iter().position(|n| n == name);
    let targets: Vec<Target> = specs.iter().map(|s| s.target).collect();
    let measured = |candidate: &Candidate| {
        let (spec, device) =
            specs.iter().zip(&setting.machine.devices).find(|(_, d)| d.driver == Driver::Cpu)?;
        let key = tune::key(candidate, spec.device.threads);
        Some(options.costs.as_ref()?.get(&device.name, &key)?.us)
    };
    let ctx = Ctx {
        graph,
        inference: &inference,
        symbols: &symbols,
        targets: &targets,
        precision: options.precision,
        strict: options.strict,
        measured: &measured,
    };
    Ok(lower_regions(&ctx, regions)?)
}

fn build(part: &Part, setting: &Setting, given: bool, hints: &BTreeMap<String, i64>) -> Result<Assembly> {
    let machine = setting.machine;
    let transfer_us = |from: usize, to: usize, bytes: f64| {
        machine.path(from, to).map_or(0.0, |p| partita_hw::transfer_us(&p, bytes))
    };
    let placement = &part.placement;
    let placed = Placed {
        device_of: &placement.device_of,
        start_us: &placement.start_us,
        time_us: &placement.time_us,
        why: &placement.why,
        transfer_us: &transfer_us,
        host: machine.host,
        given,
    };
    let bytes = |ty: &partita_ir::Type| bytes_of(ty, hints);
    Ok(assemble(&part.graph, &part.regions, &part.lowered, &setting.specs, &placed, &bytes)?)
}

/// How often each rewrite was applied.
fn rewrites(history: &History, parts: &[Part]) -> Vec<String> {
    let mut fired = history.fired();
    for (name, n) in parts.iter().flat_map(|p| p.history.fired()) {
        *fired.entry(name).or_default() += n;
    }
    fired.iter().map(|(name, n)| format!("{name} {n}")).collect()
}

fn provenance(
    imported: &Graph,
    optimized: &Graph,
    history: &History,
    setting: &Setting,
    parts: &[Part],
) -> Provenance {
    let answers = || parts.iter().map(|p| &p.placement.answer);
    // A program is as certain as its least certain part.
    let status = answers().map(|a| a.status).max_by_key(|s| s.word() != "optimal");
    let solvers: BTreeSet<String> =
        answers().map(|a| format!("{}; bound: {}", a.solver, a.bound_kind)).collect();
    Provenance {
        compiler: concat!("partita ", env!("CARGO_PKG_VERSION")).to_owned(),
        machine: setting.machine.name.clone(),
        objective: setting.options.wishes.objective.word().to_owned(),
        value_us: answers().map(|a| a.value).sum(),
        bound_us: answers().map(|a| a.lower_bound).sum(),
        status: status.map_or("optimal", |s| s.word()).to_owned(),
        solver: solvers.into_iter().collect::<Vec<_>>().join(", "),
        nodes_before: imported.n_nodes() as u32,
        nodes_after: optimized.n_nodes() as u32,
        rules: rewrites(history, parts),
        alone: alone(parts),
    }
}

/// What each device would take for all parts, each run once.
fn alone(parts: &[Part]) -> Vec<Alone> {
    let mut sums = parts.first().map(|p| p.placement.alone.clone()).unwrap_or_default();
    for part in parts.iter().skip(1) {
        for (sum, own) in sums.iter_mut().zip(&part.placement.alone) {
            match (sum.value_us < 0.0, own.value_us < 0.0) {
                (false, false) => sum.value_us += own.value_us,
                (false, true) => sum.clone_from(own),
                (true, _) => {}
            }
        }
    }
    sums
}
