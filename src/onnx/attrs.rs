//! Attributes: what ONNX states, and what an operator's row wants.

use crate::dtypes::{code_of, dtype_of};
use crate::tensors::{Store, full};
use crate::typing::{inner_type, to_type_proto};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};
use partita_ir::op::AttrKind;
use partita_ir::{Attr, Diag};

/// Names that are not already in lower snake case in ONNX: (ONNX, ours).
const RENAMED: &[(&str, &str)] = &[
    ("transA", "trans_a"),
    ("transB", "trans_b"),
    ("transBatchA", "trans_batch_a"),
    ("transBatchB", "trans_batch_b"),
];

/// Our name of an ONNX attribute.
pub(crate) fn our_name(onnx: &str) -> &str {
    RENAMED.iter().find(|(o, _)| *o == onnx).map_or(onnx, |(_, ours)| ours)
}

/// ONNX's name of one of our attributes.
pub(crate) fn onnx_name(ours: &str) -> &str {
    RENAMED.iter().find(|(_, o)| *o == ours).map_or(ours, |(onnx, _)| onnx)
}

/// The subgraphs among a node's attributes, with the names of these.
pub(crate) fn graphs(node: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    node.attribute.iter().filter(|a| is_graph(a)).filter_map(|a| Some((a.name.as_str(), a.g.as_ref()?)))
}

/// Whether an attribute is a subgraph.
pub(crate) fn is_graph(proto: &AttributeProto) -> bool {
    proto.type_.value() == AttributeType::GRAPH as i32
}

/// The value an attribute states, which is no subgraph.
///
/// # Errors
/// `I019` when it states none or broken text, `U003` for kinds that are not supported.
pub(crate) fn value(proto: &AttributeProto, store: &mut Store) -> Result<Attr, Diag> {
    if !proto.ref_attr_name.is_empty() {
        return Err(bad(proto, "refers to an attribute of a function, outside of one"));
    }
    let kind = proto.type_.enum_value().map_err(|n| bad(proto, &format!("has the unknown kind {n}")))?;
    Ok(match kind {
        AttributeType::INT => Attr::Int(proto.i),
        AttributeType::FLOAT => Attr::Float(proto.f),
        AttributeType::STRING => Attr::Str(text(proto, &proto.s)?),
        AttributeType::INTS => Attr::Ints(proto.ints.clone()),
        AttributeType::FLOATS => Attr::Floats(proto.floats.clone()),
        AttributeType::STRINGS => {
            Attr::Strs(proto.strings.iter().map(|s| text(proto, s)).collect::<Result<_, _>>()?)
        }
        AttributeType::TENSOR => {
            let tensor = proto.t.as_ref().ok_or_else(|| bad(proto, "holds no tensor"))?;
            Attr::Tensor(store.tensor(tensor)?)
        }
        AttributeType::SPARSE_TENSOR => {
            let tensor = proto.sparse_tensor.as_ref().ok_or_else(|| bad(proto, "holds no tensor"))?;
            Attr::Tensor(store.sparse(tensor)?)
        }
        AttributeType::TYPE_PROTO => Attr::Type(inner_type(proto.tp.as_ref(), true, 0)?),
        AttributeType::UNDEFINED => return Err(bad(proto, "does not state its kind")),
        _ => {
            let text = format!("attribute {} is of kind {kind:?}, which is not supported", proto.name);
            return Err(Diag::new("U003", text).hint("no operator has such an attribute"));
        }
    })
}

fn bad(proto: &AttributeProto, what: &str) -> Diag {
    Diag::new("I019", format!("attribute {} {what}", proto.name))
        .hint("the model is damaged; export it again")
}

fn text(proto: &AttributeProto, bytes: &[u8]) -> Result<String, Diag> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad(proto, "is not UTF-8 text"))
}

/// The value in the kind a row wants.
///
/// # Errors
/// `I019` for another kind, `U003` for an element type that is not supported.
pub(crate) fn convert(name: &str, attr: Attr, kind: AttrKind) -> Result<Attr, Diag> {
    match (attr, kind) {
        (Attr::Int(code), AttrKind::DType) => Ok(Attr::DType(dtype_of(code)?)),
        (attr @ Attr::Int(_), AttrKind::Int)
        | (attr @ Attr::Float(_), AttrKind::Float)
        | (attr @ Attr::Str(_), AttrKind::Str)
        | (attr @ Attr::Ints(_), AttrKind::Ints | AttrKind::Dims)
        | (attr @ Attr::Floats(_), AttrKind::Floats)
        | (attr @ Attr::Strs(_), AttrKind::Strs)
        | (attr @ Attr::Tensor(_), AttrKind::Tensor)
        | (attr @ Attr::Graph(_), AttrKind::Graph)
        | (attr @ Attr::Type(_), AttrKind::Type) => Ok(attr),
        (attr, kind) => {
            let text = format!("attribute {name} is {}, {kind:?} is expected", kind_of(&attr));
            Err(Diag::new("I019", text).hint("the model is damaged; export it again"))
        }
    }
}

fn kind_of(attr: &Attr) -> &'static str {
    match attr {
        Attr::Int(_) => "an integer",
        Attr::Float(_) => "a float",
        Attr::Str(_) => "text",
        Attr::Ints(_) => "a list of integers",
        Attr::Floats(_) => "a list of floats",
        Attr::Strs(_) => "a list of texts",
        Attr::DType(_) => "an element type",
        Attr::Dims(_) => "a list of sizes",
        Attr::Tensor(_) => "a tensor",
        Attr::Graph(_) => "a graph",
        Attr::Type(_) => "a type",
    }
}

/// An attribute that is a body.
pub(crate) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: onnx_name(name).to_owned(),
        g: Some(graph).into(),
        type_: AttributeType::GRAPH.into(),
        ..Default::default()
    }
}

/// An attribute to write; `None` for sizes with symbols, which ONNX has no attribute for.
pub(crate) fn to_proto(name: &str, attr: &Attr) -> Option<AttributeProto> {
    let mut proto = AttributeProto { name: onnx_name(name).to_owned(), ..Default::default() };
    let kind = match attr {
        Attr::Int(v) => {
            proto.i = *v;
            AttributeType::INT
        }
        Attr::DType(v) => {
            proto.i = code_of(*v).into();
            AttributeType::INT
        }
        Attr::Float(v) => {
            proto.f = *v;
            AttributeType::FLOAT
        }
        Attr::Str(v) => {
            proto.s = v.clone().into_bytes();
            AttributeType::STRING
        }
        Attr::Ints(v) => {
            proto.ints.clone_from(v);
            AttributeType::INTS
        }
        Attr::Floats(v) => {
            proto.floats.clone_from(v);
            AttributeType::FLOATS
        }
        Attr::Strs(v) => {
            proto.strings = v.iter().map(|s| s.clone().into_bytes()).collect();
            AttributeType::STRINGS
        }
        Attr::Tensor(v) => {
            proto.t = Some(full("", v)).into();
            AttributeType::TENSOR
        }
        Attr::Type(v) => {
            proto.tp = Some(to_type_proto(v)).into();
            AttributeType::TYPE_PROTO
        }
        Attr::Dims(_) | Attr::Graph(_) => return None,
    };
    proto.type_ = kind.into();
    Some(proto)
}
