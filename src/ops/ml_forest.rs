//! Decision trees as flat arrays: building them from hostile lists, and walking them.
//!
//! A link is either an interior node or a leaf; children are positions, so a walk touches one array and needs no
//! recursion. Links that run in circles are found before anything is evaluated.

use crate::common::attr_error;
use crate::ml_common::Rows;
use partita_ir::diag::Diag;

/// Test of an interior node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Leq,
    Lt,
    Gte,
    Gt,
    Eq,
    Neq,
    Member,
}

impl Mode {
    /// From the number `TreeEnsemble` uses.
    pub(crate) fn numbered(n: i64) -> Option<Self> {
        const ALL: [Mode; 7] = [Mode::Leq, Mode::Lt, Mode::Gte, Mode::Gt, Mode::Eq, Mode::Neq, Mode::Member];
        ALL.get(usize::try_from(n).ok()?).copied()
    }

    /// From the name older forms use; `Some(None)` is a leaf.
    pub(crate) fn named(name: &str) -> Option<Option<Self>> {
        const NAMES: [&str; 6] =
            ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
        if name == "LEAF" {
            return Some(None);
        }
        NAMES.iter().position(|n| *n == name).and_then(|n| Self::numbered(n as i64)).map(Some)
    }
}

/// Where a branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Position of an interior node.
    Node(u32),
    /// Position of a leaf.
    Leaf(u32),
}

/// An interior node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) feature: u32,
    pub(crate) mode: Mode,
    /// Whether a missing feature (NaN) takes the true branch.
    pub(crate) missing_true: bool,
    /// Threshold; for `Mode::Member` the number of the set.
    pub(crate) value: f64,
    pub(crate) if_true: Link,
    pub(crate) if_false: Link,
}

/// How the votes of the trees become one score for each target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

/// Trees ready to be walked.
#[derive(Debug)]
pub(crate) struct Forest {
    splits: Vec<Split>,
    roots: Vec<Link>,
    /// For each leaf where its votes end; they start where those of the leaf before end.
    leaf_ends: Vec<u32>,
    /// (target, weight) of each vote.
    votes: Vec<(u32, f64)>,
    /// Sorted members of each set.
    sets: Vec<Vec<f64>>,
    n_targets: usize,
}

/// Scores of rows, `width` each.
#[derive(Debug)]
pub(crate) struct Scores {
    width: usize,
    pub(crate) values: Vec<f64>,
    /// Which targets got a vote.
    voted: Vec<bool>,
}

impl Scores {
    /// The rows, to be changed in place.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f64]> {
        // A row without targets still is a row, but there is nothing to change in it.
        self.values.chunks_exact_mut(self.width.max(1))
    }

    fn vote(&mut self, at: usize, weight: f64, aggregate: Aggregate) {
        let score = &mut self.values[at];
        *score = match aggregate {
            Aggregate::Sum | Aggregate::Average => *score + weight,
            Aggregate::Min if self.voted[at] => score.min(weight),
            Aggregate::Max if self.voted[at] => score.max(weight),
            _ => weight,
        };
        self.voted[at] = true;
    }
}

/// What a forest is built from.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) splits: Vec<Split>,
    pub(crate) roots: Vec<Link>,
    /// Votes of each leaf: (target, weight).
    pub(crate) leaves: Vec<Vec<(u32, f64)>>,
    pub(crate) sets: Vec<Vec<f64>>,
    pub(crate) n_targets: usize,
}

impl Forest {
    /// Checks and packs the parts.
    ///
    /// # Errors
    /// `V021` when a link leads nowhere or in a circle, or a vote names a target that does not exist.
    pub(crate) fn new(parts: Parts) -> Result<Self, Diag> {
        check_links(&parts)?;
        check_circles(&parts.splits)?;
        let votes: Vec<(u32, f64)> = parts.leaves.iter().flatten().copied().collect();
        if let Some((target, _)) = votes.iter().find(|(t, _)| *t as usize >= parts.n_targets) {
            return Err(attr_error(format!("a leaf votes for target {target} of {}", parts.n_targets)));
        }
        let mut sets = parts.sets;
        sets.iter_mut().for_each(|s| s.sort_by(f64::total_cmp));
        let ends = parts.leaves.iter().scan(0u32, |end, votes| {
            *end += votes.len() as u32;
            Some(*end)
        });
        Ok(Self {
            leaf_ends: ends.collect(),
            splits: parts.splits,
            roots: parts.roots,
            votes,
            sets,
            n_targets: parts.n_targets,
        })
    }

    /// How many features a row needs.
    pub(crate) fn n_features(&self) -> usize {
        self.splits.iter().map(|s| s.feature as usize + 1).max().unwrap_or(0)
    }

    /// Scores of all rows (each at least `n_features` long). Trees are walked one after the other, so that one
    /// stays in the cache for all rows.
    pub(crate) fn scores(&self, rows: &Rows, aggregate: Aggregate) -> Scores {
        let width = self.n_targets;
        let mut out = Scores { width, values: vec![0.0; rows.n * width], voted: vec![false; rows.n * width] };
        for &root in &self.roots {
            for (i, row) in rows.iter().enumerate() {
                for &(target, weight) in self.leaf(root, row) {
                    out.vote(i * width + target as usize, weight, aggregate);
                }
            }
        }
        if aggregate == Aggregate::Average {
            out.values.iter_mut().for_each(|s| *s /= self.roots.len().max(1) as f64);
        }
        out
    }

    /// The votes of the leaf that `row` ends in.
    fn leaf(&self, mut link: Link, row: &[f64]) -> &[(u32, f64)] {
        loop {
            match link {
                Link::Node(n) => {
                    let split = &self.splits[n as usize];
                    link = if self.holds(split, row) { split.if_true } else { split.if_false };
                }
                Link::Leaf(n) => {
                    let n = n as usize;
                    let start = if n == 0 { 0 } else { self.leaf_ends[n - 1] as usize };
                    return &self.votes[start..self.leaf_ends[n] as usize];
                }
            }
        }
    }

    fn holds(&self, split: &Split, row: &[f64]) -> bool {
        let x = row[split.feature as usize];
        if x.is_nan() {
            return split.missing_true;
        }
        match split.mode {
            Mode::Leq => x <= split.value,
            Mode::Lt => x < split.value,
            Mode::Gte => x >= split.value,
            Mode::Gt => x > split.value,
            Mode::Eq => x == split.value,
            Mode::Neq => x != split.value,
            // Zero has two signs that are equal but not in this order.
            Mode::Member => {
                let set = &self.sets[split.value as usize];
                let found = |v: f64| set.binary_search_by(|m| m.total_cmp(&v)).is_ok();
                found(x) || (x == 0.0 && found(-x))
            }
        }
    }
}

/// Every link leads to a node or leaf that exists, and every member test to a set.
fn check_links(parts: &Parts) -> Result<(), Diag> {
    let exists = |link: &Link| match *link {
        Link::Node(n) => (n as usize) < parts.splits.len(),
        Link::Leaf(n) => (n as usize) < parts.leaves.len(),
    };
    let fits = |s: &Split| {
        let set = s.mode != Mode::Member || (s.value as usize) < parts.sets.len();
        set && exists(&s.if_true) && exists(&s.if_false)
    };
    match parts.splits.iter().position(|s| !fits(s)) {
        Some(n) => Err(attr_error(format!("node {n} of the trees leads to a node that does not exist"))),
        None if parts.roots.iter().all(exists) => Ok(()),
        None => Err(attr_error("the root of a tree does not exist")),
    }
}

/// Takes away nodes nobody leads to, again and again: what remains is a circle.
fn check_circles(splits: &[Split]) -> Result<(), Diag> {
    let children = |s: &Split| {
        [s.if_true, s.if_false].into_iter().filter_map(|link| match link {
            Link::Node(n) => Some(n as usize),
            Link::Leaf(_) => None,
        })
    };
    let mut parents = vec![0u32; splits.len()];
    splits.iter().flat_map(children).for_each(|n| parents[n] += 1);
    let mut free: Vec<usize> = (0..splits.len()).filter(|&n| parents[n] == 0).collect();
    let mut n_taken = 0;
    while let Some(n) = free.pop() {
        n_taken += 1;
        for child in children(&splits[n]) {
            parents[child] -= 1;
            if parents[child] == 0 {
                free.push(child);
            }
        }
    }
    if n_taken == splits.len() {
        return Ok(());
    }
    Err(attr_error("the nodes of a tree lead in a circle").hint("the model is damaged; export it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(mode: Mode, value: f64, if_true: Link, if_false: Link) -> Split {
        Split { feature: 0, mode, missing_true: false, value, if_true, if_false }
    }

    fn score(f: &Forest, x: f64, aggregate: Aggregate) -> f64 {
        let x = partita_ir::Tensor::from_slice(&[1], &[x]).unwrap();
        f.scores(&Rows::new(&x), aggregate).values[0]
    }

    fn forest(splits: Vec<Split>) -> Result<Forest, Diag> {
        let leaves = vec![vec![(0, 1.0)], vec![(0, 2.0)], vec![]];
        Forest::new(Parts {
            splits,
            roots: vec![Link::Node(0)],
            leaves,
            sets: vec![vec![3.0, -0.0, 1.0]],
            n_targets: 1,
        })
    }

    #[test]
    fn every_test() {
        let cases = [
            (Mode::Leq, [true, true, false]),
            (Mode::Lt, [true, false, false]),
            (Mode::Gte, [false, true, true]),
            (Mode::Gt, [false, false, true]),
            (Mode::Eq, [false, true, false]),
            (Mode::Neq, [true, false, true]),
        ];
        for (mode, want) in cases {
            let f = forest(vec![split(mode, 0.5, Link::Leaf(0), Link::Leaf(1))]).unwrap();
            for (x, want) in [0.0, 0.5, 1.0].into_iter().zip(want) {
                let got = score(&f, x, Aggregate::Sum);
                assert_eq!(got, if want { 1.0 } else { 2.0 }, "{mode:?} {x}");
            }
            assert_eq!(score(&f, f64::NAN, Aggregate::Sum), 2.0);
        }
        let f = forest(vec![split(Mode::Member, 0.0, Link::Leaf(0), Link::Leaf(1))]).unwrap();
        for (x, want) in [(0.0, 1.0), (-0.0, 1.0), (1.0, 1.0), (3.0, 1.0), (2.0, 2.0)] {
            assert_eq!(score(&f, x, Aggregate::Sum), want, "{x}");
        }
    }

    #[test]
    fn circles_and_dangling_links_are_refused() {
        let circle = vec![
            split(Mode::Leq, 0.0, Link::Node(1), Link::Leaf(0)),
            split(Mode::Leq, 0.0, Link::Leaf(0), Link::Node(0)),
        ];
        assert!(forest(circle).unwrap_err().message.contains("circle"));
        let own = vec![split(Mode::Leq, 0.0, Link::Node(0), Link::Leaf(0))];
        assert_eq!(forest(own).unwrap_err().code, "V021");
        let dangling = vec![split(Mode::Leq, 0.0, Link::Node(7), Link::Leaf(0))];
        assert_eq!(forest(dangling).unwrap_err().code, "V021");
        assert_eq!(forest(vec![]).unwrap_err().code, "V021");
    }

    /// A tree as deep as it has nodes is walked without recursion.
    #[test]
    fn deep_trees() {
        const DEPTH: u32 = 200_000;
        let mut splits: Vec<Split> =
            (1..=DEPTH).map(|n| split(Mode::Gt, f64::from(n), Link::Node(n), Link::Leaf(0))).collect();
        splits.push(split(Mode::Gt, 0.0, Link::Leaf(1), Link::Leaf(2)));
        let f = forest(splits).unwrap();
        assert_eq!(score(&f, 1e9, Aggregate::Max), 2.0);
        assert_eq!(score(&f, -1.0, Aggregate::Min), 1.0);
    }
}
