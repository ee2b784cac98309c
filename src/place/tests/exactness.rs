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
