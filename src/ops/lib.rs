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
mod attention_sample;
mod batch_training;
mod binary;
mod boxes;
mod cast;
mod causal_conv;
mod channel_norm;
pub mod channels_last;
pub mod common;
pub mod content;
mod contrib_common;
mod contrib_geometry;
mod contrib_hash;
mod contrib_layout;
mod contrib_mask;
mod contrib_moe;
mod contrib_nbits;
mod contrib_qlinear;
mod contrib_qmatmul;
mod contrib_qpool;
mod contrib_tokens;
mod contrib_words;
mod control;
mod conv;
mod conv_transpose;
mod convert;
mod crop;
mod decoder_attention;
mod deform_conv;
mod det;
mod dropout;
mod dynamic;
mod einsum;
pub mod elements;
mod eval;
mod fft;
mod fill;
mod flex_attention;
mod fold;
mod fourier;
mod gather;
mod global_pool;
mod grid;
mod group_query_attention;
mod image_decoder;
mod jpeg;
mod layout;
mod linear_attention;
mod logic;
mod loss;
mod lp_norm;
mod matmul;
mod ml_common;
mod ml_encode;
mod ml_features;
mod ml_forest;
mod ml_linear;
mod ml_maps;
mod ml_scale;
mod ml_svm;
mod ml_tree_lists;
mod ml_tree_samples;
mod ml_trees;
mod multi_head_attention;
mod norm;
mod optimizer;
mod optional;
mod pool;
mod projected_attention;
mod qlinear_conv;
mod qlinear_matmul;
mod quantize;
mod quantize_dynamic;
mod quantized;
mod random;
mod reduce;
mod resample;
mod reshape;
mod resize;
mod rnn;
mod rnn_cell;
mod roi;
mod rotary;
pub mod samples;
pub mod scalar;
mod scales;
mod scatter;
mod sdpa;
mod select;
mod sequence;
pub mod shapes;
mod slice;
mod softmax;
mod spectrum;
mod swiglu;
mod tensor_scatter;
mod text_basic;
mod text_numbers;
mod text_regex;
mod text_tfidf;
mod twister;
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
    causal_conv::ROWS,
    channel_norm::ROWS,
    contrib_geometry::ROWS,
    contrib_hash::ROWS,
    contrib_layout::ROWS,
    contrib_moe::ROWS,
    contrib_nbits::ROWS,
    contrib_qlinear::ROWS,
    contrib_qmatmul::ROWS,
    contrib_qpool::ROWS,
    contrib_tokens::ROWS,
    contrib_words::ROWS,
    control::ROWS,
    conv::ROWS,
    conv_transpose::ROWS,
    crop::ROWS,
    decoder_attention::ROWS,
    deform_conv::ROWS,
    det::ROWS,
    dropout::ROWS,
    dynamic::ROWS,
    einsum::ROWS,
    fill::ROWS,
    flex_attention::ROWS,
    fold::ROWS,
    fourier::ROWS,
    gather::ROWS,
    global_pool::ROWS,
    grid::ROWS,
    group_query_attention::ROWS,
    image_decoder::ROWS,
    layout::ROWS,
    linear_attention::ROWS,
    logic::ROWS,
    loss::ROWS,
    lp_norm::ROWS,
    matmul::ROWS,
    ml_encode::ROWS,
    ml_features::ROWS,
    ml_linear::ROWS,
    ml_maps::ROWS,
    ml_scale::ROWS,
    ml_svm::ROWS,
    ml_trees::ROWS,
    multi_head_attention::ROWS,
    norm::ROWS,
    optimizer::ROWS,
    optional::ROWS,
    pool::ROWS,
    projected_attention::ROWS,
    qlinear_conv::ROWS,
    qlinear_matmul::ROWS,
    quantize::ROWS,
    quantize_dynamic::ROWS,
    quantized::ROWS,
    random::ROWS,
    reduce::ROWS,
    reshape::ROWS,
    resize::ROWS,
    rnn::ROWS,
    roi::ROWS,
    rotary::ROWS,
    scatter::ROWS,
    select::ROWS,
    sequence::ROWS,
    slice::ROWS,
    softmax::ROWS,
    spectrum::ROWS,
    text_basic::ROWS,
    text_regex::ROWS,
    text_tfidf::ROWS,
    swiglu::ROWS,
    tensor_scatter::ROWS,
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
