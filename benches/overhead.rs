//! What does a run cost beside its arithmetic? A hundred steps on tensors of a few numbers, none of which can be
//! fused: every value but the products has two readers or a reduction in between.

mod common;

use common::{compiled, cpu, group, inputs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita::Model;
use partita::session::load_compiled;
use std::fmt::Write as _;

/// Product, softmax, largest of a row, difference: over and over.
const ROUNDS: usize = 25;

fn chain() -> Model {
    let mut text = String::from("graph g(%x: f32[4, 8]) -> (%t24) { const %w: f32[8, 8] = random(1)\n");
    for n in 0..ROUNDS {
        let from = n.checked_sub(1).map_or("%x".to_owned(), |before| format!("%t{before}"));
        let _ = writeln!(
            text,
            "%m{n} = matmul {from}, %w %s{n} = softmax %m{n} {{axis = 1}}
            %r{n} = reduce_max %s{n} {{axes = [1], keepdims = 1}} %t{n} = sub %s{n}, %r{n}"
        );
    }
    text.push('}');
    let graphs = partita_ir::text::parse(&text, &partita_ops::registry(), &partita_ir::text::no_files);
    Model { graph: graphs.expect("it parses").remove(0), onnx: None }
}

fn steps(c: &mut Criterion) {
    let (machine, model) = (cpu(), chain());
    let mut group = group(c, "100 steps");
    for threads in [1, 2] {
        let mut program = load_compiled(&compiled(&model, &machine, threads)).expect("it opens");
        let session = program.session().expect("it is static");
        let inputs = inputs(&model.graph, &[]);
        let views: Vec<(&[u8], &[usize])> = inputs.iter().map(|t| (t.bytes(), t.shape())).collect();
        group.throughput(Throughput::Elements(4 * ROUNDS as u64));
        group.bench_function(format!("threads {threads}"), |b| {
            b.iter(|| session.run(&views).expect("it runs"));
        });
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
