//! Operations of tile programs on one block of lanes, compiled for each instruction set.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::per_isa;
use crate::math;
use half::{bf16, f16};
use partita_plan::ElementType;
use partita_plan::tile::{Lane, TileOp};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// One computing instruction with resolved operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    pub op: TileOp,
    /// Lane of the operands (of the result for `Select`).
    pub lane: Lane,
    pub dst: usize,
    pub args: [usize; 3],
    /// Type of `Wrap` and `RoundTo`.
    pub to: ElementType,
}

per_isa! {
    /// Executes `code` on `count` lanes; `table` holds the address of every register.
    ///
    /// # Safety
    /// Addresses are valid for `count` lanes of their kind; the result overlaps no operand.
    pub(crate) unsafe fn run_block = block(code: &Code, table: *mut *mut u8, count: usize)
}

/// The registers of one instruction as slices.
struct Frame {
    table: *mut *mut u8,
    count: usize,
}

impl Frame {
    #[inline(always)]
    unsafe fn get<'a, T>(&self, reg: usize) -> &'a [T] {
        // SAFETY: the contract of `run_block`.
        unsafe { from_raw_parts((*self.table.add(reg)).cast(), self.count) }
    }

    #[inline(always)]
    unsafe fn out<'a, T>(&self, reg: usize) -> &'a mut [T] {
        // SAFETY: the contract of `run_block`.
        unsafe { from_raw_parts_mut((*self.table.add(reg)).cast(), self.count) }
    }
}

/// `each1` for functions that must be inlined to vectorise: a function passed as a value is not.
macro_rules! inlined {
    ($dst:expr, $function:path, $($a:ident),+) => {{
        let dst = $dst;
        for i in 0..dst.len() {
            dst[i] = $function($($a[i]),+);
        }
    }};
}

#[inline(always)]
fn each1<A: Copy, R>(dst: &mut [R], a: &[A], f: impl Fn(A) -> R) {
    for (d, &a) in dst.iter_mut().zip(a) {
        *d = f(a);
    }
}

#[inline(always)]
fn each2<A: Copy, B: Copy, R>(dst: &mut [R], a: &[A], b: &[B], f: impl Fn(A, B) -> R) {
    for ((d, &a), &b) in dst.iter_mut().zip(a).zip(b) {
        *d = f(a, b);
    }
}

#[inline(always)]
fn each3<A: Copy, B: Copy, C: Copy, R>(dst: &mut [R], a: &[A], b: &[B], c: &[C], f: impl Fn(A, B, C) -> R) {
    for (((d, &a), &b), &c) in dst.iter_mut().zip(a).zip(b).zip(c) {
        *d = f(a, b, c);
    }
}

#[inline(always)]
unsafe fn block<const FMA: bool>(code: &Code, table: *mut *mut u8, count: usize) {
    let frame = Frame { table, count };
    let [a, b, c] = code.args;
    // SAFETY: the contract of `run_block`; operand kinds were checked with the program.
    unsafe {
        match (code.op, code.lane) {
            (TileOp::Select, Lane::Float) => {
                each3(
                    frame.out(code.dst),
                    frame.get::<i64>(a),
                    frame.get::<f32>(b),
                    frame.get(c),
                    |c, a, b| {
                        if c != 0 { a } else { b }
                    },
                );
            }
            (TileOp::Select, Lane::Int) => {
                each3(
                    frame.out(code.dst),
                    frame.get::<i64>(a),
                    frame.get::<i64>(b),
                    frame.get(c),
                    |c, a, b| {
                        if c != 0 { a } else { b }
                    },
                );
            }
            (TileOp::MulAdd, _) => {
                let (x, y, z): (&[f32], &[f32], &[f32]) = (frame.get(a), frame.get(b), frame.get(c));
                let dst: &mut [f32] = frame.out(code.dst);
                inlined!(dst, math::fma::<FMA>, x, y, z);
            }
            (TileOp::ToFloat, _) => each1(frame.out(code.dst), frame.get::<i64>(a), |v| v as f32),
            (TileOp::Not, _) => each1(frame.out(code.dst), frame.get::<i64>(a), |v| i64::from(v == 0)),
            (TileOp::And, _) => {
                each2(frame.out(code.dst), frame.get::<i64>(a), frame.get::<i64>(b), |a, b| a & b);
            }
            (TileOp::Or, _) => {
                each2(frame.out(code.dst), frame.get::<i64>(a), frame.get::<i64>(b), |a, b| a | b);
            }
            (TileOp::Xor, _) => {
                each2(frame.out(code.dst), frame.get::<i64>(a), frame.get::<i64>(b), |a, b| a ^ b);
            }
            (TileOp::ToInt, _) => each1(frame.out(code.dst), frame.get::<f32>(a), |v| v as i64),
            (TileOp::IsNan, _) => each1(frame.out(code.dst), frame.get::<f32>(a), |v| i64::from(v.is_nan())),
            (_, Lane::Float) => float::<FMA>(&frame, code),
            (_, Lane::Int) => int(&frame, code),
        }
    }
}

#[inline(always)]
unsafe fn float<const FMA: bool>(frame: &Frame, code: &Code) {
    // SAFETY: the contract of `run_block`.
    unsafe {
        let a: &[f32] = frame.get(code.args[0]);
        if code.op.arity() == 2 {
            return float_pair(frame, code, a, frame.get(code.args[1]));
        }
        let dst: &mut [f32] = frame.out(code.dst);
        match code.op {
            TileOp::Neg => each1(dst, a, |v| -v),
            TileOp::Abs => each1(dst, a, f32::abs),
            TileOp::Sign => each1(dst, a, sign),
            TileOp::Sqrt => each1(dst, a, f32::sqrt),
            TileOp::Recip => each1(dst, a, |v| 1.0 / v),
            TileOp::Floor => each1(dst, a, f32::floor),
            TileOp::Ceil => each1(dst, a, f32::ceil),
            TileOp::Round => each1(dst, a, f32::round_ties_even),
            TileOp::Exp => inlined!(dst, math::exp::<FMA>, a),
            TileOp::Log => inlined!(dst, math::log::<FMA>, a),
            TileOp::Erf => inlined!(dst, math::erf::<FMA>, a),
            TileOp::Tanh => inlined!(dst, math::tanh::<FMA>, a),
            TileOp::Sigmoid => inlined!(dst, math::sigmoid::<FMA>, a),
            TileOp::Sin => {
                inlined!(&mut *dst, math::sin::<FMA>, a);
                exact_where_large(dst, a, f64::sin);
            }
            TileOp::Cos => {
                inlined!(&mut *dst, math::cos::<FMA>, a);
                exact_where_large(dst, a, f64::cos);
            }
            TileOp::RoundTo => round_to(dst, a, code.to),
            _ => rare(dst, a, code.op),
        }
    }
}

#[inline(always)]
fn sign(v: f32) -> f32 {
    let positive = if v > 0.0 { 1.0 } else { v };
    if v < 0.0 { -1.0 } else { positive }
}

/// Replaces results whose argument the fast form does not cover.
#[inline(always)]
fn exact_where_large(dst: &mut [f32], a: &[f32], exact: fn(f64) -> f64) {
    let covered = a.iter().fold(true, |all, v| all & (v.abs() <= math::TRIG_LIMIT));
    if covered {
        return;
    }
    for (d, &v) in dst.iter_mut().zip(a) {
        if v.is_nan() || v.abs() > math::TRIG_LIMIT {
            *d = exact(f64::from(v)) as f32;
        }
    }
}

#[inline(never)]
fn round_to(dst: &mut [f32], a: &[f32], to: ElementType) {
    match to {
        ElementType::F16 => each1(dst, a, |v| f16::from_f32(v).to_f32()),
        ElementType::Bf16 => each1(dst, a, |v| bf16::from_f32(v).to_f32()),
        _ => dst.copy_from_slice(a),
    }
}

/// Functions without a fast form, in double precision.
#[inline(never)]
fn rare(dst: &mut [f32], a: &[f32], op: TileOp) {
    let function: fn(f64) -> f64 = match op {
        TileOp::Tan => f64::tan,
        TileOp::Asin => f64::asin,
        TileOp::Acos => f64::acos,
        TileOp::Atan => f64::atan,
        TileOp::Sinh => f64::sinh,
        TileOp::Cosh => f64::cosh,
        TileOp::Asinh => f64::asinh,
        TileOp::Acosh => f64::acosh,
        TileOp::Atanh => f64::atanh,
        TileOp::Log1p => f64::ln_1p,
        _ => |v| v,
    };
    each1(dst, a, |v| function(f64::from(v)) as f32);
}

#[inline(always)]
unsafe fn float_pair(frame: &Frame, code: &Code, a: &[f32], b: &[f32]) {
    // SAFETY: the contract of `run_block`; comparisons write an Int register.
    unsafe {
        match code.op {
            TileOp::Eq => return each2(frame.out(code.dst), a, b, |a, b| i64::from(a == b)),
            TileOp::Lt => return each2(frame.out(code.dst), a, b, |a, b| i64::from(a < b)),
            TileOp::Le => return each2(frame.out(code.dst), a, b, |a, b| i64::from(a <= b)),
            _ => {}
        }
        let dst: &mut [f32] = frame.out(code.dst);
        match code.op {
            TileOp::Add => each2(dst, a, b, |a, b| a + b),
            TileOp::Sub => each2(dst, a, b, |a, b| a - b),
            TileOp::Mul => each2(dst, a, b, |a, b| a * b),
            TileOp::Div => each2(dst, a, b, |a, b| a / b),
            TileOp::Max => each2(dst, a, b, |a, b| if a > b { a } else { b }),
            TileOp::Min => each2(dst, a, b, |a, b| if a < b { a } else { b }),
            TileOp::Pow => power(dst, a, b),
            TileOp::Mod => each2(dst, a, b, modulo),
            TileOp::Rem => each2(dst, a, b, |a, b| a % b),
            _ => dst.copy_from_slice(a),
        }
    }
}

/// Powers; the exponents that models use are products and roots.
#[inline(always)]
fn power(dst: &mut [f32], a: &[f32], b: &[f32]) {
    let first = b.first().copied().unwrap_or(1.0);
    let same = b.iter().fold(true, |all, &v| all & (v == first));
    if same && first == 2.0 {
        each1(dst, a, |v| v * v);
    } else if same && first == 3.0 {
        each1(dst, a, |v| v * v * v);
    } else {
        each2(dst, a, b, |a, b| f64::from(a).powf(f64::from(b)) as f32);
    }
}

fn modulo(a: f32, b: f32) -> f32 {
    let rest = a % b;
    match rest == 0.0 {
        // A zero has the sign of the divisor, as in Python.
        true => rest.copysign(b),
        false if (rest < 0.0) != (b < 0.0) => rest + b,
        false => rest,
    }
}

#[inline(always)]
unsafe fn int(frame: &Frame, code: &Code) {
    // SAFETY: the contract of `run_block`.
    unsafe {
        let a: &[i64] = frame.get(code.args[0]);
        let dst: &mut [i64] = frame.out(code.dst);
        if code.op.arity() == 2 {
            return int_pair(code.op, dst, a, frame.get(code.args[1]));
        }
        match code.op {
            TileOp::Neg => each1(dst, a, i64::wrapping_neg),
            TileOp::Abs => each1(dst, a, i64::wrapping_abs),
            TileOp::Sign => each1(dst, a, i64::signum),
            TileOp::Wrap => wrap(dst, a, code.to),
            _ => dst.copy_from_slice(a),
        }
    }
}

#[inline(always)]
fn int_pair(op: TileOp, dst: &mut [i64], a: &[i64], b: &[i64]) {
    match op {
        TileOp::Add => each2(dst, a, b, i64::wrapping_add),
        TileOp::Sub => each2(dst, a, b, i64::wrapping_sub),
        TileOp::Mul => each2(dst, a, b, i64::wrapping_mul),
        TileOp::Div => each2(dst, a, b, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        TileOp::Max => each2(dst, a, b, |a, b| if a > b { a } else { b }),
        TileOp::Min => each2(dst, a, b, |a, b| if a < b { a } else { b }),
        TileOp::Mod => each2(dst, a, b, int_modulo),
        TileOp::Rem => each2(dst, a, b, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        TileOp::Eq => each2(dst, a, b, |a, b| i64::from(a == b)),
        TileOp::Lt => each2(dst, a, b, |a, b| i64::from(a < b)),
        TileOp::Le => each2(dst, a, b, |a, b| i64::from(a <= b)),
        TileOp::Shl => each2(dst, a, b, |a, b| if (0..64).contains(&b) { a << b } else { 0 }),
        TileOp::Shr => {
            each2(dst, a, b, |a, b| a >> b.clamp(0, 63));
        }
        TileOp::Pow => each2(dst, a, b, int_power),
        _ => dst.copy_from_slice(a),
    }
}

fn int_modulo(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let rest = a.wrapping_rem(b);
    if rest != 0 && (rest < 0) != (b < 0) { rest.wrapping_add(b) } else { rest }
}

fn int_power(a: i64, b: i64) -> i64 {
    match u32::try_from(b) {
        Ok(exponent) => a.wrapping_pow(exponent),
        Err(_) => i64::from(a == 1),
    }
}

#[inline(always)]
fn wrap(dst: &mut [i64], a: &[i64], to: ElementType) {
    match to {
        ElementType::I8 => each1(dst, a, |v| i64::from(v as i8)),
        ElementType::I16 => each1(dst, a, |v| i64::from(v as i16)),
        ElementType::I32 => each1(dst, a, |v| i64::from(v as i32)),
        ElementType::U8 => each1(dst, a, |v| i64::from(v as u8)),
        ElementType::U16 => each1(dst, a, |v| i64::from(v as u16)),
        ElementType::U32 => each1(dst, a, |v| i64::from(v as u32)),
        ElementType::Bool => each1(dst, a, |v| i64::from(v != 0)),
        _ => dst.copy_from_slice(a),
    }
}
