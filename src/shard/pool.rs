//! A machine seen as pools: devices that are alike and joined alike.
//!
//! An island is a set of equal devices of which every pair is joined alike; a pool is a set of equal islands of which
//! every pair is joined alike. The planner counts devices of pools instead of naming them, so 576 equal chips cost no
//! more to plan than one.

use partita_hw::{COPY_COMMAND_US, Device, Group, Kind, Machine, Topology};

use crate::factors;
use crate::layer::Ranks;

/// Most pools a plan considers; further devices are left out, and said to be.
pub(crate) const MAX_POOLS: usize = 12;

/// Above this many devices of a kind, those without a fabric or direct link are taken one by one.
const MOST_PAIRS: usize = 64;

/// A way between two devices.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Wire {
    /// Latency of one message, commands included, in us.
    pub(crate) latency_us: f64,
    /// Time per byte in us.
    pub(crate) us_per_byte: f64,
}

impl Wire {
    /// Time of one message.
    pub(crate) fn us(&self, bytes: f64) -> f64 {
        self.latency_us + bytes * self.us_per_byte
    }

    /// No way at all between a device and itself.
    pub(crate) const NONE: Wire = Wire { latency_us: 0.0, us_per_byte: 0.0 };
}

/// Equal devices, joined alike.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// One of the devices.
    pub(crate) device: Device,
    /// Positions in the machine, by island.
    pub(crate) islands: Vec<Vec<usize>>,
    /// How the devices of an island are joined.
    pub(crate) inner: Topology,
    /// The way between two devices of an island.
    pub(crate) within: Wire,
    /// The way between two islands.
    pub(crate) across: Wire,
    /// Memory a plan may fill, per device.
    pub(crate) usable_bytes: f64,
}

impl Pool {
    /// Devices of an island.
    pub(crate) fn island_size(&self) -> usize {
        self.islands.first().map_or(0, Vec::len)
    }

    /// Devices in all.
    pub(crate) fn count(&self) -> usize {
        self.islands.len() * self.island_size()
    }

    /// How many stages of `ranks` devices fit.
    pub(crate) fn slots(&self, ranks: usize) -> usize {
        let size = self.island_size();
        if ranks <= size { self.islands.len() * (size / ranks) } else { self.islands.len() / (ranks / size) }
    }

    /// Tensor-parallel degrees: up to an island, then whole islands.
    pub(crate) fn degrees(&self, most: usize) -> Vec<usize> {
        let size = self.island_size();
        let most = most.min(factors::MOST_RANKS);
        let inside = (1..=size.min(most)).filter(|&n| n == size || plausible(n)).collect::<Vec<_>>();
        let beyond = (2..=self.islands.len()).map(|n| n * size).filter(|&n| n <= most);
        inside.into_iter().chain(beyond).collect()
    }

    /// Devices that share a stage.
    pub(crate) fn ranks(&self, count: usize) -> Ranks {
        let size = self.island_size().max(1);
        let command_us = factors::collective_command_us(self.device.kind);
        let group = |ranks: usize, topology: Topology, wire: &Wire| Group {
            ranks,
            topology,
            latency_us: wire_latency(&self.device, wire),
            us_per_byte: wire.us_per_byte,
            command_us,
        };
        let inner = group(count.min(size), self.inner, &self.within);
        let outer = (count > size).then(|| group(count / size, Topology::Switch, &self.across));
        Ranks { count, inner, outer }
    }

    /// Positions of the devices of the stage that fills slot `slot` at that degree.
    pub(crate) fn members(&self, ranks: usize, slot: usize) -> Vec<usize> {
        let size = self.island_size();
        if ranks > size {
            let islands = ranks / size;
            return self.islands.iter().skip(slot * islands).take(islands).flatten().copied().collect();
        }
        let per_island = size / ranks;
        let island = &self.islands[slot / per_island];
        island[(slot % per_island) * ranks..][..ranks].to_vec()
    }

    /// The way from the stage in that slot to the next one.
    pub(crate) fn way_behind(&self, ranks: usize, slot: usize) -> Wire {
        let per_island = self.island_size() / ranks;
        let leaves = per_island == 0 || (slot + 1).is_multiple_of(per_island);
        if leaves && self.islands.len() > 1 { self.across } else { self.within }
    }

    /// The cheapest way between two consecutive stages of that degree.
    pub(crate) fn shortest_way(&self, ranks: usize, bytes: f64) -> f64 {
        let (first, last) = (self.way_behind(ranks, 0), self.way_behind(ranks, self.island_size() / ranks));
        let behind = self.way_behind(ranks, (self.island_size() / ranks).saturating_sub(1));
        first.us(bytes).min(last.us(bytes)).min(behind.us(bytes))
    }
}

/// Degrees tried inside an island: all up to 8, then those that divide widths well.
fn plausible(ranks: usize) -> bool {
    match ranks {
        0..=8 => true,
        9..=16 => ranks.is_multiple_of(2),
        17..=32 => ranks.is_multiple_of(4),
        _ => ranks.is_multiple_of(8),
    }
}

/// Latency of a message on a wire that a collective keeps open: a copy's command is paid once per collective.
///
/// The launch cost of an LPU follows from its published time per token and already holds the hops inside a layer.
fn wire_latency(device: &Device, wire: &Wire) -> f64 {
    if device.kind == Kind::Lpu {
        return 0.0;
    }
    if device.kind == Kind::Cpu {
        wire.latency_us
    } else {
        (wire.latency_us - COPY_COMMAND_US).max(1.0).min(wire.latency_us)
    }
}

/// A machine as pools.
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    /// The pools, by the position of their first device.
    pub(crate) list: Vec<Pool>,
    /// Ways between pools; `between[a][b]` leads from `a` to `b`.
    pub(crate) between: Vec<Vec<Wire>>,
    /// Devices that cannot hold a share, and why.
    pub(crate) left_out: Vec<(usize, String)>,
}

/// Groups the devices of a machine.
pub(crate) fn pools(machine: &Machine) -> Pools {
    let (usable, mut left_out) = usable(machine);
    let mut list: Vec<Pool> = Vec::new();
    for class in classes(machine, usable) {
        for island in islands(machine, &class) {
            join(machine, &mut list, island);
        }
    }
    list.sort_by_key(|pool| pool.islands[0][0]);
    for pool in list.drain(MAX_POOLS.min(list.len())..) {
        let why = format!("a plan considers {MAX_POOLS} kinds of devices");
        left_out.extend(pool.islands.iter().flatten().map(|&device| (device, why.clone())));
    }
    let first = |pool: &Pool| pool.islands[0][0];
    let way = |a: &Pool, b: &Pool| wire(machine, first(a), first(b));
    let between = list.iter().map(|a| list.iter().map(|b| way(a, b)).collect()).collect();
    Pools { list, between, left_out }
}

/// Devices with memory, bandwidth and a rate; the others with the reason.
fn usable(machine: &Machine) -> (Vec<usize>, Vec<(usize, String)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let shares = |device: &Device| device.shared_memory && device.kind != Kind::Cpu;
    let shared = machine.devices.iter().find(|device| shares(device) && device.memory_bytes.is_some());
    for (index, device) in machine.devices.iter().enumerate() {
        let missing = if device.kind == Kind::Cpu && shared.is_some() {
            Some("its memory is that of the accelerator beside it, which is faster")
        } else if device.memory_bytes.is_none() {
            Some("its memory is unknown: state memory_gb")
        } else if device.bandwidth_gbs.is_none() {
            Some("its memory bandwidth is unknown: state bandwidth_gbs")
        } else if device.dense.is_empty() {
            Some("no rate of matrix products is known: state dense.fp16 or another")
        } else {
            None
        };
        match missing {
            Some(why) => bad.push((index, why.to_owned())),
            None => good.push(index),
        }
    }
    (good, bad)
}

/// The same device up to its name.
fn alike(a: &Device, b: &Device) -> bool {
    let mut plain = b.clone();
    plain.name.clone_from(&a.name);
    plain.title.clone_from(&a.title);
    *a == plain
}

fn classes(machine: &Machine, usable: Vec<usize>) -> Vec<Vec<usize>> {
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for index in usable {
        let same = |class: &&mut Vec<usize>| alike(&machine.devices[class[0]], &machine.devices[index]);
        match classes.iter_mut().find(same) {
            Some(class) => class.push(index),
            None => classes.push(vec![index]),
        }
    }
    classes
}

/// An island with the ways inside it.
struct Island {
    members: Vec<usize>,
    topology: Topology,
    within: Wire,
}

fn wire(machine: &Machine, from: usize, to: usize) -> Wire {
    if from == to {
        return Wire::NONE;
    }
    // Every machine file is checked for a way between the host and each device, so there is one.
    machine.path(from, to).map_or(Wire { latency_us: 1e9, us_per_byte: 1.0 }, |path| Wire {
        latency_us: path.latency_us,
        us_per_byte: path.us_per_byte,
    })
}

fn islands(machine: &Machine, class: &[usize]) -> Vec<Island> {
    let mut rest = class.to_vec();
    let mut found = Vec::new();
    for fabric in &machine.fabrics {
        let members: Vec<usize> =
            rest.iter().copied().filter(|index| fabric.devices.contains(index)).collect();
        if members.len() < 2 {
            continue;
        }
        rest.retain(|index| !members.contains(index));
        let within =
            Wire { latency_us: fabric.latency_us + fabric.command_us, us_per_byte: fabric.us_per_byte() };
        found.push(Island { members, topology: fabric.topology, within });
    }
    if rest.len() > MOST_PAIRS {
        let alone =
            |index: usize| Island { members: vec![index], topology: Topology::Switch, within: Wire::NONE };
        found.extend(rest.into_iter().map(alone));
        return found;
    }
    found.extend(by_paths(machine, &rest));
    found
}

/// Islands of devices without a fabric: the closest pairs first, so that a socket's devices come before a machine's.
fn by_paths(machine: &Machine, rest: &[usize]) -> Vec<Island> {
    let mut found: Vec<Island> = Vec::new();
    let mut open = rest.to_vec();
    while let Some(&first) = open.first() {
        let key = |to: usize| wire(machine, first, to);
        let closest = open.iter().skip(1).map(|&to| key(to)).min_by(|a, b| a.us(1e6).total_cmp(&b.us(1e6)));
        let mut members = vec![first];
        if let Some(within) = closest {
            for &candidate in &open[1..] {
                let same = |&member: &usize| {
                    wire(machine, member, candidate) == within && wire(machine, candidate, member) == within
                };
                if members.iter().all(same) {
                    members.push(candidate);
                }
            }
        }
        open.retain(|index| !members.contains(index));
        let within = if members.len() > 1 { closest.unwrap_or(Wire::NONE) } else { Wire::NONE };
        found.push(Island { members, topology: Topology::Switch, within });
    }
    found
}

/// Adds an island to the pool it belongs to, or opens one.
fn join(machine: &Machine, list: &mut Vec<Pool>, island: Island) {
    let device = &machine.devices[island.members[0]];
    let fits = |pool: &Pool| -> Option<Wire> {
        let same = alike(&pool.device, device)
            && pool.island_size() == island.members.len()
            && (pool.inner, pool.within) == (island.topology, island.within);
        if !same {
            return None;
        }
        let across = wire(machine, pool.islands[0][0], island.members[0]);
        let each = |other: &Vec<usize>| {
            wire(machine, other[0], island.members[0]) == across
                && wire(machine, island.members[0], other[0]) == across
        };
        let agrees = pool.islands.len() == 1 || pool.across == across;
        (agrees && pool.islands.iter().all(each)).then_some(across)
    };
    let slot = list.iter().enumerate().find_map(|(index, pool)| fits(pool).map(|across| (index, across)));
    if let Some((index, across)) = slot {
        list[index].across = across;
        list[index].islands.push(island.members);
        return;
    }
    let bytes = device.memory_bytes.as_ref().map_or(0, |fact| fact.value) as f64;
    list.push(Pool {
        device: device.clone(),
        inner: island.topology,
        within: island.within,
        across: Wire::NONE,
        usable_bytes: bytes * factors::usable_memory(device.kind),
        islands: vec![island.members],
    });
}
