//! Plans that run through a session: on the adapter alone, and between it and a naive device.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

#[path = "../../../runtime/tests/common/mod.rs"]
mod naive;

use naive::plans::{chain, two_devices};
use naive::{bytes, drivers, floats, load};
use partita_wgpu::{WgpuFactory, adapters};
use std::sync::Arc;

const X: [f32; 4] = [1.0, -2.0, 0.5, 100.0];

fn absent() -> bool {
    let none = adapters().is_empty();
    if none {
        println!("skipped: this machine has no graphics adapter");
    }
    none
}

#[test]
fn a_chain_runs_on_the_adapter() {
    if absent() {
        return;
    }
    let drivers = drivers().with(Arc::new(WgpuFactory::new()));
    let mut session = load(chain("wgpu"), &drivers, false);
    for scale in [1.0, 2.0] {
        let x = X.map(|v| v * scale);
        session.run(&[(&bytes(&x), &[4])]).unwrap();
        assert_eq!(floats(&session.output_vec(0).unwrap()), x.map(|x| 16.0 * x + 15.0));
    }
}

#[test]
fn two_devices_agree_for_every_shape() {
    if absent() {
        return;
    }
    let drivers = drivers().with(Arc::new(WgpuFactory::new()));
    for names in [["naive", "wgpu"], ["wgpu", "naive"], ["wgpu", "wgpu"]] {
        let mut session = load(two_devices(names, true), &drivers, false);
        let mut reference = load(two_devices(["naive", "naive"], true), &drivers, false);
        for n in [4, 1, 3, 2, 4] {
            let x = bytes(&X[..n]);
            session.run(&[(&x, &[n])]).unwrap();
            reference.run(&[(&x, &[n])]).unwrap();
            for output in 0..reference.outputs().len() {
                assert_eq!(session.output_vec(output).unwrap(), reference.output_vec(output).unwrap());
            }
        }
    }
}
