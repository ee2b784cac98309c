//! Whether a plan fits a machine: devices, memory, kernels, versions; everything but the weights' bytes.

use crate::devices;
use crate::report::charts::peak_bytes;
use crate::report::diff::weight_bytes;
use crate::report::dot::size_text;
use crate::report::printable;
use partita_hw::{Device, Machine};
use partita_ir::Diag;
use partita_plan::{ElementType, NO_VALUE, PLAN_VERSION, Plan, Queue, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What was looked at, in words, and everything that is wrong.
#[derive(Debug, Default)]
pub struct Findings {
    rows: Vec<(String, &'static str, String)>,
    pub wrong: Vec<Diag>,
}

impl Findings {
    fn fine(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.rows.push((what.into(), "ok", text.into()));
    }

    /// Not wrong, but worth knowing.
    fn note(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.rows.push((what.into(), "note", text.into()));
    }

    fn wrong(&mut self, what: &str, code: &'static str, text: &str, hint: &str) {
        self.rows.push((what.to_owned(), code, text.to_owned()));
        self.wrong.push(Diag::new(code, format!("{what}: {text}")).hint(hint));
    }

    /// A table: what, whether it is right, and what was found.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (what, state, text) in &self.rows {
            let _ = writeln!(out, "{what:<18} {state:<5} {text}");
        }
        printable(&out)
    }
}

/// Looks at a plan that passed the check of its structure: on the devices of `machine`, or on those that are here.
///
/// Codes: `K001` a device is absent, `K002` its driver differs or is not part of this build, `K003` its memory does not
/// hold the plan, `K004` it has no kernel for a step.
pub fn check(plan: &Plan, machine: Option<&Machine>) -> Findings {
    let mut out = Findings::default();
    let provenance = plan.provenance.clone().unwrap_or_default();
    out.fine("format", format!("version {PLAN_VERSION}, written by {}", provenance.compiler));
    let own = concat!("partita ", env!("CARGO_PKG_VERSION"));
    if provenance.compiler != own {
        out.note("compiler", format!("this is {own}; the plan runs as it was made"));
    }
    out.fine("structure", structure(plan));
    for n in 0..plan.devices.len() {
        if present(plan, n, machine, &mut out) {
            memory(plan, n, machine, &mut out);
            kernels(plan, n, &mut out);
        }
    }
    out
}

fn structure(plan: &Plan) -> String {
    let parts = plan.parts();
    let sum = |count: &dyn Fn(&Plan) -> usize| parts.iter().map(count).sum::<usize>();
    let steps = sum(&|p: &Plan| p.queues.iter().map(|q| q.steps.len()).sum());
    format!(
        "{steps} steps in {} queues, {} values: sizes, waits, lifetimes and byte ranges hold",
        sum(&|p: &Plan| p.queues.len()),
        sum(&|p: &Plan| p.values.len())
    )
}

/// Whether the plan's device is there.
fn present(plan: &Plan, n: usize, machine: Option<&Machine>, out: &mut Findings) -> bool {
    let row = &plan.devices[n];
    let what = format!("device {}", row.name);
    let Some(machine) = machine else { return here(row, &what, out) };
    let names: Vec<&str> = machine.devices.iter().map(|d| d.name.as_str()).collect();
    let Some(device) = machine.device(&row.name).map(|d| &machine.devices[d]) else {
        let text = format!("{} does not have it", machine.name);
        out.wrong(&what, "K001", &text, &format!("it has {}; compile the model for it", names.join(", ")));
        return false;
    };
    if device.driver.as_str() != row.driver {
        let text =
            format!("the plan drives it with {}, the machine with {}", row.driver, device.driver.as_str());
        out.wrong(&what, "K002", &text, "compile the model for this machine");
        return false;
    }
    let profile = device.profile.clone().unwrap_or_default();
    if profile == row.profile {
        out.fine(what, described(row));
    } else {
        let name = |p: &str| if p.is_empty() { "no profile".to_owned() } else { p.to_owned() };
        let text = format!("planned for {}, the machine has {}", name(&row.profile), name(&profile));
        out.note(what, format!("{text}: predictions are for another processor"));
    }
    true
}

fn described(row: &partita_plan::Device) -> String {
    let threads = if row.threads > 0 { format!(", {} threads", row.threads) } else { String::new() };
    let profile = if row.profile.is_empty() { String::new() } else { format!(", {}", row.profile) };
    format!("{}{threads}{profile}", row.driver)
}

/// Whether this computer has the device.
fn here(row: &partita_plan::Device, what: &str, out: &mut Findings) -> bool {
    match row.driver.as_str() {
        "cpu" => out.fine(what, described(row)),
        "sim" => out.fine(what, format!("{}: simulated on the CPU", described(row))),
        "wgpu" => {
            let adapters = devices::adapters();
            let named = |a: &partita_hw::AdapterInfo| {
                row.adapter.is_empty() || row.adapter == a.index.to_string() || a.name.contains(&row.adapter)
            };
            let Some(adapter) = adapters.iter().find(|a| named(a)) else {
                let text = format!("no adapter {} among the {} that are here", row.adapter, adapters.len());
                out.wrong(what, "K001", text.trim(), "partita devices lists the adapters");
                return false;
            };
            out.fine(what, format!("wgpu, {} ({})", adapter.name, adapter.backend));
        }
        other => {
            let text = format!("this build has no driver {other}");
            out.wrong(
                what,
                "K002",
                &text,
                "build with the feature of the driver, or compile for another machine",
            );
            return false;
        }
    }
    true
}

/// Bytes of memory a device has: by the machine, else what the plan was made for.
fn capacity(row: &partita_plan::Device, device: Option<&Device>) -> Option<u64> {
    let stated = Some(row.memory_bytes).filter(|bytes| *bytes > 0);
    device.map_or(stated, |d| d.memory_bytes.as_ref().map(|m| m.value))
}

fn memory(plan: &Plan, n: usize, machine: Option<&Machine>, out: &mut Findings) {
    let row = &plan.devices[n];
    let what = format!("memory {}", row.name);
    let parts = plan.parts();
    let arena = parts.iter().filter_map(|p| p.devices.get(n)).map(|d| d.arena_bytes).max().unwrap_or(0);
    let open = parts.iter().any(|p| !p.symbols.is_empty());
    // Casting saturates.
    let likely = parts.iter().map(|p| peak_bytes(p, n) as u64).max().unwrap_or(0);
    let arena = if open { likely } else { arena };
    let weights = parts.iter().fold(0u64, |sum, p| sum.saturating_add(weight_bytes(p, n)));
    let needed = arena.saturating_add(weights);
    let size = |bytes: u64| size_text(bytes as f64);
    let sized = if open { " for the likely sizes" } else { "" };
    let text = format!("{} of weights and {} of arena{sized}", size(weights), size(arena));
    let device = machine.and_then(|m| m.device(&row.name).map(|d| &m.devices[d]));
    match capacity(row, device) {
        Some(limit) if needed > limit => {
            let text = format!("it needs {text}, which is more than its {}", size(limit));
            out.wrong(
                &what,
                "K003",
                &text,
                "compile the model for this machine, or fix smaller sizes with --dim",
            );
        }
        Some(limit) => out.fine(what, format!("{text}, of {}", size(limit))),
        None => out.note(what, format!("{text}; nobody knows how much it has")),
    }
}

fn kernels(plan: &Plan, n: usize, out: &mut Findings) {
    let row = &plan.devices[n];
    let what = format!("kernels {}", row.name);
    let mut libraries: BTreeSet<&str> = BTreeSet::new();
    let mut missing: BTreeMap<String, String> = BTreeMap::new();
    for part in plan.parts() {
        let own = |q: &&Queue| !q.copies && q.device as usize == n;
        for step in part.queues.iter().filter(own).flat_map(|q| &q.steps) {
            let Some(kernel) = part.kernels.get(step.kernel as usize) else { continue };
            libraries.insert(&kernel.library);
            let (inputs, outputs) = (types(part, &step.inputs), types(part, &step.outputs));
            if devices::supports(&row.driver, kernel, &inputs, &outputs) != Some(true) {
                missing.entry(kernel.library.clone()).or_insert_with(|| signature(step, &inputs, &outputs));
            }
        }
    }
    for (library, step) in &missing {
        let text = format!("{} has no kernel {library} for {step}", row.driver);
        out.wrong(&what, "K004", &text, "compile the model again with this build");
    }
    if missing.is_empty() && !libraries.is_empty() {
        out.fine(what, libraries.into_iter().collect::<Vec<_>>().join(", "));
    } else if missing.is_empty() {
        out.note(what, "no steps");
    }
}

fn types(plan: &Plan, values: &[u32]) -> Vec<ElementType> {
    let values = values.iter().filter(|v| **v != NO_VALUE).filter_map(|v| plan.values.get(*v as usize));
    values.filter_map(|v| ElementType::try_from(v.dtype).ok()).collect()
}

fn signature(step: &Step, inputs: &[ElementType], outputs: &[ElementType]) -> String {
    let names = |types: &[ElementType]| types.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    format!("step {} ({}) -> ({})", step.name, names(inputs), names(outputs))
}
