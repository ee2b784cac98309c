//! Transformer encoder (Vaswani et al. 2017; post-norm and GELU as in BERT, Devlin et al. 2018).

use crate::Size;
use crate::layers::Net;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::{DType, Dim, Graph, Type, ValueId};

struct Shape {
    width: usize,
    heads: usize,
    layers: usize,
}

/// `f32[batch, seq, width] -> f32[batch, seq, width]`, written out operator by operator as exporters do.
///
/// # Errors
/// Never for the sizes here; inference speaks if an operator row is wrong.
pub fn transformer(size: Size) -> Result<Graph, Diag> {
    let shape = match size {
        Size::Tiny => Shape { width: 8, heads: 2, layers: 1 },
        Size::Small => Shape { width: 128, heads: 4, layers: 2 },
        Size::Full => Shape { width: 768, heads: 12, layers: 12 },
    };
    let mut net = Net::new("transformer");
    let dims = [Dim::symbol("batch"), Dim::symbol("seq"), shape.width.into()];
    let mut x = net.input("x", Type::new(DType::F32, dims));
    for _ in 0..shape.layers {
        let attended = attention(&mut net, x, &shape)?;
        let sum = net.plain("add", &[x, attended])?;
        x = net.norm(sum, shape.width)?;
        let hidden = net.linear(x, shape.width, 4 * shape.width)?;
        let hidden = gelu(&mut net, hidden)?;
        let fed = net.linear(hidden, 4 * shape.width, shape.width)?;
        let sum = net.plain("add", &[x, fed])?;
        x = net.norm(sum, shape.width)?;
    }
    Ok(net.finish("y", x))
}

fn attention(net: &mut Net, x: ValueId, shape: &Shape) -> Result<ValueId, Diag> {
    let depth = shape.width / shape.heads;
    let mut heads = Vec::new();
    for perm in [[0i64, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]] {
        let y = net.linear(x, shape.width, shape.width)?;
        let dims = vec![Dim::symbol("batch"), Dim::symbol("seq"), shape.heads.into(), depth.into()];
        let y = net.op("reshape", Attrs::new().with("shape", dims), &[y])?;
        heads.push(net.op("transpose", Attrs::new().with("perm", perm.to_vec()), &[y])?);
    }
    let scores = net.plain("matmul", &[heads[0], heads[1]])?;
    let scale = net.scalar((depth as f32).sqrt());
    let scaled = net.plain("div", &[scores, scale])?;
    let weights = net.op("softmax", Attrs::new().with("axis", -1i64), &[scaled])?;
    let mixed = net.plain("matmul", &[weights, heads[2]])?;
    let back = net.op("transpose", Attrs::new().with("perm", vec![0i64, 2, 1, 3]), &[mixed])?;
    let dims = vec![Dim::symbol("batch"), Dim::symbol("seq"), shape.width.into()];
    let flat = net.op("reshape", Attrs::new().with("shape", dims), &[back])?;
    net.linear(flat, shape.width, shape.width)
}

/// `x (1 + erf(x / √2)) / 2` in single steps.
fn gelu(net: &mut Net, x: ValueId) -> Result<ValueId, Diag> {
    let root = net.scalar(std::f32::consts::SQRT_2);
    let inner = net.plain("div", &[x, root])?;
    let erf = net.plain("erf", &[inner])?;
    let one = net.scalar(1.0);
    let sum = net.plain("add", &[erf, one])?;
    let product = net.plain("mul", &[x, sum])?;
    let half = net.scalar(0.5);
    net.plain("mul", &[product, half])
}
