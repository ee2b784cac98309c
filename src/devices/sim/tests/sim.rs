//! Simulated devices give the values of the wrapped driver and the plan's times.

#[path = "../../../runtime/tests/common/mod.rs"]
mod common;

use common::plans::two_devices;
use common::{Naive, bytes, drivers, floats, load};
use partita_runtime::Timeline;
use partita_sim::SimFactory;
use std::sync::Arc;

const X: [f32; 4] = [1.0, -2.0, 0.5, 100.0];

#[test]
fn values_are_those_of_the_wrapped_driver() {
    let drivers =
        drivers().with(Arc::new(SimFactory::new(Arc::new(Naive { name: "naive", readable: true }))));
    let outputs = |names: [&str; 2]| {
        let mut session = load(two_devices(names, false), &drivers, false);
        session.run(&[(&bytes(&X), &[4])]).unwrap();
        (floats(&session.output_vec(0).unwrap()), floats(&session.output_vec(1).unwrap()))
    };
    assert_eq!(outputs(["sim", "sim"]), outputs(["naive", "naive"]));
    assert_eq!(outputs(["naive", "sim"]), outputs(["naive", "naive"]));
}

#[test]
fn the_timeline_of_simulated_devices_is_the_predicted_one() {
    let drivers =
        drivers().with(Arc::new(SimFactory::new(Arc::new(Naive { name: "naive", readable: true }))));
    let mut session = load(two_devices(["sim", "sim"], false), &drivers, true);
    session.run(&[(&bytes(&X), &[4])]).unwrap();
    let timeline = session.timeline();
    // a, over, two steps on d1 (c runs beside them), back, y: six times 10 us one after the other.
    assert_eq!(timeline.makespan_us, 60.0);
    let starts: Vec<f64> = timeline.rows.iter().map(|r| r.start_us).collect();
    assert_eq!(starts, [0.0, 10.0, 50.0, 20.0, 30.0, 10.0, 40.0]);
    assert!(session.trace().iter().all(|row| row.end_us < 1e9), "the wall clock is another matter");
}

#[test]
fn links_of_simulated_devices_are_predicted_and_real_steps_measured() {
    let (plan, _) = two_devices(["sim", "naive"], false);
    let span = |end_us| partita_runtime::Span { start_us: 0.0, end_us };
    let spans = vec![vec![span(1000.0); 3], vec![span(3.0); 2], vec![span(1000.0)], vec![span(1000.0)]];
    let timeline = Timeline::simulate(&plan, &[true, false], &spans);
    assert_eq!(timeline.makespan_us, 10.0 + 10.0 + 3.0 + 3.0 + 10.0 + 10.0);
}
