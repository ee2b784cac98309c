//! The determinant of square matrices.

use crate::common::{
    PLAIN, exactly, from_f64s, input, onnx, sample_of, sample_shape, tensor, type_error, work,
};
use crate::eval::{result, same_dim, want_float};
use crate::samples::float;
use partita_ir::Tensor;
use partita_ir::diag::Diag;
use partita_ir::op::{EvalCtx, InferCtx, OpDef};
use partita_ir::types::Type;
use partita_ir::work::WorkKind;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&DET];

static DET: OpDef = OpDef {
    name: "det",
    doc: "The determinant of the matrices in the last two axes.",
    onnx: &[onnx("Det", 11)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[],
    traits: PLAIN,
    infer,
    content: None,
    eval,
    scalar: None,
    data: None,
    work: |c| {
        let shape: &[usize] = c.inputs.first().and_then(Option::as_ref).map_or(&[], |(_, s)| s);
        let elements: f64 = shape.iter().map(|&d| d as f64).product();
        // Elimination takes two thirds of the cube of the size for each matrix.
        work(c, elements * shape.last().map_or(0.0, |&d| d as f64) * 2.0 / 3.0, WorkKind::Vector)
    },
    sample: |rng| {
        let (rank, size) = (rng.below(3), 1 + rng.below(4));
        let mut shape = sample_shape(rng, rank);
        shape.extend([size, size]);
        let dtype = float(rng);
        sample_of(vec![rng.tensor(dtype, &shape, -2.0, 2.0)])
    },
};

fn infer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_float(x.dtype)?;
    let Some((batch, [rows, columns])) = x.shape.split_last_chunk::<2>() else {
        return Err(type_error(format!("the operand is {x}, matrices are wanted")));
    };
    same_dim(rows, columns, "rows and columns of a square matrix")?;
    Ok(vec![Type::new(x.dtype, batch.to_vec())])
}

/// Elimination with the largest pivot of each column; the matrix is used up.
fn determinant(a: &mut [f64], n: usize) -> f64 {
    let mut product = 1.0;
    for k in 0..n {
        let larger = |i: &usize, j: &usize| a[i * n + k].abs().total_cmp(&a[j * n + k].abs());
        let pivot = (k..n).max_by(larger).unwrap_or(k);
        if pivot != k {
            (0..n).for_each(|j| a.swap(k * n + j, pivot * n + j));
            product = -product;
        }
        let diagonal = a[k * n + k];
        product *= diagonal;
        if diagonal == 0.0 {
            return 0.0;
        }
        for i in k + 1..n {
            let factor = a[i * n + k] / diagonal;
            (k..n).for_each(|j| a[i * n + j] -= factor * a[k * n + j]);
        }
    }
    product
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer)?;
    let x = tensor(ctx, 0)?;
    let n = x.shape()[x.rank() - 1];
    let mut values = x.to_f64s();
    let y: Vec<f64> = if n == 0 {
        // The empty product.
        vec![1.0; shape.iter().product()]
    } else {
        values.chunks_mut(n * n).map(|a| determinant(a, n)).collect()
    };
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pivots_change_the_sign() {
        assert_eq!(determinant(&mut [0.0, 1.0, 1.0, 0.0], 2), -1.0);
        assert_eq!(determinant(&mut [1.0, 2.0, 2.0, 4.0], 2), 0.0);
        assert_eq!(determinant(&mut [1.0, 2.0, 3.0, 4.0], 2), -2.0);
    }
}
