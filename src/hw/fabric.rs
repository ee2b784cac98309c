//! Fabrics: many devices joined alike, stated once instead of pair by pair.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::device::Device;
use crate::error::{Code, HwError};
use crate::interconnect::Interconnects;
use crate::machine::Machine;
use crate::reader::{At, Table};

/// Most fabrics of a machine.
pub const MAX_FABRICS: usize = 256;

/// How the members of a fabric are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Topology {
    /// Every pair at the full rate of a member's port, all pairs at once.
    Switch,
    /// One link for every pair; a member uses all of its links at once.
    Mesh,
    /// A link to each of two neighbours, in the order of the members.
    Ring,
}

impl Topology {
    /// Every topology.
    pub const ALL: [Topology; 3] = [Topology::Switch, Topology::Mesh, Topology::Ring];

    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Topology::Switch => "switch",
            Topology::Mesh => "mesh",
            Topology::Ring => "ring",
        }
    }

    /// The topology of that word, if there is one.
    pub fn parse(word: &str) -> Option<Topology> {
        Topology::ALL.into_iter().find(|topology| topology.as_str() == word)
    }
}

/// Devices joined by one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fabric {
    /// Members by their positions in the machine, ascending.
    pub devices: Vec<usize>,
    /// How they are joined.
    pub topology: Topology,
    /// Id of the interconnect its figures come from.
    pub kind: Option<String>,
    /// Latency of one message between neighbours in us, commands left out.
    pub latency_us: f64,
    /// What starting one copy costs beyond the wire, in us.
    pub command_us: f64,
    /// GB/s a large message attains between two neighbours in one direction.
    pub gbs: f64,
    /// Where the figures come from.
    pub origin: String,
}

impl Fabric {
    /// Transfer time per byte in us, without latency.
    pub fn us_per_byte(&self) -> f64 {
        1.0 / (self.gbs * 1e3)
    }

    /// Members one message away from that one.
    pub(crate) fn neighbours(&self, member: usize) -> Vec<usize> {
        let Ok(at) = self.devices.binary_search(&member) else { return Vec::new() };
        let count = self.devices.len();
        match self.topology {
            Topology::Switch | Topology::Mesh => {
                self.devices.iter().copied().filter(|&other| other != member).collect()
            }
            Topology::Ring => {
                let mut both = vec![self.devices[(at + 1) % count], self.devices[(at + count - 1) % count]];
                both.sort_unstable();
                both.dedup();
                both.retain(|&other| other != member);
                both
            }
        }
    }

    /// The table of a machine file that reads back as this fabric.
    pub(crate) fn write(&self, out: &mut String, devices: &[Device]) {
        let quoted = |word: &str| toml::Value::String(word.to_owned()).to_string();
        let names = self.devices.iter().filter_map(|&index| devices.get(index));
        let names: Vec<String> = names.map(|device| quoted(&device.name)).collect();
        // Writing to a string cannot fail.
        let _ = write!(out, "\n[[fabric]]\ndevices = [{}]\n", names.join(", "));
        let _ = writeln!(out, "topology = \"{}\"", self.topology.as_str());
        if let Some(kind) = &self.kind {
            let _ = writeln!(out, "kind = {}", quoted(kind));
        }
        let (latency, command, gbs) = (self.latency_us, self.command_us, self.gbs);
        let _ = writeln!(out, "latency_us = {latency:?}\ncommand_us = {command:?}\ngbs = {gbs:?}");
        let _ = writeln!(out, "origin = {}", quoted(&self.origin));
    }
}

/// Reads the fabrics of a machine file.
///
/// # Errors
/// Located errors for unknown members and kinds, fabrics of fewer than two devices, and those without a rate.
pub(crate) fn read(root: &mut Table<'_>, machine: &mut Machine) -> Result<(), HwError> {
    let tables = root.tables("fabric")?;
    if tables.len() > MAX_FABRICS {
        let message = format!("{} fabrics, the limit is {MAX_FABRICS}", tables.len());
        return Err(root.error_at(Code::Limit, tables[MAX_FABRICS].offset, message, ""));
    }
    let kinds = Interconnects::builtin()?;
    for table in tables {
        let fabric = read_one(table, &machine.devices, &kinds)?;
        machine.fabrics.push(fabric);
    }
    Ok(())
}

fn read_one(mut table: Table<'_>, devices: &[Device], kinds: &Interconnects) -> Result<Fabric, HwError> {
    let members = members(&mut table, devices)?;
    let words = Topology::ALL.map(Topology::as_str);
    let topology = table.need_choice("topology", Topology::parse, &words)?;
    let mut fabric = Fabric {
        devices: members,
        topology,
        kind: None,
        latency_us: defaults::LINK_LATENCY_US,
        command_us: 0.0,
        gbs: 0.0,
        origin: crate::machine_file::FILE_ORIGIN.to_owned(),
    };
    if let Some(word) = table.word_at("kind")? {
        take_kind(&table, &mut fabric, &word, kinds)?;
    }
    fabric.latency_us = table.number_or_zero("latency_us")?.unwrap_or(fabric.latency_us);
    fabric.command_us = table.number_or_zero("command_us")?.unwrap_or(fabric.command_us);
    fabric.gbs = table.number("gbs")?.unwrap_or(fabric.gbs);
    fabric.origin = table.word("origin")?.unwrap_or(fabric.origin);
    if fabric.gbs <= 0.0 {
        let message = format!("{} has neither a rate nor a kind with a published one", table.what);
        let hint = "add `gbs = ...` in GB/s of one direction";
        return Err(table.error_at(Code::MissingField, table.offset, message, hint));
    }
    table.finish()?;
    Ok(fabric)
}

fn take_kind(
    table: &Table<'_>,
    fabric: &mut Fabric,
    word: &At<&str>,
    kinds: &Interconnects,
) -> Result<(), HwError> {
    let kind = kinds.get(word.value).ok_or_else(|| {
        let message = format!("there is no interconnect {:?}", word.value);
        let hint = "leave `kind` out and state `latency_us` and `gbs`";
        table.error_at(Code::UnknownLinkKind, word.offset, message, hint)
    })?;
    fabric.kind = Some(kind.id.clone());
    fabric.latency_us = kind.latency_us.unwrap_or(defaults::LINK_LATENCY_US);
    fabric.command_us = kind.copy_latency_us() - fabric.latency_us;
    if let Some((gbs, origin)) = kind.attained_gbs() {
        (fabric.gbs, fabric.origin) = (gbs, origin);
    }
    Ok(())
}

/// Members by name; a word also stands for every device named by it and a number.
fn members(table: &mut Table<'_>, devices: &[Device]) -> Result<Vec<usize>, HwError> {
    let words = table.words("devices")?;
    let mut members = Vec::new();
    for word in &words {
        let numbered = |name: &str| {
            name.strip_prefix(word.as_str())
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let before = members.len();
        members.extend((0..devices.len()).filter(|&index| numbered(&devices[index].name)));
        if members.len() == before {
            let message = format!("there is no device {word:?}");
            let hint = "name devices, or the common part of names that end in numbers";
            return Err(table.error_at(Code::UnknownDevice, table.offset, message, hint));
        }
    }
    members.sort_unstable();
    members.dedup();
    if members.len() < 2 {
        let message = format!("{} joins fewer than two devices", table.what);
        return Err(table.error_at(Code::BadValue, table.offset, message, "add `devices = [\"gpu\"]`"));
    }
    Ok(members)
}
