//! NVLink: rates per GPU from `nvidia-smi nvlink -s`, the matrix of pairs from `nvidia-smi topo -m`, switches on the bus.

use std::collections::BTreeMap;

use crate::probe::families::nvidia::{FAMILY as GPU, VENDOR};
use crate::probe::found::PeerLink;
use crate::probe::text::number;
use crate::probe::{Findings, Host, Probe, WarningKind};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: "nvlink",
    about: "nvidia-smi nvlink -s, nvidia-smi topo -m, NVSwitch functions on the PCI bus",
    run,
};

/// Raw rate per link in GB/s as printed, payload per link, interconnect. Since generation 4 the printed rate counts
/// the line code, of which 0.9412 is payload; before, 25.78 stands for 25.
const GENERATIONS: [(f64, f64, &str); 4] = [
    (25.781, 25.0, "nvlink2-v100"),
    (25.0, 25.0, "nvlink3-a100"),
    (26.562, 25.0, "nvlink4-h100"),
    (53.125, 50.0, "nvlink5-b200"),
];

/// How far a printed rate may be from one of the table, in GB/s.
const RATE_TOLERANCE_GBS: f64 = 0.2;

/// PCI class of a bridge of no other sort: NVSwitches.
const OTHER_BRIDGE: u32 = 0x0680;

/// Most GPUs in a matrix.
const MAX_GPUS: usize = 256;

/// Most links believed between two GPUs.
const MAX_LINKS: u32 = 64;

fn run(host: &Host, findings: &mut Findings) {
    let switches = host.pci_of(VENDOR).filter(|function| function.class >> 8 == OTHER_BRIDGE);
    findings.system.switches = switches.map(|function| function.address.clone()).collect();
    let rates = findings
        .tool(host, "nvidia-smi", &["nvlink", "-s"])
        .map(|text| read_rates(&text))
        .unwrap_or_default();
    if let Some(text) = findings.tool(host, "nvidia-smi", &["topo", "-m"]) {
        read_matrix(&text, &rates, findings);
    }
    // Trouble of the same tool is told once, by the probe of the GPUs.
    findings.warnings.retain(|warning| warning.kind == WarningKind::Parse);
}

/// Raw GB/s of the links that are up, by GPU.
fn read_rates(text: &str) -> BTreeMap<u32, Vec<f64>> {
    let mut rates: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    let mut gpu = None;
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("GPU ") {
            gpu = rest.split(':').next().and_then(|index| index.trim().parse().ok());
        } else if let (Some(gpu), Some((_, rate))) = (gpu, line.split_once(':')) {
            rates.entry(gpu).or_default().extend(number(rate).filter(|&rate| rate > 0.0));
        }
    }
    rates
}

/// The matrix: "GPU0 X NV18 ..." below a line of column names.
fn read_matrix(text: &str, rates: &BTreeMap<u32, Vec<f64>>, findings: &mut Findings) {
    let mut lines = text.lines().map(without_style);
    let header = lines.find_map(|line| {
        let columns: Vec<Option<u32>> = line.split_whitespace().map(gpu_number).collect();
        columns.first().is_some_and(Option::is_some).then_some(columns)
    });
    let Some(columns) = header else {
        // One GPU alone, or none, has no matrix worth a warning.
        return;
    };
    let mut damaged = 0;
    for line in lines.take_while(|line| !line.trim_start().starts_with("Legend")) {
        let mut words = line.split_whitespace();
        let Some(from) = words.next().and_then(gpu_number) else { continue };
        let cells: Vec<&str> = words.collect();
        for (column, to) in columns.iter().enumerate().take(MAX_GPUS) {
            let Some(to) = to.filter(|&to| to > from) else { continue };
            match cells.get(column) {
                Some(cell) => findings.system.links.extend(link(from, to, cell, rates)),
                None => damaged += 1,
            }
        }
    }
    if damaged > 0 {
        findings.warn(WarningKind::Parse, format!("nvidia-smi topo -m leaves {damaged} pairs out"));
    }
}

fn gpu_number(word: &str) -> Option<u32> {
    word.strip_prefix("GPU")?.parse().ok()
}

/// A line without the escape sequences some versions underline the header with.
fn without_style(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// The link of a cell: NV and a count, or PIX and PXB for pairs below one PCIe switch. Other pairs go by the host.
fn link(from: u32, to: u32, cell: &str, rates: &BTreeMap<u32, Vec<f64>>) -> Option<PeerLink> {
    let blank = |kind: &str, links: u32| PeerLink {
        from: format!("{GPU}#{from}"),
        to: format!("{GPU}#{to}"),
        kind: kind.to_owned(),
        links,
        interconnect: None,
        gbs_per_dir: None,
        said: cell.to_owned(),
    };
    if ["PIX", "PXB"].contains(&cell) {
        return Some(blank("pcie-switch", 1));
    }
    let links = cell.strip_prefix("NV")?.parse().ok().filter(|links| (1..=MAX_LINKS).contains(links))?;
    let mut link = blank("nvlink", links);
    let raw = rates.get(&from).and_then(|rates| rates.iter().copied().min_by(f64::total_cmp));
    let row = raw.and_then(|raw| {
        let distance = |row: &&(f64, f64, &str)| (row.0 - raw).abs();
        GENERATIONS
            .iter()
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .filter(|row| distance(row) < RATE_TOLERANCE_GBS)
    });
    link.interconnect = row.map(|row| row.2.to_owned());
    link.gbs_per_dir = row.map(|row| row.1 * f64::from(links));
    Some(link)
}
