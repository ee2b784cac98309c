//! The text of a plan shows what a person looks for, and is the same every time.

mod common;

use common::plans::full;
use partita_plan::text::{dim_text, to_text};

#[test]
fn text_shows_devices_values_steps_and_reasons() {
    let text = to_text(&full().0);
    for line in [
        "plan two devices: 2 devices, 10 values, 5 kernels, 7 steps in 4 queues, 4 weight bytes",
        "by partita 0.1.0 for two: latency 40.000 us, bound 40.000 us, optimal (ilp)",
        "device d0 driver=naive profile=some-cpu adapter=0 threads=2 memory_bytes=1073741824",
        "symbol n = axis 0 of input x",
        "output y = %9",
        "value %3 w: f32[1] on d1, weight at 0, 4 bytes",
        "value %9 y: f32[n, 1] on d0, same bytes as %8",
        "queue d0->d1: transfers from d0 to d1",
        "  0: %2 = transfer(%1)  @ 0.000 us + 10.000 us, after d0:1  # s0",
        "     why: nearest to its input; 8 flops, 32 bytes",
        "     d1: cannot (no kernel)",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is missing in\n{text}");
    }
    assert_eq!(text, to_text(&full().0));
}

#[test]
fn sizes_read_as_people_write_them() {
    let (plan, _) = full();
    let slice = plan.kernels.last().unwrap();
    assert_eq!(dim_text(&plan, &slice.dims("starts")[0]), "n*2");
    assert_eq!(dim_text(&plan, &partita_plan::DimExpr { items: vec![] }), "?");
}
