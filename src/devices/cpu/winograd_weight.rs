//! Weights of Winograd convolution, transformed and packed.
//!
//! Minimal filtering F(m x m, 3 x 3) computes a square of m x m results from (m + 2)^2 products per pair of channels
//! (Winograd 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016). It evaluates polynomials
//! at m + 1 points and infinity; the points decide the rounding error. Of the symmetric sets (whose transforms share
//! half of their operations), 0, 3/4, -3/4, 3/2, -3/2 has half the error of the usual 0, 1, -1, 2, -2, and all constants
//! of the transforms are exact in f32.
//!
//! `winograd:<m>x<C>x<N>`: panels of `NR` output channels; in each, (m + 2)^2 products (row-major over the square); in
//! each, C rows of `NR` floats. The last panel is padded with zeros.

use crate::layout::NR;

/// Points at which F(2x2) and F(4x4) evaluate, without infinity.
const POINTS_2: [f64; 3] = [0.0, 1.0, -1.0];
const POINTS_4: [f64; 5] = [0.0, 0.75, -0.75, 1.5, -1.5];

/// The transform of three weights along one axis: a row per point, then infinity.
fn transform(points: &[f64]) -> Vec<[f64; 3]> {
    let row = |(at, &p): (usize, &f64)| {
        let others = points.iter().enumerate().filter(|&(i, _)| i != at);
        let scale: f64 = others.map(|(_, &q)| p - q).product();
        [1.0 / scale, p / scale, p * p / scale]
    };
    points.iter().enumerate().map(row).chain([[0.0, 0.0, 1.0]]).collect()
}

/// Packs weights (`outputs` x `inputs` x 3 x 3) for squares of `m` x `m` results, 2 or 4.
pub(crate) fn pack_winograd(w: &[f32], m: usize, inputs: usize, outputs: usize) -> Vec<u8> {
    let g = transform(if m == 2 { &POINTS_2 } else { &POINTS_4 });
    let side = g.len();
    let square = side * side;
    let mut packed = vec![0f32; outputs.next_multiple_of(NR) * square * inputs];
    for (pair, w) in w.chunks_exact(9).enumerate() {
        let (output, input) = (pair / inputs, pair % inputs);
        let half: Vec<[f64; 3]> = g
            .iter()
            .map(|g| std::array::from_fn(|x| (0..3).map(|y| g[y] * f64::from(w[y * 3 + x])).sum()))
            .collect();
        let panel = output / NR * square;
        for at in 0..square {
            let value: f64 = half[at / side].iter().zip(&g[at % side]).map(|(a, b)| a * b).sum();
            packed[((panel + at) * inputs + input) * NR + output % NR] = value as f32;
        }
    }
    packed.iter().flat_map(|v| v.to_ne_bytes()).collect()
}
