//! `partita compile --what-if`: the machine with devices less or more, and its plan beside that of the machine as it is.

use crate::error::{Error, Result};
use crate::report::{diff, printable};
use partita_hw::{Edit, Machine, Profiles};
use partita_plan::{Plan, Provenance};
use std::fmt::Write as _;

/// The machine after the edits.
///
/// # Errors
/// What [`Machine::edit`] says: unknown devices, profiles and links, no device left.
pub(super) fn edited(machine: &Machine, edits: &[Edit]) -> Result<Machine> {
    let mut out = machine.clone();
    let done = out.edit(edits, &Profiles::builtin()?);
    done.map_err(|e| Error::new(e.code.as_str(), format!("{}: {}", e.file, e.message), e.hint))?;
    Ok(out)
}

/// The plan as it is and the one with the changes: the figures side by side, then what moved.
pub(super) fn compared(now: &Plan, then: &Plan, edits: &[Edit]) -> String {
    let words: Vec<String> = edits.iter().map(Edit::words).collect();
    let none = Provenance::default();
    let (a, b) = (now.provenance.as_ref().unwrap_or(&none), then.provenance.as_ref().unwrap_or(&none));
    let mut out = format!("{:<12} {:>14} {:>14}   what if {}\n", "", "now", "then", words.join(", "));
    let mut row = |name: &str, now: String, then: String| {
        let _ = writeln!(out, "{name:<12} {now:>14} {then:>14}");
    };
    row("predicted us", format!("{:.2}", a.value_us), format!("{:.2}", b.value_us));
    row("bound us", format!("{:.2}", a.bound_us), format!("{:.2}", b.bound_us));
    let mut names: Vec<&str> = now.devices.iter().map(|d| d.name.as_str()).collect();
    names.extend(
        then.devices.iter().map(|d| d.name.as_str()).filter(|n| now.devices.iter().all(|d| d.name != *n)),
    );
    for name in names {
        row(name, busy(now, name), busy(then, name));
    }
    out.push('\n');
    out.push_str(&diff::diff(now, then).unwrap_or_else(|| "the plans are equal\n".to_owned()));
    printable(&out)
}

/// What a device does in a plan, in a word.
fn busy(plan: &Plan, name: &str) -> String {
    let Some(device) = plan.devices.iter().position(|d| d.name == name) else { return "-".to_owned() };
    let queues = plan.parts().iter().flat_map(|p| &p.queues);
    let own: Vec<_> =
        queues.filter(|q| !q.copies && q.device as usize == device).flat_map(|q| &q.steps).collect();
    let time_us = own.iter().fold(0.0, |sum, s| sum + s.time_us);
    format!("{} in {time_us:.2}", own.len())
}
