//! From exact sums to results: scales, bias, and what the epilogue's form says, for rows of a tile at a time.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::int_form::{Form, Quant};
use crate::isa::{Isa, per_isa};
use crate::layout::NR;
use crate::math::fma;
use crate::micro_int::FLIP;
use crate::prepared::{Call, Operand};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Own operands before the bias: both sides with scale and zero point.
pub(crate) const OWN: usize = 6;

/// Rounding in the form the loops use. Values are multiplied by the inverse of the scale just before, never folded with
/// other factors: so halves stay halves, and results are those of the operators one by one.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub inverse: f32,
    /// Bounds less the zero point.
    pub low: f32,
    pub high: f32,
    pub zero: f32,
}

impl Round {
    fn of(quant: &Quant) -> Self {
        let (low, high) = (quant.low - quant.zero, quant.high - quant.zero);
        Self { inverse: 1.0 / quant.scale, low, high, zero: quant.zero }
    }
}

/// What is added to values.
#[derive(Clone, Copy)]
pub(crate) enum Term {
    None,
    /// A value per column.
    Column(*const f32),
    /// A value per result.
    Floats(*const f32),
    /// A number per result: the byte (signed ones count as 128 more) less `zero`, times `scale`; in this order, so that
    /// equal numbers with equal scales stay equal and halves stay halves.
    Bytes {
        ptr: *const u8,
        signed: bool,
        scale: f32,
        zero: f32,
    },
}

/// Where results go.
#[derive(Clone, Copy)]
pub(crate) enum Out {
    Floats(*mut f32),
    Bytes(*mut u8, Round),
}

/// Scales, zero points and epilogue of a product, bound to their operands.
pub(crate) struct Finish {
    a_scale: *const f32,
    a_zero: *const u8,
    b_scale: *const f32,
    b_zero: *const u8,
    a_signed: bool,
    b_signed: bool,
    /// Whether `b_scale` has one value per column.
    spread: bool,
    bias: *const f32,
    pub inner: Option<Round>,
    /// What rounded numbers are multiplied by, back to values.
    pub inner_scale: f32,
    pub term: Term,
    pub low: f32,
    pub high: f32,
    pub out: Out,
    pub columns: usize,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Finish {}
// SAFETY: as above.
unsafe impl Sync for Finish {}

/// What holds for the columns of a panel.
pub(crate) struct Panel {
    /// Added to sums: what the zero points make of them.
    pub offset: [i32; NR],
    pub factor: [f32; NR],
    pub bias: [f32; NR],
    pub column: usize,
    pub count: usize,
}

fn is_byte(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::I8 | ElementType::U8)
}

impl Finish {
    /// Reads scales, zero points, bias and epilogue of a call with `columns` columns.
    ///
    /// # Errors
    /// When types or sizes do not fit.
    pub(crate) fn new(call: &Call<'_>, columns: usize) -> Result<Self, RuntimeError> {
        let n_own = call.kernel.int("n_own").and_then(|v| usize::try_from(v).ok()).unwrap_or(OWN);
        call.ensure((OWN..=OWN + 1).contains(&n_own), "a product of integers has six or seven operands")?;
        let vector = |n: usize, one: bool| -> Result<*const f32, RuntimeError> {
            let o = call.input(n)?;
            let fits = o.len() == columns || (one && o.len() == 1);
            call.ensure(
                o.dtype == ElementType::F32 && o.layout.is_none() && fits,
                "scales or bias do not fit",
            )?;
            Ok(o.f32())
        };
        let zero = |n: usize| -> Result<*const u8, RuntimeError> {
            let (o, of) = (call.input(n)?, call.input(n - 2)?);
            call.ensure(
                is_byte(o.dtype) && o.dtype == of.dtype && o.len() == 1,
                "a zero point does not fit",
            )?;
            Ok(o.ptr)
        };
        call.ensure(call.input(1)?.len() == 1, "the first operand has one scale")?;
        let form = match &call.kernel.program {
            None => Form::PLAIN,
            Some(program) => {
                program.check()?;
                Form::of(program).ok_or_else(|| call.bad("the epilogue has no form this kernel knows"))?
            }
        };
        Ok(Self {
            inner_scale: form.inner.map_or(1.0, |q| q.scale),
            a_scale: vector(1, true)?,
            a_zero: zero(2)?,
            b_scale: vector(4, true)?,
            b_zero: zero(5)?,
            a_signed: call.input(0)?.dtype == ElementType::I8,
            b_signed: call.input(3)?.dtype == ElementType::I8,
            spread: call.input(4)?.len() == columns,
            bias: if n_own > OWN { vector(OWN, false)? } else { std::ptr::null() },
            inner: form.inner.as_ref().map(Round::of),
            term: Self::term(call, &form, n_own, columns)?,
            low: form.low,
            high: form.high,
            out: Self::out(call, &form)?,
            columns,
        })
    }

    fn term(call: &Call<'_>, form: &Form, n_own: usize, columns: usize) -> Result<Term, RuntimeError> {
        let Some(term) = form.term else { return Ok(Term::None) };
        let operand: &Operand = call.input(n_own + term.input - 1)?;
        let dense = operand.shape == call.output(0)?.shape;
        call.ensure(operand.layout.is_none(), "the operand of an epilogue is not packed")?;
        match (operand.dtype, term.numbers) {
            (ElementType::F32, None) if dense => Ok(Term::Floats(operand.f32())),
            (ElementType::F32, None)
                if operand.len() == columns && operand.shape.last() == Some(&columns) =>
            {
                Ok(Term::Column(operand.f32()))
            }
            (dtype, Some((scale, zero))) if is_byte(dtype) && dense => {
                let signed = dtype == ElementType::I8;
                let zero = if signed { zero + 128.0 } else { zero };
                Ok(Term::Bytes { ptr: operand.ptr, signed, scale, zero })
            }
            _ => Err(call.bad("the operand of the epilogue does not fit")),
        }
    }

    fn out(call: &Call<'_>, form: &Form) -> Result<Out, RuntimeError> {
        let out = call.output(0)?;
        match (out.dtype, &form.last) {
            (ElementType::F32, None) => Ok(Out::Floats(out.f32())),
            (dtype, Some(quant)) if quant.fits(dtype) => Ok(Out::Bytes(out.ptr, Round::of(quant))),
            _ => Err(call.bad("the result has another type than the epilogue gives")),
        }
    }

    /// Where results go and how they are rounded, when that is all that happens to them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn rounds(&self) -> Option<(*mut u8, Round)> {
        match (self.inner, self.term, self.out) {
            (None, Term::None, Out::Bytes(out, round)) => Some((out, round)),
            _ => None,
        }
    }

    /// Whether A holds signed bytes.
    pub(crate) fn flips(&self) -> bool {
        self.a_signed
    }

    /// Whether B holds unsigned bytes; they are read as signed ones, 128 less.
    pub(crate) fn lowers(&self) -> bool {
        !self.b_signed
    }

    /// The zero point of A as its bytes are, for padding.
    pub(crate) fn padding(&self) -> u8 {
        // SAFETY: the operand has one element.
        unsafe { *self.a_zero }
    }

    /// Zero point of A, counted as the kernels count it.
    fn zero_a(&self) -> i32 {
        i32::from(self.padding() ^ if self.a_signed { FLIP } else { 0 })
    }

    /// Zero point of B, counted as the kernels count it. Sums of rows of A are needed when it is not 0.
    pub(crate) fn zero_b(&self) -> i32 {
        // SAFETY: the operand has one element.
        let zero = unsafe { *self.b_zero };
        i32::from((zero ^ if self.b_signed { 0 } else { FLIP }) as i8)
    }

    /// What holds for the columns of the panel at `column`, whose sums over a depth of `depth` are `sums`.
    pub(crate) fn panel(&self, column: usize, count: usize, sums: &[i32; NR], depth: usize) -> Panel {
        let (zero_a, zero_b) = (self.zero_a(), self.zero_b());
        let fixed = (depth as i32).wrapping_mul(zero_a).wrapping_mul(zero_b);
        let mut panel = Panel {
            offset: sums.map(|s| fixed.wrapping_sub(zero_a.wrapping_mul(s))),
            factor: [0.0; NR],
            bias: [0.0; NR],
            column,
            count,
        };
        for j in 0..count {
            // SAFETY: the columns lie in the operands.
            unsafe {
                let at = if self.spread { column + j } else { 0 };
                panel.factor[j] = *self.a_scale * *self.b_scale.add(at);
                if !self.bias.is_null() {
                    panel.bias[j] = *self.bias.add(column + j);
                }
            }
        }
        panel
    }
}

/// Finishes the rows of `sums` and stores them from result row `row` on. `offsets`, when given, has one number to be
/// added to each row.
///
/// # Safety
/// The rows and the panel's columns lie in the result and in the epilogue's operands; `isa` exists here.
pub(crate) unsafe fn finish(
    isa: Isa,
    f: &Finish,
    panel: &Panel,
    sums: &[[i32; NR]],
    offsets: *const i32,
    row: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::int_wide::finish(f, panel, sums, offsets, row),
            _ => finish_any(isa, f, panel, sums, offsets, row),
        }
    }
}

per_isa! {
    unsafe fn finish_any = finish_body(f: &Finish, panel: &Panel, sums: &[[i32; NR]], offsets: *const i32, row: usize)
}

#[inline(always)]
unsafe fn finish_body<const FMA: bool>(
    f: &Finish,
    panel: &Panel,
    sums: &[[i32; NR]],
    offsets: *const i32,
    row: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        let at = (row + r) * f.columns + panel.column;
        // SAFETY: the caller's contract.
        unsafe {
            let more = if offsets.is_null() { 0 } else { *offsets.add(r) };
            let mut v = [0f32; NR];
            for j in 0..NR {
                let sum = sums[j].wrapping_add(panel.offset[j]).wrapping_add(more);
                v[j] = fma::<FMA>(sum as f32, panel.factor[j], panel.bias[j]);
            }
            if let Some(inner) = &f.inner {
                round::<FMA>(&mut v, inner);
                v.iter_mut().for_each(|v| *v *= f.inner_scale);
            }
            add::<FMA>(f, panel, at, &mut v);
            match f.out {
                Out::Floats(out) => {
                    for v in &mut v {
                        *v = if f.low > *v { f.low } else { *v };
                        *v = if f.high < *v { f.high } else { *v };
                    }
                    store(&v, out.add(at), panel.count);
                }
                Out::Bytes(out, last) => {
                    round::<FMA>(&mut v, &last);
                    let mut numbers = [0u8; NR];
                    for (number, v) in numbers.iter_mut().zip(&v) {
                        // SAFETY: rounding leaves numbers within the bounds of a byte, signed or not.
                        *number = (*v + last.zero).to_int_unchecked::<i32>() as u8;
                    }
                    store(&numbers, out.add(at), panel.count);
                }
            }
        }
    }
}

/// Numbers less the zero point. The bounds are whole numbers, so they may come before rounding.
#[inline(always)]
fn round<const FMA: bool>(v: &mut [f32; NR], to: &Round) {
    /// Adding and subtracting it rounds to the nearest integer, half to even, below 2^22.
    const ROUNDER: f32 = 12_582_912.0;
    for v in v {
        let steps = *v * to.inverse;
        let above = if steps > to.low { steps } else { to.low };
        let bounded = if above < to.high { above } else { to.high };
        *v = if FMA { bounded.round_ties_even() } else { (bounded + ROUNDER) - ROUNDER };
    }
}

/// Adds the epilogue's term.
#[inline(always)]
unsafe fn add<const FMA: bool>(f: &Finish, panel: &Panel, at: usize, v: &mut [f32; NR]) {
    // SAFETY: the caller's contract.
    unsafe {
        let floats = match f.term {
            Term::None => return,
            Term::Column(ptr) => load(ptr.add(panel.column), panel.count),
            Term::Floats(ptr) => load(ptr.add(at), panel.count),
            Term::Bytes { ptr, signed, scale, zero } => {
                let bytes: [u8; NR] = load(ptr.add(at), panel.count);
                let flip = if signed { FLIP } else { 0 };
                for (v, b) in v.iter_mut().zip(&bytes) {
                    *v += (i32::from(*b ^ flip) as f32 - zero) * scale;
                }
                return;
            }
        };
        v.iter_mut().zip(&floats).for_each(|(v, t)| *v += *t);
    }
}

#[inline(always)]
unsafe fn load<T: Copy + Default>(from: *const T, count: usize) -> [T; NR] {
    let mut all = [T::default(); NR];
    // SAFETY: the caller's contract.
    unsafe {
        if count == NR {
            return from.cast::<[T; NR]>().read_unaligned();
        }
        std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
    }
    all
}

#[inline(always)]
unsafe fn store<T: Copy>(values: &[T; NR], to: *mut T, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if count == NR {
            return to.cast::<[T; NR]>().write_unaligned(*values);
        }
        std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
    }
}
