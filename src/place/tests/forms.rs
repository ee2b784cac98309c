//! Problems of other forms: Helix programs and Piper's TMPC problems against brute force and public values.

mod common;

use common::shared;
use partita_place::helix::{self, Cluster};
use partita_place::piper::{self, Choice, Model, Node, Options, Part, Variant};
use partita_place::{Format, Limits, Objective, lp, solve_text};
use std::collections::BTreeMap;
use std::fmt::Write;

fn limits() -> Limits {
    Limits { work: 10_000_000, highs: false, ..Limits::default() }
}

/// A program of so many nodes and layers whose links are all open to aligned spans.
fn program(layers: usize, speeds: &[&[f64]], capacity: f64) -> String {
    let n = speeds.len();
    let mut out = "Maximize\n ".to_owned();
    out.push_str(&(0..n).map(|i| format!("flow_source_{i}")).collect::<Vec<_>>().join(" + "));
    out.push_str("\nSubject To\n");
    let holds = |i: usize, sign: &str| -> String {
        (1..=speeds[i].len()).map(|h| format!(" {sign} {h} hold_{i}_{h}")).collect()
    };
    for (i, speed) in speeds.iter().enumerate() {
        let _ = writeln!(out, " end_{i}: start_{i}{} <= {layers}", holds(i, "+"));
        let _ = write!(out, " speed_{i}: flow_source_{i}");
        (0..n).filter(|&j| j != i).for_each(|j| out.push_str(&format!(" + flow_{j}_{i}")));
        speed.iter().enumerate().for_each(|(h, t)| out.push_str(&format!("\n   - {t} hold_{i}_{}", h + 1)));
        out.push_str(" <= 0\n");
        for (a, b) in [("source".to_owned(), i.to_string()), (i.to_string(), "sink".to_owned())] {
            let _ = writeln!(out, " cap_{a}_{b}: flow_{a}_{b} - 1e6 switch_{a}_{b} <= 0");
        }
        let _ = writeln!(out, " first_{i}: start_{i} + {layers} switch_source_{i} <= {layers}");
        let _ = writeln!(out, " last_{i}: - start_{i}{} + {layers} switch_{i}_sink <= 0", holds(i, "-"));
        for j in (0..n).filter(|&j| j != i) {
            let _ = writeln!(out, " cap_{i}_{j}: flow_{i}_{j} - {capacity} switch_{i}_{j} <= 0");
            let switch = format!("+ {layers} switch_{i}_{j} <= {layers}");
            let _ = writeln!(out, " a_{i}_{j}: start_{i} - start_{j}{} {switch}", holds(i, "+"));
            let _ = writeln!(out, " b_{i}_{j}: - start_{i} + start_{j}{} {switch}", holds(i, "-"));
        }
    }
    out.push_str("Bounds\nEnd\n");
    out
}

/// All spans of all nodes, scored by the checker.
fn best_flow(text: &str, layers: usize, most: &[usize]) -> f64 {
    let Ok(program) = lp::read(text) else { return f64::NAN };
    let options: Vec<Vec<(usize, usize)>> = most
        .iter()
        .map(|&m| (1..=m).flat_map(|h| (0..=layers - h).map(move |s| (s, h))).chain([(0, 0)]).collect())
        .collect();
    let total: usize = options.iter().map(Vec::len).product();
    let mut best = 0.0f64;
    for mut code in 0..total {
        let mut spans = BTreeMap::new();
        for (i, list) in options.iter().enumerate() {
            let span = list[code % list.len()];
            code /= list.len();
            if span.1 > 0 {
                spans.insert(i.to_string(), span);
            }
        }
        let (flow, bad) = helix::check::check(&program, &spans);
        assert!(bad.is_empty(), "{bad:?}");
        best = best.max(flow);
    }
    best
}

#[test]
fn helix_equals_brute_force() {
    let speeds: [&[&[f64]]; 3] = [
        &[&[9.0, 4.0, 2.0], &[9.0, 4.0, 2.0], &[5.0, 2.5]],
        &[&[8.0, 5.0, 3.0], &[3.0, 1.0], &[3.0, 1.0], &[2.0]],
        &[&[6.0], &[6.0, 5.0], &[4.0, 3.0]],
    ];
    for (case, speeds) in speeds.into_iter().enumerate() {
        for capacity in [100.0, 2.0] {
            let text = program(4, speeds, capacity);
            let most: Vec<usize> = speeds.iter().map(|s| s.len()).collect();
            let best = best_flow(&text, 4, &most);
            let cluster = Cluster::from_program(&lp::read(&text).unwrap()).unwrap();
            match helix::solve(&cluster, &limits()) {
                Ok(placement) => {
                    assert!((placement.flow - best).abs() < 1e-6, "case {case}: {} {best}", placement.flow);
                    assert!(placement.upper_bound >= best - 1e-6, "case {case}");
                }
                Err(e) => assert!(best <= 0.0, "case {case}: {e}, but {best} exists"),
            }
        }
    }
}

#[test]
fn damaged_programs_are_letters() {
    let text = program(3, &[&[3.0, 1.0], &[3.0, 1.0]], 5.0);
    for cut in 0..text.len() {
        if let Ok(program) = lp::read(&text[..cut]) {
            let _ =
                Cluster::from_program(&program).map(|c| helix::solve(&c, &Limits { work: 1000, ..limits() }));
        }
    }
    assert_eq!(lp::read("nothing").unwrap_err().code, "P008");
    assert_eq!(Cluster::from_program(&lp::read("Maximize\n x\nEnd").unwrap()).unwrap_err().code, "P010");
}

#[test]
fn helix_instances_reach_the_published_values() {
    let Some(folder) = shared("placement/helix_asplos25") else { return };
    for (name, least, most) in [("quality", 286.587_4, 286.587_5), ("no_prune_24", 1754.38, 2045.65)] {
        let text = std::fs::read_to_string(folder.join(name).join("ilp_model.lp")).unwrap();
        let work = Limits { work: 100_000_000, ..limits() };
        let (answer, file) = solve_text(&text, Format::Helix, Objective::Bottleneck, &work).unwrap();
        assert!((least..=most).contains(&answer.value), "{name}: {}", answer.value);
        assert!(answer.lower_bound <= most && answer.lower_bound >= answer.value, "{name}");
        let said: serde_json::Value = serde_json::from_str(&file).unwrap();
        let number = |part: &str, node: &str| said[part][node].as_u64().unwrap() as usize;
        let nodes = said["start"].as_object().unwrap().keys();
        let spans = nodes.map(|n| (n.clone(), (number("start", n), number("hold", n)))).collect();
        let (flow, bad) = helix::check::check(&lp::read(&text).unwrap(), &spans);
        assert!(bad.is_empty() && (flow - answer.value).abs() < 1e-6, "{name}: {flow} {bad:?}");
    }
}

/// A chain of layers with two ways each.
fn chain(seed: u64, n: usize) -> Model {
    let mut state = seed.wrapping_add(1);
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % below) as f64
    };
    let nodes = (0..n)
        .map(|v| {
            let menu = |t: usize, next: &mut dyn FnMut(u64) -> f64| -> Vec<Choice> {
                let (seconds, bytes) = ((4.0 + next(12)) / t as f64, 6.0 + next(6));
                let way = |id: &str, slower: f64, a: f64, b: f64| Choice {
                    id: id.into(),
                    seconds: seconds * slower,
                    parameter_bytes: 8.0,
                    sample_bytes: a,
                    fixed_bytes: b,
                    sync_bytes: BTreeMap::new(),
                };
                vec![way("vanilla", 1.0, bytes, 2.0), way("recompute", 1.3, 1.0, bytes)]
            };
            let menus = [1, 2].into_iter().map(|t| (t, menu(t, &mut next))).collect();
            Node { id: v as i64, name: format!("n{v}"), menus }
        })
        .collect();
    let edges = (1..n).map(|v| (v - 1, v, 1.0 + next(3))).collect();
    Model { devices: 4, memory_bytes: 40.0 + next(40), bandwidth: 4.0, batch: 4, nodes, edges }
}

/// All cuts, degrees and ways of a chain.
fn best_plan(model: &Model) -> f64 {
    let n = model.nodes.len();
    let mut best = f64::INFINITY;
    for cuts in 0..1usize << (n - 1) {
        let mut sets: Vec<Vec<usize>> = vec![vec![0]];
        for v in 1..n {
            if cuts >> (v - 1) & 1 == 1 {
                sets.push(Vec::new());
            }
            let last = sets.len() - 1;
            sets[last].push(v);
        }
        if sets.len() > model.devices {
            continue;
        }
        let per = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)];
        for degrees in 0..5usize.pow(sets.len() as u32) {
            for ways in 0..1usize << n {
                let part = |(i, nodes): (usize, &Vec<usize>)| {
                    let (d, t) = per[degrees / 5usize.pow(i as u32) % 5];
                    let choice = nodes.iter().map(|v| ways >> v & 1).collect();
                    Part { nodes: nodes.clone(), d, t, choice }
                };
                let parts: Vec<Part> = sets.iter().enumerate().map(part).collect();
                if let Ok(time) = piper::check::seconds(model, &parts) {
                    best = best.min(time);
                }
            }
        }
    }
    best
}

/// The bound is never above the optimum, the plan never below, and nearly always equal: which nodes recompute is
/// chosen greedily.
#[test]
fn tmpc_plans_meet_brute_force() {
    let (mut equal, mut all) = (0, 0);
    for seed in 0..24 {
        let model = chain(seed, 4);
        let best = best_plan(&model);
        match piper::solve(&model, Variant::default()) {
            Ok(plan) => {
                let time = piper::check::seconds(&model, &plan.parts).unwrap();
                assert!((time - plan.seconds).abs() < 1e-9, "seed {seed}: {time} {}", plan.seconds);
                assert!(plan.seconds >= best - 1e-9 && plan.lower_bound <= best + 1e-9, "seed {seed}");
                equal += usize::from((plan.seconds - best).abs() < 1e-9);
                all += 1;
            }
            Err(e) => assert!(best.is_infinite(), "seed {seed}: {e}, but {best} exists"),
        }
    }
    assert!(all >= 12 && equal * 10 >= all * 8, "{equal} of {all}");
}

#[test]
fn the_bert_table_is_reproduced() {
    let Some(folder) = shared("placement/piper_nips21") else { return };
    let text = std::fs::read_to_string(folder.join("bert32a100.json")).unwrap();
    let full = Variant::default();
    let (tensor, data) = (Variant { no_tensor: true, ..full }, Variant { no_data: true, ..full });
    let (plain, equal) = (Variant { no_recompute: true, ..full }, Variant { equal_split: true, ..full });
    for (devices, variant, digits) in [
        (8, full, "0.165856"),
        (8, tensor, "0.165856"),
        (8, data, "0.165856"),
        (8, plain, "0.259752"),
        (8, equal, "0.230978"),
        (32, full, "0.0415155"),
        (32, data, "0.0739063"),
        (32, plain, "0.0566195"),
        (32, equal, "0.0513511"),
        (64, full, "0.0202006"),
        (64, plain, "0.0279883"),
        (64, equal, "0.0257245"),
    ] {
        let options = Options {
            variant,
            devices: Some(devices),
            memory_bytes: Some(8.0 * f64::from(1 << 30)),
            bandwidth: Some(25.0 * f64::from(1 << 30)),
        };
        let (answer, _) =
            solve_text(&text, Format::Piper(options), Objective::Bottleneck, &limits()).unwrap();
        let places = digits.len() - 2;
        assert_eq!(format!("{:.places$}", answer.value), digits, "{devices} {variant:?}");
        assert!(answer.lower_bound <= answer.value && answer.gap < 0.02);
    }
}

#[test]
fn damaged_tmpc_files_are_letters() {
    assert_eq!(piper::read("{}").unwrap_err().code, "P009");
    let file = r#"{"maxDevices":2,"maxMemoryPerDevice":9.0,"bandwidth":1.0,"mbsInBatch":2,
        "nodes":[{"id":7,"TMPCs":{"1":[{"id":"a","timePerSample":1.0,"parameterSize":0.0,"memoryUsageA":1.0,
        "memoryUsageB":1.0,"syncTimeFw":{},"syncTimeBw":{}}]}}],"edges":[]}"#;
    assert!(piper::read(file).is_ok());
    assert_eq!(piper::read(&file.replace("1.0,\"par", "-1.0,\"par")).unwrap_err().code, "P009");
    assert_eq!(piper::read(&file.replace("\"mbsInBatch\":2", "\"mbsInBatch\":0")).unwrap_err().code, "P009");
    assert_eq!(
        piper::read(&file.replace("[]}", "[{\"sourceId\":7,\"destId\":8,\"communicationCost\":1}]}"))
            .unwrap_err()
            .code,
        "P009"
    );
}
