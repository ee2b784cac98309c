//! What the benchmarks share: the models, inputs for them, a compilation without progress messages.
#![allow(dead_code, reason = "each benchmark uses a part")]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use partita::devices::{detected, from_file};
use partita::{CompileOptions, Compiled, Model, compile, load};
use partita_hw::Machine;
use partita_ir::op::Rng;
use partita_ir::{Graph, Tensor};
use partita_models::{MODELS, Size};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A path inside `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The trained digits classifier.
pub(crate) fn digits() -> Model {
    load(&fixture("digits/digits.onnx"), &BTreeMap::new()).expect("the fixture loads")
}

/// The reference architectures at `size`, and the digits classifier.
pub(crate) fn models(size: Size) -> Vec<(&'static str, Model)> {
    let built = |(name, build): &(&'static str, partita_models::Build)| {
        (*name, Model { graph: build(size).expect("it builds"), onnx: None })
    };
    let mut out: Vec<_> = MODELS.iter().map(built).collect();
    out.push(("digits", digits()));
    out
}

/// The running CPU alone.
pub(crate) fn cpu() -> Machine {
    detected(false).expect("profiles parse")
}

/// A machine of `fixtures/machines/`.
pub(crate) fn machine(name: &str) -> Machine {
    from_file(&fixture("machines").join(name)).expect("the machine file parses")
}

/// Compiles for `machine` with that many threads.
pub(crate) fn compiled(model: &Model, machine: &Machine, threads: u32) -> Compiled {
    let options = CompileOptions { threads: Some(threads), ..Default::default() };
    compile(model, machine, &options, &|_| {}).expect("it compiles")
}

/// Seeded inputs with every symbolic size taken from `sizes`, else 1.
pub(crate) fn inputs(graph: &Graph, sizes: &[(&str, i64)]) -> Vec<Tensor> {
    let size = |name: &str| Some(sizes.iter().find(|(n, _)| *n == name).map_or(1, |(_, size)| *size));
    let mut rng = Rng(7);
    let mut tensor = |value: &partita_ir::ValueId| {
        let ty = graph.ty(*value).bind(&size);
        rng.tensor(ty.dtype, &ty.known_shape().expect("every symbol has a size"), -1.0, 1.0)
    };
    graph.inputs().iter().map(&mut tensor).collect()
}

/// A group of measurements that take about a second each.
pub(crate) fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group
}
