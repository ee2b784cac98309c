//! What holds for every graph, on random ones: verified, same results, idempotent, fuel, strictness, order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
mod support;

use partita_ir::builder::Builder;
use partita_ir::op::Rng;
use partita_ir::{DType, Graph, Type, ValueId};
use partita_passes::{Options, PASSES, optimize, run_passes};
use support::{graph, inputs, ops, optimized, same_results};

/// A random graph over samples of operators: a chain of nodes that read earlier values where types allow.
fn random_graph(seed: u64) -> Graph {
    let mut rng = Rng(seed);
    let mut builder = Builder::new("random");
    let shape = [2, 3, 4];
    let mut values: Vec<ValueId> =
        (0..3).map(|n| builder.input(&format!("x{n}"), Type::known(DType::F32, &shape))).collect();
    for n in 0..3 {
        let dims: Vec<usize> = shape.iter().map(|&d| if rng.below(2) == 0 { d } else { 1 }).collect();
        let tensor = rng.tensor(DType::F32, &dims, -1.5, 1.5);
        values.push(builder.constant(&format!("c{n}"), tensor));
    }
    let names = [
        "add",
        "sub",
        "mul",
        "div",
        "relu",
        "neg",
        "abs",
        "exp",
        "tanh",
        "sigmoid",
        "transpose",
        "softmax",
        "reduce_mean",
        "reduce_sum",
        "max",
        "min",
        "clip",
        "sqrt",
        "pow",
        "matmul",
        "identity",
        "reciprocal",
    ];
    for _ in 0..24 {
        let op = partita_ops::op(names[rng.below(names.len())]).unwrap();
        let mut attrs = (op.sample)(&mut rng).attrs;
        if op.name == "transpose" {
            attrs.set("perm", rng.pick(&[vec![0i64, 2, 1], vec![1, 0, 2], vec![2, 1, 0]]).clone());
        }
        if op.name.starts_with("reduce") {
            attrs = partita_ir::Attrs::new().with("axes", vec![rng.int(0, 2)]).with("keepdims", 1i64);
        }
        let operands: Vec<ValueId> = (0..op.inputs.min.max(1)).map(|_| *rng.pick(&values)).collect();
        if let Ok(value) = builder.op(op, attrs, &operands) {
            values.push(value);
        }
    }
    for (n, value) in values.iter().rev().take(3).enumerate() {
        builder.output(&format!("y{n}"), *value);
    }
    builder.finish()
}

#[test]
fn random_graphs_compute_the_same() {
    for seed in 0..60 {
        let before = random_graph(seed);
        let (after, _) = optimize(before.clone(), &Options::default()).unwrap();
        same_results(&before, &after, 1e-3).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let (again, _) = optimize(before.clone(), &Options::default()).unwrap();
        assert_eq!(partita_ir::text::print(&after), partita_ir::text::print(&again), "seed {seed}");
    }
}

#[test]
fn every_pass_alone_and_every_order_keeps_the_results() {
    for seed in 100..120 {
        let before = random_graph(seed);
        for pass in PASSES {
            let (after, _) = run_passes(before.clone(), &[pass.name], &Options::default()).unwrap();
            same_results(&before, &after, 1e-3).unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", pass.name));
            let (again, _) = run_passes(after.clone(), &[pass.name], &Options::default()).unwrap();
            assert_eq!(ops(&after), ops(&again), "{} is not idempotent, seed {seed}", pass.name);
        }
        for left_out in PASSES {
            let names: Vec<&str> =
                partita_passes::DEFAULT.iter().copied().filter(|n| *n != left_out.name).collect();
            let (after, _) = run_passes(before.clone(), &names, &Options::default()).unwrap();
            same_results(&before, &after, 1e-3).unwrap();
        }
    }
}

#[test]
fn strict_keeps_every_bit() {
    for seed in 200..240 {
        let before = random_graph(seed);
        let options = Options { strict: true, ..Options::default() };
        let (after, _) = optimize(before.clone(), &options).unwrap();
        same_results(&before, &after, 0.0).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn random_fuel_and_regions() {
    for seed in 300..306 {
        optimized(&random_graph(seed));
    }
}

#[test]
fn users_add_rules_and_see_where_they_are_wrong() {
    let before = graph("graph g(%x: f32[4]) -> (%y) { %e = sinh %x %y = asinh %e }");
    let rule = "@phase 1\n@numerics reassociating\nmy-rule: (asinh (sinh ?x)) => ?x\n";
    let options = Options { rules: vec![("my.rules".into(), rule.into())], ..Options::default() };
    let (after, history) = optimize(before.clone(), &options).unwrap();
    assert_eq!(after.n_nodes(), 0);
    assert_eq!(history.fired().get("my-rule"), Some(&1));
    let wrong = "a: (asinh (sinh ?x)) => ?y\nb: (asin ?x => ?x\nc: (foo ?x) => ?x\nd: (relu ?x) => ?x if perhaps(?x)\n";
    let options = Options { rules: vec![("my.rules".into(), wrong.into())], ..Options::default() };
    let errors = optimize(before, &options).unwrap_err();
    let places: Vec<_> = errors.iter().map(|d| (d.code, d.place.line_column)).collect();
    assert_eq!(places.len(), 4);
    assert_eq!(places[0].0, "O003");
    assert!(places.iter().enumerate().all(|(n, p)| p.1.is_some_and(|(line, _)| line == n + 1)));
    assert!(errors.iter().all(|d| d.place.file.as_deref() == Some("my.rules")));
}

#[test]
fn an_unsound_rule_cannot_change_a_type() {
    let before = graph("graph g(%x: f32[4, 1]) -> (%y) { %a = abs %x %y = exp %a }");
    let rule = "bad: (abs ?x) => (transpose{perm=[1, 0]} ?x)\n";
    let options = Options { rules: vec![("bad.rules".into(), rule.into())], ..Options::default() };
    let (after, _) = optimize(before.clone(), &options).unwrap();
    assert_eq!(ops(&after), ["abs", "exp"]);
    assert!(!inputs(&before, 1).is_empty());
}

#[test]
fn long_chains_and_many_residuals_neither_overflow_nor_explode() {
    let mut builder = Builder::new("deep");
    let mut x = builder.input("x", Type::known(DType::F32, &[2, 4]));
    let (relu, add, abs) =
        (partita_ops::op("tanh").unwrap(), partita_ops::op("add").unwrap(), partita_ops::op("exp").unwrap());
    for _ in 0..400 {
        let a = builder.op(relu, partita_ir::Attrs::new(), &[x]).unwrap();
        let b = builder.op(abs, partita_ir::Attrs::new(), &[a]).unwrap();
        x = builder.op(add, partita_ir::Attrs::new(), &[x, b]).unwrap();
    }
    builder.output("y", x);
    let graph = builder.finish();
    let (after, _) = optimize(graph.clone(), &Options::default()).unwrap();
    assert!(after.n_nodes() <= graph.n_nodes());
}
