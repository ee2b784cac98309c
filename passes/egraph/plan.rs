//! Works out what a match would add to the e-graph, and adds it.
//!
//! Every new e-node is inferred before anything is added: a right-hand side that does not type-check, or whose
//! type is not the left-hand side's, is not a match. That is the implicit condition of every rule.

use super::analysis::{Egg, Facts, constant_facts, op_facts};
use super::functions::Scope;
use super::lang::{ENode, Head, OpUse};
use super::matcher::{Match, Subst, Val};
use super::parse::coerce;
use super::pattern::{Expr, OpTerm, Rule, Term};
use egg::Id;
use partita_ir::{Attr, Attrs, Tensor, Type};

/// An operand: a class that exists, or the n-th step of the plan.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operand {
    Class(Id),
    Step(usize),
}

/// An e-node to be added.
#[derive(Clone, Debug)]
enum Step {
    Op(OpUse, Vec<Operand>, Facts),
    Constant(Tensor, Facts),
    Omitted,
}

/// What a match adds.
#[derive(Clone, Debug)]
pub struct Plan {
    steps: Vec<Step>,
    root: Operand,
}

/// The plan of a match, or `None` when a condition is not known to hold or the types do not fit.
pub fn plan(egraph: &Egg, rule: &Rule, found: &Match) -> Option<Plan> {
    let root_type = egraph[found.root].data.ty()?.clone();
    let mut planner = Planner { egraph, subst: &found.subst, root_type, steps: Vec::new() };
    for condition in &rule.conditions {
        let args: Option<Vec<Val>> = condition.args.iter().map(|e| planner.expr(e)).collect();
        if !(condition.test.holds)(&planner.scope(), &args?) {
            return None;
        }
    }
    let root = planner.term(&rule.rhs)?;
    if planner.facts(root).ty() != Some(&planner.root_type) {
        return None;
    }
    Some(Plan { steps: planner.steps, root })
}

impl Plan {
    /// Whether applying it would change nothing: the root is in its class already.
    pub fn is_known(&self, egraph: &Egg, class: Id) -> bool {
        matches!(self.root, Operand::Class(id) if egraph.find(id) == egraph.find(class))
    }
}

struct Planner<'a> {
    egraph: &'a Egg,
    subst: &'a Subst,
    root_type: Type,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope { egraph: self.egraph, root: &self.root_type }
    }

    fn facts(&self, operand: Operand) -> Facts {
        match operand {
            Operand::Class(id) => self.egraph[id].data.clone(),
            Operand::Step(n) => match &self.steps[n] {
                Step::Op(_, _, facts) | Step::Constant(_, facts) => facts.clone(),
                Step::Omitted => Facts { foldable: true, ..Facts::default() },
            },
        }
    }

    fn push(&mut self, step: Step) -> Operand {
        self.steps.push(step);
        Operand::Step(self.steps.len() - 1)
    }

    fn term(&mut self, term: &Term) -> Option<Operand> {
        match term {
            Term::Var(var) => match self.subst.get(*var)? {
                Some(Val::Class(id)) => Some(Operand::Class(*id)),
                _ => None,
            },
            Term::Number(v) => {
                let tensor = Tensor::from_f64s(self.root_type.dtype, &[], &[*v])?;
                Some(self.constant(tensor))
            }
            Term::Omitted => Some(self.push(Step::Omitted)),
            Term::Constant(expr) => match self.expr(expr)? {
                Val::Attr(Attr::Tensor(tensor)) => Some(self.constant(tensor)),
                Val::Attr(Attr::Float(v)) => {
                    let tensor = Tensor::from_f64s(self.root_type.dtype, &[], &[f64::from(v)])?;
                    Some(self.constant(tensor))
                }
                _ => None,
            },
            Term::Op(op) => self.op(op),
        }
    }

    fn constant(&mut self, tensor: Tensor) -> Operand {
        let facts = constant_facts(&tensor);
        self.push(Step::Constant(tensor, facts))
    }

    fn op(&mut self, term: &OpTerm) -> Option<Operand> {
        let mut operands = Vec::new();
        for child in &term.children {
            operands.push(self.term(child)?);
        }
        for tail in &term.tails {
            let Some(Val::List(ids)) = self.subst.get(*tail)? else { return None };
            operands.extend(ids.iter().map(|&id| Operand::Class(id)));
        }
        let attrs = self.attrs(term)?;
        if let Some(known) = self.known(term, &attrs, &operands) {
            return Some(Operand::Class(known));
        }
        let used = OpUse { op: term.op, attrs, n_outputs: 1, tag: 0 };
        let children: Vec<Facts> = operands.iter().map(|&o| self.facts(o)).collect();
        let facts = op_facts(&used, &children)?;
        Some(self.push(Step::Op(used, operands, facts)))
    }

    fn attrs(&self, term: &OpTerm) -> Option<Attrs> {
        let mut attrs = match term.rest.map(|var| self.subst.get(var)) {
            None => Attrs::new(),
            Some(Some(Some(Val::Attrs(attrs)))) => attrs.clone(),
            Some(_) => return None,
        };
        for (name, expr) in &term.attrs {
            match self.expr(expr)? {
                Val::Attr(attr) => attrs.set(name, coerce(attr, term.op.attr(name)?.kind)),
                Val::Absent => {}
                _ => return None,
            }
        }
        Some(attrs)
    }

    /// The class that holds this very node already.
    fn known(&self, term: &OpTerm, attrs: &Attrs, operands: &[Operand]) -> Option<Id> {
        let head = self.egraph.analysis.table.find_op(term.op, attrs)?;
        let children: Option<Vec<Id>> = operands
            .iter()
            .map(|o| match o {
                Operand::Class(id) => Some(*id),
                Operand::Step(_) => None,
            })
            .collect();
        self.egraph.lookup(ENode { head, children: children? })
    }

    fn expr(&self, expr: &Expr) -> Option<Val> {
        match expr {
            Expr::Var(var) => self.subst.get(*var)?.clone(),
            Expr::Literal(attr) => Some(Val::Attr(attr.clone())),
            Expr::Call(function, args) => {
                let args: Option<Vec<Val>> = args.iter().map(|e| self.expr(e)).collect();
                (function.eval)(&self.scope(), &args?)
            }
        }
    }
}

/// Adds a plan's e-nodes and returns the class of its root. The e-graph needs a rebuild afterwards.
pub fn add(egraph: &mut Egg, plan: &Plan) -> Id {
    let mut ids: Vec<Id> = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let node = match step {
            Step::Omitted => ENode::leaf(Head::Omitted),
            Step::Constant(tensor, _) => ENode::leaf(egraph.analysis.table.const_head("", tensor)),
            Step::Op(used, operands, _) => {
                let head = egraph.analysis.table.op_head(used.op, &used.attrs, 1, 0);
                ENode { head, children: operands.iter().map(|&o| id_of(o, &ids)).collect() }
            }
        };
        ids.push(egraph.add(node));
    }
    id_of(plan.root, &ids)
}

fn id_of(operand: Operand, ids: &[Id]) -> Id {
    match operand {
        Operand::Class(id) => id,
        Operand::Step(n) => ids[n],
    }
}
