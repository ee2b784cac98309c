//! Small problems against brute force, every answer against the checker, answers against each other.

mod common;

use common::{placements, problems, random_problem, shortest};
use partita_place::check::{bottleneck, check};
use partita_place::{Limits, Objective, Status, solve};
use proptest::prelude::*;

fn limits() -> Limits {
    Limits { work: 20_000_000, highs: false, ..Limits::default() }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-7 * (1.0 + a.abs())
}

/// Cases per objective: few by default, `PARTITA_CASES` of them when it is set.
fn cases(default: u64) -> u64 {
    std::env::var("PARTITA_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Problems of up to nine operators on up to three devices with memory limits, unsupported pairs, colocation, pins
/// and unlike links, both communication models.
fn many(cases: u64, most_tasks: u64) -> impl Iterator<Item = partita_place::Problem> {
    (0..cases).map(move |seed| {
        let (n, k) = (1 + seed % most_tasks, 2 + seed / most_tasks % 2);
        random_problem(seed, n as usize, k as usize, seed % 5 < 2)
    })
}

#[test]
fn many_bottlenecks_equal_brute_force() {
    for p in many(cases(180), 9) {
        let best = placements(&p).iter().map(|d| bottleneck(&p, d)).fold(f64::INFINITY, f64::min);
        match solve(&p, Objective::Bottleneck, &limits()) {
            Ok(answer) => {
                assert_eq!(check(&p, Objective::Bottleneck, &answer), vec![], "{}", p.name);
                assert!(near(answer.value, best), "{}: {} against {best}", p.name, answer.value);
            }
            Err(e) => assert!(best.is_infinite(), "{}: {e}, but {best} exists", p.name),
        }
    }
}

/// The brute force tries all orders, so it is made smaller unless more is asked for.
#[test]
fn many_latencies_equal_brute_force() {
    let most_tasks = if std::env::var_os("PARTITA_CASES").is_some() { 9 } else { 5 };
    for p in many(cases(60), most_tasks) {
        let best = placements(&p).iter().fold(f64::INFINITY, |best, d| shortest(&p, d, best));
        match solve(&p, Objective::Latency, &limits()) {
            Ok(answer) => {
                assert_eq!(check(&p, Objective::Latency, &answer), vec![], "{}", p.name);
                assert!(near(answer.value, best), "{}: {} against {best}", p.name, answer.value);
            }
            Err(e) => assert!(best.is_infinite(), "{}: {e}, but {best} exists", p.name),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn bottleneck_equals_brute_force(p in problems(7)) {
        let best = placements(&p).iter().map(|d| bottleneck(&p, d)).fold(f64::INFINITY, f64::min);
        match solve(&p, Objective::Bottleneck, &limits()) {
            Ok(answer) => {
                prop_assert_eq!(check(&p, Objective::Bottleneck, &answer), vec![]);
                prop_assert!(near(answer.value, best), "{} against {best}", answer.value);
                prop_assert_eq!(answer.status, Status::Optimal);
            }
            Err(e) => prop_assert!(best.is_infinite(), "{e}, but {best} exists"),
        }
    }

    #[test]
    fn latency_equals_brute_force(p in problems(6)) {
        let best = placements(&p).iter().fold(f64::INFINITY, |best, d| shortest(&p, d, best));
        match solve(&p, Objective::Latency, &limits()) {
            Ok(answer) => {
                prop_assert_eq!(check(&p, Objective::Latency, &answer), vec![]);
                prop_assert!(near(answer.value, best), "{} against {best}", answer.value);
                prop_assert_eq!(answer.status, Status::Optimal);
            }
            Err(e) => prop_assert!(best.is_infinite(), "{e}, but {best} exists"),
        }
    }

    #[test]
    fn larger_problems_pass_the_checker(seed in any::<u64>(), endpoint in any::<bool>()) {
        let p = random_problem(seed, 30, 3, endpoint);
        let limits = Limits { work: 1_000_000, ..limits() };
        for objective in [Objective::Latency, Objective::Bottleneck] {
            if let Ok(answer) = solve(&p, objective, &limits) {
                prop_assert_eq!(check(&p, objective, &answer), vec![]);
                prop_assert!(answer.lower_bound <= answer.value);
            }
        }
    }
}

#[test]
fn threads_and_repetition_do_not_change_the_answer() {
    for seed in 0..4 {
        let p = random_problem(seed, 40, 3, seed % 2 == 0);
        for objective in [Objective::Latency, Objective::Bottleneck] {
            let run = |threads| solve(&p, objective, &Limits { work: 2_000_000, threads, ..limits() });
            assert_eq!(run(1), run(3));
            assert_eq!(run(1), run(1));
        }
    }
}
