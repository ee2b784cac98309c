//! How many layers each stage gets, when it is known which pools take part, in which order and at which degree.
//!
//! A stage's time grows by the same amount with each layer, so the cheapest pool is filled first (exact for the sum of
//! times, up to whole layers), and the sums over fractions of layers are a lower bound.

/// One pool in the order of a pipeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// Time of a layer, in us.
    pub(crate) unit_us: f64,
    /// Time of the output product, in us, for the stage that has it.
    pub(crate) head_us: f64,
    /// Time between two stages of this pool, in us.
    pub(crate) hop_us: f64,
    /// Stages that fit.
    pub(crate) slots: usize,
    /// Most layers of a stage in memory, by what else it holds.
    pub(crate) room: Room,
}

/// Most layers of a stage in memory; `None` where not even the rest fits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Room {
    /// Nothing else.
    pub(crate) middle: usize,
    /// With the table of embeddings.
    pub(crate) first: Option<usize>,
    /// With the output matrix.
    pub(crate) last: Option<usize>,
    /// With both.
    pub(crate) only: Option<usize>,
}

/// Layers of each stage of each pool, in order.
pub(crate) type Layers = Vec<Vec<usize>>;

/// Most layers whose time stays within a limit.
fn within(limit_us: f64, unit_us: f64, rest_us: f64) -> usize {
    let layers = (limit_us * (1.0 + 1e-12) - rest_us) / unit_us.max(1e-12);
    if layers < 1.0 { 0 } else { layers.min(1e9) as usize }
}

/// Room of each stage of a pool when it has `stages` of them.
fn rooms(item: &Item, ends: (bool, bool), stages: usize, limit_us: f64) -> Option<Vec<usize>> {
    let plain = item.room.middle.min(within(limit_us, item.unit_us, 0.0));
    let head = within(limit_us, item.unit_us, item.head_us);
    let mut rooms = vec![plain; stages];
    match (ends, stages) {
        ((true, true), 1) => rooms[0] = item.room.only?.min(head),
        ((first, last), _) => {
            if first {
                rooms[0] = item.room.first?.min(plain);
            }
            if last {
                rooms[stages - 1] = item.room.last?.min(head);
            }
        }
    }
    Some(rooms)
}

fn ends(index: usize, count: usize) -> (bool, bool) {
    (index == 0, index + 1 == count)
}

/// Room of a pool in all its slots; 0 where its ends do not fit.
fn capacity(item: &Item, ends: (bool, bool), limit_us: f64) -> usize {
    let whole = rooms(item, ends, item.slots, limit_us).map_or(0, |rooms| rooms.iter().sum());
    // A single stage may have room where two do not: the ends share one device there.
    let single = rooms(item, ends, 1, limit_us).map_or(0, |rooms| rooms.iter().sum());
    whole.max(single)
}

/// Spreads layers over rooms as evenly as they allow.
fn spread(rooms: &[usize], layers: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    order.sort_by_key(|&stage| rooms[stage]);
    let (mut left, mut out) = (layers, vec![0; rooms.len()]);
    for (done, &stage) in order.iter().enumerate() {
        let stages = rooms.len() - done;
        out[stage] = rooms[stage].min(left / stages);
        left -= out[stage];
    }
    // Remainders of the division went to the roomiest; the last one takes exactly what is left.
    if let Some(&last) = order.last() {
        out[last] += left;
    }
    out
}

/// Fewest stages with room for so many layers, and the layers of each.
fn stages_of(item: &Item, ends: (bool, bool), layers: usize, limit_us: f64) -> Option<Vec<usize>> {
    let plain = item.room.middle.max(1);
    let start = layers.div_ceil(plain).max(1);
    for stages in start..=item.slots {
        let rooms = rooms(item, ends, stages, limit_us)?;
        if rooms.iter().sum::<usize>() >= layers {
            return Some(spread(&rooms, layers));
        }
        if stages > start + layers + 2 {
            break;
        }
    }
    None
}

/// Layers by stage with the least sum of times, every stage within the limit and every pool in use.
pub(crate) fn fill(items: &[Item], layers: usize, limit_us: f64) -> Option<Layers> {
    let count = items.len();
    if layers < count {
        return None;
    }
    let mut order: Vec<usize> = (0..count).collect();
    let dear =
        |index: usize| items[index].unit_us + items[index].hop_us / items[index].room.middle.max(1) as f64;
    order.sort_by(|&a, &b| dear(a).total_cmp(&dear(b)));
    let room: Vec<usize> = (0..count).map(|i| capacity(&items[i], ends(i, count), limit_us)).collect();
    let mut left = layers;
    let mut given = vec![0; count];
    for (rank, &index) in order.iter().enumerate() {
        let behind = count - rank - 1;
        given[index] = room[index].min(left.saturating_sub(behind));
        left -= given[index];
    }
    if left > 0 || given.contains(&0) {
        return None;
    }
    (0..count).map(|i| stages_of(&items[i], ends(i, count), given[i], limit_us)).collect()
}

/// Lower bounds on the sum of stage times with the hops inside pools, and on the time of the slowest stage; `None` when
/// the layers do not fit at all.
pub(crate) fn relaxed(items: &[Item], layers: usize) -> Option<(f64, f64)> {
    let room: f64 = items.iter().map(|item| (item.slots * item.room.middle) as f64).sum();
    if room < layers as f64 {
        return None;
    }
    let mut order: Vec<&Item> = items.iter().collect();
    let dear = |item: &Item| item.unit_us + item.hop_us / item.room.middle.max(1) as f64;
    order.sort_by(|a, b| dear(a).total_cmp(&dear(b)));
    let mut left = layers as f64;
    let mut sum = 0.0;
    for item in order {
        let here = left.min((item.slots * item.room.middle) as f64);
        // A pool with `h` layers has at least `h / middle` stages, and one hop fewer than stages; every pool is in use.
        sum += here * dear(item) - item.hop_us;
        left -= here;
    }
    let plain: f64 = items.iter().map(|item| item.unit_us).fold(f64::INFINITY, f64::min) * layers as f64;
    let head = items.iter().map(|item| item.head_us).fold(f64::INFINITY, f64::min);
    Some((sum.max(plain) + head, slowest(items, layers)))
}

/// The least time of the slowest stage that leaves room for every layer.
fn slowest(items: &[Item], layers: usize) -> f64 {
    let fits = |limit: f64| {
        let room = |item: &Item| item.slots * item.room.middle.min(within(limit, item.unit_us, 0.0));
        items.iter().map(room).sum::<usize>() >= layers
    };
    let (mut low, mut high) =
        (0.0, items.iter().map(|item| item.unit_us).fold(0.0, f64::max) * layers as f64);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(unit_us: f64, slots: usize, middle: usize) -> Item {
        let room = Room { middle, first: Some(middle), last: Some(middle), only: Some(middle) };
        Item { unit_us, head_us: 0.0, hop_us: 1.0, slots, room }
    }

    #[test]
    fn the_fast_pool_is_filled_first_and_stages_are_few_and_even() {
        let got = fill(&[item(10.0, 2, 8), item(1.0, 4, 8)], 20, f64::INFINITY).unwrap();
        assert_eq!(got, vec![vec![1], vec![6, 6, 7]]);
        assert_eq!(fill(&[item(1.0, 2, 4)], 9, f64::INFINITY), None);
    }

    #[test]
    fn a_limit_makes_more_stages() {
        assert_eq!(fill(&[item(1.0, 4, 8)], 8, f64::INFINITY).unwrap(), vec![vec![8]]);
        assert_eq!(fill(&[item(1.0, 4, 8)], 8, 2.0).unwrap(), vec![vec![2, 2, 2, 2]]);
        assert_eq!(fill(&[item(1.0, 4, 8)], 8, 1.0), None);
    }

    #[test]
    fn a_table_that_leaves_no_room_gets_a_stage_of_its_own() {
        let mut chip = item(1.0, 10, 2);
        chip.room.first = Some(0);
        chip.room.only = None;
        assert_eq!(fill(&[chip], 4, f64::INFINITY).unwrap(), vec![vec![0, 2, 2]]);
        chip.room.first = None;
        assert_eq!(fill(&[chip], 4, f64::INFINITY), None);
    }

    /// Every way to give layers to the stages of pools in order, by brute force.
    fn best_sum(items: &[Item], layers: usize, index: usize) -> Option<f64> {
        let Some(item) = items.get(index) else { return (layers == 0).then_some(0.0) };
        let most = layers.min(item.slots * item.room.middle);
        let cost =
            |n: usize| n as f64 * item.unit_us + (n.div_ceil(item.room.middle) - 1) as f64 * item.hop_us;
        let rest = (1..=most).filter_map(|n| Some(cost(n) + best_sum(items, layers - n, index + 1)?));
        rest.min_by(f64::total_cmp)
    }

    #[test]
    fn sums_are_near_the_best_and_never_below_the_bound() {
        let mut rng = 12345_u64;
        let mut next = |below: u64| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33) % below
        };
        for _ in 0..300 {
            let count = 1 + next(3) as usize;
            let items: Vec<Item> = (0..count)
                .map(|_| item(1.0 + next(20) as f64, 1 + next(4) as usize, 1 + next(6) as usize))
                .collect();
            let layers = 1 + next(20) as usize;
            let best = best_sum(&items, layers, 0);
            let got = fill(&items, layers, f64::INFINITY);
            assert_eq!(best.is_some(), got.is_some(), "{items:?} {layers}");
            let (Some(best), Some(got)) = (best, got) else { continue };
            let sum = |(item, stages): (&Item, &Vec<usize>)| {
                stages.iter().sum::<usize>() as f64 * item.unit_us + (stages.len() - 1) as f64 * item.hop_us
            };
            let value: f64 = items.iter().zip(&got).map(sum).sum();
            let bound = relaxed(&items, layers).unwrap().0;
            assert!(bound <= best + 1e-9, "bound {bound} best {best} {items:?} {layers}");
            assert!(value <= best + 3.0 + 1e-9, "value {value} best {best} {items:?} {layers}");
        }
    }
}
