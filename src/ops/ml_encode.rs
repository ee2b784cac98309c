//! Looking elements up in lists: `CategoryMapper`, `LabelEncoder` and `OneHotEncoder`.

use crate::common::{
    TEXT, attr, attr_error, exactly, from_f64s, input, sample_of, sample_shape, tensor, work_move,
};
use crate::elements::take;
use crate::eval::result;
use crate::ml_common::{ml, want_dtype};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample};
use partita_ir::types::Type;
use partita_ir::{DType, Tensor};
use std::collections::BTreeMap;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CATEGORY_MAPPER, &LABEL_ENCODER, &CATEGORY_ENCODER];

static CATEGORY_MAPPER: OpDef = OpDef {
    name: "category_mapper",
    doc: "text to the integer at the same place of two lists, or the other way round",
    onnx: &[ml("CategoryMapper", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("cats_int64s", AttrKind::Ints),
        attr("cats_strings", AttrKind::Strs),
        attr("default_int64", AttrKind::Int),
        attr("default_string", AttrKind::Str),
    ],
    traits: TEXT,
    infer: infer_mapper,
    content: None,
    eval: eval_mapper,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_mapper,
};

static LABEL_ENCODER: OpDef = OpDef {
    name: "label_encoder",
    doc: "each element looked up in a list of keys; the value at the same place, or a default",
    onnx: &[ml("LabelEncoder", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("classes_strings", AttrKind::Strs),
        attr("default_float", AttrKind::Float),
        attr("default_int64", AttrKind::Int),
        attr("default_string", AttrKind::Str),
        attr("default_tensor", AttrKind::Tensor),
        attr("keys_floats", AttrKind::Floats),
        attr("keys_int64s", AttrKind::Ints),
        attr("keys_strings", AttrKind::Strs),
        attr("keys_tensor", AttrKind::Tensor),
        attr("values_floats", AttrKind::Floats),
        attr("values_int64s", AttrKind::Ints),
        attr("values_strings", AttrKind::Strs),
        attr("values_tensor", AttrKind::Tensor),
    ],
    traits: TEXT,
    infer: infer_label,
    content: None,
    eval: eval_label,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_label,
};

static CATEGORY_ENCODER: OpDef = OpDef {
    name: "category_encoder",
    doc: "each element becomes zeros with a one at the place it has in a list of categories",
    onnx: &[ml("OneHotEncoder", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        attr("cats_int64s", AttrKind::Ints),
        attr("cats_strings", AttrKind::Strs),
        attr("zeros", AttrKind::Int),
    ],
    traits: TEXT,
    infer: infer_one_hot,
    content: None,
    eval: eval_one_hot,
    scalar: None,
    data: None,
    work: work_move,
    sample: sample_one_hot,
};

/// An element in a form that can be looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'a> {
    Int(i64),
    /// Bits of a float: all NaNs are one key, and so are the two zeros.
    Float(u64),
    Text(&'a str),
}

impl Key<'_> {
    fn float(v: f64) -> Self {
        Self::Float(if v.is_nan() { f64::NAN.to_bits() } else { (v + 0.0).to_bits() })
    }
}

/// The elements of a tensor as keys.
pub(crate) fn keys(t: &Tensor) -> Vec<Key<'_>> {
    match t.dtype() {
        DType::Str => t.strings().into_iter().map(Key::Text).collect(),
        d if d.is_float() => t.to_f64s().into_iter().map(Key::float).collect(),
        _ => t.to_i64s().into_iter().map(Key::Int).collect(),
    }
}

/// Places of keys in a list; the last of equal ones counts.
pub(crate) fn places<'a>(keys: impl IntoIterator<Item = Key<'a>>) -> BTreeMap<Key<'a>, usize> {
    keys.into_iter().enumerate().map(|(i, key)| (key, i)).collect()
}

/// A vector of text.
fn text(strings: &[impl AsRef<str>]) -> Result<Tensor, Diag> {
    Tensor::from_strings(&[strings.len()], strings).ok_or_else(|| attr_error("a list of text is too long"))
}

fn ints(values: &[i64]) -> Result<Tensor, Diag> {
    crate::common::from_i64s(DType::I64, &[values.len()], values)
}

/// Keys and as many values, with the value for all other keys at the end.
struct Mapping {
    keys: Tensor,
    values: Tensor,
}

impl Mapping {
    fn new(keys: Tensor, values: &Tensor, default: &Tensor) -> Result<Self, Diag> {
        if keys.n_elements() != values.n_elements() {
            let (k, v) = (keys.n_elements(), values.n_elements());
            return Err(attr_error(format!("there are {k} keys and {v} values")));
        }
        if default.dtype() != values.dtype() || default.n_elements() != 1 {
            let text = format!("the default is {default:?}, the values are {values:?}");
            return Err(attr_error(text).hint("the default must be one element of the values' type"));
        }
        Ok(Self { keys, values: append(values, default)? })
    }

    fn infer(&self, x: &Type) -> Result<Vec<Type>, Diag> {
        want_dtype(x.dtype, &[self.keys.dtype()])?;
        Ok(vec![Type::new(self.values.dtype(), x.shape.clone())])
    }

    fn apply(&self, x: &Tensor) -> Result<Vec<Tensor>, Diag> {
        let places = places(keys(&self.keys));
        let default = self.values.n_elements() - 1;
        let positions: Vec<usize> =
            keys(x).into_iter().map(|key| places.get(&key).copied().unwrap_or(default)).collect();
        let y = take(&self.values, x.shape(), &positions)?;
        Ok(vec![y.with_table(self.values.table().cloned())])
    }
}

/// `a` and `b`, of one element type, as one vector.
fn append(a: &Tensor, b: &Tensor) -> Result<Tensor, Diag> {
    if a.dtype() == DType::Str {
        return text(&[a.strings(), b.strings()].concat());
    }
    crate::elements::from_bytes(
        a.dtype(),
        &[a.n_elements() + b.n_elements()],
        [a.bytes(), b.bytes()].concat(),
    )
}

/// The list called `lead` in whichever of its forms is stated.
fn list(attrs: &Attrs, lead: &str) -> Result<Tensor, Diag> {
    let name = |form: &str| format!("{lead}_{form}");
    if let Some(tensor) = attrs.tensor(&name("tensor")) {
        return Ok(tensor.clone());
    }
    if let Some(Attr::Floats(v)) = attrs.get(&name("floats")) {
        return Tensor::from_slice(&[v.len()], v).ok_or_else(|| attr_error("a list of floats is too long"));
    }
    if let Some(Attr::Ints(v)) = attrs.get(&name("int64s")) {
        return ints(v);
    }
    match attrs.strs(&name("strings")) {
        Some(v) => text(v),
        None => Err(attr_error(format!("{lead}_* is missing")).hint("state one of its forms")),
    }
}

/// The value of keys that are not listed, for values of `dtype`.
fn default(attrs: &Attrs, dtype: DType) -> Result<Tensor, Diag> {
    if let Some(tensor) = attrs.tensor("default_tensor").filter(|t| t.dtype() == dtype) {
        return Ok(tensor.clone());
    }
    match dtype {
        DType::Str => text(&[attrs.str("default_string").unwrap_or("_Unused")]),
        d if d.is_float() => from_f64s(d, &[1], &[f64::from(attrs.float_or("default_float", -0.0))]),
        d => crate::common::from_i64s(d, &[1], &[attrs.int_or("default_int64", -1)]),
    }
}

/// The mapping of a label encoder for operands of `dtype`; the oldest form has one list of classes.
fn label_mapping(attrs: &Attrs, dtype: DType) -> Result<Mapping, Diag> {
    let Some(classes) = attrs.strs("classes_strings") else {
        let values = list(attrs, "values")?;
        return Mapping::new(list(attrs, "keys")?, &values, &default(attrs, values.dtype())?);
    };
    let numbers: Vec<i64> = (0..classes.len() as i64).collect();
    two_ways(attrs, &numbers, classes, dtype)
}

/// Text to integers when `dtype` is text, else integers to text.
fn two_ways(attrs: &Attrs, numbers: &[i64], strings: &[String], dtype: DType) -> Result<Mapping, Diag> {
    want_dtype(dtype, &[DType::Str, DType::I64])?;
    let (numbers, strings) = (ints(numbers)?, text(strings)?);
    if dtype == DType::Str {
        Mapping::new(strings, &numbers, &default(attrs, DType::I64)?)
    } else {
        Mapping::new(numbers, &strings, &default(attrs, DType::Str)?)
    }
}

fn infer_label(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    label_mapping(ctx.attrs, x.dtype)?.infer(x)
}

fn eval_label(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    result(ctx, infer_label)?;
    let x = tensor(ctx, 0)?;
    label_mapping(ctx.attrs, x.dtype())?.apply(x)
}

fn category_mapping(attrs: &Attrs, dtype: DType) -> Result<Mapping, Diag> {
    let numbers = attrs.ints("cats_int64s").unwrap_or_default();
    two_ways(attrs, &numbers, attrs.strs("cats_strings").unwrap_or_default(), dtype)
}

fn infer_mapper(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    category_mapping(ctx.attrs, x.dtype)?.infer(x)
}

fn eval_mapper(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    result(ctx, infer_mapper)?;
    let x = tensor(ctx, 0)?;
    category_mapping(ctx.attrs, x.dtype())?.apply(x)
}

/// The list of categories for operands of `dtype`.
fn categories(attrs: &Attrs, dtype: DType) -> Result<Tensor, Diag> {
    want_dtype(dtype, &[DType::Str, DType::I64, DType::I32, DType::F32, DType::F64])?;
    let categories = match dtype {
        DType::Str => attrs.strs("cats_strings").map(text),
        _ => attrs.ints("cats_int64s").map(|v| ints(&v)),
    };
    categories.unwrap_or_else(|| Err(attr_error(format!("there are no categories for {}", dtype.name()))))
}

fn infer_one_hot(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    let n = categories(ctx.attrs, x.dtype)?.n_elements();
    Ok(vec![Type::new(DType::F32, [x.shape.clone(), vec![n.into()]].concat())])
}

/// Categories of floats are those of the integers they hold; what is no number has none.
fn one_hot_keys(x: &Tensor) -> Vec<Option<Key<'_>>> {
    if !x.dtype().is_float() {
        return keys(x).into_iter().map(Some).collect();
    }
    x.to_f64s().into_iter().map(|v| v.is_finite().then_some(Key::Int(v as i64))).collect()
}

fn eval_one_hot(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_one_hot)?;
    let x = tensor(ctx, 0)?;
    let categories = categories(ctx.attrs, x.dtype())?;
    let (places, width) = (places(keys(&categories)), categories.n_elements());
    let mut y = vec![0.0; shape.iter().product()];
    for (i, key) in one_hot_keys(x).into_iter().enumerate() {
        match key.and_then(|key| places.get(&key)) {
            Some(at) => y[i * width + at] = 1.0,
            None if ctx.attrs.int_or("zeros", 1) != 0 => {}
            None => {
                return Err(Diag::new("X024", format!("element {i} has a category that is not listed"))
                    .hint("check the data that is fed to the model"));
            }
        }
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

const WORDS: [&str; 5] = ["", "cat", "dog", "fish", "größe"];

/// Some words as a tensor.
fn words(rng: &mut Rng, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let words: Vec<&str> = (0..n).map(|_| *rng.pick(&WORDS)).collect();
    Tensor::from_strings(shape, &words).unwrap_or_else(|| Tensor::scalar(0i64))
}

fn strs(list: &[&str]) -> Attr {
    Attr::Strs(list.iter().map(|s| (*s).to_owned()).collect())
}

fn sample_elements(rng: &mut Rng, dtype: DType) -> Tensor {
    let rank = rng.below(4);
    let shape = sample_shape(rng, rank);
    if dtype == DType::Str { words(rng, &shape) } else { rng.tensor(dtype, &shape, -1.0, 4.0) }
}

fn sample_mapper(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::Str, DType::I64]);
    let attrs = Attrs::new()
        .with("cats_int64s", vec![2i64, 0, 1])
        .with("cats_strings", strs(&["cat", "dog", "fish"]))
        .with("default_int64", 9i64)
        .with("default_string", "none");
    Sample { attrs, ..sample_of(vec![sample_elements(rng, dtype)]) }
}

fn sample_label(rng: &mut Rng) -> Sample {
    let mut attrs = Attrs::new();
    let mut dtype = *rng.pick(&[DType::Str, DType::I64, DType::F32, DType::F64, DType::I32, DType::I16]);
    match dtype {
        DType::Str if rng.below(3) == 0 => {
            attrs.set("classes_strings", strs(&["cat", "dog", "fish"]));
            dtype = *rng.pick(&[DType::Str, DType::I64]);
            return Sample { attrs, ..sample_of(vec![sample_elements(rng, dtype)]) };
        }
        DType::Str => attrs.set("keys_strings", strs(&["cat", "dog", "cat"])),
        DType::I64 => attrs.set("keys_int64s", vec![0i64, 3, 1]),
        DType::F32 => attrs.set("keys_floats", vec![0.5f32, f32::NAN, 1.0]),
        d => attrs.set("keys_tensor", rng.tensor(d, &[3], 0.0, 3.0)),
    }
    match rng.below(4) {
        0 => attrs.set("values_strings", strs(&["eins", "zwei", "drei"])),
        1 => attrs.set("values_int64s", vec![1i64, 2, 3]),
        2 => attrs.set("values_floats", vec![1.5f32, 2.5, 3.5]),
        _ => {
            let values = *rng.pick(&[DType::F64, DType::I16, DType::I32]);
            attrs.set("values_tensor", rng.tensor(values, &[3], 0.0, 9.0));
            attrs.set("default_tensor", rng.tensor(values, &[1], 0.0, 9.0));
        }
    }
    Sample { attrs, ..sample_of(vec![sample_elements(rng, dtype)]) }
}

fn sample_one_hot(rng: &mut Rng) -> Sample {
    let dtype = *rng.pick(&[DType::Str, DType::I64, DType::I32, DType::F32, DType::F64]);
    let attrs = match dtype {
        DType::Str => Attrs::new().with("cats_strings", strs(&["dog", "cat"])),
        _ => Attrs::new().with("cats_int64s", vec![0i64, 1, 2, 3]),
    };
    Sample { attrs, ..sample_of(vec![sample_elements(rng, dtype)]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &OpDef, attrs: &Attrs, x: &Tensor) -> Result<Tensor, Diag> {
        let y = (op.eval)(&EvalCtx { attrs, inputs: &[Some(x)], n_outputs: 1 });
        y.map(|mut y| y.remove(0))
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_nan_is_a_key() {
        let attrs = Attrs::new()
            .with("keys_floats", vec![1.0f32, f32::NAN, 1.0, 0.0])
            .with("values_strings", strs(&["a", "b", "c", "d"]));
        let x = Tensor::from_slice(&[4], &[1.0f32, -f32::NAN, -0.0, 5.0]).unwrap();
        assert_eq!(run(&LABEL_ENCODER, &attrs, &x).unwrap().strings(), ["c", "b", "d", "_Unused"]);
    }

    #[test]
    fn the_oldest_form_counts_classes() {
        let attrs = Attrs::new().with("classes_strings", strs(&["a", "b"]));
        let x = Tensor::from_strings(&[3], &["b", "a", "c"]).unwrap();
        assert_eq!(run(&LABEL_ENCODER, &attrs, &x).unwrap().to_i64s(), [1, 0, -1]);
        let x = Tensor::from_slice(&[2], &[1i64, 7]).unwrap();
        assert_eq!(run(&LABEL_ENCODER, &attrs, &x).unwrap().strings(), ["b", "_Unused"]);
    }

    #[test]
    fn unknown_categories_are_zeros_or_refused() {
        let attrs = Attrs::new().with("cats_int64s", vec![4i64, 5]);
        let x = Tensor::from_slice(&[3], &[5.9f32, f32::NAN, 4.0]).unwrap();
        assert_eq!(run(&CATEGORY_ENCODER, &attrs, &x).unwrap().to_f64s(), [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(run(&CATEGORY_ENCODER, &attrs.with("zeros", 0i64), &x).unwrap_err().code, "X024");
    }
}
