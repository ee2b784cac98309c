//! Plan files: round trip, equal bytes, damage of every byte, hostile bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::plans::{chain, full};
use partita_plan::check::check;
use partita_plan::file::{decode, encode, encode_to};
use partita_plan::{Plan, PlanFile};
use proptest::prelude::*;

fn bytes_of((plan, weights): (Plan, Vec<u8>)) -> Vec<u8> {
    encode(&plan, [(0, weights)]).unwrap()
}

#[test]
fn round_trip_keeps_everything() {
    let (plan, weights) = full();
    let bytes = encode(&plan, [(0, &weights)]).unwrap();
    let (back, range) = decode(&bytes).unwrap();
    assert_eq!(back, plan);
    assert_eq!(range.start % 4096, 0);
    assert_eq!(&bytes[range], weights);
    check(&back).unwrap();
    PlanFile::decode(&bytes).unwrap().verify_weights(&bytes).unwrap();
}

#[test]
fn equal_plans_give_equal_bytes_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.plan");
    let (plan, weights) = full();
    std::fs::write(&path, "what was there before").unwrap();
    encode_to(&plan, [(0, &weights)], &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes_of(full()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn weights_may_come_in_pieces_with_gaps() {
    let plan = Plan { weight_bytes: 10_000, ..Plan::default() };
    let bytes = encode(&plan, [(64, vec![1u8; 2]), (9_998, vec![2u8; 2])]).unwrap();
    let file = PlanFile::decode(&bytes).unwrap();
    file.verify_weights(&bytes).unwrap();
    let weights = &bytes[file.weights];
    assert_eq!((weights[63], weights[64], weights[66], weights[9_999]), (0, 1, 0, 2));
}

#[test]
fn misplaced_weights_and_missing_folders_are_errors_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.plan");
    let plan = Plan { weight_bytes: 8, ..Plan::default() };
    let overlap = [(0, vec![0u8; 4]), (2, vec![0u8; 4])];
    assert_eq!(encode_to(&plan, overlap, &path).unwrap_err().code, "L008");
    assert_eq!(encode_to(&plan, [(4, vec![0u8; 5])], &path).unwrap_err().code, "L008");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = folder.path().join("no/such/folder.plan");
    assert_eq!(encode_to(&plan, [(0, vec![0u8; 8])], &nowhere).unwrap_err().code, "L009");
}

#[test]
fn other_files_versions_and_cut_files_have_their_own_errors() {
    let good = bytes_of(chain("naive"));
    let code = |bytes: &[u8]| PlanFile::decode(bytes).unwrap_err().code;
    assert_eq!(code(b""), "L001");
    assert_eq!(code(&good[..63]), "L001");
    assert_eq!(code(&[7; 4096]), "L001");
    let mut other = good.clone();
    other[8] += 1;
    assert_eq!(code(&other), "L002");
    assert_eq!(code(&good[..good.len() - 1]), "L003");
    assert_eq!(code(&[good.as_slice(), &[0]].concat()), "L003");
}

#[test]
fn sections_beyond_their_limits_are_refused() {
    let plan = Plan { weight_bytes: partita_plan::limits::MAX_WEIGHT_BYTES + 1, ..Plan::default() };
    assert_eq!(encode(&plan, [(0, [0u8; 0])]).unwrap_err().code, "L005");
    let mut header = sealed(&[], 0);
    header[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let crc = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&header).unwrap_err().code, "L005");
}

#[test]
fn no_flipped_byte_changes_the_meaning() {
    let good = bytes_of(full());
    let file = PlanFile::decode(&good).unwrap();
    for at in 0..good.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= mask;
            let Ok(damaged) = PlanFile::decode(&bytes) else { continue };
            let weights_hurt = file.weights.contains(&at) && damaged.verify_weights(&bytes).is_err();
            assert!(weights_hurt, "byte {at} flipped by {mask:#x} went unnoticed");
            assert_eq!(damaged.plan, file.plan);
        }
    }
}

/// A message with its header made right again, so that damage reaches the scan, the decoder and the check.
fn sealed(message: &[u8], weight_bytes: u64) -> Vec<u8> {
    let mut bytes = partita_plan::file::MAGIC.to_vec();
    let offset = (64 + message.len()).next_multiple_of(4096);
    bytes.extend(partita_plan::PLAN_VERSION.to_le_bytes());
    bytes.extend(crc32fast::hash(message).to_le_bytes());
    bytes.extend((message.len() as u64).to_le_bytes());
    bytes.extend((offset as u64).to_le_bytes());
    bytes.extend(weight_bytes.to_le_bytes());
    bytes.resize(60, 0);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend(message);
    bytes.resize(offset + weight_bytes as usize, 0);
    bytes
}

#[test]
fn damage_under_a_right_checksum_never_panics() {
    use prost::Message as _;
    let (plan, _) = full();
    let message = plan.encode_to_vec();
    for at in 0..message.len() {
        for mask in [0x01, 0x04, 0x10, 0x80, 0xff] {
            let mut message = message.clone();
            message[at] ^= mask;
            if let Ok((plan, _)) = decode(&sealed(&message, plan.weight_bytes)) {
                let _ = check(&plan);
                let _ = partita_plan::text::to_text(&plan);
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&message);
        if let Ok((plan, _)) = decode(&sealed(&message, 0)) {
            let _ = check(&plan);
        }
    }

    #[test]
    fn several_damaged_bytes_never_panic(damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        use prost::Message as _;
        let (plan, _) = full();
        let mut message = plan.encode_to_vec();
        for (at, byte) in damage {
            let at = usize::from(at) % message.len();
            message[at] = byte;
        }
        if let Ok((plan, _)) = decode(&sealed(&message, plan.weight_bytes)) {
            let _ = check(&plan);
        }
    }
}
