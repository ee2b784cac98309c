//! The operator dictionary: one row per operator with its whole truth, so that import, verification, the
//! e-graph, reference runs, costing, rule tests and docs follow from it.
//!
//! **Contract.** A row is an `OpDef`; `registry()` is the one list of them.
//!
//! **Invariants.** An operator knows nothing of passes, devices or ONNX bytes (ONNX *names* are data). Evaluation
//! is slow and follows the definition; speed is the devices' business.
//!
//! **Reading order.** `common` (shape rules, readers), `elements` (bulk access), `scalar` (elementwise rows),
//! `content` (shape arithmetic), `samples`, then any family file. A new operator is one row in a family file and
//! its name in that file's `ROWS`.

mod activation;
mod attention;
mod binary;
mod boxes;
mod cast;
mod channel_norm;
pub mod common;
pub mod content;
mod conv;
mod conv_transpose;
mod crop;
mod deform_conv;
mod det;
mod dynamic;
mod einsum;
pub mod elements;
mod eval;
mod fft;
mod fill;
mod fold;
mod fourier;
mod gather;
mod global_pool;
mod grid;
mod image_decoder;
mod jpeg;
mod layout;
mod logic;
mod lp_norm;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod reduce;
mod resample;
mod reshape;
mod resize;
mod roi;
mod rotary;
pub mod samples;
pub mod scalar;
mod scatter;
mod select;
pub mod shapes;
mod slice;
mod softmax;
mod spectrum;
mod unary;
mod window;

use partita_ir::{OpDef, OpRef, Registry};
use std::sync::LazyLock;

/// The families; each file lists its own rows.
const FAMILIES: &[&[&OpDef]] = &[
    activation::ROWS,
    attention::ROWS,
    binary::ROWS,
    boxes::ROWS,
    cast::ROWS,
    channel_norm::ROWS,
    conv::ROWS,
    conv_transpose::ROWS,
    crop::ROWS,
    deform_conv::ROWS,
    det::ROWS,
    dynamic::ROWS,
    einsum::ROWS,
    fill::ROWS,
    fold::ROWS,
    fourier::ROWS,
    gather::ROWS,
    global_pool::ROWS,
    grid::ROWS,
    image_decoder::ROWS,
    layout::ROWS,
    logic::ROWS,
    lp_norm::ROWS,
    matmul::ROWS,
    norm::ROWS,
    pool::ROWS,
    quantize::ROWS,
    reduce::ROWS,
    reshape::ROWS,
    resize::ROWS,
    roi::ROWS,
    rotary::ROWS,
    scatter::ROWS,
    select::ROWS,
    slice::ROWS,
    softmax::ROWS,
    spectrum::ROWS,
    unary::ROWS,
];

static SORTED: LazyLock<Vec<&'static OpDef>> = LazyLock::new(|| {
    let mut rows: Vec<&'static OpDef> = FAMILIES.iter().flat_map(|f| f.iter().copied()).collect();
    rows.sort_by_key(|row| row.name);
    rows
});

/// All operators.
pub fn registry() -> Registry {
    Registry::new(&SORTED)
}

/// The operator called `name`; for code that names operators of this very dictionary.
///
/// # Panics
/// Never for names in the dictionary; a unit test of every caller's table covers the names it uses.
pub fn op(name: &str) -> Option<OpRef> {
    registry().get(name)
}
