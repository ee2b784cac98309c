//! Any number of threads on any number of cores gives right answers, and so do the smallest numbers there are.

use crate::cli::tool::Tool;
use crate::programs::compiled;
use crate::support::{close, graph, inputs, machine};
use partita::npy;
use partita::pipeline::CompileOptions;
use partita::session::{load_compiled, run};
use partita_ir::{DType, Tensor, interp};
use std::process::Command;

/// Steps that are split among threads, and small ones that are not. The factor keeps exponentials from magnifying what
/// rounding does.
const NET: &str = "graph g(%x: f32[4, 8, 32, 32]) -> (%y, %s) {
  const %w: f32[16, 8, 3, 3] = random(1)
  const %m: f32[1024, 96] = random(2)
  %c = conv %x, %w {pads = [1, 1, 1, 1]}
  %r = reshape %c {shape = [64, 1024]}
  %p = matmul %r, %m
  const %t: f32[] = splat 0.01
  %q = mul %p, %t
  %y = softmax %q {axis = 1}
  %s = reduce_sum %y {axes = [0], keepdims = 0}
}";

fn threads(n: u32) -> CompileOptions {
    CompileOptions { threads: Some(n), ..CompileOptions::default() }
}

#[test]
fn more_threads_than_cores_change_nothing() {
    let graph = graph(NET).unwrap();
    let inputs = inputs(&graph, 5, 1);
    let want = interp::run(&graph, &inputs).unwrap();
    for n in [1, 2, 3, 5, 16, 200] {
        let compiled = compiled(&graph, &machine("cpu.toml"), &threads(n)).unwrap();
        let mut program = load_compiled(&compiled).unwrap();
        let first = run(&mut program, &inputs).unwrap();
        close(&want, &first, 1e-5).unwrap_or_else(|e| panic!("{n} threads: {e}"));
        for _ in 0..20 {
            let again = run(&mut program, &inputs).unwrap();
            assert!(first.iter().zip(&again).all(|(a, b)| a.bytes() == b.bytes()), "{n} threads");
        }
    }
}

/// The system takes all cores but one, before the threads start or while they run.
#[test]
#[cfg(target_os = "linux")]
fn one_core_for_many_threads() {
    let tool = Tool::new();
    tool.write("net.graph", NET);
    let run = |program: &mut Command, out: &str| {
        let bench = ["bench", "net.graph", "--threads", "4", "--runs", "40", "--output-dir", out];
        let done = program.args(bench).current_dir(tool.path(".")).output();
        done.is_ok_and(|done| done.status.success())
    };
    assert!(run(&mut tool.command(&[]), "all"));
    let mut alone = Command::new("taskset");
    alone.args(["-c", "0", env!("CARGO_BIN_EXE_partita")]);
    if !run(&mut alone, "one") {
        eprintln!("skipped: taskset is not here");
        return;
    }
    let read = |out: &str| npy::read(&tool.path(&format!("{out}/y.npy"))).unwrap();
    assert_eq!(read("all").bytes(), read("one").bytes());
}

#[test]
fn denormal_numbers_are_numbers() {
    const SMALLEST: f64 = 1.401_298_464_324_817e-45;
    let text = "graph g(%x: f32[16, 64]) -> (%p, %a, %m) {
      const %w: f32[64, 48] = random(1)
      %p = matmul %x, %w
      %a = add %x, %x
      %m = reduce_max %x {axes = [1], keepdims = 0}
    }";
    let graph = graph(text).unwrap();
    let values: Vec<f64> = (0..1024).map(|n| f64::from(n % 97 - 48) * 1e-41).collect();
    let inputs = [Tensor::from_f64s(DType::F32, &[16, 64], &values).unwrap()];
    let want = interp::run(&graph, &inputs).unwrap();
    for n in [1, 2] {
        let compiled = compiled(&graph, &machine("cpu.toml"), &threads(n)).unwrap();
        let have = run(&mut load_compiled(&compiled).unwrap(), &inputs).unwrap();
        for (want, have) in want.iter().zip(&have) {
            let (want, have) = (want.to_f64s(), have.to_f64s());
            assert!(want.iter().any(|v| *v != 0.0));
            // A product rounds each of its 64 terms to a multiple of the smallest number.
            let near = |(x, y): (&f64, &f64)| (x - y).abs() <= 64.0 * SMALLEST;
            assert!(want.iter().zip(&have).all(near), "{want:?} {have:?}");
        }
    }
}
