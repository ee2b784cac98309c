//! The sim device: capability table, kernels, driver.
