//! Weights in files beside the model. A location must lead to a regular file inside the model's folder; links
//! are followed first, so what counts is where the file really lies.

use crate::limits::Limits;
use crate::map::{Owner, map};
use onnx_protobuf::{StringStringEntryProto, TensorProto};
use partita_ir::{Bytes, Diag};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Longest path of a data file, in bytes; no system allows longer ones.
const MAX_LOCATION_BYTES: usize = 4096;

/// Folders external data may lie in, and the files mapped so far.
#[derive(Default)]
pub(crate) struct External {
    /// Canonical. Empty: there is no folder, so external data is refused.
    roots: Vec<PathBuf>,
    folder: PathBuf,
    max_bytes: u64,
    open: BTreeMap<PathBuf, Owner>,
}

impl External {
    /// Data beside the file `model`: in the folder of that name, or in the folder the file really lies in (a
    /// download cache links `model.onnx` into a store, where its data file lies as well).
    pub(crate) fn beside(model: &Path, limits: &Limits) -> Self {
        let folder = model.parent().unwrap_or(Path::new(""));
        let real = model.canonicalize().ok();
        let mut external = Self::in_folder(folder, limits);
        external.roots.extend(real.as_deref().and_then(Path::parent).map(Path::to_owned));
        external.roots.dedup();
        external
    }

    /// Data inside `folder`.
    pub(crate) fn in_folder(folder: &Path, limits: &Limits) -> Self {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let roots = folder.canonicalize().into_iter().collect();
        Self { roots, folder: folder.to_owned(), max_bytes: limits.model_bytes, open: BTreeMap::new() }
    }

    /// The data of `tensor`, of which `want` bytes are needed.
    ///
    /// # Errors
    /// `I030` outside the folder, `I031` missing or not a regular file, `I032` range outside the file,
    /// `I033` bad entries.
    pub(crate) fn data(&mut self, tensor: &TensorProto, want: usize) -> Result<Bytes, Diag> {
        let entries = &tensor.external_data;
        let location = entry(entries, "location")?
            .ok_or_else(|| Diag::new("I033", "external data has no location").hint(EXPORT_AGAIN))?;
        let offset = number(entries, "offset")?.unwrap_or(0);
        let len = number(entries, "length")?.unwrap_or(want);
        if len != want {
            let text = format!("external data has {len} bytes, the tensor's shape needs {want}");
            return Err(Diag::new("I040", text).hint(EXPORT_AGAIN));
        }
        let file = self.file(location)?;
        let size = (*file).as_ref().len();
        Bytes::slice_of(file, offset, len).ok_or_else(|| {
            let text = format!("bytes {offset} to {offset}+{len} of {location} are wanted, it has {size}");
            Diag::new("I032", text).hint("the data file is incomplete or belongs to another model")
        })
    }

    fn file(&mut self, location: &str) -> Result<Owner, Diag> {
        let path = self.resolve(location)?;
        if let Some(file) = self.open.get(&path) {
            return Ok(file.clone());
        }
        let file = map(&path, self.max_bytes)
            .map_err(|d| Diag::new("I031", format!("{location}: {}", d.message)).hint(d.hint))?;
        self.open.insert(path, file.clone());
        Ok(file)
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, Diag> {
        let outside = || {
            Diag::new("I030", format!("external data {location:?} lies outside the model's folder"))
                .hint("put the data file beside the model and name it by a relative path")
        };
        if location.len() > MAX_LOCATION_BYTES {
            let text = format!("the location of external data has {} bytes", location.len());
            return Err(Diag::new("I033", text).hint(EXPORT_AGAIN));
        }
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || location.is_empty() || location.contains('\0') || self.roots.is_empty() {
            return Err(outside());
        }
        let path = self.folder.join(relative);
        let real = path.canonicalize().map_err(|error| {
            Diag::new("I031", format!("external data {location:?} cannot be read: {error}"))
                .hint("put the data file beside the model")
        })?;
        if self.roots.iter().any(|root| real.starts_with(root)) { Ok(real) } else { Err(outside()) }
    }
}

const EXPORT_AGAIN: &str = "the model is damaged; export it again";

fn entry<'a>(entries: &'a [StringStringEntryProto], key: &str) -> Result<Option<&'a str>, Diag> {
    let mut found = entries.iter().filter(|e| e.key == key).map(|e| e.value.as_str());
    let first = found.next();
    if found.next().is_some() {
        return Err(Diag::new("I033", format!("external data states its {key} twice")).hint(EXPORT_AGAIN));
    }
    Ok(first)
}

fn number(entries: &[StringStringEntryProto], key: &str) -> Result<Option<usize>, Diag> {
    let Some(text) = entry(entries, key)? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| {
        let start: String = text.chars().take(40).collect();
        Diag::new("I033", format!("external data states {key} {start:?}, which is not a size"))
            .hint(EXPORT_AGAIN)
    })
}
