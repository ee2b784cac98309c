//! What was detected, kept for a while: in memory for one program, on disk for the next one.
//!
//! A cache never causes an error: whatever is wrong with it, the machine is looked at again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::probe::{Detection, Host, Selection, detect};

/// Version of the file; others are ignored.
const FORMAT: u32 = 1;

/// Largest file read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The file on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    /// Program version, start of the machine and selection: another one makes the file useless.
    key: String,
    /// Seconds since 1970 at which the machine was looked at.
    unix_s: u64,
    detection: Detection,
}

/// A detection that is at most so old.
#[derive(Debug)]
pub struct DetectionCache {
    max_age: Duration,
    file: Option<PathBuf>,
    held: Option<(Instant, Arc<Detection>)>,
}

impl DetectionCache {
    /// A cache in memory, and in `file` when there is one.
    pub fn new(max_age: Duration, file: Option<PathBuf>) -> DetectionCache {
        DetectionCache { max_age, file, held: None }
    }

    /// The usual file: `partita/devices.json` in `$XDG_CACHE_HOME`, or in `.cache` of the home folder.
    pub fn usual_file() -> Option<PathBuf> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(folder.join("partita").join("devices.json"))
    }

    /// What was detected at most `max_age` ago; looks again when that is too long ago.
    pub fn get(&mut self, host: &Arc<Host>, selection: &Selection) -> Arc<Detection> {
        if let Some((since, detection)) = &self.held
            && since.elapsed() < self.max_age
        {
            return Arc::clone(detection);
        }
        let key = key(host, selection);
        let stored = self.file.as_deref().and_then(|file| load(file, &key, self.max_age));
        let (age, detection) = stored.unwrap_or_else(|| {
            let detection = detect(host, selection);
            if let Some(file) = &self.file {
                store(file, key, &detection);
            }
            (Duration::ZERO, detection)
        });
        let detection = Arc::new(detection);
        let now = Instant::now();
        self.held = Some((now.checked_sub(age).unwrap_or(now), Arc::clone(&detection)));
        detection
    }

    /// Forgets what is held in memory.
    pub fn clear(&mut self) {
        self.held = None;
    }
}

fn key(host: &Host, selection: &Selection) -> String {
    let boot = host.root.word("proc/sys/kernel/random/boot_id").unwrap_or_default();
    let (only, without) = (selection.only.as_ref().map(|only| only.join(",")), selection.without.join(","));
    let only = only.unwrap_or_else(|| "all".to_owned());
    format!("{} {boot} {only} -{without} {:?}", env!("CARGO_PKG_VERSION"), host.own_tools)
}

/// What the file holds, and how old that is.
fn load(file: &Path, key: &str, max_age: Duration) -> Option<(Duration, Detection)> {
    let mut text = String::new();
    File::open(file).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    let stored: Stored = serde_json::from_str(&text).ok()?;
    // A file from the future has no age.
    let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(stored.unix_s)).ok()?;
    (stored.format == FORMAT && stored.key == key && age < max_age).then_some((age, stored.detection))
}

/// Writes the file beside its place and then moves it there, so that nobody reads half of it.
fn store(file: &Path, key: String, detection: &Detection) {
    let _ = try_store(file, key, detection);
}

fn try_store(file: &Path, key: String, detection: &Detection) -> std::io::Result<()> {
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = serde_json::to_string(&Stored { format: FORMAT, key, unix_s, detection: detection.clone() })?;
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = File::create(&draft).and_then(|mut out| out.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&draft, file)).inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Arc<Host> {
        Arc::new(Host::recorded("r", "[sys/block/vda]\nsize = 8\n").unwrap())
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn the_next_program_reads_what_this_one_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/devices.json");
        let selection = Selection::default();
        let first = DetectionCache::new(LONG, Some(file.clone())).get(&host(), &selection);
        let names: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left");
        // Another machine would find something else: the answer is the stored one.
        let other = Arc::new(Host::recorded("r", "").unwrap());
        assert_eq!(DetectionCache::new(LONG, Some(file.clone())).get(&other, &selection), first);
        let fresh = DetectionCache::new(LONG, Some(file.clone())).get(&other, &Selection::only(&["cpu"]));
        assert_ne!(fresh.system, first.system, "another selection is another answer");
        assert!(
            DetectionCache::new(Duration::ZERO, Some(file)).get(&other, &selection).system.storage.is_empty()
        );
    }

    #[test]
    fn a_broken_file_or_folder_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("devices.json");
        for text in ["", "{", "null", "{\"format\":1}"] {
            fs::write(&file, text).unwrap();
            let found = DetectionCache::new(LONG, Some(file.clone())).get(&host(), &Selection::default());
            assert_eq!(found.system.storage.len(), 1);
        }
        let below_a_file = file.join("devices.json");
        let found = DetectionCache::new(LONG, Some(below_a_file)).get(&host(), &Selection::default());
        assert_eq!(found.system.storage.len(), 1);
    }

    #[test]
    fn memory_answers_until_it_is_cleared() {
        let mut cache = DetectionCache::new(LONG, None);
        let first = cache.get(&host(), &Selection::default());
        let other = Arc::new(Host::recorded("r", "").unwrap());
        assert!(Arc::ptr_eq(&first, &cache.get(&other, &Selection::default())));
        cache.clear();
        assert!(cache.get(&other, &Selection::default()).system.storage.is_empty());
    }
}
