//! From placed calls to a plan: queues, transfers with their waits, values, arenas, weights.

use crate::call::{Arg, Call, Lowered, Target};
use crate::params::{SymbolIndex, exprs};
use crate::weights::{StoredWeight, WeightPool};
use partita_ir::diag::Diag;
use partita_ir::{DType, Dim, Graph, Regions, Source, Type, ValueId};
use partita_plan::{Device, Kernel, NO_VALUE, Plan, Port, Queue, Step, Storage, Symbol, Value, Wait, Why};
use std::collections::BTreeMap;

/// A device of the machine as the plan needs to know it.
#[derive(Clone)]
pub struct DeviceSpec {
    /// The plan's row; arena bytes are filled in here.
    pub device: Device,
    pub target: Target,
}

/// Where and when every region runs.
pub struct Placed<'a> {
    /// Device of every region.
    pub device_of: &'a [usize],
    /// Predicted start and duration of every region in microseconds; starts respect dependences.
    pub start_us: &'a [f64],
    pub time_us: &'a [f64],
    /// Why each region is where it is.
    pub why: &'a [Why],
    /// Predicted microseconds of a transfer: from, to, bytes.
    pub transfer_us: &'a dyn Fn(usize, usize, f64) -> f64,
    /// The device that holds inputs and outputs.
    pub host: usize,
    /// Whether the graph is a part of a program, which gives the symbols that no input binds.
    pub given: bool,
}

/// A plan and the weights behind it, in the order of their offsets.
pub struct Assembly {
    pub plan: Plan,
    pub weights: Vec<StoredWeight>,
}

/// Builds the plan.
///
/// # Errors
/// `C002` for a size whose symbol no input binds, and what the plan's own checks say.
pub fn assemble(
    graph: &Graph,
    regions: &Regions,
    lowered: &[Lowered],
    devices: &[DeviceSpec],
    placed: &Placed,
    bytes_of: &dyn Fn(&Type) -> f64,
) -> Result<Assembly, Vec<Diag>> {
    let symbols = symbols(graph, placed.given)?;
    let names: Vec<String> = symbols.iter().map(|s| s.name.clone()).collect();
    let index = |name: &str| names.iter().position(|n| n == name);
    let mut assembler = Assembler::new(graph, lowered, devices, placed, &index, bytes_of);
    assembler.inputs()?;
    for region in order(regions, placed) {
        assembler.region(region, &regions.list[region].name)?;
    }
    assembler.outputs()?;
    assembler.finish(symbols).map_err(|d| vec![d])
}

/// The plan's symbols: inputs bind them, or the program around the plan where it is only a part of one.
fn symbols(graph: &Graph, given: bool) -> Result<Vec<Symbol>, Vec<Diag>> {
    let places = graph.input_symbols();
    let symbol = |name: std::sync::Arc<str>| {
        let least = Dim::symbol(&name).at_least().unwrap_or(0).unsigned_abs();
        let bound = Symbol { name: name.to_string(), likely: 1, least, ..Default::default() };
        match places.get(&name).copied().flatten() {
            Some((input, axis)) => Ok(Symbol { input: input as u32, axis: axis as u32, ..bound }),
            None if given => Ok(Symbol { input: NO_VALUE, ..bound }),
            None => Err(vec![unbound(&name)]),
        }
    };
    graph.all_symbols().into_iter().map(symbol).collect()
}

fn unbound(name: &str) -> Diag {
    Diag::new("C002", format!("the size {name} is not bound by any input"))
        .hint(format!("fix it with --dim {name}=N"))
}

/// Regions by predicted start, ties in topological order.
fn order(regions: &Regions, placed: &Placed) -> Vec<usize> {
    let mut order: Vec<usize> = (0..regions.list.len()).collect();
    order.sort_by(|a, b| placed.start_us[*a].total_cmp(&placed.start_us[*b]).then(a.cmp(b)));
    order
}

/// A value's bytes on one device: the plan value, and the step after which they are there.
#[derive(Clone, Copy)]
struct Held {
    value: u32,
    /// Queue and number of its steps that must be done; `None` when there from the start.
    after: Option<(usize, u32)>,
}

struct Assembler<'a> {
    graph: &'a Graph,
    lowered: &'a [Lowered],
    devices: &'a [DeviceSpec],
    placed: &'a Placed<'a>,
    symbols: SymbolIndex<'a>,
    bytes_of: &'a dyn Fn(&Type) -> f64,
    plan: Plan,
    kernels: BTreeMap<Vec<u8>, u32>,
    pool: WeightPool<'a>,
    /// (plan value, weight) pairs to fill in at the end.
    weight_values: Vec<(u32, usize)>,
    /// The value whose bytes a graph value shares.
    roots: BTreeMap<ValueId, ValueId>,
    /// Devices on which each root is read by kernels, found before anything is emitted.
    readers: BTreeMap<ValueId, Vec<usize>>,
    held: BTreeMap<(usize, ValueId), Held>,
    aliases: BTreeMap<(u32, Vec<Dim>), u32>,
    weight_ids: BTreeMap<(usize, usize, Vec<Dim>), u32>,
    copy_queues: BTreeMap<(usize, usize), usize>,
    /// Per queue, the progress of other queues it has already waited for.
    waited: Vec<BTreeMap<usize, u32>>,
}

impl<'a> Assembler<'a> {
    fn new(
        graph: &'a Graph,
        lowered: &'a [Lowered],
        devices: &'a [DeviceSpec],
        placed: &'a Placed<'a>,
        symbols: SymbolIndex<'a>,
        bytes_of: &'a dyn Fn(&Type) -> f64,
    ) -> Self {
        let mut plan = Plan { name: graph.name.clone(), ..Default::default() };
        for (n, spec) in devices.iter().enumerate() {
            plan.devices.push(spec.device.clone());
            plan.queues.push(Queue {
                name: spec.device.name.clone(),
                device: n as u32,
                from: n as u32,
                ..Default::default()
            });
        }
        let mut assembler = Self {
            graph,
            lowered,
            devices,
            placed,
            symbols,
            bytes_of,
            waited: vec![BTreeMap::new(); devices.len()],
            plan,
            kernels: BTreeMap::new(),
            pool: WeightPool::default(),
            weight_values: Vec::new(),
            roots: lowered.iter().flat_map(|l| l.aliases.iter().copied()).collect(),
            readers: BTreeMap::new(),
            held: BTreeMap::new(),
            aliases: BTreeMap::new(),
            weight_ids: BTreeMap::new(),
            copy_queues: BTreeMap::new(),
        };
        assembler.find_readers();
        assembler
    }

    fn root(&self, mut value: ValueId) -> ValueId {
        while let Some(next) = self.roots.get(&value) {
            value = *next;
        }
        value
    }

    fn find_readers(&mut self) {
        let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        let mut add = |root: ValueId, device: usize| {
            let devices = readers.entry(root).or_default();
            if !devices.contains(&device) {
                devices.push(device);
            }
        };
        for (region, lowered) in self.lowered.iter().enumerate() {
            for arg in lowered.calls.iter().flat_map(|c| c.operands.iter().flatten()) {
                add(self.root(arg.value), self.placed.device_of[region]);
            }
        }
        for (_, value) in self.graph.outputs() {
            add(self.root(value), self.placed.host);
        }
        self.readers = readers;
    }

    fn shape(&self, dims: &[Dim]) -> Result<Vec<partita_plan::DimExpr>, Vec<Diag>> {
        exprs(dims, self.symbols).ok_or_else(|| {
            let mut names = std::collections::BTreeSet::new();
            dims.iter().for_each(|d| d.symbols(&mut names));
            names.iter().filter(|n| (self.symbols)(n).is_none()).map(|n| unbound(n)).collect()
        })
    }

    fn push_value(&mut self, value: Value) -> u32 {
        self.plan.values.push(value);
        (self.plan.values.len() - 1) as u32
    }

    /// A new arena value on `device` for graph value `value`, in the shape `dims`.
    fn arena_value(&mut self, device: usize, value: ValueId, dims: &[Dim]) -> Result<u32, Vec<Diag>> {
        let shape = self.shape(dims)?;
        let graph_value = self.graph.value(value);
        let known = self.plan.values.iter().any(|v| v.name == *graph_value.name);
        let name = if known {
            format!("{}@{}", graph_value.name, self.devices[device].device.name)
        } else {
            graph_value.name.to_string()
        };
        Ok(self.push_value(Value {
            name,
            dtype: graph_value.ty.dtype as i32,
            shape,
            device: device as u32,
            storage: Storage::Arena as i32,
            ..Default::default()
        }))
    }

    fn inputs(&mut self) -> Result<(), Vec<Diag>> {
        for value in self.graph.inputs().to_vec() {
            let graph_value = self.graph.value(value);
            let id = self.arena_value(self.placed.host, value, &graph_value.ty.shape.clone())?;
            self.plan.inputs.push(Port { name: graph_value.name.to_string(), value: id });
            self.held.insert((self.placed.host, value), Held { value: id, after: None });
            self.send(self.placed.host, value, 0.0)?;
        }
        Ok(())
    }

    /// Copies a root that was just produced on `from` to every other device that reads it.
    fn send(&mut self, from: usize, root: ValueId, ready_us: f64) -> Result<(), Vec<Diag>> {
        for to in self.readers.get(&root).cloned().unwrap_or_default() {
            if to != from && !self.held.contains_key(&(to, root)) {
                self.transfer(from, to, root, ready_us)?;
            }
        }
        Ok(())
    }

    fn transfer(&mut self, from: usize, to: usize, root: ValueId, ready_us: f64) -> Result<(), Vec<Diag>> {
        let queue = self.copy_queue(from, to);
        let source = self.held[&(from, root)];
        let ty = self.graph.ty(root).clone();
        // The kernel may have written it in another shape.
        let from_value = self.seen_as(source.value, root, &ty.shape)?;
        let target = self.arena_value(to, root, &ty.shape)?;
        let time_us = (self.placed.transfer_us)(from, to, (self.bytes_of)(&ty));
        let busy_until = self.plan.queues[queue].steps.last().map_or(0.0, |s| s.start_us + s.time_us);
        let step = Step {
            name: format!("copy {}", self.graph.value(root).name),
            inputs: vec![from_value],
            outputs: vec![target],
            waits: self.waits(queue, &[source]),
            start_us: busy_until.max(ready_us),
            time_us,
            ..Default::default()
        };
        self.plan.queues[queue].steps.push(step);
        let after = Some((queue, self.plan.queues[queue].steps.len() as u32));
        self.held.insert((to, root), Held { value: target, after });
        Ok(())
    }

    fn copy_queue(&mut self, from: usize, to: usize) -> usize {
        if let Some(queue) = self.copy_queues.get(&(from, to)) {
            return *queue;
        }
        let name = format!("{}->{}", self.devices[from].device.name, self.devices[to].device.name);
        let queue = Queue { name, device: to as u32, from: from as u32, copies: true, ..Default::default() };
        self.plan.queues.push(queue);
        self.waited.push(BTreeMap::new());
        self.copy_queues.insert((from, to), self.plan.queues.len() - 1);
        self.plan.queues.len() - 1
    }

    /// Waits that `queue` needs before it may read `sources`, less those it has made already.
    fn waits(&mut self, queue: usize, sources: &[Held]) -> Vec<Wait> {
        let mut needed: BTreeMap<usize, u32> = BTreeMap::new();
        for (on, steps) in sources.iter().filter_map(|s| s.after).filter(|(on, _)| *on != queue) {
            let most = needed.entry(on).or_default();
            *most = (*most).max(steps);
        }
        let waited = &mut self.waited[queue];
        needed.retain(|on, steps| waited.get(on).is_none_or(|w| w < steps));
        waited.extend(needed.iter().map(|(on, steps)| (*on, *steps)));
        needed.into_iter().map(|(queue, steps)| Wait { queue: queue as u32, steps }).collect()
    }

    fn region(&mut self, region: usize, name: &str) -> Result<(), Vec<Diag>> {
        let lowered: &'a [Lowered] = self.lowered;
        let calls = &lowered[region].calls;
        let device = self.placed.device_of[region];
        let share = self.placed.time_us[region] / calls.len().max(1) as f64;
        for (n, call) in calls.iter().enumerate() {
            let start_us = self.placed.start_us[region] + share * n as f64;
            let step = Step {
                name: name.to_owned(),
                start_us,
                time_us: share,
                why: (n == 0).then(|| self.placed.why[region].clone()),
                ..Default::default()
            };
            self.call(device, call, step)?;
        }
        let end_us = self.placed.start_us[region] + self.placed.time_us[region];
        for result in calls.iter().flat_map(|c| &c.results) {
            self.send(device, self.root(result.value), end_us)?;
        }
        Ok(())
    }

    fn call(&mut self, device: usize, call: &'a Call, mut step: Step) -> Result<(), Vec<Diag>> {
        step.kernel = self.kernel(&call.kernel);
        let mut sources = Vec::new();
        for (n, operand) in call.operands.iter().enumerate() {
            step.inputs.push(match operand {
                None => NO_VALUE,
                Some(arg) => self.operand(device, call, n, arg, &mut sources)?,
            });
        }
        step.waits = self.waits(device, &sources);
        for result in &call.results {
            step.outputs.push(self.result(device, result)?);
        }
        self.plan.queues[device].steps.push(step);
        let after = Some((device, self.plan.queues[device].steps.len() as u32));
        for result in &call.results {
            if let Some(held) = self.held.get_mut(&(device, result.value)) {
                held.after = after;
            }
        }
        Ok(())
    }

    fn kernel(&mut self, kernel: &Kernel) -> u32 {
        use prost::Message;
        let next = self.plan.kernels.len() as u32;
        let id = *self.kernels.entry(kernel.encode_to_vec()).or_insert(next);
        if id == next {
            self.plan.kernels.push(kernel.clone());
        }
        id
    }

    fn operand(
        &mut self,
        device: usize,
        call: &'a Call,
        n: usize,
        arg: &Arg,
        sources: &mut Vec<Held>,
    ) -> Result<u32, Vec<Diag>> {
        let root = self.root(arg.value);
        let dims = arg.view.clone().unwrap_or_else(|| self.graph.ty(arg.value).shape.clone());
        if let Source::Const(_) = self.graph.value(root).source {
            return self.weight(device, call, n, root, &dims);
        }
        let held = self.held.get(&(device, root)).copied().ok_or_else(|| {
            vec![
                Diag::new("C003", "a value is read before it is produced")
                    .at_value(&*self.graph.value(root).name),
            ]
        })?;
        sources.push(held);
        self.seen_as(held.value, root, &dims)
    }

    /// The plan value for `value`'s bytes in shape `dims`: itself, or an alias.
    fn seen_as(&mut self, value: u32, root: ValueId, dims: &[Dim]) -> Result<u32, Vec<Diag>> {
        let shape = self.shape(dims)?;
        let own = &self.plan.values[value as usize];
        if own.shape == shape {
            return Ok(value);
        }
        if let Some(id) = self.aliases.get(&(value, dims.to_vec())) {
            return Ok(*id);
        }
        let alias = Value {
            name: self.graph.value(root).name.to_string(),
            shape,
            storage: Storage::Alias as i32,
            alias_of: value,
            offset: 0,
            ..own.clone()
        };
        let id = self.push_value(alias);
        self.aliases.insert((value, dims.to_vec()), id);
        Ok(id)
    }

    fn weight(
        &mut self,
        device: usize,
        call: &'a Call,
        n: usize,
        root: ValueId,
        dims: &[Dim],
    ) -> Result<u32, Vec<Diag>> {
        let graph: &'a Graph = self.graph;
        let Source::Const(tensor) = &graph.value(root).source else {
            return Err(vec![Diag::new("C003", "a weight is not a constant")]);
        };
        let own = call.operands[n].as_ref().is_some_and(|a| a.value == root && a.view.is_none());
        let weight = if own {
            self.pool.packed(root, tensor, self.devices[device].target, &call.kernel, n)
        } else {
            self.pool.plain(root, tensor)
        };
        let key = (device, weight, dims.to_vec());
        if let Some(id) = self.weight_ids.get(&key) {
            return Ok(*id);
        }
        let id = self.weight_value(device, root, tensor.dtype(), dims, weight)?;
        self.weight_ids.insert(key, id);
        Ok(id)
    }

    fn weight_value(
        &mut self,
        device: usize,
        root: ValueId,
        dtype: DType,
        dims: &[Dim],
        weight: usize,
    ) -> Result<u32, Vec<Diag>> {
        let shape = self.shape(dims)?;
        let id = self.push_value(Value {
            name: self.graph.value(root).name.to_string(),
            dtype: dtype as i32,
            shape,
            device: device as u32,
            storage: Storage::Weight as i32,
            ..Default::default()
        });
        self.weight_values.push((id, weight));
        Ok(id)
    }

    /// A new value for a result, in the shape the kernel sees; readers that see another one get an alias.
    fn result(&mut self, device: usize, arg: &Arg) -> Result<u32, Vec<Diag>> {
        let dims = arg.view.clone().unwrap_or_else(|| self.graph.ty(arg.value).shape.clone());
        let id = self.arena_value(device, arg.value, &dims)?;
        self.held.insert((device, arg.value), Held { value: id, after: None });
        Ok(id)
    }

    fn outputs(&mut self) -> Result<(), Vec<Diag>> {
        let outputs: Vec<(String, ValueId)> = self.graph.outputs().map(|(n, v)| (n.to_owned(), v)).collect();
        for (name, value) in outputs {
            let root = self.root(value);
            let computed = matches!(self.graph.value(root).source, Source::Node(..));
            let id = if computed {
                let dims = self.graph.ty(value).shape.clone();
                let held =
                    self.held.get(&(self.placed.host, root)).copied().ok_or_else(|| {
                        vec![Diag::new("C003", "an output is not produced").at_value(&name)]
                    })?;
                self.seen_as(held.value, root, &dims)?
            } else {
                self.copied_output(value)?
            };
            self.plan.outputs.push(Port { name, value: id });
        }
        Ok(())
    }

    /// An input or constant that is also an output is copied, so that outputs always are arena values.
    fn copied_output(&mut self, value: ValueId) -> Result<u32, Vec<Diag>> {
        let host = self.placed.host;
        let root = self.root(value);
        let graph: &'a Graph = self.graph;
        let dims = graph.ty(value).shape.clone();
        let source = match &graph.value(root).source {
            Source::Const(tensor) => {
                let weight = self.pool.plain(root, tensor);
                self.weight_value(host, root, tensor.dtype(), &dims, weight)?
            }
            _ => {
                let held = self.held[&(host, root)].value;
                self.seen_as(held, root, &dims)?
            }
        };
        let target = self.arena_value(host, value, &dims)?;
        let kernel = self.kernel(&Kernel { library: "copy".to_owned(), ..Default::default() });
        let start_us = self.plan.queues[host].steps.last().map_or(0.0, |s| s.start_us + s.time_us);
        let step = Step {
            name: format!("copy {}", self.graph.value(value).name),
            kernel,
            inputs: vec![source],
            outputs: vec![target],
            start_us,
            ..Default::default()
        };
        self.plan.queues[host].steps.push(step);
        Ok(target)
    }

    fn finish(mut self, symbols: Vec<Symbol>) -> Result<Assembly, Diag> {
        let (stored, weight_bytes) = self.pool.finish();
        for (value, weight) in &self.weight_values {
            let (value, weight) = (&mut self.plan.values[*value as usize], &stored[*weight]);
            value.offset = weight.offset_bytes;
            value.stored_bytes = weight.bytes.as_ref().len() as u64;
            value.layout.clone_from(&weight.layout);
        }
        self.plan.weight_bytes = weight_bytes;
        self.plan.symbols = symbols;
        crate::arenas::place(&mut self.plan)?;
        let mut weights = stored;
        // An empty weight lies where the next one begins; only one of them has bytes to write.
        weights.retain(|w| !w.bytes.as_ref().is_empty());
        weights.sort_by_key(|w| w.offset_bytes);
        weights.dedup_by_key(|w| w.offset_bytes);
        Ok(Assembly { plan: self.plan, weights })
    }
}
