//! The cpu device: capability table, kernels, driver.
