//! Plans that do not add up are refused with a code, and half-width operands and host kernels work.

mod common;

use common::{Spec, Tensor, bound, check_f32, execute, floats, refusal, run_all};
use partita_cpu::CpuFactory;
use partita_plan::{ElementType, Kernel, Storage};
use partita_runtime::driver::{Bound, DriverFactory, HostKernel, HostKernels, HostType};
use partita_runtime::error::RuntimeError;
use std::sync::Arc;

const F32: ElementType = ElementType::F32;

fn refused(library: &str, inputs: &[&[usize]], output: &[usize]) {
    let spec = Spec::new(library)
        .int("axis", 0)
        .ints("kernel", &[2, 2])
        .string("mode", "max")
        .ints("axes", &[0])
        .ints("perm", &[1, 0]);
    let inputs: Vec<_> = inputs.iter().map(|s| Some(Tensor::noise(s, 1))).collect();
    let error = refusal(&spec, &inputs, &[(F32, output.to_vec())]);
    assert_eq!(error.code, "R040", "{library}: {error}");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    refused("gemm", &[&[4, 5], &[6, 3]], &[4, 3]);
    refused("gemm", &[&[4, 5], &[5, 3]], &[5, 3]);
    refused("gemm", &[&[2, 4, 5], &[3, 5, 3]], &[2, 4, 3]);
    refused("gemm", &[&[5], &[5, 3]], &[3]);
    refused("conv", &[&[1, 3, 8, 8], &[4, 2, 3, 3]], &[1, 4, 6, 6]);
    refused("conv", &[&[1, 3, 8, 8], &[4, 3, 3, 3]], &[1, 5, 6, 6]);
    refused("conv", &[&[1, 3, 8, 8], &[4, 3, 3, 3], &[5]], &[1, 4, 6, 6]);
    refused("conv_transpose", &[&[1, 3, 8, 8], &[3, 4, 3, 3]], &[1, 5, 10, 10]);
    refused("pool", &[&[1, 3, 8, 8]], &[1, 4, 7, 7]);
    refused("reduce", &[&[4, 5]], &[4]);
    refused("softmax", &[&[4, 5]], &[4, 6]);
    refused("layer_norm", &[&[4, 5], &[7]], &[4, 5]);
    refused("attention", &[&[4, 8], &[6, 9], &[6, 8]], &[4, 8]);
    refused("transpose", &[&[4, 5]], &[4, 5]);
    refused("slice", &[&[4, 5]], &[4, 5]);
    refused("expand", &[&[4, 5]], &[4, 6]);
    refused("concat", &[&[4, 5], &[4, 5]], &[7, 5]);
    refused("gather", &[&[4, 5], &[2]], &[2, 5]);
    refused("copy", &[&[4, 5]], &[19]);
    refused("tile", &[&[4, 5]], &[4, 5]);
    refused("no_such_kernel", &[&[4, 5]], &[4, 5]);
}

#[test]
fn heads_outside_of_operands_are_refused() {
    let steps = |name: &str, steps: &[i64]| {
        let mut spec = Spec::new("attention").dims("sizes", &[2, 4, 6, 8, 8]);
        for (own, plain) in
            [("q", [0, 8, 16, 1]), ("k", [0, 8, 16, 1]), ("v", [0, 8, 16, 1]), ("y", [0, 8, 16, 1])]
        {
            spec = spec.dims(own, if own == name { steps } else { &plain });
        }
        let inputs: Vec<_> = [4, 6, 6].iter().map(|n| Some(Tensor::noise(&[*n, 16], 1))).collect();
        execute(&CpuFactory::new(Some(1)), bound(&spec, &inputs, &[(F32, vec![4, 16])]), &inputs)
    };
    assert!(steps("q", &[0, 8, 16, 1]).is_ok());
    let bad: [(&str, &[i64]); 8] = [
        ("q", &[1, 8, 16, 1]),
        ("k", &[0, 8, 17, 1]),
        ("v", &[0, i64::MAX, 16, 1]),
        ("q", &[0, -8, 16, 1]),
        ("y", &[0, 8, 16]),
        ("y", &[0, 8, 16, 2]),
        ("y", &[0, 0, 16, 1]),
        ("y", &[0, 4, 16, 1]),
    ];
    for (name, list) in bad {
        assert_eq!(steps(name, list).expect_err("is refused").code, "R040", "{name} {list:?}");
    }
}

/// A valid product whose plan is then damaged.
fn damaged(damage: impl Fn(&mut Bound)) -> RuntimeError {
    let inputs = [Some(Tensor::noise(&[4, 5], 1)), Some(Tensor::noise(&[5, 40], 1).into_weight())];
    let mut bound = bound(&Spec::new("gemm").int("n_own", 2), &inputs, &[(F32, vec![4, 40])]);
    damage(&mut bound);
    execute(&CpuFactory::new(Some(1)), bound, &inputs).expect_err("is refused")
}

#[test]
fn addresses_outside_of_memory_are_refused() {
    assert_eq!(damaged(|b| b.offsets_bytes[0] = usize::MAX).code, "R045");
    assert_eq!(damaged(|b| b.offsets_bytes[1] += 64).code, "R045");
    assert_eq!(damaged(|b| b.arena_bytes[0] = 64).code, "R045");
    assert_eq!(damaged(|b| b.sizes_bytes[2] -= 4).code, "R045");
    assert_eq!(damaged(|b| b.shapes[2] = vec![usize::MAX, usize::MAX]).code, "R045");
    assert_eq!(damaged(|b| b.offsets_bytes[0] = 2).code, "R045");
    assert_eq!(damaged(|b| b.offsets_bytes[2] = 0).code, "R040");
    assert_eq!(damaged(|b| b.arena_bytes[0] = usize::MAX / 2).code, "R044");
    for layout in ["gemm-b:5x64", "gemm-b:6x40", "conv-a:1x5x40", "gemm-b:5000x4000", "nonsense"] {
        let error = damaged(|b| Arc::make_mut(&mut b.plan).values[1].layout = layout.into());
        assert!(["R040", "R045"].contains(&error.code), "{layout}: {error}");
    }
    let error = damaged(|b| {
        let value = &mut Arc::make_mut(&mut b.plan).values[0];
        (value.storage, value.alias_of) = (Storage::Alias as i32, 0);
    });
    assert_eq!(error.code, "R045");
    let error = damaged(|b| Arc::make_mut(&mut b.plan).values[2].storage = Storage::Weight as i32);
    assert!(["R040", "R045"].contains(&error.code));
}

#[test]
fn sizes_of_transfers_are_checked() {
    let inputs = [Some(Tensor::noise(&[4], 1))];
    let bound = Arc::new(bound(&Spec::new("copy"), &inputs, &[(F32, vec![4])]));
    let mut driver = CpuFactory::new(Some(1)).open(&bound.plan, 0).unwrap();
    assert_eq!(driver.launch(0, 0).unwrap_err().code, "R047");
    driver.bind(&bound).unwrap();
    assert_eq!(driver.upload(0, &[0; 15]).unwrap_err().code, "R048");
    assert_eq!(driver.download(9, &mut [0; 16]).unwrap_err().code, "R047");
    assert_eq!(driver.launch(0, 7).unwrap_err().code, "R047");
    assert_eq!(driver.host_bytes(1).map(<[u8]>::len), Some(16));
    assert!(CpuFactory::new(None).open(&bound.plan, 3).is_err());
}

#[test]
fn half_width_operands_are_converted() {
    let halves =
        |values: &[f32]| values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_ne_bytes()).collect();
    let tensor = |shape: &[usize], values: &[f32]| {
        Some(Tensor { dtype: ElementType::Bf16, shape: shape.to_vec(), bytes: halves(values), weight: false })
    };
    let inputs = [tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), tensor(&[2, 1], &[0.5, -1.0])];
    let spec = Spec::new("gemm").int("n_own", 2);
    run_all(&spec, &inputs, &[(F32, vec![2, 1])], |_, r| assert_eq!(floats(&r[0]), [-1.5, -2.5]));
    let want: Vec<u8> = halves(&[-1.5, -2.5]);
    run_all(&spec, &inputs, &[(ElementType::Bf16, vec![2, 1])], |_, r| assert_eq!(r[0], want));
}

/// Doubles bytes.
struct Doubling;

impl HostKernel for Doubling {
    fn run(&self, inputs: &[Option<&[u8]>], outputs: &mut [&mut [u8]]) -> Result<(), RuntimeError> {
        let x = inputs[0].expect("an operand");
        outputs[0].iter_mut().zip(x).for_each(|(o, &x)| *o = x * 2);
        Ok(())
    }
}

impl HostKernels for Doubling {
    fn prepare(
        &self,
        kernel: &Kernel,
        inputs: &[Option<HostType>],
        _: &[HostType],
        _: &[i64],
    ) -> Result<Box<dyn HostKernel>, RuntimeError> {
        assert_eq!((kernel.string("op"), inputs.len()), (Some("Double"), 2));
        Ok(Box::new(Doubling))
    }
}

#[test]
fn reference_steps_go_to_host_kernels() {
    let spec = Spec::new("reference").string("op", "Double");
    let x = Tensor { dtype: ElementType::U8, shape: vec![3], bytes: vec![1, 2, 3], weight: false };
    let (inputs, outputs) = ([Some(x), None], [(ElementType::U8, vec![3])]);
    assert_eq!(refusal(&spec, &inputs, &outputs).code, "R042");
    let factory = CpuFactory::new(Some(1)).with_host_kernels(Arc::new(Doubling));
    let results = execute(&factory, bound(&spec, &inputs, &outputs), &inputs).unwrap();
    assert_eq!(results[0], [2, 4, 6]);
}

#[test]
fn empty_tensors_are_fine() {
    check_f32(&Spec::new("softmax").int("axis", 1), &[Some(Tensor::noise(&[0, 4], 1))], &[0, 4], &[]);
    check_f32(
        &Spec::new("transpose").ints("perm", &[1, 0]),
        &[Some(Tensor::noise(&[0, 4], 1))],
        &[4, 0],
        &[],
    );
    check_f32(
        &Spec::new("gemm"),
        &[Some(Tensor::noise(&[0, 4], 1)), Some(Tensor::noise(&[4, 3], 1))],
        &[0, 3],
        &[],
    );
}
