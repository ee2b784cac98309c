//! Text forms: round trips, errors at their place, the fixtures, the MSR format, the shared instances.

mod common;

use common::{random_problem, shared};
use partita_place::check::check;
use partita_place::msr::{self, Instance};
use partita_place::{Format, Limits, Objective, Status, msr_latency, solve_text, text};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BRANCHES: &str = include_str!("../fixtures/branches.problem");
const ENDPOINT: &str = include_str!("../fixtures/endpoint.problem");
const MSR: &str = include_str!("../fixtures/msr_small.json");

fn limits() -> Limits {
    Limits { work: 4_000_000, highs: false, ..Limits::default() }
}

proptest! {
    #[test]
    fn what_prints_parses_back(seed in any::<u64>(), n in 1usize..12, k in 1usize..5, endpoint in any::<bool>()) {
        let mut p = random_problem(seed, n, k, endpoint);
        p.name = format!("odd \"name\" \\ \n {seed}");
        p.tasks[0].name = "a task, [with] # marks".into();
        if p.validate().is_ok() {
            let printed = text::print(&p);
            let again = text::parse(&printed).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(&again, &p);
            prop_assert_eq!(text::print(&again), printed);
        }
    }

    #[test]
    fn no_text_panics(cut in 0usize..2000, with in "[ -~]{0,6}") {
        for whole in [BRANCHES, ENDPOINT] {
            let cut = cut.min(whole.len());
            if whole.is_char_boundary(cut) {
                let _ = text::parse(&format!("{}{with}{}", &whole[..cut], &whole[cut..]));
                let _ = text::parse(&whole[..cut]);
            }
        }
        let cut = cut.min(MSR.len());
        let _ = msr::read(&format!("{}{with}{}", &MSR[..cut], &MSR[cut..]));
    }
}

#[test]
fn errors_name_line_and_column() {
    let place = |input: &str| text::parse(input).map(|_| ()).map_err(|e| (e.code, e.place));
    assert_eq!(place("problem p\nfoo bar"), Err(("P001", "line 2, column 1".into())));
    let device = "problem p\ncomm links\ndevice d memory=-\n";
    assert_eq!(
        place(&format!("{device}task t memory=x times_us=[1]")),
        Err(("P001", "line 4, column 15".into()))
    );
    assert_eq!(
        place(&format!("{device}tensor x bytes=1 from=t to=[]")),
        Err(("P001", "line 4, column 23".into()))
    );
    assert_eq!(place(&format!("{device}task t memory=0 times_us=[-]")), Err(("P004", "task t".into())));
    assert_eq!(place(&format!("{device}task t memory=0 times_us=[1, 2]")), Err(("P002", "task t".into())));
    let two = format!("{device}task a memory=0 times_us=[1]\ntask b memory=0 times_us=[1]\n");
    let cycle = format!("{two}tensor x bytes=1 from=a to=[b]\ntensor y bytes=1 from=b to=[a]");
    assert_eq!(place(&cycle), Err(("P002", "p".into())));
}

#[test]
fn the_branches_fixture_is_solved_for_both_objectives() {
    let p = text::parse(BRANCHES).unwrap();
    for (objective, best) in [(Objective::Latency, 185.4), (Objective::Bottleneck, 116.0)] {
        let (answer, file) = solve_text(BRANCHES, Format::Partita, objective, &limits()).unwrap();
        assert_eq!(check(&p, objective, &answer), vec![]);
        assert_eq!(answer.status, Status::Optimal);
        assert!((answer.value - best).abs() < 1e-6, "{}", answer.value);
        assert!(file.starts_with("solution branches\nobjective "));
        assert_eq!(file.lines().filter(|l| l.starts_with("task ")).count(), p.tasks.len());
    }
}

#[test]
fn the_endpoint_fixture_uses_both_accelerators() {
    let (answer, _) = solve_text(ENDPOINT, Format::Partita, Objective::Bottleneck, &limits()).unwrap();
    // Two tasks each and the cheap cut paid by both ends.
    assert!((answer.value - 5.25).abs() < 1e-9, "{}", answer.value);
    assert_eq!(answer.status, Status::Optimal);
}

#[test]
fn impossible_memory_is_said_so() {
    let tight = ENDPOINT.replace("device host memory=-", "device host memory=10").replace("3000", "1500");
    let error = solve_text(&tight, Format::Partita, Objective::Latency, &limits()).unwrap_err();
    assert_eq!((error.code, error.place.as_str()), ("P004", "memory"));
}

#[test]
fn the_msr_fixture_is_solved_and_written() {
    let (answer, file) = solve_text(MSR, Format::Msr, Objective::Bottleneck, &limits()).unwrap();
    assert_eq!(answer.status, Status::Optimal);
    assert!(file.contains("\"device_of_node\"") && file.contains("\"16\""));
    let (answer, _) = solve_text(MSR, Format::Msr, Objective::Latency, &limits()).unwrap();
    let instance = msr::read(MSR).unwrap();
    assert_eq!(msr_latency::latency(&instance, &answer.device_of_task), answer.value);
}

#[test]
fn msr_errors_are_letters() {
    assert_eq!(msr::read("{}").unwrap_err().code, "P006");
    assert_eq!(msr::read(&MSR.replace("compact-v1", "x").replace("msr-", "y")).unwrap_err().code, "P006");
    assert_eq!(msr::read(&MSR.replace("[10, 11]", "[10, 99]")).unwrap_err().place, "edge 10 -> 99");
    let cyclic = MSR.replace("[15, 16]", "[15, 16], [16, 10]");
    assert!(solve_text(&cyclic, Format::Msr, Objective::Latency, &limits()).is_err());
}

/// Brute force of the MSR latency over all placements of the fixture's nodes.
#[test]
fn msr_latency_equals_brute_force() {
    let instance = msr::read(MSR).unwrap();
    let n = instance.nodes.len();
    let best = (0..3usize.pow(n as u32))
        .map(|code| (0..n).map(|i| code / 3usize.pow(i as u32) % 3).collect::<Vec<usize>>())
        .filter(|device| msr_feasible(&instance, device))
        .map(|device| msr_latency::latency(&instance, &device))
        .fold(f64::INFINITY, f64::min);
    let (answer, _) = solve_text(MSR, Format::Msr, Objective::Latency, &limits()).unwrap();
    assert!((answer.value - best).abs() < 1e-9, "{} against {best}", answer.value);
}

fn msr_feasible(instance: &Instance, device: &[usize]) -> bool {
    let mut used: BTreeMap<usize, f64> = BTreeMap::new();
    let mut home: BTreeMap<u32, usize> = BTreeMap::new();
    for (node, &d) in instance.nodes.iter().zip(device) {
        if d >= instance.cpus {
            *used.entry(d).or_default() += node.size;
        }
        if (d >= instance.cpus && node.acc.is_none())
            || node.color.is_some_and(|c| *home.entry(c).or_insert(d) != d)
        {
            return false;
        }
    }
    used.values().all(|&m| m <= instance.memory_bytes)
}

#[test]
fn recorded_solutions_of_the_shared_instances_score_the_same() {
    let Some(folder) = shared("placement") else { return };
    for name in ["op_bert3_inference", "layer_gnmt_training", "layer_resnet50_inference"] {
        let read =
            |part: &str| std::fs::read_to_string(folder.join(part).join(format!("{name}.json"))).unwrap();
        let instance = msr::read(&read("msr_nips20/throughput")).unwrap();
        let recorded: serde_json::Value = serde_json::from_str(&read("best_known")).unwrap();
        let device: Vec<usize> = instance
            .nodes
            .iter()
            .map(|n| recorded["device_of_node"][n.id.to_string()].as_u64().unwrap() as usize)
            .collect();
        let value = partita_place::check::bottleneck(&instance.to_problem().unwrap(), &device);
        let said = recorded["value"].as_f64().unwrap();
        assert!((value - said).abs() < 1e-9 * said, "{name}: {value} against {said}");
    }
}

#[test]
fn the_shared_instance_with_a_known_optimum_is_reached() {
    let Some(folder) = shared("placement/msr_nips20/throughput") else { return };
    let input = std::fs::read_to_string(folder.join("op_bert3_inference.json")).unwrap();
    let limits = Limits { work: 40_000_000, ..limits() };
    let (answer, _) = solve_text(&input, Format::Msr, Objective::Bottleneck, &limits).unwrap();
    assert!((answer.value - 21.908_376_105_693_748).abs() < 1e-9, "{}", answer.value);
}
