//! `pool`: maximum or mean under a sliding window.

use crate::kernels::window::{Window, join, position, sizes, split, windows};
use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Generates the kernel. Means divide by the elements inside, or inside the padded input.
pub(crate) fn pool(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (x, y) = (&step.input(0)?.shape, &step.output(0)?.shape);
    let n = x.len().saturating_sub(2);
    let kernel = step.list("kernel", n, 1)?;
    let kernel: Vec<usize> = kernel.iter().map(|k| usize::try_from(*k).unwrap_or(0)).collect();
    let windows = windows(step, x, y, &kernel)?;
    let maximum = match step.kernel.string("mode") {
        Some("max") => true,
        Some("avg") => false,
        _ => return Err(step.error("the mode of a pool is neither 'max' nor 'avg'")),
    };
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.output(0)?;
    let body = body(&windows, maximum, step.int_or("count_include_pad", 0) != 0);
    Ok(vec![shader.each(step.output(0)?.count(), &body)?])
}

fn body(windows: &[Window], maximum: bool, with_pads: bool) -> String {
    let out: usize = windows.iter().map(|w| w.output).product();
    let inputs = sizes(windows, |w| w.input);
    let (place, inside) = position(windows);
    let (start, take, result) = if maximum {
        ("-inf_f()", "if (v > best || is_nan(v)) { best = v; }", "best")
    } else {
        ("0.0", "best = best + v;", "best / f32(count)")
    };
    let counted = if with_pads { padded(windows) } else { inside.clone() };
    format!(
        "    let at = i % {out}u;\n    let plane = (i / {out}u) * {size}u;\n{split_o}    var best = {start};\n    \
         var count = 0u;\n    for (var t = 0u; t < {kernel}u; t = t + 1u) {{\n{split_w}{place}    \
         if ({counted}) {{ count = count + 1u; }}\n    if ({inside}) {{\n        let v = x0_f(plane + {spot});\n        \
         {take}\n    }}\n    }}\n    put0_f(i, {result});",
        size = inputs.iter().product::<usize>(),
        split_o = split("at", "o", &sizes(windows, |w| w.output)),
        kernel = windows.iter().map(|w| w.kernel).product::<usize>(),
        split_w = split("t", "w", &sizes(windows, |w| w.kernel)),
        spot = join("p", &inputs),
    )
}

/// Whether a position lies in the input with its pads; what `ceil_mode` adds beyond the end pads does not count.
fn padded(windows: &[Window]) -> String {
    let tests = windows.iter().enumerate().map(|(k, w)| {
        let size = (w.input as i64 + w.begin + w.end).max(0);
        format!("p{k} + {} < {size}u", crate::index::word(w.begin))
    });
    tests.collect::<Vec<String>>().join(" && ")
}
