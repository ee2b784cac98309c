//! Throughput of the kernels, each as a plan of one step on one thread (or `PARTITA_BENCH_THREADS`).
//!
//! `PARTITA_BENCH_SHORTEST=WORD,...` prints the shortest of many launches instead, of the steps whose name has a word.
//!
//! Throughput counts floating-point operations (or bytes for `gemv`), so "Gelem/s" reads as GFLOP/s (GB/s).

#![allow(unsafe_code, reason = "the peak is measured with vector instructions")]
#![allow(clippy::print_stdout, reason = "the shortest launches are what it is asked for")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Spec, Tensor, bound};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use partita_cpu::CpuFactory;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{ElementType, TileInstr, TileProgram};
use partita_runtime::driver::DriverFactory;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn threads() -> usize {
    std::env::var("PARTITA_BENCH_THREADS").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn step(c: &mut Criterion, name: &str, work: u64, spec: &Spec, inputs: Vec<Tensor>, output: &[usize]) {
    let inputs: Vec<_> = inputs.into_iter().map(Some).collect();
    let bound = Arc::new(bound(spec, &inputs, &[(ElementType::F32, output.to_vec())]));
    let mut driver = CpuFactory::new(Some(threads())).open(&bound.plan, 0).expect("opens");
    driver.bind(&bound).expect("binds");
    for (i, tensor) in inputs.iter().enumerate() {
        if let Some(tensor) = tensor.as_ref().filter(|t| !t.weight) {
            driver.upload(i, &tensor.bytes).expect("uploads");
        }
    }
    if let Ok(words) = std::env::var("PARTITA_BENCH_SHORTEST") {
        if words.split(',').any(|word| name.contains(word)) {
            shortest(name, work, || driver.launch(0, 0).expect("runs"));
        }
        return;
    }
    let mut group = c.benchmark_group("step");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    group.throughput(Throughput::Elements(work));
    group.bench_function(name, |b| b.iter(|| driver.launch(0, 0).expect("runs")));
    group.finish();
}

/// Prints the shortest of many launches: what is left of a measurement while others use the machine.
fn shortest(name: &str, work: u64, mut launch: impl FnMut()) {
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    while begin.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        launch();
        best = best.min(start.elapsed());
    }
    let us = best.as_secs_f64() * 1e6;
    println!("{name:50} {us:9.1} us {:7.1} G/s", work as f64 / us / 1e3);
}

fn gemm(c: &mut Criterion, m: usize, k: usize, n: usize, packed: bool) {
    let b = Tensor::noise(&[k, n], 2);
    let b = if packed { b.into_weight() } else { b };
    let work = 2 * (m * n * k) as u64;
    let name = format!("gemm {m}x{k}x{n}{}", if packed { "" } else { " raw" });
    step(c, &name, work, &Spec::new("gemm").int("n_own", 2), vec![Tensor::noise(&[m, k], 1), b], &[m, n]);
}

struct Conv {
    name: &'static str,
    inputs: usize,
    outputs: usize,
    side: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

/// A convolution whose result has its channels last; `layout` says where the data has them.
fn conv_last(c: &mut Criterion, layout: &str, [inputs, outputs, side, kernel, stride]: [usize; 5]) {
    let (pad, out) = ((kernel / 2) as i64, side.div_ceil(stride));
    let x = if layout == "nhwc" { [1, side, side, inputs] } else { [1, inputs, side, side] };
    let spec = Spec::new("conv")
        .string("layout", layout)
        .ints("pads", &[pad; 4])
        .ints("strides", &[stride as i64; 2])
        .int("n_own", 3);
    let name = format!("{layout} {kernel}x{kernel} s{stride} {inputs}-{outputs} {side}");
    let work = 2 * (outputs * out * out * inputs * kernel * kernel) as u64;
    for algorithm in ["direct", "winograd2", "winograd4"] {
        if algorithm != "direct" && (kernel != 3 || stride != 1 || layout != "nhwc") {
            continue;
        }
        let spec = spec.clone().string("algorithm", algorithm);
        let w = Tensor::noise(&[outputs, inputs, kernel, kernel], 2).into_weight();
        let operands = vec![Tensor::noise(&x, 1), w, Tensor::noise(&[outputs], 3)];
        step(c, &format!("{name} {algorithm}"), work, &spec, operands, &[1, out, out, outputs]);
    }
}

fn conv(c: &mut Criterion, case: &Conv) {
    let &Conv { name, inputs, outputs, side, kernel, stride, groups } = case;
    let (pad, out) = ((kernel / 2) as i64, side.div_ceil(stride));
    let spec = Spec::new("conv")
        .ints("pads", &[pad; 4])
        .ints("strides", &[stride as i64; 2])
        .int("group", groups as i64)
        .int("n_own", 3);
    let w = Tensor::noise(&[outputs, inputs / groups, kernel, kernel], 2).into_weight();
    let work = 2 * (outputs * out * out * inputs / groups * kernel * kernel) as u64;
    let inputs = vec![Tensor::noise(&[1, inputs, side, side], 1), w, Tensor::noise(&[outputs], 3)];
    step(c, name, work, &spec, inputs, &[1, outputs, out, out]);
}

/// A depthwise convolution with its channels last, bounded as by ReLU6.
fn depthwise_last(c: &mut Criterion, kernel: usize, stride: usize, side: usize, channels: usize) {
    let (pad, out) = ((kernel / 2) as i64, side.div_ceil(stride));
    let spec = Spec::new("conv")
        .ints("pads", &[pad; 4])
        .ints("strides", &[stride as i64; 2])
        .int("group", channels as i64)
        .string("layout", "nhwc")
        .int("n_own", 3)
        .program(relu6());
    let w = Tensor::noise(&[channels, 1, kernel, kernel], 2).into_weight();
    let work = 2 * (channels * out * out * kernel * kernel) as u64;
    let x = Tensor::noise(&[1, side, side, channels], 1);
    let name = format!("depthwise nhwc {kernel}x{kernel} s{stride} {channels} {side}");
    step(c, &name, work, &spec, vec![x, w, Tensor::noise(&[channels], 3)], &[1, out, out, channels]);
}

fn instr(op: TileOp, args: &[u32], float: f64) -> TileInstr {
    TileInstr { op: op as i32, lane: Lane::Float as i32, args: args.to_vec(), index: 0, float, int: 0 }
}

fn relu6() -> TileProgram {
    let instrs = vec![
        instr(TileOp::Load, &[], 0.0),
        instr(TileOp::Const, &[], 0.0),
        instr(TileOp::Max, &[1, 0], 0.0),
        instr(TileOp::Const, &[], 6.0),
        instr(TileOp::Min, &[3, 2], 0.0),
    ];
    TileProgram { inputs: 1, instrs, outputs: vec![4] }
}

fn gelu() -> TileProgram {
    let instrs = vec![
        instr(TileOp::Load, &[], 0.0),
        instr(TileOp::Const, &[], std::f64::consts::FRAC_1_SQRT_2),
        instr(TileOp::Mul, &[0, 1], 0.0),
        instr(TileOp::Erf, &[2], 0.0),
        instr(TileOp::Const, &[], 1.0),
        instr(TileOp::Add, &[3, 4], 0.0),
        instr(TileOp::Const, &[], 0.5),
        instr(TileOp::Mul, &[0, 6], 0.0),
        instr(TileOp::Mul, &[7, 5], 0.0),
    ];
    TileProgram { inputs: 1, instrs, outputs: vec![8] }
}

fn matrices(c: &mut Criterion) {
    for size in [64, 256, 512, 1024] {
        gemm(c, size, size, size, true);
    }
    gemm(c, 512, 512, 512, false);
    gemm(c, 128, 768, 768, true);
    gemm(c, 128, 768, 3072, true);
    gemm(c, 128, 3072, 768, true);
    gemm(c, 1, 3072, 768, true);
    gemm(c, 1, 768, 50_257, true);
    let heads = [12, 128, 64];
    let spec = Spec::new("attention").float("scale", 0.125);
    let qkv = (0..3).map(|i| Tensor::noise(&heads, i)).collect();
    step(c, "attention 12x128x64", 4 * 12 * 128 * 128 * 64, &spec, qkv, &heads);
}

fn convolutions(c: &mut Criterion) {
    let case = |name, inputs, outputs, side, kernel, stride, groups| Conv {
        name,
        inputs,
        outputs,
        side,
        kernel,
        stride,
        groups,
    };
    for case in [
        case("conv 3x3 64-64 56", 64, 64, 56, 3, 1, 1),
        case("conv 3x3 128-128 28", 128, 128, 28, 3, 1, 1),
        case("conv 3x3 512-512 7", 512, 512, 7, 3, 1, 1),
        case("conv 3x3 s2 128-128 56", 128, 128, 56, 3, 2, 1),
        case("conv 7x7 s2 3-64 224", 3, 64, 224, 7, 2, 1),
        case("conv 1x1 64-256 56", 64, 256, 56, 1, 1, 1),
        case("conv 1x1 256-64 56", 256, 64, 56, 1, 1, 1),
        case("conv 1x1 2048-512 7", 2048, 512, 7, 1, 1, 1),
        case("conv 1x1 16-96 112", 16, 96, 112, 1, 1, 1),
        case("conv 1x1 960-160 7", 960, 160, 7, 1, 1, 1),
        case("depthwise 3x3 96 112", 96, 96, 112, 3, 1, 96),
        case("depthwise 3x3 s2 96 112", 96, 96, 112, 3, 2, 96),
        case("depthwise 3x3 384 14", 384, 384, 14, 3, 1, 384),
        case("depthwise 3x3 960 7", 960, 960, 7, 3, 1, 960),
        case("depthwise 5x5 96 14", 96, 96, 14, 5, 1, 96),
    ] {
        conv(c, &case);
    }
}

/// Layers of convolution nets: inputs, outputs, side, kernel, stride.
fn convolutions_last(c: &mut Criterion) {
    for case in [[3, 64, 224, 7, 2], [3, 64, 224, 3, 2], [3, 32, 224, 3, 2], [3, 16, 224, 3, 2]] {
        conv_last(c, "nchw_nhwc", case);
    }
    let residual = [
        [64, 64, 56, 3, 1],
        [128, 128, 28, 3, 1],
        [256, 256, 14, 3, 1],
        [512, 512, 7, 3, 1],
        [128, 128, 56, 3, 2],
        [256, 256, 28, 3, 2],
        [512, 512, 14, 3, 2],
        [64, 256, 56, 1, 1],
        [256, 64, 56, 1, 1],
        [512, 128, 28, 1, 1],
        [256, 1024, 14, 1, 1],
        [1024, 256, 14, 1, 1],
        [1040, 256, 14, 1, 1],
        [2048, 512, 7, 1, 1],
        [256, 512, 56, 1, 2],
        [512, 1024, 28, 1, 2],
        [520, 1024, 28, 1, 2],
        [1024, 2048, 14, 1, 2],
    ];
    let fire = [
        [16, 64, 55, 1, 1],
        [16, 64, 55, 3, 1],
        [32, 128, 27, 3, 1],
        [48, 192, 13, 3, 1],
        [64, 256, 13, 3, 1],
    ];
    let levels = [
        [1, 16, 256, 3, 1],
        [16, 16, 256, 3, 1],
        [32, 32, 128, 3, 1],
        [64, 64, 64, 3, 1],
        [128, 128, 32, 3, 1],
        [128, 128, 16, 3, 1],
    ];
    let mobile = [
        [16, 96, 112, 1, 1],
        [24, 144, 56, 1, 1],
        [144, 24, 56, 1, 1],
        [192, 32, 28, 1, 1],
        [384, 64, 14, 1, 1],
        [960, 160, 7, 1, 1],
        [160, 960, 7, 1, 1],
        [320, 1280, 7, 1, 1],
    ];
    for case in residual.into_iter().chain(fire).chain(levels).chain(mobile) {
        conv_last(c, "nhwc", case);
    }
}

fn rows(c: &mut Criterion) {
    let shape = [1536, 128];
    let elements = 1536 * 128;
    let x = || vec![Tensor::noise(&shape, 1)];
    step(c, "softmax 1536x128", elements, &Spec::new("softmax").int("axis", 1), x(), &shape);
    let norm = vec![Tensor::noise(&[128, 768], 1), Tensor::noise(&[768], 2), Tensor::noise(&[768], 3)];
    step(c, "layer_norm 128x768", 128 * 768, &Spec::new("layer_norm").int("axis", 1), norm, &[128, 768]);
    let large = [128, 3072];
    step(
        c,
        "tile gelu 128x3072",
        128 * 3072,
        &Spec::new("tile").program(gelu()),
        vec![Tensor::noise(&large, 1)],
        &large,
    );
    let spec = Spec::new("transpose").ints("perm", &[1, 0, 2]);
    step(c, "transpose 128x12x64", 128 * 768, &spec, vec![Tensor::noise(&[128, 12, 64], 1)], &[12, 128, 64]);
    let spec = Spec::new("transpose").ints("perm", &[1, 0]);
    step(c, "transpose 768x768", 768 * 768, &spec, vec![Tensor::noise(&[768, 768], 1)], &[768, 768]);
    let spec = Spec::new("pool")
        .string("mode", "max")
        .ints("kernel", &[3, 3])
        .ints("strides", &[2, 2])
        .ints("pads", &[1; 4]);
    step(
        c,
        "max pool 3x3 s2 64 112",
        64 * 56 * 56 * 9,
        &spec,
        vec![Tensor::noise(&[1, 64, 112, 112], 1)],
        &[1, 64, 56, 56],
    );
    let spec = Spec::new("reduce").string("mode", "mean").ints("axes", &[2, 3]);
    step(c, "mean 2048x7x7", 2048 * 49, &spec, vec![Tensor::noise(&[1, 2048, 7, 7], 1)], &[1, 2048]);
}

/// Mobile networks with the channels last: everything between the products.
fn channels_last(c: &mut Criterion) {
    for (kernel, stride, side, channels) in
        [(3, 1, 112, 32), (3, 1, 14, 576), (3, 1, 7, 960), (5, 2, 28, 96), (5, 1, 14, 240), (5, 1, 7, 576)]
    {
        depthwise_last(c, kernel, stride, side, channels);
    }
    let spec = Spec::new("pool")
        .string("mode", "max")
        .string("layout", "nhwc")
        .ints("kernel", &[3, 3])
        .ints("strides", &[2, 2])
        .ints("pads", &[1; 4]);
    let x = vec![Tensor::noise(&[1, 112, 112, 64], 1)];
    step(c, "max pool nhwc 3x3 s2 64 112", 64 * 56 * 56 * 9, &spec, x, &[1, 56, 56, 64]);
    for (side, channels) in [(7, 1280), (56, 64)] {
        let spec = Spec::new("reduce").string("mode", "mean").ints("axes", &[1, 2]);
        let x = vec![Tensor::noise(&[1, side, side, channels], 1)];
        let work = (side * side * channels) as u64;
        step(c, &format!("mean nhwc {side}x{side}x{channels}"), work, &spec, x, &[1, 1, 1, channels]);
    }
    for (side, inputs, outputs) in [(16, 128, 64), (64, 32, 16)] {
        let spec =
            Spec::new("conv_transpose").ints("strides", &[2, 2]).string("layout", "nhwc").int("n_own", 3);
        let w = Tensor::noise(&[inputs, outputs, 2, 2], 2).into_weight();
        let x = vec![Tensor::noise(&[1, side, side, inputs], 1), w, Tensor::noise(&[outputs], 3)];
        let work = 2 * (4 * side * side * inputs * outputs) as u64;
        let name = format!("conv_transpose nhwc 2x2 s2 {inputs}-{outputs} {side}");
        step(c, &name, work, &spec, x, &[1, 2 * side, 2 * side, outputs]);
    }
}

/// What one core can do: independent fused multiply-adds on registers.
fn peak(c: &mut Criterion) {
    const STEPS: usize = 100_000;
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements((STEPS * 20 * 16 * 2) as u64));
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    #[cfg(target_arch = "x86_64")]
    if partita_cpu::isa::Isa::detect() == partita_cpu::isa::Isa::Avx512 {
        // SAFETY: the instruction set was detected.
        group.bench_function("fma 512 bit", |b| b.iter(|| unsafe { fma_loop(black_box(STEPS)) }));
    }
    group.finish();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn fma_loop(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let (scale, shift) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
    let mut sums = [_mm512_set1_ps(0.5); 20];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, scale, shift);
        }
    }
    sums.iter().map(|&s| _mm512_reduce_add_ps(s)).sum()
}

criterion_group!(benches, peak, matrices, convolutions, convolutions_last, channels_last, rows);
criterion_main!(benches);
