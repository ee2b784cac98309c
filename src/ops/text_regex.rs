//! `RegexFullMatch`: patterns are written in RE2's syntax, which is translated to that of the `regex` crate, whose
//! matching takes linear time as RE2's does.
//!
//! The two differ in what `\d`, `\s` and `\w` mean (RE2: ASCII), in brackets inside of classes, in octal numbers, in
//! quoting, and in which escapes are letters (<https://github.com/google/re2/wiki/Syntax>).

use crate::common::{
    PLAIN, attr, attr_error, exactly, input, onnx, sample_of, tensor, type_error, unsupported, work_move,
};
use crate::ml_common::want_dtype;
use crate::text_basic::{sample_texts, strings};
use partita_ir::attr::Attrs;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};
use regex::{Regex, RegexBuilder};
use std::iter::Peekable;
use std::str::Chars;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&REGEX_FULL_MATCH];

/// Longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 16;

/// Most bytes of a compiled pattern.
const MAX_PROGRAM_BYTES: usize = 1 << 24;

static REGEX_FULL_MATCH: OpDef = OpDef {
    name: "regex_full_match",
    doc: "whether the pattern matches the whole of each element",
    onnx: &[onnx("RegexFullMatch", 20)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("pattern", AttrKind::Str)],
    traits: PLAIN,
    infer: infer_match,
    content: None,
    eval: eval_match,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_match,
};

fn compile(attrs: &Attrs) -> Result<Regex, Diag> {
    let pattern = attrs.str("pattern").ok_or_else(|| attr_error("the pattern is missing"))?;
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(unsupported(format!("a pattern of {} bytes is too long", pattern.len())));
    }
    let whole = format!(r"\A(?:{})\z", translate(pattern));
    RegexBuilder::new(&whole).size_limit(MAX_PROGRAM_BYTES).build().map_err(|e| {
        // The first line only: the others draw the translated pattern.
        let reason = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
        unsupported(format!("the pattern {pattern:?} cannot be compiled: {reason}"))
            .hint("patterns follow the syntax of RE2")
    })
}

fn infer_match(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, &[DType::Str])?;
    compile(ctx.attrs)?;
    Ok(vec![Type::new(DType::Bool, x.shape.clone())])
}

fn eval_match(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let regex = compile(ctx.attrs)?;
    let y: Vec<bool> = strings(ctx, 0)?.into_iter().map(|s| regex.is_match(s)).collect();
    let y = Tensor::from_bools(tensor(ctx, 0)?.shape(), &y);
    Ok(vec![y.ok_or_else(|| type_error("a result has the wrong number of elements"))?])
}

/// RE2's classes of one letter: inside of brackets what is listed, outside of them a class of its own that does not
/// change when letters of either case match.
fn perl_class(letter: char) -> Option<(&'static str, bool)> {
    Some(match letter {
        'd' => ("0-9", false),
        'D' => ("0-9", true),
        's' => (r"\t\n\x0C\r ", false),
        'S' => (r"\t\n\x0C\r ", true),
        'w' => ("0-9A-Za-z_", false),
        'W' => ("0-9A-Za-z_", true),
        _ => return None,
    })
}

/// The pattern in the syntax of the `regex` crate. What is not understood is left as it is.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, false),
            '[' => class(&mut chars, &mut out),
            '{' if !is_repetition(&chars) => out.push_str(r"\{"),
            other => out.push(other),
        }
    }
    out
}

/// What follows a brace: `n}`, `n,}` or `n,m}`; anything else is the brace itself.
fn is_repetition(chars: &Peekable<Chars>) -> bool {
    let inner: String = chars.clone().take_while(|c| *c != '}').collect();
    let closed = chars.clone().any(|c| c == '}');
    let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (least, most) = inner.split_once(',').unwrap_or((&inner, ""));
    closed && is_number(least) && (most.is_empty() || is_number(most))
}

/// An escape; the backslash is taken already.
fn escape(chars: &mut Peekable<Chars>, out: &mut String, in_class: bool) {
    let Some(c) = chars.next() else { return out.push('\\') };
    if let Some((members, negated)) = perl_class(c) {
        let caret = if negated { "^" } else { "" };
        let class = format!("[{caret}{members}]");
        return out.push_str(&if in_class { class } else { format!("(?-i:{class})") });
    }
    match c {
        'Q' => quoted(chars, out),
        'b' if !in_class => out.push_str(r"(?-u:\b)"),
        '<' | '>' => out.push(c),
        '0'..='7' => octal(c, chars, out),
        'p' | 'P' => property(c, chars, out),
        'x' => {
            out.push_str(r"\x");
            braced(chars, out);
        }
        other => out.extend(['\\', other]),
    }
}

/// Everything up to `\E` stands for itself.
fn quoted(chars: &mut Peekable<Chars>, out: &mut String) {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            break;
        }
        text.push(c);
    }
    out.push_str(&regex::escape(&text));
}

/// An octal number of up to three digits; one digit other than 0 would be a reference, which RE2 does not have.
fn octal(first: char, chars: &mut Peekable<Chars>, out: &mut String) {
    let mut digits = String::from(first);
    while digits.len() < 3 && chars.peek().is_some_and(|c| ('0'..='7').contains(c)) {
        digits.extend(chars.next());
    }
    if digits.len() == 1 && first != '0' {
        return out.extend(['\\', first]);
    }
    let value = u32::from_str_radix(&digits, 8).unwrap_or(0);
    out.push_str(&format!(r"\x{{{value:x}}}"));
}

/// A Unicode property; RE2 also negates it inside of the braces.
fn property(letter: char, chars: &mut Peekable<Chars>, out: &mut String) {
    let mut rest = chars.clone();
    if rest.next() == Some('{') && rest.next() == Some('^') && rest.clone().any(|c| c == '}') {
        *chars = rest;
        out.push_str(if letter == 'p' { r"\P{" } else { r"\p{" });
        out.extend(chars.by_ref().take_while(|c| *c != '}'));
        out.push('}');
    } else {
        out.extend(['\\', letter]);
        braced(chars, out);
    }
}

/// What follows in braces, if anything, belongs to an escape.
fn braced(chars: &mut Peekable<Chars>, out: &mut String) {
    if chars.peek() == Some(&'{') && chars.clone().any(|c| c == '}') {
        out.extend(chars.by_ref().take_while(|c| *c != '}'));
        out.push('}');
    }
}

/// A class; its opening bracket is taken already. RE2 has no classes in classes and no operators between them.
fn class(chars: &mut Peekable<Chars>, out: &mut String) {
    out.push('[');
    if chars.peek() == Some(&'^') {
        out.extend(chars.next());
    }
    if chars.peek() == Some(&']') {
        chars.next();
        out.push_str(r"\]");
    }
    while let Some(c) = chars.next() {
        match c {
            ']' => return out.push(']'),
            '\\' => escape(chars, out, true),
            '[' if chars.peek() == Some(&':') => posix(chars, out),
            '[' | '&' | '~' => out.extend(['\\', c]),
            '-' if chars.peek() == Some(&'-') => out.push_str(r"\-"),
            other => out.push(other),
        }
    }
}

/// A named class as `[:alpha:]`; its opening bracket is taken already.
fn posix(chars: &mut Peekable<Chars>, out: &mut String) {
    let name: String = chars.clone().take_while(|c| *c != ']').collect();
    if name.len() > 1 && name.ends_with(':') {
        out.push('[');
        out.extend(chars.by_ref().take(name.chars().count() + 1));
    } else {
        out.push_str(r"\[");
    }
}

const PATTERNS: [&str; 5] = [r"\w+", "[a-z ]*", "(?i)größe", "a{0,2} b|.*,.*", ""];

fn sample_match(rng: &mut Rng) -> Sample {
    let rank = rng.below(4);
    let shape = crate::common::sample_shape(rng, rank);
    let attrs = Attrs::new().with("pattern", *rng.pick(&PATTERNS));
    Sample { attrs, ..sample_of(vec![sample_texts(rng, &shape)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(&Attrs::new().with("pattern", pattern)).unwrap().is_match(text)
    }

    #[test]
    fn whole_elements_match() {
        assert!(matches(r"www\.[\w.-]+\.\bcom\b", "www.google.com"));
        assert!(!matches("a|ab", "abc") && matches("a|ab", "ab"));
        assert!(matches(r"(\W|^)[\w.\-]{0,25}@(yahoo|gmail)\.com(\W|$)", "account@gmail.com"));
        assert!(matches("", "") && !matches("", "a"));
    }

    #[test]
    fn the_syntax_is_that_of_re2() {
        assert!(!matches(r"\d", "٣") && matches(r"[\d]", "3") && !matches(r"\w", "ß") && matches(r"\W", "ß"));
        assert!(matches("[[]", "[") && matches("[a&&b]+", "a&b") && matches("[]a]+", "]a"));
        assert!(matches("[[:alpha:]]+", "ab") && !matches("[[:alpha:]]+", "ä"));
        assert!(matches("x{,2}", "x{,2}") && matches("x{1,2}", "xx") && matches("{", "{"));
        assert!(
            matches(r"\101\x41\x{41}", "AAA") && matches(r"\Qa.b\E.", "a.bc") && matches(r"\<a\>", "<a>")
        );
        assert!(matches(r"\p{^Greek}", "a") && matches(r"\pL\p{L}\x{e4}", "äää") && !matches(".", "\n"));
        assert!(matches("(?i)STRASSE", "strasse") && matches("ä.", "äö"));
    }

    #[test]
    fn bad_patterns_are_refused() {
        for pattern in ["(", "a**b(", r"\1", "(?=a)", "x{100000}{100000}", r"\", "["] {
            let error = compile(&Attrs::new().with("pattern", pattern)).unwrap_err();
            assert_eq!(error.code, "U001", "{pattern}");
        }
    }
}
