//! Which nodes of the model as read each step of a plan stands for.
//!
//! Rewrites keep the names of the values they preserve. A node whose result survived belongs to the step that
//! writes it; one that was merged away belongs to the step of the nodes that read its result.

use partita_ir::{Graph, NodeId};
use partita_plan::Plan;
use std::collections::BTreeMap;

/// A step's queue and position.
type At = (usize, usize);

/// Fills in `Step::covers` from the graph as read.
pub(crate) fn mark(imported: &Graph, plan: &mut Plan) {
    let written = written(plan);
    let mut owner: BTreeMap<NodeId, At> = BTreeMap::new();
    let order = imported.topological();
    for id in order.iter().rev() {
        let node = imported.node(*id);
        let own = node.outputs.iter().find_map(|v| written.get(&*imported.value(*v).name).copied());
        let readers = || imported.consumers(*id).into_iter().find_map(|n| owner.get(&n).copied());
        if let Some(at) = own.or_else(readers) {
            owner.insert(*id, at);
        }
    }
    for id in order {
        if let Some((queue, step)) = owner.get(&id) {
            plan.queues[*queue].steps[*step].covers.push(imported.node(id).name.to_string());
        }
    }
}

/// The step that writes each value, by name.
fn written(plan: &Plan) -> BTreeMap<String, At> {
    let mut out = BTreeMap::new();
    for (q, queue) in plan.queues.iter().enumerate().filter(|(_, q)| !q.copies) {
        for (s, step) in queue.steps.iter().enumerate() {
            for value in step.outputs.iter().filter_map(|v| plan.values.get(*v as usize)) {
                out.insert(value.name.clone(), (q, s));
            }
        }
    }
    out
}
