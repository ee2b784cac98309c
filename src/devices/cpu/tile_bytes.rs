//! What a tile program does with bytes that need not be done step by step: bytes that are only used as floats are read
//! as floats, and floats that are whole numbers of a byte stay floats on their way through an integer.

use partita_plan::tile::{Lane, TileOp};
use partita_plan::{ElementType, TileInstr, TileProgram};

/// One entry per register.
pub(crate) struct Facts {
    /// A load of an integer that only becomes a float.
    pub as_float: Vec<bool>,
    /// The register that holds the same float; where it is given for integers, nothing reads those as integers.
    pub same: Vec<Option<usize>>,
    /// A float that is a whole number within the bounds of some type of bytes.
    pub whole: Vec<bool>,
}

fn op(instr: &TileInstr) -> TileOp {
    TileOp::try_from(instr.op).unwrap_or(TileOp::Const)
}

fn arg(instr: &TileInstr, n: usize) -> usize {
    instr.args.get(n).map_or(0, |&a| a as usize)
}

impl Facts {
    /// Of a program that was checked; `is_byte` says whether an input has bytes.
    pub(crate) fn of(program: &TileProgram, is_byte: &dyn Fn(usize) -> bool) -> Self {
        let count = program.instrs.len();
        let mut facts =
            Self { as_float: vec![false; count], same: vec![None; count], whole: vec![false; count] };
        for (at, instr) in program.instrs.iter().enumerate() {
            facts.whole[at] = bounds(program, at).is_some();
            facts.as_float[at] = op(instr) == TileOp::Load
                && is_byte(instr.index as usize)
                && only_used_by(program, at, TileOp::ToFloat);
            if op(instr) != TileOp::ToFloat {
                continue;
            }
            let from = arg(instr, 0);
            if facts.as_float[from] {
                facts.same[at] = Some(from);
            } else if let Some(float) = back(program, from) {
                facts.same[at] = Some(float);
                let int = arg(&program.instrs[from], 0);
                if only_used_by(program, from, TileOp::ToFloat) && only_used_by(program, int, TileOp::Wrap) {
                    (facts.same[from], facts.same[int]) = (Some(float), Some(float));
                }
            }
        }
        facts
    }

    /// The register whose slot holds this one's lanes.
    pub(crate) fn home(&self, at: usize) -> usize {
        self.same[at].unwrap_or(at)
    }
}

/// Whether the register is used, and only by instructions of one kind.
fn only_used_by(program: &TileProgram, at: usize, user: TileOp) -> bool {
    let stored = program.outputs.iter().any(|&o| o as usize == at);
    let mut users = program.instrs.iter().filter(|i| i.args.iter().any(|&a| a as usize == at)).peekable();
    !stored && users.peek().is_some() && users.all(|i| op(i) == user)
}

/// Bounds of a float that is a whole number within those of a type of bytes.
fn bounds(program: &TileProgram, at: usize) -> Option<(f64, f64)> {
    let constant = |n: usize| {
        let instr = &program.instrs[n];
        (op(instr) == TileOp::Const && instr.lane == Lane::Float as i32).then_some(instr.float)
    };
    let (min, [high, below]) = two(program, at)?;
    let (max, [low, value]) = two(program, below)?;
    let (low, high) = (constant(low)?, constant(high)?);
    let fits = (0.0..=255.0).contains(&low) && high <= 255.0 || low >= -128.0 && high <= 127.0;
    let whole = low.fract() == 0.0 && high.fract() == 0.0 && low <= high;
    let rounded = match op(&program.instrs[value]) {
        TileOp::Round => true,
        TileOp::Add => {
            let (_, [number, zero]) = two(program, value)?;
            op(&program.instrs[number]) == TileOp::Round && constant(zero)?.fract() == 0.0
        }
        _ => false,
    };
    let chain = (min, max) == (TileOp::Min, TileOp::Max);
    (chain && fits && whole && rounded).then_some((low, high))
}

/// Operation and registers of an instruction with two operands.
fn two(program: &TileProgram, at: usize) -> Option<(TileOp, [usize; 2])> {
    let instr = &program.instrs[at];
    match instr.args.as_slice() {
        &[a, b] => Some((op(instr), [a as usize, b as usize])),
        _ => None,
    }
}

/// The float that an integer register was, when nothing was lost on the way.
fn back(program: &TileProgram, at: usize) -> Option<usize> {
    let instr = &program.instrs[at];
    let (inner, to) = match op(instr) {
        TileOp::Wrap => (arg(instr, 0), ElementType::try_from(instr.index as i32).ok()?),
        _ => return None,
    };
    let float = arg(&program.instrs[inner], 0);
    let (low, high) =
        if op(&program.instrs[inner]) == TileOp::ToInt { bounds(program, float)? } else { return None };
    let fits = match to {
        ElementType::U8 => low >= 0.0,
        ElementType::I8 => high <= 127.0,
        _ => false,
    };
    fits.then_some(float)
}
