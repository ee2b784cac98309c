//! What the tests share: fixtures and a reader of .npy files.

use partita_ir::{Bytes, DType, Tensor};
use std::path::{Path, PathBuf};

/// A file of the repository's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Reads a C-ordered little-endian .npy file of version 1.
pub(crate) fn read_npy(path: &Path) -> Tensor {
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
