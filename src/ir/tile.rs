//! Builder of tile programs: how an operator states its elementwise arithmetic once for every device.

use crate::DType;
use partita_plan::tile::{Lane, TileInstr, TileOp, TileProgram};

/// A register of the program under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    index: u32,
    lane: Lane,
}

impl Reg {
    /// Kind of the register.
    pub fn lane(self) -> Lane {
        self.lane
    }

    /// Number of the register in the program.
    pub fn index(self) -> u32 {
        self.index
    }
}

/// The lane that holds an element type.
pub fn lane_of(dtype: DType) -> Lane {
    if dtype.is_float() { Lane::Float } else { Lane::Int }
}

/// Whether tile programs compute the element type exactly enough (f64 and u64 do not fit the lanes, small types are only stored).
pub fn fits_lanes(dtype: DType) -> bool {
    dtype.is_computable() && !matches!(dtype, DType::F64 | DType::U64)
}

/// Builds a program; equal instructions are shared.
#[derive(Clone, Debug, Default)]
pub struct TileBuilder {
    instrs: Vec<TileInstr>,
    lanes: Vec<Lane>,
    inputs: u32,
}

impl TileBuilder {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, instr: TileInstr, result: Lane) -> Reg {
        let index = self.instrs.iter().position(|i| *i == instr).unwrap_or_else(|| {
            self.instrs.push(instr);
            self.lanes.push(result);
            self.instrs.len() - 1
        });
        Reg { index: u32::try_from(index).unwrap_or(u32::MAX), lane: result }
    }

    /// Declares the next input, of element type `dtype`.
    pub fn input(&mut self, dtype: DType) -> Reg {
        let lane = lane_of(dtype);
        let index = self.inputs;
        self.inputs += 1;
        self.push(TileInstr { op: TileOp::Load as i32, lane: lane as i32, index, ..Default::default() }, lane)
    }

    /// A float constant.
    pub fn float(&mut self, value: f64) -> Reg {
        let lane = Lane::Float;
        self.push(
            TileInstr { op: TileOp::Const as i32, lane: lane as i32, float: value, ..Default::default() },
            lane,
        )
    }

    /// An integer constant.
    pub fn int(&mut self, value: i64) -> Reg {
        let lane = Lane::Int;
        self.push(
            TileInstr { op: TileOp::Const as i32, lane: lane as i32, int: value, ..Default::default() },
            lane,
        )
    }

    /// A constant of the lane of `like`.
    pub fn constant(&mut self, like: Reg, value: f64) -> Reg {
        match like.lane {
            Lane::Float => self.float(value),
            Lane::Int => self.int(value as i64),
        }
    }

    /// One operand; the instruction's lane is the operand's.
    pub fn unary(&mut self, op: TileOp, a: Reg) -> Reg {
        self.emit(op, a.lane, &[a])
    }

    /// Two operands of one lane.
    pub fn binary(&mut self, op: TileOp, a: Reg, b: Reg) -> Reg {
        self.emit(op, a.lane, &[a, b])
    }

    /// `a` where `c` is not zero, else `b`.
    pub fn select(&mut self, c: Reg, a: Reg, b: Reg) -> Reg {
        self.emit(TileOp::Select, a.lane, &[c, a, b])
    }

    /// `a * b + c`.
    pub fn mul_add(&mut self, a: Reg, b: Reg, c: Reg) -> Reg {
        self.emit(TileOp::MulAdd, a.lane, &[a, b, c])
    }

    fn emit(&mut self, op: TileOp, lane: Lane, args: &[Reg]) -> Reg {
        let instr = TileInstr {
            op: op as i32,
            lane: lane as i32,
            args: args.iter().map(|r| r.index).collect(),
            ..Default::default()
        };
        self.push(instr, op.result_lane(lane))
    }

    /// The register in the lane of `dtype`, narrowed to its width.
    pub fn convert(&mut self, a: Reg, dtype: DType) -> Reg {
        let lane = lane_of(dtype);
        let instr = &self.instrs[a.index as usize];
        if a.lane == Lane::Int && dtype == DType::F32 && instr.op == TileOp::Const as i32 {
            let value = instr.int as f32;
            return self.float(f64::from(value));
        }
        let moved = match (a.lane, lane) {
            (Lane::Int, Lane::Float) => self.emit(TileOp::ToFloat, Lane::Float, &[a]),
            (Lane::Float, Lane::Int) if dtype == DType::Bool => {
                let zero = self.float(0.0);
                let is_zero = self.binary(TileOp::Eq, a, zero);
                return self.emit(TileOp::Not, Lane::Int, &[is_zero]);
            }
            (Lane::Float, Lane::Int) => self.emit(TileOp::ToInt, Lane::Float, &[a]),
            _ => a,
        };
        match dtype {
            DType::F32 | DType::I64 | DType::F64 | DType::U64 => moved,
            _ => {
                let op = if lane == Lane::Float { TileOp::RoundTo } else { TileOp::Wrap };
                let instr = TileInstr {
                    op: op as i32,
                    lane: lane as i32,
                    args: vec![moved.index],
                    index: (dtype as i32).unsigned_abs(),
                    ..Default::default()
                };
                self.push(instr, lane)
            }
        }
    }

    /// Number of instructions so far.
    pub fn len(&self) -> usize {
        self.instrs.len()
    }

    /// Whether there are no instructions yet.
    pub fn is_empty(&self) -> bool {
        self.instrs.is_empty()
    }

    /// The finished program with `outputs` stored.
    pub fn finish(self, outputs: &[Reg]) -> TileProgram {
        TileProgram {
            inputs: self.inputs,
            instrs: self.instrs,
            outputs: outputs.iter().map(|r| r.index).collect(),
        }
    }
}
