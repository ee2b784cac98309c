//! Random small graphs out of the operator dictionary's own samples.

use partita_ir::builder::Builder;
use partita_ir::op::{OpRef, Rng, Sample};
use partita_ir::{Attrs, DType, Dim, Graph, Tensor, Type, ValueId};

/// Operators that take any float and give one of the same shape, without jumps that rounding could cross.
const SMOOTH: &[&str] = &["tanh", "sigmoid", "neg", "relu", "abs", "exp"];

/// A graph with inputs that fit it.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<Tensor>,
}

/// How many seeds a test tries: `usual`, times what `PARTITA_SEEDS` says.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("PARTITA_SEEDS").ok().and_then(|n| n.parse::<u64>().ok());
    0..usual * factor.unwrap_or(1)
}

/// Samples of every operator, `usual` each.
pub(crate) fn samples(usual: u64) -> impl Iterator<Item = (u64, Program)> {
    let operators: Vec<(usize, OpRef)> = partita_ops::registry().iter().enumerate().collect();
    let one = move |(n, op)| seeds(usual).filter_map(move |s| Some((s, around(op, 77_000 * n as u64 + s)?)));
    operators.into_iter().flat_map(one)
}

/// How an operand of a sample enters the graph.
#[derive(Clone, Copy, PartialEq)]
enum Operands {
    /// As an input.
    Inputs,
    /// As a constant where it looks like a shape, axes or a bound, else as an input.
    Mixed,
    /// As a constant, but for the first.
    Constants,
}

/// The sample of one operator with a few elementwise nodes behind it; `None` where the sample needs an operand
/// to be known that looks like data.
pub(crate) fn around(op: OpRef, seed: u64) -> Option<Program> {
    if op.traits.random {
        return None;
    }
    let mut rng = Rng(seed);
    let sample = (op.sample)(&mut rng);
    let ways = [Operands::Mixed, Operands::Constants, Operands::Inputs];
    let first = rng.below(ways.len());
    (0..ways.len()).find_map(|n| build(op, &sample, ways[(first + n) % ways.len()], &mut rng.clone()))
}

fn build(op: OpRef, sample: &Sample, way: Operands, rng: &mut Rng) -> Option<Program> {
    let mut builder = Builder::new(op.name);
    let mut inputs = Vec::new();
    let mut operands = Vec::new();
    for (n, tensor) in sample.inputs.iter().enumerate() {
        operands.push(tensor.as_ref().map(|t| operand(&mut builder, &mut inputs, n, t, way)));
    }
    let names: Vec<String> = (0..sample.n_outputs.max(1)).map(|n| format!("r{n}")).collect();
    let results = builder.node("sample", op, sample.attrs.clone(), &operands, &names).ok()?;
    for (n, value) in results.iter().enumerate() {
        builder.output(&format!("r{n}"), *value);
        let float = builder.graph().ty(*value).dtype == DType::F32;
        if float {
            let end = chain(&mut builder, *value, rng)?;
            builder.output(&format!("y{n}"), end);
        }
    }
    Some(Program { name: op.name.to_owned(), graph: builder.finish(), inputs })
}

fn operand(b: &mut Builder, inputs: &mut Vec<Tensor>, n: usize, tensor: &Tensor, way: Operands) -> ValueId {
    let name = format!("x{n}");
    let small = n > 0 && tensor.rank() <= 1 && tensor.n_elements() <= 16;
    let known = match way {
        Operands::Inputs => false,
        Operands::Mixed => small,
        Operands::Constants => n > 0,
    };
    if known {
        return b.constant(&name, tensor.clone());
    }
    inputs.push(tensor.clone());
    b.input(&name, Type::known(tensor.dtype(), tensor.shape()))
}

/// Up to three smooth nodes.
fn chain(builder: &mut Builder, mut value: ValueId, rng: &mut Rng) -> Option<ValueId> {
    for _ in 0..1 + rng.below(3) {
        let op = partita_ops::op(rng.pick::<&str>(SMOOTH))?;
        value = builder.op(op, Attrs::new(), &[value]).ok()?;
    }
    Some(value)
}

/// Sizes of the tensors of `net`; the first one is the symbol of `symbolic_net`.
const NET: [usize; 3] = [2, 4, 4];

/// A connected graph of `n` nodes over tensors that broadcast, with products, reductions and softmax in it.
pub(crate) fn net(seed: u64, n: usize) -> Program {
    let mut rng = Rng(seed);
    let inputs = (0..2).map(|_| rng.tensor(DType::F32, &NET, -1.0, 1.0)).collect();
    let graph = net_graph(&Type::known(DType::F32, &NET), &mut rng, n);
    Program { name: format!("net {seed}"), graph, inputs }
}

/// The same kind of graph for any number of examples.
pub(crate) fn symbolic_net(seed: u64, n: usize) -> Graph {
    let shape = [Dim::symbol("N"), NET[1].into(), NET[2].into()];
    net_graph(&Type::new(DType::F32, shape), &mut Rng(seed), n)
}

fn net_graph(ty: &Type, rng: &mut Rng, n: usize) -> Graph {
    let mut builder = Builder::new("net");
    let mut values: Vec<ValueId> = (0..2).map(|k| builder.input(&format!("x{k}"), ty.clone())).collect();
    let known: Vec<usize> = ty.shape.iter().map(|d| d.as_known().map_or(1, |d| d as usize)).collect();
    for k in 0..3 {
        let dims: Vec<usize> = known.iter().map(|&d| if rng.below(2) == 0 { d } else { 1 }).collect();
        values.push(builder.constant(&format!("c{k}"), rng.tensor(DType::F32, &dims, -1.0, 1.0)));
    }
    for _ in 0..n {
        let two = ["add", "sub", "mul", "max", "min", "matmul"];
        let one = ["relu", "tanh", "sigmoid", "neg", "transpose", "softmax", "reduce_mean", "identity"];
        let is_two = rng.below(2) == 0;
        let name = if is_two { *rng.pick(&two) } else { *rng.pick(&one) };
        let mut attrs = Attrs::new();
        match name {
            "transpose" => attrs.set("perm", rng.pick(&[vec![0i64, 2, 1], vec![1, 0, 2]]).clone()),
            "softmax" => attrs.set("axis", rng.int(0, 2)),
            "reduce_mean" => {
                attrs.set("axes", vec![rng.int(0, 2)]);
                attrs.set("keepdims", 1i64);
            }
            _ => {}
        }
        let operands: Vec<ValueId> = (0..1 + usize::from(is_two)).map(|_| *rng.pick(&values)).collect();
        if let Ok(value) = builder.op(partita_ops::op(name).unwrap(), attrs, &operands) {
            values.push(value);
        }
    }
    for (k, value) in values.iter().rev().take(3).enumerate() {
        builder.output(&format!("y{k}"), *value);
    }
    builder.finish()
}
