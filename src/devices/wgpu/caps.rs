//! The capability table: which kernels, on which element types, this device has.

use crate::ops;
use partita_plan::tile::{Lane, TileOp};
use partita_plan::{ElementType, Kernel, TileProgram};

/// Storage buffers a stage surely has in WebGPU; a step binds one for each operand and result.
const MAX_BUFFERS: usize = 8;

type Types<'a> = &'a [ElementType];

/// One row: the library kernel and what it accepts (kernel, operand types, result types).
type Row = (&'static str, fn(&Kernel, Types, Types) -> bool);

const TABLE: &[Row] = &[
    ("attention", attention),
    ("concat", concat),
    ("conv", with_epilogue),
    ("conv_transpose", with_epilogue),
    ("copy", moves),
    ("dims", dims),
    ("expand", moves),
    ("fill", fills),
    ("gather", gather),
    ("gemm", with_epilogue),
    ("layer_norm", one_f32_result),
    ("pad", moves),
    ("pool", one_f32_result),
    ("reduce", one_f32_result),
    ("slice", moves),
    ("softmax", one_f32_result),
    ("split", moves),
    ("tile", tile),
    ("transpose", moves),
];

/// Whether the device runs `kernel` on operands of these types (omitted operands left out) with these results.
pub fn supports(kernel: &Kernel, inputs: &[ElementType], outputs: &[ElementType]) -> bool {
    let row = TABLE.iter().find(|(name, _)| *name == kernel.library);
    let plain = matches!(kernel.string("layout"), None | Some("nchw"));
    row.is_some_and(|(_, accepts)| plain && !outputs.is_empty() && accepts(kernel, inputs, outputs))
}

/// Weights stay in the model's layout on this device: always `None`.
pub fn pack(
    _kernel: &Kernel,
    _operand: usize,
    _bytes: &[u8],
    _dtype: ElementType,
    _shape: &[usize],
) -> Option<(String, Vec<u8>)> {
    None
}

fn is_f32(types: Types) -> bool {
    types.iter().all(|t| *t == ElementType::F32)
}

fn all_f32(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    kernel.program.is_none() && is_f32(inputs) && is_f32(outputs) && outputs.len() == 1
}

/// Operands as their shapes say; heads that lie elsewhere have no kernel here.
fn attention(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    all_f32(kernel, inputs, outputs) && kernel.dims("sizes").is_empty()
}

fn one_f32_result(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    all_f32(kernel, inputs, outputs)
}

/// Own operands are f32; the others, one for each further input of the program, are read by the epilogue, which
/// ends in a float. `n_own` counts omitted operands too and so says nothing here.
fn with_epilogue(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    let extra = kernel.program.as_ref().map_or(0, |p| p.inputs.saturating_sub(1) as usize);
    let Some(own) = inputs.len().checked_sub(extra) else { return false };
    if !is_f32(&inputs[..own]) || outputs != [ElementType::F32] || inputs.len() + 1 > MAX_BUFFERS {
        return false;
    }
    let types = [&[ElementType::F32], &inputs[own..]].concat();
    kernel.program.as_ref().is_none_or(|program| program_fits(program, &types, outputs))
}

fn tile(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    let Some(program) = &kernel.program else { return false };
    inputs.len() + outputs.len() <= MAX_BUFFERS && program_fits(program, inputs, outputs)
}

/// Types a lane loads.
fn loads(dtype: ElementType) -> bool {
    use ElementType::{Bool, F32, I8, I16, I32, I64, U8, U16, U32};
    matches!(dtype, F32 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | Bool)
}

/// Types a lane is stored to: invocations own whole words, which two-byte results do not fill.
fn stores(dtype: ElementType) -> bool {
    loads(dtype) && dtype.size_bytes() != 2
}

fn program_fits(program: &TileProgram, inputs: Types, outputs: Types) -> bool {
    let Ok(lanes) = program.check() else { return false };
    let lane_of = |t: ElementType| if t.is_float() { Lane::Float } else { Lane::Int };
    let known = program.instrs.iter().zip(&lanes).all(|(instr, lane)| match TileOp::try_from(instr.op) {
        Ok(TileOp::Load) => {
            inputs.get(instr.index as usize).is_some_and(|t| loads(*t) && lane_of(*t) == *lane)
        }
        Ok(TileOp::Const) => true,
        Ok(TileOp::Wrap) => *lane == Lane::Int && wraps(instr.index),
        Ok(TileOp::RoundTo) => *lane == Lane::Float && rounds(instr.index),
        Ok(op) => Lane::try_from(instr.lane).is_ok_and(|own| ops::template(op, own).is_some()),
        Err(_) => false,
    });
    let stored = program.outputs.len() == outputs.len()
        && program.outputs.iter().zip(outputs).all(|(register, t)| {
            stores(*t) && lanes.get(*register as usize).is_some_and(|lane| *lane == lane_of(*t))
        });
    known && stored && program.inputs as usize <= inputs.len()
}

fn element(index: u32) -> Option<ElementType> {
    i32::try_from(index).ok().and_then(|i| ElementType::try_from(i).ok())
}

fn wraps(index: u32) -> bool {
    element(index).is_some_and(|t| !t.is_float() && t != ElementType::U64)
}

fn rounds(index: u32) -> bool {
    matches!(element(index), Some(ElementType::F32 | ElementType::F16 | ElementType::Bf16))
}

/// Bytes are moved as they are, so every type will do.
fn moves(kernel: &Kernel, inputs: Types, outputs: Types) -> bool {
    let modes = ["", "constant", "reflect", "edge", "wrap"];
    let mode = kernel.string("mode").unwrap_or("");
    !inputs.is_empty() && outputs.iter().all(|t| *t == inputs[0]) && modes.contains(&mode)
}

/// Parts are written one after the other; parts of narrow elements would share words.
fn concat(_: &Kernel, inputs: Types, outputs: Types) -> bool {
    !inputs.is_empty() && inputs.iter().all(|t| *t == outputs[0]) && outputs[0].size_bytes() >= 4
}

fn gather(_: &Kernel, inputs: Types, outputs: Types) -> bool {
    let [data, indices] = inputs else { return false };
    outputs == [*data] && matches!(indices, ElementType::I32 | ElementType::I64)
}

fn dims(_: &Kernel, _: Types, outputs: Types) -> bool {
    matches!(outputs, [ElementType::I32 | ElementType::I64 | ElementType::U32])
}

fn fills(_: &Kernel, _: Types, outputs: Types) -> bool {
    outputs.len() == 1 && !matches!(outputs[0], ElementType::F16 | ElementType::Bf16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ElementType::{Bool, F16, F32, I32, I64};

    fn kernel(library: &str) -> Kernel {
        Kernel { library: library.into(), ..Kernel::default() }
    }

    #[test]
    fn the_table_is_sorted_and_answers_by_type() {
        assert!(TABLE.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(supports(&kernel("gemm"), &[F32, F32], &[F32]));
        assert!(!supports(&kernel("gemm"), &[F16, F16], &[F16]));
        assert!(supports(&kernel("gather"), &[F32, I64], &[F32]));
        assert!(!supports(&kernel("gather"), &[F32, Bool], &[F32]));
        assert!(supports(&kernel("transpose"), &[F16], &[F16]));
        assert!(!supports(&kernel("concat"), &[Bool, Bool], &[Bool]));
        assert!(!supports(&kernel("reference"), &[F32], &[F32]));
        assert!(!supports(&kernel("reduce"), &[I32], &[I32]));
        assert!(!supports(&kernel("tile"), &[F32], &[F32]));
    }
}
