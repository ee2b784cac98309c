//! Lifetimes to offsets: where each value lies in an arena so that values alive together do not overlap.
//!
//! The problem (dynamic storage allocation) is NP-hard; greedy placement in a few fixed orders comes close to
//! the lower bound on the graphs of neural networks (Pisarchyk and Lee, arXiv:2001.03288, compare such orders).
//! Every order is tried, the smallest arena wins, ties go to the earlier order.

use std::cmp::Reverse;

/// A value that needs room during positions `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Bytes; items of 0 bytes get offset 0.
    pub bytes: u64,
    /// Alignment of the offset in bytes; 0 counts as 1.
    pub align: u64,
    /// First position at which the bytes are reserved.
    pub first: u32,
    /// Last such position, inclusive.
    pub last: u32,
}

/// Where the items lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Byte offset of each item.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub total_bytes: u64,
    /// No arrangement needs less: the most bytes alive at one position.
    pub lower_bound_bytes: u64,
}

/// Places the items. Sums saturate, so sizes beyond 2^64 show up as an absurd total, not as an overflow.
///
/// ```
/// use partita_plan::memory::{Item, plan};
/// let item = |bytes, first, last| Item { bytes, align: 64, first, last };
/// let offsets = plan(&[item(128, 0, 1), item(64, 1, 2), item(128, 2, 3)]);
/// assert_eq!((offsets.total_bytes, offsets.lower_bound_bytes), (192, 192));
/// ```
pub fn plan(items: &[Item]) -> Offsets {
    let lower_bound_bytes = lower_bound(items);
    let mut best: Option<Offsets> = None;
    for order in orders(items) {
        let (offsets, total_bytes) = place(items, &order);
        if best.as_ref().is_none_or(|b| total_bytes < b.total_bytes) {
            best = Some(Offsets { offsets, total_bytes, lower_bound_bytes });
        }
        if total_bytes <= lower_bound_bytes {
            break;
        }
    }
    best.unwrap_or(Offsets { offsets: Vec::new(), total_bytes: 0, lower_bound_bytes })
}

/// The most bytes alive at one position.
fn lower_bound(items: &[Item]) -> u64 {
    let mut starts: Vec<(u32, u64)> = items.iter().map(|i| (i.first, i.bytes)).collect();
    let mut ends: Vec<(u32, u64)> = items.iter().map(|i| (i.last, i.bytes)).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let (mut alive, mut most, mut ended) = (0u64, 0u64, 0);
    for (position, bytes) in starts {
        while let Some((_, gone)) = ends.get(ended).filter(|(last, _)| *last < position) {
            alive = alive.saturating_sub(*gone);
            ended += 1;
        }
        alive = alive.saturating_add(bytes);
        most = most.max(alive);
    }
    most
}

/// Orders in which to place: by size, by size times duration, by start, by duration.
fn orders(items: &[Item]) -> [Vec<usize>; 4] {
    let duration = |i: &Item| u64::from(i.last.saturating_sub(i.first)) + 1;
    [
        sorted(items, |i| (Reverse(u128::from(i.bytes)), i.first)),
        sorted(items, |i| (Reverse(u128::from(i.bytes) * u128::from(duration(i))), i.first)),
        sorted(items, |i| (i.first, Reverse(i.bytes))),
        sorted(items, |i| (Reverse(duration(i)), Reverse(i.bytes), i.first)),
    ]
}

fn sorted<K: Ord>(items: &[Item], key: impl Fn(&Item) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].bytes > 0).collect();
    order.sort_by_key(|&i| (key(&items[i]), i));
    order
}

/// A placed item; the list is kept sorted by offset.
#[derive(Clone, Copy)]
struct Placed {
    start: u64,
    end: u64,
    first: u32,
    last: u32,
}

/// Puts each item in the smallest gap that holds it, or behind everything it lives with.
fn place(items: &[Item], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; items.len()];
    let mut placed: Vec<Placed> = Vec::with_capacity(order.len());
    let mut total = 0u64;
    for &index in order {
        let item = &items[index];
        let start = best_gap(item, &placed);
        let end = start.saturating_add(item.bytes);
        let at = placed.partition_point(|p| p.start < start);
        placed.insert(at, Placed { start, end, first: item.first, last: item.last });
        offsets[index] = start;
        total = total.max(end);
    }
    (offsets, total)
}

fn best_gap(item: &Item, placed: &[Placed]) -> u64 {
    let align = item.align.max(1);
    let mut free_from = 0u64;
    let mut best: Option<(u64, u64)> = None;
    for other in placed.iter().filter(|p| p.first <= item.last && item.first <= p.last) {
        let start = free_from.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        let room = other.start.saturating_sub(start);
        if room >= item.bytes && best.is_none_or(|(least, _)| room < least) {
            best = Some((room, start));
            if room == item.bytes {
                break;
            }
        }
        free_from = free_from.max(other.end);
    }
    best.map_or_else(|| free_from.checked_next_multiple_of(align).unwrap_or(u64::MAX), |(_, start)| start)
}
