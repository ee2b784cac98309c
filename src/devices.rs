//! The devices this build knows: what each can run, how it is opened, which are here.

use crate::error::{Error, Result};
use crate::host_kernels::ReferenceKernels;
use partita_codegen::{DeviceSpec, Target};
use partita_hw::{AdapterInfo, Driver, Machine, Profiles, detect_cpu};
use partita_plan::{Device, ElementType, Kernel};
use partita_runtime::{DriverFactory, Drivers};
use std::path::Path;
use std::sync::Arc;

const CPU: Target = Target {
    driver: "cpu",
    supports: partita_cpu::supports,
    pack: partita_cpu::pack,
    channels_last: true,
    heads_in_place: true,
};

/// Simulated devices compute on the CPU, but nobody would ship the reference evaluation to one.
const SIM: Target = Target { driver: "sim", supports: sim_supports, ..CPU };

#[cfg(feature = "wgpu")]
const WGPU: Target = Target {
    driver: "wgpu",
    supports: partita_wgpu::supports,
    pack: partita_wgpu::pack,
    channels_last: false,
    heads_in_place: false,
};

fn sim_supports(kernel: &Kernel, inputs: &[ElementType], outputs: &[ElementType]) -> bool {
    kernel.library != "reference" && partita_cpu::supports(kernel, inputs, outputs)
}

fn target(driver: Driver) -> Result<Target> {
    match driver {
        Driver::Cpu => Ok(CPU),
        Driver::Sim => Ok(SIM),
        #[cfg(feature = "wgpu")]
        Driver::Wgpu => Ok(WGPU),
        #[cfg(not(feature = "wgpu"))]
        Driver::Wgpu => {
            Err(Error::new("M010", "this build has no wgpu driver", "build with the feature wgpu"))
        }
    }
}

/// Whether the driver of that name can run a kernel on these types; `None` when this build has no such driver.
pub fn supports(
    driver: &str,
    kernel: &Kernel,
    inputs: &[ElementType],
    outputs: &[ElementType],
) -> Option<bool> {
    let target = target(Driver::parse(driver)?).ok()?;
    Some((target.supports)(kernel, inputs, outputs))
}

/// The plan's rows for a machine's devices.
///
/// # Errors
/// When a driver is not part of this build.
pub fn specs(machine: &Machine, threads: Option<u32>) -> Result<Vec<DeviceSpec>> {
    machine.devices.iter().map(|d| spec(d, threads)).collect()
}

fn spec(device: &partita_hw::Device, threads: Option<u32>) -> Result<DeviceSpec> {
    let adapter = device.adapter.as_ref().map_or(String::new(), |a| {
        a.name.clone().or_else(|| a.index.map(|i| i.to_string())).unwrap_or_default()
    });
    let row = Device {
        name: device.name.clone(),
        driver: device.driver.as_str().to_owned(),
        profile: device.profile.clone().unwrap_or_default(),
        threads: if device.driver == Driver::Cpu { threads.or(device.threads).unwrap_or(1) } else { 0 },
        adapter,
        memory_bytes: device.memory_bytes.as_ref().map_or(0, |m| m.value),
        arena_bytes: 0,
    };
    Ok(DeviceSpec { device: row, target: target(device.driver)? })
}

/// Drivers of this build.
pub fn drivers() -> Drivers {
    let cpu: Arc<dyn DriverFactory> =
        Arc::new(partita_cpu::CpuFactory::new(None).with_host_kernels(Arc::new(ReferenceKernels)));
    let drivers = Drivers::new().with(Arc::new(partita_sim::SimFactory::new(cpu.clone()))).with(cpu);
    #[cfg(feature = "wgpu")]
    let drivers = drivers.with(Arc::new(partita_wgpu::WgpuFactory::new()));
    drivers
}

/// True when the running machine may have a graphics processor. Asking the graphics drivers takes a hundred times as long
/// as everything else, and without one of these nodes they can only offer to draw on the CPU.
pub fn may_have_graphics() -> bool {
    let nodes = ["dri", "dxg", "nvidia0", "nvidiactl", "nvhost-gpu", "nvgpu", "mali0", "kgsl-3d0", "pvr"];
    !cfg!(target_os = "linux") || nodes.iter().any(|node| Path::new("/dev").join(node).exists())
}

/// Every wgpu adapter of the running machine.
#[cfg(feature = "wgpu")]
pub fn adapters() -> Vec<AdapterInfo> {
    let class = |word: &str| partita_hw::AdapterType::parse(word).unwrap_or(partita_hw::AdapterType::Other);
    let info = |a: partita_wgpu::AdapterFacts| AdapterInfo {
        index: u32::try_from(a.index).unwrap_or(u32::MAX),
        name: a.name,
        backend: a.backend.to_string(),
        device_type: class(a.device_type),
        vendor: a.vendor,
        device: a.device,
        pci_address: Some(a.pci_address).filter(|address| !address.is_empty()),
        driver: a.driver,
        driver_info: a.driver_info,
        max_buffer_bytes: Some(a.max_buffer_bytes),
        memory_bytes: None,
        shader_f16: false,
    };
    partita_wgpu::adapters().into_iter().map(info).collect()
}

/// Every wgpu adapter of the running machine: none, this build has no wgpu driver.
#[cfg(not(feature = "wgpu"))]
pub fn adapters() -> Vec<AdapterInfo> {
    Vec::new()
}

/// The running machine: its CPU, and its GPUs when `with_gpus`.
///
/// # Errors
/// When the built-in profiles do not parse.
pub fn detected(with_gpus: bool) -> Result<Machine> {
    let adapters = if with_gpus { adapters() } else { Vec::new() };
    Ok(Machine::detected(&detect_cpu(Path::new("/")), &adapters, &Profiles::builtin()?))
}

/// The machine of a file, with what the running machine knows about its real devices filled in.
///
/// # Errors
/// What is wrong with the file, with line and column.
pub fn from_file(path: &Path) -> Result<Machine> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    let profiles = Profiles::builtin()?;
    let mut machine = Machine::parse(&path.display().to_string(), &text, &profiles)?;
    let with_gpus = machine.devices.iter().any(|d| d.driver == Driver::Wgpu);
    let adapters = if with_gpus { adapters() } else { Vec::new() };
    machine.complete(&detect_cpu(Path::new("/")), &adapters, &profiles);
    Ok(machine)
}
