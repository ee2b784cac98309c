//! Channels-last layout of convolution nets.
//!
//! Matrix kernels want the channels of a pixel next to each other. One walk over the graph keeps, for each value, a
//! version with its axes permuted where there is one: convolutions and poolings make it, what works on each element or
//! along an axis carries it on, everything else gets the plain version, by one transposition where it is first needed.
//! A reshape takes the place of a transposition that would move nothing.
//!
//! **When it pays.** Operators that hand permuted values to each other form an island. Moving an element through memory
//! costs about as much as twenty multiply-adds of a core, and a convolution gains perhaps a fifth by the layout: an
//! island is converted if its convolutions do at least `MACS_PER_MOVE` multiply-adds for each element that its
//! transpositions move. The convolutions of other islands stay as they are, and the walk is repeated without them.
//!
//! The terms of every sum stay the same; only kernels may add them in another order.

mod islands;
mod operators;
mod perm;
mod walk;

use crate::driver::Ctx;
use partita_ir::diag::Diag;
use partita_ir::{Graph, NodeId};
use std::collections::BTreeSet;
use walk::Walk;

/// Multiply-adds of an island's convolutions for each element moved into or out of it.
const MACS_PER_MOVE: f64 = 100.0;

/// Walks after which a graph whose islands keep falling apart is left alone.
const MOST_WALKS: usize = 8;

/// Operators whose kernels gain by the layout, and whose work pays for transpositions.
const CONVOLUTIONS: &[&str] = &["conv", "conv_transpose", "quantized_conv"];

/// The pass.
///
/// # Errors
/// None: a graph that inference does not understand after the change is left as it was.
pub fn run(ctx: &mut Ctx, graph: Graph) -> Result<Graph, Vec<Diag>> {
    if !graph.nodes().any(|(_, n)| CONVOLUTIONS.contains(&n.op.name)) {
        return Ok(graph);
    }
    let symbol_size = ctx.options.symbol_size;
    let mut kept = BTreeSet::new();
    for _ in 0..MOST_WALKS {
        let Ok(done) = Walk::over(&graph, &kept, symbol_size) else { return Ok(graph) };
        let losing = done.losing(MACS_PER_MOVE);
        if losing.is_empty() {
            return Ok(pay(ctx, &graph, kept, done, symbol_size));
        }
        kept.extend(losing);
    }
    Ok(graph)
}

/// The converted graph as far as the fuel reaches.
fn pay(
    ctx: &mut Ctx,
    graph: &Graph,
    mut kept: BTreeSet<NodeId>,
    done: walk::Done,
    symbol_size: i64,
) -> Graph {
    let unpaid: BTreeSet<NodeId> =
        done.converted.iter().copied().filter(|_| !ctx.spend("channels-last")).collect();
    if unpaid.len() == done.converted.len() {
        return graph.clone();
    }
    if unpaid.is_empty() {
        return done.graph;
    }
    kept.extend(unpaid);
    Walk::over(graph, &kept, symbol_size).map_or_else(|_| graph.clone(), |done| done.graph)
}
