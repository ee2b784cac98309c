//! How each operator works on permuted values: a table of what it becomes.

use super::perm;
use super::walk::{Walk, op, transposed};
use partita_ir::diag::Diag;
use partita_ir::graph::Node;
use partita_ir::{Attr, Attrs, DType, Dim, NodeId, Tensor, ValueId};
use partita_ops::channels_last::{to_last, to_second};

/// Input channels up to which a first convolution reads its data as it comes.
const FEW_CHANNELS: i64 = 8;

/// Writes the node for permuted operands; false when it has to see the plain ones.
type Carry = fn(&mut Walk, NodeId) -> Result<bool, Diag>;

const TABLE: &[(&str, Carry)] = &[
    ("arg_max", arg),
    ("arg_min", arg),
    ("average_pool", pool),
    ("batch_norm", batch_norm),
    ("concat", concat),
    ("conv", conv),
    ("conv_transpose", conv_transpose),
    ("depth_to_space", depth_to_space),
    ("dequantize_linear", quantized),
    ("global_average_pool", global_pool),
    ("global_max_pool", global_pool),
    ("hardmax", along_axis),
    ("log_softmax", along_axis),
    ("max_pool", pool),
    ("pad", pad),
    ("quantize_linear", quantized),
    ("quantized_conv", conv),
    ("reduce_l1", reduce),
    ("reduce_l2", reduce),
    ("reduce_log_sum", reduce),
    ("reduce_log_sum_exp", reduce),
    ("reduce_max", reduce),
    ("reduce_mean", reduce),
    ("reduce_min", reduce),
    ("reduce_prod", reduce),
    ("reduce_sum", reduce),
    ("reduce_sum_square", reduce),
    ("resize", resize),
    ("slice", slice),
    ("softmax", along_axis),
    ("split", split),
    ("transpose", transpose),
    ("upsample", upsample),
];

/// Writes the node for permuted operands, if it can be and is worth it.
///
/// # Errors
/// What inference says about the new node.
pub(super) fn carry(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    if node.inputs.iter().flatten().chain(&node.outputs).any(|v| !walk.ty(*v).is_tensor()) {
        return Ok(false);
    }
    if let Some((_, carry)) = TABLE.iter().find(|(name, _)| *name == node.op.name) {
        return carry(walk, id);
    }
    if node.op.traits.elementwise {
        return elementwise(walk, id);
    }
    if node.op.traits.reshapes { reshape(walk, id) } else { Ok(false) }
}

/// The first operand and how it is permuted, for operators that work on one tensor.
fn data(walk: &Walk, node: &Node) -> Option<(ValueId, Vec<usize>)> {
    let x = node.inputs.first().copied().flatten()?;
    Some((x, walk.moved(x)?.perm.clone()))
}

/// An axis attribute counted from the front.
fn axis(attrs: &Attrs, rank: usize, default: i64) -> Option<usize> {
    wrap(attrs.int_or("axis", default), rank)
}

fn wrap(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}

/// Where plain axes are in the permuted tensor.
fn places(axes: &[usize], perm: &[usize]) -> Vec<i64> {
    let place = perm::inverse(perm);
    axes.iter().map(|&a| place[a] as i64).collect()
}

/// Axes that an attribute lists, else `default`; `None` when one is out of range.
fn axes(attrs: &Attrs, rank: usize, default: Vec<usize>) -> Option<Vec<usize>> {
    match attrs.ints("axes") {
        Some(axes) => axes.into_iter().map(|a| wrap(a, rank)).collect(),
        None => (attrs.get("axes").is_none()).then_some(default),
    }
}

/// Whether operands `from..` were omitted, so that attributes say all.
fn only(node: &Node, n: usize) -> bool {
    node.inputs.iter().skip(n).all(Option::is_none)
}

/// The node with other attributes on its permuted first operand; other operands as they are.
fn on_data(walk: &mut Walk, id: NodeId, x: ValueId, perm: &[usize], attrs: Attrs) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let mut inputs = vec![Some(walk.moved_as(x, perm)?)];
    inputs.extend(walk.all_plain(&node.inputs[1..])?);
    walk.carried(node, node.op, attrs, &inputs, perm)?;
    Ok(true)
}

fn conv(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some(x) = convolved(walk, id) else { return Ok(false) };
    let last = to_last(4);
    let few = walk.ty(x).shape[1].as_known().is_some_and(|c| c <= FEW_CHANNELS);
    let first = few && node.attrs.int_or("group", 1) == 1 && walk.has_plain(x);
    let is_moved = walk.moved(x).is_some_and(|m| m.perm == last);
    if first && !is_moved {
        let inputs = walk.all_plain(&node.inputs)?;
        let attrs = node.attrs.clone().with("layout", "nchw_nhwc");
        // The data is plain and joins no island: only the result does.
        return converted(walk, id, attrs, &inputs, false);
    }
    let mut inputs = vec![Some(walk.moved_as(x, &last)?)];
    inputs.extend(walk.all_plain(&node.inputs[1..])?);
    converted(walk, id, node.attrs.clone().with("layout", "nhwc"), &inputs, true)
}

fn conv_transpose(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some(x) = convolved(walk, id) else { return Ok(false) };
    let mut inputs = vec![Some(walk.moved_as(x, &to_last(4))?)];
    inputs.extend(walk.all_plain(&node.inputs[1..])?);
    converted(walk, id, node.attrs.clone().with("layout", "nhwc"), &inputs, true)
}

/// The data of a convolution that may be converted.
fn convolved(walk: &Walk, id: NodeId) -> Option<ValueId> {
    let node = walk.old.node(id);
    let x = node.inputs.first().copied().flatten()?;
    let fits = walk.may_convert(id)
        && node.attrs.get("layout").is_none()
        && walk.ty(x).rank() == 4
        && matches!(walk.ty(x).dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::I8 | DType::U8);
    fits.then_some(x)
}

fn converted(
    walk: &mut Walk,
    id: NodeId,
    attrs: Attrs,
    inputs: &[Option<ValueId>],
    joins: bool,
) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let macs = multiply_adds(walk, node);
    walk.convolution(node, attrs, inputs, joins)?;
    walk.convert(id, macs);
    Ok(true)
}

/// Multiply-adds of a convolution: each weight meets every place of the smaller side.
fn multiply_adds(walk: &Walk, node: &Node) -> f64 {
    let shape = |v: Option<ValueId>| v.map_or(&[][..], |v| &walk.ty(v).shape[..]);
    let weight =
        shape(node.inputs.get(if node.op.name == "quantized_conv" { 3 } else { 1 }).copied().flatten());
    let side = if node.op.name == "conv_transpose" { node.inputs[0] } else { node.outputs.first().copied() };
    let per_element = weight.get(1..).map_or(0.0, |w| walk.elements(w));
    walk.elements(shape(side)) * per_element
}

fn pool(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    match data(walk, node) {
        Some((x, perm))
            if node.outputs.len() == 1 && perm == to_last(4) && node.attrs.get("layout").is_none() =>
        {
            on_data(walk, id, x, &perm, node.attrs.clone().with("layout", "nhwc"))
        }
        _ => Ok(false),
    }
}

/// Global poolings are reductions, which take any axes.
fn global_pool(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let name = if node.op.name == "global_max_pool" { "reduce_max" } else { "reduce_mean" };
    let mut axes = places(&(2..perm.len()).collect::<Vec<_>>(), &perm);
    axes.sort_unstable();
    let inputs = [Some(walk.moved_as(x, &perm)?)];
    walk.carried(node, op(name)?, Attrs::new().with("axes", axes).with("keepdims", 1i64), &inputs, &perm)?;
    Ok(true)
}

fn along_axis(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(axis) = axis(&node.attrs, perm.len(), -1) else { return Ok(false) };
    on_data(walk, id, x, &perm, node.attrs.clone().with("axis", places(&[axis], &perm)[0]))
}

fn split(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(axis) = axis(&node.attrs, perm.len(), 0) else { return Ok(false) };
    on_data(walk, id, x, &perm, node.attrs.clone().with("axis", places(&[axis], &perm)[0]))
}

/// Scales of one value, or of one value per index of an axis.
fn quantized(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(scale) = node.inputs.get(1).copied().flatten() else { return Ok(false) };
    let scale = walk.ty(scale);
    if scale.rank() == 0 {
        return on_data(walk, id, x, &perm, node.attrs.clone());
    }
    match axis(&node.attrs, perm.len(), 1) {
        Some(axis) if scale.rank() == 1 && node.attrs.int_or("block_size", 0) == 0 => {
            on_data(walk, id, x, &perm, node.attrs.clone().with("axis", places(&[axis], &perm)[0]))
        }
        _ => Ok(false),
    }
}

fn slice(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some((x, perm)), Some(starts)) = (data(walk, node), node.attrs.dims("starts")) else {
        return Ok(false);
    };
    let listed = axes(&node.attrs, perm.len(), (0..starts.len()).collect());
    match listed {
        Some(axes) if only(node, 1) && axes.iter().all(|a| *a < perm.len()) => {
            on_data(walk, id, x, &perm, node.attrs.clone().with("axes", places(&axes, &perm)))
        }
        _ => Ok(false),
    }
}

/// Scales, sizes and regions are stated in the order of `axes`.
fn resize(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(axes) = axes(&node.attrs, perm.len(), (0..perm.len()).collect()) else { return Ok(false) };
    on_data(walk, id, x, &perm, node.attrs.clone().with("axes", places(&axes, &perm)))
}

fn upsample(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some((x, perm)), Some(scales)) = (data(walk, node), node.attrs.floats("scales")) else {
        return Ok(false);
    };
    if scales.len() != perm.len() {
        return Ok(false);
    }
    on_data(walk, id, x, &perm, node.attrs.clone().with("scales", perm::apply(&perm, scales)))
}

/// Blocks of channels become blocks of pixels: [N, H, W, block, block, C] or [N, H, W, C, block, block] in between.
fn depth_to_space(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some((x, perm)), [y]) = (data(walk, node), node.outputs.as_slice()) else { return Ok(false) };
    let block = Dim::known(node.attrs.int_or("blocksize", 1));
    if perm != to_last(4) {
        return Ok(false);
    }
    let [n, _, h, w] = &walk.ty(x).shape[..] else { return Ok(false) };
    let channels = walk.ty(*y).shape[1].clone();
    let (depth, turn) = match node.attrs.str("mode").unwrap_or("DCR") {
        "DCR" => ([block.clone(), block, channels], vec![0i64, 1, 3, 2, 4, 5]),
        _ => ([channels, block.clone(), block], vec![0i64, 1, 4, 2, 5, 3]),
    };
    let shape = [n.clone(), h.clone(), w.clone()].into_iter().chain(depth).collect();
    let held = walk.moved_as(x, &perm)?;
    let split = walk.reshape(held, shape, x, ".split")?;
    let turned = walk.insert("transpose", Attrs::new().with("perm", turn), &[split], x, ".turned")?;
    let new = walk.reshape(turned, perm::apply(&perm, &walk.ty(*y).shape), *y, ".nhwc")?;
    walk.join(held, new);
    walk.define(*y, new, &perm)?;
    Ok(true)
}

fn pad(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some((x, perm)), Some(pads)) = (data(walk, node), node.attrs.dims("pads")) else { return Ok(false) };
    let given = |n: usize| node.inputs.get(n).is_some_and(Option::is_some);
    let Some(axes) = axes(&node.attrs, perm.len(), (0..perm.len()).collect()) else { return Ok(false) };
    if given(1) || given(3) || pads.len() != 2 * axes.len() {
        return Ok(false);
    }
    let mut both = [vec![Dim::known(0); perm.len()], vec![Dim::known(0); perm.len()]];
    for (n, axis) in axes.iter().enumerate() {
        both[0][*axis] = pads[n].clone();
        both[1][*axis] = pads[axes.len() + n].clone();
    }
    let pads: Vec<Dim> = both.iter().flat_map(|side| perm::apply(&perm, side)).collect();
    let mut attrs = node.attrs.clone();
    attrs.remove("axes");
    attrs.set("pads", Attr::from(pads));
    on_data(walk, id, x, &perm, attrs)
}

fn reduce(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(axes) = axes(&node.attrs, perm.len(), (0..perm.len()).collect()) else { return Ok(false) };
    if !only(node, 1) || axes.is_empty() || node.attrs.get("axes").is_none() {
        return Ok(false);
    }
    let mut new = places(&axes, &perm);
    new.sort_unstable();
    let kept = if node.attrs.int_or("keepdims", 1) != 0 { perm.clone() } else { perm::without(&perm, &axes) };
    let inputs = [Some(walk.moved_as(x, &perm)?)];
    walk.carried(node, node.op, node.attrs.clone().with("axes", new), &inputs, &kept)?;
    Ok(true)
}

fn arg(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let Some((x, perm)) = data(walk, node) else { return Ok(false) };
    let Some(axis) = axis(&node.attrs, perm.len(), 0) else { return Ok(false) };
    let kept =
        if node.attrs.int_or("keepdims", 1) != 0 { perm.clone() } else { perm::without(&perm, &[axis]) };
    let inputs = [Some(walk.moved_as(x, &perm)?)];
    let attrs = node.attrs.clone().with("axis", places(&[axis], &perm)[0]);
    walk.carried(node, node.op, attrs, &inputs, &kept)?;
    Ok(true)
}

/// A transposition of a permuted value only says otherwise how it is permuted.
fn transpose(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some(Some(x)), output) = (node.inputs.first().copied(), node.outputs[0]) else { return Ok(false) };
    let rank = walk.ty(x).rank();
    let turn: Option<Vec<usize>> = match node.attrs.ints("perm") {
        Some(perm) => perm.into_iter().map(|p| wrap(p, rank)).collect(),
        None => Some((0..rank).rev().collect()),
    };
    let Some(turn) = turn else { return Ok(false) };
    if let Some(moved) = walk.moved(x).cloned() {
        walk.spare(moved.value, walk.ty(output), &turn);
        walk.define(output, moved.value, &perm::after_transpose(&moved.perm, &turn))?;
        return Ok(true);
    }
    // What makes the channels second had them last.
    if rank == 4 && turn == to_second(4) && walk.has_plain(x) && walk.old.as_const(x).is_none() {
        let value = walk.plain(x)?;
        walk.spare(value, walk.ty(output), &turn);
        walk.define(output, value, &perm::inverse(&turn))?;
        return Ok(true);
    }
    Ok(false)
}

fn reshape(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let (Some((x, perm)), [output]) = (data(walk, node), node.outputs.as_slice()) else { return Ok(false) };
    let (from, to) = (walk.ty(x), walk.ty(*output));
    if from.dtype != to.dtype {
        return Ok(false);
    }
    // Where the held elements would have to move for the reshape, they move to where the result has its channels last
    // (a shuffle of channels or pixels).
    let held = perm::reshaped(&perm, &from.shape, &to.shape).map(|kept| (perm, kept)).or_else(|| {
        let last = to_last(to.rank());
        (to.rank() == 4).then(|| perm::reshaped(&last, &to.shape, &from.shape).map(|perm| (perm, last)))?
    });
    let Some((perm, kept)) = held else { return Ok(false) };
    let moved = walk.moved_as(x, &perm)?;
    let new = walk.reshape(moved, perm::apply(&kept, &to.shape), *output, ".nhwc")?;
    walk.join(moved, new);
    walk.define(*output, new, &kept)?;
    Ok(true)
}

/// Normalisation by known statistics, spelled out along the channels wherever these are.
fn batch_norm(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let ([y], Some((x, perm))) = (node.outputs.as_slice(), data(walk, node)) else { return Ok(false) };
    if node.attrs.flag("training_mode") || node.attrs.flag("per_feature") {
        return Ok(false);
    }
    let held = walk.moved_as(x, &perm)?;
    let mut statistics = Vec::new();
    for value in node.inputs[1..].iter().flatten() {
        statistics.push(per_channel(walk, *value, &perm)?);
    }
    let [scale, bias, mean, variance] = statistics[..] else { return Ok(false) };
    let epsilon = f64::from(node.attrs.float_or("epsilon", 1e-5));
    let Some(epsilon) = Tensor::from_f64s(walk.new_type(variance).dtype, &[], &[epsilon]) else {
        return Ok(false);
    };
    let epsilon = walk.constant("epsilon", epsilon);
    let mut add = |name: &str, inputs: &[ValueId]| walk.insert(name, Attrs::new(), inputs, x, ".norm");
    let variance = add("add", &[variance, epsilon])?;
    let deviation = add("sqrt", &[variance])?;
    let factor = add("div", &[scale, deviation])?;
    let centred = add("sub", &[held, mean])?;
    let scaled = add("mul", &[centred, factor])?;
    let new = walk.insert("add", Attrs::new(), &[scaled, bias], *y, ".nhwc")?;
    walk.join(held, new);
    walk.define(*y, new, &perm)?;
    Ok(true)
}

/// A value per channel, in a shape that broadcasts along the channels of what is permuted by `perm`.
fn per_channel(walk: &mut Walk, value: ValueId, perm: &[usize]) -> Result<ValueId, Diag> {
    let plain = walk.plain(value)?;
    let at = perm.iter().position(|&p| p == 1).unwrap_or(0);
    let mut shape = walk.ty(value).shape.clone();
    shape.extend(vec![Dim::known(1); perm.len() - 1 - at]);
    walk.reshape(plain, shape, value, ".nhwc")
}

/// The permutation that costs least for operands that all have to agree: the largest permuted operand's, if what would
/// have to be moved for it holds no more elements than what would have to be moved back without it.
fn agreed(walk: &Walk, inputs: &[ValueId], rank: usize) -> Option<Vec<usize>> {
    let full: Vec<ValueId> = inputs.iter().copied().filter(|v| walk.ty(*v).rank() == rank).collect();
    let size = |v: ValueId| walk.elements(&walk.ty(v).shape);
    let largest =
        full.iter().filter(|v| walk.moved(**v).is_some()).max_by(|a, b| size(**a).total_cmp(&size(**b)));
    let perm = walk.moved(*largest?)?.perm.clone();
    let stays = |v: ValueId| walk.old.as_const(v).is_some() || perm::keeps_order(&perm, &walk.ty(v).shape);
    let (mut there, mut back) = (0.0, 0.0);
    for &v in full.iter().filter(|v| !stays(**v)) {
        if walk.moved(v).is_none_or(|m| m.perm != perm) {
            there += size(v);
        }
        if !walk.has_plain(v) {
            back += size(v);
        }
    }
    (there <= back).then_some(perm)
}

fn concat(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let values: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
    let rank = walk.ty(node.outputs[0]).rank();
    let (Some(perm), Some(axis)) = (agreed(walk, &values, rank), axis(&node.attrs, rank, 0)) else {
        return Ok(false);
    };
    let inputs =
        values.iter().map(|v| walk.moved_as(*v, &perm).map(Some)).collect::<Result<Vec<_>, Diag>>()?;
    let attrs = node.attrs.clone().with("axis", places(&[axis], &perm)[0]);
    walk.carried(node, node.op, attrs, &inputs, &perm)?;
    Ok(true)
}

fn elementwise(walk: &mut Walk, id: NodeId) -> Result<bool, Diag> {
    let node = walk.old.node(id);
    let [output] = node.outputs.as_slice() else { return Ok(false) };
    let values: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
    let Some(perm) = agreed(walk, &values, walk.ty(*output).rank()) else { return Ok(false) };
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for value in &node.inputs {
        inputs.push(value.map(|v| broadcast(walk, v, &perm)).transpose()?);
    }
    walk.carried(node, node.op, node.attrs.clone(), &inputs, &perm)?;
    Ok(true)
}

/// An operand that broadcasts (numpy) against a plain tensor, so that it does against the permuted one.
fn broadcast(walk: &mut Walk, value: ValueId, perm: &[usize]) -> Result<ValueId, Diag> {
    let ty = walk.ty(value);
    if ty.rank() == perm.len() {
        return walk.moved_as(value, perm);
    }
    if ty.shape.iter().all(|d| d.is(1)) {
        return walk.plain(value);
    }
    let mut full = vec![Dim::known(1); perm.len() - ty.rank()];
    full.extend(ty.shape.iter().cloned());
    if let Some(tensor) = walk.old.as_const(value) {
        let sizes: Vec<usize> =
            full.iter().map(|d| d.as_known().and_then(|d| usize::try_from(d).ok()).unwrap_or(0)).collect();
        let Some(tensor) = tensor.reshaped(&sizes) else { return walk.plain(value) };
        let turned = transposed(&tensor, perm)?;
        return Ok(walk.constant(&format!("{}.nhwc", walk.old.value(value).name), turned));
    }
    walk.stretched(value, full, perm)
}
