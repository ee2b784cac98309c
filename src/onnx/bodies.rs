//! Nodes with bodies. A body becomes a graph of its own: its inputs are the formal ones, then the values that the
//! bodies of the node read from around them; constants are copied instead.
//!
//! What a loop carries may change its shape from one run to the next, so its body is built again, with more general
//! types, until they hold for every run.

use crate::adapt::adapt;
use crate::attrs::graphs;
use crate::call::Call;
use crate::carried::{generalise, without_shape};
use crate::free::{free_names, n_nodes};
use crate::importer::{Importer, Level, Scope};
use crate::inline::{Flat, Opsets};
use crate::inputs::element_type;
use crate::limits::{MAX_NESTING, MAX_ROUNDS};
use onnx_protobuf::{GraphProto, Message, ValueInfoProto};
use partita_ir::attr::Body;
use partita_ir::graph::MAX_BODY_DEPTH;
use partita_ir::op::CAPTURES;
use partita_ir::types::Form;
use partita_ir::{Attr, DType, Diag, Graph, Tensor, Type, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A body of a node.
pub(crate) struct Site<'g> {
    pub(crate) graph: &'g GraphProto,
    pub(crate) opsets: &'g Opsets,
    /// What its names start with.
    pub(crate) lead: String,
    pub(crate) around: &'g Around,
}

/// What the bodies of a node read from around them.
#[derive(Default)]
pub(crate) struct Around {
    /// Values that become operands of the node, with their names and types.
    pub(crate) values: Vec<(String, ValueId, Type)>,
    consts: Vec<(String, Tensor)>,
    /// Names of values whose making failed.
    failed: Vec<String>,
}

/// Types of a body's formal inputs: those before and after the carried ones never change.
pub(crate) struct Formals {
    pub(crate) before: Vec<Type>,
    pub(crate) carried: Vec<Type>,
    pub(crate) after: Vec<Type>,
    /// Results before the carried ones.
    pub(crate) skip: usize,
}

impl Formals {
    fn fixed(before: Vec<Type>) -> Self {
        Self { before, carried: Vec::new(), after: Vec::new(), skip: 0 }
    }
}

impl Importer<'_> {
    /// The values a node with bodies makes; none when something in a body failed, which is reported.
    ///
    /// # Errors
    /// What is wrong with the node itself.
    pub(crate) fn control(&mut self, flat: &Flat, mut call: Call) -> Result<Vec<ValueId>, Diag> {
        self.known_op(&call)?;
        let bodies: BTreeMap<&str, &GraphProto> = graphs(&flat.node).collect();
        if let Some(values) = self.known_branch(flat, &call, &bodies)? {
            return Ok(values);
        }
        let around = self.around(bodies.values().copied());
        let mut n_results = 0;
        for (name, graph) in &bodies {
            let lead = self.level.emit.new_lead(&format!("{}.{name}", call.name));
            let site = Site { graph, opsets: &flat.opsets, lead, around: &around };
            if call.op_type == "Scan" && call.version < 9 {
                let Some((newer, n)) = self.batched_scan(&site, call)? else { return Ok(Vec::new()) };
                return self.close(newer, &around, n);
            }
            let formals = self.formals(&mut call)?;
            let Some(body) = self.settled(&site, formals)? else { return Ok(Vec::new()) };
            n_results = n_results.max(body.outputs().count());
            call.attrs.insert((*name).to_owned(), Attr::Graph(Body(body)));
        }
        if !around.failed.is_empty() {
            return Ok(Vec::new());
        }
        if call.op_type == "Loop" {
            n_results = n_results.saturating_sub(1);
        }
        self.close(call, &around, n_results)
    }

    /// Adds the node.
    fn close(&mut self, mut call: Call, around: &Around, n_results: usize) -> Result<Vec<ValueId>, Diag> {
        if call.domain.is_empty() {
            // Results that nobody wants are made all the same.
            let n = call.outputs.len().max(n_results);
            call.outputs.resize(n, String::new());
            for (k, output) in call.outputs.iter_mut().enumerate().filter(|(_, o)| o.is_empty()) {
                *output = self.level.emit.fresh(&format!("{}_unused{k}", call.name));
            }
        }
        let mut call = adapt(call, &mut self.level.emit)?;
        if !around.values.is_empty() {
            call.inputs.extend(around.values.iter().map(|(_, value, _)| Some(*value)));
            call.attrs.insert(CAPTURES.to_owned(), Attr::Int(around.values.len() as i64));
        }
        self.level.emit.call(call)
    }

    /// What bodies read from around them.
    fn around<'g>(&self, bodies: impl Iterator<Item = &'g GraphProto>) -> Around {
        let mut around = Around::default();
        let builder = &self.level.emit.builder;
        for name in free_names(bodies) {
            let name = name.to_owned();
            match self.level.get(&name) {
                Some(Some(value)) => match builder.content(value).and_then(|c| c.as_const()) {
                    Some(tensor) => around.consts.push((name, tensor.clone())),
                    None => around.values.push((name, value, self.level.emit.ty(value).clone())),
                },
                Some(None) => around.failed.push(name),
                // The body says that nothing makes it.
                None => {}
            }
        }
        around
    }

    /// Types of the formal inputs of a node's bodies.
    fn formals(&mut self, call: &mut Call) -> Result<Formals, Diag> {
        match (call.domain.as_str(), call.op_type.as_str()) {
            ("", "If") => Ok(Formals::fixed(Vec::new())),
            ("", "Loop") => self.loop_formals(call),
            ("", "Scan") => self.scan_formals(call),
            ("", "SequenceMap") => {
                let item = |ty: Type| match ty.form {
                    Form::Sequence(item) => *item,
                    _ => ty,
                };
                Ok(Formals::fixed(self.operand_types(call, 0)?.into_iter().map(item).collect()))
            }
            ("ai.onnx.preview", "FlexAttention") => self.score_formals(call),
            (_, other) => {
                let text = format!("{other} with subgraphs is not supported");
                Err(Diag::new("U004", text).hint("use If, Loop, Scan or SequenceMap"))
            }
        }
    }

    pub(crate) fn operand_types(&self, call: &Call, from: usize) -> Result<Vec<Type>, Diag> {
        let ty = |(n, v): (usize, &Option<ValueId>)| match v {
            Some(v) => Ok(self.level.emit.ty(*v).clone()),
            None => Err(Diag::new("V002", format!("operand {n} of {} is required", call.op_type))
                .hint("give the value it starts with")),
        };
        call.inputs.iter().enumerate().skip(from).map(ty).collect()
    }

    /// An omitted number of runs means no limit, an omitted condition that it holds: both become constants.
    fn loop_formals(&mut self, call: &mut Call) -> Result<Formals, Diag> {
        if call.input(0).is_none() {
            let most = self.level.emit.constant(&format!("{}_most", call.name), Tensor::scalar(i64::MAX));
            call.set_input(0, most);
        }
        if call.input(1).is_none() {
            let truth = Tensor::from_bools(&[], &[true]).unwrap_or_else(|| Tensor::scalar(1u8));
            let go_on = self.level.emit.constant(&format!("{}_go_on", call.name), truth);
            call.set_input(1, go_on);
        }
        let before = vec![Type::known(DType::I64, &[]), Type::known(DType::Bool, &[])];
        Ok(Formals { before, carried: self.operand_types(call, 2)?, after: Vec::new(), skip: 1 })
    }

    fn scan_formals(&self, call: &Call) -> Result<Formals, Diag> {
        let mut carried = self.operand_types(call, 0)?;
        let n_scanned = call.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let Some(n_states) = carried.len().checked_sub(n_scanned).filter(|_| n_scanned > 0) else {
            let text = format!("num_scan_inputs is {n_scanned}, the node has {} operands", carried.len());
            return Err(Diag::new("I019", text).hint("the model is damaged; export it again"));
        };
        let axes = match call.attrs.get("scan_input_axes") {
            Some(Attr::Ints(axes)) => axes.clone(),
            _ => Vec::new(),
        };
        let slice = |(n, ty): (usize, Type)| without_axis(&ty, axes.get(n).copied().unwrap_or(0));
        let after = carried.split_off(n_states).into_iter().enumerate().map(slice).collect();
        Ok(Formals { before: Vec::new(), carried, after, skip: 0 })
    }

    /// What the modifiers of attention take: scores in the precision of the softmax.
    fn score_formals(&self, call: &Call) -> Result<Formals, Diag> {
        let operands = self.operand_types(call, 0)?;
        let (Some(q), Some(k)) = (operands.first(), operands.get(1)) else {
            return Err(
                Diag::new("V001", "FlexAttention takes three operands").hint("give queries, keys and values")
            );
        };
        let dtype = match call.int("softmax_precision") {
            Some(code) => crate::dtypes::dtype_of(code)?,
            None if q.dtype == DType::F64 => DType::F64,
            None => DType::F32,
        };
        if q.rank() != 4 || k.rank() != 4 {
            return Ok(Formals::fixed(vec![Type::unranked(dtype)]));
        }
        let mut shape = q.shape[..3].to_vec();
        shape.push(k.shape[2].clone());
        Ok(Formals::fixed(vec![Type::new(dtype, shape)]))
    }

    /// The body under types that hold for all runs; `None` when something in it failed, which is reported.
    pub(crate) fn settled(&mut self, site: &Site, mut formals: Formals) -> Result<Option<Arc<Graph>>, Diag> {
        let n_before = formals.before.len();
        // Each of the last two rounds forgets something about all that is left to forget.
        for round in 0..=MAX_ROUNDS + 2 {
            let types = [&formals.before[..], &formals.carried, &formals.after].concat();
            let Some(body) = self.body(site, &types)? else { return Ok(None) };
            let results: Vec<Type> =
                body.outputs().skip(formals.skip).map(|(_, v)| body.ty(v).clone()).collect();
            if results.len() < formals.carried.len() {
                let text = format!(
                    "the body gives {} results, {} are carried to its next run",
                    results.len(),
                    formals.carried.len()
                );
                return Err(Diag::new("I029", text).hint("the model is damaged; export it again"));
            }
            let mut next = Vec::new();
            for (n, (before, after)) in formals.carried.iter().zip(&results).enumerate() {
                let input = body.inputs()[n_before + n];
                next.push(generalise(before, after, &body.value(input).name)?);
            }
            if next == formals.carried {
                return Ok(Some(body));
            }
            formals.carried = match round {
                _ if round < MAX_ROUNDS => next,
                MAX_ROUNDS => next.iter().map(without_shape).collect(),
                _ => vec![Type::any(); next.len()],
            };
        }
        Err(Diag::new("I022", "the types of the values a loop carries do not settle")
            .hint("let the body give values of the types it takes"))
    }

    /// Builds a body whose formal inputs have these types.
    fn body(&mut self, site: &Site, formals: &[Type]) -> Result<Option<Arc<Graph>>, Diag> {
        let graph = site.graph;
        if self.level.depth >= MAX_BODY_DEPTH || self.nesting >= MAX_NESTING {
            let text = format!("bodies nest more than {MAX_BODY_DEPTH} deep");
            return Err(Diag::new("I006", text).hint("flatten nested If and Loop bodies"));
        }
        self.inliner.cost.take(1 + n_nodes(graph), graph.compute_size())?;
        let first_diag = self.diags.len();
        let level = Level {
            emit: self.level.emit.body(&graph.name, &site.lead),
            scopes: vec![Scope::new(), Scope::new()],
            depth: self.level.depth + 1,
        };
        let outer = std::mem::replace(&mut self.level, level);
        self.nesting += 1;
        let done = self.inside(site, formals);
        self.nesting -= 1;
        let inner = std::mem::replace(&mut self.level, outer);
        self.place_inside(first_diag, &site.lead);
        done?;
        Ok((self.diags.len() == first_diag).then(|| Arc::new(inner.emit.builder.finish())))
    }

    /// Letters about nodes of a body say where it is.
    fn place_inside(&mut self, first_diag: usize, lead: &str) {
        for diag in &mut self.diags[first_diag..] {
            match &mut diag.place.node {
                Some(node) if !node.starts_with(lead) => *node = format!("{lead}{node}"),
                Some(_) => {}
                None => diag.place.node = Some(lead.to_owned()),
            }
        }
    }

    fn inside(&mut self, site: &Site, formals: &[Type]) -> Result<(), Diag> {
        let graph = site.graph;
        let infos = formal_inputs(graph, formals.len())?;
        for (info, ty) in infos.iter().zip(formals) {
            let declared = element_type(info)?;
            let is_tensor = matches!(ty.form, Form::Tensor | Form::Unranked);
            if let Some(declared) = declared.filter(|d| is_tensor && *d != ty.dtype) {
                let text = format!("the body's input is declared {}, it is {ty}", declared.name());
                let diag = Diag::new("I022", text).at_value(&*info.name);
                return Err(diag.hint("the model contradicts itself; export it again"));
            }
            let name = self.level.emit.named(&info.name);
            let value = self.level.emit.builder.input(&name, ty.clone());
            self.level.bind(&info.name, Some(value));
        }
        self.captured(site.around);
        self.initializers(graph);
        let inlined = self.inliner.inline(&graph.node, site.opsets);
        self.nodes(graph, &inlined);
        for output in &graph.output {
            let Some(Some(value)) = self.level.get(&output.name) else { continue };
            let name = self.level.emit.output_name(&output.name);
            self.level.emit.builder.output(&name, value);
        }
        Ok(())
    }

    /// Inputs and constants for what is read from around the body, in the outer one of its scopes.
    fn captured(&mut self, around: &Around) {
        let own = self.level.scopes.pop().unwrap_or_default();
        for (name, _, ty) in &around.values {
            let inner = self.level.emit.named(name);
            let value = self.level.emit.builder.input(&inner, ty.clone());
            self.level.bind(name, Some(value));
        }
        for (name, tensor) in &around.consts {
            let value = self.level.emit.constant(name, tensor.clone());
            self.level.bind(name, Some(value));
        }
        around.failed.iter().for_each(|name| self.level.bind(name, None));
        self.level.scopes.push(own);
    }

    /// The results of an `If` whose condition is known: the branch's nodes become nodes of the graph around it.
    fn known_branch(
        &mut self,
        flat: &Flat,
        call: &Call,
        bodies: &BTreeMap<&str, &GraphProto>,
    ) -> Result<Option<Vec<ValueId>>, Diag> {
        if !call.domain.is_empty() || call.op_type != "If" || call.inputs.len() != 1 {
            return Ok(None);
        }
        let condition = call.input(0).and_then(|v| self.level.emit.builder.content(v)?.as_const());
        let condition = condition.filter(|t| t.dtype() == DType::Bool && t.n_elements() == 1);
        let Some(condition) = condition.map(|t| t.to_bools()[0]) else { return Ok(None) };
        let (Some(then), Some(other)) = (bodies.get("then_branch"), bodies.get("else_branch")) else {
            return Ok(None);
        };
        let (name, graph) = if condition { ("then_branch", then) } else { ("else_branch", other) };
        if graph.output.len() < call.outputs.len() || bodies.len() != 2 || !call.attrs.is_empty() {
            return Ok(None);
        }
        if self.nesting >= MAX_NESTING {
            let text = format!("branches nest more than {MAX_NESTING} deep");
            return Err(Diag::new("I006", text).hint("flatten nested If and Loop bodies"));
        }
        formal_inputs(graph, 0)?;
        self.inliner.cost.take(1 + n_nodes(graph), graph.compute_size())?;
        let lead = self.level.emit.new_lead(&format!("{}.{name}", call.name));
        self.branch(graph, &flat.opsets, lead).map(Some)
    }

    fn branch(&mut self, graph: &GraphProto, opsets: &Opsets, lead: String) -> Result<Vec<ValueId>, Diag> {
        let first_diag = self.diags.len();
        let outer = self.level.emit.set_lead(lead);
        self.level.scopes.push(Scope::new());
        self.nesting += 1;
        self.initializers(graph);
        let inlined = self.inliner.inline(&graph.node, opsets);
        self.nodes(graph, &inlined);
        let values =
            graph.output.iter().map(|o| self.level.get(&o.name).flatten()).collect::<Option<Vec<_>>>();
        self.nesting -= 1;
        self.level.scopes.pop();
        let lead = self.level.emit.set_lead(outer);
        self.place_inside(first_diag, &lead);
        // What is missing has been reported.
        Ok(values.unwrap_or_default())
    }
}

/// The inputs of a body that are not initializers as well: old models list those among the inputs.
fn formal_inputs(graph: &GraphProto, n: usize) -> Result<Vec<&ValueInfoProto>, Diag> {
    let mut infos: Vec<&ValueInfoProto> = graph.input.iter().collect();
    if infos.len() > n {
        let given: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        infos.retain(|i| !given.contains(i.name.as_str()));
    }
    if infos.len() != n {
        let text = format!("the body has {} inputs, the node gives it {n}", infos.len());
        return Err(Diag::new("I029", text).hint("the model is damaged; export it again"));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = infos.iter().find(|i| i.name.is_empty() || !seen.insert(i.name.as_str())) {
        let diag = Diag::new("I014", "two inputs of a body have this name, or it is empty");
        return Err(diag.at_value(&*twice.name).hint("rename one of them"));
    }
    Ok(infos)
}

/// The type of a slice along `axis`.
pub(crate) fn without_axis(ty: &Type, axis: i64) -> Type {
    if !ty.is_tensor() {
        return without_shape(ty);
    }
    let rank = ty.rank() as i64;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|a| *a < ty.rank());
    // An axis that does not exist is found when the node is added.
    let Some(axis) = axis else { return Type::unranked(ty.dtype) };
    let mut shape = ty.shape.clone();
    shape.remove(axis);
    Type::new(ty.dtype, shape)
}
