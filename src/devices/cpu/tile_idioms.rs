//! Chains of tile instructions that have a function of their own: one pass instead of several, and better polynomials.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::isa::per_isa;
use crate::math;
use partita_plan::tile::TileOp;
use partita_plan::{TileInstr, TileProgram};

/// A function of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idiom {
    /// x (1 + erf(x / sqrt 2)) / 2
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    GeluTanh,
    /// x / (1 + e^-x)
    Silu,
}

/// What computes a register, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing reads it.
    Unused,
    /// The instruction itself.
    Plain,
    /// A function of another register.
    Idiom(Idiom, usize),
}

impl Plan {
    /// Registers that it reads.
    pub(crate) fn reads(&self, instr: &TileInstr) -> Vec<usize> {
        match self {
            Self::Unused => Vec::new(),
            Self::Plain => instr.args.iter().map(|&a| a as usize).collect(),
            Self::Idiom(_, x) => vec![*x],
        }
    }
}

/// How to compute each register of a checked program.
pub(crate) fn plan(program: &TileProgram) -> Vec<Plan> {
    let mut needed = vec![false; program.instrs.len()];
    for &out in &program.outputs {
        needed[out as usize] = true;
    }
    let mut plans = vec![Plan::Unused; program.instrs.len()];
    for at in (0..program.instrs.len()).rev() {
        if !needed[at] {
            continue;
        }
        plans[at] = Chain(program).idiom(at).map_or(Plan::Plain, |(idiom, x)| Plan::Idiom(idiom, x));
        for arg in plans[at].reads(&program.instrs[at]) {
            needed[arg] = true;
        }
    }
    plans
}

/// Matches instructions from their result backwards.
struct Chain<'a>(&'a TileProgram);

impl Chain<'_> {
    /// Operands of the instruction at `at`, if it is `op`.
    fn args(&self, at: usize, op: TileOp) -> Option<&[u32]> {
        let instr = &self.0.instrs[at];
        (instr.op == op as i32).then_some(instr.args.as_slice())
    }

    /// The pair of operands of a commutative instruction, in both orders.
    fn pairs(&self, at: usize, op: TileOp) -> impl Iterator<Item = (usize, usize)> {
        let pair = match self.args(at, op) {
            Some(&[a, b]) => Some((a as usize, b as usize)),
            _ => None,
        };
        pair.into_iter().flat_map(|(a, b)| [(a, b), (b, a)])
    }

    fn is_constant(&self, at: usize, value: f64) -> bool {
        let instr = &self.0.instrs[at];
        instr.op == TileOp::Const as i32 && (instr.float - value).abs() <= 1e-6 * value.abs()
    }

    /// The other operand where one is the constant.
    fn beside(&self, at: usize, op: TileOp, value: f64) -> Option<usize> {
        self.pairs(at, op).find(|&(_, constant)| self.is_constant(constant, value)).map(|(other, _)| other)
    }

    fn idiom(&self, at: usize) -> Option<(Idiom, usize)> {
        self.pairs(at, TileOp::Mul)
            .find_map(|(left, right)| self.silu(left, right).or_else(|| self.gelu(left, right)))
    }

    fn silu(&self, x: usize, gate: usize) -> Option<(Idiom, usize)> {
        let &[inner] = self.args(gate, TileOp::Sigmoid)? else { return None };
        (inner as usize == x).then_some((Idiom::Silu, x))
    }

    /// `half_x` (1 + f(...)).
    fn gelu(&self, half_x: usize, gate: usize) -> Option<(Idiom, usize)> {
        let x = self.beside(half_x, TileOp::Mul, 0.5)?;
        let inner = self.beside(gate, TileOp::Add, 1.0)?;
        if let Some(&[scaled]) = self.args(inner, TileOp::Erf) {
            let same = self.beside(scaled as usize, TileOp::Mul, std::f64::consts::FRAC_1_SQRT_2) == Some(x);
            return same.then_some((Idiom::Gelu, x));
        }
        let &[scaled] = self.args(inner, TileOp::Tanh)? else { return None };
        let cubic = self.beside(scaled as usize, TileOp::Mul, (2.0 / std::f64::consts::PI).sqrt())?;
        let (_, factor) = self.pairs(cubic, TileOp::Mul).find(|&(left, _)| left == x)?;
        let &[square, c, unit] = self.args(factor, TileOp::MulAdd)? else { return None };
        let is_square = self.args(square as usize, TileOp::Mul) == Some(&[x as u32, x as u32]);
        let constants = self.is_constant(c as usize, 0.044_715) && self.is_constant(unit as usize, 1.0);
        (is_square && constants).then_some((Idiom::GeluTanh, x))
    }
}

per_isa! {
    /// Writes the function of `count` lanes at `src` to `dst`, which is the same place or another one.
    ///
    /// # Safety
    /// Both have `count` lanes that overlap in whole or not at all.
    pub(crate) unsafe fn run_idiom = idiom_body(idiom: Idiom, src: *const f32, dst: *mut f32, count: usize)
}

/// Lanes between a read and a write.
const LANES: usize = 32;

#[inline(always)]
unsafe fn idiom_body<const FMA: bool>(idiom: Idiom, src: *const f32, dst: *mut f32, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match idiom {
            Idiom::Gelu => each(src, dst, count, math::gelu::<FMA>),
            Idiom::GeluTanh => each(src, dst, count, math::gelu_tanh::<FMA>),
            Idiom::Silu => each(src, dst, count, |v| v * math::sigmoid::<FMA>(v)),
        }
    }
}

#[inline(always)]
unsafe fn each(src: *const f32, dst: *mut f32, count: usize, function: impl Fn(f32) -> f32) {
    let whole = count / LANES * LANES;
    let mut block = [0f32; LANES];
    // SAFETY: the caller's contract; a block is read before it is written.
    unsafe {
        for at in (0..whole).step_by(LANES) {
            block = *src.add(at).cast();
            block.iter_mut().for_each(|v| *v = function(*v));
            *dst.add(at).cast() = block;
        }
        std::ptr::copy_nonoverlapping(src.add(whole), block.as_mut_ptr(), count - whole);
        block.iter_mut().for_each(|v| *v = function(*v));
        std::ptr::copy_nonoverlapping(block.as_ptr(), dst.add(whole), count - whole);
    }
}
