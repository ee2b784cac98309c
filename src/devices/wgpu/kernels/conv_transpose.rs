//! `conv_transpose`: every output element gathers the input positions whose windows reach it.

use crate::kernels::conv::bias;
use crate::kernels::window::{Window, join, sizes, split, windows};
use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Generates the kernel. The weight is C x O/group x window.
pub(crate) fn conv_transpose(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (x, w, y) = (&step.input(0)?.shape, &step.input(1)?.shape, &step.output(0)?.shape);
    if w.len() < 3 {
        return Err(step.error("the weight of a convolution has fewer than three axes"));
    }
    let windows = windows(step, x, y, &w[2..])?;
    let group = usize::try_from(step.int_or("group", 1)).unwrap_or(0);
    if group == 0 || x[1] != w[0] || y[1] != w[1] * group || !x[1].is_multiple_of(group) || x[0] != y[0] {
        return Err(step.error("the channels of a convolution do not match its groups"));
    }
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.floats_in(1)?;
    bias(&mut shader)?;
    shader.output(0)?;
    shader.epilogue()?;
    let body = body(&windows, [x[1], x[1] / group], [y[1], w[1]]);
    Ok(vec![shader.each(step.output(0)?.count(), &body)?])
}

/// `channels`: all, and of one group; of the input and of the output.
fn body(windows: &[Window], inputs: [usize; 2], outputs: [usize; 2]) -> String {
    let out: usize = windows.iter().map(|w| w.output).product();
    let kernel: usize = windows.iter().map(|w| w.kernel).product();
    let (reach, hits) = reach(windows);
    let sizes_in = sizes(windows, |w| w.input);
    format!(
        "    let at = i % {out}u;\n    let channel = (i / {out}u) % {all}u;\n    let part = channel / {per}u;\n    \
         let image = i / {image}u;\n{split_o}    var sum = 0.0;\n    \
         for (var t = 0u; t < {kernel}u; t = t + 1u) {{\n{split_w}{reach}    if ({hits}) {{\n        \
         let spot = {spot};\n        for (var k = 0u; k < {inner}u; k = k + 1u) {{\n            \
         let c = part * {inner}u + k;\n            \
         sum = sum + x0_f((image * {all_in}u + c) * {size_in}u + spot) \
         * x1_f((c * {per}u + channel % {per}u) * {kernel}u + t);\n        }}\n    }}\n    }}\n    \
         put0_f(i, finish(sum + bias(channel), i));",
        all = outputs[0],
        per = outputs[1],
        image = out * outputs[0],
        split_o = split("at", "o", &sizes(windows, |w| w.output)),
        split_w = split("t", "w", &sizes(windows, |w| w.kernel)),
        spot = join("p", &sizes_in),
        inner = inputs[1],
        all_in = inputs[0],
        size_in = sizes_in.iter().product::<usize>(),
    )
}

/// Input position `p<k>` of output `o<k>` under window position `w<k>`, and the test that there is one.
fn reach(windows: &[Window]) -> (String, String) {
    let mut lines = String::new();
    let mut tests = Vec::new();
    for (k, w) in windows.iter().enumerate() {
        lines += &format!(
            "    let d{k} = i32(o{k}) + ({}) - i32(w{k} * {}u);\n    let p{k} = u32(max(d{k}, 0)) / {}u;\n",
            w.begin, w.dilation, w.stride
        );
        tests.push(format!("d{k} >= 0 && u32(max(d{k}, 0)) % {}u == 0u && p{k} < {}u", w.stride, w.input));
    }
    (lines, tests.join(" && "))
}
