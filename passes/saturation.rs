//! The pass around the e-graph: load, saturate, extract, and never return something dearer than the input.

use crate::driver::Ctx;
use crate::egraph::cost::Pricer;
use crate::egraph::extract::extract;
use crate::egraph::load::load;
use crate::egraph::pattern::Rule;
use crate::egraph::saturate::{Stop, saturate};
use crate::history::SaturationRecord;
use partita_ir::Graph;
use partita_ir::diag::Diag;

/// The pass.
///
/// # Errors
/// None: where the e-graph cannot help, the input graph is the result.
pub fn run(ctx: &mut Ctx, graph: Graph) -> Result<Graph, Vec<Diag>> {
    if !ctx.options.egraph {
        return Ok(graph);
    }
    let mut loaded = load(&graph);
    let e_nodes_before = loaded.egraph.total_number_of_nodes();
    let rules = std::mem::take(&mut ctx.rules);
    let active: Vec<&Rule> = rules.iter().collect();
    let limits = ctx.options.limits;
    let done = saturate(&mut loaded.egraph, &active, &limits, &mut || ctx.pay());
    ctx.rules = rules;
    for (name, n) in &done.fired {
        ctx.count(name, *n);
    }
    let pricer = Pricer { time: ctx.options.cost, symbol_size: ctx.options.symbol_size };
    let prices = pricer.prices(&loaded.egraph);
    let extracted = extract(&loaded.egraph, &loaded.roots, &loaded.origin, &prices);
    let mut record = SaturationRecord {
        stop: done.stop,
        e_nodes_before,
        e_nodes: loaded.egraph.total_number_of_nodes(),
        classes: loaded.egraph.number_of_classes(),
        cost_before_us: extracted.input_cost_us,
        cost_after_us: extracted.cost_us,
        kept_input: String::new(),
    };
    let result = if done.stop == Stop::Conflict {
        Err("a rule set two different types equal".to_owned())
    } else if extracted.cost_us >= extracted.input_cost_us {
        Err("no cheaper form was found".to_owned())
    } else {
        loaded.emit(&extracted.choice, &graph).map_err(|d| d.to_string()).and_then(|g| {
            match g.undefined_size() {
                Some(size) => Err(format!("the node that tells the size {size} would be lost")),
                None => Ok(g),
            }
        })
    };
    let graph = result.unwrap_or_else(|why| {
        record.cost_after_us = record.cost_before_us;
        record.kept_input = why;
        graph
    });
    ctx.saturation = Some(record);
    Ok(graph)
}
