//! The pass list and its driver: order, fuel, verification between passes, history.

use crate::egraph::pattern::{Numerics, Rule};
use crate::egraph::saturate::Limits;
use crate::history::{History, PassRecord};
use crate::{
    channels_last, cse, dead_code, fold_constants, merge_products, normalise, quantized, rules, saturation,
};
use partita_ir::diag::Diag;
use partita_ir::{Graph, Work};
use std::collections::BTreeMap;

/// One step of the optimizer.
pub struct Pass {
    pub name: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    pub run: fn(&mut Ctx, Graph) -> Result<Graph, Vec<Diag>>,
}

/// Every pass, in name order.
pub static PASSES: &[Pass] = &[
    Pass {
        name: "channels-last",
        summary: "gives convolution nets the layout [N, H, W, C] inside",
        run: channels_last::run,
    },
    Pass { name: "cse", summary: "computes equal things once", run: cse::run },
    Pass { name: "dead-code", summary: "removes what nobody needs", run: dead_code::run },
    Pass {
        name: "dequantize-apart",
        summary: "gives every reader its own dequantize, to be computed with it",
        run: quantized::apart,
    },
    Pass {
        name: "dequantize-rest",
        summary: "gives convolutions of integers that no kernel takes their floats back",
        run: quantized::rest,
    },
    Pass { name: "fold-constants", summary: "evaluates nodes over constants", run: fold_constants::run },
    Pass {
        name: "merge-products",
        summary: "projections for one attention become one product",
        run: merge_products::run,
    },
    Pass {
        name: "normalise",
        summary: "one spelling for operands, shapes and identities",
        run: normalise::run,
    },
    Pass { name: "quantized", summary: "lets integers flow between quantised products", run: quantized::run },
    Pass {
        name: "saturate",
        summary: "adds equal forms by rules and takes the cheapest",
        run: saturation::run,
    },
];

/// The order passes run in, each with the reason for its place.
pub static DEFAULT: &[&str] = &[
    "dead-code",      // nothing below should look at what nobody needs
    "quantized",      // while weights are still bytes
    "fold-constants", // operands written as constant nodes become constants, which normalising reads
    "normalise",      // shape chains turn into attributes and die; rules see one spelling
    "fold-constants", // what normalising made constant
    "cse",            // equal nodes share a class before rules look at them
    "saturate",       // rules and extraction
    "fold-constants", // weights that rules wrote as expressions
    "normalise",      // reshapes over folded constants
    "cse",            // folded weights may have become equal
    "dead-code",      // what the rewrites left behind
];

/// What runs after them where every device takes the channels last; the graph is for these devices only. It is no
/// matter of `strict`: every sum keeps its terms, and the order in which a kernel adds them is the kernel's.
pub static CHANNELS_LAST: &[&str] = &[
    "channels-last",  // the layout
    "fold-constants", // statistics that were spelled out
    "normalise",      // reshapes of reshapes
    "cse",            // permuted constants may have become equal
    "dead-code",      // what lost its readers
];

/// What runs after them where every device reads heads of attention where they lie; else the split would copy.
pub static HEADS: &[&str] = &[
    "merge-products", // queries, keys and values from one product
    "fold-constants", // weights side by side
    "dead-code",      // the single weights
];

/// What runs last of all, layout or not.
pub static LAST: &[&str] = &[
    "dequantize-rest",  // what no layout was found for
    "dequantize-apart", // after the last pass that would merge equal nodes
];

/// What the optimizer may do.
pub struct Options<'a> {
    /// Rewrites allowed in all; `None` for any number.
    pub fuel: Option<u64>,
    /// Rule files beside the shipped ones: name (for messages) and text.
    pub rules: Vec<(String, String)>,
    /// Microseconds a piece of work takes.
    pub cost: &'a dyn Fn(&Work) -> f64,
    /// Only rules that keep every bit.
    pub strict: bool,
    /// Also rules that are equal only on a restricted domain or to a stated accuracy.
    pub approximate: bool,
    /// Whether to run rules at all.
    pub egraph: bool,
    pub limits: Limits,
    /// The size a symbolic dimension is taken to have when forms are priced.
    pub symbol_size: i64,
    /// Verify after every pass (tests and debug builds), not only at the end.
    pub verify_each: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            fuel: None,
            rules: Vec::new(),
            cost: &crate::egraph::cost::roofline,
            strict: false,
            approximate: false,
            egraph: true,
            limits: Limits::default(),
            symbol_size: 64,
            verify_each: cfg!(debug_assertions),
        }
    }
}

/// What passes share while they run.
pub struct Ctx<'a> {
    pub options: &'a Options<'a>,
    /// The rules the options allow, in order.
    pub rules: Vec<Rule>,
    fuel: Option<u64>,
    fired: BTreeMap<String, u64>,
    pub(crate) saturation: Option<crate::history::SaturationRecord>,
}

impl<'a> Ctx<'a> {
    /// A context with the rules that `options` allow.
    ///
    /// # Errors
    /// What is wrong with a rule file.
    pub fn new(options: &'a Options<'a>) -> Result<Self, Vec<Diag>> {
        let mut all = rules::shipped()?;
        for (name, text) in &options.rules {
            all.extend(crate::egraph::parse::rules(name, text, partita_ops::registry())?);
        }
        let most = match (options.strict, options.approximate) {
            (true, _) => Numerics::Exact,
            (false, false) => Numerics::Reassociating,
            (false, true) => Numerics::Approximate,
        };
        all.retain(|r| r.numerics <= most);
        Ok(Self { options, rules: all, fuel: options.fuel, fired: BTreeMap::new(), saturation: None })
    }

    /// Takes one unit of fuel for a rewrite called `what`; false when none is left.
    pub fn spend(&mut self, what: &str) -> bool {
        let paid = self.pay();
        if paid {
            self.count(what, 1);
        }
        paid
    }

    /// Takes one unit of fuel without recording a rewrite.
    pub(crate) fn pay(&mut self) -> bool {
        match &mut self.fuel {
            None => true,
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
        }
    }

    /// Records `n` applications of a rewrite.
    pub(crate) fn count(&mut self, what: &str, n: u64) {
        *self.fired.entry(what.to_owned()).or_default() += n;
    }
}

/// Runs the default passes.
///
/// # Errors
/// What is wrong with a rule file, or with the graph.
pub fn optimize(graph: Graph, options: &Options) -> Result<(Graph, History), Vec<Diag>> {
    run_passes(graph, DEFAULT, options)
}

/// Runs the named passes in order.
///
/// # Errors
/// `R004` for a pass that does not exist; else as `optimize`.
pub fn run_passes(graph: Graph, names: &[&str], options: &Options) -> Result<(Graph, History), Vec<Diag>> {
    let mut ctx = Ctx::new(options)?;
    let mut history = History::default();
    let mut graph = graph;
    for name in names {
        let Some(pass) = PASSES.iter().find(|p| p.name == *name) else {
            let known: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            let diag = Diag::new("R004", format!("there is no pass {name}"));
            return Err(vec![diag.hint(format!("passes are {}", known.join(", ")))]);
        };
        let before = graph.n_nodes();
        graph = (pass.run)(&mut ctx, graph)?;
        if options.verify_each {
            partita_ir::verify::verify(&graph).map_err(|d| blame(d, name))?;
        }
        history.passes.push(PassRecord {
            pass: pass.name,
            nodes_before: before,
            nodes_after: graph.n_nodes(),
            fired: std::mem::take(&mut ctx.fired),
            saturation: ctx.saturation.take(),
        });
    }
    history.fuel_left = ctx.fuel;
    partita_ir::verify::verify(&graph).map_err(|d| blame(d, "the last one"))?;
    Ok((graph, history))
}

fn blame(diags: Vec<Diag>, pass: &str) -> Vec<Diag> {
    let hint =
        format!("this is a fault of the optimizer, found after pass {pass}; it can be run without that pass");
    diags.into_iter().map(|d| d.hint(hint.clone())).collect()
}
