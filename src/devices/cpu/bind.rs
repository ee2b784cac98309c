//! From a bound plan to prepared steps: addresses of values, with every bound checked, and the kernel of
//! each step.
#![allow(unsafe_code, reason = "addresses are formed from the arena and the weight section")]

use crate::layout::Layout;
use crate::memory::Memory;
use crate::prepared::{Call, Operand, Prepared, bad_step};
use crate::widened;
use crate::{
    attention, conv, conv_int, conv_transpose, fill, gather, gemm, gemm_int, movement, n_bits, norm, pool,
    pool_bytes, reduce, reference, rotary, softmax, tile,
};
use partita_plan::Storage;
use partita_plan::{ElementType, Kernel, NO_VALUE, Step};
use partita_runtime::driver::{Bound, HostKernels};
use partita_runtime::error::RuntimeError;
use std::collections::BTreeMap;

/// Where a value's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub ptr: *mut u8,
    pub bytes: usize,
    pub weight: bool,
}

/// The values of one device.
pub(crate) struct Values<'a> {
    pub bound: &'a Bound,
    pub device: usize,
    pub arena: &'a Memory,
    /// Values in the caller's memory, by the value that owns the bytes.
    pub lent: &'a BTreeMap<usize, *mut u8>,
}

fn bad_value(name: &str, what: &str) -> RuntimeError {
    RuntimeError::new("R045", format!("value `{name}`"), what, "compile the model again")
}

impl Values<'_> {
    /// Address and size of value `index`, inside of the arena or the weight section.
    pub(crate) fn place(&self, index: usize) -> Result<Place, RuntimeError> {
        let (bound, plan) = (self.bound, &self.bound.plan);
        let value = plan.values.get(index);
        let value = value.ok_or_else(|| bad_value(&index.to_string(), "the plan has no such value"))?;
        let bad = |what: &str| bad_value(&value.name, what);
        if value.device as usize != self.device {
            return Err(bad("it lives on another device than the step that uses it"));
        }
        let (offset, bytes) = match (bound.offsets_bytes.get(index), bound.sizes_bytes.get(index)) {
            (Some(&offset), Some(&bytes)) => (offset, bytes),
            _ => return Err(bad("it has no address")),
        };
        let root = self.root(index).ok_or_else(|| bad("its aliases form a circle"))?;
        if let Some(&ptr) = self.lent.get(&root) {
            let fits = bound.sizes_bytes.get(root).is_some_and(|&owned| bytes <= owned);
            return if fits {
                Ok(Place { ptr, bytes, weight: false })
            } else {
                Err(bad("it is larger than its owner"))
            };
        }
        let weight = plan.values[root].storage() == Storage::Weight;
        let end = offset.checked_add(bytes).ok_or_else(|| bad("its address overflows"))?;
        let section = (*bound.weights).as_ref();
        let (base, limit) = if weight {
            (section.as_ptr().cast_mut(), section.len())
        } else {
            (self.arena.ptr(), self.arena.bytes())
        };
        if end > limit {
            return Err(bad("it reaches beyond the memory of its device"));
        }
        Ok(Place { ptr: base.wrapping_add(offset), bytes, weight })
    }

    /// The value that owns the bytes of value `index`; `None` when aliases never end.
    pub(crate) fn root(&self, index: usize) -> Option<usize> {
        let values = &self.bound.plan.values;
        let mut at = index;
        for _ in 0..=values.len() {
            let value = values.get(at)?;
            if value.storage() != Storage::Alias {
                return Some(at);
            }
            at = value.alias_of as usize;
        }
        None
    }

    /// Value `index` as an operand: type, shape and size fit each other.
    fn operand(&self, index: usize) -> Result<(Operand, bool), RuntimeError> {
        let place = self.place(index)?;
        let value = &self.bound.plan.values[index];
        let bad = |what: &str| bad_value(&value.name, what);
        let dtype = ElementType::try_from(value.dtype).map_err(|_| bad("its element type is unknown"))?;
        let shape = self.bound.shapes.get(index).cloned().ok_or_else(|| bad("it has no shape"))?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        let elements = elements.filter(|&n| n <= isize::MAX as usize / 8);
        let elements = elements.ok_or_else(|| bad("its shape is too large"))?;
        let elements = if shape.contains(&0) { 0 } else { elements };
        let layout = match value.layout.as_str() {
            "" => None,
            text => Some(Layout::parse(text).ok_or_else(|| bad("its layout is unknown to the CPU"))?),
        };
        let needed = match layout {
            None => elements.checked_mul(dtype.size_bytes()),
            Some(layout) => layout.bytes(dtype).filter(|_| place.weight),
        };
        if needed.is_none_or(|needed| needed > place.bytes) {
            return Err(bad("its size does not fit its shape"));
        }
        if !(place.ptr as usize).is_multiple_of(dtype.size_bytes()) {
            return Err(bad("its address is not aligned"));
        }
        let bytes = needed.unwrap_or(0);
        Ok((Operand { ptr: place.ptr, bytes, dtype, shape, layout }, place.weight))
    }

    /// Prepares one step.
    pub(crate) fn prepare(
        &self,
        step: &Step,
        machine: Machine,
        host: Option<&dyn HostKernels>,
    ) -> Result<Box<dyn Prepared>, RuntimeError> {
        let kernel = self.bound.plan.kernels.get(step.kernel as usize);
        let kernel = kernel.ok_or_else(|| bad_step(&step.name, "?", "the plan has no such kernel"))?;
        let mut inputs = Vec::with_capacity(step.inputs.len());
        for &index in &step.inputs {
            let operand = if index == NO_VALUE { None } else { Some(self.operand(index as usize)?.0) };
            inputs.push(operand);
        }
        let mut outputs = Vec::with_capacity(step.outputs.len());
        for &index in &step.outputs {
            let (operand, weight) = self.operand(index as usize)?;
            if weight {
                return Err(bad_step(&step.name, &kernel.library, "it would write to a weight"));
            }
            outputs.push(operand);
        }
        let call = Call {
            widened: None,
            place: &step.name,
            kernel,
            inputs,
            outputs,
            symbols: &self.bound.symbols,
            isa: machine.isa,
            members: machine.members,
        };
        check_overlap(&call)?;
        prepare(call, host)
    }
}

/// What steps are prepared for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub isa: crate::isa::Isa,
    pub members: usize,
}

fn overlap(a: &Operand, b: &Operand) -> bool {
    let (a_from, b_from) = (a.ptr as usize, b.ptr as usize);
    a.bytes > 0 && b.bytes > 0 && a_from < b_from + b.bytes && b_from < a_from + a.bytes
}

/// Refuses results that share bytes with operands or each other, except for programs that run in place.
fn check_overlap(call: &Call<'_>) -> Result<(), RuntimeError> {
    let in_place = matches!(call.kernel.library.as_str(), "tile" | "copy");
    for (at, out) in call.outputs.iter().enumerate() {
        let twice = call.outputs[..at].iter().any(|other| overlap(out, other));
        call.ensure(!twice, "two results share memory")?;
        for input in call.inputs.iter().flatten().filter(|input| overlap(input, out)) {
            let same = input.ptr == out.ptr && input.bytes == out.bytes;
            let alike =
                call.kernel.library == "copy" || (input.shape == out.shape && input.dtype == out.dtype);
            call.ensure(in_place && same && alike, "a result shares memory with an operand")?;
        }
    }
    Ok(())
}

/// Finds the kernel of a step.
pub(crate) fn prepare(
    call: Call<'_>,
    host: Option<&dyn HostKernels>,
) -> Result<Box<dyn Prepared>, RuntimeError> {
    let kernel: &Kernel = call.kernel;
    match kernel.library.as_str() {
        "tile" => tile::prepare(&call),
        "gemm" => widened::prepare(call, gemm::prepare),
        "gemm_int" => gemm_int::prepare(&call),
        "conv_int" => conv_int::prepare(&call),
        "gemm_n_bits" => n_bits::prepare(&call),
        "conv" => widened::prepare(call, conv::prepare),
        "conv_transpose" => widened::prepare(call, conv_transpose::prepare),
        "pool" if call.inputs.iter().flatten().any(|o| pool_bytes::is_byte(o.dtype)) => {
            pool_bytes::prepare(&call)
        }
        "pool" => widened::prepare(call, pool::prepare),
        "reduce" => widened::prepare(call, reduce::prepare),
        "rotary" => rotary::prepare(&call),
        "softmax" => widened::prepare(call, softmax::prepare),
        "layer_norm" => widened::prepare(call, norm::prepare),
        "attention" => widened::prepare(call, attention::prepare),
        "transpose" => movement::transpose(&call),
        "slice" => movement::slice(&call),
        "expand" => movement::expand(&call),
        "concat" => movement::concat(&call),
        "split" => movement::split(&call),
        "pad" => movement::pad(&call),
        "copy" => movement::reshape(&call),
        "gather" => gather::prepare(&call),
        "fill" => fill::fill(&call),
        "dims" => fill::dims(&call),
        "reference" => reference::prepare(&call, host),
        _ => Err(call.bad("the CPU has no such kernel")),
    }
}
