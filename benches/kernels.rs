//! What does one operator cost through a whole session, compiled as users compile it?
//!
//! Each graph is one or two operators, so the figure has what every inference pays: inputs copied in, steps started,
//! epilogues applied. The smallest (`relu 16`) is that overhead almost alone. Kernels without a session are measured
//! by the benchmark of `partita-cpu`. Elements are floating-point operations (Gelem/s reads as GFLOP/s), but for
//! movement and elementwise graphs, where they are elements of the result.

mod common;

use common::{compiled, cpu, group, inputs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita::Model;
use partita::session::load_compiled;

/// Name, elements of work, graph in the text form.
const CASES: &[(&str, u64, &str)] = &[
    ("relu 16", 16, "graph g(%x: f32[16]) -> (%y) { %y = relu %x }"),
    (
        "add broadcast 1x256x56x56",
        802_816,
        "graph g(%x: f32[1, 256, 56, 56], %b: f32[256, 1, 1]) -> (%y) { %y = add %x, %b }",
    ),
    ("gelu 128x3072", 393_216, "graph g(%x: f32[128, 3072]) -> (%y) { %y = gelu %x }"),
    ("softmax 1536x128", 196_608, "graph g(%x: f32[1536, 128]) -> (%y) { %y = softmax %x {axis = 1} }"),
    (
        "layer_norm 128x768",
        98_304,
        "graph g(%x: f32[128, 768]) -> (%y) {
        const %s: f32[768] = random(1)
        const %b: f32[768] = random(2)
        %y = layer_norm %x, %s, %b {axis = 1} }",
    ),
    (
        "transpose 128x12x64",
        98_304,
        "graph g(%x: f32[128, 12, 64]) -> (%y) { %y = transpose %x {perm = [1, 0, 2]} }",
    ),
    ("mean 2048x7x7", 100_352, "graph g(%x: f32[1, 2048, 7, 7]) -> (%y) { %y = global_average_pool %x }"),
    (
        "matmul 128x768x768",
        150_994_944,
        "graph g(%x: f32[128, 768]) -> (%y) {
        const %w: f32[768, 768] = random(1)
        %y = matmul %x, %w }",
    ),
    (
        "matmul bias gelu 128x768x3072",
        603_979_776,
        "graph g(%x: f32[128, 768]) -> (%y) {
        const %w: f32[768, 3072] = random(1)
        const %b: f32[3072] = random(2)
        %m = matmul %x, %w
        %s = add %m, %b
        %y = gelu %s }",
    ),
    (
        "matmul 1x3072x768",
        4_718_592,
        "graph g(%x: f32[1, 3072]) -> (%y) {
        const %w: f32[3072, 768] = random(1)
        %y = matmul %x, %w }",
    ),
    (
        "conv 3x3 64-64 56 relu",
        231_211_008,
        "graph g(%x: f32[1, 64, 56, 56]) -> (%y) {
        const %w: f32[64, 64, 3, 3] = random(1)
        %c = conv %x, %w {pads = [1, 1, 1, 1]}
        %y = relu %c }",
    ),
    (
        "conv 1x1 256-64 56",
        102_760_448,
        "graph g(%x: f32[1, 256, 56, 56]) -> (%y) {
        const %w: f32[64, 256, 1, 1] = random(1)
        %y = conv %x, %w }",
    ),
    (
        "depthwise 3x3 384 14",
        1_354_752,
        "graph g(%x: f32[1, 384, 14, 14]) -> (%y) {
        const %w: f32[384, 1, 3, 3] = random(1)
        %y = conv %x, %w {pads = [1, 1, 1, 1], group = 384} }",
    ),
];

fn parse(name: &str, text: &str) -> Model {
    let none = |_: &str| Err("nothing lies beside it".to_owned());
    let mut graphs = partita_ir::text::parse(text, &partita_ops::registry(), &none)
        .unwrap_or_else(|d| unreachable!("{name}: {d}"));
    Model { graph: graphs.remove(0), onnx: None }
}

fn kernels(c: &mut Criterion) {
    let machine = cpu();
    for threads in [1, 2] {
        let mut group = group(c, &format!("session {threads} thread"));
        for (name, work, text) in CASES {
            let model = parse(name, text);
            let mut program = load_compiled(&compiled(&model, &machine, threads)).expect("it opens");
            let session = program.session().expect("it is static");
            let inputs = inputs(&model.graph, &[]);
            let views: Vec<(&[u8], &[usize])> = inputs.iter().map(|t| (t.bytes(), t.shape())).collect();
            group.throughput(Throughput::Elements(*work));
            group.bench_function(*name, |b| b.iter(|| session.run(&views).expect("it runs")));
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
