//! Safetensors: eight bytes with the length of a JSON object, then the object: name to type, shape and place. Large models
//! are several such files with an index beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::path::Path;

use serde::Deserialize;

use super::{FileModel, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, Source, TensorInfo, broken, from_tensors};
use crate::error::ShardError;

/// Most files of a model.
const MAX_FILES: usize = 1024;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Whether the first bytes may be the length of a header in a file of that length.
pub(super) fn looks_like(start: &[u8], length: u64) -> bool {
    let Ok(bytes) = <[u8; 8]>::try_from(start) else { return false };
    let header = u64::from_le_bytes(bytes);
    header >= 2 && header.checked_add(8).is_some_and(|end| end <= length)
}

pub(super) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<FileModel, ShardError> {
    let mut tensors = Vec::new();
    collect(source, &mut tensors)?;
    from_tensors("safetensors", &tensors, None)
}

/// Adds the tensors of one file.
fn collect<R: Read + Seek>(source: &mut Source<R>, tensors: &mut Vec<TensorInfo>) -> Result<(), ShardError> {
    let header = u64::from_le_bytes(source.array()?);
    if header > MAX_HEADER_BYTES {
        return Err(broken(format!("a header of {header} bytes; the limit is {MAX_HEADER_BYTES}")));
    }
    let data = source.length.saturating_sub(8).saturating_sub(header);
    let text = source.bytes(header)?;
    let object: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|e| broken(format!("the header is no JSON object: {e}")))?;
    for (name, value) in object {
        if name == "__metadata__" {
            continue;
        }
        if tensors.len() as u64 >= MAX_TENSORS {
            return Err(broken(format!("more than {MAX_TENSORS} tensors")));
        }
        let entry: Entry = serde_json::from_value(value)
            .map_err(|e| broken(format!("tensor {name:?} is not described: {e}")))?;
        tensors.push(tensor(name, entry, data)?);
    }
    Ok(())
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the headers of every file an index names; they lie beside it.
pub(super) fn read_index(path: &Path, text: &[u8]) -> Result<FileModel, ShardError> {
    let index: Index =
        serde_json::from_slice(text).map_err(|e| broken(format!("the index has no weight_map: {e}")))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if files.len() > MAX_FILES {
        return Err(broken(format!("{} files; the limit is {MAX_FILES}", files.len())));
    }
    let mut tensors = Vec::new();
    for name in files {
        let plain = Path::new(&name).file_name().is_some_and(|own| own == name.as_str());
        if !plain {
            return Err(broken(format!("the index names {name:?}, which is no file beside it")));
        }
        collect(&mut super::open(&path.with_file_name(&name))?, &mut tensors)?;
    }
    from_tensors("safetensors", &tensors, None)
}

fn tensor(name: String, entry: Entry, data: u64) -> Result<TensorInfo, ShardError> {
    let (bits, format) = match entry.dtype.as_str() {
        "F64" => (64.0, "fp32"),
        "F32" => (32.0, "fp32"),
        "I64" | "U64" => (64.0, "int8"),
        "I32" | "U32" => (32.0, "int8"),
        "I16" | "U16" => (16.0, "int8"),
        "F16" => (16.0, "fp16"),
        "BF16" => (16.0, "bf16"),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => (8.0, "fp8"),
        "I8" | "U8" | "BOOL" => (8.0, "int8"),
        "F4" => (4.0, "fp4"),
        other => return Err(broken(format!("tensor {name:?} is of unknown type {other:?}"))),
    };
    let [begin, end] = entry.data_offsets;
    if begin > end || end > data {
        return Err(broken(format!("tensor {name:?} lies outside the file")));
    }
    if entry.shape.len() as u64 > MAX_RANK {
        return Err(broken(format!("tensor {name:?} has more than {MAX_RANK} dimensions")));
    }
    let tensor = TensorInfo { name, shape: entry.shape, bits, format };
    if tensor.elements() as f64 * bits / 8.0 > (end - begin) as f64 + 1.0 {
        return Err(broken(format!("tensor {:?} is larger than its place", tensor.name)));
    }
    Ok(tensor)
}
