//! A plan as JSON with a schema version.

use partita_plan::program::{Block, Item, SlotPort};
use partita_plan::{ElementType, NO_VALUE, Plan, Queue, Step};
use serde_json::{Value, json};

/// Version of the JSON forms that commands print.
pub const SCHEMA: u32 = 1;

/// Everything of a plan except kernel parameters and weights.
pub fn plan(plan: &Plan) -> Value {
    let mut out = static_plan(plan);
    if let (Some(program), Some(object)) = (&plan.program, out.as_object_mut()) {
        let parts: Vec<Value> = program.plans.iter().map(static_plan).collect();
        object.insert("parts".to_owned(), parts.into());
        object.insert("blocks".to_owned(), program.blocks.iter().map(block).collect());
    }
    out
}

fn block(block: &Block) -> Value {
    let ports = |ports: &[SlotPort]| -> Value {
        ports.iter().map(|p| json!({ "name": p.name, "type": p.text, "slot": p.slot })).collect()
    };
    let item = |i: &Item| {
        let part = i.kernel.is_none().then_some(i.plan);
        let bodies: Value = i.bodies.iter().map(|b| json!({ "name": b.name, "block": b.block })).collect();
        json!({
            "name": i.name, "part": part, "why_on_host": i.why, "inputs": i.inputs, "outputs": i.outputs,
            "bodies": bodies,
        })
    };
    let items: Vec<Value> = block.items.iter().map(item).collect();
    json!({ "name": block.name, "inputs": ports(&block.inputs), "outputs": ports(&block.outputs), "items": items })
}

fn static_plan(plan: &Plan) -> Value {
    let p = plan.provenance.clone().unwrap_or_default();
    json!({
        "schema": SCHEMA,
        "name": plan.name,
        "compiler": p.compiler,
        "machine": p.machine,
        "objective": p.objective,
        "predicted_us": p.value_us,
        "bound_us": p.bound_us,
        "status": p.status,
        "solver": p.solver,
        "operators_before": p.nodes_before,
        "operators_after": p.nodes_after,
        "rules": p.rules,
        "weight_bytes": plan.weight_bytes,
        "symbols": plan.symbols.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "devices": plan.devices.iter().enumerate().map(|(n, d)| json!({
            "arena_least_bytes": super::summary::least_arena(plan, n), "name": d.name, "driver": d.driver, "profile": d.profile, "threads": d.threads,
            "arena_bytes": d.arena_bytes, "memory_bytes": d.memory_bytes,
        })).collect::<Vec<_>>(),
        "inputs": plan.inputs.iter().map(|p| port(plan, &p.name, p.value)).collect::<Vec<_>>(),
        "outputs": plan.outputs.iter().map(|p| port(plan, &p.name, p.value)).collect::<Vec<_>>(),
        "queues": plan.queues.iter().map(|q| queue(plan, q)).collect::<Vec<_>>(),
    })
}

fn port(plan: &Plan, name: &str, value: u32) -> Value {
    let value = &plan.values[value as usize];
    let dtype = ElementType::try_from(value.dtype).map_or("?", ElementType::name);
    // Sizes that are not numbers are bound at run time.
    let shape: Vec<Value> =
        value.shape.iter().map(|d| d.as_constant().map_or(Value::Null, Value::from)).collect();
    json!({ "name": name, "dtype": dtype, "shape": shape })
}

fn queue(plan: &Plan, queue: &Queue) -> Value {
    let device = &plan.devices[queue.device as usize].name;
    let steps: Vec<Value> = queue.steps.iter().map(|s| step(plan, queue, s)).collect();
    json!({ "name": queue.name, "device": device, "copies": queue.copies, "steps": steps })
}

fn step(plan: &Plan, queue: &Queue, step: &Step) -> Value {
    let names = |values: &[u32]| -> Vec<Value> {
        values
            .iter()
            .map(|v| if *v == NO_VALUE { Value::Null } else { plan.values[*v as usize].name.clone().into() })
            .collect()
    };
    let kernel = if queue.copies {
        "copy"
    } else {
        plan.kernels.get(step.kernel as usize).map_or("?", |k| k.library.as_str())
    };
    let mut out = json!({
        "name": step.name, "kernel": kernel, "covers": step.covers, "start_us": step.start_us, "time_us": step.time_us,
        "inputs": names(&step.inputs), "outputs": names(&step.outputs),
        "waits": step.waits.iter().map(|w| json!({ "queue": plan.queues[w.queue as usize].name, "steps": w.steps })).collect::<Vec<_>>(),
    });
    if let (Some(why), Some(object)) = (&step.why, out.as_object_mut()) {
        let choices: Vec<Value> = why
            .choices
            .iter()
            .map(|c| json!({ "device": c.device, "time_us": c.time_us, "origin": c.origin }))
            .collect();
        object.insert(
            "why".to_owned(),
            json!({ "reason": why.reason, "flops": why.flops, "bytes": why.bytes, "choices": choices }),
        );
    }
    out
}
