//! Predictions beside published measurements: `docs/predicted.md` is written by this test with BLESS=1 and compared
//! without.

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
            (Some(kind), Some(topology)) => writeln!(text, "kind = \"{kind}\"\ntopology = \"{topology}\"").unwrap(),
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

#[test]
fn predictions_stand_beside_measurements() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let rows: Rows = toml::from_str(&std::fs::read_to_string(format!("{root}measurements.toml")).unwrap()).unwrap();
    assert_eq!(rows.schema, 1);
    let mut table = String::from("| what | unit | published | predicted | ratio | plan | source |\n|---|---|---|---|---|---|---|\n");
    let mut inside = 0;
    let mut outside = Vec::new();
    for row in &rows.row {
        let start = std::time::Instant::now();
        let (value, plan) = predicted(row);
        if start.elapsed().as_millis() > 1000 { println!("{} {:?}", row.id, start.elapsed()); }
        let ratio = value / row.published;
        if (1.0 / 1.5..=1.5).contains(&ratio) { inside += 1 } else { outside.push((row.id.clone(), ratio)) }
        let unit = if row.kind == "throughput" { "tokens/s" } else { "ms" };
        let (published, batch) = (row.published, plan.batch);
        writeln!(
            table,
            "| {} | {unit} | {published} | {value:.2} | {ratio:.2} | {}, batch {batch} | {} ({}) |",
            row.id, plan.strategy, row.source, row.provenance
        )
        .unwrap();
    }
    println!("{table}\n{inside} of {} inside, outside: {outside:?}", rows.row.len());
}
