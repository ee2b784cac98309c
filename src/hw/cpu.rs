//! The processor of the machine the program runs on, read from /proc and /sys without rights or libraries.
//!
//! Every fact is optional. The root directory is a parameter, so that tests and bug reports can bring a recorded tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::isa;
use crate::probe::Root;

/// Most logical CPUs looked at.
const MAX_CPUS: u32 = 4096;

/// Most cache indices and NUMA nodes looked at.
const MAX_INDICES: u32 = 1024;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Both.
    Unified,
}

impl CacheKind {
    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            CacheKind::Data => "data",
            CacheKind::Instruction => "instruction",
            CacheKind::Unified => "unified",
        }
    }

    /// The kind of that word in any case, if there is one.
    pub fn parse(word: &str) -> Option<CacheKind> {
        [CacheKind::Data, CacheKind::Instruction, CacheKind::Unified]
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(word))
    }
}

/// Caches of one level and kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Level, from 1.
    pub level: u32,
    /// What it holds.
    pub kind: CacheKind,
    /// Size of one in bytes.
    pub bytes: u64,
    /// Logical CPUs that share one.
    pub shared_by: u32,
    /// How many there are.
    pub instances: u32,
    /// Line size in bytes.
    pub line_bytes: Option<u32>,
}

/// A group of cores with memory of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NumaNode {
    /// Number of the node.
    pub id: u32,
    /// Its CPUs as a list, such as "0-7,16-23".
    pub cpus: String,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// What is known about the running CPU. Unknown stays unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CpuInfo {
    /// Architecture: "x86_64", "aarch64", "riscv64" or what the system calls it.
    pub arch: String,
    /// Vendor as the processor spells it.
    pub vendor: Option<String>,
    /// Model name.
    pub model: Option<String>,
    /// Family number (x86).
    pub family: Option<u32>,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Physical cores.
    pub cores: Option<u32>,
    /// Logical CPUs online.
    pub threads: Option<u32>,
    /// Threads this process may use at once, where that can be told.
    pub usable_threads: Option<u32>,
    /// Clock in MHz: the highest the system states, else the one it shows now.
    pub mhz: Option<f64>,
    /// Instruction sets, in the names of the compiler.
    pub isa: Vec<String>,
    /// Caches by level.
    pub caches: Vec<Cache>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory free for programs, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Memory limit of the container, in bytes, when below the memory.
    pub memory_limit_bytes: Option<u64>,
    /// NUMA nodes.
    pub numa: Vec<NumaNode>,
}

impl CpuInfo {
    /// A CPU about which only the architecture this program was built for is known.
    pub(crate) fn unknown() -> CpuInfo {
        CpuInfo { arch: std::env::consts::ARCH.to_owned(), ..CpuInfo::default() }
    }
}

/// Reads the CPU of the machine whose files lie under `root`; "/" is the running one.
///
/// Never fails: what cannot be read stays unknown. Only for "/" is the processor itself asked as well.
pub fn detect_cpu(root: &Path) -> CpuInfo {
    detect_cpu_in(&Root::folder(root))
}

/// The same for any root.
pub(crate) fn detect_cpu_in(root: &Root) -> CpuInfo {
    let mut cpu = CpuInfo::unknown();
    read_cpuinfo(root, &mut cpu);
    read_topology(root, &mut cpu);
    cpu.caches = read_caches(root, cpu.threads.unwrap_or(1));
    read_memory(root, &mut cpu);
    cpu.numa = read_numa(root);
    if root.is_running_machine() {
        ask_running(&mut cpu);
    }
    cpu
}

fn ask_running(cpu: &mut CpuInfo) {
    let usable = std::thread::available_parallelism().ok();
    cpu.usable_threads = usable.and_then(|count| u32::try_from(count.get()).ok());
    cpu.threads = cpu.threads.or(cpu.usable_threads);
    if let Some(mut sets) = isa::running() {
        // The standard library cannot tell AMX yet, the system can.
        sets.extend(cpu.isa.iter().filter(|name| name.starts_with("amx")).cloned());
        cpu.isa = sets;
    }
}

fn read_cpuinfo(root: &Root, cpu: &mut CpuInfo) {
    let Some(text) = root.text("proc/cpuinfo") else { return };
    let (mut threads, mut cores, mut mhz) = (0, BTreeSet::new(), 0.0_f64);
    let mut package = String::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key.trim() {
            "processor" => threads += 1,
            "physical id" => value.clone_into(&mut package),
            "core id" => drop(cores.insert((package.clone(), value.to_owned()))),
            "cpu MHz" => mhz = mhz.max(value.parse().unwrap_or(0.0)),
            other => read_cpuinfo_once(other, value, cpu),
        }
    }
    cpu.threads = Some(threads).filter(|&threads| threads > 0);
    cpu.cores = u32::try_from(cores.len()).ok().filter(|&cores| cores > 0);
    cpu.mhz = Some(mhz).filter(|&mhz| mhz > 0.0);
}

/// Fields that say the same for every CPU; the first one counts.
fn read_cpuinfo_once(key: &str, value: &str, cpu: &mut CpuInfo) {
    match key {
        "model name" | "uarch" if cpu.model.is_none() => cpu.model = Some(value.to_owned()),
        "vendor_id" | "CPU implementer" if cpu.vendor.is_none() => cpu.vendor = Some(value.to_owned()),
        "cpu family" if cpu.family.is_none() => cpu.family = value.parse().ok(),
        "flags" if cpu.isa.is_empty() => set_isa(cpu, "x86_64", isa::from_flags(value)),
        "Features" if cpu.isa.is_empty() => set_isa(cpu, "aarch64", isa::from_flags(value)),
        "isa" if cpu.isa.is_empty() => set_isa(cpu, "riscv64", riscv_sets(value)),
        _ => {}
    }
}

fn set_isa(cpu: &mut CpuInfo, arch: &str, sets: Vec<String>) {
    arch.clone_into(&mut cpu.arch);
    cpu.isa = sets;
}

/// "rv64imafdcv_zicsr_zvl256b" has the vector extension, because the single-letter part holds a v, in vectors of 256
/// bits.
fn riscv_sets(isa: &str) -> Vec<String> {
    let mut parts = isa.split('_');
    if !parts.next().unwrap_or("").trim_start_matches("rv64").contains('v') {
        return Vec::new();
    }
    let further = parts.filter(|part| part.starts_with("zvl") || ["zvfh", "zvfbfwma"].contains(part));
    ["rvv"].into_iter().chain(further).map(str::to_owned).collect()
}

/// Cores and sockets from the topology files, which every architecture has.
fn read_topology(root: &Root, cpu: &mut CpuInfo) {
    let (mut cores, mut packages, mut threads, mut mhz) = (BTreeSet::new(), BTreeSet::new(), 0, 0.0_f64);
    let sys = "sys/devices/system/cpu";
    for index in cpu_list(&root.word(&format!("{sys}/online")).unwrap_or_default()) {
        let topology = format!("{sys}/cpu{index}/topology");
        let package: Option<i64> = root.number(&format!("{topology}/physical_package_id"));
        let core: Option<i64> = root.number(&format!("{topology}/core_id"));
        threads += 1;
        packages.extend(package);
        cores.extend(package.zip(core));
        let khz: Option<f64> = root.number(&format!("{sys}/cpu{index}/cpufreq/cpuinfo_max_freq"));
        mhz = mhz.max(khz.unwrap_or(0.0) / 1e3);
    }
    let count = |len: usize| u32::try_from(len).ok().filter(|&count| count > 0);
    cpu.cores = count(cores.len()).or(cpu.cores);
    cpu.sockets = count(packages.len()).or(cpu.sockets);
    cpu.threads = count(threads).or(cpu.threads);
    cpu.mhz = Some(mhz).filter(|&mhz| mhz > 0.0).or(cpu.mhz);
}

/// The numbers of a list such as "0-3,8,10-11".
fn cpu_list(list: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
            continue;
        };
        cpus.extend(first..=last.min(MAX_CPUS));
        cpus.truncate(MAX_CPUS as usize);
    }
    cpus
}

fn read_caches(root: &Root, threads: u32) -> Vec<Cache> {
    let mut found: BTreeMap<(u32, CacheKind, u64), (Cache, BTreeSet<String>)> = BTreeMap::new();
    for cpu in 0..threads.min(MAX_CPUS) {
        for index in 0..MAX_INDICES {
            let Some((cache, shared)) = read_cache(root, cpu, index) else { break };
            let key = (cache.level, cache.kind, cache.bytes);
            found.entry(key).or_insert_with(|| (cache, BTreeSet::new())).1.insert(shared);
        }
    }
    let with_count = |(cache, sharers): (Cache, BTreeSet<String>)| Cache {
        instances: u32::try_from(sharers.len()).unwrap_or(u32::MAX),
        ..cache
    };
    found.into_values().map(with_count).collect()
}

/// One cache of one CPU, and the list of CPUs that share it.
fn read_cache(root: &Root, cpu: u32, index: u32) -> Option<(Cache, String)> {
    let path = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
    let shared = root.word(&format!("{path}/shared_cpu_list")).unwrap_or_else(|| cpu.to_string());
    let cache = Cache {
        level: root.number(&format!("{path}/level"))?,
        kind: CacheKind::parse(&root.word(&format!("{path}/type"))?)?,
        bytes: size_bytes(&root.word(&format!("{path}/size"))?)?,
        shared_by: u32::try_from(cpu_list(&shared).len()).unwrap_or(1),
        instances: 1,
        line_bytes: root.number(&format!("{path}/coherency_line_size")),
    };
    Some((cache, shared))
}

/// Bytes of "32K", "1M" or "512".
fn size_bytes(size: &str) -> Option<u64> {
    let (digits, scale) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 1 << 10),
        b'M' => (&size[..size.len() - 1], 1 << 20),
        b'G' => (&size[..size.len() - 1], 1 << 30),
        _ => (size, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

fn read_memory(root: &Root, cpu: &mut CpuInfo) {
    let meminfo = root.text("proc/meminfo").unwrap_or_default();
    cpu.memory_bytes = meminfo_bytes(&meminfo, "MemTotal:");
    cpu.memory_available_bytes = meminfo_bytes(&meminfo, "MemAvailable:");
    let limit = root
        .number("sys/fs/cgroup/memory.max")
        .or_else(|| root.number("sys/fs/cgroup/memory/memory.limit_in_bytes"));
    cpu.memory_limit_bytes = limit.filter(|&limit| cpu.memory_bytes.is_some_and(|total| limit < total));
}

/// Bytes of the line with that key in the format of /proc/meminfo, also of the per-node files.
fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(key))?;
    let (_, value) = line.split_once(key)?;
    let kibibytes: u64 = value.trim().trim_end_matches("kB").trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Memory of the machine in bytes.
pub(crate) fn memory_bytes(root: &Root) -> Option<u64> {
    meminfo_bytes(&root.text("proc/meminfo")?, "MemTotal:")
}

/// Numbers of the NUMA nodes that are online.
pub(crate) fn online_nodes(root: &Root) -> Vec<u32> {
    cpu_list(&root.word("sys/devices/system/node/online").unwrap_or_default())
}

fn read_numa(root: &Root) -> Vec<NumaNode> {
    let nodes = online_nodes(root);
    let node = |id: u32| {
        let path = format!("sys/devices/system/node/node{id}");
        let memory = root.text(&format!("{path}/meminfo")).unwrap_or_default();
        let cpus = root.word(&format!("{path}/cpulist")).unwrap_or_default();
        NumaNode { id, cpus, memory_bytes: meminfo_bytes(&memory, "MemTotal:") }
    };
    nodes.into_iter().take(MAX_INDICES as usize).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_sizes() {
        assert_eq!(cpu_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("0-99999999").len(), MAX_CPUS as usize);
        assert_eq!(cpu_list("x,,3-1"), Vec::<u32>::new());
        assert_eq!(size_bytes("32K"), Some(32768));
        assert_eq!(size_bytes("99999999999999999999K"), None);
        assert_eq!(size_bytes(""), None);
    }

    #[test]
    fn riscv_vector_is_a_letter_of_its_own() {
        assert_eq!(riscv_sets("rv64imafdcv_zicbom"), ["rvv"]);
        assert!(riscv_sets("rv64imafdc_zvl128b").is_empty());
    }
}
