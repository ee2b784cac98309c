//! `attention`: one workgroup per query, keys in chunks with a running maximum, so that no score matrix is stored.

use crate::index::{broadcast, strided};
use crate::kernels::gemm::in_elements;
use crate::kernels::rows::{LARGER, SUM, declare_combine, declare_parts};
use crate::source::{Shader, float};
use crate::step::{Dispatch, Step};
use partita_runtime::RuntimeError;
use std::fmt::Write;

/// Invocations of a workgroup.
const LANES: usize = 64;
/// Keys whose scores are in workgroup memory at a time.
const CHUNK: usize = 512;
/// Columns of the result that an invocation keeps in registers.
const KEPT: usize = 4;

/// Sizes of an attention.
struct Attention<'a> {
    batch: &'a [usize],
    queries: usize,
    keys: usize,
    depth: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Attention<'a> {
    fn new(step: &'a Step) -> Result<Self, RuntimeError> {
        let wrong = || step.error("the shapes of an attention do not match");
        let (q, k, v, y) = (step.input(0)?, step.input(1)?, step.input(2)?, step.output(0)?);
        let transposed = step.int_or("k_transposed", 0) != 0;
        let [[.., queries, depth], [.., k0, k1], [.., keys, columns]] = [&*q.shape, &*k.shape, &*v.shape]
        else {
            return Err(wrong());
        };
        let leading = y.shape.len().saturating_sub(2);
        let key_shape = if transposed { (*k1, *k0) } else { (*k0, *k1) };
        if key_shape != (*keys, *depth) || y.shape.get(leading..) != Some(&[*queries, *columns]) {
            return Err(wrong());
        }
        Ok(Self {
            batch: &y.shape[..leading],
            queries: *queries,
            keys: *keys,
            depth: *depth,
            columns: *columns,
            transposed,
        })
    }

    /// Declares `q_at(z, r, d)`, `k_at(z, j, d)`, `v_at(z, j, c)` and `mask_at(z, r, j)`.
    fn declare(&self, shader: &mut Shader) -> Result<(), RuntimeError> {
        let step = shader.step;
        let key = if self.transposed { ("c", self.keys, "r") } else { ("r", self.depth, "c") };
        let at = [("q", ("r", self.depth, "c")), ("k", key), ("v", ("r", self.columns, "c"))];
        for (n, (name, (i, width, j))) in at.into_iter().enumerate() {
            shader.floats_in(n)?;
            let base = strided("z", &in_elements(self.batch, &step.input(n)?.shape), 0);
            shader.line(&format!(
                "fn {name}_at(z: u32, r: u32, c: u32) -> f32 {{ return x{n}_f({base} + {i} * {width}u + {j}); }}"
            ));
        }
        let mut mask = "0.0".to_owned();
        if step.has(3) {
            shader.floats_in(3)?;
            let full = [self.batch, &[self.queries, self.keys]].concat();
            mask = format!("x3_f({})", strided("i", &broadcast(&full, &step.input(3)?.shape), 0));
        }
        shader.line(&format!(
            "fn mask_at(z: u32, r: u32, j: u32) -> f32 {{ let i = (z * {}u + r) * {}u + j; return {mask}; }}",
            self.queries, self.keys
        ));
        Ok(())
    }
}

/// Generates the kernel.
pub(crate) fn attention(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let a = Attention::new(step)?;
    let mut shader = Shader::new(step);
    a.declare(&mut shader)?;
    shader.output(0)?;
    declare_parts(&mut shader, LANES);
    declare_combine(&mut shader, LANES, "largest", LARGER);
    declare_combine(&mut shader, LANES, "total", SUM);
    shader.line(&format!("var<workgroup> weights: array<f32, {CHUNK}>;"));
    let blocks = a.columns.div_ceil(KEPT * LANES);
    let body = body(step, &a, blocks);
    let count = a.batch.iter().product::<usize>() * a.queries * blocks;
    Ok(vec![shader.each_group(count, LANES, &body)?])
}

fn body(step: &Step, a: &Attention, blocks: usize) -> String {
    let mut text = format!(
        "    let first = (g % {blocks}u) * {}u + lane;\n    let query = g / {blocks}u;\n    \
         let r = query % {}u;\n    let z = query / {}u;\n    var m = -inf_f();\n    var sum = 0.0;\n",
        KEPT * LANES,
        a.queries,
        a.queries
    );
    for k in 0..KEPT {
        let _ = writeln!(text, "    var o{k} = 0.0;");
    }
    let _ = writeln!(text, "    for (var c0 = 0u; c0 < {}u; c0 = c0 + {CHUNK}u) {{", a.keys);
    let _ = writeln!(text, "    let end = min(c0 + {CHUNK}u, {}u);", a.keys);
    text += &scores(step, a);
    text += &accumulate(a);
    text += "    m = next;\n    workgroupBarrier();\n    }\n";
    for k in 0..KEPT {
        let _ = writeln!(
            text,
            "    if (first + {at}u < {c}u) {{ put0_f(query * {c}u + first + {at}u, o{k} / sum); }}",
            at = k * LANES,
            c = a.columns
        );
    }
    text
}

/// Scores of a chunk, and their weights against the new running maximum.
fn scores(step: &Step, a: &Attention) -> String {
    let scale = float(step.kernel.float("scale").unwrap_or(1.0) as f32);
    let causal = if step.int_or("causal", 0) != 0 { "        if (j > r) { s = -inf_f(); }\n" } else { "" };
    format!(
        "    var best = -inf_f();\n    for (var j = c0 + lane; j < end; j = j + {LANES}u) {{\n        var s = 0.0;\n        \
         for (var d = 0u; d < {}u; d = d + 1u) {{ s = s + q_at(z, r, d) * k_at(z, j, d); }}\n        \
         s = s * {scale} + mask_at(z, r, j);\n{causal}        weights[j - c0] = s;\n        \
         best = select(best, s, s > best || is_nan(s));\n    }}\n    \
         let next = max(m, largest(lane, best));\n    let base = select(next, 0.0, is_inf(next));\n    \
         let keep = exp_f(m - base);\n    var part = 0.0;\n    \
         for (var j = c0 + lane; j < end; j = j + {LANES}u) {{\n        \
         let w = exp_f(weights[j - c0] - base);\n        weights[j - c0] = w;\n        part = part + w;\n    }}\n    \
         sum = sum * keep + total(lane, part);\n",
        a.depth
    )
}

/// Adds a chunk's values; `total` ended with a barrier, so all weights are visible.
fn accumulate(a: &Attention) -> String {
    let mut text = String::new();
    for k in 0..KEPT {
        let at = k * LANES;
        let _ = writeln!(
            text,
            "    if (first + {at}u < {}u) {{\n        o{k} = o{k} * keep;\n        \
             for (var j = c0; j < end; j = j + 1u) {{ o{k} = o{k} + weights[j - c0] * v_at(z, j, first + {at}u); }}\n    }}",
            a.columns
        );
    }
    text
}
