//! Random uses of ONNX's attention.

use crate::samples::values;
use partita_ir::attr::Attrs;
use partita_ir::op::{Rng, Sample};
use partita_ir::{DType, Tensor};

/// Sizes of a random attention.
struct Sizes {
    batch: usize,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    past: usize,
    size: usize,
    v_size: usize,
}

/// A valid use.
pub(crate) fn sample(rng: &mut Rng) -> Sample {
    let [batch, groups, queries, keys, size, v_size] = [(); 6].map(|()| 1 + rng.below(4));
    let heads = groups * (1 + rng.below(2));
    let past = if rng.below(4) == 0 { 1 + rng.below(3) } else { 0 };
    let sizes = Sizes { batch, heads, groups, queries, keys, past, size, v_size };
    let dtype = *rng.pick(&[DType::F32, DType::F32, DType::F32, DType::F16, DType::F64]);
    let mut attrs = attributes(rng);
    let mut inputs = operands(rng, &sizes, dtype, &mut attrs);
    let n_outputs = if past > 0 { 3 + rng.below(2) } else { 1 };
    inputs.push(mask(rng, &sizes, dtype));
    if past > 0 {
        for size in [size, v_size] {
            inputs.push(Some(rng.tensor(dtype, &[batch, groups, past, size], -2.0, 2.0)));
        }
    } else if rng.below(4) == 0 {
        inputs.extend([None, None, Some(rng.tensor(DType::I64, &[batch], 0.0, keys as f64))]);
    }
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    Sample { attrs, inputs, n_outputs }
}

fn attributes(rng: &mut Rng) -> Attrs {
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("scale", *rng.pick(&[0.25f32, 1.0]));
    }
    match rng.below(8) {
        0 => attrs.set("is_causal", 1i64),
        1 => attrs.set("softcap", 2.0f32),
        2 => attrs.set("left_window_size", rng.int(0, 2)),
        3 => attrs.set("right_window_size", rng.int(-1, 2)),
        4 => attrs.set("qk_matmul_output_mode", rng.int(0, 3)),
        5 => attrs.set("softmax_precision", *rng.pick(&[1i64, 10, 11, 16])),
        _ => {}
    }
    attrs
}

/// Queries, keys and values, in one of their layouts.
fn operands(rng: &mut Rng, s: &Sizes, dtype: DType, attrs: &mut Attrs) -> Vec<Option<Tensor>> {
    let (b, h, g) = (s.batch, s.heads, s.groups);
    let mut shapes =
        vec![vec![b, h, s.queries, s.size], vec![b, g, s.keys, s.size], vec![b, g, s.keys, s.v_size]];
    match rng.below(4) {
        0 => {
            attrs.set("q_num_heads", h as i64);
            attrs.set("kv_num_heads", g as i64);
            shapes = vec![
                vec![b, s.queries, h * s.size],
                vec![b, s.keys, g * s.size],
                vec![b, s.keys, g * s.v_size],
            ];
        }
        1 if s.past == 0 => {
            attrs.set("k_transposed", 1i64);
            shapes[1].swap(2, 3);
        }
        _ => {}
    }
    shapes.iter().map(|shape| Some(rng.tensor(dtype, shape, -2.0, 2.0))).collect()
}

fn mask(rng: &mut Rng, s: &Sizes, dtype: DType) -> Option<Tensor> {
    let n = s.keys + s.past;
    let shapes = [
        vec![s.queries, n],
        vec![s.batch, 1, s.queries, n],
        vec![s.batch, s.heads, s.queries, n],
        vec![1, n],
        vec![n],
        vec![s.queries, n - n / 2],
    ];
    let shape = rng.pick(&shapes).clone();
    match rng.below(3) {
        0 => Some(rng.tensor(dtype, &shape, -2.0, 0.0)),
        1 => Some(values(rng, DType::Bool, &shape)),
        _ => None,
    }
}
