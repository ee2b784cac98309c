//! The bytes of a model: the structure through protobuf, the weights streamed after it so that they are never
//! held twice. Files are written beside their final name and renamed when complete.

use crate::packed::file_bytes;
use crate::sparse::size_in_file;
use crate::tensors::{header, prefix};
use crate::wire::push_varint;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, Message, ModelProto, StringStringEntryProto};
use partita_ir::{DType, Diag, Tensor};
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Largest message protobuf readers accept.
pub const MAX_MESSAGE_BYTES: u64 = (1 << 31) - 1;
/// Weights smaller than this stay in the model when the others go to a file of their own.
pub const MIN_EXTERNAL_BYTES: usize = 1024;
/// Alignment of weights in a file of their own.
const ALIGN_BYTES: u64 = 64;

/// A model ready to be written.
pub(crate) struct Encoded {
    /// Everything but the graph.
    pub(crate) model: ModelProto,
    /// Everything but the initializers.
    pub(crate) graph: GraphProto,
    pub(crate) initializers: Vec<(String, Tensor)>,
}

/// An initializer in the model: its bytes up to its data, and its data unless that lies elsewhere.
struct Piece<'a> {
    prefix: Vec<u8>,
    data: Cow<'a, [u8]>,
}

impl<'a> Piece<'a> {
    fn inside(name: &str, tensor: &'a Tensor) -> Self {
        let data = file_bytes(tensor);
        Self { prefix: prefix(name, tensor, data.len()), data }
    }
}

impl Encoded {
    /// Bytes of the file with all weights inside, but for a few hundred.
    pub(crate) fn size_bytes(&self) -> u64 {
        let weights: u64 =
            self.initializers.iter().map(|(n, t)| (n.len() + size_in_file(t) + 64) as u64).sum();
        weights + self.graph.compute_size() + self.model.compute_size()
    }

    /// Writes the model with all weights inside.
    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let pieces = self.initializers.iter().map(|(n, t)| Piece::inside(n, t));
        self.write_pieces(&pieces.collect::<Vec<_>>(), out)
    }

    fn write_pieces(&self, pieces: &[Piece], out: &mut dyn Write) -> std::io::Result<()> {
        let graph = self.graph.write_to_bytes()?;
        let heads: Vec<Vec<u8>> = pieces.iter().map(|p| field(5, p.prefix.len() + p.data.len())).collect();
        let weights: usize =
            pieces.iter().zip(&heads).map(|(p, head)| head.len() + p.prefix.len() + p.data.len()).sum();
        out.write_all(&self.model.write_to_bytes()?)?;
        out.write_all(&field(7, graph.len() + weights))?;
        out.write_all(&graph)?;
        for (piece, head) in pieces.iter().zip(&heads) {
            out.write_all(head)?;
            out.write_all(&piece.prefix)?;
            out.write_all(&piece.data)?;
        }
        out.flush()
    }

    /// Writes the file `path` with all weights inside.
    ///
    /// # Errors
    /// `I050` when it cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Diag> {
        replace(path, |out| self.write(out))
    }

    /// Writes the file `path`, and the weights to a file beside it with `.data` added to the name.
    ///
    /// # Errors
    /// `I050` when one of them cannot be written.
    pub(crate) fn save_with_data(&self, path: &Path) -> Result<(), Diag> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let data_name = format!("{name}.data");
        let mut offset = 0u64;
        let mut outside: Vec<(u64, Cow<[u8]>)> = Vec::new();
        let mut pieces = Vec::new();
        for (name, tensor) in &self.initializers {
            let data = file_bytes(tensor);
            if data.len() < MIN_EXTERNAL_BYTES || tensor.dtype() == DType::Str {
                pieces.push(Piece::inside(name, tensor));
                continue;
            }
            offset = offset.next_multiple_of(ALIGN_BYTES);
            let prefix = reference(name, tensor, &data_name, offset, data.len());
            pieces.push(Piece { prefix, data: Cow::Borrowed(&[]) });
            let len = data.len() as u64;
            outside.push((offset, data));
            offset += len;
        }
        replace(&path.with_file_name(&data_name), |out| write_aligned(&outside, out))?;
        replace(path, |out| self.write_pieces(&pieces, out))
    }
}

fn write_aligned(weights: &[(u64, Cow<[u8]>)], out: &mut dyn Write) -> std::io::Result<()> {
    let mut at = 0u64;
    for (offset, data) in weights {
        let gap = usize::try_from(offset - at).unwrap_or(0);
        out.write_all(&[0; ALIGN_BYTES as usize][..gap])?;
        out.write_all(data)?;
        at = offset + data.len() as u64;
    }
    Ok(())
}

/// The bytes of an initializer whose data lies in a file of its own.
fn reference(name: &str, tensor: &Tensor, file: &str, offset: u64, len: usize) -> Vec<u8> {
    let mut proto = header(name, tensor);
    proto.data_location = DataLocation::EXTERNAL.into();
    let entries =
        [("location", file.to_owned()), ("offset", offset.to_string()), ("length", len.to_string())];
    proto.external_data = entries
        .into_iter()
        .map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value, ..Default::default() })
        .collect();
    proto.write_to_bytes().unwrap_or_default()
}

/// Head of a length-delimited field.
fn field(number: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(&mut out, number << 3 | 2);
    push_varint(&mut out, len as u64);
    out
}

/// Writes a file under a temporary name in the same folder and renames it when it is complete. Links are not
/// followed: what is written is a new file of this folder.
fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Diag> {
    let here = |d: Diag| d.in_file(path.display().to_string());
    if std::fs::symlink_metadata(path).is_ok_and(|old| !old.is_file() && !old.is_symlink()) {
        let diag = Diag::new("I050", "there is something else than a file of this name");
        return Err(here(diag.hint("give another name")));
    }
    let cannot = |error: std::io::Error| {
        let diag = Diag::new("I050", format!("the file cannot be written: {error}"));
        here(diag.hint("check the folder, its permissions and the space left"))
    };
    let (file, temporary) = create(path).map_err(cannot)?;
    let mut out = BufWriter::new(file);
    let attempt = write(&mut out)
        .and_then(|()| out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    attempt.map_err(|error| {
        // Nothing half-written stays; a failure to remove it changes nothing about the first error.
        let _ = std::fs::remove_file(&temporary);
        cannot(error)
    })
}

/// A new file beside `path`; one that exists, or a link of that name, is never opened.
fn create(path: &Path) -> std::io::Result<(File, PathBuf)> {
    const ATTEMPTS: usize = 16;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut last = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    for attempt in 0..ATTEMPTS {
        let temporary = path.with_file_name(format!(".{name}.{}.{attempt}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
