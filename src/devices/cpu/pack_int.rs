//! Packing of signed bytes into the panels that products of integers read (`int-b`).

use crate::layout::{Layout, NR};
use partita_plan::{ElementType, Kernel};

/// Packs operand 3, the weight of `gemm_int` or `conv_int`.
pub(crate) fn pack_int(
    kernel: &Kernel,
    raw: &[u8],
    dtype: ElementType,
    shape: &[usize],
) -> Option<(String, Vec<u8>)> {
    let fits = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) == Some(raw.len());
    if dtype != ElementType::I8 || !fits || shape.contains(&0) {
        return None;
    }
    let weight = match kernel.library.as_str() {
        "gemm_int" => gemm(kernel, raw, shape)?,
        _ => conv(kernel, raw, shape)?,
    };
    let Weight { groups, taps, depth, columns, .. } = weight;
    if kernel.library == "conv_int" && shape[1] == 1 && columns == 1 {
        let taps: usize = shape[2..].iter().product();
        let of_tap = |tap| (0..groups).filter_map(move |channel| raw.get(channel * taps + tap));
        let bytes = (0..taps).flat_map(of_tap).copied().collect();
        return Some((Layout::IntDepthwise { taps, channels: groups }.to_string(), bytes));
    }
    Some((Layout::IntB { groups, taps, depth, columns }.to_string(), weight.packed()))
}

/// A weight in memory: where the byte of a group, column, tap and step of the depth is.
struct Weight<'a> {
    raw: &'a [u8],
    groups: usize,
    taps: usize,
    depth: usize,
    columns: usize,
    /// Distances of two groups, columns and taps.
    strides: [usize; 3],
    /// Steps until the first distance is taken instead of the second.
    inner: usize,
    steps: [usize; 2],
}

fn gemm<'a>(kernel: &Kernel, raw: &'a [u8], shape: &[usize]) -> Option<Weight<'a>> {
    let &[rows, columns] = shape else { return None };
    let (depth, columns, column, step) = match kernel.int("trans_b") {
        Some(1) => (columns, rows, columns, 1),
        _ => (rows, columns, 1, columns),
    };
    let (strides, inner, steps) = ([0, column, 0], depth, [0, step]);
    Some(Weight { raw, groups: 1, taps: 1, depth, columns, strides, inner, steps })
}

/// Output channels, input channels of a group, kernel elements. Elements of a kernel's row are one tap where the kernel
/// reads neighbouring pixels as one segment.
fn conv<'a>(kernel: &Kernel, raw: &'a [u8], shape: &[usize]) -> Option<Weight<'a>> {
    let groups = usize::try_from(kernel.int("group").unwrap_or(1)).ok()?;
    let &[outputs, inputs, ref window @ ..] = shape else { return None };
    if groups == 0 || !outputs.is_multiple_of(groups) {
        return None;
    }
    let (elements, columns): (usize, usize) = (window.iter().product(), outputs / groups);
    let near = kernel.ints("dilations").last().is_none_or(|d| *d == 1);
    let across = if groups == 1 && near { *window.last()? } else { 1 };
    Some(Weight {
        raw,
        groups,
        taps: elements / across,
        depth: across * inputs,
        columns,
        strides: [columns * inputs * elements, inputs * elements, across],
        inner: inputs,
        steps: [1, elements],
    })
}

impl Weight<'_> {
    fn at(&self, group: usize, column: usize, tap: usize, step: usize) -> i8 {
        if column >= self.columns || step >= self.depth {
            return 0;
        }
        let place: usize = [group, column, tap].iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        let at = place + step / self.inner * self.steps[0] + step % self.inner * self.steps[1];
        self.raw.get(at).map_or(0, |b| *b as i8)
    }

    fn packed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for group in 0..self.groups {
            for panel in (0..self.columns).step_by(NR) {
                self.panel(group, panel, &mut out);
            }
        }
        out
    }

    fn panel(&self, group: usize, panel: usize, out: &mut Vec<u8>) {
        for column in panel..panel + NR {
            let steps = (0..self.taps).flat_map(|tap| (0..self.depth).map(move |step| (tap, step)));
            let sum: i32 = steps.map(|(tap, step)| i32::from(self.at(group, column, tap, step))).sum();
            out.extend_from_slice(&sum.to_ne_bytes());
        }
        for tap in 0..self.taps {
            for step in (0..self.depth).step_by(4) {
                for column in panel..panel + NR {
                    out.extend((step..step + 4).map(|step| self.at(group, column, tap, step) as u8));
                }
            }
        }
    }
}
