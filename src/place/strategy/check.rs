//! The independent checker of strategy selections: exact integers, straight from the problem as read.
//!
//! It shares nothing with the search but the problem, as its answer is what the search is judged by.

use super::file::StrategyProblem;
use crate::error::PlaceError;
use std::collections::BTreeMap;

/// What an assignment costs and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// Sum of node and edge costs.
    pub cost: i128,
    /// Greatest usage at any time.
    pub peak_usage: i128,
    /// Whether the peak is within the limit.
    pub fits: bool,
}

/// Scores an assignment of one strategy per node.
///
/// # Errors
/// `P007` when the assignment is not one strategy of each node.
pub fn score(p: &StrategyProblem, strategy_of_node: &[usize]) -> Result<Score, PlaceError> {
    if strategy_of_node.len() != p.nodes.len() {
        let message = format!("{} strategies for {} nodes", strategy_of_node.len(), p.nodes.len());
        return Err(PlaceError::strategy("solution", message));
    }
    let mut cost = 0i128;
    let mut steps: BTreeMap<i64, i128> = BTreeMap::new();
    for (i, (node, &s)) in p.nodes.iter().zip(strategy_of_node).enumerate() {
        let (Some(&own), Some(&usage)) = (node.costs.get(s), node.usages.get(s)) else {
            let message = format!("it has {} strategies, not one numbered {s}", node.costs.len());
            return Err(PlaceError::strategy(format!("node {i}"), message));
        };
        cost += i128::from(own);
        if node.begin < node.end {
            *steps.entry(node.begin).or_default() += i128::from(usage);
            *steps.entry(node.end).or_default() -= i128::from(usage);
        }
    }
    for e in &p.edges {
        let at = strategy_of_node[e.a] * p.nodes[e.b].costs.len() + strategy_of_node[e.b];
        cost += i128::from(p.tables[e.table][at]);
    }
    let (mut usage, mut peak_usage) = (0, 0);
    for step in steps.values() {
        usage += step;
        peak_usage = peak_usage.max(usage);
    }
    let fits = p.usage_limit.is_none_or(|limit| peak_usage <= i128::from(limit));
    Ok(Score { cost, peak_usage, fits })
}
