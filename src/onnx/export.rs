//! ONNX out: a graph as a model that ONNX's checker accepts and other engines run.

use crate::encode::{Encoded, MAX_MESSAGE_BYTES};
use crate::import::Imported;
use crate::typing::value_info;
use crate::writer::Writer;
use onnx_protobuf::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use partita_ir::{Diag, Graph};
use std::path::Path;

/// Version of the file format written; engines of 2023 read the first, those of 2024 the second.
const IR_VERSIONS: [(i64, i64); 2] = [(20, 9), (i64::MAX, 10)];

/// What a model says beside its graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    pub producer: String,
    pub doc: String,
    pub metadata: Vec<(String, String)>,
    /// Weights go to a file beside the model; they always do when one file cannot hold them.
    pub external: bool,
    /// Oldest opset to write: newer ones allow more element types. 0 leaves it to the operators.
    pub min_opset: i64,
}

impl ExportOptions {
    /// The documentation, metadata and opset of an imported model.
    pub fn of(imported: &Imported) -> Self {
        Self {
            doc: imported.doc.clone(),
            metadata: imported.metadata.clone(),
            min_opset: imported.opset,
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
    encoded
        .write(&mut out)
        .map_err(|e| vec![Diag::new("I050", format!("the model cannot be written: {e}"))])?;
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
    let mut writer = Writer::new(graph, options.min_opset);
    writer.write()?;
    let input = graph.inputs().iter().map(|&v| value_info(writer.name_of(v), graph.ty(v))).collect();
    let output = graph.outputs().map(|(name, v)| value_info(name.to_owned(), graph.ty(v))).collect();
    let opset = writer.opset;
    let mut opset_import = vec![opset_id("", opset)];
    opset_import.extend(writer.domains.iter().map(|d| opset_id(d, 1)));
    let name = if graph.name.is_empty() { "graph" } else { &graph.name };
    let producer = if options.producer.is_empty() { "partita" } else { &options.producer };
    Ok(Encoded {
        model: ModelProto {
            ir_version: IR_VERSIONS.iter().find(|(last, _)| opset <= *last).map_or(10, |(_, ir)| *ir),
            producer_name: producer.to_owned(),
            doc_string: options.doc.clone(),
            opset_import,
            metadata_props: options.metadata.iter().map(|(k, v)| entry(k, v)).collect(),
            ..Default::default()
        },
        graph: GraphProto { node: writer.nodes, name: name.to_owned(), input, output, ..Default::default() },
        initializers: writer.initializers,
    })
}

fn opset_id(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.to_owned(), version, ..Default::default() }
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned(), ..Default::default() }
}
