//! Sliding windows over the spatial axes: sizes, strides, pads and dilations as convolutions and pools share them.

use crate::step::Step;
use partita_runtime::RuntimeError;

/// One spatial axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub begin: i64,
    pub end: i64,
}

/// The spatial axes of a step with input `x`, output `y` and window `kernel`.
pub(crate) fn windows(
    step: &Step,
    x: &[usize],
    y: &[usize],
    kernel: &[usize],
) -> Result<Vec<Window>, RuntimeError> {
    let n = kernel.len();
    if n == 0 || x.len() != n + 2 || y.len() != n + 2 {
        return Err(step.error("the ranks of a sliding window do not match"));
    }
    let strides = step.list("strides", n, 1)?;
    let dilations = step.list("dilations", n, 1)?;
    let pads = step.list("pads", 2 * n, 0)?;
    let positive = |v: i64| {
        usize::try_from(v)
            .ok()
            .filter(|v| (1..=usize::from(u16::MAX)).contains(v))
            .ok_or_else(|| step.error("a stride or dilation is not between 1 and 65535"))
    };
    (0..n)
        .map(|k| {
            Ok(Window {
                input: x[k + 2],
                output: y[k + 2],
                kernel: kernel[k],
                stride: positive(strides[k])?,
                dilation: positive(dilations[k])?,
                begin: pads[k],
                end: pads[k + n],
            })
        })
        .collect()
}

/// Statements that split the linear index `from` over `sizes` into `<name>0`, `<name>1`, ... (u32).
pub(crate) fn split(from: &str, name: &str, sizes: &[usize]) -> String {
    let mut below = 1usize;
    let mut lines = Vec::new();
    for (k, size) in sizes.iter().enumerate().rev() {
        let high = if below == 1 { from.to_owned() } else { format!("({from} / {below}u)") };
        let value = if k == 0 { high } else { format!("{high} % {size}u") };
        lines.push(format!("    let {name}{k} = {value};\n"));
        below *= size;
    }
    lines.concat()
}

/// The linear index of `<name>0`, `<name>1`, ... in a row-major tensor of `sizes`.
pub(crate) fn join(name: &str, sizes: &[usize]) -> String {
    let mut text = format!("{name}0");
    for (k, size) in sizes.iter().enumerate().skip(1) {
        text = format!("({text} * {size}u + {name}{k})");
    }
    text
}

/// Statements that place output `o<k>` and window position `w<k>` on input `p<k>`, and the test that it lies inside.
/// A position before the start wraps to a number above every size.
pub(crate) fn position(windows: &[Window]) -> (String, String) {
    let lines: String = windows
        .iter()
        .enumerate()
        .map(|(k, w)| {
            let begin = crate::index::word(-w.begin);
            format!("    let p{k} = o{k} * {}u + w{k} * {}u + {begin};\n", w.stride, w.dilation)
        })
        .collect();
    let inside: Vec<String> =
        windows.iter().enumerate().map(|(k, w)| format!("p{k} < {}u", w.input)).collect();
    (lines, inside.join(" && "))
}

/// One size of every axis.
pub(crate) fn sizes(windows: &[Window], of: fn(&Window) -> usize) -> Vec<usize> {
    windows.iter().map(of).collect()
}
