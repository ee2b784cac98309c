//! The attribute `layout` of convolutions and poolings: data and result with the channels behind the spatial axes.
//!
//! An operator is defined on [N, C, ...]. Any other layout is that definition between two permutations, so inference
//! and evaluation are wrapped here once and the operators themselves know of one layout only.

use crate::common::{attr, attr_error};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrDef, AttrKind, EvalCtx, EvalFn, InferCtx, InferFn, Operand, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{Dim, Tensor};

/// The attribute's row: absent or `nchw`, `nhwc`, or `nchw_nhwc` (the data is [N, C, ...], the result [N, ..., C]: the
/// first convolution of a net).
pub(crate) const LAYOUT: AttrDef = attr("layout", AttrKind::Str);

/// Which sides have their channels last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub input: bool,
    pub output: bool,
}

impl Layout {
    /// What the attributes say.
    ///
    /// # Errors
    /// `V021` for a word that is not a layout.
    pub fn read(attrs: &Attrs) -> Result<Self, Diag> {
        match attrs.str("layout").unwrap_or("nchw") {
            "nchw" => Ok(Self { input: false, output: false }),
            "nhwc" => Ok(Self { input: true, output: true }),
            "nchw_nhwc" => Ok(Self { input: false, output: true }),
            other => {
                Err(attr_error(format!("layout is {other:?}")).hint("allowed are nchw, nhwc and nchw_nhwc"))
            }
        }
    }

    fn is_plain(self) -> bool {
        !self.input && !self.output
    }
}

/// The permutation that moves the channels of `rank` axes behind the spatial ones.
pub fn to_last(rank: usize) -> Vec<usize> {
    (0..rank)
        .map(|i| {
            if i == 0 || rank < 3 {
                i
            } else if i + 1 == rank {
                1
            } else {
                i + 1
            }
        })
        .collect()
}

/// The permutation that moves the last of `rank` axes behind the first.
pub fn to_second(rank: usize) -> Vec<usize> {
    (0..rank)
        .map(|i| {
            if i == 0 || rank < 3 {
                i
            } else if i == 1 {
                rank - 1
            } else {
                i - 1
            }
        })
        .collect()
}

fn without_layout(attrs: &Attrs, n_outputs: usize) -> Result<Attrs, Diag> {
    if n_outputs > 1 {
        return Err(attr_error("only the plain layout has a second result"));
    }
    let mut attrs = attrs.clone();
    attrs.remove("layout");
    Ok(attrs)
}

fn permuted(ty: &Type, perm: &[usize]) -> Type {
    let shape: Vec<Dim> = perm.iter().map(|&p| ty.shape[p].clone()).collect();
    Type { shape, ..ty.clone() }
}

/// Types of the results of an operator that `plain` defines on [N, C, ...].
///
/// # Errors
/// What `plain` says; `V021` for an unknown layout, or more than one result in another than the plain one (a position
/// in the flattened data has no meaning there).
pub(crate) fn infer(ctx: &InferCtx, plain: InferFn) -> Result<Vec<Type>, Diag> {
    let layout = Layout::read(ctx.attrs)?;
    if layout.is_plain() {
        return plain(ctx);
    }
    let attrs = without_layout(ctx.attrs, ctx.n_outputs)?;
    let mut inputs = ctx.inputs.to_vec();
    let first = inputs.first().copied().flatten();
    let data = first.map(|o| permuted(o.ty, &to_second(o.ty.rank())));
    if let (Some(ty), true) = (&data, layout.input) {
        inputs[0] = Some(Operand { ty, content: None });
    }
    let types = plain(&InferCtx { attrs: &attrs, inputs: &inputs, ..*ctx })?;
    Ok(types.iter().map(|ty| permuted(ty, &to_last(ty.rank()))).collect())
}

fn transpose(x: &Tensor, perm: &[usize]) -> Result<Tensor, Diag> {
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    crate::layout::permuted(x, x.shape(), perm, &shape)
}

/// Evaluation of an operator that `plain` defines on [N, C, ...].
///
/// # Errors
/// What `plain` says; `V021` for an unknown layout.
pub(crate) fn eval(ctx: &EvalCtx, plain: EvalFn) -> Result<Vec<Tensor>, Diag> {
    let layout = Layout::read(ctx.attrs)?;
    if layout.is_plain() {
        return plain(ctx);
    }
    let attrs = without_layout(ctx.attrs, ctx.n_outputs)?;
    let mut inputs = ctx.inputs.to_vec();
    let first = inputs.first().copied().flatten();
    let data = first.map(|x| transpose(x, &to_second(x.rank()))).transpose()?;
    if let (Some(x), true) = (&data, layout.input) {
        inputs[0] = Some(x);
    }
    let results = plain(&EvalCtx { attrs: &attrs, inputs: &inputs, ..*ctx })?;
    results.iter().map(|y| transpose(y, &to_last(y.rank()))).collect()
}

/// The sample, in one of four cases in one of `layouts`.
pub(crate) fn sample(rng: &mut Rng, mut sample: Sample, layouts: &[&str]) -> Sample {
    if sample.n_outputs > 1 || rng.below(4) > 0 {
        return sample;
    }
    let layout = *rng.pick(layouts);
    if let (Some(Some(x)), "nhwc") = (sample.inputs.first_mut(), layout)
        && let Ok(turned) = transpose(x, &to_last(x.rank()))
    {
        *x = turned;
    }
    sample.attrs.set("layout", layout);
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::DType;

    #[test]
    fn permutations_are_inverse() {
        for rank in 0..6 {
            let (there, back) = (to_last(rank), to_second(rank));
            assert!((0..rank).all(|i| there[back[i]] == i), "{rank}");
        }
        assert_eq!(to_last(4), [0, 2, 3, 1]);
        assert_eq!(to_second(4), [0, 3, 1, 2]);
    }

    #[test]
    fn unknown_layouts_and_positions_are_refused() {
        let x = Tensor::from_f64s(DType::F32, &[1, 2, 2, 1], &[0.0; 4]).unwrap();
        let eval = |attrs: &Attrs, n_outputs| {
            let op = crate::op("max_pool").unwrap();
            (op.eval)(&EvalCtx { attrs, inputs: &[Some(&x)], n_outputs }).map_err(|d| d.code)
        };
        let attrs = Attrs::new().with("kernel_shape", vec![1i64, 1]);
        assert_eq!(eval(&attrs.clone().with("layout", "hwcn"), 1).unwrap_err(), "V021");
        assert_eq!(eval(&attrs.clone().with("layout", "nhwc"), 2).unwrap_err(), "V021");
        assert_eq!(eval(&attrs.with("layout", "nhwc"), 1).unwrap()[0].shape(), [1, 2, 2, 1]);
    }
}
