//! What a file of weights says about its model, from its header alone: safetensors, GGUF, ONNX.
//!
//! Files are untrusted: only headers are read, sizes are checked against named limits before anything is allocated, and
//! data is skipped. The architecture follows from metadata where there is some, else from names and shapes of tensors;
//! what cannot be told is guessed from the number of parameters, and the plan says so.

mod gguf;
mod onnx;
mod safetensors;
mod shapes;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Code, ShardError};
use crate::quant::Quant;
use crate::spec::ModelSpec;

/// Most bytes of a header.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// Most tensors of a file.
pub const MAX_TENSORS: u64 = 1 << 20;

/// Longest name or text kept.
pub const MAX_TEXT_BYTES: u64 = 1 << 16;

/// Most dimensions of a tensor.
pub const MAX_RANK: u64 = 16;

/// A tensor as the header states it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Elements along each dimension, the slowest first.
    pub shape: Vec<u64>,
    /// Bits of an element, scales included.
    pub bits: f64,
    /// Name of its format.
    pub format: &'static str,
}

impl TensorInfo {
    /// Elements; saturating, so that a hostile shape stays a number.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |all, &size| all.saturating_mul(size))
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct FileModel {
    /// "safetensors", "gguf" or "onnx".
    pub form: &'static str,
    /// Elements of all tensors.
    pub params: u64,
    /// Bytes of all tensors.
    pub bytes: f64,
    /// The architecture.
    pub spec: ModelSpec,
    /// The formats, as one average.
    pub quant: Quant,
}

/// Reads a header; of a `.index.json`, those of the files it names.
///
/// # Errors
/// A letter for files that cannot be read, broken headers and exceeded limits.
pub fn read(path: &Path) -> Result<FileModel, ShardError> {
    let mut source = open(path)?;
    let start = source.peek(8)?;
    if start.starts_with(b"GGUF") {
        return gguf::read(&mut source);
    }
    if path.to_string_lossy().ends_with(".index.json") {
        let text = source.bytes(source.length)?;
        return safetensors::read_index(path, &text);
    }
    if start.len() == 8 && safetensors::looks_like(&start, source.length) {
        return safetensors::read(&mut source);
    }
    onnx::read(&mut source)
}

/// A file to be read from its beginning.
fn open(path: &Path) -> Result<Source<BufReader<File>>, ShardError> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        ShardError::new(Code::Header, message, "check the path and the permissions")
    };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok(Source { reader: BufReader::new(file), at: 0, length })
}

/// A letter about a header.
fn broken(message: impl Into<String>) -> ShardError {
    ShardError::new(
        Code::Header,
        message,
        "the file is damaged, or of another kind: safetensors, GGUF and ONNX are read",
    )
}

/// A file read forwards within its length.
struct Source<R> {
    reader: R,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Source<R> {
    fn peek(&mut self, count: usize) -> Result<Vec<u8>, ShardError> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(count as u64).read_to_end(&mut bytes);
        read.map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        self.reader
            .seek(SeekFrom::Start(self.at))
            .map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        Ok(bytes)
    }

    /// Reads so many bytes; refuses what reaches beyond the end before allocating.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, ShardError> {
        if count > self.length.saturating_sub(self.at) || count > MAX_HEADER_BYTES {
            return Err(broken(format!("the header reaches beyond the end of the file at byte {}", self.at)));
        }
        let mut bytes = vec![0; count as usize];
        self.reader.read_exact(&mut bytes).map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        self.at += count;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), ShardError> {
        if count > self.length.saturating_sub(self.at) {
            return Err(broken(format!("a field reaches beyond the end of the file at byte {}", self.at)));
        }
        self.at += count;
        // Short ways are read through: a seek would throw the buffer away.
        if count <= 4096 {
            let copied = std::io::copy(&mut self.reader.by_ref().take(count), &mut std::io::sink());
            copied.map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        } else {
            self.reader
                .seek(SeekFrom::Start(self.at))
                .map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ShardError> {
        let mut bytes = [0; N];
        if N as u64 > self.length.saturating_sub(self.at) {
            return Err(broken("the file ends inside its header"));
        }
        self.reader.read_exact(&mut bytes).map_err(|e| broken(format!("the file cannot be read: {e}")))?;
        self.at += N as u64;
        Ok(bytes)
    }
}

/// The model of some tensors: parameters, bytes, formats, and the architecture by names and shapes.
fn from_tensors(
    form: &'static str,
    tensors: &[TensorInfo],
    stated: Option<ModelSpec>,
) -> Result<FileModel, ShardError> {
    let params = tensors.iter().fold(0_u64, |all, tensor| all.saturating_add(tensor.elements()));
    let bits: f64 = tensors.iter().map(|tensor| tensor.elements() as f64 * tensor.bits).sum();
    if params == 0 {
        return Err(broken("the file holds no tensors"));
    }
    let spec = match stated.or_else(|| shapes::infer(tensors)) {
        Some(mut spec) if spec.check().is_ok() => {
            // What the closed form misses or has too much is not in the layers.
            let known = spec.params() - spec.other_params;
            spec.other_params = params.saturating_sub(known).min(1 << 50);
            spec.params_published = params;
            spec
        }
        _ => crate::catalog::guess(params as f64)?,
    };
    Ok(FileModel { form, params, bytes: bits / 8.0, spec, quant: quant_of(tensors, bits / params as f64) })
}

/// One format that stands for all: the most common one's arithmetic at the average number of bits.
fn quant_of(tensors: &[TensorInfo], bits: f64) -> Quant {
    let mut counts: Vec<(&'static str, u64)> = Vec::new();
    for tensor in tensors {
        match counts.iter_mut().find(|(format, _)| *format == tensor.format) {
            Some((_, count)) => *count = count.saturating_add(tensor.elements()),
            None => counts.push((tensor.format, tensor.elements())),
        }
    }
    let main = counts.iter().max_by_key(|(_, count)| *count).map_or("bf16", |(format, _)| *format);
    let near = Quant::parse(main).or_else(|_| Quant::parse("q4_k"));
    let fallback = crate::quant::QUANTS[2];
    let near = near.unwrap_or(fallback);
    Quant { bits, source: "average over the file's tensors", ..near }
}
