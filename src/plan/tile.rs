//! Tile programs: elementwise arithmetic in SSA form over two kinds of lanes.
//!
//! Instruction `i` defines register `i`. Inputs are broadcast (numpy rules) to the shape of the output.
//! A float lane computes in f32; an integer lane in i64 (booleans are 0 and 1). On store, a lane is converted
//! to the output's element type (integers wrap, floats round to nearest, bool is "not zero").

use crate::PlanError;
use prost::Message;

/// Most instructions a program may have.
pub const MAX_INSTRS: usize = 4096;

/// Kind of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Lane {
    /// f32.
    Float = 0,
    /// i64; also booleans.
    Int = 1,
}

/// Operations; the comment gives operands and result. `L` is the instruction's lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum TileOp {
    /// `inputs[index]` -> L (Float for float element types, Int for the others).
    Load = 0,
    /// `float` or `int` -> L.
    Const = 1,
    /// L, L -> L.
    Add = 2,
    Sub = 3,
    Mul = 4,
    /// Int division truncates towards zero; by zero gives 0.
    Div = 5,
    /// `a > b ? a : b`, so b where either is NaN.
    Max = 6,
    /// `a < b ? a : b`, so b where either is NaN.
    Min = 7,
    /// Float only.
    Pow = 8,
    /// Remainder with the sign of the divisor (Python `%`); by zero gives 0 (Int) or NaN (Float).
    Mod = 9,
    /// Remainder with the sign of the dividend (C `fmod`).
    Rem = 10,
    /// L -> L.
    Neg = 11,
    Abs = 12,
    Sign = 13,
    /// Float -> Float.
    Sqrt = 14,
    Exp = 15,
    Log = 16,
    Erf = 17,
    Tanh = 18,
    Sin = 19,
    Cos = 20,
    Floor = 21,
    Ceil = 22,
    /// Half to even.
    Round = 23,
    Sigmoid = 24,
    /// Reciprocal.
    Recip = 25,
    /// L, L -> Int 0 or 1. For Float, comparisons with NaN are 0.
    Eq = 26,
    Lt = 27,
    Le = 28,
    /// Int c, L a, L b -> L: a where c is not zero, else b.
    Select = 29,
    /// Int -> Int, "is zero".
    Not = 30,
    /// Int, Int -> Int, bitwise.
    And = 31,
    Or = 32,
    Xor = 33,
    /// Int -> Float.
    ToFloat = 34,
    /// Float -> Int, towards zero, saturating, NaN gives 0.
    ToInt = 35,
    /// Float -> Int 0 or 1.
    IsNan = 36,
    /// a*b + c, rounded once or twice. Float.
    MulAdd = 37,
    /// Float -> Float arcs and hyperbolics.
    Tan = 38,
    Asin = 39,
    Acos = 40,
    Atan = 41,
    Sinh = 42,
    Cosh = 43,
    Asinh = 44,
    Acosh = 45,
    Atanh = 46,
    /// ln(1 + x), Float.
    Log1p = 47,
    /// Int: shift left; by less than 0 or more than 63 gives 0.
    Shl = 48,
    /// Int: arithmetic shift right; the distance is clamped to 0..=63.
    Shr = 49,
    /// Wraps an Int register to a narrower integer type: `index` is the `ElementType`.
    Wrap = 50,
    /// Rounds a Float register to a narrower float type: `index` is the `ElementType`.
    RoundTo = 51,
}

/// One instruction.
#[derive(Clone, PartialEq, Message)]
pub struct TileInstr {
    #[prost(enumeration = "TileOp", tag = "1")]
    pub op: i32,
    /// Lane of the result; of the operands for comparisons, `Select` counts its result.
    #[prost(enumeration = "Lane", tag = "2")]
    pub lane: i32,
    /// Operand registers, each smaller than the own index.
    #[prost(uint32, repeated, tag = "3")]
    pub args: Vec<u32>,
    /// Input index of `Load`, type of `Wrap` and `RoundTo`.
    #[prost(uint32, tag = "4")]
    pub index: u32,
    /// Value of a Float constant.
    #[prost(double, tag = "5")]
    pub float: f64,
    /// Value of an Int constant.
    #[prost(sint64, tag = "6")]
    pub int: i64,
}

/// A program: instructions and the registers stored to the outputs.
#[derive(Clone, PartialEq, Message)]
pub struct TileProgram {
    #[prost(uint32, tag = "1")]
    pub inputs: u32,
    #[prost(message, repeated, tag = "2")]
    pub instrs: Vec<TileInstr>,
    /// Register stored to each output.
    #[prost(uint32, repeated, tag = "3")]
    pub outputs: Vec<u32>,
}

impl TileOp {
    /// Number of operands.
    pub fn arity(self) -> usize {
        use TileOp::{
            Add, And, Const, Div, Eq, Le, Load, Lt, Max, Min, Mod, Mul, MulAdd, Or, Pow, Rem, Select, Shl,
            Shr, Sub, Xor,
        };
        match self {
            Load | Const => 0,
            Add | Sub | Mul | Div | Max | Min | Pow | Mod | Rem | Eq | Lt | Le | And | Or | Xor | Shl
            | Shr => 2,
            Select | MulAdd => 3,
            _ => 1,
        }
    }

    /// Lane of the result, given the instruction's lane.
    pub fn result_lane(self, lane: Lane) -> Lane {
        match self {
            Self::Eq | Self::Lt | Self::Le | Self::IsNan | Self::ToInt | Self::Not => Lane::Int,
            Self::ToFloat => Lane::Float,
            _ => lane,
        }
    }

    /// Lane each operand must have, given the instruction's lane.
    fn operand_lane(self, lane: Lane, operand: usize) -> Lane {
        match self {
            Self::Select if operand == 0 => Lane::Int,
            Self::ToFloat | Self::Not | Self::And | Self::Or | Self::Xor => Lane::Int,
            Self::ToInt | Self::IsNan => Lane::Float,
            _ => lane,
        }
    }
}

impl TileProgram {
    /// Lane of every register, after checking that the program is well formed.
    ///
    /// # Errors
    /// `L030` naming the instruction that is wrong.
    pub fn check(&self) -> Result<Vec<Lane>, PlanError> {
        let bad = |at: usize, what: &str| {
            PlanError::new(
                "L030",
                format!("instruction {at} of a tile program"),
                what,
                "compile the model again",
            )
        };
        if self.instrs.len() > MAX_INSTRS {
            return Err(bad(MAX_INSTRS, "the program is longer than the limit of 4096 instructions"));
        }
        let mut lanes: Vec<Lane> = Vec::with_capacity(self.instrs.len());
        for (at, instr) in self.instrs.iter().enumerate() {
            let op = TileOp::try_from(instr.op).map_err(|_| bad(at, "unknown operation"))?;
            let lane = Lane::try_from(instr.lane).map_err(|_| bad(at, "unknown lane"))?;
            if instr.args.len() != op.arity() {
                return Err(bad(at, "wrong number of operands"));
            }
            for (operand, &arg) in instr.args.iter().enumerate() {
                match lanes.get(arg as usize) {
                    None => return Err(bad(at, "operand is not defined before its use")),
                    Some(&have) if have != op.operand_lane(lane, operand) => {
                        return Err(bad(at, "operand has the wrong kind of lane"));
                    }
                    Some(_) => {}
                }
            }
            if op == TileOp::Load && instr.index >= self.inputs {
                return Err(bad(at, "loads an input the program does not have"));
            }
            lanes.push(op.result_lane(lane));
        }
        if self.outputs.iter().any(|&r| r as usize >= lanes.len()) {
            return Err(bad(self.instrs.len(), "stores a register that is not defined"));
        }
        Ok(lanes)
    }
}
