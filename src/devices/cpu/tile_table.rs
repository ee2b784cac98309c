//! Programs from one byte to one byte: there are only 256 arguments, so the program runs once for each of them when the
//! step is bound, and results are looked up.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::Isa;
use crate::prepared::{ALIGN, Call, Cx, Operand, Prepared, parts_for};
use crate::team::share;
use crate::tile::Tile;
use partita_plan::{ElementType, TileProgram};
use partita_runtime::error::RuntimeError;

/// Elements below which another thread does not pay.
const GRAIN: usize = 131_072;
/// Arguments.
const ALL: usize = 256;

struct Table {
    isa: Isa,
    results: [u8; ALL],
    x: *const u8,
    y: *mut u8,
    elements: usize,
    members: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

fn is_byte(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::I8 | ElementType::U8)
}

/// The step as a table, when it computes bytes from the bytes of its only operand.
///
/// # Errors
/// When the program is malformed.
pub(crate) fn of(call: &Call<'_>, program: &TileProgram) -> Result<Option<Box<dyn Prepared>>, RuntimeError> {
    let ([Some(x)], [y]) = (call.inputs.as_slice(), call.outputs.as_slice()) else { return Ok(None) };
    let plain = x.layout.is_none() && x.shape == y.shape;
    if !plain || !is_byte(x.dtype) || !is_byte(y.dtype) || x.len() < ALL {
        return Ok(None);
    }
    let mut arguments: [u8; ALL] = std::array::from_fn(|i| i as u8);
    let mut results = [0u8; ALL];
    let line = |bytes: &mut [u8; ALL], dtype| Operand {
        ptr: bytes.as_mut_ptr(),
        bytes: ALL,
        dtype,
        shape: vec![ALL],
        layout: None,
    };
    let (from, to) = (line(&mut arguments, x.dtype), line(&mut results, y.dtype));
    let tile = Tile::new(call, program, &[Some(from)], &[to])?;
    let mut scratch = vec![0u8; tile.scratch_bytes() + ALIGN];
    let scratch = scratch.as_mut_ptr();
    // SAFETY: the range is the whole output; the scratch has the bytes behind its first aligned one.
    unsafe { tile.run(0, ALL, scratch.add(scratch.align_offset(ALIGN))) };
    let (isa, elements, members) = (call.isa, x.len(), call.members);
    Ok(Some(Box::new(Table { isa, results, x: x.ptr, y: y.ptr, elements, members })))
}

impl Prepared for Table {
    fn launch(&self, cx: &Cx<'_>) -> Result<(), RuntimeError> {
        let parts = parts_for(self.elements, GRAIN, self.members);
        cx.run(parts, &|part| {
            let range = share(self.elements, ALIGN, part, parts);
            let (x, y) = (self.x.wrapping_add(range.start), self.y.wrapping_add(range.start));
            // SAFETY: the range lies in operand and result. They may be the same bytes, which are read first.
            unsafe {
                let done = wide(self.isa, &self.results, x, y, range.len());
                for i in done..range.len() {
                    *y.add(i) = self.results[usize::from(*x.add(i))];
                }
            }
        })
    }
}

/// Looks up whole vectors where there is an instruction for it; returns how many bytes are done.
#[cfg(target_arch = "x86_64")]
unsafe fn wide(isa: Isa, table: &[u8; ALL], x: *const u8, y: *mut u8, count: usize) -> usize {
    if isa == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi") {
        // SAFETY: the caller's contract; the instructions exist.
        return unsafe { permuted(table, x, y, count) };
    }
    0
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn wide(_: Isa, _: &[u8; ALL], _: *const u8, _: *mut u8, _: usize) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn permuted(table: &[u8; ALL], x: *const u8, y: *mut u8, count: usize) -> usize {
    use std::arch::x86_64::*;
    let whole = count / 64 * 64;
    // SAFETY: the table has four vectors; whole vectors lie in operand and result.
    unsafe {
        let [a, b, c, d] = [0, 64, 128, 192].map(|at| _mm512_loadu_si512(table.as_ptr().add(at).cast()));
        for at in (0..whole).step_by(64) {
            let index = _mm512_loadu_si512(x.add(at).cast());
            // Indices count modulo 128; the highest bit chooses the half of the table.
            let low = _mm512_permutex2var_epi8(a, index, b);
            let high = _mm512_permutex2var_epi8(c, index, d);
            let value = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
            _mm512_storeu_si512(y.add(at).cast(), value);
        }
    }
    whole
}
