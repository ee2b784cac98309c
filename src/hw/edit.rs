//! What-if edits of a machine: devices added by profile, removed, replaced, joined by links.

use crate::defaults;
use crate::device::{Device, Driver};
use crate::error::{Code, HwError, did_you_mean};
use crate::interconnect::{Interconnect, Interconnects};
use crate::kind::Kind;
use crate::machine::{Link, MAX_DEVICES, MAX_LINKS, Machine};
use crate::placed::name_prefix;
use crate::profile::{Profile, Profiles};

/// Accelerators that one switch or mesh joins in the servers sold; racks of GB200 join more.
const SCALE_UP_DOMAIN: usize = 8;

/// GPUs that the switches of a GB200 rack join.
const GB200_DOMAIN: usize = 72;

/// Technologies that join neighbours of a ring or torus only.
const NEIGHBOURS_ONLY: [&str; 2] = ["ici", "neuronlink"];

/// One edit.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Adds devices of a profile. They are joined by `link`, or as the profile says.
    Add {
        /// Profile, also in a short form such as "h100-sxm".
        profile: String,
        /// How many.
        count: usize,
        /// Interconnect between them; "none" leaves them apart.
        link: Option<String>,
    },
    /// Removes a device and its links.
    Remove {
        /// Its name.
        device: String,
    },
    /// Puts a processor in the place of a device.
    Replace {
        /// Name, which stays.
        device: String,
        /// Profile of the new processor.
        profile: String,
    },
    /// Joins two devices.
    Join {
        /// One device.
        from: String,
        /// The other.
        to: String,
        /// Interconnect.
        kind: String,
    },
}

impl Edit {
    /// Reads "add=h100-sxm:8", "remove=gpu0", "replace=gpu0=h200" or "link=gpu0:gpu1=nvlink4-h100".
    ///
    /// # Errors
    /// One sentence on what is wrong.
    pub fn parse(text: &str) -> Result<Edit, String> {
        match text.split_once('=') {
            Some(("add", what)) => Edit::parse_add(what),
            Some(("replace", what)) => Edit::parse_replace(what),
            Some(("link", what)) => Edit::parse_join(what),
            Some(("remove", device)) if !device.is_empty() => Ok(Edit::Remove { device: device.to_owned() }),
            _ => Err("expected remove=DEVICE, add=PROFILE:COUNT, replace=DEVICE=PROFILE or link=A:B=LINK"
                .to_owned()),
        }
    }

    /// Reads "h100-sxm:8" or "h100-sxm:8@nvlink4-h100".
    ///
    /// # Errors
    /// One sentence on what is wrong.
    pub fn parse_add(text: &str) -> Result<Edit, String> {
        let (what, link) = text.split_once('@').map_or((text, None), |(what, link)| (what, Some(link)));
        let (profile, count) = what.split_once(':').unwrap_or((what, "1"));
        let count = count.parse().ok().filter(|count| (1..=MAX_DEVICES).contains(count));
        let count = count.ok_or_else(|| format!("the count must be between 1 and {MAX_DEVICES}"))?;
        if profile.is_empty() || link == Some("") {
            return Err("expected PROFILE, PROFILE:COUNT or PROFILE:COUNT@LINK".to_owned());
        }
        Ok(Edit::Add { profile: profile.to_owned(), count, link: link.map(str::to_owned) })
    }

    /// Reads "gpu0=h200".
    ///
    /// # Errors
    /// One sentence on what is wrong.
    pub fn parse_replace(text: &str) -> Result<Edit, String> {
        match text.split_once('=') {
            Some((device, profile)) if !device.is_empty() && !profile.is_empty() => {
                Ok(Edit::Replace { device: device.to_owned(), profile: profile.to_owned() })
            }
            _ => Err("expected DEVICE=PROFILE".to_owned()),
        }
    }

    /// Reads "gpu0:gpu1=nvlink4-h100".
    ///
    /// # Errors
    /// One sentence on what is wrong.
    pub fn parse_join(text: &str) -> Result<Edit, String> {
        let parts = text.split_once('=').and_then(|(ends, kind)| Some((ends.split_once(':')?, kind)));
        match parts {
            Some(((from, to), kind)) if !from.is_empty() && !to.is_empty() && !kind.is_empty() => {
                Ok(Edit::Join { from: from.to_owned(), to: to.to_owned(), kind: kind.to_owned() })
            }
            _ => Err("expected DEVICE:DEVICE=LINK".to_owned()),
        }
    }

    /// The edit as it is written on a command line, for messages.
    pub fn words(&self) -> String {
        match self {
            Edit::Add { profile, count: 1, link: None } => format!("--add {profile}"),
            Edit::Add { profile, count, link: None } => format!("--add {profile}:{count}"),
            Edit::Add { profile, count, link: Some(link) } => format!("--add {profile}:{count}@{link}"),
            Edit::Remove { device } => format!("--remove {device}"),
            Edit::Replace { device, profile } => format!("--replace {device}={profile}"),
            Edit::Join { from, to, kind } => format!("--link {from}:{to}={kind}"),
        }
    }

    fn error(&self, code: Code, message: String, hint: String) -> HwError {
        HwError { code, file: self.words(), line: 1, column: 1, message, hint }
    }
}

impl Machine {
    /// Applies edits in their order. Added and replacing devices are simulated.
    ///
    /// # Errors
    /// Unknown profiles, devices and links, more devices than the limit, no device left, rates nobody published.
    pub fn edit(&mut self, edits: &[Edit], profiles: &Profiles) -> Result<(), HwError> {
        if edits.is_empty() {
            return Ok(());
        }
        let kinds = Interconnects::builtin()?;
        for edit in edits {
            match edit {
                Edit::Add { profile, count, link } => {
                    let profile = self.profile_of(edit, profile, profiles)?;
                    self.add(edit, profile, *count, link.as_deref(), &kinds)?;
                }
                Edit::Remove { device } => self.remove(edit, device)?,
                Edit::Replace { device, profile } => {
                    let profile = self.profile_of(edit, profile, profiles)?;
                    self.replace(edit, device, profile, &kinds)?;
                }
                Edit::Join { from, to, kind } => self.join(edit, (from, to), kind, &kinds)?,
            }
        }
        self.links.retain(|link| !link.implied);
        self.imply_links(profiles);
        self.link_the_rest();
        Ok(())
    }

    fn profile_of<'p>(
        &self,
        edit: &Edit,
        name: &str,
        profiles: &'p Profiles,
    ) -> Result<&'p Profile, HwError> {
        let found = profiles.find(name).map_err(|near| {
            let message = if near.is_empty() {
                format!("there is no profile {name:?}")
            } else {
                format!("{name:?} may be any of {}", near.join(", "))
            };
            let (_, hint) = profiles.unknown(name);
            let hint = if near.is_empty() { hint } else { "say which".to_owned() };
            edit.error(Code::UnknownProfile, message, hint)
        })?;
        if found.dense.is_empty() && found.vector.is_empty() {
            let message = format!("nobody published how fast {} computes", found.id);
            return Err(edit.error(Code::NoRates, message, "state its rates in a machine file".to_owned()));
        }
        Ok(found)
    }

    fn position(&self, edit: &Edit, name: &str) -> Result<usize, HwError> {
        self.device(name).ok_or_else(|| {
            let names: Vec<&str> = self.devices.iter().map(|device| device.name.as_str()).collect();
            let hint =
                did_you_mean(name, names.iter().copied(), &format!("the devices are {}", names.join(", ")));
            edit.error(Code::UnknownDevice, format!("there is no device {name:?}"), hint)
        })
    }

    fn add(
        &mut self,
        edit: &Edit,
        profile: &Profile,
        count: usize,
        link: Option<&str>,
        kinds: &Interconnects,
    ) -> Result<(), HwError> {
        if self.devices.len() + count > MAX_DEVICES {
            let message = format!("{} devices, the limit is {MAX_DEVICES}", self.devices.len() + count);
            return Err(edit.error(Code::Limit, message, String::new()));
        }
        let first = self.devices.len();
        for _ in 0..count {
            let name = self.free_name(profile.kind);
            self.devices.push(simulated(&name, profile));
        }
        let added: Vec<usize> = (first..self.devices.len()).collect();
        match link {
            Some("none") => {}
            Some(id) => {
                let kind = find_kind(edit, id, kinds)?;
                let link = |from, to| Link::of_kind(from, to, kind);
                self.join_all(&added, &kind.kind, SCALE_UP_DOMAIN.max(count), link);
            }
            None => self.join_peers(&added, profile, kinds),
        }
        Ok(())
    }

    /// The first name of a kind that no device has.
    fn free_name(&self, kind: Kind) -> String {
        let prefix = name_prefix(kind);
        let names = (0..=MAX_DEVICES).map(|number| format!("{prefix}{number}"));
        names.into_iter().find(|name| self.device(name).is_none()).unwrap_or_default()
    }

    fn remove(&mut self, edit: &Edit, name: &str) -> Result<(), HwError> {
        let gone = self.position(edit, name)?;
        if self.devices.len() == 1 {
            let message = "no device would be left".to_owned();
            return Err(edit.error(Code::MissingField, message, "add one first".to_owned()));
        }
        self.take_out(gone);
        Ok(())
    }

    /// Keeps the devices of these names; the others go with their links.
    pub(crate) fn keep(&mut self, names: &[String]) {
        for at in (0..self.devices.len()).rev() {
            if !names.contains(&self.devices[at].name) {
                self.take_out(at);
            }
        }
    }

    fn take_out(&mut self, gone: usize) {
        self.devices.remove(gone);
        self.links.retain(|link| link.from != gone && link.to != gone);
        let moved = |index: usize| if index > gone { index - 1 } else { index };
        for link in &mut self.links {
            (link.from, link.to) = (moved(link.from), moved(link.to));
        }
        for fabric in &mut self.fabrics {
            fabric.devices.retain(|device| *device != gone);
            fabric.devices.iter_mut().for_each(|device| *device = moved(*device));
        }
        self.fabrics.retain(|fabric| fabric.devices.len() > 1);
        self.host = if self.host == gone { self.first_cpu() } else { moved(self.host) };
    }

    fn first_cpu(&self) -> usize {
        let real = self.devices.iter().position(|device| device.driver == Driver::Cpu);
        let any = || self.devices.iter().position(|device| device.kind == Kind::Cpu);
        real.or_else(any).unwrap_or(0)
    }

    /// Links of the old processor go with it; the new one is joined to its like.
    fn replace(
        &mut self,
        edit: &Edit,
        name: &str,
        profile: &Profile,
        kinds: &Interconnects,
    ) -> Result<(), HwError> {
        let at = self.position(edit, name)?;
        self.devices[at] = simulated(name, profile);
        self.links.retain(|link| link.from != at && link.to != at);
        self.fabrics.iter_mut().for_each(|fabric| fabric.devices.retain(|device| *device != at));
        self.fabrics.retain(|fabric| fabric.devices.len() > 1);
        let alike = |index: &usize| self.devices[*index].profile.as_deref() == Some(profile.id.as_str());
        let alike: Vec<usize> = (0..self.devices.len()).filter(alike).collect();
        self.join_peers(&alike, profile, kinds);
        Ok(())
    }

    fn join(
        &mut self,
        edit: &Edit,
        ends: (&str, &str),
        kind: &str,
        kinds: &Interconnects,
    ) -> Result<(), HwError> {
        let (from, to) = (self.position(edit, ends.0)?, self.position(edit, ends.1)?);
        if from == to {
            let message = format!("{} cannot be joined to itself", ends.0);
            return Err(edit.error(Code::BadValue, message, "name two devices".to_owned()));
        }
        let kind = find_kind(edit, kind, kinds)?;
        let link = Link::of_kind(from, to, kind).ok_or_else(|| {
            let message = format!("nobody published the rate of {}", kind.id);
            edit.error(Code::NoRates, message, "state the link in a machine file".to_owned())
        })?;
        self.links.retain(|link| !link.carries(from, to));
        self.links.push(link);
        Ok(())
    }

    /// Joins devices of a profile by the link between peers it has by construction.
    fn join_peers(&mut self, devices: &[usize], profile: &Profile, kinds: &Interconnects) {
        let Some(peer) = profile.links.iter().find(|link| link.role == "peer") else { return };
        let part = profile.id.split_once('-').map_or("", |(_, part)| part);
        let generation = peer.generation.map(|generation| format!("{}{generation}-", peer.kind));
        let named = |kind: &&Interconnect| {
            let by_generation =
                generation.as_ref().is_some_and(|prefix| kind.id.starts_with(prefix.as_str()));
            let version = part.rsplit('-').next().unwrap_or_default();
            kind.kind == peer.kind && (by_generation || kind.id.ends_with(&format!("-{version}")))
        };
        let kind = kinds.iter().find(named);
        let gbs = peer.nominal_gbs().map(|gbs| gbs * defaults::LINK_EFFICIENCY);
        let link = |from, to| {
            if let Some(kind) = kind {
                return Link::of_kind(from, to, kind);
            }
            Some(Link {
                from,
                to,
                kind: None,
                latency_us: peer.latency_us.unwrap_or(defaults::LINK_LATENCY_US) + defaults::COPY_COMMAND_US,
                gbs: gbs.filter(|_| !NEIGHBOURS_ONLY.contains(&peer.kind.as_str()))?,
                one_way: false,
                implied: false,
                origin: format!(
                    "{} of profile {} x {} default",
                    peer.kind,
                    profile.id,
                    defaults::LINK_EFFICIENCY
                ),
            })
        };
        let domain = if profile.id.contains("gb200") { GB200_DOMAIN } else { SCALE_UP_DOMAIN };
        self.join_all(devices, &peer.kind, domain, link);
    }

    /// Joins every pair of a domain, or neighbours only where the technology has a ring.
    fn join_all(
        &mut self,
        devices: &[usize],
        technology: &str,
        domain: usize,
        link: impl Fn(usize, usize) -> Option<Link>,
    ) {
        let pairs: Vec<(usize, usize)> = if NEIGHBOURS_ONLY.contains(&technology) {
            let next = devices.iter().skip(1).chain(devices.first().filter(|_| devices.len() > 2));
            devices.iter().copied().zip(next.copied()).collect()
        } else {
            let all = |group: &[usize]| {
                let pairs = group
                    .iter()
                    .enumerate()
                    .flat_map(|(at, &a)| group[at + 1..].iter().map(move |&b| (a, b)));
                pairs.collect::<Vec<_>>()
            };
            devices.chunks(domain).flat_map(all).collect()
        };
        for (from, to) in pairs {
            if self.links.len() + MAX_DEVICES >= MAX_LINKS {
                return;
            }
            if !self.links.iter().any(|link| link.carries(from, to)) {
                self.links.extend(link(from, to));
            }
        }
    }
}

fn simulated(name: &str, profile: &Profile) -> Device {
    let mut device = Device::new(name, Driver::Sim, profile.kind, Some(profile));
    device.fill_defaults();
    device
}

fn find_kind<'k>(edit: &Edit, id: &str, kinds: &'k Interconnects) -> Result<&'k Interconnect, HwError> {
    kinds.get(id).ok_or_else(|| {
        let ids = kinds.iter().map(|kind| kind.id.as_str());
        let hint = did_you_mean(id, ids, "ids look like nvlink4-h100 and pcie5-x16");
        edit.error(Code::UnknownLinkKind, format!("there is no interconnect {id:?}"), hint)
    })
}
