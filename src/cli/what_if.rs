//! `partita compile --what-if`: the machine with devices less or more, and its plan beside that of the machine as it is.

use crate::error::{Error, Result};
use crate::report::{diff, printable};
use partita_hw::{Driver, MAX_DEVICES, Machine, Profiles};
use partita_plan::{Plan, Provenance};
use std::fmt::Write as _;
use std::str::FromStr;

/// One change of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The device of this name goes.
    Remove(String),
    /// So many processors of a profile come, simulated.
    Add { profile: String, count: usize },
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const FORM: &str = "expected remove=DEVICE, add=PROFILE or add=PROFILE:COUNT";
        match text.split_once('=') {
            Some(("remove", device)) if !device.is_empty() => Ok(Self::Remove(device.to_owned())),
            Some(("add", what)) => {
                let (profile, count) = what.split_once(':').unwrap_or((what, "1"));
                let count = count.parse().ok().filter(|n| (1..=MAX_DEVICES).contains(n));
                let count = count.ok_or_else(|| format!("the count must be between 1 and {MAX_DEVICES}"))?;
                if profile.is_empty() {
                    Err(FORM.to_owned())
                } else {
                    Ok(Self::Add { profile: profile.to_owned(), count })
                }
            }
            _ => Err(FORM.to_owned()),
        }
    }
}

impl Change {
    fn words(&self) -> String {
        match self {
            Self::Remove(device) => format!("remove={device}"),
            Self::Add { profile, count } => format!("add={profile}:{count}"),
        }
    }
}

/// The machine after the changes; `None` when there are none.
///
/// # Errors
/// `M001` for a device it does not have, `M004` when none would be left, `M005` for a profile that is not known, and what
/// machine files are refused for.
pub(super) fn changed(machine: &Machine, changes: &[Change]) -> Result<Option<Machine>> {
    if changes.is_empty() {
        return Ok(None);
    }
    let profiles = Profiles::builtin()?;
    let mut out = machine.clone();
    for change in changes {
        match change {
            Change::Remove(device) => remove(&mut out, device)?,
            Change::Add { profile, count } => {
                out = added(&out, &full_name(profile, &profiles)?, *count, &profiles)?;
            }
        }
    }
    // Links that devices have by construction follow from who is left.
    Ok(Some(Machine::parse("--what-if", &out.to_toml(&profiles), &profiles)?))
}

fn remove(machine: &mut Machine, name: &str) -> Result<()> {
    let Some(gone) = machine.device(name) else {
        let names: Vec<&str> = machine.devices.iter().map(|d| d.name.as_str()).collect();
        let message = format!("--what-if removes {name}, which the machine does not have");
        return Err(Error::new("M001", message, format!("it has: {}", names.join(", "))));
    };
    if machine.devices.len() == 1 {
        return Err(Error::new("M004", "--what-if leaves no device", "add one first"));
    }
    machine.devices.remove(gone);
    machine.links.retain(|l| l.from != gone && l.to != gone);
    let moved = |at: usize| if at > gone { at - 1 } else { at };
    for link in &mut machine.links {
        (link.from, link.to) = (moved(link.from), moved(link.to));
    }
    let first_cpu = machine.devices.iter().position(|d| d.driver == Driver::Cpu);
    machine.host = if machine.host == gone { first_cpu.unwrap_or(0) } else { moved(machine.host) };
    Ok(())
}

/// The profile of that name, or the only one whose name holds it.
fn full_name(name: &str, profiles: &Profiles) -> Result<String> {
    if profiles.get(name).is_some() {
        return Ok(name.to_owned());
    }
    let found: Vec<&str> = profiles.iter().map(|p| p.id.as_str()).filter(|id| id.contains(name)).collect();
    match found.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Error::new("M005", format!("there is no profile {name}"), "src/hw/profiles lists them")),
        several => {
            let message = format!("{name} may be any of {} profiles", several.len());
            Err(Error::new("M005", message, format!("say which: {}", several.join(", "))))
        }
    }
}

/// The machine with `count` more simulated devices, by way of its text, so that they are what a machine file makes them.
fn added(machine: &Machine, profile: &str, count: usize, profiles: &Profiles) -> Result<Machine> {
    let mut text = machine.to_toml(profiles);
    let taken = |name: &str| machine.device(name).is_some();
    let names = (0..=MAX_DEVICES + count).map(|n| format!("new{n}")).filter(|name| !taken(name));
    for name in names.take(count) {
        let _ = write!(text, "\n[[device]]\nname = \"{name}\"\ndriver = \"sim\"\nprofile = \"{profile}\"\n");
    }
    Ok(Machine::parse("--what-if", &text, profiles)?)
}

/// The plan as it is and the one with the changes: the figures side by side, then what moved.
pub(super) fn compared(now: &Plan, then: &Plan, changes: &[Change]) -> String {
    let words: Vec<String> = changes.iter().map(Change::words).collect();
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
