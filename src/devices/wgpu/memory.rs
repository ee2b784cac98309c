//! Where a plan's values live on the adapter.
//!
//! The plan's arena is one buffer with the plan's offsets, so that memory is what the plan says it is. Where the
//! adapter has no buffer that large, every value gets its own. Weights have buffers of their own, are uploaded
//! once and stay when shapes are bound anew.

use crate::gpu::Gpu;
use partita_plan::{Plan, Storage};
use partita_runtime::{Bound, RuntimeError, WeightBytes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes written between two submissions while weights are uploaded: bounds the host memory that staging takes.
const UPLOAD_BYTES: usize = 64 << 20;
/// Longest chain of aliases that is followed.
const MAX_ALIASES: usize = 4096;

/// A value's bytes.
#[derive(Clone)]
pub(crate) struct Place {
    pub buffer: wgpu::Buffer,
    /// Byte offset in the buffer, a multiple of 4.
    pub offset: u64,
    /// Bytes of the value.
    pub bytes: usize,
    /// Weights are never written.
    pub read_only: bool,
}

/// Buffers and the places of values in them.
#[derive(Default)]
pub(crate) struct Memory {
    arena: Option<wgpu::Buffer>,
    /// The weight section that `weights` was read from.
    section: Option<WeightBytes>,
    /// By offset and length in the weight section.
    weights: BTreeMap<(usize, usize), wgpu::Buffer>,
    places: Vec<Option<Place>>,
}

impl Place {
    /// Bytes of the words the value owns; an empty value owns one.
    pub(crate) fn whole_bytes(&self) -> u64 {
        (self.bytes as u64).next_multiple_of(4).max(4)
    }
}

impl Memory {
    /// The place of a value of this device.
    pub(crate) fn place(&self, value: usize, place: &str) -> Result<&Place, RuntimeError> {
        self.places.get(value).and_then(Option::as_ref).ok_or_else(|| {
            RuntimeError::new(
                "G005",
                place,
                format!("value {value} is not on this device"),
                "compile the model again",
            )
        })
    }

    /// Gives every value of device `device` a place, and uploads weights that are not there yet.
    pub(crate) fn bind(
        &mut self,
        gpu: &Gpu,
        bound: &Bound,
        device: usize,
        name: &str,
    ) -> Result<(), RuntimeError> {
        self.places = vec![None; bound.plan.values.len()];
        if self.section.as_ref().is_none_or(|s| !Arc::ptr_eq(s, &bound.weights)) {
            self.weights.clear();
            self.section = Some(bound.weights.clone());
        }
        let shared = self.reserve(gpu, bound, device);
        let mut own: BTreeMap<usize, wgpu::Buffer> = BTreeMap::new();
        let mut staged = 0usize;
        for (v, value) in bound.plan.values.iter().enumerate() {
            if value.device as usize != device {
                continue;
            }
            let root =
                root(&bound.plan, v).ok_or_else(|| error(name, &value.name, "is an alias of itself"))?;
            let (offset, bytes) = (bound.offsets_bytes[v], bound.sizes_bytes[v]);
            if (bytes as u64).max(4) > gpu.limits.max_buffer_size {
                return Err(error(name, &value.name, "is larger than the adapter's largest buffer"));
            }
            let place = if bound.plan.values[root].storage == Storage::Weight as i32 {
                let buffer = self
                    .weight(gpu, bound, root, &mut staged)
                    .ok_or_else(|| error(name, &value.name, "lies outside the weight section"))?;
                Place { buffer, offset: 0, bytes, read_only: true }
            } else if shared {
                let buffer = self.arena.clone().ok_or_else(|| error(name, &value.name, "has no arena"))?;
                if offset.saturating_add(bytes) > bound.arena_bytes[device] {
                    return Err(error(name, &value.name, "lies outside the arena"));
                }
                Place { buffer, offset: offset as u64, bytes, read_only: false }
            } else {
                let size = (bound.sizes_bytes[root] as u64).next_multiple_of(4).max(4);
                let buffer = own.entry(root).or_insert_with(|| gpu.buffer("value", size, usage())).clone();
                Place { buffer, offset: 0, bytes, read_only: false }
            };
            self.places[v] = Some(place);
        }
        gpu.queue.submit([]);
        gpu.check(name)
    }

    /// Makes the arena large enough; false where values must have buffers of their own.
    fn reserve(&mut self, gpu: &Gpu, bound: &Bound, device: usize) -> bool {
        let aligned = bound.plan.values.iter().zip(&bound.offsets_bytes).all(|(value, offset)| {
            value.device as usize != device
                || value.storage == Storage::Weight as i32
                || offset.is_multiple_of(4)
        });
        // One word more, so that empty values at the end have something to bind.
        let bytes = (bound.arena_bytes[device] as u64).next_multiple_of(4) + 4;
        if !aligned || bytes > gpu.limits.max_buffer_size {
            self.arena = None;
            return false;
        }
        if self.arena.as_ref().is_none_or(|a| a.size() < bytes) {
            // The old arena goes first: both may not fit.
            self.arena = None;
            self.arena = Some(gpu.buffer("arena", bytes, usage()));
        }
        true
    }

    /// The buffer of a weight, uploaded when first seen.
    fn weight(&mut self, gpu: &Gpu, bound: &Bound, value: usize, staged: &mut usize) -> Option<wgpu::Buffer> {
        let key = (bound.offsets_bytes[value], bound.sizes_bytes[value]);
        if let Some(buffer) = self.weights.get(&key) {
            return Some(buffer.clone());
        }
        let section: &[u8] = bound.weights.as_ref().as_ref();
        let bytes = section.get(key.0..key.0.checked_add(key.1)?)?;
        let buffer = gpu.buffer("weight", (key.1 as u64).next_multiple_of(4).max(4), usage());
        for (k, chunk) in bytes.chunks(UPLOAD_BYTES).enumerate() {
            gpu.write(&buffer, (k * UPLOAD_BYTES) as u64, chunk);
            *staged += chunk.len();
            if *staged >= UPLOAD_BYTES {
                gpu.queue.submit([]);
                *staged = 0;
            }
        }
        self.weights.insert(key, buffer.clone());
        Some(buffer)
    }
}

fn usage() -> wgpu::BufferUsages {
    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC
}

/// The value that owns the bytes of `v`.
fn root(plan: &Plan, v: usize) -> Option<usize> {
    let mut at = v;
    for _ in 0..MAX_ALIASES {
        let value = plan.values.get(at)?;
        if value.storage != Storage::Alias as i32 {
            return Some(at);
        }
        at = value.alias_of as usize;
    }
    None
}

fn error(place: &str, value: &str, what: &str) -> RuntimeError {
    RuntimeError::new(
        "G005",
        place,
        format!("value '{value}' {what}"),
        "compile the model again, or place less on this device",
    )
}
