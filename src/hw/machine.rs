//! A machine: devices and the links between them.

use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::device::{Device, Driver};
use crate::fabric::Fabric;
use crate::interconnect::Interconnect;
use crate::profile::Profiles;

/// Most devices of a machine.
pub const MAX_DEVICES: usize = 1024;

/// Most links of a machine, implied ones included.
pub const MAX_LINKS: usize = 3840 + MAX_DEVICES;

/// A link between two devices, by their positions in the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Sending device.
    pub from: usize,
    /// Receiving device; both directions unless `one_way`.
    pub to: usize,
    /// Id of the interconnect its figures come from.
    pub kind: Option<String>,
    /// Latency of one copy in us.
    pub latency_us: f64,
    /// GB/s a large copy attains in one direction.
    pub gbs: f64,
    /// True when data goes from `from` to `to` only.
    pub one_way: bool,
    /// True when no file states the link: it follows from the devices.
    pub implied: bool,
    /// Where the figures come from.
    pub origin: String,
}

impl Link {
    /// A link with the figures of an interconnect; `None` when it has no published rate.
    pub fn of_kind(from: usize, to: usize, kind: &Interconnect) -> Option<Link> {
        let (gbs, origin) = kind.attained_gbs()?;
        let kind_id = Some(kind.id.clone());
        let latency_us = kind.copy_latency_us();
        Some(Link { from, to, kind: kind_id, latency_us, gbs, one_way: false, implied: false, origin })
    }

    /// True when data can go from `from` to `to` on this link.
    pub fn carries(&self, from: usize, to: usize) -> bool {
        (self.from, self.to) == (from, to) || (!self.one_way && (self.to, self.from) == (from, to))
    }

    /// Transfer time per byte in us, without latency.
    pub fn us_per_byte(&self) -> f64 {
        1.0 / (self.gbs * 1e3)
    }
}

/// Devices and links. Device names are unique, link ends are valid positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name in reports.
    pub name: String,
    /// Devices, in file order.
    pub devices: Vec<Device>,
    /// Links, stated ones first.
    pub links: Vec<Link>,
    /// Networks that join many devices alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fabrics: Vec<Fabric>,
    /// Position of the device that holds inputs and outputs.
    pub host: usize,
}

impl Machine {
    /// The position of the device of that name.
    pub fn device(&self, name: &str) -> Option<usize> {
        self.devices.iter().position(|device| device.name == name)
    }

    /// Adds the links every device has to the host by construction, where none is stated.
    pub(crate) fn imply_links(&mut self, profiles: &Profiles) {
        for device in (0..self.devices.len()).filter(|&device| device != self.host) {
            let stated = |from, to| self.links.iter().any(|link| link.carries(from, to));
            let (down, up) = (stated(self.host, device), stated(device, self.host));
            if down && up {
                continue;
            }
            let (from, to) = if down { (device, self.host) } else { (self.host, device) };
            if let Some((gbs, latency_us, origin)) = self.host_link(device, profiles) {
                let one_way = down || up;
                self.links.push(Link {
                    from,
                    to,
                    kind: None,
                    latency_us,
                    gbs,
                    one_way,
                    implied: true,
                    origin,
                });
            }
        }
    }

    /// GB/s, latency in us and origin of the way between a device and the host.
    fn host_link(&self, device: usize, profiles: &Profiles) -> Option<(f64, f64, String)> {
        let device = &self.devices[device];
        if device.shared_memory || device.driver == Driver::Cpu {
            return self.memory_copy(device);
        }
        let profile = device.profile.as_deref().and_then(|id| profiles.get(id));
        if let Some(link) = profile.and_then(|profile| profile.host_link()) {
            let latency_us = link.latency_us.unwrap_or(defaults::LINK_LATENCY_US) + defaults::COPY_COMMAND_US;
            let efficiency = defaults::LINK_EFFICIENCY;
            let nominal = link.nominal_gbs()?;
            let gbs = link.measured_gbs.unwrap_or(nominal * efficiency);
            let how = link
                .measured_gbs
                .map_or(format!("{nominal} x {efficiency} default"), |_| "measured".to_owned());
            let id = device.profile.as_deref().unwrap_or_default();
            return Some((gbs, latency_us, format!("host link of profile {id} ({}, {how})", link.kind)));
        }
        (device.driver == Driver::Wgpu).then(|| {
            let gbs = defaults::HOST_LINK_GBS * defaults::LINK_EFFICIENCY;
            let latency_us = defaults::LINK_LATENCY_US + defaults::COPY_COMMAND_US;
            (gbs, latency_us, "default: PCIe 3 x16 host link".to_owned())
        })
    }

    /// A copy inside the host's memory reads and writes it, so it moves at half the bandwidth.
    fn memory_copy(&self, device: &Device) -> Option<(f64, f64, String)> {
        let host = self.devices[self.host].bandwidth_gbs.as_ref();
        let bandwidth = [host, device.bandwidth_gbs.as_ref()].into_iter().flatten();
        let slowest = bandwidth.min_by(|a, b| a.value.total_cmp(&b.value))?;
        let latency_us =
            if device.driver == Driver::Cpu { defaults::CPU_COPY_US } else { defaults::SHARED_COPY_US };
        Some((slowest.value / 2.0, latency_us, format!("copy in shared memory ({})", slowest.origin)))
    }
}
