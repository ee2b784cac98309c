//! Pictures of the stages: imported, optimized, placed, scheduled.

use crate::pipeline::Compiled;
use crate::price::{bytes_of, symbol_hints};
use crate::report::dot::{Edge, Node, Picture, render};
use crate::report::timeline;
use partita_ir::{Graph, NodeId, ValueId};
use partita_plan::{Plan, Step, Value};
use std::collections::BTreeMap;

/// A DOT text per stage, with the name its file gets.
pub fn all(compiled: &Compiled) -> Vec<(&'static str, String)> {
    let devices = placed_devices(compiled);
    vec![
        ("1-imported.dot", render(&graph(&compiled.imported, "imported", &BTreeMap::new()))),
        ("2-optimized.dot", render(&graph(&compiled.optimized, "optimized", &BTreeMap::new()))),
        ("3-placed.dot", render(&graph(&compiled.optimized, "placed", &devices))),
        ("4-scheduled.dot", compiled.assembly.plan.parts().iter().map(|p| render(&plan(p))).collect()),
    ]
}

/// The device of every node, by the name of its first result: parts are graphs of their own.
fn placed_devices(compiled: &Compiled) -> BTreeMap<NodeId, String> {
    let mut of_value: BTreeMap<&str, &str> = BTreeMap::new();
    for part in &compiled.parts {
        for (node, region) in &part.regions.of_node {
            let device = &compiled.machine.devices[part.placement.device_of[*region]].name;
            let results = part.graph.node(*node).outputs.iter();
            of_value.extend(results.map(|v| (&*part.graph.value(*v).name, device.as_str())));
        }
    }
    let graph = &compiled.optimized;
    let device = |outputs: &[ValueId]| of_value.get(&*graph.value(*outputs.first()?).name).copied();
    graph.nodes().map(|(id, n)| (id, device(&n.outputs).unwrap_or("host").to_owned())).collect()
}

/// A graph, its nodes grouped by device where they have one.
pub fn graph(graph: &Graph, stage: &str, devices: &BTreeMap<NodeId, String>) -> Picture {
    let hints = symbol_hints(graph, &BTreeMap::new());
    let order = graph.topological();
    let mut picture = Picture { title: format!("{} ({stage})", graph.name), ..Default::default() };
    let mut boxes: BTreeMap<ValueId, usize> = BTreeMap::new();
    for input in graph.inputs() {
        boxes.insert(*input, picture.nodes.len());
        let lines = vec!["input".to_owned(), graph.ty(*input).to_string()];
        picture.nodes.push(Node { title: graph.value(*input).name.to_string(), lines, ..Default::default() });
    }
    for id in order {
        let node = graph.node(id);
        let at = picture.nodes.len();
        let types: Vec<String> = node.outputs.iter().map(|v| graph.ty(*v).to_string()).collect();
        let lines = vec![node.op.name.to_owned(), types.join(", ")];
        picture.nodes.push(Node {
            title: node.name.to_string(),
            lines,
            group: devices.get(&id).cloned(),
            names: node.outputs.iter().map(|v| graph.value(*v).name.to_string()).collect(),
            ..Default::default()
        });
        for value in node.inputs.iter().flatten() {
            if let Some(from) = boxes.get(value) {
                picture.edges.push(Edge {
                    from: *from,
                    to: at,
                    bytes: bytes_of(graph.ty(*value), &hints),
                    time_us: None,
                });
            }
        }
        boxes.extend(node.outputs.iter().map(|v| (*v, at)));
    }
    picture
}

/// A plan: one box per step in its queue, transfers as red arrows.
pub fn plan(plan: &Plan) -> Picture {
    let mut picture = Picture { title: format!("{} (scheduled)", plan.name), ..Default::default() };
    let mut producer: BTreeMap<u32, (usize, Option<f64>)> = BTreeMap::new();
    for port in &plan.inputs {
        let value = &plan.values[port.value as usize];
        producer.insert(port.value, (picture.nodes.len(), None));
        let group = plan.devices.get(value.device as usize).map(|d| d.name.clone());
        picture.nodes.push(Node {
            title: port.name.clone(),
            lines: vec!["input".to_owned()],
            group,
            ..Default::default()
        });
    }
    for (queue, position) in timeline::order(plan) {
        let step = &plan.queues[queue].steps[position];
        let read: Vec<(u32, (usize, Option<f64>))> =
            step.inputs.iter().filter_map(|v| producer.get(&root(plan, *v)).map(|p| (*v, *p))).collect();
        if plan.queues[queue].copies {
            if let (Some((_, (from, _))), Some(to)) = (read.first(), step.outputs.first()) {
                producer.insert(*to, (*from, Some(step.time_us)));
            }
            continue;
        }
        let at = picture.nodes.len();
        picture.nodes.push(step_box(plan, queue, step));
        for (value, (from, time_us)) in read {
            picture.edges.push(Edge {
                from,
                to: at,
                bytes: value_bytes(plan, &plan.values[value as usize]),
                time_us,
            });
        }
        producer.extend(step.outputs.iter().map(|v| (root(plan, *v), (at, None))));
    }
    picture
}

fn step_box(plan: &Plan, queue: usize, step: &Step) -> Node {
    let kernel = plan.kernels.get(step.kernel as usize).map_or("?", |k| k.library.as_str());
    let group = plan.devices.get(plan.queues[queue].device as usize).map(|d| d.name.clone());
    let written = step.outputs.iter().filter_map(|v| plan.values.get(*v as usize)).map(|v| v.name.clone());
    let names = step.covers.iter().cloned().chain(written).collect();
    Node { title: step.name.clone(), lines: vec![kernel.to_owned()], group, time_us: step.time_us, names }
}

/// The value whose bytes `value` shares.
pub(crate) fn root(plan: &Plan, mut value: u32) -> u32 {
    let alias = partita_plan::Storage::Alias as i32;
    while let Some(v) = plan.values.get(value as usize).filter(|v| v.storage == alias && v.alias_of != value)
    {
        value = v.alias_of;
    }
    value
}

/// Bytes of a value for the sizes that predictions were made for.
pub(crate) fn value_bytes(plan: &Plan, value: &Value) -> f64 {
    let likely: Vec<i64> = plan.symbols.iter().map(|s| i64::try_from(s.likely).unwrap_or(i64::MAX)).collect();
    let n: f64 = value.shape.iter().map(|d| d.eval(&likely).unwrap_or(1) as f64).product();
    n * partita_plan::ElementType::try_from(value.dtype).map_or(1, partita_plan::ElementType::size_bytes)
        as f64
}
