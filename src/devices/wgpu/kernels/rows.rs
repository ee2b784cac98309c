//! Kernels that walk rows: a row by one invocation when it is short, else by a workgroup that combines its parts.

use crate::source::Shader;
use crate::step::Dispatch;
use partita_runtime::RuntimeError;

/// The larger of `a` and `b`, or a NaN.
pub(crate) const LARGER: &str = "select(a, b, b > a || is_nan(b))";
/// The smaller of `a` and `b`, or a NaN.
pub(crate) const SMALLER: &str = "select(a, b, b < a || is_nan(b))";
/// The sum.
pub(crate) const SUM: &str = "a + b";

/// `count` rows of `length` elements. Bodies see `row` and, inside [`Rows::walk`], the position `t`.
pub(crate) struct Rows {
    pub count: usize,
    pub length: usize,
    lanes: usize,
}

impl Rows {
    /// Chooses how many invocations share a row.
    pub(crate) fn new(count: usize, length: usize) -> Self {
        let lanes = match length {
            0..=63 => 1,
            64..=1023 => 64,
            _ => 256,
        };
        Self { count, length, lanes }
    }

    /// Declares the workgroup memory that combining needs.
    pub(crate) fn declare(&self, shader: &mut Shader) {
        declare_parts(shader, self.lanes);
    }

    /// Declares `fn <name>(lane: u32, v: f32) -> f32`: all invocations' `v` of a row, combined.
    pub(crate) fn combine(&self, shader: &mut Shader, name: &str, how: &str) {
        declare_combine(shader, self.lanes, name, how);
    }

    /// A loop over the row's positions `t` that belong to the invocation.
    pub(crate) fn walk(&self, body: &str) -> String {
        let first = if self.lanes == 1 { "0u" } else { "lane" };
        format!(
            "    for (var t = {first}; t < {}u; t = t + {}u) {{\n{body}\n    }}\n",
            self.length, self.lanes
        )
    }

    /// Statements that one invocation of the row runs.
    pub(crate) fn once(&self, body: &str) -> String {
        if self.lanes == 1 { body.to_owned() } else { format!("    if (lane == 0u) {{ {body} }}\n") }
    }

    /// Finishes the shader.
    pub(crate) fn finish(&self, shader: Shader, body: &str) -> Result<Dispatch, RuntimeError> {
        if self.lanes == 1 {
            return shader.each(self.count, &format!("    let row = i;\n{body}"));
        }
        shader.each_group(self.count, self.lanes, &format!("    let row = g;\n{body}"))
    }
}

/// Declares one word of workgroup memory per invocation.
pub(crate) fn declare_parts(shader: &mut Shader, lanes: usize) {
    if lanes > 1 {
        shader.line(&format!("var<workgroup> parts: array<f32, {lanes}>;"));
    }
}

/// Declares a combining function over `lanes` invocations; all of them get the result.
pub(crate) fn declare_combine(shader: &mut Shader, lanes: usize, name: &str, how: &str) {
    if lanes == 1 {
        shader.line(&format!("fn {name}(lane: u32, v: f32) -> f32 {{ return v; }}"));
        return;
    }
    shader.line(&format!("fn {name}_two(a: f32, b: f32) -> f32 {{ return {how}; }}"));
    shader.line(&format!(
        "fn {name}(lane: u32, v: f32) -> f32 {{\n    parts[lane] = v;\n    workgroupBarrier();\n    \
         for (var s = {}u; s > 0u; s = s >> 1u) {{\n        \
         if (lane < s) {{ parts[lane] = {name}_two(parts[lane], parts[lane + s]); }}\n        \
         workgroupBarrier();\n    }}\n    let result = parts[0];\n    workgroupBarrier();\n    return result;\n}}",
        lanes / 2
    ));
}
