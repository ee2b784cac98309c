//! How long does a whole model take, from graph to plan and per inference, and what do batches and threads bring?
//!
//! `compile` is everything between a loaded graph and a plan in memory. `run` is one inference of an opened session;
//! the plans have a symbolic batch, so one plan serves both sizes. Elements are rows of the batch.

mod common;

use common::{compiled, cpu, group, inputs, models};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita::session::load_compiled;
use partita_models::Size;

const SEQUENCE: i64 = 32;

fn compile(c: &mut Criterion) {
    let machine = cpu();
    let mut group = group(c, "compile");
    for (name, model) in models(Size::Small) {
        group.throughput(Throughput::Elements(model.graph.n_nodes() as u64));
        group.bench_function(name, |b| b.iter(|| compiled(&model, &machine, 1)));
    }
}

fn run(c: &mut Criterion) {
    let machine = cpu();
    for (name, model) in models(Size::Small) {
        let mut group = group(c, &format!("run {name}"));
        for threads in [1, 2] {
            let mut program = load_compiled(&compiled(&model, &machine, threads)).expect("it opens");
            let session = program.session().expect("it is static");
            for batch in [1, 16] {
                // The digits file calls its batch N.
                let inputs = inputs(&model.graph, &[("batch", batch), ("N", batch), ("seq", SEQUENCE)]);
                let views: Vec<(&[u8], &[usize])> = inputs.iter().map(|t| (t.bytes(), t.shape())).collect();
                group.throughput(Throughput::Elements(batch as u64));
                group.bench_function(format!("batch {batch}, threads {threads}"), |b| {
                    b.iter(|| session.run(&views).expect("it runs"));
                });
            }
        }
    }
}

criterion_group!(benches, compile, run);
criterion_main!(benches);
