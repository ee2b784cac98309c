//! Weights in files beside the model, and nowhere else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::make::{bytes, model, node, open, value};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{StringStringEntryProto, TensorProto};
use partita_ir::{Tensor, interp};
use partita_onnx::{Options, load};
use std::path::Path;

/// y = x + w, the 16 bytes of w at `offset` of `location`.
fn write_model(path: &Path, location: &str, offset: &str, length: &str) {
    let mut weight = TensorProto { name: "w".to_owned(), dims: vec![4], data_type: 1, ..Default::default() };
    weight.data_location = DataLocation::EXTERNAL.into();
    weight.external_data = [("location", location), ("offset", offset), ("length", length)]
        .map(|(key, value)| StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        })
        .to_vec();
    let add = node("Add", &["x", "w"], &["y"], vec![]);
    let proto = model(17, vec![add], vec![value("x", &[4])], vec![open("y")], vec![weight]);
    std::fs::write(path, bytes(&proto).as_slice()).unwrap();
}

fn code(path: &Path) -> &'static str {
    load(path, &Options::default()).map_or_else(|d| d[0].code, |_| "ok")
}

/// A folder with `model/w.bin` and `secret` beside `model`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<u8> = [9.0f32, 1.0, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/w.bin"), &values).unwrap();
    std::fs::write(folder.path().join("secret"), &values).unwrap();
    folder
}

#[test]
fn weights_beside_the_model_are_read() {
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    write_model(&path, "./w.bin", "4", "16");
    let imported = load(&path, &Options::default()).unwrap();
    let x = Tensor::from_slice(&[4], &[0.0f32; 4]).unwrap();
    assert_eq!(interp::run(&imported.graph, &[x]).unwrap()[0].to_f64s(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn locations_stay_inside_the_folder() {
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    let absolute = folder.path().join("model/w.bin").display().to_string();
    for location in ["../secret", "x/../../secret", "", "w.bin\0", &absolute] {
        write_model(&path, location, "0", "16");
        assert_eq!(code(&path), "I030", "{location:?}");
    }
    write_model(&path, "nothing.bin", "0", "16");
    assert_eq!(code(&path), "I031");
    write_model(&path, ".", "0", "16");
    assert_eq!(code(&path), "I031");
}

#[test]
fn ranges_stay_inside_the_file() {
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    for (offset, length, expected) in [
        ("4", "16", "ok"),
        ("8", "16", "I032"),
        ("18446744073709551615", "16", "I032"),
        ("-4", "16", "I033"),
        ("0", "4611686018427387904", "I040"),
        ("0", "12", "I040"),
    ] {
        write_model(&path, "w.bin", offset, length);
        assert_eq!(code(&path), expected, "offset {offset}, length {length}");
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_before_they_are_judged() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    symlink("../secret", folder.path().join("model/out.bin")).unwrap();
    symlink("w.bin", folder.path().join("model/in.bin")).unwrap();
    symlink("/dev/zero", folder.path().join("model/zero.bin")).unwrap();
    for (location, expected) in [("out.bin", "I030"), ("in.bin", "ok"), ("zero.bin", "I030")] {
        write_model(&path, location, "4", "16");
        assert_eq!(code(&path), expected, "{location}");
    }
}

#[cfg(unix)]
#[test]
fn a_download_cache_is_read_when_asked_for() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let (blobs, snapshot) =
        (folder.path().join("repo/blobs"), folder.path().join("repo/snapshots/a1b2/onnx"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(folder.path().join("secret"), blobs.join("data")).unwrap();
    write_model(&blobs.join("model"), "m.onnx_data", "4", "16");
    symlink("../../../blobs/model", snapshot.join("m.onnx")).unwrap();
    symlink("../../../blobs/data", snapshot.join("m.onnx_data")).unwrap();
    let path = snapshot.join("m.onnx");
    assert_eq!(code(&path), "I030");
    let cached = Options { allow_hf_cache: true, ..Options::default() };
    assert!(load(&path, &cached).is_ok());
    std::fs::remove_file(snapshot.join("m.onnx_data")).unwrap();
    symlink("../../../../secret", snapshot.join("m.onnx_data")).unwrap();
    assert_eq!(load(&path, &cached).map(|_| ()).unwrap_err()[0].code, "I030");
}

#[cfg(unix)]
#[test]
fn a_second_name_is_refused_unless_allowed() {
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    std::fs::hard_link(folder.path().join("secret"), folder.path().join("model/hard.bin")).unwrap();
    write_model(&path, "hard.bin", "4", "16");
    assert_eq!(code(&path), "I034");
    assert!(load(&path, &Options { allow_hard_links: true, ..Options::default() }).is_ok());
}

#[cfg(unix)]
#[test]
fn writing_follows_no_links() {
    use partita_onnx::{ExportOptions, save_file};
    use std::os::unix::fs::symlink;
    let folder = folder();
    let path = folder.path().join("model/m.onnx");
    write_model(&path, "w.bin", "4", "16");
    let graph = load(&path, &Options::default()).unwrap().graph;
    let secret = std::fs::read(folder.path().join("secret")).unwrap();
    let out = folder.path().join("model/out.onnx");
    symlink("../secret", &out).unwrap();
    save_file(&out, &graph, &ExportOptions::default()).unwrap();
    assert_eq!(std::fs::read(folder.path().join("secret")).unwrap(), secret);
    assert!(std::fs::symlink_metadata(&out).unwrap().is_file());
    let taken = folder.path().join("model/folder.onnx");
    std::fs::create_dir(&taken).unwrap();
    assert_eq!(save_file(&taken, &graph, &ExportOptions::default()).unwrap_err()[0].code, "I050");
}
