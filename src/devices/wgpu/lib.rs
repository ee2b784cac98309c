//! The WebGPU device: Vulkan, GL, Metal and DX12 through wgpu, kernels generated as WGSL for each shape.
//!
//! **Contract.** The driver runs the steps that [`supports`] accepts, with the meaning `KERNELS.md` gives them.
//! Only core WebGPU is used (no subgroups, no f16, no 64-bit integers), so the GL backend runs everything too.
//!
//! **Invariants.** No graph and no operator is known here. Whatever the graphics driver does wrong becomes a
//! `RuntimeError`; nothing panics when there is no adapter. Float functions are our own (`wgsl/float.wgsl`):
//! results do not depend on how precise a driver's `exp` is. Integer lanes are 64 bits wide (`wgsl/int.wgsl`).
//!
//! **Reading order.** `caps` (what is supported), `ops` (tile operations as WGSL), `step` (one launch as data),
//! `source` (assembling a shader), `index` (strided index arithmetic), `kernels` (one file per family),
//! `adapter`, `gpu`, `memory`, `driver`.
//!
//! **Features.** `compile`: the capability table, without wgpu. `run`: kernels and driver.

#[cfg(any(feature = "compile", feature = "run"))]
mod caps;
#[cfg(any(feature = "compile", feature = "run"))]
mod ops;

#[cfg(feature = "run")]
mod adapter;
#[cfg(feature = "run")]
mod driver;
#[cfg(feature = "run")]
mod gpu;
#[cfg(feature = "run")]
mod index;
#[cfg(feature = "run")]
mod kernels;
#[cfg(feature = "run")]
mod memory;
#[cfg(feature = "run")]
mod source;
#[cfg(feature = "run")]
mod step;

#[cfg(feature = "run")]
pub use adapter::{AdapterFacts, adapters};
#[cfg(any(feature = "compile", feature = "run"))]
pub use caps::{pack, supports};
#[cfg(feature = "run")]
pub use driver::WgpuFactory;
