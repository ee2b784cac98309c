//! Writing machine files. What is written reads back as the same machine.

use std::fmt::Write;

use crate::cpu::Cache;
use crate::device::{Device, FACT_KEYS};
use crate::fact::Fact;
use crate::interconnect::Interconnects;
use crate::machine::{Link, Machine};
use crate::machine_file::{FILE_ORIGIN, SCHEMA};
use crate::precision::Rates;
use crate::profile::Profiles;

impl Machine {
    /// The machine as a file that [`Machine::parse`] reads back to an equal machine.
    ///
    /// Figures that follow from the profile or the defaults are left out, and so are implied links.
    pub fn to_toml(&self, profiles: &Profiles) -> String {
        let mut out = format!("schema = {SCHEMA}\nname = {}\n", quoted(&self.name));
        if let Some(host) = self.devices.get(self.host) {
            line(&mut out, "host", &quoted(&host.name));
        }
        for device in &self.devices {
            write_device(&mut out, device, profiles);
        }
        let kinds = Interconnects::builtin().unwrap_or_default();
        for link in self.links.iter().filter(|link| !link.implied) {
            self.write_link(&mut out, link, &kinds);
        }
        for fabric in &self.fabrics {
            fabric.write(&mut out, &self.devices);
        }
        out
    }

    fn write_link(&self, out: &mut String, link: &Link, kinds: &Interconnects) {
        out.push_str("\n[[link]]\n");
        let name = |index: usize| self.devices.get(index).map_or("", |device| device.name.as_str());
        line(out, "from", &quoted(name(link.from)));
        line(out, "to", &quoted(name(link.to)));
        let usual = link.kind.as_deref().and_then(|id| Link::of_kind(link.from, link.to, kinds.get(id)?));
        if let Some(kind) = &link.kind {
            line(out, "kind", &quoted(kind));
        }
        if usual.as_ref().map(|usual| usual.latency_us) != Some(link.latency_us) {
            line(out, "latency_us", &number(link.latency_us));
        }
        if usual.as_ref().map(|usual| usual.gbs) != Some(link.gbs) {
            line(out, "gbs", &number(link.gbs));
        }
        if link.one_way {
            line(out, "one_way", "true");
        }
        if link.origin != usual.map_or_else(|| FILE_ORIGIN.to_owned(), |usual| usual.origin) {
            line(out, "origin", &quoted(&link.origin));
        }
    }
}

/// What the file gives without stating any figure: the same device with profile and defaults only.
fn reference(device: &Device, profiles: &Profiles) -> Device {
    let profile = device.profile.as_deref().and_then(|id| profiles.get(id));
    let mut plain = Device::new(&device.name, device.driver, device.kind, profile);
    plain.cores = device.cores.or(plain.cores);
    plain.threads = device.threads;
    plain.isa.clone_from(&device.isa);
    plain.adapter.clone_from(&device.adapter);
    plain.fill_defaults();
    plain
}

fn write_device(out: &mut String, device: &Device, profiles: &Profiles) {
    let plain = reference(device, profiles);
    out.push_str("\n[[device]]\n");
    line(out, "name", &quoted(&device.name));
    line(out, "driver", &quoted(device.driver.as_str()));
    line(out, "kind", &quoted(device.kind.as_str()));
    if let Some(profile) = &device.profile {
        line(out, "profile", &quoted(profile));
    }
    write_structure(out, device, &plain);
    let mut figures = Figures { out, origins: Vec::new() };
    if device.memory_bytes != plain.memory_bytes
        && let Some(memory) = &device.memory_bytes
    {
        figures.write("memory_bytes", "memory", memory.value.to_string(), &memory.origin);
    }
    for ((key, fact), usual) in FACT_KEYS.into_iter().zip(device.facts()).zip(plain.facts()) {
        figures.write_changed(key, fact.as_ref(), usual.as_ref());
    }
    figures.write_rates("dense", &device.dense, &plain.dense);
    figures.write_rates("vector", &device.vector, &plain.vector);
    let origins = figures.origins;
    for (field, origin) in origins {
        line(out, &format!("origin.{}", quoted(&field)), &quoted(&origin));
    }
}

fn write_structure(out: &mut String, device: &Device, plain: &Device) {
    if let Some(title) = device.title.as_ref().filter(|_| device.title != plain.title) {
        line(out, "title", &quoted(title));
    }
    let counts = [("cores", device.cores), ("threads", device.threads)];
    for (key, count) in counts.into_iter().filter_map(|(key, count)| Some((key, count?))) {
        line(out, key, &count.to_string());
    }
    if !device.isa.is_empty() {
        let words: Vec<String> = device.isa.iter().map(|word| quoted(word)).collect();
        line(out, "isa", &format!("[{}]", words.join(", ")));
    }
    if !device.caches.is_empty() {
        let rows: Vec<String> = device.caches.iter().map(cache_row).collect();
        line(out, "caches", &format!("[\n  {},\n]", rows.join(",\n  ")));
    }
    if device.f32_as != plain.f32_as {
        line(out, "f32_as", &quoted(device.f32_as.map_or("none", |precision| precision.as_str())));
    }
    if device.shared_memory != plain.shared_memory {
        line(out, "shared_memory", &device.shared_memory.to_string());
    }
    write_adapter(out, device);
}

fn write_adapter(out: &mut String, device: &Device) {
    let Some(adapter) = &device.adapter else { return };
    if let Some(index) = adapter.index {
        line(out, "adapter", &index.to_string());
    }
    if let Some(name) = &adapter.name {
        line(out, "adapter_name", &quoted(name));
    }
    line(out, "adapter_type", &quoted(adapter.class.as_str()));
    if let Some(bytes) = adapter.max_buffer_bytes {
        line(out, "max_buffer_bytes", &bytes.to_string());
    }
}

fn cache_row(cache: &Cache) -> String {
    let line_bytes = cache.line_bytes.map_or(String::new(), |bytes| format!(", line_bytes = {bytes}"));
    let kind = cache.kind.as_str();
    format!(
        "{{ level = {}, kind = \"{kind}\", bytes = {}, shared_by = {}, instances = {}{line_bytes} }}",
        cache.level, cache.bytes, cache.shared_by, cache.instances
    )
}

/// Writes figures and keeps the origins worth stating.
struct Figures<'o> {
    out: &'o mut String,
    origins: Vec<(String, String)>,
}

impl Figures<'_> {
    fn write(&mut self, key: &str, field: &str, value: String, origin: &str) {
        line(self.out, key, &value);
        if origin != FILE_ORIGIN {
            self.origins.push((field.to_owned(), origin.to_owned()));
        }
    }

    fn write_changed(&mut self, key: &str, fact: Option<&Fact<f64>>, usual: Option<&Fact<f64>>) {
        if let Some(fact) = fact.filter(|_| fact != usual) {
            self.write(key, key, number(fact.value), &fact.origin);
        }
    }

    fn write_rates(&mut self, table: &str, rates: &Rates, usual: &Rates) {
        for (precision, fact) in rates {
            self.write_changed(&format!("{table}.{precision}"), Some(fact), usual.get(precision));
        }
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{key} = {value}");
}

/// Shortest text that reads back as the same number.
fn number(value: f64) -> String {
    format!("{value:?}")
}

fn quoted(word: &str) -> String {
    toml::Value::String(word.to_owned()).to_string()
}
