//! Memory plans and happens-before: no overlap, near the bound, and reservations that are safe.

mod common;

use common::plans::{Build, affine, after, dims, two_devices};
use partita_plan::Order;
use partita_plan::check::check;
use partita_plan::memory::{Item, Offsets, plan};
use partita_plan::reserve::reserve_positions;
use proptest::prelude::*;

fn overlapping(items: &[Item], offsets: &Offsets) -> bool {
    let meet = |a: usize, b: usize| {
        let (x, y) = (items[a], items[b]);
        let (p, q) = (offsets.offsets[a], offsets.offsets[b]);
        let alive = x.first <= y.last && y.first <= x.last;
        alive && x.bytes > 0 && y.bytes > 0 && p < q + y.bytes && q < p + x.bytes
    };
    (0..items.len()).any(|a| (0..a).any(|b| meet(a, b)))
}

proptest! {
    #[test]
    fn nothing_overlaps(raw in proptest::collection::vec((0u64..5000, 0u32..40, 0u32..10, 0u32..8), 0..60)) {
        let items: Vec<Item> = raw
            .iter()
            .map(|&(bytes, first, length, align)| Item { bytes, align: 1 << align, first, last: first + length })
            .collect();
        let offsets = plan(&items);
        prop_assert!(!overlapping(&items, &offsets));
        prop_assert!(offsets.total_bytes >= offsets.lower_bound_bytes);
        let aligned = |(item, offset): (&Item, &u64)| offset % item.align == 0;
        prop_assert!(items.iter().zip(&offsets.offsets).all(aligned));
        prop_assert_eq!(plan(&items), offsets);
    }
}

fn item(bytes: u64, first: u32, last: u32) -> Item {
    Item { bytes: bytes * 64, align: 64, first, last }
}

/// Layer sizes that shrink like those of a convolutional net, with skip connections and wide branches.
fn nets() -> Vec<Vec<Item>> {
    let size = |layer: u32| 4096 >> (layer / 6).min(6);
    let straight = (0..60).map(|l| item(size(l), l, l + 1)).collect();
    let residual = (0..60).map(|l| item(size(l), l, l + if l % 3 == 0 { 4 } else { 1 })).collect();
    let inception = (0..60).map(|l| item(size(l) / (1 + u64::from(l % 4)), l, 4 * (l / 4) + 5)).collect();
    let encoder = (0..40).map(|l| item(size(l), l, if l < 12 { 39 - l } else { l + 1 })).collect();
    let transformer = (0..96)
        .map(|l| {
            item([768, 768, 768, 2304, 3072, 768][l as usize % 6], l, l + [6, 3, 2, 1, 1, 2][l as usize % 6])
        })
        .collect();
    vec![straight, residual, inception, encoder, transformer]
}

#[test]
fn typical_nets_are_within_a_tenth_of_the_bound() {
    for (index, items) in nets().into_iter().enumerate() {
        let offsets = plan(&items);
        assert!(!overlapping(&items, &offsets));
        let ratio = offsets.total_bytes as f64 / offsets.lower_bound_bytes as f64;
        assert!(ratio <= 1.1, "net {index}: {ratio}");
    }
}

/// Attention blocks: a residual that lives through the block, scores and hidden layers four times its size.
#[test]
fn five_thousand_values_of_a_transformer_meet_the_bound() {
    let block = [(1, 9), (1, 3), (1, 2), (1, 3), (4, 1), (4, 1), (1, 1), (4, 1), (4, 1), (1, 1)];
    let items: Vec<Item> = (0..5000u32)
        .map(|at| {
            let (bytes, life) = block[at as usize % block.len()];
            item(bytes, at, at + life)
        })
        .collect();
    let offsets = plan(&items);
    assert_eq!(offsets.total_bytes, offsets.lower_bound_bytes);
}

#[test]
fn many_random_values_are_near_the_bound() {
    let random = |i: u32| u64::from(i.wrapping_mul(2_654_435_761) >> 20);
    let items: Vec<Item> =
        (0..5000u32).map(|i| item(random(i), i, i + (i.wrapping_mul(40_503) >> 3) % 50)).collect();
    let offsets = plan(&items);
    let ratio = offsets.total_bytes as f64 / offsets.lower_bound_bytes as f64;
    assert!(ratio < 1.2, "{ratio}");
}

#[test]
fn empty_and_huge_items() {
    assert_eq!(plan(&[]).total_bytes, 0);
    let huge = Item { bytes: u64::MAX, align: 4096, first: 0, last: u32::MAX };
    assert_eq!(plan(&[huge, huge]).total_bytes, u64::MAX);
}

#[test]
fn before_follows_queues_and_waits() {
    let (plan, _) = two_devices(["a", "b"], false);
    let order = Order::new(&plan).unwrap();
    assert!(order.before((0, 0), (0, 1)));
    assert!(!order.before((0, 1), (0, 1)));
    assert!(order.before((0, 0), (2, 0)), "by a wait");
    assert!(order.before((0, 0), (1, 1)), "through the transfer");
    assert!(!order.before((0, 1), (1, 1)) && !order.before((1, 1), (0, 1)), "side by side");
    assert!(order.before((1, 0), (0, 2)));
    assert_eq!(order.first_after((1, 0), 0), Some(2));
    assert_eq!(order.last_before((1, 0), 0), Some(0));
    assert_eq!(order.last_before((0, 0), 0), None);
    assert!(!order.before((9, 0), (0, 0)) && !order.before((0, 0), (0, 99)));
}

#[test]
fn values_of_transfers_are_reserved_while_the_transfer_may_run() {
    let (plan, _) = two_devices(["a", "b"], false);
    let order = Order::new(&plan).unwrap();
    let reserved = reserve_positions(&plan, &order).unwrap();
    let of = |name: &str| {
        let r = reserved[plan.values.iter().position(|v| v.name == name).unwrap()];
        (r.first, r.last)
    };
    assert_eq!(of("x"), (0, 0));
    assert_eq!(of("a"), (0, 1), "the transfer out is over before step 2, which waits for its echo");
    assert_eq!(of("b@d0"), (0, 2), "the transfer back is only known to start after step 0");
    assert_eq!(of("c"), (1, 2));
    assert_eq!(of("y"), of("sum"));
    assert_eq!(of("a@d1"), (0, 0));
    assert_eq!(of("b"), (1, 1), "read by the last transfer: to the end");
}

/// Between steps 0 and 1 of d0, one value leaves and another arrives, in no order: they must not share bytes.
#[test]
fn two_transfers_in_one_gap_do_not_share_bytes() {
    let mut b = Build::new("gap", &["n", "n"]);
    let kernel = b.tile(affine(1.0, 1.0));
    let names = [("x", 0), ("out", 0), ("out@d1", 1), ("z", 1), ("in", 0), ("y", 0)];
    let v: Vec<u32> = names.iter().map(|&(name, device)| b.value(name, device, dims(&[4]))).collect();
    b.input(v[0]);
    b.input(v[3]);
    b.output(v[5]);
    b.output(v[2]);
    let q0 = b.queue(0);
    let (there, back) = (b.link(0, 1), b.link(1, 0));
    b.step(q0, kernel, &[v[0]], &[v[1]], &[]);
    b.transfer(there, v[1], v[2], &[after(q0, 1)]);
    b.transfer(back, v[3], v[4], &[after(q0, 1)]);
    b.step(q0, kernel, &[v[4]], &[v[5]], &[after(there, 1), after(back, 1)]);
    let (mut plan, _) = b.finish();
    check(&plan).unwrap();
    plan.values[v[4] as usize].offset = plan.values[v[1] as usize].offset;
    assert_eq!(check(&plan).unwrap_err().code, "L061");
}
