//! Containers, orchestrators and clouds around the program, and what they say about devices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::probe::found::clean;
use crate::probe::{Findings, Host, Probe};

pub(in crate::probe) const PROBE: Probe = Probe {
    family: "environment",
    about: "container marks, KUBERNETES_* and *_VISIBLE_DEVICES, the namespace of the pod, DMI names of clouds",
    run,
};

/// A mark in /proc/1/cgroup or /proc/self/mountinfo, and the container it stands for.
const CGROUPS: [(&str, &str); 5] = [
    ("kubepods", "kubernetes"),
    ("docker", "docker"),
    ("libpod", "podman"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
];

/// Cloud, the DMI file that tells, and how its text begins.
const CLOUDS: [(&str, &str, &str); 9] = [
    ("aws", "sys_vendor", "Amazon EC2"),
    ("aws", "bios_vendor", "Amazon EC2"),
    ("google", "product_name", "Google Compute Engine"),
    ("google", "product_name", "Google"),
    ("azure", "chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"),
    ("oracle", "chassis_asset_tag", "OracleCloud"),
    ("alibaba", "sys_vendor", "Alibaba Cloud"),
    ("digitalocean", "sys_vendor", "DigitalOcean"),
    ("hetzner", "sys_vendor", "Hetzner"),
];

/// What is around the program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Kind of container: "docker", "podman", "containerd", "lxc", "kubernetes".
    pub container: Option<String>,
    /// Kubernetes, when it started the program.
    pub kubernetes: Option<Kubernetes>,
    /// Cloud the machine belongs to.
    pub cloud: Option<Cloud>,
    /// Variables that speak of devices, such as CUDA_VISIBLE_DEVICES.
    pub variables: BTreeMap<String, String>,
}

/// What Kubernetes says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// Namespace.
    pub namespace: Option<String>,
    /// Pod.
    pub pod: Option<String>,
    /// Node.
    pub node: Option<String>,
}

/// A cloud and its name for the machine's type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// "aws", "google", "azure", "oracle", "alibaba", "digitalocean" or "hetzner".
    pub vendor: String,
    /// Instance type, where the machine shows it.
    pub instance: Option<String>,
}

fn run(host: &Host, findings: &mut Findings) {
    let devices = |name: &str| {
        name.contains("VISIBLE")
            || name.contains("GPU")
            || name.starts_with("TPU_")
            || name.starts_with("NVIDIA_")
            || name == "ACCELERATOR_TYPE"
    };
    let variables = host.variables().iter().filter(|(name, _)| devices(name));
    findings.system.environment = Environment {
        container: container(host),
        kubernetes: kubernetes(host),
        cloud: cloud(host),
        variables: variables.map(|(name, value)| (name.clone(), clean(value))).collect(),
    };
}

fn container(host: &Host) -> Option<String> {
    let root = &host.root;
    let marks = ["proc/1/cgroup", "proc/self/cgroup", "proc/self/mountinfo"];
    let marked = || {
        let text: String = marks.iter().filter_map(|path| root.text(path)).collect();
        let row = CGROUPS
            .iter()
            .find(|row| text.contains(&format!("/{}", row.0)) || text.contains(&format!("{}-", row.0)));
        row.map(|row| row.1.to_owned())
    };
    if root.exists("run/.containerenv") {
        return Some("podman".to_owned());
    }
    let stated = host.variable("container").map(clean);
    let docker = || root.exists(".dockerenv").then(|| "docker".to_owned());
    let kubernetes = host.variable("KUBERNETES_SERVICE_HOST").map(|_| "kubernetes".to_owned());
    kubernetes.or(stated).or_else(docker).or_else(marked)
}

fn kubernetes(host: &Host) -> Option<Kubernetes> {
    host.variable("KUBERNETES_SERVICE_HOST")?;
    let file = "var/run/secrets/kubernetes.io/serviceaccount/namespace";
    let variable = |name: &str| host.variable(name).map(clean);
    let namespace = host.root.word(file).map(|name| clean(&name)).or_else(|| variable("POD_NAMESPACE"));
    Some(Kubernetes { namespace, pod: variable("POD_NAME"), node: variable("NODE_NAME") })
}

fn cloud(host: &Host) -> Option<Cloud> {
    let dmi = |file: &str| host.root.word(&format!("sys/class/dmi/id/{file}"));
    let row = CLOUDS.iter().find(|row| dmi(row.1).is_some_and(|text| text.starts_with(row.2)))?;
    // Only here the product's name is that of the instance type.
    let instance = dmi("product_name").filter(|_| ["aws", "alibaba", "hetzner"].contains(&row.0));
    Some(Cloud { vendor: row.0.to_owned(), instance: instance.map(|name| clean(&name)) })
}
