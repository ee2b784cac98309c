//! Products and convolutions against naive loops.

mod common;

use common::{Spec, Tensor, channels_last, check_f32, check_within, largest, moved};
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

fn instr(op: TileOp, args: &[u32], index: u32, float: f64) -> TileInstr {
    TileInstr { op: op as i32, lane: Lane::Float as i32, args: args.to_vec(), index, float, int: 0 }
}

/// `max(x + e1, 0)` and the activations run in registers, `sigmoid(x + e1)` in part, `gelu(x + e1)` as a function behind
/// that, `(x + e1) x` as a whole over finished rows.
fn epilogue(kind: usize) -> Option<TileProgram> {
    let load = |i| instr(TileOp::Load, &[], i, 0.0);
    let (instrs, out) = match kind {
        1 => (
            vec![
                load(0),
                load(1),
                instr(TileOp::Add, &[0, 1], 0, 0.0),
                instr(TileOp::Const, &[], 0, 0.0),
                instr(TileOp::Max, &[3, 2], 0, 0.0),
            ],
            4,
        ),
        2 => (
            vec![load(0), load(1), instr(TileOp::Add, &[1, 0], 0, 0.0), instr(TileOp::Sigmoid, &[2], 0, 0.0)],
            3,
        ),
        3..6 => activation(kind),
        6 => gelu(),
        7 => (
            vec![load(0), load(1), instr(TileOp::Add, &[1, 0], 0, 0.0), instr(TileOp::Mul, &[2, 0], 0, 0.0)],
            3,
        ),
        _ => return None,
    };
    Some(TileProgram { inputs: 2, instrs, outputs: vec![out] })
}

/// Kinds of epilogues.
const KINDS: usize = 8;

/// GELU of `x + e1`.
fn gelu() -> (Vec<TileInstr>, u32) {
    let constant = |value| instr(TileOp::Const, &[], 0, value);
    let instrs = vec![
        instr(TileOp::Load, &[], 0, 0.0),
        instr(TileOp::Load, &[], 1, 0.0),
        instr(TileOp::Add, &[0, 1], 0, 0.0),
        constant(0.5),
        constant(1.0),
        constant(std::f64::consts::FRAC_1_SQRT_2),
        instr(TileOp::Mul, &[2, 5], 0, 0.0),
        instr(TileOp::Erf, &[6], 0, 0.0),
        instr(TileOp::Add, &[7, 4], 0, 0.0),
        instr(TileOp::Mul, &[2, 3], 0, 0.0),
        instr(TileOp::Mul, &[9, 8], 0, 0.0),
    ];
    (instrs, 10)
}

/// Hard swish, hard sigmoid or leaky ReLU of `x + e1`, which is register 2.
fn activation(kind: usize) -> (Vec<TileInstr>, u32) {
    let constant = |value| instr(TileOp::Const, &[], 0, value);
    let mut instrs = vec![
        instr(TileOp::Load, &[], 0, 0.0),
        instr(TileOp::Load, &[], 1, 0.0),
        instr(TileOp::Add, &[0, 1], 0, 0.0),
        constant(0.0),
        constant(if kind == 5 { 0.1 } else { 1.0 / 6.0 }),
    ];
    if kind == 5 {
        instrs.extend([
            instr(TileOp::Mul, &[2, 4], 0, 0.0),
            instr(TileOp::Lt, &[2, 3], 0, 0.0),
            instr(TileOp::Select, &[6, 5, 2], 0, 0.0),
        ]);
        return (instrs, 7);
    }
    instrs.extend([
        constant(0.5),
        constant(1.0),
        instr(TileOp::MulAdd, &[2, 4, 5], 0, 0.0),
        instr(TileOp::Max, &[3, 7], 0, 0.0),
        instr(TileOp::Min, &[6, 8], 0, 0.0),
        instr(TileOp::Mul, &[2, 9], 0, 0.0),
    ]);
    (instrs, if kind == 3 { 10 } else { 9 })
}

fn finish(kind: usize, value: f64, extra: f64) -> f64 {
    match kind {
        1 => (value + extra).max(0.0),
        2 => 1.0 / (1.0 + (-(value + extra)).exp()),
        3 => (value + extra) * ((value + extra) / 6.0 + 0.5).clamp(0.0, 1.0),
        4 => ((value + extra) / 6.0 + 0.5).clamp(0.0, 1.0),
        5 if value + extra < 0.0 => 0.1 * (value + extra),
        5 => value + extra,
        6 => 0.5 * (value + extra) * (1.0 + libm::erf((value + extra) / std::f64::consts::SQRT_2)),
        7 => (value + extra) * value,
        _ => value,
    }
}

struct Gemm {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    trans: (bool, bool),
    b_batched: bool,
    packed: bool,
    kind: usize,
    /// Shape of the epilogue's operand: 0 row, 1 column, 2 full, 3 scalar.
    extra: usize,
}

fn gemm(case: &Gemm) {
    let &Gemm { batch, m, n, k, trans, b_batched, packed, kind, extra } = case;
    let a_shape = if trans.0 { [batch, k, m] } else { [batch, m, k] };
    let b_matrix = if trans.1 { [n, k] } else { [k, n] };
    let b_shape = if b_batched { vec![batch, b_matrix[0], b_matrix[1]] } else { b_matrix.to_vec() };
    let (a, b) = (Tensor::noise(&a_shape, 1), Tensor::noise(&b_shape, 2));
    let e_shape = [vec![m, 1], vec![n], vec![batch, m, n], vec![1]][extra].clone();
    let e = Tensor::noise(&e_shape, 3);
    let (av, bv, ev) = (a.values(), b.values(), e.values());
    let mut want = vec![];
    for g in 0..batch {
        for i in 0..m {
            for j in 0..n {
                let b_base = if b_batched { g * k * n } else { 0 };
                let sum: f64 = (0..k)
                    .map(|p| {
                        let x = av[g * m * k + if trans.0 { p * m + i } else { i * k + p }];
                        let y = bv[b_base + if trans.1 { j * k + p } else { p * n + j }];
                        f64::from(x) * f64::from(y)
                    })
                    .sum();
                let at = [i, j, (g * m + i) * n + j, 0][extra];
                want.push(finish(kind, sum, f64::from(ev[at])));
            }
        }
    }
    let mut spec =
        Spec::new("gemm").int("trans_a", trans.0.into()).int("trans_b", trans.1.into()).int("n_own", 2);
    let b = if packed { b.into_weight() } else { b };
    let mut inputs = vec![Some(a), Some(b)];
    if let Some(program) = epilogue(kind) {
        spec = spec.program(program);
        inputs.push(Some(e));
    }
    check_f32(&spec, &inputs, &[batch, m, n], &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_match(
        batch in 1usize..4, m in 1usize..40, n in 1usize..70, k in 1usize..50,
        trans in any::<(bool, bool)>(), b_batched in any::<bool>(), packed in any::<bool>(),
        kind in 0..KINDS, extra in 0usize..4,
    ) {
        gemm(&Gemm { batch, m, n, k, trans, b_batched, packed: packed && !b_batched, kind, extra });
    }
}

#[test]
fn large_products_match() {
    for (m, n, k, packed) in
        // Deep ones are cut in depth; rows 1024 apart are copied closer together first.
        [
            (250, 600, 300, true),
            (1, 1000, 513, true),
            (3, 129, 700, false),
            (130, 33, 1, false),
            (20, 170, 2048, true),
            (5, 140, 1024, false),
            (31, 40, 2300, false),
        ]
    {
        for kind in 0..KINDS {
            gemm(&Gemm {
                batch: 1,
                m,
                n,
                k,
                trans: (false, false),
                b_batched: false,
                packed,
                kind,
                extra: 1,
            });
        }
    }
    gemm(&Gemm {
        batch: 2,
        m: 300,
        n: 300,
        k: 70,
        trans: (false, true),
        b_batched: true,
        packed: false,
        kind: 2,
        extra: 2,
    });
}

#[test]
fn empty_depth_gives_zero() {
    let spec = Spec::new("gemm").int("n_own", 2);
    check_f32(
        &spec,
        &[Some(Tensor::noise(&[5, 0], 1)), Some(Tensor::noise(&[0, 7], 1))],
        &[5, 7],
        &[0.0; 35],
    );
    check_f32(&spec, &[Some(Tensor::noise(&[1, 0], 1)), Some(Tensor::noise(&[0, 7], 1))], &[1, 7], &[0.0; 7]);
}

/// Geometry of a convolution over any number of axes.
#[derive(Clone, Debug)]
struct Conv {
    batch: usize,
    groups: usize,
    inputs: usize,
    outputs: usize,
    input: Vec<usize>,
    kernel: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    pads: Vec<usize>,
    packed: bool,
    kind: usize,
}

impl Conv {
    fn output(&self) -> Option<Vec<usize>> {
        let axes = self.input.len();
        (0..axes)
            .map(|i| {
                let padded = self.input[i] + self.pads[i] + self.pads[axes + i];
                let reach = (self.kernel[i] - 1) * self.dilation[i] + 1;
                padded.checked_sub(reach).map(|rest| rest / self.stride[i] + 1)
            })
            .collect()
    }

    fn spec(&self, library: &str) -> Spec {
        let ints = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
        let spec = Spec::new(library)
            .ints("strides", &ints(&self.stride))
            .ints("pads", &ints(&self.pads))
            .ints("dilations", &ints(&self.dilation))
            .int("group", self.groups as i64)
            .int("n_own", 3);
        match epilogue(self.kind) {
            Some(program) => spec.program(program),
            None => spec,
        }
    }

    /// Calls `each(image position, out position, tap)` for every tap that is not padding.
    fn taps(&self, out: &[usize], mut each: impl FnMut(usize, usize, usize)) {
        let (plane, taps): (usize, usize) = (out.iter().product(), self.kernel.iter().product());
        for position in 0..plane {
            for tap in 0..taps {
                let (mut rest_o, mut rest_t, mut at, mut scale, mut inside) = (position, tap, 0, 1, true);
                for i in (0..out.len()).rev() {
                    let (o, t) = (rest_o % out[i], rest_t % self.kernel[i]);
                    rest_o /= out[i];
                    rest_t /= self.kernel[i];
                    let x = (o * self.stride[i] + t * self.dilation[i]).checked_sub(self.pads[i]);
                    match x.filter(|&x| x < self.input[i]) {
                        Some(x) => at += x * scale,
                        None => inside = false,
                    }
                    scale *= self.input[i];
                }
                if inside {
                    each(at, position, tap);
                }
            }
        }
    }

    fn check(&self) {
        let Some(out) = self.output() else { return };
        let (ci, co) = (self.inputs * self.groups, self.outputs * self.groups);
        let shape = |n: usize, c: usize, rest: &[usize]| [&[n, c], rest].concat();
        let x = Tensor::noise(&shape(self.batch, ci, &self.input), 1);
        let w = Tensor::noise(&shape(co, self.inputs, &self.kernel), 2);
        let bias = Tensor::noise(&[co], 3);
        let y_shape = shape(self.batch, co, &out);
        let extra = Tensor::noise(&y_shape, 4);
        let (xv, wv, bv, ev) = (x.values(), w.values(), bias.values(), extra.values());
        let (in_plane, out_plane): (usize, usize) = (self.input.iter().product(), out.iter().product());
        let taps: usize = self.kernel.iter().product();
        let mut sums = vec![0f64; self.batch * co * out_plane];
        self.taps(&out, |at, position, tap| {
            for n in 0..self.batch {
                for o in 0..co {
                    for i in 0..self.inputs {
                        let channel = o / self.outputs * self.inputs + i;
                        let a = f64::from(xv[(n * ci + channel) * in_plane + at]);
                        let b = f64::from(wv[(o * self.inputs + i) * taps + tap]);
                        sums[(n * co + o) * out_plane + position] += a * b;
                    }
                }
            }
        });
        let biased = |(i, s): (usize, &f64)| {
            finish(self.kind, s + f64::from(bv[i / out_plane % co]), f64::from(ev[i]))
        };
        let want: Vec<f64> = sums.iter().enumerate().map(biased).collect();
        let w = if self.packed { w.into_weight() } else { w };
        self.check_layouts("conv", [x, w, bias, extra], &want, largest(&sums));
    }

    fn takes_winograd(&self) -> bool {
        let one = |sizes: &[usize]| sizes.iter().all(|&s| s == 1);
        self.groups == 1 && self.kernel == [3, 3] && one(&self.stride) && one(&self.dilation)
    }

    /// Runs `library` on x, w, bias and the epilogue's operand (of the result's shape) in every layout.
    ///
    /// Winograd rounds in proportion to the largest of all `sums`, not to the result at hand, and an epilogue may make
    /// that small: a sigmoid of a sum of 30 is at most 1. No epilogue here is steeper than 1.
    fn check_layouts(&self, library: &str, [x, w, bias, extra]: [Tensor; 4], want: &[f64], sums: f64) {
        let y_shape = extra.shape.clone();
        let squares = library == "conv" && self.takes_winograd();
        for (layout, algorithm) in [
            ("nchw", "direct"),
            ("nhwc", "direct"),
            ("nchw_nhwc", "direct"),
            ("nhwc", "winograd2"),
            ("nhwc", "winograd4"),
        ] {
            if (layout == "nchw_nhwc" && library != "conv") || (algorithm != "direct" && !squares) {
                continue;
            }
            let (last_in, last_out) = (layout == "nhwc", layout != "nchw");
            let turn = |t: &Tensor, last: bool| {
                if last { channels_last(t) } else { t.clone() }
            };
            let mut inputs = vec![Some(turn(&x, last_in)), Some(w.clone()), Some(bias.clone())];
            if self.kind > 0 {
                inputs.push(Some(turn(&extra, last_out)));
            }
            let (shape, want) =
                if last_out { moved(&y_shape, want) } else { (y_shape.clone(), want.to_vec()) };
            let spec = self.spec(library).string("layout", layout).string("algorithm", algorithm);
            let scale = if algorithm == "direct" { largest(&want) } else { largest(&want).max(sums) };
            check_within(&spec, &inputs, &shape, &want, scale);
        }
    }

    /// The transposed convolution: `input` is the larger side here too.
    fn check_transposed(&self) {
        let Some(small) = self.output() else { return };
        let (ci, co) = (self.inputs * self.groups, self.outputs * self.groups);
        let shape = |n: usize, c: usize, rest: &[usize]| [&[n, c], rest].concat();
        let x = Tensor::noise(&shape(self.batch, ci, &small), 1);
        let w = Tensor::noise(&shape(ci, self.outputs, &self.kernel), 2);
        let bias = Tensor::noise(&[co], 3);
        let y_shape = shape(self.batch, co, &self.input);
        let extra = Tensor::noise(&y_shape, 4);
        let (xv, wv, bv, ev) = (x.values(), w.values(), bias.values(), extra.values());
        let (large, little): (usize, usize) = (self.input.iter().product(), small.iter().product());
        let taps: usize = self.kernel.iter().product();
        let mut sums = vec![0f64; self.batch * co * large];
        self.taps(&small, |at, position, tap| {
            for n in 0..self.batch {
                for i in 0..ci {
                    for o in 0..self.outputs {
                        let channel = i / self.inputs * self.outputs + o;
                        let a = f64::from(xv[(n * ci + i) * little + position]);
                        let b = f64::from(wv[(i * self.outputs + o) * taps + tap]);
                        sums[(n * co + channel) * large + at] += a * b;
                    }
                }
            }
        });
        let biased =
            |(i, s): (usize, &f64)| finish(self.kind, s + f64::from(bv[i / large % co]), f64::from(ev[i]));
        let want: Vec<f64> = sums.iter().enumerate().map(biased).collect();
        let w = if self.packed { w.into_weight() } else { w };
        self.check_layouts("conv_transpose", [x, w, bias, extra], &want, largest(&sums));
    }
}

fn conv() -> impl Strategy<Value = Conv> {
    let axis = (1usize..12, 1usize..4, 1usize..4, 1usize..3, 0usize..3, 0usize..3);
    let axes = prop::collection::vec(axis, 1..4);
    (1usize..3, 1usize..3, 1usize..5, 1usize..16, axes, any::<bool>(), 0..KINDS).prop_map(
        |(batch, groups, inputs, outputs, axes, packed, kind)| Conv {
            batch,
            groups,
            inputs,
            outputs,
            input: axes.iter().map(|a| a.0).collect(),
            kernel: axes.iter().map(|a| a.1).collect(),
            stride: axes.iter().map(|a| a.2).collect(),
            dilation: axes.iter().map(|a| a.3).collect(),
            pads: axes.iter().map(|a| a.4).chain(axes.iter().map(|a| a.5)).collect(),
            packed,
            kind,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn convolutions_match(case in conv()) {
        case.check();
    }

    #[test]
    fn convolutions_of_many_channels_match(
        case in conv(), inputs in 1usize..70, outputs in 1usize..70, groups in 1usize..4, square in 0usize..6,
    ) {
        let axes = case.input.len().min(2);
        let cut = |v: &[usize]| v[..axes].to_vec();
        let kernel = if square > 0 { vec![square; axes] } else { cut(&case.kernel) };
        let pads = [cut(&case.pads), cut(&case.pads[case.input.len()..])].concat();
        Conv {
            groups, inputs: inputs.div_ceil(groups), outputs: outputs.div_ceil(groups), kernel, pads,
            input: cut(&case.input), stride: cut(&case.stride), dilation: cut(&case.dilation), ..case
        }.check();
    }

    #[test]
    fn winograd_convolutions_match(
        case in conv(), inputs in 1usize..70, outputs in 1usize..70, height in 1usize..20, width in 1usize..20,
        pads in prop::collection::vec(0usize..4, 4),
    ) {
        Conv {
            groups: 1, inputs, outputs, input: vec![height, width], kernel: vec![3; 2], stride: vec![1; 2],
            dilation: vec![1; 2], pads, packed: true, ..case
        }.check();
    }

    #[test]
    fn transposed_convolutions_match(case in conv()) {
        case.check_transposed();
    }

    #[test]
    fn depthwise_convolutions_match(
        case in conv(), channels in prop::sample::select(&[1usize, 2, 3, 4, 7, 8, 13, 16, 27, 40, 72, 96][..]),
        square in 0usize..3,
    ) {
        let axes = case.input.len().min(2);
        let cut = |v: &[usize]| v[..axes].to_vec();
        let kernel = if square > 0 { vec![2 * square + 1; axes] } else { cut(&case.kernel) };
        let pads = [cut(&case.pads), cut(&case.pads[case.input.len()..])].concat();
        Conv {
            groups: channels, inputs: 1, outputs: 1, input: cut(&case.input), kernel, pads,
            stride: cut(&case.stride), dilation: cut(&case.dilation), packed: true, ..case
        }.check();
    }
}

#[test]
fn model_sized_convolutions_match() {
    let base = Conv {
        batch: 1,
        groups: 1,
        inputs: 19,
        outputs: 37,
        input: vec![30, 41],
        kernel: vec![3, 3],
        stride: vec![1, 1],
        dilation: vec![1, 1],
        pads: vec![1; 4],
        packed: true,
        kind: 1,
    };
    base.check();
    Conv { kernel: vec![1, 1], pads: vec![0; 4], kind: 2, ..base.clone() }.check();
    Conv { kernel: vec![7, 7], pads: vec![3; 4], stride: vec![2, 2], inputs: 3, kind: 0, ..base.clone() }
        .check();
    Conv { input: vec![7, 7], inputs: 160, ..base.clone() }.check();
    Conv { input: vec![7, 7], inputs: 40, outputs: 200, batch: 2, kind: 2, ..base.clone() }.check();
    Conv { input: vec![6, 700], inputs: 5, kind: 2, ..base.clone() }.check();
    // Sums of about 30 under a sigmoid.
    Conv {
        input: vec![14, 12],
        inputs: 59,
        outputs: 30,
        batch: 2,
        pads: vec![0, 0, 1, 0],
        kind: 2,
        ..base.clone()
    }
    .check();
    Conv { input: vec![24, 24], dilation: vec![6, 6], pads: vec![6; 4], inputs: 130, ..base.clone() }.check();
    Conv {
        input: vec![2000],
        kernel: vec![5],
        pads: vec![2; 2],
        stride: vec![2],
        dilation: vec![2],
        inputs: 70,
        outputs: 8,
        ..base
    }
    .check();
}

#[test]
fn transposed_convolutions_without_overlap_match() {
    for (groups, inputs, outputs, axes, kind) in
        [(1, 19, 37, 2, 0), (1, 40, 64, 2, 1), (2, 5, 7, 2, 3), (1, 8, 16, 3, 1), (3, 4, 2, 1, 2)]
    {
        Conv {
            batch: 2,
            groups,
            inputs,
            outputs,
            input: [2, 6, 38][3 - axes..].to_vec(),
            kernel: vec![2; axes],
            stride: vec![2; axes],
            dilation: vec![1; axes],
            pads: vec![0; 2 * axes],
            packed: true,
            kind,
        }
        .check_transposed();
    }
}

#[test]
fn depthwise_planes_of_every_width_match() {
    for (kernel, stride, kind) in [(3, 1, 0), (3, 2, 1), (5, 1, 2), (5, 2, 1)] {
        for (height, width, pad) in
            [(7, 7, kernel / 2), (14, 14, kernel / 2), (9, 33, 0), (5, 50, 1), (16, 16, kernel - 1)]
        {
            for channels in [3, 20, 64] {
                Conv {
                    batch: 2,
                    groups: channels,
                    inputs: 1,
                    outputs: 1,
                    input: vec![height, width],
                    kernel: vec![kernel; 2],
                    stride: vec![stride; 2],
                    dilation: vec![1; 2],
                    pads: vec![pad; 4],
                    packed: true,
                    kind,
                }
                .check();
            }
        }
    }
}

/// `Min(2, Max(0, x))` in registers, `Min(Max(x, 0), 2)` in the interpreter: they differ for NaN.
#[test]
fn bounds_treat_nan_as_defined() {
    let load = instr(TileOp::Load, &[], 0, 0.0);
    let (zero, two) = (instr(TileOp::Const, &[], 0, 0.0), instr(TileOp::Const, &[], 0, 2.0));
    let program = |first: [u32; 2], second: [u32; 2]| TileProgram {
        inputs: 1,
        instrs: vec![
            load.clone(),
            zero.clone(),
            two.clone(),
            instr(TileOp::Max, &first, 0, 0.0),
            instr(TileOp::Min, &second, 0, 0.0),
        ],
        outputs: vec![4],
    };
    let x = Tensor::f32(&[5, 1], &[f32::NAN, -1.0, 1.0, 5.0, f32::NEG_INFINITY]);
    let one = Tensor::f32(&[1, 1], &[1.0]);
    for (kept, program) in [(true, program([1, 0], [2, 3])), (false, program([0, 1], [3, 2]))] {
        let want = [if kept { f64::NAN } else { 0.0 }, 0.0, 1.0, 2.0, 0.0];
        let spec = Spec::new("gemm").int("n_own", 2).program(program);
        check_f32(&spec, &[Some(x.clone()), Some(one.clone())], &[5, 1], &want);
    }
}

#[test]
fn activations_treat_nan_and_infinity_as_defined() {
    let x = Tensor::f32(&[4, 1], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]);
    let inputs = [Some(x), Some(Tensor::f32(&[1, 1], &[1.0])), Some(Tensor::f32(&[1], &[0.0]))];
    let (nan, infinity) = (f64::NAN, f64::INFINITY);
    for (kind, want) in
        [(3, [nan, infinity, nan, 0.0]), (4, [nan, 1.0, 0.0, 0.5]), (5, [nan, infinity, -infinity, 0.0])]
    {
        let spec = Spec::new("gemm").int("n_own", 2).program(epilogue(kind).unwrap());
        check_f32(&spec, &inputs, &[4, 1], &want);
    }
}
