//! Detection over a recorded tree, on a bare one, and on whatever machine runs the tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

use std::fs;
use std::path::Path;

use partita_hw::{
    AdapterInfo, AdapterType, CacheKind, CpuInfo, Detection, DeviceReport, Machine, Precision, Profiles,
    detect_cpu,
};

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Two sockets of two cores with two threads each.
fn server(root: &Path) {
    let mut cpuinfo = String::new();
    for cpu in 0..8 {
        let (socket, core) = (cpu / 2 % 2, cpu % 2);
        cpuinfo += &format!(
            "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel name\t: Intel(R) Xeon(R) Test CPU\n\
             cpu MHz\t\t: 2100.123\nphysical id\t: {socket}\ncore id\t\t: {core}\n\
             flags\t\t: fpu sse4_2 avx avx2 fma f16c avx512f avx512_vnni amx_tile amx_int8 amx_bf16\n\n"
        );
        let sys = format!("sys/devices/system/cpu/cpu{cpu}");
        write(root, &format!("{sys}/topology/physical_package_id"), &format!("{socket}\n"));
        write(root, &format!("{sys}/topology/core_id"), &format!("{core}\n"));
        write(root, &format!("{sys}/cpufreq/cpuinfo_max_freq"), "3000000\n");
        let twin = cpu % 4;
        let caches = [
            (0, "1", "Data", "48K", format!("{twin},{}", twin + 4)),
            (1, "1", "Instruction", "32K", format!("{twin},{}", twin + 4)),
            (2, "2", "Unified", "2048K", format!("{twin},{}", twin + 4)),
            (3, "3", "Unified", "30M", if socket == 0 { "0-1,4-5".to_owned() } else { "2-3,6-7".to_owned() }),
        ];
        for (index, level, kind, size, shared) in caches {
            let cache = format!("{sys}/cache/index{index}");
            write(root, &format!("{cache}/level"), level);
            write(root, &format!("{cache}/type"), kind);
            write(root, &format!("{cache}/size"), size);
            write(root, &format!("{cache}/shared_cpu_list"), &shared);
            write(root, &format!("{cache}/coherency_line_size"), "64");
        }
    }
    write(root, "proc/cpuinfo", &cpuinfo);
    write(root, "sys/devices/system/cpu/online", "0-7\n");
    write(root, "proc/meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\nMemAvailable:   60000000 kB\n");
    write(root, "sys/devices/system/node/online", "0-1\n");
    for node in 0..2 {
        let path = format!("sys/devices/system/node/node{node}");
        write(root, &format!("{path}/cpulist"), if node == 0 { "0-1,4-5\n" } else { "2-3,6-7\n" });
        write(root, &format!("{path}/meminfo"), &format!("Node {node} MemTotal:       32768000 kB\n"));
    }
}

fn detect_server() -> CpuInfo {
    let root = tempfile::tempdir().unwrap();
    server(root.path());
    detect_cpu(root.path())
}

#[test]
fn recorded_server() {
    let cpu = detect_server();
    assert_eq!(cpu.arch, "x86_64");
    assert_eq!(cpu.model.as_deref(), Some("Intel(R) Xeon(R) Test CPU"));
    assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (Some(2), Some(4), Some(8)));
    assert_eq!(cpu.usable_threads, None);
    assert_eq!(cpu.mhz, Some(3000.0));
    assert_eq!(
        cpu.isa,
        ["sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vnni", "amx-tile", "amx-int8", "amx-bf16"]
    );
    let caches: Vec<_> =
        cpu.caches.iter().map(|c| (c.level, c.kind, c.bytes, c.shared_by, c.instances)).collect();
    assert_eq!(
        caches,
        [
            (1, CacheKind::Data, 48 << 10, 2, 4),
            (1, CacheKind::Instruction, 32 << 10, 2, 4),
            (2, CacheKind::Unified, 2 << 20, 2, 4),
            (3, CacheKind::Unified, 30 << 20, 4, 2),
        ]
    );
    assert_eq!(cpu.memory_bytes, Some(65_536_000 * 1024));
    assert_eq!(cpu.memory_limit_bytes, None);
    assert_eq!(cpu.numa.len(), 2);
    assert_eq!((cpu.numa[1].cpus.as_str(), cpu.numa[1].memory_bytes), ("2-3,6-7", Some(32_768_000 * 1024)));
}

#[test]
fn bare_tree_knows_nothing_and_still_makes_a_machine() {
    let root = tempfile::tempdir().unwrap();
    let cpu = detect_cpu(root.path());
    assert_eq!(cpu, CpuInfo { arch: std::env::consts::ARCH.to_owned(), ..CpuInfo::default() });
    let machine = Machine::detected(&cpu, &[], &Profiles::builtin().unwrap());
    // No 16 GiB guess: unknown memory is unknown.
    assert_eq!(machine.devices[0].memory_bytes, None);
    assert!(machine.devices[0].dense[&Precision::Fp32].origin.contains("clock default"));
}

#[test]
fn damaged_files_are_skipped() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/cpuinfo", "processor : \u{fffd}\ncpu MHz : fast\ncore id\n:::\n");
    write(root.path(), "proc/meminfo", "MemTotal: lots kB\n");
    write(root.path(), "sys/devices/system/cpu/online", "0-4000000000,7-3,x\n");
    fs::write(root.path().join("sys/devices/system/node"), b"\xff\xfe").unwrap();
    let cpu = detect_cpu(root.path());
    assert_eq!((cpu.memory_bytes, cpu.mhz, cpu.cores), (None, None, None));
}

#[test]
fn container_limit_wins() {
    let root = tempfile::tempdir().unwrap();
    server(root.path());
    write(root.path(), "sys/fs/cgroup/memory.max", "1073741824\n");
    let cpu = detect_cpu(root.path());
    assert_eq!(cpu.memory_limit_bytes, Some(1 << 30));
    let machine = Machine::detected(&cpu, &[], &Profiles::builtin().unwrap());
    assert_eq!(machine.devices[0].memory_bytes.as_ref().unwrap().value, 1 << 30);
}

#[test]
fn arm_and_riscv_are_told_by_their_fields() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/cpuinfo", "processor : 0\nFeatures : fp asimd asimdhp asimddp sve i8mm bf16\n");
    let cpu = detect_cpu(root.path());
    assert_eq!(cpu.arch, "aarch64");
    assert_eq!(cpu.isa, ["neon", "fp16", "dotprod", "i8mm", "bf16", "sve"]);
    write(root.path(), "proc/cpuinfo", "processor : 0\nisa : rv64imafdcv_zicsr\nuarch : thead,c920\n");
    let cpu = detect_cpu(root.path());
    assert_eq!((cpu.arch.as_str(), cpu.isa.as_slice()), ("riscv64", ["rvv".to_owned()].as_slice()));
}

#[test]
fn rates_follow_from_cores_sets_and_clock() {
    let machine = Machine::detected(&detect_server(), &[], &Profiles::builtin().unwrap());
    let cpu = &machine.devices[0];
    // 4 cores x 16 lanes x 2 units x 2 x 3 GHz; AMX: 1024 bf16 and 2048 int8 per clock and core.
    assert_eq!(cpu.dense[&Precision::Fp32].value, 0.768);
    assert_eq!(cpu.dense[&Precision::Bf16].value, 12.288);
    assert_eq!(cpu.dense[&Precision::Int8].value, 24.576);
    assert!(cpu.bandwidth_gbs.as_ref().unwrap().origin.starts_with("default"));
    assert_eq!(cpu.last_level_cache_bytes(), Some(60 << 20));
}

#[test]
fn a_whole_socket_gets_its_profile_and_a_part_does_not() {
    let profiles = Profiles::builtin().unwrap();
    let whole = CpuInfo {
        model: Some("AMD EPYC 9654 96-Core Processor".to_owned()),
        cores: Some(96),
        threads: Some(192),
        ..CpuInfo::default()
    };
    let profile = |cpu: &CpuInfo| Machine::detected(cpu, &[], &profiles).devices[0].profile.clone();
    assert_eq!(profile(&whole).as_deref(), Some("amd-epyc-9654"));
    assert_eq!(profile(&CpuInfo { cores: Some(4), threads: Some(8), ..whole.clone() }), None);
    assert_eq!(profile(&CpuInfo { usable_threads: Some(2), ..whole }), None);
}

#[test]
fn two_sockets_are_twice_the_profile() {
    let profiles = Profiles::builtin().unwrap();
    let cpu = CpuInfo {
        model: Some("AMD EPYC 9654 96-Core Processor".to_owned()),
        sockets: Some(2),
        cores: Some(192),
        threads: Some(384),
        memory_bytes: Some(1 << 40),
        ..CpuInfo::default()
    };
    let machine = Machine::detected(&cpu, &[], &profiles);
    let (device, one) = (&machine.devices[0], profiles.get("amd-epyc-9654").unwrap());
    assert_eq!(device.dense[&Precision::Fp32].value, 2.0 * one.dense[&Precision::Fp32]);
    let bandwidth = device.bandwidth_gbs.as_ref().unwrap();
    let known = one.memory.measured_bandwidth_gbs.or(one.memory.bandwidth_gbs);
    assert_eq!(bandwidth.value, 2.0 * known.unwrap());
    assert!(bandwidth.origin.ends_with("; 2 sockets"));
    let text = machine.to_toml(&profiles);
    assert_eq!(Machine::parse("m", &text, &profiles).unwrap(), machine, "{text}");
}

fn adapter(index: u32, name: &str, backend: &str, device_type: AdapterType) -> AdapterInfo {
    AdapterInfo {
        index,
        name: name.to_owned(),
        backend: backend.to_owned(),
        device_type,
        vendor: 0x10de,
        device: 0x2684,
        pci_address: None,
        driver: "test".to_owned(),
        driver_info: "1.0".to_owned(),
        max_buffer_bytes: Some(1 << 28),
        memory_bytes: None,
        shader_f16: false,
    }
}

fn adapters() -> Vec<AdapterInfo> {
    vec![
        adapter(0, "NVIDIA GeForce RTX 4090", "vulkan", AdapterType::Discrete),
        adapter(1, "llvmpipe (LLVM 15.0.7, 256 bits)", "vulkan", AdapterType::Cpu),
        adapter(2, "NVIDIA GeForce RTX 4090/PCIe/SSE2", "gl", AdapterType::Other),
        adapter(3, "Mystery \"chip\" \\ 7", "metal", AdapterType::Integrated),
    ]
}

#[test]
fn adapters_become_devices() {
    let profiles = Profiles::builtin().unwrap();
    let machine = Machine::detected(&detect_server(), &adapters(), &profiles);
    let names: Vec<&str> = machine.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["cpu0", "gpu0", "gpu1", "gpu2"]);
    let fp32 = |index: usize| machine.devices[index].dense_rate(Precision::Fp32).unwrap().tflops;
    assert_eq!((fp32(1), fp32(2), fp32(3)), (82.6, 0.01, 1.0));
    // Shaders do not reach tensor units, and a software adapter never looks faster than the cores it runs on.
    assert!(!machine.devices[1].dense.contains_key(&Precision::Fp16));
    assert!(fp32(2) < fp32(0));
    assert!(machine.devices[2].launch_us.as_ref().unwrap().origin.contains("software adapter"));
    assert!(machine.path(0, 3).unwrap().origin.contains("shared memory"));
    assert_eq!(machine.totals().memory_bytes, 65_536_000 * 1024 + 24_000_000_000);
}

#[test]
fn detection_can_be_read_again() {
    let profiles = Profiles::builtin().unwrap();
    let machine = Machine::detected(&detect_server(), &adapters(), &profiles);
    let text = machine.to_toml(&profiles);
    let again =
        Machine::parse("detected.toml", &text, &profiles).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again, machine, "{text}");
}

#[test]
fn report_has_a_schema_and_reads_back() {
    let profiles = Profiles::builtin().unwrap();
    let report =
        DeviceReport::new(Detection { cpu: detect_server(), ..Detection::default() }, adapters(), &profiles);
    let json = report.to_json().unwrap();
    assert!(json.starts_with("{\n  \"schema\": 2,"));
    let again: DeviceReport = serde_json::from_str(&json).unwrap();
    assert_eq!(again, report);
    let odd = json.replacen("\"schema\"", "\"shcema\"", 1);
    assert!(serde_json::from_str::<DeviceReport>(&odd).is_err());
    assert_eq!(report.machine.table(), again.machine.table());
}

#[test]
fn completing_replaces_defaults_and_keeps_what_is_stated() {
    let profiles = Profiles::builtin().unwrap();
    let text = "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\nthreads = 2\nbandwidth_gbs = 33.0\n\
        [[device]]\nname = \"gpu0\"\ndriver = \"wgpu\"\n";
    let mut machine = Machine::parse("m", text, &profiles).unwrap();
    machine.complete(&detect_server(), &adapters(), &profiles);
    let cpu = &machine.devices[0];
    assert_eq!(cpu.bandwidth_gbs.as_ref().unwrap().value, 33.0);
    // Two of the four cores were asked for.
    assert_eq!(cpu.dense[&Precision::Fp32].value, 0.384);
    assert_eq!(cpu.threads, Some(2));
    assert_eq!(machine.devices[1].title.as_deref(), Some("NVIDIA GeForce RTX 4090"));
    assert!(machine.path(0, 1).unwrap().origin.contains("host link of profile nvidia-rtx4090"));
    let written = machine.to_toml(&profiles);
    assert_eq!(Machine::parse("m", &written, &profiles).unwrap(), machine, "{written}");
}

#[test]
fn this_machine_is_consistent() {
    let cpu = detect_cpu(Path::new("/"));
    assert!(!cpu.arch.is_empty());
    assert!(cpu.usable_threads.is_some_and(|threads| threads >= 1));
    if let (Some(cores), Some(threads)) = (cpu.cores, cpu.threads) {
        assert!(cores <= threads);
    }
    let profiles = Profiles::builtin().unwrap();
    let machine = Machine::detected(&cpu, &[], &profiles);
    let text = machine.to_toml(&profiles);
    assert_eq!(Machine::parse("m", &text, &profiles).unwrap(), machine, "{text}");
    println!("{}\n{text}", machine.table());
}
