//! The machine the program runs on, as a machine that can be planned for.

use crate::adapter::{AdapterInfo, AdapterType, profile_for_adapter};
use crate::cpu::CpuInfo;
use crate::device::{AdapterRef, Device, Driver};
use crate::fact::Fact;
use crate::isa::{self, Cores};
use crate::kind::Kind;
use crate::machine::Machine;
use crate::probe::Detection;
use crate::profile::{Profile, Profiles};

/// Clocks are rounded to this, because the current one moves from call to call and plans must not.
const CLOCK_STEP_MHZ: f64 = 100.0;

/// Family number of Zen 3 and Zen 4; of the two only Zen 4 has AVX-512, which it runs as two halves.
const ZEN4_FAMILY: u32 = 25;

impl Machine {
    /// A machine of a CPU and adapters alone: "cpu0", and "gpu0", "gpu1", ... without adapters shown twice.
    pub fn detected(cpu: &CpuInfo, adapters: &[AdapterInfo], profiles: &Profiles) -> Machine {
        let mut detection = Detection { cpu: cpu.clone(), ..Detection::default() };
        Machine::found(&mut detection, adapters, profiles)
    }

    /// Puts what was detected in place of defaults in devices that run here and name no profile.
    ///
    /// Figures a machine file states stay. Use it when a plan is for this machine; leave it out when the same file
    /// must give the same plan everywhere.
    pub fn complete(&mut self, cpu: &CpuInfo, adapters: &[AdapterInfo], profiles: &Profiles) {
        let found = Machine::detected(cpu, adapters, profiles);
        for device in self.devices.iter_mut().filter(|device| device.profile.is_none()) {
            match device.driver {
                Driver::Cpu => complete_cpu(device, cpu, profiles),
                Driver::Wgpu => {
                    if let Some(other) = matching(device, &found) {
                        adopt(device, other);
                    }
                }
                Driver::Sim => {}
            }
        }
        self.links.retain(|link| !link.implied);
        self.imply_links(profiles);
    }
}

/// A share of the cores gets its share of the rates: the file's count of threads stands.
fn complete_cpu(device: &mut Device, cpu: &CpuInfo, profiles: &Profiles) {
    let stated = device.cores.or(device.threads);
    let share =
        CpuInfo { cores: stated.or(cpu.cores), usable_threads: stated.or(cpu.usable_threads), ..cpu.clone() };
    adopt(device, &cpu_device(&share, profiles));
}

fn matching<'m>(device: &Device, found: &'m Machine) -> Option<&'m Device> {
    let wanted = device.adapter.as_ref()?;
    let fits = |other: &&Device| {
        other.adapter.as_ref().is_some_and(|adapter| match (&wanted.name, wanted.index) {
            (Some(name), _) => adapter.name.as_ref() == Some(name),
            (None, Some(index)) => adapter.index == Some(index),
            (None, None) => true,
        })
    };
    found.devices.iter().find(fits)
}

/// Takes over everything the device does not state itself.
fn adopt(device: &mut Device, found: &Device) {
    let is_default = |origin: &str| origin.starts_with("default") || origin.starts_with("formula");
    for (slot, fact) in device.facts_mut().into_iter().zip(found.facts()) {
        if slot.as_ref().is_none_or(|fact| is_default(&fact.origin)) {
            slot.clone_from(fact);
        }
    }
    device.dense.retain(|_, fact| !is_default(&fact.origin));
    for (&precision, fact) in &found.dense {
        device.dense.entry(precision).or_insert_with(|| fact.clone());
    }
    device.title = device.title.take().or(found.title.clone());
    device.memory_bytes = device.memory_bytes.take().or(found.memory_bytes.clone());
    device.shared_memory |= found.shared_memory;
    device.cores = device.cores.or(found.cores);
    device.threads = device.threads.or(found.threads);
    if device.isa.is_empty() {
        device.isa.clone_from(&found.isa);
    }
    if device.caches.is_empty() {
        device.caches.clone_from(&found.caches);
    }
    device.adapter.clone_from(&found.adapter);
    device.profile.clone_from(&found.profile);
}

/// The CPU as a device called "cpu0".
pub(crate) fn cpu_device(cpu: &CpuInfo, profiles: &Profiles) -> Device {
    // A part of a socket (a virtual machine, a container) must not get the figures of the whole one.
    let threads = cpu.usable_threads.or(cpu.threads);
    let cores = cpu.cores.into_iter().chain(threads).min();
    let sockets = cpu.sockets.filter(|&sockets| sockets > 0).unwrap_or(1);
    let whole = |profile: &&Profile| profile.cores.and_then(|count| count.checked_mul(sockets)) == cores;
    let profile = cpu_profile(cpu, profiles).filter(|profile| profile.cores.is_some()).filter(whole);
    let mut device = Device::new("cpu0", Driver::Cpu, Kind::Cpu, profile);
    if profile.is_some() && sockets > 1 {
        device.scale(f64::from(sockets), &format!("{sockets} sockets"));
    }
    device.title = cpu.model.clone().or(device.title);
    (device.cores, device.threads) = (cores, threads);
    device.isa.clone_from(&cpu.isa);
    device.caches.clone_from(&cpu.caches);
    let memory = cpu.memory_limit_bytes.or(cpu.memory_bytes);
    device.memory_bytes = memory.map(|bytes| Fact::new(bytes, "detected"));
    if profile.is_none() {
        let clock = cpu.mhz.map(|mhz| ((mhz / CLOCK_STEP_MHZ).round() * CLOCK_STEP_MHZ / 1e3, "detected"));
        let halves_512 = cpu.family == Some(ZEN4_FAMILY) && cpu.vendor.as_deref() == Some("AuthenticAMD");
        let count = cores.unwrap_or(1);
        device.dense = isa::peak_rates(&Cores { count, isa: &cpu.isa, clock, halves_512 });
    }
    device.fill_defaults();
    device
}

/// The profile whose words all occur in the model name.
fn cpu_profile<'p>(cpu: &CpuInfo, profiles: &'p Profiles) -> Option<&'p Profile> {
    let model = cpu.model.as_deref()?.to_ascii_lowercase().replace("(r)", " ").replace("(tm)", " ");
    let words: Vec<&str> = model.split(|c: char| !c.is_ascii_alphanumeric() && c != '+').collect();
    let fits = |profile: &&Profile| {
        let name = profile.name.to_ascii_lowercase();
        name.split_whitespace().all(|word| words.contains(&word))
    };
    profiles.of_kind(Kind::Cpu).find(fits)
}

/// A device that an adapter opens.
pub(crate) fn adapter_device(name: &str, adapter: &AdapterInfo, profiles: &Profiles) -> Device {
    let profile = profile_for_adapter(adapter, profiles);
    let mut device = Device::new(name, Driver::Wgpu, Kind::Gpu, profile);
    device.title = Some(adapter.name.clone());
    device.adapter = Some(adapter_ref(adapter));
    if let Some(bytes) = adapter.memory_bytes {
        device.memory_bytes = Some(Fact::new(bytes, "detected"));
    }
    device.fill_defaults();
    device
}

/// How a device names the adapter that opens it.
pub(crate) fn adapter_ref(adapter: &AdapterInfo) -> AdapterRef {
    AdapterRef {
        index: Some(adapter.index),
        name: Some(adapter.name.clone()),
        class: if adapter.is_software() { AdapterType::Cpu } else { adapter.device_type },
        max_buffer_bytes: adapter.max_buffer_bytes,
    }
}
