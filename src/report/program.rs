//! A program for people: its blocks, what of them was planned, and what the host evaluates and why.

use partita_plan::program::{Block, Item, Program, SlotPort};
use std::fmt::Write as _;

/// One line per block and item.
pub fn listing(program: &Program) -> String {
    let mut out = String::new();
    for (n, block) in program.blocks.iter().enumerate() {
        let ports = |ports: &[SlotPort]| {
            ports.iter().map(|p| format!("{}: {}", p.name, p.text)).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            out,
            "block {n} {}({}) -> ({})",
            block.name,
            ports(&block.inputs),
            ports(&block.outputs)
        );
        for item in &block.items {
            let _ = writeln!(out, "  {}", one(program, item));
        }
    }
    out
}

fn one(program: &Program, item: &Item) -> String {
    if item.kernel.is_some() {
        let bodies: Vec<String> =
            item.bodies.iter().map(|b| format!("{} = block {}", b.name, b.block)).collect();
        let bodies = if bodies.is_empty() { String::new() } else { format!(" [{}]", bodies.join(", ")) };
        return format!("host   {}{bodies}: {}", item.name, item.why);
    }
    let part = program.plans.get(item.plan as usize);
    let n_steps = part.map_or(0, |p| p.queues.iter().map(|q| q.steps.len()).sum::<usize>());
    format!("part {} {}: {n_steps} steps", item.plan, item.name)
}

/// How much of a program is planned, in one sentence.
pub fn sentence(program: &Program) -> String {
    let items = || program.blocks.iter().flat_map(|b: &Block| &b.items);
    let hosted = items().filter(|i| i.kernel.is_some()).count();
    format!(
        "{} static parts and {hosted} operators on the host, in {} blocks",
        program.plans.len(),
        program.blocks.len()
    )
}

/// Why the host evaluates the nodes whose names `matches`; one paragraph each.
pub fn explain(program: &Program, matches: &dyn Fn(&str) -> bool) -> Vec<String> {
    let items = program.blocks.iter().flat_map(|b| &b.items).filter(|i| i.kernel.is_some());
    let node =
        |i: &Item| i.name.rsplit_once(" (").map_or_else(|| i.name.clone(), |(name, _)| name.to_owned());
    let text = |i: &Item| format!("{} runs on the host, by its definition\n  why        {}\n", i.name, i.why);
    items.filter(|i| matches(&node(i))).map(text).collect()
}
