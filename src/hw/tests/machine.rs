//! Machine files: reading, located errors, writing back, and the ways between devices.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

use std::path::PathBuf;

use partita_hw::{Driver, Fact, Machine, Need, Precision, Profiles, Work, WorkKind, estimate, transfer_us};
use proptest::prelude::*;

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/machines").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn parse(text: &str) -> Machine {
    Machine::parse("machine.toml", text, &Profiles::builtin().unwrap()).unwrap()
}

fn error(text: &str) -> String {
    Machine::parse("machine.toml", text, &Profiles::builtin().unwrap()).unwrap_err().to_string()
}

const FIXTURES: [(&str, usize); 4] =
    [("cpu.toml", 1), ("cpu-wgpu.toml", 2), ("cpu-h100-tpu-groq.toml", 4), ("dual-gpu.toml", 3)];

#[test]
fn examples_parse_and_every_device_prices_f32_work() {
    let product = Work::new(WorkKind::Dense).with_flops(Precision::Fp32, 1e9).with_bytes(1e6, 1e6, 1e6);
    let sum = Work::new(WorkKind::Vector).with_flops(Precision::Fp32, 1e6).with_bytes(4e6, 4e6, 0.0);
    for (name, devices) in FIXTURES {
        let machine = parse(&fixture(name));
        assert_eq!(machine.devices.len(), devices, "{name}");
        for (index, device) in machine.devices.iter().enumerate() {
            assert!(estimate(device, &product).is_some(), "{name} {}", device.name);
            assert!(estimate(device, &sum).is_some(), "{name} {}", device.name);
            assert!(machine.path(machine.host, index).is_some(), "{name} {}", device.name);
        }
        assert!(machine.table().lines().count() >= 2 * devices, "{}", machine.table());
    }
}

#[test]
fn examples_survive_writing_and_reading() {
    let profiles = Profiles::builtin().unwrap();
    for (name, _) in FIXTURES {
        let machine = parse(&fixture(name));
        let text = machine.to_toml(&profiles);
        assert_eq!(parse(&text), machine, "{name}:\n{text}");
        assert_eq!(parse(&text).to_toml(&profiles), text, "{name}");
    }
}

const BASE: &str = "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\n";

#[test]
fn errors_name_place_and_help() {
    let with = |tail: &str| error(&format!("{BASE}{tail}"));
    assert_eq!(
        with("treads = 2\n"),
        "machine.toml:5:1: H002: device cpu0 has no field `treads`\n  hint: did you mean threads?"
    );
    let unknown = with("[[device]]\nname = \"g\"\ndriver = \"sim\"\nprofile = \"nvidia-h100-sxm\"\n");
    assert!(
        unknown.starts_with("machine.toml:8:11: H006: there is no profile \"nvidia-h100-sxm\"\n  hint: did you mean nvidia-h100-sxm5-80gb"),
        "{unknown}"
    );
    assert!(
        with("threads = \"two\"\n").starts_with(
            "machine.toml:5:11: H003: `threads` of device cpu0 must be an integer, not a string"
        )
    );
    assert!(with("memory_gb = -1\n").starts_with("machine.toml:5:13: H005:"));
    assert!(with("memory_gb = nan\n").starts_with("machine.toml:5:13: H005:"));
    assert!(with("memory_gb = 1\nmemory_gib = 1\n").contains("H009"));
    assert!(with("dense.fp12 = 1.0\n").starts_with("machine.toml:5:7: H002:"));
    assert!(with("f32_as = \"int8\"\n").contains("H005"));
    assert!(with("origin.power_w = \"x\"\n").contains("H002"));
    assert!(with("name = \"again\"\n").contains("H001"));
    assert!(with("[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\n").starts_with("machine.toml:6:8: H009:"));
    assert!(with("[[device]]\nname = \"s\"\ndriver = \"sim\"\n").contains("H011"));
    assert!(with("[[device]]\nname = \"s\"\ndriver = \"gpu\"\n").contains("one of cpu, wgpu, sim"));
    assert!(error("schema = 2\n").starts_with("machine.toml:1:10: H013:"));
    assert!(error("name = \"x\"\n").contains("H004"));
    assert!(error("schema = 1\n").contains("H004: the machine has no device"));
    assert!(
        error("schema = 1\nhost = \"cpu1\"\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\n")
            .contains("did you mean cpu0?")
    );
}

const TWO: &str = "[[device]]\nname = \"gpu0\"\ndriver = \"sim\"\ndense.fp32 = 1.0\n";

#[test]
fn link_errors_name_place_and_help() {
    let with = |tail: &str| error(&format!("{BASE}{TWO}{tail}"));
    assert!(
        with("").starts_with("machine.toml:5:1: H012: no link joins gpu0 and the host cpu0"),
        "{}",
        with("")
    );
    let link = "[[link]]\nfrom = \"cpu0\"\nto = \"gpu0\"\n";
    assert!(with(link).contains("H004: link 1 has neither a rate nor a kind"));
    assert!(with(&format!("{link}kind = \"pcie5x16\"\n")).contains("did you mean pcie5-x16"));
    assert!(with(&format!("{link}gbs = 1\none_way = true\n")).contains("H012"));
    assert!(with("[[link]]\nfrom = \"cpu0\"\nto = \"gpu1\"\ngbs = 1\n").contains("H008"));
    assert!(with("[[link]]\nfrom = \"cpu0\"\nto = \"cpu0\"\ngbs = 1\n").contains("joins cpu0 to itself"));
}

#[test]
fn limits_are_errors() {
    let many = format!("schema = 1\n{}", "[[device]]\nname = \"a\"\ndriver = \"cpu\"\n".repeat(1025));
    assert!(error(&many).contains("H010: 1025 devices, the limit is 1024"));
    let links = "[[link]]\nfrom = \"a\"\nto = \"a\"\ngbs = 1\n".repeat(3841);
    assert!(error(&format!("{BASE}{links}")).contains("H010: 3841 links"));
    assert!(error(&"#".repeat(partita_hw::MAX_FILE_BYTES + 1)).contains("H010: the file has"));
    assert!(error(&format!("schema = 1\na = {}", "[".repeat(200_000))).contains("H001"));
    assert!(error(&format!("{BASE}threads = 99999999999999999999999\n")).contains("H005"));
    assert!(error(&format!("{BASE}threads = 4294967296\n")).contains("H005"));
    assert!(error(&format!("{BASE}memory_gib = 1e300\n")).contains("H005"));
}

#[test]
fn figures_of_the_file_win_over_the_profile() {
    let text = format!(
        "{BASE}[[device]]\nname = \"gpu0\"\ndriver = \"sim\"\nprofile = \"nvidia-t4\"\nmemory_gb = 12\n\
         dense.fp32 = 9.5\nlaunch_us = 0\norigin.launch_us = \"graph capture\"\n"
    );
    let machine = parse(&text);
    let gpu = &machine.devices[1];
    assert_eq!(gpu.memory_bytes, Some(Fact::new(12_000_000_000, "machine file")));
    assert_eq!(gpu.dense[&Precision::Fp32], Fact::new(9.5, "machine file"));
    assert_eq!(gpu.dense[&Precision::Fp16], Fact::new(65.0, "profile nvidia-t4 (mixed)"));
    assert_eq!(gpu.launch_us, Some(Fact::new(0.0, "graph capture")));
}

#[test]
fn ways_without_a_link_go_through_the_host() {
    let direct = parse(&fixture("dual-gpu.toml"));
    let text = fixture("dual-gpu.toml");
    let routed = parse(text.split("[[link]]").next().unwrap());
    let (near, far) = (direct.path(1, 2).unwrap(), routed.path(1, 2).unwrap());
    assert_eq!((near.hops.as_slice(), far.hops.as_slice()), ([1, 2].as_slice(), [1, 0, 2].as_slice()));
    // NVLink 4: 396 of 450 GB/s measured. Through the host: two PCIe 5 copies one after the other.
    assert!((1e-3 / near.us_per_byte - 396.0).abs() < 1.0);
    let up = routed.path(1, 0).unwrap();
    let down = routed.path(0, 2).unwrap();
    assert_eq!(far.us_per_byte, up.us_per_byte + down.us_per_byte);
    assert_eq!(far.latency_us, up.latency_us + down.latency_us);
    assert!(far.origin.matches("host link of profile").count() == 2, "{}", far.origin);
    assert_eq!(transfer_us(&routed.path(1, 1).unwrap(), 1e9), 0.0);
    assert_eq!(routed.path(0, 9), None);
}

#[test]
fn one_way_links_leave_the_other_way_alone() {
    let text = format!(
        "{BASE}[[device]]\nname = \"gpu0\"\ndriver = \"sim\"\nprofile = \"nvidia-t4\"\n\
         [[link]]\nfrom = \"cpu0\"\nto = \"gpu0\"\nlatency_us = 0\ngbs = 1000\none_way = true\n"
    );
    let machine = parse(&text);
    assert!((1e-3 / machine.path(0, 1).unwrap().us_per_byte - 1000.0).abs() < 1e-6);
    assert!((1e-3 / machine.path(1, 0).unwrap().us_per_byte - 15.75 * 0.88).abs() < 0.01);
    let profiles = Profiles::builtin().unwrap();
    assert_eq!(parse(&machine.to_toml(&profiles)), machine);
}

#[test]
fn policies_decide_whether_f32_runs() {
    let text = fixture("cpu-h100-tpu-groq.toml");
    let machine = parse(&text);
    let rate = |name: &str| machine.devices[machine.device(name).unwrap()].dense_rate(Precision::Fp32);
    assert_eq!(rate("tpu0").unwrap().tflops, 459.0);
    assert!(rate("tpu0").unwrap().origin.ends_with("fp32 computed in bf16 (f32_as)"));
    assert_eq!(rate("lpu0").unwrap().computes_in, Precision::Fp16);
    assert_eq!(rate("gpu0").unwrap().tflops, 67.0);
    let strict = parse(&text.replace("f32_as = \"bf16\"", "f32_as = \"none\""));
    assert_eq!(strict.devices[2].dense_rate(Precision::Fp32), None);
}

#[test]
fn queries_over_a_machine() {
    let machine = parse(&fixture("cpu-h100-tpu-groq.toml"));
    let need = |precision| Need { precision: Some(precision), ..Need::default() };
    assert_eq!(machine.best(&need(Precision::Bf16)), machine.device("gpu0"));
    assert_eq!(machine.best(&need(Precision::Fp32)), machine.device("tpu0"));
    let big = Need { memory_bytes: Some(90_000_000_000), ..Need::default() };
    assert_eq!(machine.satisfying(&big), [2]);
    let here = Need { runs_here: true, ..Need::default() };
    assert_eq!(machine.satisfying(&here), [0]);
    assert_eq!(machine.devices[0].driver, Driver::Cpu);
    let totals = machine.totals();
    assert_eq!(totals.memory_bytes, 80_000_000_000 + (95 << 30) + 230_000_000);
    assert_eq!(totals.unknown_memory, 1);
}

proptest! {
    #[test]
    fn broken_text_is_an_error_and_never_a_panic(at in 0usize..1200, junk in "[\\x00-\\x7f]{0,6}", cut in 0usize..40) {
        let mut text = fixture("cpu-h100-tpu-groq.toml");
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &junk);
        let profiles = Profiles::builtin().unwrap();
        if let Ok(machine) = Machine::parse("m", &text, &profiles) {
            let written = machine.to_toml(&profiles);
            prop_assert_eq!(Machine::parse("m", &written, &profiles).unwrap(), machine);
        }
    }

    #[test]
    fn ways_never_get_worse_with_another_link(gbs in 0.1f64..1e4, latency in 0f64..100.0) {
        let text = fixture("dual-gpu.toml");
        let base = text.split("[[link]]").next().unwrap();
        let more = format!("{base}[[link]]\nfrom = \"gpu0\"\nto = \"gpu1\"\ngbs = {gbs:?}\nlatency_us = {latency:?}\n");
        let (before, after) = (parse(base), parse(&more));
        let bytes = 1024.0 * 1024.0;
        let cost = |machine: &Machine| transfer_us(&machine.path(1, 2).unwrap(), bytes);
        prop_assert!(cost(&after) <= cost(&before) * (1.0 + 1e-12));
    }
}

const FABRIC: &str = r#"
schema = 1
[[device]]
name = "cpu0"
driver = "cpu"
[[device]]
name = "gpu"
driver = "sim"
profile = "nvidia-h100-sxm5-80gb"
count = 3
[[fabric]]
devices = ["gpu"]
topology = "TOPOLOGY"
kind = "nvswitch-hgx-h100"
"#;

#[test]
fn counted_devices_and_fabrics_read_back() {
    for topology in ["switch", "mesh", "ring"] {
        let machine = parse(&FABRIC.replace("TOPOLOGY", topology));
        let names: Vec<&str> = machine.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["cpu0", "gpu0", "gpu1", "gpu2"]);
        let path = machine.path(1, 3).unwrap();
        assert_eq!(path.hops, [1, 3], "{topology}");
        assert!((1e-3 / path.us_per_byte - 396.0).abs() < 1e-9);
        let profiles = Profiles::builtin().unwrap();
        assert_eq!(Machine::parse("again", &machine.to_toml(&profiles), &profiles).unwrap(), machine);
    }
}

#[test]
fn broken_counts_and_fabrics_are_refused() {
    let refused = |text: &str| Machine::parse("m", text, &Profiles::builtin().unwrap()).unwrap_err();
    let good = FABRIC.replace("TOPOLOGY", "switch");
    for (from, to, word) in [
        ("count = 3", "count = 0", "count"),
        ("count = 3", "count = 1024", "count"),
        ("count = 3", "count = 1", "two devices"),
        ("devices = [\"gpu\"]", "devices = [\"tpu\"]", "no device"),
        ("kind = \"nvswitch-hgx-h100\"", "kind = \"rope\"", "no interconnect"),
        ("kind = \"nvswitch-hgx-h100\"", "", "rate"),
        ("name = \"gpu\"", "name = \"cpu\"", "are named"),
    ] {
        let error = refused(&good.replace(from, to));
        assert!(error.to_string().contains(word), "{to}: {error}");
    }
}

#[test]
fn hundreds_of_chips_make_a_machine() {
    let text = FABRIC.replace("TOPOLOGY", "switch").replace("count = 3", "count = 1023");
    let machine = parse(&text);
    assert_eq!(machine.devices.len(), 1024);
    assert_eq!(machine.path(1, 1023).unwrap().hops.len(), 2);
}
