//! The line-based text form of a [`Problem`]: what prints parses back to the same problem.
//!
//! One item a line; `#` starts a comment; names are bare words or quoted strings with `\"`, `\\`, `\n`.
//!
//! ```text
//! problem toy
//! comm links                                    # or: comm endpoint
//! device cpu memory=-                           # - is unlimited
//! device gpu memory=1000000 charged             # charged: only with endpoint costs
//! link cpu -> gpu latency_us=10 us_per_byte=0.0001
//! task conv memory=4096 times_us=[12.5, 3] colocate=1 pin=gpu
//! task out memory=0 times_us=[0, -]             # - is "cannot run there"
//! tensor y bytes=4000 from=conv to=[out]        # with endpoint costs also cost_us=...
//! ```
//!
//! Devices come before links and tasks, tasks before the tensors that name them.

use crate::error::PlaceError;
use crate::problem::{CommModel, Device, Link, Problem, Task, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Longest text accepted, in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 30;

/// Prints the text form. Numbers are printed so that they read back exactly.
pub fn print(p: &Problem) -> String {
    let mut out = format!("problem {}\n", quote(&p.name));
    let endpoint = match &p.comm {
        CommModel::Links => None,
        CommModel::Endpoint { cost_us, charged } => Some((cost_us, charged)),
    };
    out.push_str(if endpoint.is_some() { "comm endpoint\n" } else { "comm links\n" });
    for (d, device) in p.devices.iter().enumerate() {
        let memory = device.memory_bytes.map_or("-".into(), |m| m.to_string());
        let charged = if endpoint.is_some_and(|(_, c)| c[d]) { " charged" } else { "" };
        put(&mut out, format_args!("device {} memory={memory}{charged}", quote(&device.name)));
    }
    print_links(p, &mut out);
    for task in &p.tasks {
        print_task(p, task, &mut out);
    }
    for (t, tensor) in p.tensors.iter().enumerate() {
        let to: Vec<String> = tensor.consumers.iter().map(|&c| quote(&p.tasks[c].name)).collect();
        let cost = endpoint.map_or(String::new(), |(c, _)| format!(" cost_us={}", c[t]));
        let (name, from) = (quote(&tensor.name), quote(&p.tasks[tensor.producer].name));
        let line =
            format_args!("tensor {name} bytes={} from={from} to=[{}]{cost}", tensor.bytes, to.join(", "));
        put(&mut out, line);
    }
    out
}

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}

fn print_links(p: &Problem, out: &mut String) {
    for (a, row) in p.links.iter().enumerate() {
        for (b, link) in row.iter().enumerate() {
            if let Some(l) = link {
                let (from, to) = (quote(&p.devices[a].name), quote(&p.devices[b].name));
                let (x, y) = (l.latency_us, l.us_per_byte);
                put(out, format_args!("link {from} -> {to} latency_us={x} us_per_byte={y}"));
            }
        }
    }
}

fn print_task(p: &Problem, task: &Task, out: &mut String) {
    let times: Vec<String> = task.time_us.iter().map(|t| t.map_or("-".into(), |x| x.to_string())).collect();
    let colocate = task.colocate.map_or(String::new(), |c| format!(" colocate={c}"));
    let pin = task.pin.map_or(String::new(), |d| format!(" pin={}", quote(&p.devices[d].name)));
    let (name, memory) = (quote(&task.name), task.memory_bytes);
    put(out, format_args!("task {name} memory={memory} times_us=[{}]{colocate}{pin}", times.join(", ")));
}

fn bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./:+*%@".contains(c)
}

/// A name as the text form writes it: bare when it can be, quoted otherwise.
pub(crate) fn quote(name: &str) -> String {
    if !name.is_empty() && name.chars().all(bare) {
        return name.to_owned();
    }
    let body = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
    format!("\"{body}\"")
}

/// Parses the text form and validates the problem.
///
/// # Errors
/// `P001` with line and column for text outside the grammar; otherwise what [`Problem::validate`] says.
pub fn parse(text: &str) -> Result<Problem, PlaceError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(PlaceError::limit("text", format!("more than {MAX_TEXT_BYTES} bytes")));
    }
    let mut reader = Reader::default();
    for (i, line) in text.lines().enumerate() {
        let mut cursor = Cursor { line: i + 1, chars: line.chars().collect(), at: 0 };
        reader.line(&mut cursor)?;
    }
    let problem = reader.finish();
    problem.validate()?;
    Ok(problem)
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    name: String,
    endpoint: bool,
    devices: Vec<Device>,
    charged: Vec<bool>,
    links: Vec<(usize, usize, Link)>,
    tasks: Vec<Task>,
    tensors: Vec<Tensor>,
    cost_us: Vec<f64>,
    device_index: BTreeMap<String, usize>,
    task_index: BTreeMap<String, usize>,
}

impl Reader {
    fn line(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        if c.at_end() {
            return Ok(());
        }
        let start = c.at;
        match c.name()?.as_str() {
            "problem" => self.name = c.name()?,
            "comm" => self.comm(c)?,
            "device" => self.device(c)?,
            "link" => self.link(c)?,
            "task" => self.task(c)?,
            "tensor" => self.tensor(c)?,
            other => {
                c.at = start;
                return Err(c.error(format!(
                    "`{other}` starts no line; expected problem, comm, device, link, task or tensor"
                )));
            }
        }
        if c.at_end() { Ok(()) } else { Err(c.error("this does not belong here")) }
    }

    fn comm(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        c.skip_blank();
        let start = c.at;
        self.endpoint = match c.name()?.as_str() {
            "links" => false,
            "endpoint" => true,
            _ => {
                c.at = start;
                return Err(c.error("expected links or endpoint"));
            }
        };
        Ok(())
    }

    fn device(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        if !self.tasks.is_empty() {
            return Err(c.error("devices come before tasks"));
        }
        let name = c.name()?;
        c.key("memory")?;
        let memory_bytes = if c.take('-') { None } else { Some(c.number()?) };
        let charged = !c.at_end();
        if charged {
            c.expect_word("charged")?;
        }
        self.device_index.insert(name.clone(), self.devices.len());
        self.devices.push(Device { name, memory_bytes });
        self.charged.push(charged);
        Ok(())
    }

    fn link(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        let from = self.device_ref(c)?;
        c.expect('-')?;
        c.expect('>')?;
        let to = self.device_ref(c)?;
        c.key("latency_us")?;
        let latency_us = c.number()?;
        c.key("us_per_byte")?;
        let us_per_byte = c.number()?;
        self.links.push((from, to, Link { latency_us, us_per_byte }));
        Ok(())
    }

    fn task(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        let name = c.name()?;
        c.key("memory")?;
        let memory_bytes = c.number()?;
        c.key("times_us")?;
        let time_us = c.list(|c| if c.take('-') { Ok(None) } else { c.number().map(Some) })?;
        let colocate = if c.take_key("colocate") { Some(c.number()?) } else { None };
        let pin = if c.take_key("pin") { Some(self.device_ref(c)?) } else { None };
        self.task_index.insert(name.clone(), self.tasks.len());
        self.tasks.push(Task { name, time_us, memory_bytes, colocate, pin });
        Ok(())
    }

    fn tensor(&mut self, c: &mut Cursor) -> Result<(), PlaceError> {
        let name = c.name()?;
        c.key("bytes")?;
        let bytes = c.number()?;
        c.key("from")?;
        let producer = self.task_ref(c)?;
        c.key("to")?;
        let consumers = c.list(|c| self.task_ref(c))?;
        let cost = if c.take_key("cost_us") { c.number()? } else { 0.0 };
        self.tensors.push(Tensor { name, bytes, producer, consumers });
        self.cost_us.push(cost);
        Ok(())
    }

    fn device_ref(&self, c: &mut Cursor) -> Result<usize, PlaceError> {
        look_up(&self.device_index, c, "device")
    }

    fn task_ref(&self, c: &mut Cursor) -> Result<usize, PlaceError> {
        look_up(&self.task_index, c, "task")
    }

    fn finish(self) -> Problem {
        let k = self.devices.len();
        let mut links = vec![vec![None; k]; k];
        for (a, b, link) in self.links {
            links[a][b] = Some(link);
        }
        let comm = if self.endpoint {
            CommModel::Endpoint { cost_us: self.cost_us, charged: self.charged }
        } else {
            CommModel::Links
        };
        let (name, devices, tasks, tensors) = (self.name, self.devices, self.tasks, self.tensors);
        Problem { name, devices, tasks, tensors, links, comm }
    }
}

fn look_up(index: &BTreeMap<String, usize>, c: &mut Cursor, what: &str) -> Result<usize, PlaceError> {
    c.skip_blank();
    let start = c.at;
    let name = c.name()?;
    index.get(&name).copied().ok_or_else(|| {
        c.at = start;
        c.error(format!("no {what} `{name}` above this line"))
    })
}

/// One line and where we are in it.
struct Cursor {
    line: usize,
    chars: Vec<char>,
    at: usize,
}

impl Cursor {
    fn error(&self, message: impl Into<String>) -> PlaceError {
        PlaceError::text(self.line, self.at + 1, message)
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_blank(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn at_end(&mut self) -> bool {
        self.skip_blank();
        matches!(self.peek(), None | Some('#'))
    }

    fn take(&mut self, c: char) -> bool {
        self.skip_blank();
        let hit = self.peek() == Some(c);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, c: char) -> Result<(), PlaceError> {
        if self.take(c) { Ok(()) } else { Err(self.error(format!("expected `{c}`"))) }
    }

    fn word(&mut self) -> String {
        self.skip_blank();
        let start = self.at;
        while self.peek().is_some_and(bare) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn name(&mut self) -> Result<String, PlaceError> {
        self.skip_blank();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let word = self.word();
        if word.is_empty() { Err(self.error("expected a name")) } else { Ok(word) }
    }

    fn quoted(&mut self) -> Result<String, PlaceError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let c = self.peek().ok_or_else(|| self.error("the quoted name does not end on this line"))?;
            self.at += 1;
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escape()?),
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, PlaceError> {
        let c = match self.peek() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some(c @ ('"' | '\\')) => c,
            _ => return Err(self.error("unknown escape; use \\\", \\\\, \\n or \\r")),
        };
        self.at += 1;
        Ok(c)
    }

    fn take_key(&mut self, key: &str) -> bool {
        let start = self.at;
        if self.word() == key && self.take('=') {
            return true;
        }
        self.at = start;
        false
    }

    fn key(&mut self, key: &str) -> Result<(), PlaceError> {
        self.skip_blank();
        if self.take_key(key) { Ok(()) } else { Err(self.error(format!("expected `{key}=`"))) }
    }

    fn expect_word(&mut self, word: &str) -> Result<(), PlaceError> {
        self.skip_blank();
        let start = self.at;
        if self.word() == word {
            return Ok(());
        }
        self.at = start;
        Err(self.error(format!("expected `{word}`")))
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, PlaceError> {
        self.skip_blank();
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        word.parse().map_err(|_| {
            self.at = start;
            self.error(format!("`{word}` is not a number that fits here"))
        })
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Cursor) -> Result<T, PlaceError>,
    ) -> Result<Vec<T>, PlaceError> {
        self.expect('[')?;
        let mut out = Vec::new();
        if self.take(']') {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.take(']') {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }
}
