//! The driver: several steps, order of copies and launches, re-binding, errors as sentences.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{Builder, Tensor, floats, instr, kernel, load, open, plan_of, with_ints};
use partita_plan::tile::{Lane, TileOp, TileProgram};
use partita_plan::{Device, ElementType, Kernel, Plan, Step, Storage};
use partita_runtime::{Bound, DriverFactory};
use partita_wgpu::{WgpuFactory, adapters};
use std::sync::Arc;

/// `inputs[0] + inputs[1]`.
fn sum() -> Kernel {
    let instrs = vec![load(Lane::Float, 0), load(Lane::Float, 1), instr(TileOp::Add, Lane::Float, &[0, 1])];
    Kernel { program: Some(TileProgram { inputs: 2, instrs, outputs: vec![2] }), ..kernel("tile") }
}

/// `y = x + w` a number of times, each step reading the one before.
fn chain(n: usize, steps: usize) -> (Bound, u32, u32) {
    let mut b = Builder::default();
    let mut section = Vec::new();
    let ones = Tensor::f32(&[n], &vec![1.0; n]);
    let w = b.value(ElementType::F32, &[n], Some((&mut section, &ones.bytes)));
    let x = b.value(ElementType::F32, &[n], None);
    let mut last = x;
    let mut list = Vec::new();
    for k in 0..steps {
        let y = b.value(ElementType::F32, &[n], None);
        list.push(Step {
            name: format!("add{k}"),
            inputs: vec![last, w],
            outputs: vec![y],
            ..Step::default()
        });
        last = y;
    }
    (b.finish(vec![sum()], list, section), x, last)
}

#[test]
fn steps_run_in_order_and_uploads_wait_for_them() {
    let (bound, x, y) = chain(1000, 40);
    let bound = Arc::new(bound);
    let Some(mut driver) = open(&bound) else { return };
    driver.bind(&bound).unwrap();
    let first = Tensor::random(1, &[1000]);
    driver.upload(x as usize, &first.bytes).unwrap();
    for step in 0..40 {
        driver.launch(0, step).unwrap();
    }
    // The new input must not reach the steps that were launched before.
    driver.upload(x as usize, &Tensor::random(2, &[1000]).bytes).unwrap();
    let mut bytes = vec![0; 4000];
    driver.download(y as usize, &mut bytes).unwrap();
    for (got, x) in floats(&bytes).iter().zip(first.floats()) {
        assert!((got - (x + 40.0)).abs() < 1e-4, "{got} {x}");
    }
    driver.finish().unwrap();
}

#[test]
fn shapes_are_bound_anew_and_weights_stay() {
    let (bound, x, y) = chain(8, 2);
    let bound = Arc::new(bound);
    let Some(mut driver) = open(&bound) else { return };
    for _ in 0..3 {
        driver.bind(&bound).unwrap();
        driver.upload(x as usize, &Tensor::f32(&[8], &[3.0; 8]).bytes).unwrap();
        (0..2).for_each(|s| driver.launch(0, s).unwrap());
        let mut bytes = vec![0; 32];
        driver.download(y as usize, &mut bytes).unwrap();
        assert_eq!(floats(&bytes), [5.0; 8]);
    }
}

#[test]
fn aliases_share_bytes() {
    let (mut bound, x, y) = chain(6, 1);
    let mut plan = (*bound.plan).clone();
    let mut alias = plan.values[y as usize].clone();
    (alias.storage, alias.alias_of) = (Storage::Alias as i32, y);
    plan.values.push(alias);
    bound.plan = Arc::new(plan);
    bound.shapes.push(vec![2, 3]);
    bound.sizes_bytes.push(24);
    bound.offsets_bytes.push(bound.offsets_bytes[y as usize]);
    let bound = Arc::new(bound);
    let Some(mut driver) = open(&bound) else { return };
    driver.bind(&bound).unwrap();
    driver.upload(x as usize, &Tensor::f32(&[6], &[1.0; 6]).bytes).unwrap();
    driver.launch(0, 0).unwrap();
    let mut bytes = vec![0; 24];
    driver.download(bound.plan.values.len() - 1, &mut bytes).unwrap();
    assert_eq!(floats(&bytes), [2.0; 6]);
}

#[test]
fn odd_byte_counts_are_copied() {
    let x = Tensor { dtype: ElementType::Bool, shape: vec![7], bytes: vec![1, 0, 1, 1, 0, 0, 1] };
    let bound = Arc::new(plan_of(kernel("copy"), &[Some(x.clone())], &[(ElementType::Bool, vec![7])]));
    let Some(mut driver) = open(&bound) else { return };
    driver.bind(&bound).unwrap();
    driver.upload(0, &x.bytes).unwrap();
    driver.launch(0, 0).unwrap();
    let mut bytes = vec![9; 7];
    driver.download(1, &mut bytes).unwrap();
    assert_eq!(bytes, x.bytes);
}

#[test]
fn empty_tensors_need_no_launch() {
    let inputs = [Some(Tensor::f32(&[0, 3], &[])), Some(Tensor::f32(&[2, 3], &[1.0; 6]))];
    let concat = with_ints(kernel("concat"), "axis", &[0]);
    let bound = Arc::new(plan_of(concat, &inputs, &[(ElementType::F32, vec![2, 3])]));
    let Some(mut driver) = open(&bound) else { return };
    driver.bind(&bound).unwrap();
    driver.upload(0, &[]).unwrap();
    driver.launch(0, 0).unwrap();
    let mut bytes = vec![0; 24];
    driver.download(2, &mut bytes).unwrap();
    assert_eq!(floats(&bytes), [1.0; 6]);
    driver.download(0, &mut []).unwrap();
}

#[test]
fn what_cannot_run_is_a_sentence() {
    let bad = with_ints(kernel("transpose"), "perm", &[0, 5]);
    let bound =
        Arc::new(plan_of(bad, &[Some(Tensor::random(1, &[2, 3]))], &[(ElementType::F32, vec![3, 2])]));
    let Some(mut driver) = open(&bound) else { return };
    let error = driver.bind(&bound).unwrap_err();
    assert_eq!((error.code, error.place.as_str()), ("G004", "step 'transpose' on gpu0"));
    assert_eq!(driver.launch(0, 0).unwrap_err().code, "G005");
    assert_eq!(driver.upload(0, &[0; 3]).unwrap_err().code, "G005");
    assert_eq!(driver.download(99, &mut []).unwrap_err().code, "G005");
    let unknown = Arc::new(plan_of(kernel("reference"), &[], &[(ElementType::F32, vec![1])]));
    assert_eq!(driver.bind(&unknown).unwrap_err().code, "G004");
}

#[test]
fn an_absent_adapter_is_a_sentence() {
    let device = Device { name: "gpu0".into(), adapter: "no such adapter".into(), ..Device::default() };
    let plan = Arc::new(Plan { devices: vec![device], ..Plan::default() });
    let error = WgpuFactory::new().open(&plan, 0).err().unwrap();
    assert_eq!((error.code, error.place.as_str()), ("G001", "gpu0"));
    assert!(!error.hint.is_empty());
    assert_eq!(WgpuFactory::new().open(&plan, 1).err().unwrap().code, "G005");
    assert_eq!(WgpuFactory::new().name(), "wgpu");
}

#[test]
fn adapters_are_numbered_and_named() {
    for (k, facts) in adapters().iter().enumerate() {
        println!("{facts:?}");
        assert_eq!(facts.index, k);
        assert!(!facts.name.is_empty() && facts.max_buffer_bytes > 0);
    }
}

#[test]
fn copies_may_come_from_other_threads() {
    let (bound, x, y) = chain(512, 8);
    let bound = Arc::new(bound);
    let Some(mut driver) = open(&bound) else { return };
    driver.bind(&bound).unwrap();
    driver.upload(x as usize, &Tensor::f32(&[512], &[0.5; 512]).bytes).unwrap();
    let driver = &*driver;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for step in 0..8 {
                driver.launch(0, step).unwrap();
            }
        });
        scope.spawn(move || {
            let mut bytes = vec![0; 2048];
            for _ in 0..8 {
                driver.download(x as usize, &mut bytes).unwrap();
                assert_eq!(floats(&bytes), [0.5; 512]);
            }
        });
    });
    let mut bytes = vec![0; 2048];
    driver.download(y as usize, &mut bytes).unwrap();
    assert_eq!(floats(&bytes), [8.5; 512]);
}
