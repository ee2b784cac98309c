//! Whatever the bytes, reading them ends with a graph or with letters.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::fixture;
use partita_ir::Bytes;
use partita_onnx::{Options, load_bytes, tensor_from_pb, tensor_to_pb};
use proptest::prelude::*;

fn digits() -> Vec<u8> {
    std::fs::read(fixture("digits/digits.onnx")).unwrap()
}

/// Offsets are drawn near the ends as well: weights fill the middle, and flips there only change numbers.
fn place(len: usize) -> impl Strategy<Value = usize> {
    prop_oneof![0..len, 0..len.min(2000), len.saturating_sub(2000)..len]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bits(flips in proptest::collection::vec((place(digits().len()), 0u8..8), 1..8)) {
        let mut bytes = digits();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        let _ = load_bytes("flipped", Bytes::from_vec(bytes), None, &Options::default());
    }

    #[test]
    fn truncated(len in place(digits().len())) {
        let mut bytes = digits();
        bytes.truncate(len);
        prop_assert!(load_bytes("cut", Bytes::from_vec(bytes), None, &Options::default()).is_err());
    }

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = load_bytes("random", Bytes::from_vec(bytes.clone()), None, &Options::default());
        let _ = tensor_from_pb(Bytes::from_vec(bytes));
    }

    #[test]
    fn flipped_tensors(at in 0usize..40, bit in 0u8..8) {
        let tensor = partita_ir::Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let mut bytes = tensor_to_pb("t", &tensor);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = tensor_from_pb(Bytes::from_vec(bytes));
    }
}
