//! Detection: what processors, links and surroundings a machine has, without rights and without libraries.
//!
//! A probe is a file below `probe/` and a row of [`PROBES`]: it reads a [`Host`] (files, tools, environment) and adds
//! to [`Findings`]. Probes know nothing of each other; they run side by side, one that waits for a slow tool or a dead
//! device holds up no other, and one that does not end in time is left behind with a warning. Results stand in the order
//! of the table, whatever came first.

mod families;
mod finish;
mod found;
mod pci;
mod pci_ids;
mod recording;
mod root;
mod system;
mod text;
mod tools;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use families::nvidia::nvidia_smi_devices;
pub use found::{Found, PcieLink, PeerLink, Warning, WarningKind};
pub use recording::MAX_RECORDING_BYTES;
pub use root::Root;
pub use system::{Cloud, CxlMemory, Environment, FabricPort, Kubernetes, Storage, System};
pub use tools::{MAX_OUTPUT_BYTES, TOOL_LIMIT, Tools};

use crate::cpu::CpuInfo;
use crate::error::HwError;
use pci::PciFunction;
use tools::ToolError;

/// How long detection waits for a probe, unless the caller says otherwise.
pub const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Most devices taken from one probe.
const MAX_DEVICES_PER_PROBE: usize = 1024;

/// Variables of the environment that probes may read.
const VARIABLES: [&str; 22] = [
    "ACCELERATOR_TYPE",
    "ASCEND_VISIBLE_DEVICES",
    "AWS_EXECUTION_ENV",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HABANA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "NEURON_RT_VISIBLE_CORES",
    "NODE_NAME",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "POD_NAME",
    "POD_NAMESPACE",
    "ROCR_VISIBLE_DEVICES",
    "SLURM_JOB_GPUS",
    "TPU_ACCELERATOR_TYPE",
    "TPU_CHIPS_PER_HOST_BOUNDS",
    "TPU_TOPOLOGY",
    "TPU_WORKER_ID",
    "container",
];

/// A row of the table of probes.
#[derive(Clone, Copy)]
pub struct Probe {
    /// Name of the family, as in `--family`.
    pub family: &'static str,
    /// What it looks for and where, in one sentence.
    pub about: &'static str,
    run: fn(&Host, &mut Findings),
}

/// Every probe, in the order of its results. The order matters where two probes see one device: the first one's
/// name and figures stay, so vendors come before what is generic.
pub const PROBES: [Probe; 31] = [
    families::cpu::PROBE,
    families::nvidia::PROBE,
    families::amd::PROBE,
    families::intel_gpu::PROBE,
    families::apple::PROBE,
    families::tpu::PROBE,
    families::gaudi::PROBE,
    families::neuron::PROBE,
    families::qualcomm::PROBE,
    families::cerebras::PROBE,
    families::graphcore::PROBE,
    families::groq::PROBE,
    families::tenstorrent::PROBE,
    families::ascend::PROBE,
    families::intel_npu::PROBE,
    families::xdna::PROBE,
    families::hexagon::PROBE,
    families::samsung::PROBE,
    families::mediatek::PROBE,
    families::edge_tpu::PROBE,
    families::fpga::PROBE,
    families::dsp::PROBE,
    families::windows::PROBE,
    families::drm::PROBE,
    families::vulkan::PROBE,
    system::nvlink::PROBE,
    system::xgmi::PROBE,
    system::fabric::PROBE,
    system::cxl::PROBE,
    system::storage::PROBE,
    system::environment::PROBE,
];

/// Families of the machines most people have.
pub const COMMON: [&str; 12] = [
    "cpu",
    "nvidia",
    "amd",
    "intel-gpu",
    "apple",
    "tpu",
    "intel-npu",
    "xdna",
    "drm",
    "vulkan",
    "nvlink",
    "environment",
];

/// Where probes look: files, tools and variables of one machine.
#[derive(Debug)]
pub struct Host {
    pub(crate) root: Root,
    tools: Tools,
    /// Folders of tools the caller named.
    pub(crate) own_tools: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
    pci: OnceLock<Vec<PciFunction>>,
    nodes: OnceLock<Vec<String>>,
}

impl Host {
    /// The running machine. Tools are also looked for in `tools`, before the usual folders.
    pub fn running(tools: &[PathBuf]) -> Host {
        let value = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
        let environment = VARIABLES.iter().filter_map(|name| value(name)).collect();
        let host = Host::new(Root::folder(Path::new("/")), Tools::installed(tools), environment);
        Host { own_tools: tools.to_owned(), ..host }
    }

    /// The machine whose files lie below a folder. Tools are run from there and from `tools`, the environment is empty.
    pub fn folder(root: &Path, tools: &[PathBuf]) -> Host {
        Host::new(Root::folder(root), Tools::below(root, tools), BTreeMap::new())
    }

    /// A recorded machine; `file` names the recording in messages.
    ///
    /// # Errors
    /// Located errors for lines that are none of a recording.
    pub fn recorded(file: &str, text: &str) -> Result<Host, HwError> {
        let recording = recording::parse(file, text)?;
        Ok(Host::new(recording.root, recording.tools, recording.environment))
    }

    fn new(root: Root, tools: Tools, environment: BTreeMap<String, String>) -> Host {
        Host { root, tools, own_tools: Vec::new(), environment, pci: OnceLock::new(), nodes: OnceLock::new() }
    }

    /// The same with another time limit per run of a tool.
    #[must_use]
    pub fn with_tool_limit(mut self, limit: Duration) -> Host {
        self.tools = self.tools.with_limit(limit);
        self
    }

    /// Functions on the PCI bus, by address; read once.
    pub(crate) fn pci(&self) -> &[PciFunction] {
        self.pci.get_or_init(|| pci::scan(&self.root))
    }

    /// Names in `dev`, in order; read once.
    pub(crate) fn nodes(&self) -> &[String] {
        self.nodes.get_or_init(|| self.root.list("dev"))
    }

    /// Functions of a vendor.
    pub(crate) fn pci_of(&self, vendor: u32) -> impl Iterator<Item = &PciFunction> {
        self.pci().iter().filter(move |function| function.vendor == vendor)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.environment
    }
}

/// What one probe found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    family: &'static str,
    pub(crate) cpu: Option<CpuInfo>,
    devices: Vec<Found>,
    pub(crate) system: System,
    warnings: Vec<Warning>,
}

impl Findings {
    /// Adds a device, with what the PCI bus says about it.
    pub(crate) fn device(&mut self, host: &Host, mut found: Found) {
        if self.devices.len() >= MAX_DEVICES_PER_PROBE {
            if self.warnings.last().is_none_or(|last| last.kind != WarningKind::Limit) {
                self.warn(WarningKind::Limit, format!("more than {MAX_DEVICES_PER_PROBE} devices"));
            }
            return;
        }
        pci::complete(host, &mut found);
        if let Some(message) = found.check() {
            self.warn(WarningKind::Limit, message);
        }
        self.devices.push(found);
    }

    /// Devices so far.
    pub(crate) fn devices(&mut self) -> &mut Vec<Found> {
        &mut self.devices
    }

    /// Notes trouble.
    pub(crate) fn warn(&mut self, kind: WarningKind, message: impl AsRef<str>) {
        let message = found::clean(message.as_ref());
        self.warnings.push(Warning { family: self.family.to_owned(), kind, message });
    }

    /// Runs a tool. A missing one is no trouble, everything else that goes wrong is noted.
    pub(crate) fn tool(&mut self, host: &Host, name: &str, args: &[&str]) -> Option<String> {
        match host.tools.run(name, args) {
            Ok(output) => {
                if output.truncated {
                    let message =
                        format!("{name} wrote more than {MAX_OUTPUT_BYTES} bytes, the rest was not read");
                    self.warn(WarningKind::Truncated, message);
                }
                Some(output.text)
            }
            Err(ToolError::Missing) => None,
            Err(ToolError::Failed(why)) => {
                self.warn(WarningKind::ToolFailed, format!("{name} failed: {why}"));
                None
            }
            Err(ToolError::TimedOut(limit)) => {
                let message = format!("{name} was ended after {:.1} s", limit.as_secs_f64());
                self.warn(WarningKind::TimedOut, message);
                None
            }
        }
    }
}

/// Which probes run, and how long they may take.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Families to run; all when absent. The CPU always runs.
    pub only: Option<Vec<String>>,
    /// Families to leave out.
    pub without: Vec<String>,
    /// How long to wait for all of them.
    pub limit: Duration,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { only: None, without: Vec::new(), limit: PROBE_LIMIT }
    }
}

impl Selection {
    /// Only some families.
    pub fn only(families: &[&str]) -> Selection {
        Selection {
            only: Some(families.iter().map(|&family| family.to_owned()).collect()),
            ..Selection::default()
        }
    }

    fn has(&self, family: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name == family);
        family == "cpu" || (self.only.as_ref().is_none_or(|only| named(only)) && !named(&self.without))
    }
}

/// How long a probe took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Family of the probe.
    pub family: String,
    /// Time from its start to its end, in us; absent when it did not end.
    pub us: Option<f64>,
}

/// Everything detection found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Detection {
    /// The CPU.
    pub cpu: CpuInfo,
    /// Other processors, each once, by kind and PCI address.
    pub devices: Vec<Found>,
    /// Links between them, and what surrounds them.
    pub system: System,
    /// Trouble on the way.
    pub warnings: Vec<Warning>,
    /// How long each probe took; left out of outputs that must not change from run to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<Timing>,
}

/// Looks for everything at once. Never fails: trouble becomes warnings.
pub fn detect(host: &Arc<Host>, selection: &Selection) -> Detection {
    let deadline = Instant::now() + selection.limit;
    let probes: Vec<Probe> = PROBES.into_iter().filter(|probe| selection.has(probe.family)).collect();
    let mut answers: Vec<Option<Answer>> = probes.iter().map(|_| None).collect();
    let (sender, receiver) = channel();
    let queue = Arc::new(Queue { host: Arc::clone(host), probes, next: AtomicUsize::new(0) });
    let work = || {
        let (queue, sender) = (Arc::clone(&queue), sender.clone());
        // A system that grants no thread leaves the work to the others.
        let _ = thread::Builder::new().spawn(move || queue.work(&sender));
    };
    (0..FIRST_WORKERS).for_each(|_| work());
    let mut left = answers.len();
    while left > 0 && Instant::now() < deadline {
        let pause = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
        match receiver.recv_timeout(pause) {
            Ok((row, answer)) => {
                answers[row] = Some(answer);
                left -= 1;
            }
            // Everybody waits for something: a tool, a dead device.
            Err(RecvTimeoutError::Timeout) if !queue.is_empty() => work(),
            Err(_) => {}
        }
    }
    collect(&queue.probes, answers)
}

/// Threads at the start: most probes end at once, so one thread each would cost more than they do.
const FIRST_WORKERS: usize = 4;

/// How long nobody may answer before another thread helps.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a probe found and how long it took; nothing when it broke.
type Answer = (Option<Findings>, Duration);

/// Probes that wait for a thread.
struct Queue {
    host: Arc<Host>,
    probes: Vec<Probe>,
    next: AtomicUsize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.probes.len()
    }

    /// Runs probes until none is left.
    fn work(&self, sender: &Sender<(usize, Answer)>) {
        loop {
            let row = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(probe) = self.probes.get(row) else { return };
            let start = Instant::now();
            // A mistake in one probe must not cost the others their answers.
            let findings = catch_unwind(AssertUnwindSafe(|| {
                let mut findings = Findings { family: probe.family, ..Findings::default() };
                (probe.run)(&self.host, &mut findings);
                findings
            }));
            // Nobody listens any more when the probe was too slow.
            if sender.send((row, (findings.ok(), start.elapsed()))).is_err() {
                return;
            }
        }
    }
}

/// Puts the answers together in the order of the table.
fn collect(probes: &[Probe], answers: Vec<Option<Answer>>) -> Detection {
    let mut detection = Detection::default();
    let mut cpu = None;
    for (probe, answer) in probes.iter().zip(answers) {
        let family = probe.family.to_owned();
        let us = answer.as_ref().map(|(_, took)| (took.as_secs_f64() * 1e6).round());
        detection.timings.push(Timing { family: family.clone(), us });
        let (kind, message) = match answer {
            Some((Some(findings), _)) => {
                cpu = cpu.or(findings.cpu);
                detection.devices.extend(findings.devices);
                detection.system.absorb(findings.system);
                detection.warnings.extend(findings.warnings);
                continue;
            }
            Some((None, _)) => (WarningKind::Parse, "the probe ended without an answer"),
            None => (WarningKind::TimedOut, "the probe took too long and was left behind"),
        };
        detection.warnings.push(Warning { family, kind, message: message.to_owned() });
    }
    detection.cpu = cpu.unwrap_or_else(CpuInfo::unknown);
    finish::finish(&mut detection);
    detection
}
