//! The embedded profiles parse and keep their invariants.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

use partita_hw::{Kind, Need, Precision, Profile, Profiles, Provenance};

fn profiles() -> Profiles {
    Profiles::builtin().unwrap()
}

#[test]
fn all_are_there_with_sources() {
    let profiles = profiles();
    assert_eq!(profiles.len(), 99);
    for profile in profiles.iter() {
        assert!(profile.sources.iter().all(|source| !source.trim().is_empty()), "{}", profile.id);
        assert!(profile.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
    let count = |wanted| profiles.iter().filter(|profile| profile.provenance == wanted).count();
    assert_eq!(
        (count(Provenance::Checked), count(Provenance::Mixed), count(Provenance::Recalled)),
        (48, 30, 21)
    );
}

#[test]
fn no_figure_is_zero_and_sparse_is_apart() {
    for profile in profiles().iter() {
        let rates = profile.dense.values().chain(profile.vector.values()).chain(profile.other_dense.values());
        assert!(rates.clone().all(|&rate| rate > 0.0 && rate < 1e5), "{}", profile.id);
        if let Some(sparsity) = &profile.sparsity {
            assert!(sparsity.factor.is_none_or(|factor| factor >= 1.0), "{}", profile.id);
            let headline = sparsity.headline_tflops.unwrap_or(f64::INFINITY);
            assert!(rates.clone().all(|&rate| rate <= headline), "{}", profile.id);
        }
        for field in &profile.estimated {
            assert!(field.contains('.') || field == "price", "{}: {field}", profile.id);
        }
    }
}

#[test]
fn narrower_formats_are_not_slower_on_matrix_units() {
    // Tensor hardware halves the width to double the rate; a row that breaks this is a typing error.
    for profile in profiles().iter() {
        let rate = |precision| profile.dense.get(&precision).copied();
        for (wide, narrow) in [(Precision::Fp64, Precision::Fp32), (Precision::Tf32, Precision::Bf16)] {
            if let (Some(wide), Some(narrow)) = (rate(wide), rate(narrow)) {
                assert!(wide <= narrow * 1.0001, "{}", profile.id);
            }
        }
    }
}

#[test]
fn capacities_know_their_unit() {
    let profiles = profiles();
    let bytes = |id: &str| profiles.get(id).unwrap().memory.capacity_bytes;
    assert_eq!(bytes("groq-lpu1"), Some(230_000_000));
    assert_eq!(bytes("google-tpu-v5p"), Some(95 << 30));
    assert_eq!(bytes("nvidia-h100-sxm5-80gb"), Some(80_000_000_000));
    assert_eq!(bytes("google-edge-tpu"), None);
}

#[test]
fn circulating_errors_are_not_in_the_table() {
    let profiles = profiles();
    let dense = |id: &str, precision| profiles.get(id).unwrap().dense.get(&precision).copied();
    assert_eq!(dense("nvidia-h100-sxm5-80gb", Precision::Int4), None);
    assert_eq!(dense("nvidia-h100-sxm5-80gb", Precision::Bf16), Some(989.4));
    assert_eq!(dense("google-tpu-v5p", Precision::Fp32), None);
    assert_eq!(dense("google-tpu-v5p", Precision::Bf16), Some(459.0));
    assert_eq!(profiles.get("google-tpu-v5p").unwrap().memory.bandwidth_gbs, Some(2765.0));
    assert_eq!(dense("groq-lpu1", Precision::Fp16), Some(188.0));
}

#[test]
fn order_and_lookup() {
    let profiles = profiles();
    let counts: Vec<usize> = Kind::ALL.into_iter().map(|kind| profiles.of_kind(kind).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 99);
    assert_eq!(counts, [10, 36, 8, 18, 1, 5, 2, 19]);
    assert!(profiles.get("nvidia-h100").is_none());
    let again = self::profiles();
    assert!(profiles.iter().map(|p| &p.id).eq(again.iter().map(|p| &p.id)));
}

#[test]
fn best_by_need() {
    let profiles = profiles();
    let need = Need { kind: Some(Kind::Tpu), precision: Some(Precision::Bf16), ..Need::default() };
    assert_eq!(profiles.best(&need).map(|profile| profile.id.as_str()), Some("google-tpu-7x"));
    let need = Need { memory_bytes: Some(200_000_000_000), kind: Some(Kind::Gpu), ..Need::default() };
    let big: Vec<&str> = profiles.satisfying(&need).iter().map(|p: &&Profile| p.id.as_str()).collect();
    assert!(big.contains(&"amd-mi325x") && !big.contains(&"nvidia-h100-sxm5-80gb"), "{big:?}");
}

#[test]
fn a_profile_file_of_ones_own() {
    let text = "schema = 1\n[[processor]]\nid = \"my-npu\"\nname = \"Mine\"\nkind = \"npu\"\nvendor = \"me\"\n\
        arch = \"a1\"\nunit = \"chip\"\nprovenance = \"recalled\"\nsources = [\"bench notes\"]\n\
        [processor.dense]\nint8 = 4\n[processor.memory]\ncapacity = 1.5\ncapacity_unit = \"GiB\"\n";
    let mut profiles = profiles();
    profiles.add("mine.toml", text).unwrap();
    assert_eq!(profiles.get("my-npu").unwrap().memory.capacity_bytes, Some(1_610_612_736));
    let twice = profiles.add("mine.toml", text).unwrap_err();
    assert!(
        twice.to_string().starts_with("mine.toml:3:6: H009: the processor id \"my-npu\" is taken"),
        "{twice}"
    );
    let typo = text.replace("my-npu", "b").replace("vendor", "vender");
    assert!(profiles.add("t.toml", &typo).is_err());
    let unsourced = text.replace("my-npu", "c").replace("sources = [\"bench notes\"]\n", "");
    assert_eq!(profiles.add("t.toml", &unsourced).unwrap_err().code.as_str(), "H004");
}
