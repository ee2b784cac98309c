//! Detection and questions to a report, beside the figures another detector of processors claims for itself.
//!
//! `cargo bench -p partita-hw` prints our times; the claims stand in the names. The question each row answers is above it.
//! Times of whole detections are those of the machine they run on.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a benchmark is a failed benchmark")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use partita_hw::{
    Detection, DetectionCache, DeviceReport, Filter, Found, Host, Kind, Precision, Profiles, Selection,
    detect, nvidia_smi_devices,
};

fn recording(name: &str) -> String {
    let path = format!("../../fixtures/hardware/{name}.recording");
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn detected(name: &str) -> Detection {
    detect(&Arc::new(Host::recorded(name, &recording(name)).unwrap()), &Selection::default())
}

/// Eight H100 and five devices of other families.
fn thirteen() -> Vec<Found> {
    let mut devices = detected("nvidia-h100x8").devices;
    devices.extend(detected("amd-mi300x").devices);
    devices.extend(detected("gaudi").devices);
    assert_eq!(devices.len(), 13);
    devices
}

fn whole(criterion: &mut Criterion) {
    // How long does a look at a machine without vendors' tools take? The files are read anew every time.
    criterion.bench_function("detect, this machine (1.38 ms claimed without tools)", |bench| {
        bench.iter(|| detect(&Arc::new(Host::running(&[])), &Selection::default()));
    });
    // What does it cost beyond reading files and waiting for tools?
    let text = recording("nvidia-h100x8");
    criterion.bench_function("detect, recording of eight H100", |bench| {
        bench.iter(|| detect(&Arc::new(Host::recorded("r", &text).unwrap()), &Selection::default()));
    });
    criterion.bench_function("detect, the CPU alone", |bench| {
        bench.iter(|| detect(&Arc::new(Host::running(&[])), &Selection::only(&[])));
    });
    // What does asking again cost?
    let (host, selection) = (Arc::new(Host::recorded("r", &text).unwrap()), Selection::default());
    let mut cache = DetectionCache::new(Duration::from_secs(3600), None);
    criterion.bench_function("cached get (31.7 ns claimed)", |bench| {
        bench.iter(|| black_box(cache.get(&host, &selection)));
    });
}

fn parts(criterion: &mut Criterion) {
    let text = recording("nvidia-h100x8");
    let csv = text.split("$ nvidia-smi --query-gpu\n").nth(1).unwrap().split("\n.\n").next().unwrap();
    assert_eq!(nvidia_smi_devices(csv).len(), 8);
    criterion.bench_function("parse the table of eight GPUs (5.8 us claimed)", |bench| {
        bench.iter(|| nvidia_smi_devices(black_box(csv)));
    });
    let devices = thirteen();
    let json = serde_json::to_string(&devices).unwrap();
    criterion.bench_function("13 devices to JSON (4.89 us claimed)", |bench| {
        bench.iter(|| serde_json::to_string(black_box(&devices)).unwrap());
    });
    criterion.bench_function("13 devices from JSON (6.12 us claimed)", |bench| {
        bench.iter(|| serde_json::from_str::<Vec<Found>>(black_box(&json)).unwrap());
    });
    let detection = Detection { devices, ..Detection::default() };
    let report = DeviceReport::new(detection, Vec::new(), &Profiles::builtin().unwrap());
    let filter = Filter {
        kinds: vec![Kind::Gpu],
        memory_bytes: Some(64 << 30),
        precision: Some(Precision::Bf16),
        ..Filter::default()
    };
    assert!(report.best(&filter).is_some());
    criterion.bench_function("best of 13 devices for a need (recommend: 1.48 us claimed)", |bench| {
        bench.iter(|| black_box(&report).best(black_box(&filter)).is_some());
    });
}

criterion_group!(benches, whole, parts);
criterion_main!(benches);
