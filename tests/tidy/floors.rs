//! Who may depend on whom, from the manifests and the lock file alone.

use super::read;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Crates below the root and which of ours each may use.
const FLOORS: &[(&str, &[&str])] = &[
    ("partita-plan", &[]),
    ("partita-hw", &[]),
    ("partita-place", &[]),
    ("partita-shard", &["partita-hw"]),
    ("partita-ir", &["partita-plan"]),
    ("partita-ops", &["partita-ir", "partita-plan"]),
    ("partita-runtime", &["partita-plan"]),
    ("partita-onnx", &["partita-ir", "partita-ops"]),
    ("partita-passes", &["partita-ir", "partita-ops"]),
    ("partita-models", &["partita-ir", "partita-ops"]),
    ("partita-codegen", &["partita-ir", "partita-ops", "partita-plan"]),
    ("partita-cpu", &["partita-plan", "partita-runtime"]),
    ("partita-sim", &["partita-plan", "partita-runtime"]),
    ("partita-wgpu", &["partita-plan", "partita-runtime"]),
];

/// What only a compiler needs.
const COMPILER_ONLY: &[&str] =
    &["egg", "good_lp", "microlp", "onnx-protobuf", "partita-ir", "partita-ops", "petgraph", "protobuf"];

fn manifest(path: &str) -> Table {
    read(Path::new(path)).parse().unwrap()
}

/// Name, manifest and folder of every member.
fn members() -> Vec<(String, Table, PathBuf)> {
    let workspace = manifest("Cargo.toml");
    let folders = workspace["workspace"]["members"].as_array().unwrap();
    let one = |folder: &Value| {
        let folder = folder.as_str().unwrap();
        let table = manifest(&format!("{folder}/Cargo.toml"));
        (table["package"]["name"].as_str().unwrap().to_owned(), table, PathBuf::from(folder))
    };
    folders.iter().map(one).collect()
}

/// Names a manifest depends on, for every target, optional ones too; not those of tests.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    let names = |table: Option<&Value>| -> Vec<String> {
        table.and_then(Value::as_table).map(|t| t.keys().cloned().collect()).unwrap_or_default()
    };
    let mut out: BTreeSet<String> = names(manifest.get("dependencies")).into_iter().collect();
    out.extend(names(manifest.get("build-dependencies")));
    for target in manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values) {
        out.extend(names(target.get("dependencies")));
    }
    out
}

#[test]
fn crates_depend_downwards_only() {
    let mut findings = Vec::new();
    for (name, manifest, folder) in members() {
        let Some((_, allowed)) = FLOORS.iter().find(|(n, _)| *n == name) else {
            findings.push(format!("{}: {name} has no row in FLOORS", folder.display()));
            continue;
        };
        let ours = dependencies(&manifest).into_iter().filter(|d| d.starts_with("partita"));
        let forbidden = ours.filter(|d| !allowed.contains(&d.as_str()));
        findings.extend(forbidden.map(|d| format!("{name} may not depend on {d}")));
    }
    super::none(&findings);
}

#[test]
fn rust_sources_use_what_their_manifest_names() {
    let mut findings = Vec::new();
    for (name, manifest, folder) in members() {
        let mut allowed = dependencies(&manifest);
        if let Some(tests) = manifest.get("dev-dependencies").and_then(Value::as_table) {
            allowed.extend(tests.keys().cloned());
        }
        for path in super::with_ending("rs").into_iter().filter(|p| p.starts_with(&folder)) {
            let text = read(&path);
            for (other, _) in FLOORS.iter().filter(|(n, _)| *n != name && !allowed.contains(*n)) {
                let used = format!("{}::", other.replace('-', "_"));
                if text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(&used)) {
                    findings.push(format!("{} uses {other}", path.display()));
                }
            }
        }
    }
    super::none(&findings);
}

/// Everything that comes with some of our crates: manifests for ours, the lock file for others.
fn closure(roots: &[&str]) -> BTreeSet<String> {
    let ours: BTreeMap<String, BTreeSet<String>> =
        members().into_iter().map(|(name, manifest, _)| (name, dependencies(&manifest))).collect();
    let lock = manifest("Cargo.lock");
    let packages = lock["package"].as_array().unwrap();
    let mut others: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let list = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        // A version behind the name tells apart several of one name; here they count as one.
        let names = list.filter_map(|d| d.as_str()?.split(' ').next().map(str::to_owned));
        others.entry(package["name"].as_str().unwrap().to_owned()).or_default().extend(names);
    }
    let mut seen = BTreeSet::new();
    let mut todo: Vec<String> = roots.iter().map(ToString::to_string).collect();
    while let Some(name) = todo.pop() {
        if let Some(next) = ours.get(&name).or_else(|| others.get(&name))
            && seen.insert(name)
        {
            todo.extend(next.iter().cloned());
        }
    }
    seen
}

#[test]
fn running_a_plan_needs_no_compiler() {
    let closure = closure(&["partita-runtime", "partita-cpu", "partita-sim", "partita-wgpu"]);
    assert!(closure.contains("partita-plan") && closure.contains("prost"), "{closure:?}");
    let findings: Vec<String> = COMPILER_ONLY
        .iter()
        .filter(|name| closure.contains(**name))
        .map(|name| format!("{name} comes with the runtime"))
        .collect();
    super::none(&findings);
}

#[test]
fn members_share_package_fields_and_lints() {
    let mut findings = Vec::new();
    for (name, manifest, _) in members() {
        for key in ["version", "edition", "license"] {
            let shared = manifest["package"].get(key).and_then(|v| v.get("workspace"));
            if shared != Some(&Value::Boolean(true)) {
                findings.push(format!("{name}: {key} is not the workspace's"));
            }
        }
        let lints = manifest.get("lints").and_then(|v| v.get("workspace"));
        if lints != Some(&Value::Boolean(true)) {
            findings.push(format!("{name}: lints are not the workspace's"));
        }
    }
    super::none(&findings);
}
