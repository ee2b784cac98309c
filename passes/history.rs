//! What the optimizer did, for reports. Deterministic: no times.

use crate::egraph::saturate::Stop;
use std::collections::BTreeMap;

/// One pass.
#[derive(Clone, Debug)]
pub struct PassRecord {
    pub pass: &'static str,
    pub nodes_before: usize,
    pub nodes_after: usize,
    /// Rewrites that changed something, by name.
    pub fired: BTreeMap<String, u64>,
    /// For the pass that saturates.
    pub saturation: Option<SaturationRecord>,
}

/// What saturation and extraction did.
#[derive(Clone, Debug, PartialEq)]
pub struct SaturationRecord {
    pub stop: Stop,
    pub e_nodes_before: usize,
    pub e_nodes: usize,
    pub classes: usize,
    /// Predicted microseconds of one run, before and after.
    pub cost_before_us: f64,
    pub cost_after_us: f64,
    /// Why the input graph was kept although rules fired; empty when it was not.
    pub kept_input: String,
}

/// All passes in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub passes: Vec<PassRecord>,
    /// What is left of the fuel, when it was limited.
    pub fuel_left: Option<u64>,
}

impl History {
    /// Applications by rule over all passes.
    pub fn fired(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        for (name, n) in self.passes.iter().flat_map(|p| &p.fired) {
            *out.entry(name.clone()).or_default() += n;
        }
        out
    }
}
