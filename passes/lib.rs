//! The optimizer: pass list, driver with fuel and history, e-graph, rules as data.
