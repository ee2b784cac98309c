//! No cliffs: more devices never lower the estimate, a larger device never loses to two smaller ones by a constant, a
//! tiny chip never gets what it cannot hold; and every plan on random machines passes the checker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use partita_hw::{Machine, Profiles};
use partita_shard::{Objective, Phase, Plan, Quant, Request, Subject, check, guess, model, plan};
use proptest::prelude::*;

const PROFILES: [&str; 8] = [
    "nvidia-h100-sxm5-80gb",
    "nvidia-a100-sxm4-80gb",
    "nvidia-l40s",
    "nvidia-t4",
    "amd-mi300x",
    "google-tpu-v5e",
    "groq-lpu1",
    "nvidia-rtx4090",
];

/// A host with groups of accelerators, each group on a switch of its own.
fn machine(groups: &[(usize, usize)]) -> Machine {
    let mut text = "schema = 1\n[[device]]\nname = \"host\"\ndriver = \"sim\"\nprofile = \"amd-epyc-9654\"\nmemory_gb = 384\n".to_owned();
    for (at, (profile, count)) in groups.iter().enumerate() {
        text.push_str(&format!(
            "[[device]]\nname = \"g{at}x\"\ndriver = \"sim\"\nprofile = \"{}\"\ncount = {count}\n",
            PROFILES[*profile]
        ));
        if *count > 1 {
            text.push_str(&format!(
                "[[fabric]]\ndevices = [\"g{at}x\"]\ntopology = \"switch\"\ngbs = 200\nlatency_us = 1\ncommand_us = 9\n"
            ));
        }
    }
    Machine::parse("m", &text, &Profiles::builtin().unwrap()).unwrap()
}

fn request(params: f64, quant: &str, batch: u64, objective: Objective, phase: Phase) -> Request {
    let quant = Quant::parse(quant).unwrap();
    let subject = Subject { spec: guess(params).unwrap(), quant, kv_bytes: quant.kv_bytes };
    let mut request = Request::new(subject, batch, 256, 64);
    (request.objective, request.phase) = (objective, phase);
    request
}

fn checked(request: &Request, machine: &Machine) -> Option<Plan> {
    let plan = plan(request, machine).ok()?;
    assert_eq!(check(&plan, request, machine), Vec::<String>::new(), "{}", plan.table());
    Some(plan)
}

/// Larger is better: tokens per second, or the inverse of the run's time.
fn merit(plan: &Plan) -> f64 {
    if plan.objective == Objective::Throughput { plan.tokens_per_second } else { 1e6 / plan.run_us }
}

fn objectives() -> impl Strategy<Value = Objective> {
    prop_oneof![Just(Objective::Latency), Just(Objective::Throughput)]
}

fn phases() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Both), Just(Phase::Decode), Just(Phase::Prefill)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_further_device_never_lowers_the_estimate(
        first in (0_usize..8, 1_usize..6),
        second in (0_usize..8, 1_usize..4),
        added in (0_usize..8, 1_usize..4),
        size in prop_oneof![Just(1e9), Just(8e9), Just(33e9), Just(70e9)],
        quant in prop_oneof![Just("bf16"), Just("int8"), Just("int4")],
        batch in prop_oneof![Just(1_u64), Just(6), Just(16)],
        objective in objectives(),
        phase in phases(),
    ) {
        let request = request(size, quant, batch, objective, phase);
        let before = checked(&request, &machine(&[first, second]));
        let after = checked(&request, &machine(&[first, second, added]));
        if let Some(before) = before {
            let after = after.expect("what fitted fits with more");
            prop_assert!(merit(&after) >= merit(&before) * (1.0 - 1e-9), "{}\n{}", before.table(), after.table());
            prop_assert!(after.certificate.gap < 0.35, "{}", after.table());
        }
    }

    #[test]
    fn more_of_the_same_never_lowers_the_estimate(
        profile in 0_usize..8,
        count in 1_usize..9,
        size in prop_oneof![Just(1e9), Just(8e9), Just(33e9), Just(70e9)],
        quant in prop_oneof![Just("bf16"), Just("int8"), Just("nvfp4")],
        batch in prop_oneof![Just(1_u64), Just(4), Just(12)],
        objective in objectives(),
        phase in phases(),
    ) {
        let request = request(size, quant, batch, objective, phase);
        let before = checked(&request, &machine(&[(profile, count)]));
        let after = checked(&request, &machine(&[(profile, count + 1)]));
        if let Some(before) = before {
            let after = after.expect("what fitted fits with more");
            prop_assert!(merit(&after) >= merit(&before) * (1.0 - 1e-9), "{}\n{}", before.table(), after.table());
        }
    }
}

/// One device of twice everything against two of them: it has no exchanges to pay.
#[test]
fn a_larger_device_does_not_lose_to_two_halves() {
    let device = |name: &str, times: f64, count: usize| {
        format!(
            "[[device]]\nname = \"{name}\"\ndriver = \"sim\"\nkind = \"gpu\"\ncount = {count}\nmemory_gb = {}\nbandwidth_gbs = {}\ndense.bf16 = {}\nlaunch_us = 5\n",
            96.0 * times,
            2000.0 * times,
            500.0 * times
        )
    };
    let fabric =
        "[[fabric]]\ndevices = [\"g\"]\ntopology = \"switch\"\ngbs = 400\nlatency_us = 1\ncommand_us = 9\n";
    let parse = |text: String| {
        Machine::parse("m", &format!("schema = 1\n{text}"), &Profiles::builtin().unwrap()).unwrap()
    };
    let one = parse(device("g", 2.0, 1));
    let two = parse(format!("{}{fabric}", device("g", 1.0, 2)));
    for (size, quant) in [(8e9, "bf16"), (70e9, "int8"), (70e9, "bf16")] {
        for batch in [1, 8, 64] {
            for phase in [Phase::Both, Phase::Decode, Phase::Prefill] {
                for objective in [Objective::Latency, Objective::Throughput] {
                    let request = request(size, quant, batch, objective, phase);
                    let (Some(one), Some(two)) = (checked(&request, &one), checked(&request, &two)) else {
                        continue;
                    };
                    let ratio = merit(&one) / merit(&two);
                    assert!(
                        (0.95..4.0).contains(&ratio),
                        "{size} {quant} {batch} {phase:?} {objective:?}: {ratio}\n{}",
                        two.table()
                    );
                }
            }
        }
    }
}

#[test]
fn a_chip_of_230_megabytes_never_gets_a_shard_of_39_gigabytes() {
    let request = request(70e9, "bf16", 1, Objective::Latency, Phase::Both);
    // 80 + 0.23 + 80 + 24 GB: the small chip and the small card hold at most what they have.
    let machine = machine(&[(0, 1), (6, 1), (1, 1), (7, 1)]);
    let plan = checked(&request, &machine).unwrap();
    for stage in plan.parts.iter().flat_map(|part| &part.stages) {
        assert!(stage.bytes <= stage.usable_bytes);
        assert!(stage.devices.iter().flatten().all(|name| name != "g1x0") || stage.bytes <= 230e6);
    }
    assert!(plan.unused.iter().any(|unused| unused.device == "g1x0"));
}

#[test]
fn what_does_not_fit_is_said_with_figures() {
    let request = request(70e9, "bf16", 1, Objective::Latency, Phase::Both);
    let small = Machine::parse(
        "m",
        "schema = 1\n[[device]]\nname = \"g\"\ndriver = \"sim\"\nprofile = \"nvidia-t4\"\n",
        &Profiles::builtin().unwrap(),
    )
    .unwrap();
    let error = plan(&request, &small).unwrap_err();
    assert_eq!(error.code.as_str(), "S004");
    assert!(error.message.contains("140.") && error.message.contains("14.4 GB"), "{error}");
}

#[test]
fn a_required_device_works_or_is_an_error_with_figures() {
    let mut request = request(8e9, "bf16", 1, Objective::Latency, Phase::Decode);
    let machine = machine(&[(0, 1)]);
    request.required = vec![machine.device("host").unwrap()];
    let error = plan(&request, &machine).unwrap_err();
    assert_eq!(error.code.as_str(), "S005");
    assert!(
        error.message.contains("host stays unused") && error.message.contains("with it the best is"),
        "{error}"
    );
    request.required = vec![machine.device("g0x0").unwrap()];
    assert!(plan(&request, &machine).is_ok());
}

#[test]
fn caps_are_kept_or_said_to_be_impossible() {
    let subject = |quant: &str| {
        let quant = Quant::parse(quant).unwrap();
        Subject { spec: model("llama-3-70b").unwrap(), quant, kv_bytes: 2.0 }
    };
    let machine = machine(&[(0, 4)]);
    let mut request = Request::new(subject("int8"), 1, 256, 64);
    request.caps.power_w = Some(1500.0);
    let plan = checked(&request, &machine).unwrap();
    assert!(plan.devices_used <= 2, "{}", plan.table());
    request.caps.deadline_us = Some(1.0);
    assert_eq!(partita_shard::plan(&request, &machine).unwrap_err().code.as_str(), "S007");
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let request = request(33e9, "int8", 6, Objective::Throughput, Phase::Both);
    let machine = machine(&[(0, 2), (2, 2)]);
    let one = plan(&request, &machine).unwrap().to_json().unwrap();
    assert_eq!(one, plan(&request, &machine).unwrap().to_json().unwrap());
    let read: Plan = serde_json::from_str(&one).unwrap();
    assert_eq!(read.schema, 1);
}

#[test]
fn energy_and_price_choose_fewer_devices_than_latency() {
    let machine = machine(&[(0, 8)]);
    let mut request = request(8e9, "bf16", 1, Objective::Latency, Phase::Both);
    let fast = checked(&request, &machine).unwrap();
    request.objective = Objective::Energy;
    let frugal = checked(&request, &machine).unwrap();
    assert!(frugal.joules_per_token.unwrap() < fast.joules_per_token.unwrap());
    assert!(frugal.devices_used < fast.devices_used);
    request.objective = Objective::Price;
    let cheap = checked(&request, &machine).unwrap();
    assert!(cheap.usd_per_million_tokens.unwrap() <= fast.usd_per_million_tokens.unwrap());
    assert!(cheap.certificate.gap < 0.5, "{}", cheap.table());
}

#[test]
fn splitting_that_does_not_pay_is_said_with_figures() {
    for groups in [&[(0, 2)][..], &[(0, 1), (3, 1)]] {
        let request = request(1e9, "bf16", 1, Objective::Energy, Phase::Decode);
        let plan = checked(&request, &machine(groups)).unwrap();
        let note = plan.notes.iter().find(|note| note.starts_with("splitting does not pay")).unwrap();
        assert!(note.contains("ms where one device takes"), "{note}");
    }
}
