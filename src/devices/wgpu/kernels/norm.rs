//! `softmax` and `layer_norm`: rows that are scaled by what they sum to.

use crate::index::{broadcast, strided};
use crate::kernels::rows::{LARGER, Rows, SUM};
use crate::source::{Shader, float};
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Generates `softmax`.
pub(crate) fn softmax(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let shape = &step.input(0)?.shape;
    let axis = step.axis(shape.len())?;
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let rows = Rows::new(outer * inner, shape[axis]);
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.output(0)?;
    rows.declare(&mut shader);
    rows.combine(&mut shader, "largest", LARGER);
    rows.combine(&mut shader, "total", SUM);
    let value = if step.int_or("log", 0) != 0 { "(v - m) - log_f(sum)" } else { "exp_f(v - m) / sum" };
    let load = format!("        let v = x0_f(base + t * {inner}u);\n");
    let mut body = format!("    let base = (row / {inner}u) * {}u + row % {inner}u;\n", inner * shape[axis]);
    body += "    var best = -inf_f();\n";
    body += &rows.walk(&format!("{load}        best = select(best, v, v > best || is_nan(v));"));
    body += "    let m = largest(lane, best);\n    var part = 0.0;\n";
    body += &rows.walk(&format!("{load}        part = part + exp_f(v - m);"));
    body += "    let sum = total(lane, part);\n";
    body += &rows.walk(&format!("{load}        put0_f(base + t * {inner}u, {value});"));
    Ok(vec![rows.finish(shader, &body)?])
}

/// Generates `layer_norm`: two passes, so that a large mean does not eat the variance.
pub(crate) fn layer_norm(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let shape = &step.input(0)?.shape;
    let axis = step.axis(shape.len())?;
    let length: usize = shape[axis..].iter().product();
    let rows = Rows::new(shape[..axis].iter().product(), length);
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.output(0)?;
    rows.declare(&mut shader);
    rows.combine(&mut shader, "total", SUM);
    let mut affine = "(v - mean) * scale".to_owned();
    for (k, sign) in [(1, "*"), (2, "+")] {
        if step.has(k) {
            shader.floats_in(k)?;
            let at = strided("i", &broadcast(shape, &step.input(k)?.shape), 0);
            affine = format!("({affine}) {sign} x{k}_f({at})");
        }
    }
    let load = format!("        let i = row * {length}u + t;\n        let v = x0_f(i);\n");
    let mut body = String::new();
    if step.int_or("rms", 0) != 0 {
        body += "    let mean = 0.0;\n";
    } else {
        body += "    var sum = 0.0;\n";
        body += &rows.walk(&format!("{load}        sum = sum + v;"));
        body += &format!("    let mean = total(lane, sum) / f32({length}u);\n");
    }
    body += "    var squares = 0.0;\n";
    body += &rows.walk(&format!("{load}        squares = squares + (v - mean) * (v - mean);"));
    let epsilon = float(step.kernel.float("epsilon").unwrap_or(1e-5) as f32);
    body += &format!("    let variance = total(lane, squares) / f32({length}u);\n");
    body += &format!("    let scale = 1.0 / sqrt(variance + {epsilon});\n");
    body += &rows.walk(&format!("{load}        put0_f(i, {affine});"));
    Ok(vec![rows.finish(shader, &body)?])
}
