//! Assembling a shader: bindings, accessors, tile programs, and the library functions that the text calls.

use crate::index::{broadcast, strided};
use crate::ops;
use crate::step::{Binding, Dispatch, Slot, Step};
use partita_plan::tile::{Lane, TileInstr, TileOp};
use partita_plan::{ElementType, TileProgram};
use partita_runtime::RuntimeError;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::OnceLock;

/// Invocations of a workgroup of the kernels that work element by element.
pub(crate) const GROUP: usize = 64;
/// Most elements a kernel counts to: indices are u32, with room for the last workgroup to run over.
const MAX_ELEMENTS: usize = u32::MAX as usize - 65_536;

/// A shader under construction for one step.
pub(crate) struct Shader<'a> {
    pub step: &'a Step<'a>,
    text: String,
    bindings: Vec<Binding>,
}

impl<'a> Shader<'a> {
    /// A shader without bindings.
    pub(crate) fn new(step: &'a Step<'a>) -> Self {
        Self { step, text: String::new(), bindings: Vec::new() }
    }

    fn bind(&mut self, slot: Slot, name: &str, read_only: bool, element: &str) {
        if self.bindings.iter().any(|b| b.slot == slot) {
            return;
        }
        let access = if read_only { "read" } else { "read_write" };
        let at = self.bindings.len();
        let _ =
            writeln!(self.text, "@group(0) @binding({at}) var<storage, {access}> {name}: array<{element}>;");
        self.bindings.push(Binding { slot, read_only });
    }

    /// Declares operand `k` as words `x<k>_w(i)`.
    pub(crate) fn words_in(&mut self, k: usize) -> Result<(), RuntimeError> {
        let operand = self.step.input(k)?;
        let (base, read_only) = (operand.base_words, operand.read_only);
        let known = self.bindings.iter().any(|b| b.slot == Slot::Input(k));
        self.bind(Slot::Input(k), &format!("x{k}"), read_only, "u32");
        if !known {
            self.line(&format!("fn x{k}_w(i: u32) -> u32 {{ return x{k}[i + {base}u]; }}"));
        }
        Ok(())
    }

    /// Declares operand `k` as floats `x<k>_f(i)`; its type is f32.
    pub(crate) fn floats_in(&mut self, k: usize) -> Result<(), RuntimeError> {
        if self.step.input(k)?.dtype != ElementType::F32 {
            return Err(self.step.error(format!("operand {k} has a type this kernel does not take")));
        }
        self.words_in(k)?;
        self.line(&format!("fn x{k}_f(i: u32) -> f32 {{ return bitcast<f32>(x{k}_w(i)); }}"));
        Ok(())
    }

    /// Declares result `k`: `put<k>_w(i, word)` stores a word, `put<k>_f(i, v)` a float.
    pub(crate) fn output(&mut self, k: usize) -> Result<(), RuntimeError> {
        let base = self.step.output(k)?.base_words;
        self.bind(Slot::Output(k), &format!("y{k}"), false, "u32");
        self.line(&format!("fn put{k}_w(i: u32, v: u32) {{ y{k}[i + {base}u] = v; }}"));
        self.line(&format!("fn put{k}_f(i: u32, v: f32) {{ put{k}_w(i, bitcast<u32>(v)); }}"));
        Ok(())
    }

    /// Declares the flag word and `refuse()`, which reports this step.
    pub(crate) fn flag(&mut self) {
        self.bind(Slot::Flag, "flag", false, "atomic<u32>");
        let number = self.step.number;
        self.line(&format!("fn refuse() {{ atomicMax(&flag[0], {number}u); }}"));
    }

    /// Adds a line of text at module level.
    pub(crate) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A loader of operand `k` into a lane, as `x<k>_l(i)`.
    fn lane_in(&mut self, k: usize) -> Result<(), RuntimeError> {
        self.words_in(k)?;
        let dtype = self.step.input(k)?.dtype;
        let (kind, body) = match dtype {
            ElementType::F32 => ("f32", format!("return bitcast<f32>(x{k}_w(i));")),
            ElementType::I64 => {
                ("vec2<u32>", format!("return vec2<u32>(x{k}_w(2u * i), x{k}_w(2u * i + 1u));"))
            }
            ElementType::I32 => ("vec2<u32>", format!("return i_extend(x{k}_w(i));")),
            ElementType::U32 => ("vec2<u32>", format!("return vec2<u32>(x{k}_w(i), 0u);")),
            ElementType::I8 | ElementType::U8 | ElementType::Bool => {
                let byte = format!("vec2<u32>((x{k}_w(i >> 2u) >> ((i & 3u) * 8u)) & 255u, 0u)");
                ("vec2<u32>", format!("return {};", wrapped(&byte, dtype)))
            }
            ElementType::I16 | ElementType::U16 => {
                let half = format!("vec2<u32>(x{k}_w(i >> 1u) >> ((i & 1u) * 16u), 0u)");
                ("vec2<u32>", format!("return {};", wrapped(&half, dtype)))
            }
            _ => return Err(self.step.error(format!("tile programs do not read {} here", dtype.name()))),
        };
        self.line(&format!("fn x{k}_l(i: u32) -> {kind} {{ {body} }}"));
        Ok(())
    }

    /// Declares the operands that a program loads; its input `n` is operand `first + n`.
    pub(crate) fn program_inputs(
        &mut self,
        program: &TileProgram,
        operand: impl Fn(u32) -> Option<usize>,
    ) -> Result<(), RuntimeError> {
        let loads = program.instrs.iter().filter(|i| i.op == TileOp::Load as i32);
        let used: BTreeSet<usize> = loads.filter_map(|i| operand(i.index)).collect();
        used.into_iter().try_for_each(|k| self.lane_in(k))
    }

    /// Statements that compute a program's registers `r0..` at linear index `i` of `shape`.
    pub(crate) fn program(
        &self,
        program: &TileProgram,
        shape: &[usize],
        operand: impl Fn(u32) -> Option<usize>,
    ) -> Result<String, RuntimeError> {
        let lanes = program.check()?;
        let mut text = String::new();
        for (at, (instr, lane)) in program.instrs.iter().zip(&lanes).enumerate() {
            let value = if instr.op == TileOp::Load as i32 {
                self.load(instr.index, shape, &operand)?
            } else {
                render(instr, *lane).ok_or_else(|| self.step.error("a tile operation is not known here"))?
            };
            let _ = writeln!(text, "    let r{at} = {value};");
        }
        Ok(text)
    }

    fn load(
        &self,
        index: u32,
        shape: &[usize],
        operand: &impl Fn(u32) -> Option<usize>,
    ) -> Result<String, RuntimeError> {
        let Some(k) = operand(index) else { return Ok("own".to_owned()) };
        let from = &self.step.input(k)?.shape;
        Ok(format!("x{k}_l({})", strided("i", &broadcast(shape, from), 0)))
    }

    /// Declares `finish(own: f32, i: u32) -> f32`: the epilogue of the step at output index `i`.
    pub(crate) fn epilogue(&mut self) -> Result<(), RuntimeError> {
        let step = self.step;
        let own = step.n_own();
        let operand = |n: u32| (n > 0).then(|| own + n as usize - 1);
        let (body, result) = match &step.kernel.program {
            None => (String::new(), "own".to_owned()),
            Some(program) => {
                self.program_inputs(program, operand)?;
                let register = program.outputs.first().copied().unwrap_or(0);
                (self.program(program, &step.output(0)?.shape, operand)?, format!("r{register}"))
            }
        };
        self.line(&format!("fn finish(own: f32, i: u32) -> f32 {{\n{body}    return {result};\n}}"));
        Ok(())
    }

    /// Finishes a shader that runs `body` once for every `i` below `count`.
    pub(crate) fn each(mut self, count: usize, body: &str) -> Result<Dispatch, RuntimeError> {
        let groups = self.spread(count.div_ceil(GROUP))?;
        self.line(&format!("@compute @workgroup_size({GROUP})"));
        self.line(MAIN);
        self.line(&format!(
            "    let i = (group.y * {}u + group.x) * {GROUP}u + lane;\n    if (i >= {count}u) {{ return; }}\n{body}\n}}",
            groups[0]
        ));
        Ok(self.done(groups))
    }

    /// Finishes a shader that runs `body` by one workgroup of `lanes` invocations for every `g` below `count`.
    pub(crate) fn each_group(
        mut self,
        count: usize,
        lanes: usize,
        body: &str,
    ) -> Result<Dispatch, RuntimeError> {
        let groups = self.spread(count)?;
        self.line(&format!("@compute @workgroup_size({lanes})"));
        self.line(MAIN);
        self.line(&format!(
            "    let g = group.y * {}u + group.x;\n    if (g >= {count}u) {{ return; }}\n{body}\n}}",
            groups[0]
        ));
        Ok(self.done(groups))
    }

    /// Workgroups over two axes, since one axis holds 65535 at least and often at most.
    fn spread(&self, groups: usize) -> Result<[u32; 3], RuntimeError> {
        let max = self.step.max_groups.max(1) as usize;
        let rows = groups.div_ceil(max).max(1);
        let columns = groups.div_ceil(rows);
        if rows > max || groups.saturating_mul(GROUP) > MAX_ELEMENTS {
            return Err(self.step.error("the tensor has more elements than the device can index"));
        }
        Ok([columns as u32, rows as u32, 1])
    }

    fn done(self, groups: [u32; 3]) -> Dispatch {
        Dispatch { source: with_library(&self.text), groups, bindings: self.bindings }
    }
}

const MAIN: &str =
    "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {";

/// An instruction other than `Load` as an expression.
fn render(instr: &TileInstr, lane: Lane) -> Option<String> {
    let op = TileOp::try_from(instr.op).ok()?;
    let arg = |k: usize| instr.args.get(k).map(|r| format!("r{r}")).unwrap_or_default();
    let dtype = || i32::try_from(instr.index).ok().and_then(|i| ElementType::try_from(i).ok());
    match op {
        TileOp::Const if lane == Lane::Float => Some(float(instr.float as f32)),
        TileOp::Const => Some(pair(instr.int)),
        TileOp::Wrap => Some(wrapped(&arg(0), dtype()?)),
        TileOp::RoundTo => match dtype()? {
            ElementType::F16 => Some(format!("round_f16({})", arg(0))),
            ElementType::Bf16 => Some(format!("round_bf16({})", arg(0))),
            _ => Some(arg(0)),
        },
        _ => {
            let template = ops::template(op, Lane::try_from(instr.lane).ok()?)?;
            Some(template.replace("$0", &arg(0)).replace("$1", &arg(1)).replace("$2", &arg(2)))
        }
    }
}

/// A float literal; what WGSL constants may not be comes out of a function.
pub(crate) fn float(v: f32) -> String {
    if v.is_nan() {
        "nan_f()".to_owned()
    } else if v.is_infinite() {
        (if v > 0.0 { "inf_f()" } else { "(-inf_f())" }).to_owned()
    } else if v != 0.0 && !v.is_normal() {
        format!("bitcast<f32>({}u)", v.to_bits())
    } else {
        format!("({v:?}f)")
    }
}

/// A 64-bit integer literal as (low, high).
fn pair(v: i64) -> String {
    format!("vec2<u32>({}u, {}u)", v as u32, (v >> 32) as u32)
}

/// An integer register narrowed to an integer type.
fn wrapped(value: &str, dtype: ElementType) -> String {
    match dtype {
        ElementType::I8 => format!("i_wrap_signed({value}, 8u)"),
        ElementType::I16 => format!("i_wrap_signed({value}, 16u)"),
        ElementType::I32 => format!("i_extend(({value}).x)"),
        ElementType::U8 => format!("i_wrap_unsigned({value}, 8u)"),
        ElementType::U16 => format!("i_wrap_unsigned({value}, 16u)"),
        ElementType::U32 => format!("vec2<u32>(({value}).x, 0u)"),
        ElementType::Bool => format!("i_bool(i_true({value}))"),
        _ => value.to_owned(),
    }
}

/// Name and text of every library function.
fn library() -> &'static [(String, &'static str)] {
    static LIBRARY: OnceLock<Vec<(String, &'static str)>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let files = [include_str!("wgsl/float.wgsl"), include_str!("wgsl/int.wgsl")];
        files.iter().flat_map(|file| functions(file)).collect()
    })
}

/// A function starts with `fn` and ends with a brace, both in the first column.
fn functions(file: &'static str) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let mut rest = file;
    while let Some(start) = rest.find("\nfn ") {
        let text = &rest[start + 1..];
        let end = text.find("\n}\n").map_or(text.len(), |e| e + 3);
        let name = text[3..].split('(').next().unwrap_or_default();
        found.push((name.to_owned(), &text[..end]));
        rest = &text[end - 1..];
    }
    found
}

/// The text with every library function it calls, directly or not, in front.
fn with_library(text: &str) -> String {
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    let mut open = vec![text];
    while let Some(text) = open.pop() {
        for (k, (name, body)) in library().iter().enumerate() {
            if !wanted.contains(&k) && calls(text, name) {
                wanted.insert(k);
                open.push(body);
            }
        }
    }
    let used: String = wanted.iter().filter_map(|k| library().get(*k)).map(|(_, body)| *body).collect();
    used + text
}

/// Whether `text` holds a call of `name`, and not of a longer name that ends alike.
fn calls(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        before && text[at + name.len()..].starts_with('(')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_cut_into_functions() {
        let names: Vec<&str> = library().iter().map(|(n, _)| n.as_str()).collect();
        assert!(names.contains(&"exp_f") && names.contains(&"i_from_float") && names.contains(&"inf_f"));
        assert!(library().iter().all(|(_, body)| body.starts_with("fn ") && body.ends_with("}\n")));
    }

    #[test]
    fn only_called_functions_are_added() {
        let text = with_library("fn main() { let a = tanh_f(1.0); }");
        assert!(text.contains("fn tanh_f(") && text.contains("fn exp_f(") && text.contains("fn pow2("));
        assert!(!text.contains("fn atanh_f(") && !text.contains("fn i_mul("));
    }

    #[test]
    fn literals_are_valid_in_wgsl() {
        assert_eq!(float(1.5), "(1.5f)");
        assert_eq!(float(-1e-7), "(-1e-7f)");
        assert_eq!(float(f32::NEG_INFINITY), "(-inf_f())");
        assert_eq!(pair(-1), "vec2<u32>(4294967295u, 4294967295u)");
    }
}
