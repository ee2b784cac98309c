//! Which adapters the machine has, as plain data, and choosing one.

use partita_runtime::RuntimeError;
use std::cmp::Reverse;

/// A graphics adapter as machine detection sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFacts {
    /// Position in [`adapters`]; a machine file may name an adapter by it.
    pub index: usize,
    /// Name as the driver gives it.
    pub name: String,
    /// `vulkan`, `gl`, `metal` or `dx12`.
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub device_type: &'static str,
    /// PCI vendor id, or 0.
    pub vendor: u32,
    /// PCI device id, or 0.
    pub device: u32,
    /// PCI address as `dddd:bb:dd.f`, or empty.
    pub pci_address: String,
    /// Name of the driver.
    pub driver: String,
    /// Version of the driver, in its own words.
    pub driver_info: String,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
}

/// All adapters, best kind first; empty where there is no driver. An adapter that two interfaces show is listed
/// once. The variable `WGPU_BACKEND` (as `vulkan` or `gl`) limits the interfaces that are asked.
pub fn adapters() -> Vec<AdapterFacts> {
    list().into_iter().map(|(facts, _)| facts).collect()
}

/// The adapter that `wanted` names: empty for the first, an index, or a part of a name.
pub(crate) fn pick(place: &str, wanted: &str) -> Result<(AdapterFacts, wgpu::Adapter), RuntimeError> {
    let mut found = list();
    let names: Vec<String> = found.iter().map(|(f, _)| format!("{} {}", f.index, f.name)).collect();
    match choose(&found.iter().map(|(f, _)| f).collect::<Vec<_>>(), wanted) {
        Some(index) => Ok(found.swap_remove(index)),
        None if names.is_empty() => Err(RuntimeError::new(
            "G001",
            place,
            "this machine has no graphics adapter that wgpu can open",
            "install a Vulkan or GL driver, or compile for a machine without this device",
        )),
        None => Err(RuntimeError::new(
            "G001",
            place,
            format!("no graphics adapter matches '{wanted}'"),
            format!("this machine has: {}", names.join(", ")),
        )),
    }
}

fn choose(found: &[&AdapterFacts], wanted: &str) -> Option<usize> {
    if wanted.is_empty() {
        return (!found.is_empty()).then_some(0);
    }
    if let Ok(index) = wanted.parse::<usize>() {
        return (index < found.len()).then_some(index);
    }
    let wanted = wanted.to_lowercase();
    found.iter().position(|f| f.name.to_lowercase().contains(&wanted))
}

fn list() -> Vec<(AdapterFacts, wgpu::Adapter)> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Vec::new();
    }
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY | wgpu::Backends::GL);
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<(AdapterFacts, wgpu::Adapter)> =
        pollster::block_on(instance.enumerate_adapters(backends))
            .into_iter()
            .filter(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS))
            .map(|a| (facts(&a), a))
            .collect();
    let natives: Vec<AdapterFacts> =
        found.iter().map(|(f, _)| f.clone()).filter(|f| f.backend != "gl").collect();
    found.retain(|(f, _)| f.backend != "gl" || !natives.iter().any(|n| same_hardware(n, f)));
    // The sort is stable: adapters of one kind keep the driver's order.
    found.sort_by_key(|(f, _)| Reverse(rank(f.device_type)));
    for (index, (facts, _)) in found.iter_mut().enumerate() {
        facts.index = index;
    }
    found
}

fn facts(adapter: &wgpu::Adapter) -> AdapterFacts {
    let info = adapter.get_info();
    AdapterFacts {
        index: 0,
        name: info.name,
        backend: match info.backend {
            wgpu::Backend::Vulkan => "vulkan",
            wgpu::Backend::Metal => "metal",
            wgpu::Backend::Dx12 => "dx12",
            _ => "gl",
        },
        device_type: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "cpu",
            wgpu::DeviceType::Other => "other",
        },
        vendor: info.vendor,
        device: info.device,
        pci_address: info.device_pci_bus_id,
        driver: info.driver,
        driver_info: info.driver_info,
        max_buffer_bytes: adapter.limits().max_buffer_size,
    }
}

fn rank(device_type: &str) -> u8 {
    match device_type {
        "discrete" => 4,
        "integrated" => 3,
        "virtual" => 2,
        "other" => 1,
        _ => 0,
    }
}

/// GL knows no device id, so hardware is told apart by vendor id or by the maker's name, the first word.
fn same_hardware(native: &AdapterFacts, gl: &AdapterFacts) -> bool {
    let maker = |f: &AdapterFacts| f.name.split_whitespace().next().unwrap_or_default().to_lowercase();
    (gl.vendor != 0 && gl.vendor == native.vendor) || maker(native) == maker(gl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, vendor: u32) -> AdapterFacts {
        AdapterFacts {
            index: 0,
            name: name.into(),
            backend: "gl",
            device_type: "discrete",
            vendor,
            device: 0,
            pci_address: String::new(),
            driver: String::new(),
            driver_info: String::new(),
            max_buffer_bytes: 0,
        }
    }

    #[test]
    fn adapters_are_chosen_by_index_or_name() {
        let (a, b) = (named("NVIDIA GeForce RTX 4090", 0x10de), named("llvmpipe (LLVM 15)", 0));
        let all = [&a, &b];
        assert_eq!(choose(&all, ""), Some(0));
        assert_eq!(choose(&all, "1"), Some(1));
        assert_eq!(choose(&all, "LLVM"), Some(1));
        assert_eq!(choose(&all, "2"), None);
        assert_eq!(choose(&all, "radeon"), None);
        assert_eq!(choose(&[], ""), None);
    }

    #[test]
    fn one_adapter_through_two_interfaces_is_one() {
        let gl = named("NVIDIA GeForce RTX 4090/PCIe/SSE2", 0x10de);
        assert!(same_hardware(&named("NVIDIA GeForce RTX 4090", 0x10de), &gl));
        assert!(same_hardware(
            &named("llvmpipe (LLVM 15.0.6)", 0x10005),
            &named("llvmpipe (LLVM 15.0.6)", 0)
        ));
        assert!(!same_hardware(&named("AMD Radeon RX 6800", 0x1002), &gl));
    }
}
