//! What does it cost to write a plan, to read it back, and to check it before anything runs?
//!
//! Decoding and checking stand between a user and the first inference, so both should stay far below a millisecond
//! for these models; neither reads the weights. `verify weights` does, and tells what its checksum costs per byte.

mod common;

use common::{compiled, cpu, group, models};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita::Compiled;
use partita_models::Size;
use partita_plan::check::check;
use partita_plan::file::{PlanFile, encode};
use std::hint::black_box;

fn encoded(compiled: &Compiled) -> Vec<u8> {
    let weights = compiled.assembly.weights.iter().map(|w| (w.offset_bytes, &w.bytes));
    encode(&compiled.assembly.plan, weights).expect("it can be written")
}

fn plan_file(c: &mut Criterion) {
    for (name, model) in models(Size::Small) {
        let compiled = compiled(&model, &cpu(), 1);
        let bytes = encoded(&compiled);
        let file = PlanFile::decode(&bytes).expect("sound");
        let n_steps: usize = file.plan.queues.iter().map(|q| q.steps.len()).sum();
        let mut group = group(c, &format!("plan of {name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("encode", |b| b.iter(|| encoded(black_box(&compiled))));
        group.throughput(Throughput::Bytes(file.weights.len() as u64));
        group.bench_function("verify weights", |b| b.iter(|| file.verify_weights(black_box(&bytes))));
        group.throughput(Throughput::Elements(n_steps as u64));
        group.bench_function("decode", |b| b.iter(|| PlanFile::decode(black_box(&bytes)).expect("sound")));
        group.bench_function("check", |b| b.iter(|| check(black_box(&file.plan)).expect("sound")));
    }
}

criterion_group!(benches, plan_file);
criterion_main!(benches);
