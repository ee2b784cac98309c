//! From regions to calls: the table that says which library kernel an operator becomes.
//!
//! An operator without a row, or whose types and attributes do not fit the kernel, becomes the `reference` kernel:
//! nothing is refused because only a fast path is missing.

use crate::algorithm::{Measured, Sizes, rounding_pays};
use crate::call::{Arg, Call, Lowered, Target};
use crate::heads;
use crate::params::{KernelBuilder, SymbolIndex, exprs};
use crate::program::Chain;
use crate::reference;
use crate::rotary::rotary;
use crate::windows::Windows;
use partita_ir::builder::Inference;
use partita_ir::diag::Diag;
use partita_ir::graph::Node;
use partita_ir::types::Content;
use partita_ir::{Dim, Graph, NodeId, Region, RegionKind, Regions, ValueId};
use partita_plan::{ElementType, Kernel, TileProgram};
use std::collections::{BTreeMap, BTreeSet};

/// What lowering may look at.
pub struct Ctx<'a> {
    pub graph: &'a Graph,
    pub inference: &'a Inference,
    pub symbols: SymbolIndex<'a>,
    /// What the devices of the machine can run.
    pub targets: &'a [Target],
    pub precision: Precision,
    /// Whether sums keep the order and the products their definition has: no transforms.
    pub strict: bool,
    /// What ways to compute were measured.
    pub measured: Measured<'a>,
}

/// What products and convolutions with constant weights multiply; sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    #[default]
    F32,
    /// Both operands rounded to bfloat16: weights when the plan is made, data when it is read.
    Bf16,
}

impl Ctx<'_> {
    /// Notes in `builder` that the kernel multiplies in a lower precision than its operands have.
    fn rounding(&self, builder: KernelBuilder, weight: Option<ValueId>) -> KernelBuilder {
        let constant = weight.is_some_and(|w| self.graph.as_const(w).is_some());
        if self.precision == Precision::Bf16 && constant {
            builder.string("precision", "bf16")
        } else {
            builder
        }
    }

    /// The call, if some device can run it.
    fn runnable(&self, call: Call) -> Option<Call> {
        let types = |v: ValueId| self.graph.ty(v);
        self.targets.iter().any(|t| call.runs_on(t, &types)).then_some(call)
    }
}

/// The kernel of one node and its own operands; results are the node's.
struct Own {
    builder: KernelBuilder,
    operands: Vec<Option<Arg>>,
    /// Shape in which the kernel sees the first result, when not its own.
    view: Option<Vec<Dim>>,
    /// Arithmetic on the result that belongs to the operator itself: (alpha, beta, c).
    affine: Option<(f32, f32, Option<ValueId>)>,
}

impl Own {
    fn new(builder: KernelBuilder, node: &Node) -> Self {
        Self {
            builder,
            operands: node.inputs.iter().map(|v| v.map(Arg::of)).collect(),
            view: None,
            affine: None,
        }
    }
}

type LowerFn = fn(&Ctx, &Node) -> Option<Own>;

/// Operators with a library kernel. The second column says whether the kernel takes an epilogue.
const TABLE: &[(&str, bool, LowerFn)] = &[
    ("average_pool", false, pool),
    ("concat", false, concat),
    ("constant_of_shape", false, constant_of_shape),
    ("conv", true, conv),
    ("conv_transpose", true, conv_transpose),
    ("dropout", false, copy),
    ("expand", false, expand),
    ("gather", false, gather),
    ("gemm", true, gemm),
    ("global_average_pool", false, global_pool),
    ("global_max_pool", false, global_pool),
    ("identity", false, copy),
    ("layer_norm", false, layer_norm),
    ("log_softmax", false, softmax),
    ("matmul", true, matmul),
    ("matmul_n_bits", true, matmul_n_bits),
    ("max_pool", false, pool),
    ("pad", false, pad),
    ("quantized_conv", true, quantized_conv),
    ("quantized_matmul", true, quantized_matmul),
    ("reduce_l1", false, reduce),
    ("reduce_l2", false, reduce),
    ("reduce_log_sum", false, reduce),
    ("reduce_log_sum_exp", false, reduce),
    ("reduce_max", false, reduce),
    ("reduce_mean", false, reduce),
    ("reduce_min", false, reduce),
    ("reduce_prod", false, reduce),
    ("reduce_sum", false, reduce),
    ("reduce_sum_square", false, reduce),
    ("rms_norm", false, layer_norm),
    ("slice", false, slice),
    ("softmax", false, softmax),
    ("split", false, split),
    ("transpose", false, transpose),
];

/// Whether an operator's kernel takes an elementwise epilogue.
pub fn takes_epilogue(op: &str) -> bool {
    TABLE.iter().any(|(name, epilogue, _)| *name == op && *epilogue)
}

/// Lowers every region.
///
/// # Errors
/// `C001` for a node whose attributes hold a symbol that no input binds.
pub fn lower_regions(ctx: &Ctx, regions: &Regions) -> Result<Vec<Lowered>, Vec<Diag>> {
    let mut errors = Vec::new();
    let lowered =
        regions.list.iter().map(|r| lower_region(ctx, r).map_err(|e| errors.push(e)).unwrap_or_default());
    let mut lowered: Vec<Lowered> = lowered.collect();
    drop_unread(ctx.graph, &mut lowered);
    if errors.is_empty() { Ok(lowered) } else { Err(errors) }
}

/// Drops calls that kernels with views of their own made needless: those whose results another call gives already, and
/// those whose results nobody reads.
fn drop_unread(graph: &Graph, lowered: &mut [Lowered]) {
    let taken: BTreeSet<ValueId> = heads::results_of_others(graph, lowered);
    let aliases: BTreeMap<ValueId, ValueId> =
        lowered.iter().flat_map(|l| l.aliases.iter().copied()).collect();
    let root = |mut value: ValueId| {
        while let Some(next) = aliases.get(&value) {
            value = *next;
        }
        value
    };
    let mut read: BTreeSet<ValueId> = graph.outputs().map(|(_, v)| root(v)).collect();
    for lowered in lowered.iter_mut().rev() {
        for call in std::mem::take(&mut lowered.calls).into_iter().rev() {
            let double =
                call.kernel.library != "attention" && call.results.iter().any(|r| taken.contains(&r.value));
            if !double && call.results.iter().any(|r| read.contains(&r.value)) {
                read.extend(call.operands.iter().flatten().map(|arg| root(arg.value)));
                lowered.calls.insert(0, call);
            }
        }
    }
}

fn lower_region(ctx: &Ctx, region: &Region) -> Result<Lowered, Diag> {
    match region.kind {
        RegionKind::Reshape => {
            let node = ctx.graph.node(region.nodes[0]);
            match node.inputs.first().copied().flatten() {
                Some(source) => Ok(Lowered { calls: Vec::new(), aliases: vec![(node.outputs[0], source)] }),
                None => one_by_one(ctx, &region.nodes),
            }
        }
        RegionKind::Elementwise => match elementwise(ctx, &region.nodes) {
            Some(call) => Ok(Lowered { calls: vec![call], aliases: Vec::new() }),
            None => one_by_one(ctx, &region.nodes),
        },
        RegionKind::Anchor => match region.anchor.and_then(|a| anchored(ctx, region, a)) {
            Some(calls) => Ok(Lowered { calls, aliases: Vec::new() }),
            None => one_by_one(ctx, &region.nodes),
        },
        RegionKind::Single => one_by_one(ctx, &region.nodes),
    }
}

/// A group of elementwise nodes as one call.
fn elementwise(ctx: &Ctx, nodes: &[NodeId]) -> Option<Call> {
    let runnable = |call| ctx.runnable(call);
    rotary(ctx, nodes).and_then(runnable).or_else(|| tile(ctx, nodes).and_then(runnable))
}

/// Every node by itself: the general way.
fn one_by_one(ctx: &Ctx, nodes: &[NodeId]) -> Result<Lowered, Diag> {
    let calls = nodes.iter().map(|id| single(ctx, *id)).collect::<Result<Vec<_>, Diag>>()?;
    Ok(Lowered { calls, aliases: Vec::new() })
}

fn single(ctx: &Ctx, id: NodeId) -> Result<Call, Diag> {
    let node = ctx.graph.node(id);
    let runnable = |c| ctx.runnable(c);
    sizes(ctx, node)
        .and_then(runnable)
        .or_else(|| tile(ctx, &[id]).and_then(runnable))
        .or_else(|| library(ctx, id).and_then(runnable))
        .or_else(|| heads::attention(ctx, node).and_then(runnable))
        .or_else(|| batch_norm(ctx, node).and_then(runnable))
        .map_or_else(|| by_reference(ctx, node), Ok)
}

/// A result whose elements are dims needs no operands at all.
fn sizes(ctx: &Ctx, node: &Node) -> Option<Call> {
    let [output] = node.outputs.as_slice() else { return None };
    let dims = match ctx.inference.contents.get(output.index())?.as_ref()? {
        Content::Dims(dims) => dims.clone(),
        content @ Content::Const(_) => content.as_dims()?,
    };
    let kernel = KernelBuilder::new("dims").dims("values", exprs(&dims, ctx.symbols)?).finish();
    Some(Call { kernel, operands: Vec::new(), results: vec![Arg::of(*output)] })
}

fn by_reference(ctx: &Ctx, node: &Node) -> Result<Call, Diag> {
    let kernel = reference::kernel(node.op, &node.attrs, ctx.symbols).ok_or_else(|| {
        Diag::new("C001", "an attribute holds a symbol that no input binds")
            .at_node(format!("{} ({})", node.name, node.op.name))
            .hint("fix the symbol with --dim NAME=N")
    })?;
    let operands = node.inputs.iter().map(|v| v.map(Arg::of)).collect();
    Ok(Call { kernel, operands, results: node.outputs.iter().copied().map(Arg::of).collect() })
}

/// A chain of elementwise nodes as one tile program; `None` when one of them has no tile form.
fn tile(ctx: &Ctx, nodes: &[NodeId]) -> Option<Call> {
    let mut chain = Chain::new(ctx);
    let mut last = None;
    for (n, id) in nodes.iter().enumerate() {
        last = Some(chain.node(*id, n + 1 == nodes.len())?);
    }
    let output = *ctx.graph.node(*nodes.last()?).outputs.first()?;
    let (program, operands) = chain.finish(last?);
    let kernel = KernelBuilder::new("tile").program(program).finish();
    Some(Call { kernel, operands: operands.into_iter().map(Some).collect(), results: vec![Arg::of(output)] })
}

fn row(op: &str) -> Option<&'static (&'static str, bool, LowerFn)> {
    TABLE.iter().find(|(name, _, _)| *name == op)
}

fn library(ctx: &Ctx, id: NodeId) -> Option<Call> {
    let node = ctx.graph.node(id);
    let own = row(node.op.name)?.2(ctx, node)?;
    let results = node.outputs.iter().copied().map(Arg::of).collect();
    finish(ctx, node, own, &[], results)
}

/// An anchor with the elementwise nodes behind it: as its epilogue, as far as a device has that, the others as a tile
/// program.
fn anchored(ctx: &Ctx, region: &Region, anchor: NodeId) -> Option<Vec<Call>> {
    let node = ctx.graph.node(anchor);
    let (_, epilogue, lower) = row(node.op.name)?;
    let rest: Vec<NodeId> = region.nodes.iter().copied().filter(|n| *n != anchor).collect();
    if !epilogue && !rest.is_empty() {
        return None;
    }
    let behind = behind(ctx, anchor, &rest);
    (0..=behind.len()).rev().find_map(|cut| {
        let (first, others) = split_at(ctx, &rest, &behind[..cut]);
        let output = first.last().map_or(anchor, |_| behind[cut - 1]);
        let results = vec![Arg::of(ctx.graph.node(output).outputs[0])];
        let call = finish(ctx, node, lower(ctx, node)?, &first, results).and_then(|c| ctx.runnable(c))?;
        if others.is_empty() {
            return Some(vec![call]);
        }
        let tile = tile(ctx, &others).and_then(|c| ctx.runnable(c))?;
        Some(vec![call, tile])
    })
}

/// Those of `nodes` that depend on the anchor, in order; the others make operands for them.
fn behind(ctx: &Ctx, anchor: NodeId, nodes: &[NodeId]) -> Vec<NodeId> {
    let mut behind = vec![anchor];
    for &id in nodes {
        let mut producers = ctx.graph.node(id).inputs.iter().flatten().filter_map(|v| ctx.graph.producer(*v));
        if producers.any(|p| behind.contains(&p)) {
            behind.push(id);
        }
    }
    behind.split_off(1)
}

/// Cuts `nodes` into those that compute `chosen` and the others.
fn split_at(ctx: &Ctx, nodes: &[NodeId], chosen: &[NodeId]) -> (Vec<NodeId>, Vec<NodeId>) {
    let mut wanted: Vec<NodeId> = chosen.to_vec();
    for &id in nodes.iter().rev() {
        let output = ctx.graph.node(id).outputs[0];
        let serves = wanted.iter().any(|w| ctx.graph.node(*w).inputs.contains(&Some(output)));
        if serves && !wanted.contains(&id) {
            wanted.push(id);
        }
    }
    nodes.iter().partition(|id| wanted.contains(id))
}

/// Adds the affine part and the epilogue program to a kernel's own operands.
fn finish(ctx: &Ctx, node: &Node, own: Own, rest: &[NodeId], mut results: Vec<Arg>) -> Option<Call> {
    let Own { mut builder, mut operands, view, affine } = own;
    let (takes, n_own) = (takes_epilogue(node.op.name), operands.len());
    if takes {
        builder = builder.int("n_own", n_own as i64);
    }
    if affine.is_some() || !rest.is_empty() {
        let (program, more) = epilogue(ctx, node, affine, rest)?;
        builder = builder.program(program);
        operands.extend(more.into_iter().map(Some));
    }
    if view.is_some() {
        results[0].view = view;
    }
    if builder.is_of_integers() && !fits_columns(ctx, &operands[n_own..], results[0].value) {
        return None;
    }
    Some(Call { kernel: builder.finish(), operands, results })
}

/// Whether every operand has one value for each column of the result, or one for each of its elements.
fn fits_columns(ctx: &Ctx, operands: &[Option<Arg>], result: ValueId) -> bool {
    let shape = &ctx.graph.ty(result).shape;
    operands.iter().flatten().all(|arg| {
        let own = &ctx.graph.ty(arg.value).shape;
        let leading = own.len().saturating_sub(1);
        own == shape || (own.last() == shape.last() && own[..leading].iter().all(|d| d.is(1)))
    })
}

fn epilogue(
    ctx: &Ctx,
    node: &Node,
    affine: Option<(f32, f32, Option<ValueId>)>,
    rest: &[NodeId],
) -> Option<(TileProgram, Vec<Arg>)> {
    let mut chain = Chain::new(ctx);
    let value = node.outputs[0];
    let mut last = chain.accumulator(value, ctx.graph.ty(value).dtype);
    if let Some((alpha, beta, c)) = affine {
        let c = match c {
            Some(c) if beta != 0.0 => Some(chain.read(&Arg::of(c))?),
            _ => None,
        };
        let b = chain.builder();
        if alpha != 1.0 {
            let alpha = b.float(f64::from(alpha));
            last = b.binary(partita_plan::tile::TileOp::Mul, last, alpha);
        }
        if let Some(mut c) = c {
            if beta != 1.0 {
                let beta = b.float(f64::from(beta));
                c = b.binary(partita_plan::tile::TileOp::Mul, c, beta);
            }
            last = b.binary(partita_plan::tile::TileOp::Add, last, c);
        }
        chain.define(value, last);
    }
    for (n, id) in rest.iter().enumerate() {
        last = chain.node(*id, n + 1 == rest.len())?;
    }
    Some(chain.finish(last))
}

fn rank(ctx: &Ctx, value: Option<ValueId>) -> usize {
    value.map_or(0, |v| ctx.graph.ty(v).rank())
}

/// An axis attribute counted from the front.
fn axis(node: &Node, rank: usize, default: i64) -> Option<usize> {
    let axis = node.attrs.int_or("axis", default);
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|a| *a < rank)
}

/// Integers that are an attribute or the known content of an operand.
fn ints(ctx: &Ctx, node: &Node, name: &str, operand: usize) -> Option<Vec<i64>> {
    dims(ctx, node, name, operand)?.iter().map(Dim::as_known).collect()
}

fn dims(ctx: &Ctx, node: &Node, name: &str, operand: usize) -> Option<Vec<Dim>> {
    node.attrs.dims(name).or_else(|| {
        let value = node.inputs.get(operand).copied().flatten()?;
        ctx.inference.contents[value.index()].as_ref()?.as_dims()
    })
}

/// Whether operand `n` was given.
fn has(node: &Node, n: usize) -> bool {
    node.inputs.get(n).is_some_and(Option::is_some)
}

fn gemm(ctx: &Ctx, node: &Node) -> Option<Own> {
    let flag = |name| i64::from(node.attrs.flag(name));
    let builder = KernelBuilder::new("gemm").int("trans_a", flag("trans_a")).int("trans_b", flag("trans_b"));
    let builder = ctx.rounding(builder, node.inputs[1]);
    let mut own = Own::new(builder, node);
    own.operands.truncate(2);
    let c = node.inputs.get(2).copied().flatten();
    let (alpha, beta) = (node.attrs.float_or("alpha", 1.0), node.attrs.float_or("beta", 1.0));
    own.affine = (alpha != 1.0 || c.is_some()).then_some((alpha, beta, c));
    Some(own)
}

fn matmul(ctx: &Ctx, node: &Node) -> Option<Own> {
    let builder = KernelBuilder::new("gemm").int("trans_a", 0).int("trans_b", 0);
    let mut own = Own::new(ctx.rounding(builder, node.inputs[1]), node);
    let shape = |n: usize| node.inputs[n].map(|v| ctx.graph.ty(v).shape.clone());
    let (a, b) = (shape(0)?, shape(1)?);
    let mut out = ctx.graph.ty(node.outputs[0]).shape.clone();
    // A vector is a matrix of one row or column for the kernel.
    if a.len() == 1 {
        own.operands[0].as_mut()?.view = Some(vec![1.into(), a[0].clone()]);
        out.insert(if b.len() == 1 { 0 } else { out.len() - 1 }, 1.into());
        own.view = Some(out.clone());
    }
    if b.len() == 1 {
        own.operands[1].as_mut()?.view = Some(vec![b[0].clone(), 1.into()]);
        out.push(1.into());
        own.view = Some(out);
    }
    Some(own)
}

/// Weights of few bits: constant, blocks in order, zero points of as many bits.
fn matmul_n_bits(ctx: &Ctx, node: &Node) -> Option<Own> {
    let size = |name: &str| node.attrs.int(name);
    let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
    let constant = |v: &Option<ValueId>| v.is_none_or(|v| ctx.graph.as_const(v).is_some());
    if !node.inputs.get(1..4.min(node.inputs.len()))?.iter().all(constant) || has(node, 4) {
        return None;
    }
    let builder = KernelBuilder::new("gemm_n_bits")
        .int("k", k)
        .int("n", n)
        .int("bits", node.attrs.int_or("bits", 4))
        .int("block", block);
    let mut own = Own::new(builder, node);
    own.operands.truncate(if has(node, 3) { 4 } else { 3 });
    own.affine = node.inputs.get(5).copied().flatten().map(|bias| (1.0, 1.0, Some(bias)));
    Some(own)
}

fn quantized_matmul(ctx: &Ctx, node: &Node) -> Option<Own> {
    let matrices = [0, 3].iter().all(|&n| rank(ctx, node.inputs[n]) >= 2);
    let builder = KernelBuilder::new("gemm_int").int("trans_b", i64::from(node.attrs.flag("trans_b")));
    matrices.then(|| Own::new(builder, node))
}

/// The weight must be constant and lie around zero.
fn quantized_conv(ctx: &Ctx, node: &Node) -> Option<Own> {
    let constant = |n: usize| ctx.graph.as_const(node.inputs.get(n).copied().flatten()?);
    let centred = constant(5)?.to_f64s().iter().all(|z| *z == 0.0) && constant(3).is_some();
    let kernel =
        ctx.graph.ty(node.inputs[3]?).shape.get(2..)?.iter().map(Dim::as_known).collect::<Option<_>>()?;
    let windows = Windows::new(&node.attrs, kernel, &spatial(ctx, node)?)?;
    let builder = windowed("conv_int", &windows, node).int("group", node.attrs.int_or("group", 1));
    centred.then(|| Own::new(builder, node))
}

fn spatial(ctx: &Ctx, node: &Node) -> Option<Vec<Option<i64>>> {
    let shape = &ctx.graph.ty(node.inputs[0]?).shape;
    let axes = if layout_of(node) == "nhwc" { 1..shape.len().checked_sub(1)? } else { 2..shape.len() };
    Some(shape.get(axes)?.iter().map(Dim::as_known).collect())
}

/// Where data and result have their channels.
fn layout_of(node: &Node) -> &str {
    node.attrs.str("layout").unwrap_or("nchw")
}

/// The kernel with the parameters that every window has.
fn windowed(library: &str, windows: &Windows, node: &Node) -> KernelBuilder {
    let builder = windows.params(KernelBuilder::new(library));
    match layout_of(node) {
        "nchw" => builder,
        layout => builder.string("layout", layout),
    }
}

fn weight_kernel(ctx: &Ctx, node: &Node) -> Option<Vec<i64>> {
    ctx.graph.ty(node.inputs[1]?).shape.get(2..)?.iter().map(Dim::as_known).collect()
}

fn conv(ctx: &Ctx, node: &Node) -> Option<Own> {
    let windows = Windows::new(&node.attrs, weight_kernel(ctx, node)?, &spatial(ctx, node)?)?;
    let builder = windowed("conv", &windows, node).int("group", node.attrs.int_or("group", 1));
    let builder = match algorithm(ctx, node, &windows) {
        Some(name) => builder.string("algorithm", name),
        None => builder,
    };
    let rounds = layout_of(node) != "nchw" && rounding_pays_for(ctx, node);
    let builder = if rounds { ctx.rounding(builder, node.inputs[1]) } else { builder };
    Some(Own::new(builder, node))
}

/// Whether a convolution is faster in bfloat16.
fn rounding_pays_for(ctx: &Ctx, node: &Node) -> bool {
    let known = |dim: &Dim| dim.as_known().and_then(|v| usize::try_from(v).ok());
    let shape = node.inputs[1].map(|w| ctx.graph.ty(w).shape.iter().map(known).collect::<Option<Vec<_>>>());
    let Some(Some([outputs, inputs, kernel @ ..])) = shape.as_ref().map(|s| s.as_deref()) else {
        return false;
    };
    let (taps, groups) = (kernel.iter().product(), node.attrs.int_or("group", 1).max(1) as usize);
    rounding_pays(inputs * taps, taps, outputs / groups)
}

/// How to compute a convolution, when there is a choice: one that may be transformed, with a constant weight.
fn algorithm(ctx: &Ctx, node: &Node, windows: &Windows) -> Option<&'static str> {
    let weight = node.inputs[1]?;
    let plain = windows.kernel == [3, 3]
        && windows.strides == [1, 1]
        && windows.dilations == [1, 1]
        && node.attrs.int_or("group", 1) == 1;
    let (w, y) = (ctx.graph.ty(weight), ctx.graph.ty(node.outputs[0]));
    let constant = ctx.graph.as_const(weight).is_some() && w.dtype == ElementType::F32;
    if ctx.strict || !plain || !constant || layout_of(node) != "nhwc" {
        return None;
    }
    let known = |dim: &Dim| dim.as_known().and_then(|v| usize::try_from(v).ok());
    let [images, height, width, _] = y.shape.as_slice() else { return None };
    let sizes = Sizes {
        images: known(images).unwrap_or(1),
        height: known(height)?,
        width: known(width)?,
        inputs: known(&w.shape[1])?,
        outputs: known(&w.shape[0])?,
    };
    // What gains nothing from rounding is computed in f32, and chosen as such.
    let rounds = ctx.precision == Precision::Bf16 && rounding_pays_for(ctx, node);
    Some(sizes.algorithm(if rounds { Precision::Bf16 } else { Precision::F32 }, ctx.measured))
}

fn conv_transpose(ctx: &Ctx, node: &Node) -> Option<Own> {
    // Forms that derive pads from a wanted output size go the general way.
    if node.attrs.get("output_shape").is_some() || node.attrs.str("auto_pad").unwrap_or("NOTSET") != "NOTSET"
    {
        return None;
    }
    let windows = Windows::new(&node.attrs, weight_kernel(ctx, node)?, &spatial(ctx, node)?)?;
    let n = windows.kernel.len();
    let extra = node.attrs.ints("output_padding").unwrap_or_else(|| vec![0; n]);
    let builder = windowed("conv_transpose", &windows, node).ints("output_padding", &extra);
    Some(Own::new(builder.int("group", node.attrs.int_or("group", 1)), node))
}

fn pool(ctx: &Ctx, node: &Node) -> Option<Own> {
    if node.outputs.len() != 1 {
        return None;
    }
    let windows = Windows::new(&node.attrs, node.attrs.ints("kernel_shape")?, &spatial(ctx, node)?)?;
    let mode = if node.op.name == "max_pool" { "max" } else { "avg" };
    let builder = windowed("pool", &windows, node)
        .ints("kernel", &windows.kernel)
        .string("mode", mode)
        .int("count_include_pad", i64::from(node.attrs.flag("count_include_pad")));
    Some(Own::new(builder, node))
}

fn global_pool(ctx: &Ctx, node: &Node) -> Option<Own> {
    let axes: Vec<i64> = (2..rank(ctx, node.inputs[0]) as i64).collect();
    let mode = if node.op.name == "global_max_pool" { "max" } else { "mean" };
    Some(Own::new(KernelBuilder::new("reduce").string("mode", mode).ints("axes", &axes), node))
}

fn reduce(ctx: &Ctx, node: &Node) -> Option<Own> {
    let rank = rank(ctx, node.inputs[0]) as i64;
    let given = if node.attrs.get("axes").is_some() || has(node, 1) {
        ints(ctx, node, "axes", 1)?
    } else {
        Vec::new()
    };
    let axes: Vec<i64> = match given.as_slice() {
        [] if node.attrs.flag("noop_with_empty_axes") => return None,
        [] => (0..rank).collect(),
        axes => axes.iter().map(|a| if *a < 0 { a + rank } else { *a }).collect(),
    };
    // What a reduction over nothing gives is a matter of its definition.
    let shape = &ctx.graph.ty(node.inputs[0]?).shape;
    if shape.iter().any(|d| d.is(0)) {
        return None;
    }
    let mode = node.op.name.strip_prefix("reduce_")?;
    let mut own = Own::new(KernelBuilder::new("reduce").string("mode", mode).ints("axes", &axes), node);
    own.operands.truncate(1);
    Some(own)
}

fn softmax(ctx: &Ctx, node: &Node) -> Option<Own> {
    let axis = axis(node, rank(ctx, node.inputs[0]), -1)?;
    let log = i64::from(node.op.name == "log_softmax");
    Some(Own::new(KernelBuilder::new("softmax").int("axis", axis as i64).int("log", log), node))
}

fn layer_norm(ctx: &Ctx, node: &Node) -> Option<Own> {
    let mut dtypes = node.inputs.iter().flatten().map(|v| ctx.graph.ty(*v).dtype);
    let first = dtypes.next()?;
    if node.outputs.len() != 1 || dtypes.any(|other| other != first) {
        return None;
    }
    let axis = axis(node, rank(ctx, node.inputs[0]), -1)?;
    let epsilon = f64::from(node.attrs.float_or("epsilon", 1e-5));
    let rms = i64::from(node.op.name == "rms_norm");
    let builder =
        KernelBuilder::new("layer_norm").int("axis", axis as i64).float("epsilon", epsilon).int("rms", rms);
    Some(Own::new(builder, node))
}

fn transpose(ctx: &Ctx, node: &Node) -> Option<Own> {
    let rank = rank(ctx, node.inputs[0]) as i64;
    let perm = node.attrs.ints("perm").unwrap_or_else(|| (0..rank).rev().collect());
    Some(Own::new(KernelBuilder::new("transpose").ints("perm", &perm), node))
}

fn slice(ctx: &Ctx, node: &Node) -> Option<Own> {
    let (starts, steps) = slice_range(ctx, node)?;
    let builder = KernelBuilder::new("slice")
        .dims("starts", exprs(&starts, ctx.symbols)?)
        .dims("steps", exprs(&steps, ctx.symbols)?);
    let mut own = Own::new(builder, node);
    own.operands.truncate(1);
    Some(own)
}

/// First index and step of a slice along every axis.
pub(crate) fn slice_range(ctx: &Ctx, node: &Node) -> Option<(Vec<Dim>, Vec<Dim>)> {
    let shape = &ctx.graph.ty(node.inputs[0]?).shape;
    let given = dims(ctx, node, "starts", 1)?;
    let axes = match node.attrs.get("axes").is_some() || has(node, 3) {
        true => ints(ctx, node, "axes", 3)?,
        false => (0..given.len() as i64).collect(),
    };
    let given_steps = match node.attrs.get("steps").is_some() || has(node, 4) {
        true => ints(ctx, node, "steps", 4)?,
        false => vec![1; given.len()],
    };
    let mut starts = vec![Dim::known(0); shape.len()];
    let mut steps = vec![Dim::known(1); shape.len()];
    for ((start, axis), step) in given.iter().zip(axes).zip(given_steps) {
        let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis })
            .ok()
            .filter(|a| *a < shape.len())?;
        starts[axis] = first_index(start, &shape[axis], step)?;
        steps[axis] = step.into();
    }
    Some((starts, steps))
}

/// The first index of a slice, clamped as ONNX says; `None` when the sign of a symbolic start is unknown.
fn first_index(start: &Dim, size: &Dim, step: i64) -> Option<Dim> {
    let highest = if step < 0 { size.clone() - 1.into() } else { size.clone() };
    let from_front = match start.as_known() {
        Some(s) if s < 0 => (size.clone() + start.clone()).larger(&0.into()),
        Some(_) => start.clone(),
        // A symbolic start is a size: not negative.
        None if start.terms().all(|(_, c)| c > 0) => start.clone(),
        None => return None,
    };
    Some(from_front.smaller(&highest))
}

fn expand(_: &Ctx, node: &Node) -> Option<Own> {
    let mut own = Own::new(KernelBuilder::new("expand"), node);
    own.operands.truncate(1);
    Some(own)
}

fn concat(ctx: &Ctx, node: &Node) -> Option<Own> {
    let axis = axis(node, rank(ctx, node.inputs[0]), 0)?;
    Some(Own::new(KernelBuilder::new("concat").int("axis", axis as i64), node))
}

fn split(ctx: &Ctx, node: &Node) -> Option<Own> {
    let axis = axis(node, rank(ctx, node.inputs[0]), 0)?;
    let mut own = Own::new(KernelBuilder::new("split").int("axis", axis as i64), node);
    own.operands.truncate(1);
    Some(own)
}

fn pad(ctx: &Ctx, node: &Node) -> Option<Own> {
    let rank = rank(ctx, node.inputs[0]);
    let given = dims(ctx, node, "pads", 1)?;
    let axes = match node.attrs.get("axes").is_some() || has(node, 3) {
        true => ints(ctx, node, "axes", 3)?,
        false => (0..rank as i64).collect(),
    };
    if given.len() != 2 * axes.len() {
        return None;
    }
    let mut pads = vec![Dim::known(0); 2 * rank];
    for (n, axis) in axes.iter().enumerate() {
        let axis =
            usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).ok().filter(|a| *a < rank)?;
        pads[axis] = given[n].clone();
        pads[rank + axis] = given[axes.len() + n].clone();
    }
    let mode = node.attrs.str("mode").unwrap_or("constant");
    let value = f64::from(node.attrs.float_or("value", 0.0));
    let builder = KernelBuilder::new("pad")
        .dims("pads", exprs(&pads, ctx.symbols)?)
        .string("mode", mode)
        .float("value", value);
    let mut own = Own::new(builder, node);
    let fill = own.operands.get(2).cloned().flatten();
    own.operands.truncate(1);
    own.operands.extend(fill.map(Some));
    Some(own)
}

fn gather(ctx: &Ctx, node: &Node) -> Option<Own> {
    let axis = axis(node, rank(ctx, node.inputs[0]), 0)?;
    Some(Own::new(KernelBuilder::new("gather").int("axis", axis as i64), node))
}

/// The operand as it is. In training mode (a third operand, or the attribute) dropout is not that.
fn copy(_: &Ctx, node: &Node) -> Option<Own> {
    if node.attrs.flag("training_mode") || node.inputs.get(2).is_some_and(Option::is_some) {
        return None;
    }
    let mut own = Own::new(KernelBuilder::new("copy"), node);
    own.operands.truncate(1);
    (node.outputs.len() == 1).then_some(own)
}

fn constant_of_shape(_: &Ctx, node: &Node) -> Option<Own> {
    let builder = KernelBuilder::new("fill");
    let builder = match node.attrs.tensor("value") {
        Some(t) if t.dtype().is_float() => builder.float("value", t.to_scalar_f64()?),
        Some(t) => builder.int("int", *t.to_i64s().first()?),
        None => builder.float("value", 0.0),
    };
    let mut own = Own::new(builder, node);
    own.operands.clear();
    Some(own)
}

/// Normalisation with fixed statistics that could not be folded into a convolution: one tile program over
/// per-channel vectors.
fn batch_norm(ctx: &Ctx, node: &Node) -> Option<Call> {
    use partita_plan::tile::TileOp;
    if node.op.name != "batch_norm" || node.outputs.len() != 1 || node.attrs.flag("training_mode") {
        return None;
    }
    let x = node.inputs[0]?;
    let trailing = rank(ctx, Some(x)).checked_sub(2)?;
    let mut chain = Chain::new(ctx);
    let x = chain.read(&Arg::of(x))?;
    let mut channel = Vec::new();
    for value in &node.inputs[1..5] {
        let value = (*value)?;
        let mut view = ctx.graph.ty(value).shape.clone();
        view.extend(std::iter::repeat_n(Dim::known(1), trailing));
        channel.push(chain.read(&Arg { value, view: Some(view) })?);
    }
    let [scale, bias, mean, var] = channel.try_into().ok()?;
    let epsilon = f64::from(node.attrs.float_or("epsilon", 1e-5));
    let b = chain.builder();
    let epsilon = b.float(epsilon);
    let var = b.binary(TileOp::Add, var, epsilon);
    let deviation = b.unary(TileOp::Sqrt, var);
    let factor = b.binary(TileOp::Div, scale, deviation);
    let centred = b.binary(TileOp::Sub, x, mean);
    let y = b.mul_add(centred, factor, bias);
    let (program, operands) = chain.finish(y);
    let kernel: Kernel = KernelBuilder::new("tile").program(program).finish();
    Some(Call {
        kernel,
        operands: operands.into_iter().map(Some).collect(),
        results: vec![Arg::of(node.outputs[0])],
    })
}
