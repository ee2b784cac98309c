//! Interconnects: published rates and latencies of links, with their sources.

use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::error::HwError;
use crate::profile::Provenance;
use crate::reader::{Source, Table};

/// The embedded table.
const BUILTIN: &str = include_str!("interconnects.toml");

/// One kind of link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// Stable id, such as "pcie5-x16".
    pub id: String,
    /// Technology, such as "pcie".
    pub kind: String,
    /// Nominal GB/s in one direction.
    pub gbs_per_dir: Option<f64>,
    /// Nominal GB/s in one direction of one of several links.
    pub gbs_per_link_dir: Option<f64>,
    /// Measured over nominal for large messages.
    pub efficiency: Option<f64>,
    /// Latency of a small message in one direction, in us.
    pub latency_us: Option<f64>,
    /// How far the figures were checked.
    pub provenance: Provenance,
    /// Where they were read.
    pub source: String,
    /// What was measured, what the latency covers, topology, remarks.
    pub remarks: Vec<String>,
}

impl Interconnect {
    /// GB/s a large copy attains, and how that follows from the nominal rate. `None` when no rate is published.
    ///
    /// In meshes and tori (xGMI, ICI) one link joins a pair, so the pairwise rate is that of one link.
    pub fn attained_gbs(&self) -> Option<(f64, String)> {
        let one_per_pair = ["xgmi", "ici"].contains(&self.kind.as_str());
        let nominal =
            if one_per_pair { self.gbs_per_link_dir.or(self.gbs_per_dir) } else { self.gbs_per_dir }?;
        let (efficiency, word) = match self.efficiency {
            Some(efficiency) => (efficiency, "measured"),
            None => (defaults::LINK_EFFICIENCY, "default"),
        };
        let origin = format!("interconnect {} ({}) x {efficiency} {word}", self.id, self.provenance.as_str());
        Some((nominal * efficiency, origin))
    }

    /// Latency of one copy in us: the wire's, and on buses driven by copy commands what a command costs.
    pub fn copy_latency_us(&self) -> f64 {
        let wire = self.latency_us.unwrap_or(defaults::LINK_LATENCY_US);
        let commanded = ["pcie", "nvlink", "nvlink-c2c", "nvswitch", "xgmi", "thunderbolt"];
        if commanded.contains(&self.kind.as_str()) { wire + defaults::COPY_COMMAND_US } else { wire }
    }
}

/// A collection of interconnects in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interconnects {
    list: Vec<Interconnect>,
}

impl Interconnects {
    /// The table that comes with the program.
    ///
    /// # Errors
    /// None in practice: a test parses the embedded file.
    pub fn builtin() -> Result<Interconnects, HwError> {
        let source = Source { file: "interconnects.toml", text: BUILTIN };
        let document = source.parse()?;
        let mut root = Table::root(&source, &document);
        root.schema(1)?;
        let list = root.tables("link")?.into_iter().map(read_link).collect::<Result<_, _>>()?;
        // The measured all-reduce curve and the collective formulas are documentation for readers of the file.
        root.tables("allreduce_curve")?;
        root.tables("collective")?;
        root.finish()?;
        Ok(Interconnects { list })
    }

    /// The interconnect of that id.
    pub fn get(&self, id: &str) -> Option<&Interconnect> {
        self.list.iter().find(|link| link.id == id)
    }

    /// Every interconnect, in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Interconnect> {
        self.list.iter()
    }
}

fn read_link(mut table: Table<'_>) -> Result<Interconnect, HwError> {
    let mut remarks = Vec::new();
    for key in ["encoding", "measured", "latency_scope", "note", "topology", "scope"] {
        remarks.extend(table.word(key)?.map(|word| format!("{key}: {word}")));
    }
    for key in ["links", "gts", "gbit", "pcie_tunnel_gbs_per_dir"] {
        remarks.extend(table.number(key)?.map(|number| format!("{key}: {number}")));
    }
    remarks.extend(table.words("estimated")?.into_iter().map(|field| format!("estimated: {field}")));
    let hop = table.number("hop_latency_us")?;
    let link = Interconnect {
        id: table.need_word("id")?,
        kind: table.need_word("kind")?,
        gbs_per_dir: table.number("gbs_per_dir")?,
        gbs_per_link_dir: table.number("gbs_per_link_dir")?,
        efficiency: table.number("eff")?,
        latency_us: table.number("latency_us")?.or(hop),
        provenance: table.need_choice("provenance", Provenance::parse, &["checked", "mixed", "recalled"])?,
        source: table.need_word("source")?,
        remarks,
    };
    table.finish()?;
    Ok(link)
}

/// Nominal GB/s of a PCIe link in one direction: transfers per second x line code x lanes / 8.
pub(crate) fn pcie_gbs(generation: u32, lanes: u32) -> Option<f64> {
    let per_lane = match generation {
        1 => 2.5 * 0.8,
        2 => 5.0 * 0.8,
        3 => 8.0 * 128.0 / 130.0,
        4 => 16.0 * 128.0 / 130.0,
        5 => 32.0 * 128.0 / 130.0,
        // Generation 6 sends flow units of 242 payload bytes in 256.
        6 => 64.0 * 242.0 / 256.0,
        _ => return None,
    };
    Some(per_lane * f64::from(lanes) / 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_parses_and_names_sources() {
        let links = Interconnects::builtin().unwrap();
        assert_eq!(links.iter().count(), 36);
        assert!(links.iter().all(|link| !link.source.is_empty()));
        let pcie5 = links.get("pcie5-x16").unwrap();
        // 55.4 GB/s was measured on this link (nvbandwidth, 8x H200).
        assert!((pcie5.attained_gbs().unwrap().0 - 55.4).abs() < 0.1);
        // Mesh links: 47.7 GB/s of 64 was measured between two MI300X, never the 448 of all links.
        assert!(links.get("xgmi-mi300x").unwrap().attained_gbs().unwrap().0 < 64.0);
        assert!((links.get("ici-v5p").unwrap().attained_gbs().unwrap().0 - 90.0 * 0.88).abs() < 1e-9);
        assert_eq!(links.get("ici-v5p").unwrap().copy_latency_us(), 1.0);
        assert_eq!(links.get("upi2-xeon6").unwrap().attained_gbs(), None);
    }

    #[test]
    fn pcie_arithmetic_agrees_with_the_table() {
        let links = Interconnects::builtin().unwrap();
        for (generation, id) in [(3, "pcie3-x16"), (4, "pcie4-x16"), (5, "pcie5-x16"), (6, "pcie6-x16")] {
            let published = links.get(id).unwrap().gbs_per_dir.unwrap();
            assert!((pcie_gbs(generation, 16).unwrap() / published - 1.0).abs() < 0.01, "{id}");
        }
        assert_eq!(pcie_gbs(9, 16), None);
    }
}
