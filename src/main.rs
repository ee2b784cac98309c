//! The command line: reads arguments, prints, exits. Nothing else in the project does.

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use partita::cli::args::Cli;
use partita::cli::{Io, Outcome, execute};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Something is wrong, or failed.
const EXIT_ERROR: u8 = 1;
/// What was compared is not the same.
const EXIT_DIFFERENT: u8 = 1;
/// Valid, but not supported.
const EXIT_UNSUPPORTED: u8 = 3;

#[allow(clippy::print_stderr, reason = "this is where messages are printed")]
fn main() -> ExitCode {
    let cli = Cli::parse();
    let bar = spinner();
    let mut out = std::io::stdout().lock();
    let mut io = Io { out: &mut out, progress: &|stage| bar.set_message(stage.to_owned()) };
    let result = execute(cli, &mut io);
    bar.finish_and_clear();
    // A closed pipe (`partita inspect ... | head`) is not an error of ours.
    let _ = out.flush();
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::from(EXIT_DIFFERENT),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(if error.is_unsupported() { EXIT_UNSUPPORTED } else { EXIT_ERROR })
        }
    }
}

/// A spinner on stderr that shows the stage; hidden when stderr is no terminal.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
