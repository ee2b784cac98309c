//! A placement problem as numbers: devices, tasks, the tensors between them, and what moving a tensor costs.
//!
//! Nothing here knows what a task computes or what a device is. Times are microseconds, sizes are bytes.
//! Graph inputs and outputs are ordinary tasks of zero time pinned to a host device.

use crate::error::PlaceError;

/// Most devices a problem may have; the solvers keep a device set in one 64-bit word.
pub const MAX_DEVICES: usize = 64;
/// Most tasks a problem may have.
pub const MAX_TASKS: usize = 1 << 20;
/// Most tensors a problem may have.
pub const MAX_TENSORS: usize = 1 << 21;

/// A device: a name for people and a capacity for resident bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Unique among the devices.
    pub name: String,
    /// Room for the tasks' resident bytes; `None` is unlimited.
    pub memory_bytes: Option<u64>,
}

/// A unit of work that runs on exactly one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Unique among the tasks.
    pub name: String,
    /// Microseconds on each device; `None` where the device cannot run it.
    pub time_us: Vec<Option<f64>>,
    /// Bytes that stay on the device the task is placed on (its weights).
    pub memory_bytes: u64,
    /// Tasks with an equal number share one device.
    pub colocate: Option<u32>,
    /// The only device allowed, if any.
    pub pin: Option<usize>,
}

/// A value made by one task and read by others. It is sent at most once to each other device that reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Unique among the tensors.
    pub name: String,
    /// Size on the wire.
    pub bytes: u64,
    /// Index of the task that makes it.
    pub producer: usize,
    /// Indices of the tasks that read it, without repeats.
    pub consumers: Vec<usize>,
}

/// A directed path from one device to another: a message of n bytes takes `latency_us + n * us_per_byte`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Microseconds per message.
    pub latency_us: f64,
    /// Microseconds per byte.
    pub us_per_byte: f64,
}

/// Who pays for a tensor that crosses devices.
#[derive(Debug, Clone, PartialEq)]
pub enum CommModel {
    /// The link pays: each directed link is busy for the time of the transfer, devices go on computing.
    Links,
    /// The endpoints pay, each for itself (the max-load model of the MSR instances): a charged device pays
    /// the tensor's cost once for each foreign tensor it reads, and once for each own tensor read elsewhere.
    Endpoint {
        /// Microseconds, one per tensor.
        cost_us: Vec<f64>,
        /// Which devices pay.
        charged: Vec<bool>,
    },
}

/// Devices, tasks, tensors and links.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// A name for people.
    pub name: String,
    /// The devices; every per-device list has this order.
    pub devices: Vec<Device>,
    /// The tasks, in any order.
    pub tasks: Vec<Task>,
    /// The tensors, in any order.
    pub tensors: Vec<Tensor>,
    /// `links[from][to]`; `None` where there is no path; the diagonal is ignored.
    pub links: Vec<Vec<Option<Link>>>,
    /// Who pays for communication.
    pub comm: CommModel,
}

impl Problem {
    /// Time of task `t` on device `d` in microseconds, with the pin applied; `None` when not allowed.
    pub fn time_us(&self, t: usize, d: usize) -> Option<f64> {
        let task = &self.tasks[t];
        if task.pin.is_some_and(|p| p != d) {
            return None;
        }
        task.time_us[d]
    }

    /// Time tensor `t` takes from device `a` to device `b` in microseconds; `None` without a path.
    /// Under endpoint costs it is the sum of what the two ends pay.
    pub fn transfer_us(&self, t: usize, a: usize, b: usize) -> Option<f64> {
        if a == b {
            return Some(0.0);
        }
        match &self.comm {
            CommModel::Links => self.links[a][b].map(|l| link_us(l, self.tensors[t].bytes)),
            CommModel::Endpoint { cost_us, charged } => {
                Some(cost_us[t] * (f64::from(u8::from(charged[a])) + f64::from(u8::from(charged[b]))))
            }
        }
    }

    /// Tasks in a topological order that is a function of the problem alone: of the ready tasks, the one of
    /// lowest index first. `None` when the tensors form a cycle.
    pub fn topological_order(&self) -> Option<Vec<usize>> {
        let mut waiting = vec![0usize; self.tasks.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.tasks.len()];
        for tensor in &self.tensors {
            for &c in &tensor.consumers {
                waiting[c] += 1;
                readers[tensor.producer].push(c);
            }
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..self.tasks.len()).filter(|&t| waiting[t] == 0).collect();
        let mut order = Vec::with_capacity(self.tasks.len());
        while let Some(t) = ready.pop_first() {
            order.push(t);
            for &c in &readers[t] {
                waiting[c] -= 1;
                if waiting[c] == 0 {
                    ready.insert(c);
                }
            }
        }
        (order.len() == self.tasks.len()).then_some(order)
    }

    /// Checks everything the solvers rely on.
    ///
    /// # Errors
    /// `P002` for contradictions (a wrong index, a negative time, a cycle), `P003` for exceeded limits and
    /// `P004` when a task or a colocation class has no device left.
    pub fn validate(&self) -> Result<(), PlaceError> {
        self.validate_limits()?;
        self.validate_devices()?;
        for t in 0..self.tasks.len() {
            self.validate_task(t)?;
        }
        for t in &self.tensors {
            self.validate_tensor(t)?;
        }
        self.validate_comm()?;
        self.validate_colocation()?;
        if self.topological_order().is_none() {
            return Err(PlaceError::invalid(&self.name, "the tensors form a cycle among the tasks"));
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), PlaceError> {
        for (what, n, most) in [
            ("devices", self.devices.len(), MAX_DEVICES),
            ("tasks", self.tasks.len(), MAX_TASKS),
            ("tensors", self.tensors.len(), MAX_TENSORS),
        ] {
            if n > most {
                return Err(PlaceError::limit(&self.name, format!("{n} {what}, at most {most} are taken")));
            }
        }
        if self.devices.is_empty() {
            return Err(PlaceError::invalid(&self.name, "there is no device"));
        }
        for (what, names) in [
            ("device", self.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>()),
            ("task", self.tasks.iter().map(|t| t.name.as_str()).collect()),
            ("tensor", self.tensors.iter().map(|t| t.name.as_str()).collect()),
        ] {
            unique(what, names)?;
        }
        Ok(())
    }

    fn validate_devices(&self) -> Result<(), PlaceError> {
        let k = self.devices.len();
        if self.links.len() != k || self.links.iter().any(|row| row.len() != k) {
            return Err(PlaceError::invalid(&self.name, format!("links must be a {k} x {k} matrix")));
        }
        for (a, row) in self.links.iter().enumerate() {
            for (b, link) in row.iter().enumerate() {
                if link.is_some_and(|l| bad_us(l.latency_us) || bad_us(l.us_per_byte)) {
                    let place = format!("link {} -> {}", self.devices[a].name, self.devices[b].name);
                    return Err(PlaceError::invalid(place, "its times must be finite and not negative"));
                }
            }
        }
        Ok(())
    }

    fn validate_task(&self, t: usize) -> Result<(), PlaceError> {
        let (task, k) = (&self.tasks[t], self.devices.len());
        let place = || format!("task {}", task.name);
        if task.time_us.len() != k {
            return Err(PlaceError::invalid(place(), format!("one time per device is needed ({k})")));
        }
        if task.time_us.iter().flatten().any(|&x| bad_us(x)) {
            return Err(PlaceError::invalid(place(), "its times must be finite and not negative"));
        }
        if task.pin.is_some_and(|p| p >= k) {
            return Err(PlaceError::invalid(place(), "it is pinned to a device that does not exist"));
        }
        if (0..k).all(|d| self.time_us(t, d).is_none()) {
            return Err(PlaceError::impossible(place(), "no device is able and allowed to run it"));
        }
        Ok(())
    }

    fn validate_tensor(&self, tensor: &Tensor) -> Result<(), PlaceError> {
        let place = || format!("tensor {}", tensor.name);
        let n = self.tasks.len();
        if tensor.producer >= n || tensor.consumers.iter().any(|&c| c >= n) {
            return Err(PlaceError::invalid(place(), "it names a task that does not exist"));
        }
        if tensor.consumers.contains(&tensor.producer) {
            return Err(PlaceError::invalid(place(), "its producer reads it"));
        }
        let mut sorted = tensor.consumers.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|w| w[0] == w[1]) {
            return Err(PlaceError::invalid(place(), "a consumer is listed twice"));
        }
        Ok(())
    }

    fn validate_comm(&self) -> Result<(), PlaceError> {
        let CommModel::Endpoint { cost_us, charged } = &self.comm else {
            return Ok(());
        };
        if cost_us.len() != self.tensors.len() || charged.len() != self.devices.len() {
            let message = "endpoint costs need one cost per tensor and one flag per device";
            return Err(PlaceError::invalid(&self.name, message));
        }
        if cost_us.iter().any(|&c| bad_us(c)) {
            return Err(PlaceError::invalid(&self.name, "costs must be finite and not negative"));
        }
        Ok(())
    }

    fn validate_colocation(&self) -> Result<(), PlaceError> {
        let mut allowed: std::collections::BTreeMap<u32, Vec<bool>> = std::collections::BTreeMap::new();
        for (t, task) in self.tasks.iter().enumerate() {
            let Some(class) = task.colocate else { continue };
            let row = allowed.entry(class).or_insert_with(|| vec![true; self.devices.len()]);
            for (d, ok) in row.iter_mut().enumerate() {
                *ok &= self.time_us(t, d).is_some();
            }
        }
        match allowed.iter().find(|(_, row)| !row.contains(&true)) {
            Some((class, _)) => Err(PlaceError::impossible(
                format!("colocation class {class}"),
                "no device is able and allowed to run all of its tasks",
            )),
            None => Ok(()),
        }
    }
}

/// Microseconds for a message of `bytes` over `link`.
pub(crate) fn link_us(link: Link, bytes: u64) -> f64 {
    link.latency_us + bytes as f64 * link.us_per_byte
}

fn bad_us(x: f64) -> bool {
    !x.is_finite() || x < 0.0
}

fn unique(what: &str, mut names: Vec<&str>) -> Result<(), PlaceError> {
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(PlaceError::invalid(format!("{what} {}", w[0]), "the name is used twice")),
        None => Ok(()),
    }
}
