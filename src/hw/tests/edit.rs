//! What-if edits, and the questions one asks a report.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

mod support;

use partita_hw::{
    Column, DeviceReport, Edit, Filter, Kind, Machine, Precision, Profiles, sort_rows, tab_separated,
};
use support::report;

const CPU: &str = "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\nthreads = 2\n";

fn edited(edits: &[&str]) -> Result<Machine, String> {
    let profiles = Profiles::builtin().unwrap();
    let mut machine = Machine::parse("cpu.toml", CPU, &profiles).unwrap();
    let edits: Vec<Edit> = edits
        .iter()
        .map(|text| match text.split_once(' ').unwrap() {
            ("add", rest) => Edit::parse_add(rest).unwrap(),
            ("replace", rest) => Edit::parse_replace(rest).unwrap(),
            ("link", rest) => Edit::parse_join(rest).unwrap(),
            (_, rest) => Edit::Remove { device: rest.to_owned() },
        })
        .collect();
    machine.edit(&edits, &profiles).map_err(|error| format!("{}: {}", error.code.as_str(), error.message))?;
    let text = machine.to_toml(&profiles);
    assert_eq!(Machine::parse("edited.toml", &text, &profiles).unwrap(), machine, "{text}");
    Ok(machine)
}

fn names(machine: &Machine) -> Vec<&str> {
    machine.devices.iter().map(|device| device.name.as_str()).collect()
}

fn between(machine: &Machine, from: &str, to: &str) -> Option<f64> {
    let (from, to) = (machine.device(from)?, machine.device(to)?);
    machine.links.iter().find(|link| link.carries(from, to)).map(|link| link.gbs)
}

#[test]
fn added_devices_are_joined_as_their_profile_says() {
    let machine = edited(&["add h100-sxm:8"]).unwrap();
    assert_eq!(machine.devices.len(), 9);
    assert_eq!(between(&machine, "gpu0", "gpu7"), Some(396.0));
    assert_eq!(between(&machine, "cpu0", "gpu3"), Some(63.02 * 0.88));
    // Sixteen are two servers of eight, whose pairs meet by their hosts.
    let two = edited(&["add h100-sxm:16"]).unwrap();
    assert_eq!((between(&two, "gpu0", "gpu8"), between(&two, "gpu8", "gpu15")), (None, Some(396.0)));
    // Chips of a torus know their neighbours.
    let ring = edited(&["add tpu-v5p:4"]).unwrap();
    assert_eq!((between(&ring, "tpu0", "tpu3"), between(&ring, "tpu0", "tpu2")), (Some(79.2), None));
    let mesh = edited(&["add mi300x:8"]).unwrap();
    assert!(between(&mesh, "gpu2", "gpu5").unwrap() < 64.0);
    assert_eq!(between(&edited(&["add h100-sxm:2@none"]).unwrap(), "gpu0", "gpu1"), None);
    assert_eq!(between(&edited(&["add l4:2@pcie4-x16"]).unwrap(), "gpu0", "gpu1"), Some(31.51 * 0.88));
}

#[test]
fn removed_and_replaced_devices() {
    let machine = edited(&["add h100-sxm:2", "remove cpu0"]).unwrap();
    assert_eq!((names(&machine), machine.host), (vec!["gpu0", "gpu1"], 0));
    let machine = edited(&["add h100-sxm:2", "replace gpu1=h200", "add l4"]).unwrap();
    assert_eq!(names(&machine), ["cpu0", "gpu0", "gpu1", "gpu2"]);
    assert_eq!(machine.devices[2].profile.as_deref(), Some("nvidia-h200-sxm-141gb"));
    assert_eq!(between(&machine, "gpu0", "gpu1"), None, "NVLink of the old card went with it");
    let joined = edited(&["add l4:2", "link gpu0:gpu1=pcie5-x16"]).unwrap();
    assert_eq!(between(&joined, "gpu0", "gpu1"), Some(63.02 * 0.88));
}

#[test]
fn impossible_edits_say_why() {
    let code = |edit: &str| edited(&[edit]).unwrap_err().split(':').next().unwrap().to_owned();
    assert_eq!(code("add zebra"), "H006");
    assert!(edited(&["add h100"]).unwrap_err().contains("nvidia-h100-sxm5-80gb, nvidia-h100-pcie-80gb"));
    assert_eq!(code("add l4:2@carrier-pigeon"), "H007");
    assert_eq!(
        (code("remove gpu7"), code("replace gpu7=l4"), code("link cpu0:gpu7=pcie5-x16")),
        ("H008".into(), "H008".into(), "H008".into())
    );
    assert_eq!((code("remove cpu0"), code("link cpu0:cpu0=pcie5-x16")), ("H004".into(), "H005".into()));
    assert!(edited(&["add l4:1024"]).unwrap_err().starts_with("H010"));
    for text in ["", ":2", "l4:0", "l4:-1", "l4:99999999999", "l4:x", "l4@"] {
        assert!(Edit::parse_add(text).is_err(), "{text}");
    }
    assert!(Edit::parse_replace("gpu0").is_err() && Edit::parse_join("gpu0=x").is_err());
}

fn shown(report: &DeviceReport, filter: &Filter) -> Vec<String> {
    report
        .rows(filter)
        .iter()
        .map(|row| row.device.map_or("-".to_owned(), |device| device.name.clone()))
        .collect()
}

#[test]
fn questions_to_a_report() {
    let report = report("intel-gpu");
    let all = Filter::default();
    assert_eq!(shown(&report, &all), ["cpu0", "gpu0", "gpu1", "-", "-"]);
    assert_eq!(shown(&report, &Filter { families: vec!["vulkan".into()], ..all.clone() }), ["gpu1", "-"]);
    assert_eq!(shown(&report, &Filter { kinds: vec![Kind::Cpu, Kind::Npu], ..all.clone() }), ["cpu0"]);
    assert_eq!(shown(&report, &Filter { memory_bytes: Some(64 << 30), ..all.clone() }), ["gpu1"]);
    assert_eq!(shown(&report, &Filter { available: true, ..all.clone() }).len(), 5);
    let gpus = Filter { kinds: vec![Kind::Gpu], precision: Some(Precision::Bf16), ..all.clone() };
    assert_eq!(report.best(&gpus).unwrap().device.unwrap().name, "gpu1");
    assert!(report.best(&Filter { kinds: vec![Kind::Tpu], ..all.clone() }).is_none());
    let mut rows = report.rows(&all);
    sort_rows(&mut rows, Column::Memory);
    let text = tab_separated(&rows, &[Column::Memory, Column::What]);
    let first: Vec<&str> = text.lines().collect();
    assert_eq!(first[..2], ["memory\twhat", "137438953472\tIntel(R) Data Center GPU Max 1550"]);
    assert!(report.summary().starts_with("3 devices: 1 cpu, 2 gpu\n"), "{}", report.summary());
    let mut kept = report.clone();
    kept.keep(&Filter { memory_bytes: Some(64 << 30), ..all });
    assert_eq!((kept.devices.len(), names(&kept.machine)), (1, vec!["cpu0", "gpu1"]));
    let mut best = report.clone();
    best.keep_best(&gpus);
    assert_eq!((best.devices.len(), names(&best.machine)), (1, vec!["cpu0", "gpu1"]));
}

/// The best of two is the one that computes faster, not the one an order of names puts first.
#[test]
fn best_follows_published_rates() {
    let profiles = Profiles::builtin().unwrap();
    let mut machine = Machine::parse("cpu.toml", CPU, &profiles).unwrap();
    machine.edit(&[Edit::parse_add("t4").unwrap(), Edit::parse_add("l4").unwrap()], &profiles).unwrap();
    let report = DeviceReport::of_machine(machine);
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        let best = report.best(&Filter { precision: Some(precision), ..Filter::default() }).unwrap();
        assert_eq!(best.device.unwrap().profile.as_deref(), Some("nvidia-l4"), "{precision}");
    }
}
