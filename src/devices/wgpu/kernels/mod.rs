//! Library kernels as WGSL: one file per family, one row per kernel.

mod attention;
mod conv;
mod conv_transpose;
mod gemm;
mod moves;
mod norm;
mod pool;
mod product;
mod reduce;
mod rows;
mod tile;
mod window;

use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Generates the dispatches of a step; none when there is nothing to compute.
type Generate = fn(&Step) -> Result<Vec<Dispatch>, RuntimeError>;

const KERNELS: &[(&str, Generate)] = &[
    ("attention", attention::attention),
    ("concat", moves::concat),
    ("conv", conv::conv),
    ("conv_transpose", conv_transpose::conv_transpose),
    ("copy", moves::copy),
    ("dims", moves::dims),
    ("expand", moves::expand),
    ("fill", moves::fill),
    ("gather", moves::gather),
    ("gemm", gemm::gemm),
    ("layer_norm", norm::layer_norm),
    ("pad", moves::pad),
    ("pool", pool::pool),
    ("reduce", reduce::reduce),
    ("slice", moves::slice),
    ("softmax", norm::softmax),
    ("split", moves::split),
    ("tile", tile::tile),
    ("transpose", moves::transpose),
];

/// The dispatches of a step, in the order they must run.
pub(crate) fn generate(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    if step.outputs.iter().all(|o| o.count() == 0) {
        return Ok(Vec::new());
    }
    let name = step.kernel.library.as_str();
    match KERNELS.iter().find(|(n, _)| *n == name) {
        Some((_, generate)) => generate(step),
        None => Err(step.error(format!("the device has no kernel '{name}'"))),
    }
}
