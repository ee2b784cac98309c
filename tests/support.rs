//! What both test binaries share: where files lie, graphs from text, seeded inputs, comparison with the interpreter.
#![allow(dead_code, reason = "each test binary uses a part")]

use partita_hw::{Machine, Profiles};
use partita_ir::op::Rng;
use partita_ir::text::{no_files, parse, print};
use partita_ir::{DType, Graph, Tensor, interp, verify};
use std::path::PathBuf;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("fixtures").join(name)
}

/// A machine of `fixtures/machines`, without anything the running machine knows, so that figures are the same
/// everywhere.
pub(crate) fn machine(name: &str) -> Machine {
    let text = std::fs::read_to_string(fixture("machines").join(name)).unwrap();
    Machine::parse(name, &text, &Profiles::builtin().unwrap()).unwrap()
}

/// The first graph of a text.
pub(crate) fn graph(text: &str) -> Result<Graph, String> {
    let mut graphs = parse(text, &partita_ops::registry(), &no_files).map_err(|d| d.to_string())?;
    if graphs.is_empty() { Err("the text holds no graph".to_owned()) } else { Ok(graphs.remove(0)) }
}

/// Verifies a graph, with everything that is wrong as one text.
pub(crate) fn verified(graph: &Graph) -> Result<(), String> {
    verify::verify(graph).map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The laws of the text form: what a graph prints parses, verifies, and prints the same again.
pub(crate) fn round_trip(before: &Graph) -> Result<(), String> {
    let text = print(before);
    let again = graph(&text).map_err(|e| format!("the printed graph does not parse: {e}\n{text}"))?;
    verified(&again)?;
    same_text(&text, &print(&again)).map_err(|e| format!("printing is not stable:\n{e}"))
}

/// Seeded inputs of a graph whose symbols all have the size `symbol`. Integers are 0 and 1: valid as indices and
/// as masks.
pub(crate) fn inputs(graph: &Graph, seed: u64, symbol: i64) -> Vec<Tensor> {
    let mut rng = Rng(seed);
    let tensor = |v: &partita_ir::ValueId| {
        let ty = graph.ty(*v).bind(&|_| Some(symbol));
        let (low, high) = if ty.dtype.is_float() { (-2.0, 2.0) } else { (0.0, 1.0) };
        rng.tensor(ty.dtype, &ty.known_shape().unwrap(), low, high)
    };
    graph.inputs().iter().map(tensor).collect()
}

/// Whether two lists of tensors agree: types and shapes exactly, values relative to the largest of the tensor.
pub(crate) fn close(want: &[Tensor], have: &[Tensor], relative: f64) -> Result<(), String> {
    if want.len() != have.len() {
        return Err(format!("{} outputs and {}", want.len(), have.len()));
    }
    for (n, (want, have)) in want.iter().zip(have).enumerate() {
        if (want.dtype(), want.shape()) != (have.dtype(), have.shape()) {
            let text = |t: &Tensor| format!("{}{:?}", t.dtype().name(), t.shape());
            return Err(format!("output {n} is {} instead of {}", text(have), text(want)));
        }
        close_values(want, have, relative).map_err(|e| format!("output {n}: {e}"))?;
    }
    Ok(())
}

fn close_values(want: &Tensor, have: &Tensor, relative: f64) -> Result<(), String> {
    let (x, y) = (want.to_f64s(), have.to_f64s());
    let largest = x.iter().filter(|v| v.is_finite()).fold(1e-6f64, |m, v| m.max(v.abs()));
    let allowed = largest * relative.max(rounding(want.dtype()));
    let same = |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= allowed;
    match x.iter().zip(&y).enumerate().find(|(_, (x, y))| !same(**x, **y)) {
        None => Ok(()),
        Some((at, (x, y))) => Err(format!("element {at} is {y} instead of {x}, the largest is {largest}")),
    }
}

/// What rounding to a narrow type alone may do.
fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 3e-2,
        DType::F16 => 5e-3,
        _ => 0.0,
    }
}

/// Whether two graphs with the same inputs compute the same, for two seeds and two sizes of symbols.
pub(crate) fn same_results(a: &Graph, b: &Graph, relative: f64) -> Result<(), String> {
    for (seed, symbol) in [(1, 3), (2, 2)] {
        let inputs = inputs(a, seed, symbol);
        let left = interp::run(a, &inputs).map_err(|d| format!("the first: {d}"))?;
        let right = interp::run(b, &inputs).map_err(|d| format!("the second: {d}"))?;
        close(&left, &right, relative)?;
    }
    Ok(())
}

/// Whether two texts are equal; else the lines between what they share at both ends.
pub(crate) fn same_text(want: &str, have: &str) -> Result<(), String> {
    if want == have {
        return Ok(());
    }
    let (want, have): (Vec<&str>, Vec<&str>) = (want.lines().collect(), have.lines().collect());
    let head = want.iter().zip(&have).take_while(|(a, b)| a == b).count();
    let tail = want[head..].iter().rev().zip(have[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let part = |lines: &[&str], sign: &str| {
        lines[head..lines.len() - tail].iter().map(|l| format!("{sign} {l}\n")).collect::<String>()
    };
    let shared = if head > 0 { format!("  {}\n", want[head - 1]) } else { String::new() };
    Err(format!("line {}:\n{shared}{}{}", head + 1, part(&want, "-"), part(&have, "+")))
}
