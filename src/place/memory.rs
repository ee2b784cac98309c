//! Static memory planning as numbers: lifetimes to offsets in one arena.
//!
//! Every item is placed in the tightest gap left by the items that live with it, over several orders (by size,
//! by size times life, by time, by the busiest step); the arena that ends lowest is kept, and the search stops
//! when it meets the lower bound (the most bytes alive at one step). This file uses nothing else of the crate.

use std::cmp::Reverse;

/// One buffer: how big, how aligned, and the first and last step (inclusive) at which it must be intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Size in bytes.
    pub bytes: u64,
    /// Offset must be a multiple of this; zero counts as one.
    pub align: u64,
    /// First step at which it is alive.
    pub first_step: u32,
    /// Last step at which it is alive; before `first_step` counts as `first_step`.
    pub last_step: u32,
}

/// Where each item is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Offset of each item in bytes.
    pub offset_bytes: Vec<u64>,
    /// End of the last item.
    pub total_bytes: u64,
    /// The most bytes alive at one step; no plan is smaller.
    pub lower_bound_bytes: u64,
}

/// Items above which only the cheaper orders are tried.
const MANY_ITEMS: usize = 8192;

/// Plans an arena. The same items give the same offsets. Sizes should sum to less than 2^63 bytes.
pub fn plan(items: &[Lifetime]) -> Offsets {
    let (lower_bound_bytes, pressure) = pressure(items);
    let mut best = Offsets { offset_bytes: Vec::new(), total_bytes: u64::MAX, lower_bound_bytes };
    for (order, gap) in orders(items, &pressure) {
        let (offset_bytes, total_bytes) = place(items, &order, gap);
        if total_bytes < best.total_bytes {
            best = Offsets { offset_bytes, total_bytes, lower_bound_bytes };
        }
        if best.total_bytes <= lower_bound_bytes {
            break;
        }
    }
    best
}

/// Which gap an item takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Tightest,
    Lowest,
}

/// The last step at which an item is alive.
fn last(item: &Lifetime) -> u32 {
    item.last_step.max(item.first_step)
}

/// The most bytes alive at one step, and per item the most at any step of its life.
fn pressure(items: &[Lifetime]) -> (u64, Vec<u64>) {
    let mut steps: Vec<u32> = items.iter().flat_map(|i| [i.first_step, last(i)]).collect();
    steps.sort_unstable();
    steps.dedup();
    let index = |s: u32| steps.partition_point(|&x| x < s);
    let mut alive = vec![0u64; steps.len()];
    let mut change = vec![(0u64, 0u64); steps.len() + 1];
    for item in items {
        let (a, b) = (index(item.first_step), index(last(item)) + 1);
        change[a].0 = change[a].0.saturating_add(item.bytes);
        change[b].1 = change[b].1.saturating_add(item.bytes);
    }
    let mut sum = 0u64;
    for (a, c) in alive.iter_mut().zip(&change) {
        sum = sum.saturating_sub(c.1).saturating_add(c.0);
        *a = sum;
    }
    let table = RangeMax::new(&alive);
    let per_item = items.iter().map(|i| table.max(index(i.first_step), index(last(i)))).collect();
    (alive.iter().copied().max().unwrap_or(0), per_item)
}

/// Range maximum by doubling.
struct RangeMax(Vec<Vec<u64>>);

impl RangeMax {
    fn new(values: &[u64]) -> Self {
        let mut levels = vec![values.to_vec()];
        let mut span = 1;
        while span * 2 <= values.len() {
            let below = &levels[levels.len() - 1];
            levels.push((0..=values.len() - span * 2).map(|i| below[i].max(below[i + span])).collect());
            span *= 2;
        }
        RangeMax(levels)
    }

    fn max(&self, a: usize, b: usize) -> u64 {
        let level = (b - a + 1).ilog2() as usize;
        self.0[level][a].max(self.0[level][b + 1 - (1 << level)])
    }
}

fn orders(items: &[Lifetime], pressure: &[u64]) -> Vec<(Vec<usize>, Gap)> {
    let by = |key: &dyn Fn(usize) -> (u128, u128)| {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&i| (Reverse(key(i)), i));
        order
    };
    let size = |i: usize| u128::from(items[i].bytes);
    let life = |i: usize| u128::from(last(&items[i]) - items[i].first_step) + 1;
    let by_size = by(&|i| (size(i), life(i)));
    let by_pressure = by(&|i| (u128::from(pressure[i]), size(i)));
    let mut all = vec![(by_size.clone(), Gap::Tightest), (by_pressure.clone(), Gap::Tightest)];
    if items.len() <= MANY_ITEMS {
        all.push((by(&|i| (size(i) * life(i), size(i))), Gap::Tightest));
        all.push((by(&|i| (u128::from(u32::MAX - items[i].first_step), size(i))), Gap::Tightest));
        all.push((by(&|i| (life(i), size(i))), Gap::Lowest));
        all.push((by_size, Gap::Lowest));
        all.push((by_pressure, Gap::Lowest));
    }
    all
}

/// A placed item: offset, end, first and last step.
#[derive(Debug, Clone, Copy)]
struct Placed {
    offset: u64,
    end: u64,
    first: u32,
    last: u32,
}

/// Most time buckets an item may touch and still be looked up by bucket.
const FEW_BUCKETS: usize = 8;
const BUCKETS: usize = 256;

/// What is placed: everything by offset, and by stretch of time for items that live briefly.
struct Arena {
    by_offset: Vec<Placed>,
    buckets: Vec<Vec<Placed>>,
    steps_per_bucket: u32,
}

impl Arena {
    fn new(items: &[Lifetime]) -> Self {
        let steps = items.iter().map(last).max().unwrap_or(0);
        let steps_per_bucket = steps / BUCKETS as u32 + 1;
        Arena {
            by_offset: Vec::with_capacity(items.len()),
            buckets: vec![Vec::new(); BUCKETS],
            steps_per_bucket,
        }
    }

    fn span(&self, first: u32, last: u32) -> std::ops::RangeInclusive<usize> {
        (first / self.steps_per_bucket) as usize..=(last / self.steps_per_bucket) as usize
    }

    fn add(&mut self, item: Placed) {
        let at = self.by_offset.partition_point(|p| p.offset <= item.offset);
        self.by_offset.insert(at, item);
        for bucket in self.span(item.first, item.last) {
            self.buckets[bucket].push(item);
        }
    }

    /// Placed items that live with `item`, by offset.
    fn neighbours(&self, item: &Lifetime, out: &mut Vec<Placed>) {
        let (first, last) = (item.first_step, last(item));
        let lives = |p: &&Placed| p.first <= last && p.last >= first;
        out.clear();
        let span = self.span(first, last);
        if span.end() - span.start() >= FEW_BUCKETS {
            out.extend(self.by_offset.iter().filter(lives));
            return;
        }
        let lowest = *span.start();
        for bucket in span {
            // An item in several of the buckets counts in the first of them.
            let own = |p: &&Placed| (p.first / self.steps_per_bucket) as usize == bucket || bucket == lowest;
            out.extend(self.buckets[bucket].iter().filter(own).filter(lives));
        }
        out.sort_unstable_by_key(|p| (p.offset, p.end, p.first, p.last));
    }
}

fn place(items: &[Lifetime], order: &[usize], gap: Gap) -> (Vec<u64>, u64) {
    let mut offsets = vec![0u64; items.len()];
    let mut arena = Arena::new(items);
    let mut near = Vec::new();
    let mut total = 0;
    for &i in order.iter().filter(|&&i| items[i].bytes > 0) {
        let item = &items[i];
        arena.neighbours(item, &mut near);
        let offset = find_gap(&near, item, gap);
        let end = offset.saturating_add(item.bytes);
        offsets[i] = offset;
        total = total.max(end);
        arena.add(Placed { offset, end, first: item.first_step, last: last(item) });
    }
    (offsets, total)
}

/// Where an item goes among those that live with it.
fn find_gap(placed: &[Placed], item: &Lifetime, gap: Gap) -> u64 {
    let align = item.align.max(1);
    let up = |x: u64| x.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let mut floor = 0u64;
    let mut best: Option<(u64, u64)> = None;
    for p in placed {
        let start = up(floor);
        if p.offset >= start && p.offset - start >= item.bytes {
            let slack = p.offset - floor;
            if gap == Gap::Lowest {
                return start;
            }
            if best.is_none_or(|(s, _)| slack < s) {
                best = Some((slack, start));
            }
        }
        floor = floor.max(p.end);
    }
    best.map_or(up(floor), |(_, start)| start)
}
