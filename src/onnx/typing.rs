//! ONNX's types of values that are not simply tensors with a shape, in and out.

use crate::dtypes::{code_of, dtype_of};
use crate::limits::MAX_FORM_DEPTH;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use partita_ir::dim::DATA_LEAD;
use partita_ir::types::Form;
use partita_ir::{DType, Diag, Dim, Type};

/// The type a model states for items of a sequence, the content of an optional, or in an attribute. A tensor keeps
/// its shape when all of it is known and `shaped` asks for it: items may differ in what is not stated.
///
/// # Errors
/// `I021` without a type, `I006` nested too deeply, `U003` for one that is not supported.
pub(crate) fn inner_type(ty: Option<&TypeProto>, shaped: bool, depth: usize) -> Result<Type, Diag> {
    if depth > MAX_FORM_DEPTH {
        let text = format!("types nest more than {MAX_FORM_DEPTH} deep");
        return Err(Diag::new("I006", text).hint("flatten the nested sequences"));
    }
    let untyped = || Diag::new("I021", "no type is stated").hint("export the model with types");
    match ty.and_then(|t| t.value.as_ref()).ok_or_else(untyped)? {
        type_proto::Value::TensorType(tensor) => {
            inner_tensor(tensor.elem_type, tensor.shape.as_ref(), shaped)
        }
        type_proto::Value::SparseTensorType(tensor) => {
            inner_tensor(tensor.elem_type, tensor.shape.as_ref(), shaped)
        }
        type_proto::Value::SequenceType(seq) => {
            Ok(Type::sequence(inner_type(seq.elem_type.as_ref(), shaped, depth + 1)?))
        }
        type_proto::Value::OptionalType(opt) => {
            Ok(Type::optional(inner_type(opt.elem_type.as_ref(), shaped, depth + 1)?))
        }
        type_proto::Value::MapType(map) => map_type(map),
        _ => Err(untyped()),
    }
}

fn inner_tensor(code: i32, shape: Option<&TensorShapeProto>, shaped: bool) -> Result<Type, Diag> {
    let dtype = dtype_of(code.into())?;
    let known = |d: &Dimension| match d.value {
        Some(dimension::Value::DimValue(size)) if size >= 0 => Some(Dim::known(size)),
        _ => None,
    };
    let dims: Option<Vec<Dim>> = shape.filter(|_| shaped).and_then(|s| s.dim.iter().map(known).collect());
    Ok(dims.map_or_else(|| Type::unranked(dtype), |dims| Type::new(dtype, dims)))
}

/// The type of a map to tensors.
pub(crate) fn map_type(map: &type_proto::Map) -> Result<Type, Diag> {
    let key = dtype_of(map.key_type.into())?;
    if key.is_float() || key == DType::Bool {
        let text = format!("the keys of a map are {}, not integers or text", key.name());
        return Err(Diag::new("I041", text).hint("the model is damaged; export it again"));
    }
    match map.value_type.value.as_ref() {
        Some(type_proto::Value::TensorType(tensor)) => Ok(Type::map(key, dtype_of(tensor.elem_type.into())?)),
        _ => Err(Diag::new("U003", "a map to anything but tensors is not supported")
            .hint("export the model with maps to numbers")),
    }
}

/// ONNX's form of a type; empty when nothing is known.
pub(crate) fn to_type_proto(ty: &Type) -> TypeProto {
    let nested = |item: &Type| Some(to_type_proto(item)).into();
    let tensor = |shape: Option<TensorShapeProto>| {
        type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: code_of(ty.dtype),
            shape: shape.into(),
            ..Default::default()
        })
    };
    let value = match &ty.form {
        Form::Any => None,
        Form::Unranked => Some(tensor(None)),
        Form::Tensor => {
            let dim = ty.shape.iter().map(dimension_of).collect();
            Some(tensor(Some(TensorShapeProto { dim, ..Default::default() })))
        }
        Form::Sequence(item) => Some(type_proto::Value::SequenceType(type_proto::Sequence {
            elem_type: nested(item),
            ..Default::default()
        })),
        Form::Optional(item) => Some(type_proto::Value::OptionalType(type_proto::Optional {
            elem_type: nested(item),
            ..Default::default()
        })),
        Form::Map(value) => Some(type_proto::Value::MapType(type_proto::Map {
            key_type: code_of(ty.dtype),
            value_type: nested(&Type::new(*value, [])),
            ..Default::default()
        })),
    };
    TypeProto { value, ..Default::default() }
}

/// The declaration of a graph input or output.
pub(crate) fn value_info(name: String, ty: &Type) -> ValueInfoProto {
    ValueInfoProto { name, type_: Some(to_type_proto(ty)).into(), ..Default::default() }
}

fn dimension_of(dim: &Dim) -> Dimension {
    let value = match (dim.as_known(), dim.as_symbol()) {
        (Some(size), _) => dimension::Value::DimValue(size),
        // A size that depends on data has no name in ONNX.
        (None, Some(name)) if name.starts_with(DATA_LEAD) => return Dimension::default(),
        (None, Some(name)) => dimension::Value::DimParam(name.to_owned()),
        (None, None) => dimension::Value::DimParam(dim.to_string()),
    };
    Dimension { value: Some(value), ..Default::default() }
}
