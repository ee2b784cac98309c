//! `partita diff` and `partita check`.

use super::args::{CheckArgs, DiffArgs};
use super::inspect::read;
use super::{Io, Outcome};
use crate::error::{Error, Result};
use crate::report::{check as fits, diff as differences};
use std::io::Read;
use std::path::Path;

/// Bytes compared at a time.
const CHUNK_BYTES: usize = 1 << 16;

pub(super) fn diff(args: &DiffArgs, io: &mut Io) -> Result<Outcome> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let text = match differences::diff(&old, &new) {
        Some(text) => text,
        None if same_bytes(&args.old, &args.new)? => {
            io.write("the plans are equal\n")?;
            return Ok(Outcome::Done);
        }
        None => "weights    the steps are equal, the weights are not\n".to_owned(),
    };
    io.write(&text)?;
    Ok(Outcome::Different)
}

/// Whether two files hold the same, a piece at a time.
fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    let open = |p: &Path| std::fs::File::open(p).map_err(|e| Error::io("read", p, &e));
    let (mut left, mut right) = (open(a)?, open(b)?);
    loop {
        let (x, y) = (chunk(&mut left, a)?, chunk(&mut right, b)?);
        if x != y {
            return Ok(false);
        }
        if x.is_empty() {
            return Ok(true);
        }
    }
}

fn chunk(file: &mut std::fs::File, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", path, &e))?;
    Ok(bytes)
}

pub(super) fn check(args: &CheckArgs, io: &mut Io) -> Result<()> {
    let plan = read(&args.plan)?;
    let machine = args.machine.as_deref().map(crate::devices::from_file).transpose()?;
    let findings = fits::check(&plan, machine.as_ref());
    io.write(&findings.table())?;
    if findings.wrong.is_empty() { Ok(()) } else { Err(Error::from(findings.wrong).in_file(&args.plan)) }
}
