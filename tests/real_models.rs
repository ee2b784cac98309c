//! Models as published, where `PARTITA_MODELS` names a folder of them: `NAME/{model.onnx,io.json,inputs,outputs}`.

use crate::programs::{compiled, session};
use crate::support::{close, machine};
use partita::npy;
use partita::pipeline::CompileOptions;
use partita::session::run;
use partita_ir::{DType, Tensor};
use partita_runtime::Program;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn models() -> Option<PathBuf> {
    let folder = std::env::var_os("PARTITA_MODELS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: PARTITA_MODELS names no folder of models");
    }
    folder
}

fn sessions(model: &Path, threads: &[u32]) -> Vec<Program> {
    let graph = partita::load(model, &BTreeMap::new()).unwrap().graph;
    let compiled = compiled(&graph, &machine("cpu.toml"), &CompileOptions::default()).unwrap();
    threads.iter().map(|t| session(&compiled, *t).unwrap()).collect()
}

fn read_all(folder: &Path, names: &[&str]) -> Vec<Tensor> {
    names.iter().map(|n| npy::read(&folder.join(format!("{n}.npy"))).unwrap()).collect()
}

#[test]
fn every_model_at_one_and_two_threads() {
    let Some(folder) = models() else { return };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.join("model.onnx").exists() && p.join("io.json").exists());
    paths.sort();
    assert!(!paths.is_empty());
    let mut failures = Vec::new();
    for path in paths {
        let io: Value =
            serde_json::from_str(&std::fs::read_to_string(path.join("io.json")).unwrap()).unwrap();
        let names = |key: &str| -> Vec<&str> {
            io[key].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect()
        };
        let inputs = read_all(&path.join("inputs"), &names("inputs"));
        let want = read_all(&path.join("outputs"), &names("outputs"));
        for (n, session) in sessions(&path.join("model.onnx"), &[1, 2]).iter_mut().enumerate() {
            let result = run(session, &inputs).map_err(|e| e.to_string());
            if let Err(e) = result.and_then(|have| close(&want, &have, 1e-4)) {
                failures.push(format!("{}, {} threads: {e}", path.display(), n + 1));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The embedding of each sentence: mean over its tokens, length 1. All sentences in one run, padded to `length`.
fn embed(session: &mut Program, sentences: &[Vec<i64>], length: usize) -> Vec<Vec<f64>> {
    let shape = [sentences.len(), length];
    let row = |s: &Vec<i64>, f: &dyn Fn(usize) -> i64| {
        (0..length).map(|n| if n < s.len() { f(n) } else { 0 }).collect::<Vec<_>>()
    };
    let ids: Vec<i64> = sentences.iter().flat_map(|s| row(s, &|n| s[n])).collect();
    let mask: Vec<i64> = sentences.iter().flat_map(|s| row(s, &|_| 1)).collect();
    let tensor = |values: &[i64]| Tensor::from_slice(&shape, values).unwrap();
    let inputs: Vec<Tensor> = session
        .inputs()
        .iter()
        .map(|port| match port.name.as_str() {
            "input_ids" => tensor(&ids),
            "attention_mask" => tensor(&mask),
            _ => Tensor::from_i64s(DType::I64, &shape, &vec![0; ids.len()]).unwrap(),
        })
        .collect();
    let hidden = run(session, &inputs).unwrap().remove(0);
    let width = hidden.shape()[2];
    let values = hidden.to_f64s();
    sentences
        .iter()
        .enumerate()
        .map(|(n, s)| mean(&values[n * length * width..][..s.len() * width], width))
        .collect()
}

fn mean(tokens: &[f64], width: usize) -> Vec<f64> {
    let sum: Vec<f64> = (0..width).map(|k| tokens.iter().skip(k).step_by(width).sum()).collect();
    let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
    sum.iter().map(|v| v / norm).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn sentence_similarities_from_one_plan() {
    let Some(folder) = models().map(|f| f.join("minilm")) else { return };
    let Ok(text) = std::fs::read_to_string(folder.join("sentences.json")) else {
        return eprintln!("skipped: the folder has no minilm/sentences.json");
    };
    let pairs = serde_json::from_str::<Value>(&text).unwrap();
    let ids = |v: &Value| -> Vec<i64> { v.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect() };
    let session = &mut sessions(&folder.join("model.onnx"), &[2])[0];
    for pairs in pairs["pairs"].as_array().unwrap().chunks(2) {
        let sentences: Vec<Vec<i64>> =
            pairs.iter().flat_map(|p| [ids(&p["a_ids"]), ids(&p["b_ids"])]).collect();
        let longest = sentences.iter().map(Vec::len).max().unwrap();
        let alone: Vec<Vec<f64>> =
            sentences.iter().map(|s| embed(session, std::slice::from_ref(s), s.len()).remove(0)).collect();
        let runs = [alone, embed(session, &sentences, longest), embed(session, &sentences, 32.max(longest))];
        for (n, pair) in pairs.iter().enumerate() {
            let want = pair["cosine"].as_f64().unwrap();
            for (way, e) in runs.iter().enumerate() {
                let have = cosine(&e[2 * n], &e[2 * n + 1]);
                assert!((want - have).abs() < 1e-3, "way {way}: {have} instead of {want}: {}", pair["a"]);
            }
        }
    }
}
