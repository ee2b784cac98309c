//! Masks of ONNX Runtime's contributed attention operators, which are filled with a large negative number rather
//! than with minus infinity.

use crate::common::{type_error, unsupported};
use crate::eval::same_dim;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::types::Type;
use partita_ir::{Dim, Tensor};

/// Batches, queries and keys.
pub(crate) type Extent<T> = [T; 3];

/// Checks the shape of a padding mask.
///
/// # Errors
/// `V020` when it is none of the forms, `U001` for the form of rank 4.
pub(crate) fn check_padding(mask: &Type, [batches, queries, keys]: &Extent<Dim>) -> Result<(), Diag> {
    if mask.dtype.is_float() {
        return Err(type_error(format!("the padding mask must be integers, not {mask}")));
    }
    match mask.shape.as_slice() {
        [n] => match (n.as_known(), batches.as_known()) {
            (Some(n), Some(b)) if n != b && n != 2 * b && n != 3 * b + 2 => {
                Err(type_error(format!("a padding mask of {n} numbers does not fit {b} batches")))
            }
            _ => Ok(()),
        },
        [b, k] => {
            same_dim(b, batches, "batches of the padding mask")?;
            same_dim(k, keys, "keys of the padding mask")
        }
        [b, q, k] => {
            same_dim(b, batches, "batches of the padding mask")?;
            same_dim(q, queries, "queries of the padding mask")?;
            same_dim(k, keys, "keys of the padding mask")
        }
        [_, _, _, _] => Err(unsupported("a padding mask of rank 4 is not supported")
            .hint("give the mask as [batch, queries, keys]")),
        _ => Err(type_error(format!("the padding mask {mask} has none of the known shapes"))),
    }
}

/// Checks the shape of an attention bias, `[batch or 1, heads or 1, queries, keys]`.
///
/// # Errors
/// `V020` when it has another.
pub(crate) fn check_bias(bias: &Type, heads: &Dim, extent: &Extent<Dim>) -> Result<(), Diag> {
    let [batches, queries, keys] = extent;
    let [b, h, q, k] = bias.shape.as_slice() else {
        return Err(type_error(format!("the attention bias must have rank 4, it is {bias}")));
    };
    for (dim, whole) in [(b, batches), (h, heads)] {
        if !dim.is(1) {
            same_dim(dim, whole, "a dimension of the attention bias")?;
        }
    }
    same_dim(q, queries, "queries of the attention bias")?;
    same_dim(k, keys, "keys of the attention bias")
}

/// What is added to the scores.
pub(crate) struct ContribMask {
    padding: Option<(Vec<i64>, Vec<usize>)>,
    bias: Option<Bias>,
    /// Number for hidden keys.
    filter: f64,
    /// Keys in front of the first query, where queries look back only.
    causal: Option<usize>,
    extent: Extent<usize>,
}

impl ContribMask {
    /// A mask with the operator's attributes; `past` is the number of keys in front of the first query.
    pub(crate) fn new(
        attrs: &Attrs,
        padding: Option<&Tensor>,
        bias: Option<&Tensor>,
        past: usize,
        extent: Extent<usize>,
    ) -> Self {
        Self {
            padding: padding.map(|t| (t.to_i64s(), t.shape().to_vec())),
            bias: bias.map(Bias::new),
            filter: f64::from(attrs.float_or("mask_filter_value", -10000.0)),
            causal: attrs.flag("unidirectional").then_some(past),
            extent,
        }
    }

    /// The number for `[batch, head, query, key]`.
    pub(crate) fn at(&self, at: [usize; 4]) -> f64 {
        let [batch, _, query, key] = at;
        // The last query is never limited: its keys end with it, but for queries and keys of different lengths.
        let ahead = self.causal.is_some_and(|past| query + 1 < self.extent[1] && key > past + query);
        let base = match () {
            () if ahead => f64::from(f32::MIN),
            () if self.is_padding(batch, query, key) => self.filter,
            () => 0.0,
        };
        base + self.bias.as_ref().map_or(0.0, |bias| bias.at(at))
    }

    fn is_padding(&self, batch: usize, query: usize, key: usize) -> bool {
        let Some((mask, shape)) = &self.padding else { return false };
        let [batches, queries, keys] = self.extent;
        match shape.len() {
            // The end of each batch's keys, and in the double form their start.
            1 => {
                let start = if shape[0] == 2 * batches { mask[batches + batch] } else { 0 };
                key as i64 >= mask[batch] || (key as i64) < start
            }
            2 => mask[batch * keys + key] <= 0,
            _ => mask[(batch * queries + query) * keys + key] <= 0,
        }
    }
}

/// An attention bias.
pub(crate) struct Bias {
    values: Vec<f64>,
    shape: Vec<usize>,
}

impl Bias {
    /// The bias in a tensor of rank 4.
    pub(crate) fn new(t: &Tensor) -> Self {
        Self { values: t.to_f64s(), shape: t.shape().to_vec() }
    }

    /// The number for `[batch, head, query, key]`.
    pub(crate) fn at(&self, at: [usize; 4]) -> f64 {
        self.values[crate::common::broadcast_position(&at, &self.shape)]
    }
}
