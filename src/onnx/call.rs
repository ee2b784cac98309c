//! One application of an ONNX operator on its way into the graph: finding its row, converting its attributes,
//! adding the node.

use crate::attrs::{convert, onnx_name, our_name};
use partita_ir::{Attr, Attrs, Builder, Diag, OpRef, Registry, Tensor, Type, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// An operator application in ONNX's terms, with resolved operands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Empty for the standard domain.
    pub(crate) domain: String,
    pub(crate) op_type: String,
    /// Opset of the domain.
    pub(crate) version: i64,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) attrs: BTreeMap<String, Attr>,
    /// Names of the results; an empty name is a result nobody wants.
    pub(crate) outputs: Vec<String>,
}

impl Call {
    /// How it is named to a person.
    pub(crate) fn label(&self) -> String {
        let dot = if self.domain.is_empty() { "" } else { "." };
        format!("{} ({}{dot}{})", self.name, self.domain, self.op_type)
    }

    /// The operand, if it is given.
    pub(crate) fn input(&self, n: usize) -> Option<ValueId> {
        self.inputs.get(n).copied().flatten()
    }

    /// Sets operand `n`; those before it that are missing stay omitted.
    pub(crate) fn set_input(&mut self, n: usize, value: ValueId) {
        if self.inputs.len() <= n {
            self.inputs.resize(n + 1, None);
        }
        self.inputs[n] = Some(value);
    }

    /// An integer attribute.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        match self.attrs.get(name)? {
            Attr::Int(v) => Some(*v),
            _ => None,
        }
    }
}

/// Operators by their names in ONNX.
pub(crate) type Rows = Rc<BTreeMap<(&'static str, &'static str), OpRef>>;

/// The graph under construction, and the operators it may use.
pub(crate) struct Emit {
    pub(crate) builder: Builder,
    registry: Registry,
    by_onnx_name: Rows,
    /// What the names of values and nodes start with: empty in the model's own graph, different in every body.
    lead: String,
    /// Leads given to bodies; no other name starts with one.
    leads: BTreeSet<String>,
    /// Names of values, made or reserved.
    taken: BTreeSet<String>,
    node_names: BTreeSet<String>,
    /// The last number given to each wish: many values may wish for one name.
    numbers: BTreeMap<String, usize>,
}

impl Emit {
    /// An empty graph called `name`; the names in `reserved` are not invented for other values.
    pub(crate) fn new(name: &str, registry: Registry, reserved: BTreeSet<String>) -> Self {
        let names = registry.iter().flat_map(|op| op.0.onnx.iter().map(move |n| ((n.domain, n.op_type), op)));
        Self {
            builder: Builder::new(name),
            registry,
            by_onnx_name: Rc::new(names.collect()),
            lead: String::new(),
            leads: BTreeSet::new(),
            taken: reserved,
            node_names: BTreeSet::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// An empty graph for a body, in which all names start with `lead`.
    pub(crate) fn body(&self, name: &str, lead: &str) -> Self {
        Self {
            builder: Builder::new(name),
            registry: self.registry,
            by_onnx_name: Rc::clone(&self.by_onnx_name),
            lead: lead.to_owned(),
            leads: BTreeSet::new(),
            taken: BTreeSet::new(),
            node_names: BTreeSet::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// These names are not invented for other values.
    pub(crate) fn reserve<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        self.taken.extend(names.map(str::to_owned));
    }

    /// The name of a graph output under the current lead; outputs have names of their own.
    pub(crate) fn output_name(&self, name: &str) -> String {
        self.scoped(name)
    }

    /// Makes names start with `lead` and returns what they started with before.
    pub(crate) fn set_lead(&mut self, lead: String) -> String {
        std::mem::replace(&mut self.lead, lead)
    }

    /// A lead for the names of a body, which no other name starts with.
    pub(crate) fn new_lead(&mut self, wish: &str) -> String {
        let mut lead = self.scoped(wish);
        loop {
            let full = format!("{lead}/");
            let next = self.taken.range(full.clone()..).next();
            if !next.is_some_and(|n| n.starts_with(&full)) && self.leads.insert(full.clone()) {
                return full;
            }
            lead.push('_');
        }
    }

    /// The name under the current lead.
    fn scoped(&self, name: &str) -> String {
        if name.starts_with(&self.lead) { name.to_owned() } else { format!("{}{name}", self.lead) }
    }

    /// Whether the name belongs to a body.
    fn is_inside(&self, name: &str) -> bool {
        let slashes = name.match_indices('/').map(|(at, _)| at + 1).filter(|at| *at > self.lead.len());
        !self.leads.is_empty() && slashes.into_iter().any(|at| self.leads.contains(&name[..at]))
    }

    /// The name of a value that is called `name` in the file.
    pub(crate) fn named(&mut self, name: &str) -> String {
        if self.lead.is_empty() { name.to_owned() } else { self.fresh(name) }
    }

    fn unique(&mut self, wish: &str) -> String {
        let mut wish = wish.to_owned();
        while self.is_inside(&wish) {
            wish.insert(self.lead.len(), '_');
        }
        numbered(&wish, &mut self.taken, self.numbers.entry(wish.clone()).or_insert(1))
    }

    /// The row of an operator.
    pub(crate) fn row(&self, domain: &str, op_type: &str) -> Option<OpRef> {
        self.by_onnx_name.get(&(domain, op_type)).copied()
    }

    /// Whether the row of a standard operator has the attribute.
    pub(crate) fn has_attr(&self, op_type: &str, attr: &str) -> bool {
        self.row("", op_type).is_some_and(|row| row.attr(attr).is_some())
    }

    /// The type of a value.
    pub(crate) fn ty(&self, value: ValueId) -> &Type {
        self.builder.graph().ty(value)
    }

    /// The number of dimensions of a value, for forms that depend on it.
    ///
    /// # Errors
    /// `U010` when only a run can tell.
    pub(crate) fn ranked(&self, value: ValueId) -> Result<usize, Diag> {
        let ty = self.ty(value);
        if ty.is_tensor() {
            return Ok(ty.rank());
        }
        let text =
            format!("this form of the operator needs a known number of dimensions, the operand is {ty}");
        let diag = Diag::new("U010", text).at_value(&*self.builder.graph().value(value).name);
        Err(diag.hint("export the model with a newer opset, or with stated shapes"))
    }

    /// A value name nobody else has.
    pub(crate) fn fresh(&mut self, wish: &str) -> String {
        let wish = self.scoped(wish);
        self.unique(&wish)
    }

    /// Adds a constant under an invented name.
    pub(crate) fn constant(&mut self, wish: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh(wish);
        self.builder.constant(&name, tensor)
    }

    /// Adds a node with one result under an invented name.
    ///
    /// # Errors
    /// See `call`.
    pub(crate) fn step(&mut self, mut call: Call, op_type: &str) -> Result<ValueId, Diag> {
        let name = self.fresh(&format!("{}_{}", call.name, op_type.to_lowercase()));
        if !self.lead.is_empty() {
            // It is taken again, as it stands, when the node is added.
            self.taken.remove(&name);
        }
        op_type.clone_into(&mut call.op_type);
        call.domain.clear();
        call.name.clone_from(&name);
        call.outputs = vec![name];
        Ok(self.call(call)?[0])
    }

    /// Adds the node; the call must be in the form the row reads.
    ///
    /// # Errors
    /// `U002` unknown operator, `U006` attribute the row does not have, `I019` attribute of the wrong kind, `I028`
    /// attribute missing, `U011` more operands or results than the row knows, and what inference says.
    pub(crate) fn call(&mut self, call: Call) -> Result<Vec<ValueId>, Diag> {
        let label = call.label();
        self.add(call).map_err(|d| d.at_node(label))
    }

    fn add(&mut self, call: Call) -> Result<Vec<ValueId>, Diag> {
        let Some(op) = self.row(&call.domain, &call.op_type) else { return Err(self.unknown(&call)) };
        let mut attrs = Attrs::new();
        for (onnx, attr) in call.attrs {
            let name = our_name(&onnx);
            let Some(def) = op.attr(name) else {
                let text = format!("attribute {onnx} of {} is not supported", call.op_type);
                return Err(Diag::new("U006", text).hint("remove it if the model does not need it"));
            };
            attrs.set(name, convert(&onnx, attr, def.kind)?);
        }
        let missing = op.attrs.iter().find(|def| def.required && attrs.get(def.name).is_none());
        if let Some(def) = missing.filter(|def| def.operand.is_none()) {
            let text = format!("attribute {} of {} is missing", onnx_name(def.name), call.op_type);
            return Err(Diag::new("I028", text).hint("the model is damaged; export it again"));
        }
        let mut inputs = call.inputs;
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let mut outputs = call.outputs;
        while outputs.len() > 1 && outputs.last().is_some_and(String::is_empty) {
            outputs.pop();
        }
        // The row may know fewer operands and results than ONNX allows: not wrong, only not supported.
        for (what, n, max) in
            [("operands", inputs.len(), op.inputs.max), ("results", outputs.len(), op.outputs.max)]
        {
            if n > max {
                let text = format!("{} with {n} {what} is not supported, at most {max} are", call.op_type);
                return Err(Diag::new("U011", text).hint("leave the optional ones out"));
            }
        }
        for (n, output) in outputs.iter_mut().enumerate() {
            *output = if output.is_empty() {
                self.fresh(&format!("{}_unused{n}", call.name))
            } else {
                self.named(output)
            };
        }
        let wish = self.scoped(&call.name);
        let name = numbered(&wish, &mut self.node_names, self.numbers.entry(wish.clone()).or_insert(1));
        self.builder.node(&name, op, attrs, &inputs, &outputs)
    }

    pub(crate) fn unknown(&self, call: &Call) -> Diag {
        let domain = if call.domain.is_empty() { "ai.onnx" } else { &call.domain };
        let text = format!("operator {domain}.{} (opset {}) is not supported", call.op_type, call.version);
        let hint = match self.registry.similar(&snake(&call.op_type)) {
            Some(name) => format!("the nearest known operator is {name}"),
            None => "the list of supported operators is in the documentation".to_owned(),
        };
        Diag::new("U002", text).hint(hint)
    }
}

/// `wish`, or the first of `wish_2`, `wish_3`… that is free; marks it as taken.
pub(crate) fn unique(wish: &str, taken: &mut BTreeSet<String>) -> String {
    numbered(wish, taken, &mut 1)
}

/// `wish`, or the first free one with a number above `last`.
fn numbered(wish: &str, taken: &mut BTreeSet<String>, last: &mut usize) -> String {
    let mut name = wish.to_owned();
    while name.is_empty() || taken.contains(&name) {
        *last += 1;
        name = format!("{wish}_{last}");
    }
    taken.insert(name.clone());
    name
}

/// `LayerNormalization` as `layer_normalization`.
pub(crate) fn snake(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
