//! Reads a model, verifies it and writes it again: `reexport IN.onnx OUT.onnx [--external] [--dim NAME=N]...`.
//!
//! Used by `tests/oracle/check_export.py`, which compares both files in another engine.

#![allow(clippy::print_stderr, reason = "a command-line example")]

use partita_ir::Diag;
use partita_ir::verify::verify;
use partita_onnx::{ExportOptions, Options, load, save_file};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut options = Options::default();
    let mut external = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--external" => external = true,
            "--dim" => {
                let value = args.next().unwrap_or_default();
                let (name, size) = value.split_once('=').unwrap_or((&value, ""));
                options.dims.insert(name.to_owned(), size.parse().unwrap_or(-1));
            }
            _ => paths.push(arg.into()),
        }
    }
    let [from, to] = paths.as_slice() else {
        eprintln!("usage: reexport IN.onnx OUT.onnx [--external] [--dim NAME=N]...");
        return ExitCode::from(2);
    };
    match reexport(from, to, &options, external) {
        Ok(()) => ExitCode::SUCCESS,
        Err(diags) => {
            diags.iter().for_each(|d| eprintln!("{d}"));
            ExitCode::FAILURE
        }
    }
}

fn reexport(from: &Path, to: &Path, options: &Options, external: bool) -> Result<(), Vec<Diag>> {
    let model = load(from, options)?;
    verify(&model.graph)?;
    save_file(to, &model.graph, &ExportOptions { external, ..ExportOptions::of(&model) })
}
