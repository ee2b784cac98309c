//! From what detection found to a machine that can be planned for: devices with figures, and the links it saw.

use std::collections::BTreeMap;

use crate::adapter::{AdapterInfo, without_repeats};
use crate::defaults;
use crate::detect::{adapter_device, adapter_ref, cpu_device};
use crate::device::{Device, Driver};
use crate::fact::Fact;
use crate::interconnect::{Interconnect, Interconnects};
use crate::kind::Kind;
use crate::machine::{Link, MAX_DEVICES, MAX_LINKS, Machine};
use crate::probe::{Detection, Found, PeerLink};
use crate::profile::{Profile, ProfileLink, Profiles};

/// Below this share of the profile's memory a device is a part of that processor, and its figures are not known.
const WHOLE_DEVICE: f64 = 0.75;

/// Profiles of cards that show themselves as two devices, each with half of everything.
const TWO_IN_ONE: [&str; 1] = ["amd-mi250x"];

impl Machine {
    /// The machine of a detection: the CPU, every device about whose speed something is known, every adapter.
    ///
    /// A device that an adapter opens computes through it; for the others this program has no driver, so they are
    /// simulated: planned for, with right numbers computed on the CPU. Names go into the detection's devices.
    pub fn found(detection: &mut Detection, adapters: &[AdapterInfo], profiles: &Profiles) -> Machine {
        let cpu = &detection.cpu;
        let name = cpu.model.clone().unwrap_or_else(|| "this machine".to_owned());
        let mut machine = Machine {
            name,
            devices: vec![cpu_device(cpu, profiles)],
            links: Vec::new(),
            fabrics: Vec::new(),
            host: 0,
        };
        let mut left = without_repeats(adapters);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut places: Vec<Option<usize>> = Vec::new();
        for found in &mut detection.devices {
            let adapter = left.iter().position(|adapter| opens(adapter, found)).map(|at| left.remove(at));
            let device =
                (machine.devices.len() < MAX_DEVICES).then(|| device(found, adapter, profiles)).flatten();
            places.push(device.is_some().then_some(machine.devices.len()));
            found.device = device.map(|device| machine.add_named(device, &mut counts));
        }
        for adapter in left.into_iter().take(MAX_DEVICES.saturating_sub(machine.devices.len())) {
            machine.add_named(adapter_device("", adapter, profiles), &mut counts);
        }
        machine.link_found(detection, &places, profiles);
        machine.imply_links(profiles);
        machine.link_the_rest();
        machine
    }

    /// What is part of this machine is attached to it somehow, even where neither bus nor profile says how.
    pub(crate) fn link_the_rest(&mut self) {
        let lost = |&device: &usize| self.path(self.host, device).is_none();
        for device in (0..self.devices.len()).filter(lost).collect::<Vec<_>>() {
            self.links.push(Link {
                from: self.host,
                to: device,
                kind: None,
                latency_us: defaults::LINK_LATENCY_US + defaults::COPY_COMMAND_US,
                gbs: rounded(defaults::HOST_LINK_GBS * defaults::LINK_EFFICIENCY),
                one_way: false,
                implied: false,
                origin: "default: PCIe 3 x16 host link, the way is not known".to_owned(),
            });
        }
        // Stated ones come first, also when the machine is read from a file.
        self.links.sort_by_key(|link| link.implied);
    }

    /// Adds a device under the next name of its kind, which is returned.
    fn add_named(&mut self, mut device: Device, counts: &mut BTreeMap<&str, usize>) -> String {
        let prefix = name_prefix(device.kind);
        let count = counts.entry(prefix).or_insert(0);
        device.name = format!("{prefix}{count}");
        *count += 1;
        self.devices.push(device);
        self.devices.last().map(|device| device.name.clone()).unwrap_or_default()
    }

    fn link_found(&mut self, detection: &Detection, places: &[Option<usize>], profiles: &Profiles) {
        for (found, place) in detection.devices.iter().zip(places) {
            if let Some(place) = *place {
                self.links.extend(self.bus_link(found, place, profiles));
            }
        }
        let kinds = Interconnects::builtin().unwrap_or_default();
        for peer in detection.system.links.iter().take(MAX_LINKS - MAX_DEVICES) {
            let end = |name: &String| {
                let at = detection.devices.iter().position(|found| {
                    found.pci_address.as_ref() == Some(name) || found.number().as_ref() == Some(name)
                })?;
                Some((places[at]?, &detection.devices[at]))
            };
            if let (Some(from), Some(to)) = (end(&peer.from), end(&peer.to))
                && from.0 != to.0
            {
                self.links.extend(peer_link(peer, from, to, &kinds, profiles));
            }
        }
    }

    /// The way to the host as the bus runs it, which is surer than the one in print.
    fn bus_link(&self, found: &Found, place: usize, profiles: &Profiles) -> Option<Link> {
        let device = &self.devices[place];
        let profile = device.profile.as_deref().and_then(|id| profiles.get(id));
        let other_kind = profile.and_then(Profile::host_link).is_some_and(|link| link.kind != "pcie");
        let pcie = found.pcie.filter(|_| !device.shared_memory && !other_kind)?;
        let (lanes, gts, share) = (pcie.lanes, pcie.gts, defaults::LINK_EFFICIENCY);
        Some(Link {
            from: self.host,
            to: place,
            kind: None,
            latency_us: defaults::LINK_LATENCY_US + defaults::COPY_COMMAND_US,
            gbs: rounded(pcie.gbs_per_dir * share),
            one_way: false,
            implied: false,
            origin: format!("PCIe {gts} GT/s x{lanes} as the bus says x {share} default"),
        })
    }
}

/// Three digits behind the point; more would be noise of the arithmetic.
fn rounded(gbs: f64) -> f64 {
    (gbs * 1e3).round() / 1e3
}

/// How devices of a kind are named.
pub(crate) fn name_prefix(kind: Kind) -> &'static str {
    if kind == Kind::Custom { "asic" } else { kind.as_str() }
}

fn opens(adapter: &AdapterInfo, found: &Found) -> bool {
    if found.kind != Kind::Gpu || adapter.is_software() {
        return false;
    }
    match (&adapter.pci_address, &found.pci_address) {
        (Some(a), Some(b)) => a == b,
        _ => {
            let id = format!("{:04x}:{:04x}", adapter.vendor, adapter.device);
            adapter.vendor != 0 && found.pci_id.as_ref() == Some(&id)
        }
    }
}

/// The device of a finding; `None` when nothing says how fast it is.
fn device(found: &mut Found, adapter: Option<&AdapterInfo>, profiles: &Profiles) -> Option<Device> {
    let profile = found.profile.as_deref().and_then(|id| profiles.get(id));
    let share = profile.map_or(Some(1.0), |profile| share_of(found, profile));
    if share.is_none() {
        let whole = found.profile.take();
        found.fact("part of", whole);
    }
    let profile = profile.filter(|_| share.is_some());
    let mut device = match adapter {
        Some(adapter) => {
            let mut device = Device::new("", Driver::Wgpu, found.kind, profile);
            device.adapter = Some(adapter_ref(adapter));
            device
        }
        None => Device::new("", Driver::Sim, found.kind, profile),
    };
    if share == Some(0.5) {
        device.scale(0.5, "half of the card");
    }
    device.title = Some(found.name.clone());
    device.shared_memory |= found.shared_memory;
    if let Some(bytes) = found.memory_bytes {
        device.memory_bytes = Some(Fact::new(bytes, "detected"));
    }
    device.fill_defaults();
    (adapter.is_some() || !device.dense.is_empty() || !device.vector.is_empty()).then_some(device)
}

/// How much of its profile's processor a device is: all, half, or a part whose figures nobody publishes.
fn share_of(found: &Found, profile: &Profile) -> Option<f64> {
    // Divided into instances, no program sees the whole.
    if found.mig == Some(true) {
        return None;
    }
    // Memory shared with the CPU says nothing about the size of the device.
    let sizes =
        found.memory_bytes.zip(profile.memory.capacity_bytes).filter(|_| !profile.memory.shared_with_cpu);
    let Some((has, whole)) = sizes else { return Some(1.0) };
    if has as f64 >= WHOLE_DEVICE * whole as f64 {
        return Some(1.0);
    }
    TWO_IN_ONE.contains(&profile.id.as_str()).then_some(0.5)
}

type End<'f> = (usize, &'f Found);

/// A link between two devices of the machine; `None` when nothing says how fast it is.
fn peer_link(
    peer: &PeerLink,
    from: End<'_>,
    to: End<'_>,
    kinds: &Interconnects,
    profiles: &Profiles,
) -> Option<Link> {
    let kind = interconnect(peer, from.1, kinds, profiles);
    if peer.gbs_per_dir.is_none()
        && let Some(link) =
            kind.filter(|_| peer.links == 1).and_then(|kind| Link::of_kind(from.0, to.0, kind))
    {
        return Some(link);
    }
    let (nominal, what) = match peer.gbs_per_dir {
        Some(gbs) => (gbs, "as the driver says"),
        None if peer.kind == "pcie-switch" => {
            (from.1.pcie?.gbs_per_dir.min(to.1.pcie?.gbs_per_dir), "below one PCIe switch")
        }
        None => (from_profile(peer, from.1, profiles)?, "by the profile"),
    };
    let (share, word) = match kind.and_then(|kind| kind.efficiency) {
        Some(share) => (share, "measured"),
        None => (defaults::LINK_EFFICIENCY, "default"),
    };
    let usual = defaults::LINK_LATENCY_US + defaults::COPY_COMMAND_US;
    Some(Link {
        from: from.0,
        to: to.0,
        kind: kind.map(|kind| kind.id.clone()),
        latency_us: kind.map_or(usual, Interconnect::copy_latency_us),
        gbs: rounded(nominal * share),
        one_way: false,
        implied: false,
        origin: format!("{} {} ({}), {what} x {share} {word}", peer.links, peer.kind, peer.said),
    })
}

/// The interconnect a link is: the one it names, else that of its kind for the device, by name or by generation.
fn interconnect<'k>(
    peer: &PeerLink,
    found: &Found,
    kinds: &'k Interconnects,
    profiles: &Profiles,
) -> Option<&'k Interconnect> {
    if let Some(kind) = peer.interconnect.as_deref().and_then(|id| kinds.get(id)) {
        return Some(kind);
    }
    let (_, part) = found.profile.as_deref()?.split_once('-')?;
    let generation = || {
        let link = profile_link(peer, found, profiles)?;
        Some(format!("{}{}-", link.kind, link.generation?))
    };
    kinds.iter().find(|kind| kind.kind == peer.kind && kind.id.ends_with(&format!("-{part}"))).or_else(|| {
        let prefix = generation()?;
        kinds.iter().find(|kind| kind.kind == peer.kind && kind.id.starts_with(&prefix))
    })
}

/// The published link between peers that a seen one is.
fn profile_link<'p>(peer: &PeerLink, found: &Found, profiles: &'p Profiles) -> Option<&'p ProfileLink> {
    let profile = found.profile.as_deref().and_then(|id| profiles.get(id))?;
    profile.links.iter().find(|link| link.role == "peer" && link.kind.starts_with(peer.kind.as_str()))
}

/// Payload of that many links of the profile's link between peers, in GB/s.
fn from_profile(peer: &PeerLink, found: &Found, profiles: &Profiles) -> Option<f64> {
    let profile = found.profile.as_deref().and_then(|id| profiles.get(id))?;
    let link =
        profile.links.iter().find(|link| link.role == "peer" && link.kind.starts_with(peer.kind.as_str()))?;
    let links = link.extra.number("links").filter(|&links| links >= 1.0)?;
    Some(link.nominal_gbs()? / links * f64::from(peer.links).min(links))
}
