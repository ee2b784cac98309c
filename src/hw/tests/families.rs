//! The acceptance rows of detection: for each family and each part of the system, the facts a recording must yield.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

mod support;

use partita_hw::{CacheKind, DeviceReport, Found, Kind, Machine, Precision};
use support::{detected, report};

/// Family, name and profile of every device.
fn devices(name: &str) -> Vec<(String, String, Option<String>)> {
    let devices = report(name).devices.into_iter();
    devices.map(|found| (found.family, found.name, found.profile)).collect()
}

fn profiles(name: &str) -> Vec<String> {
    devices(name).into_iter().map(|(_, _, profile)| profile.unwrap_or_else(|| "-".to_owned())).collect()
}

fn named<'r>(report: &'r DeviceReport, name: &str) -> &'r Found {
    report.devices.iter().find(|found| found.name == name).expect(name)
}

#[test]
fn bare_machine_has_its_cpu_and_nothing_else() {
    for name in ["bare", "azure-docker", "riscv", "system"] {
        let report = report(name);
        assert_eq!((report.devices.len(), report.machine.devices.len()), (0, 1), "{name}");
    }
    assert!(report("bare").warnings.is_empty());
    let nothing = partita_hw::Host::recorded("nothing", "").unwrap();
    let detection = partita_hw::detect(&std::sync::Arc::new(nothing), &partita_hw::Selection::default());
    assert_eq!((detection.cpu.memory_bytes, detection.devices.len()), (None, 0));
    assert!(detection.warnings.is_empty(), "{:?}", detection.warnings);
}

#[test]
fn d1_cpu() {
    let report = report("riscv");
    assert_eq!((report.cpu.arch.as_str(), report.cpu.threads), ("riscv64", Some(8)));
    assert_eq!(report.cpu.isa, ["rvv", "zvl256b"]);
    let mac = detected("apple-m3-max").cpu;
    assert_eq!((mac.cores, mac.memory_bytes, mac.arch.as_str()), (Some(16), Some(64 << 30), "aarch64"));
    assert!(mac.caches.iter().any(|cache| cache.kind == CacheKind::Unified && cache.bytes == 4 << 20));
    // Instruction sets, caches and NUMA nodes of servers are in tests/detect.rs.
}

#[test]
fn d2_nvidia() {
    let report = report("nvidia-h100x8");
    assert_eq!(report.devices.len(), 8);
    let gpu = &report.devices[2];
    assert_eq!(gpu.pci_address.as_deref(), Some("0000:52:00.0"));
    assert_eq!(gpu.uuid.as_deref(), Some("GPU-2a5b6c7d-0000-1111-2222-333344445552"));
    assert_eq!((gpu.memory_bytes, gpu.memory_used_bytes), (Some(81_559 << 20), Some(9 << 20)));
    assert_eq!((gpu.ecc, gpu.mig, gpu.persistence), (Some(true), Some(false), Some(true)));
    assert_eq!((gpu.compute_capability.as_deref(), gpu.temperature_c), (Some("9.0"), Some(32.0)));
    assert_eq!(
        (gpu.power_w, gpu.power_limit_w, gpu.utilization_percent),
        (Some(72.25), Some(700.0), Some(2.0))
    );
    assert_eq!((gpu.numa_node, gpu.driver_version.as_deref()), (Some(0), Some("550.54.15")));
    assert_eq!(gpu.memory_clock_mhz, Some(2619.0));
    // Bandwidth comes from the profile, not from a guessed width of the bus.
    assert_eq!(report.machine.devices[1].bandwidth_gbs.as_ref().unwrap().value, 3350.0);
}

#[test]
fn d2_servers_parts_and_old_drivers() {
    let report = report("nvidia-b200-gb200-gh200");
    let profile = |name: &str| named(&report, name).profile.clone();
    assert_eq!(profile("NVIDIA B200").as_deref(), Some("nvidia-b200-sxm-180gb"));
    assert_eq!(profile("NVIDIA GB200").as_deref(), Some("nvidia-gb200-per-gpu"));
    assert_eq!(profile("NVIDIA H200").as_deref(), Some("nvidia-h200-sxm-141gb"));
    // These have no profile, and a slice of a GPU must not get the figures of the whole one.
    for name in ["NVIDIA GH200 480GB", "NVIDIA H200 NVL", "GRID A100D-20C"] {
        assert_eq!(profile(name), None, "{name}");
    }
    assert_eq!(named(&report, "GRID A100D-20C").mig, Some(true));
    let old = self::report("nvidia-old-driver");
    assert!(old.warnings.is_empty(), "{:?}", old.warnings);
    assert_eq!((old.devices[0].memory_bytes, old.devices[1].power_w), (Some(15_109 << 20), None));
}

#[test]
fn d2_without_its_tool() {
    let report = report("nvidia-no-tool");
    let gpu = named(&report, "NVIDIA GeForce RTX 4090");
    assert_eq!(gpu.uuid.as_deref(), Some("GPU-0f0e0d0c-1111-2222-3333-444455556666"));
    assert_eq!((gpu.driver_version.as_deref(), gpu.available), (Some("570.86.15"), true));
    assert!(!named(&report, "NVIDIA GeForce RTX 3090").available);
    assert_eq!(profiles("nvidia-jetson"), ["nvidia-jetson-agx-orin-64gb"]);
    // The memory of a Jetson is the CPU's and counts once.
    assert_eq!(self::report("nvidia-jetson").machine.totals().memory_bytes, 64_349_220 * 1024);
}

#[test]
fn d3_amd() {
    let report = report("amd-mi300x");
    let gpu = &report.devices[0];
    assert_eq!((gpu.profile.as_deref(), gpu.pci_id.as_deref()), (Some("amd-mi300x"), Some("1002:74a1")));
    assert_eq!(
        (gpu.memory_bytes, gpu.compute_capability.as_deref()),
        (Some(206_141_652_992), Some("gfx942"))
    );
    assert_eq!((gpu.memory_bus_bits, gpu.memory_clock_mhz, gpu.cores), (Some(8192), Some(1300.0), Some(304)));
    assert_eq!((gpu.temperature_c, gpu.power_w, gpu.power_limit_w), (Some(41.0), Some(141.0), Some(750.0)));
    assert_eq!((gpu.utilization_percent, gpu.facts["vbios"].as_str()), (Some(7.0), "113-M3000100-102"));
    assert_eq!(
        profiles("amd-mi210-and-broken"),
        ["amd-rx7900xtx", "amd-mi325x", "amd-mi210"],
        "the RX 7900 XTX is told by its revision"
    );
}

#[test]
fn d3_a_card_of_two_devices_has_its_figures_once() {
    let report = report("amd-mi250x");
    let whole = partita_hw::Profiles::builtin().unwrap();
    let whole = whole.get("amd-mi250x").unwrap();
    let rates: f64 = report.machine.devices.iter().skip(1).map(|d| d.dense[&Precision::Fp16].value).sum();
    assert_eq!(rates, whole.dense[&Precision::Fp16]);
    assert_eq!(report.machine.totals().memory_bytes, 2 * 68_702_699_520);
}

#[test]
fn d4_apple() {
    let report = report("apple-m3-max");
    assert_eq!(profiles("apple-m3-max"), ["apple-m3-max-40c-gpu", "apple-m3-ane"]);
    assert_eq!(report.devices[0].cores, Some(40));
    assert_eq!(report.machine.totals().memory_bytes, 64 << 30, "unified memory counts once");
    let linux = devices("apple-asahi");
    assert_eq!(linux[0].1, "Apple M1 Max GPU");
    assert_eq!(linux[0].2, None, "the number of its cores is not told");
    assert_eq!(linux[1].2.as_deref(), Some("apple-m1-ane"));
}

#[test]
fn d5_vulkan_counts_nothing_twice() {
    let report = report("intel-gpu");
    assert_eq!(report.devices.len(), 4);
    assert!(named(&report, "Intel(R) Data Center GPU Max 1550").sources.contains(&"vulkan".to_owned()));
    let board = self::report("vulkan-adreno");
    assert_eq!(board.devices.len(), 1);
    assert_eq!(board.devices[0].sources, ["drm", "vulkan"]);
}

#[test]
fn d6_and_d7_npus_of_processors() {
    assert_eq!(profiles("intel-npu"), ["intel-npu3-meteorlake", "intel-npu4-lunarlake", "-", "-"]);
    assert_eq!(report("intel-npu").devices[0].nodes, ["/dev/accel/accel0"]);
    for (name, profile, generation) in [
        ("xdna-phoenix", "amd-xdna1-phoenix", "XDNA"),
        ("xdna-hawkpoint", "amd-xdna1-hawkpoint", "XDNA"),
        ("xdna-strix", "amd-xdna2-strix", "XDNA 2"),
    ] {
        let report = report(name);
        assert_eq!(report.devices[0].profile.as_deref(), Some(profile));
        assert_eq!(report.devices[0].facts["generation"], generation);
        assert!(report.machine.devices[1].dense.contains_key(&Precision::Int8), "{name}: its TOPS");
    }
}

#[test]
fn d8_tpu() {
    assert_eq!(profiles("tpu-v5p"), ["google-tpu-v5p"; 4]);
    assert_eq!(
        profiles("tpu-generations"),
        ["google-tpu-v3", "google-tpu-v4", "google-tpu-v5e", "google-tpu-v6e", "google-tpu-7x", "-"],
        "an unknown version stays unknown"
    );
    assert_eq!(profiles("tpu-container"), ["google-tpu-v6e"; 2]);
}

#[test]
fn d9_to_d13_accelerators() {
    let gaudi = report("gaudi");
    assert_eq!(profiles("gaudi"), ["intel-gaudi2", "intel-gaudi2", "intel-gaudi3"]);
    assert_eq!((gaudi.devices[1].memory_bytes, gaudi.devices[1].power_w), (Some(96 << 30), Some(94.0)));
    assert_eq!(profiles("neuron-trn2"), ["aws-trainium2"; 4]);
    assert_eq!(report("neuron-trn2").devices[0].cores, Some(8));
    assert_eq!(
        profiles("neuron-generations"),
        ["aws-inferentia1", "aws-trainium1", "aws-inferentia2", "aws-trainium2", "aws-trainium3"]
    );
    assert_eq!(profiles("neuron-nodes"), ["aws-inferentia2"]);
    assert_eq!(profiles("intel-xe-arc"), ["intel-arc-b580"; 2]);
    assert!(report("intel-gpu").devices.iter().all(|found| found.kind == Kind::Gpu));
    assert_eq!(profiles("qualcomm"), ["qualcomm-ai100-pro", "qualcomm-ai100-ultra"]);
    assert_eq!(report("qualcomm").devices[1].memory_bytes, Some(128 << 30));
    assert_eq!(devices("qualcomm-nodes").len(), 3);
    assert_eq!(profiles("cerebras"), ["cerebras-wse3", "cerebras-wse2"]);
    assert_eq!(profiles("graphcore"), ["graphcore-gc200"; 4], "a group of chips is no chip");
    let groq = report("groq");
    assert_eq!(groq.devices.len(), 8);
    assert!(
        groq.machine.devices.iter().skip(1).all(|d| d.memory_bytes.as_ref().unwrap().value == 230_000_000)
    );
}

#[test]
fn d14_to_d16_phones_windows_and_the_rest() {
    assert_eq!(profiles("samsung"), ["samsung-exynos-2100-npu"]);
    assert_eq!(profiles("mediatek"), ["mediatek-genio-1200"]);
    assert_eq!(profiles("windows"), ["nvidia-rtx4090", "-"]);
    assert_eq!(report("windows").devices[0].memory_bytes, None, "the field ends below 4 GiB");
    assert_eq!(profiles("windows-list"), ["amd-rx7900xtx"]);
    assert_eq!(profiles("fpga"), ["xilinx-alveo-u250", "-", "-"], "both functions of the Alveo are one card");
    assert_eq!(profiles("hexagon"), ["qualcomm-hexagon-x-elite", "-"]);
    assert_eq!(profiles("dsp-tda4vm"), ["ti-tda4vm-c7x-mma", "-", "-"]);
    assert_eq!(profiles("edge-tpu"), ["google-edge-tpu"; 2]);
    assert_eq!(profiles("tenstorrent"), ["tenstorrent-n300", "-"]);
    let ascend = report("ascend");
    assert_eq!(profiles("ascend"), ["huawei-ascend-910b", "huawei-ascend-310", "huawei-ascend-910b"]);
    assert_eq!((ascend.devices[2].memory_bytes, ascend.devices[2].power_w), (Some(64 << 30), Some(93.4)));
    assert!(!ascend.devices[1].available);
}

#[test]
fn s1_every_port_of_the_fabric() {
    let ports = report("system").system.fabric;
    let facts: Vec<_> = ports
        .iter()
        .map(|p| (p.adapter.as_str(), p.port, p.kind.as_str(), p.active, p.gbs_per_dir))
        .collect();
    assert_eq!(
        facts,
        [
            ("mlx4_0", 1, "roce-v1", true, Some(5.0)),
            ("mlx5_0", 1, "infiniband", true, Some(50.0)),
            ("mlx5_0", 2, "infiniband", false, Some(25.0)),
            ("mlx5_1", 1, "roce-v2", true, Some(12.5)),
        ]
    );
    assert_eq!(ports[1].interconnect.as_deref(), Some("ib-ndr"));
}

fn link(machine: &Machine, from: &str, to: &str) -> Option<f64> {
    let (from, to) = (machine.device(from)?, machine.device(to)?);
    machine.links.iter().find(|link| link.carries(from, to)).map(|link| link.gbs)
}

#[test]
fn s2_s3_links_are_those_of_pairs() {
    let report = report("nvidia-h100x8");
    // 26.562 GB/s are printed per link, 25 of them are payload; 18 links, of which 88 % were measured.
    let seen = &report.system.links[0];
    assert_eq!((seen.links, seen.gbs_per_dir), (18, Some(450.0)));
    assert_eq!(report.system.links.len(), 28);
    assert_eq!(report.system.switches.len(), 4);
    for from in 0..8 {
        for to in (0..8).filter(|&to| to != from) {
            assert_eq!(link(&report.machine, &format!("gpu{from}"), &format!("gpu{to}")), Some(396.0));
        }
    }
    // xGMI joins a pair by one link of the mesh, whatever all of them add up to.
    assert_eq!(link(&self::report("amd-mi300x").machine, "gpu0", "gpu1"), Some(44.8));
    let tpu = self::report("tpu-v5p").machine;
    assert_eq!((link(&tpu, "tpu0", "tpu1"), link(&tpu, "tpu0", "tpu3")), (Some(79.2), None));
}

#[test]
fn s4_pcie_by_address_for_every_vendor() {
    let gbs = |report: &DeviceReport, at: usize| report.devices[at].pcie.map(|link| (link.gts, link.lanes));
    let nvidia = report("nvidia-old-driver");
    // A card for 16 lanes in a slot of four, and one below a slower port.
    assert_eq!((gbs(&nvidia, 0), gbs(&nvidia, 1)), (Some((8.0, 4)), Some((8.0, 16))));
    assert_eq!(nvidia.devices[0].pcie.unwrap().max_lanes, Some(16));
    assert!((nvidia.devices[0].pcie.unwrap().gbs_per_dir - 8.0 * 4.0 * 128.0 / 130.0 / 8.0).abs() < 1e-9);
    for name in ["amd-mi300x", "gaudi", "groq", "tpu-v5p", "qualcomm", "ascend", "fpga", "tenstorrent"] {
        assert!(report(name).devices.iter().any(|found| found.pcie.is_some()), "{name}");
    }
    // Arc cards have a switch of their own: the GPU itself claims 2.5 GT/s and one lane.
    let arc = report("intel-gpu");
    assert_eq!(named(&arc, "Intel Arc A770").pcie.map(|link| (link.gts, link.lanes)), Some((16.0, 8)));
}

#[test]
fn s5_to_s8_memory_disks_and_surroundings() {
    let report = report("system");
    let memory = &report.system.cxl[0];
    assert_eq!(
        (memory.ram_bytes, memory.numa_node, memory.part_of_host_memory),
        (Some(256 << 30), Some(2), true)
    );
    let disks: Vec<_> =
        report.system.storage.iter().map(|disk| (disk.name.as_str(), disk.class.as_str())).collect();
    let expected =
        [("mmcblk0", "flash-card"), ("nvme0n1", "nvme"), ("sda", "ssd"), ("sdb", "hdd"), ("vda", "virtual")];
    assert_eq!(disks, expected);
    // Two lanes of PCIe 3 are slower than the disk; nobody knows what a virtual disk is.
    assert!(report.system.storage[1].usual_read_gbs.unwrap() < 1.8);
    assert_eq!(report.system.storage[4].usual_read_gbs, None);
    assert_eq!(report.system.storage[3].read_seconds(150_000_000), Some(1.0));
    let environment = &report.system.environment;
    assert_eq!(environment.kubernetes.as_ref().unwrap().namespace.as_deref(), Some("inference"));
    let cloud = environment.cloud.as_ref().unwrap();
    assert_eq!((cloud.vendor.as_str(), cloud.instance.as_deref()), ("aws", Some("p5.48xlarge")));
    assert_eq!(environment.variables["CUDA_VISIBLE_DEVICES"], "0,1");
    assert_eq!(self::report("azure-docker").system.environment.container.as_deref(), Some("docker"));
}
