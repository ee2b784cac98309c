//! The binary in a folder of its own, and what every answer must be.

use crate::support::fixture;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A small graph with a symbolic batch, in the text form.
pub(crate) const SMALL: &str = "graph small(%x: f32[N, 8]) -> (%y) {
  const %w: f32[8, 4] = random(1)
  const %b: f32[4] = random(2)
  %m = matmul %x, %w
  %a = add %m, %b
  %y = softmax %a {axis = 1}
}
";

/// The binary, run in an empty folder.
pub(crate) struct Tool {
    folder: TempDir,
}

/// What a command answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tool {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// One with `small.graph` and a plan of it for `fixtures/machines/cpu.toml` in its folder.
    pub(crate) fn with_plan() -> Self {
        let tool = Self::new();
        tool.write("small.graph", SMALL);
        let machine = fixture("machines/cpu.toml");
        ok(tool.command(&["compile", "small.graph", "-o", "small.plan", "--machine"]).arg(machine));
        tool
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_partita"));
        // Nothing of the user's own may change an answer.
        command.args(args).current_dir(self.folder.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Answer {
        ok(&mut self.command(args))
    }

    /// Runs a command that must fail with `code` in its letter; returns the letter.
    pub(crate) fn refused(&self, args: &[&str], exit: i32, code: &str) -> String {
        refused(&mut self.command(args), exit, code)
    }
}

/// Runs a command; it may neither panic nor die by a signal.
pub(crate) fn answer(command: &mut Command) -> Answer {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let answer = Answer { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) };
    assert!(!answer.stderr.contains("panicked"), "{command:?}: {}", answer.stderr);
    assert!((0..=3).contains(&answer.code), "{command:?}: exit {}: {}", answer.code, answer.stderr);
    answer
}

/// Runs a command that must succeed.
pub(crate) fn ok(command: &mut Command) -> Answer {
    let answer = answer(command);
    assert_eq!(answer.code, 0, "{command:?}: {}", answer.stderr);
    answer
}

/// Runs a command that must fail with `code` in its letter, with a hint, and nothing on standard output.
pub(crate) fn refused(command: &mut Command, exit: i32, code: &str) -> String {
    let answer = answer(command);
    assert_eq!(answer.code, exit, "{command:?}: {}{}", answer.stdout, answer.stderr);
    let letter = answer.stderr.contains(&format!("error {code}"));
    assert!(letter, "{command:?}: expected {code}, not {}", answer.stderr);
    assert!(answer.stderr.contains("hint: "), "{command:?}: no hint: {}", answer.stderr);
    assert!(answer.stdout.is_empty(), "{command:?} printed: {}", answer.stdout);
    answer.stderr
}
