//! What may follow a product of integers before its results are stored, read off a tile program: rounding to numbers
//! and back, one sum with a vector or a tensor, bounds, rounding to the numbers that are stored.
//!
//! Both sides ask here: code generation, whether a program can be an epilogue, and the kernels, what to do.

use partita_plan::{ElementType, TileProgram, tile::TileOp};

/// Rounding of values to numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quant {
    pub scale: f32,
    pub zero: f32,
    /// Least and greatest number.
    pub low: f32,
    pub high: f32,
}

impl Quant {
    /// Whether all numbers are of the type, one of bytes.
    pub(crate) fn fits(&self, dtype: ElementType) -> bool {
        match dtype {
            ElementType::U8 => self.low >= 0.0 && self.high <= 255.0,
            ElementType::I8 => self.low >= -128.0 && self.high <= 127.0,
            _ => false,
        }
    }

    fn fits_byte(&self) -> bool {
        self.fits(ElementType::U8) || self.fits(ElementType::I8)
    }
}

/// An operand that is added: its index among the program's inputs, and what its numbers stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Term {
    pub input: usize,
    /// Scale and zero point of bytes; `None` for floats.
    pub numbers: Option<(f32, f32)>,
}

/// The steps in their order; each may be missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Form {
    /// Rounded to numbers and taken back.
    pub inner: Option<Quant>,
    pub term: Option<Term>,
    /// Bounds of values; those before a rounding are part of it.
    pub low: f32,
    pub high: f32,
    /// Rounded to the numbers that are stored; else values are.
    pub last: Option<Quant>,
}

impl Form {
    /// Results are stored as they are.
    pub(crate) const PLAIN: Self =
        Self { inner: None, term: None, low: f32::NEG_INFINITY, high: f32::INFINITY, last: None };

    /// What `program` computes of its input 0, when it is of this form.
    pub(crate) fn of(program: &TileProgram) -> Option<Self> {
        let mut reader = Reader { regs: Vec::new(), form: Self::PLAIN, state: State::Values };
        for instr in &program.instrs {
            let op = TileOp::try_from(instr.op).ok()?;
            let reg = match op {
                TileOp::Load if instr.index == 0 => Reg::Main,
                TileOp::Load => Reg::Side(Term { input: instr.index as usize, numbers: None }),
                TileOp::Const if instr.lane == 1 => Reg::Constant(instr.int as f32),
                TileOp::Const => Reg::Constant(instr.float as f32),
                op => {
                    let args = instr.args.iter().map(|&a| reader.regs.get(a as usize).copied());
                    reader.step(op, &args.collect::<Option<Vec<_>>>()?)?
                }
            };
            reader.regs.push(reg);
        }
        let &[stored] = program.outputs.as_slice() else { return None };
        let last = reader.regs.iter().rposition(|r| matches!(r, Reg::Main))?;
        let ends = match reader.state {
            State::Values => true,
            State::Numbers(quant) => {
                reader.form.last = Some(quant);
                true
            }
            _ => false,
        };
        (ends && stored as usize == last).then_some(reader.form)
    }
}

/// What a register holds.
#[derive(Clone, Copy)]
enum Reg {
    Constant(f32),
    /// The results so far; only the latest is used.
    Main,
    Side(Term),
}

/// How far the main value has come.
#[derive(Clone, Copy)]
enum State {
    Values,
    Scaled(f32),
    Rounded(f32),
    /// Numbers, within bounds so far.
    Numbers(Quant),
    /// The same, on the way back: less the zero point.
    Centred(Quant),
}

struct Reader {
    regs: Vec<Reg>,
    form: Form,
    state: State,
}

impl Reader {
    fn step(&mut self, op: TileOp, args: &[Reg]) -> Option<Reg> {
        match (op, args) {
            (TileOp::ToFloat, &[Reg::Side(term)]) if term.numbers.is_none() => {
                Some(Reg::Side(Term { numbers: Some((1.0, 0.0)), ..term }))
            }
            (TileOp::Sub, &[Reg::Side(term), Reg::Constant(c)]) if term.numbers == Some((1.0, 0.0)) => {
                Some(Reg::Side(Term { numbers: Some((1.0, c)), ..term }))
            }
            (TileOp::Mul, &[Reg::Side(term), Reg::Constant(c)]) => match term.numbers {
                Some((1.0, zero)) => Some(Reg::Side(Term { numbers: Some((c, zero)), ..term })),
                _ => None,
            },
            (TileOp::Add, &[Reg::Main, Reg::Side(term)] | &[Reg::Side(term), Reg::Main]) => {
                self.add(term).map(|()| Reg::Main)
            }
            (TileOp::Max | TileOp::Min, &[Reg::Constant(c), Reg::Main]) => {
                self.bound(op == TileOp::Max, c).map(|()| Reg::Main)
            }
            (op, &[Reg::Main]) => self.convert(op).map(|()| Reg::Main),
            (op, &[Reg::Main, Reg::Constant(c)]) => self.calculate(op, c).map(|()| Reg::Main),
            _ => None,
        }
    }

    fn add(&mut self, term: Term) -> Option<()> {
        let free =
            self.form.term.is_none() && self.form.low == f32::NEG_INFINITY && self.form.high == f32::INFINITY;
        let values = matches!(self.state, State::Values);
        (free && values).then(|| self.form.term = Some(term))
    }

    fn bound(&mut self, below: bool, c: f32) -> Option<()> {
        let (low, high) = match &mut self.state {
            State::Values => (&mut self.form.low, &mut self.form.high),
            State::Numbers(quant) => (&mut quant.low, &mut quant.high),
            _ => return None,
        };
        if below {
            // What the upper bound let through may not be raised again.
            (c <= *high).then(|| *low = low.max(c))
        } else {
            (c >= *low).then(|| *high = high.min(c))
        }
    }

    fn convert(&mut self, op: TileOp) -> Option<()> {
        match (op, self.state) {
            (TileOp::Round, State::Scaled(scale)) => self.state = State::Rounded(scale),
            // Numbers within the bounds of a byte stay what they are.
            (TileOp::ToInt | TileOp::Wrap | TileOp::ToFloat, State::Numbers(quant)) if quant.fits_byte() => {}
            _ => return None,
        }
        Some(())
    }

    fn calculate(&mut self, op: TileOp, c: f32) -> Option<()> {
        self.state = match (op, self.state) {
            (TileOp::Div, State::Values) if c > 0.0 && c.is_finite() => State::Scaled(c),
            (TileOp::Add, State::Rounded(scale)) => self.numbers(scale, c),
            (TileOp::Sub, State::Numbers(quant)) if c == quant.zero => State::Centred(quant),
            (TileOp::Mul, State::Centred(quant)) if c == quant.scale => {
                let before_all = self.form.inner.is_none() && self.form.term.is_none();
                before_all.then(|| self.form.inner = Some(quant))?;
                State::Values
            }
            _ => return None,
        };
        Some(())
    }

    /// Bounds of values become bounds of the numbers they are rounded to: rounding keeps order.
    fn numbers(&mut self, scale: f32, zero: f32) -> State {
        let number = |value: f32| (value / scale).round_ties_even() + zero;
        let quant = Quant { scale, zero, low: number(self.form.low), high: number(self.form.high) };
        (self.form.low, self.form.high) = (f32::NEG_INFINITY, f32::INFINITY);
        State::Numbers(quant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_plan::TileInstr;
    use partita_plan::tile::Lane;

    fn instr(op: TileOp, args: &[u32], float: f64) -> TileInstr {
        TileInstr {
            op: op as i32,
            lane: Lane::Float as i32,
            args: args.to_vec(),
            float,
            ..TileInstr::default()
        }
    }

    /// `clamp(round(max(0, x) / 0.5) + 3)` to the bytes.
    fn rounding() -> Vec<TileInstr> {
        vec![
            instr(TileOp::Load, &[], 0.0),
            instr(TileOp::Const, &[], 0.0),
            instr(TileOp::Max, &[1, 0], 0.0),
            instr(TileOp::Const, &[], 0.5),
            instr(TileOp::Div, &[2, 3], 0.0),
            instr(TileOp::Round, &[4], 0.0),
            instr(TileOp::Const, &[], 3.0),
            instr(TileOp::Add, &[5, 6], 0.0),
            instr(TileOp::Max, &[1, 7], 0.0),
            instr(TileOp::Const, &[], 255.0),
            instr(TileOp::Min, &[9, 8], 0.0),
        ]
    }

    #[test]
    fn bounds_before_a_rounding_are_part_of_it() {
        let program = TileProgram { inputs: 1, instrs: rounding(), outputs: vec![10] };
        let quant = Quant { scale: 0.5, zero: 3.0, low: 3.0, high: 255.0 };
        assert_eq!(Form::of(&program), Some(Form { last: Some(quant), ..Form::PLAIN }));
    }

    #[test]
    fn what_is_rounded_and_taken_back_may_meet_a_term() {
        let mut instrs = rounding();
        let load = TileInstr { index: 1, ..instr(TileOp::Load, &[], 0.0) };
        instrs.extend([
            instr(TileOp::Sub, &[10, 6], 0.0),
            instr(TileOp::Mul, &[11, 3], 0.0),
            load,
            instr(TileOp::Add, &[12, 13], 0.0),
        ]);
        let form = Form::of(&TileProgram { inputs: 2, instrs: instrs.clone(), outputs: vec![14] }).unwrap();
        assert!(form.inner.is_some() && form.last.is_none());
        assert_eq!(form.term, Some(Term { input: 1, numbers: None }));
        // What else happens is no such form.
        instrs.push(instr(TileOp::Exp, &[14], 0.0));
        assert_eq!(Form::of(&TileProgram { inputs: 2, instrs, outputs: vec![15] }), None);
    }
}
