//! Removes nodes whose results nobody needs.

use crate::driver::Ctx;
use partita_ir::Graph;
use partita_ir::diag::Diag;

/// The pass. It takes no fuel: a dead node computes nothing.
///
/// # Errors
/// None.
pub fn run(_: &mut Ctx, mut graph: Graph) -> Result<Graph, Vec<Diag>> {
    graph.remove_dead();
    Ok(graph)
}
