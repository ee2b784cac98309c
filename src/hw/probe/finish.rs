//! After the probes: one entry per device, profiles, a fixed order.

use crate::kind::Kind;
use crate::probe::families::vulkan;
use crate::probe::found::Found;
use crate::probe::root::parse_hex;
use crate::probe::{Detection, pci_ids};

/// Families that see devices of others without their addresses, so that ids and names must tell.
const BY_NAME: [&str; 2] = [vulkan::FAMILY, "windows"];

/// Merges sightings, adds profiles by id, puts devices in order.
pub(super) fn finish(detection: &mut Detection) {
    let mut devices = merged(std::mem::take(&mut detection.devices));
    for device in &mut devices {
        if device.profile.is_none() {
            device.profile = profile_by_id(device).map(str::to_owned);
        }
    }
    let order = |kind: Kind| Kind::ALL.iter().position(|&other| other == kind);
    devices.sort_by_cached_key(|device| {
        (
            order(device.kind),
            device.pci_address.is_none(),
            device.pci_address.clone(),
            device.family.clone(),
            device.index,
        )
    });
    detection.devices = devices;
    detection.warnings.dedup();
}

/// One entry per device: the first sighting is completed by later ones.
fn merged(sightings: Vec<Found>) -> Vec<Found> {
    let mut devices: Vec<Found> = Vec::new();
    for found in sightings {
        match devices.iter_mut().find(|device| same(device, &found)) {
            Some(device) => device.absorb(found),
            None => devices.push(found),
        }
    }
    devices
}

/// True when two sightings are of one device.
fn same(device: &Found, other: &Found) -> bool {
    if let (Some(a), Some(b)) = (&device.pci_address, &other.pci_address) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (&device.uuid, &other.uuid)
        && plain_uuid(a) == plain_uuid(b)
    {
        return true;
    }
    let (first, second) = (device.family.as_str(), other.family.as_str());
    if first == second {
        // One tool lists a device once; a bus that numbers them may see again what the tool numbered.
        return false;
    }
    // A generic probe repeats a vendor's: each of its sightings takes the next one that fits.
    let generic = BY_NAME.contains(&second) && !device.sources.iter().any(|source| source == second);
    generic && device.kind == other.kind && looks_alike(device, other)
}

fn looks_alike(device: &Found, other: &Found) -> bool {
    let vendor = device.facts.get("vulkan vendor");
    match (&device.pci_id, &other.pci_id) {
        (Some(a), Some(b)) => a == b,
        // GPUs of a chip sit on no bus: a board has one of a vendor.
        (None, Some(b)) if vendor.is_some_and(|vendor| b.split(':').next() == Some(vendor)) => true,
        _ => {
            let (a, b) = (device.name.to_ascii_lowercase(), other.name.to_ascii_lowercase());
            a.contains(&b) || b.contains(&a)
        }
    }
}

/// Tools write the same UUID as "GPU-5f0e..." and as "5f0e...".
fn plain_uuid(uuid: &str) -> String {
    let digits = uuid.trim_start_matches("GPU-").chars().filter(char::is_ascii_hexdigit);
    digits.map(|c| c.to_ascii_lowercase()).collect()
}

fn profile_by_id(device: &Found) -> Option<&'static str> {
    let (vendor, id) = device.pci_id.as_deref()?.split_once(':')?;
    pci_ids::profile(parse_hex(vendor)?, parse_hex(id)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(family: &str, address: Option<&str>, id: Option<&str>) -> Found {
        let mut found = Found::new(family, Kind::Gpu, "GPU");
        found.pci_address = address.map(str::to_owned);
        found.pci_id = id.map(str::to_owned);
        found
    }

    #[test]
    fn every_backend_counts_a_card_once() {
        let sightings = vec![
            gpu("intel-gpu", Some("0000:03:00.0"), Some("8086:56c0")),
            gpu("intel-gpu", Some("0000:04:00.0"), Some("8086:56c0")),
            gpu("intel-gpu", Some("0000:03:00.0"), None),
            gpu("vulkan", None, Some("8086:56c0")),
            gpu("vulkan", None, Some("8086:56c0")),
            gpu("vulkan", None, Some("8086:56c0")),
        ];
        let devices = merged(sightings);
        // The third card of Vulkan is one nobody else saw.
        assert_eq!(devices.len(), 3);
        assert_eq!(devices[0].sources, ["intel-gpu", "vulkan"]);
        assert_eq!(devices[2].sources, ["vulkan"]);
    }

    #[test]
    fn uuids_are_compared_without_their_prefix() {
        let (mut a, mut b) = (gpu("nvidia", Some("0000:01:00.0"), None), gpu("vulkan", None, None));
        a.uuid = Some("GPU-5F0E0000-1111".to_owned());
        b.uuid = Some("5f0e0000-1111".to_owned());
        assert_eq!(merged(vec![a, b]).len(), 1);
    }
}
