//! The page as Markdown.

use super::Defined;
use super::probe::{Facts, Types, facts};
use partita_ir::{DType, OpRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::thread;

/// Element types that go by one word.
const GROUPS: &[(&str, &[DType])] = &[
    ("floats", &[DType::F32, DType::F16, DType::Bf16, DType::F64]),
    (
        "integers",
        &[DType::I8, DType::I16, DType::I32, DType::I64, DType::U8, DType::U16, DType::U32, DType::U64],
    ),
    ("f8", &[DType::F8E4M3fn, DType::F8E4M3fnuz, DType::F8E5M2, DType::F8E5M2fnuz, DType::F8E8M0]),
    ("4 bits", &[DType::I4, DType::U4, DType::F4E2M1]),
    ("2 bits", &[DType::I2, DType::U2]),
];

const HEAD: &str = "\
# Operators

Written from the operator dictionary by `BLESS=1 cargo test --test main operators`; a test holds it against the code.

**Opsets**: forms of the operator that are read, by the opset which brought them. **Types**: element types by operand, as
found by trying; *floats* are f32, f16, bf16 and f64, *integers* those of 8 to 64 bits, *f8* the five kinds of 8-bit floats,
*4 bits* i4, u4 and f4e2m1, *2 bits* i2 and u2. **CPU**, **GPU**: the kernels there are, with the types of the first
operand; simulated devices have those of the CPU. What has no kernel is evaluated by its definition on the CPU, so nothing
is refused for want of one.

";

/// The whole page.
pub(crate) fn page(defined: &[Defined], refused: &BTreeMap<(String, String), String>) -> String {
    let operators: Vec<OpRef> = partita_ops::registry().iter().collect();
    let facts = all_facts(&operators);
    let mut out = HEAD.to_owned();
    out.push_str("| operator | ONNX | opsets | types | attributes | CPU | GPU | remarks |\n|---|---|---|---|---|---|---|---|\n");
    for (op, facts) in operators.iter().zip(&facts) {
        let _ = writeln!(out, "{}", row(*op, facts, defined));
    }
    rewritten(&operators, defined, &mut out);
    out.push_str("\n## Refused\n\nRefused with a letter that names the node, and why.\n\n| operator | opsets | reason |\n|---|---|---|\n");
    for ((domain, name), reason) in refused {
        let forms = defined.iter().find(|d| d.domain == *domain && d.name == *name);
        let gone = forms.map_or(Vec::new(), |d| {
            let read = d.accepted();
            d.opsets.iter().copied().filter(|o| !read.contains(o)).collect()
        });
        let _ = writeln!(out, "| {} | {} | {reason} |", full_name(domain, name), numbers(&gone));
    }
    out
}

/// Facts of all operators, found side by side.
fn all_facts(operators: &[OpRef]) -> Vec<Facts> {
    let n = thread::available_parallelism().map_or(1, usize::from);
    let chunk = operators.len().div_ceil(n * 4).max(1);
    thread::scope(|scope| {
        let chunks: Vec<_> = operators
            .chunks(chunk)
            .map(|ops| scope.spawn(move || ops.iter().map(|op| facts(*op)).collect::<Vec<_>>()))
            .collect();
        chunks.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    })
}

fn row(op: OpRef, facts: &Facts, defined: &[Defined]) -> String {
    let names: Vec<String> = op.onnx.iter().map(|n| full_name(n.domain, n.op_type)).collect();
    let opsets: Vec<String> = op.onnx.iter().map(|n| opsets(n.domain, n.op_type, defined)).collect();
    let attrs: Vec<String> =
        op.attrs.iter().map(|a| format!("{}{}", a.name, if a.required { "!" } else { "" })).collect();
    let cells = [
        format!("`{}`", op.name),
        joined(&names, "<br>"),
        joined(&opsets, "<br>"),
        operand_types(facts),
        joined(&attrs, ", "),
        kernels(facts, "cpu"),
        kernels(facts, "wgpu"),
        remarks(op, facts),
    ];
    format!("| {} |", cells.join(" | "))
}

fn joined(parts: &[String], between: &str) -> String {
    if parts.is_empty() { "–".to_owned() } else { parts.join(between) }
}

fn full_name(domain: &str, name: &str) -> String {
    if domain.is_empty() { name.to_owned() } else { format!("{domain}.{name}") }
}

fn numbers(list: &[i64]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn opsets(domain: &str, name: &str, defined: &[Defined]) -> String {
    let found = defined.iter().find(|d| d.domain == domain && d.name == name);
    found.map_or_else(|| "own".to_owned(), |d| numbers(&d.accepted()))
}

/// `0 1: floats; 2: i32 i64`.
fn operand_types(facts: &Facts) -> String {
    let mut by_types: Vec<(&Types, Vec<usize>)> = Vec::new();
    for (operand, types) in &facts.operands {
        match by_types.iter_mut().find(|(t, _)| *t == types) {
            Some((_, operands)) => operands.push(*operand),
            None => by_types.push((types, vec![*operand])),
        }
    }
    let alone = by_types.len() == 1;
    let parts: Vec<String> = by_types
        .into_iter()
        .map(|(types, operands)| {
            let which: Vec<String> = operands.iter().map(ToString::to_string).collect();
            if alone { grouped(types) } else { format!("{}: {}", which.join(" "), grouped(types)) }
        })
        .collect();
    joined(&parts, "; ")
}

fn grouped(types: &Types) -> String {
    let mut rest = types.clone();
    let mut words: Vec<String> = Vec::new();
    for (word, members) in GROUPS {
        if members.iter().all(|m| rest.contains(m)) {
            rest.retain(|t| !members.contains(t));
            words.push((*word).to_owned());
        }
    }
    words.extend(rest.iter().map(|t| t.name().to_owned()));
    words.join(" ")
}

fn kernels(facts: &Facts, driver: &str) -> String {
    let Some(libraries) = facts.kernels.get(driver).filter(|l| !l.is_empty()) else {
        return "–".to_owned();
    };
    let parts: Vec<String> = libraries
        .iter()
        .map(|(library, types)| match types.is_empty() {
            true => format!("`{library}`"),
            false => format!("`{library}` ({})", grouped(types)),
        })
        .collect();
    parts.join(", ")
}

fn remarks(op: OpRef, facts: &Facts) -> String {
    let mut out: Vec<String> = Vec::new();
    if op.onnx.is_empty() {
        out.push("made by passes".to_owned());
    }
    if op.traits.random {
        out.push("random".to_owned());
    }
    if facts.has_bodies {
        out.push("runs bodies".to_owned());
    }
    out.extend(facts.host.iter().map(|why| format!("on the host when {why}")));
    out.join("; ")
}

/// Operators without a row of their own.
fn rewritten(operators: &[OpRef], defined: &[Defined], out: &mut String) {
    let rows: BTreeSet<(&str, &str)> =
        operators.iter().flat_map(|op| op.0.onnx.iter().map(|n| (n.domain, n.op_type))).collect();
    out.push_str("\n## Written as others\n\nRead as one or more of the operators above, so types and kernels are theirs.\n\n| operator | opsets |\n|---|---|\n");
    for one in defined.iter().filter(|d| !rows.contains(&(d.domain.as_str(), d.name.as_str()))) {
        let accepted = one.accepted();
        if !accepted.is_empty() {
            let _ = writeln!(out, "| {} | {} |", full_name(&one.domain, &one.name), numbers(&accepted));
        }
    }
}
