//! The files of a machine: a folder (the real root by default) or a recording held in memory.
//!
//! Paths are relative to the root, separated by "/", without a leading slash. Nothing here fails: a file that is
//! missing, unreadable, too long or not text is `None`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes read of one file; /proc/cpuinfo has about 1.5 kB per CPU.
const MAX_TEXT_BYTES: u64 = 8 << 20;

/// Most names read of one folder.
const MAX_NAMES: usize = 65_536;

/// Most symbolic links followed in one path.
const MAX_LINKS: usize = 40;

/// A file system to read from.
#[derive(Clone, Debug)]
pub struct Root {
    tree: Tree,
}

#[derive(Clone, Debug)]
enum Tree {
    Folder(PathBuf),
    Recorded(BTreeMap<String, Node>),
}

/// What a recording holds at a path; folders follow from the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File(String),
    Link(String),
}

impl Root {
    /// The files below a folder; "/" is the running machine.
    pub fn folder(path: &Path) -> Root {
        Root { tree: Tree::Folder(path.to_owned()) }
    }

    pub(crate) fn recorded(nodes: BTreeMap<String, Node>) -> Root {
        Root { tree: Tree::Recorded(nodes) }
    }

    /// True for the running machine's own root.
    pub fn is_running_machine(&self) -> bool {
        matches!(&self.tree, Tree::Folder(path) if path == Path::new("/"))
    }

    /// A file's text.
    pub fn text(&self, path: &str) -> Option<String> {
        match &self.tree {
            Tree::Folder(root) => folder_text(&root.join(path)),
            Tree::Recorded(nodes) => match nodes.get(&resolve(nodes, path)?)? {
                Node::File(text) => Some(text.clone()),
                Node::Link(_) => None,
            },
        }
    }

    /// A file's text without the white space around it; `None` when that leaves nothing.
    pub fn word(&self, path: &str) -> Option<String> {
        self.text(path).map(|text| text.trim().to_owned()).filter(|word| !word.is_empty())
    }

    /// A file's only number.
    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.word(path)?.parse().ok()
    }

    /// A file's only number in base 16, with or without "0x".
    pub fn hex(&self, path: &str) -> Option<u32> {
        parse_hex(&self.word(path)?)
    }

    /// Names in a folder, sorted; numbers inside names by value, so that "card10" follows "card9".
    pub fn list(&self, path: &str) -> Vec<String> {
        let mut names = match &self.tree {
            Tree::Folder(root) => folder_names(&root.join(path)),
            Tree::Recorded(nodes) => recorded_names(nodes, path),
        };
        names.sort_by_cached_key(|name| natural_key(name));
        names
    }

    /// True when something lies at the path, also a device node.
    pub fn exists(&self, path: &str) -> bool {
        match &self.tree {
            Tree::Folder(root) => fs::metadata(root.join(path)).is_ok(),
            Tree::Recorded(nodes) => resolve(nodes, path)
                .is_some_and(|path| nodes.contains_key(&path) || below(nodes, &path).next().is_some()),
        }
    }

    /// The path that remains when every link in it is followed.
    pub fn real(&self, path: &str) -> Option<String> {
        match &self.tree {
            Tree::Folder(root) => {
                let real = fs::canonicalize(root.join(path)).ok()?;
                let base = fs::canonicalize(root).ok()?;
                Some(real.strip_prefix(base).ok()?.to_str()?.to_owned())
            }
            Tree::Recorded(nodes) => resolve(nodes, path),
        }
    }

    /// The last name of what a link points to, such as the driver of a device.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = match &self.tree {
            Tree::Folder(root) => fs::read_link(root.join(path)).ok()?.to_str()?.to_owned(),
            Tree::Recorded(nodes) => {
                let (parent, name) = path.rsplit_once('/')?;
                match nodes.get(&format!("{}/{name}", resolve(nodes, parent)?))? {
                    Node::Link(target) => target.clone(),
                    Node::File(_) => return None,
                }
            }
        };
        target.rsplit('/').next().map(str::to_owned).filter(|name| !name.is_empty())
    }
}

/// A number in base 16, with or without "0x".
pub(crate) fn parse_hex(word: &str) -> Option<u32> {
    u32::from_str_radix(word.trim().trim_start_matches("0x"), 16).ok()
}

fn folder_text(path: &Path) -> Option<String> {
    // Opening a pipe would wait for its writer, reading a device may do anything.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_TEXT_BYTES).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

fn folder_names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.take(MAX_NAMES).collect()
}

fn recorded_names(nodes: &BTreeMap<String, Node>, path: &str) -> Vec<String> {
    let Some(folder) = resolve(nodes, path) else { return Vec::new() };
    let skip = folder.len() + 1;
    let name = |path: &String| path.get(skip..).and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let mut names: Vec<String> = below(nodes, &folder).filter_map(name).collect();
    names.dedup();
    names.truncate(MAX_NAMES);
    names
}

/// Paths below a folder, which has no node of its own.
fn below<'n>(nodes: &'n BTreeMap<String, Node>, folder: &str) -> impl Iterator<Item = &'n String> {
    let prefix = format!("{folder}/");
    nodes.range(prefix.clone()..).map(|(path, _)| path).take_while(move |path| path.starts_with(&prefix))
}

/// The path with its links followed; `None` when they lead in a circle or above the root.
fn resolve(nodes: &BTreeMap<String, Node>, path: &str) -> Option<String> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop()?;
                continue;
            }
            _ => done.push(part),
        }
        if let Some(Node::Link(target)) = nodes.get(&done.join("/")) {
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            done.pop();
            if target.starts_with('/') {
                done.clear();
            }
            todo.extend(target.split('/').rev().map(str::to_owned));
        }
    }
    Some(done.join("/"))
}

/// Text and numbers of a name in turn.
fn natural_key(name: &str) -> (Vec<(String, u64)>, String) {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, next) = tail.split_at(end);
        parts.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = next;
    }
    (parts, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Root {
        let node = |path: &str, node: Node| (path.to_owned(), node);
        Root::recorded(BTreeMap::from([
            node("sys/devices/pci/0000:01:00.0/vendor", Node::File("0x10de\n".into())),
            node("sys/devices/pci/0000:01:00.0/driver", Node::Link("../../../bus/nvidia".into())),
            node("sys/class/drm/card0/device", Node::Link("../../../devices/pci/0000:01:00.0".into())),
            node("sys/class/drm/card10/x", Node::File(String::new())),
            node("sys/class/drm/card9/x", Node::File(String::new())),
            node("loop", Node::Link("loop".into())),
            node("out", Node::Link("../..".into())),
        ]))
    }

    #[test]
    fn recorded_links_are_followed() {
        let root = tree();
        assert_eq!(root.hex("sys/class/drm/card0/device/vendor"), Some(0x10de));
        assert_eq!(root.link_name("sys/class/drm/card0/device/driver").as_deref(), Some("nvidia"));
        assert_eq!(root.real("sys/class/drm/card0/device").as_deref(), Some("sys/devices/pci/0000:01:00.0"));
        assert_eq!(root.list("sys/class/drm"), ["card0", "card9", "card10"]);
        assert!(root.exists("sys/class/drm") && !root.exists("sys/class/dr"));
    }

    #[test]
    fn circles_and_ways_out_lead_nowhere() {
        let root = tree();
        assert_eq!((root.text("loop"), root.real("out/etc"), root.text("../x")), (None, None, None));
    }

    #[cfg(unix)]
    #[test]
    fn folders_behave_like_recordings() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("dev/gpu0")).unwrap();
        fs::create_dir_all(at("class")).unwrap();
        fs::write(at("dev/gpu0/vendor"), "0x1002\n").unwrap();
        std::os::unix::fs::symlink("../dev/gpu0", at("class/card0")).unwrap();
        let root = Root::folder(folder.path());
        assert_eq!(root.hex("class/card0/vendor"), Some(0x1002));
        assert_eq!(root.real("class/card0").as_deref(), Some("dev/gpu0"));
        assert_eq!(root.link_name("class/card0").as_deref(), Some("gpu0"));
        assert_eq!(root.text("class/card0"), None);
        assert_eq!(root.list("class"), ["card0"]);
    }
}
