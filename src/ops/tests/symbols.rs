//! Shape arithmetic as exporters write it resolves to plain sizes with symbols.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use partita_ir::types::Type;
use partita_ir::{Attrs, Builder, DType, Dim, Tensor, ValueId};
use partita_ops::op;
use partita_ops::samples::list;

struct Chain(Builder);

impl Chain {
    fn new() -> Self {
        Self(Builder::new("chain"))
    }

    fn input(&mut self, dtype: DType, dims: &[&str]) -> ValueId {
        let dim = |d: &&str| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::known);
        let shape: Vec<Dim> = dims.iter().map(dim).collect();
        self.0.input("x", Type::new(dtype, shape))
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.0.constant("ints", list(values))
    }

    fn int(&mut self, value: i64) -> ValueId {
        self.0.constant("int", Tensor::scalar(value))
    }

    fn op(&mut self, name: &str, attrs: Attrs, inputs: &[ValueId]) -> ValueId {
        self.0.op(op(name).unwrap(), attrs, inputs).unwrap()
    }

    fn plain(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.op(name, Attrs::new(), inputs)
    }

    fn shape(&self, value: ValueId) -> String {
        self.0.graph().ty(value).to_string()
    }

    /// The size of an axis, as a list of one.
    fn size(&mut self, x: ValueId, axis: i64) -> ValueId {
        let shape = self.plain("shape", &[x]);
        let at = self.int(axis);
        let size = self.plain("gather", &[shape, at]);
        let zero = self.ints(&[0]);
        self.plain("unsqueeze", &[size, zero])
    }
}

#[test]
fn heads_are_split_and_merged() {
    let mut c = Chain::new();
    let x = c.input(DType::F32, &["batch", "seq", "384"]);
    let (batch, seq) = (c.size(x, 0), c.size(x, 1));
    let tail = c.ints(&[12, 32]);
    let to = c.op("concat", Attrs::new().with("axis", 0), &[batch, seq, tail]);
    let split = c.plain("reshape", &[x, to]);
    assert_eq!(c.shape(split), "f32[batch, seq, 12, 32]");
    let turned = c.op("transpose", Attrs::new().with("perm", vec![0i64, 2, 1, 3]), &[split]);
    assert_eq!(c.shape(turned), "f32[batch, 12, seq, 32]");
    let rest = c.ints(&[-1]);
    let to = c.op("concat", Attrs::new().with("axis", 0), &[batch, seq, rest]);
    let merged = c.plain("reshape", &[split, to]);
    assert_eq!(c.shape(merged), "f32[batch, seq, 384]");
}

#[test]
fn expansion_with_minus_one_resolves() {
    let mut c = Chain::new();
    let x = c.input(DType::Bool, &["batch", "1", "1", "seq"]);
    let (batch, seq) = (c.size(x, 0), c.size(x, 3));
    let (one, keep) = (c.ints(&[1]), c.ints(&[-1]));
    let wanted = c.op("concat", Attrs::new().with("axis", 0), &[batch, one, seq, keep]);
    let len = c.ints(&[4]);
    let value = Tensor::from_slice(&[1], &[1i64]).unwrap();
    let ones = c.op("constant_of_shape", Attrs::new().with("value", value), &[len]);
    let minus = c.plain("neg", &[ones]);
    let is_open = c.plain("equal", &[wanted, minus]);
    let to = c.plain("where", &[is_open, ones, wanted]);
    let result = c.plain("expand", &[x, to]);
    assert_eq!(c.shape(result), "bool[batch, 1, seq, seq]");
}

#[test]
fn positions_follow_the_input() {
    let mut c = Chain::new();
    let x = c.input(DType::I64, &["batch", "seq"]);
    let table = c.0.constant("table", Tensor::from_slice(&[1, 512], &[0i64; 512]).unwrap());
    let (zero, one, seq) = (c.ints(&[0]), c.ints(&[1]), c.size(x, 1));
    let cut = c.plain("slice", &[table, zero, seq, one, one]);
    assert_eq!(c.shape(cut), "i64[1, min(seq, 512)]");
    let sum = c.plain("add", &[x, cut]);
    assert_eq!(c.shape(sum), "i64[batch, seq]");
}

#[test]
fn cuts_stay_simple() {
    let mut c = Chain::new();
    let x = c.input(DType::F32, &["batch", "seq", "8"]);
    let cut = |c: &mut Chain, start: i64, end: i64, step: i64| {
        let lists = [start, end, 1, step].map(|v| c.ints(&[v]));
        let [start, end, axis, step] = lists;
        let y = c.plain("slice", &[x, start, end, axis, step]);
        c.shape(y)
    };
    assert_eq!(cut(&mut c, 0, i64::MAX, 1), "f32[batch, seq, 8]");
    assert_eq!(cut(&mut c, 1, i64::MAX, 1), "f32[batch, seq - 1, 8]");
    assert_eq!(cut(&mut c, -1, i64::MAX, 1), "f32[batch, 1, 8]");
    assert_eq!(cut(&mut c, 0, -1, 1), "f32[batch, seq - 1, 8]");
    assert_eq!(cut(&mut c, 0, 1, 1), "f32[batch, 1, 8]");
    assert_eq!(cut(&mut c, -1, i64::MIN, -1), "f32[batch, seq, 8]");
    let (zero, seq, one) = (c.ints(&[0]), c.size(x, 1), c.ints(&[1]));
    let whole = c.plain("slice", &[x, zero, seq, one]);
    assert_eq!(c.shape(whole), "f32[batch, seq, 8]");
}

#[test]
fn sizes_that_depend_on_data_are_named_after_the_value() {
    let mut c = Chain::new();
    let (x, three) = (c.input(DType::I64, &["n"]), c.0.input("three", Type::new(DType::I64, [3.into()])));
    let found = c.plain("non_zero", &[x]);
    assert_eq!(c.shape(found), "i64[1, \"~non_zero_1.1\"]");
    let both = c.op("concat", Attrs::new().with("axis", 1), &[found, found]);
    assert_eq!(c.shape(both), "i64[1, 2*\"~non_zero_1.1\"]");
    let reshaped = c.plain("reshape", &[x, three]);
    assert_eq!(c.shape(reshaped), "i64[\"~reshape_3.0\", \"~reshape_3.1\", \"~reshape_3.2\"]");
    // Not even the rank is known.
    for name in ["constant_of_shape", "reshape"] {
        let inputs = if name == "reshape" { vec![x, x] } else { vec![x] };
        let any = c.plain(name, &inputs);
        assert_eq!(c.shape(any), "any");
    }
}

#[test]
fn sizes_join_and_divide() {
    let mut c = Chain::new();
    let past = c.input(DType::F32, &["batch", "12", "past", "64"]);
    let new = c.0.input("new", Type::new(DType::F32, [Dim::symbol("batch"), 12.into(), 1.into(), 64.into()]));
    let all = c.op("concat", Attrs::new().with("axis", 2), &[past, new]);
    assert_eq!(c.shape(all), "f32[batch, 12, past + 1, 64]");
    let attrs = Attrs::new().with("shape", vec![0i64, -1, 768]);
    let flat = c.op("reshape", attrs, &[all]);
    assert_eq!(c.shape(flat), "f32[batch, past + 1, 768]");
    let range = [c.int(0), c.int(0), c.int(1)];
    let size = c.size(all, 2);
    let zero = c.ints(&[0]);
    let limit = c.plain("squeeze", &[size, zero]);
    let positions = c.plain("range", &[range[0], limit, range[2]]);
    assert_eq!(c.shape(positions), "i64[past + 1]");
}
