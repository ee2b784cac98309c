//! Layers: a builder with seeded weights and short names for what architectures are made of.

use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::Rng;
use partita_ir::{Builder, DType, Graph, Tensor, Type, ValueId};

/// A graph under construction.
pub(crate) struct Net {
    builder: Builder,
    rng: Rng,
}

type Made = Result<ValueId, Diag>;

impl Net {
    pub(crate) fn new(name: &str) -> Self {
        Self { builder: Builder::new(name), rng: Rng(1) }
    }

    pub(crate) fn input(&mut self, name: &str, ty: Type) -> ValueId {
        self.builder.input(name, ty)
    }

    /// One operator.
    pub(crate) fn op(&mut self, name: &str, attrs: Attrs, inputs: &[ValueId]) -> Made {
        let op =
            partita_ops::op(name).ok_or_else(|| Diag::new("U002", format!("there is no operator {name}")))?;
        self.builder.op(op, attrs, inputs)
    }

    pub(crate) fn plain(&mut self, name: &str, inputs: &[ValueId]) -> Made {
        self.op(name, Attrs::new(), inputs)
    }

    /// A weight, uniform so that a product over `fan_in` terms keeps unit scale.
    pub(crate) fn weight(&mut self, shape: &[usize], fan_in: usize) -> ValueId {
        let bound = (3.0 / fan_in.max(1) as f64).sqrt();
        let tensor = self.rng.tensor(DType::F32, shape, -bound, bound);
        let name = format!("weight_{}", self.builder.graph().n_values());
        self.builder.constant(&name, tensor)
    }

    pub(crate) fn scalar(&mut self, value: f32) -> ValueId {
        let name = format!("scalar_{}", self.builder.graph().n_values());
        self.builder.constant(&name, Tensor::scalar(value))
    }

    /// `x · w + b`.
    pub(crate) fn linear(&mut self, x: ValueId, from: usize, to: usize) -> Made {
        let w = self.weight(&[from, to], from);
        let b = self.weight(&[to], 12);
        let y = self.plain("matmul", &[x, w])?;
        self.plain("add", &[y, b])
    }

    /// Convolution that keeps the size (odd kernel), batch normalisation, ReLU.
    pub(crate) fn conv_bn_relu(
        &mut self,
        x: ValueId,
        from: usize,
        to: usize,
        kernel: usize,
        stride: i64,
    ) -> Made {
        let w = self.weight(&[to, from, kernel, kernel], from * kernel * kernel);
        let pad = (kernel / 2) as i64;
        let attrs = Attrs::new().with("pads", vec![pad; 4]).with("strides", vec![stride; 2]);
        let y = self.op("conv", attrs, &[x, w])?;
        let (scale, bias, mean) = (self.weight(&[to], 3), self.weight(&[to], 12), self.weight(&[to], 12));
        let name = format!("variance_{}", self.builder.graph().n_values());
        let variance = self.rng.tensor(DType::F32, &[to], 0.5, 1.5);
        let variance = self.builder.constant(&name, variance);
        let y = self.plain("batch_norm", &[y, scale, bias, mean, variance])?;
        self.plain("relu", &[y])
    }

    /// Layer normalisation over the last axis.
    pub(crate) fn norm(&mut self, x: ValueId, width: usize) -> Made {
        let (scale, bias) = (self.weight(&[width], 3), self.weight(&[width], 12));
        self.op("layer_norm", Attrs::new().with("axis", -1i64), &[x, scale, bias])
    }

    pub(crate) fn finish(mut self, name: &str, output: ValueId) -> Graph {
        self.builder.output(name, output);
        self.builder.finish()
    }
}
