//! Graphs as exporters write them, and the operators that must remain.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
mod support;

use support::{graph, ops, optimized};

/// Name, graph, operators after optimization in name order.
const CASES: &[(&str, &str, &[&str])] = &[
    (
        "two transposes cancel",
        "graph g(%x: f32[2, 3, 4]) -> (%y) {
          %t = transpose %x {perm = [0, 2, 1]}
          %y = transpose %t {perm = [0, 2, 1]}
        }",
        &[],
    ),
    (
        "a transpose that is also an output stays",
        "graph g(%x: f32[2, 3]) -> (%t, %y) {
          %t = transpose %x {perm = [1, 0]}
          %y = transpose %t {perm = [1, 0]}
        }",
        &["transpose"],
    ),
    (
        "transposes around elementwise nodes cancel",
        "graph g(%x: f32[2, 3, 4]) -> (%y) {
          const %c: f32[4, 2, 3] = random(1)
          %t = transpose %x {perm = [2, 0, 1]}
          %r = relu %t
          %a = add %r, %c
          %y = transpose %a {perm = [1, 2, 0]}
        }",
        &["add", "relu"],
    ),
    (
        "convolution and batch norm are one convolution",
        "graph g(%x: f32[1, 3, 6, 6]) -> (%y) {
          const %w: f32[4, 3, 3, 3] = random(1)
          const %s: f32[4] = random(2)
          const %t: f32[4] = random(3)
          const %m: f32[4] = random(4)
          const %v: f32[4] = splat 0.7
          %c = conv %x, %w {kernel_shape = [3, 3], pads = [1, 1, 1, 1]}
          %b = batch_norm %c, %s, %t, %m, %v {epsilon = 0.001, momentum = 0.9}
          %y = relu %b
        }",
        &["conv", "relu"],
    ),
    (
        "the same with a bias, and a scale behind it",
        "graph g(%x: f32[1, 3, 6, 6]) -> (%y) {
          const %w: f32[4, 3, 1, 1] = random(1)
          const %o: f32[4] = random(9)
          const %s: f32[4] = random(2)
          const %t: f32[4] = random(3)
          const %m: f32[4] = random(4)
          const %v: f32[4] = splat 0.7
          const %k: f32[4, 1, 1] = random(5)
          %c = conv %x, %w, %o
          %b = batch_norm %c, %s, %t, %m, %v
          %y = mul %b, %k
        }",
        &["conv"],
    ),
    (
        "a border in front of a convolution",
        "graph g(%x: f32[1, 2, 5, 5]) -> (%y) {
          const %w: f32[2, 2, 3, 3] = random(1)
          %p = pad %x {pads = [0, 0, 1, 1, 0, 0, 1, 1]}
          %y = conv %p, %w
        }",
        &["conv"],
    ),
    (
        "quantised convolutions take integers, and what only moves numbers moves bytes",
        "graph g(%x: f32[1, 4, 6, 6]) -> (%y) {
          const %w: i8[4, 4, 3, 3] = random(1)
          const %ws: f32[4] = splat 0.0173
          const %wz: i8[4] = splat 0
          const %s: f32[] = splat 0.0311
          const %z: u8[] = splat 128
          %q = quantize_linear %x, %s, %z
          %d = dequantize_linear %q, %s, %z
          %v = dequantize_linear %w, %ws, %wz {axis = 0}
          %c = conv %d, %v
          %r = relu %c
          %q2 = quantize_linear %r, %s, %z
          %d2 = dequantize_linear %q2, %s, %z
          %t = transpose %d2 {perm = [0, 2, 3, 1]}
          %q3 = quantize_linear %t, %s, %z
          %y = dequantize_linear %q3, %s, %z
        }",
        &["dequantize", "quantize", "quantize", "quantized_conv", "relu", "transpose"],
    ),
    (
        "products of two quantised activations",
        "graph g(%x: f32[2, 3, 4], %y: f32[2, 4, 5]) -> (%p) {
          const %s: f32[] = splat 0.0311
          const %z: u8[] = splat 100
          %xq = quantize_linear %x, %s, %z
          %xd = dequantize_linear %xq, %s, %z
          %yq = quantize_linear %y, %s, %z
          %yd = dequantize_linear %yq, %s, %z
          %p = matmul %xd, %yd
        }",
        &["quantize", "quantize", "quantized_matmul"],
    ),
    (
        "gelu by erf and a division",
        "graph g(%x: f32[2, 8]) -> (%y) {
          const %r: f32[] = splat 1.4142135
          const %one: f32[] = splat 1.0
          const %half: f32[] = splat 0.5
          %d = div %x, %r
          %e = erf %d
          %a = add %e, %one
          %m = mul %x, %a
          %y = mul %m, %half
        }",
        &["gelu"],
    ),
    (
        "gelu by erf with the half in front",
        "graph g(%x: f32[2, 8]) -> (%y) {
          const %r: f32[] = splat 0.70710677
          const %one: f32[] = splat 1.0
          const %half: f32[] = splat 0.5
          %h = mul %x, %half
          %d = mul %r, %x
          %e = erf %d
          %a = add %one, %e
          %y = mul %h, %a
        }",
        &["gelu"],
    ),
    (
        "gelu by tanh",
        "graph g(%x: f32[2, 8]) -> (%y) {
          const %three: f32[] = splat 3.0
          const %k: f32[] = splat 0.044715
          const %c: f32[] = splat 0.7978846
          const %one: f32[] = splat 1.0
          const %half: f32[] = splat 0.5
          %h = mul %x, %half
          %p = pow %x, %three
          %q = mul %p, %k
          %s = add %x, %q
          %t = mul %s, %c
          %u = tanh %t
          %v = add %u, %one
          %y = mul %h, %v
        }",
        &["gelu"],
    ),
    (
        "silu and hard swish",
        "graph g(%x: f32[2, 8]) -> (%y, %z) {
          const %three: f32[] = splat 3.0
          const %zero: f32[] = splat 0.0
          const %six: f32[] = splat 6.0
          %s = sigmoid %x
          %y = mul %x, %s
          %a = add %x, %three
          %c = clip %a, %zero, %six
          %m = mul %x, %c
          %z = div %m, %six
        }",
        &["hard_swish", "silu"],
    ),
    (
        "layer norm from its parts",
        "graph g(%x: f32[B, 4, 8]) -> (%y) {
          const %two: f32[] = splat 2.0
          const %e: f32[] = splat 0.00001
          const %g: f32[8] = random(1)
          const %b: f32[8] = random(2)
          %m = reduce_mean %x {axes = [-1], keepdims = 1}
          %d = sub %x, %m
          %p = pow %d, %two
          %v = reduce_mean %p {axes = [-1], keepdims = 1}
          %a = add %v, %e
          %s = sqrt %a
          %n = div %d, %s
          %h = mul %n, %g
          %y = add %h, %b
        }",
        &["layer_norm"],
    ),
    (
        "rms norm from its parts, with a reciprocal",
        "graph g(%x: f32[2, 8]) -> (%y) {
          const %two: f32[] = splat 2.0
          const %one: f32[] = splat 1.0
          const %e: f32[] = splat 0.00001
          const %g: f32[8] = random(1)
          %p = pow %x, %two
          %v = reduce_mean %p {axes = [-1], keepdims = 1}
          %a = add %v, %e
          %s = sqrt %a
          %i = div %one, %s
          %n = mul %x, %i
          %y = mul %g, %n
        }",
        &["rms_norm"],
    ),
    (
        "softmax from its parts",
        "graph g(%x: f32[2, 8]) -> (%y) {
          %m = reduce_max %x {axes = [1], keepdims = 1}
          %d = sub %x, %m
          %e = exp %d
          %s = reduce_sum %e {axes = [1], keepdims = 1}
          %y = div %e, %s
        }",
        &["softmax"],
    ),
    (
        "attention, scores divided, masked, k by its permutation",
        "graph g(%q: f32[1, 4, 2, 8], %k: f32[1, 5, 2, 8], %v: f32[1, 2, 5, 8], %mask: f32[1, 1, 1, 5]) -> (%y) {
          const %c: f32[] = splat 2.828427
          %qt = transpose %q {perm = [0, 2, 1, 3]}
          %kt = transpose %k {perm = [0, 2, 3, 1]}
          %s = matmul %qt, %kt
          %d = div %s, %c
          %m = add %d, %mask
          %p = softmax %m {axis = -1}
          %y = matmul %p, %v
        }",
        &["attention", "transpose", "transpose"],
    ),
    (
        "attention, the root of the scale on both sides",
        "graph g(%q: f32[2, 3, 4, 8], %k: f32[2, 3, 5, 8], %v: f32[2, 3, 5, 8]) -> (%y) {
          const %c: f32[] = splat 0.5946
          %kt = transpose %k {perm = [0, 1, 3, 2]}
          %qs = mul %q, %c
          %ks = mul %kt, %c
          %s = matmul %qs, %ks
          %p = softmax %s {axis = 3}
          %y = matmul %p, %v
        }",
        &["attention"],
    ),
    (
        "a product between reshapes",
        "graph g(%x: f32[B, S, 8]) -> (%y) {
          const %w: f32[8, 6] = random(1)
          const %b: f32[6] = random(2)
          %r = reshape %x {shape = [B*S, 8]}
          %m = gemm %r, %w, %b {alpha = 1.0, beta = 1.0}
          %y = reshape %m {shape = [B, S, 6]}
        }",
        &["add", "matmul"],
    ),
    (
        "constants behind a product fold into it",
        "graph g(%x: f32[3, 8]) -> (%y) {
          const %w: f32[8, 6] = random(1)
          const %b: f32[6] = random(2)
          const %c: f32[6] = random(3)
          %m = matmul %x, %w
          %a = add %m, %b
          %n = mul %a, %c
          %y = add %n, %b
        }",
        &["add", "matmul"],
    ),
    (
        "a shape chain becomes a reshape",
        "graph g(%x: f32[B, S, 8]) -> (%y) {
          const %zero: i64[] = splat 0
          const %one: i64[] = splat 1
          const %axis: i64[1] = splat 0
          const %two: i64[1] = splat 2
          const %four: i64[1] = splat 4
          %s = shape %x
          %b = gather %s, %zero {axis = 0}
          %n = gather %s, %one {axis = 0}
          %bu = unsqueeze %b, %axis
          %nu = unsqueeze %n, %axis
          %t = concat %bu, %nu, %two, %four {axis = 0}
          %y = reshape %x, %t
        }",
        &["reshape"],
    ),
    (
        "clips and conditions",
        "graph g(%x: f32[4]) -> (%y, %z) {
          const %lo: f32[] = splat 0.0
          const %hi: f32[] = splat 6.0
          const %c: bool[4] = splat 1
          %r = relu %x
          %a = clip %r, %lo, %hi
          %y = clip %a, %lo, %hi
          %z = where %c, %x, %y
        }",
        &["clip"],
    ),
    (
        "slices of slices and concatenations of concatenations",
        "graph g(%x: f32[8, 2], %z: f32[1, 2]) -> (%y) {
          %a = slice %x {starts = [1], ends = [7], axes = [0]}
          %b = slice %a {starts = [1], ends = [4], axes = [0]}
          %c = concat %b, %z {axis = 0}
          %y = concat %c, %z {axis = 0}
        }",
        &["concat", "slice"],
    ),
    (
        "unknown is not true: a weight that is an input is not folded",
        "graph g(%x: f32[1, 3, 6, 6], %w: f32[4, 3, 1, 1], %c: f32[4, 1, 1]) -> (%y) {
          %v = conv %x, %w
          %y = mul %v, %c
        }",
        &["conv", "mul"],
    ),
];

#[test]
fn exporters_patterns() {
    for (name, text, want) in CASES {
        let before = graph(text);
        let after = optimized(&before);
        assert_eq!(ops(&after), *want, "{name}\n{}", partita_ir::text::print(&after));
    }
}
