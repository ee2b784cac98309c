//! `conv`: as a tiled product over virtual columns where a group has enough channels, else directly.

use crate::kernels::product::{Product, product};
use crate::kernels::window::{Window, join, position, sizes, split, windows};
use crate::source::Shader;
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;

/// Output channels of a group from which the tiled product is used.
const MIN_PRODUCT_ROWS: usize = 4;

/// Sizes of a convolution.
struct Conv {
    windows: Vec<Window>,
    group: usize,
    /// Input channels of a group.
    in_channels: usize,
    /// Output channels of a group.
    out_channels: usize,
    images: usize,
}

impl Conv {
    fn new(step: &Step) -> Result<Self, RuntimeError> {
        let (x, w, y) = (&step.input(0)?.shape, &step.input(1)?.shape, &step.output(0)?.shape);
        if w.len() < 3 {
            return Err(step.error("the weight of a convolution has fewer than three axes"));
        }
        let windows = windows(step, x, y, &w[2..])?;
        let group = usize::try_from(step.int_or("group", 1)).unwrap_or(0);
        if group == 0 || x[1] != w[1] * group || y[1] != w[0] || !w[0].is_multiple_of(group) || x[0] != y[0] {
            return Err(step.error("the channels of a convolution do not match its groups"));
        }
        Ok(Self { windows, group, in_channels: w[1], out_channels: w[0] / group, images: x[0] })
    }

    fn kernel_size(&self) -> usize {
        self.windows.iter().map(|w| w.kernel).product()
    }

    fn output_size(&self) -> usize {
        self.windows.iter().map(|w| w.output).product()
    }
}

/// Generates the kernel.
pub(crate) fn conv(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let conv = Conv::new(step)?;
    let mut shader = Shader::new(step);
    shader.floats_in(0)?;
    shader.floats_in(1)?;
    bias(&mut shader)?;
    shader.output(0)?;
    shader.epilogue()?;
    if conv.out_channels >= MIN_PRODUCT_ROWS {
        return Ok(vec![as_product(shader, &conv)?]);
    }
    Ok(vec![direct(shader, &conv)?])
}

/// Declares `bias(channel)`.
pub(crate) fn bias(shader: &mut Shader) -> Result<(), RuntimeError> {
    let given = shader.step.has_own(2);
    if given {
        shader.floats_in(2)?;
    }
    let value = if given { "x2_f(c)" } else { "0.0" };
    shader.line(&format!("fn bias(c: u32) -> f32 {{ return {value}; }}"));
    Ok(())
}

/// Rows are output channels of a group, columns output positions, depth channels and window positions.
fn as_product(mut shader: Shader, conv: &Conv) -> Result<Dispatch, RuntimeError> {
    let (rows, cols) = (conv.out_channels, conv.output_size());
    let depth = conv.in_channels * conv.kernel_size();
    let group = conv.group;
    shader.line(&format!(
        "fn a_at(z: u32, r: u32, k: u32) -> f32 {{ return x1_f(((z % {group}u) * {rows}u + r) * {depth}u + k); }}"
    ));
    let (place, inside) = position(&conv.windows);
    shader.line(&format!(
        "fn b_at(z: u32, k: u32, col: u32) -> f32 {{\n    let channel = z * {}u + k / {}u;\n{}{}{place}    \
         if ({inside}) {{ return x0_f(channel * {}u + {}); }}\n    return 0.0;\n}}",
        conv.in_channels,
        conv.kernel_size(),
        split(&format!("(k % {}u)", conv.kernel_size()), "w", &sizes(&conv.windows, |w| w.kernel)),
        split("col", "o", &sizes(&conv.windows, |w| w.output)),
        sizes(&conv.windows, |w| w.input).iter().product::<usize>(),
        join("p", &sizes(&conv.windows, |w| w.input)),
    ));
    shader.line(&format!(
        "fn put_at(z: u32, r: u32, c: u32, v: f32) {{\n    let i = (z * {rows}u + r) * {cols}u + c;\n    \
         put0_f(i, finish(v + bias((z % {group}u) * {rows}u + r), i));\n}}"
    ));
    let p = Product { batches: conv.images * group, rows, cols, depth, a_row_fast: false, b_k_fast: false };
    product(shader, &p)
}

/// One invocation per output element.
fn direct(shader: Shader, conv: &Conv) -> Result<Dispatch, RuntimeError> {
    let channels = conv.out_channels * conv.group;
    let (place, inside) = position(&conv.windows);
    let inputs = sizes(&conv.windows, |w| w.input);
    let kernel = conv.kernel_size();
    let body = format!(
        "    let at = i % {out}u;\n    let channel = (i / {out}u) % {channels}u;\n    \
         let first = (i / {}u) * {}u + (channel / {}u) * {}u;\n{}    var sum = 0.0;\n    \
         for (var t = 0u; t < {kernel}u; t = t + 1u) {{\n{}{place}    if ({inside}) {{\n        let spot = {};\n        \
         for (var c = 0u; c < {}u; c = c + 1u) {{\n            \
         sum = sum + x0_f((first + c) * {}u + spot) * x1_f((channel * {}u + c) * {kernel}u + t);\n        }}\n    \
         }}\n    }}\n    put0_f(i, finish(sum + bias(channel), i));",
        conv.output_size() * channels,
        conv.in_channels * conv.group,
        conv.out_channels,
        conv.in_channels,
        split("at", "o", &sizes(&conv.windows, |w| w.output)),
        split("t", "w", &sizes(&conv.windows, |w| w.kernel)),
        join("p", &inputs),
        conv.in_channels,
        inputs.iter().product::<usize>(),
        conv.in_channels,
        out = conv.output_size(),
    );
    shader.each(conv.images * channels * conv.output_size(), &body)
}
