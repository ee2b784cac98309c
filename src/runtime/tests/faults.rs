//! Failing devices: every failure is a typed error, nothing hangs, and the next run is right.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::plans::two_devices;
use common::{Naive, bytes, floats};
use partita_plan::file::encode;
use partita_runtime::fault::{Failure, FaultFactory, Faults, Site};
use partita_runtime::{Drivers, Session, SessionOptions};
use std::sync::Arc;

fn failing() -> (Drivers, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let naive = Naive { name: "naive", readable: false };
    let factory = FaultFactory::new(Arc::new(naive), Arc::clone(&faults));
    (Drivers::new().with(Arc::new(factory)), faults)
}

fn plan_bytes() -> Vec<u8> {
    let (plan, weights) = two_devices(["naive", "naive"], true);
    encode(&plan, [(0, weights)]).unwrap()
}

#[test]
fn every_call_may_fail_once() {
    let (drivers, faults) = failing();
    let mut session = Session::load(plan_bytes(), &drivers, SessionOptions::default()).unwrap();
    let x = bytes(&[1.0, 2.0, 3.0]);
    let sites =
        [(Site::Bind, 2), (Site::Launch, 5), (Site::Upload, 3), (Site::Download, 2), (Site::Finish, 2)];
    let mut shape = 1;
    for (site, calls) in sites {
        for (failure, code) in [(Failure::Error, "R090"), (Failure::Panic, "R009")] {
            for skip in 0..calls {
                // Another shape each time, so that every run binds.
                shape = 3 - shape;
                let input: (&[u8], &[usize]) = (&x[..4 * shape], &[shape]);
                faults.arm(site, skip, failure);
                let error = session.run(&[input]).unwrap_err();
                assert_eq!(error.code, code, "{site:?} after {skip}: {error}");
                assert!(session.output_vec(0).is_err());
                session.run(&[input]).unwrap();
                assert_eq!(floats(&session.output_vec(0).unwrap())[0], 14.0);
            }
        }
    }
    assert_eq!(faults.fired(), 28);
}

#[test]
fn devices_that_do_not_open_or_bind_fail_the_load() {
    let (drivers, faults) = failing();
    faults.arm(Site::Open, 1, Failure::Error);
    let loaded = Session::load(plan_bytes(), &drivers, SessionOptions::default());
    assert_eq!(loaded.err().unwrap().code, "R090");
    assert!(Session::load(plan_bytes(), &drivers, SessionOptions::default()).is_ok());
}
