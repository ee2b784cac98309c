//! Writes uses of every operator as ONNX models of one node, for comparing with other engines:
//! `sample_models OUT N [SEED]` makes N folders `OUT/<operator>/<n>` with `model.onnx` and `inputs/input_<i>.pb`.
//!
//! Every second model is in the newest opset, the others in the oldest one that has what the node needs. What was not
//! written is listed in `OUT/skipped.tsv` as operator, n, reason; `OUT/random.txt` names operators whose results are
//! not determined.

#![allow(clippy::print_stderr, reason = "a command-line example")]

use partita_ir::builder::Builder;
use partita_ir::op::{OpRef, Rng, Sample};
use partita_ir::{Diag, Graph, Tensor, Type, ValueId};
use partita_onnx::{ExportOptions, save, tensor_to_pb};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The opset of every second model: the newest that other engines know.
const NEW_OPSET: i64 = 28;

/// Largest operand that may be made a constant when the node needs to know it.
const MAX_CONSTANT_ELEMENTS: usize = 64;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, n, seed @ ..] = args.as_slice() else {
        eprintln!("usage: sample_models OUT N [SEED]");
        return ExitCode::from(2);
    };
    let n: u64 = n.parse().unwrap_or(1);
    let seed: u64 = seed.first().and_then(|s| s.parse().ok()).unwrap_or(0);
    match write_all(Path::new(out), n, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{out}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(out: &Path, n: u64, seed: u64) -> std::io::Result<()> {
    std::fs::create_dir_all(out)?;
    let (mut skipped, mut random) = (String::new(), String::new());
    for op in partita_ops::registry().iter() {
        if op.traits.random {
            random.push_str(&format!("{}\n", op.name));
        }
        if op.data.is_some() {
            skipped.push_str(&format!("{}\t0\ttakes or makes other values than tensors\n", op.name));
            continue;
        }
        for at in 0..n {
            let folder = out.join(op.name).join(at.to_string());
            // Samples of different operators and runs are drawn independently.
            let lead = op.name.bytes().fold(seed, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
            let sample = (op.sample)(&mut Rng(lead.wrapping_mul(1009).wrapping_add(at)));
            if let Err(reason) = write(op, &sample, if at % 2 == 0 { 0 } else { NEW_OPSET }, folder)? {
                skipped.push_str(&format!("{}\t{at}\t{reason}\n", op.name));
            }
        }
    }
    std::fs::write(out.join("skipped.tsv"), skipped)?;
    std::fs::write(out.join("random.txt"), random)
}

/// Writes one use; the inner error says why there is no model of it.
fn write(op: OpRef, sample: &Sample, opset: i64, folder: PathBuf) -> std::io::Result<Result<(), String>> {
    let options = ExportOptions { min_opset: opset, ..ExportOptions::default() };
    // Operands that inference must know are constants; which ones is tried out.
    let known: [fn(&Tensor) -> bool; 3] =
        [|_| false, |t| t.rank() <= 1 && t.n_elements() <= MAX_CONSTANT_ELEMENTS, |_| true];
    let mut reason = "it has no sample".to_owned();
    for known in known {
        let built = build(op, sample, known).map_err(|d| d.message);
        let saved = built.and_then(|graph| match save(&graph, &options) {
            Ok(model) => Ok((graph, model)),
            Err(diags) => Err(diags.into_iter().next().map_or(String::new(), |d| d.message)),
        });
        match saved {
            Ok((graph, model)) => return files(&folder, sample, &graph, &model, known).map(Ok),
            Err(text) => reason = text,
        }
    }
    Ok(Err(reason.replace(['\n', '\t'], " ")))
}

/// A graph of the node alone; operands but the first are constants where `known` says so.
fn build(op: OpRef, sample: &Sample, known: fn(&Tensor) -> bool) -> Result<Graph, Diag> {
    let mut builder = Builder::new(op.name);
    let mut operands: Vec<Option<ValueId>> = Vec::new();
    for (n, tensor) in sample.inputs.iter().enumerate() {
        let name = format!("x{n}");
        operands.push(tensor.as_ref().map(|t| {
            if n > 0 && known(t) {
                builder.constant(&name, t.clone())
            } else {
                builder.input(&name, Type::known(t.dtype(), t.shape()))
            }
        }));
    }
    let names: Vec<String> = (0..sample.n_outputs.max(1)).map(|n| format!("y{n}")).collect();
    let results = builder.node("node", op, sample.attrs.clone(), &operands, &names)?;
    for (name, value) in names.iter().zip(results) {
        builder.output(name, value);
    }
    Ok(builder.finish())
}

fn files(
    folder: &Path,
    sample: &Sample,
    graph: &Graph,
    model: &[u8],
    known: fn(&Tensor) -> bool,
) -> std::io::Result<()> {
    let inputs = folder.join("inputs");
    std::fs::create_dir_all(&inputs)?;
    std::fs::write(folder.join("model.onnx"), model)?;
    let fed =
        sample.inputs.iter().enumerate().filter_map(|(n, t)| t.as_ref().filter(|t| n == 0 || !known(t)));
    for (n, (tensor, value)) in fed.zip(graph.inputs()).enumerate() {
        let name = &graph.value(*value).name;
        std::fs::write(inputs.join(format!("input_{n}.pb")), tensor_to_pb(name, tensor))?;
    }
    Ok(())
}
