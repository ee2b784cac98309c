//! What a Helix program says: nodes with a throughput for each number of layers they may hold, links with a
//! capacity, and rows that decide from the layers held whether a link may be used (Mei et al., ASPLOS 2025).
//!
//! Rows are told apart by the kinds of variables in them, not by their names.

use crate::error::PlaceError;
use crate::lp::{Program, Row, Sense};
use std::collections::BTreeMap;

/// Most compute nodes.
pub(crate) const MAX_NODES: usize = 512;
/// Most layers.
pub(crate) const MAX_LAYERS: usize = 4096;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name in the program.
    pub name: String,
    /// `throughput[h]` in tokens per second when it holds `h` layers; zero where it cannot.
    pub throughput: Vec<f64>,
}

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Where requests come from.
    Source,
    /// Where tokens go.
    Sink,
    /// A node by number.
    Node(usize),
}

/// A sum over starts and holds that must stay below a limit for the link to be used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gate {
    /// Node and coefficient of its first layer.
    pub(crate) start: Vec<(usize, f64)>,
    /// Node and coefficient by number of layers held.
    pub(crate) hold: Vec<(usize, Vec<f64>)>,
    /// At most this, with the switch on.
    pub(crate) limit: f64,
}

/// A directed link.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Where it begins.
    pub from: End,
    /// Where it ends.
    pub to: End,
    /// Tokens per second.
    pub capacity: f64,
    pub(crate) gates: Vec<Gate>,
}

/// The cluster and the model to serve.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Layers of the model.
    pub layers: usize,
    /// The compute nodes.
    pub nodes: Vec<Node>,
    /// The links.
    pub links: Vec<Link>,
}

/// First layer and number of layers of a node; zero layers is unused.
pub type Span = (usize, usize);

/// What a variable means.
#[derive(Debug, Clone, PartialEq)]
enum Meaning {
    Start(usize),
    Hold(usize, usize),
    Switch(End, End),
    Flow,
    Other,
}

impl Cluster {
    /// Reads the meaning of a program.
    ///
    /// # Errors
    /// `P010` when something needed is not there, `P003` for exceeded limits.
    pub fn from_program(program: &Program) -> Result<Cluster, PlaceError> {
        let names = node_names(program)?;
        let meaning: Vec<Meaning> = program.variables.iter().map(|v| meaning(v, &names)).collect();
        let mut cluster = Cluster {
            layers: 0,
            nodes: names.keys().map(|n| Node { name: n.clone(), throughput: vec![0.0] }).collect(),
            links: Vec::new(),
        };
        let mut link_of: BTreeMap<(End, End), usize> = BTreeMap::new();
        for row in &program.rows {
            cluster.capacity_row(row, &meaning, &mut link_of);
        }
        for row in &program.rows {
            cluster.other_row(row, &meaning, &link_of)?;
        }
        cluster.validate()?;
        Ok(cluster)
    }

    fn validate(&self) -> Result<(), PlaceError> {
        if self.layers == 0 || self.layers > MAX_LAYERS {
            return Err(PlaceError::helix("program", format!("it has {} layers", self.layers)));
        }
        if self.nodes.iter().all(|n| n.throughput.iter().all(|&t| t <= 0.0)) {
            return Err(PlaceError::helix("program", "no node has a throughput for any number of layers"));
        }
        let bad = |x: f64| !x.is_finite() || x < 0.0;
        if self.links.iter().any(|l| bad(l.capacity))
            || self.nodes.iter().any(|n| n.throughput.iter().any(|&t| bad(t)))
        {
            return Err(PlaceError::helix(
                "program",
                "throughputs and capacities must be finite and not negative",
            ));
        }
        Ok(())
    }

    /// `flow - capacity * switch <= 0`.
    fn capacity_row(&mut self, row: &Row, meaning: &[Meaning], link_of: &mut BTreeMap<(End, End), usize>) {
        if row.terms.len() != 2
            || row.sense != Sense::Le
            || !row.terms.iter().any(|t| meaning[t.0] == Meaning::Flow)
        {
            return;
        }
        for &(v, factor) in &row.terms {
            if let Meaning::Switch(from, to) = meaning[v] {
                link_of.insert((from, to), self.links.len());
                self.links.push(Link { from, to, capacity: -factor, gates: Vec::new() });
            }
        }
    }

    fn other_row(
        &mut self,
        row: &Row,
        meaning: &[Meaning],
        link_of: &BTreeMap<(End, End), usize>,
    ) -> Result<(), PlaceError> {
        let has = |f: fn(&Meaning) -> bool| row.terms.iter().any(|t| f(&meaning[t.0]));
        let switch = has(|m| matches!(m, Meaning::Switch(..)));
        let start = has(|m| matches!(m, Meaning::Start(_)));
        let hold = has(|m| matches!(m, Meaning::Hold(..)));
        let flow = has(|m| matches!(m, Meaning::Flow));
        if flow && hold && !switch {
            for &(v, factor) in &row.terms {
                if let Meaning::Hold(node, h) = meaning[v] {
                    let list = &mut self.nodes[node].throughput;
                    list.resize(list.len().max(h + 1), 0.0);
                    list[h] = -factor;
                }
            }
        } else if start && hold && !switch && row.sense == Sense::Le {
            self.layers = self.layers.max(row.rhs.clamp(0.0, MAX_LAYERS as f64 + 1.0) as usize);
        } else if start && switch {
            self.gate(row, meaning, link_of)?;
        }
        Ok(())
    }

    fn gate(
        &mut self,
        row: &Row,
        meaning: &[Meaning],
        link_of: &BTreeMap<(End, End), usize>,
    ) -> Result<(), PlaceError> {
        let sign = match row.sense {
            Sense::Le => 1.0,
            Sense::Ge => -1.0,
            Sense::Eq => {
                return Err(PlaceError::helix(&row.name, "a switch in an equation is not understood"));
            }
        };
        let mut gate = Gate { start: Vec::new(), hold: Vec::new(), limit: sign * row.rhs };
        let mut link = None;
        for &(v, factor) in &row.terms {
            let factor = sign * factor;
            match meaning[v] {
                Meaning::Start(node) => gate.start.push((node, factor)),
                Meaning::Hold(node, h) => gate.add_hold(node, h, factor),
                Meaning::Switch(from, to) if link.is_none() => {
                    gate.limit -= factor;
                    link = link_of.get(&(from, to)).copied();
                }
                _ => return Err(PlaceError::helix(&row.name, "the row of a switch has other variables")),
            }
        }
        if let Some(link) = link {
            self.links[link].gates.push(gate);
        }
        Ok(())
    }

    /// Whether the link may be used with these spans.
    pub(crate) fn open(&self, link: &Link, span: &[Span]) -> bool {
        let used = |end: End| !matches!(end, End::Node(n) if span[n].1 == 0);
        used(link.from) && used(link.to) && link.gates.iter().all(|gate| gate.open(span))
    }
}

impl Gate {
    fn add_hold(&mut self, node: usize, h: usize, factor: f64) {
        let at = self.hold.iter().position(|x| x.0 == node).unwrap_or_else(|| {
            self.hold.push((node, Vec::new()));
            self.hold.len() - 1
        });
        let by = &mut self.hold[at].1;
        by.resize(by.len().max(h + 1), 0.0);
        by[h] += factor;
    }

    fn open(&self, span: &[Span]) -> bool {
        let starts: f64 = self.start.iter().map(|&(n, a)| a * span[n].0 as f64).sum();
        let holds: f64 = self.hold.iter().map(|(n, by)| by.get(span[*n].1).copied().unwrap_or(0.0)).sum();
        starts + holds <= self.limit + 1e-9
    }
}

/// Node names from the variables `hold_NODE_LAYERS`, numbered in the order of the file.
fn node_names(program: &Program) -> Result<BTreeMap<String, usize>, PlaceError> {
    let mut names = BTreeMap::new();
    for v in &program.variables {
        if let Some((node, h)) = v.strip_prefix("hold_").and_then(|rest| rest.rsplit_once('_'))
            && h.parse::<usize>().is_ok_and(|h| h <= MAX_LAYERS)
        {
            names.insert(node.to_owned(), 0);
        }
    }
    if names.is_empty() || names.len() > MAX_NODES {
        let message =
            format!("{} nodes in variables hold_NODE_LAYERS, 1 to {MAX_NODES} are taken", names.len());
        return Err(PlaceError::helix("program", message));
    }
    names.values_mut().enumerate().for_each(|(i, number)| *number = i);
    Ok(names)
}

fn meaning(variable: &str, names: &BTreeMap<String, usize>) -> Meaning {
    if let Some(node) = variable.strip_prefix("start_").and_then(|n| names.get(n)) {
        return Meaning::Start(*node);
    }
    if let Some((node, h)) = variable.strip_prefix("hold_").and_then(|rest| rest.rsplit_once('_'))
        && let (Some(&node), Ok(h)) = (names.get(node), h.parse::<usize>())
        && h <= MAX_LAYERS
    {
        return Meaning::Hold(node, h);
    }
    if let Some(ends) = variable.strip_prefix("switch_").and_then(|rest| ends(rest, names)) {
        return Meaning::Switch(ends.0, ends.1);
    }
    if variable.starts_with("flow_") { Meaning::Flow } else { Meaning::Other }
}

/// Two ends joined by an underscore, whichever one makes both known.
fn ends(text: &str, names: &BTreeMap<String, usize>) -> Option<(End, End)> {
    let end = |word: &str| match word {
        "source" => Some(End::Source),
        "sink" => Some(End::Sink),
        name => names.get(name).map(|&n| End::Node(n)),
    };
    text.match_indices('_').find_map(|(i, _)| Some((end(&text[..i])?, end(&text[i + 1..])?)))
}
