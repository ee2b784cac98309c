//! Strategy selection: random problems against brute force, the contest's small instances, hostile files.

use flate2::{Compression, write::GzEncoder};
use partita_place::strategy::file::{StrategyEdge, StrategyNode, StrategyProblem, read};
use partita_place::strategy::{check::score, solve, solve_reader};
use partita_place::{Limits, Status};
use proptest::prelude::*;
use std::io::Write;

const B: &[u8] = include_bytes!("../../../fixtures/placement/asplos-2025-iopddl-B.json.gz");
const G: &[u8] = include_bytes!("../../../fixtures/placement/asplos-2025-iopddl-G.json.gz");
const TOY: &str = r#"{"problem": {"name": "toy", "nodes": {
  "intervals": [[30, 70], [40, 70], [50, 120], [110, 140], [110, 150]],
  "costs": [[15], [55, 65], [25, 45, 35], [85, 75], [95]],
  "usages": [[10], [25, 25], [15, 20, 15], [10, 10], [15]]},
  "edges": {"nodes": [[0, 1], [0, 2], [1, 3], [2, 4], [3, 4]],
  "costs": [[30, 40], [50, 10, 40], [90, 10, 20, 80], [60, 20, 30], [70, 60]]}, "usage_limit": 50}}"#;

fn limits(work: u64) -> Limits {
    Limits { work, ..Limits::default() }
}

/// A random problem: sparse or dense, with forbidden pairs, parallel edges and empty intervals.
fn random(seed: u64) -> StrategyProblem {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    };
    let n = 1 + below(7) as usize;
    let nodes: Vec<StrategyNode> = (0..n)
        .map(|_| {
            let k = 1 + below(4) as usize;
            let begin = below(6) as i64;
            StrategyNode {
                begin,
                end: begin + below(6) as i64,
                costs: (0..k).map(|_| below(20) as i64).collect(),
                usages: (0..k).map(|_| below(10) as i64).collect(),
            }
        })
        .collect();
    let (mut edges, mut tables) = (Vec::new(), Vec::new());
    let forbidden = below(3);
    for _ in 0..below(2 * n as u64 + 1) {
        let (a, b) = (below(n as u64) as usize, below(n as u64) as usize);
        let size = nodes[a].costs.len() * nodes[b].costs.len();
        let entry = |_| if below(4) < forbidden { 1_000_000_000_000_000_000 } else { below(30) as i64 };
        edges.push(StrategyEdge { a, b, table: tables.len() });
        tables.push((0..size).map(entry).collect());
    }
    let usage_limit = if below(5) == 0 { None } else { Some(5 + below(25) as i64) };
    StrategyProblem { name: "random".into(), nodes, edges, tables, usage_limit }
}

/// Least cost within the limit over all assignments.
fn brute_force(p: &StrategyProblem) -> Option<i128> {
    let count: usize = p.nodes.iter().map(|v| v.costs.len()).product();
    let decode = |mut code: usize| -> Vec<usize> {
        let digit = |v: &StrategyNode| {
            let s = code % v.costs.len();
            code /= v.costs.len();
            s
        };
        p.nodes.iter().map(digit).collect()
    };
    (0..count).filter_map(|code| score(p, &decode(code)).ok()).filter(|s| s.fits).map(|s| s.cost).min()
}

#[test]
fn random_problems_equal_brute_force() {
    let mut bad = Vec::new();
    for seed in 0..10_000 {
        let p = random(seed);
        let best = brute_force(&p);
        match solve(&p, &limits(2_000_000)) {
            Ok(answer) => {
                let best = best.unwrap_or_else(|| panic!("seed {seed}: brute force found nothing"));
                let scored = score(&p, &answer.strategy_of_node).unwrap();
                assert_eq!((answer.value, answer.peak_usage), (scored.cost, scored.peak_usage));
                assert!(answer.lower_bound <= best, "seed {seed}: bound {} above {best}", answer.lower_bound);
                // Among assignments with forbidden pairs any is as good as another.
                if best < 1_000_000_000_000_000 && answer.value != best {
                    bad.push((seed, answer.value, best));
                }
            }
            Err(error) => {
                assert!(matches!(error.code, "P004" | "P005"), "seed {seed}: {error}");
                let allowed = best.filter(|&best| best < 1_000_000_000_000_000);
                bad.extend(allowed.map(|best| (seed, 0, best)));
            }
        }
    }
    assert_eq!(bad, vec![]);
}

#[test]
fn the_toy_is_solved_to_its_optimum() {
    let (answer, text) = solve_reader(TOY.as_bytes(), &limits(1_000_000)).unwrap();
    let p = read(TOY.as_bytes()).unwrap();
    assert_eq!(Some(answer.value), brute_force(&p));
    assert_eq!(answer.status, Status::Optimal);
    assert_eq!(text.trim().split(", ").count(), 5);
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(TOY.as_bytes()).unwrap();
    assert_eq!(solve_reader(&gz.finish().unwrap()[..], &limits(1_000_000)).unwrap(), (answer, text));
}

#[test]
fn the_small_instances_of_the_contest_are_solved() {
    for (bytes, at_most, bound) in [(B, 532_844, 500_000), (G, 217_039, 200_000)] {
        let p = read(bytes).unwrap();
        let answer = solve(&p, &limits(1_500_000_000)).unwrap();
        assert!(answer.value <= at_most, "{}", answer.value);
        assert!(answer.lower_bound >= bound && answer.lower_bound <= answer.value, "{}", answer.lower_bound);
        let scored = score(&p, &answer.strategy_of_node).unwrap();
        assert!(scored.fits && scored.cost == answer.value);
        let threads = Limits { threads: 4, ..limits(50_000_000) };
        assert_eq!(solve(&p, &threads).unwrap(), solve(&p, &limits(50_000_000)).unwrap());
    }
}

#[test]
fn errors_are_letters() {
    let code = |text: &str| read(text.as_bytes()).map(|_| ()).map_err(|e| (e.code, e.place));
    assert_eq!(code("").unwrap_err().0, "P007");
    assert_eq!(code("{}").unwrap_err().0, "P007");
    let changed = |from: &str, to: &str| code(&TOY.replace(from, to));
    assert_eq!(changed("[[0, 1], ", "[[0, 9], "), Err(("P007", "edge 0".into())));
    assert_eq!(changed("[[0, 1], ", "["), Err(("P007", "edges".into())));
    assert_eq!(changed("[[30, 40], ", "[[30], "), Err(("P007", "edge 0".into())));
    assert_eq!(changed("\"costs\": [[15]", "\"costs\": [[]"), Err(("P007", "node 0".into())));
    assert_eq!(changed("[30, 70], ", ""), Err(("P007", "nodes".into())));
    assert_eq!(changed("15", "1e300").unwrap_err().0, "P007");
    let low = read(TOY.replace("\"usage_limit\": 50", "\"usage_limit\": 5").as_bytes()).unwrap();
    let error = solve(&low, &limits(1_000_000)).unwrap_err();
    assert_eq!((error.code, error.place.as_str()), ("P004", "usage_limit"));
    assert!(score(&low, &[0, 0, 0, 0]).is_err() && score(&low, &[0, 0, 3, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(cut in 0usize..700, with in "[ -~]{0,6}") {
        let cut = cut.min(TOY.len());
        let text = format!("{}{with}{}", &TOY[..cut], &TOY[cut..]);
        if let Ok(p) = read(text.as_bytes()) {
            let _ = solve(&p, &limits(20_000));
        }
        let _ = read(&G[..cut]);
        let _ = read(&[&G[..cut], with.as_bytes(), &G[cut..]].concat()[..]);
    }
}

#[test]
fn numbers_at_the_edge_are_answered() {
    let solved =
        |text: &str| read(text.as_bytes()).and_then(|p| solve(&p, &limits(100_000))).map_err(|e| e.code);
    for limit in [i64::MAX, i64::MIN] {
        let answer = solved(&TOY.replace("\"usage_limit\": 50", &format!("\"usage_limit\": {limit}")));
        assert_eq!(answer.is_ok(), limit > 0);
    }
    assert!(solved(&TOY.replace("[30, 70]", &format!("[{}, {}]", i64::MIN, i64::MAX))).is_ok());
    for n in [i64::MAX, i64::MIN] {
        let usages = TOY.replace("[15, 20, 15]", &format!("[{n}, 0, {n}]"));
        assert_eq!(solved(&usages), Err("P003"));
        let costs = solved(&TOY.replace("[55, 65]", &format!("[{n}, {n}]")));
        let edges = solved(&TOY.replace("[90, 10, 20, 80]", &format!("[{n}, {n}, {n}, {n}]")));
        assert_eq!((costs.is_ok(), edges.is_ok()), (n > 0, n > 0));
    }
}
