//! One step as a whole plan: builds it, runs it on every instruction set and with one and two threads.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use partita_cpu::CpuFactory;
use partita_cpu::isa::Isa;
use partita_plan::{
    Device, DimExpr, ElementType, Kernel, NO_VALUE, Param, Plan, Queue, Step, Storage, TileProgram, Value,
};
use partita_runtime::driver::{Bound, DriverFactory};
use partita_runtime::error::RuntimeError;
use std::sync::Arc;

/// A tensor: type, shape, bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    /// Stored in the weight section, packed where the device wants it.
    pub weight: bool,
}

impl Tensor {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let bytes = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        Self { dtype: ElementType::F32, shape: shape.to_vec(), bytes, weight: false }
    }

    pub fn i64(shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        Self { dtype: ElementType::I64, shape: shape.to_vec(), bytes, weight: false }
    }

    /// Deterministic values in [-1, 1).
    pub fn noise(shape: &[usize], seed: u64) -> Self {
        let count = shape.iter().product();
        Self::f32(shape, &noise(count, seed))
    }

    pub fn into_weight(mut self) -> Self {
        self.weight = true;
        self
    }

    pub fn values(&self) -> Vec<f32> {
        floats(&self.bytes)
    }
}

pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_ne_bytes(c.try_into().expect("four bytes"))).collect()
}

/// Elements of [N, C, spatial...] as [N, spatial..., C], with the new shape.
pub fn moved<T: Copy>(shape: &[usize], values: &[T]) -> (Vec<usize>, Vec<T>) {
    let (channels, plane) = (shape[1], shape[2..].iter().product::<usize>());
    let at = |i: usize| (i / (channels * plane) * channels + i % channels) * plane + i / channels % plane;
    let shape = [&shape[..1], &shape[2..], &[channels]].concat();
    (shape, (0..values.len()).map(|i| values[at(i)]).collect())
}

/// The f32 tensor with its channels last.
pub fn channels_last(x: &Tensor) -> Tensor {
    let (shape, values) = moved(&x.shape, &x.values());
    Tensor::f32(&shape, &values)
}

/// A kernel under construction.
#[derive(Clone)]
pub struct Spec(pub Kernel);

impl Spec {
    pub fn new(library: &str) -> Self {
        Self(Kernel { library: library.to_owned(), params: vec![], program: None })
    }

    pub fn param(mut self, param: Param) -> Self {
        self.0.params.push(param);
        self.0.params.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    pub fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.param(Param { name: name.into(), ints: ints.to_vec(), ..Param::default() })
    }

    pub fn int(self, name: &str, value: i64) -> Self {
        self.ints(name, &[value])
    }

    pub fn float(self, name: &str, value: f64) -> Self {
        self.param(Param { name: name.into(), floats: vec![value], ..Param::default() })
    }

    pub fn string(self, name: &str, value: &str) -> Self {
        self.param(Param { name: name.into(), strings: vec![value.into()], ..Param::default() })
    }

    pub fn dims(self, name: &str, values: &[i64]) -> Self {
        let dims = values.iter().map(|&v| DimExpr::constant(v)).collect();
        self.param(Param { name: name.into(), dims, ..Param::default() })
    }

    pub fn program(mut self, program: TileProgram) -> Self {
        self.0.program = Some(program);
        self
    }
}

fn value(index: usize, dtype: ElementType, shape: &[usize]) -> Value {
    Value {
        name: format!("v{index}"),
        dtype: dtype as i32,
        shape: shape.iter().map(|&d| DimExpr::constant(d as i64)).collect(),
        storage: Storage::Arena as i32,
        ..Value::default()
    }
}

/// The plan of one step, with its sizes bound.
pub fn bound(spec: &Spec, inputs: &[Option<Tensor>], outputs: &[(ElementType, Vec<usize>)]) -> Bound {
    let (mut values, mut shapes, mut sizes, mut offsets) = (vec![], vec![], vec![], vec![]);
    let (mut weights, mut arena, mut step_inputs) = (Vec::<u8>::new(), 0usize, vec![]);
    for (operand, tensor) in inputs.iter().enumerate() {
        let Some(tensor) = tensor else {
            step_inputs.push(NO_VALUE);
            continue;
        };
        step_inputs.push(values.len() as u32);
        let mut v = value(values.len(), tensor.dtype, &tensor.shape);
        if tensor.weight {
            let packed = partita_cpu::pack(&spec.0, operand, &tensor.bytes, tensor.dtype, &tensor.shape);
            let (layout, bytes) = packed.unwrap_or_else(|| (String::new(), tensor.bytes.clone()));
            weights.resize(weights.len().next_multiple_of(64), 0);
            v.layout = layout;
            v.storage = Storage::Weight as i32;
            v.stored_bytes = bytes.len() as u64;
            offsets.push(weights.len());
            sizes.push(bytes.len());
            weights.extend(bytes);
        } else {
            offsets.push(arena);
            sizes.push(tensor.bytes.len());
            arena += tensor.bytes.len().next_multiple_of(64);
        }
        values.push(v);
        shapes.push(tensor.shape.clone());
    }
    let mut step_outputs = vec![];
    for (dtype, shape) in outputs {
        step_outputs.push(values.len() as u32);
        let bytes = shape.iter().product::<usize>() * dtype.size_bytes();
        values.push(value(values.len(), *dtype, shape));
        shapes.push(shape.clone());
        offsets.push(arena);
        sizes.push(bytes);
        arena += bytes.next_multiple_of(64);
    }
    let step = Step { name: "step".into(), inputs: step_inputs, outputs: step_outputs, ..Step::default() };
    let plan = Plan {
        devices: vec![Device { name: "cpu0".into(), driver: "cpu".into(), ..Device::default() }],
        values,
        kernels: vec![spec.0.clone()],
        queues: vec![Queue { name: "cpu0".into(), steps: vec![step], ..Queue::default() }],
        ..Plan::default()
    };
    Bound {
        plan: Arc::new(plan),
        symbols: vec![],
        shapes,
        sizes_bytes: sizes,
        offsets_bytes: offsets,
        arena_bytes: vec![arena],
        weights: Arc::new(weights),
    }
}

/// Binds and runs `bound`; results as bytes.
pub fn execute(
    factory: &CpuFactory,
    bound: Bound,
    inputs: &[Option<Tensor>],
) -> Result<Vec<Vec<u8>>, RuntimeError> {
    let mut driver = factory.open(&bound.plan, 0)?;
    let bound = Arc::new(bound);
    driver.bind(&bound)?;
    let step = &bound.plan.queues[0].steps[0];
    for (tensor, &index) in inputs.iter().zip(&step.inputs) {
        if let Some(tensor) = tensor.as_ref().filter(|t| !t.weight) {
            driver.upload(index as usize, &tensor.bytes)?;
        }
    }
    // Twice, so that scratch is dirty the second time.
    driver.launch(0, 0)?;
    driver.launch(0, 0)?;
    let download = |&index: &u32| {
        let mut bytes = vec![0; bound.sizes_bytes[index as usize]];
        driver.download(index as usize, &mut bytes).map(|()| bytes)
    };
    step.outputs.iter().map(download).collect()
}

/// Every instruction set with one thread, the widest also with two and three.
pub fn factories() -> Vec<(String, CpuFactory)> {
    let mut all: Vec<_> = Isa::available()
        .into_iter()
        .map(|isa| (format!("{isa:?}"), CpuFactory::new(Some(1)).with_isa(isa)))
        .collect();
    all.push(("2 threads".into(), CpuFactory::new(Some(2))));
    all.push(("3 threads".into(), CpuFactory::new(Some(3))));
    all
}

/// Runs on every factory and hands each result to `check`.
pub fn run_all(
    spec: &Spec,
    inputs: &[Option<Tensor>],
    outputs: &[(ElementType, Vec<usize>)],
    check: impl Fn(&str, &[Vec<u8>]),
) {
    for (name, factory) in factories() {
        let results = execute(&factory, bound(spec, inputs, outputs), inputs).expect("binds and runs");
        check(&name, &results);
    }
}

/// The error of binding or running.
pub fn refusal(
    spec: &Spec,
    inputs: &[Option<Tensor>],
    outputs: &[(ElementType, Vec<usize>)],
) -> RuntimeError {
    execute(&CpuFactory::new(Some(1)), bound(spec, inputs, outputs), inputs).expect_err("is refused")
}

/// Compares with a relative error of 1e-5 of the largest magnitude around.
pub fn assert_close(name: &str, got: &[f32], want: &[f64]) {
    assert_within(name, got, want, largest(want));
}

/// The largest finite magnitude, at least 1.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()))
}

/// Compares with an error of 1e-5 of `scale`.
pub fn assert_within(name: &str, got: &[f32], want: &[f64], scale: f64) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = f64::from(g) == w || (g.is_nan() && w.is_nan());
        assert!(same || (f64::from(g) - w).abs() <= 1e-5 * scale, "{name}: element {i} is {g}, not {w}");
    }
}

pub fn check_f32(spec: &Spec, inputs: &[Option<Tensor>], shape: &[usize], want: &[f64]) {
    check_within(spec, inputs, shape, want, largest(want));
}

/// `check_f32` with an error of 1e-5 of `scale`.
pub fn check_within(spec: &Spec, inputs: &[Option<Tensor>], shape: &[usize], want: &[f64], scale: f64) {
    run_all(spec, inputs, &[(ElementType::F32, shape.to_vec())], |name, results| {
        assert_within(name, &floats(&results[0]), want, scale);
    });
}
