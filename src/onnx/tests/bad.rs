//! Malformed files get a letter with code, place and hint, and nothing else happens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use partita_onnx::{Options, load};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/onnx/bad")
}

/// The code of the first finding for each file.
const EXPECTED: &[(&str, &str)] = &[
    ("bad_shape.onnx", "V020"),
    ("cyclic.onnx", "I016"),
    ("deep.onnx", "I006"),
    ("duplicate_value.onnx", "I014"),
    ("empty.onnx", "I003"),
    ("escape.onnx", "I030"),
    ("groups.onnx", "I005"),
    ("lying_length.onnx", "I004"),
    ("missing_weights.onnx", "I031"),
    ("opset_missing.onnx", "I012"),
    ("text.onnx", "I005"),
    ("truncated.onnx", "I004"),
    ("undefined_input.onnx", "I015"),
    ("unknown_op.onnx", "U002"),
    ("wrong_types.onnx", "V020"),
];

#[test]
fn each_defect_has_its_letter() {
    for (file, code) in EXPECTED {
        let diags = load(&folder().join(file), &Options::default()).map(|_| ()).expect_err(file);
        let codes: Vec<&str> = diags.iter().map(|d| d.code).collect();
        assert_eq!(codes.first(), Some(code), "{file}: {codes:?}");
        for diag in &diags {
            assert!(diag.place.file.as_deref().is_some_and(|f| f.ends_with(file)), "{diag}");
            assert!(!diag.message.is_empty() && diag.message.len() < 500, "{diag}");
        }
    }
}

#[test]
fn every_file_of_the_folder_is_expected() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected: Vec<&str> = EXPECTED.iter().map(|e| e.0).collect();
    assert_eq!(names, expected);
}

#[test]
fn folders_and_missing_files_are_refused() {
    let codes = |path: &Path| load(path, &Options::default()).map(|_| ()).expect_err("a letter")[0].code;
    assert_eq!(codes(&folder()), "I001");
    assert_eq!(codes(&folder().join("nothing_here.onnx")), "I001");
}
