//! Which scale and zero point an element of quantised data has: one for all, one per slice along an axis, or one
//! per block. Shared by the operators that quantise.

use crate::common::{attr_error, axis_of, input, type_error};
use crate::eval::{Lines, optional_type, same_dim};
use partita_ir::Dim;
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::InferCtx;
use partita_ir::tensor::n_elements;
use partita_ir::types::Type;

/// The attribute `block_size`; `None` without blocks.
fn block_size(attrs: &Attrs) -> Result<Option<i64>, Diag> {
    match attrs.int_or("block_size", 0) {
        0 => Ok(None),
        size @ 1.. => Ok(Some(size)),
        size => Err(attr_error(format!("block_size is {size}, it must be positive"))),
    }
}

/// Checks the shapes of scale (operand 1) and zero point (operand 2) against the data (operand 0).
///
/// # Errors
/// `V020` for shapes that do not fit, `V021` for an axis or block size out of range.
pub(crate) fn check(ctx: &InferCtx) -> Result<(), Diag> {
    let (x, scale) = (input(ctx, 0)?, input(ctx, 1)?);
    check_scale(ctx.attrs, x, scale)?;
    match optional_type(ctx, 2) {
        Some(zero) if !may_be_equal(&zero.n_elements(), &scale.n_elements()) => {
            Err(type_error(format!("zero point {zero} and scale {scale} must have the same shape")))
        }
        _ => Ok(()),
    }
}

fn may_be_equal(a: &Dim, b: &Dim) -> bool {
    a.as_known().zip(b.as_known()).is_none_or(|(a, b)| a == b)
}

fn check_scale(attrs: &Attrs, x: &Type, scale: &Type) -> Result<(), Diag> {
    let block = block_size(attrs)?;
    if scale.n_elements().is(1) {
        return Ok(());
    }
    let axis = axis_of(attrs.int_or("axis", 1), x.rank());
    match (block, scale.shape.as_slice()) {
        (Some(block), shape) if shape.len() == x.rank() => check_blocks(x, scale, axis?, block),
        // One element at run time, perhaps: then the axis does not count.
        (None, [d]) if axis.is_err() && d.as_known().is_none() => Ok(()),
        (None, [d]) => same_dim(d, &x.shape[axis?], "scales and slices along the axis"),
        (Some(_), _) => Err(type_error(format!("the scale {scale} of blocks must have the rank of {x}"))),
        (None, _) => Err(type_error(format!("the scale must be a number or a vector, it is {scale}"))
            .hint("state a block_size for scales of blocks")),
    }
}

fn check_blocks(x: &Type, scale: &Type, axis: usize, block: i64) -> Result<(), Diag> {
    for (a, (d, s)) in x.shape.iter().zip(&scale.shape).enumerate() {
        if a == axis {
            same_dim(s, &d.ceil_div(&Dim::known(block)), "scales and blocks along the axis")?;
        } else {
            same_dim(s, d, "sizes of data and scale")?;
        }
    }
    Ok(())
}

/// Where an element finds its scale.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// One for all.
    One,
    /// One per slice along an axis.
    Slices(Lines),
    /// One per block of `block` elements along an axis that has `n_blocks` of them.
    Blocks { lines: Lines, block: usize, n_blocks: usize },
}

impl Spread {
    /// For data of shape `x` and scales of shape `scale` that `check` accepts.
    ///
    /// # Errors
    /// `V021` for an axis out of range.
    pub(crate) fn new(attrs: &Attrs, x: &[usize], scale: &[usize]) -> Result<Self, Diag> {
        if n_elements(scale) == Some(1) {
            return Ok(Self::One);
        }
        let axis = axis_of(attrs.int_or("axis", 1), x.len())?;
        let lines = Lines::new(x, axis, axis + 1);
        Ok(match block_size(attrs)? {
            None => Self::Slices(lines),
            Some(block) => Self::Blocks {
                lines,
                block: usize::try_from(block).unwrap_or(usize::MAX),
                n_blocks: scale.get(axis).copied().unwrap_or(1),
            },
        })
    }

    /// Position of the scale of element `i`.
    pub(crate) fn at(self, i: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Slices(l) => i / l.inner % l.len,
            Self::Blocks { lines: l, block, n_blocks } => {
                let (outer, k) = (i / l.inner / l.len, i / l.inner % l.len);
                (outer * n_blocks + k / block) * l.inner + i % l.inner
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_remainder() {
        let attrs = Attrs::new().with("axis", 1i64).with("block_size", 2i64);
        let spread = Spread::new(&attrs, &[2, 3, 2], &[2, 2, 2]).unwrap();
        let at: Vec<usize> = (0..12).map(|i| spread.at(i)).collect();
        assert_eq!(at, [0, 1, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = Type::known(partita_ir::DType::F32, &[2, 5]);
        let check = |shape: &[usize], block: i64, axis: i64| {
            let attrs = Attrs::new().with("axis", axis).with("block_size", block);
            check_scale(&attrs, &x, &Type::known(partita_ir::DType::F32, shape)).map_err(|d| d.code)
        };
        assert_eq!(check(&[], 0, 7), Ok(()));
        assert_eq!(check(&[5], 0, 1), Ok(()));
        assert_eq!(check(&[5], 0, 0), Err("V020"));
        assert_eq!(check(&[5], 0, 2), Err("V021"));
        assert_eq!(check(&[2, 3], 2, 1), Ok(()));
        assert_eq!(check(&[2, 2], 2, 1), Err("V020"));
        assert_eq!(check(&[2, 3], -2, 1), Err("V021"));
        assert_eq!(check(&[2, 3], 0, 1), Err("V020"));
    }
}
