//! A loaded plan: check, open devices, bind shapes, run, read outputs.
#![allow(unsafe_code, reason = "inputs and outputs are lent to devices by address")]

use crate::bind;
use crate::driver::{Bound, DriverFactory, Lent, WeightBytes};
use crate::error::RuntimeError;
use crate::execute::{Devices, Executor, PANIC_CODE, guarded};
use crate::lend::Loans;
use crate::source::{self, PlanSource};
use crate::trace::{Timeline, TraceRow, measured_rows};
use partita_plan::check::{Checked, check};
use partita_plan::limits::MAX_ARENA_BYTES;
use partita_plan::{ElementType, NO_VALUE, Plan, Port, Symbol, text};
use std::ops::Deref;
use std::ptr::null_mut;
use std::sync::{Arc, RwLockReadGuard};

/// The kinds of devices a program can open.
#[derive(Clone, Default)]
pub struct Drivers {
    factories: Vec<Arc<dyn DriverFactory>>,
}

impl Drivers {
    /// No driver.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver; of two with one name the later counts.
    #[must_use]
    pub fn with(mut self, factory: Arc<dyn DriverFactory>) -> Self {
        self.factories.push(factory);
        self
    }

    /// The driver of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn DriverFactory>> {
        self.factories.iter().rev().find(|f| f.name() == name)
    }

    /// Names of all drivers, in order of addition.
    pub fn names(&self) -> Vec<&'static str> {
        self.factories.iter().map(|f| f.name()).collect()
    }
}

/// How to run a plan.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Threads of every device that the plan gives threads to, instead of the plan's number.
    pub threads: Option<u32>,
    /// Record when each step runs.
    pub trace: bool,
    /// Compare the weights with their checksum; reads all of them.
    pub verify_weights: bool,
    /// Largest arena of one device in bytes.
    pub max_arena_bytes: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: None, trace: false, verify_weights: false, max_arena_bytes: MAX_ARENA_BYTES }
    }
}

/// An input or output as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub dtype: ElementType,
    /// Dimensions; `None` where one depends on symbols.
    pub shape: Vec<Option<usize>>,
    /// Type and shape as text, as `f32[batch, 3]`.
    pub text: String,
}

/// Output bytes readable in place; holds the devices until dropped.
pub struct OutputBytes<'a> {
    devices: RwLockReadGuard<'a, Devices>,
    device: usize,
    value: usize,
}

impl Deref for OutputBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.devices[self.device].host_bytes(self.value).unwrap_or_default()
    }
}

/// A plan on opened devices.
pub struct Session {
    plan: Arc<Plan>,
    checked: Checked,
    weights: WeightBytes,
    options: SessionOptions,
    executor: Executor,
    inputs: Vec<PortInfo>,
    outputs: Vec<PortInfo>,
    /// The shapes the devices are prepared for.
    bound: Option<Arc<Bound>>,
    /// Symbols of the inputs at hand; a field so that a run allocates nothing.
    symbols: Vec<i64>,
    /// Symbols that a program gives, at their places in the plan.
    given: Vec<i64>,
    /// Inputs and outputs in the caller's memory.
    loans: Loans,
    /// Whether outputs hold a result.
    ran: bool,
}

impl Session {
    /// Decodes and checks a plan, opens its devices, and binds it where its shapes are constant.
    ///
    /// # Errors
    /// `R001` unreadable file, `R002` no such driver, `R006` memory, `R010` threads; `L...` for a plan that is
    /// damaged; what drivers return.
    pub fn load(
        source: impl Into<PlanSource>,
        drivers: &Drivers,
        options: SessionOptions,
    ) -> Result<Self, RuntimeError> {
        let (plan, weights) = source::open(source.into(), options.verify_weights)?;
        let checked = check(&plan)?;
        Self::with(plan, checked, weights, drivers, options)
    }

    /// A session for a plan that was checked.
    pub(crate) fn with(
        mut plan: Plan,
        checked: Checked,
        weights: WeightBytes,
        drivers: &Drivers,
        options: SessionOptions,
    ) -> Result<Self, RuntimeError> {
        if let Some(threads) = options.threads {
            plan.devices.iter_mut().filter(|d| d.threads > 0).for_each(|d| d.threads = threads.max(1));
        }
        let plan = Arc::new(plan);
        let executor = Executor::new(&plan, open_devices(&plan, drivers)?)?;
        let mut session = Self {
            inputs: infos(&plan, &plan.inputs),
            outputs: infos(&plan, &plan.outputs),
            symbols: vec![0; plan.symbols.len()],
            given: vec![0; plan.symbols.len()],
            plan,
            checked,
            weights,
            options,
            executor,
            bound: None,
            loans: Loans::default(),
            ran: false,
        };
        if session.symbols.is_empty() {
            session.prepare()?;
        }
        Ok(session)
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What `run` takes, in order.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// What `output` returns, in order.
    pub fn outputs(&self) -> &[PortInfo] {
        &self.outputs
    }

    /// The sizes and offsets of the current shapes, once bound.
    pub fn bound(&self) -> Option<&Bound> {
        self.bound.as_deref()
    }

    /// Sets the symbols that no input binds, at their places in the plan.
    pub(crate) fn give(&mut self, symbols: impl Iterator<Item = i64>) {
        self.given.iter_mut().zip(symbols).for_each(|(slot, value)| *slot = value);
    }

    /// Prepares the devices for inputs of these shapes, so that the next run need not.
    ///
    /// # Errors
    /// `R003`, `R004` wrong number or shape of inputs, `R006`, `R007` sizes; what drivers return.
    pub fn bind(&mut self, shapes: &[&[usize]]) -> Result<(), RuntimeError> {
        self.bind_shapes(shapes.len(), |index| shapes[index])
    }

    /// Runs the plan on `inputs`: bytes (row-major, little endian) and shape of each.
    ///
    /// Inputs of other shapes than last time bind the plan anew; otherwise nothing is allocated on the host, except
    /// when inputs lie elsewhere than before: large ones that come from the same memory again are read there
    /// instead of being copied. After an error the session can run again.
    ///
    /// # Errors
    /// As [`Session::bind`], `R005` wrong number of bytes, `R009` a driver panicked; what drivers return.
    pub fn run(&mut self, inputs: &[(&[u8], &[usize])]) -> Result<(), RuntimeError> {
        self.run_once(inputs, &mut [])
    }

    /// As [`Session::run`], with every output written to the caller's memory, in order. Large outputs whose memory
    /// was given before are computed there; the others are copied at the end. The session has none of them
    /// afterwards.
    ///
    /// # Errors
    /// As [`Session::run`]; `R015` for a wrong number or size of outputs. Their contents are then undefined.
    pub fn run_into(
        &mut self,
        inputs: &[(&[u8], &[usize])],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), RuntimeError> {
        self.bind_shapes(inputs.len(), |index| inputs[index].1)?;
        self.outputs_fit(outputs)?;
        self.run_once(inputs, outputs)?;
        for (index, bytes) in outputs.iter_mut().enumerate() {
            if !self.loans.output(index) {
                self.output(index, bytes)?;
            }
        }
        self.ran = false;
        Ok(())
    }

    fn run_once(
        &mut self,
        inputs: &[(&[u8], &[usize])],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), RuntimeError> {
        self.bind_shapes(inputs.len(), |index| inputs[index].1)?;
        self.ran = false;
        self.inputs_fit(inputs)?;
        let place = || "the inputs or outputs of the run".to_string();
        let result = self.lend(inputs, outputs).and_then(|()| guarded(place, || self.upload(inputs)));
        let result = result.and_then(|()| self.executor.run()).and(guarded(place, || self.finish()));
        // A driver that panicked may have lost what `bind` prepared.
        if result.as_ref().is_err_and(|e| e.code == PANIC_CODE) {
            self.bound = None;
        }
        result?;
        self.ran = true;
        Ok(())
    }

    /// Shape of output `index` in the last run.
    ///
    /// # Errors
    /// `R008` without a successful run or such an output.
    pub fn output_shape(&self, index: usize) -> Result<&[usize], RuntimeError> {
        let (bound, value) = self.result(index)?;
        Ok(&bound.shapes[value])
    }

    /// Copies output `index` of the last run into `bytes` and returns its shape.
    ///
    /// # Errors
    /// `R008` without a successful run, such an output, or as many bytes as it has; what the driver returns.
    pub fn output(&self, index: usize, bytes: &mut [u8]) -> Result<&[usize], RuntimeError> {
        let (bound, value) = self.result(index)?;
        if bytes.len() != bound.sizes_bytes[value] {
            let (has, needs) = (bytes.len(), bound.sizes_bytes[value]);
            return Err(no_output(index, format!("the buffer has {has} bytes, the output {needs}")));
        }
        if !bytes.is_empty() {
            self.executor.devices()[self.device(value)].download(value, bytes)?;
        }
        Ok(&bound.shapes[value])
    }

    /// Output `index` of the last run as a new vector of bytes.
    ///
    /// # Errors
    /// As [`Session::output`].
    pub fn output_vec(&self, index: usize) -> Result<Vec<u8>, RuntimeError> {
        let (bound, value) = self.result(index)?;
        let mut bytes = vec![0; bound.sizes_bytes[value]];
        self.output(index, &mut bytes)?;
        Ok(bytes)
    }

    /// Output `index` of the last run in place; `None` where the host cannot read the device's memory.
    ///
    /// # Errors
    /// `R008` without a successful run or such an output.
    pub fn output_bytes(&self, index: usize) -> Result<Option<OutputBytes<'_>>, RuntimeError> {
        let (_, value) = self.result(index)?;
        let (devices, device) = (self.executor.devices(), self.device(value));
        let readable = devices[device].host_bytes(value).is_some();
        Ok(readable.then_some(OutputBytes { devices, device, value }))
    }

    /// Records when each step runs, or no longer does, from the next run on.
    pub fn set_trace(&mut self, trace: bool) {
        self.options.trace = trace;
        self.executor.set_trace(trace);
    }

    /// When each step of the last run started and ended by the clock; empty unless `options.trace`.
    pub fn trace(&self) -> Vec<TraceRow> {
        measured_rows(&self.plan, &self.executor.spans())
    }

    /// The last run on the simulated clock: predicted times for simulated devices and their links, measured
    /// ones elsewhere (predicted ones where tracing was off).
    pub fn timeline(&self) -> Timeline {
        let simulated: Vec<bool> = self.executor.devices().iter().map(|d| d.is_simulated()).collect();
        Timeline::simulate(&self.plan, &simulated, &self.executor.spans())
    }

    fn bind_shapes<'a>(
        &mut self,
        count: usize,
        shape: impl Fn(usize) -> &'a [usize],
    ) -> Result<(), RuntimeError> {
        if count != self.plan.inputs.len() {
            return Err(RuntimeError::new(
                "R003",
                format!("model {}", self.plan.name),
                format!("{count} inputs were given, the model takes {}", self.plan.inputs.len()),
                "give every input once, in the model's order",
            ));
        }
        self.symbols.copy_from_slice(&self.given);
        for (slot, symbol) in self.symbols.iter_mut().zip(&self.plan.symbols) {
            if symbol.input == NO_VALUE {
                continue;
            }
            let (input, axis) = (symbol.input as usize, symbol.axis as usize);
            let size = shape(input).get(axis).and_then(|&s| i64::try_from(s).ok());
            *slot = size.ok_or_else(|| wrong_shape(&self.inputs[input], shape(input)))?;
            if slot.unsigned_abs() < symbol.least {
                return Err(too_small(&self.inputs[input], symbol, *slot));
            }
        }
        if self.bound.as_ref().is_none_or(|b| b.symbols != self.symbols) {
            self.prepare()?;
        }
        let Some(bound) = &self.bound else { return Ok(()) };
        for (index, port) in self.plan.inputs.iter().enumerate() {
            if bound.shapes[port.value as usize] != shape(index) {
                return Err(wrong_shape(&self.inputs[index], shape(index)));
            }
        }
        Ok(())
    }

    /// Binds the plan for `self.symbols`. On failure nothing is bound.
    fn prepare(&mut self) -> Result<(), RuntimeError> {
        self.bound = None;
        self.ran = false;
        let limit = self.options.max_arena_bytes;
        let bound = bind::bind(&self.plan, &self.checked.roots, &self.symbols, &self.weights, limit)?;
        let bound = Arc::new(bound);
        for (index, device) in self.executor.devices_mut().iter_mut().enumerate() {
            guarded(|| format!("device {}", self.plan.devices[index].name), || device.bind(&bound))?;
        }
        self.executor.prepare(&bound.sizes_bytes, self.options.trace);
        self.loans = Loans::new(&bound, &self.checked.roots);
        self.bound = Some(bound);
        Ok(())
    }

    fn inputs_fit(&self, inputs: &[(&[u8], &[usize])]) -> Result<(), RuntimeError> {
        let Some(bound) = &self.bound else { return Ok(()) };
        for (index, ((bytes, _), port)) in inputs.iter().zip(&self.plan.inputs).enumerate() {
            let needs = bound.sizes_bytes[port.value as usize];
            if bytes.len() != needs {
                return Err(wrong_bytes(&self.inputs[index], bytes.len(), needs));
            }
        }
        Ok(())
    }

    fn outputs_fit(&self, outputs: &[&mut [u8]]) -> Result<(), RuntimeError> {
        let Some(bound) = &self.bound else { return Ok(()) };
        let needed = self.plan.outputs.iter().map(|port| bound.sizes_bytes[port.value as usize]);
        if needed.eq(outputs.iter().map(|bytes| bytes.len())) {
            return Ok(());
        }
        Err(RuntimeError::new(
            "R015",
            format!("model {}", self.plan.name),
            "the memory for outputs does not have their number and sizes",
            "give a buffer of the right size for every output, in the model's order",
        ))
    }

    /// Moves inputs and outputs into the caller's memory, or back, where that pays; sizes were compared.
    fn lend(&mut self, inputs: &[(&[u8], &[usize])], outputs: &mut [&mut [u8]]) -> Result<(), RuntimeError> {
        let input = |index: usize| inputs[index].0.as_ptr().cast_mut();
        let mut output = |index: usize| outputs.get_mut(index).map_or(null_mut(), |bytes| bytes.as_mut_ptr());
        self.loans.decide(input, &mut output);
        let plan = &self.plan;
        let device = |lent: &Lent| plan.values[lent.value].device as usize;
        let groups = self.loans.changes.chunk_by(|a, b| device(a) == device(b));
        let mut refused = Vec::new();
        let mut devices = self.executor.devices_mut();
        for values in groups {
            let at = device(&values[0]);
            let place = || format!("device {}", plan.devices[at].name);
            // SAFETY: inputs and outputs are borrowed from the caller for the run. Before each run every value lies
            // where that run's slices are, or in the device's own memory, and what was lent is not touched outside
            // of a run: no input shares bytes with an output, and lent outputs are not read.
            match guarded(place, || unsafe { devices[at].lend(values) }) {
                Ok(true) => {}
                Ok(false) => refused.push(at),
                Err(error) => {
                    self.bound = None;
                    return Err(error);
                }
            }
        }
        drop(devices);
        refused.into_iter().for_each(|at| self.loans.refuse(at));
        Ok(())
    }

    /// Copies the inputs that are not read in place.
    fn upload(&self, inputs: &[(&[u8], &[usize])]) -> Result<(), RuntimeError> {
        let devices = self.executor.devices();
        for (index, ((bytes, _), port)) in inputs.iter().zip(&self.plan.inputs).enumerate() {
            let value = port.value as usize;
            if !bytes.is_empty() && !self.loans.input(index) {
                devices[self.device(value)].upload(value, bytes)?;
            }
        }
        Ok(())
    }

    /// Waits for all devices; the first failure is returned, but every device is waited for.
    fn finish(&self) -> Result<(), RuntimeError> {
        let devices = self.executor.devices();
        let mut result = Ok(());
        for device in devices.iter() {
            result = result.and(device.finish());
        }
        result
    }

    fn device(&self, value: usize) -> usize {
        self.plan.values[value].device as usize
    }

    fn result(&self, index: usize) -> Result<(&Bound, usize), RuntimeError> {
        let port = self.plan.outputs.get(index);
        let port = port.ok_or_else(|| no_output(index, "the model has no such output".to_string()))?;
        match &self.bound {
            Some(bound) if self.ran => Ok((bound, port.value as usize)),
            _ => {
                Err(no_output(index, "there is no result: the last run failed or none was made".to_string()))
            }
        }
    }
}

fn open_devices(plan: &Arc<Plan>, drivers: &Drivers) -> Result<Devices, RuntimeError> {
    let open = |(index, device): (usize, &partita_plan::Device)| match drivers.get(&device.driver) {
        Some(factory) => guarded(|| format!("device {}", device.name), || factory.open(plan, index)),
        None => Err(RuntimeError::new(
            "R002",
            format!("device {}", device.name),
            format!("this program has no driver {:?}, only {:?}", device.driver, drivers.names()),
            "compile the model for a machine whose devices this program can drive",
        )),
    };
    plan.devices.iter().enumerate().map(open).collect()
}

pub(crate) fn infos(plan: &Plan, ports: &[Port]) -> Vec<PortInfo> {
    let info = |port: &Port| {
        let value = &plan.values[port.value as usize];
        let size = |d: &partita_plan::DimExpr| {
            let size = if d.is_symbolic() { None } else { d.eval(&[]).ok() };
            size.and_then(|s| usize::try_from(s).ok())
        };
        PortInfo {
            name: port.name.clone(),
            dtype: ElementType::try_from(value.dtype).unwrap_or(ElementType::F32),
            shape: value.shape.iter().map(size).collect(),
            text: text::type_text(plan, value),
        }
    };
    ports.iter().map(info).collect()
}

fn wrong_shape(input: &PortInfo, shape: &[usize]) -> RuntimeError {
    RuntimeError::new(
        "R004",
        format!("input {}", input.name),
        format!("its shape {shape:?} does not fit {}", input.text),
        "give the shape the model takes; dimensions of one name must be equal everywhere",
    )
}

fn too_small(input: &PortInfo, symbol: &Symbol, size: i64) -> RuntimeError {
    RuntimeError::new(
        "R014",
        format!("input {}", input.name),
        format!("its size {} is {size}, the plan was made for at least {}", symbol.name, symbol.least),
        format!("compile with --dim {}={size} for inputs of this size", symbol.name),
    )
}

fn wrong_bytes(input: &PortInfo, has: usize, needs: usize) -> RuntimeError {
    RuntimeError::new(
        "R005",
        format!("input {}", input.name),
        format!("{has} bytes were given, {} of this shape has {needs}", input.text),
        "give elements of the type the model takes",
    )
}

fn no_output(index: usize, what: String) -> RuntimeError {
    RuntimeError::new("R008", format!("output {index}"), what, "run the session, then ask for its outputs")
}
