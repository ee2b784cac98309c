//! An assignment under search: marginal costs and usage kept up to date, change by change.
//!
//! Usage is followed at a few watched times only; the search asks now and then for times that are missing.

use super::model::Model;

/// Usage of a node's strategies over a range of watched times.
struct Piece {
    begin: u32,
    end: u32,
    /// Start of the usages in `State::amounts`.
    at: u32,
}

/// An assignment with what the moves need to know about it.
pub(crate) struct State<'a> {
    pub(crate) m: &'a Model,
    pub(crate) x: Vec<u16>,
    /// Cost of each strategy of each node beside what its neighbours chose. Sums wrap: only a strategy forbidden by
    /// thousands of neighbours at once goes that far, and what is read for others is exact.
    pub(crate) local: Vec<i64>,
    pub(crate) cost: i128,
    /// Watched times, rising.
    pub(crate) watched: Vec<u32>,
    pub(crate) usage: Vec<f64>,
    pub(crate) room: Vec<f64>,
    /// What a unit of usage beyond the room costs.
    pub(crate) weight: Vec<f64>,
    /// Pieces of node `v` are `first_piece[v]..first_piece[v + 1]`.
    first_piece: Vec<u32>,
    pieces: Vec<Piece>,
    amounts: Vec<f64>,
}

impl<'a> State<'a> {
    pub(crate) fn new(m: &'a Model, x: Vec<u16>) -> State<'a> {
        let mut s = State {
            m,
            x,
            local: Vec::new(),
            cost: 0,
            watched: Vec::new(),
            usage: Vec::new(),
            room: Vec::new(),
            weight: Vec::new(),
            first_piece: vec![0; m.nodes() + 1],
            pieces: Vec::new(),
            amounts: Vec::new(),
        };
        s.refresh();
        s
    }

    /// Computes marginal costs, cost and usage anew.
    fn refresh(&mut self) {
        self.local = self.m.cost.iter().map(|&c| c as i64).collect();
        let mut twice = 0i128;
        for v in 0..self.m.nodes() {
            let local = &mut self.local[self.m.first[v]..self.m.first[v + 1]];
            let own = local[usize::from(self.x[v])];
            for (w, t) in self.m.edges(v) {
                // `t` has rows of `v`; its turned twin would be read by columns otherwise.
                let at = usize::from(self.x[w]);
                local.iter_mut().enumerate().for_each(|(i, l)| *l = l.wrapping_add(t.exact[i * t.cols + at]));
            }
            twice += i128::from(own) + i128::from(local[usize::from(self.x[v])]);
        }
        self.cost = twice / 2;
        self.recount();
    }

    fn recount(&mut self) {
        let all = self.m.usage(&self.x);
        self.usage = self.watched.iter().map(|&t| all[t as usize]).collect();
    }

    /// Whether usage is within the room at all watched times.
    pub(crate) fn within(&self) -> bool {
        self.usage.iter().zip(&self.room).all(|(u, r)| u <= r)
    }

    /// Jumps to another assignment; returns the work.
    pub(crate) fn jump(&mut self, x: &[u16]) -> u64 {
        let changed: Vec<usize> = (0..x.len()).filter(|&v| x[v] != self.x[v]).collect();
        if 4 * changed.len() > x.len() {
            self.x.copy_from_slice(x);
            self.refresh();
            return 8 * (self.m.near.len() + self.m.cost.len()) as u64;
        }
        for &v in &changed {
            self.set(v, x[v]);
        }
        self.recount();
        (changed.len() * 200 + self.m.nodes() + self.m.room.len()) as u64
    }

    /// Watches more times; returns the work.
    pub(crate) fn watch(&mut self, times: &[u32]) -> u64 {
        let weight = self.weight.iter().copied().fold(0.0, f64::max);
        let mut all: Vec<(u32, f64)> =
            self.watched.iter().copied().zip(self.weight.iter().copied()).collect();
        all.extend(times.iter().map(|&t| (t, weight)));
        all.sort_by_key(|&(t, _)| t);
        all.dedup_by_key(|&mut (t, _)| t);
        self.watched = all.iter().map(|&(t, _)| t).collect();
        self.weight = all.iter().map(|&(_, w)| w).collect();
        self.room = self.watched.iter().map(|&t| self.m.room[t as usize]).collect();
        self.cut();
        self.recount();
        4 * (self.amounts.len() + self.m.room.len()) as u64
    }

    /// Cuts the loads of each node into pieces of equal usage.
    fn cut(&mut self) {
        self.pieces.clear();
        self.amounts.clear();
        let mut place = vec![0u32; self.m.room.len() + 1];
        let mut count = 0;
        for (t, p) in place.iter_mut().enumerate() {
            *p = count;
            count += u32::from(self.watched.get(count as usize) == Some(&(t as u32)));
        }
        for v in 0..self.m.nodes() {
            let k = self.m.strategies(v);
            let mut events: Vec<(u32, f64, &[i64])> = Vec::new();
            for l in &self.m.loads[v] {
                let (begin, end) = (place[l.begin as usize], place[l.end as usize]);
                if begin < end {
                    events.push((begin, 1.0, &l.usage));
                    events.push((end, -1.0, &l.usage));
                }
            }
            events.sort_by_key(|e| e.0);
            let mut run = vec![0.0; k];
            for (i, &(at, sign, usage)) in events.iter().enumerate() {
                run.iter_mut().zip(usage).for_each(|(r, &u)| *r += sign * u as f64);
                let next = events.get(i + 1).map_or(at, |e| e.0);
                if next > at && run.iter().any(|&r| r != 0.0) {
                    self.pieces.push(Piece { begin: at, end: next, at: self.amounts.len() as u32 });
                    self.amounts.extend(&run);
                }
            }
            self.first_piece[v + 1] = self.pieces.len() as u32;
        }
    }

    fn pieces(&self, v: usize) -> &[Piece] {
        &self.pieces[self.first_piece[v] as usize..self.first_piece[v + 1] as usize]
    }

    /// Times all watched times of all pieces: what one full look costs.
    pub(crate) fn span(&self, v: usize) -> usize {
        self.pieces(v).iter().map(|p| (p.end - p.begin) as usize).sum()
    }

    /// Watched times at which `v` can use anything.
    pub(crate) fn reach(&self, v: usize) -> (usize, usize) {
        match (self.pieces(v).first(), self.pieces(v).last()) {
            (Some(a), Some(b)) => (a.begin as usize, b.end as usize),
            _ => (0, 0),
        }
    }

    /// Adds the difference of usage between two strategies of `v`.
    pub(crate) fn shift_usage(&mut self, v: usize, from: u16, to: u16) {
        let range = self.first_piece[v] as usize..self.first_piece[v + 1] as usize;
        for p in &self.pieces[range] {
            let at = p.at as usize;
            let by = self.amounts[at + usize::from(to)] - self.amounts[at + usize::from(from)];
            if by != 0.0 {
                self.usage[p.begin as usize..p.end as usize].iter_mut().for_each(|u| *u += by);
            }
        }
    }

    /// What usage beyond the room costs within a range of watched times.
    pub(crate) fn penalty(&self, begin: usize, end: usize) -> f64 {
        let mut sum = 0.0;
        for t in begin..end {
            let over = self.usage[t] - self.room[t];
            sum += if over > 0.0 { over * self.weight[t] } else { 0.0 };
        }
        sum
    }

    /// What each strategy's usage costs at a price per watched time.
    pub(crate) fn charge(&self, price: &[f64], out: &mut [f64]) -> u64 {
        let mut before = vec![0.0; price.len() + 1];
        (0..price.len()).for_each(|t| before[t + 1] = before[t] + price[t]);
        out.fill(0.0);
        for v in 0..self.m.nodes() {
            let (a, b) = (self.m.first[v], self.m.first[v + 1]);
            for p in self.pieces(v) {
                let each = before[p.end as usize] - before[p.begin as usize];
                if each > 0.0 {
                    let amounts = &self.amounts[p.at as usize..];
                    out[a..b].iter_mut().zip(amounts).for_each(|(o, &u)| *o += each * u);
                }
            }
        }
        (self.amounts.len() + out.len() + price.len()) as u64
    }

    /// Sets a strategy where usage was already shifted; keeps cost and marginal costs.
    pub(crate) fn set(&mut self, v: usize, to: u16) {
        let from = std::mem::replace(&mut self.x[v], to);
        let first = self.m.first[v];
        let change = self.local[first + usize::from(to)].wrapping_sub(self.local[first + usize::from(from)]);
        self.cost += i128::from(change);
        for (w, t) in self.m.edges(v) {
            let local = &mut self.local[self.m.first[w]..self.m.first[w + 1]];
            let (new, old) = (t.exact_row(usize::from(to)), t.exact_row(usize::from(from)));
            local.iter_mut().zip(new).zip(old).for_each(|((l, n), o)| *l = l.wrapping_add(n - o));
        }
    }

    /// Times that are over the limit and not watched: the worst of each stretch. Empty when all is within.
    pub(crate) fn unwatched_peaks(&self) -> Vec<u32> {
        let mut peaks = self.m.peaks(&self.m.usage(&self.x));
        peaks.retain(|p| self.watched.binary_search(p).is_err());
        peaks
    }
}
