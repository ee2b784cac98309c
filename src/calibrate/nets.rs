//! Small nets of the families that people run: what calibration measures steps of.
//!
//! Steps are measured between their neighbours of a real net and as the compiler makes them, so that layouts,
//! fusion, epilogues and what lies in which cache are those of models.

use crate::error::Result;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::{Builder, DType, Dim, Graph, Tensor, Type, ValueId};

type Made = std::result::Result<ValueId, Diag>;

/// A graph under construction.
pub(super) struct Net {
    builder: Builder,
    seed: u32,
    outputs: usize,
}

impl Net {
    pub(super) fn new(name: &str) -> Self {
        Self { builder: Builder::new(name), seed: 1, outputs: 0 }
    }

    pub(super) fn input(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("x{}", self.builder.graph().n_values());
        let dims: Vec<Dim> = shape.iter().map(|&d| d.into()).collect();
        self.builder.input(&name, Type::new(DType::F32, dims))
    }

    pub(super) fn op(&mut self, name: &str, attrs: Attrs, inputs: &[ValueId]) -> Made {
        let op =
            partita_ops::op(name).ok_or_else(|| Diag::new("U002", format!("there is no operator {name}")))?;
        self.builder.op(op, attrs, inputs)
    }

    pub(super) fn plain(&mut self, name: &str, inputs: &[ValueId]) -> Made {
        self.op(name, Attrs::new(), inputs)
    }

    /// An operator with `n` results.
    pub(super) fn many(
        &mut self,
        name: &str,
        attrs: Attrs,
        inputs: &[ValueId],
        n: usize,
    ) -> Result<Vec<ValueId>> {
        let op =
            partita_ops::op(name).ok_or_else(|| Diag::new("U002", format!("there is no operator {name}")))?;
        let at = self.builder.graph().n_values();
        let names: Vec<String> = (0..n).map(|i| format!("{name}{at}_{i}")).collect();
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.builder.node(&names[0], op, attrs, &inputs, &names)?)
    }

    /// A weight whose products with `fan_in` terms keep unit scale; no two are equal.
    pub(super) fn weight(&mut self, shape: &[usize], fan_in: usize) -> ValueId {
        let bound = (3.0 / fan_in.max(1) as f32).sqrt();
        let mut state = self.seed;
        self.seed += 1;
        let mut next = || {
            // A linear congruence (Numerical Recipes); only that values differ matters.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| bound * next()).collect();
        self.constant(Tensor::from_slice(shape, &values))
    }

    pub(super) fn constant(&mut self, tensor: Option<Tensor>) -> ValueId {
        let name = format!("c{}", self.builder.graph().n_values());
        self.builder.constant(&name, tensor.unwrap_or_else(|| Tensor::scalar(0.0f32)))
    }

    pub(super) fn scalar(&mut self, value: f32) -> ValueId {
        self.constant(Some(Tensor::scalar(value)))
    }

    pub(super) fn output(&mut self, value: ValueId) {
        self.outputs += 1;
        let name = format!("y{}", self.outputs);
        self.builder.output(&name, value);
    }

    pub(super) fn finish(self) -> Graph {
        self.builder.finish()
    }

    fn linear(&mut self, x: ValueId, from: usize, to: usize) -> Made {
        let (w, b) = (self.weight(&[from, to], from), self.weight(&[to], 12));
        let y = self.plain("matmul", &[x, w])?;
        self.plain("add", &[y, b])
    }

    fn conv(&mut self, x: ValueId, c: Conv) -> Made {
        let pad = ((c.kernel - 1) / 2) as i64;
        let inputs = c.from / c.groups;
        let weight = self.weight(&[c.to, inputs, c.kernel, c.kernel], inputs * c.kernel * c.kernel);
        let bias = self.weight(&[c.to], 12);
        let attrs = Attrs::new()
            .with("pads", vec![pad; 4])
            .with("strides", vec![c.stride as i64; 2])
            .with("group", c.groups as i64);
        let y = self.op("conv", attrs, &[x, weight, bias])?;
        if c.activation.is_empty() { Ok(y) } else { self.activate(y, c.activation) }
    }

    fn activate(&mut self, x: ValueId, name: &str) -> Made {
        if name == "relu6" {
            let (low, high) = (self.scalar(0.0), self.scalar(6.0));
            return self.plain("clip", &[x, low, high]);
        }
        self.plain(name, &[x])
    }

    fn norm(&mut self, x: ValueId, width: usize) -> Made {
        let (scale, bias) = (self.weight(&[width], 3), self.weight(&[width], 12));
        self.op("layer_norm", Attrs::new().with("axis", -1i64), &[x, scale, bias])
    }

    fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Made {
        let dims: Vec<Dim> = shape.iter().map(|&d| d.into()).collect();
        self.op("reshape", Attrs::new().with("shape", dims), &[x])
    }

    fn transpose(&mut self, x: ValueId, perm: &[i64]) -> Made {
        self.op("transpose", Attrs::new().with("perm", perm.to_vec()), &[x])
    }
}

#[derive(Clone, Copy)]
struct Conv {
    from: usize,
    to: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    activation: &'static str,
}

const fn conv(from: usize, to: usize, kernel: usize, stride: usize, activation: &'static str) -> Conv {
    Conv { from, to, kernel, stride, groups: 1, activation }
}

/// One net to measure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    /// Bottleneck and basic blocks (He et al. 2015) behind a first convolution of `first`x`first`.
    Residual { side: usize, width: usize, first: usize },
    /// Inverted bottlenecks (Sandler et al. 2018, Howard et al. 2019), with squeeze and excitation where asked for.
    Mobile { side: usize, width: usize, kernel: usize, squeeze: bool, activation: &'static str },
    /// Squeeze and expand (Iandola et al. 2016).
    Fire { side: usize, width: usize },
    /// Down, up and across (Ronneberger et al. 2015).
    Unet { side: usize, width: usize },
    /// Pooled features to scores.
    Head { width: usize, classes: usize },
    /// Transformer encoder (Vaswani et al. 2017) over `tokens` tokens.
    Encoder { tokens: usize, width: usize, heads: usize, layers: usize },
    /// One token behind `past` others.
    Decoder { past: usize, width: usize, heads: usize, layers: usize },
}

impl Family {
    /// The net.
    pub(super) fn build(self) -> Result<Graph> {
        let mut net = Net::new(&format!("{self:?}"));
        let y = match self {
            Self::Residual { side, width, first } => residual(&mut net, side, width, first)?,
            Self::Mobile { side, width, kernel, squeeze, activation } => {
                mobile(&mut net, (side, width, kernel), squeeze, activation)?
            }
            Self::Fire { side, width } => fire(&mut net, side, width)?,
            Self::Unet { side, width } => unet(&mut net, side, width)?,
            Self::Head { width, classes } => head(&mut net, width, classes)?,
            Self::Encoder { tokens, width, heads, layers } => {
                transformer(&mut net, &Shape { tokens, past: 0, width, heads, layers })?
            }
            Self::Decoder { past, width, heads, layers } => {
                transformer(&mut net, &Shape { tokens: 1, past, width, heads, layers })?
            }
        };
        net.output(y);
        Ok(net.finish())
    }
}

fn residual(net: &mut Net, side: usize, width: usize, first: usize) -> Made {
    let x = net.input(&[1, 3, 2 * side, 2 * side]);
    let x = net.conv(x, conv(3, width, first, 2, "relu"))?;
    let wide = net.conv(x, conv(width, 4 * width, 1, 1, ""))?;
    let y = net.conv(wide, conv(4 * width, width, 1, 1, "relu"))?;
    let y = net.conv(y, conv(width, width, 3, 1, "relu"))?;
    let y = net.conv(y, conv(width, 4 * width, 1, 1, ""))?;
    let sum = net.plain("add", &[y, wide])?;
    let sum = net.plain("relu", &[sum])?;
    let y = net.conv(sum, conv(4 * width, width, 1, 1, "relu"))?;
    let z = net.conv(y, conv(width, width, 3, 1, "relu"))?;
    let z = net.conv(z, conv(width, width, 3, 1, ""))?;
    let sum = net.plain("add", &[y, z])?;
    let y = net.plain("relu", &[sum])?;
    let y = net.conv(y, conv(width, 2 * width, 3, 2, "relu"))?;
    net.conv(y, conv(2 * width, 4 * width, 1, 2, ""))
}

fn mobile(
    net: &mut Net,
    (side, width, kernel): (usize, usize, usize),
    squeeze: bool,
    activation: &'static str,
) -> Made {
    let x = net.input(&[1, 3, 2 * side, 2 * side]);
    let mut x = net.conv(x, conv(3, width, 3, 2, activation))?;
    for (stride, expand) in [(1, 6), (1, 4), (2, 3)] {
        let hidden = width * expand;
        let y = net.conv(x, conv(width, hidden, 1, 1, activation))?;
        let deep = Conv { groups: hidden, ..conv(hidden, hidden, kernel, stride, activation) };
        let mut y = net.conv(y, deep)?;
        if squeeze {
            y = excite(net, y, hidden)?;
        }
        let y = net.conv(y, conv(hidden, width, 1, 1, ""))?;
        x = if stride == 1 { net.plain("add", &[x, y])? } else { y };
    }
    Ok(x)
}

fn excite(net: &mut Net, x: ValueId, width: usize) -> Made {
    let few = (width / 4).max(8);
    let y = net.plain("global_average_pool", &[x])?;
    let y = net.conv(y, conv(width, few, 1, 1, "relu"))?;
    let y = net.conv(y, conv(few, width, 1, 1, "hard_sigmoid"))?;
    net.plain("mul", &[x, y])
}

fn fire(net: &mut Net, side: usize, width: usize) -> Made {
    let x = net.input(&[1, 3, 2 * side, 2 * side]);
    let mut x = net.conv(x, conv(3, 4 * width, 3, 2, "relu"))?;
    for _ in 0..2 {
        let s = net.conv(x, conv(4 * width, width / 2, 1, 1, "relu"))?;
        let a = net.conv(s, conv(width / 2, 2 * width, 1, 1, "relu"))?;
        let b = net.conv(s, conv(width / 2, 2 * width, 3, 1, "relu"))?;
        x = net.op("concat", Attrs::new().with("axis", 1i64), &[a, b])?;
    }
    let window = Attrs::new().with("kernel_shape", vec![3i64; 2]).with("strides", vec![2i64; 2]);
    let x = net.op("max_pool", window, &[x])?;
    net.conv(x, conv(4 * width, width, 1, 1, "relu"))
}

fn unet(net: &mut Net, side: usize, width: usize) -> Made {
    let x = net.input(&[1, 3, side, side]);
    let x = net.conv(x, conv(3, width, 3, 1, "relu"))?;
    let x = net.conv(x, conv(width, width, 3, 1, "relu"))?;
    let window = Attrs::new().with("kernel_shape", vec![2i64; 2]).with("strides", vec![2i64; 2]);
    let y = net.op("max_pool", window, &[x])?;
    let y = net.conv(y, conv(width, 2 * width, 3, 1, "relu"))?;
    let y = net.conv(y, conv(2 * width, 2 * width, 3, 1, "relu"))?;
    let (w, b) = (net.weight(&[2 * width, width, 2, 2], 8 * width), net.weight(&[width], 12));
    let up = net.op("conv_transpose", Attrs::new().with("strides", vec![2i64; 2]), &[y, w, b])?;
    let y = net.op("concat", Attrs::new().with("axis", 1i64), &[x, up])?;
    let y = net.conv(y, conv(2 * width, width, 3, 1, "relu"))?;
    net.conv(y, conv(width, 2, 1, 1, "sigmoid"))
}

fn head(net: &mut Net, width: usize, classes: usize) -> Made {
    let x = net.input(&[1, 16, 14, 14]);
    let x = net.conv(x, conv(16, width, 1, 1, "relu"))?;
    let x = net.plain("global_average_pool", &[x])?;
    let x = net.reshape(x, &[1, width])?;
    let x = net.linear(x, width, classes)?;
    net.op("softmax", Attrs::new().with("axis", -1i64), &[x])
}

struct Shape {
    tokens: usize,
    past: usize,
    width: usize,
    heads: usize,
    layers: usize,
}

fn transformer(net: &mut Net, s: &Shape) -> Made {
    let mut x = net.input(&[1, s.tokens, s.width]);
    for layer in 0..s.layers {
        let y = net.norm(x, s.width)?;
        let y = attention(net, y, s)?;
        let sum = net.plain("add", &[x, y])?;
        let y = net.norm(sum, s.width)?;
        let y = net.linear(y, s.width, 4 * s.width)?;
        let y = if layer % 2 == 0 { gelu(net, y)? } else { tanh_gelu(net, y)? };
        let y = net.linear(y, 4 * s.width, s.width)?;
        x = net.plain("add", &[sum, y])?;
    }
    Ok(x)
}

fn attention(net: &mut Net, x: ValueId, s: &Shape) -> Made {
    let depth = s.width / s.heads;
    let mut heads = Vec::new();
    for perm in [[0i64, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]] {
        let y = net.linear(x, s.width, s.width)?;
        let y = net.reshape(y, &[1, s.tokens, s.heads, depth])?;
        heads.push(net.transpose(y, &perm)?);
    }
    if s.past > 0 {
        for (n, shape) in [(1, [1, s.heads, depth, s.past]), (2, [1, s.heads, s.past, depth])] {
            let past = net.input(&shape);
            let axis = if n == 1 { 3i64 } else { 2 };
            heads[n] = net.op("concat", Attrs::new().with("axis", axis), &[past, heads[n]])?;
            net.output(heads[n]);
        }
    }
    let scores = net.plain("matmul", &[heads[0], heads[1]])?;
    let scale = net.scalar((depth as f32).sqrt());
    let scaled = net.plain("div", &[scores, scale])?;
    let weights = net.op("softmax", Attrs::new().with("axis", -1i64), &[scaled])?;
    let mixed = net.plain("matmul", &[weights, heads[2]])?;
    let back = net.transpose(mixed, &[0, 2, 1, 3])?;
    let flat = net.reshape(back, &[1, s.tokens, s.width])?;
    net.linear(flat, s.width, s.width)
}

/// `x (1 + erf(x / √2)) / 2` in single steps, as exporters write it.
fn gelu(net: &mut Net, x: ValueId) -> Made {
    let root = net.scalar(std::f32::consts::SQRT_2);
    let inner = net.plain("div", &[x, root])?;
    let erf = net.plain("erf", &[inner])?;
    let one = net.scalar(1.0);
    let sum = net.plain("add", &[erf, one])?;
    let product = net.plain("mul", &[x, sum])?;
    let half = net.scalar(0.5);
    net.plain("mul", &[product, half])
}

/// The same by tanh.
fn tanh_gelu(net: &mut Net, x: ValueId) -> Made {
    net.op("gelu", Attrs::new().with("approximate", "tanh"), &[x])
}
