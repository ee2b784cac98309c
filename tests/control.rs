//! Models that are not static as a whole: bodies, sequences, text, sizes that depend on data. Each is compiled for every
//! machine and compared with the interpreter, and printed and read back.

use crate::programs::compiled;
use crate::support::{close, graph, inputs, machine, round_trip, verified};
use partita::devices::drivers;
use partita::host_kernels::ReferenceKernels;
use partita::pipeline::CompileOptions;
use partita::session::{load_compiled, run_data};
use partita_ir::interp::{Symbols, run_data as interpret};
use partita_ir::text::print;
use partita_ir::{Budget, Datum, Graph, RunLimits, Tensor};
use partita_runtime::{Program, SessionOptions};
use std::time::Duration;

/// Title and text of every case.
const CASES: &[(&str, &str)] = &[
    (
        "a branch is chosen by a computed condition",
        "graph g(%x: f32[2, 3], %big: f32[]) -> (%y) {
           %s = reduce_sum %x {keepdims = 0}
           %c = greater %s, %big
           %y = if %c, %x {captures = 1,
             then_branch = graph t(%x: f32[2, 3]) -> (%r) { %r = exp %x },
             else_branch = graph e(%x: f32[2, 3]) -> (%r) { %n = neg %x  %r = add %n, %x } }
         }",
    ),
    (
        "branches of different shapes join",
        "graph g(%x: f32[N], %c: bool[]) -> (%z) {
           %y = if %c, %x {captures = 1,
             then_branch = graph t(%x: f32[N]) -> (%r) { %r = concat %x, %x {axis = 0} },
             else_branch = graph e(%x: f32[N]) -> (%r) { %r = relu %x } }
           %z = mul %y, %y
         }",
    ),
    (
        "a loop carries a value and stacks another",
        "graph g(%n: i64[], %x: f32[4], %w: f32[4]) -> (%last, %all) {
           const %yes: bool[] = dense [1]
           %last, %all = loop %n, %yes, %x, %w {captures = 1,
             body = graph b(%i: i64[], %c: bool[], %x: f32[4], %w: f32[4]) -> (%c, %next, \"stacked\" = %next) {
               %p = mul %x, %w  %next = tanh %p } }
         }",
    ),
    (
        "a loop ends by its own condition and grows what it carries",
        "graph g(%x: f32[2]) -> (%z) {
           const %most: i64[] = dense [10]
           const %yes: bool[] = dense [1]
           %y = loop %most, %yes, %x {size_names = [\"~y.0\"],
             body = graph b(%i: i64[], %c: bool[], %v: f32[\"~v.0\"]) -> (%go, %w) {
               const %three: i64[] = dense [3]
               const %one: f32[1] = dense [0.5]
               %w = concat %v, %one {axis = 0}
               %go = less %i, %three } }
           %z = relu %y
         }",
    ),
    (
        "loops nest and capture across levels",
        "graph g(%x: f32[3], %w: f32[3]) -> (%y) {
           const %two: i64[] = dense [2]
           const %yes: bool[] = dense [1]
           %y = loop %two, %yes, %x, %w {captures = 1,
             body = graph outer(%i: i64[], %c: bool[], %a: f32[3], %w: f32[3]) -> (%c, %b) {
               const %three: i64[] = dense [3]
               const %on: bool[] = dense [1]
               %b = loop %three, %on, %a, %w {captures = 1,
                 body = graph inner(%j: i64[], %d: bool[], %p: f32[3], %q: f32[3]) -> (%d, %r) {
                   %s = mul %p, %q  %r = add %s, %p } } } }
         }",
    ),
    (
        "a scan runs backwards over the second axis",
        "graph g(%s: f32[2], %x: f32[2, N]) -> (%end, %ys) {
           %end, %ys = scan %s, %x {num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
             scan_output_axes = [1],
             body = graph b(%s: f32[2], %x: f32[2]) -> (%t, \"y\" = %t) { %t = add %s, %x } }
         }",
    ),
    (
        "what is found is gathered",
        "graph g(%x: f32[3, 4]) -> (%y, %n) {
           const %zero: f32[] = dense [0]
           %m = greater %x, %zero
           %at = non_zero %m
           %t = transpose %at {perm = [1, 0]}
           %v = gather_nd %x, %t
           %y = exp %v
           %n = shape %at
         }",
    ),
    (
        "a shape is computed from values",
        "graph g(%x: f32[12], %k: i64[]) -> (%y) {
           const %two: i64[1] = dense [2]
           const %zero: i64[1] = dense [0]
           %k1 = unsqueeze %k, %zero
           %a = add %k1, %two
           const %rest: i64[1] = dense [-1]
           %s = concat %a, %rest {axis = 0}
           %r = reshape %x, %s
           %y = reduce_sum %r, %zero
         }",
    ),
    (
        "sequences are built, indexed and joined",
        "graph g(%x: f32[5, 2], %i: i64[]) -> (%one, %all, %n) {
           const %cut: i64[2] = dense [2, 3]
           %s = split_to_sequence %x, %cut {axis = 0}
           %one = sequence_at %s, %i
           %t = sequence_insert %s, %one
           %all = concat_from_sequence %t {axis = 0}
           %n = sequence_length %t
         }",
    ),
    (
        "a body runs over a sequence",
        "graph g(%x: f32[4, 3], %w: f32[1, 3]) -> (%y) {
           %s = split_to_sequence %x {axis = 0}
           %m = sequence_map %s, %w {captures = 1,
             body = graph b(%a: f32[*], %w: f32[1, 3]) -> (%r) { %r = mul %a, %w } }
           %y = concat_from_sequence %m {axis = 0}
         }",
    ),
    (
        "text is joined, compared and chosen",
        "graph g(%c: bool[2]) -> (%y, %same) {
           const %a: str[2] = dense [\"left \\\"x\\\"\", \"é\"]
           const %b: str[2] = dense [\"right\", \"é\"]
           %j = string_concat %a, %b
           %y = where %c, %j, %b
           %same = equal %a, %b
         }",
    ),
];

fn data(tensors: &[Tensor]) -> Vec<Datum> {
    tensors.iter().cloned().map(Datum::Tensor).collect()
}

fn tensors(data: Vec<Datum>) -> Vec<Tensor> {
    data.into_iter().filter_map(|d| d.as_tensor().cloned()).collect()
}

fn agree(want: &[Tensor], have: &[Tensor]) -> Result<(), String> {
    for (w, h) in want.iter().zip(have) {
        if w.dtype() == partita_ir::DType::Str {
            return if w == h {
                Ok(())
            } else {
                Err(format!("{:?} instead of {:?}", h.strings(), w.strings()))
            };
        }
    }
    close(want, have, 1e-5)
}

fn check(graph: &Graph, seed: u64) -> Result<(), String> {
    let inputs = inputs(graph, seed, 3);
    let want = interpret(graph, data(&inputs), Symbols::new(), &Budget::default());
    let want = tensors(want.map_err(|d| format!("the interpreter: {d}"))?);
    for name in ["cpu.toml", "slow-cpu-h100.toml", "cpu-h100-tpu-groq.toml"] {
        for egraph in [true, false] {
            let options = CompileOptions { egraph, ..Default::default() };
            let here = |e: partita::Error| format!("{name}, e-graph {egraph}: {e}");
            let compiled = compiled(graph, &machine(name), &options).map_err(here)?;
            let program = load_compiled(&compiled).map_err(here)?;
            for _ in 0..2 {
                let have = tensors(run_data(&program, data(&inputs)).map_err(here)?);
                agree(&want, &have).map_err(|e| format!("{name}, e-graph {egraph}: {e}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn programs_compute_what_the_interpreter_does() {
    let mut failures = Vec::new();
    for (title, text) in CASES {
        let result = graph(text).and_then(|g| {
            verified(&g)?;
            round_trip(&g)?;
            (1..4).try_for_each(|seed| check(&g, seed)).map_err(|e| format!("{e}\n{}", print(&g)))
        });
        failures.extend(result.err().map(|e| format!("{title}: {e}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

const ENDLESS: &str = "graph g(%x: f32[2]) -> (%y) {
    const %yes: bool[] = dense [1]
    %y = loop _, %yes, %x {size_names = [\"~y.0\"],
      body = graph b(%i: i64[], %c: bool[], %v: f32[\"~v.0\"]) -> (%c, %w) {
        %w = concat %v, %v {axis = 0} } }
  }";

#[test]
fn limits_end_what_would_not_end() {
    let graph = graph(ENDLESS).unwrap();
    let compiled = compiled(&graph, &machine("cpu.toml"), &CompileOptions::default()).unwrap();
    let inputs = data(&inputs(&graph, 1, 2));
    let default = RunLimits::default();
    let limits = [
        ("X030", RunLimits { steps: 5, ..default }),
        ("X035", RunLimits { bytes: 1 << 20, ..default }),
        ("X036", RunLimits { time: Some(Duration::ZERO), ..default }),
    ];
    for (code, limits) in limits {
        let mut program = load_compiled(&compiled).unwrap();
        program.limits = limits;
        let error = run_data(&program, inputs.clone()).unwrap_err().to_string();
        assert!(error.contains(code) && error.contains("hint: "), "{error}");
    }
    let error = interpret(&graph, inputs, Symbols::new(), &Budget::new(RunLimits { steps: 5, ..default }));
    assert_eq!(error.unwrap_err().code, "X030");
}

/// Bits of a plan with a program flip: a letter or the same answer.
#[test]
fn flipped_bytes_of_programs_change_no_answer() {
    let graph = graph(CASES[2].1).unwrap();
    let compiled = compiled(&graph, &machine("cpu.toml"), &CompileOptions::default()).unwrap();
    let plan = crate::programs::plan_bytes(&compiled);
    let inputs = data(&inputs(&graph, 1, 2));
    let run = |bytes: &[u8]| {
        let limits = RunLimits { steps: 1000, ..RunLimits::default() };
        let options = SessionOptions { threads: Some(1), verify_weights: true, ..Default::default() };
        let program = Program::load(bytes.to_vec(), &drivers(), Some(&ReferenceKernels), &options);
        let mut program = program.map_err(|e| e.to_string())?;
        program.limits = limits;
        run_data(&program, inputs.clone()).map_err(|e| e.to_string())
    };
    let want = run(&plan).unwrap();
    for at in 0..plan.len() {
        let mut bytes = plan.clone();
        bytes[at] ^= 1 << (at % 8);
        match run(&bytes) {
            Ok(have) => assert!(have == want, "byte {at} changes the answer"),
            Err(letter) => assert!(letter.contains("error ") && letter.contains("hint: "), "{at}: {letter}"),
        }
    }
}

/// What is done with `%v`, of which there are none at run time: rows of four, or images.
const ON_NOTHING: &[&str] = &[
    "%y = relu %v",
    "%t = transpose %v {perm = [1, 0]}  %y = matmul %t, %v",
    "const %w: f32[4, 3] = random(1)  %y = matmul %v, %w",
    "const %w: f32[4, 3] = random(1)  const %b: f32[3] = random(2)  %y = gemm %v, %w, %b",
    "%y = reduce_sum %v {axes = [0]}",
    "%y = reduce_sum %v {axes = [1], keepdims = 0}",
    "%y = reduce_prod %v {axes = [0]}",
    "%y = reduce_max %v {axes = [1]}",
    "%y = reduce_max %v {axes = [0]}",
    "%y = reduce_min %v {axes = [0]}",
    "%y = reduce_mean %v {axes = [1]}",
    "%y = reduce_l2 %v {axes = [0]}",
    "%y = reduce_log_sum_exp %v {axes = [0]}",
    "%y = softmax %v {axis = 1}",
    "%y = softmax %v {axis = 0}",
    "const %one: f32[1, 4] = random(1)  %y = concat %v, %one {axis = 0}",
    "%y = slice %v {starts = [0], ends = [2], axes = [1]}",
    "const %g: f32[4] = random(1)  %y = layer_norm %v, %g",
    "%y = arg_max %v {axis = 1}",
    "%s = shape %v  %y = cast %s {to = f32}",
    "%i = reshape %v {shape = [-1, 1, 2, 2]}  const %w: f32[2, 1, 2, 2] = random(1)  %y = conv %i, %w",
    "%i = reshape %v {shape = [-1, 1, 2, 2]}  %y = max_pool %i {kernel_shape = [2, 2]}",
    "%i = reshape %v {shape = [-1, 1, 2, 2]}  %y = global_average_pool %i",
];

#[test]
fn nothing_is_found() {
    let mut failures = Vec::new();
    for what in ON_NOTHING {
        let text = format!(
            "graph g(%x: f32[5, 4], %keep: bool[5]) -> (%y) {{
               const %no: bool[5] = splat 0
               %k = and %keep, %no
               %v = compress %x, %k {{axis = 0}}
               {what}
             }}"
        );
        let result = graph(&text).and_then(|g| {
            let inputs = inputs(&g, 1, 2);
            // What the definition refuses need not run.
            match interpret(&g, data(&inputs), Symbols::new(), &Budget::default()) {
                Ok(_) => check(&g, 1),
                Err(_) => Ok(()),
            }
        });
        failures.extend(result.err().map(|e| format!("{what}: {e}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
