//! Malformed ONNX files: `filetests/onnx/bad.toml` gives the code each file of `fixtures/onnx/bad` is answered with.

use crate::support::{fixture, root};
use libtest_mimic::Trial;
use std::collections::{BTreeMap, BTreeSet};

/// One trial per file or row.
pub(crate) fn trials() -> Vec<Trial> {
    let text = std::fs::read_to_string(root().join("tests/filetests/onnx/bad.toml")).unwrap();
    let table: BTreeMap<String, String> = toml::from_str(&text).unwrap();
    let files = std::fs::read_dir(fixture("onnx/bad")).unwrap();
    let files = files.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let names: BTreeSet<String> = files.chain(table.keys().cloned()).collect();
    let one = |name: String| {
        let code = table.get(&name).cloned();
        Trial::test(format!("onnx/bad: {name}"), move || check(&name, code.as_deref()).map_err(Into::into))
    };
    names.into_iter().map(one).collect()
}

fn check(name: &str, code: Option<&str>) -> Result<(), String> {
    let code = code.ok_or("filetests/onnx/bad.toml has no row for the file")?;
    let path = fixture("onnx/bad").join(name);
    let error = match partita::load(&path, &BTreeMap::new()) {
        Ok(_) => return Err("it was accepted".to_owned()),
        Err(error) => error,
    };
    let first = &error.diags[0];
    if first.code != code {
        return Err(format!("expected {code}: {error}"));
    }
    let named = error.diags.iter().all(|d| d.place.file.as_deref().is_some_and(|f| f.ends_with(name)));
    let sentence = !first.message.is_empty() && !first.hint.is_empty();
    if named && sentence { Ok(()) } else { Err(format!("no file, sentence or hint: {error}")) }
}
