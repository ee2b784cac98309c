//! The JSON form of the ASPLOS 2025 contest on intra-operator parallelism (`google/iopddl`): reading it as a
//! stream, one copy per distinct edge table, and writing solutions.
//!
//! Files of a gigabyte hold a few thousand distinct tables, so what stays in memory is small.

use super::tables::mix;
use crate::error::PlaceError;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

/// Most nodes of a problem.
pub const MAX_NODES: usize = 1 << 20;
/// Most edges of a problem.
pub const MAX_EDGES: usize = 1 << 22;
/// Most strategies of one node.
pub const MAX_STRATEGIES: usize = 1 << 14;
/// Most numbers kept: node costs, usages and entries of distinct tables.
pub const MAX_NUMBERS: usize = 1 << 27;
/// Most that negative costs can add up to; a hundredth of what counts as forbidden.
pub const MAX_SAVING: i128 = 10_000_000_000_000;
/// Most bytes of text, after decompression.
pub const MAX_TEXT_BYTES: u64 = 1 << 33;

/// A strategy-selection problem: one strategy per node, costs of nodes and of pairs, memory over time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrategyProblem {
    /// What the file calls it.
    pub name: String,
    /// The nodes.
    pub nodes: Vec<StrategyNode>,
    /// The edges.
    pub edges: Vec<StrategyEdge>,
    /// Distinct edge tables, row by row of the first end.
    pub tables: Vec<Vec<i64>>,
    /// Most usage at any time; `None` is no limit.
    pub usage_limit: Option<i64>,
}

/// One node; its usage counts at times `begin <= t < end`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrategyNode {
    /// First time of its usage.
    pub begin: i64,
    /// First time after its usage.
    pub end: i64,
    /// Cost of each strategy.
    pub costs: Vec<i64>,
    /// Usage of each strategy.
    pub usages: Vec<i64>,
}

/// One edge between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrategyEdge {
    /// First end: its strategy picks the row.
    pub a: usize,
    /// Second end: its strategy picks the column.
    pub b: usize,
    /// Number of the table.
    pub table: usize,
}

#[derive(Deserialize)]
struct Outer {
    problem: Inner,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    name: String,
    nodes: Nodes,
    edges: Edges,
    #[serde(default)]
    usage_limit: Option<i64>,
}

#[derive(Deserialize)]
struct Nodes {
    #[serde(default)]
    intervals: Option<Vec<(i64, i64)>>,
    costs: Rows,
    #[serde(default)]
    usages: Option<Rows>,
}

#[derive(Deserialize)]
struct Edges {
    nodes: Pairs,
    costs: Interned,
}

/// Reads a problem, gzipped or plain.
///
/// # Errors
/// `P007` for bytes that are not the format or contradict themselves, `P003` for exceeded limits.
pub fn read(input: impl Read) -> Result<StrategyProblem, PlaceError> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let head = input.fill_buf().map_err(|e| PlaceError::strategy("file", e.to_string()))?;
    if head.starts_with(&[0x1f, 0x8b]) {
        parse(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(input).take(MAX_TEXT_BYTES)))
    } else {
        parse(input.take(MAX_TEXT_BYTES))
    }
}

fn parse(input: impl BufRead) -> Result<StrategyProblem, PlaceError> {
    let outer: Outer = serde_json::from_reader(input).map_err(|e| {
        PlaceError::strategy(format!("line {}, column {}", e.line(), e.column()), e.to_string())
    })?;
    assemble(outer.problem)
}

fn assemble(inner: Inner) -> Result<StrategyProblem, PlaceError> {
    let n = inner.nodes.costs.0.len();
    let intervals = inner.nodes.intervals.unwrap_or_else(|| vec![(0, 0); n]);
    let usages = match inner.nodes.usages {
        Some(rows) => rows.0,
        None => inner.nodes.costs.0.iter().map(|c| vec![0; c.len()]).collect(),
    };
    if intervals.len() != n || usages.len() != n {
        return Err(PlaceError::strategy("nodes", "costs, usages and intervals are not of one length"));
    }
    let mut nodes = Vec::with_capacity(n);
    for ((costs, usages), (begin, end)) in inner.nodes.costs.0.into_iter().zip(usages).zip(intervals) {
        nodes.push(StrategyNode { begin, end, costs, usages });
    }
    let edges = inner.edges.nodes.0.into_iter().zip(&inner.edges.costs.numbers);
    let problem = StrategyProblem {
        name: inner.name,
        nodes,
        edges: edges.map(|((a, b), &table)| StrategyEdge { a, b, table: table as usize }).collect(),
        tables: inner.edges.costs.tables,
        usage_limit: inner.usage_limit,
    };
    if problem.edges.len() != inner.edges.costs.numbers.len() {
        return Err(PlaceError::strategy("edges", "nodes and costs are not of one length"));
    }
    problem.validate()?;
    Ok(problem)
}

impl StrategyProblem {
    /// Checks that every node can choose, that edges name nodes and that tables have the shape of their ends.
    ///
    /// # Errors
    /// `P007` when the problem contradicts itself, `P003` for exceeded limits.
    pub fn validate(&self) -> Result<(), PlaceError> {
        if self.nodes.len() > MAX_NODES || self.edges.len() > MAX_EDGES {
            return Err(PlaceError::limit(
                "problem",
                format!("at most {MAX_NODES} nodes and {MAX_EDGES} edges"),
            ));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let k = node.costs.len();
            if k == 0 || k > MAX_STRATEGIES || node.usages.len() != k {
                let message = format!("it needs 1 to {MAX_STRATEGIES} strategies, each with cost and usage");
                return Err(PlaceError::strategy(format!("node {i}"), message));
            }
        }
        for (i, e) in self.edges.iter().enumerate() {
            let k = |v: usize| self.nodes.get(v).map(|n| n.costs.len());
            let entries = self.tables.get(e.table).map(Vec::len);
            match (k(e.a), k(e.b), entries) {
                (Some(x), Some(y), Some(size)) if x * y == size => {}
                _ => {
                    let message = "it must name two nodes and hold one cost per pair of their strategies";
                    return Err(PlaceError::strategy(format!("edge {i}"), message));
                }
            }
        }
        self.refuse_huge()
    }

    /// Sum of the least cost of each node and edge, and of the negative ones among these with the sign turned.
    pub(crate) fn least_costs(&self) -> (i128, i128) {
        let of = |costs: &[i64]| i128::from(costs.iter().copied().min().unwrap_or(0));
        let tables: Vec<i128> = self.tables.iter().map(|t| of(t)).collect();
        let nodes = self.nodes.iter().map(|v| of(&v.costs));
        let all = nodes.chain(self.edges.iter().map(|e| tables[e.table]));
        all.fold((0, 0), |(sum, negative), least| (sum + least, negative - least.min(0)))
    }

    /// Sums stay within what the solver's numbers hold: usage within 60 bits, savings far from what is forbidden.
    fn refuse_huge(&self) -> Result<(), PlaceError> {
        let most =
            |v: &StrategyNode| v.usages.iter().map(|u| u128::from(u.unsigned_abs())).max().unwrap_or(0);
        if self.nodes.iter().map(most).sum::<u128>() > 1 << 60 {
            return Err(PlaceError::limit("usages", "together they are more than 2^60"));
        }
        if self.least_costs().1 > MAX_SAVING {
            return Err(PlaceError::limit("costs", format!("together they can be below -{MAX_SAVING}")));
        }
        Ok(())
    }

    /// Writes a solution: one strategy per node in brackets, as the contest's programs print it.
    pub fn write_solution(&self, strategy_of_node: &[usize]) -> String {
        let words: Vec<String> = strategy_of_node.iter().map(usize::to_string).collect();
        format!("[{}]\n", words.join(", "))
    }
}

/// Lists of numbers, bounded while they are read.
#[derive(Default)]
struct Rows(Vec<Vec<i64>>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("one list of whole numbers per node")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows, A::Error> {
        let (mut rows, mut room) = (Vec::new(), MAX_NUMBERS);
        let mut row = Vec::new();
        while seq.next_element_seed(Fill(&mut row, MAX_STRATEGIES.min(room)))?.is_some() {
            room -= row.len();
            if rows.len() == MAX_NODES {
                return Err(A::Error::custom("too many nodes"));
            }
            rows.push(row.as_slice().to_vec());
        }
        Ok(Rows(rows))
    }
}

/// Fills a list that is used again and again with at most so many numbers.
struct Fill<'a>(&'a mut Vec<i64>, usize);

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.clear();
        while let Some(x) = seq.next_element::<i64>()? {
            if self.0.len() == self.1 {
                return Err(A::Error::custom("more numbers than this reader keeps"));
            }
            self.0.push(x);
        }
        Ok(())
    }
}

/// The two ends of each edge.
struct Pairs(Vec<(usize, usize)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two node numbers per edge")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = seq.next_element()? {
            if pairs.len() == MAX_EDGES {
                return Err(A::Error::custom("too many edges"));
            }
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

/// Edge tables as numbers into a list of distinct ones.
struct Interned {
    numbers: Vec<u32>,
    tables: Vec<Vec<i64>>,
}

impl<'de> Deserialize<'de> for Interned {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(InternedVisitor)
    }
}

struct InternedVisitor;

impl<'de> Visitor<'de> for InternedVisitor {
    type Value = Interned;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("one list of whole numbers per edge")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Interned, A::Error> {
        let mut found = Interned { numbers: Vec::new(), tables: Vec::new() };
        let mut by_hash: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let (mut room, mut row) = (MAX_NUMBERS, Vec::new());
        while seq.next_element_seed(Fill(&mut row, room))?.is_some() {
            if found.numbers.len() == MAX_EDGES {
                return Err(A::Error::custom("too many edges"));
            }
            let ids = by_hash.entry(hash_of(&row)).or_default();
            let number = match ids.iter().find(|&&id| found.tables[id as usize] == row) {
                Some(&id) => id,
                None => {
                    let id = found.tables.len() as u32;
                    room -= row.len();
                    found.tables.push(row.as_slice().to_vec());
                    ids.push(id);
                    id
                }
            };
            found.numbers.push(number);
        }
        Ok(found)
    }
}

fn hash_of(row: &[i64]) -> u64 {
    mix(row.len() as u64, row.iter().map(|&x| x as u64))
}
