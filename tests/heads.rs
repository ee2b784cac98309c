//! Attention whose heads stay where projections leave them: the plan moves nothing, and computes the same.

use crate::programs::{compiled, run_once};
use crate::support::{close, graph, inputs, machine};
use partita::pipeline::CompileOptions;
use partita_ir::interp;

/// Compiles for the CPU, compares with the interpreter, and checks which kernels the plan has.
fn check(name: &str, text: &str, kernels: &[&str]) {
    let graph = graph(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let compiled = compiled(&graph, &machine("cpu.toml"), &CompileOptions::default()).unwrap();
    let plan = &compiled.assembly.plan;
    let steps = plan.queues.iter().flat_map(|q| &q.steps);
    let libraries: Vec<&str> = steps.map(|s| plan.kernels[s.kernel as usize].library.as_str()).collect();
    assert_eq!(libraries, kernels, "{name}");
    for symbol in [1, 2, 5] {
        let given = inputs(&graph, 3, symbol);
        let want = interp::run(&graph, &given).unwrap_or_else(|d| panic!("{name}: {d}"));
        for threads in [1, 2] {
            let have = run_once(&compiled, threads, &given).unwrap_or_else(|e| panic!("{name}: {e}"));
            close(&want, &have, 1e-4).unwrap_or_else(|e| panic!("{name}, symbols {symbol}: {e}"));
        }
    }
}

#[test]
fn three_projections_become_one_product() {
    let text = "graph g(%x: f32[b, s, 24], %m: f32[b, 1, 1, s]) -> (%o) {
  const %wq: f32[24, 32] = random(1)
  const %wk: f32[24, 32] = random(2)
  const %wv: f32[24, 48] = random(3)
  const %bq: f32[32] = random(4)
  const %bv: f32[48] = random(5)
  const %wo: f32[48, 24] = random(6)
  %q0 = matmul %x, %wq
  %q1 = add %q0, %bq
  %k0 = matmul %x, %wk
  %v0 = matmul %x, %wv
  %v1 = add %v0, %bv
  %q2 = reshape %q1 {shape = [b, s, 4, 8]}
  %k1 = reshape %k0 {shape = [b, s, 4, 8]}
  %v2 = reshape %v1 {shape = [b, s, 4, 12]}
  %q = transpose %q2 {perm = [0, 2, 1, 3]}
  %k = transpose %k1 {perm = [0, 2, 3, 1]}
  %v = transpose %v2 {perm = [0, 2, 1, 3]}
  const %root: f32[] = splat 2.8284
  %p = matmul %q, %k
  %d = div %p, %root
  %a = add %d, %m
  %w = softmax %a {axis = -1}
  %y0 = matmul %w, %v
  %y1 = transpose %y0 {perm = [0, 2, 1, 3]}
  %y2 = reshape %y1 {shape = [b, s, 48]}
  %o = matmul %y2, %wo
}";
    check("projections", text, &["gemm", "attention", "gemm"]);
}

#[test]
fn packed_and_interleaved_heads_are_read_in_place() {
    let packed = "graph g(%x: f32[b, s, 96]) -> (%y) {
  %q0, %k0, %v0 = split %x {axis = -1, num_outputs = 3}
  %q1 = reshape %q0 {shape = [b, s, 4, 8]}
  %k1 = reshape %k0 {shape = [b, s, 4, 8]}
  %v1 = reshape %v0 {shape = [b, s, 4, 8]}
  %q = transpose %q1 {perm = [0, 2, 1, 3]}
  %k = transpose %k1 {perm = [0, 2, 1, 3]}
  %v = transpose %v1 {perm = [0, 2, 1, 3]}
  %a = attention %q, %k, %v {is_causal = 1}
  %t = transpose %a {perm = [0, 2, 1, 3]}
  %y = reshape %t {shape = [b, s, 32]}
}";
    check("packed", packed, &["attention"]);
    let interleaved = "graph g(%x: f32[b, s, 96]) -> (%a) {
  %h = reshape %x {shape = [b, s, 4, 24]}
  %t = transpose %h {perm = [0, 2, 1, 3]}
  %q, %k, %v = split %t {axis = 3, num_outputs = 3}
  %a = attention %q, %k, %v
}";
    check("interleaved", interleaved, &["attention"]);
    let rank_3 =
        "graph g(%q: f32[b, 7, 32], %k: f32[b, s, 16], %v: f32[b, s, 24], %m: bool[b, 1, 7, s]) -> (%y) {
  %y = attention %q, %k, %v, %m {q_num_heads = 4, kv_num_heads = 2}
}";
    check("packed heads by attributes", rank_3, &["attention"]);
}

#[test]
fn groups_share_keys_without_a_copy() {
    let repeated = "graph g(%q: f32[b, 6, 1, 8], %k: f32[b, 2, s, 8], %v: f32[b, 2, s, 8]) -> (%a) {
  %k1 = reshape %k {shape = [b, 2, 1, s, 8]}
  %v1 = reshape %v {shape = [b, 2, 1, s, 8]}
  %k2 = expand %k1 {shape = [b, 2, 3, s, 8]}
  %v2 = expand %v1 {shape = [b, 2, 3, s, 8]}
  %k3 = reshape %k2 {shape = [b, 6, s, 8]}
  %v3 = reshape %v2 {shape = [b, 6, s, 8]}
  %a = attention %q, %k3, %v3
}";
    check("repeated", repeated, &["attention"]);
    let grouped = "graph g(%q: f32[b, 6, s, 8], %k: f32[b, 2, s, 8], %v: f32[b, 2, s, 8]) -> (%a) {
  %a = attention %q, %k, %v
}";
    check("grouped", grouped, &["attention"]);
}

#[test]
fn rotations_are_one_kernel() {
    let text = "graph g(%x: f32[b, s, 32], %cos: f32[b, s, 8], %sin: f32[b, s, 8]) -> (%y) {
  %h = reshape %x {shape = [b, s, 4, 8]}
  %t = transpose %h {perm = [0, 2, 1, 3]}
  %c = reshape %cos {shape = [b, 1, s, 8]}
  %n = reshape %sin {shape = [b, 1, s, 8]}
  %front = slice %t {starts = [0], ends = [4], axes = [3]}
  %back = slice %t {starts = [4], ends = [9223372036854775807], axes = [3]}
  %minus = neg %back
  %turned = concat %minus, %front {axis = -1}
  %p = mul %t, %c
  %q = mul %turned, %n
  %r = add %p, %q
  %y = attention %r, %r, %t
}";
    check("rotary", text, &["rotary", "attention"]);
}

#[test]
fn what_others_read_is_still_computed() {
    let text = "graph g(%x: f32[b, s, 4, 8]) -> (%a, %t, %u) {
  %t = transpose %x {perm = [0, 2, 1, 3]}
  %a = attention %t, %t, %t
  %u = transpose %a {perm = [0, 2, 1, 3]}
}";
    check("outputs", text, &["attention", "transpose", "transpose"]);
}
