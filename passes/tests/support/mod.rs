//! What the tests of this crate share: seeded inputs, comparison, the op list of a graph.
#![allow(dead_code, reason = "each test binary uses a part")]

use partita_ir::op::Rng;
use partita_ir::text::{no_files, parse};
use partita_ir::{Graph, Tensor, interp};
use partita_passes::{Options, fuse, optimize};

/// What a symbol is bound to when a graph is run.
const SYMBOL_SIZE: i64 = 3;

/// The graph of a text.
pub(crate) fn graph(text: &str) -> Graph {
    parse(text, &partita_ops::registry(), &no_files).unwrap_or_else(|d| panic!("{d}\n{text}")).remove(0)
}

/// Seeded inputs.
pub(crate) fn inputs(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut rng = Rng(seed);
    let tensor = |v: &partita_ir::ValueId| {
        let ty = graph.ty(*v).bind(&|_| Some(SYMBOL_SIZE));
        let (low, high) = if ty.dtype.is_float() { (-2.0, 2.0) } else { (0.0, 2.0) };
        rng.tensor(ty.dtype, &ty.known_shape().unwrap(), low, high)
    };
    graph.inputs().iter().map(tensor).collect()
}

/// Operators in name order.
pub(crate) fn ops(graph: &Graph) -> Vec<&'static str> {
    let mut ops: Vec<&str> = graph.nodes().map(|(_, n)| n.op.name).collect();
    ops.sort_unstable();
    ops
}

/// Whether two graphs compute the same on seeded inputs, relative to the largest element.
pub(crate) fn same_results(a: &Graph, b: &Graph, relative: f64) -> Result<(), String> {
    for seed in 1..3 {
        let inputs = inputs(a, seed);
        let left = interp::run(a, &inputs).map_err(|d| d.to_string())?;
        let right = interp::run(b, &inputs).map_err(|d| d.to_string())?;
        for (n, (l, r)) in left.iter().zip(&right).enumerate() {
            if (l.dtype(), l.shape()) != (r.dtype(), r.shape()) {
                return Err(format!("output {n} is {l:?} and {r:?}"));
            }
            let (x, y) = (l.to_f64s(), r.to_f64s());
            let largest = x.iter().filter(|v| v.is_finite()).fold(1e-6f64, |m, v| m.max(v.abs()));
            for (x, y) in x.iter().zip(&y) {
                let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= relative * largest;
                if !same {
                    return Err(format!("output {n}: {x} and {y}, largest {largest}"));
                }
            }
        }
    }
    Ok(())
}

/// Optimizes, and checks everything that must hold for every graph: it verifies, computes the same, a second run
/// changes nothing, every amount of fuel gives a graph that computes the same, and regions partition it.
pub(crate) fn optimized(before: &Graph) -> Graph {
    let (after, history) = optimize(before.clone(), &Options::default()).unwrap();
    same_results(before, &after, 1e-4).unwrap();
    let (again, _) = optimize(after.clone(), &Options::default()).unwrap();
    assert_eq!(ops(&after), ops(&again), "not idempotent");
    let used: u64 = history.fired().values().sum();
    let step = (used / 12).max(1);
    for fuel in (0..=used.min(60)).chain((60..used).step_by(step as usize)) {
        let options = Options { fuel: Some(fuel), ..Options::default() };
        let (part, history) = optimize(before.clone(), &options).unwrap();
        same_results(before, &part, 1e-4).unwrap_or_else(|e| panic!("with fuel {fuel}: {e}"));
        assert!(history.fired().values().sum::<u64>() <= fuel);
    }
    let regions = fuse(&after, &partita_passes::fuse::Rules::default());
    assert!(partita_passes::fuse::is_partition(&after, &regions));
    after
}
