//! A trained classifier, in and out: the numbers stay what its exporter's engine computed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::fixture;
use partita_ir::{Bytes, DType, Graph, Tensor, interp};
use partita_onnx::{ExportOptions, Imported, Options, load, load_bytes, save, save_file};
use std::path::Path;

/// Images per run of the slow interpreter.
const BATCH: usize = 8;

/// Reads a C-ordered little-endian .npy file of version 1.
fn read_npy(path: &Path) -> Tensor {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len]).unwrap();
    assert!(header.contains("'fortran_order': False"));
    let dtype = match header.split('\'').nth(3).unwrap() {
        "<f4" => DType::F32,
        "<i8" => DType::I64,
        other => panic!("element type {other}"),
    };
    let dims = header.split('(').nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> =
        dims.split(',').filter(|d| !d.trim().is_empty()).map(|d| d.trim().parse().unwrap()).collect();
    Tensor::new(dtype, &shape, Bytes::from_vec(bytes[10 + header_len..].to_vec())).unwrap()
}

fn digits() -> Imported {
    load(&fixture("digits/digits.onnx"), &Options::default()).unwrap()
}

/// The first images of the fixture.
fn images() -> Tensor {
    let all = read_npy(&fixture("digits/images.npy"));
    let mut shape = all.shape().to_vec();
    shape[0] = BATCH;
    let len = shape.iter().product::<usize>() * 4;
    Tensor::new(all.dtype(), &shape, Bytes::from_vec(all.bytes()[..len].to_vec())).unwrap()
}

fn assert_probabilities(graph: &Graph) {
    let want = read_npy(&fixture("digits/probabilities.npy")).to_f64s();
    let have = interp::run(graph, &[images()]).unwrap();
    assert_eq!(have[0].shape(), [BATCH, 10]);
    for (have, want) in have[0].to_f64s().into_iter().zip(want) {
        assert!((have - want).abs() < 1e-5, "{have} is not {want}");
    }
}

#[test]
fn computes_the_reference_probabilities() {
    assert_probabilities(&digits().graph);
}

#[test]
fn weights_stay_in_the_file() {
    let path = fixture("digits/digits.onnx");
    let bytes = std::fs::read(&path).unwrap();
    let whole = Bytes::from_vec(bytes);
    let range = whole.as_slice().as_ptr_range();
    let model = load_bytes("digits", whole.clone(), None, &Options::default()).unwrap();
    let weights: Vec<&Tensor> = model
        .graph
        .values()
        .filter_map(|(id, _)| model.graph.as_const(id))
        .filter(|t| t.bytes().len() > 1000)
        .collect();
    assert!(!weights.is_empty());
    assert!(weights.iter().all(|t| range.contains(&t.bytes().as_ptr())));
}

#[test]
fn round_trips() {
    let model = digits();
    let options = ExportOptions::of(&model);
    let bytes = save(&model.graph, &options).unwrap();
    assert_eq!(bytes, save(&digits().graph, &options).unwrap(), "the same graph gives the same bytes");
    let again = load_bytes("again", Bytes::from_vec(bytes.clone()), None, &Options::default()).unwrap();
    assert_eq!(again.graph.n_nodes(), model.graph.n_nodes());
    assert_probabilities(&again.graph);
    assert_eq!(save(&again.graph, &options).unwrap(), bytes, "a second round changes nothing");
}

#[test]
fn round_trips_with_external_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.onnx");
    let model = digits();
    save_file(&path, &model.graph, &ExportOptions { external: true, ..ExportOptions::of(&model) }).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 20_000);
    assert_probabilities(&load(&path, &Options::default()).unwrap().graph);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["digits.onnx", "digits.onnx.data"], "no temporary file stays");
}

#[test]
fn dimensions_are_fixed_by_name() {
    let options = Options { dims: [("N".to_owned(), 3)].into(), ..Options::default() };
    let model = load(&fixture("digits/digits.onnx"), &options).unwrap();
    assert!(model.graph.ty(model.graph.inputs()[0]).shape[0].is(3));
    let unknown = Options { dims: [("nothing".to_owned(), 3)].into(), ..Options::default() };
    let diags = load(&fixture("digits/digits.onnx"), &unknown).map(|_| ()).unwrap_err();
    assert_eq!(diags[0].code, "I023");
    assert!(diags[0].hint.contains("symbols are N"), "{}", diags[0]);
}
