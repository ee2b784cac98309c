//! What the tests share.

use std::path::{Path, PathBuf};

/// A file of the repository's fixtures.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Builds small models, field by field.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) mod make {
    use onnx_protobuf::attribute_proto::AttributeType;
    use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
    use onnx_protobuf::{
        AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
        TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
    };
    use partita_ir::Bytes;

    /// A node; empty names are omitted operands.
    pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attrs: Vec<AttributeProto>) -> NodeProto {
        NodeProto {
            op_type: op.to_owned(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute: attrs,
            ..Default::default()
        }
    }

    pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { name: name.to_owned(), i, type_: AttributeType::INT.into(), ..Default::default() }
    }

    pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
        AttributeProto { name: name.to_owned(), f, type_: AttributeType::FLOAT.into(), ..Default::default() }
    }

    pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
        let (name, ints) = (name.to_owned(), ints.to_vec());
        AttributeProto { name, ints, type_: AttributeType::INTS.into(), ..Default::default() }
    }

    pub(crate) fn floats(name: &str, floats: &[f32]) -> AttributeProto {
        let (name, floats) = (name.to_owned(), floats.to_vec());
        AttributeProto { name, floats, type_: AttributeType::FLOATS.into(), ..Default::default() }
    }

    /// An f32 input or output; a negative size is written as a symbol of that number.
    pub(crate) fn value(name: &str, shape: &[i64]) -> ValueInfoProto {
        let dim = |&d: &i64| {
            let value = if d < 0 {
                dimension::Value::DimParam(format!("s{}", -d))
            } else {
                dimension::Value::DimValue(d)
            };
            Dimension { value: Some(value), ..Default::default() }
        };
        let shape = TensorShapeProto { dim: shape.iter().map(dim).collect(), ..Default::default() };
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(shape).into(), ..Default::default() };
        let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: name.to_owned(), type_: Some(ty).into(), ..Default::default() }
    }

    /// An output of which nothing is said.
    pub(crate) fn open(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: name.to_owned(), ..Default::default() }
    }

    pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
        OperatorSetIdProto { domain: domain.to_owned(), version, ..Default::default() }
    }

    /// A model of one graph.
    pub(crate) fn model(
        version: i64,
        nodes: Vec<NodeProto>,
        inputs: Vec<ValueInfoProto>,
        outputs: Vec<ValueInfoProto>,
        initializers: Vec<TensorProto>,
    ) -> ModelProto {
        let graph = GraphProto {
            node: nodes,
            input: inputs,
            output: outputs,
            initializer: initializers,
            name: "test".to_owned(),
            ..Default::default()
        };
        ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", version)],
            graph: Some(graph).into(),
            ..Default::default()
        }
    }

    pub(crate) fn bytes(model: &ModelProto) -> Bytes {
        Bytes::from_vec(model.write_to_bytes().unwrap())
    }
}
