//! ONNX in: from bytes to a graph. All that is wrong with a model is listed at once.

use crate::adapt::{NEWEST_OPSET, OLDEST_OPSET};
use crate::external::External;
use crate::importer::Importer;
use crate::inline::{Inliner, Opsets};
use crate::kept::Kept;
use crate::letters::readable;
use crate::limits::{MAX_DIAGS, Options};
use crate::map::{Owner, hold, map};
use crate::schema::Msg;
use crate::tensors::Store;
use crate::values::Ports;
use crate::wire::scan;
use onnx_protobuf::{Message, ModelProto};
use partita_ir::{Bytes, Diag, Graph};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// A model that was read.
#[derive(Clone, Debug)]
pub struct Imported {
    pub graph: Graph,
    /// Opset of the standard domain.
    pub opset: i64,
    pub ir_version: i64,
    pub producer: String,
    pub doc: String,
    /// The model's own key-value pairs, in file order.
    pub metadata: Vec<(String, String)>,
    /// Graph inputs that have a default (an initializer of the same name). They are constants here.
    pub defaulted_inputs: Vec<String>,
    /// What kinds of values the inputs and outputs are declared to be.
    pub ports: Ports,
    /// The newest opset of each domain that the model or one of its functions uses.
    pub opsets: BTreeMap<String, i64>,
    /// What the model says beside what it computes.
    pub kept: Kept,
}

/// Reads the model at `path`. Weights stay in the file, which is mapped.
///
/// # Errors
/// Everything that is wrong: `I0xx` for the file, `U0xx` for what is valid but not supported, `V0xx` where
/// operands do not fit an operator.
pub fn load(path: &Path, options: &Options) -> Result<Imported, Vec<Diag>> {
    let name = path.display().to_string();
    let owner = map(path, options.limits.model_bytes, &|_| Ok(()));
    let owner = owner.map_err(|d| vec![readable(d.in_file(&*name))])?;
    read(&name, owner, External::beside(path, options), options)
}

/// Reads a model from memory; `name` stands for the file in messages. External data is looked up in
/// `folder`, or refused without one.
///
/// # Errors
/// See `load`.
pub fn load_bytes(
    name: &str,
    bytes: Bytes,
    folder: Option<&Path>,
    options: &Options,
) -> Result<Imported, Vec<Diag>> {
    let external = folder.map_or_else(External::default, |f| External::in_folder(f, options));
    read(name, hold(bytes), external, options)
}

/// Names of the inputs of the model at `path` that have no default, in order, whether or not the model is
/// supported.
///
/// # Errors
/// `I0xx` for a file that is no ONNX model.
pub fn input_names(path: &Path) -> Result<Vec<String>, Diag> {
    Ok(port_kinds(path)?.inputs.into_iter().map(|(name, _)| name).collect())
}

/// The declared kinds of the inputs (without those that have a default) and outputs of the model at `path`,
/// whether or not the model is supported.
///
/// # Errors
/// `I0xx` for a file that is no ONNX model.
pub fn port_kinds(path: &Path) -> Result<Ports, Diag> {
    let options = Options::default();
    let owner = map(path, options.limits.model_bytes, &|_| Ok(()))?;
    let (model, _) = parse(&owner, &options)?;
    Ok(Ports::of(&model.graph.unwrap_or_default()))
}

fn read(name: &str, owner: Owner, external: External, options: &Options) -> Result<Imported, Vec<Diag>> {
    let result = parse(&owner, options).map_err(|d| vec![d]).and_then(|(model, lifts)| {
        let store = Store { owner, lifts, external, limits: options.limits };
        build(model, store, options)
    });
    result.map_err(|mut diags| {
        diags.truncate(MAX_DIAGS);
        diags.into_iter().map(|d| readable(d.in_file(name))).collect()
    })
}

fn parse(owner: &Owner, options: &Options) -> Result<(ModelProto, Vec<crate::wire::Lift>), Diag> {
    let bytes = (**owner).as_ref();
    if bytes.is_empty() {
        return Err(Diag::new("I003", "the file is empty").hint("copy or export the model again"));
    }
    let scanned = scan(bytes, Msg::Model, &options.limits)?;
    let model = ModelProto::parse_from_bytes(&scanned.structure).map_err(|e| {
        Diag::new("I009", format!("the model cannot be decoded: {e}")).hint("the file is damaged")
    })?;
    Ok((model, scanned.lifts))
}

fn build(mut model: ModelProto, store: Store, options: &Options) -> Result<Imported, Vec<Diag>> {
    let graph = model.graph.take().ok_or_else(|| {
        vec![Diag::new("I011", "the file holds no graph").hint("the file is damaged or is not an ONNX model")]
    })?;
    let opsets = opsets(&model).map_err(|d| vec![d])?;
    let opset = opsets.get("").copied().unwrap_or(0);
    let inliner = Inliner::new(&model, &graph, &opsets, &options.limits)?;
    let newest = inliner.newest_opsets(&opsets);
    let importer = Importer::new(&graph.name, inliner, store, options, Kept::of(&model, &graph));
    let built = importer.model(&graph, &opsets)?;
    Ok(Imported {
        graph: built.graph,
        opset,
        ir_version: model.ir_version,
        producer: model.producer_name,
        doc: model.doc_string,
        metadata: model.metadata_props.into_iter().map(|e| (e.key, e.value)).collect(),
        defaulted_inputs: built.defaulted,
        ports: Ports::of(&graph),
        opsets: newest,
        kept: built.kept,
    })
}

/// The opset of each domain.
fn opsets(model: &ModelProto) -> Result<Opsets, Diag> {
    let mut opsets = BTreeMap::new();
    for import in &model.opset_import {
        let domain = standard(&import.domain);
        // Some converters state the same one twice.
        if opsets.insert(domain.to_owned(), import.version).is_some_and(|before| before != import.version) {
            let text = format!("the opset of domain {:?} is stated twice", import.domain);
            return Err(Diag::new("I012", text).hint("the model is damaged; export it again"));
        }
    }
    match opsets.get("") {
        Some(&v) if v > NEWEST_OPSET => {
            let text = format!("the model uses opset {v}, the newest known one is {NEWEST_OPSET}");
            Err(Diag::new("U005", text).hint("export the model with an older opset"))
        }
        Some(&v) if v < OLDEST_OPSET => {
            let text = format!("the model uses opset {v}, the oldest supported one is {OLDEST_OPSET}");
            Err(Diag::new("U005", text).hint("convert the model to a newer opset"))
        }
        None if opsets.is_empty() => {
            Err(Diag::new("I012", "the model states no opset, so its operators have no meaning")
                .hint("export the model again"))
        }
        _ => Ok(Rc::new(opsets)),
    }
}

/// The standard domain has two names.
pub(crate) fn standard(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
