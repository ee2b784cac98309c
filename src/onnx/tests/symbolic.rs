//! Sizes with symbols survive the way out and in: the exported file computes them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use partita_ir::{Attr, Attrs, Builder, Bytes, DType, Dim, Graph, Tensor, Type, ValueId, interp};
use partita_onnx::{ExportOptions, Options, load_bytes, save};

fn apply(b: &mut Builder, op: &str, attrs: Attrs, inputs: &[ValueId]) -> ValueId {
    b.op(partita_ops::op(op).unwrap(), attrs, inputs).unwrap()
}

fn dims(dims: &[Dim]) -> Attr {
    Attr::from(dims.to_vec())
}

/// Heads split and joined, sizes added, multiplied, divided and compared.
fn graph() -> Graph {
    let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
    let mut b = Builder::new("symbolic");
    let x = b.input("x", Type::new(DType::F32, vec![batch.clone(), seq.clone(), 8.into()]));
    let shape = |list: &[Dim]| Attrs::new().with("shape", dims(list));
    let heads = apply(&mut b, "reshape", shape(&[batch.clone(), seq.clone(), 2.into(), 4.into()]), &[x]);
    let perm = Attrs::new().with("perm", vec![0i64, 2, 1, 3]);
    let turned = apply(&mut b, "transpose", perm.clone(), &[heads]);
    let flat = apply(&mut b, "reshape", shape(&[batch.clone() * 2.into(), seq.clone(), 4.into()]), &[turned]);
    b.output("flat", flat);
    let back = apply(&mut b, "reshape", shape(&[batch.clone(), 2.into(), seq.clone(), 4.into()]), &[flat]);
    b.output("back", back);
    // All but the last half of the sequence.
    let half = seq.floor_div(&2.into());
    let front = Attrs::new()
        .with("starts", vec![0i64])
        .with("ends", dims(std::slice::from_ref(&half)))
        .with("axes", vec![1i64]);
    let front = apply(&mut b, "slice", front, &[x]);
    b.output("front", front);
    let one = b.constant("one", Tensor::from_slice(&[1, 1], &[1.0f32]).unwrap());
    let wide = [batch.clone() + seq.clone() - 1.into(), seq.larger(&batch)];
    let wide = apply(&mut b, "expand", shape(&wide), &[one]);
    b.output("wide", wide);
    b.finish()
}

#[test]
fn symbolic_sizes_are_computed_by_the_file() {
    let graph = graph();
    let bytes = save(&graph, &ExportOptions::default()).unwrap();
    let again = load_bytes("again", Bytes::from_vec(bytes), None, &Options::default()).unwrap().graph;
    for (batch, seq) in [(1, 1), (2, 3), (3, 2), (5, 4)] {
        let values: Vec<f32> = (0..batch * seq * 8).map(|v| v as f32).collect();
        let x = Tensor::from_slice(&[batch, seq, 8], &values).unwrap();
        let want = interp::run(&graph, std::slice::from_ref(&x)).unwrap();
        let have = interp::run(&again, &[x]).unwrap();
        assert_eq!(have, want, "batch {batch}, seq {seq}");
    }
}

#[test]
fn outputs_may_be_inputs_constants_and_each_other() {
    let mut b = Builder::new("outputs");
    let x = b.input("x", Type::known(DType::F32, &[2]));
    let c = b.constant("c", Tensor::from_slice(&[1], &[3.0f32]).unwrap());
    let y = apply(&mut b, "relu", Attrs::new(), &[x]);
    for (name, value) in [("x", x), ("same", x), ("c", c), ("first", y), ("second", y)] {
        b.output(name, value);
    }
    let graph = b.finish();
    let bytes = save(&graph, &ExportOptions::default()).unwrap();
    let again = load_bytes("again", Bytes::from_vec(bytes), None, &Options::default()).unwrap().graph;
    let names: Vec<&str> = again.outputs().map(|(n, _)| n).collect();
    assert_eq!(names, ["x", "same", "c", "first", "second"]);
    let x = Tensor::from_slice(&[2], &[-1.0f32, 2.0]).unwrap();
    assert_eq!(interp::run(&again, std::slice::from_ref(&x)).unwrap(), interp::run(&graph, &[x]).unwrap());
}

#[test]
fn equal_constants_are_written_once() {
    let mut b = Builder::new("constants");
    let x = b.input("x", Type::known(DType::F32, &[100]));
    let weights = vec![1.5f32; 100];
    let mut y = x;
    for n in 0..3 {
        let w = b.constant(&format!("w{n}"), Tensor::from_slice(&[100], &weights).unwrap());
        y = apply(&mut b, "add", Attrs::new(), &[y, w]);
    }
    b.output("y", y);
    let bytes = save(&b.finish(), &ExportOptions::default()).unwrap();
    assert!(bytes.len() < 800, "{} bytes", bytes.len());
}
