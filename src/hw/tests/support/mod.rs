//! Recordings of `fixtures/hardware`, detected.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::path::PathBuf;
use std::sync::Arc;

use partita_hw::{Detection, DeviceReport, Host, Profiles, Selection, detect};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hardware")
}

/// Names of all recordings, sorted.
pub(crate) fn names() -> Vec<String> {
    let names =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".recording").map(str::to_owned)).collect();
    names.sort();
    names
}

/// A recording's text.
pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.recording"))).unwrap()
}

/// What all probes find in a recording, without the times they took.
pub(crate) fn detected(name: &str) -> Detection {
    let host = Host::recorded(name, &text(name)).unwrap();
    let mut detection = detect(&Arc::new(host), &Selection::default());
    detection.timings.clear();
    detection
}

/// The report of a recording.
pub(crate) fn report(name: &str) -> DeviceReport {
    DeviceReport::new(detected(name), Vec::new(), &Profiles::builtin().unwrap())
}
