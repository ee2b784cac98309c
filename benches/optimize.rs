//! How long does optimizing take, how much of it is the e-graph, and how does it grow with the graph?
//!
//! `all` runs every pass, `without e-graph` leaves saturation and extraction out: the difference is theirs.
//! `layers` repeats one block 1, 4 and 16 times: linear growth is what to look for, budgets cut what is worse.

mod common;

use common::{group, models};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use partita_ir::attr::Attrs;
use partita_ir::{Builder, DType, Graph, Tensor, Type, ValueId};
use partita_models::Size;
use partita_passes::{Options, optimize};

fn run(graph: Graph, egraph: bool) -> Graph {
    let options = Options { egraph, ..Default::default() };
    optimize(graph, &options).expect("it is sound").0
}

fn architectures(c: &mut Criterion) {
    for (egraph, word) in [(true, "all"), (false, "without e-graph")] {
        let mut group = group(c, &format!("optimize {word}"));
        for (name, model) in models(Size::Small) {
            group.throughput(Throughput::Elements(model.graph.n_nodes() as u64));
            group.bench_function(name, |b| {
                b.iter_batched(|| model.graph.clone(), |g| run(g, egraph), BatchSize::LargeInput);
            });
        }
    }
}

const WIDTH: usize = 16;

fn op(builder: &mut Builder, name: &str, inputs: &[ValueId]) -> ValueId {
    let op = partita_ops::op(name).expect("the operator exists");
    builder.op(op, Attrs::new(), inputs).expect("operands fit")
}

/// `n` blocks of a product, an addition and GELU in single steps.
fn blocks(n: usize) -> Graph {
    let mut builder = Builder::new("blocks");
    let mut x = builder.input("x", Type::known(DType::F32, &[WIDTH, WIDTH]));
    let root = builder.constant("root", Tensor::scalar(std::f32::consts::SQRT_2));
    let (one, half) =
        (builder.constant("one", Tensor::scalar(1f32)), builder.constant("half", Tensor::scalar(0.5f32)));
    for block in 0..n {
        let weight = partita_ir::op::Rng(block as u64 + 1).tensor(DType::F32, &[WIDTH, WIDTH], -1.0, 1.0);
        let bias = partita_ir::op::Rng(block as u64 + 99).tensor(DType::F32, &[WIDTH], -1.0, 1.0);
        let weight = builder.constant(&format!("w{block}"), weight);
        let bias = builder.constant(&format!("b{block}"), bias);
        let product = op(&mut builder, "matmul", &[x, weight]);
        let sum = op(&mut builder, "add", &[product, bias]);
        let inner = op(&mut builder, "div", &[sum, root]);
        let erf = op(&mut builder, "erf", &[inner]);
        let shifted = op(&mut builder, "add", &[erf, one]);
        let scaled = op(&mut builder, "mul", &[sum, shifted]);
        x = op(&mut builder, "mul", &[scaled, half]);
    }
    builder.output("y", x);
    builder.finish()
}

fn growth(c: &mut Criterion) {
    let mut group = group(c, "optimize layers");
    for n in [1, 4, 16] {
        let graph = blocks(n);
        group.throughput(Throughput::Elements(graph.n_nodes() as u64));
        group.bench_function(n.to_string(), |b| {
            b.iter_batched(|| graph.clone(), |g| run(g, true), BatchSize::LargeInput);
        });
    }
}

criterion_group!(benches, architectures, growth);
criterion_main!(benches);
