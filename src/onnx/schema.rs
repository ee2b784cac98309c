//! The part of ONNX's protobuf schema the wire scan needs: which fields hold messages, names, text and weights.
//!
//! A field that is not listed is plain data: it is copied as it stands and never descended into.

/// A message type of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Msg {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
    ValueInfo,
    Type,
    TensorType,
    /// Sequence and optional types: one nested type.
    ElementType,
    MapType,
    Shape,
    Dimension,
    OpsetId,
    Entry,
    Annotation,
}

/// Weights that are lifted out of the structure; the order is that of `TensorProto`'s fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// `raw_data`.
    Raw,
    /// Packed `float_data`: little-endian f32, so it needs no decoding either.
    Float,
    /// Packed `double_data`.
    Double,
}

/// What a length-delimited field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// A message of a repeated field.
    Many(Msg),
    /// A message of a field that may occur once.
    One(Msg),
    /// A name: UTF-8 of bounded length.
    Name,
    /// Free text: UTF-8.
    Text,
    Weights(Weights),
    /// Refused: the scan writes this field itself.
    Reserved,
    Plain,
}

use Field::{Many, Name, One, Plain, Reserved, Text};

/// Kind of field `number` of `msg`.
pub(crate) fn field(msg: Msg, number: u32) -> Field {
    match msg {
        Msg::Model => model(number),
        Msg::Graph => graph(number),
        Msg::Node => node(number),
        Msg::Attribute => attribute(number),
        Msg::Tensor => tensor(number),
        Msg::Function => function(number),
        _ => small(msg, number),
    }
}

fn model(number: u32) -> Field {
    match number {
        2..=4 | 6 => Text,
        7 => One(Msg::Graph),
        8 => Many(Msg::OpsetId),
        14 => Many(Msg::Entry),
        20 => Many(Msg::Training),
        25 => Many(Msg::Function),
        _ => Plain,
    }
}

fn graph(number: u32) -> Field {
    match number {
        1 => Many(Msg::Node),
        2 => Name,
        5 => Many(Msg::Tensor),
        10 => Text,
        11..=13 => Many(Msg::ValueInfo),
        14 => Many(Msg::Annotation),
        15 => Many(Msg::SparseTensor),
        16 => Many(Msg::Entry),
        _ => Plain,
    }
}

fn node(number: u32) -> Field {
    match number {
        1..=4 | 7 | 8 => Name,
        5 => Many(Msg::Attribute),
        6 => Text,
        9 => Many(Msg::Entry),
        _ => Plain,
    }
}

fn attribute(number: u32) -> Field {
    match number {
        1 | 21 => Name,
        13 => Text,
        5 => One(Msg::Tensor),
        6 => One(Msg::Graph),
        10 => Many(Msg::Tensor),
        11 => Many(Msg::Graph),
        14 => One(Msg::Type),
        15 => Many(Msg::Type),
        22 => One(Msg::SparseTensor),
        23 => Many(Msg::SparseTensor),
        _ => Plain,
    }
}

fn tensor(number: u32) -> Field {
    match number {
        3 => Reserved,
        4 => Field::Weights(Weights::Float),
        9 => Field::Weights(Weights::Raw),
        10 => Field::Weights(Weights::Double),
        8 => Name,
        12 => Text,
        13 | 16 => Many(Msg::Entry),
        _ => Plain,
    }
}

fn function(number: u32) -> Field {
    match number {
        1 | 4..=6 | 10 | 13 => Name,
        7 => Many(Msg::Node),
        8 => Text,
        9 => Many(Msg::OpsetId),
        11 => Many(Msg::Attribute),
        12 => Many(Msg::ValueInfo),
        14 => Many(Msg::Entry),
        _ => Plain,
    }
}

fn small(msg: Msg, number: u32) -> Field {
    match (msg, number) {
        (Msg::SparseTensor, 1 | 2) => One(Msg::Tensor),
        (Msg::Training, 1 | 2) => One(Msg::Graph),
        (Msg::Training, 3 | 4) => Many(Msg::Entry),
        (Msg::ValueInfo, 1) => Name,
        (Msg::ValueInfo, 2) => One(Msg::Type),
        (Msg::ValueInfo, 3) | (Msg::Type, 6) => Text,
        (Msg::ValueInfo, 4) => Many(Msg::Entry),
        (Msg::Type, 1 | 8) => One(Msg::TensorType),
        (Msg::Type, 4 | 9) => One(Msg::ElementType),
        (Msg::Type, 5) => One(Msg::MapType),
        (Msg::TensorType, 2) => One(Msg::Shape),
        (Msg::ElementType, 1) | (Msg::MapType, 2) => One(Msg::Type),
        (Msg::Shape, 1) => Many(Msg::Dimension),
        (Msg::Dimension, 2) | (Msg::OpsetId, 1) | (Msg::Annotation, 1) => Name,
        (Msg::Dimension, 3) | (Msg::Entry, 1 | 2) => Text,
        (Msg::Annotation, 2) => Many(Msg::Entry),
        _ => Plain,
    }
}
