//! The plan file: a 64-byte header, the prost message, padding, the weight section.
//!
//! The weight section starts on a page so that it can be memory-mapped and read in place. Everything but the
//! weights is covered by checksums that are always checked; the weights have one that is checked on request,
//! because checking it reads the whole section.
//!
//! | bytes | content (little endian) |
//! |---|---|
//! | 0..8 | `PARTITA\0` |
//! | 8..12 | [`PLAN_VERSION`] |
//! | 12..16 | CRC-32 of the message |
//! | 16..24 | message length |
//! | 24..32 | weight section: offset in the file, a multiple of 4096 |
//! | 32..40 | weight section: length |
//! | 40..44 | CRC-32 of the weight section |
//! | 44..60 | zero |
//! | 60..64 | CRC-32 of bytes 0..60 |

use crate::limits::{MAX_MESSAGE_BYTES, MAX_WEIGHT_BYTES, SECTION_ALIGN_BYTES};
use crate::{PLAN_VERSION, Plan, PlanError, scan};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Cursor, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of a plan file.
pub const MAGIC: [u8; 8] = *b"PARTITA\0";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;

/// A decoded plan and where its weights lie in the file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanFile {
    /// The plan; `check` has not been run on it.
    pub plan: Plan,
    /// Byte range of the weight section in the file.
    pub weights: Range<usize>,
    /// Checksum of the weight section as the header states it.
    weight_crc: u32,
}

impl PlanFile {
    /// Decodes the bytes of a plan file without reading its weights.
    ///
    /// # Errors
    /// `L001` not a plan file, `L002` another version, `L003` cut or padded, `L004` a checksum differs,
    /// `L005` over a limit, `L006` malformed message, `L007` too large in memory.
    pub fn decode(bytes: &[u8]) -> Result<Self, PlanError> {
        let header = Header::read(bytes)?;
        let message = header.message_range(bytes)?;
        let message = bytes.get(message).unwrap_or_default();
        if crc32fast::hash(message) != header.message_crc {
            return Err(damaged("the message section"));
        }
        scan::scan(message)?;
        let plan = Plan::decode(message).map_err(|e| {
            PlanError::new("L006", "the message section", e.to_string(), "compile the model again")
        })?;
        if plan.weight_bytes != header.weight_bytes {
            return Err(damaged("the length of the weight section"));
        }
        Ok(Self { plan, weights: header.weight_range(), weight_crc: header.weight_crc })
    }

    /// Compares the weight section with its checksum; reads all of it. `bytes` are those given to `decode`.
    ///
    /// # Errors
    /// `L004` when it differs.
    pub fn verify_weights(&self, bytes: &[u8]) -> Result<(), PlanError> {
        match bytes.get(self.weights.clone()) {
            Some(weights) if crc32fast::hash(weights) == self.weight_crc => Ok(()),
            _ => Err(damaged("the weight section")),
        }
    }
}

/// The plan and the byte range of its weights; see [`PlanFile::decode`].
///
/// # Errors
/// As [`PlanFile::decode`].
pub fn decode(bytes: &[u8]) -> Result<(Plan, Range<usize>), PlanError> {
    PlanFile::decode(bytes).map(|file| (file.plan, file.weights))
}

/// The bytes of a plan file. See [`encode_to`] for `weights`.
///
/// # Errors
/// `L005` for a plan over a limit, `L008` when the weights do not fit the section.
pub fn encode<B: AsRef<[u8]>>(
    plan: &Plan,
    weights: impl IntoIterator<Item = (u64, B)>,
) -> Result<Vec<u8>, PlanError> {
    let mut out = Cursor::new(Vec::new());
    write_file(plan, weights, &mut out, "memory")?;
    Ok(out.into_inner())
}

/// Writes a plan file so that `path` holds either its old content or the whole new one.
///
/// `weights` are (offset in the weight section, bytes) in rising order without overlap; gaps become zeros. They
/// are consumed one by one, so they can be packed lazily. The section has `plan.weight_bytes` bytes.
///
/// # Errors
/// `L005` for a plan over a limit, `L008` when the weights do not fit the section, `L009` when writing fails.
pub fn encode_to<B: AsRef<[u8]>>(
    plan: &Plan,
    weights: impl IntoIterator<Item = (u64, B)>,
    path: &Path,
) -> Result<(), PlanError> {
    let partial = partial_path(path);
    let written = write_partial(plan, weights, &partial)
        .and_then(|()| fs::rename(&partial, path).map_err(|e| io_error(path, &e)));
    if written.is_err() {
        // The first error is the one to report; a file that was never created cannot be removed.
        let _ = fs::remove_file(&partial);
    } else {
        sync_folder(path);
    }
    written
}

fn write_partial<B: AsRef<[u8]>>(
    plan: &Plan,
    weights: impl IntoIterator<Item = (u64, B)>,
    partial: &Path,
) -> Result<(), PlanError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).open(partial);
    let mut out = BufWriter::with_capacity(1 << 20, open.map_err(|e| io_error(partial, &e))?);
    write_file(plan, weights, &mut out, &partial.display().to_string())?;
    let file = out.into_inner().map_err(|e| io_error(partial, e.error()))?;
    file.sync_all().map_err(|e| io_error(partial, &e))
}

/// The name a file is written under before it is renamed: in the same folder, and no other writer's.
fn partial_path(path: &Path) -> PathBuf {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{writer}.partial", std::process::id()))
}

/// Makes the rename durable. Best effort: some file systems do not open folders.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn write_file<B: AsRef<[u8]>, W: Write + Seek>(
    plan: &Plan,
    weights: impl IntoIterator<Item = (u64, B)>,
    out: &mut W,
    name: &str,
) -> Result<(), PlanError> {
    let failed = |e: std::io::Error| io_error(Path::new(name), &e);
    let message = plan.encode_to_vec();
    let mut header = Header::for_message(plan, &message)?;
    out.write_all(&[0; HEADER_BYTES]).map_err(failed)?;
    out.write_all(&message).map_err(failed)?;
    let padding = header.weight_offset - (HEADER_BYTES + message.len()) as u64;
    out.write_all(&vec![0; padding as usize]).map_err(failed)?;
    header.weight_crc = write_weights(plan.weight_bytes, weights, out, name)?;
    out.seek(SeekFrom::Start(0)).map_err(failed)?;
    out.write_all(&header.to_bytes()).map_err(failed)?;
    out.flush().map_err(failed)
}

/// Writes the weight section and returns its checksum.
fn write_weights<B: AsRef<[u8]>, W: Write>(
    total: u64,
    weights: impl IntoIterator<Item = (u64, B)>,
    out: &mut W,
    name: &str,
) -> Result<u32, PlanError> {
    let failed = |e: std::io::Error| io_error(Path::new(name), &e);
    let mut hasher = crc32fast::Hasher::new();
    let mut at = 0u64;
    for (offset, bytes) in weights {
        let bytes = bytes.as_ref();
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| offset >= at && end <= total);
        let Some(end) = end else { return Err(misplaced(offset, bytes.len(), at, total)) };
        write_zeros(offset - at, out, &mut hasher).map_err(failed)?;
        hasher.update(bytes);
        out.write_all(bytes).map_err(failed)?;
        at = end;
    }
    write_zeros(total - at, out, &mut hasher).map_err(failed)?;
    Ok(hasher.finalize())
}

fn write_zeros<W: Write>(mut count: u64, out: &mut W, hasher: &mut crc32fast::Hasher) -> std::io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while count > 0 {
        let piece = ZEROS.get(..count.min(4096) as usize).unwrap_or(&ZEROS);
        hasher.update(piece);
        out.write_all(piece)?;
        count -= piece.len() as u64;
    }
    Ok(())
}

/// The numbers of the header.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    message_crc: u32,
    message_bytes: u64,
    weight_offset: u64,
    weight_bytes: u64,
    weight_crc: u32,
}

impl Header {
    fn for_message(plan: &Plan, message: &[u8]) -> Result<Self, PlanError> {
        let message_bytes = message.len() as u64;
        within(message_bytes, MAX_MESSAGE_BYTES, "the message section")?;
        within(plan.weight_bytes, MAX_WEIGHT_BYTES, "the weight section")?;
        Ok(Self {
            message_crc: crc32fast::hash(message),
            message_bytes,
            weight_offset: weight_offset(message_bytes),
            weight_bytes: plan.weight_bytes,
            weight_crc: 0,
        })
    }

    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &PLAN_VERSION.to_le_bytes());
        put(12, &self.message_crc.to_le_bytes());
        put(16, &self.message_bytes.to_le_bytes());
        put(24, &self.weight_offset.to_le_bytes());
        put(32, &self.weight_bytes.to_le_bytes());
        put(40, &self.weight_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Self, PlanError> {
        if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
            return Err(PlanError::new(
                "L001",
                "byte 0",
                "this is not a plan file",
                "plans are written by `compile`; give the file it wrote",
            ));
        }
        let version = word(bytes, 8);
        if version != PLAN_VERSION {
            return Err(PlanError::new(
                "L002",
                "byte 8",
                format!("the plan has format version {version}, this program reads version {PLAN_VERSION}"),
                "compile the model again with this program",
            ));
        }
        if word(bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Err(damaged("the header"));
        }
        let header = Self {
            message_crc: word(bytes, 12),
            message_bytes: long(bytes, 16),
            weight_offset: long(bytes, 24),
            weight_bytes: long(bytes, 32),
            weight_crc: word(bytes, 40),
        };
        within(header.message_bytes, MAX_MESSAGE_BYTES, "the message section")?;
        within(header.weight_bytes, MAX_WEIGHT_BYTES, "the weight section")?;
        Ok(header)
    }

    /// Where the message lies, after checking that the file has exactly the stated layout.
    fn message_range(&self, bytes: &[u8]) -> Result<Range<usize>, PlanError> {
        let end = self.weight_offset.checked_add(self.weight_bytes);
        let has = bytes.len() as u64;
        if self.weight_offset != weight_offset(self.message_bytes) || end != Some(has) {
            return Err(PlanError::new(
                "L003",
                format!("byte {has}"),
                "the file is shorter or longer than its header says",
                "the file was cut while it was copied, or appended to; copy it again",
            ));
        }
        let message = HEADER_BYTES..HEADER_BYTES + self.message_bytes as usize;
        match bytes.get(message.end..self.weight_offset as usize) {
            Some(padding) if padding.iter().all(|&b| b == 0) => Ok(message),
            _ => Err(damaged("the padding")),
        }
    }

    fn weight_range(&self) -> Range<usize> {
        let start = self.weight_offset as usize;
        start..start + self.weight_bytes as usize
    }
}

fn weight_offset(message_bytes: u64) -> u64 {
    (HEADER_BYTES as u64 + message_bytes).next_multiple_of(SECTION_ALIGN_BYTES)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn within(bytes: u64, limit: u64, what: &str) -> Result<(), PlanError> {
    if bytes <= limit {
        return Ok(());
    }
    let message = format!("{bytes} bytes exceed the limit of {limit} bytes");
    Err(PlanError::new("L005", what, message, "split the model"))
}

fn damaged(place: &str) -> PlanError {
    PlanError::new(
        "L004",
        place,
        "the bytes do not match their checksum or the rest of the file",
        "the file is damaged; copy it again or compile the model again",
    )
}

fn misplaced(offset: u64, bytes: usize, at: u64, total: u64) -> PlanError {
    PlanError::new(
        "L008",
        format!("weight at offset {offset}"),
        format!("{bytes} bytes do not fit between byte {at} and the end of the section at byte {total}"),
        "give weights in rising order, without overlap, inside `weight_bytes`",
    )
}

fn io_error(path: &Path, error: &std::io::Error) -> PlanError {
    PlanError::new(
        "L009",
        path.display().to_string(),
        format!("the plan could not be written: {error}"),
        "choose a folder that exists, is writable and has room",
    )
}
