//! Weights in files beside the model. A location must lead to a regular file inside the model's folder; links
//! are followed first, so what counts is where the file really lies. A file that has a second name is refused: that
//! name may lie anywhere. Both can be allowed, see `Options`.

use crate::limits::Options;
use crate::map::{Owner, map};
use onnx_protobuf::{StringStringEntryProto, TensorProto};
use partita_ir::{Bytes, Diag};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};

/// Longest path of a data file, in bytes; no system allows longer ones.
const MAX_LOCATION_BYTES: usize = 4096;

/// Folders external data may lie in, and the files mapped so far.
#[derive(Default)]
pub(crate) struct External {
    /// Canonical. `None`: there is no folder, so external data is refused.
    root: Option<PathBuf>,
    /// The folder beside the snapshots of a download cache whose files may be linked into the model's folder.
    blobs: Option<PathBuf>,
    folder: PathBuf,
    max_bytes: u64,
    allow_hard_links: bool,
    open: BTreeMap<PathBuf, Owner>,
}

impl External {
    /// Data beside the file `model`.
    pub(crate) fn beside(model: &Path, options: &Options) -> Self {
        Self::in_folder(model.parent().unwrap_or(Path::new("")), options)
    }

    /// Data inside `folder`.
    pub(crate) fn in_folder(folder: &Path, options: &Options) -> Self {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let root = folder.canonicalize().ok();
        let blobs = root.as_deref().filter(|_| options.allow_hf_cache).and_then(blobs_of);
        Self {
            root,
            blobs,
            folder: folder.to_owned(),
            max_bytes: options.limits.model_bytes,
            allow_hard_links: options.allow_hard_links,
            open: BTreeMap::new(),
        }
    }

    /// The data of `tensor`, of which `want` bytes are needed.
    ///
    /// # Errors
    /// `I030` outside the folder, `I031` missing or not a regular file, `I032` range outside the file,
    /// `I033` bad entries, `I034` a file with a second name.
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
        let file =
            map(&path, self.max_bytes, &|file| self.one_name(file, location)).map_err(|d| match d.code {
                "I034" => d,
                _ => Diag::new("I031", format!("{location}: {}", d.message)).hint(d.hint),
            })?;
        self.open.insert(path, file.clone());
        Ok(file)
    }

    /// Refuses a file that has another name, which may lie outside the folder.
    fn one_name(&self, file: &Metadata, location: &str) -> Result<(), Diag> {
        if self.allow_hard_links || n_names(file) <= 1 {
            return Ok(());
        }
        let text = format!("external data {location:?} has another name somewhere (it is a hard link)");
        Err(Diag::new("I034", text).hint("copy the file, or allow hard links"))
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
        if !inside || location.is_empty() || location.contains('\0') || self.root.is_none() {
            return Err(outside());
        }
        let path = self.folder.join(relative);
        let real = path.canonicalize().map_err(|error| {
            Diag::new("I031", format!("external data {location:?} cannot be read: {error}"))
                .hint("put the data file beside the model")
        })?;
        let inside = self.root.as_ref().is_some_and(|root| real.starts_with(root));
        let cached = self.blobs.is_some() && real.parent() == self.blobs.as_deref();
        if inside || cached { Ok(real) } else { Err(outside()) }
    }
}

/// The `blobs` folder of a download cache when `folder` lies in one of its snapshots (`snapshots/HASH/...`).
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().skip(1).find(|a| a.file_name().is_some_and(|n| n == "snapshots"))?;
    snapshots.parent()?.join("blobs").canonicalize().ok()
}

/// How many names the file has.
#[cfg(unix)]
fn n_names(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

/// Other systems do not tell.
#[cfg(not(unix))]
fn n_names(_: &Metadata) -> u64 {
    1
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
