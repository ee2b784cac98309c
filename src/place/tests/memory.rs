//! The memory planner: no two live items overlap, offsets are aligned, totals are near the bound.

use partita_place::memory::{Lifetime, Offsets, plan};
use proptest::prelude::*;

fn valid(items: &[Lifetime], plan: &Offsets) -> Result<(), String> {
    for (i, a) in items.iter().enumerate() {
        let (start, end) = (plan.offset_bytes[i], plan.offset_bytes[i] + a.bytes);
        if start % a.align.max(1) != 0 || end > plan.total_bytes {
            return Err(format!("item {i} is at {start}..{end} of {}", plan.total_bytes));
        }
        for (j, b) in items.iter().enumerate().take(i) {
            let apart = a.last_step < b.first_step || b.last_step < a.first_step;
            let clear = end <= plan.offset_bytes[j] || plan.offset_bytes[j] + b.bytes <= start;
            if !apart && !clear && a.bytes > 0 && b.bytes > 0 {
                return Err(format!("items {i} and {j} overlap"));
            }
        }
    }
    Ok(())
}

fn item() -> impl Strategy<Value = Lifetime> {
    (0u64..5000, 0u32..7, 0u32..40, 0u32..12).prop_map(|(bytes, align, first_step, life)| Lifetime {
        bytes,
        align: 1 << align,
        first_step,
        last_step: first_step + life,
    })
}

proptest! {
    #[test]
    fn live_items_never_overlap(items in prop::collection::vec(item(), 0..60)) {
        let plan_of = plan(&items);
        prop_assert_eq!(valid(&items, &plan_of), Ok(()));
        prop_assert!(plan_of.total_bytes >= plan_of.lower_bound_bytes || items.is_empty());
        prop_assert_eq!(plan(&items), plan_of);
    }
}

#[test]
fn a_chain_needs_two_buffers() {
    let chain: Vec<Lifetime> =
        (0..50).map(|i| Lifetime { bytes: 1000, align: 8, first_step: i, last_step: i + 1 }).collect();
    let plan = plan(&chain);
    assert_eq!((plan.total_bytes, plan.lower_bound_bytes), (2000, 2000));
}

#[test]
fn five_thousand_items_stay_near_the_bound() {
    let items: Vec<Lifetime> = (0..5000u32)
        .map(|i| {
            let mixed = u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let life = 1 + (mixed % 7) as u32 + if mixed % 50 == 0 { 60 } else { 0 };
            Lifetime { bytes: 64 * (1 + mixed % 4000), align: 64, first_step: i, last_step: i + life }
        })
        .collect();
    let plan = plan(&items);
    assert_eq!(valid(&items, &plan), Ok(()));
    assert!(
        plan.total_bytes as f64 <= 1.1 * plan.lower_bound_bytes as f64,
        "{plan:?}",
        plan = plan.total_bytes
    );
}

#[test]
fn nothing_and_empty_items_are_fine() {
    assert_eq!(plan(&[]), Offsets { offset_bytes: vec![], total_bytes: 0, lower_bound_bytes: 0 });
    let empty = Lifetime { bytes: 0, align: 0, first_step: 3, last_step: 1 };
    assert_eq!(plan(&[empty]).total_bytes, 0);
}
