//! Reductions, pooling, softmax, normalisation and attention against naive loops.

mod common;

use common::{Spec, Tensor, channels_last, check_f32, moved};
use partita_plan::ElementType;
use proptest::prelude::*;

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The index along every axis of element `at`.
fn index(shape: &[usize], mut at: usize) -> Vec<usize> {
    let mut all = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        all[axis] = at % shape[axis];
        at /= shape[axis];
    }
    all
}

fn flat(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (&d, &i)| at * d + i)
}

fn reduced(mode: &str, values: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>();
    match mode {
        "sum" => sum(|v| v),
        "mean" => sum(|v| v) / values.len() as f64,
        "max" => values.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v)),
        "min" => values.iter().fold(f64::INFINITY, |m, &v| m.min(v)),
        "prod" => values.iter().product(),
        "sum_square" => sum(|v| v * v),
        "l1" => sum(f64::abs),
        "l2" => sum(|v| v * v).sqrt(),
        "log_sum" => sum(|v| v).ln(),
        _ => sum(f64::exp).ln(),
    }
}

const MODES: [&str; 10] =
    ["sum", "mean", "max", "min", "prod", "sum_square", "l1", "l2", "log_sum", "log_sum_exp"];

fn reduce(shape: &[usize], keep: &[bool], mode: &str) {
    let positive = mode == "log_sum";
    let values: Vec<f32> =
        common::noise(product(shape), 5).iter().map(|v| if positive { v + 1.5 } else { *v }).collect();
    let out: Vec<usize> = shape.iter().zip(keep).map(|(&d, &k)| if k { d } else { 1 }).collect();
    let mut groups = vec![vec![]; product(&out)];
    for (at, &v) in values.iter().enumerate() {
        let place: Vec<usize> =
            index(shape, at).iter().zip(keep).map(|(&i, &k)| if k { i } else { 0 }).collect();
        groups[flat(&out, &place)].push(f64::from(v));
    }
    let want: Vec<f64> = groups.iter().map(|g| reduced(mode, g)).collect();
    let axes: Vec<i64> = (0..shape.len() as i64).filter(|&a| !keep[a as usize]).collect();
    let spec = Spec::new("reduce").string("mode", mode).ints("axes", &axes);
    check_f32(&spec, &[Some(Tensor::f32(shape, &values))], &out, &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn reductions_match(
        shape in prop::collection::vec(1usize..7, 1..5), keep in prop::collection::vec(any::<bool>(), 4),
        mode in prop::sample::select(&MODES[..]),
    ) {
        reduce(&shape, &keep[..shape.len()], mode);
    }

    #[test]
    fn softmax_matches(shape in prop::collection::vec(1usize..9, 1..4), pick in 0usize..3, log in any::<bool>()) {
        softmax(&shape, pick % shape.len(), log);
    }

    #[test]
    fn normalisation_matches(
        shape in prop::collection::vec(1usize..9, 1..4), pick in 0usize..3, rms in any::<bool>(),
        with in any::<(bool, bool)>(),
    ) {
        norm(&shape, pick % shape.len(), rms, with);
    }

    #[test]
    fn pooling_matches(
        plane in (1usize..9, 1usize..20), kernel in (1usize..4, 1usize..4), stride in (1usize..4, 1usize..4),
        pads in (0usize..2, 0usize..2, 0usize..2, 0usize..2), dilation in 1usize..3, max in any::<bool>(), count in any::<bool>(),
        channels in prop::sample::select(&[1usize, 3, 4, 9, 16, 40][..]),
    ) {
        pool(channels, [plane.0, plane.1], [kernel.0, kernel.1], [stride.0, stride.1], [pads.0, pads.1, pads.2, pads.3], dilation, max, count);
    }

    #[test]
    fn attention_matches(
        heads in 1usize..4, queries in 1usize..40, keys in 1usize..70, depth in 1usize..20, values in 1usize..40,
        flags in any::<(bool, bool, bool)>(), mask in 0usize..4,
    ) {
        attention([heads, queries, keys, depth, values], flags, mask);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn attention_over_heads_in_place_matches(
        batch in 1usize..3, groups in 1usize..3, shared in 1usize..5, queries in 1usize..40, keys in 1usize..50,
        depth in 1usize..36, values in 1usize..40, causal in any::<bool>(), mask in 0usize..3,
    ) {
        attention_in_place([batch, groups, shared, queries, keys, depth, values], causal, mask);
    }
}

#[test]
fn attention_over_wide_heads_in_place_matches() {
    for queries in [1, 8, 29, 300] {
        attention_in_place([1, 2, 3, queries, 260, 64, 64], queries > 8, 1);
    }
    // Rows whose distance is a multiple of a page.
    attention_in_place([1, 1, 16, 150, 140, 64, 64], false, 2);
}

/// Queries in [batch, query, head, depth]; keys and values in one operand [batch, key, group, depth + values], with
/// `shared` heads of queries for each group; the result in [batch, query, head, value].
fn attention_in_place(
    [batch, groups, shared, queries, keys, depth, values]: [usize; 7],
    causal: bool,
    mask: usize,
) {
    let (heads, both) = (groups * shared, depth + values);
    let q = Tensor::noise(&[batch, queries, heads, depth], 11);
    let kv = Tensor::noise(&[batch, keys, groups, both], 12);
    let numbers = Tensor::noise(&[batch, 1, queries, keys], 14);
    let seen: Vec<u8> = (0..batch * keys).map(|i| u8::from(i % keys == 0 || i % 3 != 0)).collect();
    let booleans =
        Tensor { dtype: ElementType::Bool, shape: vec![batch, 1, 1, keys], bytes: seen, weight: false };
    let (qv, kvv, nv) = (q.values(), kv.values(), numbers.values());
    let mut want = vec![];
    for (b, i, h) in
        (0..batch).flat_map(|b| (0..queries).flat_map(move |i| (0..heads).map(move |h| (b, i, h))))
    {
        let row = |j: usize| ((b * keys + j) * groups + h / shared) * both;
        let score = |j: usize| {
            let at = ((b * queries + i) * heads + h) * depth;
            let dot: f64 = (0..depth).map(|p| f64::from(qv[at + p]) * f64::from(kvv[row(j) + p])).sum();
            let added = match mask {
                1 => f64::from(nv[(b * queries + i) * keys + j]),
                2 if booleans.bytes[b * keys + j] == 0 => f64::NEG_INFINITY,
                _ => 0.0,
            };
            (dot * 0.7 + added).exp()
        };
        let weights: Vec<f64> = (0..if causal { (i + 1).min(keys) } else { keys }).map(score).collect();
        let total: f64 = weights.iter().sum();
        let sum =
            |c| weights.iter().enumerate().map(|(j, w)| w * f64::from(kvv[row(j) + depth + c])).sum::<f64>();
        want.extend((0..values).map(|c| sum(c) / total));
    }
    let dims = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<i64>>();
    let mut spec = Spec::new("attention")
        .float("scale", 0.7)
        .int("causal", causal.into())
        .dims("sizes", &dims(&[batch, groups, shared, queries, keys, depth, values]))
        .dims("q", &dims(&[0, queries * heads * depth, shared * depth, depth, heads * depth, 1]))
        .dims("k", &dims(&[0, keys * groups * both, both, 0, groups * both, 1]))
        .dims("v", &dims(&[depth, keys * groups * both, both, 0, groups * both, 1]))
        .dims("y", &dims(&[0, queries * heads * values, shared * values, values, heads * values, 1]));
    let mut inputs = vec![Some(q), Some(kv.clone()), Some(kv)];
    if mask == 1 {
        spec = spec.dims("mask", &dims(&[0, queries * keys, 0, 0, keys, 1]));
        inputs.push(Some(numbers));
    } else if mask == 2 {
        spec = spec.dims("mask", &dims(&[0, keys, 0, 0, 0, 1]));
        inputs.push(Some(booleans));
    }
    check_f32(&spec, &inputs, &[batch, queries, heads, values], &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn rotations_match(batch in 1usize..3, heads in 1usize..4, rows in 1usize..20, half in 1usize..40) {
        rotary([batch, heads, rows, half]);
    }
}

/// Rows in [batch, row, head, column], angles in [row, column]; the result in [batch, head, row, column].
fn rotary([batch, heads, rows, half]: [usize; 4]) {
    let columns = 2 * half;
    let x = Tensor::noise(&[batch, rows, heads, columns], 21);
    let (cos, sin) = (Tensor::noise(&[rows, columns], 22), Tensor::noise(&[rows, columns], 23));
    let (xv, cv, sv) = (x.values(), cos.values(), sin.values());
    let shape = [batch, heads, rows, columns];
    let of = |at: usize| {
        let place = index(&shape, at);
        let (b, h, r, c) = (place[0], place[1], place[2], place[3]);
        let x = |c: usize| f64::from(xv[((b * rows + r) * heads + h) * columns + c]);
        let turned = if c < half { -x(c + half) } else { x(c - half) };
        x(c) * f64::from(cv[r * columns + c]) + turned * f64::from(sv[r * columns + c])
    };
    let want: Vec<f64> = (0..product(&shape)).map(of).collect();
    let dims = |list: &[usize]| list.iter().map(|&n| n as i64).collect::<Vec<i64>>();
    let spec = Spec::new("rotary")
        .dims("sizes", &dims(&shape))
        .dims("x", &dims(&[0, rows * heads * columns, columns, heads * columns, 1]))
        .dims("cos", &dims(&[0, 0, 0, columns, 1]))
        .dims("sin", &dims(&[0, 0, 0, columns, 1]));
    check_f32(&spec, &[Some(x), Some(cos), Some(sin)], &shape, &want);
}

#[test]
fn long_rows_match() {
    for mode in MODES {
        if mode != "prod" {
            reduce(&[3, 40_000], &[true, false], mode);
            reduce(&[300, 2500], &[false, true], mode);
            reduce(&[2, 9, 7, 40], &[true, false, false, true], mode);
            reduce(&[5, 3, 4, 33], &[false, true, false, true], mode);
        }
    }
    softmax(&[70, 1030], 1, false);
    softmax(&[4, 300, 33], 1, true);
    norm(&[130, 768], 1, false, (true, true));
    attention([2, 300, 310, 64, 64], (true, true, true), 3);
}

fn softmax(shape: &[usize], axis: usize, log: bool) {
    let x = Tensor::noise(shape, 6);
    let values = x.values();
    let mut sums = std::collections::BTreeMap::new();
    let group = |at: usize| {
        let mut place = index(shape, at);
        place[axis] = 0;
        place
    };
    for (at, &v) in values.iter().enumerate() {
        *sums.entry(group(at)).or_insert(0.0) += f64::from(v * 8.0).exp();
    }
    let scaled: Vec<f32> = values.iter().map(|v| v * 8.0).collect();
    let of = |(at, &v): (usize, &f32)| {
        let p = f64::from(v).exp() / sums[&group(at)];
        if log { p.ln() } else { p }
    };
    let want: Vec<f64> = scaled.iter().enumerate().map(of).collect();
    let spec = Spec::new("softmax").int("axis", axis as i64).int("log", log.into());
    check_f32(&spec, &[Some(Tensor::f32(shape, &scaled))], shape, &want);
}

fn norm(shape: &[usize], axis: usize, rms: bool, with: (bool, bool)) {
    let row = &shape[axis..];
    let (x, scale, bias) = (Tensor::noise(shape, 7), Tensor::noise(row, 8), Tensor::noise(row, 9));
    let (sv, bv) = (scale.values(), bias.values());
    let length = product(row);
    let mut want = vec![];
    for row in x.values().chunks(length) {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / length as f64 };
        let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / length as f64;
        for (i, v) in row.iter().enumerate() {
            let normal = (v - mean) / (square + 1e-3).sqrt();
            let scaled = normal * if with.0 { f64::from(sv[i]) } else { 1.0 };
            want.push(scaled + if with.1 { f64::from(bv[i]) } else { 0.0 });
        }
    }
    let spec = Spec::new("layer_norm").int("axis", axis as i64).float("epsilon", 1e-3).int("rms", rms.into());
    check_f32(&spec, &[Some(x), with.0.then_some(scale), with.1.then_some(bias)], shape, &want);
}

#[allow(clippy::too_many_arguments, reason = "one per parameter of the kernel")]
fn pool(
    channels: usize,
    plane: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    pads: [usize; 4],
    dilation: usize,
    max: bool,
    count: bool,
) {
    let mut out = [0; 2];
    for i in 0..2 {
        let reach = (kernel[i] - 1) * dilation + 1;
        if plane[i] + pads[i] + pads[i + 2] < reach || pads[i] >= reach || pads[i + 2] >= reach {
            return;
        }
        out[i] = (plane[i] + pads[i] + pads[i + 2] - reach) / stride[i] + 1;
    }
    let x = Tensor::noise(&[2, channels, plane[0], plane[1]], 10);
    let xv = x.values();
    let mut want = vec![];
    for channel in 0..2 * channels {
        for position in 0..out[0] * out[1] {
            let (oh, ow) = (position / out[1], position % out[1]);
            let mut seen = vec![];
            for tap in 0..kernel[0] * kernel[1] {
                let h = (oh * stride[0] + tap / kernel[1] * dilation).wrapping_sub(pads[0]);
                let w = (ow * stride[1] + tap % kernel[1] * dilation).wrapping_sub(pads[1]);
                if h < plane[0] && w < plane[1] {
                    seen.push(f64::from(xv[(channel * plane[0] + h) * plane[1] + w]));
                }
            }
            if seen.is_empty() {
                return;
            }
            let divisor = if count { kernel[0] * kernel[1] } else { seen.len() };
            want.push(if max { reduced("max", &seen) } else { reduced("sum", &seen) / divisor as f64 });
        }
    }
    let ints = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
    let spec = Spec::new("pool")
        .string("mode", if max { "max" } else { "avg" })
        .ints("kernel", &ints(&kernel))
        .ints("strides", &ints(&stride))
        .ints("pads", &ints(&pads))
        .ints("dilations", &[dilation as i64; 2])
        .int("count_include_pad", count.into());
    let shape = [2, channels, out[0], out[1]];
    check_f32(&spec, &[Some(x.clone())], &shape, &want);
    let (shape, want) = moved(&shape, &want);
    check_f32(&spec.string("layout", "nhwc"), &[Some(channels_last(&x))], &shape, &want);
}

fn attention(
    [heads, queries, keys, depth, values]: [usize; 5],
    (causal, turned, shared): (bool, bool, bool),
    mask: usize,
) {
    let q = Tensor::noise(&[heads, queries, depth], 11);
    let k_shape = if turned { [heads, depth, keys] } else { [heads, keys, depth] };
    let k = Tensor::noise(&k_shape, 12);
    let v = Tensor::noise(&[if shared { 1 } else { heads }, keys, values], 13);
    let mask_shape =
        [vec![1], vec![queries, keys], vec![heads, 1, keys], vec![heads, queries, 1]][mask].clone();
    let m = Tensor::noise(&mask_shape, 14);
    let (qv, kv, vv, mv) = (q.values(), k.values(), v.values(), m.values());
    let mut want = vec![];
    for head in 0..heads {
        for i in 0..queries {
            let seen = if causal { (i + 1).min(keys) } else { keys };
            let score = |j: usize| {
                let dot: f64 = (0..depth)
                    .map(|p| {
                        let at = if turned { p * keys + j } else { j * depth + p };
                        f64::from(qv[(head * queries + i) * depth + p])
                            * f64::from(kv[head * keys * depth + at])
                    })
                    .sum();
                let at = [0, i * keys + j, head * keys + j, head * queries + i][mask];
                (dot * 0.7 + f64::from(mv[at])).exp()
            };
            let weights: Vec<f64> = (0..seen).map(score).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..values {
                let base = if shared { 0 } else { head * keys };
                let sum: f64 =
                    weights.iter().enumerate().map(|(j, w)| w * f64::from(vv[(base + j) * values + c])).sum();
                want.push(sum / total);
            }
        }
    }
    let spec = Spec::new("attention")
        .float("scale", 0.7)
        .int("causal", causal.into())
        .int("k_transposed", turned.into());
    check_f32(&spec, &[Some(q), Some(k), Some(v), Some(m)], &[heads, queries, values], &want);
}

#[test]
fn pooled_planes_of_every_width_match() {
    for (kernel, stride, pads) in [(2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2), (4, 4, 1)] {
        for plane in [[7, 7], [14, 15], [9, 33], [5, 50]] {
            for max in [true, false] {
                pool(3, plane, [kernel; 2], [stride; 2], [pads; 4], 1, max, false);
            }
        }
    }
}

#[test]
fn nan_wins_in_max_pooling() {
    let mut values = vec![1.0; 49];
    values[24] = f32::NAN;
    let touched = |at: usize| (at / 7).abs_diff(3) <= 1 && (at % 7).abs_diff(3) <= 1;
    let want: Vec<f64> = (0..49).map(|at| if touched(at) { f64::NAN } else { 1.0 }).collect();
    let spec = Spec::new("pool").string("mode", "max").ints("kernel", &[3, 3]).ints("pads", &[1; 4]);
    check_f32(&spec, &[Some(Tensor::f32(&[1, 1, 7, 7], &values))], &[1, 1, 7, 7], &want);
    // With the channels last, the same in every channel.
    let spread = |channels: usize| values.iter().flat_map(|&v| vec![v; channels]).collect::<Vec<_>>();
    let spec = spec.string("layout", "nhwc");
    for channels in [1, 4, 8, 20] {
        let want: Vec<f64> = want.iter().flat_map(|&v| vec![v; channels]).collect();
        let shape = [1, 7, 7, channels];
        check_f32(&spec, &[Some(Tensor::f32(&shape, &spread(channels)))], &shape, &want);
    }
}
