//! Every rule, on random instances of its left-hand side: both sides have one type and compute the same.
//!
//! Nothing here knows a rule. Operands and attributes come from the operators' own samplers, from shapes that
//! relate to the other operand, and from what attributes of that name usually hold.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use partita_ir::attr::Attrs;
use partita_ir::builder::Builder;
use partita_ir::interp;
use partita_ir::op::Rng;
use partita_ir::{Attr, DType, Graph, Tensor, Type, ValueId};
use partita_passes::egraph::extract::Choice;
use partita_passes::egraph::load::load;
use partita_passes::egraph::matcher::{Index, find};
use partita_passes::egraph::pattern::{AttrPattern, Expr, Numerics, OpPattern, Pattern, Rule};
use partita_passes::egraph::plan::{add, plan};
use partita_passes::rules::shipped;

const WANTED: usize = 40;
const MAX_TRIES: u64 = 8000;

#[derive(Clone)]
enum Bound {
    Value(ValueId),
    Attr(Option<Attr>),
    Attrs(Attrs),
    List(Vec<ValueId>),
}

struct Instance<'a> {
    rule: &'a Rule,
    rng: Rng,
    builder: Builder,
    inputs: Vec<Tensor>,
    bound: Vec<Option<Bound>>,
    n_values: usize,
}

/// How an instance of the left-hand side is built.
impl<'a> Instance<'a> {
    fn new(rule: &'a Rule, seed: u64) -> Self {
        let bound = vec![None; rule.vars.len()];
        Self { rule, rng: Rng(seed), builder: Builder::new("lhs"), inputs: Vec::new(), bound, n_values: 0 }
    }

    fn graph(mut self) -> Option<(Graph, Vec<Tensor>)> {
        let root = self.op(&self.rule.lhs)?;
        self.builder.output("y", root);
        Some((self.builder.finish(), self.inputs))
    }

    /// Whether a condition asks that the variable be known, and whether with one value throughout.
    fn demands(&self, var: usize) -> (bool, bool) {
        let about = |names: &[&str]| {
            self.rule.conditions.iter().any(|c| {
                names.contains(&c.test.name) && c.args.iter().any(|e| matches!(e, Expr::Var(v) if *v == var))
            })
        };
        let splat = about(&["scalar", "power_of_two", "at_most", "one_element", "fits_f32"]);
        (splat || about(&["const"]), splat)
    }

    fn value(&mut self, tensor: Tensor, known: bool) -> ValueId {
        self.n_values += 1;
        let name = format!("v{}", self.n_values);
        if known {
            return self.builder.constant(&name, tensor);
        }
        let ty = Type::known(tensor.dtype(), tensor.shape());
        self.inputs.push(tensor);
        self.builder.input(&name, ty)
    }

    fn variable(&mut self, var: usize, tensor: Tensor) -> ValueId {
        if let Some(Bound::Value(id)) = &self.bound[var] {
            return *id;
        }
        let (known, splat) = self.demands(var);
        let known = if known { self.rng.below(8) > 0 } else { self.rng.below(3) == 0 };
        let one = known && (splat || self.rng.below(3) == 0);
        let tensor = if one && tensor.dtype().is_float() {
            let value = *self.rng.pick(&[0.5, 2.0, 0.25, 3.0, -1.5, 0.75, 1.0, 6.0]);
            Tensor::from_f64s(tensor.dtype(), tensor.shape(), &vec![value; tensor.n_elements()]).unwrap()
        } else {
            tensor
        };
        let id = self.value(tensor, known);
        self.bound[var] = Some(Bound::Value(id));
        id
    }

    fn op(&mut self, pattern: &OpPattern) -> Option<ValueId> {
        let sample = (pattern.op.sample)(&mut self.rng);
        // Operators first: their types say what the variables beside them may be.
        let mut children: Vec<Option<ValueId>> = vec![None; pattern.children.len()];
        for (n, child) in pattern.children.iter().enumerate() {
            children[n] = match child {
                Pattern::Op(op) => Some(self.op(op)?),
                Pattern::Var(var) => match &self.bound[*var] {
                    Some(Bound::Value(id)) => Some(*id),
                    _ => None,
                },
                _ => None,
            };
        }
        let related = children.iter().flatten().next().copied();
        for (n, child) in pattern.children.iter().enumerate() {
            let drawn = sample.inputs.get(n).cloned().flatten();
            if children[n].is_some() {
                continue;
            }
            let like = related.map(|v| self.builder.graph().ty(v).clone());
            let dtype = match (&drawn, &like) {
                (_, Some(ty)) => ty.dtype,
                (Some(t), None) => t.dtype(),
                _ => DType::F32,
            };
            children[n] = match child {
                Pattern::Number(v) => {
                    // Beside nothing typed, the other operands of the sample say what they are.
                    let other = sample.inputs.iter().flatten().nth(usize::from(n == 0));
                    let dtype = if related.is_some() {
                        dtype
                    } else {
                        drawn.or(other.cloned()).map_or(dtype, |t| t.dtype())
                    };
                    Some(self.value(Tensor::from_f64s(dtype, &[], &[*v])?, true))
                }
                Pattern::Omitted => None,
                Pattern::Var(var) => {
                    let use_sample = like.is_none() || self.rng.below(4) == 0;
                    let tensor = match (drawn, &like) {
                        (Some(t), _) if use_sample => t,
                        (_, Some(ty)) => self.relative(ty)?,
                        _ => {
                            let shape = [2, 3];
                            self.rng.tensor(DType::F32, &shape, -2.0, 2.0)
                        }
                    };
                    Some(self.variable(*var, tensor))
                }
                Pattern::Op(_) => None,
            };
        }
        if let Some(tail) = pattern.tail {
            children.extend(self.tail(tail, pattern, related, &children)?);
        }
        let first = children.iter().flatten().next().map(|v| self.builder.graph().ty(*v).clone());
        let attrs = self.attrs(pattern, &sample.attrs, first.as_ref())?;
        self.n_values += 1;
        let name = format!("n{}", self.n_values);
        self.builder.node(&name, pattern.op, attrs, &children, std::slice::from_ref(&name)).ok().map(|v| v[0])
    }

    fn tail(
        &mut self,
        tail: usize,
        pattern: &OpPattern,
        related: Option<ValueId>,
        children: &[Option<ValueId>],
    ) -> Option<Vec<Option<ValueId>>> {
        if let Some(Bound::List(list)) = &self.bound[tail] {
            return Some(list.iter().copied().map(Some).collect());
        }
        let room = pattern.op.inputs.max.saturating_sub(children.len()).min(2);
        let n = self.rng.below(room + 1);
        let like = related.or(children.iter().flatten().next().copied());
        let ty = like.map(|v| self.builder.graph().ty(v).clone());
        let mut list = Vec::new();
        for _ in 0..n {
            let tensor = match &ty {
                Some(ty) => self.relative(ty)?,
                None => {
                    let (rows, columns) = (1 + self.rng.below(3), 3);
                    self.rng.tensor(DType::F32, &[rows, columns], -2.0, 2.0)
                }
            };
            list.push(self.value(tensor, false));
        }
        self.bound[tail] = Some(Bound::List(list.clone()));
        Some(list.into_iter().map(Some).collect())
    }

    /// A tensor whose shape relates to `ty` as second operands' shapes do.
    fn relative(&mut self, ty: &Type) -> Option<Tensor> {
        let shape = ty.known_shape()?;
        let rank = shape.len();
        let last = shape.last().copied().unwrap_or(1);
        let channels = shape.get(1).copied().unwrap_or(1);
        let n = 1 + self.rng.below(4);
        let mut swapped = shape.clone();
        let mut product = shape.clone();
        if rank >= 2 {
            swapped.swap(rank - 1, rank - 2);
            product[rank - 2] = last;
            product[rank - 1] = n;
        }
        let mut scores = product.clone();
        scores.truncate(rank);
        let channel: Vec<usize> = (1..rank).map(|a| if a == 1 { channels } else { 1 }).collect();
        let batch_channel: Vec<usize> = (0..rank).map(|a| if a == 1 { channels } else { 1 }).collect();
        let ones: Vec<usize> = shape.iter().map(|&d| if self.rng.below(2) == 0 { d } else { 1 }).collect();
        let choices = [
            shape.clone(),
            vec![],
            vec![1],
            vec![last],
            vec![last, n],
            swapped,
            product,
            channel,
            batch_channel,
            ones,
            vec![1; rank],
        ];
        let shape = self.rng.pick(&choices).clone();
        Some(self.rng.tensor(ty.dtype, &shape, -2.0, 2.0))
    }

    fn attrs(&mut self, pattern: &OpPattern, sample: &Attrs, first: Option<&Type>) -> Option<Attrs> {
        let mut attrs = Attrs::new();
        for (name, want) in &pattern.attrs {
            let attr = match want {
                AttrPattern::Is(attr) => Some(attr.clone()),
                AttrPattern::IsOrAbsent(attr) => (self.rng.below(2) == 0).then(|| attr.clone()),
                AttrPattern::Bind(var) => self.bound_attr(*var, name, sample, first),
            };
            if let Some(attr) = attr {
                attrs.set(name, attr);
            }
        }
        let listed = |name: &str| pattern.attrs.iter().any(|(p, _)| p == name);
        let rest = match pattern.rest.and_then(|var| self.bound[var].clone()) {
            Some(Bound::Attrs(rest)) => rest,
            _ => {
                let mut rest = Attrs::new();
                for def in pattern.op.attrs.iter().filter(|d| pattern.rest.is_some() && !listed(d.name)) {
                    let usual = self.usual(def.name, first).filter(|_| self.rng.below(4) > 0);
                    if let Some(attr) = usual.or_else(|| sample.get(def.name).cloned()) {
                        rest.set(def.name, attr);
                    }
                }
                rest
            }
        };
        for (name, attr) in rest.iter() {
            attrs.set(name, attr.clone());
        }
        if let Some(var) = pattern.rest {
            self.bound[var] = Some(Bound::Attrs(rest));
        }
        Some(attrs)
    }

    fn bound_attr(&mut self, var: usize, name: &str, sample: &Attrs, first: Option<&Type>) -> Option<Attr> {
        if let Some(Bound::Attr(attr)) = &self.bound[var] {
            return attr.clone();
        }
        let usual = self.usual(name, first).filter(|_| self.rng.below(4) > 0);
        let attr = usual.or_else(|| sample.get(name).cloned());
        self.bound[var] = Some(Bound::Attr(attr.clone()));
        attr
    }

    /// What an attribute of this name usually holds for an operand of this type.
    fn usual(&mut self, name: &str, first: Option<&Type>) -> Option<Attr> {
        let shape = first?.known_shape()?;
        let rank = shape.len() as i64;
        Some(match name {
            "perm" => {
                let mut perm: Vec<i64> = (0..rank).collect();
                if self.rng.below(4) > 0 {
                    for i in (1..perm.len()).rev() {
                        let j = self.rng.below(i + 1);
                        perm.swap(i, j);
                    }
                }
                Attr::Ints(perm)
            }
            "shape" => {
                let n: usize = shape.iter().product();
                let head = (1..=n.max(1)).filter(|d| n.is_multiple_of(*d)).collect::<Vec<_>>();
                let head = *self.rng.pick(&head);
                let last = shape.last().copied().unwrap_or(1).max(1);
                let choices = [
                    vec![n as i64],
                    vec![head as i64, (n / head.max(1)) as i64],
                    vec![(n / last) as i64, last as i64],
                    vec![1, (n / last) as i64, last as i64],
                    shape.iter().map(|&d| d as i64).collect(),
                    shape.iter().map(|&d| if d == 1 { 2 } else { d as i64 }).collect(),
                ];
                Attr::Ints(self.rng.pick(&choices).clone())
            }
            "axes" => {
                let choices =
                    [vec![-1], vec![rank - 1], vec![0], vec![rank / 2], vec![2, 3], (0..rank).collect()];
                Attr::Ints(self.rng.pick(&choices).clone())
            }
            "axis" => Attr::Int(*self.rng.pick(&[-1, rank - 1, 0, rank / 2])),
            "keepdims" => Attr::Int(1),
            "starts" => Attr::Ints(vec![self.rng.int(0, 1)]),
            "ends" => Attr::Ints(vec![self.rng.int(1, 4)]),
            "steps" => Attr::Ints(vec![1]),
            "min" => Attr::Float(*self.rng.pick(&[-1.0, 0.0, 0.5])),
            "max" => Attr::Float(*self.rng.pick(&[0.5, 1.0, 6.0])),
            "scale" | "alpha" => Attr::Float(*self.rng.pick(&[0.5, 1.0, 2.0])),
            "pads" if self.rng.below(2) == 0 => Attr::Ints(vec![0; 2 * rank as usize]),
            "pads" => {
                let pad = |i: i64| if i % rank < 2 { 0 } else { 1 };
                Attr::Ints((0..2 * rank).map(pad).collect())
            }
            _ => return None,
        })
    }
}

/// What rounding may do to a result of a handful of operations, relative to the largest element.
fn precision(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 5e-2,
        DType::F16 => 1e-2,
        _ => 2e-5,
    }
}

fn close(a: &Tensor, b: &Tensor, numerics: Numerics) -> Result<(), String> {
    if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
        return Err(format!("types differ: {a:?} and {b:?}"));
    }
    let (x, y) = (a.to_f64s(), b.to_f64s());
    let largest = x.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    let allowed = if numerics == Numerics::Exact { 0.0 } else { precision(a.dtype()) * largest };
    for (x, y) in x.iter().zip(&y) {
        let same = x == y && (numerics != Numerics::Exact || x.is_sign_negative() == y.is_sign_negative());
        if !(same || (x.is_nan() && y.is_nan()) || (x - y).abs() <= allowed && numerics != Numerics::Exact) {
            return Err(format!("{x} and {y} differ by more than {allowed}"));
        }
    }
    Ok(())
}

/// Tries one seed: `None` when no instance came about or the rule did not match, else whether both sides agree.
fn attempt(rule: &Rule, seed: u64) -> Option<Result<(), String>> {
    let (graph, inputs) = Instance::new(rule, seed).graph()?;
    let mut loaded = load(&graph);
    let root = loaded.egraph.find(loaded.roots[0]);
    let index = Index::new(&loaded.egraph);
    let found = find(&loaded.egraph, &index, rule).into_iter().filter(|m| loaded.egraph.find(m.root) == root);
    let plan =
        found.filter_map(|m| plan(&loaded.egraph, rule, &m)).find(|p| !p.is_known(&loaded.egraph, root))?;
    let right = add(&mut loaded.egraph, &plan);
    loaded.egraph.rebuild();
    if loaded.egraph.find(right) == loaded.egraph.find(root) {
        return None;
    }
    loaded.roots = vec![right];
    let other = match loaded.emit(&Choice::default(), &graph) {
        Ok(other) => other,
        Err(diag) => return Some(Err(format!("the right-hand side: {diag}"))),
    };
    let left = interp::run(&graph, &inputs).ok()?;
    let right = match interp::run(&other, &inputs) {
        Ok(right) => right,
        Err(diag) => return Some(Err(format!("the right-hand side: {diag}"))),
    };
    Some(close(&left[0], &right[0], rule.numerics))
}

#[test]
fn every_rule_can_fire_and_both_sides_agree() {
    let mut failures = Vec::new();
    for rule in shipped().unwrap() {
        let mut fired = 0;
        for seed in 0..MAX_TRIES {
            match attempt(&rule, seed) {
                None => continue,
                Some(Ok(())) => fired += 1,
                Some(Err(why)) => {
                    failures.push(format!("{}: seed {seed}: {why}", rule.name));
                    break;
                }
            }
            if fired >= WANTED {
                break;
            }
        }
        if fired == 0 && !failures.last().is_some_and(|f| f.starts_with(&format!("{}:", rule.name))) {
            failures.push(format!("{}: no instance in {MAX_TRIES} tries", rule.name));
        }
    }
    assert!(failures.is_empty(), "{} rules:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn rules_are_many_and_named_once() {
    let rules = shipped().unwrap();
    let mut names: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules.len());
    let rows: std::collections::BTreeSet<&str> =
        rules.iter().map(|r| r.name.split('/').next().unwrap()).collect();
    assert!(rows.len() >= 40, "{} rules", rows.len());
}
