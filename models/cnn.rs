//! Residual convolutional classifier (He et al. 2015, basic blocks).

use crate::Size;
use crate::layers::Net;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::{DType, Dim, Graph, Type};

/// `f32[batch, 3, s, s] -> f32[batch, classes]`: a stem, stages of residual blocks that halve the size and
/// double the channels, global average pooling, one linear layer.
///
/// # Errors
/// Never for the sizes here; inference speaks if an operator row is wrong.
pub fn cnn(size: Size) -> Result<Graph, Diag> {
    let (side, channels, stages, blocks, classes) = match size {
        Size::Tiny => (8usize, 4usize, 2usize, 1usize, 3usize),
        Size::Small => (32, 16, 3, 2, 10),
        Size::Full => (224, 64, 4, 2, 1000),
    };
    let mut net = Net::new("cnn");
    let shape = [Dim::symbol("batch"), 3.into(), side.into(), side.into()];
    let x = net.input("image", Type::new(DType::F32, shape));
    let mut width = channels;
    let mut x = net.conv_bn_relu(x, 3, width, 3, 1)?;
    for stage in 0..stages {
        if stage > 0 {
            x = net.conv_bn_relu(x, width, 2 * width, 3, 2)?;
            width *= 2;
        }
        for _ in 0..blocks {
            let y = net.conv_bn_relu(x, width, width, 3, 1)?;
            let y = net.conv_bn_relu(y, width, width, 3, 1)?;
            x = net.plain("add", &[x, y])?;
        }
    }
    let pooled = net.plain("global_average_pool", &[x])?;
    let flat = net.op("flatten", Attrs::new().with("axis", 1i64), &[pooled])?;
    let y = net.linear(flat, width, classes)?;
    Ok(net.finish("scores", y))
}
