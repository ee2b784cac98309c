//! Running vendors' tools without trusting them.
//!
//! A tool is found in fixed folders only, gets an environment of three variables and no input, has a time limit, and
//! its output is read while it runs and kept up to a limit. What runs too long is ended with everything it started,
//! and waited for, so that nothing of it stays.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Where tools lie, in the order they are looked for.
const FOLDERS: [&str; 18] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/opt/rocm/bin",
    "/opt/xilinx/xrt/bin",
    "/opt/aws/neuron/bin",
    "/opt/qti-aic/tools",
    "/usr/local/cuda/bin",
    "/usr/lib/wsl/lib",
    "/usr/local/Ascend/driver/tools",
    "/opt/cerebras/bin",
    "/opt/groq/runtime/bin",
    "C:\\Windows\\System32",
    "C:\\Windows\\System32\\WindowsPowerShell\\v1.0",
    "C:\\Windows\\System32\\wbem",
];

/// Most bytes of output that are kept.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Most bytes of error output that are kept, for the message.
const MAX_ERROR_BYTES: usize = 4096;

/// How long a tool may run, unless the caller says otherwise.
pub const TOOL_LIMIT: Duration = Duration::from_secs(5);

/// How a tool failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolError {
    /// It is not installed.
    Missing,
    /// It could not be started, or ended with an error; the first line it said.
    Failed(String),
    /// It ran longer than the limit and was ended.
    TimedOut(Duration),
}

/// What a tool said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Its output, up to the limit and then up to the last whole line.
    pub(crate) text: String,
    /// True when there was more.
    pub(crate) truncated: bool,
}

/// A tool's recorded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedTool {
    /// Name and first arguments, separated by blanks.
    pub(crate) command: String,
    /// Exit status.
    pub(crate) exit: i32,
    /// Output.
    pub(crate) text: String,
}

/// Tools that may be run.
#[derive(Clone, Debug)]
pub struct Tools {
    source: Source,
    limit: Duration,
}

#[derive(Clone, Debug)]
enum Source {
    Folders(Vec<PathBuf>),
    Recorded(Vec<RecordedTool>),
}

impl Tools {
    /// The tools installed on the running machine, those in `first` before the others.
    pub fn installed(first: &[PathBuf]) -> Tools {
        let fixed = FOLDERS.iter().map(PathBuf::from);
        Tools::in_folders(first.iter().cloned().chain(fixed).collect())
    }

    /// The tools below another root, in the same folders as on a real one.
    pub fn below(root: &Path, first: &[PathBuf]) -> Tools {
        let inside = |folder: &str| root.join(folder.trim_start_matches('/'));
        let fixed = FOLDERS.iter().filter(|folder| folder.starts_with('/')).map(|folder| inside(folder));
        Tools::in_folders(first.iter().cloned().chain(fixed).collect())
    }

    fn in_folders(folders: Vec<PathBuf>) -> Tools {
        let there = folders.into_iter().filter(|folder| folder.is_dir()).collect();
        Tools { source: Source::Folders(there), limit: TOOL_LIMIT }
    }

    pub(crate) fn recorded(tools: Vec<RecordedTool>) -> Tools {
        Tools { source: Source::Recorded(tools), limit: TOOL_LIMIT }
    }

    /// The same with another time limit per run.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Tools {
        self.limit = limit;
        self
    }

    /// Runs a tool and returns what it wrote.
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Result<Output, ToolError> {
        match &self.source {
            Source::Folders(folders) => {
                let path = folders.iter().find_map(|folder| tool_in(folder, name));
                run_for(&path.ok_or(ToolError::Missing)?, args, self.limit)
            }
            Source::Recorded(tools) => replay(tools, name, args),
        }
    }
}

fn tool_in(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(if cfg!(windows) { format!("{name}.exe") } else { name.to_owned() });
    (path.is_absolute() && is_executable(&path)).then_some(path)
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

fn replay(tools: &[RecordedTool], name: &str, args: &[&str]) -> Result<Output, ToolError> {
    let command = format!("{name} {} ", args.join(" "));
    let mut same_tool = tools.iter().filter(|tool| tool.command.split(' ').next() == Some(name)).peekable();
    if same_tool.peek().is_none() {
        return Err(ToolError::Missing);
    }
    let Some(tool) = same_tool.find(|tool| command.starts_with(tool.command.as_str())) else {
        return Err(ToolError::Failed("no such answer was recorded".to_owned()));
    };
    if tool.exit != 0 {
        return Err(ToolError::Failed(failure(tool.exit, &tool.text)));
    }
    Ok(limited(tool.text.clone().into_bytes()))
}

fn failure(status: impl std::fmt::Display, said: &str) -> String {
    let line = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("exit status {status}: {line}")
}

fn run_for(path: &Path, args: &[&str], limit: Duration) -> Result<Output, ToolError> {
    let deadline = Instant::now() + limit;
    let started = loop {
        match start(path, args) {
            // Somebody is still writing it: an update, or a script made a moment ago.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            other => break other,
        }
    };
    let mut child =
        Running(started.map_err(|error| ToolError::Failed(format!("it does not start: {error}")))?);
    let (Some(out), Some(err)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(ToolError::Failed("its output cannot be read".to_owned()));
    };
    let (out, err) = (drain(out, MAX_OUTPUT_BYTES + 1), drain(err, MAX_ERROR_BYTES));
    let timed_out = || ToolError::TimedOut(limit);
    let bytes = receive(&out, deadline).ok_or_else(timed_out)?;
    if bytes.len() > MAX_OUTPUT_BYTES {
        // Whatever else it has to say is not wanted: ended on return.
        return Ok(limited(bytes));
    }
    let status = loop {
        match child.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() >= deadline => return Err(timed_out()),
            Ok(None) => thread::sleep(Duration::from_micros(200)),
            Err(error) => return Err(ToolError::Failed(format!("it cannot be waited for: {error}"))),
        }
    };
    if status.success() {
        return Ok(limited(bytes));
    }
    // Some tools explain themselves on the wrong stream.
    let mut said = receive(&err, deadline).unwrap_or_default();
    said.extend(bytes);
    let code = status.code().map_or("none".to_owned(), |code| code.to_string());
    Err(ToolError::Failed(failure(code, &String::from_utf8_lossy(&said))))
}

fn start(path: &Path, args: &[&str]) -> std::io::Result<Child> {
    let mut command = Command::new(path);
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    if let Some(root) = std::env::var_os("SystemRoot") {
        command.env("SystemRoot", root); // Windows programs do not load without it.
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

/// A child that is ended with its group, and waited for, when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // What the tool started holds the pipes as well. An error means that the group has ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        // Errors mean that it has ended meanwhile.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a pipe in a thread of its own: the first `keep` bytes arrive when the pipe ends or they are full.
///
/// The thread ends with the pipe; it is not waited for, since a process that left the group may keep the pipe open.
fn drain(mut pipe: impl Read + Send + 'static, keep: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    // Without a thread the pipe counts as empty.
    let _ = thread::Builder::new().spawn(move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; 16 << 10]);
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => kept.extend(chunk[..count].iter().take(keep - kept.len())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if kept.len() >= keep {
                break;
            }
        }
        // The other end has given up waiting when this fails.
        let _ = sender.send(kept);
    });
    receiver
}

fn receive(pipe: &Receiver<Vec<u8>>, deadline: Instant) -> Option<Vec<u8>> {
    match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(bytes) => Some(bytes),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
    }
}

/// Output up to the limit, then up to the last whole line.
fn limited(mut bytes: Vec<u8>) -> Output {
    let truncated = bytes.len() > MAX_OUTPUT_BYTES;
    if truncated {
        bytes.truncate(MAX_OUTPUT_BYTES);
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
    }
    Output { text: String::from_utf8_lossy(&bytes).into_owned(), truncated }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with one shell script called `tool`.
    fn folder(script: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tool");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn run(script: &str, limit: Duration) -> Result<Output, ToolError> {
        let folder = folder(script);
        Tools::in_folders(vec![folder.path().to_owned()]).with_limit(limit).run("tool", &["a b"])
    }

    #[test]
    fn output_arguments_and_environment() {
        let output = run("echo \"$1\"; env | sort | cut -d= -f1 | tr '\\n' ' '", TOOL_LIMIT).unwrap();
        let lines: Vec<&str> = output.text.lines().collect();
        assert_eq!(lines[0], "a b");
        // The shell adds some of its own.
        let own = ["PWD", "OLDPWD", "SHLVL", "_"];
        let left: Vec<&str> =
            lines[1].split(' ').filter(|name| !name.is_empty() && !own.contains(name)).collect();
        assert_eq!(left, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn ten_megabytes_are_cut_at_a_line() {
        let output = run("yes 0123456789 | head -c 10000000", Duration::from_secs(60)).unwrap();
        assert!(output.truncated);
        assert!(output.text.len() <= MAX_OUTPUT_BYTES && output.text.len() > MAX_OUTPUT_BYTES - 20);
        assert!(output.text.ends_with("0123456789\n"));
    }

    #[test]
    fn large_output_below_the_limit_is_whole() {
        let output = run("yes 0123456789 | head -c 220000", Duration::from_secs(60)).unwrap();
        assert_eq!((output.text.len(), output.truncated), (220_000, false));
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let folder = folder("sleep 1000 & echo $! > \"$0.child\"; echo $$ > \"$0.pid\"; wait");
        let tools = Tools::in_folders(vec![folder.path().to_owned()]);
        let limit = Duration::from_millis(400);
        assert_eq!(tools.with_limit(limit).run("tool", &[]), Err(ToolError::TimedOut(limit)));
        for file in ["tool.child", "tool.pid"] {
            let pid = std::fs::read_to_string(folder.path().join(file)).unwrap();
            let ended = || match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
                Err(_) => true,
                // An orphan that nobody has collected yet.
                Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
            };
            assert!(
                (0..500).any(|_| ended() || {
                    thread::sleep(Duration::from_millis(10));
                    false
                }),
                "{file}"
            );
        }
    }

    #[test]
    fn failures_say_why() {
        let failed = |script| match run(script, TOOL_LIMIT) {
            Err(ToolError::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(failed("echo no driver >&2; exit 9"), "exit status 9: no driver");
        assert_eq!(failed("echo no device; exit 6"), "exit status 6: no device");
        assert_eq!(failed("kill -9 $$"), "exit status none: it said nothing");
        let missing = Tools::in_folders(vec![PathBuf::from("/nowhere"), PathBuf::from("relative")]);
        assert_eq!(missing.run("tool", &[]), Err(ToolError::Missing));
    }
}
