//! How long is it from the bytes of an ONNX file to a typed graph, and does that follow the nodes or the bytes?
//!
//! Weights are not read, so the figure should follow the number of nodes: the same architecture at two widths tells.
//! A hostile file must be refused faster than a sound one is read. The text form is here for comparison.

mod common;

use common::{fixture, group, models};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita_ir::{Bytes, Graph};
use partita_models::Size;
use partita_onnx::{ExportOptions, Options, load_bytes, save};
use std::hint::black_box;

fn bytes_of(graph: &Graph) -> Bytes {
    Bytes::from_vec(save(graph, &ExportOptions::default()).expect("it can be written as ONNX"))
}

/// Nodes per second, of the same architectures with small and with larger weights.
fn sound(c: &mut Criterion) {
    for (size, word) in [(Size::Tiny, "tiny"), (Size::Small, "small")] {
        let mut group = group(c, &format!("import {word}"));
        for (name, model) in models(size) {
            let bytes = bytes_of(&model.graph);
            group.throughput(Throughput::Elements(model.graph.n_nodes() as u64));
            group.bench_function(name, |b| {
                b.iter(|| {
                    load_bytes(name, black_box(bytes.clone()), None, &Options::default()).expect("sound")
                });
            });
        }
    }
}

/// Files that must be refused.
fn hostile(c: &mut Criterion) {
    let mut group = group(c, "refuse");
    for name in ["groups.onnx", "deep.onnx", "lying_length.onnx", "cyclic.onnx"] {
        let bytes = std::fs::read(fixture("onnx/bad").join(name)).expect("the fixture is there");
        let bytes = Bytes::from_vec(bytes);
        group.bench_function(name, |b| {
            b.iter(|| assert!(load_bytes(name, bytes.clone(), None, &Options::default()).is_err()));
        });
    }
}

/// ONNX out.
fn export(c: &mut Criterion) {
    let mut group = group(c, "export");
    for (name, model) in models(Size::Small) {
        group.throughput(Throughput::Bytes(bytes_of(&model.graph).as_slice().len() as u64));
        group.bench_function(name, |b| b.iter(|| bytes_of(black_box(&model.graph))));
    }
}

criterion_group!(benches, sound, hostile, export);
criterion_main!(benches);
