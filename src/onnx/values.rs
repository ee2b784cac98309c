//! Files that hold one value: tensors, sequences, optionals, maps and sparse tensors, in the messages of
//! `onnx-data.proto`.
//!
//! These messages are read here, not by the parser: they nest, and their tensors stay where they are in the file.

use crate::dtypes::{code_of, dtype_of};
use crate::limits::{Limits, MAX_FORM_DEPTH, MAX_TENSORS};
use crate::map::hold;
use crate::schema::Msg;
use crate::sparse::to_sparse;
use crate::tensors::{DAMAGED, Store, tensor_from_pb, tensor_to_pb};
use crate::wire::{fields, push_field, push_varint, scan};
use onnx_protobuf::{GraphProto, Message, SparseTensorProto, ValueInfoProto, type_proto};
use partita_ir::tensor::share_tables;
use partita_ir::{Bytes, DType, Datum, Diag, Tensor};
use std::collections::BTreeSet;

/// Sequences and optionals keep a value in the field of this number plus that of its kind.
const VALUE_FIELD: u64 = 2;

/// What message a value's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    Tensor,
    /// A sparse tensor in files, a dense one here.
    Sparse,
    Sequence,
    Optional,
    Map,
}

impl PortKind {
    fn of_datum(datum: &Datum) -> Self {
        match datum {
            Datum::Tensor(_) => Self::Tensor,
            Datum::Sequence(_) => Self::Sequence,
            Datum::Optional(_) => Self::Optional,
            Datum::Map { .. } => Self::Map,
        }
    }

    /// The number `SequenceProto` and `OptionalProto` have for it.
    fn code(self) -> u64 {
        match self {
            Self::Tensor => 1,
            Self::Sparse => 2,
            Self::Sequence => 3,
            Self::Map => 4,
            Self::Optional => 5,
        }
    }

    fn of_code(code: u64) -> Option<Self> {
        [Self::Tensor, Self::Sparse, Self::Sequence, Self::Map, Self::Optional]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The kinds of a model's inputs (those without a default) and outputs, by name, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub inputs: Vec<(String, PortKind)>,
    pub outputs: Vec<(String, PortKind)>,
}

impl Ports {
    pub(crate) fn of(graph: &GraphProto) -> Self {
        let dense = graph.initializer.iter().map(|t| t.name.as_str());
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        let defaults: BTreeSet<&str> = dense.chain(sparse.map(|v| v.name.as_str())).collect();
        let port = |info: &ValueInfoProto| (info.name.clone(), kind_of(info));
        Self {
            inputs: graph.input.iter().filter(|i| !defaults.contains(i.name.as_str())).map(port).collect(),
            outputs: graph.output.iter().map(port).collect(),
        }
    }
}

fn kind_of(info: &ValueInfoProto) -> PortKind {
    match info.type_.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::SequenceType(_)) => PortKind::Sequence,
        Some(type_proto::Value::OptionalType(_)) => PortKind::Optional,
        Some(type_proto::Value::MapType(_)) => PortKind::Map,
        Some(type_proto::Value::SparseTensorType(_)) => PortKind::Sparse,
        _ => PortKind::Tensor,
    }
}

/// Reads a file that holds one value of this kind.
///
/// # Errors
/// `I004` broken encoding, `I006` values nested too deeply, `I007` too many, `I044` a message that contradicts
/// itself, and what is wrong with one of the tensors.
pub fn datum_from_pb(bytes: &Bytes, kind: PortKind) -> Result<Datum, Diag> {
    Reader { n_left: MAX_TENSORS }.datum(bytes, kind, 0)
}

struct Reader {
    /// Values that may still be read.
    n_left: usize,
}

impl Reader {
    fn datum(&mut self, bytes: &Bytes, kind: PortKind, depth: usize) -> Result<Datum, Diag> {
        if depth > MAX_FORM_DEPTH {
            let text = format!("values nest more than {MAX_FORM_DEPTH} deep");
            return Err(Diag::new("I006", text).hint("flatten the nested sequences"));
        }
        self.n_left = self.n_left.checked_sub(1).ok_or_else(|| {
            Diag::new("I007", format!("the file holds more than {MAX_TENSORS} values"))
                .hint("use fewer values")
        })?;
        match kind {
            PortKind::Tensor => Ok(Datum::Tensor(tensor_from_pb(bytes.clone())?.1)),
            PortKind::Sparse => sparse_from_pb(bytes).map(Datum::Tensor),
            PortKind::Sequence => self.sequence(bytes, depth).map(Datum::Sequence),
            PortKind::Optional => self.optional(bytes, depth),
            PortKind::Map => self.map(bytes, depth),
        }
    }

    fn sequence(&mut self, bytes: &Bytes, depth: usize) -> Result<Vec<Datum>, Diag> {
        let (mut stated, mut items) = (None, Vec::new());
        for field in fields(bytes)? {
            match (field.number, field.payload) {
                (2, None) => stated = PortKind::of_code(field.value),
                (number @ 3..=7, Some(payload)) => {
                    items.push((PortKind::of_code(u64::from(number) - VALUE_FIELD), payload));
                }
                _ => {}
            }
        }
        let item = |(kind, payload): (Option<PortKind>, Bytes)| match kind.filter(|_| kind == stated) {
            Some(kind) => self.datum(&payload, kind, depth + 1),
            None => Err(wrong("a sequence holds values of another kind than it states")),
        };
        items.into_iter().map(item).collect()
    }

    fn optional(&mut self, bytes: &Bytes, depth: usize) -> Result<Datum, Diag> {
        let (mut stated, mut item) = (0, None);
        for field in fields(bytes)? {
            match (field.number, field.payload) {
                (2, None) => stated = field.value,
                (number @ 3..=7, Some(payload)) => item = Some((number, payload)),
                _ => {}
            }
        }
        let Some(kind) = PortKind::of_code(stated) else {
            return match (stated, item) {
                (0, None) => Ok(Datum::Optional(None)),
                _ => Err(wrong("an optional holds a value of another kind than it states")),
            };
        };
        // The kind may be stated although there is no value.
        let Some((number, payload)) = item else { return Ok(Datum::Optional(None)) };
        if u64::from(number) != VALUE_FIELD + kind.code() {
            return Err(wrong("an optional holds a value of another kind than it states"));
        }
        Ok(Datum::Optional(Some(Box::new(self.datum(&payload, kind, depth + 1)?))))
    }

    fn map(&mut self, bytes: &Bytes, depth: usize) -> Result<Datum, Diag> {
        let (mut key_type, mut ints, mut texts) = (0, Vec::new(), Vec::new());
        let mut values = Vec::new();
        for field in fields(bytes)? {
            match (field.number, field.payload) {
                (2, None) => key_type = field.value,
                (3, None) => ints.push(field.value.cast_signed()),
                (3, Some(payload)) => ints.extend(crate::wire::varints(&payload)?),
                (4, Some(payload)) => texts.push(text(&payload)?),
                (5, Some(payload)) => values = self.sequence(&payload, depth + 1)?,
                _ => {}
            }
        }
        let dtype = dtype_of(i64::try_from(key_type).unwrap_or(-1))?;
        let keys = match dtype {
            DType::Str if ints.is_empty() => Tensor::from_strings(&[texts.len()], &texts),
            _ if dtype.is_float() || dtype == DType::Str || !texts.is_empty() => None,
            _ => Tensor::from_i64s(dtype, &[ints.len()], &ints),
        };
        let keys = keys.ok_or_else(|| wrong("the keys of a map are not what it states"))?;
        let values = stacked(values, keys.n_elements())?;
        Ok(Datum::Map { keys, values })
    }
}

fn wrong(text: &str) -> Diag {
    Diag::new("I044", text).hint(DAMAGED)
}

fn text(bytes: &Bytes) -> Result<String, Diag> {
    std::str::from_utf8(bytes.as_slice())
        .map(str::to_owned)
        .map_err(|_| Diag::new("I008", "a key is not UTF-8 text").hint(DAMAGED))
}

/// The values of a map as one tensor: one dimension, then that of a value.
fn stacked(values: Vec<Datum>, n_keys: usize) -> Result<Tensor, Diag> {
    let tensor =
        |datum| match datum {
            Datum::Tensor(tensor) => Ok(tensor),
            _ => Err(Diag::new("U003", "a map to anything but tensors is not supported")
                .hint("use a map to numbers")),
        };
    let mut tensors: Vec<Tensor> = values.into_iter().map(tensor).collect::<Result<_, _>>()?;
    let Some(first) = tensors.first().cloned() else {
        let empty = Tensor::from_slice::<f32>(&[0], &[]).filter(|_| n_keys == 0);
        return empty.ok_or_else(|| wrong("a map has no values"));
    };
    let same = tensors.iter().all(|t| t.dtype() == first.dtype() && t.shape() == first.shape());
    if tensors.len() != n_keys || !same {
        return Err(wrong("the values of a map are not one of a kind for every key"));
    }
    let table = share_tables(&mut tensors.iter_mut().collect::<Vec<_>>());
    let mut shape = vec![n_keys];
    // A single value is written as a scalar or as a list of one.
    if first.n_elements() != 1 {
        shape.extend(first.shape());
    }
    let bytes = tensors.iter().flat_map(|t| t.bytes().iter().copied()).collect();
    let all = Tensor::new(first.dtype(), &shape, Bytes::from_vec(bytes));
    all.map(|t| t.with_table(table)).ok_or_else(|| wrong("the values of a map are too many"))
}

fn sparse_from_pb(bytes: &Bytes) -> Result<Tensor, Diag> {
    let scanned = scan(bytes.as_slice(), Msg::SparseTensor, &Limits::default())?;
    let proto = SparseTensorProto::parse_from_bytes(&scanned.structure)
        .map_err(|e| Diag::new("I009", format!("the tensor cannot be decoded: {e}")).hint(DAMAGED))?;
    Store::of_message(hold(bytes.clone()), scanned.lifts).sparse(&proto)
}

/// A file that holds the value in the message that a port of type `kind` wants. A value of another kind is written
/// as what it is.
pub fn datum_to_pb(name: &str, datum: &Datum, kind: PortKind) -> Vec<u8> {
    match (datum, kind) {
        (Datum::Tensor(tensor), PortKind::Sparse) => {
            to_sparse(name, tensor).write_to_bytes().unwrap_or_default()
        }
        (Datum::Tensor(tensor), PortKind::Optional) => optional(name, Some(&Datum::Tensor(tensor.clone()))),
        (Datum::Sequence(_), PortKind::Optional) => optional(name, Some(datum)),
        (Datum::Tensor(tensor), _) => tensor_to_pb(name, tensor),
        (Datum::Sequence(items), _) => sequence(name, items),
        (Datum::Optional(item), _) => optional(name, item.as_deref()),
        (Datum::Map { keys, values }, _) => map(name, keys, values),
    }
}

fn named(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if !name.is_empty() {
        push_field(&mut out, 1, name.as_bytes());
    }
    out
}

fn push_number(out: &mut Vec<u8>, field: u64, value: u64) {
    push_varint(out, field << 3);
    push_varint(out, value);
}

fn sequence(name: &str, items: &[Datum]) -> Vec<u8> {
    let mut out = named(name);
    let kind = items.first().map_or(PortKind::Tensor, PortKind::of_datum);
    push_number(&mut out, 2, kind.code());
    items
        .iter()
        .for_each(|item| push_field(&mut out, VALUE_FIELD + kind.code(), &datum_to_pb("", item, kind)));
    out
}

fn optional(name: &str, item: Option<&Datum>) -> Vec<u8> {
    let mut out = named(name);
    let Some(item) = item else {
        push_number(&mut out, 2, 0);
        return out;
    };
    let kind = PortKind::of_datum(item);
    push_number(&mut out, 2, kind.code());
    push_field(&mut out, VALUE_FIELD + kind.code(), &datum_to_pb("", item, kind));
    out
}

fn map(name: &str, keys: &Tensor, values: &Tensor) -> Vec<u8> {
    let mut out = named(name);
    push_number(&mut out, 2, u64::try_from(code_of(keys.dtype())).unwrap_or(0));
    if keys.dtype() == DType::Str {
        keys.strings().iter().for_each(|key| push_field(&mut out, 4, key.as_bytes()));
    } else {
        keys.to_i64s().iter().for_each(|key| push_number(&mut out, 3, key.cast_unsigned()));
    }
    let items: Vec<Datum> = rows(values).into_iter().map(Datum::Tensor).collect();
    push_field(&mut out, 5, &sequence("", &items));
    out
}

/// The entries along the first axis.
fn rows(values: &Tensor) -> Vec<Tensor> {
    let Some((n, shape)) = values.shape().split_first() else { return vec![values.clone()] };
    let row_bytes = values.bytes().len().checked_div(*n).unwrap_or(0);
    let row = |i: usize| {
        let bytes = values.bytes().get(i * row_bytes..(i + 1) * row_bytes)?;
        let row = Tensor::new(values.dtype(), shape, Bytes::from_vec(bytes.to_vec()))?;
        Some(row.with_table(values.table().cloned()))
    };
    (0..*n).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(datum: &Datum, kind: PortKind) -> Datum {
        datum_from_pb(&Bytes::from_vec(datum_to_pb("v", datum, kind)), kind).unwrap()
    }

    #[test]
    fn values_round_trip() {
        let tensor = Datum::Tensor(Tensor::from_slice(&[2], &[1.0f32, 0.0]).unwrap());
        let text = Datum::Tensor(Tensor::from_strings(&[2], &["b", "a"]).unwrap());
        let sequence = Datum::Sequence(vec![tensor.clone(), text]);
        let nested = Datum::Sequence(vec![sequence.clone(), Datum::Sequence(Vec::new())]);
        assert_eq!(back(&tensor, PortKind::Sparse), tensor);
        for datum in [&sequence, &nested, &Datum::Sequence(Vec::new())] {
            assert_eq!(back(datum, PortKind::Sequence), *datum);
        }
        for item in [None, Some(Box::new(tensor)), Some(Box::new(nested))] {
            let datum = Datum::Optional(item);
            assert_eq!(back(&datum, PortKind::Optional), datum);
        }
    }

    #[test]
    fn maps_round_trip() {
        let values = Tensor::from_slice(&[2], &[0.5f32, 2.0]).unwrap();
        for keys in
            [Tensor::from_slice(&[2], &[-1i64, 7]).unwrap(), Tensor::from_strings(&[2], &["b", "a"]).unwrap()]
        {
            let datum = Datum::Map { keys, values: values.clone() };
            assert_eq!(back(&datum, PortKind::Map), datum);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut datum = Datum::Sequence(Vec::new());
        for _ in 0..20 {
            datum = Datum::Sequence(vec![datum]);
        }
        let bytes = Bytes::from_vec(datum_to_pb("v", &datum, PortKind::Sequence));
        assert_eq!(datum_from_pb(&bytes, PortKind::Sequence).unwrap_err().code, "I006");
    }

    #[test]
    fn contradictions_are_refused() {
        let mut lies = Vec::new();
        push_number(&mut lies, 2, 3);
        push_field(&mut lies, 3, &tensor_to_pb("", &Tensor::scalar(1.0f32)));
        let lies = Bytes::from_vec(lies);
        assert_eq!(datum_from_pb(&lies, PortKind::Sequence).unwrap_err().code, "I044");
        assert_eq!(datum_from_pb(&lies, PortKind::Optional).unwrap_err().code, "I044");
    }
}
