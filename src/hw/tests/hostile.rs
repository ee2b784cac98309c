//! Hostile machines: damaged recordings, tools that lie, flood or hang. Detection answers, warns, and never panics.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use partita_hw::{Detection, DeviceReport, Host, Machine, Profiles, Selection, WarningKind, detect};
use proptest::prelude::*;
use support::{names, text};

/// Detection of a text that may be no recording any more; the machine it makes must be one that can be written and read.
fn survives(text: &str) -> Option<Detection> {
    let host = Host::recorded("mutated", text).ok()?;
    let detection = detect(&Arc::new(host), &Selection::default());
    for warning in &detection.warnings {
        assert!(!warning.message.contains("without an answer"), "{warning:?}\n{text}");
    }
    let profiles = Profiles::builtin().unwrap();
    let report = DeviceReport::new(detection.clone(), Vec::new(), &profiles);
    let written = report.machine.to_toml(&profiles);
    let again = Machine::parse("mutated", &written, &profiles);
    assert_eq!(again.map_err(|error| error.to_string()), Ok(report.machine.clone()), "{written}");
    assert_eq!(DeviceReport::from_json(&report.to_json().unwrap()).unwrap(), report);
    Some(detection)
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, char),
    Number(usize, String),
    Drop(usize),
    Twice(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let chars = prop_oneof![
        Just('\u{0}'),
        Just('é'),
        Just(','),
        Just('"'),
        Just('-'),
        Just('\t'),
        Just('|'),
        any::<char>()
    ];
    let numbers = prop_oneof![
        Just("18446744073709551615".to_owned()),
        Just("99999999999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("1e308".to_owned()),
        Just("NaN".to_owned()),
        Just("0".to_owned()),
        "[0-9a-f]{1,20}",
    ];
    prop_oneof![
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), chars).prop_map(|(at, c)| Damage::Flip(at, c)),
        (any::<usize>(), numbers).prop_map(|(at, text)| Damage::Number(at, text)),
        any::<usize>().prop_map(Damage::Drop),
        any::<usize>().prop_map(Damage::Twice),
    ]
}

/// One damage: to a character, to the end of a line, to a number, to a line.
fn apply(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return String::new();
    }
    let count = lines.len();
    match damage {
        Damage::Cut(at) => {
            let line = &mut lines[at % count];
            let keep = line.chars().count() / 2;
            *line = line.chars().take(keep).collect();
        }
        Damage::Flip(at, c) => {
            let line = &mut lines[at % count];
            let place = (at / count) % line.chars().count().max(1);
            *line = line.chars().enumerate().map(|(n, old)| if n == place { *c } else { old }).collect();
        }
        Damage::Number(at, number) => {
            let with_digits: Vec<usize> =
                (0..count).filter(|&n| lines[n].contains(|c: char| c.is_ascii_digit())).collect();
            if let Some(&chosen) = with_digits.get(at % with_digits.len().max(1)) {
                let line = lines[chosen].clone();
                let starts: Vec<usize> =
                    line.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(n, _)| n).collect();
                let start = starts[(at / count) % starts.len()];
                let rest = line[start..].trim_start_matches(|c: char| c.is_ascii_digit());
                lines[chosen] = format!("{}{number}{rest}", &line[..start]);
            }
        }
        Damage::Drop(at) => drop(lines.remove(at % count)),
        Damage::Twice(at) => lines.insert(at % count, lines[at % count].clone()),
    }
    lines.join("\n") + "\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_recordings_are_survived(name in any::<prop::sample::Index>(), damages in prop::collection::vec(damage(), 1..6)) {
        let names = names();
        let mut text = text(name.get::<String>(&names));
        for damage in &damages {
            text = apply(&text, damage);
        }
        survives(&text);
    }
}

#[test]
fn truncated_and_garbled_answers_warn() {
    let garbled = |tool: &str, text: &str| {
        let detection = survives(&format!("$ {tool}\n{text}\n.\n")).unwrap();
        detection.warnings.iter().map(|warning| warning.kind).collect::<Vec<_>>()
    };
    for tool in [
        "nvidia-smi --query-gpu",
        "xpu-smi",
        "hl-smi",
        "neuron-ls",
        "npu-smi",
        "powershell",
        "system_profiler",
    ] {
        assert_eq!(garbled(tool, "<html>no such page</html>"), [WarningKind::Parse], "{tool}");
    }
    assert_eq!(garbled("nvidia-smi --query-gpu", "index, name, uuid\n0, H100"), [WarningKind::Parse]);
    assert_eq!(garbled("neuron-ls", "[{\"neuron_device\": 0, \"memory"), [WarningKind::Parse]);
    let failed = survives(
        "$9 nvidia-smi\nNVIDIA-SMI has failed because it couldn't communicate with the driver.\n.\n",
    )
    .unwrap();
    assert_eq!(failed.warnings.len(), 1);
    assert_eq!((failed.warnings[0].kind, failed.devices.len()), (WarningKind::ToolFailed, 0));
}

#[test]
fn floods_of_devices_end_at_a_limit() {
    let rows: String = (0..5000)
        .map(|n| format!("{n}, NVIDIA T{n}, 00000000:{:02X}:{:02X}.0\n", n / 32 % 256, n % 32))
        .collect();
    let detection =
        survives(&format!("$ nvidia-smi --query-gpu\nindex, name, pci.bus_id\n{rows}.\n")).unwrap();
    assert!(detection.devices.len() <= 1024);
    assert_eq!(detection.warnings[0].kind, WarningKind::Limit);
}

#[test]
fn the_same_machine_gives_the_same_report() {
    let first = support::report("nvidia-h100x8").to_json().unwrap();
    for _ in 0..20 {
        assert_eq!(support::report("nvidia-h100x8").to_json().unwrap(), first);
    }
}

#[cfg(unix)]
mod folders {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn script(root: &Path, name: &str, text: &str) {
        let folder = root.join("usr/bin");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn found(root: &Path, limit: Duration) -> Detection {
        let host = Host::folder(root, &[]).with_tool_limit(limit);
        detect(&Arc::new(host), &Selection::only(&["nvidia", "gaudi"]))
    }

    #[test]
    fn tools_of_a_root_are_run_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        script(root.path(), "nvidia-smi", "printf 'index, name\\n0, NVIDIA L4\\n'");
        let detection = found(root.path(), Duration::from_secs(30));
        assert_eq!(detection.devices[0].profile.as_deref(), Some("nvidia-l4"));
        assert!(detection.warnings.is_empty(), "{:?}", detection.warnings);
    }

    #[test]
    fn a_tool_that_hangs_costs_its_limit_and_no_other_device() {
        let root = tempfile::tempdir().unwrap();
        script(root.path(), "hl-smi", "sleep 1000");
        script(root.path(), "nvidia-smi", "printf 'index, name\\n0, NVIDIA L4\\n'");
        let detection = found(root.path(), Duration::from_secs(3));
        assert_eq!(detection.devices.len(), 1);
        let kinds: Vec<_> = detection.warnings.iter().map(|w| (w.family.as_str(), w.kind)).collect();
        assert_eq!(kinds, [("gaudi", WarningKind::TimedOut)]);
    }

    #[test]
    fn a_tool_that_floods_gives_what_it_said_first() {
        let root = tempfile::tempdir().unwrap();
        let flood = "printf 'index, name\\n0, NVIDIA L4\\n'; yes 'this line fits no header at all' | head -c 10000000";
        script(root.path(), "nvidia-smi", flood);
        let detection = found(root.path(), Duration::from_secs(30));
        assert_eq!(detection.devices.len(), 1);
        let kinds: Vec<_> = detection.warnings.iter().map(|warning| warning.kind).collect();
        assert_eq!(kinds, [WarningKind::Truncated, WarningKind::Parse]);
    }

    #[test]
    fn a_probe_that_is_too_slow_is_left_behind() {
        let root = tempfile::tempdir().unwrap();
        script(root.path(), "hl-smi", "sleep 1000");
        let host = Host::folder(root.path(), &[]).with_tool_limit(Duration::from_secs(5));
        let selection = Selection { limit: Duration::from_millis(300), ..Selection::only(&["gaudi"]) };
        let detection = detect(&Arc::new(host), &selection);
        assert_eq!(detection.warnings[0].kind, WarningKind::TimedOut);
        assert_eq!(detection.timings.iter().find(|timing| timing.family == "gaudi").unwrap().us, None);
    }
}
