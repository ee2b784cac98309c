//! Conditions and functions rules may use, as tables. Unknown never means true: a test that cannot tell says no.

use super::analysis::{Egg, Facts};
use super::matcher::{Val, equal};
use partita_ir::tensor::n_elements;
use partita_ir::{Attr, DType, Dim, Tensor, Type};

/// What conditions and functions see.
pub struct Scope<'a> {
    pub egraph: &'a Egg,
    /// Type of the class the rule matched at.
    pub root: &'a Type,
}

/// A side condition.
pub struct Test {
    pub name: &'static str,
    pub doc: &'static str,
    pub holds: fn(&Scope, &[Val]) -> bool,
}

/// A function of attributes and types.
pub struct Function {
    pub name: &'static str,
    pub doc: &'static str,
    pub eval: fn(&Scope, &[Val]) -> Option<Val>,
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every condition.
pub static TESTS: &[Test] = &[
    Test { name: "const", doc: "all are known at compile time", holds: is_const },
    Test { name: "computed", doc: "none is known at compile time", holds: is_computed },
    Test { name: "scalar", doc: "a constant with one value throughout", holds: is_splat },
    Test {
        name: "one_element",
        doc: "exactly one element",
        holds: |s, a| type_of(s, a, 0).is_some_and(|t| t.n_elements().is(1)),
    },
    Test {
        name: "float",
        doc: "floating-point elements",
        holds: |s, a| type_of(s, a, 0).is_some_and(|t| t.dtype.is_float()),
    },
    Test {
        name: "rank",
        doc: "(x, n): x has n dimensions",
        holds: |s, a| type_of(s, a, 0).map(|t| t.rank() as i64) == int(a, 1),
    },
    Test {
        name: "min_rank",
        doc: "(x, n): x has at least n dimensions",
        holds: |s, a| type_of(s, a, 0).zip(int(a, 1)).is_some_and(|(t, n)| t.rank() as i64 >= n),
    },
    Test {
        name: "at_most_rank",
        doc: "(x, n): x has at most n dimensions",
        holds: |s, a| type_of(s, a, 0).zip(int(a, 1)).is_some_and(|(t, n)| t.rank() as i64 <= n),
    },
    Test {
        name: "positive_dims",
        doc: "every dimension is known and above 0",
        holds: |s, a| {
            type_of(s, a, 0).is_some_and(|t| t.shape.iter().all(|d| d.as_known().is_some_and(|v| v > 0)))
        },
    },
    Test {
        name: "same_rank",
        doc: "equally many dimensions",
        holds: |s, a| type_of(s, a, 0).zip(type_of(s, a, 1)).is_some_and(|(x, y)| x.rank() == y.rank()),
    },
    Test {
        name: "same_type",
        doc: "equal types",
        holds: |s, a| type_of(s, a, 0).zip(type_of(s, a, 1)).is_some_and(|(x, y)| x == y),
    },
    Test {
        name: "same_last",
        doc: "equal last dimensions",
        holds: |s, a| {
            type_of(s, a, 0)
                .zip(type_of(s, a, 1))
                .is_some_and(|(x, y)| x.rank() > 0 && x.shape.last() == y.shape.last())
        },
    },
    Test {
        name: "root_last",
        doc: "the last dimension is the result's",
        holds: |s, a| type_of(s, a, 0).is_some_and(|x| x.rank() > 0 && x.shape.last() == s.root.shape.last()),
    },
    Test {
        name: "varies_last",
        doc: "all dimensions but the last are 1",
        holds: |s, a| type_of(s, a, 0).is_some_and(|t| t.shape.iter().rev().skip(1).all(|d| d.is(1))),
    },
    Test {
        name: "vector_of_last",
        doc: "(g, x): g is one vector over x's last axis",
        holds: |s, a| {
            type_of(s, a, 0)
                .zip(type_of(s, a, 1))
                .is_some_and(|(g, x)| g.rank() == 1 && g.shape.last() == x.shape.last() && g.dtype == x.dtype)
        },
    },
    Test {
        name: "conv_channels",
        doc: "(c, w): against the convolution by w, c varies along axis 1 only",
        holds: conv_channels,
    },
    Test {
        name: "no_copied_dims",
        doc: "(attributes of a reshape): all sizes are stated, none is copied from the operand or left open",
        holds: no_copied_dims,
    },
    Test {
        name: "axes_are",
        doc: "(axes, x, list): exactly these axes",
        holds: |s, a| axes(s, a).zip(ints(a, 2)).is_some_and(|((have, _), want)| have == want),
    },
    Test {
        name: "disjoint",
        doc: "(a, b, x): no axis of x is in both",
        holds: |s, a| {
            a.len() == 3
                && axes(s, &[a[0].clone(), a[2].clone()])
                    .zip(axes(s, &[a[1].clone(), a[2].clone()]))
                    .is_some_and(|(x, y)| x.0.iter().all(|v| !y.0.contains(v)))
        },
    },
    Test {
        name: "within",
        doc: "(s, e, u, v): slice s..e lies inside what slice u..v leaves, nothing counted from the end",
        holds: within,
    },
    Test { name: "default", doc: "(a, v): the attribute is absent or v", holds: is_default },
    Test {
        name: "identity_perm",
        doc: "0, 1, 2, ...",
        holds: |_, a| ints(a, 0).is_some_and(|p| p.iter().enumerate().all(|(i, &v)| v == i as i64)),
    },
    Test {
        name: "moves_ones",
        doc: "(p, x): the permutation keeps the order of axes longer than 1",
        holds: moves_ones,
    },
    Test {
        name: "last_axis",
        doc: "(axes, x): exactly x's last axis",
        holds: |s, a| axes(s, a).is_some_and(|(axes, rank)| rank > 0 && axes == [rank as i64 - 1]),
    },
    Test {
        name: "one_axis",
        doc: "exactly one axis",
        holds: |_, a| ints(a, 0).is_some_and(|v| v.len() == 1),
    },
    Test {
        name: "same_axis",
        doc: "(a, b, x): the same single axis of x",
        holds: |s, a| {
            axes(s, &[a[0].clone(), a[2].clone()])
                .zip(axes(s, &[a[1].clone(), a[2].clone()]))
                .is_some_and(|(x, y)| x.0.len() == 1 && x.0 == y.0)
        },
    },
    Test {
        name: "at_most",
        doc: "(a, b): both known, a <= b",
        holds: |s, a| number(s, a, 0).zip(number(s, a, 1)).is_some_and(|(x, y)| x <= y),
    },
    Test {
        name: "fits_f32",
        doc: "a constant that an attribute holds exactly",
        holds: |s, a| number(s, a, 0).is_some_and(|v| f64::from(v as f32) == v),
    },
    Test { name: "power_of_two", doc: "a constant whose reciprocal is exact", holds: power_of_two },
    Test {
        name: "all_zero",
        doc: "every entry is 0",
        holds: |_, a| ints(a, 0).is_some_and(|v| v.iter().all(|&x| x == 0)),
    },
    Test {
        name: "all_ones",
        doc: "absent, or every entry is 1",
        holds: |_, a| {
            matches!(a.first(), Some(Val::Absent)) || ints(a, 0).is_some_and(|v| v.iter().all(|&x| x == 1))
        },
    },
    Test {
        name: "spatial_pads",
        doc: "pads are not negative and leave the first two axes alone",
        holds: |_, a| {
            ints(a, 0).is_some_and(|p| {
                let r = p.len() / 2;
                r > 2 && p.iter().all(|&v| v >= 0) && p[..2].iter().chain(&p[r..r + 2]).all(|&v| v == 0)
            })
        },
    },
    Test { name: "lossless", doc: "(x, t): t holds every value of x's type", holds: lossless },
    Test {
        name: "kernel_type",
        doc: "an element type that kernels compute with: neither text nor a small one",
        holds: |_, a| matches!(a.first(), Some(Val::Attr(Attr::DType(t))) if t.is_computable()),
    },
];

/// Every function.
pub static FUNCTIONS: &[Function] = &[
    Function {
        name: "value",
        doc: "the number all elements of a constant are",
        eval: |s, a| float(number(s, a, 0)?),
    },
    Function { name: "recip", doc: "1/a", eval: |s, a| float(1.0 / number(s, a, 0)?) },
    Function { name: "times", doc: "a*b", eval: |s, a| float(number(s, a, 0)? * number(s, a, 1)?) },
    Function {
        name: "larger",
        doc: "the larger of two numbers",
        eval: |s, a| float(number(s, a, 0)?.max(number(s, a, 1)?)),
    },
    Function {
        name: "smaller",
        doc: "the smaller of two numbers",
        eval: |s, a| float(number(s, a, 0)?.min(number(s, a, 1)?)),
    },
    Function {
        name: "added",
        doc: "entry by entry sum of two lists",
        eval: |_, a| {
            let (x, y) = (ints(a, 0)?, ints(a, 1)?);
            (x.len() == y.len())
                .then(|| ints_val(x.iter().zip(&y).map(|(a, b)| a.saturating_add(*b)).collect()))
        },
    },
    Function {
        name: "or",
        doc: "(a, v): a, or v where a is absent",
        eval: |_, a| match a {
            [Val::Absent, v] => Some(v.clone()),
            [v, _] => Some(v.clone()),
            _ => None,
        },
    },
    Function {
        name: "compose",
        doc: "(p, q): the permutation of transpose p after transpose q",
        eval: compose,
    },
    Function {
        name: "inverse",
        doc: "the inverse permutation",
        eval: |_, a| inverse(&ints(a, 0)?).map(ints_val),
    },
    Function {
        name: "swap_last_two",
        doc: "the permutation of x's rank that swaps the last two axes",
        eval: swap_last_two,
    },
    Function {
        name: "permuted_axes",
        doc: "(axes, p): the axes of the operand of transpose p",
        eval: permuted_axes,
    },
    Function {
        name: "permuted_axis",
        doc: "(axis, p): the same for one axis",
        eval: |s, a| match permuted_axes(s, a)? {
            Val::Attr(Attr::Ints(v)) if v.len() == 1 => Some(Val::Attr(Attr::Int(v[0]))),
            _ => None,
        },
    },
    Function {
        name: "only",
        doc: "the only entry of a list",
        eval: |_, a| match ints(a, 0)?.as_slice() {
            [v] => Some(Val::Attr(Attr::Int(*v))),
            _ => None,
        },
    },
    Function { name: "union", doc: "(a, b, x): axes of x in either list", eval: union },
    Function {
        name: "shape",
        doc: "the shape of x",
        eval: |s, a| Some(dims_val(type_of(s, a, 0)?.shape.clone())),
    },
    Function {
        name: "result_shape",
        doc: "the shape of the result",
        eval: |s, _| Some(dims_val(s.root.shape.clone())),
    },
    Function {
        name: "result_rows",
        doc: "(x): the shape of the result with x's last dimension",
        eval: result_rows,
    },
    Function {
        name: "flat",
        doc: "(c): one axis with all elements",
        eval: |s, a| Some(dims_val(vec![type_of(s, a, 0)?.n_elements()])),
    },
    Function {
        name: "column",
        doc: "(c): all elements as a column",
        eval: |s, a| Some(dims_val(vec![type_of(s, a, 0)?.n_elements(), Dim::known(1)])),
    },
    Function {
        name: "over_outputs",
        doc: "(c, w): c's elements along the first axis of w's rank",
        eval: over_outputs,
    },
    Function {
        name: "over_channels",
        doc: "(c, x): c's elements along axis 1 of x's rank",
        eval: over_channels,
    },
    Function {
        name: "first_dim",
        doc: "(w): the first dimension as a shape",
        eval: |s, a| Some(dims_val(vec![type_of(s, a, 0)?.shape.first()?.clone()])),
    },
    Function { name: "ones_of_last", doc: "ones over x's last axis", eval: ones_of_last },
    Function {
        name: "zeros_of",
        doc: "(w): zeros over w's first axis",
        eval: |s, a| {
            let t = type_of(s, a, 0)?;
            fill(t.dtype, &[known(t.shape.first()?)?], 0.0)
        },
    },
    Function {
        name: "like",
        doc: "(v, x): the number v in x's element type",
        eval: |s, a| fill(type_of(s, a, 1)?.dtype, &[], number(s, a, 0)?),
    },
    Function {
        name: "added_pads",
        doc: "(a, b): convolution pads a (or none) and the spatial part of pads b together",
        eval: added_pads,
    },
];

fn facts<'a>(scope: &'a Scope, args: &[Val], n: usize) -> Option<&'a Facts> {
    match args.get(n)? {
        Val::Class(id) => Some(&scope.egraph[*id].data),
        _ => None,
    }
}

fn type_of<'a>(scope: &'a Scope, args: &[Val], n: usize) -> Option<&'a Type> {
    facts(scope, args, n)?.ty()
}

fn ints(args: &[Val], n: usize) -> Option<Vec<i64>> {
    match args.get(n)? {
        Val::Attr(Attr::Ints(v)) => Some(v.clone()),
        Val::Attr(Attr::Int(v)) => Some(vec![*v]),
        _ => None,
    }
}

fn int(args: &[Val], n: usize) -> Option<i64> {
    match args.get(n)? {
        Val::Attr(Attr::Int(v)) => Some(*v),
        _ => None,
    }
}

/// A number: an attribute, or a constant with one value throughout.
fn number(scope: &Scope, args: &[Val], n: usize) -> Option<f64> {
    match args.get(n)? {
        Val::Attr(Attr::Int(v)) => Some(*v as f64),
        Val::Attr(Attr::Float(v)) => Some(f64::from(*v)),
        Val::Class(_) => facts(scope, args, n)?.splat,
        _ => None,
    }
}

fn float(value: f64) -> Option<Val> {
    let narrow = value as f32;
    narrow.is_finite().then_some(Val::Attr(Attr::Float(narrow)))
}

fn ints_val(ints: Vec<i64>) -> Val {
    Val::Attr(Attr::Ints(ints))
}

fn dims_val(dims: Vec<Dim>) -> Val {
    Val::Attr(dims.into())
}

fn known(dim: &Dim) -> Option<usize> {
    usize::try_from(dim.as_known()?).ok()
}

fn fill(dtype: DType, shape: &[usize], value: f64) -> Option<Val> {
    let n = n_elements(shape).filter(|&n| n <= 1 << 20)?;
    Some(Val::Attr(Attr::Tensor(Tensor::from_f64s(dtype, shape, &vec![value; n])?)))
}

fn is_const(scope: &Scope, args: &[Val]) -> bool {
    (0..args.len()).all(|n| facts(scope, args, n).is_some_and(|f| f.foldable))
}

fn is_computed(scope: &Scope, args: &[Val]) -> bool {
    (0..args.len()).all(|n| facts(scope, args, n).is_some_and(|f| !f.foldable))
}

fn is_splat(scope: &Scope, args: &[Val]) -> bool {
    (0..args.len()).all(|n| facts(scope, args, n).is_some_and(|f| f.foldable && f.splat.is_some()))
}

fn is_default(_: &Scope, args: &[Val]) -> bool {
    match args {
        [Val::Absent, _] => true,
        [Val::Attr(Attr::Float(have)), Val::Attr(Attr::Int(want))] => f64::from(*have) == *want as f64,
        [Val::Attr(have), Val::Attr(want)] => equal(have, want),
        _ => false,
    }
}

fn conv_channels(scope: &Scope, args: &[Val]) -> bool {
    let Some((c, w)) = type_of(scope, args, 0).zip(type_of(scope, args, 1)) else { return false };
    if c.rank() > w.rank() || w.rank() < 3 {
        return false;
    }
    let skip = w.rank() - c.rank();
    c.shape.iter().enumerate().all(|(i, d)| d.is(1) || (i + skip == 1 && *d == w.shape[0]))
}

fn no_copied_dims(_: &Scope, args: &[Val]) -> bool {
    let Some(Val::Attrs(attrs)) = args.first() else { return false };
    attrs.dims("shape").is_some_and(|dims| dims.iter().all(|d| d.as_known().is_none_or(|v| v > 0)))
}

fn within(_: &Scope, args: &[Val]) -> bool {
    let lists: Option<Vec<Vec<i64>>> = (0..4).map(|n| ints(args, n)).collect();
    let Some([s, e, u, v]) = lists.as_deref() else { return false };
    let n = s.len();
    [e, u, v].iter().all(|l| l.len() == n)
        && (0..n).all(|i| 0 <= s[i] && s[i] <= e[i] && 0 <= u[i] && u[i] <= v[i] && e[i] <= v[i] - u[i])
}

fn moves_ones(scope: &Scope, args: &[Val]) -> bool {
    let Some((p, x)) = ints(args, 0).zip(type_of(scope, args, 1)) else { return false };
    let long: Vec<i64> = p
        .into_iter()
        .filter(|&a| usize::try_from(a).ok().and_then(|a| x.shape.get(a)).is_none_or(|d| !d.is(1)))
        .collect();
    long.is_sorted()
}

/// Axes (first argument) counted from the front and sorted, with the rank of the second argument.
fn axes(scope: &Scope, args: &[Val]) -> Option<(Vec<i64>, usize)> {
    let rank = type_of(scope, args, 1)?.rank();
    let mut out: Vec<i64> =
        ints(args, 0)?.into_iter().map(|a| if a < 0 { a + rank as i64 } else { a }).collect();
    out.sort_unstable();
    out.dedup();
    out.iter().all(|&a| a >= 0 && a < rank as i64).then_some((out, rank))
}

fn power_of_two(scope: &Scope, args: &[Val]) -> bool {
    facts(scope, args, 0).and_then(|f| f.splat).is_some_and(|v| {
        let v = v as f32;
        let mantissa = v.to_bits() & 0x007f_ffff;
        v.is_normal() && (1.0 / v).is_normal() && mantissa == 0
    })
}

fn lossless(scope: &Scope, args: &[Val]) -> bool {
    use DType::{Bf16, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32};
    let (Some(from), Some(Val::Attr(Attr::DType(to)))) = (type_of(scope, args, 0), args.get(1)) else {
        return false;
    };
    let wider: &[DType] = match from.dtype {
        Bool => &[U8, I8, I16, U16, I32, U32, I64, F16, F32, F64],
        U8 => &[I16, U16, I32, U32, I64, F16, F32, F64],
        I8 => &[I16, I32, I64, F16, F32, F64],
        I16 => &[I32, I64, F32, F64],
        U16 => &[I32, U32, I64, F32, F64],
        I32 => &[I64, F64],
        U32 => &[I64, F64],
        F16 | Bf16 => &[F32, F64],
        F32 => &[F64],
        _ => &[],
    };
    from.dtype == *to || wider.contains(to)
}

fn compose(_: &Scope, args: &[Val]) -> Option<Val> {
    let (p, q) = (ints(args, 0)?, ints(args, 1)?);
    let at = |i: &i64| usize::try_from(*i).ok().and_then(|i| q.get(i)).copied();
    p.iter().map(at).collect::<Option<Vec<i64>>>().map(ints_val)
}

fn inverse(p: &[i64]) -> Option<Vec<i64>> {
    let mut out = vec![0; p.len()];
    for (i, &v) in p.iter().enumerate() {
        *out.get_mut(usize::try_from(v).ok()?)? = i as i64;
    }
    Some(out)
}

fn swap_last_two(scope: &Scope, args: &[Val]) -> Option<Val> {
    let rank = type_of(scope, args, 0)?.rank();
    let mut p: Vec<i64> = (0..rank as i64).collect();
    (rank >= 2).then(|| p.swap(rank - 1, rank - 2))?;
    Some(ints_val(p))
}

fn permuted_axes(_: &Scope, args: &[Val]) -> Option<Val> {
    let (axes, p) = (ints(args, 0)?, ints(args, 1)?);
    let at = |a: &i64| {
        let a = if *a < 0 { a + p.len() as i64 } else { *a };
        usize::try_from(a).ok().and_then(|a| p.get(a)).copied()
    };
    axes.iter().map(at).collect::<Option<Vec<i64>>>().map(ints_val)
}

fn union(scope: &Scope, args: &[Val]) -> Option<Val> {
    let [a, b, x] = args else { return None };
    let mut all = axes(scope, &[a.clone(), x.clone()])?.0;
    all.extend(axes(scope, &[b.clone(), x.clone()])?.0);
    all.sort_unstable();
    all.dedup();
    Some(ints_val(all))
}

fn result_rows(scope: &Scope, args: &[Val]) -> Option<Val> {
    let mut shape = scope.root.shape.clone();
    *shape.last_mut()? = type_of(scope, args, 0)?.shape.last()?.clone();
    Some(dims_val(shape))
}

fn over_outputs(scope: &Scope, args: &[Val]) -> Option<Val> {
    let (c, w) = (type_of(scope, args, 0)?, type_of(scope, args, 1)?);
    let mut shape = vec![Dim::known(1); w.rank()];
    *shape.first_mut()? = c.n_elements();
    Some(dims_val(shape))
}

fn over_channels(scope: &Scope, args: &[Val]) -> Option<Val> {
    let (c, x) = (type_of(scope, args, 0)?, type_of(scope, args, 1)?);
    let mut shape = vec![Dim::known(1); x.rank().checked_sub(1)?];
    *shape.first_mut()? = c.n_elements();
    Some(dims_val(shape))
}

fn ones_of_last(scope: &Scope, args: &[Val]) -> Option<Val> {
    let t = type_of(scope, args, 0)?;
    fill(t.dtype, &[known(t.shape.last()?)?], 1.0)
}

fn added_pads(_: &Scope, args: &[Val]) -> Option<Val> {
    let outer = ints(args, 1)?;
    let rank = outer.len() / 2;
    let spatial: Vec<i64> = outer.get(2..rank)?.iter().chain(outer.get(rank + 2..)?).copied().collect();
    let own = match args.first()? {
        Val::Absent => vec![0; spatial.len()],
        _ => ints(args, 0)?,
    };
    (own.len() == spatial.len()).then(|| ints_val(own.iter().zip(&spatial).map(|(a, b)| a + b).collect()))
}
