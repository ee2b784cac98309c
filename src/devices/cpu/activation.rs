//! Activations of a few instructions, which kernels apply in registers before they store, and how they are recognised
//! at the end of a program.

use crate::lanes::Lanes;
use partita_plan::{TileInstr, TileProgram, tile::TileOp};

/// What a result goes through last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    Identity,
    /// `slope * x + shift` within 0 and 1.
    HardSigmoid {
        slope: f32,
        shift: f32,
    },
    /// x times its hard sigmoid.
    HardSwish {
        slope: f32,
        shift: f32,
    },
    /// `slope * x` below zero.
    Leaky {
        slope: f32,
    },
}

impl Activation {
    /// The activation of `x`; NaN stays.
    ///
    /// # Safety
    /// The instruction set of the vector is here.
    #[inline(always)]
    #[allow(unsafe_code, reason = "vectors need their instruction set")]
    pub(crate) unsafe fn apply<V: Lanes>(self, x: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let gate = |slope, shift| {
                let line = x.fma(V::splat(slope), V::splat(shift));
                line.at_least(V::splat(0.0)).at_most(V::splat(1.0))
            };
            match self {
                Self::Identity => x,
                Self::HardSigmoid { slope, shift } => gate(slope, shift),
                Self::HardSwish { slope, shift } => x.mul(gate(slope, shift)),
                Self::Leaky { slope } => {
                    let zero = V::splat(0.0);
                    x.at_most(zero).fma(V::splat(slope), x.at_least(zero))
                }
            }
        }
    }

    /// The activation that register `output` of a checked program is, and the register it is applied to.
    pub(crate) fn find(program: &TileProgram, output: usize) -> Option<(Self, usize)> {
        let find = Find { instrs: &program.instrs };
        find.hard_sigmoid(output).or_else(|| find.hard_swish(output)).or_else(|| find.leaky(output))
    }
}

/// Looks at the instructions of a program.
struct Find<'a> {
    instrs: &'a [TileInstr],
}

impl Find<'_> {
    /// The operands of register `at`, if it is this operation.
    fn args<const N: usize>(&self, at: usize, op: TileOp) -> Option<[usize; N]> {
        let instr = self.instrs.get(at).filter(|i| i.op == op as i32)?;
        let args: &[u32; N] = instr.args.as_slice().try_into().ok()?;
        Some(args.map(|a| a as usize))
    }

    fn constant(&self, at: usize) -> Option<f32> {
        self.instrs.get(at).filter(|i| i.op == TileOp::Const as i32).map(|i| i.float as f32)
    }

    /// Of two operands in any order, the constant and the other.
    fn scaled(&self, [a, b]: [usize; 2]) -> Option<(f32, usize)> {
        self.constant(b).map(|c| (c, a)).or_else(|| self.constant(a).map(|c| (c, b)))
    }

    /// `min(1, max(0, slope * x + shift))`, in the order that keeps NaN.
    fn hard_sigmoid(&self, at: usize) -> Option<(Activation, usize)> {
        let [high, above] = self.args(at, TileOp::Min)?;
        let [low, line] = self.args(above, TileOp::Max)?;
        let within = self.constant(high)? == 1.0 && self.constant(low)? == 0.0;
        let [a, b, shift] = self.args(line, TileOp::MulAdd)?;
        let ((slope, x), shift) = (self.scaled([a, b])?, self.constant(shift)?);
        within.then_some((Activation::HardSigmoid { slope, shift }, x))
    }

    fn hard_swish(&self, at: usize) -> Option<(Activation, usize)> {
        let [a, b] = self.args(at, TileOp::Mul)?;
        [(a, b), (b, a)].into_iter().find_map(|(x, gate)| match self.hard_sigmoid(gate)? {
            (Activation::HardSigmoid { slope, shift }, of) if of == x => {
                Some((Activation::HardSwish { slope, shift }, x))
            }
            _ => None,
        })
    }

    /// `x < 0 ? slope * x : x`.
    fn leaky(&self, at: usize) -> Option<(Activation, usize)> {
        let [negative, below, x] = self.args(at, TileOp::Select)?;
        let [compared, zero] = self.args(negative, TileOp::Lt)?;
        let (slope, scaled) = self.scaled(self.args(below, TileOp::Mul)?)?;
        let fits = compared == x && scaled == x && self.constant(zero)? == 0.0;
        fits.then_some((Activation::Leaky { slope }, x))
    }
}
