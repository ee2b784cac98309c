//! Random programs over three devices: right results, every time; and what the check accepts after damage to waits
//! or offsets still computes the right results.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::plans::{Build, add, affine, after, dims};
use common::{bytes, drivers, floats};
use partita_plan::check::check;
use partita_plan::file::encode;
use partita_plan::{Plan, Wait};
use partita_runtime::{Session, SessionOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DEVICES: u32 = 3;
const X: [f32; 3] = [1.0, -3.0, 0.25];

/// One operation: device, and two earlier values (the same one twice means "add one").
type Op = (u32, usize, usize);

/// A program while it is turned into a plan, with the numbers it should give.
struct Program {
    build: Build,
    /// Per value of the program: its copy on each device, and the step that makes the copy (queue, steps done).
    copies: Vec<BTreeMap<u32, (u32, Option<Wait>)>>,
    results: Vec<[f32; 3]>,
    links: BTreeMap<(u32, u32), u32>,
}

impl Program {
    fn new() -> Self {
        let mut build = Build::new("random", &["naive", "open", "naive"]);
        let x = build.value("x", 0, dims(&[3]));
        build.input(x);
        for device in 0..DEVICES {
            build.queue(device);
        }
        let copies = vec![BTreeMap::from([(0, (x, None))])];
        Self { build, copies, results: vec![X], links: BTreeMap::new() }
    }

    fn steps(&self, queue: u32) -> u32 {
        self.build.plan.queues[queue as usize].steps.len() as u32
    }

    /// The value's copy on a device, transferred there if need be, and what to wait for.
    fn on(&mut self, index: usize, device: u32) -> (u32, Option<Wait>) {
        if let Some(copy) = self.copies[index].get(&device) {
            return *copy;
        }
        let (from, (source, made)) = self.copies[index].first_key_value().map(|(d, c)| (*d, *c)).unwrap();
        let build = &mut self.build;
        let link = *self.links.entry((from, device)).or_insert_with(|| build.link(from, device));
        let copy = self.build.value(&format!("v{index}@{device}"), device, dims(&[3]));
        self.build.transfer(link, source, copy, &made.into_iter().collect::<Vec<_>>());
        let made = Some(after(link, self.steps(link)));
        self.copies[index].insert(device, (copy, made));
        (copy, made)
    }

    fn op(&mut self, (device, a, b): Op) {
        let (a, b) = (a % self.results.len(), b % self.results.len());
        let (x, y) = (self.results[a], self.results[b]);
        let ((va, wa), (vb, wb)) = (self.on(a, device), self.on(b, device));
        let index = self.results.len();
        let out = self.build.value(&format!("v{index}"), device, dims(&[3]));
        let waits: Vec<Wait> = [wa, wb].into_iter().flatten().filter(|w| w.queue != device).collect();
        let kernel = if a == b { self.build.tile(affine(0.5, 1.0)) } else { self.build.tile(add()) };
        let inputs = if a == b { vec![va] } else { vec![va, vb] };
        self.build.step(device, kernel, &inputs, &[out], &waits);
        let made = after(device, self.steps(device));
        self.copies.push(BTreeMap::from([(device, (out, Some(made)))]));
        self.results.push(std::array::from_fn(|i| if a == b { x[i] * 0.5 + 1.0 } else { x[i] + y[i] }));
    }

    /// The plan, with the last values as outputs.
    fn finish(mut self, outputs: usize) -> (Plan, Vec<[f32; 3]>) {
        let first = self.results.len().saturating_sub(outputs).max(1);
        for index in first..self.results.len() {
            let (_, (value, _)) = self.copies[index].first_key_value().unwrap();
            self.build.output(*value);
        }
        (self.build.finish().0, self.results.split_off(first))
    }
}

fn program(ops: &[Op]) -> (Plan, Vec<[f32; 3]>) {
    let mut program = Program::new();
    ops.iter().for_each(|&op| program.op(op));
    program.finish(3)
}

fn assert_runs(plan: &Plan, expected: &[[f32; 3]], runs: usize) {
    let file = encode(plan, [(0, [0u8; 0])]).unwrap();
    let mut session = Session::load(file, &drivers(), SessionOptions::default()).unwrap();
    for _ in 0..runs {
        session.run(&[(&bytes(&X), &[3])]).unwrap();
        for (index, want) in expected.iter().enumerate() {
            assert_eq!(floats(&session.output_vec(index).unwrap()), want);
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let recent = |n: usize| prop_oneof![0..n, (n.saturating_sub(4))..n];
    proptest::collection::vec((0..DEVICES, 0usize..1000, 0usize..1000), 1..40).prop_flat_map(move |raw| {
        let picks: Vec<_> = (1..=raw.len()).map(|n| (recent(n), recent(n))).collect();
        (Just(raw), picks).prop_map(|(raw, picks)| {
            raw.iter().zip(picks).map(|(&(device, ..), (a, b))| (device, a, b)).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_run_right(ops in ops()) {
        let (plan, expected) = program(&ops);
        check(&plan).unwrap();
        assert_runs(&plan, &expected, 5);
    }

    #[test]
    fn what_the_check_accepts_runs_right(ops in ops(), at in any::<usize>(), how in 0u8..4, slot in 0u64..4) {
        let (mut plan, expected) = program(&ops);
        let values = plan.values.len();
        let waiting = plan.queues.iter_mut().flat_map(|q| &mut q.steps).filter(|s| !s.waits.is_empty());
        let mut waiting: Vec<_> = waiting.collect();
        let waits = waiting.len();
        match how {
            0 if waits > 0 => drop(waiting[at % waits].waits.pop()),
            1 if waits > 0 => {
                let wait = &mut waiting[at % waits].waits[0];
                wait.steps = wait.steps.saturating_sub(1);
            }
            2 => plan.values[at % values].offset = slot * 256,
            _ => plan.values[at % values].last = plan.values[at % values].last.saturating_sub(1),
        }
        if check(&plan).is_ok() {
            assert_runs(&plan, &expected, 5);
        }
    }
}
