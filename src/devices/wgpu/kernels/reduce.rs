//! `reduce`: ten reductions over any axes, as rows of one table.

use crate::index::{Axis, strided, strides};
use crate::kernels::rows::{LARGER, Rows, SMALLER, SUM};
use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// One reduction: start, what an element `v` contributes, how parts `a` and `b` combine, the result of `r`.
struct Mode {
    name: &'static str,
    start: &'static str,
    map: &'static str,
    combine: &'static str,
    result: &'static str,
}

const fn mode(
    name: &'static str,
    start: &'static str,
    map: &'static str,
    combine: &'static str,
    result: &'static str,
) -> Mode {
    Mode { name, start, map, combine, result }
}

/// `N` is the number of elements, `m` the row's maximum (`log_sum_exp` only).
const MODES: &[Mode] = &[
    mode("l1", "0.0", "abs(v)", SUM, "r"),
    mode("l2", "0.0", "v * v", SUM, "sqrt(r)"),
    mode("log_sum", "0.0", "v", SUM, "log_f(r)"),
    mode("log_sum_exp", "0.0", "exp_f(v - m)", SUM, "m + log_f(r)"),
    mode("max", "-inf_f()", "v", LARGER, "r"),
    mode("mean", "0.0", "v", SUM, "r / N"),
    mode("min", "inf_f()", "v", SMALLER, "r"),
    mode("prod", "1.0", "v", "a * b", "r"),
    mode("sum", "0.0", "v", SUM, "r"),
    mode("sum_square", "0.0", "v * v", SUM, "r"),
];

/// Generates the kernel.
pub(crate) fn reduce(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let name = step.kernel.string("mode").unwrap_or("");
    let Some(mode) = MODES.iter().find(|m| m.name == name) else {
        return Err(step.error(format!("the reduction '{name}' is not known here")));
    };
    let shape = &step.input(0)?.shape;
    let axes = step.kernel.ints("axes");
    if axes.iter().any(|a| usize::try_from(*a).map_or(true, |a| a >= shape.len())) {
        return Err(step.error("a reduction names an axis that the operand does not have"));
    }
    let all: Vec<Axis> =
        shape.iter().zip(strides(shape)).map(|(&size, stride)| Axis { size, stride }).collect();
    let (inside, kept): (Vec<_>, Vec<_>) =
        all.into_iter().enumerate().partition(|(k, _)| axes.contains(&(*k as i64)));
    let [inside, kept] = [inside, kept].map(|list| list.into_iter().map(|(_, a)| a).collect::<Vec<Axis>>());
    let size = |axes: &[Axis]| axes.iter().map(|a| a.size).product::<usize>();
    let rows = Rows::new(size(&kept), size(&inside));
    if rows.count != step.output(0)?.count() {
        return Err(step.error("the result of a reduction has the wrong size"));
    }
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.output(0)?;
    rows.declare(&mut shader);
    rows.combine(&mut shader, "combined", mode.combine);
    shader.line(&format!("fn two(a: f32, b: f32) -> f32 {{ return {}; }}", mode.combine));
    let load = format!("let v = x0_f(base + {});", strided("t", &inside, 0));
    let mut body = format!("    let base = {};\n", strided("row", &kept, 0));
    if mode.name == "log_sum_exp" {
        body += &maximum(&mut shader, &rows, &load);
    }
    let n = format!("f32({}u)", rows.length);
    body += &format!("    var sum = {};\n", mode.start);
    body += &rows.walk(&format!("        {load}\n        sum = two(sum, {});", mode.map));
    body += "    let r = combined(lane, sum);\n";
    body += &rows.once(&format!("put0_f(row, {});", mode.result.replace('N', &n)));
    Ok(vec![rows.finish(shader, &body)?])
}

/// Statements for the row's maximum `m`, or 0 where that is not finite.
fn maximum(shader: &mut Shader, rows: &Rows, load: &str) -> String {
    rows.combine(shader, "largest", LARGER);
    let walk = rows.walk(&format!("        {load}\n        best = largest_of(best, v);"));
    shader.line(&format!("fn largest_of(a: f32, b: f32) -> f32 {{ return {LARGER}; }}"));
    format!(
        "    var best = -inf_f();\n{walk}    let top = largest(lane, best);\n    \
         let m = select(top, 0.0, is_inf(top) || is_nan(top));\n"
    )
}
