//! Regions: what joins, what does not, and that they partition the graph.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
mod support;

use partita_ir::{Graph, RegionKind};
use partita_passes::fuse::{Rules, fuse, is_partition};
use support::graph;

/// Kind and operators of each region.
fn regions(graph: &Graph) -> Vec<(RegionKind, Vec<&'static str>)> {
    let regions = fuse(graph, &Rules::default());
    assert!(is_partition(graph, &regions));
    let ops = |r: &partita_ir::Region| r.nodes.iter().map(|n| graph.node(*n).op.name).collect();
    regions.list.iter().map(|r| (r.kind, ops(r))).collect()
}

#[test]
fn an_anchor_takes_its_epilogue_with_the_residual() {
    let g = graph(
        "graph g(%x: f32[2, 8], %r: f32[2, 4]) -> (%y) {
          const %w: f32[8, 4] = random(1)
          const %b: f32[4] = random(2)
          %m = matmul %x, %w
          %a = add %m, %b
          %g = gelu %a
          %s = add %g, %r
          %y = softmax %s {axis = -1}
        }",
    );
    let want =
        [(RegionKind::Anchor, vec!["matmul", "add", "gelu", "add"]), (RegionKind::Single, vec!["softmax"])];
    assert_eq!(regions(&g), want);
}

#[test]
fn a_value_with_two_readers_or_an_output_ends_a_region() {
    let g = graph(
        "graph g(%x: f32[2, 8]) -> (%a, %y) {
          const %w: f32[8, 4] = random(1)
          %m = matmul %x, %w
          %a = relu %m
          %b = exp %a
          %c = tanh %a
          %y = add %b, %c
        }",
    );
    let want =
        [(RegionKind::Anchor, vec!["matmul", "relu"]), (RegionKind::Elementwise, vec!["exp", "tanh", "add"])];
    assert_eq!(regions(&g), want);
}

#[test]
fn an_epilogue_that_waits_for_another_anchor_comes_after_it() {
    let g = graph(
        "graph g(%x: f32[4, 4]) -> (%y) {
          const %w: f32[4, 4] = random(1)
          %m = matmul %x, %w
          %r = reshape %m {shape = [16]}
          %e = exp %r
          %s = reshape %e {shape = [4, 4]}
          %n = matmul %x, %s
          %y = add %m, %n
        }",
    );
    // %m has two readers, so the sum joins the second product, which depends on the first.
    let kinds: Vec<RegionKind> = regions(&g).into_iter().map(|r| r.0).collect();
    use RegionKind::{Anchor, Elementwise, Reshape};
    assert_eq!(kinds, [Anchor, Reshape, Elementwise, Reshape, Anchor]);
}

#[test]
fn types_outside_the_lanes_and_growing_shapes_stay_apart() {
    let g = graph(
        "graph g(%x: f64[2, 3], %z: f32[3], %v: f32[2, 3]) -> (%y, %w) {
          %a = exp %x
          %y = abs %a
          %b = exp %z
          %w = add %b, %v
        }",
    );
    let sizes: Vec<usize> = regions(&g).into_iter().map(|r| r.1.len()).collect();
    assert_eq!(sizes, [1, 1, 1, 1]);
}
