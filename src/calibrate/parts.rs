//! Single operators beside each other: elementwise programs by number and kind of operations, rows, pools, moves.

use super::nets::Net;
use crate::error::Result;
use partita_ir::attr::Attrs;
use partita_ir::{Dim, Graph, Tensor, ValueId};

/// What to measure, on `rows` rows of `width` elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Arithmetic only.
    Simple { rows: usize, width: usize },
    /// One kind of costly function in each program.
    Functions { rows: usize, width: usize },
    /// Along rows: normalisation and sums.
    Rows { rows: usize, width: usize },
    /// Heads to the front and back, cuts, joins, look-ups.
    Moves { rows: usize, width: usize, heads: usize },
    /// Windows over `[1, channels, side, side]`, and what makes such data larger.
    Pools { side: usize, channels: usize },
}

/// Rows of which a part that writes much is measured: beyond, its results alone would fill the memory of small machines.
const MANY_ROWS: usize = 2048;

impl Part {
    /// Everything that is measured on rows of one size.
    pub(super) fn of_rows((rows, width, heads): (usize, usize, usize)) -> Vec<Self> {
        let mut parts = vec![Self::Simple { rows, width }];
        if rows <= MANY_ROWS {
            parts.push(Self::Functions { rows, width });
            parts.push(Self::Rows { rows, width });
            parts.push(Self::Moves { rows, width, heads });
        }
        parts
    }

    /// The operators as a graph.
    pub(super) fn build(self) -> Result<Graph> {
        let mut net = Net::new(&format!("{self:?}"));
        let values = match self {
            Self::Simple { rows, width } => simple(&mut net, rows, width)?,
            Self::Functions { rows, width } => functions(&mut net, rows, width)?,
            Self::Rows { rows, width } => along(&mut net, rows, width)?,
            Self::Moves { rows, width, heads } => moves(&mut net, rows, width, heads)?,
            Self::Pools { side, channels } => pools(&mut net, side, channels)?,
        };
        values.into_iter().for_each(|v| net.output(v));
        Ok(net.finish())
    }
}

fn simple(net: &mut Net, rows: usize, width: usize) -> Result<Vec<ValueId>> {
    let (x, y) = (net.input(&[rows, width]), net.input(&[rows, width]));
    let (scale, bias) = (net.weight(&[width], 3), net.weight(&[width], 12));
    let scaled = net.plain("mul", &[x, scale])?;
    let mut long = x;
    for n in 0..6 {
        let c = net.scalar(0.5 + n as f32);
        long = net.plain(if n % 2 == 0 { "add" } else { "mul" }, &[long, y])?;
        long = net.plain("max", &[long, c])?;
    }
    let product = net.plain("mul", &[x, y])?;
    Ok(vec![
        net.plain("relu", &[x])?,
        net.plain("add", &[x, y])?,
        net.plain("add", &[scaled, bias])?,
        net.plain("hard_swish", &[product])?,
        long,
    ])
}

fn functions(net: &mut Net, rows: usize, width: usize) -> Result<Vec<ValueId>> {
    let x = net.input(&[rows, width]);
    let size = net.plain("abs", &[x])?;
    let mut out = Vec::new();
    for name in ["exp", "sigmoid", "tanh", "erf", "silu", "gelu", "softplus", "reciprocal"] {
        out.push(net.plain(name, &[x])?);
    }
    for name in ["sqrt", "log"] {
        out.push(net.plain(name, &[size])?);
    }
    Ok(out)
}

fn along(net: &mut Net, rows: usize, width: usize) -> Result<Vec<ValueId>> {
    let x = net.input(&[rows, width]);
    let (scale, bias) = (net.weight(&[width], 3), net.weight(&[width], 12));
    let last = || Attrs::new().with("axis", -1i64);
    let over = |axis: i64| Attrs::new().with("axes", vec![axis]).with("keepdims", 1i64);
    Ok(vec![
        net.op("softmax", last(), &[x])?,
        net.op("layer_norm", last(), &[x, scale, bias])?,
        net.op("rms_norm", last(), &[x, scale])?,
        net.op("reduce_mean", over(1), &[x])?,
        net.op("reduce_max", over(1), &[x])?,
        net.op("reduce_sum", over(0), &[x])?,
    ])
}

fn moves(net: &mut Net, rows: usize, width: usize, heads: usize) -> Result<Vec<ValueId>> {
    let x = net.input(&[1, rows, heads, width / heads]);
    let (a, b) = (net.input(&[rows, width]), net.input(&[rows, width]));
    let perm = |p: &[i64]| Attrs::new().with("perm", p.to_vec());
    let axis = |n: i64| Attrs::new().with("axis", n);
    let order: Vec<i64> = (0..rows as i64).map(|n| (n * 7) % rows as i64).collect();
    let order = net.constant(Tensor::from_slice(&[rows], &order));
    let (first, half) = (vec![Dim::from(0usize)], vec![Dim::from(width / 2)]);
    let cut = Attrs::new().with("starts", first).with("ends", half).with("axes", vec![1i64]);
    let mut out = vec![
        net.op("transpose", perm(&[0, 2, 1, 3]), &[x])?,
        net.op("transpose", perm(&[0, 2, 3, 1]), &[x])?,
        net.op("transpose", perm(&[1, 0]), &[a])?,
        net.op("concat", axis(1), &[a, b])?,
        net.op("concat", axis(0), &[a, b])?,
        net.op("slice", cut, &[a])?,
        net.op("gather", axis(0), &[a, order])?,
    ];
    out.extend(net.many("split", axis(1).with("num_outputs", 2i64), &[b], 2)?);
    Ok(out)
}

fn pools(net: &mut Net, side: usize, channels: usize) -> Result<Vec<ValueId>> {
    let x = net.input(&[1, channels, side, side]);
    let x = net.plain("relu", &[x])?;
    let window = |k: i64, s: i64| Attrs::new().with("kernel_shape", vec![k; 2]).with("strides", vec![s; 2]);
    let mut up = |kernel: usize, pad: i64| {
        let weight = net.weight(&[channels, channels / 2, kernel, kernel], channels * kernel);
        let attrs = Attrs::new().with("strides", vec![2i64; 2]).with("pads", vec![pad; 4]);
        net.op("conv_transpose", attrs, &[x, weight])
    };
    let (double, smooth) = (up(2, 0)?, up(4, 1)?);
    Ok(vec![
        double,
        smooth,
        net.op("max_pool", window(3, 2).with("pads", vec![1i64; 4]), &[x])?,
        net.op("max_pool", window(2, 2), &[x])?,
        net.op("average_pool", window(3, 1).with("pads", vec![1i64; 4]), &[x])?,
        net.plain("global_average_pool", &[x])?,
    ])
}
