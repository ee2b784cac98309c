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
    if kernel.library == "conv_int" && depth == 1 && columns == 1 {
        let of_tap = |tap| (0..groups).map(move |channel| (channel, tap));
        let bytes =
            (0..taps).flat_map(of_tap).map(|(channel, tap)| weight.at(channel, 0, tap, 0) as u8).collect();
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
    /// Distances of two groups, columns, taps and steps.
    strides: [usize; 4],
}

fn gemm<'a>(kernel: &Kernel, raw: &'a [u8], shape: &[usize]) -> Option<Weight<'a>> {
    let &[rows, columns] = shape else { return None };
    let (depth, columns, strides) = match kernel.int("trans_b") {
        Some(1) => (columns, rows, [0, columns, 0, 1]),
        _ => (rows, columns, [0, 1, 0, columns]),
    };
    Some(Weight { raw, groups: 1, taps: 1, depth, columns, strides })
}

/// Output channels, input channels of a group, kernel elements.
fn conv<'a>(kernel: &Kernel, raw: &'a [u8], shape: &[usize]) -> Option<Weight<'a>> {
    let groups = usize::try_from(kernel.int("group").unwrap_or(1)).ok()?;
    let &[outputs, depth, ref window @ ..] = shape else { return None };
    if groups == 0 || !outputs.is_multiple_of(groups) {
        return None;
    }
    let (taps, columns): (usize, usize) = (window.iter().product(), outputs / groups);
    Some(Weight {
        raw,
        groups,
        taps,
        depth,
        columns,
        strides: [columns * depth * taps, depth * taps, 1, taps],
    })
}

impl Weight<'_> {
    fn at(&self, group: usize, column: usize, tap: usize, step: usize) -> i8 {
        if column >= self.columns || step >= self.depth {
            return 0;
        }
        let place = [group, column, tap, step];
        let at: usize = place.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
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
