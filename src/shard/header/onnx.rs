//! ONNX: the initializers of the graph, by a walk over the wire format that skips their data.
//!
//! Field numbers are those of `onnx.proto`: graph 7 of a model; initializer 5 of a graph; dims 1, data_type 2, name 8 of a
//! tensor. Groups and anything else unknown to protobuf 3 are refused.

use std::io::{Read, Seek};

use super::{FileModel, MAX_RANK, MAX_TENSORS, MAX_TEXT_BYTES, Source, TensorInfo, broken, from_tensors};
use crate::error::ShardError;

/// A field: its number and what follows.
enum Field {
    Number(u64),
    /// Bytes up to this place.
    Bytes(u64),
}

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<FileModel, ShardError> {
    let mut tensors = Vec::new();
    let end = source.length;
    while source.at < end {
        match field(source, end)? {
            (7, Field::Bytes(graph_end)) => graph(source, graph_end, &mut tensors)?,
            (number, _) if number > 64 => return Err(broken("this is no ONNX model")),
            (_, Field::Bytes(place)) => source.skip(place - source.at)?,
            (_, Field::Number(_)) => {}
        }
    }
    from_tensors("onnx", &tensors, None)
}

fn graph<R: Read + Seek>(
    source: &mut Source<R>,
    end: u64,
    tensors: &mut Vec<TensorInfo>,
) -> Result<(), ShardError> {
    while source.at < end {
        match field(source, end)? {
            (5, Field::Bytes(tensor_end)) => {
                if tensors.len() as u64 >= MAX_TENSORS {
                    return Err(broken(format!("more than {MAX_TENSORS} tensors")));
                }
                tensors.push(tensor(source, tensor_end)?);
            }
            (_, Field::Bytes(place)) => source.skip(place - source.at)?,
            (_, Field::Number(_)) => {}
        }
    }
    Ok(())
}

fn tensor<R: Read + Seek>(source: &mut Source<R>, end: u64) -> Result<TensorInfo, ShardError> {
    let (mut name, mut shape, mut kind) = (String::new(), Vec::new(), 0);
    while source.at < end {
        match field(source, end)? {
            (1, Field::Number(size)) => shape.push(size),
            (1, Field::Bytes(place)) => {
                while source.at < place && shape.len() as u64 <= MAX_RANK {
                    shape.push(varint(source, place)?);
                }
                source.skip(place.saturating_sub(source.at))?;
            }
            (2, Field::Number(number)) => kind = number,
            (8, Field::Bytes(place)) if place - source.at <= MAX_TEXT_BYTES => {
                let bytes = source.bytes(place - source.at)?;
                name = String::from_utf8_lossy(&bytes).into_owned();
            }
            (_, Field::Bytes(place)) => source.skip(place - source.at)?,
            (_, Field::Number(_)) => {}
        }
        if shape.len() as u64 > MAX_RANK {
            return Err(broken(format!("tensor {name:?} has more than {MAX_RANK} dimensions")));
        }
    }
    let (bits, format) = match kind {
        1 => (32.0, "fp32"),
        10 => (16.0, "fp16"),
        16 => (16.0, "bf16"),
        17..=20 => (8.0, "fp8"),
        2 | 3 | 9 => (8.0, "int8"),
        4 | 5 => (16.0, "int8"),
        21 | 22 => (4.0, "int4"),
        23 => (4.0, "fp4"),
        11 => (64.0, "fp32"),
        6 | 12 => (32.0, "int8"),
        _ => (64.0, "int8"),
    };
    Ok(TensorInfo { name, shape, bits, format })
}

/// The next field of a message that ends at `end`.
fn field<R: Read + Seek>(source: &mut Source<R>, end: u64) -> Result<(u64, Field), ShardError> {
    let tag = varint(source, end)?;
    let value = match tag & 7 {
        0 => Field::Number(varint(source, end)?),
        1 | 5 => {
            let width = if tag & 7 == 1 { 8 } else { 4 };
            if width > end.saturating_sub(source.at) {
                return Err(broken("a field reaches beyond its message"));
            }
            source.skip(width)?;
            Field::Number(0)
        }
        2 => {
            let length = varint(source, end)?;
            let place = source.at.checked_add(length).filter(|&place| place <= end);
            Field::Bytes(place.ok_or_else(|| broken("a field reaches beyond its message"))?)
        }
        _ => return Err(broken("this is neither safetensors nor GGUF nor ONNX")),
    };
    Ok((tag >> 3, value))
}

fn varint<R: Read + Seek>(source: &mut Source<R>, end: u64) -> Result<u64, ShardError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        if source.at >= end {
            return Err(broken("the file ends inside a number"));
        }
        let [byte] = source.array::<1>()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a number of more than ten bytes"))
}
