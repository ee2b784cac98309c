//! One-step plans on the adapter of the machine, and the naive index loops that results are compared with.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use partita_plan::tile::{Lane, TileInstr, TileOp, TileProgram};
use partita_plan::{
    Device, DimExpr, ElementType, Kernel, NO_VALUE, Param, Plan, Queue, Step, Storage, Value,
};
use partita_runtime::{Bound, Driver, DriverFactory, RuntimeError, WeightBytes};
use partita_wgpu::WgpuFactory;
use std::sync::{Arc, Mutex, OnceLock};

/// Offsets are aligned less than bindings must be, so that kernels start inside a binding.
const ALIGN: usize = 64;

/// A tensor as bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32(shape: &[usize], data: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: ElementType::F32, shape: shape.to_vec(), bytes }
    }

    pub fn i64(shape: &[usize], data: &[i64]) -> Self {
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: ElementType::I64, shape: shape.to_vec(), bytes }
    }

    pub fn random(seed: u64, shape: &[usize]) -> Self {
        Self::f32(shape, &random(seed, shape.iter().product()))
    }

    pub fn floats(&self) -> Vec<f32> {
        floats(&self.bytes)
    }
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub fn longs(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Numbers between -1 and 1 from a seed.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    bits(seed, n).into_iter().map(|b| (b >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Random words from a seed.
pub fn bits(seed: u64, n: usize) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..16 {
        next();
    }
    (0..n).map(|_| next()).collect()
}

pub fn kernel(library: &str) -> Kernel {
    Kernel { library: library.into(), ..Kernel::default() }
}

pub fn with_ints(mut kernel: Kernel, name: &str, ints: &[i64]) -> Kernel {
    kernel.params.push(Param { name: name.into(), ints: ints.to_vec(), ..Param::default() });
    kernel
}

pub fn with_dims(mut kernel: Kernel, name: &str, dims: &[i64]) -> Kernel {
    let dims = dims.iter().map(|d| DimExpr::constant(*d)).collect();
    kernel.params.push(Param { name: name.into(), dims, ..Param::default() });
    kernel
}

pub fn with_float(mut kernel: Kernel, name: &str, float: f64) -> Kernel {
    kernel.params.push(Param { name: name.into(), floats: vec![float], ..Param::default() });
    kernel
}

pub fn with_string(mut kernel: Kernel, name: &str, string: &str) -> Kernel {
    kernel.params.push(Param { name: name.into(), strings: vec![string.into()], ..Param::default() });
    kernel
}

pub fn instr(op: TileOp, lane: Lane, args: &[u32]) -> TileInstr {
    TileInstr { op: op as i32, lane: lane as i32, args: args.to_vec(), ..TileInstr::default() }
}

pub fn load(lane: Lane, index: u32) -> TileInstr {
    TileInstr { index, ..instr(TileOp::Load, lane, &[]) }
}

/// `relu(own) + operand 1`, as an epilogue.
pub fn relu_plus() -> TileProgram {
    let zero = TileInstr { float: 0.0, ..instr(TileOp::Const, Lane::Float, &[]) };
    let instrs = vec![
        load(Lane::Float, 0),
        zero,
        instr(TileOp::Max, Lane::Float, &[0, 1]),
        load(Lane::Float, 1),
        instr(TileOp::Add, Lane::Float, &[2, 3]),
    ];
    TileProgram { inputs: 2, instrs, outputs: vec![4] }
}

/// A plan of one step. Every second operand is a weight.
pub fn plan_of(kernel: Kernel, inputs: &[Option<Tensor>], outputs: &[(ElementType, Vec<usize>)]) -> Bound {
    let mut b = Builder::default();
    let mut weights = Vec::new();
    let mut step = Step { name: kernel.library.clone(), ..Step::default() };
    for (k, input) in inputs.iter().enumerate() {
        let id = input.as_ref().map_or(NO_VALUE, |t| {
            let weight = (k % 2 == 1).then_some(&mut weights);
            b.value(t.dtype, &t.shape, weight.map(|w| (w, t.bytes.as_slice())))
        });
        step.inputs.push(id);
    }
    for (dtype, shape) in outputs {
        step.outputs.push(b.value(*dtype, shape, None));
    }
    b.finish(vec![kernel], vec![step], weights)
}

/// Collects values of a plan.
#[derive(Default)]
pub struct Builder {
    values: Vec<Value>,
    shapes: Vec<Vec<usize>>,
    sizes: Vec<usize>,
    offsets: Vec<usize>,
    arena: usize,
}

impl Builder {
    /// Adds a value: a weight with its bytes, or one in the arena.
    pub fn value(
        &mut self,
        dtype: ElementType,
        shape: &[usize],
        weight: Option<(&mut Vec<u8>, &[u8])>,
    ) -> u32 {
        let bytes = shape.iter().product::<usize>() * dtype.size_bytes();
        let mut storage = Storage::Arena;
        let end = match weight {
            None => &mut self.arena,
            Some((section, content)) => {
                storage = Storage::Weight;
                section.resize(section.len().next_multiple_of(ALIGN), 0);
                self.offsets.push(section.len());
                section.extend_from_slice(content);
                &mut 0
            }
        };
        if storage == Storage::Arena {
            self.offsets.push(end.next_multiple_of(ALIGN));
            *end = end.next_multiple_of(ALIGN) + bytes;
        }
        let value = Value { dtype: dtype as i32, storage: storage as i32, ..Value::default() };
        let shape_of = shape.iter().map(|d| DimExpr::constant(*d as i64)).collect();
        let name = format!("v{}", self.values.len());
        self.values.push(Value { name, shape: shape_of, ..value });
        self.shapes.push(shape.to_vec());
        self.sizes.push(bytes);
        self.values.len() as u32 - 1
    }

    pub fn finish(self, kernels: Vec<Kernel>, steps: Vec<Step>, weights: Vec<u8>) -> Bound {
        let device = Device { name: "gpu0".into(), driver: "wgpu".into(), ..Device::default() };
        let queue = Queue { name: "gpu0".into(), steps, ..Queue::default() };
        let plan = Plan {
            devices: vec![device],
            values: self.values,
            kernels,
            queues: vec![queue],
            ..Plan::default()
        };
        let weights: WeightBytes = Arc::new(weights);
        Bound {
            plan: Arc::new(plan),
            symbols: Vec::new(),
            shapes: self.shapes,
            sizes_bytes: self.sizes,
            offsets_bytes: self.offsets,
            arena_bytes: vec![self.arena],
            weights,
        }
    }
}

/// Opens the first adapter, or says that there is none.
pub fn open(bound: &Bound) -> Option<Box<dyn Driver>> {
    match WgpuFactory::new().open(&bound.plan, 0) {
        Ok(driver) => Some(driver),
        Err(e) if e.code == "G001" => {
            println!("skipped: this machine has no graphics adapter");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// Runs a plan of one step. The adapter stays open for a whole test program; `None` where there is none.
pub fn run(
    kernel: Kernel,
    inputs: &[Option<Tensor>],
    outputs: &[(ElementType, Vec<usize>)],
) -> Option<Result<Vec<Vec<u8>>, RuntimeError>> {
    static DRIVER: OnceLock<Option<Mutex<Box<dyn Driver>>>> = OnceLock::new();
    let types: Vec<ElementType> = inputs.iter().flatten().map(|t| t.dtype).collect();
    let results: Vec<ElementType> = outputs.iter().map(|(d, _)| *d).collect();
    assert!(partita_wgpu::supports(&kernel, &types, &results), "{kernel:?} is not in the table");
    let bound = Arc::new(plan_of(kernel, inputs, outputs));
    let driver = DRIVER.get_or_init(|| open(&bound).map(Mutex::new)).as_ref()?;
    let mut driver = driver.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Some(once(&mut **driver, &bound, inputs))
}

fn once(
    driver: &mut dyn Driver,
    bound: &Arc<Bound>,
    inputs: &[Option<Tensor>],
) -> Result<Vec<Vec<u8>>, RuntimeError> {
    driver.bind(bound)?;
    let step = &bound.plan.queues[0].steps[0];
    for (id, tensor) in step.inputs.iter().zip(inputs) {
        let Some(tensor) = tensor else { continue };
        if bound.plan.values[*id as usize].storage == Storage::Arena as i32 {
            driver.upload(*id as usize, &tensor.bytes)?;
        }
    }
    driver.launch(0, 0)?;
    let mut results = Vec::new();
    for id in &step.outputs {
        let mut bytes = vec![0u8; bound.sizes_bytes[*id as usize]];
        driver.download(*id as usize, &mut bytes)?;
        results.push(bytes);
    }
    Ok(results)
}

/// Runs a kernel of float operands with one float result and compares it with `want`.
pub fn check(kernel: Kernel, inputs: &[Option<Tensor>], shape: &[usize], want: &[f32], tolerance: f32) {
    let Some(result) = run(kernel.clone(), inputs, &[(ElementType::F32, shape.to_vec())]) else { return };
    let got = floats(&result.unwrap_or_else(|e| panic!("{e}"))[0]);
    close(&got, want, tolerance, &format!("{kernel:?} {shape:?}"));
}

pub fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(same, "element {k}: got {g}, want {w}; {what}");
    }
}

/// All coordinates of a shape in row-major order.
pub fn coords(shape: &[usize]) -> Vec<Vec<usize>> {
    let n: usize = shape.iter().product();
    (0..n)
        .map(|mut i| {
            let mut at = vec![0; shape.len()];
            for k in (0..shape.len()).rev() {
                at[k] = i % shape[k];
                i /= shape[k];
            }
            at
        })
        .collect()
}

/// Linear index of coordinates in a tensor that is broadcast to them.
pub fn at(shape: &[usize], coords: &[usize]) -> usize {
    let skip = coords.len() - shape.len();
    shape.iter().zip(&coords[skip..]).fold(0, |i, (size, c)| i * size + if *size == 1 { 0 } else { *c })
}
