//! Reading profile files. The format is fixed where the program uses a figure and free where it only shows one.

use std::collections::BTreeMap;

use crate::error::{Code, HwError};
use crate::kind::Kind;
use crate::precision::Precision;
use crate::profile::{Extra, Profile, ProfileLink, ProfileMemory, Provenance, Sparsity};
use crate::reader::{Source, Table};

/// Version of the profile format.
const SCHEMA: u64 = 1;

/// Most processors in one program.
const MAX_PROFILES: usize = 10_000;

/// Appends the processors of one file to `list`.
pub(crate) fn read(file: &str, text: &str, list: &mut Vec<Profile>) -> Result<(), HwError> {
    let source = Source { file, text };
    let document = source.parse()?;
    let mut root = Table::root(&source, &document);
    root.schema(SCHEMA)?;
    for mut table in root.tables("processor")? {
        let id = table.need_word_at("id")?;
        if list.len() >= MAX_PROFILES {
            return Err(source.error(Code::Limit, id.offset, "too many processors", ""));
        }
        if list.iter().any(|known| known.id == id.value) {
            let message = format!("the processor id {:?} is taken", id.value);
            return Err(source.error(Code::Duplicate, id.offset, message, "choose another id"));
        }
        table.what = format!("processor {}", id.value);
        list.push(processor(table)?);
    }
    root.finish()
}

fn processor(mut table: Table<'_>) -> Result<Profile, HwError> {
    let kinds = Kind::ALL.map(Kind::as_str);
    let (dense, other_dense) = rates(table.table("dense")?)?;
    let (vector, odd) = rates(table.table("vector")?)?;
    if let Some(name) = odd.keys().next() {
        let message = format!("{} has a vector rate of unknown format {name}", table.what);
        return Err(table.error_at(Code::BadValue, table.offset, message, ""));
    }
    let profile = Profile {
        id: table.need_word("id")?,
        name: table.need_word("name")?,
        kind: table.need_choice("kind", Kind::parse, &kinds)?,
        vendor: table.need_word("vendor")?,
        arch: table.need_word("arch")?,
        year: table.small_count("year")?,
        unit: table.need_word("unit")?,
        dtypes: table.words("dtypes")?,
        cores: table.small_count("cores")?,
        dense,
        other_dense,
        vector,
        alt: extra(&mut table, "alt")?,
        sparsity: table.table("sparsity")?.map(sparsity).transpose()?,
        memory: table.table("memory")?.map(memory).transpose()?.unwrap_or_default(),
        on_chip: extra(&mut table, "on_chip")?,
        power: extra(&mut table, "power")?,
        launch_us: extra(&mut table, "launch")?.number("overhead_us"),
        efficiency: extra(&mut table, "efficiency")?,
        price: extra(&mut table, "price")?,
        detect: extra(&mut table, "detect")?,
        links: table.tables("link")?.into_iter().map(link).collect::<Result<_, _>>()?,
        provenance: table.need_choice("provenance", Provenance::parse, &["checked", "mixed", "recalled"])?,
        sources: table.words("sources")?,
        estimated: table.words("estimated")?,
        notes: table.word("notes")?.unwrap_or_default(),
    };
    if profile.sources.is_empty() {
        let message = format!("{} names no source", table.what);
        return Err(table.error_at(Code::MissingField, table.offset, message, "add `sources = [\"...\"]`"));
    }
    table.finish()?;
    Ok(profile)
}

fn extra(table: &mut Table<'_>, key: &str) -> Result<Extra, HwError> {
    Ok(table.table(key)?.map(Table::extra).transpose()?.unwrap_or_default())
}

/// Rates by precision, and rates of formats without one.
type SplitRates = (BTreeMap<Precision, f64>, BTreeMap<String, f64>);

fn rates(table: Option<Table<'_>>) -> Result<SplitRates, HwError> {
    let (mut known, mut other) = (BTreeMap::new(), BTreeMap::new());
    for (name, at) in table.map(Table::all_numbers).transpose()?.unwrap_or_default() {
        match Precision::parse(&name) {
            Some(precision) => drop(known.insert(precision, at.value)),
            None => drop(other.insert(name, at.value)),
        }
    }
    Ok((known, other))
}

fn sparsity(mut table: Table<'_>) -> Result<Sparsity, HwError> {
    let sparsity = Sparsity {
        factor: table.number("factor")?,
        headline_tflops: table.number("headline_tflops")?,
        pattern: table.need_word("pattern")?,
        dtypes: table.words("dtypes")?,
    };
    table.finish()?;
    Ok(sparsity)
}

fn memory(mut table: Table<'_>) -> Result<ProfileMemory, HwError> {
    let memory = ProfileMemory {
        technology: table.word("type")?,
        capacity_bytes: capacity(&mut table)?,
        usable_bytes: table.count("usable_bytes")?,
        bandwidth_gbs: table.number("bandwidth_gbs")?,
        measured_bandwidth_gbs: table.number("measured_bandwidth_gbs")?,
        shared_with_cpu: table.flag("shared_with_cpu")?.unwrap_or(false),
        remarks: memory_remarks(&mut table)?,
    };
    table.finish()?;
    Ok(memory)
}

/// Capacity in bytes; a number without its unit is an error, because GB and GiB differ by 7 %.
fn capacity(table: &mut Table<'_>) -> Result<Option<u64>, HwError> {
    let number = table.number("capacity")?;
    let unit = table.choice("capacity_unit", unit_bytes, &["MB", "MiB", "GB", "GiB"])?;
    let Some(number) = number else { return Ok(None) };
    let unit = unit.ok_or_else(|| table.missing("capacity_unit"))?;
    Ok(Some((number * unit).round() as u64))
}

fn memory_remarks(table: &mut Table<'_>) -> Result<BTreeMap<String, String>, HwError> {
    let mut remarks = BTreeMap::new();
    for key in ["external", "second_pool"] {
        if let Some(word) = table.word(key)? {
            remarks.insert(key.to_owned(), word);
        }
    }
    if let Some(flag) = table.flag("external_memory")? {
        remarks.insert("external_memory".to_owned(), flag.to_string());
    }
    for key in ["measured_clock_bandwidth_gbs", "streaming_memory_gb_per_machine"] {
        if let Some(number) = table.number(key)? {
            remarks.insert(key.to_owned(), number.to_string());
        }
    }
    Ok(remarks)
}

/// Bytes of a capacity unit as vendors write them.
fn unit_bytes(unit: &str) -> Option<f64> {
    match unit {
        "MB" => Some(1e6),
        "MiB" => Some(1024.0 * 1024.0),
        "GB" => Some(1e9),
        "GiB" => Some(1024.0 * 1024.0 * 1024.0),
        _ => None,
    }
}

fn link(mut table: Table<'_>) -> Result<ProfileLink, HwError> {
    let (down, up) = (table.number("measured_h2d_gbs")?, table.number("measured_d2h_gbs")?);
    let both = down.zip(up).map(|(down, up)| down.min(up));
    let hop = table.number("hop_latency_us")?;
    let link = ProfileLink {
        role: table.need_word("role")?,
        kind: table.need_word("kind")?,
        generation: table.small_count("gen")?,
        lanes: table.small_count("lanes")?,
        gbs_per_dir: table.number("gbs_per_dir")?,
        measured_gbs: both.or(table.number("measured_p2p_gbs")?),
        latency_us: table.number("latency_us")?.or(hop),
        extra: link_extra(&mut table)?,
    };
    table.finish()?;
    Ok(link)
}

fn link_extra(table: &mut Table<'_>) -> Result<Extra, HwError> {
    let mut extra = Extra::default();
    let numbers = ["links", "gbs_per_link_dir", "gbit", "gbit_per_link", "gts", "measured_duplex_gbs"];
    for key in numbers.into_iter().chain(["measured_allreduce8_busbw_gbs"]) {
        if let Some(number) = table.number(key)? {
            extra.numbers.insert(key.to_owned(), number);
        }
    }
    for key in ["note", "gbs_per_dir_note"] {
        if let Some(word) = table.word(key)? {
            extra.words.insert(key.to_owned(), word);
        }
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_differ() {
        assert_eq!(unit_bytes("GB"), Some(1e9));
        assert_eq!(unit_bytes("GiB"), Some(1_073_741_824.0));
        assert_eq!(unit_bytes("G"), None);
    }
}
