//! `gemm`: matrix product over the last two axes, leading axes broadcast, epilogue on every element.

use crate::index::{Axis, broadcast, strided};
use crate::kernels::product::{Product, product};
use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Generates the kernel.
pub(crate) fn gemm(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let (trans_a, trans_b) = (step.int_or("trans_a", 0) != 0, step.int_or("trans_b", 0) != 0);
    let (rows, depth) = matrix(step, &a.shape, trans_a)?;
    let (inner, cols) = matrix(step, &b.shape, trans_b)?;
    let leading = y.shape.len().saturating_sub(2);
    let batch = &y.shape[..leading];
    if inner != depth || y.shape.get(leading..) != Some(&[rows, cols]) {
        return Err(step.error("the shapes of a matrix product do not match"));
    }
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.floats_in(1)?;
    shader.output(0)?;
    shader.epilogue()?;
    let at = |name: &str, shape: &[usize], transposed: bool| {
        let lines = shape.len() - 2;
        let (i, j) = if transposed { ("c", "r") } else { ("r", "c") };
        let base = strided("z", &in_elements(batch, shape), 0);
        format!(
            "fn {name}_at(z: u32, r: u32, c: u32) -> f32 {{ return x{}_f({base} + {i} * {}u + {j}); }}",
            if name == "a" { 0 } else { 1 },
            shape[lines + 1]
        )
    };
    shader.line(&at("a", &a.shape, trans_a));
    shader.line(&at("b", &b.shape, trans_b));
    shader.line(&format!(
        "fn put_at(z: u32, r: u32, c: u32, v: f32) {{ let i = (z * {rows}u + r) * {cols}u + c; put0_f(i, finish(v, i)); }}"
    ));
    let batches = batch.iter().product();
    let p = Product { batches, rows, cols, depth, a_row_fast: trans_a, b_k_fast: trans_b };
    Ok(vec![product(shader, &p)?])
}

/// Rows and columns of the last two axes, as the product sees them.
fn matrix(step: &Step, shape: &[usize], transposed: bool) -> Result<(usize, usize), RuntimeError> {
    match shape {
        [.., r, c] if transposed => Ok((*c, *r)),
        [.., r, c] => Ok((*r, *c)),
        _ => Err(step.error("a factor of a matrix product has fewer than two axes")),
    }
}

/// The walk over `batch` through the leading axes of `shape`, in elements of the whole tensor.
pub(crate) fn in_elements(batch: &[usize], shape: &[usize]) -> Vec<Axis> {
    let (leading, matrix) = shape.split_at(shape.len() - 2);
    let size: usize = matrix.iter().product();
    let axes = broadcast(batch, leading);
    axes.into_iter().map(|a| Axis { size: a.size, stride: a.stride * size as i64 }).collect()
}
