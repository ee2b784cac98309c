//! The tiled matrix product that `gemm` and `conv` share: tiles of both factors pass through workgroup memory,
//! every invocation keeps a small block of the result in registers.

use crate::source::Shader;
use crate::step::Dispatch;
use partita_runtime::RuntimeError;
use std::fmt::Write;

/// Invocations of a workgroup.
const LANES: usize = 256;
/// Depth of a tile.
const DEPTH: usize = 16;

/// A batch of products. The shader defines `a_at(z, row, k)`, `b_at(z, k, col)` and `put_at(z, row, col, v)`.
pub(crate) struct Product {
    pub batches: usize,
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    /// Whether neighbours along `row` are neighbours in memory (else along `k`).
    pub a_row_fast: bool,
    /// Whether neighbours along `k` are neighbours in memory (else along `col`).
    pub b_k_fast: bool,
}

/// How a workgroup covers a tile: a grid of invocations, each with a block of elements.
struct Blocks {
    grid_rows: usize,
    grid_cols: usize,
    rows: usize,
    cols: usize,
}

impl Blocks {
    /// Thin results get thin grids, so that most invocations have work.
    fn of(rows: usize, cols: usize) -> Self {
        let (grid_rows, grid_cols) = match (rows, cols) {
            (0..=4, _) => (4, 64),
            (_, 0..=4) => (64, 4),
            _ => (16, 16),
        };
        let per = |size: usize, grid: usize| match size.div_ceil(grid) {
            0 | 1 => 1,
            2 => 2,
            _ if grid == 16 => 4,
            _ => 1,
        };
        Self { grid_rows, grid_cols, rows: per(rows, grid_rows), cols: per(cols, grid_cols) }
    }

    fn tile_rows(&self) -> usize {
        self.grid_rows * self.rows
    }

    fn tile_cols(&self) -> usize {
        self.grid_cols * self.cols
    }
}

/// Finishes the shader as a tiled product.
pub(crate) fn product(mut shader: Shader, p: &Product) -> Result<Dispatch, RuntimeError> {
    let blocks = Blocks::of(p.rows, p.cols);
    let (tile_rows, tile_cols) = (blocks.tile_rows(), blocks.tile_cols());
    shader.line(&format!("var<workgroup> tile_a: array<f32, {}>;", DEPTH * tile_rows));
    shader.line(&format!("var<workgroup> tile_b: array<f32, {}>;", DEPTH * tile_cols));
    let (row_tiles, col_tiles) = (p.rows.div_ceil(tile_rows), p.cols.div_ceil(tile_cols));
    let mut body = format!(
        "    let col0 = (g % {col_tiles}u) * {tile_cols}u;\n    \
         let row0 = ((g / {col_tiles}u) % {row_tiles}u) * {tile_rows}u;\n    \
         let z = g / {}u;\n    let tx = lane % {}u;\n    let ty = lane / {}u;\n",
        col_tiles * row_tiles,
        blocks.grid_cols,
        blocks.grid_cols
    );
    for (r, c) in pairs(&blocks) {
        let _ = writeln!(body, "    var acc{r}_{c} = 0.0;");
    }
    let _ = writeln!(body, "    for (var k0 = 0u; k0 < {}u; k0 = k0 + {DEPTH}u) {{", p.depth);
    body += &fill_a(p, tile_rows);
    body += &fill_b(p, tile_cols);
    body += "    workgroupBarrier();\n";
    body += &multiply(&blocks);
    body += "    workgroupBarrier();\n    }\n";
    for (r, c) in pairs(&blocks) {
        let _ = writeln!(
            body,
            "    if (row0 + ty + {}u < {}u && col0 + tx + {}u < {}u) {{ \
             put_at(z, row0 + ty + {}u, col0 + tx + {}u, acc{r}_{c}); }}",
            r * blocks.grid_rows,
            p.rows,
            c * blocks.grid_cols,
            p.cols,
            r * blocks.grid_rows,
            c * blocks.grid_cols
        );
    }
    shader.each_group(row_tiles * col_tiles * p.batches, LANES, &body)
}

fn pairs(blocks: &Blocks) -> Vec<(usize, usize)> {
    (0..blocks.rows).flat_map(|r| (0..blocks.cols).map(move |c| (r, c))).collect()
}

/// Copies the tile of `a`, zero outside the matrix; neighbours in memory go to neighbouring invocations.
fn fill_a(p: &Product, tile_rows: usize) -> String {
    let (row, k) = split(p.a_row_fast, tile_rows);
    format!(
        "    for (var e = lane; e < {}u; e = e + {LANES}u) {{\n        let row = {row};\n        let k = {k};\n        \
         var v = 0.0;\n        if (row0 + row < {}u && k0 + k < {}u) {{ v = a_at(z, row0 + row, k0 + k); }}\n        \
         tile_a[k * {tile_rows}u + row] = v;\n    }}\n",
        DEPTH * tile_rows,
        p.rows,
        p.depth
    )
}

fn fill_b(p: &Product, tile_cols: usize) -> String {
    let (col, k) = split(!p.b_k_fast, tile_cols);
    format!(
        "    for (var e = lane; e < {}u; e = e + {LANES}u) {{\n        let col = {col};\n        let k = {k};\n        \
         var v = 0.0;\n        if (col0 + col < {}u && k0 + k < {}u) {{ v = b_at(z, k0 + k, col0 + col); }}\n        \
         tile_b[k * {tile_cols}u + col] = v;\n    }}\n",
        DEPTH * tile_cols,
        p.cols,
        p.depth
    )
}

/// The index along the side and along the depth of tile element `e`.
fn split(side_fast: bool, side: usize) -> (String, String) {
    if side_fast {
        (format!("e % {side}u"), format!("e / {side}u"))
    } else {
        (format!("e / {DEPTH}u"), format!("e % {DEPTH}u"))
    }
}

fn multiply(blocks: &Blocks) -> String {
    let mut text = format!("    for (var k = 0u; k < {DEPTH}u; k = k + 1u) {{\n");
    for r in 0..blocks.rows {
        let at = r * blocks.grid_rows;
        let _ = writeln!(text, "        let a{r} = tile_a[k * {}u + ty + {at}u];", blocks.tile_rows());
    }
    for c in 0..blocks.cols {
        let at = c * blocks.grid_cols;
        let _ = writeln!(text, "        let b{c} = tile_b[k * {}u + tx + {at}u];", blocks.tile_cols());
    }
    for (r, c) in pairs(blocks) {
        let _ = writeln!(text, "        acc{r}_{c} = acc{r}_{c} + a{r} * b{c};");
    }
    text + "    }\n"
}
