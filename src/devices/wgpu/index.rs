//! Index arithmetic as WGSL expressions: from a linear index over some axes to a strided offset.

use std::fmt::Write;

/// An axis that is walked: its size and the offset one step along it adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub size: usize,
    pub stride: i64,
}

/// Row-major strides of a shape, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for k in (1..shape.len()).rev() {
        strides[k - 1] = strides[k].wrapping_mul(shape[k] as i64);
    }
    strides
}

/// The walk over `shape` through a tensor of shape `from`, broadcast by numpy's rules.
pub(crate) fn broadcast(shape: &[usize], from: &[usize]) -> Vec<Axis> {
    let own = strides(from);
    let skip = shape.len().saturating_sub(from.len());
    let stride = |k: usize| if k < skip || from[k - skip] == 1 { 0 } else { own[k - skip] };
    shape.iter().enumerate().map(|(k, &size)| Axis { size, stride: stride(k) }).collect()
}

/// Joins neighbours that are walked as one, and drops axes of size one.
fn collapse(axes: &[Axis]) -> Vec<Axis> {
    let mut joined: Vec<Axis> = Vec::new();
    for axis in axes.iter().filter(|a| a.size != 1) {
        match joined.last_mut() {
            Some(last) if last.stride == axis.stride.wrapping_mul(axis.size as i64) => {
                *last = Axis { size: last.size * axis.size, stride: axis.stride };
            }
            _ => joined.push(*axis),
        }
    }
    joined
}

/// `offset + sum of coordinate * stride` for the row-major index `i` (a WGSL u32 below the product of sizes).
/// Negative numbers are written modulo 2^32, where u32 arithmetic gives the right sum.
pub(crate) fn strided(i: &str, axes: &[Axis], offset: i64) -> String {
    let axes = collapse(axes);
    let mut terms = Vec::new();
    let mut below = 1usize;
    for (k, axis) in axes.iter().enumerate().rev() {
        if axis.stride != 0 {
            terms.push(term(i, below, (k > 0).then_some(axis.size), axis.stride));
        }
        below *= axis.size;
    }
    if offset != 0 || terms.is_empty() {
        terms.push(word(offset));
    }
    terms.reverse();
    if terms.len() == 1 { terms.remove(0) } else { format!("({})", terms.join(" + ")) }
}

fn term(i: &str, below: usize, modulus: Option<usize>, stride: i64) -> String {
    let mut text = i.to_owned();
    if below > 1 {
        text = format!("({text} / {below}u)");
    }
    if let Some(size) = modulus {
        text = format!("({text} % {size}u)");
    }
    if stride != 1 {
        let _ = write!(text, " * {}", word(stride));
    }
    text
}

/// A number modulo 2^32 as a WGSL literal.
pub(crate) fn word(value: i64) -> String {
    format!("{}u", value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_shape_is_the_index_itself() {
        assert_eq!(strided("i", &broadcast(&[2, 3, 4], &[2, 3, 4]), 0), "i");
        assert_eq!(strided("i", &broadcast(&[2, 3], &[]), 0), "0u");
    }

    #[test]
    fn channels_and_rows_need_one_division() {
        assert_eq!(strided("i", &broadcast(&[2, 3, 4, 5], &[3, 1, 1]), 0), "((i / 20u) % 3u)");
        assert_eq!(strided("i", &broadcast(&[2, 5], &[5]), 0), "(i % 5u)");
        assert_eq!(strided("i", &broadcast(&[2, 5], &[2, 1]), 0), "(i / 5u)");
    }

    #[test]
    fn negative_strides_wrap() {
        assert_eq!(strided("i", &[Axis { size: 4, stride: -1 }], 3), "(3u + i * 4294967295u)");
    }
}
