//! `partita devices` and `partita machine`.

use super::Io;
use crate::error::{Error, Result};
use partita_hw::{DeviceReport, Profiles, detect_cpu};
use std::path::Path;

pub(super) fn devices(json: bool, io: &mut Io) -> Result<()> {
    let report =
        DeviceReport::new(detect_cpu(Path::new("/")), crate::devices::adapters(), &Profiles::builtin()?);
    let text = if json {
        let text = report.to_json().map_err(|e| Error::new("M020", e.to_string(), "please report this"))?;
        format!("{text}\n")
    } else {
        report.machine.table()
    };
    io.write(&text)
}

pub(super) fn machine(io: &mut Io) -> Result<()> {
    let text = crate::devices::detected(true)?.to_toml(&Profiles::builtin()?);
    io.write(&text)
}
