//! Tensors known when the plan is bound: one value everywhere, or sizes.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::movement::fill_elements;
use crate::prepared::{Call, Cx, Operand, Prepared};
use crate::tile_memory::{from_f32, write_int};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// A number of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Float(f64),
    Int(i64),
}

/// The bytes of `number` as an element; the first `size_bytes` count.
pub(crate) fn encode(dtype: ElementType, number: Number) -> [u8; 8] {
    let mut bytes = [0u8; 8];
    match (dtype, number) {
        (ElementType::F64, Number::Float(v)) => bytes = v.to_ne_bytes(),
        // SAFETY: `bytes` has room for one element.
        (d, Number::Float(v)) if d.is_float() => unsafe { from_f32(d, &(v as f32), bytes.as_mut_ptr(), 1) },
        // SAFETY: as above.
        (d, Number::Float(v)) => unsafe { write_int(d, bytes.as_mut_ptr(), 0, v as i64) },
        // SAFETY: as above.
        (d, Number::Int(v)) => unsafe { write_int(d, bytes.as_mut_ptr(), 0, v) },
    }
    bytes
}

struct Fill {
    out: Operand,
    /// Elements in turn; one serves all.
    elements: Vec<[u8; 8]>,
}

impl Prepared for Fill {
    fn launch(&self, _: &Cx<'_>) -> Result<(), RuntimeError> {
        let size = self.out.dtype.size_bytes();
        // SAFETY: the output has as many elements as are written.
        unsafe {
            if let [one] = self.elements.as_slice() {
                fill_elements(self.out.ptr, &one[..size], self.out.len());
                return Ok(());
            }
            for (i, element) in self.elements.iter().enumerate() {
                fill_elements(self.out.ptr.add(i * size), &element[..size], 1);
            }
        }
        Ok(())
    }
}

/// Prepares `fill`.
pub(crate) fn fill(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let out = call.output(0)?;
    call.ensure(out.layout.is_none(), "a packed weight cannot be filled")?;
    let number = match (call.kernel.int("int"), call.kernel.float("value")) {
        (Some(int), _) => Number::Int(int),
        (None, Some(float)) => Number::Float(float),
        (None, None) => return Err(call.bad("the value is missing")),
    };
    Ok(Box::new(Fill { out: out.clone(), elements: vec![encode(out.dtype, number)] }))
}

/// Prepares `dims`.
pub(crate) fn dims(call: &Call<'_>) -> Result<Box<dyn Prepared>, RuntimeError> {
    let out = call.output(0)?;
    call.ensure(out.layout.is_none() && !out.dtype.is_float(), "sizes must be integers")?;
    let values = call.kernel.dims("values");
    call.ensure(values.len() == out.len(), "the result has the wrong number of elements")?;
    let mut elements = Vec::with_capacity(values.len());
    for value in values {
        elements.push(encode(out.dtype, Number::Int(value.eval(call.symbols)?)));
    }
    Ok(Box::new(Fill { out: out.clone(), elements }))
}
