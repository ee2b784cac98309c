//! CPUs: /proc and /sys on Linux, sysctl elsewhere.

use crate::cpu::{Cache, CacheKind, CpuInfo, detect_cpu_in};
use crate::probe::text::{after, count, number};
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: "cpu",
    about: "cores, instruction sets, caches, memory and NUMA nodes from /proc and /sys, or from sysctl",
    run,
};

/// What sysctl is asked.
const NAMES: [&str; 10] = [
    "hw.memsize",
    "hw.physicalcpu",
    "hw.logicalcpu",
    "hw.packages",
    "hw.cachelinesize",
    "hw.l1dcachesize",
    "hw.l1icachesize",
    "hw.l2cachesize",
    "hw.machine",
    "machdep.cpu.brand_string",
];

fn run(host: &Host, findings: &mut Findings) {
    let mut cpu = detect_cpu_in(&host.root);
    if !host.root.exists("proc/cpuinfo")
        && let Some(text) = findings.tool(host, "sysctl", &NAMES)
    {
        read_sysctl(&text, &mut cpu);
    }
    findings.cpu = Some(cpu);
}

fn read_sysctl(text: &str, cpu: &mut CpuInfo) {
    let size = |key: &str| number(after(text, key)?).filter(|&bytes| (1.0..1e18).contains(&bytes));
    cpu.memory_bytes = cpu.memory_bytes.or_else(|| size("hw.memsize").map(|bytes| bytes as u64));
    cpu.cores = cpu.cores.or_else(|| count(after(text, "hw.physicalcpu")?));
    cpu.threads = cpu.threads.or_else(|| count(after(text, "hw.logicalcpu")?));
    cpu.sockets = cpu.sockets.or_else(|| count(after(text, "hw.packages")?));
    cpu.model = cpu
        .model
        .take()
        .or_else(|| Some(crate::probe::found::clean(after(text, "machdep.cpu.brand_string")?)));
    if let Some(arch) = after(text, "hw.machine") {
        cpu.arch = if arch == "arm64" { "aarch64".to_owned() } else { crate::probe::found::clean(arch) };
    }
    let line_bytes = after(text, "hw.cachelinesize").and_then(count);
    let rows = [
        ("hw.l1dcachesize", 1, CacheKind::Data),
        ("hw.l1icachesize", 1, CacheKind::Instruction),
        ("hw.l2cachesize", 2, CacheKind::Unified),
    ];
    for (key, level, kind) in rows {
        // sysctl does not say how many there are; each is counted once.
        let cache =
            |bytes: f64| Cache { level, kind, bytes: bytes as u64, shared_by: 1, instances: 1, line_bytes };
        cpu.caches.extend(size(key).map(cache));
    }
}
