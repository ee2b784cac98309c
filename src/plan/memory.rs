//! Lifetimes to offsets: where each value lies in an arena so that values alive together do not overlap.
//!
//! The problem (dynamic storage allocation) is NP-hard; greedy placement in a few fixed orders comes close to
//! the lower bound on the graphs of neural networks (Pisarchyk and Lee, arXiv:2001.03288, compare such orders).
//! Every order is tried with two ways to choose a gap; then, again and again, what sticks out at the end is placed
//! before the largest item in its way. All budgets are counts, so the same items give the same offsets.

use std::cmp::Reverse;

/// Pairs of items that live together, looked at so far, beyond which no other order is tried.
const MAX_PAIRS_ORDERS: usize = 3_000_000;
/// The same for another round of improvement; bounds the time for large plans (about 0.1 us for a pair).
const MAX_PAIRS: usize = 600_000;
/// Most rounds of improvement.
const MAX_ROUNDS: usize = 100;

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
    let mut placer = Placer::new(items);
    let mut best: Option<Attempt> = None;
    for (order, gap) in orders(items) {
        let attempt = placer.place(order, gap);
        if best.as_ref().is_none_or(|b| attempt.total_bytes < b.total_bytes) {
            best = Some(attempt);
        }
        if placer.pairs > MAX_PAIRS_ORDERS
            || best.as_ref().is_some_and(|b| b.total_bytes <= lower_bound_bytes)
        {
            break;
        }
    }
    let Some(best) = best else { return Offsets { offsets: Vec::new(), total_bytes: 0, lower_bound_bytes } };
    let best = improve(&mut placer, best, lower_bound_bytes);
    Offsets { offsets: best.offsets, total_bytes: best.total_bytes, lower_bound_bytes }
}

/// The most bytes alive at one position.
pub fn lower_bound(items: &[Item]) -> u64 {
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

/// Which gap an item takes: the smallest that holds it, or the lowest.
#[derive(Clone, Copy)]
enum Gap {
    Tightest,
    Lowest,
}

/// An order of placing and what came of it.
struct Attempt {
    order: Vec<usize>,
    gap: Gap,
    offsets: Vec<u64>,
    total_bytes: u64,
}

/// Orders in which to place: by size, by size times duration, by start, by duration; each with both gaps.
fn orders(items: &[Item]) -> Vec<(Vec<usize>, Gap)> {
    let duration = |i: &Item| u64::from(i.last.saturating_sub(i.first)) + 1;
    let orders = [
        sorted(items, |i| (Reverse(u128::from(i.bytes)), i.first)),
        sorted(items, |i| (Reverse(u128::from(i.bytes) * u128::from(duration(i))), i.first)),
        sorted(items, |i| (i.first, Reverse(i.bytes))),
        sorted(items, |i| (Reverse(duration(i)), Reverse(i.bytes), i.first)),
    ];
    orders.into_iter().flat_map(|o| [(o.clone(), Gap::Tightest), (o, Gap::Lowest)]).collect()
}

fn sorted<K: Ord>(items: &[Item], key: impl Fn(&Item) -> K) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items.len()).filter(|&i| items[i].bytes > 0).collect();
    order.sort_by_cached_key(|&i| (key(&items[i]), i));
    order
}

/// Walks from order to order, each time letting through what sticks out, and keeps the best seen.
fn improve(placer: &mut Placer, start: Attempt, lower_bound_bytes: u64) -> Attempt {
    let gap = start.gap;
    let mut best = start;
    let mut order = best.order.clone();
    let mut offsets = best.offsets.clone();
    for _ in 0..MAX_ROUNDS {
        if best.total_bytes <= lower_bound_bytes || placer.pairs > MAX_PAIRS {
            break;
        }
        let Some(next) = placer.let_through(&order, &offsets, best.total_bytes) else { break };
        let attempt = placer.place(next, gap);
        order.clone_from(&attempt.order);
        offsets.clone_from(&attempt.offsets);
        if attempt.total_bytes < best.total_bytes {
            best = attempt;
        }
    }
    best
}

/// A placed item.
#[derive(Clone, Copy)]
struct Placed {
    index: u32,
    start: u64,
    end: u64,
    first: u32,
    last: u32,
}

/// Finds the placed items that live with a new one without looking at all of them.
///
/// Level `k` cuts time into blocks of `2^k` positions. An item goes to the level whose blocks are at least as
/// long as its life, into the block where it starts, so that few blocks per level can hold what lives with it.
struct Placer<'a> {
    items: &'a [Item],
    /// Lists by level, then by block.
    levels: Vec<Vec<Vec<Placed>>>,
    /// What lives with the item at hand, sorted by start.
    near: Vec<Placed>,
    /// First and last position of each item, numbered without holes.
    lives: Vec<(u32, u32)>,
    /// Pairs of items looked at so far.
    pairs: usize,
}

impl<'a> Placer<'a> {
    fn new(items: &'a [Item]) -> Self {
        let mut starts: Vec<u32> = items.iter().map(|i| i.first).collect();
        starts.sort_unstable();
        starts.dedup();
        // Only starts matter: a life ends at the last start it covers.
        let rank = |position: u32| starts.partition_point(|&s| s <= position).saturating_sub(1) as u32;
        let lives = items.iter().map(|i| (rank(i.first), rank(i.last.max(i.first)))).collect();
        let levels = starts.len().max(1).ilog2() as usize + 2;
        let blocks = |level: usize| vec![Vec::new(); (starts.len() >> level) + 1];
        Self { items, levels: (0..levels).map(blocks).collect(), near: Vec::new(), lives, pairs: 0 }
    }

    fn place(&mut self, order: Vec<usize>, gap: Gap) -> Attempt {
        self.levels.iter_mut().flatten().for_each(Vec::clear);
        let mut offsets = vec![0; self.items.len()];
        let mut total_bytes = 0u64;
        for &index in &order {
            self.collect(self.lives[index]);
            let item = &self.items[index];
            let start = choose(item, &self.near, gap);
            let end = start.saturating_add(item.bytes);
            self.insert(index, start, end);
            offsets[index] = start;
            total_bytes = total_bytes.max(end);
        }
        Attempt { order, gap, offsets, total_bytes }
    }

    fn insert(&mut self, index: usize, start: u64, end: u64) {
        let (first, last) = self.lives[index];
        let level = (last - first).checked_ilog2().map_or(0, |l| l as usize + 1);
        let placed = Placed { index: index as u32, start, end, first, last };
        self.levels[level][first as usize >> level].push(placed);
    }

    /// An order in which each item that ends at or above `top` comes just before the largest item placed earlier
    /// among those it lives with (of equals the latest), for that one can best be placed around it; `None` when
    /// nothing can move.
    fn let_through(&mut self, order: &[usize], offsets: &[u64], top: u64) -> Option<Vec<usize>> {
        let mut rank = vec![0u32; self.items.len()];
        order.iter().zip(0..).for_each(|(&index, at)| rank[index] = at);
        let mut keys: Vec<(u32, bool, usize)> = Vec::with_capacity(order.len());
        let mut moved = false;
        for &index in order {
            let mut key = (rank[index], true, index);
            if offsets[index].saturating_add(self.items[index].bytes) >= top {
                self.collect(self.lives[index]);
                let before = self.near.iter().map(|p| (p.end - p.start, rank[p.index as usize]));
                if let Some((_, large)) = before.filter(|&(_, r)| r < rank[index]).max() {
                    key = (large, false, index);
                    moved = true;
                }
            }
            keys.push(key);
        }
        keys.sort_unstable();
        moved.then(|| keys.into_iter().map(|(_, _, index)| index).collect())
    }

    /// Fills `near` with the placed items that live during `first..=last`.
    fn collect(&mut self, (first, last): (u32, u32)) {
        self.near.clear();
        for (level, blocks) in self.levels.iter().enumerate() {
            let from = (first as usize >> level).saturating_sub(1);
            let to = (last as usize >> level).min(blocks.len() - 1);
            for block in &blocks[from..=to] {
                self.near.extend(block.iter().filter(|p| p.first <= last && first <= p.last));
            }
        }
        self.near.sort_unstable_by_key(|p| (p.start, p.end, p.index));
        self.pairs += self.near.len();
    }
}

/// The chosen gap among the items that live with this one, or the end of them all.
fn choose(item: &Item, near: &[Placed], gap: Gap) -> u64 {
    let align = item.align.max(1);
    let up = |at: u64| at.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let mut free_from = 0u64;
    let mut best: Option<(u64, u64)> = None;
    for other in near {
        let start = up(free_from);
        let room = other.start.saturating_sub(start);
        if room >= item.bytes && best.is_none_or(|(least, _)| room < least) {
            best = Some((room, start));
            if matches!(gap, Gap::Lowest) || room == item.bytes {
                break;
            }
        }
        free_from = free_from.max(other.end);
    }
    best.map_or_else(|| up(free_from), |(_, start)| start)
}
