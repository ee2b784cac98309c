//! Text, element by element: `StringConcat`, `StringNormalizer` and `StringSplit`.

use crate::common::{
    TEXT, attr, attr_error, broadcast, exactly, input, onnx, sample_of, tensor, type_error, unsupported,
    work_move,
};
use crate::elements::broadcast_walk;
use crate::eval::result;
use crate::ml_common::want_dtype;
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Dim, Tensor};
use std::collections::BTreeSet;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&STRING_CONCAT, &STRING_NORMALIZER, &STRING_SPLIT];

/// Longest text that is made, in bytes: texts that grow in a loop must end somewhere.
const MAX_TEXT_BYTES: usize = 1 << 24;

/// Most bytes of text in one result.
const MAX_RESULT_BYTES: usize = 1 << 28;

/// Most parts in one result of a split.
const MAX_PARTS: usize = 1 << 26;

static STRING_CONCAT: OpDef = OpDef {
    name: "string_concat",
    doc: "x with y appended, element by element, with broadcasting",
    onnx: &[onnx("StringConcat", 20)],
    inputs: exactly(2),
    outputs: exactly(1),
    attrs: &[],
    traits: TEXT,
    infer: infer_concat,
    content: None,
    eval: eval_concat,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_concat,
};

static STRING_NORMALIZER: OpDef = OpDef {
    name: "string_normalizer",
    doc: "elements without those that are stop words, in lower or upper case",
    onnx: &[onnx("StringNormalizer", 10)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("case_change_action", AttrKind::Str),
        attr("is_case_sensitive", AttrKind::Int),
        attr("locale", AttrKind::Str),
        attr("stopwords", AttrKind::Strs),
    ],
    traits: TEXT,
    infer: infer_normalizer,
    content: None,
    eval: eval_normalizer,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_normalizer,
};

static STRING_SPLIT: OpDef = OpDef {
    name: "string_split",
    doc: "the parts of each element between delimiters along a new axis, filled with empty text, and their number",
    onnx: &[onnx("StringSplit", 20)],
    inputs: exactly(1),
    outputs: crate::common::between(1, 2),
    attrs: &[attr("delimiter", AttrKind::Str), attr("maxsplit", AttrKind::Int)],
    traits: TEXT,
    infer: infer_split,
    content: None,
    eval: eval_split,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_split,
};

/// The type of operand `n`, which must be text.
fn text<'a>(ctx: &InferCtx<'a>, n: usize) -> Result<&'a Type, Diag> {
    let x = input(ctx, n)?;
    want_dtype(x.dtype, &[DType::Str])?;
    Ok(x)
}

/// The strings of operand `n`.
///
/// # Errors
/// `V020` when it is missing or no text.
pub(crate) fn strings<'a>(ctx: &EvalCtx<'a>, n: usize) -> Result<Vec<&'a str>, Diag> {
    let x = tensor(ctx, n)?;
    want_dtype(x.dtype(), &[DType::Str])?;
    Ok(x.strings())
}

/// A tensor of text.
///
/// # Errors
/// `V020` when the number of strings does not match the shape.
fn from_strings(shape: &[usize], strings: &[impl AsRef<str>]) -> Result<Tensor, Diag> {
    Tensor::from_strings(shape, strings)
        .ok_or_else(|| type_error("a result has the wrong number of elements"))
}

fn infer_concat(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let shape = broadcast(&[&text(ctx, 0)?.shape, &text(ctx, 1)?.shape])?;
    Ok(vec![Type::new(DType::Str, shape)])
}

fn eval_concat(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (_, shape) = result(ctx, infer_concat)?;
    let (x, y) = (strings(ctx, 0)?, strings(ctx, 1)?);
    let pairs = || {
        let left = broadcast_walk(&shape, tensor(ctx, 0)?.shape());
        let right = broadcast_walk(&shape, tensor(ctx, 1)?.shape());
        Ok::<_, Diag>(left.into_iter().zip(right).map(|(i, j)| (x[i], y[j])))
    };
    check_bytes(pairs()?.map(|(x, y)| x.len() + y.len()))?;
    let joined: Vec<String> = pairs()?.map(|(x, y)| [x, y].concat()).collect();
    Ok(vec![from_strings(&shape, &joined)?])
}

/// Checks the sizes of texts that are about to be made.
fn check_bytes(sizes: impl Iterator<Item = usize>) -> Result<(), Diag> {
    let mut sum = 0usize;
    for size in sizes {
        sum = sum.saturating_add(size);
        if size > MAX_TEXT_BYTES || sum > MAX_RESULT_BYTES {
            return Err(Diag::new("X022", format!("a text of {size} bytes, {sum} with others, is too long"))
                .hint(format!("a text has at most {MAX_TEXT_BYTES} bytes, a tensor {MAX_RESULT_BYTES}")));
        }
    }
    Ok(())
}

/// What happens to the case of letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Keep,
    Lower,
    Upper,
}

/// A change of case in a language.
#[derive(Clone, Copy)]
struct Casing {
    case: Case,
    /// Turkish and Azerbaijani: i and ı are different letters.
    dotted: bool,
}

impl Casing {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let case = match attrs.str("case_change_action").unwrap_or("NONE") {
            "NONE" => Case::Keep,
            "LOWER" => Case::Lower,
            "UPPER" => Case::Upper,
            other => return Err(attr_error(format!("case_change_action {other} is unknown"))),
        };
        let language = attrs.str("locale").unwrap_or("en_US").split(['_', '-', '.']).next();
        Ok(Self { case, dotted: matches!(language, Some("tr" | "az")) })
    }

    fn apply(self, s: &str) -> String {
        match (self.case, self.dotted) {
            (Case::Keep, _) => s.to_owned(),
            (Case::Lower, false) => s.to_lowercase(),
            (Case::Upper, false) => s.to_uppercase(),
            (Case::Lower, true) => s.replace('I', "ı").replace('İ', "i").to_lowercase(),
            (Case::Upper, true) => s.replace('i', "İ").replace('ı', "I").to_uppercase(),
        }
    }

    /// The form in which texts are compared when case does not count.
    fn folded(self, s: &str) -> String {
        Self { case: if self.case == Case::Keep { Case::Lower } else { self.case }, ..self }.apply(s)
    }
}

fn infer_normalizer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = text(ctx, 0)?;
    Casing::read(ctx.attrs)?;
    let fits = match x.shape.as_slice() {
        [_] => true,
        [one, _] => one.as_known().is_none_or(|d| d == 1),
        _ => false,
    };
    if !fits {
        return Err(type_error(format!("the operand must be [n] or [1, n], it is {x}")));
    }
    let last = x.rank() - 1;
    let keeps_all = ctx.attrs.strs("stopwords").unwrap_or_default().is_empty();
    let size = match x.shape[last].as_known() {
        Some(n) if keeps_all => Dim::known(n.max(1)),
        _ => Dim::unknown(0, last),
    };
    Ok(vec![Type::new(DType::Str, [vec![Dim::known(1); last], vec![size]].concat())])
}

fn eval_normalizer(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    if x.rank() == 0 || x.rank() > 2 || (x.rank() == 2 && x.shape()[0] != 1) {
        return Err(type_error(format!("the operand must be [n] or [1, n], it is {:?}", x.shape())));
    }
    let casing = Casing::read(ctx.attrs)?;
    let sensitive = ctx.attrs.flag("is_case_sensitive");
    let compared = |s: &str| if sensitive { s.to_owned() } else { casing.folded(s) };
    let stopwords = ctx.attrs.strs("stopwords").unwrap_or_default();
    let stopwords: BTreeSet<String> = stopwords.iter().map(|s| compared(s)).collect();
    let kept = strings(ctx, 0)?.into_iter().filter(|s| !stopwords.contains(&compared(s)));
    let mut y: Vec<String> = kept.map(|s| casing.apply(s)).collect();
    if y.is_empty() {
        y.push(String::new());
    }
    let shape = if x.rank() == 2 { vec![1, y.len()] } else { vec![y.len()] };
    Ok(vec![from_strings(&shape, &y)?])
}

fn infer_split(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = text(ctx, 0)?;
    let parts = [x.shape.clone(), vec![Dim::unknown(0, x.rank())]].concat();
    let types = vec![Type::new(DType::Str, parts), Type::new(DType::I64, x.shape.clone())];
    Ok(types.into_iter().take(ctx.n_outputs.max(1)).collect())
}

/// Separators between words.
fn is_space(c: char) -> bool {
    // The four separators of records are spaces to the reference, too.
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The words of `s`, of which the last takes the rest after `most` cuts.
fn words(s: &str, most: usize) -> Vec<&str> {
    let mut rest = s.trim_start_matches(is_space);
    let mut out = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| out.len() < most);
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.push(word);
        rest = tail.trim_start_matches(is_space);
    }
    out
}

fn eval_split(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let x = tensor(ctx, 0)?;
    let most = usize::try_from(ctx.attrs.int_or("maxsplit", -1)).unwrap_or(usize::MAX);
    let delimiter = ctx.attrs.str("delimiter").unwrap_or_default();
    let split = |s: &'_ str| -> Vec<String> {
        let owned = |parts: Vec<&str>| parts.into_iter().map(str::to_owned).collect();
        match delimiter {
            "" => owned(words(s, most)),
            d => owned(s.splitn(most.saturating_add(1), d).collect()),
        }
    };
    let parts: Vec<Vec<String>> = strings(ctx, 0)?.into_iter().map(split).collect();
    let counts: Vec<i64> = parts.iter().map(|p| p.len() as i64).collect();
    let width = parts.iter().map(Vec::len).max().unwrap_or(0);
    if parts.len().saturating_mul(width) > MAX_PARTS {
        return Err(unsupported(format!("{} rows of {width} parts are too many", parts.len())));
    }
    let filled: Vec<&str> =
        parts.iter().flat_map(|p| (0..width).map(move |i| p.get(i).map_or("", String::as_str))).collect();
    let mut out = vec![from_strings(&[x.shape(), &[width]].concat(), &filled)?];
    if ctx.n_outputs > 1 {
        out.push(crate::common::from_i64s(DType::I64, x.shape(), &counts)?);
    }
    Ok(out)
}

const TEXTS: [&str; 6] = ["", "a b", " Cat  dog ", "eins,zwei,,drei", "Größe", "a b"];

/// A tensor of texts of the given shape.
pub(crate) fn sample_texts(rng: &mut Rng, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let texts: Vec<&str> = (0..n).map(|_| *rng.pick(&TEXTS)).collect();
    Tensor::from_strings(shape, &texts).unwrap_or_else(|| Tensor::scalar(0i64))
}

fn sample_concat(rng: &mut Rng) -> Sample {
    let shapes = crate::samples::broadcast_shapes(rng, 2);
    sample_of(shapes.iter().map(|s| sample_texts(rng, s)).collect())
}

fn sample_normalizer(rng: &mut Rng) -> Sample {
    let n = rng.below(5);
    let shape = if rng.below(2) == 0 { vec![n] } else { vec![1, n] };
    let mut attrs = Attrs::new()
        .with("case_change_action", *rng.pick(&["NONE", "LOWER", "UPPER"]))
        .with("is_case_sensitive", rng.int(0, 1));
    if rng.below(2) == 0 {
        attrs.set("stopwords", Attr::Strs(vec!["A B".to_owned(), "größe".to_owned(), String::new()]));
    }
    Sample { attrs, ..sample_of(vec![sample_texts(rng, &shape)]) }
}

fn sample_split(rng: &mut Rng) -> Sample {
    let rank = rng.below(3);
    let shape = crate::common::sample_shape(rng, rank);
    let mut attrs = Attrs::new();
    if rng.below(2) == 0 {
        attrs.set("delimiter", *rng.pick(&["", ",", " ", "a b"]));
    }
    if rng.below(2) == 0 {
        attrs.set("maxsplit", rng.int(0, 3));
    }
    Sample { attrs, n_outputs: 1 + rng.below(2), ..sample_of(vec![sample_texts(rng, &shape)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &OpDef, attrs: &Attrs, shape: &[usize], x: &[&str]) -> Result<Tensor, Diag> {
        let x = Tensor::from_strings(shape, x).unwrap();
        (op.eval)(&EvalCtx { attrs, inputs: &[Some(&x)], n_outputs: 1 }).map(|mut y| y.remove(0))
    }

    #[test]
    fn words_and_parts() {
        assert_eq!(words("  a b  c ", usize::MAX), ["a", "b", "c"]);
        assert_eq!(words("  a b  c ", 1), ["a", "b  c "]);
        assert_eq!(words("  a b ", 0), ["a b "]);
        assert!(words(" \t", 5).is_empty());
        let attrs = Attrs::new().with("delimiter", ",").with("maxsplit", 2i64);
        let y = run(&STRING_SPLIT, &attrs, &[2], &["a,,b,c", ""]).unwrap();
        assert_eq!(y.shape(), [2, 3]);
        assert_eq!(y.strings(), ["a", "", "b,c", "", "", ""]);
    }

    #[test]
    fn stop_words_go_before_the_case_changes() {
        let stop = Attr::Strs(vec!["Monday".to_owned()]);
        let attrs = Attrs::new().with("stopwords", stop).with("case_change_action", "UPPER");
        let days = ["monday", "tuesday", "Monday"];
        let y = run(&STRING_NORMALIZER, &attrs, &[1, 3], &days).unwrap();
        assert_eq!((y.shape(), y.strings()), (&[1, 1][..], vec!["TUESDAY"]));
        let y = run(&STRING_NORMALIZER, &attrs.with("is_case_sensitive", 1i64), &[3], &days).unwrap();
        assert_eq!(y.strings(), ["MONDAY", "TUESDAY"]);
        let attrs = Attrs::new().with("case_change_action", "UPPER").with("locale", "tr_TR.UTF-8");
        assert_eq!(run(&STRING_NORMALIZER, &attrs, &[1], &["iı"]).unwrap().strings(), ["İI"]);
        assert!(run(&STRING_NORMALIZER, &attrs, &[2, 1], &["a", "b"]).is_err());
    }
}
