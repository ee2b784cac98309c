//! Products with weights in bfloat16: both operands rounded, sums in f32.

mod common;

use common::{Spec, Tensor, check_f32};
use half::bf16;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(bf16::from_f32(v).to_f32())).collect()
}

/// Adds operand 1.
fn add() -> TileProgram {
    let instr = |op: TileOp, index: u32, args: &[u32]| TileInstr {
        op: op as i32,
        lane: Lane::Float as i32,
        index,
        args: args.to_vec(),
        ..TileInstr::default()
    };
    TileProgram {
        inputs: 2,
        instrs: vec![
            instr(TileOp::Load, 0, &[]),
            instr(TileOp::Load, 1, &[]),
            instr(TileOp::Add, 0, &[0, 1]),
        ],
        outputs: vec![2],
    }
}

fn product(m: usize, n: usize, k: usize, trans_a: bool) {
    let a = Tensor::noise(&if trans_a { [k, m] } else { [m, k] }, 1);
    let (b, bias) = (Tensor::noise(&[k, n], 2), Tensor::noise(&[n], 3));
    let (av, bv, extra) = (rounded(&a.values()), rounded(&b.values()), bias.values());
    let at = |i: usize, p: usize| if trans_a { p * m + i } else { i * k + p };
    let mut want = vec![];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| av[at(i, p)] * bv[p * n + j]).sum();
            want.push(sum + f64::from(extra[j]));
        }
    }
    let spec = Spec::new("gemm").int("trans_a", trans_a.into()).int("n_own", 2);
    let spec = spec.string("precision", "bf16").program(add());
    check_f32(&spec, &[Some(a), Some(b.into_weight()), Some(bias)], &[m, n], &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn products_match(m in 1usize..40, n in 1usize..140, k in 1usize..70, trans_a in any::<bool>()) {
        product(m, n, k, trans_a);
    }
}

/// A convolution of NHWC (or NCHW, `planes`) data over two axes.
#[derive(Clone, Copy, Debug)]
struct Conv {
    batch: usize,
    side: [usize; 2],
    groups: usize,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
    planes: bool,
}

fn convolution(c: &Conv) {
    let Conv { batch, side: [h, w], groups, inputs, outputs, kernel: [kh, kw], .. } = *c;
    let out = |i: usize| {
        let padded = c.side[i] + c.pads[i] + c.pads[i + 2];
        padded.checked_sub((c.kernel[i] - 1) * c.dilation[i] + 1).map(|rest| rest / c.stride[i] + 1)
    };
    let (Some(oh), Some(ow)) = (out(0), out(1)) else { return };
    let channels = groups * inputs;
    let x = Tensor::noise(&if c.planes { [batch, channels, h, w] } else { [batch, h, w, channels] }, 1);
    let (weight, bias) =
        (Tensor::noise(&[groups * outputs, inputs, kh, kw], 2), Tensor::noise(&[groups * outputs], 3));
    let (xv, wv, bv) = (rounded(&x.values()), rounded(&weight.values()), bias.values());
    let value = |n: usize, ch: usize, y: isize, z: isize| {
        if y < 0 || z < 0 || y >= h as isize || z >= w as isize {
            return 0.0;
        }
        let (y, z) = (y as usize, z as usize);
        xv[if c.planes {
            ((n * channels + ch) * h + y) * w + z
        } else {
            ((n * h + y) * w + z) * channels + ch
        }]
    };
    let mut want = vec![];
    for at in 0..batch * oh * ow * groups * outputs {
        let (o, rest) = (at % (groups * outputs), at / (groups * outputs));
        let (z, y, n) = (rest % ow, rest / ow % oh, rest / ow / oh);
        let mut sum = f64::from(bv[o]);
        for (tap, weights) in (0..inputs * kh * kw).zip(&wv[o * inputs * kh * kw..]) {
            let (i, dy, dz) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let place = |pos: usize, d: usize, axis: usize| {
                (pos * c.stride[axis] + d * c.dilation[axis]) as isize - c.pads[axis] as isize
            };
            sum += value(n, o / outputs * inputs + i, place(y, dy, 0), place(z, dz, 1)) * weights;
        }
        want.push(sum);
    }
    let ints = |sizes: &[usize]| -> Vec<i64> { sizes.iter().map(|&s| s as i64).collect() };
    let spec = Spec::new("conv")
        .ints("strides", &ints(&c.stride))
        .ints("dilations", &ints(&c.dilation))
        .ints("pads", &ints(&c.pads))
        .int("group", groups as i64)
        .int("n_own", 3)
        .string("layout", if c.planes { "nchw_nhwc" } else { "nhwc" })
        .string("precision", "bf16");
    check_f32(
        &spec,
        &[Some(x), Some(weight.into_weight()), Some(bias)],
        &[batch, oh, ow, groups * outputs],
        &want,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn convolutions_match(
        batch in 1usize..3, side in [1usize..9, 1usize..19], groups in 1usize..3, inputs in 2usize..9,
        outputs in 2usize..40, kernel in [1usize..4, 1usize..4], stride in [1usize..3, 1usize..3],
        dilation in [1usize..3, 1usize..3], pads in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        planes in any::<bool>(),
    ) {
        convolution(&Conv { batch, side, groups, inputs, outputs, kernel, stride, dilation, pads, planes });
    }
}

#[test]
fn large_convolutions_match() {
    let plain = Conv {
        batch: 1,
        side: [13, 13],
        groups: 1,
        inputs: 64,
        outputs: 96,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
        planes: false,
    };
    convolution(&plain);
    convolution(&Conv { kernel: [1, 1], pads: [0; 4], inputs: 700, outputs: 33, ..plain });
    convolution(&Conv { planes: true, inputs: 3, side: [40, 33], stride: [2, 2], ..plain });
}

#[test]
fn large_products_match() {
    for (m, n, k) in [(150, 200, 1031), (1, 700, 513), (3, 300, 64), (30, 33, 3000)] {
        product(m, n, k, false);
    }
}
