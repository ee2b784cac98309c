//! Tenstorrent cards: the driver's class with the card's name, else the PCI bus.

use crate::kind::Kind;
use crate::probe::families::{on_bus, read_sensors};
use crate::probe::pci::{PciFunction, address_of};
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: FAMILY,
    about: "PCI vendor 1e52, /sys/class/tenstorrent with card type and serial number, /dev/tenstorrent/*",
    run,
};

const FAMILY: &str = "tenstorrent";

/// PCI vendor id.
const VENDOR: u32 = 0x1e52;

fn run(host: &Host, findings: &mut Findings) {
    let root = &host.root;
    let class = "sys/class/tenstorrent";
    let entries = root.list(class);
    let cards: Vec<&PciFunction> = host.pci_of(VENDOR).collect();
    for (index, card) in cards.into_iter().enumerate() {
        let mut found = on_bus(host, FAMILY, Kind::Custom, card, "Tenstorrent card");
        found.index = u32::try_from(index).ok();
        let here = |name: &&String| {
            address_of(root, &format!("{class}/{name}/device")).as_deref() == Some(&card.address)
        };
        if let Some(name) = entries.iter().find(here) {
            let read = |file: &str| root.word(&format!("{class}/{name}/{file}"));
            let card_type = read("tt_card_type");
            let profile = card_type.as_deref().and_then(|word| match word {
                "n150" => Some("tenstorrent-n150"),
                "n300" => Some("tenstorrent-n300"),
                "p150a" => Some("tenstorrent-p150a"),
                _ => None,
            });
            if let Some(word) = &card_type {
                found.name = crate::probe::found::clean(&format!("{} {word}", found.name));
            }
            found.profile = profile.map(str::to_owned);
            found.clock_mhz = read("tt_aiclk").and_then(|clock| crate::probe::text::number(&clock));
            found.uuid = read("tt_serial");
            // "tenstorrent!0" is the node tenstorrent/0.
            found.nodes.push(format!("/dev/{}", name.replace('!', "/")));
        }
        if let Some(folder) = card.path("").strip_suffix('/') {
            read_sensors(host, folder, &mut found);
        }
        findings.device(host, found);
    }
}
