//! Sessions on naive devices: right numbers, symbols, repeated runs, outputs, traces, bad input.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::plans::{Build, add, chain, symbol, two_devices};
use common::{bytes, drivers, floats, load};
use partita_plan::Plan;
use partita_plan::file::{encode, encode_to};
use partita_runtime::{Driver, DriverFactory, Drivers, PlanSource, RuntimeError, Session, SessionOptions};
use std::sync::Arc;

const X: [f32; 4] = [1.0, -2.0, 0.5, 100.0];

fn run(session: &mut Session, x: &[f32]) {
    session.run(&[(&bytes(x), &[x.len()])]).unwrap();
}

fn output(session: &Session, index: usize) -> Vec<f32> {
    floats(&session.output_vec(index).unwrap())
}

/// y = b + c with b = 3a + 7, c = a - 5, a = 2x + 1.
fn expected(x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let a: Vec<f32> = x.iter().map(|x| x * 2.0 + 1.0).collect();
    let y = a.iter().map(|a| (a * 3.0 + 7.0) + (a - 5.0)).collect();
    (y, a.iter().map(|a| a - 5.0).collect())
}

#[test]
fn one_queue_runs_on_the_calling_thread() {
    let mut session = load(chain("naive"), &drivers(), false);
    run(&mut session, &X);
    assert_eq!(output(&session, 0), X.map(|x| 16.0 * x + 15.0));
    assert_eq!(session.bound().unwrap().arena_bytes, [272], "four values share two places");
}

#[test]
fn two_devices_with_all_ways_of_copying() {
    for names in [["naive", "naive"], ["open", "naive"], ["naive", "open"], ["open", "open"]] {
        for symbolic in [false, true] {
            let mut session = load(two_devices(names, symbolic), &drivers(), false);
            run(&mut session, &X);
            let (y, c) = expected(&X);
            assert_eq!((output(&session, 0), output(&session, 1)), (y, c));
            assert_eq!(session.output_shape(0).unwrap(), [4, 1]);
            let in_place = session.output_bytes(0).unwrap();
            assert_eq!(in_place.is_some(), names[0] == "open");
            in_place.into_iter().for_each(|b| assert_eq!(floats(&b), output(&session, 0)));
        }
    }
}

#[test]
fn a_thousand_runs_give_the_same_bytes() {
    let mut session = load(two_devices(["naive", "open"], false), &drivers(), false);
    for i in 0..1000u16 {
        let x = X.map(|x| x + f32::from(i));
        run(&mut session, &x);
        assert_eq!(output(&session, 0), expected(&x).0, "run {i}");
    }
}

#[test]
fn symbols_are_bound_anew_when_shapes_change() {
    let mut session = load(two_devices(["naive", "naive"], true), &drivers(), false);
    assert!(session.bound().is_none());
    for count in [1usize, 7, 7, 300, 0, 2] {
        let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
        run(&mut session, &x);
        assert_eq!(output(&session, 0), expected(&x).0);
        assert_eq!(session.bound().unwrap().symbols, [count as i64]);
    }
    session.bind(&[&[9]]).unwrap();
    assert_eq!(session.bound().unwrap().symbols, [9]);
    assert_eq!(session.output_vec(0).unwrap_err().code, "R008", "binding anew loses the outputs");
}

#[test]
fn ports_are_described() {
    let session = load(two_devices(["naive", "naive"], true), &drivers(), false);
    assert_eq!(session.inputs()[0].text, "f32[n]");
    assert_eq!(session.outputs()[0].text, "f32[n, 1]");
    assert_eq!(session.outputs()[0].shape, [None, Some(1)]);
    assert_eq!(session.plan().name, "two devices");
}

#[test]
fn wrong_inputs_have_codes_and_do_no_harm() {
    let mut session = load(two_devices(["naive", "naive"], false), &drivers(), false);
    let x = bytes(&X);
    let mut code = |inputs: &[(&[u8], &[usize])]| session.run(inputs).unwrap_err().code;
    assert_eq!(code(&[]), "R003");
    assert_eq!(code(&[(&x, &[4]), (&x, &[4])]), "R003");
    assert_eq!(code(&[(&x, &[2, 2])]), "R004");
    assert_eq!(code(&[(&x, &[5])]), "R004");
    assert_eq!(code(&[(&x[..15], &[4])]), "R005");
    assert_eq!(session.output_vec(0).unwrap_err().code, "R008");
    run(&mut session, &X);
    assert_eq!(session.output(0, &mut [0; 3]).unwrap_err().code, "R008");
    assert_eq!(session.output_vec(7).unwrap_err().code, "R008");
}

#[test]
fn a_dimension_named_twice_must_be_equal() {
    let mut b = Build::new("pair", &["naive"]);
    let [x, z, y] = ["x", "z", "y"].map(|name| b.value(name, 0, vec![symbol(0)]));
    b.input(x);
    b.input(z);
    b.output(y);
    b.bind_symbol("n", 1, 0);
    let (kernel, queue) = (b.tile(add()), b.queue(0));
    b.step(queue, kernel, &[x, z], &[y], &[]);
    let mut session = load(b.finish(), &drivers(), false);
    let x = bytes(&[1.0, 2.0]);
    assert_eq!(session.run(&[(&x[..4], &[1]), (&x, &[2])]).unwrap_err().code, "R004");
    session.run(&[(&x, &[2]), (&x, &[2])]).unwrap();
    assert_eq!(output(&session, 0), [2.0, 4.0]);
}

#[test]
fn shapes_beyond_limits_are_refused_before_memory_is_reserved() {
    let (plan, weights) = two_devices(["naive", "naive"], true);
    let file = encode(&plan, [(0, weights)]).unwrap();
    let options = SessionOptions { max_arena_bytes: 1 << 20, ..SessionOptions::default() };
    let mut session = Session::load(file, &drivers(), options).unwrap();
    assert_eq!(session.bind(&[&[1 << 20]]).unwrap_err().code, "R006");
    assert_eq!(session.bind(&[&[1 << 39]]).unwrap_err().code, "R007");
    assert_eq!(session.bind(&[&[usize::MAX]]).unwrap_err().code, "R004");
    assert_eq!(session.bind(&[&[]]).unwrap_err().code, "R004");
    run(&mut session, &X);
}

#[test]
fn files_are_mapped_and_missing_ones_have_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.plan");
    let (plan, weights) = two_devices(["naive", "naive"], false);
    encode_to(&plan, [(0, weights)], &path).unwrap();
    let options = SessionOptions { verify_weights: true, ..SessionOptions::default() };
    let mut session = Session::load(path.as_path(), &drivers(), options).unwrap();
    run(&mut session, &X);
    assert_eq!(output(&session, 0), expected(&X).0);
    let code = |source: PlanSource| {
        Session::load(source, &drivers(), SessionOptions::default()).map_or_else(|e| e.code, |_| "loaded")
    };
    assert_eq!(code(folder.path().join("none").into()), "R001");
    std::fs::write(&path, "").unwrap();
    assert_eq!(code(path.into()), "L001");
}

#[test]
fn bad_plans_and_absent_drivers_are_refused() {
    let code = |(plan, weights): (partita_plan::Plan, Vec<u8>)| {
        let bytes = encode(&plan, [(0, weights)]).unwrap();
        Session::load(bytes, &drivers(), SessionOptions::default()).map_or_else(|e| e.code, |_| "loaded")
    };
    assert_eq!(code(two_devices(["naive", "absent"], false)), "R002");
    let (mut circle, weights) = two_devices(["naive", "naive"], false);
    circle.queues[0].steps[0].waits = vec![common::plans::after(3, 1)];
    assert_eq!(code((circle, weights)), "L042");
}

#[test]
fn threads_can_be_overridden_where_the_plan_has_threads() {
    let (mut plan, weights) = chain("naive");
    plan.devices[0].threads = 8;
    let bytes = encode(&plan, [(0, weights)]).unwrap();
    let options = SessionOptions { threads: Some(2), ..SessionOptions::default() };
    let session = Session::load(bytes, &drivers(), options).unwrap();
    assert_eq!(session.plan().devices[0].threads, 2);
}

#[test]
fn traces_cover_every_step_in_order() {
    let mut session = load(two_devices(["naive", "naive"], false), &drivers(), true);
    assert!(session.trace().is_empty());
    run(&mut session, &X);
    let rows = session.trace();
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|r| r.end_us >= r.start_us && r.predicted_us == 10.0));
    assert!(rows[0].end_us <= rows[5].start_us, "the transfer starts after the step it waits for");
    let timeline = session.timeline();
    assert_eq!(timeline.rows.len(), 7);
    assert!(timeline.makespan_us > 0.0);
}

/// A driver whose library is broken.
struct Broken;

impl DriverFactory for Broken {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn open(&self, _: &Arc<Plan>, _: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        panic!("the library is broken")
    }
}

#[test]
fn a_driver_that_panics_while_it_opens_is_an_error() {
    let (plan, weights) = chain("naive");
    let bytes = encode(&plan, [(0, weights)]).unwrap();
    let drivers = Drivers::new().with(Arc::new(Broken));
    let error = Session::load(bytes, &drivers, SessionOptions::default()).err().unwrap();
    assert_eq!(error.code, "R009");
    assert!(error.message.contains("the library is broken"), "{error}");
}
