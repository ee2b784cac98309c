//! ONNX out: a graph as a model that ONNX's checker accepts and other engines run.

use crate::encode::{Encoded, MAX_MESSAGE_BYTES};
use crate::import::Imported;
use crate::kept::Kept;
use crate::writer::Writer;
use onnx_protobuf::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use partita_ir::{Diag, Graph};
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the file format for opsets up to the first number: older engines refuse files that are newer than
/// needed.
const IR_VERSIONS: [(i64, i64); 6] = [(20, 9), (22, 10), (23, 11), (24, 12), (27, 13), (i64::MAX, 14)];

/// What a model says beside its graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportOptions {
    pub producer: String,
    pub doc: String,
    pub metadata: Vec<(String, String)>,
    /// Weights go to a file beside the model; they always do when one file cannot hold them.
    pub external: bool,
    /// Oldest opset to write: newer ones allow more element types. 0 leaves it to the operators.
    pub min_opset: i64,
    /// Oldest versions of other domains.
    pub domains: BTreeMap<String, i64>,
    /// What a model that was read says beside what it computes.
    pub kept: Kept,
}

impl ExportOptions {
    /// The documentation, metadata and opset of an imported model.
    pub fn of(imported: &Imported) -> Self {
        Self {
            doc: imported.doc.clone(),
            metadata: imported.metadata.clone(),
            min_opset: imported.opsets.get("").copied().unwrap_or(0),
            domains: imported.opsets.clone(),
            kept: imported.kept.clone(),
            ..Self::default()
        }
    }
}

/// The graph as the bytes of an ONNX model with all weights inside.
///
/// # Errors
/// `U008`, `U009` for nodes that ONNX cannot express, `I051` for a model beyond two gigabytes (use `save_file`).
pub fn save(graph: &Graph, options: &ExportOptions) -> Result<Vec<u8>, Vec<Diag>> {
    let encoded = encode(graph, options)?;
    let size = encoded.size_bytes();
    if size > MAX_MESSAGE_BYTES {
        let text = format!("the model has {size} bytes, one message holds at most {MAX_MESSAGE_BYTES}");
        return Err(vec![Diag::new("I051", text).hint("write it to a file, with its weights beside it")]);
    }
    let mut out = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    encoded.write(&mut out).map_err(|e| {
        vec![Diag::new("I050", format!("the model cannot be written: {e}")).hint("write it to a file")]
    })?;
    Ok(out)
}

/// Writes the graph to the file `path`, and its weights to `path` + `.data` when they do not fit or
/// `options.external` asks for it. A file that exists is replaced at the very end.
///
/// # Errors
/// `U008`, `U009` for nodes that ONNX cannot express, `I050` when the file cannot be written.
pub fn save_file(path: &Path, graph: &Graph, options: &ExportOptions) -> Result<(), Vec<Diag>> {
    let encoded = encode(graph, options)?;
    let outside = options.external || encoded.size_bytes() > MAX_MESSAGE_BYTES;
    let result = if outside { encoded.save_with_data(path) } else { encoded.save(path) };
    result.map_err(|d| vec![d])
}

fn encode(graph: &Graph, options: &ExportOptions) -> Result<Encoded, Vec<Diag>> {
    let mut writer = Writer::new(graph, options.min_opset, Some(&options.kept));
    writer.write()?;
    let input = graph.inputs().iter().map(|&v| options.kept.port(&writer.name_of(v), graph.ty(v))).collect();
    let output = graph.outputs().map(|(name, v)| options.kept.port(name, graph.ty(v))).collect();
    let opset = writer.shared.opset;
    let mut opset_import = vec![opset_id("", opset)];
    opset_import.extend(writer.shared.domains.iter().map(|(domain, since)| {
        opset_id(domain, options.domains.get(*domain).copied().unwrap_or(0).max(*since))
    }));
    let name = if graph.name.is_empty() { "graph" } else { &graph.name };
    let producer = if options.producer.is_empty() { "partita" } else { &options.producer };
    let mut model = ModelProto {
        ir_version: IR_VERSIONS.iter().find(|(last, _)| opset <= *last).map_or(14, |(_, ir)| *ir),
        producer_name: producer.to_owned(),
        doc_string: options.doc.clone(),
        opset_import,
        metadata_props: options.metadata.iter().map(|(k, v)| entry(k, v)).collect(),
        ..Default::default()
    };
    let mut graph =
        GraphProto { node: writer.nodes, name: name.to_owned(), input, output, ..Default::default() };
    options.kept.restore_model(&mut model, &mut graph);
    Ok(Encoded { model, graph, initializers: writer.shared.initializers })
}

fn opset_id(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.to_owned(), version, ..Default::default() }
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned(), ..Default::default() }
}
