//! The driver: prepared dispatches, commands that are batched until their results are wanted, copies.
//!
//! `launch` records; commands are submitted every few steps and before anything that the host waits for or
//! writes. The queue keeps order, so a later `download` sees every earlier step.

use crate::gpu::{Gpu, Pipe, lock};
use crate::kernels::generate;
use crate::memory::Memory;
use crate::step::{Dispatch, Operand, Slot, Step};
use partita_plan::{ElementType, Kernel, NO_VALUE, Plan};
use partita_runtime::{Bound, Driver, DriverFactory, RuntimeError};
use std::sync::{Arc, Mutex};

/// Steps recorded before they are submitted: enough to hide the cost of submitting, few enough to start early.
const STEPS_PER_SUBMIT: usize = 16;
/// Bytes of the flag word that follows a downloaded value.
const FLAG_BYTES: u64 = 4;

/// Opens adapters through wgpu.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuFactory;

impl WgpuFactory {
    /// A factory; nothing is opened yet.
    pub fn new() -> Self {
        Self
    }
}

impl DriverFactory for WgpuFactory {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn open(&self, plan: &Arc<Plan>, device: usize) -> Result<Box<dyn Driver>, RuntimeError> {
        let Some(entry) = plan.devices.get(device) else {
            let what = format!("the plan has no device {device}");
            return Err(RuntimeError::new("G005", "a plan", what, "compile the model again"));
        };
        let gpu = Gpu::open(&entry.name, &entry.adapter)?;
        let flag = gpu.buffer(
            "flag",
            FLAG_BYTES,
            wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        );
        gpu.check(&entry.name)?;
        Ok(Box::new(WgpuDriver {
            gpu,
            device,
            name: entry.name.clone(),
            flag,
            memory: Memory::default(),
            queues: Vec::new(),
            steps: Vec::new(),
            pending: Mutex::new(Pending::default()),
            staging: Mutex::new(None),
        }))
    }
}

/// A dispatch ready to be recorded.
struct Launch {
    pipe: Arc<Pipe>,
    group: wgpu::BindGroup,
    groups: [u32; 3],
}

/// Commands recorded and not yet submitted. The pass is dropped before its encoder is finished.
#[derive(Default)]
struct Pending {
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    steps: usize,
}

/// One opened adapter.
struct WgpuDriver {
    gpu: Gpu,
    device: usize,
    name: String,
    flag: wgpu::Buffer,
    memory: Memory,
    /// Dispatches by queue of the plan and step.
    queues: Vec<Vec<Vec<Launch>>>,
    /// Places of the prepared steps; the flag word holds an index into it plus one.
    steps: Vec<String>,
    pending: Mutex<Pending>,
    staging: Mutex<Option<wgpu::Buffer>>,
}

impl Driver for WgpuDriver {
    fn bind(&mut self, bound: &Arc<Bound>) -> Result<(), RuntimeError> {
        self.flush(&mut lock(&self.pending))?;
        self.queues.clear();
        self.steps.clear();
        self.memory.bind(&self.gpu, bound, self.device, &self.name)?;
        self.gpu.write(&self.flag, 0, &[0; FLAG_BYTES as usize]);
        for queue in &bound.plan.queues {
            let ours = !queue.copies && queue.device as usize == self.device;
            let mut launches = Vec::new();
            for step in queue.steps.iter().filter(|_| ours) {
                launches.push(self.prepare(bound, step)?);
            }
            self.queues.push(launches);
        }
        Ok(())
    }

    fn launch(&self, queue: usize, step: usize) -> Result<(), RuntimeError> {
        let Some(launches) = self.queues.get(queue).and_then(|q| q.get(step)) else {
            return Err(self.error(format!("step {step} of queue {queue} is not prepared on this device")));
        };
        let mut pending = lock(&self.pending);
        let pass = self.pass(&mut pending);
        for launch in launches {
            pass.set_pipeline(&launch.pipe.pipeline);
            pass.set_bind_group(0, &launch.group, &[]);
            let [x, y, z] = launch.groups;
            pass.dispatch_workgroups(x, y, z);
        }
        pending.steps += 1;
        if pending.steps >= STEPS_PER_SUBMIT { self.flush(&mut pending) } else { Ok(()) }
    }

    fn upload(&self, value: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let place = self.memory.place(value, &self.name)?;
        self.same_length(value, place.bytes, bytes.len())?;
        // What was launched before must not see the new bytes: queue writes overtake commands not yet submitted.
        let mut pending = lock(&self.pending);
        self.flush(&mut pending)?;
        self.gpu.write(&place.buffer, place.offset, bytes);
        self.gpu.check(&self.name)
    }

    fn download(&self, value: usize, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        let place = self.memory.place(value, &self.name)?;
        self.same_length(value, place.bytes, bytes.len())?;
        let mut staging = lock(&self.staging);
        let whole = place.whole_bytes();
        let buffer = self.staging(&mut staging, whole + FLAG_BYTES);
        let submission = {
            let mut pending = lock(&self.pending);
            let encoder = self.encoder(&mut pending);
            encoder.copy_buffer_to_buffer(&place.buffer, place.offset, &buffer, 0, whole);
            encoder.copy_buffer_to_buffer(&self.flag, 0, &buffer, whole, FLAG_BYTES);
            self.submit(&mut pending)
        };
        let flag = self.read(&buffer, submission, whole, bytes)?;
        self.refused(flag)
    }

    fn finish(&self) -> Result<(), RuntimeError> {
        let mut staging = lock(&self.staging);
        let buffer = self.staging(&mut staging, FLAG_BYTES);
        let submission = {
            let mut pending = lock(&self.pending);
            let encoder = self.encoder(&mut pending);
            encoder.copy_buffer_to_buffer(&self.flag, 0, &buffer, 0, FLAG_BYTES);
            self.submit(&mut pending)
        };
        let flag = self.read(&buffer, submission, 0, &mut [])?;
        self.refused(flag)
    }
}

impl WgpuDriver {
    fn error(&self, message: impl Into<String>) -> RuntimeError {
        RuntimeError::new("G005", self.name.clone(), message, "compile the model again")
    }

    fn same_length(&self, value: usize, own: usize, given: usize) -> Result<(), RuntimeError> {
        if own == given {
            return Ok(());
        }
        Err(self.error(format!("value {value} has {own} bytes, but {given} bytes were given to be copied")))
    }

    /// Generates, compiles and binds the dispatches of a step.
    fn prepare(&mut self, bound: &Bound, step: &partita_plan::Step) -> Result<Vec<Launch>, RuntimeError> {
        let place = format!("step '{}' on {}", step.name, self.name);
        self.steps.push(place.clone());
        let Some(kernel) = bound.plan.kernels.get(step.kernel as usize) else {
            return Err(self.error(format!("step '{}' names a kernel the plan does not have", step.name)));
        };
        let described = self.describe(bound, kernel, step, &place)?;
        let dispatches = generate(&described)?;
        let launches = dispatches.iter().map(|d| self.ready(d, step)).collect::<Result<Vec<_>, _>>()?;
        self.gpu.check(&place)?;
        Ok(launches)
    }

    fn describe<'a>(
        &self,
        bound: &'a Bound,
        kernel: &'a Kernel,
        step: &partita_plan::Step,
        place: &str,
    ) -> Result<Step<'a>, RuntimeError> {
        let inputs = step.inputs.iter().map(|&v| match v {
            NO_VALUE => Ok(None),
            v => self.operand(bound, v as usize).map(Some),
        });
        Ok(Step {
            kernel,
            symbols: &bound.symbols,
            inputs: inputs.collect::<Result<_, RuntimeError>>()?,
            outputs: step
                .outputs
                .iter()
                .map(|&v| self.operand(bound, v as usize))
                .collect::<Result<_, _>>()?,
            place: place.to_owned(),
            number: u32::try_from(self.steps.len()).unwrap_or(u32::MAX),
            max_groups: self.gpu.limits.max_compute_workgroups_per_dimension,
        })
    }

    fn operand(&self, bound: &Bound, v: usize) -> Result<Operand, RuntimeError> {
        let place = self.memory.place(v, &self.name)?;
        let value = &bound.plan.values[v];
        let dtype = ElementType::try_from(value.dtype)
            .map_err(|_| self.error(format!("value '{}' has an unknown element type", value.name)))?;
        if !value.layout.is_empty() {
            return Err(self.error(format!("value '{}' has a layout of another device", value.name)));
        }
        let (start, end) = self.span(place);
        if end - start > self.gpu.limits.max_storage_buffer_binding_size {
            return Err(RuntimeError::new(
                "G006",
                self.name.clone(),
                format!(
                    "value '{}' has {} bytes, but '{}' reads at most {} bytes of a buffer",
                    value.name,
                    place.bytes,
                    self.gpu.facts.name,
                    self.gpu.limits.max_storage_buffer_binding_size
                ),
                "place the steps that use it on another device",
            ));
        }
        Ok(Operand {
            dtype,
            shape: bound.shapes[v].clone(),
            base_words: ((place.offset - start) / 4) as usize,
            read_only: place.read_only,
        })
    }

    /// The bytes of the buffer that are bound for a place: from the alignment below it to its last word.
    fn span(&self, place: &crate::memory::Place) -> (u64, u64) {
        let align = u64::from(self.gpu.limits.min_storage_buffer_offset_alignment.max(4));
        (place.offset / align * align, place.offset + place.whole_bytes())
    }

    fn ready(&self, dispatch: &Dispatch, step: &partita_plan::Step) -> Result<Launch, RuntimeError> {
        let pipe = self.gpu.pipe(dispatch);
        let mut entries = Vec::with_capacity(dispatch.bindings.len());
        for (at, binding) in dispatch.bindings.iter().enumerate() {
            let value = match binding.slot {
                Slot::Flag => None,
                Slot::Input(k) => step.inputs.get(k).map(|v| *v as usize),
                Slot::Output(k) => step.outputs.get(k).map(|v| *v as usize),
            };
            let resource = match value {
                None => self.flag.as_entire_binding(),
                Some(v) => {
                    let place = self.memory.place(v, &self.name)?;
                    let (start, end) = self.span(place);
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &place.buffer,
                        offset: start,
                        size: wgpu::BufferSize::new(end - start),
                    })
                }
            };
            entries.push(wgpu::BindGroupEntry { binding: at as u32, resource });
        }
        let group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipe.layout,
            entries: &entries,
        });
        Ok(Launch { pipe, group, groups: dispatch.groups })
    }

    /// The encoder, outside any pass.
    fn encoder<'p>(&self, pending: &'p mut Pending) -> &'p mut wgpu::CommandEncoder {
        pending.pass = None;
        pending.encoder.get_or_insert_with(|| self.gpu.device.create_command_encoder(&Default::default()))
    }

    /// The open compute pass.
    fn pass<'p>(&self, pending: &'p mut Pending) -> &'p mut wgpu::ComputePass<'static> {
        let Pending { pass, encoder, .. } = pending;
        pass.get_or_insert_with(|| {
            let encoder =
                encoder.get_or_insert_with(|| self.gpu.device.create_command_encoder(&Default::default()));
            encoder.begin_compute_pass(&Default::default()).forget_lifetime()
        })
    }

    fn submit(&self, pending: &mut Pending) -> wgpu::SubmissionIndex {
        pending.pass = None;
        pending.steps = 0;
        self.gpu.queue.submit(pending.encoder.take().map(wgpu::CommandEncoder::finish))
    }

    fn flush(&self, pending: &mut Pending) -> Result<(), RuntimeError> {
        if pending.encoder.is_some() {
            self.submit(pending);
        }
        self.gpu.check(&self.name)
    }

    /// The staging buffer, grown to `bytes`; it is kept from call to call.
    fn staging(&self, kept: &mut Option<wgpu::Buffer>, bytes: u64) -> wgpu::Buffer {
        if let Some(buffer) = kept.as_ref().filter(|b| b.size() >= bytes) {
            return buffer.clone();
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("staging", bytes.next_power_of_two(), usage);
        *kept = Some(buffer.clone());
        buffer
    }

    /// Waits for a submission and reads `bytes` from the start of the staging buffer, and the flag behind `whole`.
    fn read(
        &self,
        buffer: &wgpu::Buffer,
        submission: wgpu::SubmissionIndex,
        whole: u64,
        bytes: &mut [u8],
    ) -> Result<u32, RuntimeError> {
        let range = buffer.slice(0..whole + FLAG_BYTES);
        let failed = Arc::new(Mutex::new(None));
        let slot = failed.clone();
        range.map_async(wgpu::MapMode::Read, move |result| *lock(&slot) = Some(result));
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let waited = self.gpu.device.poll(wait);
        self.gpu.check(&self.name)?;
        waited.map_err(|e| self.lost(&e.to_string()))?;
        match lock(&failed).take() {
            Some(Ok(())) => {}
            Some(Err(e)) => return Err(self.lost(&e.to_string())),
            None => return Err(self.lost("the result was not delivered")),
        }
        let flag = {
            let view = range.get_mapped_range().map_err(|e| self.lost(&e.to_string()))?;
            bytes.copy_from_slice(&view[..bytes.len()]);
            let mut word = [0u8; FLAG_BYTES as usize];
            word.copy_from_slice(&view[whole as usize..(whole + FLAG_BYTES) as usize]);
            u32::from_le_bytes(word)
        };
        buffer.unmap();
        Ok(flag)
    }

    fn lost(&self, what: &str) -> RuntimeError {
        RuntimeError::new(
            "G003",
            self.name.clone(),
            format!("the adapter '{}' did not deliver a result: {what}", self.gpu.facts.name),
            "update the graphics driver, or place less on this device",
        )
    }

    /// Reports the step that left its number in the flag word, and clears the word.
    fn refused(&self, flag: u32) -> Result<(), RuntimeError> {
        if flag == 0 {
            return Ok(());
        }
        self.gpu.write(&self.flag, 0, &[0; FLAG_BYTES as usize]);
        let place = self.steps.get(flag as usize - 1).cloned().unwrap_or_else(|| self.name.clone());
        Err(RuntimeError::new(
            "G007",
            place,
            "an index is outside the axis it selects from",
            "check the integer inputs of the run",
        ))
    }
}
