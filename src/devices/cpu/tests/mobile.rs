//! Mobile blocks against their three convolutions one after another, in naive loops.

mod common;

use common::{Spec, Tensor, check_f32};
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Block {
    batch: usize,
    plane: [usize; 2],
    inputs: usize,
    channels: usize,
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    pads: [usize; 4],
    activations: [&'static str; 2],
    biased: bool,
    /// Whether a tensor is added to the result.
    residual: bool,
}

/// The two numbers of every activation.
const VALUES: [f64; 2] = [0.1, 0.7];

fn activate(name: &str, v: f64) -> f64 {
    match name {
        "clip" => v.clamp(VALUES[0], VALUES[1]),
        "relu" => v.max(0.0),
        "leaky_relu" => {
            if v < 0.0 {
                v * VALUES[0]
            } else {
                v
            }
        }
        "hard_sigmoid" => (v * VALUES[0] + VALUES[1]).clamp(0.0, 1.0),
        "hard_swish" => v * (v / 6.0 + 0.5).clamp(0.0, 1.0),
        _ => v,
    }
}

/// Each pixel times the weight (outputs x inputs).
fn product(x: &[f64], w: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
    let mut y = vec![];
    for pixel in x.chunks(inputs) {
        for (row, bias) in w.chunks(inputs).zip(bias) {
            let sum: f64 = pixel.iter().zip(row).map(|(x, &w)| x * f64::from(w)).sum();
            y.push(sum + f64::from(*bias));
        }
    }
    y
}

impl Block {
    fn output(&self) -> Option<[usize; 2]> {
        let mut out = [0; 2];
        for (i, out) in out.iter_mut().enumerate() {
            let reach = (self.kernel[i] - 1) * self.dilation + 1;
            let rest = (self.plane[i] + self.pads[i] + self.pads[i + 2]).checked_sub(reach)?;
            *out = rest / self.stride + 1;
        }
        Some(out)
    }

    fn filter(&self, x: &[f64], w: &[f32], bias: &[f32], out: [usize; 2]) -> Vec<f64> {
        let (c, [kh, kw]) = (self.channels, self.kernel);
        let at = |i: usize, o: usize, tap: usize| {
            let at = (o * self.stride + tap * self.dilation).checked_sub(self.pads[i]);
            at.filter(|&at| at < self.plane[i])
        };
        let mut y = vec![];
        for index in 0..self.batch * out[0] * out[1] * c {
            let (channel, pixel) = (index % c, index / c);
            let (image, oh, ow) = (pixel / (out[0] * out[1]), pixel / out[1] % out[0], pixel % out[1]);
            let mut sum = f64::from(bias[channel]);
            for tap in 0..kh * kw {
                if let (Some(h), Some(column)) = (at(0, oh, tap / kw), at(1, ow, tap % kw)) {
                    let pixel = (image * self.plane[0] + h) * self.plane[1] + column;
                    sum += x[pixel * c + channel] * f64::from(w[channel * kh * kw + tap]);
                }
            }
            y.push(sum);
        }
        y
    }

    fn check(&self) {
        let Some(out) = self.output() else { return };
        let (ci, c, co) = (self.inputs, self.channels, self.outputs);
        let x = Tensor::noise(&[self.batch, self.plane[0], self.plane[1], ci], 1);
        let weights = [
            Tensor::noise(&[c, ci, 1, 1], 2),
            Tensor::noise(&[c, 1, self.kernel[0], self.kernel[1]], 3),
            Tensor::noise(&[co, c, 1, 1], 4),
        ];
        let bias = |n: usize, seed| if self.biased { common::noise(n, seed) } else { vec![0.0; n] };
        let biases = [bias(c, 5), bias(c, 6), bias(co, 7)];
        let data: Vec<f64> = x.values().iter().map(|&v| v.into()).collect();
        let mut y = product(&data, &weights[0].values(), &biases[0], ci);
        y.iter_mut().for_each(|v| *v = activate(self.activations[0], *v));
        let mut y = self.filter(&y, &weights[1].values(), &biases[1], out);
        y.iter_mut().for_each(|v| *v = activate(self.activations[1], *v));
        let mut y = product(&y, &weights[2].values(), &biases[2], c);
        let shape = [self.batch, out[0], out[1], co];
        let residual = Tensor::noise(&shape, 8);
        let mut inputs = vec![Some(x)];
        for (w, b) in weights.into_iter().zip(biases) {
            inputs.push(Some(w.into_weight()));
            inputs.push(self.biased.then(|| Tensor::f32(&[b.len()], &b)));
        }
        let mut spec = self.spec();
        if self.residual {
            y.iter_mut().zip(residual.values()).for_each(|(y, r)| *y += f64::from(r));
            inputs.push(Some(residual));
            spec = spec.program(sum());
        }
        check_f32(&spec, &inputs, &shape, &y);
    }

    fn spec(&self) -> Spec {
        let ints = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
        let mut spec = Spec::new("mobile_block")
            .ints("strides", &ints(&[self.stride; 2]))
            .ints("pads", &ints(&self.pads))
            .ints("dilations", &ints(&[self.dilation; 2]))
            .int("n_own", 7);
        spec.0.params.push(partita_plan::Param {
            name: "activations".into(),
            strings: self.activations.iter().map(|&n| n.into()).collect(),
            ..Default::default()
        });
        spec.param(partita_plan::Param {
            name: "values".into(),
            floats: [VALUES, VALUES].concat(),
            ..Default::default()
        })
    }
}

fn sum() -> TileProgram {
    let instr = |op: TileOp, args: &[u32], index: u32| TileInstr {
        op: op as i32,
        lane: Lane::Float as i32,
        args: args.to_vec(),
        index,
        ..TileInstr::default()
    };
    let instrs =
        vec![instr(TileOp::Load, &[], 0), instr(TileOp::Load, &[], 1), instr(TileOp::Add, &[0, 1], 0)];
    TileProgram { inputs: 2, instrs, outputs: vec![2] }
}

const NAMES: [&str; 6] = ["identity", "relu", "clip", "leaky_relu", "hard_sigmoid", "hard_swish"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn blocks_match(
        batch in 1usize..3, plane in (1usize..24, 1usize..20), channels in (1usize..9, 1usize..50, 1usize..40),
        kernel in (1usize..6, 1usize..6), stride in 1usize..4, dilation in 1usize..3,
        pads in (0usize..3, 0usize..3, 0usize..3, 0usize..3), flags in any::<(bool, bool)>(),
        activations in (prop::sample::select(&NAMES[..]), prop::sample::select(&NAMES[..])),
    ) {
        Block {
            batch, plane: [plane.0, plane.1], inputs: channels.0, channels: channels.1, outputs: channels.2,
            kernel: [kernel.0, kernel.1], stride, dilation, pads: [pads.0, pads.1, pads.2, pads.3],
            activations: [activations.0, activations.1], biased: flags.0, residual: flags.1,
        }.check();
    }
}

/// Planes of many bands, also where a row alone exceeds what a band should have.
#[test]
fn planes_of_many_bands_match() {
    for (plane, channels, stride) in
        [([60, 40], 96, 1), ([61, 33], 100, 2), ([9, 70], 800, 1), ([5, 120], 1000, 2)]
    {
        Block {
            batch: 2,
            plane,
            inputs: 8,
            channels,
            outputs: 16,
            kernel: [3, 3],
            stride,
            dilation: 1,
            pads: [1; 4],
            activations: ["clip", "relu"],
            biased: true,
            residual: true,
        }
        .check();
    }
}
