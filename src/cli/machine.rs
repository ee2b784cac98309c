//! `partita devices` and `partita machine`.

use super::Io;
use super::machine_args::{DevicesArgs, Looking, MachineArgs, WhatIf};
use super::what_if::edited;
use crate::error::{Error, Result};
use partita_hw::{
    Column, DetectionCache, DeviceReport, Filter, Found, Host, MAX_RECORDING_BYTES, Machine, PROBES,
    Profiles, Row, Timing, USUAL_COLUMNS, detect, sort_rows, tab_separated, table,
};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

pub(super) fn devices(args: &DevicesArgs, io: &mut Io) -> Result<()> {
    if args.probes {
        return io.write(&probes());
    }
    let profiles = Profiles::builtin()?;
    let mut looks = args.count.unwrap_or(if args.watch.is_some() { u64::MAX } else { 1 });
    loop {
        let mut report = look(&args.looking, &profiles)?;
        edit(&mut report, &args.what_if)?;
        if !args.timing {
            report.timings.clear();
        }
        io.write(&shown(args, report)?)?;
        looks -= 1;
        match args.watch.filter(|_| looks > 0) {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(()),
        }
    }
}

pub(super) fn machine(args: &MachineArgs, io: &mut Io) -> Result<()> {
    let profiles = Profiles::builtin()?;
    let mut report = look(&args.looking, &profiles)?;
    edit(&mut report, &args.what_if)?;
    let mut text = String::new();
    for found in report.devices.iter().filter(|found| found.device.is_none()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# seen, but nothing is published about its speed: {}", found.name);
    }
    for found in simulated(&report) {
        let _ = writeln!(
            text,
            "# seen, but this program has no driver for it, so it is simulated: {}",
            found.name
        );
    }
    text += &report.machine.to_toml(&profiles);
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| Error::io("write", path, &e)),
        None => io.write(&text),
    }
}

/// What the machine in question holds.
fn look(looking: &Looking, profiles: &Profiles) -> Result<DeviceReport> {
    if let Some(file) = &looking.machine {
        let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, &e))?;
        let machine = Machine::parse(&file.display().to_string(), &text, profiles)?;
        return Ok(DeviceReport::of_machine(machine));
    }
    let running = looking.root.is_none() && looking.recording.is_none();
    let host = Arc::new(host(looking)?);
    let selection = looking.selection();
    let detection = match looking.max_age.filter(|_| running) {
        None => detect(&host, &selection),
        Some(age) => (*DetectionCache::new(age, DetectionCache::usual_file()).get(&host, &selection)).clone(),
    };
    let graphics = running && crate::devices::may_have_graphics();
    let adapters = if graphics { crate::devices::adapters() } else { Vec::new() };
    Ok(DeviceReport::new(detection, adapters, profiles))
}

fn host(looking: &Looking) -> Result<Host> {
    let tools: Vec<_> = looking.tools.iter().map(|folder| absolute(folder)).collect::<Result<_>>()?;
    if let Some(file) = &looking.recording {
        let bytes = std::fs::metadata(file).map_err(|e| Error::io("read", file, &e))?.len();
        if bytes > MAX_RECORDING_BYTES as u64 {
            let message = format!("the recording has {bytes} bytes, the limit is {MAX_RECORDING_BYTES}");
            return Err(Error::new("H010", message, "record less").in_file(file));
        }
        let text = std::fs::read_to_string(file).map_err(|e| Error::io("read", file, &e))?;
        return Ok(Host::recorded(&file.display().to_string(), &text)?);
    }
    match &looking.root {
        Some(root) => Ok(Host::folder(&absolute(root)?, &tools)),
        None => Ok(Host::running(&tools)),
    }
}

/// Tools run in the folder they like, so relative paths would change their meaning.
fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Error::io("read", path, &e))
}

/// Changes the machine of a report; what the changes took away is no part of the report any more.
fn edit(report: &mut DeviceReport, what_if: &WhatIf) -> Result<()> {
    report.machine = edited(&report.machine, &what_if.edits())?;
    forget_removed(report);
    Ok(())
}

/// Findings whose device a what-if removed or replaced are no part of the report any more.
fn forget_removed(report: &mut DeviceReport) {
    let machine = &report.machine;
    let stays = |found: &Found| {
        let Some(name) = &found.device else { return true };
        machine.device(name).is_some_and(|at| machine.devices[at].title.as_ref() == Some(&found.name))
    };
    report.devices.retain(stays);
}

fn simulated(report: &DeviceReport) -> impl Iterator<Item = &Found> {
    let machine = &report.machine;
    report.devices.iter().filter(|found| {
        let at = found.device.as_ref().and_then(|name| machine.device(name));
        at.is_some_and(|at| !machine.devices[at].runs_here())
    })
}

/// The report in the form that was asked for.
fn shown(args: &DevicesArgs, mut report: DeviceReport) -> Result<String> {
    let filter = Filter {
        families: args.family.clone(),
        kinds: args.kind.clone(),
        memory_bytes: args.min_memory,
        precision: args.computes,
        available: args.available,
    };
    if args.json {
        if args.best {
            report.keep_best(&filter);
        } else {
            report.keep(&filter);
        }
        return report
            .to_json()
            .map(|text| text + "\n")
            .map_err(|e| Error::new("M020", e.to_string(), "please report this"));
    }
    let mut rows = if args.best { report.best(&filter).into_iter().collect() } else { report.rows(&filter) };
    if let Some(column) = args.sort {
        sort_rows(&mut rows, column);
    }
    let columns = if args.columns.is_empty() { columns_for(&rows) } else { args.columns.clone() };
    if args.tsv {
        return Ok(tab_separated(&rows, &columns));
    }
    let mut text = if args.summary { report.summary() } else { table(&rows, &columns) };
    if !args.best && !args.summary && filter == Filter::default() {
        text += &report.machine.ways();
        text += &report.surroundings();
    }
    for warning in &report.warnings {
        let _ =
            writeln!(text, "warning: {} ({}): {}", warning.family, warning.kind.as_str(), warning.message);
    }
    text += &times(&report.timings);
    if args.watch.is_some() {
        text.push('\n');
    }
    Ok(text)
}

/// The usual columns; without devices on a bus the column of their addresses says nothing.
fn columns_for(rows: &[Row<'_>]) -> Vec<Column> {
    let on_bus = rows.iter().any(|row| row.found.is_some_and(|found| found.pci_address.is_some()));
    USUAL_COLUMNS.into_iter().filter(|&column| on_bus || column != Column::Pci).collect()
}

fn times(timings: &[Timing]) -> String {
    let line = |timing: &Timing| match timing.us {
        Some(us) => format!("{:<12} {:>9.3} ms\n", timing.family, us / 1e3),
        None => format!("{:<12} {:>12}\n", timing.family, "did not end"),
    };
    timings.iter().map(line).collect()
}

fn probes() -> String {
    PROBES.iter().map(|probe| format!("{:<12} {}\n", probe.family, probe.about)).collect()
}
