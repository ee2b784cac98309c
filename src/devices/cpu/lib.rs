//! The CPU device: capability table, packed layouts, kernels and driver.
//!
//! **Contract.** `compile` (feature) says which kernels of `KERNELS.md` exist here and packs weights for
//! them; `run` (feature) executes them. Packed layouts do not depend on the instruction set, so a plan
//! compiled anywhere runs on every CPU.
//!
//! **Invariants.** Every address a kernel touches is checked when the plan is bound; a launch allocates
//! nothing. A plan from an untrusted source can give wrong numbers, not a read or write outside of its
//! memory. `unsafe` is confined to this crate's kernels and the driver.
//!
//! **Reading order.** `layout`, `capability`; then `driver`, `bind`, `prepared` (what a kernel is); `team`
//! (threads), `isa`; `micro`, `blocks`, `pack`, `gemm`, `conv_rows`, `winograd` (matrix kernels); `tile` and the rest.

#[cfg(feature = "compile")]
mod capability;
pub mod layout;
#[cfg(feature = "compile")]
mod pack_int;
#[cfg(feature = "compile")]
mod pack_n_bits;
#[cfg(feature = "compile")]
mod winograd_weight;

#[cfg(feature = "run")]
mod activation;
#[cfg(feature = "run")]
mod attention;
#[cfg(feature = "run")]
mod bind;
#[cfg(feature = "run")]
mod blocks;
#[cfg(feature = "run")]
mod broadcast;
#[cfg(feature = "run")]
mod columns;
#[cfg(feature = "run")]
mod conv;
#[cfg(feature = "run")]
mod conv_bf16;
#[cfg(feature = "run")]
mod conv_int;
#[cfg(feature = "run")]
mod conv_rows;
#[cfg(feature = "run")]
mod conv_transpose;
#[cfg(feature = "run")]
mod conv_transpose_rows;
#[cfg(feature = "run")]
mod depthwise;
#[cfg(feature = "run")]
mod depthwise_int;
#[cfg(feature = "run")]
mod depthwise_rows;
#[cfg(all(feature = "run", target_arch = "x86_64"))]
mod depthwise_wide;
#[cfg(feature = "run")]
mod driver;
#[cfg(feature = "run")]
mod epilogue;
#[cfg(feature = "run")]
mod fill;
#[cfg(feature = "run")]
mod gather;
#[cfg(feature = "run")]
mod gemm;
#[cfg(feature = "run")]
mod gemm_int;
#[cfg(feature = "run")]
mod heads;
#[cfg(feature = "run")]
mod im2col;
#[cfg(feature = "run")]
mod int_finish;
mod int_form;
#[cfg(feature = "run")]
mod int_panels;
#[cfg(all(feature = "run", target_arch = "x86_64"))]
mod int_wide;
#[cfg(feature = "run")]
pub mod isa;
#[cfg(feature = "run")]
mod lanes;
#[cfg(feature = "run")]
mod lent;
#[cfg(feature = "run")]
mod math;
#[cfg(feature = "run")]
mod memory;
#[cfg(feature = "run")]
mod micro;
#[cfg(feature = "run")]
mod micro_bf16;
#[cfg(feature = "run")]
mod micro_int;
#[cfg(feature = "run")]
mod micro_int_depthwise;
#[cfg(feature = "run")]
mod micro_n_bits;
#[cfg(feature = "run")]
mod movement;
#[cfg(feature = "run")]
mod n_bits;
#[cfg(feature = "run")]
mod nhwc_plain;
#[cfg(feature = "run")]
mod norm;
#[cfg(feature = "run")]
mod pack;
#[cfg(feature = "run")]
mod pad;
#[cfg(feature = "run")]
mod pool;
#[cfg(feature = "run")]
mod pool_bytes;
#[cfg(feature = "run")]
mod pool_rows;
#[cfg(feature = "run")]
mod prepared;
#[cfg(feature = "run")]
mod reduce;
#[cfg(feature = "run")]
mod reference;
#[cfg(feature = "run")]
mod rotary;
#[cfg(feature = "run")]
mod softmax;
#[cfg(feature = "run")]
mod stencil;
#[cfg(feature = "run")]
mod strided;
#[cfg(feature = "run")]
mod strip;
#[cfg(feature = "run")]
mod strip_int;
#[cfg(feature = "run")]
mod team;
#[cfg(feature = "run")]
mod tile;
#[cfg(feature = "run")]
mod tile_bytes;
#[cfg(feature = "run")]
mod tile_idioms;
#[cfg(feature = "run")]
mod tile_memory;
#[cfg(feature = "run")]
mod tile_ops;
#[cfg(feature = "run")]
mod tile_table;
#[cfg(feature = "run")]
mod vector;
#[cfg(feature = "run")]
mod widened;
#[cfg(feature = "run")]
mod window;
#[cfg(feature = "run")]
mod winograd;

#[cfg(feature = "compile")]
pub use capability::{pack, supports};
#[cfg(feature = "run")]
pub use driver::CpuFactory;
