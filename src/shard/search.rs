//! Which pools serve together, in how many replicas, and whether prompts are read elsewhere than tokens are written.
//!
//! Every set of pools is searched as one block (`block.rs`) for every share of the sequences; disjoint blocks are then
//! put together by dynamic programming over sets and shares. Values and bounds go the same way, so the bound covers
//! every plan made of such blocks.

use partita_hw::Kind;

use crate::block::{Block, Found, Search, Work, rate};
use crate::pool::{Pool, Pools, Wire};
use crate::prices::{CpuTime, Prices};
use crate::request::{Objective, Phase, Request};

/// Whether a set holds CPUs only; the empty set does.
pub(crate) fn only_cpus(pools: &Pools, set: u32) -> bool {
    members(set).into_iter().all(|pool| pools.list[pool].device.kind == Kind::Cpu)
}

/// Up to so many pools every set of them is searched; beyond, single ones, pairs and all together.
const EVERY_SET: usize = 8;

/// Parts the sequences are divided into between blocks.
const SHARES: u64 = 8;

/// Most numbers of replicas tried.
const REPLICA_COUNTS: usize = 12;

/// Blocks that serve together, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrangement {
    /// Blocks that read and write, or do what the phase asks for.
    pub(crate) blocks: Vec<Block>,
    /// The block that reads prompts for the others, with the time of the hand-over in us.
    pub(crate) reader: Option<(Block, f64)>,
    /// A pool cut in two so that one half reads and the other writes: its position and what the first half gets.
    pub(crate) cut: Option<(usize, usize)>,
    /// Cost to minimize; tokens per us, negated, for throughput.
    pub(crate) cost: f64,
}

/// The best arrangement and the least cost any can have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The best, if anything fits.
    pub(crate) best: Option<Arrangement>,
    /// Bound on the cost; infinite when nothing can fit.
    pub(crate) bound: f64,
}

impl Outcome {
    const NOTHING: Outcome = Outcome { best: None, bound: f64::INFINITY };

    fn take(&mut self, other: Outcome) {
        self.bound = self.bound.min(other.bound);
        let cost = |outcome: &Outcome| outcome.best.as_ref().map_or(f64::INFINITY, |best| best.cost);
        if cost(&other) < cost(self) {
            self.best = other.best;
        }
    }
}

/// Sets of pools, as bits.
pub(crate) fn sets(count: usize, request: &Request) -> Vec<u32> {
    let all = 1_u32 << count;
    let size = |set: &u32| set.count_ones() as usize;
    let every = count <= EVERY_SET;
    let pipeline = request.allow.pipeline;
    (1..all)
        .filter(|set| size(set) == 1 || pipeline && (every || size(set) == 2 || size(set) == count))
        .collect()
}

/// The pools of a set.
pub(crate) fn members(set: u32) -> Vec<usize> {
    (0..32).filter(|bit| set >> bit & 1 == 1).collect()
}

/// Orders of some pools worth trying: all of up to three, else the shortest way through them, both ways.
pub(crate) fn orders(pools: &Pools, set: &[usize]) -> Vec<Vec<usize>> {
    if set.len() <= 3 {
        return permutations(set);
    }
    let way = |a: usize, b: usize| pools.between[a][b].us(1e5);
    let from = |start: usize| {
        let (mut order, mut rest, mut length) = (vec![start], set.to_vec(), 0.0);
        rest.retain(|&pool| pool != start);
        while let Some(next) = rest.iter().copied().min_by(|&a, &b| {
            let here = order[order.len() - 1];
            way(here, a).total_cmp(&way(here, b))
        }) {
            length += way(order[order.len() - 1], next);
            rest.retain(|&pool| pool != next);
            order.push(next);
        }
        (length, order)
    };
    let ways = set.iter().map(|&start| from(start));
    let Some((_, best)) = ways.min_by(|a, b| a.0.total_cmp(&b.0)) else { return Vec::new() };
    let back = best.iter().rev().copied().collect();
    vec![best, back]
}

fn permutations(set: &[usize]) -> Vec<Vec<usize>> {
    if set.len() < 2 {
        return vec![set.to_vec()];
    }
    let mut out = Vec::new();
    for (at, &first) in set.iter().enumerate() {
        let mut rest = set.to_vec();
        rest.remove(at);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            out.push(tail);
        }
    }
    out
}

/// Numbers of replicas worth trying.
fn replica_counts(request: &Request, pools: &Pools, set: &[usize], sequences: u64) -> Vec<usize> {
    if !request.allow.data {
        return vec![1];
    }
    let slots = set.iter().map(|&pool| pools.list[pool].count()).min().unwrap_or(1);
    let most = slots.min(usize::try_from(sequences).unwrap_or(usize::MAX));
    let mut counts: Vec<usize> = (1..=most.min(8)).collect();
    counts.extend((4..).map(|power| 1_usize << power).take_while(|&n| n <= most).take(REPLICA_COUNTS - 9));
    if !counts.contains(&most) {
        counts.push(most);
    }
    counts
}

/// The best block over a set of pools for so many sequences, over numbers of replicas.
fn block(
    request: &Request,
    pools: &Pools,
    set: &[usize],
    sequences: u64,
    cpu: CpuTime,
    work: &mut Work,
) -> Found {
    let orders = orders(pools, set);
    let mut found = Found { best: None, bound: f64::INFINITY };
    for replicas in replica_counts(request, pools, set, sequences) {
        let each = sequences.div_ceil(replicas as u64);
        let one = Search::run(Prices::new(request, pools, each, cpu), &orders, replicas, work);
        found.bound = found.bound.min(one.bound);
        let score = |found: &Found| found.best.as_ref().map_or(f64::INFINITY, |block| block.score);
        if score(&one) < score(&found) {
            found.best = one.best;
        }
    }
    found
}

/// Cost of a block alone.
fn cost(request: &Request, score: f64, sequences: f64) -> f64 {
    match request.objective {
        Objective::Throughput => -request.counted_tokens(sequences) / score,
        Objective::Latency | Objective::Energy | Objective::Price => score,
    }
}

/// Costs of blocks that serve side by side.
fn together(objective: Objective, a: f64, b: f64) -> f64 {
    if objective == Objective::Latency { a.max(b) } else { a + b }
}

/// Searches a request over pools.
pub(crate) fn search(request: &Request, pools: &Pools, must: u32, work: &mut Work) -> Outcome {
    let mut outcome = side_by_side(request, pools, must, work);
    if request.phase == Phase::Both && request.allow.split {
        outcome.take(apart(request, pools, must, None, work));
        for (at, size) in cuts(pools) {
            let mut halves = apart(request, &cut_pool(pools, at, size), widen(must, at), Some(at), work);
            if let Some(best) = &mut halves.best {
                best.cut = Some((at, size));
            }
            outcome.take(halves);
        }
    }
    outcome
}

/// Blocks that all do the same, each for a share of the sequences.
fn side_by_side(request: &Request, pools: &Pools, must: u32, work: &mut Work) -> Outcome {
    let count = pools.list.len();
    // One pool serves everything: it has nobody to share with.
    let shares = if request.allow.data && count > 1 { SHARES.min(request.batch) } else { 1 };
    // Blocks are sized for their share rounded up, and counted for the share itself.
    let part = |share: u64| (request.batch * share).div_ceil(shares);
    let full = 1_usize << count;
    let start = if request.objective == Objective::Latency { f64::NEG_INFINITY } else { 0.0 };
    let blank: Vec<Vec<Outcome>> = vec![vec![Outcome::NOTHING; shares as usize + 1]; full];
    let mut table = blank;
    table[0][0] = Outcome {
        best: Some(Arrangement { blocks: Vec::new(), reader: None, cut: None, cost: start }),
        bound: start,
    };
    // CPUs alone join last, when it is known whether they serve beside accelerators.
    let mut sets = sets(count, request);
    sets.sort_by_key(|&set| only_cpus(pools, set));
    for set in sets {
        let members = members(set);
        let mut search = |cpu: CpuTime| -> Vec<Option<Found>> {
            let found =
                (1..=shares).map(|share| Some(block(request, pools, &members, part(share), cpu, work)));
            std::iter::once(None).chain(found).collect()
        };
        let cpus = only_cpus(pools, set);
        let mixed = !cpus && members.iter().any(|&pool| pools.list[pool].device.kind == Kind::Cpu);
        let found = search(if mixed { CpuTime::Beside } else { CpuTime::Alone });
        let beside = if cpus { search(CpuTime::Beside) } else { found.clone() };
        // A set joins what was made of the sets before it.
        for before in (0..full).rev().filter(|before| before & set as usize == 0) {
            let alone = only_cpus(pools, before as u32);
            join(request, pools, &mut table, before, set as usize, if alone { &found } else { &beside });
        }
    }
    let covered = |set: &usize| *set as u32 & must == must;
    let mut outcome = Outcome::NOTHING;
    for set in (0..full).filter(covered) {
        outcome.take(table[set][shares as usize].clone());
    }
    outcome
}

fn join(
    request: &Request,
    pools: &Pools,
    table: &mut [Vec<Outcome>],
    before: usize,
    set: usize,
    found: &[Option<Found>],
) {
    let shares = found.len() - 1;
    for had in 0..shares {
        for more in 1..=shares - had {
            let Some(found) = &found[more] else { continue };
            let old = &table[before][had];
            let sequences = request.batch as f64 * more as f64 / shares as f64;
            let finite = found.bound.is_finite() && old.bound < f64::INFINITY;
            let bound = together(request.objective, old.bound, cost(request, found.bound, sequences));
            let best = old.best.as_ref().zip(found.best.as_ref()).map(|(old, block)| {
                let mut blocks = old.blocks.clone();
                blocks.push(block.clone());
                let own = cost(request, block.score, sequences);
                let cost = together(request.objective, old.cost, own);
                Arrangement { blocks, reader: None, cut: None, cost }
            });
            let best = best.filter(|best| keeps_caps(request, pools, &best.blocks));
            let bound = if finite { bound } else { f64::INFINITY };
            table[before | set][had + more].take(Outcome { best, bound });
        }
    }
}

/// Whether blocks stay within the caps on power and rent together.
fn keeps_caps(request: &Request, pools: &Pools, blocks: &[Block]) -> bool {
    let total = |objective: Objective| -> f64 {
        blocks.iter().map(|block| rate(pools, &block.stages, objective) * block.replicas as f64).sum()
    };
    let below = |cap: Option<f64>, objective: Objective| cap.is_none_or(|cap| total(objective) <= cap);
    below(request.caps.power_w, Objective::Energy) && below(request.caps.usd_per_hour, Objective::Price)
}

/// Prompts read by one set of pools, tokens written by another. With `cut` given, the pool there reads and
/// the one behind it, its other half, writes.
fn apart(request: &Request, pools: &Pools, must: u32, cut: Option<usize>, work: &mut Work) -> Outcome {
    let reading = Request { phase: Phase::Prefill, ..request.clone() };
    let mean_keys = Some(request.prompt as f64 + request.output as f64 / 2.0);
    let writing = Request {
        phase: Phase::Decode,
        context: request.context.max(request.prompt + request.output),
        mean_keys,
        rounds: request.output,
        ..request.clone()
    };
    let sets = sets(pools.list.len(), request);
    let has = |set: u32, pool: Option<usize>| pool.is_none_or(|pool| set >> pool & 1 == 1);
    let mut run = |request: &Request, side: Option<usize>| -> Vec<(u32, Found, Found)> {
        let fit = sets.iter().copied().filter(|&set| has(set, side));
        fit.map(|set| {
            let members = members(set);
            let mut search = |cpu: CpuTime| block(request, pools, &members, request.batch, cpu, work);
            let cpus = members.iter().any(|&pool| pools.list[pool].device.kind == Kind::Cpu);
            let alone = only_cpus(pools, set).then(|| search(CpuTime::Alone));
            let beside = search(if cpus { CpuTime::Beside } else { CpuTime::Alone });
            (set, alone.unwrap_or_else(|| beside.clone()), beside)
        })
        .collect()
    };
    let readers = run(&reading, cut);
    let writers = run(&writing, cut.map(|at| at + 1));
    let mut outcome = Outcome::NOTHING;
    for (a, reader, reader_beside) in &readers {
        for (b, writer, writer_beside) in
            writers.iter().filter(|(b, ..)| a & b == 0 && (a | b) & must == must)
        {
            let (reader, writer) =
                if only_cpus(pools, a | b) { (reader, writer) } else { (reader_beside, writer_beside) };
            outcome.take(pair_up(request, pools, (*a, reader), (*b, writer)));
        }
    }
    outcome
}

fn pair_up(request: &Request, pools: &Pools, a: (u32, &Found), b: (u32, &Found)) -> Outcome {
    let wires = members(a.0).into_iter().flat_map(|from| members(b.0).into_iter().map(move |to| (from, to)));
    let wire = |(from, to): (usize, usize)| -> Wire { pools.between[from][to] };
    let tokens = (request.batch * request.prompt) as f64;
    let bytes = tokens * request.subject.spec.kv_bytes_per_token(request.subject.kv_bytes);
    let handoff_us = wires.map(|pair| wire(pair).us(bytes)).fold(0.0, f64::max);
    let cost = |reading: f64, writing: f64| match request.objective {
        Objective::Latency => reading + handoff_us + writing,
        Objective::Throughput => {
            -request.counted_tokens(request.batch as f64) / reading.max(writing).max(handoff_us)
        }
        Objective::Energy | Objective::Price => reading + writing,
    };
    let best = a.1.best.as_ref().zip(b.1.best.as_ref()).map(|(reader, writer)| Arrangement {
        cost: cost(reader.score, writer.score),
        blocks: vec![writer.clone()],
        reader: Some((reader.clone(), handoff_us)),
        cut: None,
    });
    let finite = a.1.bound.is_finite() && b.1.bound.is_finite();
    let together = |best: &Arrangement| {
        let reader = best.reader.as_ref().map(|(reader, _)| reader.clone());
        best.blocks.iter().cloned().chain(reader).collect::<Vec<_>>()
    };
    let best = best.filter(|best| keeps_caps(request, pools, &together(best)));
    let best = best.filter(|best| request.caps.deadline_us.is_none_or(|cap| best.run_us() <= cap));
    Outcome { best, bound: if finite { cost(a.1.bound, b.1.bound) } else { f64::INFINITY } }
}

impl Arrangement {
    /// Time of the run in us: the slowest of what serves side by side, after the prompts were read.
    pub(crate) fn run_us(&self) -> f64 {
        let slowest = self.blocks.iter().map(|block| block.run_us).fold(0.0, f64::max);
        slowest + self.reader.as_ref().map_or(0.0, |(reader, handoff_us)| reader.run_us + handoff_us)
    }
}

/// Moves the bits behind a pool that was cut in two one up; the pool itself counts as its first half.
fn widen(must: u32, at: usize) -> u32 {
    let low = must & ((1 << (at + 1)) - 1);
    let high = must >> (at + 1) << (at + 2);
    low | high
}

/// Which pools to cut in two, and how much the first half gets: islands, or devices of the only island.
fn cuts(pools: &Pools) -> Vec<(usize, usize)> {
    if pools.list.len() >= EVERY_SET {
        return Vec::new();
    }
    let sizes = |pool: &Pool| {
        let total = if pool.islands.len() > 1 { pool.islands.len() } else { pool.island_size() };
        let mut sizes = vec![total / 4, total / 2, total - total / 4];
        sizes.retain(|&size| size > 0 && size < total);
        sizes.dedup();
        sizes
    };
    let all = pools.list.iter().enumerate();
    all.flat_map(|(at, pool)| sizes(pool).into_iter().map(move |size| (at, size))).collect()
}

/// The same pools with one of them in two: its first half stays in place, the second follows.
pub(crate) fn cut_pool(pools: &Pools, at: usize, cut: usize) -> Pools {
    let by_island = pools.list[at].islands.len() > 1;
    let mut halves = pools.clone();
    let mut second = halves.list[at].clone();
    let first = &mut halves.list[at];
    let wire = if by_island { first.across } else { first.within };
    if by_island {
        second.islands = first.islands.split_off(cut);
    } else {
        second.islands = vec![first.islands[0].split_off(cut)];
    }
    halves.list.insert(at + 1, second);
    for row in &mut halves.between {
        let same = row[at];
        row.insert(at + 1, same);
    }
    let row = halves.between[at].clone();
    halves.between.insert(at + 1, row);
    (halves.between[at][at + 1], halves.between[at + 1][at]) = (wire, wire);
    halves.between[at + 1][at + 1] = Wire::NONE;
    halves
}
