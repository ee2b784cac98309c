//! Finds where a rule's left-hand side occurs in an e-graph, in a fixed order.
//!
//! Commutative operators are tried in both orders, so no rule states commutativity.

use super::analysis::Egg;
use super::lang::{ENode, Head};
use super::pattern::{AttrPattern, OpPattern, Pattern, Rule};
use egg::Id;
use partita_ir::{Attr, Attrs, DType};
use std::collections::BTreeMap;

/// Most ways one pattern may match at one class.
const MAX_MATCHES_PER_CLASS: usize = 16;

/// Most e-nodes visited while one pattern is matched at one class.
const MAX_STEPS_PER_CLASS: usize = 4096;

/// What a variable is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    Class(Id),
    Attr(Attr),
    /// An attribute the operator does not have.
    Absent,
    Attrs(Attrs),
    List(Vec<Id>),
}

/// Bindings by variable number.
pub type Subst = Vec<Option<Val>>;

/// A place where a rule's left-hand side holds.
#[derive(Clone, Debug)]
pub struct Match {
    pub root: Id,
    pub subst: Subst,
}

/// Classes that run, by the operators that occur in them.
#[derive(Debug, Default)]
pub struct Index {
    classes: BTreeMap<&'static str, Vec<Id>>,
}

impl Index {
    /// Indexes a rebuilt e-graph.
    pub fn new(egraph: &Egg) -> Self {
        let mut classes: BTreeMap<&'static str, Vec<Id>> = BTreeMap::new();
        // What is computed at compile time needs no better form.
        for class in egraph.classes().filter(|c| !c.data.foldable) {
            for node in &class.nodes {
                if let Head::Op(n) = node.head {
                    classes.entry(egraph.analysis.table.op(n).op.name).or_default().push(class.id);
                }
            }
        }
        for ids in classes.values_mut() {
            ids.sort_unstable();
            ids.dedup();
        }
        Self { classes }
    }

    fn with_op(&self, name: &str) -> &[Id] {
        self.classes.get(name).map_or(&[], Vec::as_slice)
    }
}

/// All places where `rule` matches; conditions are not looked at.
pub fn find(egraph: &Egg, index: &Index, rule: &Rule) -> Vec<Match> {
    let mut out = Vec::new();
    for &root in index.with_op(rule.lhs.op.name) {
        let mut search = Search { egraph, steps: 0, found: Vec::new() };
        let mut subst: Subst = vec![None; rule.vars.len()];
        search.op(&rule.lhs, root, &mut subst, &mut Vec::new());
        for subst in search.found {
            out.push(Match { root, subst });
        }
    }
    out
}

struct Search<'a> {
    egraph: &'a Egg,
    steps: usize,
    found: Vec<Subst>,
}

/// A pattern that still has to hold at a class.
type Goal<'p> = (&'p Pattern, Id);

impl Search<'_> {
    fn done(&self) -> bool {
        self.found.len() >= MAX_MATCHES_PER_CLASS || self.steps >= MAX_STEPS_PER_CLASS
    }

    /// Solves the last goal, then the others; restores both arguments.
    fn solve<'p>(&mut self, subst: &mut Subst, goals: &mut Vec<Goal<'p>>) {
        let Some((pattern, class)) = goals.pop() else {
            if !self.found.contains(subst) {
                self.found.push(subst.clone());
            }
            return;
        };
        let facts = &self.egraph[class].data;
        match pattern {
            Pattern::Var(var) if !facts.types.is_empty() => {
                self.with_binding(*var, Val::Class(self.egraph.find(class)), subst, goals);
            }
            Pattern::Number(v) if facts.splat.is_some_and(|s| near(s, *v, facts.ty().map(|t| t.dtype))) => {
                self.solve(subst, goals);
            }
            Pattern::Omitted if facts.types.is_empty() => self.solve(subst, goals),
            Pattern::Op(op) => self.op(op, class, subst, goals),
            _ => {}
        }
        goals.push((pattern, class));
    }

    fn with_binding<'p>(&mut self, var: usize, val: Val, subst: &mut Subst, goals: &mut Vec<Goal<'p>>) {
        match &subst[var] {
            Some(old) if *old == val => self.solve(subst, goals),
            Some(_) => {}
            None => {
                subst[var] = Some(val);
                self.solve(subst, goals);
                subst[var] = None;
            }
        }
    }

    fn op<'p>(&mut self, pattern: &'p OpPattern, class: Id, subst: &mut Subst, goals: &mut Vec<Goal<'p>>) {
        let egraph = self.egraph;
        for node in &egraph[class].nodes {
            if self.done() {
                return;
            }
            self.steps += 1;
            let Head::Op(n) = node.head else { continue };
            let used = egraph.analysis.table.op(n);
            let arity = node.children.len();
            let fits = if pattern.tail.is_some() {
                arity >= pattern.children.len()
            } else {
                arity == pattern.children.len()
            };
            if used.op != pattern.op || used.n_outputs != 1 || used.tag != 0 || !fits {
                continue;
            }
            let saved = subst.clone();
            if bind_attrs(pattern, &used.attrs, subst) {
                self.children(pattern, node, subst, goals);
            }
            *subst = saved;
        }
    }

    fn children<'p>(
        &mut self,
        pattern: &'p OpPattern,
        node: &ENode,
        subst: &mut Subst,
        goals: &mut Vec<Goal<'p>>,
    ) {
        let n = pattern.children.len();
        let depth = goals.len();
        let saved = subst.clone();
        if let Some(tail) = pattern.tail {
            let ids: Vec<Id> = node.children[n..].iter().map(|&c| self.egraph.find(c)).collect();
            match &subst[tail] {
                Some(old) if *old != Val::List(ids.clone()) => return,
                _ => subst[tail] = Some(Val::List(ids)),
            }
        }
        // Goals are solved from the end, so the first operand goes last.
        goals.extend(pattern.children.iter().zip(node.children.iter().copied()).rev());
        self.solve(subst, goals);
        goals.truncate(depth);
        if pattern.op.traits.commutative && n >= 2 && node.children[0] != node.children[1] {
            goals.extend(pattern.children.iter().zip(node.children.iter().copied()).skip(2).rev());
            goals.push((&pattern.children[1], node.children[0]));
            goals.push((&pattern.children[0], node.children[1]));
            self.solve(subst, goals);
            goals.truncate(depth);
        }
        *subst = saved;
    }
}

/// Whether the attributes fit; binds variables.
fn bind_attrs(pattern: &OpPattern, attrs: &Attrs, subst: &mut Subst) -> bool {
    for (name, want) in &pattern.attrs {
        let have = attrs.get(name);
        let fits = match want {
            AttrPattern::Is(literal) => have.is_some_and(|h| equal(h, literal)),
            AttrPattern::IsOrAbsent(literal) => have.is_none_or(|h| equal(h, literal)),
            AttrPattern::Bind(var) => bind(subst, *var, have.map_or(Val::Absent, |h| Val::Attr(h.clone()))),
        };
        if !fits {
            return false;
        }
    }
    let mut others = Attrs::new();
    for (name, attr) in attrs.iter().filter(|(name, _)| pattern.attrs.iter().all(|(p, _)| p != name)) {
        others.set(name, attr.clone());
    }
    match pattern.rest {
        Some(var) => bind(subst, var, Val::Attrs(others)),
        None => others.is_empty(),
    }
}

fn bind(subst: &mut Subst, var: usize, val: Val) -> bool {
    match &subst[var] {
        Some(old) => *old == val,
        None => {
            subst[var] = Some(val);
            true
        }
    }
}

/// Equality of attributes; floats to a few units in the last place, since files round them.
pub fn equal(a: &Attr, b: &Attr) -> bool {
    match (a, b) {
        (Attr::Float(x), Attr::Float(y)) => (x - y).abs() <= 1e-6 * y.abs(),
        _ => a == b,
    }
}

/// Whether a constant is the number a rule asks for: exactly where f32 can hold that number, else to the
/// precision of the element type.
pub fn near(have: f64, want: f64, dtype: Option<DType>) -> bool {
    let relative = match dtype {
        _ if f64::from(want as f32) == want => 0.0,
        Some(DType::Bf16) => 1e-2,
        Some(DType::F16) => 1e-3,
        _ => 1e-6,
    };
    have == want || (have - want).abs() <= relative * want.abs()
}
