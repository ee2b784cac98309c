//! Products, convolutions and poolings of bytes against their definition.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Spec, Tensor, noise, run_all};
use partita_plan::ElementType;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{TileInstr, TileProgram};
use proptest::prelude::*;

/// Random bytes of a type, as stored.
fn bytes(dtype: ElementType, shape: &[usize], seed: u64) -> Tensor {
    let bytes = noise(shape.iter().product(), seed).into_iter().map(|v| ((v + 1.0) * 127.99) as u8);
    Tensor { dtype, shape: shape.to_vec(), bytes: bytes.collect(), weight: false }
}

fn byte(dtype: ElementType, value: u8) -> Tensor {
    Tensor { dtype, shape: vec![], bytes: vec![value], weight: false }
}

fn number(dtype: ElementType, byte: u8) -> f64 {
    if dtype == ElementType::I8 { f64::from(byte as i8) } else { f64::from(byte) }
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.bytes.iter().map(|b| number(t.dtype, *b)).collect()
}

/// Builds tile programs as code generation does.
#[derive(Default)]
struct Program {
    instrs: Vec<TileInstr>,
    inputs: u32,
}

impl Program {
    fn push(&mut self, op: TileOp, lane: Lane, args: &[u32]) -> u32 {
        self.instrs.push(TileInstr {
            op: op as i32,
            lane: lane as i32,
            args: args.to_vec(),
            ..TileInstr::default()
        });
        self.instrs.len() as u32 - 1
    }

    fn float(&mut self, op: TileOp, args: &[u32]) -> u32 {
        self.push(op, Lane::Float, args)
    }

    fn load(&mut self, lane: Lane) -> u32 {
        let reg = self.push(TileOp::Load, lane, &[]);
        self.instrs[reg as usize].index = self.inputs;
        self.inputs += 1;
        reg
    }

    fn constant(&mut self, value: f64) -> u32 {
        let reg = self.float(TileOp::Const, &[]);
        self.instrs[reg as usize].float = value;
        reg
    }

    fn quantize(&mut self, x: u32, q: Quant) -> u32 {
        let (low, high) = q.range();
        let [scale, zero, low, high] = [q.scale, q.zero, low, high].map(|v| self.constant(v));
        let quotient = self.float(TileOp::Div, &[x, scale]);
        let rounded = self.float(TileOp::Round, &[quotient]);
        let number = self.float(TileOp::Add, &[rounded, zero]);
        let above = self.float(TileOp::Max, &[low, number]);
        self.float(TileOp::Min, &[high, above])
    }

    /// From an integer register.
    fn dequantize(&mut self, x: u32, q: Quant) -> u32 {
        let [scale, zero] = [q.scale, q.zero].map(|v| self.constant(v));
        let float = self.push(TileOp::ToFloat, Lane::Float, &[x]);
        let centred = self.float(TileOp::Sub, &[float, zero]);
        self.float(TileOp::Mul, &[centred, scale])
    }

    fn as_int(&mut self, x: u32, dtype: ElementType) -> u32 {
        let int = self.push(TileOp::ToInt, Lane::Float, &[x]);
        let wrapped = self.push(TileOp::Wrap, Lane::Int, &[int]);
        self.instrs[wrapped as usize].index = dtype as u32;
        wrapped
    }

    fn finish(self, output: u32) -> TileProgram {
        TileProgram { inputs: self.inputs, instrs: self.instrs, outputs: vec![output] }
    }
}

#[derive(Clone, Copy, Debug)]
struct Quant {
    dtype: ElementType,
    scale: f64,
    zero: f64,
}

impl Quant {
    fn range(&self) -> (f64, f64) {
        if self.dtype == ElementType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) }
    }

    fn number(&self, value: f64) -> f64 {
        let (low, high) = self.range();
        ((value / self.scale).round_ties_even() + self.zero).clamp(low, high)
    }

    fn value(&self, number: f64) -> f64 {
        (number - self.zero) * self.scale
    }
}

const U: Quant = Quant { dtype: ElementType::U8, scale: 0.75, zero: 7.0 };
const S: Quant = Quant { dtype: ElementType::I8, scale: 0.5, zero: -3.0 };
/// Of operands of epilogues.
const R: Quant = Quant { dtype: ElementType::U8, scale: 0.25, zero: 120.0 };

/// What follows a product, by number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    Nothing,
    /// Bounds, then stored as numbers.
    Quantize,
    /// Numbers and back, a vector, bounds, numbers.
    Column,
    /// Numbers and back, numbers of a tensor, numbers.
    Residual,
    /// Floats of a tensor, bounds.
    Floats,
}

const TAILS: [Tail; 5] = [Tail::Nothing, Tail::Quantize, Tail::Column, Tail::Residual, Tail::Floats];

impl Tail {
    /// Program, further operand, type of the result.
    fn program(self, shape: &[usize]) -> (Option<TileProgram>, Option<Tensor>, ElementType) {
        let mut p = Program::default();
        let main = p.load(Lane::Float);
        let column = [*shape.last().unwrap()];
        match self {
            Self::Nothing => (None, None, ElementType::F32),
            Self::Quantize => {
                let low = p.constant(-2.0);
                let bounded = p.float(TileOp::Max, &[low, main]);
                let out = p.quantize(bounded, S);
                (Some(p.finish(out)), None, S.dtype)
            }
            Self::Column | Self::Residual => {
                let number = p.quantize(main, U);
                let int = p.as_int(number, U.dtype);
                let value = p.dequantize(int, U);
                let (term, operand) = if self == Self::Column {
                    (p.load(Lane::Float), Tensor::noise(&column, 9))
                } else {
                    let load = p.load(Lane::Int);
                    (p.dequantize(load, R), bytes(R.dtype, shape, 9))
                };
                let sum = p.float(TileOp::Add, &[term, value]);
                let zero = p.constant(0.0);
                let bounded = p.float(TileOp::Max, &[zero, sum]);
                let out = p.quantize(bounded, U);
                (Some(p.finish(out)), Some(operand), U.dtype)
            }
            Self::Floats => {
                let term = p.load(Lane::Float);
                let sum = p.float(TileOp::Add, &[main, term]);
                let six = p.constant(6.0);
                let out = p.float(TileOp::Min, &[six, sum]);
                (Some(p.finish(out)), Some(Tensor::noise(shape, 9)), ElementType::F32)
            }
        }
    }

    fn apply(self, value: f64, at: usize, operand: Option<&Tensor>, columns: usize) -> f64 {
        match self {
            Self::Nothing => value,
            Self::Quantize => S.number(value.max(-2.0)),
            Self::Column => {
                let term = f64::from(operand.unwrap().values()[at % columns]);
                U.number((U.value(U.number(value)) + term).max(0.0))
            }
            Self::Residual => {
                let term = R.value(number(R.dtype, operand.unwrap().bytes[at]));
                U.number((U.value(U.number(value)) + term).max(0.0))
            }
            Self::Floats => (value + f64::from(operand.unwrap().values()[at])).min(6.0),
        }
    }
}

/// Adds the tail and compares: floats closely, numbers to a step where rounding is a toss-up.
fn check(spec: Spec, mut inputs: Vec<Option<Tensor>>, shape: &[usize], values: &[f64], tail: Tail) {
    let mut spec = spec.int("n_own", inputs.len() as i64);
    let (program, operand, dtype) = tail.program(shape);
    let columns = *shape.last().unwrap();
    let want: Vec<f64> =
        values.iter().enumerate().map(|(i, v)| tail.apply(*v, i, operand.as_ref(), columns)).collect();
    if let Some(program) = program {
        spec = spec.program(program);
    }
    inputs.extend(operand.map(Some));
    run_all(&spec, &inputs, &[(dtype, shape.to_vec())], |name, results| {
        if dtype == ElementType::F32 {
            return common::assert_close(name, &common::floats(&results[0]), &want);
        }
        let mut off = 0;
        for (i, (&g, &w)) in results[0].iter().zip(&want).enumerate() {
            let g = number(dtype, g);
            assert!((g - w).abs() <= 1.0, "{name}: number {i} is {g}, not {w}");
            off += usize::from(g != w);
        }
        assert!(off <= 1 + want.len() / 100, "{name}: {off} of {} numbers differ", want.len());
    });
}

/// Scales of the second operand: one, or one for each of `columns`.
fn scales(columns: usize, spread: bool) -> (Tensor, Vec<f64>) {
    let count = if spread { columns } else { 1 };
    let values: Vec<f32> = noise(count, 4).into_iter().map(|v| 0.01 + 0.004 * v).collect();
    let wide = (0..columns).map(|c| f64::from(values[if spread { c } else { 0 }])).collect();
    (Tensor::f32(if spread { std::slice::from_ref(&columns) } else { &[] }, &values), wide)
}

#[derive(Clone, Debug)]
struct Gemm {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    signed: (bool, bool),
    packed: bool,
    turned: bool,
    spread: bool,
    bias: bool,
    tail: Tail,
}

impl Gemm {
    fn check(&self) {
        let &Self { batch, m, n, k, .. } = self;
        let ty = |signed| if signed { ElementType::I8 } else { ElementType::U8 };
        let (a_type, b_type) = (ty(self.signed.0), ty(self.signed.1 || self.packed));
        let a = bytes(a_type, &[batch, m, k], 1);
        let matrix = if self.turned { [n, k] } else { [k, n] };
        let batched = !self.packed && !self.turned;
        let b_shape = if batched { vec![batch, k, n] } else { matrix.to_vec() };
        let b = bytes(b_type, &b_shape, 2);
        let (b_scale, wide) = scales(n, self.spread);
        let (a_zero, b_zero) = (200u8, if self.packed { 0 } else { 99 });
        let (av, bv, bias) = (numbers(&a), numbers(&b), noise(n, 5));
        let mut want = vec![];
        for g in 0..batch {
            for i in 0..m {
                for j in 0..n {
                    let b_at = |p: usize| match (batched, self.turned) {
                        (_, true) => j * k + p,
                        (true, _) => (g * k + p) * n + j,
                        _ => p * n + j,
                    };
                    let sum: f64 = (0..k)
                        .map(|p| {
                            (av[(g * m + i) * k + p] - number(a_type, a_zero))
                                * (bv[b_at(p)] - number(b_type, b_zero))
                        })
                        .sum();
                    let bias = if self.bias { f64::from(bias[j]) } else { 0.0 };
                    want.push(sum * f64::from(0.02f32) * wide[j] + bias);
                }
            }
        }
        let b = if self.packed { b.into_weight() } else { b };
        let mut inputs = vec![
            Some(a),
            Some(Tensor::f32(&[], &[0.02])),
            Some(byte(a_type, a_zero)),
            Some(b),
            Some(b_scale),
            Some(byte(b_type, b_zero)),
        ];
        if self.bias {
            inputs.push(Some(Tensor::f32(&[n], &bias)));
        }
        let spec = Spec::new("gemm_int").int("trans_b", self.turned.into());
        check(spec, inputs, &[batch, m, n], &want, self.tail);
    }
}

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
    /// The data has its channels first.
    first: bool,
    signed: bool,
    tail: Tail,
}

impl Conv {
    fn output(&self) -> Option<Vec<usize>> {
        let axes = self.input.len();
        let along = |i: usize| {
            let padded = self.input[i] + self.pads[i] + self.pads[axes + i];
            let reach = (self.kernel[i] - 1) * self.dilation[i] + 1;
            padded.checked_sub(reach).map(|rest| rest / self.stride[i] + 1)
        };
        (0..axes).map(along).collect()
    }

    /// Index of the pixel that tap `tap` of the window at `position` meets.
    fn source(&self, out: &[usize], mut position: usize, mut tap: usize) -> Option<usize> {
        let (mut at, mut scale) = (0, 1);
        for i in (0..out.len()).rev() {
            let (o, t) = (position % out[i], tap % self.kernel[i]);
            (position, tap) = (position / out[i], tap / self.kernel[i]);
            let x = (o * self.stride[i] + t * self.dilation[i]).checked_sub(self.pads[i])?;
            if x >= self.input[i] {
                return None;
            }
            at += x * scale;
            scale *= self.input[i];
        }
        Some(at)
    }

    fn spec(&self, library: &str) -> Spec {
        let ints = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
        Spec::new(library)
            .ints("strides", &ints(&self.stride))
            .ints("pads", &ints(&self.pads))
            .ints("dilations", &ints(&self.dilation))
    }

    fn shape(&self, channels: usize, spatial: &[usize], first: bool) -> Vec<usize> {
        let mut shape = vec![self.batch];
        if first {
            shape.push(channels);
        }
        shape.extend(spatial);
        if !first {
            shape.push(channels);
        }
        shape
    }

    fn check(&self) {
        let Some(out) = self.output() else { return };
        let (ci, co) = (self.inputs * self.groups, self.outputs * self.groups);
        let (plane, pixels): (usize, usize) = (self.input.iter().product(), out.iter().product());
        let taps: usize = self.kernel.iter().product();
        let dtype = if self.signed { ElementType::I8 } else { ElementType::U8 };
        let x = bytes(dtype, &self.shape(ci, &self.input, self.first), 1);
        let w = bytes(ElementType::I8, &[&[co, self.inputs], &self.kernel[..]].concat(), 2);
        let (w_scale, wide) = scales(co, true);
        let (xv, wv, bias, zero) = (numbers(&x), numbers(&w), noise(co, 5), 77u8);
        let mut want = vec![];
        for n in 0..self.batch {
            for position in 0..pixels {
                for o in 0..co {
                    let mut sum = 0.0;
                    for tap in 0..taps {
                        let Some(at) = self.source(&out, position, tap) else { continue };
                        for i in 0..self.inputs {
                            let channel = o / self.outputs * self.inputs + i;
                            let from = if self.first {
                                (n * ci + channel) * plane + at
                            } else {
                                (n * plane + at) * ci + channel
                            };
                            sum += (xv[from] - number(dtype, zero)) * wv[(o * self.inputs + i) * taps + tap];
                        }
                    }
                    want.push(sum * f64::from(0.03f32) * wide[o] + f64::from(bias[o]));
                }
            }
        }
        let inputs = vec![
            Some(x),
            Some(Tensor::f32(&[], &[0.03])),
            Some(byte(dtype, zero)),
            Some(w.into_weight()),
            Some(w_scale),
            Some(byte(ElementType::I8, 0)),
            Some(Tensor::f32(&[co], &bias)),
        ];
        let layout = if self.first { "nchw_nhwc" } else { "nhwc" };
        let spec = self.spec("conv_int").int("group", self.groups as i64).string("layout", layout);
        check(spec, inputs, &self.shape(co, &out, false), &want, self.tail);
    }

    fn check_pool(&self) {
        let Some(out) = self.output() else { return };
        let dtype = if self.signed { ElementType::I8 } else { ElementType::U8 };
        let (c, plane): (usize, usize) = (self.inputs, self.input.iter().product());
        let x = bytes(dtype, &self.shape(c, &self.input, self.first), 1);
        let (pixels, taps): (usize, usize) = (out.iter().product(), self.kernel.iter().product());
        let (xv, y_shape) = (numbers(&x), self.shape(c, &out, self.first));
        let place = |n: usize, channel: usize, at: usize, plane: usize| {
            if self.first { (n * c + channel) * plane + at } else { (n * plane + at) * c + channel }
        };
        let mut want = vec![0; self.batch * pixels * c];
        for n in 0..self.batch {
            for position in 0..pixels {
                for channel in 0..c {
                    let met = (0..taps).filter_map(|tap| self.source(&out, position, tap));
                    let most = met.map(|at| xv[place(n, channel, at, plane)] as i32).max();
                    want[place(n, channel, position, pixels)] = most.unwrap_or(0) as u8;
                }
            }
        }
        let kernel: Vec<i64> = self.kernel.iter().map(|&k| k as i64).collect();
        let layout = if self.first { "nchw" } else { "nhwc" };
        let spec = self.spec("pool").ints("kernel", &kernel).string("mode", "max").string("layout", layout);
        run_all(&spec, &[Some(x)], &[(dtype, y_shape)], |name, results| {
            assert_eq!(results[0], want, "{name}");
        });
    }
}

fn conv() -> impl Strategy<Value = Conv> {
    let axis = (1usize..10, 1usize..4, 1usize..3, 1usize..3, 0usize..3, 0usize..3);
    let axes = prop::collection::vec(axis, 1..4);
    let channels = (1usize..3, 1usize..3, 1usize..10, 1usize..40);
    let kinds = (any::<bool>(), any::<bool>(), prop::sample::select(&TAILS[..]));
    (channels, axes, kinds).prop_map(|((batch, groups, inputs, outputs), axes, (first, signed, tail))| Conv {
        batch,
        groups,
        inputs,
        outputs,
        input: axes.iter().map(|a| a.0).collect(),
        kernel: axes.iter().map(|a| a.1).collect(),
        stride: axes.iter().map(|a| a.2).collect(),
        dilation: axes.iter().map(|a| a.3).collect(),
        pads: axes.iter().map(|a| a.4).chain(axes.iter().map(|a| a.5)).collect(),
        first,
        signed,
        tail,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_match(
        batch in 1usize..4, m in 1usize..40, n in 1usize..80, k in 1usize..70, signed in any::<(bool, bool)>(),
        (packed, turned, spread, bias) in any::<(bool, bool, bool, bool)>(), tail in prop::sample::select(&TAILS[..]),
    ) {
        Gemm { batch, m, n, k, signed, packed, turned, spread, bias, tail }.check();
    }

    #[test]
    fn convolutions_match(case in conv()) {
        case.check();
    }

    #[test]
    fn depthwise_convolutions_match(case in conv(), channels in 1usize..70) {
        Conv { groups: channels, inputs: 1, outputs: 1, ..case }.check();
    }

    #[test]
    fn poolings_match(case in conv()) {
        case.check_pool();
    }
}

#[test]
fn sums_of_extreme_bytes_do_not_saturate() {
    let (a, b) = (vec![255u8; 3 * 64], vec![127u8; 64 * 33]);
    let inputs = vec![
        Some(Tensor { dtype: ElementType::U8, shape: vec![3, 64], bytes: a, weight: false }),
        Some(Tensor::f32(&[], &[1.0])),
        Some(byte(ElementType::U8, 0)),
        Some(Tensor { dtype: ElementType::I8, shape: vec![64, 33], bytes: b, weight: true }),
        Some(Tensor::f32(&[], &[1.0])),
        Some(byte(ElementType::I8, 0)),
    ];
    check(Spec::new("gemm_int"), inputs, &[3, 33], &[255.0 * 127.0 * 64.0; 99], Tail::Nothing);
}

#[test]
fn model_sized_products_match() {
    for tail in TAILS {
        let case = Gemm {
            batch: 1,
            m: 131,
            n: 200,
            k: 384,
            signed: (false, true),
            packed: true,
            turned: false,
            spread: true,
            bias: true,
            tail,
        };
        case.check();
        Conv {
            batch: 1,
            groups: 1,
            inputs: 64,
            outputs: 48,
            input: vec![14, 17],
            kernel: vec![3, 3],
            stride: vec![1, 1],
            dilation: vec![1, 1],
            pads: vec![1; 4],
            first: false,
            signed: false,
            tail,
        }
        .check();
    }
}
