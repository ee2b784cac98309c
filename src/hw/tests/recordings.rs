//! Every recording under `fixtures/hardware`: what detection finds in it, line by line, against `recordings.txt`.
//!
//! `BLESS=1` writes the file anew. `families.rs` says which facts each row must hold whatever the form.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

mod support;

use std::fmt::Write;
use std::path::PathBuf;

use partita_hw::Found;
use support::{names, report};

/// Known facts of a device in one line, in the order of its fields.
fn line(found: &Found) -> String {
    let json = serde_json::to_value(found).unwrap();
    let fields = json.as_object().unwrap();
    let mut out = format!("{} {:?}", found.kind, found.name);
    for (key, value) in fields.iter().filter(|(key, _)| !["kind", "name"].contains(&key.as_str())) {
        let empty = value.is_null()
            || value == &serde_json::Value::Bool(false)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            write!(out, " {key}={value}").unwrap();
        }
    }
    out
}

fn summary(name: &str) -> String {
    let report = report(name);
    let mut out = format!("=== {name}\n");
    let cpu = &report.cpu;
    let memory = cpu.memory_bytes.map(|bytes| bytes >> 20);
    let (model, sets) = (cpu.model.as_deref().unwrap_or("-"), cpu.isa.join(" "));
    writeln!(
        out,
        "cpu {model:?} cores={:?} threads={:?} memory={memory:?} MiB [{sets}]",
        cpu.cores, cpu.threads
    )
    .unwrap();
    for found in &report.devices {
        writeln!(out, "{}", line(found)).unwrap();
    }
    let system = serde_json::to_value(&report.system).unwrap();
    for (key, value) in system.as_object().unwrap() {
        for item in value.as_array().into_iter().flatten() {
            writeln!(out, "{key}: {item}").unwrap();
        }
    }
    let environment = serde_json::to_string(&report.system.environment).unwrap();
    if report.system.environment != partita_hw::Environment::default() {
        writeln!(out, "environment: {environment}").unwrap();
    }
    for warning in &report.warnings {
        writeln!(out, "warning: {} {}: {}", warning.family, warning.kind.as_str(), warning.message).unwrap();
    }
    for link in &report.machine.links {
        let end = |index: usize| &report.machine.devices[index].name;
        let (from, to) = (end(link.from), end(link.to));
        writeln!(out, "link: {from} {to} {} us + {:.3} GB/s ({})", link.latency_us, link.gbs, link.origin)
            .unwrap();
    }
    out
}

#[test]
fn every_recording_yields_what_it_should() {
    let text: String = names().iter().map(|name| summary(name)).collect();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings.txt");
    if std::env::var("BLESS").is_ok() && std::env::var("CI").is_err() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (got, wanted) in text.lines().zip(expected.lines()) {
        assert_eq!(got, wanted);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}
