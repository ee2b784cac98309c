//! Writes seeds for the fuzz targets: `seeds OUT [FOLDER ...]`. Makes `OUT/importer`, `OUT/text` and `OUT/plan`, each file
//! named by its content.
//!
//! Models (`.onnx`) and plan files (`.plan`) below the folders are taken when they are small; without any, there are
//! still those made here: a use of every operator as text and as a model, and plans by hand.

#![allow(clippy::print_stderr, reason = "a command-line program")]

#[path = "../../src/plan/tests/common/plans.rs"]
mod plans;

use partita_ir::builder::Builder;
use partita_ir::op::{OpRef, Rng};
use partita_ir::{Bytes, Graph, Tensor, Type, text};
use partita_onnx::{ExportOptions, Options, load_bytes, save};
use partita_plan::{PlanFile, file};
use std::io;
use std::path::{Path, PathBuf};

/// Largest file that is taken: small inputs are mutated to more purpose.
const MAX_SEED_BYTES: u64 = 3 << 10;

/// Uses of every operator.
const N_USES: u64 = 3;

fn main() -> io::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(out) = args.next() else {
        eprintln!("usage: seeds OUT [FOLDER ...]");
        return Ok(());
    };
    let seeds = Seeds { out };
    seeds.from_operators()?;
    seeds.from_hand()?;
    for folder in args {
        seeds.from_folder(&folder)?;
    }
    Ok(())
}

/// The corpora under construction.
struct Seeds {
    out: PathBuf,
}

impl Seeds {
    fn put(&self, target: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.out.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name(bytes)), bytes)
    }

    fn model(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.put("importer", &bytes)?;
        match load_bytes("seed", Bytes::from_vec(bytes), None, &Options::default()) {
            Ok(imported) => self.put("text", text::print(&imported.graph).as_bytes()),
            Err(_) => Ok(()),
        }
    }

    fn from_operators(&self) -> io::Result<()> {
        for op in partita_ops::registry().iter() {
            for graph in (0..N_USES).filter_map(|seed| around(op, seed)) {
                self.put("text", text::print(&graph).as_bytes())?;
                if let Ok(bytes) = save(&graph, &ExportOptions::default()) {
                    self.put("importer", &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn from_hand(&self) -> io::Result<()> {
        let drivers = ["cpu", "sim"];
        let all = [
            plans::full(),
            plans::chain("cpu"),
            plans::two_devices(drivers, false),
            plans::two_devices(drivers, true),
        ];
        for (plan, weights) in all {
            if let Ok(bytes) = file::encode(&plan, [(0, &weights)]) {
                self.plan(&bytes)?;
            }
        }
        Ok(())
    }

    /// The file as it is, and its message: what is behind a checksum is reached only through that.
    fn plan(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() <= file::HEADER_BYTES + MAX_SEED_BYTES as usize {
            self.put("plan", bytes)?;
        }
        let length = bytes.get(16..24).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let message = bytes.get(file::HEADER_BYTES..).and_then(|b| b.get(..length as usize));
        self.put("plan", message.unwrap_or_default())
    }

    fn from_folder(&self, folder: &Path) -> io::Result<()> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
        found.sort();
        for path in found {
            if path.is_dir() {
                self.from_folder(&path)?;
            } else if path.extension().is_some_and(|e| e == "onnx") && path.metadata()?.len() <= MAX_SEED_BYTES {
                self.model(std::fs::read(&path)?)?;
            } else if path.extension().is_some_and(|e| e == "plan") {
                let bytes = std::fs::read(&path)?;
                if PlanFile::decode(&bytes).is_ok() {
                    self.plan(&bytes)?;
                }
            }
        }
        Ok(())
    }
}

/// FNV-1a (Fowler, Noll, Vo), as hexadecimal digits.
fn name(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A graph of one use of `op`: operands that look like sizes are constants, the others inputs.
fn around(op: OpRef, seed: u64) -> Option<Graph> {
    let sample = (op.sample)(&mut Rng(seed));
    let mut builder = Builder::new(op.name);
    let mut operands = Vec::new();
    for (n, tensor) in sample.inputs.iter().enumerate() {
        operands.push(tensor.as_ref().map(|t| operand(&mut builder, n, t)));
    }
    let names: Vec<String> = (0..sample.n_outputs.max(1)).map(|n| format!("y{n}")).collect();
    let results = builder.node("node", op, sample.attrs.clone(), &operands, &names).ok()?;
    for (name, value) in names.iter().zip(results) {
        builder.output(name, value);
    }
    Some(builder.finish())
}

fn operand(builder: &mut Builder, n: usize, tensor: &Tensor) -> partita_ir::ValueId {
    let name = format!("x{n}");
    if n > 0 && tensor.rank() <= 1 && tensor.n_elements() <= 16 {
        builder.constant(&name, tensor.clone())
    } else {
        builder.input(&name, Type::known(tensor.dtype(), tensor.shape()))
    }
}
