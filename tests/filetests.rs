//! Cases as files: every case below `filetests/` is one trial. See `README.md` for how to add, read and bless them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod harness;
mod support;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let folder = support::root().join("tests/filetests");
    let bless = std::env::var_os("BLESS").is_some();
    if bless && std::env::var_os("CI").is_some() {
        return fail("expectations are not blessed where CI is set");
    }
    let blessed = || harness::discover(&folder)?.iter().try_for_each(harness::bless);
    let written = if bless { blessed() } else { Ok(()) };
    let files = match written.and_then(|()| harness::discover(&folder)) {
        Ok(files) => files,
        Err(why) => return fail(&why),
    };
    let mut trials: Vec<Trial> = files.into_iter().flat_map(harness::trials).collect();
    trials.extend(harness::onnx::trials());
    libtest_mimic::run(&args, trials).exit_code()
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
