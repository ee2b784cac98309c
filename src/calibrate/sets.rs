//! The fixed sets of sizes that are measured, and those that are held out to see whether the fit holds elsewhere.

use super::nets::Family::{self, Decoder, Encoder, Fire, Head, Mobile, Residual, Unet};
use super::parts::Part;
use crate::error::Result;
use partita_codegen::lower::Precision;
use partita_ir::Graph;

/// A graph to measure.
pub(super) struct Probe {
    graph: Shape,
    pub(super) held: bool,
    pub(super) precision: Precision,
}

enum Shape {
    Net(Family),
    Parts(Part),
}

impl Probe {
    pub(super) fn net(family: Family, held: bool) -> Self {
        Self { graph: Shape::Net(family), held, precision: Precision::F32 }
    }

    pub(super) fn part(part: Part, held: bool) -> Self {
        Self { graph: Shape::Parts(part), held, precision: Precision::F32 }
    }

    pub(super) fn build(&self) -> Result<Graph> {
        match self.graph {
            Shape::Net(family) => family.build(),
            Shape::Parts(part) => part.build(),
        }
    }
}

/// Sides, widths and depths are spread over what published nets have, without being those of any of them. Weights
/// range from a few kilobytes to beyond the last cache.
const NETS: &[Family] = &[
    Residual { side: 56, width: 48, first: 7 },
    Residual { side: 32, width: 96, first: 5 },
    Residual { side: 20, width: 192, first: 3 },
    Residual { side: 14, width: 256, first: 7 },
    Residual { side: 7, width: 448, first: 3 },
    Mobile { side: 96, width: 16, kernel: 3, squeeze: false, activation: "relu6" },
    Mobile { side: 128, width: 24, kernel: 3, squeeze: false, activation: "relu6" },
    Mobile { side: 56, width: 24, kernel: 5, squeeze: true, activation: "silu" },
    Mobile { side: 32, width: 48, kernel: 3, squeeze: true, activation: "hard_swish" },
    Mobile { side: 16, width: 80, kernel: 5, squeeze: true, activation: "hard_swish" },
    Mobile { side: 14, width: 112, kernel: 3, squeeze: false, activation: "relu6" },
    Mobile { side: 28, width: 32, kernel: 5, squeeze: false, activation: "relu" },
    Mobile { side: 20, width: 64, kernel: 3, squeeze: false, activation: "silu" },
    Mobile { side: 7, width: 160, kernel: 5, squeeze: true, activation: "relu" },
    Fire { side: 56, width: 32 },
    Fire { side: 14, width: 96 },
    Unet { side: 128, width: 24 },
    Unet { side: 192, width: 40 },
    Unet { side: 64, width: 64 },
    Unet { side: 32, width: 96 },
    Head { width: 576, classes: 1000 },
    Head { width: 2048, classes: 500 },
    Encoder { tokens: 128, width: 512, heads: 8, layers: 2 },
    Encoder { tokens: 256, width: 256, heads: 4, layers: 2 },
    Encoder { tokens: 384, width: 768, heads: 12, layers: 1 },
    Encoder { tokens: 64, width: 1024, heads: 16, layers: 2 },
    Encoder { tokens: 24, width: 384, heads: 12, layers: 2 },
    Encoder { tokens: 10, width: 512, heads: 8, layers: 2 },
    Encoder { tokens: 48, width: 512, heads: 8, layers: 1 },
    Encoder { tokens: 80, width: 384, heads: 6, layers: 1 },
    Encoder { tokens: 6, width: 1024, heads: 16, layers: 1 },
    Encoder { tokens: 4, width: 320, heads: 5, layers: 2 },
    Encoder { tokens: 2, width: 768, heads: 12, layers: 2 },
    Decoder { past: 200, width: 512, heads: 8, layers: 2 },
    Decoder { past: 64, width: 1024, heads: 16, layers: 2 },
    Decoder { past: 100, width: 768, heads: 12, layers: 6 },
    Decoder { past: 128, width: 256, heads: 4, layers: 2 },
];

const HELD_NETS: &[Family] = &[
    Residual { side: 28, width: 112, first: 7 },
    Residual { side: 14, width: 224, first: 3 },
    Mobile { side: 28, width: 40, kernel: 3, squeeze: true, activation: "hard_swish" },
    Mobile { side: 14, width: 88, kernel: 5, squeeze: false, activation: "silu" },
    Fire { side: 40, width: 40 },
    Unet { side: 88, width: 40 },
    Encoder { tokens: 160, width: 448, heads: 7, layers: 1 },
    Encoder { tokens: 48, width: 640, heads: 10, layers: 2 },
    Decoder { past: 300, width: 640, heads: 10, layers: 4 },
];

/// Nets measured in bfloat16 too.
const ROUNDED: &[Family] = &[
    Residual { side: 28, width: 64, first: 7 },
    Encoder { tokens: 128, width: 512, heads: 8, layers: 2 },
    Encoder { tokens: 320, width: 256, heads: 4, layers: 1 },
    Encoder { tokens: 8, width: 512, heads: 8, layers: 2 },
    Decoder { past: 64, width: 1024, heads: 16, layers: 2 },
    Head { width: 1536, classes: 800 },
];

/// Rows, their elements and heads: from a few kilobytes to beyond the last cache.
const ROWS: &[(usize, usize, usize)] = &[
    (1, 64, 1),
    (3, 768, 12),
    (16, 64, 4),
    (64, 256, 4),
    (128, 768, 12),
    (320, 1280, 20),
    (768, 1024, 16),
    (4096, 1024, 16),
];
const HELD_ROWS: &[(usize, usize, usize)] = &[(80, 96, 6), (197, 384, 6), (640, 640, 10)];

/// Sides and channels.
const POOLS: &[(usize, usize)] = &[(7, 320), (14, 128), (28, 96), (56, 64), (112, 32), (128, 80)];
const HELD_POOLS: &[(usize, usize)] = &[(20, 80)];

/// Every graph, in a fixed order.
pub(super) fn all() -> Vec<Probe> {
    let mut out = Vec::new();
    for (held, nets, rows, pools) in [(false, NETS, ROWS, POOLS), (true, HELD_NETS, HELD_ROWS, HELD_POOLS)] {
        out.extend(nets.iter().map(|&net| Probe::net(net, held)));
        out.extend(rows.iter().flat_map(|&r| Part::of_rows(r)).map(|part| Probe::part(part, held)));
        let pools = pools.iter().map(|&(side, channels)| Part::Pools { side, channels });
        out.extend(pools.map(|part| Probe::part(part, held)));
    }
    let rounded = |&net: &Family| Probe { precision: Precision::Bf16, ..Probe::net(net, false) };
    out.extend(ROUNDED.iter().map(rounded));
    out
}
