//! Reading machine files.
//!
//! Top level: `schema = 1`, `name`, `host` (name of the device that holds inputs and outputs; the first CPU when
//! absent), any number of `[[device]]` and `[[link]]`.
//!
//! A device has `name` and `driver` ("cpu", "wgpu", "sim"), and may have `profile` (an id), `kind`, `title`, `cores`,
//! `threads`, `isa`, `caches`, `shared_memory`, `f32_as` ("tf32", "bf16", "fp16", "none"); with the wgpu driver
//! `adapter`, `adapter_name`, `adapter_type`, `max_buffer_bytes`. Its figures are `memory_gb`, `memory_gib` or
//! `memory_bytes`, `bandwidth_gbs`, `launch_us`, `matmul_efficiency`, `matmul_efficiency_8bit`, `memory_efficiency`,
//! `power_w`, `usd_per_hour`, and `dense.FORMAT` and `vector.FORMAT` in TFLOPS or TOPS. Each figure may name where it
//! comes from in `origin."FIGURE"` (`origin.memory` for the memory in any unit).
//!
//! A device with `count = N` stands for N alike, named by its name and a number from 0.
//!
//! A `[[fabric]]` joins many devices alike: `devices` (names, or the common part of names that end in numbers),
//! `topology` ("switch", "mesh", "ring"), `kind`, `latency_us`, `command_us`, `gbs`, `origin`.
//!
//! A link has `from` and `to`, and `kind` (an id of the interconnect table), `latency_us`, `gbs` (attained, one
//! direction), `one_way`, `origin`.

use std::collections::{BTreeMap, BTreeSet};

use crate::adapter::AdapterType;
use crate::cpu::{Cache, CacheKind};
use crate::device::{AdapterRef, Device, Driver, FACT_KEYS};
use crate::error::{Code, HwError, did_you_mean};
use crate::fact::Fact;
use crate::interconnect::Interconnects;
use crate::kind::Kind;
use crate::machine::{Link, MAX_DEVICES, MAX_LINKS, Machine};
use crate::precision::{Precision, Rates};
use crate::profile::{Profile, Profiles};
use crate::reader::{At, Source, Table};

/// Version of the machine format.
pub(crate) const SCHEMA: u64 = 1;

/// Origin of a figure a machine file states without naming one.
pub(crate) const FILE_ORIGIN: &str = "machine file";

impl Machine {
    /// Reads a machine file. `file` is its name for error messages.
    ///
    /// Figures a device does not state come from its profile, then from documented defaults.
    ///
    /// # Errors
    /// Located errors for broken text, unknown fields, profiles, links or devices, names used twice, values out of
    /// range, simulated devices without any rate, and devices no link reaches.
    pub fn parse(file: &str, text: &str, profiles: &Profiles) -> Result<Machine, HwError> {
        let source = Source { file, text };
        let document = source.parse()?;
        let mut root = Table::root(&source, &document);
        root.schema(SCHEMA)?;
        let name = root.word("name")?.unwrap_or_else(|| "machine".to_owned());
        let (devices, offsets) = read_devices(&mut root, profiles)?;
        let host = read_host(&mut root, &devices)?;
        let mut machine = Machine { name, devices, links: Vec::new(), fabrics: Vec::new(), host };
        read_links(&mut root, &mut machine)?;
        crate::fabric::read(&mut root, &mut machine)?;
        root.finish()?;
        machine.imply_links(profiles);
        machine.check_reach(&source, &offsets)?;
        Ok(machine)
    }

    fn check_reach(&self, source: &Source<'_>, offsets: &[usize]) -> Result<(), HwError> {
        let (down, up) = (self.reached(true), self.reached(false));
        let lost = |&device: &usize| !down[device] || !up[device];
        let Some(device) = (0..self.devices.len()).find(lost) else { return Ok(()) };
        let host = &self.devices[self.host].name;
        let name = &self.devices[device].name;
        let message = format!("no link joins {name} and the host {host}, and its profile names none");
        let hint = format!("add a [[link]] with from = \"{host}\" and to = \"{name}\"");
        Err(source.error(Code::Unreachable, offsets[device], message, hint))
    }
}

fn read_devices(root: &mut Table<'_>, profiles: &Profiles) -> Result<(Vec<Device>, Vec<usize>), HwError> {
    let tables = root.tables("device")?;
    if tables.is_empty() {
        let message = "the machine has no device".to_owned();
        return Err(root.error_at(Code::MissingField, 0, message, "add a [[device]]"));
    }
    if tables.len() > MAX_DEVICES {
        let message = format!("{} devices, the limit is {MAX_DEVICES}", tables.len());
        return Err(root.error_at(Code::Limit, tables[MAX_DEVICES].offset, message, ""));
    }
    let (mut devices, mut offsets): (Vec<Device>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for mut table in tables {
        let name = table.need_word_at("name")?;
        table.what = format!("device {}", name.value);
        let count = read_count(&mut table, devices.len())?;
        let (offset, source, what) = (table.offset, table.source, table.what.clone());
        let device = read_device(name.value, table, profiles)?;
        for number in 0..count.unwrap_or(1) {
            let own = if count.is_some() { format!("{}{number}", name.value) } else { name.value.to_owned() };
            if !names.insert(own.clone()) {
                let message = format!("two devices are named {own:?}");
                return Err(source.error(Code::Duplicate, name.offset, message, "names must differ"));
            }
            if devices.len() >= MAX_DEVICES {
                let message = format!("{what} is one of more than {MAX_DEVICES}, the limit");
                return Err(source.error(Code::Limit, offset, message, ""));
            }
            offsets.push(offset);
            devices.push(Device { name: own, ..device.clone() });
        }
    }
    Ok((devices, offsets))
}

/// How many devices an entry stands for, when it says so.
fn read_count(table: &mut Table<'_>, others: usize) -> Result<Option<usize>, HwError> {
    let Some(count) = table.count("count")? else { return Ok(None) };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if (1..=MAX_DEVICES.saturating_sub(others)).contains(&count) {
        return Ok(Some(count));
    }
    let message =
        format!("`count` of {} must be at least 1 and make at most {MAX_DEVICES} devices", table.what);
    Err(table.error_at(Code::BadValue, table.offset, message, ""))
}

fn read_device(name: &str, mut table: Table<'_>, profiles: &Profiles) -> Result<Device, HwError> {
    let driver = table.need_choice("driver", Driver::parse, &Driver::ALL.map(Driver::as_str))?;
    let profile = read_profile(&mut table, profiles)?;
    let kinds = Kind::ALL.map(Kind::as_str);
    let kind = table.choice("kind", Kind::parse, &kinds)?.or(profile.map(|profile| profile.kind));
    let kind = kind.unwrap_or(match driver {
        Driver::Cpu => Kind::Cpu,
        Driver::Wgpu => Kind::Gpu,
        Driver::Sim => Kind::Custom,
    });
    let mut device = Device::new(name, driver, kind, profile);
    read_structure(&mut table, &mut device)?;
    let origins = table.table("origin")?.map(Table::all_words).transpose()?.unwrap_or_default();
    let mut origins = Origins { origins };
    read_facts(&mut table, &mut device, &mut origins)?;
    origins.finish(&table)?;
    device.fill_defaults();
    if device.dense.is_empty() && device.vector.is_empty() {
        let message = format!("{} is simulated, but nothing says how fast it is", table.what);
        let hint = "add `dense.fp32 = ...` in TFLOPS, or a `profile` that lists a rate";
        return Err(table.error_at(Code::NoRates, table.offset, message, hint));
    }
    table.finish()?;
    Ok(device)
}

fn read_profile<'p>(table: &mut Table<'_>, profiles: &'p Profiles) -> Result<Option<&'p Profile>, HwError> {
    let Some(id) = table.word_at("profile")? else { return Ok(None) };
    profiles.get(id.value).map(Some).ok_or_else(|| {
        let (code, hint) = profiles.unknown(id.value);
        table.error_at(code, id.offset, format!("there is no profile {:?}", id.value), &hint)
    })
}

/// Fields that describe the device rather than measure it.
fn read_structure(table: &mut Table<'_>, device: &mut Device) -> Result<(), HwError> {
    device.title = table.word("title")?.or(device.title.take());
    device.cores = table.small_count("cores")?.or(device.cores);
    device.threads = table.small_count("threads")?;
    device.isa = table.words("isa")?;
    device.shared_memory = table.flag("shared_memory")?.unwrap_or(device.shared_memory);
    device.caches = table.tables("caches")?.into_iter().map(read_cache).collect::<Result<_, _>>()?;
    if let Some(word) = table.word_at("f32_as")? {
        device.f32_as = read_policy(table, &word)?;
    }
    if device.driver == Driver::Wgpu {
        device.adapter = Some(read_adapter(table)?);
    }
    Ok(())
}

fn read_policy(table: &Table<'_>, word: &At<&str>) -> Result<Option<Precision>, HwError> {
    let allowed = |p: &Precision| matches!(p, Precision::Tf32 | Precision::Bf16 | Precision::Fp16);
    match Precision::parse(word.value).filter(allowed) {
        Some(precision) => Ok(Some(precision)),
        None if word.value == "none" => Ok(None),
        None => {
            let message = format!("`f32_as` of {} cannot be {:?}", table.what, word.value);
            Err(table.error_at(Code::BadValue, word.offset, message, "one of tf32, bf16, fp16, none"))
        }
    }
}

fn read_adapter(table: &mut Table<'_>) -> Result<AdapterRef, HwError> {
    let classes = ["discrete", "integrated", "virtual", "cpu", "other"];
    let class = table.choice("adapter_type", AdapterType::parse, &classes)?;
    Ok(AdapterRef {
        index: table.small_count("adapter")?,
        name: table.word("adapter_name")?,
        class: class.unwrap_or(AdapterType::Other),
        max_buffer_bytes: table.count("max_buffer_bytes")?,
    })
}

fn read_cache(mut table: Table<'_>) -> Result<Cache, HwError> {
    let kind = table.choice("kind", CacheKind::parse, &["data", "instruction", "unified"])?;
    let cache = Cache {
        level: table.small_count("level")?.ok_or_else(|| table.missing("level"))?,
        kind: kind.unwrap_or(CacheKind::Unified),
        bytes: table.count("bytes")?.ok_or_else(|| table.missing("bytes"))?,
        shared_by: table.small_count("shared_by")?.unwrap_or(1),
        instances: table.small_count("instances")?.unwrap_or(1),
        line_bytes: table.small_count("line_bytes")?,
    };
    table.finish()?;
    Ok(cache)
}

/// Origins a device states for its figures, taken one by one.
struct Origins {
    origins: BTreeMap<String, At<String>>,
}

impl Origins {
    fn take(&mut self, field: &str) -> String {
        self.origins.remove(field).map_or_else(|| FILE_ORIGIN.to_owned(), |at| at.value)
    }

    /// An origin of a figure that the device does not state is a mistake.
    fn finish(self, table: &Table<'_>) -> Result<(), HwError> {
        let Some((field, at)) = self.origins.iter().min_by_key(|(_, at)| at.offset) else { return Ok(()) };
        let message = format!("{} gives an origin for `{field}`, which it does not state", table.what);
        Err(table.error_at(Code::UnknownField, at.offset, message, "state the figure or drop its origin"))
    }
}

fn read_facts(table: &mut Table<'_>, device: &mut Device, origins: &mut Origins) -> Result<(), HwError> {
    if let Some(bytes) = read_memory(table)? {
        device.memory_bytes = Some(Fact::new(bytes, origins.take("memory")));
    }
    for (key, slot) in FACT_KEYS.into_iter().zip(device.facts_mut()) {
        let zero_allowed = key == "launch_us";
        let value = if zero_allowed { table.number_or_zero(key)? } else { table.number(key)? };
        if let Some(value) = value {
            *slot = Some(Fact::new(value, origins.take(key)));
        }
    }
    read_rates(table, "dense", &mut device.dense, origins)?;
    read_rates(table, "vector", &mut device.vector, origins)
}

/// Memory in bytes, from one of three units.
fn read_memory(table: &mut Table<'_>) -> Result<Option<u64>, HwError> {
    let exact = table.count("memory_bytes")?;
    let decimal = table.number("memory_gb")?.map(|gb| (gb * 1e9).round() as u64);
    let binary = table.number("memory_gib")?.map(|gib| (gib * 1024.0 * 1024.0 * 1024.0).round() as u64);
    let mut stated = [exact, decimal, binary].into_iter().flatten();
    let first = stated.next();
    if stated.next().is_some() {
        let message = format!("{} states its memory twice", table.what);
        let hint = "keep one of memory_bytes, memory_gb and memory_gib";
        return Err(table.error_at(Code::Duplicate, table.offset, message, hint));
    }
    Ok(first)
}

fn read_rates(
    table: &mut Table<'_>,
    key: &str,
    rates: &mut Rates,
    origins: &mut Origins,
) -> Result<(), HwError> {
    let Some(stated) = table.table(key)? else { return Ok(()) };
    for (name, at) in stated.all_numbers()? {
        let Some(precision) = Precision::parse(&name) else {
            let message = format!("{} has a rate of unknown format `{name}`", table.what);
            let hint = format!("one of {}", Precision::ALL.map(Precision::as_str).join(", "));
            return Err(table.error_at(Code::UnknownField, at.offset, message, &hint));
        };
        rates.insert(precision, Fact::new(at.value, origins.take(&format!("{key}.{name}"))));
    }
    Ok(())
}

fn read_host(root: &mut Table<'_>, devices: &[Device]) -> Result<usize, HwError> {
    match root.word_at("host")? {
        Some(word) => find_device(root, &word, devices),
        None => Ok(devices.iter().position(|device| device.driver == Driver::Cpu).unwrap_or(0)),
    }
}

fn find_device(table: &Table<'_>, word: &At<&str>, devices: &[Device]) -> Result<usize, HwError> {
    devices.iter().position(|device| device.name == word.value).ok_or_else(|| {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let otherwise = format!("the devices are {}", names.join(", "));
        let hint = did_you_mean(word.value, names.iter().copied(), &otherwise);
        let message = format!("there is no device {:?}", word.value);
        table.error_at(Code::UnknownDevice, word.offset, message, &hint)
    })
}

fn read_links(root: &mut Table<'_>, machine: &mut Machine) -> Result<(), HwError> {
    let tables = root.tables("link")?;
    if tables.len() > MAX_LINKS - MAX_DEVICES {
        let message = format!("{} links, the limit is {}", tables.len(), MAX_LINKS - MAX_DEVICES);
        return Err(root.error_at(Code::Limit, tables[MAX_LINKS - MAX_DEVICES].offset, message, ""));
    }
    if tables.is_empty() {
        return Ok(());
    }
    let kinds = Interconnects::builtin()?;
    for table in tables {
        let link = read_link(table, &machine.devices, &kinds)?;
        machine.links.push(link);
    }
    Ok(())
}

fn read_link(mut table: Table<'_>, devices: &[Device], kinds: &Interconnects) -> Result<Link, HwError> {
    let (from, to) = (table.need_word_at("from")?, table.need_word_at("to")?);
    let ends = (find_device(&table, &from, devices)?, find_device(&table, &to, devices)?);
    if ends.0 == ends.1 {
        let message = format!("{} joins {} to itself", table.what, from.value);
        return Err(table.error_at(Code::BadValue, to.offset, message, "name two devices"));
    }
    let mut link = read_link_kind(&mut table, ends, kinds)?;
    let (latency_us, gbs) = (table.number_or_zero("latency_us")?, table.number("gbs")?);
    let stated = latency_us.is_some() || gbs.is_some();
    link.latency_us = latency_us.unwrap_or(link.latency_us);
    link.gbs = gbs.unwrap_or(link.gbs);
    link.one_way = table.flag("one_way")?.unwrap_or(false);
    if let Some(origin) = table.word("origin")? {
        link.origin = origin;
    } else if stated && link.kind.is_some() {
        link.origin = format!("{}, changed by the machine file", link.origin);
    }
    if link.gbs > 0.0 {
        table.finish()?;
        return Ok(link);
    }
    let message = format!("{} has neither a rate nor a kind with a published one", table.what);
    Err(table.error_at(Code::MissingField, table.offset, message, "add `gbs = ...` in GB/s of one direction"))
}

/// The link its kind describes, or one without a rate.
fn read_link_kind(
    table: &mut Table<'_>,
    ends: (usize, usize),
    kinds: &Interconnects,
) -> Result<Link, HwError> {
    let blank = |kind: Option<String>, latency_us: f64| Link {
        from: ends.0,
        to: ends.1,
        kind,
        latency_us,
        gbs: 0.0,
        one_way: false,
        implied: false,
        origin: FILE_ORIGIN.to_owned(),
    };
    let Some(word) = table.word_at("kind")? else {
        return Ok(blank(None, crate::defaults::LINK_LATENCY_US));
    };
    let kind = kinds.get(word.value).ok_or_else(|| {
        let ids = kinds.iter().map(|kind| kind.id.as_str());
        let hint = did_you_mean(word.value, ids, "leave `kind` out and state `latency_us` and `gbs`");
        let message = format!("there is no interconnect {:?}", word.value);
        table.error_at(Code::UnknownLinkKind, word.offset, message, &hint)
    })?;
    Ok(Link::of_kind(ends.0, ends.1, kind)
        .unwrap_or_else(|| blank(Some(kind.id.clone()), kind.copy_latency_us())))
}
