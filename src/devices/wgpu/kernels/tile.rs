//! `tile`: an elementwise program, one invocation per element, or per four where a result has one-byte elements.

use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_plan::ElementType;
use partita_runtime::RuntimeError;
use std::fmt::Write;

/// Generates the kernel.
pub(crate) fn tile(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let Some(program) = &step.kernel.program else { return Err(step.error("the tile program is missing")) };
    let shape = &step.output(0)?.shape;
    let count = step.output(0)?.count();
    let mut shader = Shader::new(step);
    let operand = |n: u32| Some(n as usize);
    shader.program_inputs(program, operand)?;
    let mut stores = String::new();
    let (mut before, mut after) = (String::new(), String::new());
    for (k, register) in program.outputs.iter().enumerate() {
        shader.output(k)?;
        let dtype = step.output(k)?.dtype;
        if dtype.size_bytes() == 1 {
            let _ = writeln!(before, "    var w{k} = 0u;");
            let _ = writeln!(after, "    put{k}_w(i4, w{k});");
        }
        let store = store(dtype, k, *register).ok_or_else(|| {
            step.error(format!("tile programs do not write {} on this device", dtype.name()))
        })?;
        let _ = writeln!(stores, "    {store}");
    }
    let body = shader.program(program, shape, operand)? + &stores;
    if before.is_empty() {
        return Ok(vec![shader.each(count, &body)?]);
    }
    let text = format!(
        "    let i4 = i;\n{before}    for (var k = 0u; k < 4u; k = k + 1u) {{\n    let i = i4 * 4u + k;\n    \
         if (i >= {count}u) {{ break; }}\n{body}    }}\n{after}"
    );
    Ok(vec![shader.each(count.div_ceil(4), &text)?])
}

fn store(dtype: ElementType, k: usize, r: u32) -> Option<String> {
    match dtype {
        ElementType::F32 => Some(format!("put{k}_f(i, r{r});")),
        ElementType::I32 | ElementType::U32 => Some(format!("put{k}_w(i, r{r}.x);")),
        ElementType::I64 => Some(format!("put{k}_w(2u * i, r{r}.x); put{k}_w(2u * i + 1u, r{r}.y);")),
        ElementType::I8 | ElementType::U8 => Some(format!("w{k} = w{k} | ((r{r}.x & 255u) << (k * 8u));")),
        ElementType::Bool => Some(format!("w{k} = w{k} | (select(0u, 1u, i_true(r{r})) << (k * 8u));")),
        _ => None,
    }
}
