//! What a model says beside what it computes: texts, metadata, types of inner values, device configurations. It is
//! kept by name and written back where the node or value still exists.

use crate::inputs::check_output;
use crate::typing::value_info;
use onnx_protobuf::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, TypeProto, ValueInfoProto, type_proto,
};
use partita_ir::{Form, Type};
use protobuf::UnknownFields;
use std::collections::{BTreeMap, BTreeSet};

/// What was said about one node.
#[derive(Clone, Debug, Default, PartialEq)]
struct Note {
    doc: String,
    metadata: Vec<StringStringEntryProto>,
    /// Fields newer than the schema used here, as the device configurations of the node.
    newer: UnknownFields,
}

/// All that was read and does not change what is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// By the names of our nodes, which are unique in the whole model.
    nodes: BTreeMap<String, Note>,
    /// Declared inputs, outputs and inner values.
    values: BTreeMap<String, ValueInfoProto>,
    inner: Vec<String>,
    graph_doc: String,
    graph_metadata: Vec<StringStringEntryProto>,
    graph_newer: UnknownFields,
    domain: String,
    model_version: i64,
    /// As the device configurations of the model.
    model_newer: UnknownFields,
}

impl Kept {
    /// Keeps what is said about a model and its graph.
    pub(crate) fn of(model: &ModelProto, graph: &GraphProto) -> Self {
        let ports = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
        Self {
            nodes: BTreeMap::new(),
            values: ports.map(|info| (info.name.clone(), info.clone())).collect(),
            inner: graph.value_info.iter().map(|info| info.name.clone()).collect(),
            graph_doc: graph.doc_string.clone(),
            graph_metadata: graph.metadata_props.clone(),
            graph_newer: graph.special_fields.unknown_fields().clone(),
            domain: model.domain.clone(),
            model_version: model.model_version,
            model_newer: model.special_fields.unknown_fields().clone(),
        }
    }

    /// Keeps what is said about a node that became our node `name`.
    pub(crate) fn note(&mut self, name: &str, node: &NodeProto) {
        let newer = node.special_fields.unknown_fields();
        let silent =
            node.doc_string.is_empty() && node.metadata_props.is_empty() && newer.iter().next().is_none();
        if !silent {
            let note = Note {
                doc: node.doc_string.clone(),
                metadata: node.metadata_props.clone(),
                newer: newer.clone(),
            };
            self.nodes.entry(name.to_owned()).or_insert(note);
        }
    }

    /// Says again what was said about our node `name`.
    pub(crate) fn restore(&self, name: &str, node: &mut NodeProto) {
        if let Some(note) = self.nodes.get(name) {
            node.doc_string.clone_from(&note.doc);
            node.metadata_props.clone_from(&note.metadata);
            *node.special_fields.mut_unknown_fields() = note.newer.clone();
        }
    }

    /// Says again what was said about the model and its graph.
    /// `types` are those of the values that are written; one that has changed says nothing about inner values.
    pub(crate) fn restore_model(
        &self,
        model: &mut ModelProto,
        graph: &mut GraphProto,
        types: &BTreeMap<String, &Type>,
    ) {
        model.domain.clone_from(&self.domain);
        model.model_version = self.model_version;
        *model.special_fields.mut_unknown_fields() = self.model_newer.clone();
        graph.doc_string.clone_from(&self.graph_doc);
        graph.metadata_props.clone_from(&self.graph_metadata);
        *graph.special_fields.mut_unknown_fields() = self.graph_newer.clone();
        let made: BTreeSet<&str> =
            graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)).collect();
        let ports: BTreeSet<&str> =
            graph.input.iter().chain(&graph.output).map(|info| info.name.as_str()).collect();
        let inner = self.inner.iter().filter(|n| made.contains(n.as_str()) && !ports.contains(n.as_str()));
        let still_true = |info: &ValueInfoProto| {
            types.get(info.name.as_str()).is_none_or(|ty| check_output(info, ty).is_ok())
        };
        let stated = inner.filter_map(|n| self.values.get(n)).filter(|info| still_true(info));
        graph.value_info = stated.cloned().collect();
    }

    /// The declaration of an input or output of this type: as it was read, unless the type has changed since.
    pub(crate) fn port(&self, name: &str, ty: &Type) -> ValueInfoProto {
        let ours = value_info(name.to_owned(), ty);
        let Some(declared) = self.values.get(name) else { return ours };
        if check_output(declared, ty).is_err() {
            return ours;
        }
        let keep = declared.type_.value.is_some() && !matches!(ty.form, Form::Tensor | Form::Unranked);
        let type_ = if keep { declared.type_.clone() } else { Some(as_declared(declared, ours)).into() };
        ValueInfoProto { type_, ..declared.clone() }
    }
}

/// Our type of a tensor, sparse in files if that was declared.
fn as_declared(declared: &ValueInfoProto, ours: ValueInfoProto) -> TypeProto {
    let denotation = declared.type_.denotation.clone();
    let mut ty = ours.type_.unwrap_or_default();
    ty.denotation = denotation;
    let sparse = matches!(declared.type_.value, Some(type_proto::Value::SparseTensorType(_)));
    if let Some(type_proto::Value::TensorType(tensor)) = ty.value.take_if(|_| sparse) {
        ty.value = Some(type_proto::Value::SparseTensorType(type_proto::SparseTensor {
            elem_type: tensor.elem_type,
            shape: tensor.shape,
            ..Default::default()
        }));
    }
    ty
}
