//! The best pipeline over a given set of pools: every order, degree, number of pieces and division of layers.
//!
//! A block is a set of pools that serves together, as one or several equal replicas. Each pool has one degree in a
//! block. For every choice of degrees the relaxation of `fill.rs` gives a lower bound; choices that cannot beat the best
//! so far are left, so the least relaxation seen is a lower bound for every plan of the block.

use crate::fill::{Item, fill, relaxed};
use crate::joint::{Side, joint};
use crate::pool::Pools;
use crate::prices::{Prices, StageShape};
use crate::request::{Objective, Phase, Request};
use crate::timing::Timing;

/// Most choices of degrees for one set of pools; beyond, degrees are thinned to powers of two and then to the ends.
const MOST_CHOICES: usize = 20_000;

/// Most bisection steps for the time of the slowest stage.
const LIMIT_STEPS: usize = 24;

/// Most stages between which layers are moved one by one.
const MOST_POLISHED: usize = 8;

/// Distance from the bound above which moving layers may pay.
const POLISHED_GAP: f64 = 0.01;

/// Choices of degrees whose bound is looked at more closely, and the distance from the best that asks for it.
const MOST_REFINED: usize = 48;
const REFINED_GAP: f64 = 0.005;

/// Fewest rows worth a piece of their own.
const FEWEST_ROWS: f64 = 64.0;

/// A pipeline, its replicas and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// Stages of one replica.
    pub(crate) stages: Vec<StageShape>,
    /// Equal replicas.
    pub(crate) replicas: usize,
    /// Sequences of each.
    pub(crate) sequences: u64,
    /// Pieces the sequences are written in.
    pub(crate) decode_pieces: u64,
    /// Pieces the prompts are read in.
    pub(crate) prefill_pieces: u64,
    /// Time to read the prompts, in us.
    pub(crate) prefill_us: f64,
    /// Time of a round in which every sequence gets a token, in us.
    pub(crate) step_us: f64,
    /// Time of the run in us; of one step when only decoding is planned.
    pub(crate) run_us: f64,
    /// What is minimized: us, J or USD.
    pub(crate) score: f64,
}

/// The best block found and a lower bound on the score of any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// The best, if anything fits.
    pub(crate) best: Option<Block>,
    /// Bound; infinite when nothing can fit.
    pub(crate) bound: f64,
}

/// Fillings tried and what is left of the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Done.
    pub(crate) used: u64,
    /// Allowed.
    pub(crate) limit: u64,
    /// Whether something was thinned or skipped.
    pub(crate) cut: bool,
}

impl Work {
    fn spend(&mut self) -> bool {
        if self.used >= self.limit {
            self.cut = true;
            return false;
        }
        self.used += 1;
        true
    }
}

/// Power of the devices of some stages in W, or rent in USD per hour; 0 where unknown.
pub(crate) fn rate(pools: &Pools, stages: &[StageShape], objective: Objective) -> f64 {
    stages.iter().map(|stage| stage.ranks as f64 * device_rate(pools, stage.pool, objective)).sum()
}

/// The same for one device.
pub(crate) fn device_rate(pools: &Pools, pool: usize, objective: Objective) -> f64 {
    let device = &pools.list[pool].device;
    let fact = if objective == Objective::Price { &device.usd_per_hour } else { &device.power_w };
    fact.as_ref().map_or(0.0, |fact| fact.value)
}

/// What a run of that time costs at that rate.
fn score(objective: Objective, run_us: f64, rate: f64) -> f64 {
    match objective {
        Objective::Latency | Objective::Throughput => run_us,
        Objective::Energy => run_us * 1e-6 * rate,
        Objective::Price => run_us / 3.6e9 * rate,
    }
}

/// Numbers of pieces for writing: divisors of the sequences.
fn decode_pieces(request: &Request, sequences: u64) -> Vec<u64> {
    if request.phase == Phase::Prefill {
        return vec![1];
    }
    let most = if request.allow.pipeline { sequences.min(64) } else { 1 };
    let divisors: Vec<u64> = (1..=most).filter(|pieces| sequences.is_multiple_of(*pieces)).collect();
    thin(&divisors, 8)
}

/// Numbers of pieces for reading: as few as buffers allow, and a few times that.
fn prefill_pieces(request: &Request, sequences: u64) -> Vec<u64> {
    if request.phase == Phase::Decode {
        return vec![1];
    }
    let rows = request.prompt as f64 * sequences as f64;
    let fewest = (rows / crate::factors::MOST_ROWS_AT_ONCE).ceil().max(1.0) as u64;
    let causal = request.subject.spec.family == crate::spec::Family::Decoder;
    let most = if causal { (rows / FEWEST_ROWS) as u64 } else { sequences };
    if !causal {
        return [1, 2, 4, 8, 16, 32, 64].into_iter().filter(|&n| n == 1 || n <= sequences).collect();
    }
    let times = if request.allow.pipeline { vec![1, 2, 4, 8, 16, 32] } else { vec![1] };
    times.into_iter().map(|times| fewest * times).filter(|&n| n == fewest || n <= most).collect()
}

/// At most `count` of these, the first and the last among them.
fn thin(values: &[u64], count: usize) -> Vec<u64> {
    if values.len() <= count {
        return values.to_vec();
    }
    (0..count).map(|i| values[i * (values.len() - 1) / (count - 1)]).collect()
}

/// Searches one set of pools.
pub(crate) struct Search<'r, 'a, 'w> {
    prices: Prices<'a>,
    replicas: usize,
    work: &'w mut Work,
    orders: &'r [Vec<usize>],
    decode_pieces: Vec<u64>,
    prefill_pieces: Vec<u64>,
    found: Found,
    /// Choices not ruled out, with their bounds.
    open: Vec<(Vec<usize>, f64)>,
}

impl<'r, 'a, 'w> Search<'r, 'a, 'w> {
    /// The best block over every pool of `orders[0]`, in one of these orders.
    pub(crate) fn run(
        prices: Prices<'a>,
        orders: &'r [Vec<usize>],
        replicas: usize,
        work: &'w mut Work,
    ) -> Found {
        let (request, sequences) = (prices.request, prices.sequences);
        let mut search = Search {
            prices,
            replicas,
            work,
            orders,
            decode_pieces: decode_pieces(request, sequences),
            prefill_pieces: prefill_pieces(request, sequences),
            found: Found { best: None, bound: f64::INFINITY },
            open: Vec::new(),
        };
        let Some(set) = orders.first() else { return search.found };
        let degrees = search.degrees(set);
        if degrees.iter().any(Vec::is_empty) {
            return search.found;
        }
        let mut choice = vec![0; set.len()];
        loop {
            let ranks: Vec<usize> = choice.iter().zip(&degrees).map(|(&at, list)| list[at]).collect();
            search.choose(set, &ranks);
            if !advance(&mut choice, &degrees) {
                search.settle(set);
                search.polish();
                search.settle(set);
                return search.found;
            }
        }
    }

    /// The least bound of the choices not ruled out; the lowest are looked at more closely where both phases count.
    fn settle(&mut self, set: &[usize]) {
        let best = self.found.best.as_ref().map_or(f64::INFINITY, |block| block.score);
        self.open.sort_by(|a, b| a.1.total_cmp(&b.1));
        if self.prices.request.phase == Phase::Both && best.is_finite() {
            for at in 0..self.open.len().min(MOST_REFINED) {
                let (ranks, bound) = self.open[at].clone();
                if bound * (1.0 + REFINED_GAP) < best {
                    self.open[at].1 = bound.max(self.joint_bound(set, &ranks).unwrap_or(bound));
                }
            }
        }
        let least = self.open.iter().map(|(_, bound)| *bound).fold(f64::INFINITY, f64::min);
        self.found.bound = least.min(best);
    }

    /// The bound of `joint.rs` over every pair of numbers of pieces.
    fn joint_bound(&mut self, set: &[usize], ranks: &[usize]) -> Option<f64> {
        let request = self.prices.request;
        let layers = request.subject.spec.layers as usize;
        let (reading, writing) = (self.prefill_pieces.clone(), self.decode_pieces.clone());
        let mut sides = |decode: bool, options: Vec<u64>| -> Vec<(u64, Vec<Item>)> {
            let items = options.into_iter().filter_map(|n| Some((n, self.items(set, ranks, decode, n)?)));
            items.collect()
        };
        let (reading, writing) = (sides(false, reading), sides(true, writing));
        let mut least = f64::INFINITY;
        for (pieces, items) in &reading {
            let reading = Side { items, pieces: *pieces };
            for (pieces, items) in &writing {
                let writing = Side { items, pieces: *pieces };
                least = least.min(joint(reading, writing, layers, request.output));
            }
        }
        least.is_finite().then(|| score(request.objective, least, self.least_rate(set, ranks)))
    }

    /// The least rate of a plan with these degrees: one stage on each pool.
    fn least_rate(&self, set: &[usize], ranks: &[usize]) -> f64 {
        let (pools, objective) = (self.prices.pools, self.prices.request.objective);
        let rate: f64 =
            set.iter().zip(ranks).map(|(&p, &n)| n as f64 * device_rate(pools, p, objective)).sum();
        rate * self.replicas as f64
    }

    /// Moves layers between the stages of the best block as long as that helps: reading and writing want different
    /// divisions, and neither phase's own is the best for both.
    fn polish(&mut self) {
        let Some(best) = self.found.best.clone() else { return };
        let count = best.stages.len();
        let far = best.score > self.found.bound * (1.0 + POLISHED_GAP);
        if !(2..=MOST_POLISHED).contains(&count) || !far || self.prices.request.phase != Phase::Both {
            return;
        }
        let pieces = (self.decode_pieces.clone(), self.prefill_pieces.clone());
        (self.decode_pieces, self.prefill_pieces) = (vec![best.decode_pieces], vec![best.prefill_pieces]);
        let rooms: Vec<usize> = (0..count).map(|at| self.room_of(&best.stages, at)).collect();
        let mut step = best.stages.iter().map(|stage| stage.layers).max().unwrap_or(0) / 2;
        while step > 0 {
            if !self.shift(&rooms, step) {
                step /= 2;
            }
        }
        (self.decode_pieces, self.prefill_pieces) = pieces;
        let stages = self.found.best.as_ref().map_or_else(Vec::new, |best| best.stages.clone());
        if let Some(block) = self.weigh(stages)
            && block.score < best.score
        {
            self.found.best = Some(block);
        }
    }

    /// Most layers of a stage in memory.
    fn room_of(&mut self, stages: &[StageShape], at: usize) -> usize {
        let room = self.prices.room(stages[at].pool, stages[at].ranks).0;
        let ends = (at == 0, at + 1 == stages.len());
        match ends {
            (true, true) => room.only.unwrap_or(0),
            (true, false) => room.first.unwrap_or(0),
            (false, true) => room.last.unwrap_or(0),
            (false, false) => room.middle,
        }
    }

    /// Tries to move `step` layers from any stage to any other; true when one move helped.
    fn shift(&mut self, rooms: &[usize], step: usize) -> bool {
        let Some(best) = self.found.best.clone() else { return false };
        for from in 0..rooms.len() {
            for to in (0..rooms.len()).filter(|&to| to != from) {
                let least = usize::from(from != 0 && from + 1 != rooms.len());
                let (giving, taking) = (best.stages[from].layers, best.stages[to].layers);
                if giving < step + least || taking + step > rooms[to] || !self.work.spend() {
                    continue;
                }
                let mut stages = best.stages.clone();
                stages[from].layers -= step;
                stages[to].layers += step;
                if let Some(block) = self.weigh(stages)
                    && block.score < best.score * (1.0 - 1e-9)
                {
                    self.found.best = Some(block);
                    return true;
                }
            }
        }
        false
    }

    /// Degrees of each pool, the largest first: they are usually fastest, and a good plan early saves work.
    fn degrees(&mut self, set: &[usize]) -> Vec<Vec<usize>> {
        let request = self.prices.request;
        let spec = &request.subject.spec;
        let blocks = spec.family == crate::spec::Family::Blocks;
        let most = if request.allow.tensor && !blocks { spec.heads.min(64) as usize } else { 1 };
        let replicas = self.replicas;
        let mut lists: Vec<Vec<usize>> = Vec::new();
        for &pool in set {
            let mut list = self.prices.pools.list[pool].degrees(most.max(1));
            list.retain(|&ranks| ranks >= request.least_ranks);
            list.retain(|&ranks| self.prices.pools.list[pool].slots(ranks) >= replicas);
            list.retain(|&ranks| self.prices.room(pool, ranks).0.middle > 0);
            list.reverse();
            lists.push(list);
        }
        let product = |lists: &[Vec<usize>]| lists.iter().map(Vec::len).fold(1, usize::saturating_mul);
        if product(&lists) > MOST_CHOICES {
            self.work.cut = true;
            for list in &mut lists {
                let ends = (list.first().copied(), list.last().copied());
                list.retain(|&ranks| {
                    ranks.is_power_of_two() || Some(ranks) == ends.0 || Some(ranks) == ends.1
                });
            }
        }
        while product(&lists) > MOST_CHOICES {
            let Some(longest) = lists.iter_mut().max_by_key(|list| list.len()) else { break };
            let middle = longest.len() / 2;
            longest.remove(middle);
        }
        lists
    }

    fn items(&mut self, order: &[usize], ranks: &[usize], decode: bool, pieces: u64) -> Option<Vec<Item>> {
        let pipeline = self.prices.request.allow.pipeline;
        let mut items = Vec::with_capacity(order.len());
        for (&pool, &ranks) in order.iter().zip(ranks) {
            let mut item = self.prices.item(pool, ranks, decode, pieces, self.replicas)?;
            if !pipeline {
                item.slots = 1;
            }
            items.push(item);
        }
        Some(items)
    }

    /// The least prefill and decode times any division of layers can have.
    fn bound(&mut self, set: &[usize], ranks: &[usize]) -> Option<f64> {
        let request = self.prices.request;
        let layers = request.subject.spec.layers as usize;
        let mut least = (f64::INFINITY, f64::INFINITY);
        for pieces in self.prefill_pieces.clone() {
            let Some(items) = self.items(set, ranks, false, pieces) else { continue };
            let Some((through, slowest)) = relaxed(&items, layers) else { continue };
            least.0 = least.0.min(through + (pieces - 1) as f64 * slowest);
        }
        for pieces in self.decode_pieces.clone() {
            let Some(items) = self.items(set, ranks, true, pieces) else { continue };
            let Some((through, slowest)) = relaxed(&items, layers) else { continue };
            let round = through.max(pieces as f64 * slowest);
            let us = match request.timed_rounds() {
                None => round,
                Some(rounds) => {
                    rounds.saturating_sub(1) as f64 * round + through + (pieces - 1) as f64 * slowest
                }
            };
            least.1 = least.1.min(us);
        }
        let us = match request.phase {
            Phase::Prefill => least.0,
            Phase::Decode => least.1,
            Phase::Both => least.0 + least.1,
        };
        us.is_finite().then(|| score(request.objective, us, self.least_rate(set, ranks)))
    }

    fn choose(&mut self, set: &[usize], ranks: &[usize]) {
        let Some(bound) = self.bound(set, ranks) else { return };
        let best = self.found.best.as_ref().map_or(f64::INFINITY, |block| block.score);
        if bound >= best {
            return;
        }
        self.open.push((ranks.to_vec(), bound));
        for order in self.orders {
            let at = |pool: &usize| set.iter().position(|other| other == pool).unwrap_or(0);
            let ranks: Vec<usize> = order.iter().map(|pool| ranks[at(pool)]).collect();
            let both = self.prices.request.phase == Phase::Both;
            for pieces in self.decode_pieces.clone() {
                if self.prices.request.phase != Phase::Prefill {
                    self.divide(order, &ranks, true, pieces);
                }
            }
            for pieces in self.prefill_pieces.clone() {
                if self.prices.request.phase == Phase::Prefill || both && pieces > 1 {
                    self.divide(order, &ranks, false, pieces);
                }
            }
        }
    }

    /// Divides layers for one phase: with no limit, then at the limit where the slowest stage and the way through weigh
    /// the same.
    fn divide(&mut self, order: &[usize], ranks: &[usize], decode: bool, pieces: u64) {
        let layers = self.prices.request.subject.spec.layers as usize;
        let Some(items) = self.items(order, ranks, decode, pieces) else { return };
        let Some((through, slowest)) = relaxed(&items, layers) else { return };
        if !self.attempt(order, ranks, &items, f64::INFINITY) {
            return;
        }
        if pieces < 2 {
            return;
        }
        let (mut low, mut high) = (slowest, through.max(slowest));
        for _ in 0..LIMIT_STEPS {
            let middle = 0.5 * (low + high);
            if high - low < 1e-4 * high {
                return;
            }
            // Tight limits need more stages than there are; loose ones leave the pipeline waiting for one stage.
            if self.attempt(order, ranks, &items, middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }

    /// Fills stages within a limit and keeps the plan if it is better. False when it cannot be done.
    fn attempt(&mut self, order: &[usize], ranks: &[usize], items: &[Item], limit_us: f64) -> bool {
        let layers = self.prices.request.subject.spec.layers as usize;
        if !self.work.spend() {
            return false;
        }
        let Some(filled) = fill(items, layers, limit_us) else { return false };
        let mut stages = Vec::new();
        for ((&pool, &ranks), counts) in order.iter().zip(ranks).zip(filled) {
            stages.extend(counts.into_iter().map(|layers| StageShape { pool, ranks, layers }));
        }
        if let Some(block) = self.weigh(stages)
            && self.found.best.as_ref().is_none_or(|best| block.score < best.score * (1.0 - 1e-12))
        {
            self.found.best = Some(block);
        }
        true
    }

    /// The block of these stages with the best numbers of pieces; `None` when it breaks a cap.
    fn weigh(&mut self, stages: Vec<StageShape>) -> Option<Block> {
        let request = self.prices.request;
        let mut block = Block {
            replicas: self.replicas,
            sequences: self.prices.sequences,
            decode_pieces: 1,
            prefill_pieces: 1,
            prefill_us: 0.0,
            step_us: 0.0,
            run_us: 0.0,
            score: 0.0,
            stages,
        };
        if request.phase != Phase::Decode {
            let reading = |timing: &Timing, pieces: u64| timing.pass_us(pieces);
            (block.prefill_us, block.prefill_pieces) = self.fastest(&block.stages, false, reading)?;
        }
        let mut writing_us = 0.0;
        if request.phase != Phase::Prefill {
            let writing = |timing: &Timing, pieces: u64| match request.timed_rounds() {
                None => timing.round_us(pieces),
                Some(rounds) => timing.rounds_us(pieces, rounds),
            };
            (writing_us, block.decode_pieces) = self.fastest(&block.stages, true, writing)?;
            block.step_us =
                self.prices.timing(&block.stages, true, block.decode_pieces)?.round_us(block.decode_pieces);
        }
        block.run_us = block.prefill_us + writing_us;
        let rate = rate(self.prices.pools, &block.stages, request.objective) * self.replicas as f64;
        block.score = score(request.objective, block.run_us, rate);
        self.keeps_caps(&block).then_some(block)
    }

    fn fastest(
        &mut self,
        stages: &[StageShape],
        decode: bool,
        time: impl Fn(&Timing, u64) -> f64,
    ) -> Option<(f64, u64)> {
        let options = if decode { self.decode_pieces.clone() } else { self.prefill_pieces.clone() };
        let mut best: Option<(f64, u64)> = None;
        for pieces in options {
            let Some(timing) = self.prices.timing(stages, decode, pieces) else { continue };
            let us = time(&timing, pieces);
            if best.is_none_or(|(least, _)| us < least) {
                best = Some((us, pieces));
            }
        }
        best
    }

    fn keeps_caps(&self, block: &Block) -> bool {
        let caps = &self.prices.request.caps;
        let of = |objective| rate(self.prices.pools, &block.stages, objective) * self.replicas as f64;
        let below = |cap: Option<f64>, value: f64| cap.is_none_or(|cap| value <= cap);
        below(caps.deadline_us, block.run_us)
            && below(caps.power_w, of(Objective::Energy))
            && below(caps.usd_per_hour, of(Objective::Price))
    }
}

/// The next choice, the last position fastest; false after the last.
fn advance(choice: &mut [usize], lists: &[Vec<usize>]) -> bool {
    for (at, list) in choice.iter_mut().zip(lists).rev() {
        *at += 1;
        if *at < list.len() {
            return true;
        }
        *at = 0;
    }
    false
}
