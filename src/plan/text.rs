//! A plan as text for people: devices, symbols, values with their places, queues with steps, waits and times.
//!
//! The text is for reading and for comparing two plans with `diff`; it is not parsed back.
//! It must work on a plan that fails its check, so it looks nothing up without asking.

use crate::limits::MAX_DIM_ITEMS;
use crate::tile::{Lane, TileOp};
use crate::{
    Device, DimExpr, DimOp, ElementType, Kernel, NO_VALUE, Param, Plan, Provenance, Queue, Step, Storage,
    TileProgram, Value, Why,
};

/// The whole plan, one line per device, symbol, port, value and step.
pub fn to_text(plan: &Plan) -> String {
    let mut out = vec![summary(plan)];
    out.extend(plan.provenance.as_ref().map(provenance));
    out.extend(plan.devices.iter().map(device));
    for symbol in &plan.symbols {
        let input = plan.inputs.get(symbol.input as usize).map_or("?", |p| &p.name);
        out.push(format!("symbol {} = axis {} of input {input}", symbol.name, symbol.axis));
    }
    for (kind, ports) in [("input", &plan.inputs), ("output", &plan.outputs)] {
        out.extend(ports.iter().map(|port| format!("{kind} {} = {}", port.name, operand(port.value))));
    }
    out.extend(plan.values.iter().enumerate().map(|(index, value)| value_line(plan, index, value)));
    for queue in &plan.queues {
        out.push(queue_line(plan, queue));
        for (index, step) in queue.steps.iter().enumerate() {
            out.push(step_line(plan, queue, index, step));
            out.extend(step.why.as_ref().map(why));
        }
    }
    out.join("\n") + "\n"
}

fn summary(plan: &Plan) -> String {
    let steps: usize = plan.queues.iter().map(|q| q.steps.len()).sum();
    format!(
        "plan {}: {} devices, {} values, {} kernels, {} steps in {} queues, {} weight bytes",
        plan.name,
        plan.devices.len(),
        plan.values.len(),
        plan.kernels.len(),
        steps,
        plan.queues.len(),
        plan.weight_bytes
    )
}

fn provenance(p: &Provenance) -> String {
    let mut text = format!(
        "by {} for {}: {} {:.3} us, bound {:.3} us, {} ({})\n{} operators as read, {} after optimization",
        p.compiler,
        p.machine,
        p.objective,
        p.value_us,
        p.bound_us,
        p.status,
        p.solver,
        p.nodes_before,
        p.nodes_after
    );
    if !p.rules.is_empty() {
        text += &format!("\nrules {}", p.rules.join(", "));
    }
    text
}

fn device(d: &Device) -> String {
    let mut text = format!("device {} driver={}", d.name, d.driver);
    for (name, value) in [("profile", &d.profile), ("adapter", &d.adapter)] {
        if !value.is_empty() {
            text += &format!(" {name}={value}");
        }
    }
    let numbers =
        [("threads", d.threads.into()), ("memory_bytes", d.memory_bytes), ("arena_bytes", d.arena_bytes)];
    for (name, value) in numbers.iter().filter(|(_, value)| *value > 0) {
        text += &format!(" {name}={value}");
    }
    text
}

fn operand(value: u32) -> String {
    if value == NO_VALUE { "_".to_string() } else { format!("%{value}") }
}

fn operands(values: &[u32]) -> String {
    values.iter().map(|&v| operand(v)).collect::<Vec<_>>().join(", ")
}

fn device_name(plan: &Plan, index: u32) -> &str {
    plan.devices.get(index as usize).map_or("?", |d| &d.name)
}

fn value_line(plan: &Plan, index: usize, value: &Value) -> String {
    let device = device_name(plan, value.device);
    let mut text = format!("value %{index} {}: {} on {device}", value.name, type_text(plan, value));
    text += &match Storage::try_from(value.storage) {
        Ok(Storage::Arena) if plan.symbols.is_empty() => {
            format!(", arena at {}, reserved {}..={}", value.offset, value.first, value.last)
        }
        Ok(Storage::Arena) => format!(", arena, reserved {}..={}", value.first, value.last),
        Ok(Storage::Weight) => format!(", weight at {}, {} bytes", value.offset, value.stored_bytes),
        Ok(Storage::Alias) => format!(", same bytes as {}", operand(value.alias_of)),
        Err(_) => ", unknown storage".to_string(),
    };
    if !value.layout.is_empty() {
        text += &format!(", layout {}", value.layout);
    }
    text
}

/// Element type and shape, as `f32[batch, 3, 2*width + 1]`.
pub fn type_text(plan: &Plan, value: &Value) -> String {
    let dtype = ElementType::try_from(value.dtype).map_or("?", ElementType::name);
    format!("{dtype}{}", dims_text(plan, &value.shape))
}

fn dims_text(plan: &Plan, dims: &[DimExpr]) -> String {
    let dims: Vec<String> = dims.iter().map(|d| dim_text(plan, d)).collect();
    format!("[{}]", dims.join(", "))
}

/// A size in infix form with the plan's symbol names; `?` where the expression is malformed.
pub fn dim_text(plan: &Plan, dim: &DimExpr) -> String {
    if dim.items.len() > MAX_DIM_ITEMS {
        return "?".to_string();
    }
    // Each entry is the text and whether it needs parentheses inside a product.
    let mut stack: Vec<(String, bool)> = Vec::new();
    for item in &dim.items {
        let entry = match DimOp::try_from(item.op) {
            Ok(DimOp::Const) => (item.value.to_string(), item.value < 0),
            Ok(DimOp::Symbol) => {
                let symbol = usize::try_from(item.value).ok().and_then(|i| plan.symbols.get(i));
                (symbol.map_or_else(|| "?".to_string(), |s| s.name.clone()), false)
            }
            Ok(op) => match (stack.pop(), stack.pop()) {
                (Some(b), Some(a)) => infix(op, a, b),
                _ => return "?".to_string(),
            },
            Err(_) => return "?".to_string(),
        };
        stack.push(entry);
    }
    match <[_; 1]>::try_from(stack) {
        Ok([(text, _)]) => text,
        Err(_) => "?".to_string(),
    }
}

fn infix(op: DimOp, a: (String, bool), b: (String, bool)) -> (String, bool) {
    let tight = |(text, loose): (String, bool)| if loose { format!("({text})") } else { text };
    match op {
        DimOp::Add => (format!("{} + {}", a.0, b.0), true),
        DimOp::Sub => (format!("{} - {}", a.0, tight(b)), true),
        DimOp::Mul => (format!("{}*{}", tight(a), tight(b)), false),
        DimOp::FloorDiv => (format!("{} // {}", tight(a), tight(b)), true),
        DimOp::Max => (format!("max({}, {})", a.0, b.0), false),
        DimOp::Min => (format!("min({}, {})", a.0, b.0), false),
        DimOp::Const | DimOp::Symbol => ("?".to_string(), false),
    }
}

fn queue_line(plan: &Plan, queue: &Queue) -> String {
    let device = device_name(plan, queue.device);
    if queue.copies {
        format!("queue {}: transfers from {} to {device}", queue.name, device_name(plan, queue.from))
    } else {
        format!("queue {}: steps on {device}", queue.name)
    }
}

fn step_line(plan: &Plan, queue: &Queue, index: usize, step: &Step) -> String {
    let mut text = format!("  {index}: {} = ", operands(&step.outputs));
    if queue.copies {
        text += &format!("transfer({})", operands(&step.inputs));
    } else {
        text += &match plan.kernels.get(step.kernel as usize) {
            Some(kernel) => kernel_text(plan, kernel, &operands(&step.inputs)),
            None => format!("?({})", operands(&step.inputs)),
        };
    }
    text += &format!("  @ {:.3} us + {:.3} us", step.start_us, step.time_us);
    for wait in &step.waits {
        let queue = plan.queues.get(wait.queue as usize).map_or("?", |q| &q.name);
        text += &format!(", after {queue}:{}", wait.steps);
    }
    if step.name.is_empty() { text } else { format!("{text}  # {}", step.name) }
}

fn kernel_text(plan: &Plan, kernel: &Kernel, operands: &str) -> String {
    let params: Vec<String> = kernel.params.iter().map(|p| param_text(plan, p)).collect();
    let mut text = format!("{}({operands})", kernel.library);
    if !params.is_empty() {
        text += &format!(" {{{}}}", params.join(", "));
    }
    if let Some(program) = &kernel.program {
        text += &format!(" <{}>", program_text(program));
    }
    text
}

fn param_text(plan: &Plan, param: &Param) -> String {
    let mut parts: Vec<String> = param.ints.iter().map(i64::to_string).collect();
    parts.extend(param.floats.iter().map(|f| format!("{f:?}")));
    parts.extend(param.strings.iter().map(|s| format!("{s:?}")));
    parts.extend(param.dims.iter().map(|d| dim_text(plan, d)));
    match parts.as_slice() {
        [one] => format!("{}={one}", param.name),
        _ => format!("{}=[{}]", param.name, parts.join(", ")),
    }
}

/// A tile program in one line, as `a = load 0; b = exp a; -> b` with registers numbered.
fn program_text(program: &TileProgram) -> String {
    let mut parts = Vec::with_capacity(program.instrs.len() + 1);
    for (index, instr) in program.instrs.iter().enumerate() {
        let name = TileOp::try_from(instr.op)
            .map_or_else(|_| "?".to_string(), |op| format!("{op:?}").to_lowercase());
        let mut words = vec![name];
        match TileOp::try_from(instr.op) {
            Ok(TileOp::Load | TileOp::Wrap | TileOp::RoundTo) => words.push(instr.index.to_string()),
            Ok(TileOp::Const) if instr.lane == Lane::Int as i32 => words.push(instr.int.to_string()),
            Ok(TileOp::Const) => words.push(format!("{:?}", instr.float)),
            _ => {}
        }
        words.extend(instr.args.iter().map(|a| format!("r{a}")));
        parts.push(format!("r{index} = {}", words.join(" ")));
    }
    let stored: Vec<String> = program.outputs.iter().map(|r| format!("r{r}")).collect();
    parts.push(format!("-> {}", stored.join(", ")));
    parts.join("; ")
}

fn why(why: &Why) -> String {
    let mut text = format!("     why: {}; {} flops, {} bytes", why.reason, why.flops, why.bytes);
    for choice in &why.choices {
        text += &if choice.time_us < 0.0 {
            format!("\n     {}: cannot ({})", choice.device, choice.origin)
        } else {
            format!("\n     {}: {:.3} us ({})", choice.device, choice.time_us, choice.origin)
        };
    }
    text
}
