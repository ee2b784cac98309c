//! Loads and stores of tile programs: element types to lanes and back.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::broadcast::Run;
use crate::isa::{Isa, per_isa};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use partita_plan::ElementType;
use partita_plan::tile::Lane;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Loads one run of an operand into lanes `position..` of `slot`.
///
/// # Safety
/// The run lies in the operand at `ptr`, the lanes in the slot; the slot's lane fits the type.
#[inline(always)]
pub(crate) unsafe fn load_run(dtype: ElementType, ptr: *const u8, run: Run, slot: *mut u8, position: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if dtype == ElementType::F32 {
            let src = ptr.cast::<f32>().add(run.from);
            let dst = slot.cast::<f32>().add(position);
            if run.step == 0 {
                from_raw_parts_mut(dst, run.len).fill(*src);
            } else {
                std::ptr::copy_nonoverlapping(src, dst, run.len);
            }
            return;
        }
        let lane = if dtype.is_float() { Lane::Float } else { Lane::Int };
        let size = if lane == Lane::Float { 4 } else { 8 };
        let dst = slot.add(position * size);
        let src = ptr.add(run.from * dtype.size_bytes());
        if run.step == 0 {
            load_scalar(dtype, src, lane, dst, run.len);
        } else {
            load_dense(dtype, src, dst, run.len);
        }
    }
}

/// Fills `count` lanes with the one element at `ptr`.
///
/// # Safety
/// One element is readable, `count` lanes are writable.
pub(crate) unsafe fn load_scalar(
    dtype: ElementType,
    ptr: *const u8,
    lane: Lane,
    slot: *mut u8,
    count: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        if lane == Lane::Float {
            let mut value = 0f32;
            if dtype.is_float() {
                load_dense(dtype, ptr, (&raw mut value).cast(), 1);
            } else {
                value = read_int(dtype, ptr, 0) as f32;
            }
            from_raw_parts_mut(slot.cast::<f32>(), count).fill(value);
        } else {
            let mut value = 0i64;
            load_dense(dtype, ptr, (&raw mut value).cast(), 1);
            from_raw_parts_mut(slot.cast::<i64>(), count).fill(value);
        }
    }
}

/// Loads one run of an integer operand as floats.
///
/// # Safety
/// The run lies in the operand at `ptr`, its lanes in `dst`; the set exists here.
pub(crate) unsafe fn load_bytes(isa: Isa, dtype: ElementType, ptr: *const u8, run: Run, dst: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        let from = ptr.add(run.from * dtype.size_bytes());
        match dtype {
            _ if run.step == 0 => {
                let mut value = 0i64;
                load_dense(dtype, from, (&raw mut value).cast(), 1);
                from_raw_parts_mut(dst, run.len).fill(value as f32);
            }
            ElementType::I8 => bytes_to_floats(isa, from, dst, run.len, true),
            ElementType::U8 => bytes_to_floats(isa, from, dst, run.len, false),
            _ => {
                for i in 0..run.len {
                    let mut value = 0i64;
                    load_dense(dtype, from.add(i * dtype.size_bytes()), (&raw mut value).cast(), 1);
                    *dst.add(i) = value as f32;
                }
            }
        }
    }
}

per_isa! {
    unsafe fn bytes_to_floats = bytes_to_floats_body(from: *const u8, to: *mut f32, count: usize, signed: bool)
}

#[inline(always)]
unsafe fn bytes_to_floats_body<const FMA: bool>(from: *const u8, to: *mut f32, count: usize, signed: bool) {
    // SAFETY: the caller's contract.
    let (from, to) = unsafe { (from_raw_parts(from, count), from_raw_parts_mut(to, count)) };
    if signed {
        from.iter().zip(to).for_each(|(from, to)| *to = f32::from(*from as i8));
    } else {
        from.iter().zip(to).for_each(|(from, to)| *to = f32::from(*from));
    }
}

per_isa! {
    /// Stores whole numbers within the bounds of a type of bytes.
    ///
    /// # Safety
    /// `count` floats are readable and as many bytes writable; numbers that are not finite may be there.
    pub(crate) unsafe fn store_whole = store_whole_body(from: *const f32, to: *mut u8, count: usize)
}

#[inline(always)]
unsafe fn store_whole_body<const FMA: bool>(from: *const f32, to: *mut u8, count: usize) {
    /// A whole number added to it is in the lowest bits, below zero as in two's complement.
    const SHIFTER: f32 = 12_582_912.0;
    // SAFETY: the caller's contract.
    let (from, to) = unsafe { (from_raw_parts(from, count), from_raw_parts_mut(to, count)) };
    for (from, to) in from.iter().zip(to) {
        let value = if from.is_nan() { 0.0 } else { *from };
        *to = (value + SHIFTER).to_bits() as u8;
    }
}

unsafe fn widen<T: Copy, L>(src: *const u8, dst: *mut u8, count: usize, convert: impl Fn(T) -> L) {
    for i in 0..count {
        // SAFETY: `count` elements are readable and as many lanes writable.
        unsafe { *dst.cast::<L>().add(i) = convert(*src.cast::<T>().add(i)) };
    }
}

/// Loads `count` consecutive elements.
unsafe fn load_dense(dtype: ElementType, src: *const u8, dst: *mut u8, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match dtype {
            ElementType::F32 => std::ptr::copy(src, dst, count * 4),
            ElementType::F16 => {
                from_raw_parts(src.cast::<f16>(), count)
                    .convert_to_f32_slice(from_raw_parts_mut(dst.cast(), count));
            }
            ElementType::Bf16 => {
                from_raw_parts(src.cast::<bf16>(), count)
                    .convert_to_f32_slice(from_raw_parts_mut(dst.cast(), count));
            }
            ElementType::F64 => widen(src, dst, count, |v: f64| v as f32),
            ElementType::I8 => widen(src, dst, count, |v: i8| i64::from(v)),
            ElementType::I16 => widen(src, dst, count, |v: i16| i64::from(v)),
            ElementType::I32 => widen(src, dst, count, |v: i32| i64::from(v)),
            ElementType::I64 => std::ptr::copy(src, dst, count * 8),
            ElementType::U8 => widen(src, dst, count, |v: u8| i64::from(v)),
            ElementType::U16 => widen(src, dst, count, |v: u16| i64::from(v)),
            ElementType::U32 => widen(src, dst, count, |v: u32| i64::from(v)),
            ElementType::U64 => widen(src, dst, count, |v: u64| v as i64),
            ElementType::Bool => widen(src, dst, count, |v: u8| i64::from(v != 0)),
            // Never bound, see `tile::holds`.
            _ => {}
        }
    }
}

/// Stores `count` lanes to elements `start..` of an output.
///
/// # Safety
/// The elements lie in the output at `ptr`, the lanes in `slot`.
#[inline(always)]
pub(crate) unsafe fn store_range(
    dtype: ElementType,
    ptr: *mut u8,
    start: usize,
    lane: Lane,
    slot: *const u8,
    count: usize,
) {
    let dst = ptr.wrapping_add(start * dtype.size_bytes());
    // SAFETY: the caller's contract.
    unsafe {
        if lane == Lane::Float {
            store_floats(dtype, slot.cast(), dst, count);
        } else {
            store_ints(dtype, slot.cast(), dst, count);
        }
    }
}

unsafe fn narrow<L: Copy, T>(src: *const L, dst: *mut u8, count: usize, convert: impl Fn(L) -> T) {
    for i in 0..count {
        // SAFETY: `count` lanes are readable and as many elements writable.
        unsafe { *dst.cast::<T>().add(i) = convert(*src.add(i)) };
    }
}

unsafe fn store_floats(dtype: ElementType, src: *const f32, dst: *mut u8, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match dtype {
            ElementType::F32 => std::ptr::copy(src, dst.cast(), count),
            ElementType::F16 => {
                from_raw_parts_mut(dst.cast::<f16>(), count)
                    .convert_from_f32_slice(from_raw_parts(src, count));
            }
            ElementType::Bf16 => {
                from_raw_parts_mut(dst.cast::<bf16>(), count)
                    .convert_from_f32_slice(from_raw_parts(src, count));
            }
            ElementType::F64 => narrow(src, dst, count, f64::from),
            ElementType::I8 => narrow(src, dst, count, |v| v as i64 as i8),
            ElementType::I16 => narrow(src, dst, count, |v| v as i64 as i16),
            ElementType::I32 => narrow(src, dst, count, |v| v as i64 as i32),
            ElementType::I64 => narrow(src, dst, count, |v| v as i64),
            ElementType::U8 => narrow(src, dst, count, |v| v as i64 as u8),
            ElementType::U16 => narrow(src, dst, count, |v| v as i64 as u16),
            ElementType::U32 => narrow(src, dst, count, |v| v as i64 as u32),
            ElementType::U64 => narrow(src, dst, count, |v| v as i64 as u64),
            ElementType::Bool => narrow(src, dst, count, |v| u8::from(v != 0.0)),
            _ => {}
        }
    }
}

unsafe fn store_ints(dtype: ElementType, src: *const i64, dst: *mut u8, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match dtype {
            ElementType::F32 => narrow(src, dst, count, |v| v as f32),
            ElementType::F16 => narrow(src, dst, count, |v| f16::from_f32(v as f32)),
            ElementType::Bf16 => narrow(src, dst, count, |v| bf16::from_f32(v as f32)),
            ElementType::F64 => narrow(src, dst, count, |v| v as f64),
            ElementType::I8 | ElementType::U8 => narrow(src, dst, count, |v| v as u8),
            ElementType::I16 | ElementType::U16 => narrow(src, dst, count, |v| v as u16),
            ElementType::I32 | ElementType::U32 => narrow(src, dst, count, |v| v as u32),
            ElementType::I64 | ElementType::U64 => std::ptr::copy(src, dst.cast(), count),
            ElementType::Bool => narrow(src, dst, count, |v| u8::from(v != 0)),
            _ => {}
        }
    }
}

/// Converts `count` float elements at `src` to f32.
///
/// # Safety
/// Both ranges are valid and do not overlap.
pub(crate) unsafe fn to_f32(dtype: ElementType, src: *const u8, dst: *mut f32, count: usize) {
    // SAFETY: the caller's contract.
    unsafe { load_dense(dtype, src, dst.cast(), count) }
}

/// Converts `count` f32 at `src` to elements of a float type.
///
/// # Safety
/// Both ranges are valid and do not overlap.
pub(crate) unsafe fn from_f32(dtype: ElementType, src: *const f32, dst: *mut u8, count: usize) {
    // SAFETY: the caller's contract.
    unsafe { store_floats(dtype, src, dst, count) }
}

/// Element `at` of an integer or boolean operand.
///
/// # Safety
/// The element lies in the operand.
pub(crate) unsafe fn read_int(dtype: ElementType, ptr: *const u8, at: usize) -> i64 {
    let mut value = 0i64;
    // SAFETY: the caller's contract.
    unsafe { load_dense(dtype, ptr.add(at * dtype.size_bytes()), (&raw mut value).cast(), 1) };
    value
}

/// Writes element `at` of an operand of any type, wrapping integers.
///
/// # Safety
/// The element lies in the operand.
pub(crate) unsafe fn write_int(dtype: ElementType, ptr: *mut u8, at: usize, value: i64) {
    // SAFETY: the caller's contract.
    unsafe { store_ints(dtype, &raw const value, ptr.add(at * dtype.size_bytes()), 1) }
}
