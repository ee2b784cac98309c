//! Facts about an operator that are found by trying its own samples: element types, kernels, what the host does.

use partita_codegen::lower::Ctx;
use partita_codegen::{Target, cut, lower_regions};
use partita_ir::builder::{Builder, infer_graph, infer_op};
use partita_ir::op::{AttrKind, EvalCtx, OpRef, Operand, Rng, Sample};
use partita_ir::types::{Content, Type};
use partita_ir::{DType, Graph, NodeId, Region, RegionKind, Regions, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Samples tried of every operator.
const N_SAMPLES: u64 = 12;

/// A set of element types.
pub(crate) type Types = BTreeSet<DType>;

/// What was found out about an operator.
#[derive(Default)]
pub(crate) struct Facts {
    /// Element types by operand.
    pub(crate) operands: BTreeMap<usize, Types>,
    /// Kernels of each driver, by library name, with the types of the first operand they take.
    pub(crate) kernels: BTreeMap<&'static str, BTreeMap<String, Types>>,
    /// Why the host evaluates it.
    pub(crate) host: BTreeSet<&'static str>,
    pub(crate) has_bodies: bool,
}

const TARGETS: &[Target] = &[
    Target {
        driver: "cpu",
        supports: partita_cpu::supports,
        pack: partita_cpu::pack,
        channels_last: true,
        heads_in_place: true,
    },
    #[cfg(feature = "wgpu")]
    Target {
        driver: "wgpu",
        supports: partita_wgpu::supports,
        pack: partita_wgpu::pack,
        channels_last: false,
        heads_in_place: false,
    },
];

/// All element types.
pub(crate) fn all_types() -> Vec<DType> {
    (0..).map_while(|n| DType::try_from(n).ok()).collect()
}

/// The facts about `op`.
pub(crate) fn facts(op: OpRef) -> Facts {
    let mut facts =
        Facts { has_bodies: op.attrs.iter().any(|a| a.kind == AttrKind::Graph), ..Facts::default() };
    if op.data.is_some() {
        facts.host.insert("it works on values that are no tensors");
        return facts;
    }
    for seed in 0..N_SAMPLES {
        let sample = (op.sample)(&mut Rng(seed));
        let own: Types = sample.inputs.iter().flatten().map(Tensor::dtype).collect();
        for from in own {
            all_types().into_iter().for_each(|to| facts.try_types(op, &sample, from, to));
        }
        if sample.inputs.iter().flatten().next().is_none() {
            facts.kernels(op, &sample, None);
        }
    }
    facts
}

impl Facts {
    /// Tries the sample with operands of type `from` in type `to`.
    fn try_types(&mut self, op: OpRef, sample: &Sample, from: DType, to: DType) {
        let mut sample = sample.clone();
        let mut changed = Vec::new();
        for (n, operand) in sample.inputs.iter_mut().enumerate() {
            if let Some(tensor) = operand.as_mut().filter(|t| t.dtype() == from) {
                let Some(other) = converted(tensor, to) else { return };
                *tensor = other;
                changed.push(n);
            }
        }
        if !evaluates(op, &sample) {
            return;
        }
        for n in &changed {
            self.operands.entry(*n).or_default().insert(to);
        }
        if changed.first() == Some(&0) {
            self.kernels(op, &sample, Some(to));
        }
    }

    fn kernels(&mut self, op: OpRef, sample: &Sample, dtype: Option<DType>) {
        // Kernels may want to know sizes and axes, which are constants then; others are looked at with none known.
        for constants in [false, true] {
            let Some((graph, id)) = graph_of(op, sample, constants) else { continue };
            if let Some(why) = cut::why_on_host(&graph, id) {
                self.host.insert(why);
                continue;
            }
            for target in TARGETS {
                for library in libraries(&graph, id, target) {
                    self.kernels.entry(target.driver).or_default().entry(library).or_default().extend(dtype);
                }
            }
        }
    }
}

fn converted(tensor: &Tensor, to: DType) -> Option<Tensor> {
    if tensor.dtype() == to {
        return Some(tensor.clone());
    }
    let shape = tensor.shape();
    if tensor.dtype() == DType::Str {
        let n = tensor.n_elements();
        return Tensor::from_f64s(to, shape, &(0..n).map(|v| v as f64).collect::<Vec<_>>());
    }
    let values = tensor.to_f64s();
    match to {
        DType::Str => {
            Tensor::from_strings(shape, &values.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        to => Tensor::from_f64s(to, shape, &values),
    }
}

/// Whether inference and evaluation take the sample.
fn evaluates(op: OpRef, sample: &Sample) -> bool {
    let typed: Vec<Option<(Type, Content)>> = sample
        .inputs
        .iter()
        .map(|t| t.as_ref().map(|t| (Type::known(t.dtype(), t.shape()), Content::Const(t.clone()))))
        .collect();
    let operands: Vec<Option<Operand>> =
        typed.iter().map(|o| o.as_ref().map(|(ty, c)| Operand { ty, content: Some(c) })).collect();
    let inputs: Vec<Option<&Tensor>> = sample.inputs.iter().map(Option::as_ref).collect();
    let ctx = EvalCtx { attrs: &sample.attrs, inputs: &inputs, n_outputs: sample.n_outputs };
    infer_op(op, &sample.attrs, &operands, sample.n_outputs).is_ok() && (op.eval)(&ctx).is_ok()
}

fn graph_of(op: OpRef, sample: &Sample, constants: bool) -> Option<(Graph, NodeId)> {
    let mut builder = Builder::new(op.name);
    let mut operands: Vec<Option<ValueId>> = Vec::new();
    for (n, tensor) in sample.inputs.iter().enumerate() {
        operands.push(tensor.as_ref().map(|t| {
            if constants && n > 0 && t.rank() <= 1 {
                builder.constant(&format!("x{n}"), t.clone())
            } else {
                builder.input(&format!("x{n}"), Type::known(t.dtype(), t.shape()))
            }
        }));
    }
    let names: Vec<String> = (0..sample.n_outputs.max(1)).map(|n| format!("y{n}")).collect();
    let results = builder.node("node", op, sample.attrs.clone(), &operands, &names).ok()?;
    results.iter().zip(&names).for_each(|(value, name)| builder.output(name, *value));
    let graph = builder.finish();
    let id = graph.producer(*results.first()?)?;
    Some((graph, id))
}

/// Libraries of the kernels that the node becomes on a device of this kind; `reference` is none.
fn libraries(graph: &Graph, id: NodeId, target: &Target) -> Vec<String> {
    let Ok(inference) = infer_graph(graph) else { return Vec::new() };
    let node = graph.node(id);
    let kind = if node.op.traits.reshapes { RegionKind::Reshape } else { RegionKind::Single };
    let region = Region {
        name: node.name.to_string(),
        kind,
        nodes: vec![id],
        anchor: None,
        inputs: graph.inputs().to_vec(),
        outputs: node.outputs.clone(),
    };
    let regions = Regions { list: vec![region], of_node: BTreeMap::from([(id, 0)]) };
    let ctx = Ctx {
        graph,
        inference: &inference,
        symbols: &|_| None,
        targets: &[*target],
        precision: Default::default(),
        strict: false,
        measured: &|_| None,
    };
    let Ok(lowered) = lower_regions(&ctx, &regions) else { return Vec::new() };
    let calls = lowered.into_iter().flat_map(|l| {
        let alias = (!l.aliases.is_empty()).then(|| "none needed".to_owned());
        l.calls.into_iter().map(|c| c.kernel.library).chain(alias).collect::<Vec<_>>()
    });
    calls.filter(|library| library != "reference").collect()
}
