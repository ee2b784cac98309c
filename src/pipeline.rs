//! The order of the stages. Nothing else knows it.
//!
//! load -> optimize -> regions -> lower -> price -> place -> assemble, each a function from one named value to
//! the next; `Compiled` keeps what reports read.

use crate::error::{Error, Result};
use crate::placement::{Placement, Wishes, place};
use crate::price::{Prices, bytes_of, price, symbol_hints};
use crate::report::summary;
use crate::{covers, devices};
use partita_codegen::lower::takes_epilogue;
use partita_codegen::{Assembly, DeviceSpec, Lowered, Placed, assemble, lower::Ctx, lower_regions};
use partita_hw::Machine;
use partita_ir::builder::infer_graph;
use partita_ir::{Graph, Regions, Tensor};

use partita_passes::History;
use partita_passes::fuse::Rules as FuseRules;
use partita_plan::{Plan, Provenance};
use std::collections::BTreeMap;
use std::path::Path;

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
    /// Leave the e-graph out.
    pub egraph: bool,
    /// Threads of CPU devices; `None` takes the machine's.
    pub threads: Option<u32>,
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
            egraph: true,
            threads: None,
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

/// A plan with everything reports are made of.
pub struct Compiled {
    pub imported: Graph,
    pub optimized: Graph,
    pub history: History,
    pub regions: Regions,
    pub lowered: Vec<Lowered>,
    pub prices: Prices,
    pub placement: Placement,
    pub machine: Machine,
    pub assembly: Assembly,
}

/// Reads a model: ONNX, or the text form when the name ends in `.graph`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, dims: &BTreeMap<String, i64>) -> Result<Model> {
    if path.extension().is_some_and(|e| e == "graph") {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
        return load_text(&text, path);
    }
    let options = partita_onnx::Options { dims: dims.clone(), ..Default::default() };
    let imported = partita_onnx::load(path, &options).map_err(|d| Error::from(d).in_file(path))?;
    Ok(Model { graph: imported.graph.clone(), onnx: Some(imported) })
}

/// Most elements of an input whose values a model may be compiled for.
const MAX_FIXED_ELEMENTS: usize = 1024;

/// Reads a model that is about to run on `given`. When its shapes depend on the values of its inputs, it is compiled
/// for the given values of the small ones (sizes, axes, indices); those are taken out of `given`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_for(
    path: &Path,
    dims: &BTreeMap<String, i64>,
    given: &mut BTreeMap<String, Tensor>,
) -> Result<Model> {
    let general = match load(path, dims) {
        Err(error) if error.is_unsupported() => error,
        other => return other,
    };
    let small = |t: &Tensor| t.rank() <= 1 && t.n_elements() <= MAX_FIXED_ELEMENTS;
    let inputs: BTreeMap<String, Tensor> =
        given.iter().filter(|(_, t)| small(t)).map(|(n, t)| (n.clone(), t.clone())).collect();
    let options = partita_onnx::Options { dims: dims.clone(), inputs, ..Default::default() };
    // What is not supported either way is reported as for the general model.
    let imported = partita_onnx::load(path, &options).map_err(|_| general)?;
    given.retain(|name, _| !options.inputs.contains_key(name));
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
    let regions = partita_passes::fuse::fuse(&optimized, &FuseRules { takes_epilogue: &takes_epilogue });
    let lowered = lower(&optimized, &regions)?;
    let specs = devices::specs(machine, options.threads)?;
    let hints = symbol_hints(&optimized, &options.hints);
    progress("placing");
    let prices = price(&optimized, &regions, &lowered, machine, &specs, &hints);
    let placement = place(&optimized, &regions, &lowered, &prices, machine, &hints, &options.wishes)?;
    progress("packing weights");
    let mut assembly = build(&optimized, &regions, &lowered, &specs, machine, &placement, &hints)?;
    for symbol in &mut assembly.plan.symbols {
        symbol.likely = hints.get(&symbol.name).map_or(1, |n| n.unsigned_abs());
    }
    covers::mark(&imported, &mut assembly.plan);
    assembly.plan.provenance =
        Some(provenance(&imported, &optimized, &history, machine, options, &placement));
    check_required(&assembly.plan, &options.required)?;
    Ok(Compiled {
        imported,
        optimized,
        history,
        regions,
        lowered,
        prices,
        placement,
        machine: machine.clone(),
        assembly,
    })
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

fn lower(graph: &Graph, regions: &Regions) -> Result<Vec<Lowered>> {
    let inference = infer_graph(graph)?;
    let names: Vec<String> = graph.input_symbols().keys().map(ToString::to_string).collect();
    let symbols = |name: &str| names.iter().position(|n| n == name);
    Ok(lower_regions(&Ctx { graph, inference: &inference, symbols: &symbols }, regions)?)
}

fn build(
    graph: &Graph,
    regions: &Regions,
    lowered: &[Lowered],
    specs: &[DeviceSpec],
    machine: &Machine,
    placement: &Placement,
    hints: &BTreeMap<String, i64>,
) -> Result<Assembly> {
    let transfer_us = |from: usize, to: usize, bytes: f64| {
        machine.path(from, to).map_or(0.0, |p| partita_hw::transfer_us(&p, bytes))
    };
    let placed = Placed {
        device_of: &placement.device_of,
        start_us: &placement.start_us,
        time_us: &placement.time_us,
        why: &placement.why,
        transfer_us: &transfer_us,
        host: machine.host,
    };
    Ok(assemble(graph, regions, lowered, specs, &placed, &|ty| bytes_of(ty, hints))?)
}

fn provenance(
    imported: &Graph,
    optimized: &Graph,
    history: &History,
    machine: &Machine,
    options: &CompileOptions,
    placement: &Placement,
) -> Provenance {
    let answer = &placement.answer;
    Provenance {
        compiler: concat!("partita ", env!("CARGO_PKG_VERSION")).to_owned(),
        machine: machine.name.clone(),
        objective: options.wishes.objective.word().to_owned(),
        value_us: answer.value,
        bound_us: answer.lower_bound,
        status: answer.status.word().to_owned(),
        solver: format!("{}; bound: {}", answer.solver, answer.bound_kind),
        nodes_before: imported.n_nodes() as u32,
        nodes_after: optimized.n_nodes() as u32,
        rules: history.fired().iter().map(|(name, n)| format!("{name} {n}")).collect(),
    }
}
