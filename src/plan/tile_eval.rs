//! Tile programs by their definition: one element at a time, one instruction at a time. What devices compute
//! is compared with this.

use crate::tile::{Lane, TileInstr, TileOp, TileProgram};
use crate::{ElementType, PlanError};
use half::{bf16, f16};

/// The value of a register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// Of a float lane.
    Float(f32),
    /// Of an integer lane.
    Int(i64),
}

impl Scalar {
    /// The value as a float; integers are rounded.
    pub fn float(self) -> f32 {
        match self {
            Self::Float(v) => v,
            Self::Int(v) => v as f32,
        }
    }

    /// The value as an integer: floats towards zero, saturating, NaN gives 0.
    pub fn int(self) -> i64 {
        match self {
            Self::Float(v) => v as i64,
            Self::Int(v) => v,
        }
    }

    /// The value as it is after a store to `ty` and a load back.
    #[must_use]
    pub fn stored(self, ty: ElementType) -> Self {
        match (self, ty.is_float()) {
            (Self::Float(v), _) if ty == ElementType::Bool => Self::Int(i64::from(v != 0.0)),
            (_, true) => Self::Float(round_to(ty, self.float())),
            (_, false) => Self::Int(wrap(ty, self.int())),
        }
    }
}

/// `v` rounded to the precision of `ty`.
fn round_to(ty: ElementType, v: f32) -> f32 {
    match ty {
        ElementType::F16 => f16::from_f32(v).to_f32(),
        ElementType::Bf16 => bf16::from_f32(v).to_f32(),
        _ => v,
    }
}

/// `v` wrapped to the width of `ty`.
fn wrap(ty: ElementType, v: i64) -> i64 {
    match ty {
        ElementType::I8 => i64::from(v as i8),
        ElementType::I16 => i64::from(v as i16),
        ElementType::I32 => i64::from(v as i32),
        ElementType::U8 => i64::from(v as u8),
        ElementType::U16 => i64::from(v as u16),
        ElementType::U32 => i64::from(v as u32),
        ElementType::Bool => i64::from(v != 0),
        _ => v,
    }
}

impl TileProgram {
    /// Evaluates the program for one element: `inputs` are the loaded values; the result has one value per
    /// output, before the conversion of the store.
    ///
    /// # Errors
    /// `L030` when the program is not well formed or `inputs` are too few.
    pub fn eval_scalar(&self, inputs: &[Scalar]) -> Result<Vec<Scalar>, PlanError> {
        self.check()?;
        let mut registers: Vec<Scalar> = Vec::with_capacity(self.instrs.len());
        for (at, instr) in self.instrs.iter().enumerate() {
            let value = step(instr, &registers, inputs).ok_or_else(|| {
                PlanError::new(
                    "L030",
                    format!("instruction {at} of a tile program"),
                    "the instruction cannot be evaluated",
                    "give every input once",
                )
            })?;
            registers.push(value);
        }
        Ok(self.outputs.iter().map(|&r| registers[r as usize]).collect())
    }
}

/// One instruction; `None` when an input is missing or the operation does not exist for the lane.
fn step(instr: &TileInstr, registers: &[Scalar], inputs: &[Scalar]) -> Option<Scalar> {
    let op = TileOp::try_from(instr.op).ok()?;
    let lane = Lane::try_from(instr.lane).ok()?;
    let arg = |n: usize| registers[instr.args[n] as usize];
    match (op, lane) {
        (TileOp::Load, _) => inputs.get(instr.index as usize).copied(),
        (TileOp::Const, Lane::Float) => Some(Scalar::Float(instr.float as f32)),
        (TileOp::Const, Lane::Int) => Some(Scalar::Int(instr.int)),
        (TileOp::Select, _) => Some(if arg(0).int() != 0 { arg(1) } else { arg(2) }),
        (TileOp::MulAdd, _) => Some(Scalar::Float(arg(0).float() * arg(1).float() + arg(2).float())),
        (TileOp::ToFloat, _) => Some(Scalar::Float(arg(0).float())),
        (TileOp::ToInt, _) => Some(Scalar::Int(arg(0).int())),
        (TileOp::Not, _) => Some(Scalar::Int(i64::from(arg(0).int() == 0))),
        (TileOp::IsNan, _) => Some(Scalar::Int(i64::from(arg(0).float().is_nan()))),
        (TileOp::Wrap | TileOp::RoundTo, _) => {
            Some(arg(0).stored(ElementType::try_from(i32::try_from(instr.index).ok()?).ok()?))
        }
        (_, Lane::Float) if op.arity() == 1 => float_one(op, arg(0).float()).map(Scalar::Float),
        (_, Lane::Float) => float_two(op, arg(0).float(), arg(1).float()),
        (_, Lane::Int) if op.arity() == 1 => int_one(op, arg(0).int()).map(Scalar::Int),
        (_, Lane::Int) => int_two(op, arg(0).int(), arg(1).int()).map(Scalar::Int),
    }
}

fn float_one(op: TileOp, x: f32) -> Option<f32> {
    Some(match op {
        TileOp::Neg => -x,
        TileOp::Abs => x.abs(),
        TileOp::Sign if x == 0.0 => 0.0,
        TileOp::Sign => x.signum(),
        TileOp::Sqrt => x.sqrt(),
        TileOp::Exp => libm::expf(x),
        TileOp::Log => libm::logf(x),
        TileOp::Log1p => libm::log1pf(x),
        TileOp::Erf => libm::erff(x),
        TileOp::Tanh => libm::tanhf(x),
        TileOp::Sin => libm::sinf(x),
        TileOp::Cos => libm::cosf(x),
        TileOp::Tan => libm::tanf(x),
        TileOp::Asin => libm::asinf(x),
        TileOp::Acos => libm::acosf(x),
        TileOp::Atan => libm::atanf(x),
        TileOp::Sinh => libm::sinhf(x),
        TileOp::Cosh => libm::coshf(x),
        TileOp::Asinh => libm::asinhf(x),
        TileOp::Acosh => libm::acoshf(x),
        TileOp::Atanh => libm::atanhf(x),
        TileOp::Floor => x.floor(),
        TileOp::Ceil => x.ceil(),
        TileOp::Round => x.round_ties_even(),
        TileOp::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
        TileOp::Recip => x.recip(),
        _ => return None,
    })
}

fn float_two(op: TileOp, x: f32, y: f32) -> Option<Scalar> {
    let value = match op {
        TileOp::Eq => return Some(Scalar::Int(i64::from(x == y))),
        TileOp::Lt => return Some(Scalar::Int(i64::from(x < y))),
        TileOp::Le => return Some(Scalar::Int(i64::from(x <= y))),
        TileOp::Add => x + y,
        TileOp::Sub => x - y,
        TileOp::Mul => x * y,
        TileOp::Div => x / y,
        TileOp::Max if x > y => x,
        TileOp::Min if x < y => x,
        TileOp::Max | TileOp::Min => y,
        TileOp::Pow => libm::powf(x, y),
        TileOp::Rem => libm::fmodf(x, y),
        TileOp::Mod => {
            let rest = libm::fmodf(x, y);
            if rest == 0.0 {
                rest.copysign(y)
            } else if (rest < 0.0) != (y < 0.0) {
                rest + y
            } else {
                rest
            }
        }
        _ => return None,
    };
    Some(Scalar::Float(value))
}

fn int_one(op: TileOp, x: i64) -> Option<i64> {
    Some(match op {
        TileOp::Neg => x.wrapping_neg(),
        TileOp::Abs => x.wrapping_abs(),
        TileOp::Sign => x.signum(),
        _ => return None,
    })
}

fn int_two(op: TileOp, x: i64, y: i64) -> Option<i64> {
    Some(match op {
        TileOp::Add => x.wrapping_add(y),
        TileOp::Sub => x.wrapping_sub(y),
        TileOp::Mul => x.wrapping_mul(y),
        TileOp::Div | TileOp::Rem | TileOp::Mod if y == 0 => 0,
        TileOp::Div => x.wrapping_div(y),
        TileOp::Rem => x.wrapping_rem(y),
        TileOp::Mod => {
            let rest = x.wrapping_rem(y);
            if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }
        }
        TileOp::Max => x.max(y),
        TileOp::Min => x.min(y),
        TileOp::Eq => i64::from(x == y),
        TileOp::Lt => i64::from(x < y),
        TileOp::Le => i64::from(x <= y),
        TileOp::And => x & y,
        TileOp::Or => x | y,
        TileOp::Xor => x ^ y,
        // Shifting everything out leaves zero (or the sign).
        TileOp::Shl => u32::try_from(y).ok().and_then(|n| x.checked_shl(n)).unwrap_or(0),
        TileOp::Shr => x >> y.clamp(0, 63),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instr(op: TileOp, lane: Lane, args: &[u32]) -> TileInstr {
        TileInstr { op: op as i32, lane: lane as i32, args: args.to_vec(), ..Default::default() }
    }

    #[test]
    fn remainders_differ_in_sign() {
        for (op, want) in [(TileOp::Mod, 2), (TileOp::Rem, -1)] {
            let load = |index| TileInstr { index, ..instr(TileOp::Load, Lane::Int, &[]) };
            let program = TileProgram {
                inputs: 2,
                instrs: vec![load(0), load(1), instr(op, Lane::Int, &[0, 1])],
                outputs: vec![2],
            };
            let got = program.eval_scalar(&[Scalar::Int(-4), Scalar::Int(3)]).unwrap();
            assert_eq!(got, [Scalar::Int(want)]);
            assert!(program.eval_scalar(&[]).is_err());
        }
    }

    #[test]
    fn stores_wrap_and_round() {
        assert_eq!(Scalar::Int(300).stored(ElementType::I8), Scalar::Int(44));
        assert_eq!(Scalar::Float(-1.5).stored(ElementType::U8), Scalar::Int(255));
        assert_eq!(Scalar::Float(0.5).stored(ElementType::Bool), Scalar::Int(1));
        assert_eq!(Scalar::Int(3).stored(ElementType::F32), Scalar::Float(3.0));
    }
}
