//! Predictions beside published measurements: `docs/predicted.md` is written by this test with BLESS=1 and compared
//! without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use partita_hw::{Machine, Profiles};
use partita_shard::{Allow, Objective, Plan, Quant, Request, Subject, model, plan, plan_largest_batch};
use serde::Deserialize;
use std::fmt::Write;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    schema: u32,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    kind: String,
    model: String,
    quant: String,
    profile: String,
    count: usize,
    fabric: Option<String>,
    topology: Option<String>,
    batch: u64,
    prompt: u64,
    output: u64,
    published: f64,
    tensor: Option<u64>,
    note: Option<String>,
    provenance: String,
    source: String,
}

fn machine(row: &Row) -> Machine {
    let memory = if row.profile.contains("xeon") { "memory_gb = 1024\n" } else { "" };
    let mut text = format!(
        "schema = 1\n[[device]]\nname = \"d\"\ndriver = \"sim\"\nprofile = \"{}\"\ncount = {}\n{memory}",
        row.profile, row.count
    );
    if row.count > 1 {
        text.push_str("[[fabric]]\ndevices = [\"d\"]\n");
        match (&row.fabric, &row.topology) {
            (Some(kind), Some(topology)) => {
                writeln!(text, "kind = \"{kind}\"\ntopology = \"{topology}\"").unwrap();
            }
            _ => text.push_str("topology = \"switch\"\ngbs = 11\nlatency_us = 0.7\n"),
        }
    }
    Machine::parse(&row.id, &text, &Profiles::builtin().unwrap()).unwrap()
}

fn predicted(row: &Row) -> (f64, Plan) {
    let quant = Quant::parse(&row.quant).unwrap();
    let subject = Subject { spec: model(&row.model).unwrap(), quant, kv_bytes: quant.kv_bytes };
    let mut request = Request::new(subject, row.batch.max(1), row.prompt, row.output);
    if row.kind == "throughput" {
        request.objective = Objective::Throughput;
    }
    if row.tensor.is_some() {
        request.allow = Allow { tensor: true, ..Allow::NONE };
    }
    let machine = machine(row);
    let plan = if row.batch == 0 { plan_largest_batch(&request, &machine) } else { plan(&request, &machine) };
    let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", row.id));
    let value = match row.kind.as_str() {
        "first-token" => plan.prefill_us / 1e3,
        "token" => plan.step_us / 1e3,
        _ => plan.tokens_per_second,
    };
    (value, plan)
}

const HEAD: &str = "\
# Predicted beside published

Written by `BLESS=1 cargo test -p partita-shard --test anchors`; the same test fails when a prediction changes.
Rows and their sources are in `src/shard/measurements.toml`. Nothing is fitted to a row but where a note says so: shares of
peak rates and of bandwidth are those of `src/hw/defaults.rs` and `src/shard/factors.rs`, each with its source.
A row is inside when prediction and publication differ by at most a factor of 1.5.
Rows without a batch are planned for as many sequences as pay, with every strategy allowed; the published systems may have
been set up otherwise. Image and speech rows are left out: their operations are estimates, or their unit is not said.

";

/// How far a prediction may be off.
const INSIDE: f64 = 1.5;

fn rows() -> Vec<Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/measurements.toml");
    let rows: Rows = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(rows.schema, 1);
    rows.row
}

#[test]
fn predictions_stand_beside_measurements() {
    let rows = rows();
    let mut table = String::from(
        "| what | unit | published | predicted | ratio | plan | source |\n|---|---|---|---|---|---|---|\n",
    );
    let (mut inside, mut notes) = (0, String::new());
    for row in &rows {
        let (value, plan) = predicted(row);
        let ratio = value / row.published;
        let good = (1.0 / INSIDE..=INSIDE).contains(&ratio);
        inside += usize::from(good);
        assert!(good || row.note.is_some(), "{} is off by {ratio} and nothing says why", row.id);
        if let Some(note) = &row.note {
            writeln!(notes, "- {}: {note}.", row.id).unwrap();
        }
        let unit = if row.kind == "throughput" { "tokens/s" } else { "ms" };
        let (published, batch, mark) = (row.published, plan.batch, if good { "" } else { " **outside**" });
        writeln!(
            table,
            "| {} | {unit} | {published} | {value:.2} | {ratio:.2}{mark} | {}, batch {batch} | {} ({}) |",
            row.id, plan.strategy, row.source, row.provenance
        )
        .unwrap();
    }
    let text = format!("{HEAD}{inside} of {} rows are inside.\n\n{table}\n{notes}", rows.len());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/predicted.md");
    if std::env::var_os("BLESS").is_some() && std::env::var_os("CI").is_none() {
        std::fs::write(path, &text).unwrap();
    }
    let stated = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stated == text, "docs/predicted.md is not what the planner says; write it anew with BLESS=1");
    assert!(inside * 5 >= rows.len() * 4, "{inside} of {} rows are inside", rows.len());
}

/// The shares of floors that published figures show: decoding at 45 to 65 % of the time that streaming the weights takes,
/// prompts at 40 to 50 % of the dense fp8 peak.
#[test]
fn decoding_and_reading_attain_published_shares() {
    for (id, floor_ms) in [
        ("70B 2 x H100, 5,000 + 500, token", 10.53),
        ("70B 2 x H100, 500 + 2,000, token", 10.53),
        ("8B H200, batch 8, token", 3.35),
        ("70B 4 x H200, batch 8, token", 7.35),
        ("Mixtral 2 x H200, batch 8, token", 9.73),
    ] {
        let rows = rows();
        let row = rows.iter().find(|row| row.id == id).unwrap();
        let share = floor_ms / predicted(row).0;
        assert!((0.45..0.70).contains(&share), "{id}: {share}");
    }
    let rows = rows();
    let row = rows.iter().find(|row| row.id == "70B 2 x H100, 5,000 + 500, first token").unwrap();
    let flops = model("llama-3-70b").unwrap().prefill_flops(5000.0);
    let share = flops / (predicted(row).0 * 1e-3) / (2.0 * 1978.9e12);
    assert!((0.40..0.50).contains(&share), "{share}");
}
