//! Reference architectures as graph builders at Tiny, Small and Full size, with seeded weights.
//!
//! **Contract.** A builder returns a valid graph; the same size and seed give the same graph.
//!
//! **Invariants.** No file is read; Tiny runs in tests in milliseconds.

mod cnn;
mod layers;
mod mlp;
mod transformer;

pub use cnn::cnn;
pub use mlp::mlp;
pub use transformer::transformer;

use partita_ir::Graph;
use partita_ir::diag::Diag;

/// How large a model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For tests.
    Tiny,
    /// For quick measurements.
    Small,
    /// As published.
    Full,
}

/// A builder of one architecture.
pub type Build = fn(Size) -> Result<Graph, Diag>;

/// Every architecture with its name.
pub const MODELS: &[(&str, Build)] = &[("cnn", cnn), ("mlp", mlp), ("transformer", transformer)];

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::{interp, verify};

    #[test]
    fn tiny_models_verify_and_run() {
        for (name, build) in MODELS {
            let graph = build(Size::Tiny).unwrap();
            verify::verify(&graph).unwrap();
            let inputs: Vec<_> = graph
                .inputs()
                .iter()
                .map(|v| {
                    let ty = graph.ty(*v).bind(&|_| Some(2));
                    partita_ir::op::Rng(7).tensor(ty.dtype, &ty.known_shape().unwrap(), -1.0, 1.0)
                })
                .collect();
            let outputs = interp::run(&graph, &inputs).unwrap();
            assert!(outputs[0].to_f64s().iter().all(|v| v.is_finite()), "{name}");
        }
    }
}
