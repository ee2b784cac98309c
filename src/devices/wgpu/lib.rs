//! The wgpu device: capability table, kernels, driver.
