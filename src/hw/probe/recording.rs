//! Recordings: a machine's files, tool outputs and environment as one small text.
//!
//! Tests read them, and so can whoever reports that a device was missed. The form, line by line:
//!
//! ```text
//! # a remark
//! [sys/class/drm/card0/device]        the folder of the entries that follow; [] is the root
//! vendor = 0x1002                     a file of one line
//! driver -> ../../bus/pci/drivers/x   a link
//! kfd                                 a file without content, also for device nodes
//! pp_dpm_mclk <<                      a file of several lines, which end at a single "."
//! 0: 900Mhz *
//! .
//! $ nvidia-smi --query-gpu            what a tool answers to a command that begins so, up to a single "."
//! No devices were found
//! .
//! $9 nvidia-smi nvlink                the same with exit status 9
//! .
//! % TPU_ACCELERATOR_TYPE = v5p-8      a variable of the environment
//! ```

use std::collections::BTreeMap;

use crate::error::{Code, HwError};
use crate::probe::root::{Node, Root};
use crate::probe::tools::{RecordedTool, Tools};

/// Largest recording read, in bytes.
pub const MAX_RECORDING_BYTES: usize = 16 << 20;

/// The parts of a recording.
pub(crate) struct Recording {
    pub(crate) root: Root,
    pub(crate) tools: Tools,
    pub(crate) environment: BTreeMap<String, String>,
}

/// Reads a recording. `file` is its name for error messages.
pub(crate) fn parse(file: &str, text: &str) -> Result<Recording, HwError> {
    let error = |line: usize, code: Code, message: &str, hint: &str| HwError {
        code,
        file: file.to_owned(),
        line,
        column: 1,
        message: message.to_owned(),
        hint: hint.to_owned(),
    };
    if text.len() > MAX_RECORDING_BYTES {
        let message = format!("the recording has {} bytes, the limit is {MAX_RECORDING_BYTES}", text.len());
        return Err(error(1, Code::Limit, &message, ""));
    }
    let (mut nodes, mut tools, mut environment) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    let mut folder = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let mut block = || -> Result<String, HwError> {
            let mut text = String::new();
            for (_, line) in lines.by_ref() {
                if line == "." {
                    return Ok(text);
                }
                text.push_str(line);
                text.push('\n');
            }
            Err(error(
                index + 1,
                Code::Syntax,
                "this block does not end",
                "end it with a line that is a single dot",
            ))
        };
        match entry(line) {
            Entry::Nothing => {}
            Entry::Folder(path) => path.clone_into(&mut folder),
            Entry::Variable(name, value) => drop(environment.insert(name.to_owned(), value.to_owned())),
            Entry::Tool(exit, command) => {
                let command = command.to_owned();
                tools.push(RecordedTool { command, exit, text: block()? });
            }
            Entry::Block(name) => drop(nodes.insert(join(&folder, name), Node::File(block()?))),
            Entry::Link(name, to) => drop(nodes.insert(join(&folder, name), Node::Link(to.to_owned()))),
            Entry::File(name, value) => {
                let text = if value.is_empty() { String::new() } else { format!("{value}\n") };
                nodes.insert(join(&folder, name), Node::File(text));
            }
            Entry::Unknown => {
                let hint =
                    "a line is [folder], name = value, name -> target, name <<, $ command, % NAME = value";
                return Err(error(index + 1, Code::Syntax, "this line is none of a recording", hint));
            }
        }
    }
    Ok(Recording { root: Root::recorded(nodes), tools: Tools::recorded(tools), environment })
}

enum Entry<'l> {
    Nothing,
    Folder(&'l str),
    Variable(&'l str, &'l str),
    Tool(i32, &'l str),
    Block(&'l str),
    Link(&'l str, &'l str),
    File(&'l str, &'l str),
    Unknown,
}

fn entry(line: &str) -> Entry<'_> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        Entry::Nothing
    } else if let Some(path) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Entry::Folder(path.trim_matches('/'))
    } else if let Some(rest) = line.strip_prefix('%') {
        rest.split_once('=')
            .map_or(Entry::Unknown, |(name, value)| Entry::Variable(name.trim(), value.trim()))
    } else if let Some(rest) = line.strip_prefix('$') {
        let (exit, command) = rest.split_once(' ').unwrap_or((rest, ""));
        let exit = if exit.is_empty() { Ok(0) } else { exit.parse() };
        exit.map_or(Entry::Unknown, |exit| Entry::Tool(exit, command.trim()))
    } else if let Some(name) = line.strip_suffix("<<") {
        Entry::Block(name.trim())
    } else if let Some((name, target)) = line.split_once(" -> ") {
        Entry::Link(name.trim(), target.trim())
    } else if let Some((name, value)) = line.split_once(" = ") {
        Entry::File(name.trim(), value.trim())
    } else {
        Entry::File(line.trim_end_matches('=').trim(), "")
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# remark\n[sys/a]\nvendor = 0x10de\ndriver -> ../drivers/nvidia\n[]\ndev/nvidia0\n\
        proc/x <<\none\ntwo\n.\n$ smi -q\nfine\n.\n$9 smi -x\nbroken\n.\n% NAME = v5p-8\n";

    #[test]
    fn every_kind_of_line() {
        let recording = parse("small", SMALL).unwrap();
        assert_eq!(recording.root.word("sys/a/vendor").as_deref(), Some("0x10de"));
        assert_eq!(recording.root.link_name("sys/a/driver").as_deref(), Some("nvidia"));
        assert_eq!(recording.root.text("proc/x").as_deref(), Some("one\ntwo\n"));
        assert!(recording.root.exists("dev/nvidia0"));
        assert_eq!(recording.environment["NAME"], "v5p-8");
        assert_eq!(recording.tools.run("smi", &["-q", "more"]).unwrap().text, "fine\n");
        assert!(recording.tools.run("smi", &["-x"]).is_err());
        assert_eq!(recording.tools.run("other", &[]), Err(crate::probe::tools::ToolError::Missing));
    }

    #[test]
    fn mistakes_have_a_place() {
        assert_eq!(parse("r", "[a]\n$ tool\nno end\n").err().map(|error| error.line), Some(2));
        assert_eq!(parse("r", "\n$x tool\n.\n").err().map(|error| error.line), Some(2));
    }
}
