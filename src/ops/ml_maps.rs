//! Maps: `CastMap`, `DictVectorizer` and `ZipMap`.

use crate::common::{attr, attr_error, exactly, from_f64s, from_i64s, index_error, type_error, unsupported};
use crate::elements::reshaped;
use crate::ml_common::{Labels, ml, want_dtype};
use crate::ml_encode::{keys, places};
use crate::sequence::{datum, no_sample, operand};
use partita_ir::attr::Attrs;
use partita_ir::data::DataCtx;
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, InferCtx, OpDef};
use partita_ir::types::{Form, Type};
use partita_ir::{DType, Datum, Dim, Tensor};
use std::collections::BTreeMap;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&CAST_MAP, &DICT_VECTORIZER, &ZIP_MAP];

/// Widest row that is made of a sparse map.
const MAX_SPARSE: i64 = 1 << 26;

static CAST_MAP: OpDef = OpDef {
    name: "cast_map",
    doc: "The values of a map in the order of their keys as one row, of another element type.",
    onnx: &[ml("CastMap", 1)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[attr("cast_to", AttrKind::Str), attr("map_form", AttrKind::Str), attr("max_map", AttrKind::Int)],
    traits: crate::common::PLAIN,
    infer: infer_cast,
    content: None,
    eval: crate::common::no_tensors,
    scalar: None,
    data: Some(eval_cast),
    work: crate::common::work_free,
    sample: no_sample,
};

static DICT_VECTORIZER: OpDef = OpDef {
    name: "dict_vectorizer",
    doc: "The values of a map at the places their keys have in a vocabulary.",
    onnx: &[ml("DictVectorizer", 1)],
    attrs: &[attr("int64_vocabulary", AttrKind::Ints), attr("string_vocabulary", AttrKind::Strs)],
    infer: infer_vectorizer,
    data: Some(eval_vectorizer),
    ..CAST_MAP
};

static ZIP_MAP: OpDef = OpDef {
    name: "zip_map",
    doc: "Each row as a map from class labels to the row's elements.",
    onnx: &[ml("ZipMap", 1)],
    attrs: &[attr("classlabels_int64s", AttrKind::Ints), attr("classlabels_strings", AttrKind::Strs)],
    infer: infer_zip,
    data: Some(eval_zip),
    ..CAST_MAP
};

/// Types of the keys and values of operand 0, where they are known.
fn map_types(ctx: &InferCtx) -> Result<Option<(DType, DType)>, Diag> {
    let ty = operand(ctx, 0)?.ty;
    match ty.form {
        Form::Map(value) => Ok(Some((ty.dtype, value))),
        Form::Any => Ok(None),
        _ => Err(type_error(format!("operand 0 must be a map, it is {ty}"))),
    }
}

/// Keys and values of operand 0.
fn map<'a>(ctx: &DataCtx<'a>) -> Result<(&'a Tensor, &'a Tensor), Diag> {
    match datum(ctx, 0)? {
        Datum::Map { keys, values } if keys.n_elements() == values.n_elements() => Ok((keys, values)),
        Datum::Map { .. } => Err(unsupported("maps to tensors of more than one element are not supported")),
        other => Err(type_error(format!("operand 0 must be a map, it is {}", other.kind()))),
    }
}

fn vocabulary(attrs: &Attrs) -> Result<Tensor, Diag> {
    let strings = attrs.strs("string_vocabulary").and_then(|s| Tensor::from_strings(&[s.len()], s));
    let ints = || attrs.ints("int64_vocabulary").and_then(|v| Tensor::from_slice(&[v.len()], &v));
    strings.or_else(ints).ok_or_else(|| attr_error("there is no vocabulary"))
}

fn infer_vectorizer(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let vocabulary = vocabulary(ctx.attrs)?;
    let Some((key, value)) = map_types(ctx)? else { return Ok(vec![Type::any()]) };
    want_dtype(key, &[vocabulary.dtype()])?;
    Ok(vec![Type::new(value, [vocabulary.n_elements().into()])])
}

fn eval_vectorizer(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let vocabulary = vocabulary(ctx.attrs)?;
    let (found, values) = map(ctx)?;
    want_dtype(found.dtype(), &[vocabulary.dtype()])?;
    let (places, width) = (places(keys(&vocabulary)), vocabulary.n_elements());
    let mut at: Vec<Option<usize>> = vec![None; width];
    for (i, key) in keys(found).into_iter().enumerate() {
        // A key outside of the vocabulary has no place.
        if let Some(&place) = places.get(&key) {
            at[place] = Some(i);
        }
    }
    Ok(vec![Datum::Tensor(spread(values, &at)?)])
}

/// A vector with the elements of `values` at the given positions; zeros or empty text where there is none.
fn spread(values: &Tensor, at: &[Option<usize>]) -> Result<Tensor, Diag> {
    let shape = [at.len()];
    match values.dtype() {
        DType::Str => {
            let strings = values.strings();
            let row: Vec<&str> = at.iter().map(|i| i.map_or("", |i| strings[i])).collect();
            Tensor::from_strings(&shape, &row).ok_or_else(|| type_error("a row is too long"))
        }
        d if d.is_float() => {
            let numbers = values.to_f64s();
            from_f64s(d, &shape, &at.iter().map(|i| i.map_or(0.0, |i| numbers[i])).collect::<Vec<_>>())
        }
        d => {
            let numbers = values.to_i64s();
            from_i64s(d, &shape, &at.iter().map(|i| i.map_or(0, |i| numbers[i])).collect::<Vec<_>>())
        }
    }
}

/// Element type of the result, and the number of columns of a sparse one.
fn cast_form(attrs: &Attrs) -> Result<(DType, Option<usize>), Diag> {
    let to = match attrs.str("cast_to").unwrap_or("TO_FLOAT") {
        "TO_FLOAT" => DType::F32,
        "TO_INT64" => DType::I64,
        "TO_STRING" => DType::Str,
        other => return Err(attr_error(format!("cast_to {other} is unknown"))),
    };
    match attrs.str("map_form").unwrap_or("DENSE") {
        "DENSE" => Ok((to, None)),
        "SPARSE" => {
            let n = attrs.int_or("max_map", 1);
            let width = usize::try_from(n).ok().filter(|_| (1..=MAX_SPARSE).contains(&n));
            Ok((to, Some(width.ok_or_else(|| attr_error(format!("max_map is {n}")))?)))
        }
        other => Err(attr_error(format!("map_form {other} is unknown"))),
    }
}

fn infer_cast(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let (to, width) = cast_form(ctx.attrs)?;
    if let Some((key, value)) = map_types(ctx)? {
        want_dtype(key, &[DType::I64])?;
        want_dtype(value, &[DType::F32, DType::Str])?;
    }
    let columns = width.map_or_else(|| Dim::unknown(0, 1), Dim::from);
    Ok(vec![Type::new(to, [Dim::known(1), columns])])
}

fn eval_cast(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let (to, width) = cast_form(ctx.attrs)?;
    let (keys, values) = map(ctx)?;
    want_dtype(keys.dtype(), &[DType::I64])?;
    let sorted: BTreeMap<i64, usize> = keys.to_i64s().into_iter().zip(0..).collect();
    let at: Vec<Option<usize>> = match width {
        None => sorted.values().map(|i| Some(*i)).collect(),
        Some(width) => {
            let inside = |k: &&i64| usize::try_from(**k).is_ok_and(|k| k < width);
            if let Some(key) = sorted.keys().find(|k| !inside(k)) {
                return Err(index_error(*key, width));
            }
            (0..width as i64).map(|k| sorted.get(&k).copied()).collect()
        }
    };
    let row = cast(&spread(values, &at)?, to)?;
    Ok(vec![Datum::Tensor(reshaped(&row, &[1, at.len()])?)])
}

fn cast(row: &Tensor, to: DType) -> Result<Tensor, Diag> {
    match (row.dtype(), to) {
        (from, to) if from == to => Ok(row.clone()),
        (DType::F32, DType::I64) => from_i64s(to, row.shape(), &row.to_i64s()),
        (DType::Str, DType::F32 | DType::I64) => {
            let numbers: Vec<f64> =
                row.strings().into_iter().map(|s| number(s, to)).collect::<Result<_, _>>()?;
            from_f64s(to, row.shape(), &numbers)
        }
        (from, to) => Err(unsupported(format!("a map of {} cannot become {}", from.name(), to.name()))),
    }
}

/// The number a text holds; none for an element that the map did not have.
fn number(s: &str, to: DType) -> Result<f64, Diag> {
    let read = match (s, to) {
        ("", _) => Some(0.0),
        (s, DType::I64) => s.trim().parse::<i64>().ok().map(|v| v as f64),
        (s, _) => s.trim().parse::<f64>().ok(),
    };
    read.ok_or_else(|| Diag::new("X021", format!("{s:?} is no number")).hint("check the data of the map"))
}

fn infer_zip(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let labels = Labels::read(ctx.attrs, "classlabels_int64s")?;
    let x = operand(ctx, 0)?.ty;
    if x.is_tensor() {
        want_dtype(x.dtype, &[DType::F32])?;
        let (_, columns) = crate::ml_common::row_dims(x)?;
        if columns.as_known().is_some_and(|c| c != labels.len() as i64) {
            return Err(type_error(format!("{} labels for the columns of {x}", labels.len())));
        }
    }
    Ok(vec![Type::sequence(Type::map(labels.dtype(), DType::F32))])
}

fn eval_zip(ctx: &DataCtx) -> Result<Vec<Datum>, Diag> {
    let labels = Labels::read(ctx.attrs, "classlabels_int64s")?;
    let x = datum(ctx, 0)?;
    let x = x.as_tensor().filter(|t| t.dtype() == DType::F32 && (1..=2).contains(&t.rank()));
    let x = x.ok_or_else(|| type_error("operand 0 must be rows of f32"))?;
    let width = labels.len();
    if x.shape().last() != Some(&width) {
        return Err(type_error(format!("{width} labels for the columns of {:?}", x.shape())));
    }
    let keys = labels.vector(&(0..width).collect::<Vec<_>>())?;
    let values = x.to_f64s();
    let entry =
        |row: &[f64]| Ok(Datum::Map { keys: keys.clone(), values: from_f64s(DType::F32, &[width], row)? });
    let maps: Vec<Datum> = values.chunks_exact(width).map(entry).collect::<Result<_, Diag>>()?;
    Ok(vec![Datum::Sequence(maps)])
}
