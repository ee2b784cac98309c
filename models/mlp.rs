//! Multi-layer perceptron over a symbolic batch.

use crate::Size;
use crate::layers::Net;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::{DType, Dim, Graph, Type};

/// `f32[batch, in] -> f32[batch, out]`: linear layers with ReLU between and softmax behind.
///
/// # Errors
/// Never for the sizes here; inference speaks if an operator row is wrong.
pub fn mlp(size: Size) -> Result<Graph, Diag> {
    let widths: &[usize] = match size {
        Size::Tiny => &[8, 16, 4],
        Size::Small => &[784, 256, 128, 10],
        Size::Full => &[4096, 4096, 4096, 4096, 1000],
    };
    let mut net = Net::new("mlp");
    let mut x = net.input("x", Type::new(DType::F32, [Dim::symbol("batch"), widths[0].into()]));
    for (n, pair) in widths.windows(2).enumerate() {
        if n > 0 {
            x = net.plain("relu", &[x])?;
        }
        x = net.linear(x, pair[0], pair[1])?;
    }
    let y = net.op("softmax", Attrs::new().with("axis", -1i64), &[x])?;
    Ok(net.finish("y", y))
}
