//! Weights in blocks of few bits: `matmul_n_bits`, `matmul_bnb4` and `gather_block_quantized`.

use crate::common::{
    PLAIN, attr, attr_error, axis_of, between, exactly, from_f64s, input, required, tensor, type_error,
    unsupported, work, work_move,
};
use crate::contrib_common::{ms, want_dtype};
use crate::eval::{MAX_EVAL_ELEMENTS, optional, optional_type, result, same_dim, want_float};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Dim, Tensor};

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&GATHER_BLOCK_QUANTIZED, &MATMUL_BNB4, &MATMUL_N_BITS];

static MATMUL_N_BITS: OpDef = OpDef {
    name: "matmul_n_bits",
    doc: "a * w' + bias for weights [N, K] of 2, 4 or 8 bits with a scale and a zero point per block of K.",
    onnx: &[ms("MatMulNBits")],
    inputs: between(3, 6),
    outputs: exactly(1),
    attrs: &[
        required("K", AttrKind::Int),
        required("N", AttrKind::Int),
        attr("accuracy_level", AttrKind::Int),
        attr("bits", AttrKind::Int),
        required("block_size", AttrKind::Int),
        attr("weight_prepacked", AttrKind::Int),
    ],
    traits: PLAIN,
    infer: infer_n_bits,
    content: None,
    eval: eval_n_bits,
    scalar: None,
    data: None,
    work: work_matmul,
    sample: sample_n_bits,
};

static MATMUL_BNB4: OpDef = OpDef {
    name: "matmul_bnb4",
    doc: "a * w' for weights [N, K] of 4-bit floats (FP4 or NF4) with a greatest magnitude per block.",
    onnx: &[ms("MatMulBnb4")],
    inputs: exactly(3),
    attrs: &[
        required("K", AttrKind::Int),
        required("N", AttrKind::Int),
        required("block_size", AttrKind::Int),
        required("quant_type", AttrKind::Int),
        attr("trans_b", AttrKind::Int),
        attr("training_mode", AttrKind::Int),
    ],
    infer: infer_bnb4,
    eval: eval_bnb4,
    sample: sample_bnb4,
    ..MATMUL_N_BITS
};

static GATHER_BLOCK_QUANTIZED: OpDef = OpDef {
    name: "gather_block_quantized",
    doc: "slices of numbers of few bits, as values by a scale and a zero point per block.",
    onnx: &[ms("GatherBlockQuantized")],
    inputs: between(3, 4),
    attrs: &[
        attr("bits", AttrKind::Int),
        attr("block_size", AttrKind::Int),
        attr("gather_axis", AttrKind::Int),
        attr("quantize_axis", AttrKind::Int),
    ],
    infer: infer_gather,
    eval: eval_gather,
    work: work_move,
    sample: sample_gather,
    ..MATMUL_N_BITS
};

/// Number `n` of a row of packed numbers, lowest bits first.
pub(crate) fn unpacked(row: &[u8], n: usize, bits: usize) -> u8 {
    let per_byte = 8 / bits;
    let byte = row.get(n / per_byte).copied().unwrap_or(0);
    let mask = u8::MAX >> (8 - bits);
    byte >> (n % per_byte * bits) & mask
}

/// Bits of one number.
fn bits_of(attrs: &Attrs) -> Result<usize, Diag> {
    match attrs.int_or("bits", 4) {
        2 => Ok(2),
        4 => Ok(4),
        8 => Ok(8),
        other => Err(attr_error(format!("bits is {other}, it must be 2, 4 or 8"))),
    }
}

/// Numbers that share a scale.
fn block_of(attrs: &Attrs, default: i64) -> Result<usize, Diag> {
    let block = attrs.int_or("block_size", default);
    usize::try_from(block).ok().filter(|b| b.is_power_of_two() && (16..=1 << 20).contains(b)).ok_or_else(
        || attr_error(format!("block_size is {block}, it must be a power of two from 16 to {}", 1 << 20)),
    )
}

/// A size that is an attribute.
fn size_of(attrs: &Attrs, name: &str) -> Result<usize, Diag> {
    let size = attrs.int_or(name, 0);
    usize::try_from(size)
        .ok()
        .filter(|s| (1..=MAX_EVAL_ELEMENTS).contains(s))
        .ok_or_else(|| attr_error(format!("{name} is {size}, it must be from 1 to {MAX_EVAL_ELEMENTS}")))
}

/// Checks that operand `n`, where it is given, has `count` elements.
fn check_count(ctx: &InferCtx, n: usize, count: usize) -> Result<(), Diag> {
    let Some(ty) = optional_type(ctx, n) else { return Ok(()) };
    match ty.n_elements().as_known() {
        Some(c) if c != count as i64 => {
            Err(type_error(format!("operand {n} must have {count} elements, it is {ty}")))
        }
        _ => Ok(()),
    }
}

/// The result of a product of `a` with `n` weight rows of `k` numbers.
fn product_type(ctx: &InferCtx, n: usize, k: usize) -> Result<Type, Diag> {
    let a = input(ctx, 0)?;
    want_float(a.dtype)?;
    let Some((last, rows)) = a.shape.split_last() else {
        return Err(type_error("the first operand must have at least one dimension"));
    };
    same_dim(last, &Dim::known(k as i64), "the inner dimensions of a product")?;
    let mut shape = rows.to_vec();
    shape.push(Dim::known(n as i64));
    Ok(Type::new(a.dtype, shape))
}

/// Sizes of a blocked weight.
#[derive(Clone, Copy)]
struct Blocked {
    n: usize,
    k: usize,
    bits: usize,
    block: usize,
    /// Blocks of one row.
    blocks: usize,
}

impl Blocked {
    fn new(attrs: &Attrs) -> Result<Self, Diag> {
        let (n, k, block) = (size_of(attrs, "N")?, size_of(attrs, "K")?, block_of(attrs, 0)?);
        if n.checked_mul(k.next_multiple_of(block)).is_none_or(|e| e > MAX_EVAL_ELEMENTS) {
            return Err(unsupported(format!("a weight of {n} x {k} is too large")));
        }
        Ok(Self { n, k, bits: bits_of(attrs)?, block, blocks: k.div_ceil(block) })
    }

    /// Bytes of one row of numbers.
    fn row(self) -> usize {
        self.blocks * self.block * self.bits / 8
    }

    /// Bytes of one row of packed zero points.
    fn zero_row(self) -> usize {
        (self.blocks * self.bits).div_ceil(8)
    }
}

fn infer_n_bits(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let b = Blocked::new(ctx.attrs)?;
    if ctx.attrs.int_or("weight_prepacked", 0) != 0 {
        return Err(unsupported("weights in the layout of one device are not supported")
            .hint("export the model with weight_prepacked = 0"));
    }
    let y = product_type(ctx, b.n, b.k)?;
    want_dtype(ctx, 1, DType::U8)?;
    check_count(ctx, 1, b.n * b.row())?;
    want_float(input(ctx, 2)?.dtype)?;
    check_count(ctx, 2, b.n * b.blocks)?;
    match optional_type(ctx, 3) {
        Some(zero) if zero.dtype == DType::U8 => check_count(ctx, 3, b.n * b.zero_row())?,
        Some(zero) => {
            want_float(zero.dtype)?;
            check_count(ctx, 3, b.n * b.blocks)?;
        }
        None => {}
    }
    if let Some(groups) = optional_type(ctx, 4) {
        let padded = groups.n_elements().as_known() == Some((b.blocks * b.block) as i64);
        want_dtype(ctx, 4, DType::I32)?;
        if !padded {
            check_count(ctx, 4, b.k)?;
        }
    }
    if optional_type(ctx, 5).is_some() {
        want_float(input(ctx, 5)?.dtype)?;
        check_count(ctx, 5, b.n)?;
    }
    Ok(vec![y])
}

/// Zero points of all blocks, row by row.
fn zero_points(ctx: &EvalCtx, b: Blocked) -> Vec<f32> {
    let Some(zero) = optional(ctx, 3) else {
        return vec![f32::from(1u8 << (b.bits - 1)); b.n * b.blocks];
    };
    if zero.dtype() != DType::U8 {
        return zero.to_f64s().into_iter().map(|v| v as f32).collect();
    }
    let rows = zero.bytes().chunks(b.zero_row());
    rows.flat_map(|row| (0..b.blocks).map(move |n| f32::from(unpacked(row, n, b.bits)))).collect()
}

/// The weight row by row, each value rounded to f32.
fn weights(ctx: &EvalCtx, b: Blocked) -> Result<Vec<f32>, Diag> {
    let scales = tensor(ctx, 2)?.to_f64s();
    let zeros = zero_points(ctx, b);
    let groups = optional(ctx, 4).map(Tensor::to_i64s);
    let packed = tensor(ctx, 1)?.bytes();
    let mut out = Vec::with_capacity(b.n * b.k);
    for (n, row) in packed.chunks(b.row()).enumerate() {
        for k in 0..b.k {
            let group = match &groups {
                Some(groups) => usize::try_from(groups[k]).unwrap_or(usize::MAX),
                None => k / b.block,
            };
            if group >= b.blocks {
                return Err(crate::common::index_error(group as i64, b.blocks));
            }
            let at = n * b.blocks + group;
            out.push((f32::from(unpacked(row, k, b.bits)) - zeros[at]) * scales[at] as f32);
        }
    }
    Ok(out)
}

/// Rows of `a` times rows of `w`, in f64.
fn product(a: &[f64], w: &[f32], k: usize, bias: Option<&[f64]>) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
    let row = |x: &[f64]| -> Vec<f64> {
        let sums = w.chunks(k).enumerate().map(|(n, w)| dot(x, w) + bias.map_or(0.0, |b| b[n]));
        sums.collect()
    };
    a.chunks(k).flat_map(row).collect()
}

fn eval_n_bits(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_n_bits)?;
    let b = Blocked::new(ctx.attrs)?;
    let bias = optional(ctx, 5).map(Tensor::to_f64s);
    let y = product(&tensor(ctx, 0)?.to_f64s(), &weights(ctx, b)?, b.k, bias.as_deref());
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

fn work_matmul(ctx: &WorkCtx) -> Work {
    let k = ctx.attrs.int_or("K", 0) as f64;
    work(ctx, 2.0 * k * crate::common::n_out(ctx), WorkKind::Dense)
}

/// Values of 4-bit floats; source: the kernels of bitsandbytes.
const FP4: [f32; 16] = [
    0.0,
    5.208_333_3e-3,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -5.208_333_3e-3,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Quantiles of the normal distribution; source: Dettmers et al., QLoRA, 2023, appendix E.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

fn infer_bnb4(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (n, k, block) = (size_of(ctx.attrs, "N")?, size_of(ctx.attrs, "K")?, block_of(ctx.attrs, 0)?);
    if ctx.attrs.int_or("trans_b", 1) != 1 {
        return Err(unsupported("4-bit float weights that are not transposed are not supported"));
    }
    if !(0..=1).contains(&ctx.attrs.int_or("quant_type", -1)) {
        return Err(attr_error("quant_type must be 0 (FP4) or 1 (NF4)"));
    }
    let count = n.checked_mul(k).filter(|c| *c <= MAX_EVAL_ELEMENTS);
    let count = count.ok_or_else(|| unsupported(format!("a weight of {n} x {k} is too large")))?;
    let y = product_type(ctx, n, k)?;
    want_dtype(ctx, 1, DType::U8)?;
    check_count(ctx, 1, count.div_ceil(2))?;
    want_float(input(ctx, 2)?.dtype)?;
    check_count(ctx, 2, count.div_ceil(block))?;
    Ok(vec![y])
}

fn eval_bnb4(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_bnb4)?;
    let (n, k, block) = (size_of(ctx.attrs, "N")?, size_of(ctx.attrs, "K")?, block_of(ctx.attrs, 0)?);
    let table = if ctx.attrs.int_or("quant_type", 0) == 0 { &FP4 } else { &NF4 };
    let scales = tensor(ctx, 2)?.to_f64s();
    let packed = tensor(ctx, 1)?.bytes();
    // The first of two numbers is in the high bits.
    let weight = |i: usize| {
        let byte = packed[i / 2];
        let number = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        table[usize::from(number)] * scales[i / block] as f32
    };
    let w: Vec<f32> = (0..n * k).map(weight).collect();
    let y = product(&tensor(ctx, 0)?.to_f64s(), &w, k, None);
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// What a gather reads: axes, and how many numbers are in one element of the data.
struct Gathered {
    gather: usize,
    quantize: usize,
    block: usize,
    bits: usize,
    packed: usize,
}

impl Gathered {
    fn new(attrs: &Attrs, rank: usize, dtype: DType) -> Result<Self, Diag> {
        let bits = bits_of(attrs)?;
        let gather = axis_of(attrs.int_or("gather_axis", 0), rank)?;
        let quantize = axis_of(attrs.int_or("quantize_axis", 1), rank)?;
        let packed = if dtype == DType::U8 { 8 / bits } else { 1 };
        if packed > 1 && (quantize + 1 != rank || gather == quantize) {
            return Err(unsupported(
                "packed numbers must be quantized along the last axis and gathered along another",
            ));
        }
        Ok(Self { gather, quantize, block: block_of(attrs, 128)?, bits, packed })
    }

    /// Value that stands for zero where no zero points are given.
    fn default_zero(&self, dtype: DType) -> i64 {
        if dtype == DType::U8 { 1 << (self.bits - 1) } else { 0 }
    }
}

fn infer_gather(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (data, indices, scales) = (input(ctx, 0)?, input(ctx, 1)?, input(ctx, 2)?);
    let g = Gathered::new(ctx.attrs, data.rank(), data.dtype)?;
    if !matches!(data.dtype, DType::U8 | DType::U4 | DType::I4) {
        return Err(type_error(format!("quantized data cannot be {}", data.dtype.name())));
    }
    if !matches!(indices.dtype, DType::I32 | DType::I64) {
        return Err(type_error(format!("the indices must be i32 or i64, they are {indices}")));
    }
    want_float(scales.dtype)?;
    if scales.rank() != data.rank() {
        return Err(type_error(format!("scales {scales} and data {data} must have the same rank")));
    }
    let mut dims = data.shape.clone();
    dims[g.quantize] = dims[g.quantize].clone() * Dim::known(g.packed as i64);
    for (axis, (scale, dim)) in scales.shape.iter().zip(&dims).enumerate() {
        let want = if axis == g.quantize { dim.ceil_div(&Dim::known(g.block as i64)) } else { dim.clone() };
        same_dim(scale, &want, "blocks of data and scales")?;
    }
    if let Some(zero) = optional_type(ctx, 3) {
        let mut want = scales.shape.clone();
        want[g.quantize] = want[g.quantize].ceil_div(&Dim::known(g.packed as i64));
        let fits = zero.rank() == want.len()
            && zero.shape.iter().zip(&want).all(|(a, b)| crate::eval::may_equal(a, b));
        if zero.dtype != data.dtype || !fits {
            return Err(type_error(format!("zero points {zero} do not fit data {data} and scales {scales}")));
        }
    }
    let after = dims.split_off(g.gather + 1);
    dims.truncate(g.gather);
    dims.extend(indices.shape.iter().cloned().chain(after));
    Ok(vec![Type::new(scales.dtype, dims)])
}

/// The numbers of a tensor whose last axis is packed.
fn numbers(t: &Tensor, g: &Gathered) -> Vec<i64> {
    if g.packed == 1 {
        return t.to_i64s();
    }
    let wide =
        |byte: &u8| (0..g.packed).map(|n| i64::from(unpacked(&[*byte], n, g.bits))).collect::<Vec<_>>();
    t.bytes().iter().flat_map(wide).collect()
}

fn eval_gather(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_gather)?;
    let (data, scales) = (tensor(ctx, 0)?, tensor(ctx, 2)?);
    let g = Gathered::new(ctx.attrs, data.rank(), data.dtype())?;
    let mut dims = data.shape().to_vec();
    dims[g.quantize] *= g.packed;
    let (q, factors) = (numbers(data, &g), scales.to_f64s());
    let zeros = optional(ctx, 3).map(|z| (numbers(z, &g), z.shape()[g.quantize] * g.packed));
    let inner: usize = dims[g.quantize + 1..].iter().product();
    let (len, blocks) = (dims[g.quantize], scales.shape()[g.quantize]);
    let value = |at: usize| {
        let (outer, block, rest) = (at / (inner * len), at / inner % len / g.block, at % inner);
        let zero = zeros
            .as_ref()
            .map_or(g.default_zero(data.dtype()), |(z, width)| z[(outer * width + block) * inner + rest]);
        f64::from((q[at] - zero) as f32 * factors[(outer * blocks + block) * inner + rest] as f32)
    };
    let slice: usize = dims[g.gather + 1..].iter().product();
    let rows: usize = dims[..g.gather].iter().product();
    let (size, indices) = (dims[g.gather], tensor(ctx, 1)?.to_i64s());
    let mut y = Vec::with_capacity(rows * indices.len() * slice);
    for row in 0..rows {
        for &index in &indices {
            let index = if index < 0 { index.saturating_add(size as i64) } else { index };
            // An index outside of the data gives zeros.
            match usize::try_from(index).ok().filter(|i| *i < size) {
                Some(i) => y.extend((0..slice).map(|e| value((row * size + i) * slice + e))),
                None => y.extend(std::iter::repeat_n(0.0, slice)),
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// Random bytes.
fn sample_bytes(rng: &mut Rng, shape: &[usize]) -> Tensor {
    rng.tensor(DType::U8, shape, 0.0, 255.0)
}

fn sample_n_bits(rng: &mut Rng) -> Sample {
    let (bits, block) = (*rng.pick(&[2usize, 4, 8]), *rng.pick(&[16usize, 32]));
    let (n, k) = (1 + rng.below(4), 1 + rng.below(70));
    let blocks = k.div_ceil(block);
    let dtype = *rng.pick(&[DType::F32, DType::F16]);
    let rows = crate::samples::shape(rng);
    let a: Vec<usize> = rows.into_iter().take(2).chain([k]).collect();
    let mut inputs = vec![
        Some(rng.tensor(dtype, &a, -2.0, 2.0)),
        Some(sample_bytes(rng, &[n, blocks, block * bits / 8])),
        Some(rng.tensor(dtype, &[n, blocks], 0.01, 0.1)),
    ];
    inputs.push(match rng.below(3) {
        0 => None,
        1 => Some(rng.tensor(dtype, &[n, blocks], 0.0, 15.0)),
        _ => Some(sample_bytes(rng, &[n, (blocks * bits).div_ceil(8)])),
    });
    inputs.push((rng.below(3) == 0).then(|| rng.tensor(DType::I32, &[k], 0.0, blocks as f64 - 1.0)));
    inputs.push((rng.below(2) == 0).then(|| rng.tensor(dtype, &[n], -1.0, 1.0)));
    let attrs = Attrs::new()
        .with("K", k as i64)
        .with("N", n as i64)
        .with("bits", bits as i64)
        .with("block_size", block as i64);
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_bnb4(rng: &mut Rng) -> Sample {
    let (n, k) = (1 + rng.below(4), 1 + rng.below(40));
    let attrs = Attrs::new()
        .with("K", k as i64)
        .with("N", n as i64)
        .with("block_size", 16i64)
        .with("quant_type", rng.int(0, 1));
    let m = 1 + rng.below(3);
    let inputs = vec![
        Some(rng.tensor(DType::F32, &[m, k], -2.0, 2.0)),
        Some(sample_bytes(rng, &[(n * k).div_ceil(2)])),
        Some(rng.tensor(DType::F32, &[(n * k).div_ceil(16)], 0.1, 1.0)),
    ];
    Sample { attrs, inputs, n_outputs: 1 }
}

fn sample_gather(rng: &mut Rng) -> Sample {
    let bits = *rng.pick(&[2usize, 4, 8]);
    let (rows, bytes) = (1 + rng.below(5), 8 * (1 + rng.below(4)));
    let blocks = (bytes * 8 / bits).div_ceil(16);
    let zeros = (blocks * bits).div_ceil(8);
    let dtype = *rng.pick(&[DType::F32, DType::F16]);
    let count = crate::samples::shape(rng);
    let count: Vec<usize> = count.into_iter().take(2).collect();
    let indices = *rng.pick(&[DType::I32, DType::I64]);
    let mut inputs = vec![
        Some(sample_bytes(rng, &[rows, bytes])),
        Some(rng.tensor(indices, &count, -(rows as f64), rows as f64)),
        Some(rng.tensor(dtype, &[rows, blocks], 0.01, 0.1)),
    ];
    if rng.below(2) == 0 {
        inputs.push(Some(sample_bytes(rng, &[rows, zeros])));
    }
    let attrs = Attrs::new().with("bits", bits as i64).with("block_size", 16i64);
    Sample { attrs, inputs, n_outputs: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_bits_come_first() {
        let row = [0b1110_0100, 0x5a];
        assert_eq!([0, 1, 2, 3].map(|n| unpacked(&row, n, 2)), [0, 1, 2, 3]);
        assert_eq!([0, 1, 2, 3].map(|n| unpacked(&row, n, 4)), [4, 14, 10, 5]);
        assert_eq!(unpacked(&row, 1, 8), 0x5a);
    }
}
