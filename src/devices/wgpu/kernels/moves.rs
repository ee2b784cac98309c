//! Data movement: every result element comes from one place of an operand, whatever its type.
//!
//! Elements are moved as words, two words, or parts of a word. An invocation writes one element, or one whole
//! word of narrow ones, so that no two invocations share a word.

use crate::index::{Axis, broadcast, strided, strides, word};
use crate::kernels::window;
use crate::source::Shader;
use crate::step::{Dispatch, Operand, Step};
use partita_plan::ElementType;
use partita_runtime::RuntimeError;
use std::fmt::Write;

/// Most elements of a `dims` tensor: a shape is short.
const MAX_DIMS: usize = 4096;

/// The source index that stands for "no source": the element is `blank`.
const NONE: &str = "4294967295u";

/// Generates `copy`.
pub(crate) fn copy(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (x, y) = (step.input(0)?, step.output(0)?);
    if x.count() != y.count() || x.dtype != y.dtype {
        return Err(step.error("a copy changes the number of bytes"));
    }
    let words = (y.count() * y.dtype.size_bytes()).div_ceil(4);
    let mut shader = Shader::new(step);
    shader.words_in(0)?;
    shader.output(0)?;
    Ok(vec![shader.each(words, "    put0_w(i, x0_w(i));")?])
}

/// Generates `transpose`.
pub(crate) fn transpose(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let shape = &step.input(0)?.shape;
    let perm = step.list("perm", shape.len(), 0)?;
    let own = strides(shape);
    let axes: Option<Vec<Axis>> = perm
        .iter()
        .zip(&step.output(0)?.shape)
        .map(|(p, &size)| {
            let from = usize::try_from(*p).ok().filter(|p| shape.get(*p) == Some(&size))?;
            Some(Axis { size, stride: own[from] })
        })
        .collect();
    let axes = axes.ok_or_else(|| step.error("the permutation of a transpose does not match its result"))?;
    walk(step, 0, &axes, 0)
}

/// Generates `slice`.
pub(crate) fn slice(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (shape, out) = (&step.input(0)?.shape, &step.output(0)?.shape);
    let starts = step.list("starts", shape.len(), 0)?;
    let steps = step.list("steps", shape.len(), 1)?;
    if out.len() != shape.len() {
        return Err(step.error("a slice changes the rank"));
    }
    let own = strides(shape);
    let mut offset = 0i64;
    let mut axes = Vec::new();
    for k in 0..shape.len() {
        let last = (out[k] as i64 - 1).checked_mul(steps[k]).and_then(|d| d.checked_add(starts[k]));
        let inside = |at: i64| (0..shape[k] as i64).contains(&at);
        if !(inside(starts[k]) && last.is_some_and(inside)) {
            return Err(step.error(format!("a slice reaches outside axis {k}")));
        }
        offset += starts[k] * own[k];
        axes.push(Axis { size: out[k], stride: steps[k].wrapping_mul(own[k]) });
    }
    walk(step, 0, &axes, offset)
}

/// Generates `expand`.
pub(crate) fn expand(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let axes = broadcast(&step.output(0)?.shape, &step.input(0)?.shape);
    walk(step, 0, &axes, 0)
}

/// Generates `split`: one dispatch for each result.
pub(crate) fn split(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let shape = &step.input(0)?.shape;
    let axis = step.axis(shape.len())?;
    let own = strides(shape);
    let mut at = 0usize;
    let mut dispatches = Vec::new();
    for (k, y) in step.outputs.iter().enumerate() {
        same_but(step, shape, &y.shape, axis)?;
        let axes: Vec<Axis> =
            y.shape.iter().zip(&own).map(|(&size, &stride)| Axis { size, stride }).collect();
        dispatches.extend(walk(step, k, &axes, at as i64 * own[axis])?);
        at += y.shape[axis];
    }
    if at > shape[axis] {
        return Err(step.error("the parts of a split are longer than its operand"));
    }
    Ok(dispatches)
}

/// Generates `concat`: one dispatch for each operand.
pub(crate) fn concat(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let y = step.output(0)?;
    let axis = step.axis(y.shape.len())?;
    let own = strides(&y.shape);
    let mut at = 0usize;
    let mut dispatches = Vec::new();
    for k in 0..step.inputs.len() {
        let x = step.input(k)?;
        same_but(step, &y.shape, &x.shape, axis)?;
        let axes: Vec<Axis> =
            x.shape.iter().zip(&own).map(|(&size, &stride)| Axis { size, stride }).collect();
        if x.count() > 0 {
            dispatches.push(part(step, k, &strided("i", &axes, at as i64 * own[axis]))?);
        }
        at += x.shape[axis];
    }
    if at != y.shape[axis] {
        return Err(step.error("the parts of a concatenation do not fill its result"));
    }
    Ok(dispatches)
}

/// Copies operand `k` to the places `to` of the result.
fn part(step: &Step, k: usize, to: &str) -> Result<Dispatch, RuntimeError> {
    let mut shader = Shader::new(step);
    shader.words_in(k)?;
    shader.output(0)?;
    let x = step.input(k)?;
    let body = match x.dtype.size_bytes() {
        4 => format!("    put0_w({to}, x{k}_w(i));"),
        8 => format!(
            "    let to = {to};\n    put0_w(2u * to, x{k}_w(2u * i));\n    \
             put0_w(2u * to + 1u, x{k}_w(2u * i + 1u));"
        ),
        _ => return Err(step.error("narrow elements are not concatenated on this device")),
    };
    shader.each(x.count(), &body)
}

fn same_but(step: &Step, a: &[usize], b: &[usize], axis: usize) -> Result<(), RuntimeError> {
    let same = a.len() == b.len() && a.iter().zip(b).enumerate().all(|(k, (a, b))| k == axis || a == b);
    if same { Ok(()) } else { Err(step.error("the parts along an axis have different shapes")) }
}

/// Result `k` from operand 0 by a strided walk.
fn walk(step: &Step, k: usize, axes: &[Axis], offset: i64) -> Result<Vec<Dispatch>, RuntimeError> {
    if step.output(k)?.count() == 0 {
        return Ok(Vec::new());
    }
    let mut shader = Shader::new(step);
    shader.words_in(0)?;
    let source = strided("i", axes, offset);
    shader.line(&format!("fn source(i: u32) -> u32 {{ return {source}; }}"));
    Ok(vec![take(shader, k, None)?])
}

/// Finishes a shader in which element `i` of result `k` is element `source(i)` of operand 0. With `blank`, the
/// words of an element, `source` may give `NONE`.
fn take(mut shader: Shader, k: usize, blank: Option<[String; 2]>) -> Result<Dispatch, RuntimeError> {
    shader.output(k)?;
    let y = shader.step.output(k)?;
    let (bytes, count) = (y.dtype.size_bytes(), y.count());
    let value = |name: &str, from: String, blank: Option<&String>| match blank {
        None => format!("let {name} = {from};"),
        Some(b) => format!("var {name} = {b}; if (s != {NONE}) {{ {name} = {from}; }}"),
    };
    let first = blank.as_ref().map(|b| &b[0]);
    let second = blank.as_ref().map(|b| &b[1]);
    if bytes >= 4 {
        let wide = bytes == 8;
        let mut body = "    let s = source(i);\n    ".to_owned();
        if wide {
            body += &value("low", "x0_w(2u * s)".into(), first);
            body += &value("high", "x0_w(2u * s + 1u)".into(), second);
            let _ = write!(body, " put{k}_w(2u * i, low); put{k}_w(2u * i + 1u, high);");
        } else {
            body += &value("v", "x0_w(s)".into(), first);
            let _ = write!(body, " put{k}_w(i, v);");
        }
        return shader.each(count, &body);
    }
    let (per, bits) = (4 / bytes, 8 * bytes);
    let mask = (1u32 << bits) - 1;
    let take = value("v", format!("(x0_w(s / {per}u) >> ((s % {per}u) * {bits}u)) & {mask}u"), first);
    let body = format!(
        "    var word = 0u;\n    for (var k = 0u; k < {per}u; k = k + 1u) {{\n        let e = i * {per}u + k;\n        \
         if (e >= {count}u) {{ break; }}\n        let s = source(e);\n        {take}\n        \
         word = word | ((v & {mask}u) << (k * {bits}u));\n    }}\n    put{k}_w(i, word);"
    );
    shader.each(count.div_ceil(per), &body)
}

/// Generates `pad`.
pub(crate) fn pad(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (x, y) = (step.input(0)?, step.output(0)?);
    let n = x.shape.len();
    let pads = step.list("pads", 2 * n, 0)?;
    let padded = |k: usize| x.shape[k] as i64 + pads[k] + pads[n + k];
    if y.shape.len() != n || (0..n).any(|k| padded(k) != y.shape[k] as i64) {
        return Err(step.error("the pads do not match the result's shape"));
    }
    let mode = step.kernel.string("mode").unwrap_or("constant");
    let mut shader = Shader::new(step);
    shader.words_in(0)?;
    let blank = if mode == "constant" { Some(blank(step, &mut shader, x)?) } else { None };
    if mode != "constant" && x.count() == 0 {
        return Err(step.error("an empty tensor has no elements to pad with"));
    }
    let mut body = if n == 0 { String::new() } else { window::split("i", "o", &y.shape) };
    for (k, (size, begin)) in x.shape.iter().zip(&pads).enumerate() {
        let place = place(mode, *size, &format!("(i32(o{k}) - ({begin}))"), *begin)
            .ok_or_else(|| step.error(format!("the mode '{mode}' of a pad is not known here")))?;
        let _ = writeln!(body, "    let a{k} = {place};");
        if blank.is_some() {
            let _ = writeln!(body, "    if (a{k} < 0 || a{k} >= {size}) {{ return {NONE}; }}");
        }
        let _ = writeln!(body, "    let p{k} = u32(a{k});");
    }
    let from = if n == 0 { "0u".to_owned() } else { window::join("p", &x.shape) };
    shader.line(&format!("fn source(i: u32) -> u32 {{\n{body}    return {from};\n}}"));
    Ok(vec![take(shader, 0, blank)?])
}

/// The position in an axis of `size` that the i32 position `at`, not below `-begin`, stands for.
fn place(mode: &str, size: usize, at: &str, begin: i64) -> Option<String> {
    // GLSL leaves the remainder of negative numbers open: whole periods make the dividend positive.
    let turn = |period: usize| {
        let lift = (begin.max(0) as usize).div_ceil(period) * period;
        format!("(({at} + {lift}) % {period})")
    };
    match mode {
        "constant" => Some(at.to_owned()),
        "edge" => Some(format!("clamp({at}, 0, {})", size as i64 - 1)),
        "wrap" => Some(turn(size)),
        "reflect" if size == 1 => Some(format!("({at} * 0)")),
        "reflect" => {
            let there = turn(2 * (size - 1));
            Some(format!("min({there}, {} - {there})", 2 * (size - 1)))
        }
        _ => None,
    }
}

/// The words of the padding element: operand 1, else the parameter.
fn blank(step: &Step, shader: &mut Shader, x: &Operand) -> Result<[String; 2], RuntimeError> {
    if step.has(1) {
        shader.words_in(1)?;
        let high = if x.dtype.size_bytes() == 8 { "x1_w(1u)" } else { "0u" };
        return Ok(["x1_w(0u)".to_owned(), high.to_owned()]);
    }
    let value = step.kernel.float("value").unwrap_or(0.0);
    let words = encode(value, value as i64, x.dtype)
        .ok_or_else(|| step.error("this element type is not padded with a value here"))?;
    Ok(words.map(|w| format!("{w}u")))
}

/// The words of one element.
fn encode(float: f64, int: i64, dtype: ElementType) -> Option<[u32; 2]> {
    let bits = match dtype {
        ElementType::F32 => u64::from((float as f32).to_bits()),
        ElementType::F64 => float.to_bits(),
        ElementType::F16 | ElementType::Bf16 if float == 0.0 => 0,
        ElementType::F16 | ElementType::Bf16 => return None,
        ElementType::Bool => u64::from(int != 0),
        _ => int as u64,
    };
    Some([bits as u32, (bits >> 32) as u32])
}

/// Generates `gather`; an index outside the axis is reported through the flag.
pub(crate) fn gather(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let (x, indices, y) = (step.input(0)?, step.input(1)?, step.output(0)?);
    let axis = step.axis(x.shape.len())?;
    let size = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    if y.count() != outer * indices.count() * inner {
        return Err(step.error("the result of a gather has the wrong size"));
    }
    let mut shader = Shader::new(step);
    shader.words_in(0)?;
    shader.words_in(1)?;
    shader.flag();
    let (words, fits) = match indices.dtype {
        ElementType::I32 => ("x1_w(j)", "true"),
        ElementType::I64 => ("x1_w(2u * j)", "x1_w(2u * j + 1u) == bitcast<u32>(v >> 31u)"),
        _ => return Err(step.error("indices of this type are not read here")),
    };
    shader.line(&format!(
        "fn source(i: u32) -> u32 {{\n    let j = (i / {inner}u) % {m}u;\n    let v = bitcast<i32>({words});\n    \
         let at = v + select(0, {size}, v < 0);\n    \
         if (!({fits}) || at < 0 || at >= {size}) {{ refuse(); return 0u; }}\n    \
         return ((i / {block}u) * {size}u + u32(at)) * {inner}u + i % {inner}u;\n}}",
        m = indices.count(),
        block = indices.count() * inner,
    ));
    Ok(vec![take(shader, 0, None)?])
}

/// Generates `dims`: the sizes are known when the shapes are bound.
pub(crate) fn dims(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let y = step.output(0)?;
    let values = step.list("values", y.count(), 0)?;
    if values.len() > MAX_DIMS {
        return Err(step.error("a tensor of sizes has more than 4096 elements"));
    }
    let mut shader = Shader::new(step);
    shader.output(0)?;
    let mut body = "    if (i > 0u) { return; }\n".to_owned();
    for (k, value) in values.iter().enumerate() {
        if y.dtype.size_bytes() == 8 {
            let _ = writeln!(body, "    put0_w({}u, {});", 2 * k, word(*value));
            let _ = writeln!(body, "    put0_w({}u, {});", 2 * k + 1, word(value >> 32));
        } else {
            let _ = writeln!(body, "    put0_w({k}u, {});", word(*value));
        }
    }
    Ok(vec![shader.each(1, &body)?])
}

/// Generates `fill`.
pub(crate) fn fill(step: &Step) -> Result<Vec<Dispatch>, RuntimeError> {
    let y = step.output(0)?;
    let float = step.kernel.float("value").unwrap_or(0.0);
    let (float, int) = match step.kernel.int("int") {
        Some(int) => (int as f64, int),
        None => (float, float as i64),
    };
    let words = encode(float, int, y.dtype)
        .ok_or_else(|| step.error("this element type is not filled on this device"))?;
    let bytes = y.dtype.size_bytes();
    let (low, high) = match bytes {
        1 => ((words[0] & 0xff) * 0x0101_0101, 0),
        2 => ((words[0] & 0xffff) * 0x0001_0001, 0),
        _ => (words[0], words[1]),
    };
    let mut shader = Shader::new(step);
    shader.output(0)?;
    let body = match bytes {
        8 => format!("    put0_w(i, select({low}u, {high}u, (i & 1u) == 1u));"),
        _ => format!("    put0_w(i, {low}u);"),
    };
    Ok(vec![shader.each((y.count() * bytes).div_ceil(4), &body)?])
}
