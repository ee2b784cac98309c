//! Operators over sequences, optionals and maps, by hand and against their inference.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails should say where")]

use partita_ir::attr::{Attr, Attrs};
use partita_ir::builder::infer_op;
use partita_ir::data::{DataCtx, NoBodies, evaluate};
use partita_ir::diag::Diag;
use partita_ir::op::Operand;
use partita_ir::types::{Form, Type};
use partita_ir::{DType, Datum, Tensor};
use partita_ops::op;

fn run(name: &str, attrs: &Attrs, inputs: &[Option<&Datum>]) -> Result<Datum, Diag> {
    let op = op(name).unwrap();
    let mut out = evaluate(op, &DataCtx { attrs, inputs, n_outputs: 1, bodies: &NoBodies })?;
    let types: Vec<Option<Type>> = inputs.iter().map(|d| d.map(type_of)).collect();
    let operands: Vec<Option<Operand>> =
        types.iter().map(|t| t.as_ref().map(|ty| Operand { ty, content: None })).collect();
    let inferred = infer_op(op, attrs, &operands, 1).unwrap_or_else(|d| panic!("{name}: {d}"));
    assert!(fits(&inferred.types[0], &out[0]), "{name}: {} for {:?}", inferred.types[0], out[0]);
    Ok(out.remove(0))
}

/// The most that can be said of a value's type.
fn type_of(datum: &Datum) -> Type {
    match datum {
        Datum::Tensor(t) => Type::known(t.dtype(), t.shape()),
        Datum::Sequence(items) => {
            let types: Vec<Type> = items.iter().map(type_of).collect();
            match types.first() {
                Some(first) if types.iter().all(|t| t == first) => Type::sequence(first.clone()),
                Some(first) => Type::sequence(Type::unranked(first.dtype)),
                None => Type::sequence(Type::unranked(DType::F32)),
            }
        }
        Datum::Optional(Some(item)) => Type::optional(type_of(item)),
        Datum::Optional(None) => Type::optional(Type::unranked(DType::F32)),
        Datum::Map { keys, values } => Type::map(keys.dtype(), values.dtype()),
    }
}

/// Whether a type that was inferred holds for a value.
fn fits(ty: &Type, datum: &Datum) -> bool {
    match (&ty.form, datum) {
        (Form::Any, _) => true,
        (Form::Unranked, Datum::Tensor(t)) => ty.dtype == t.dtype(),
        (Form::Tensor, Datum::Tensor(t)) => {
            let size = |(d, s): (&partita_ir::Dim, &usize)| d.as_known().is_none_or(|d| d == *s as i64);
            ty.dtype == t.dtype() && ty.rank() == t.rank() && ty.shape.iter().zip(t.shape()).all(size)
        }
        (Form::Sequence(item), Datum::Sequence(items)) => items.iter().all(|i| fits(item, i)),
        (Form::Optional(item), Datum::Optional(found)) => found.as_ref().is_none_or(|f| fits(item, f)),
        (Form::Map(value), Datum::Map { keys, values }) => {
            ty.dtype == keys.dtype() && *value == values.dtype()
        }
        _ => false,
    }
}

fn floats(shape: &[usize], values: &[f32]) -> Datum {
    Datum::Tensor(Tensor::from_slice(shape, values).unwrap())
}

fn int(value: i64) -> Datum {
    Datum::Tensor(Tensor::scalar(value))
}

fn ints(values: &[i64]) -> Datum {
    Datum::Tensor(Tensor::from_slice(&[values.len()], values).unwrap())
}

fn code(result: Result<Datum, Diag>) -> String {
    result.unwrap_err().code.to_string()
}

#[test]
fn items_come_and_go() {
    let none = Attrs::new();
    let (a, b) = (floats(&[1], &[1.0]), floats(&[2], &[2.0, 3.0]));
    let both = run("sequence_construct", &none, &[Some(&a), Some(&b)]).unwrap();
    let empty = run("sequence_empty", &none, &[]).unwrap();
    assert_eq!(run("sequence_length", &none, &[Some(&both)]).unwrap(), int(2));
    assert_eq!(run("sequence_at", &none, &[Some(&both), Some(&int(-2))]).unwrap(), a);
    assert_eq!(code(run("sequence_at", &none, &[Some(&both), Some(&int(2))])), "X020");
    assert_eq!(code(run("sequence_at", &none, &[Some(&both), Some(&int(-3))])), "X020");
    let one = run("sequence_insert", &none, &[Some(&empty), Some(&b), Some(&int(0))]).unwrap();
    let front = run("sequence_insert", &none, &[Some(&one), Some(&a), Some(&int(-1))]).unwrap();
    assert_eq!(front, both);
    assert_eq!(
        run("sequence_insert", &none, &[Some(&Datum::Sequence(vec![a.clone()])), Some(&b)]).unwrap(),
        both
    );
    let last = run("sequence_insert", &none, &[Some(&both), Some(&a), Some(&int(2))]).unwrap();
    assert_eq!(run("sequence_erase", &none, &[Some(&last)]).unwrap(), both);
    assert_eq!(run("sequence_erase", &none, &[Some(&both), Some(&int(0))]).unwrap(), one);
    assert_eq!(code(run("sequence_erase", &none, &[Some(&empty)])), "X020");
    assert_eq!(code(run("sequence_insert", &none, &[Some(&both), Some(&int(1))])), "V020");
}

#[test]
fn parts_and_joins() {
    let x = floats(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let axis = |axis: i64| Attrs::new().with("axis", axis);
    for (attrs, split) in [(axis(1), None), (axis(-1), Some(int(2))), (axis(0), Some(ints(&[2, 0])))] {
        let parts = run("split_to_sequence", &attrs, &[Some(&x), split.as_ref()]).unwrap();
        assert_eq!(run("concat_from_sequence", &attrs, &[Some(&parts)]).unwrap(), x);
    }
    let flat = run("split_to_sequence", &axis(0).with("keepdims", 0i64), &[Some(&x)]).unwrap();
    assert_eq!(
        run("sequence_at", &Attrs::new(), &[Some(&flat), Some(&int(1))]).unwrap(),
        floats(&[3], &[3.0, 4.0, 5.0])
    );
    let stack = axis(0).with("new_axis", 1i64);
    assert_eq!(run("concat_from_sequence", &stack, &[Some(&flat)]).unwrap(), x);
    let columns = run("concat_from_sequence", &axis(-1).with("new_axis", 1i64), &[Some(&flat)]).unwrap();
    assert_eq!(columns, floats(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    for split in [ints(&[1, 1]), ints(&[-1, 4]), int(0)] {
        assert_eq!(code(run("split_to_sequence", &axis(1), &[Some(&x), Some(&split)])), "V020");
    }
    let odd = Datum::Sequence(vec![x.clone(), floats(&[1], &[0.0])]);
    assert_eq!(code(run("concat_from_sequence", &axis(0), &[Some(&odd)])), "V020");
    assert_eq!(code(run("concat_from_sequence", &axis(0), &[Some(&Datum::Sequence(vec![]))])), "V020");
}

#[test]
fn text_keeps_its_meaning_in_sequences() {
    let text = |words: &[&str]| Datum::Tensor(Tensor::from_strings(&[words.len()], words).unwrap());
    let both = Datum::Sequence(vec![text(&["b", "a"]), text(&["c", "a"])]);
    let joined = run("concat_from_sequence", &Attrs::new().with("axis", 0i64), &[Some(&both)]).unwrap();
    assert_eq!(joined.as_tensor().unwrap().strings(), ["b", "a", "c", "a"]);
    let parts = run("split_to_sequence", &Attrs::new(), &[Some(&joined)]).unwrap();
    let third = run("sequence_at", &Attrs::new(), &[Some(&parts), Some(&int(2))]).unwrap();
    assert_eq!(third.as_tensor().unwrap().strings(), ["c"]);
}

#[test]
fn optionals() {
    let x = floats(&[1], &[1.0]);
    let some = run("optional", &Attrs::new(), &[Some(&x)]).unwrap();
    let typed = Attrs::new().with("type", Attr::Type(Type::sequence(Type::unranked(DType::F32))));
    let none = run("optional", &typed, &[]).unwrap();
    let truth = |value: bool| Datum::Tensor(Tensor::from_bools(&[], &[value]).unwrap());
    for (datum, has) in [(Some(&some), true), (Some(&none), false), (Some(&x), true), (None, false)] {
        assert_eq!(run("optional_has_element", &Attrs::new(), &[datum]).unwrap(), truth(has));
    }
    for datum in [&some, &x] {
        assert_eq!(run("optional_get_element", &Attrs::new(), &[Some(datum)]).unwrap(), x);
    }
    assert_eq!(code(run("optional_get_element", &Attrs::new(), &[Some(&none)])), "X023");
    assert_eq!(run("pass", &Attrs::new(), &[Some(&none)]).unwrap(), none);
}

fn strs(list: &[&str]) -> Attr {
    Attr::Strs(list.iter().map(|s| (*s).to_owned()).collect())
}

#[test]
fn maps() {
    let x = floats(&[2, 2], &[0.25, 0.75, 1.0, 0.0]);
    let labels = Attrs::new().with("classlabels_strings", strs(&["no", "yes"]));
    let maps = run("zip_map", &labels, &[Some(&x)]).unwrap();
    let Datum::Sequence(maps) = maps else { panic!("{maps:?}") };
    let vocabulary = Attrs::new().with("string_vocabulary", strs(&["yes", "maybe", "no"]));
    let row = run("dict_vectorizer", &vocabulary, &[Some(&maps[0])]).unwrap();
    assert_eq!(row, floats(&[3], &[0.75, 0.0, 0.25]));
    assert_eq!(code(run("zip_map", &labels, &[Some(&floats(&[1, 3], &[0.0; 3]))])), "V020");

    let map = Datum::Map {
        keys: Tensor::from_slice(&[3], &[4i64, 0, 2]).unwrap(),
        values: Tensor::from_strings(&[3], &["4.5", "0", "-2"]).unwrap(),
    };
    let dense = run("cast_map", &Attrs::new(), &[Some(&map)]).unwrap();
    assert_eq!(dense, floats(&[1, 3], &[0.0, -2.0, 4.5]));
    let sparse = Attrs::new().with("map_form", "SPARSE").with("max_map", 6i64);
    let sparse = run("cast_map", &sparse, &[Some(&map)]).unwrap();
    assert_eq!(sparse, floats(&[1, 6], &[0.0, 0.0, -2.0, 0.0, 4.5, 0.0]));
    let narrow = Attrs::new().with("map_form", "SPARSE").with("max_map", 4i64);
    assert_eq!(code(run("cast_map", &narrow, &[Some(&map)])), "X020");
    assert_eq!(code(run("cast_map", &Attrs::new().with("cast_to", "TO_INT64"), &[Some(&map)])), "X021");
}
