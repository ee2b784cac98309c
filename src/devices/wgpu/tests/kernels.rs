//! Library kernels with arithmetic against naive loops over random shapes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{Tensor, at, check, coords, kernel, random, relu_plus, with_float, with_ints, with_string};
use partita_plan::Kernel;
use proptest::prelude::*;

/// Software adapters are slow; seeds are fixed by the shapes.
fn few() -> ProptestConfig {
    ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() }
}

fn with_epilogue(kernel: Kernel, n_own: i64) -> Kernel {
    Kernel { program: Some(relu_plus()), ..with_ints(kernel, "n_own", &[n_own]) }
}

/// Adds the epilogue's operand and applies it to `want`: `relu(want) + bias` with `bias` broadcast.
fn finish(want: &mut [f32], inputs: &mut Vec<Option<Tensor>>, shape: &[usize], bias_shape: &[usize]) {
    let bias = Tensor::random(99, bias_shape);
    let data = bias.floats();
    for (w, c) in want.iter_mut().zip(coords(shape)) {
        *w = w.max(0.0) + data[at(bias_shape, &c)];
    }
    inputs.push(Some(bias));
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn gemm_matches(m in 1usize..70, n in 1usize..70, k in 1usize..40, batch in 1usize..4,
                    ta in any::<bool>(), tb in any::<bool>(), shared in any::<bool>(), epilogue in any::<bool>()) {
        let a_shape = if ta { vec![batch, k, m] } else { vec![batch, m, k] };
        let mut b_shape = if tb { vec![n, k] } else { vec![k, n] };
        if !shared { b_shape.insert(0, batch); }
        let (a, b) = (Tensor::random(1, &a_shape), Tensor::random(2, &b_shape));
        let (av, bv) = (a.floats(), b.floats());
        let shape = [batch, m, n];
        let mut want: Vec<f32> = coords(&shape).iter().map(|c| {
            let (z, i, j) = (c[0], c[1], c[2]);
            let bz = if shared { 0 } else { z };
            (0..k).map(|t| {
                let x = if ta { av[(z * k + t) * m + i] } else { av[(z * m + i) * k + t] };
                let y = if tb { bv[(bz * n + j) * k + t] } else { bv[(bz * k + t) * n + j] };
                x * y
            }).sum()
        }).collect();
        let mut inputs = vec![Some(a), Some(b)];
        let mut kernel = with_ints(with_ints(kernel("gemm"), "trans_a", &[ta.into()]), "trans_b", &[tb.into()]);
        if epilogue {
            kernel = with_epilogue(kernel, 2);
            finish(&mut want, &mut inputs, &shape, &[n]);
        }
        check(kernel, &inputs, &shape, &want, 1e-5);
    }

    #[test]
    fn conv_matches(size in 3usize..9, wide in 3usize..9, group in 1usize..3, cin in 1usize..4, cout in 1usize..7,
                    images in 1usize..3, window in 1usize..4, stride in 1i64..3, dilation in 1i64..3, pad in 0i64..3,
                    one in any::<bool>(), bias in any::<bool>(), epilogue in any::<bool>()) {
        let spatial = if one { vec![size] } else { vec![size, wide] };
        let c = Case { spatial, group, cin, cout, images, window, stride, dilation, pad };
        let Some(shape) = c.conv_shape() else { return Ok(()) };
        let w_shape = [vec![cout * group, cin], vec![window; c.rank()]].concat();
        let (x, w) = (Tensor::random(3, &c.x_shape()), Tensor::random(4, &w_shape));
        let b = bias.then(|| Tensor::random(5, &[cout * group]));
        let mut want = c.conv(&x.floats(), &w.floats(), b.as_ref().map(Tensor::floats).as_deref(), &shape);
        let mut inputs = vec![Some(x), Some(w), b];
        let mut kernel = c.params(kernel("conv"));
        if epilogue {
            kernel = with_epilogue(kernel, 3);
            finish(&mut want, &mut inputs, &shape, &[vec![cout * group], vec![1; c.rank()]].concat());
        }
        check(kernel, &inputs, &shape, &want, 1e-5);
    }

    #[test]
    fn conv_transpose_matches(size in 1usize..6, group in 1usize..3, cin in 1usize..4, cout in 1usize..4,
                              window in 1usize..4, stride in 1i64..4, dilation in 1i64..3, pad in 0i64..2,
                              extra in 0usize..2, one in any::<bool>()) {
        let spatial = if one { vec![size] } else { vec![size, size + 1] };
        let c = Case { spatial, group, cin, cout, images: 2, window, stride, dilation, pad };
        let Some(shape) = c.transposed_shape(extra) else { return Ok(()) };
        let w_shape = [vec![cin * group, cout], vec![window; c.rank()]].concat();
        let (x, w) = (Tensor::random(3, &c.x_shape()), Tensor::random(4, &w_shape));
        let want = c.conv_transpose(&x.floats(), &w.floats(), &shape);
        let mut inputs = vec![Some(x), Some(w)];
        let mut want = want;
        finish(&mut want, &mut inputs, &shape, &[]);
        check(with_epilogue(c.params(kernel("conv_transpose")), 2), &inputs, &shape, &want, 1e-5);
    }

    #[test]
    fn pool_matches(size in 2usize..9, wide in 2usize..9, window in 1usize..4, stride in 1i64..3, dilation in 1i64..3,
                    pad in 0i64..2, maximum in any::<bool>(), include in any::<bool>(), over in 0usize..2) {
        let c = Case { spatial: vec![size, wide], group: 1, cin: 3, cout: 3, images: 2, window, stride, dilation, pad };
        let Some(mut shape) = c.conv_shape() else { return Ok(()) };
        // One more row than the floor of the division gives, as `ceil_mode` would.
        let last = shape[2] as i64 * stride - pad;
        if over == 1 && last < size as i64 && pad < window as i64 { shape[2] += 1; }
        let x = Tensor::random(6, &c.x_shape());
        let want = c.pool(&x.floats(), &shape, maximum, include);
        if want.iter().any(|v| !v.is_finite()) { return Ok(()); }
        let k = with_string(c.params(kernel("pool")), "mode", if maximum { "max" } else { "avg" });
        let k = with_ints(with_ints(k, "kernel", &[window as i64; 2]), "count_include_pad", &[include.into()]);
        check(k, &[Some(x)], &shape, &want, 1e-5);
    }

    #[test]
    fn reduce_matches(a in 1usize..5, b in 1usize..90, c in 1usize..20, mode in 0usize..10, axes in 1u8..8) {
        let modes = ["sum", "mean", "max", "min", "prod", "sum_square", "l1", "l2", "log_sum", "log_sum_exp"];
        let (shape, mode) = ([a, b, c], modes[mode]);
        let axes: Vec<i64> = (0..3).filter(|k| axes >> k & 1 == 1).collect();
        let data: Vec<f32> = random(7, a * b * c).iter().map(|v| match mode {
            "prod" => 1.0 + v * 0.05,
            "log_sum" => v + 1.5,
            _ => *v,
        }).collect();
        let out: Vec<usize> = (0..3).map(|k| if axes.contains(&(k as i64)) { 1 } else { shape[k] }).collect();
        let mut rows: Vec<Vec<f64>> = vec![Vec::new(); out.iter().product()];
        for (v, at_in) in data.iter().zip(coords(&shape)) {
            rows[at(&out, &at_in)].push(f64::from(*v));
        }
        let want: Vec<f32> = rows.iter().map(|r| reduced(mode, r) as f32).collect();
        let k = with_ints(with_string(kernel("reduce"), "mode", mode), "axes", &axes);
        check(k, &[Some(Tensor::f32(&shape, &data))], &out, &want, 2e-5);
    }

    #[test]
    fn softmax_matches(a in 1usize..5, b in 1usize..150, c in 1usize..5, axis in 0usize..3, log in any::<bool>()) {
        let shape = [a, b, c];
        let x: Vec<f32> = random(8, a * b * c).iter().map(|v| v * 20.0).collect();
        let mut out = shape.to_vec();
        out[axis] = 1;
        let mut rows: Vec<Vec<f64>> = vec![Vec::new(); out.iter().product()];
        for (v, c) in x.iter().zip(coords(&shape)) { rows[at(&out, &c)].push(f64::from(*v)); }
        let sums: Vec<(f64, f64)> = rows.iter().map(|r| {
            let m = r.iter().copied().fold(f64::MIN, f64::max);
            (m, r.iter().map(|v| (v - m).exp()).sum())
        }).collect();
        let want: Vec<f32> = x.iter().zip(coords(&shape)).map(|(v, c)| {
            let (m, s) = sums[at(&out, &c)];
            let v = f64::from(*v) - m;
            (if log { v - s.ln() } else { v.exp() / s }) as f32
        }).collect();
        let k = with_ints(with_ints(kernel("softmax"), "axis", &[axis as i64]), "log", &[log.into()]);
        check(k, &[Some(Tensor::f32(&shape, &x))], &shape, &want, 3e-6);
    }

    #[test]
    fn layer_norm_matches(a in 1usize..6, b in 1usize..90, c in 1usize..16, axis in 1usize..3, rms in any::<bool>(),
                          scaled in any::<bool>(), shifted in any::<bool>()) {
        let shape = [a, b, c];
        let x: Vec<f32> = random(9, a * b * c).iter().map(|v| v * 3.0 + 5.0).collect();
        let (scale, shift) = (Tensor::random(10, &shape[axis..]), Tensor::random(11, &shape[axis..]));
        let n: usize = shape[axis..].iter().product();
        let mut want = Vec::new();
        for row in x.chunks(n) {
            let mean = if rms { 0.0 } else { row.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64 };
            let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
            for (t, v) in row.iter().enumerate() {
                let mut y = (f64::from(*v) - mean) / (variance + 1e-3).sqrt();
                if scaled { y *= f64::from(scale.floats()[t]); }
                if shifted { y += f64::from(shift.floats()[t]); }
                want.push(y as f32);
            }
        }
        let inputs = [Some(Tensor::f32(&shape, &x)), scaled.then_some(scale), shifted.then_some(shift)];
        let k = with_float(with_ints(kernel("layer_norm"), "axis", &[axis as i64]), "epsilon", 1e-3);
        check(with_ints(k, "rms", &[rms.into()]), &inputs, &shape, &want, 2e-5);
    }

    #[test]
    fn attention_matches(heads in 1usize..4, m in 1usize..6, n in 1usize..600, d in 1usize..20, columns in 1usize..300,
                         transposed in any::<bool>(), causal in any::<bool>(), masked in any::<bool>(), one_head in any::<bool>()) {
        let key_heads = if one_head { 1 } else { heads };
        let k_shape = if transposed { [key_heads, d, n] } else { [key_heads, n, d] };
        let (q, k, v) = (Tensor::random(1, &[heads, m, d]), Tensor::random(2, &k_shape), Tensor::random(3, &[heads, n, columns]));
        let mask = masked.then(|| Tensor::random(4, &[m, n]));
        let want = attend([heads, m, n, d, columns], key_heads, transposed, causal, &q, &k, &v, mask.as_ref());
        let mut kernel = with_float(with_ints(kernel("attention"), "k_transposed", &[transposed.into()]), "scale", 0.7);
        kernel = with_ints(kernel, "causal", &[causal.into()]);
        check(kernel, &[Some(q), Some(k), Some(v), mask], &[heads, m, columns], &want, 1e-5);
    }
}

fn reduced(mode: &str, row: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| row.iter().map(|v| f(*v)).sum::<f64>();
    match mode {
        "sum" => sum(|v| v),
        "mean" => sum(|v| v) / row.len() as f64,
        "max" => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "min" => row.iter().copied().fold(f64::INFINITY, f64::min),
        "prod" => row.iter().product(),
        "sum_square" => sum(|v| v * v),
        "l1" => sum(f64::abs),
        "l2" => sum(|v| v * v).sqrt(),
        "log_sum" => sum(|v| v).ln(),
        _ => sum(f64::exp).ln(),
    }
}

#[allow(clippy::too_many_arguments, reason = "an attention has that many")]
fn attend(
    [heads, m, n, d, columns]: [usize; 5],
    key_heads: usize,
    transposed: bool,
    causal: bool,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
) -> Vec<f32> {
    let (q, k, v, mask) = (q.floats(), k.floats(), v.floats(), mask.map(Tensor::floats));
    let mut want = Vec::new();
    for h in 0..heads {
        let kh = if key_heads == 1 { 0 } else { h };
        for i in 0..m {
            let scores: Vec<f64> = (0..n)
                .map(|j| {
                    let key =
                        |t: usize| if transposed { k[(kh * d + t) * n + j] } else { k[(kh * n + j) * d + t] };
                    let s: f64 = (0..d).map(|t| f64::from(q[(h * m + i) * d + t]) * f64::from(key(t))).sum();
                    let s = s * 0.7 + mask.as_ref().map_or(0.0, |mask| f64::from(mask[i * n + j]));
                    if causal && j > i { f64::NEG_INFINITY } else { s }
                })
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for c in 0..columns {
                let y: f64 = (0..n)
                    .map(|j| (scores[j] - top).exp() / sum * f64::from(v[(h * n + j) * columns + c]))
                    .sum();
                want.push(y as f32);
            }
        }
    }
    want
}

/// A convolution or pool with equal parameters on all axes.
struct Case {
    spatial: Vec<usize>,
    group: usize,
    cin: usize,
    cout: usize,
    images: usize,
    window: usize,
    stride: i64,
    dilation: i64,
    pad: i64,
}

impl Case {
    fn rank(&self) -> usize {
        self.spatial.len()
    }

    fn x_shape(&self) -> Vec<usize> {
        [vec![self.images, self.cin * self.group], self.spatial.clone()].concat()
    }

    fn params(&self, k: Kernel) -> Kernel {
        let n = self.rank();
        let k =
            with_ints(with_ints(k, "strides", &vec![self.stride; n]), "dilations", &vec![self.dilation; n]);
        with_ints(with_ints(k, "pads", &vec![self.pad; 2 * n]), "group", &[self.group as i64])
    }

    fn reach(&self) -> i64 {
        (self.window as i64 - 1) * self.dilation + 1
    }

    fn conv_shape(&self) -> Option<Vec<usize>> {
        let mut shape = vec![self.images, self.cout * self.group];
        for s in &self.spatial {
            let free = *s as i64 + 2 * self.pad - self.reach();
            shape.push(usize::try_from(free).ok()? / self.stride as usize + 1);
        }
        Some(shape)
    }

    fn transposed_shape(&self, extra: usize) -> Option<Vec<usize>> {
        let mut shape = vec![self.images, self.cout * self.group];
        for s in &self.spatial {
            let size = (*s as i64 - 1) * self.stride + self.reach() - 2 * self.pad + extra as i64;
            shape.push(usize::try_from(size).ok().filter(|s| *s > 0)?);
        }
        Some(shape)
    }

    /// Input coordinates under window position `w` at output `o`, if inside.
    fn under(&self, o: &[usize], w: &[usize]) -> Option<Vec<usize>> {
        let place = |k: usize| {
            let p = o[k] as i64 * self.stride + w[k] as i64 * self.dilation - self.pad;
            usize::try_from(p).ok().filter(|p| *p < self.spatial[k])
        };
        (0..self.rank()).map(place).collect()
    }

    fn conv(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>, shape: &[usize]) -> Vec<f32> {
        let windows = coords(&vec![self.window; self.rank()]);
        let one = |o: &Vec<usize>| {
            let mut sum = bias.map_or(0.0, |b| b[o[1]]);
            for c in 0..self.cin {
                for (t, w_at) in windows.iter().enumerate() {
                    let Some(p) = self.under(&o[2..], w_at) else { continue };
                    let channel = o[1] / self.cout * self.cin + c;
                    let from = at(&self.x_shape(), &[vec![o[0], channel], p].concat());
                    sum += x[from] * w[(o[1] * self.cin + c) * windows.len() + t];
                }
            }
            sum
        };
        coords(shape).iter().map(one).collect()
    }

    fn conv_transpose(&self, x: &[f32], w: &[f32], shape: &[usize]) -> Vec<f32> {
        let windows = coords(&vec![self.window; self.rank()]);
        let mut y = vec![0.0; shape.iter().product()];
        for (i, c) in coords(&self.x_shape()).iter().enumerate() {
            for o in 0..self.cout {
                for (t, w_at) in windows.iter().enumerate() {
                    let place = |k: usize| {
                        let p = c[k + 2] as i64 * self.stride + w_at[k] as i64 * self.dilation - self.pad;
                        usize::try_from(p).ok().filter(|p| *p < shape[k + 2])
                    };
                    let Some(p) = (0..self.rank()).map(place).collect::<Option<Vec<usize>>>() else {
                        continue;
                    };
                    let channel = c[1] / self.cin * self.cout + o;
                    let to = at(shape, &[vec![c[0], channel], p].concat());
                    y[to] += x[i] * w[(c[1] * self.cout + o) * windows.len() + t];
                }
            }
        }
        y
    }

    fn pool(&self, x: &[f32], shape: &[usize], maximum: bool, include: bool) -> Vec<f32> {
        let windows = coords(&vec![self.window; self.rank()]);
        let one = |o: &Vec<usize>| {
            let values: Vec<f32> = windows
                .iter()
                .filter_map(|w| self.under(&o[2..], w))
                .map(|p| x[at(&self.x_shape(), &[o[..2].to_vec(), p].concat())])
                .collect();
            let padded = |w: &&Vec<usize>| {
                (0..self.rank()).all(|k| {
                    let p = o[k + 2] as i64 * self.stride + w[k] as i64 * self.dilation;
                    p < self.spatial[k] as i64 + 2 * self.pad
                })
            };
            let count = if include { windows.iter().filter(padded).count() } else { values.len() };
            match maximum {
                true => values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                false => values.iter().sum::<f32>() / count as f32,
            }
        };
        coords(shape).iter().map(one).collect()
    }
}

#[test]
fn thin_and_large_products() {
    for (m, n, k) in
        [(1, 300, 130), (300, 1, 130), (3, 100, 64), (100, 2, 7), (130, 200, 70), (1, 1, 1), (5, 5, 0)]
    {
        let (a, b) = (Tensor::random(1, &[m, k]), Tensor::random(2, &[k, n]));
        let (av, bv) = (a.floats(), b.floats());
        let want: Vec<f32> = coords(&[m, n])
            .iter()
            .map(|c| (0..k).map(|t| av[c[0] * k + t] * bv[t * n + c[1]]).sum())
            .collect();
        check(kernel("gemm"), &[Some(a), Some(b)], &[m, n], &want, 2e-5);
    }
}

#[test]
fn three_spatial_axes() {
    let c = Case {
        spatial: vec![4, 3, 5],
        group: 1,
        cin: 2,
        cout: 5,
        images: 1,
        window: 2,
        stride: 1,
        dilation: 1,
        pad: 1,
    };
    let shape = c.conv_shape().unwrap();
    let (x, w) = (Tensor::random(3, &c.x_shape()), Tensor::random(4, &[5, 2, 2, 2, 2]));
    let want = c.conv(&x.floats(), &w.floats(), None, &shape);
    check(c.params(kernel("conv")), &[Some(x), Some(w)], &shape, &want, 1e-5);
}

#[test]
fn long_rows_use_a_whole_workgroup() {
    let x = random(5, 3 * 5000);
    let want: Vec<f32> =
        x.chunks(5000).map(|r| r.iter().map(|v| f64::from(*v)).sum::<f64>() as f32).collect();
    let k = with_ints(with_string(kernel("reduce"), "mode", "sum"), "axes", &[1]);
    check(k, &[Some(Tensor::f32(&[3, 5000], &x))], &[3], &want, 1e-4);
    let mut bad = x.clone();
    bad[7] = f32::NAN;
    let k = with_ints(with_string(kernel("reduce"), "mode", "max"), "axes", &[1]);
    let mut want: Vec<f32> = bad.chunks(5000).map(|r| r.iter().copied().fold(f32::MIN, f32::max)).collect();
    want[0] = f32::NAN;
    check(k, &[Some(Tensor::f32(&[3, 5000], &bad))], &[3], &want, 0.0);
}
