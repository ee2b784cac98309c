//! PCI ids of processors: their names, and the profiles they stand for.
//!
//! Names and ids are facts of the public PCI id database (pci.ids, 2026) and of the vendors' drivers. A row without a
//! profile names the device and leaves its figures unknown. Ids that stand for several products have no profile.

/// Vendor, device, profile (empty when there is none), name.
type Row = (u32, u32, &'static str, &'static str);

/// Every known id, by vendor and device.
const ROWS: [Row; 98] = [
    (0x1002, 0x66a1, "", "AMD Instinct MI50 (Vega 20)"),
    (0x1002, 0x738c, "", "AMD Instinct MI100"),
    (0x1002, 0x738e, "", "AMD Instinct MI100"),
    (0x1002, 0x73bf, "", "AMD Radeon RX 6800 or 6900 XT (Navi 21)"),
    (0x1002, 0x7408, "amd-mi250x", "AMD Instinct MI250X"),
    (0x1002, 0x740c, "amd-mi250x", "AMD Instinct MI250X or MI250"),
    (0x1002, 0x740f, "amd-mi210", "AMD Instinct MI210"),
    (0x1002, 0x7448, "", "AMD Radeon Pro W7900"),
    (0x1002, 0x744c, "", "AMD Radeon RX 7900 series (Navi 31)"),
    (0x1002, 0x74a0, "", "AMD Instinct MI300A"),
    (0x1002, 0x74a1, "amd-mi300x", "AMD Instinct MI300X"),
    (0x1002, 0x74a2, "", "AMD Instinct MI308X"),
    (0x1002, 0x74a5, "amd-mi325x", "AMD Instinct MI325X"),
    (0x1002, 0x74a9, "", "AMD Instinct MI300X HF"),
    (0x1002, 0x74b5, "amd-mi300x", "AMD Instinct MI300X VF"),
    (0x1002, 0x74b9, "amd-mi325x", "AMD Instinct MI325X VF"),
    (0x1002, 0x7550, "", "AMD Radeon RX 9070 series (Navi 48)"),
    (0x1002, 0x7551, "", "AMD Radeon AI PRO R9700"),
    (0x1002, 0x75a0, "", "AMD Instinct MI350X"),
    (0x1002, 0x75a3, "amd-mi355x", "AMD Instinct MI355X"),
    (0x1022, 0x1502, "", "AMD XDNA NPU"),
    (0x1022, 0x17f0, "", "AMD XDNA 2 NPU"),
    (0x10de, 0x15f9, "", "NVIDIA Tesla P100 SXM2 16GB"),
    (0x10de, 0x1db1, "", "NVIDIA Tesla V100 SXM2 16GB"),
    (0x10de, 0x1db4, "", "NVIDIA Tesla V100 PCIe 16GB"),
    (0x10de, 0x1db5, "nvidia-v100-sxm2-32gb", "NVIDIA Tesla V100 SXM2 32GB"),
    (0x10de, 0x1db6, "", "NVIDIA Tesla V100 PCIe 32GB"),
    (0x10de, 0x1eb8, "nvidia-t4", "NVIDIA Tesla T4"),
    (0x10de, 0x20b0, "nvidia-a100-sxm4-40gb", "NVIDIA A100 SXM4 40GB"),
    (0x10de, 0x20b2, "nvidia-a100-sxm4-80gb", "NVIDIA A100 SXM4 80GB"),
    (0x10de, 0x20b5, "nvidia-a100-pcie-80gb", "NVIDIA A100 PCIe 80GB"),
    (0x10de, 0x20b7, "", "NVIDIA A30"),
    (0x10de, 0x20f1, "nvidia-a100-pcie-40gb", "NVIDIA A100 PCIe 40GB"),
    (0x10de, 0x2204, "", "NVIDIA GeForce RTX 3090"),
    (0x10de, 0x2206, "", "NVIDIA GeForce RTX 3080"),
    (0x10de, 0x2230, "", "NVIDIA RTX A6000"),
    (0x10de, 0x2235, "", "NVIDIA A40"),
    (0x10de, 0x2236, "nvidia-a10", "NVIDIA A10"),
    (0x10de, 0x2237, "", "NVIDIA A10G"),
    (0x10de, 0x2321, "", "NVIDIA H100 NVL 94GB"),
    (0x10de, 0x2324, "", "NVIDIA H800"),
    (0x10de, 0x2329, "", "NVIDIA H20"),
    (0x10de, 0x2330, "nvidia-h100-sxm5-80gb", "NVIDIA H100 SXM5 80GB"),
    (0x10de, 0x2331, "nvidia-h100-pcie-80gb", "NVIDIA H100 PCIe"),
    (0x10de, 0x2335, "nvidia-h200-sxm-141gb", "NVIDIA H200 SXM 141GB"),
    (0x10de, 0x233b, "", "NVIDIA H200 NVL"),
    (0x10de, 0x2342, "", "NVIDIA GH200 120GB / 480GB"),
    (0x10de, 0x2348, "", "NVIDIA GH200 144GB HBM3e"),
    (0x10de, 0x2684, "nvidia-rtx4090", "NVIDIA GeForce RTX 4090"),
    (0x10de, 0x26b1, "", "NVIDIA RTX 6000 Ada"),
    (0x10de, 0x26b5, "", "NVIDIA L40"),
    (0x10de, 0x26b9, "nvidia-l40s", "NVIDIA L40S"),
    (0x10de, 0x27b8, "nvidia-l4", "NVIDIA L4"),
    (0x10de, 0x2901, "nvidia-b200-sxm-180gb", "NVIDIA B200"),
    (0x10de, 0x2941, "nvidia-gb200-per-gpu", "NVIDIA GB200"),
    (0x10de, 0x2b85, "nvidia-rtx5090", "NVIDIA GeForce RTX 5090"),
    (0x10ee, 0x5000, "", "AMD Alveo U200 (management)"),
    (0x10ee, 0x5001, "", "AMD Alveo U200"),
    (0x10ee, 0x5004, "xilinx-alveo-u250", "AMD Alveo U250 (management)"),
    (0x10ee, 0x5005, "xilinx-alveo-u250", "AMD Alveo U250"),
    (0x10ee, 0x500c, "xilinx-alveo-u280", "AMD Alveo U280 (management)"),
    (0x10ee, 0x500d, "xilinx-alveo-u280", "AMD Alveo U280"),
    (0x10ee, 0x5020, "", "AMD Alveo U50 (management)"),
    (0x10ee, 0x5021, "", "AMD Alveo U50"),
    (0x10ee, 0x505c, "", "AMD Alveo U55C (management)"),
    (0x10ee, 0x505d, "", "AMD Alveo U55C"),
    (0x17cb, 0xa100, "", "Qualcomm Cloud AI 100"),
    (0x19e5, 0xd100, "huawei-ascend-310", "Huawei Ascend 310"),
    (0x19e5, 0xd500, "", "Huawei Ascend 310P"),
    (0x19e5, 0xd801, "huawei-ascend-910", "Huawei Ascend 910"),
    (0x19e5, 0xd802, "huawei-ascend-910b", "Huawei Ascend 910B"),
    (0x1ac1, 0x089a, "google-edge-tpu", "Google Coral Edge TPU"),
    (0x1ae0, 0x0027, "", "Google TPU v2 or v3"),
    (0x1ae0, 0x005e, "google-tpu-v4", "Google TPU v4"),
    (0x1ae0, 0x0062, "google-tpu-v5p", "Google TPU v5p"),
    (0x1ae0, 0x0063, "google-tpu-v5e", "Google TPU v5e"),
    (0x1ae0, 0x006f, "google-tpu-v6e", "Google TPU v6e"),
    (0x1ae0, 0x0076, "google-tpu-7x", "Google TPU7x"),
    (0x1d0f, 0x7064, "aws-inferentia1", "AWS Inferentia"),
    (0x1d0f, 0x7164, "aws-trainium1", "AWS Trainium"),
    (0x1d0f, 0x7264, "aws-inferentia2", "AWS Inferentia2"),
    (0x1d0f, 0x7364, "aws-trainium2", "AWS Trainium2"),
    (0x1d0f, 0x7564, "aws-trainium3", "AWS Trainium3"),
    (0x1d0f, 0x7565, "aws-trainium3", "AWS Trainium3"),
    (0x1da3, 0x1000, "", "Habana Gaudi"),
    (0x1da3, 0x1020, "intel-gaudi2", "Intel Gaudi 2"),
    (0x1da3, 0x1060, "intel-gaudi3", "Intel Gaudi 3"),
    (0x1da3, 0x1063, "", "Intel Gaudi 3 PCIe"),
    (0x1de0, 0x0000, "groq-lpu1", "Groq LPU (GroqChip)"),
    (0x1e52, 0x401e, "", "Tenstorrent Wormhole"),
    (0x1e52, 0xb140, "", "Tenstorrent Blackhole"),
    (0x1e52, 0xfaca, "", "Tenstorrent Grayskull"),
    (0x8086, 0x09c4, "", "Intel PAC with Arria 10 GX FPGA"),
    (0x8086, 0x0b2b, "", "Intel FPGA PAC D5005 (Stratix 10 SX)"),
    (0x8086, 0x643e, "intel-npu4-lunarlake", "Intel NPU 4 (Lunar Lake)"),
    (0x8086, 0x7d1d, "intel-npu3-meteorlake", "Intel NPU 3720 (Meteor Lake)"),
    (0x8086, 0xad1d, "", "Intel NPU 3720 (Arrow Lake)"),
    (0x8086, 0xb03e, "", "Intel NPU 5 (Panther Lake)"),
];

/// Graphics of Intel, apart because their names follow a scheme of their own.
const INTEL_GRAPHICS: [Row; 19] = [
    (0x8086, 0x0bd5, "intel-max-1550", "Intel Data Center GPU Max 1550"),
    (0x8086, 0x0bd6, "intel-max-1550", "Intel Data Center GPU Max 1550"),
    (0x8086, 0x0bd9, "", "Intel Data Center GPU Max 1100"),
    (0x8086, 0x0bda, "", "Intel Data Center GPU Max 1100"),
    (0x8086, 0x46a6, "", "Intel Iris Xe Graphics (Alder Lake)"),
    (0x8086, 0x4680, "", "Intel UHD Graphics 770"),
    (0x8086, 0x5690, "", "Intel Arc A770M"),
    (0x8086, 0x56a0, "intel-arc-a770-16gb", "Intel Arc A770"),
    (0x8086, 0x56a1, "", "Intel Arc A750"),
    (0x8086, 0x56a5, "", "Intel Arc A380"),
    (0x8086, 0x56c0, "", "Intel Data Center GPU Flex 170"),
    (0x8086, 0x56c1, "", "Intel Data Center GPU Flex 140"),
    (0x8086, 0x64a0, "", "Intel Arc Graphics 130V/140V (Lunar Lake)"),
    (0x8086, 0x7d55, "", "Intel Arc Graphics (Meteor Lake)"),
    (0x8086, 0xe20b, "intel-arc-b580", "Intel Arc B580"),
    (0x8086, 0xe20c, "", "Intel Arc B570"),
    (0x8086, 0xe223, "", "Intel Arc Pro B70"),
    (0x8086, 0xa780, "", "Intel UHD Graphics 770 (Raptor Lake)"),
    (0x8086, 0xb080, "", "Intel Arc B390 (Panther Lake)"),
];

fn row(vendor: u32, device: u32) -> Option<&'static Row> {
    ROWS.iter().chain(&INTEL_GRAPHICS).find(|row| (row.0, row.1) == (vendor, device))
}

/// The name of a device, if its id is known.
pub(crate) fn name(vendor: u32, device: u32) -> Option<&'static str> {
    row(vendor, device).map(|row| row.3)
}

/// The profile an id stands for, if it stands for one.
pub(crate) fn profile(vendor: u32, device: u32) -> Option<&'static str> {
    row(vendor, device).map(|row| row.2).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn rows_are_in_order_and_name_profiles() {
        let profiles = Profiles::builtin().unwrap();
        assert!(ROWS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
        for (vendor, device, id, name) in ROWS.iter().chain(&INTEL_GRAPHICS) {
            assert!(id.is_empty() || profiles.get(id).is_some(), "{vendor:x}:{device:x} {id}");
            assert!(!name.is_empty());
        }
    }
}
