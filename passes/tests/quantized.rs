//! What runs last over quantised graphs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
mod support;

use partita_passes::{LAST, Options, run_passes};
use support::{graph, ops, same_results};

#[test]
fn every_elementwise_reader_has_its_own_dequantize() {
    let before = graph(
        "graph g(%x: u8[2, 3]) -> (%y, %d) {
          const %s: f32[] = splat 0.03
          const %z: u8[] = splat 1
          %d = dequantize %x, %s, %z
          %a = sigmoid %d
          %b = tanh %d
          %y = mul %a, %b
        }",
    );
    let (after, _) = run_passes(before.clone(), LAST, &Options::default()).unwrap();
    assert_eq!(ops(&after), ["dequantize", "dequantize", "dequantize", "mul", "sigmoid", "tanh"]);
    same_results(&before, &after, 1e-6).unwrap();
}

#[test]
fn convolutions_without_a_layout_get_floats_back() {
    for layout in ["nchw", "nhwc"] {
        let before = graph(&format!(
            "graph g(%x: u8[1, 4, 5, 4]) -> (%y) {{
              const %w: i8[6, 4, 1, 1] = random(1)
              const %ws: f32[6] = random(2)
              const %wz: i8[] = splat 0
              const %b: f32[6] = random(3)
              const %s: f32[] = splat 0.03
              const %z: u8[] = splat 1
              %y = quantized_conv %x, %s, %z, %w, %ws, %wz, %b {{layout = \"{layout}\"}}
            }}"
        ));
        let (after, _) = run_passes(before.clone(), LAST, &Options::default()).unwrap();
        let want: &[&str] = if layout == "nhwc" { &["quantized_conv"] } else { &["conv", "dequantize"] };
        assert_eq!(ops(&after), want);
        same_results(&before, &after, 1e-5).unwrap();
    }
}
