//! Epilogues of matrix kernels. Sums with biases and a residual, bounded from below and above, and activations of a few
//! instructions run in the registers of the micro-kernel; any other program runs over row segments while they are in cache.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::activation::Activation;
use crate::broadcast::Broadcast;
use crate::micro::Post;
use crate::prepared::{Call, Operand};
use crate::tile::Tile;
use partita_plan::{ElementType, TileInstr, TileProgram, tile::TileOp};
use partita_runtime::error::RuntimeError;

/// The output as a matrix: what the kernel calls rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    /// Length of a row.
    pub columns: usize,
    /// A block never crosses a multiple of this many rows.
    pub rows: usize,
}

/// An epilogue bound to its operands.
pub(crate) struct Epilogue {
    post: Post,
    /// Rows after which the row bias repeats.
    bias_rows: usize,
    tile: Option<Tile>,
}

// SAFETY: the addresses in it are operands; see `Operand`.
unsafe impl Send for Epilogue {}
// SAFETY: as above.
unsafe impl Sync for Epilogue {}

impl Epilogue {
    /// Binds the call's epilogue, if it has one. `bias` (one value per row) is added before it.
    ///
    /// # Errors
    /// When the program does not fit its operands.
    pub(crate) fn new(
        call: &Call<'_>,
        n_own: usize,
        matrix: Matrix,
        bias: Option<&Operand>,
    ) -> Result<Self, RuntimeError> {
        let mut post = Post::NONE;
        if let Some(bias) = bias {
            post.row_bias = bias.f32();
            post.active = true;
        }
        Self::bind(call, n_own, matrix, post)
    }

    /// The same with one value of `bias` per column.
    ///
    /// # Errors
    /// When the program does not fit its operands.
    pub(crate) fn over_columns(
        call: &Call<'_>,
        n_own: usize,
        matrix: Matrix,
        bias: Option<&Operand>,
    ) -> Result<Self, RuntimeError> {
        let mut post = Post::NONE;
        if let Some(bias) = bias {
            post.column_bias = bias.f32();
            post.active = true;
        }
        Self::bind(call, n_own, matrix, post)
    }

    fn bind(call: &Call<'_>, n_own: usize, matrix: Matrix, post: Post) -> Result<Self, RuntimeError> {
        let epilogue = Self { post, bias_rows: matrix.rows.max(1), tile: None };
        let Some(program) = &call.kernel.program else { return Ok(epilogue) };
        program.check()?;
        let output = call.output(0)?.clone();
        let mut inputs = vec![Some(output.clone())];
        inputs.extend(call.inputs.iter().skip(n_own).cloned());
        let recogniser = Recogniser { inputs: &inputs, matrix, shape: &output.shape };
        let (mut epilogue, rest) = match recogniser.run(program, &epilogue) {
            Some(split) => split,
            None => (epilogue, Some(program.clone())),
        };
        if let Some(rest) = rest {
            epilogue.tile = Some(Tile::new(call, &rest, &inputs, &[output])?);
        }
        Ok(epilogue)
    }

    /// Binds the call's epilogue as a program that runs over finished rows only.
    ///
    /// # Errors
    /// When the program does not fit its operands.
    pub(crate) fn tile_only(call: &Call<'_>, n_own: usize, matrix: Matrix) -> Result<Self, RuntimeError> {
        let mut epilogue = Self { post: Post::NONE, bias_rows: matrix.rows.max(1), tile: None };
        if let Some(program) = &call.kernel.program {
            let output = call.output(0)?.clone();
            let mut inputs = vec![Some(output.clone())];
            inputs.extend(call.inputs.iter().skip(n_own).cloned());
            epilogue.tile = Some(Tile::new(call, program, &inputs, &[output])?);
        }
        Ok(epilogue)
    }

    /// Scratch bytes of one member.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.tile.as_ref().map_or(0, Tile::scratch_bytes)
    }

    /// Whether it is a program that runs over finished results.
    pub(crate) fn is_program(&self) -> bool {
        self.tile.is_some()
    }

    /// What the micro-kernel does for the block that starts at this row and column of the output.
    pub(crate) fn post(&self, row: usize, column: usize, ldc: usize) -> Post {
        let mut post = self.post.at(0, column, ldc);
        if !post.row_bias.is_null() {
            post.row_bias = post.row_bias.wrapping_add(row % self.bias_rows);
        }
        if !post.residual.is_null() {
            post.residual = post.residual.wrapping_add(row * ldc);
        }
        post
    }

    /// Finishes rows `row..row + rows`, columns `column..column + columns` of an output with rows of `ldc`.
    ///
    /// # Safety
    /// The block lies in the output; `scratch` has `scratch_bytes` bytes and belongs to the caller.
    pub(crate) unsafe fn apply(
        &self,
        row: usize,
        rows: usize,
        column: usize,
        columns: usize,
        ldc: usize,
        scratch: *mut u8,
    ) {
        let Some(tile) = &self.tile else { return };
        // SAFETY: the segments lie in the output; whole rows are one range of it.
        unsafe {
            if columns == ldc {
                tile.run(row * ldc, rows * ldc, scratch);
            } else {
                tile.run_rows(row * ldc + column, columns, rows, ldc, scratch);
            }
        }
    }
}

/// The program with register `current` as what it starts from; `None` when it needs an earlier one too.
fn rest(program: &TileProgram, current: usize) -> Option<TileProgram> {
    let mut rest = program.clone();
    let free = |arg: &u32| {
        let (at, instr) = (*arg as usize, &program.instrs[*arg as usize]);
        let load = instr.op == TileOp::Load as i32 && instr.index != 0;
        at >= current || load || instr.op == TileOp::Const as i32
    };
    let later = program.instrs[current + 1..].iter();
    let whole = later.clone().all(|i| i.op != TileOp::Load as i32 || i.index != 0);
    let independent = later.flat_map(|i| &i.args).chain(&program.outputs).all(free);
    rest.instrs[current] = TileInstr { op: TileOp::Load as i32, ..TileInstr::default() };
    (whole && independent).then_some(rest)
}

/// Looks for `activation(bound(result + biases + residual))`, maybe with more behind it.
struct Recogniser<'a> {
    inputs: &'a [Option<Operand>],
    matrix: Matrix,
    shape: &'a [usize],
}

impl Recogniser<'_> {
    /// What the registers do, and the program that is left for finished results; `None` when that is all of it.
    fn run(&self, program: &TileProgram, base: &Epilogue) -> Option<(Epilogue, Option<TileProgram>)> {
        let mut out = Epilogue { post: base.post, bias_rows: base.bias_rows, tile: None };
        let &[output] = program.outputs.as_slice() else { return None };
        let (activation, stored) =
            Activation::find(program, output as usize).unwrap_or((Activation::Identity, output as usize));
        let mut current = None;
        for (at, instr) in program.instrs.iter().enumerate().take(stored + 1) {
            match TileOp::try_from(instr.op).ok()? {
                TileOp::Load if instr.index == 0 => {
                    if current.replace(at).is_some() {
                        return None;
                    }
                }
                TileOp::Load | TileOp::Const => {}
                op => {
                    if self.absorb(op, instr, program, current?, &mut out).is_none() {
                        return Some((out, Some(rest(program, current?)?)));
                    }
                    out.post.active = true;
                    current = Some(at);
                }
            }
        }
        out.post.activation = activation;
        out.post.active = true;
        (current == Some(stored)).then_some((out, None))
    }

    /// Adds one instruction on `current` to the recognised form.
    fn absorb(
        &self,
        op: TileOp,
        instr: &TileInstr,
        program: &TileProgram,
        current: usize,
        out: &mut Epilogue,
    ) -> Option<()> {
        let &[a, b] = instr.args.as_slice() else { return None };
        let (a, b) = (a as usize, b as usize);
        // `Max` and `Min` return their second operand when one is NaN; only with the result there do they
        // bound as the micro-kernels do.
        let other = match op {
            _ if b == current && a != current => a,
            TileOp::Add if a == current && b != current => b,
            _ => return None,
        };
        let other = &program.instrs[other];
        let constant = other.op == TileOp::Const as i32;
        let unbounded = out.post.high == f32::INFINITY;
        match op {
            TileOp::Add if unbounded && out.post.low == f32::NEG_INFINITY => self.add(other, out),
            TileOp::Max if constant && unbounded && out.post.low == f32::NEG_INFINITY => {
                out.post.low = other.float as f32;
                Some(())
            }
            TileOp::Min if constant && unbounded => {
                out.post.high = other.float as f32;
                Some(())
            }
            _ => None,
        }
    }

    fn add(&self, load: &TileInstr, out: &mut Epilogue) -> Option<()> {
        if load.op != TileOp::Load as i32 || load.index == 0 {
            return None;
        }
        let operand = self.inputs.get(load.index as usize)?.as_ref()?;
        if operand.dtype != ElementType::F32 || operand.layout.is_some() {
            return None;
        }
        let map = Broadcast::new(&operand.shape, self.shape)?;
        let post = &mut out.post;
        if map.is_dense() && post.residual.is_null() {
            post.residual = operand.f32();
        } else if map.per_column(self.matrix.columns) && post.column_bias.is_null() {
            post.column_bias = operand.f32();
        } else {
            let rows = map.per_row(self.matrix.columns)?;
            if !post.row_bias.is_null() || !rows.is_multiple_of(self.matrix.rows) {
                return None;
            }
            post.row_bias = operand.f32();
            out.bias_rows = rows;
        }
        Some(())
    }
}
