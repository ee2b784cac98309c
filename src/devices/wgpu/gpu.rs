//! An opened adapter: device, queue, compiled pipelines, and the errors that wgpu reports out of line.

#![allow(unsafe_code, reason = "shaders are compiled without the loop counters that foreign code needs")]

use crate::adapter::{AdapterFacts, pick};
use crate::step::{Binding, Dispatch};
use partita_runtime::RuntimeError;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pipelines kept across re-binds; above this the cache starts anew.
const MAX_PIPELINES: usize = 2048;

/// A kernel's source and, for each binding, whether it is only read.
type PipeKey = (String, Vec<bool>);

/// A compiled kernel.
pub(crate) struct Pipe {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// An opened adapter.
pub(crate) struct Gpu {
    pub facts: AdapterFacts,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    /// The first error since the last look.
    error: Arc<Mutex<Option<String>>>,
    pipes: Mutex<BTreeMap<PipeKey, Arc<Pipe>>>,
}

/// A lock whose holder never leaves the data half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the adapter that `wanted` names, with all that the adapter can hold.
    pub(crate) fn open(place: &str, wanted: &str) -> Result<Self, RuntimeError> {
        let (facts, adapter) = pick(place, wanted)?;
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("partita"),
            required_features: wgpu::Features::empty(),
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| {
            RuntimeError::new(
                "G002",
                place,
                format!("the adapter '{}' could not be opened: {e}", facts.name),
                "update the graphics driver, or choose another adapter in the machine file",
            )
        })?;
        let error = Arc::new(Mutex::new(None));
        let (uncaptured, lost) = (error.clone(), error.clone());
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| note(&uncaptured, e.to_string())));
        device.set_device_lost_callback(move |reason, text| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&lost, format!("the device was lost: {text}"));
            }
        });
        Ok(Self { facts, device, queue, limits, error, pipes: Mutex::new(BTreeMap::new()) })
    }

    /// Fails if wgpu has reported an error since the last look.
    pub(crate) fn check(&self, place: &str) -> Result<(), RuntimeError> {
        match lock(&self.error).take() {
            None => Ok(()),
            Some(text) => Err(RuntimeError::new(
                "G003",
                place,
                format!("the graphics driver of '{}' reports: {}", self.facts.name, one_line(&text)),
                "update the graphics driver, or place less on this device",
            )),
        }
    }

    /// A buffer; failures show in [`Gpu::check`].
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    /// Writes bytes at a word boundary. The last word is filled up with zeros: values own whole words.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        let whole = bytes.len() / 4 * 4;
        let (words, rest) = bytes.split_at(whole);
        if !words.is_empty() {
            self.queue.write_buffer(buffer, offset, words);
        }
        if !rest.is_empty() {
            let mut last = [0u8; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, offset + whole as u64, &last);
        }
    }

    /// The compiled kernel of a dispatch.
    pub(crate) fn pipe(&self, dispatch: &Dispatch) -> Arc<Pipe> {
        let read_only = dispatch.bindings.iter().map(|b| b.read_only).collect();
        let key: PipeKey = (dispatch.source.clone(), read_only);
        let mut pipes = lock(&self.pipes);
        if let Some(pipe) = pipes.get(&key) {
            return pipe.clone();
        }
        if pipes.len() >= MAX_PIPELINES {
            pipes.clear();
        }
        let pipe = Arc::new(self.compile(&dispatch.source, &dispatch.bindings));
        pipes.insert(key, pipe.clone());
        pipe
    }

    fn compile(&self, source: &str, bindings: &[Binding]) -> Pipe {
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings.iter().enumerate().map(entry).collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(source)),
        };
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.force_loop_bounding = false;
        checks.int_div_checks = false;
        // SAFETY: every loop of our kernels counts to a bound that is fixed when it starts, and every divisor is a
        // positive constant of the shape or tested for zero first. Bounds checks stay on.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Kernels write their workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Pipe { pipeline, layout }
    }
}

fn entry((at, binding): (usize, &Binding)) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding: at as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: binding.read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

fn note(slot: &Mutex<Option<String>>, text: String) {
    lock(slot).get_or_insert(text);
}

/// The text on one line, without the indentation of wgpu's reports.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
