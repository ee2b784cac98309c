//! Kernels that move elements, over element sizes, against naive index arithmetic.

mod common;

use common::{Spec, Tensor, refusal, run_all};
use partita_plan::ElementType;
use proptest::prelude::*;

const TYPES: [ElementType; 4] = [ElementType::U8, ElementType::Bf16, ElementType::F32, ElementType::F64];

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A tensor whose elements are all different (as far as their size allows).
fn counting(dtype: ElementType, shape: &[usize]) -> Tensor {
    let size = dtype.size_bytes();
    let bytes = (0..product(shape)).flat_map(|i| (i as u64 + 1).to_ne_bytes()[..size].to_vec()).collect();
    Tensor { dtype, shape: shape.to_vec(), bytes, weight: false }
}

fn index(shape: &[usize], mut at: usize) -> Vec<usize> {
    let mut all = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        all[axis] = at % shape[axis];
        at /= shape[axis];
    }
    all
}

fn flat(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (&d, &i)| at * d + i)
}

/// The result whose element at `index` is `x` at `source(index)`.
fn pick(x: &Tensor, shape: &[usize], source: impl Fn(&[usize]) -> Vec<usize>) -> Vec<u8> {
    let size = x.dtype.size_bytes();
    (0..product(shape))
        .flat_map(|at| {
            let from = flat(&x.shape, &source(&index(shape, at))) * size;
            x.bytes[from..from + size].to_vec()
        })
        .collect()
}

fn check(spec: &Spec, inputs: &[Option<Tensor>], dtype: ElementType, shape: &[usize], want: &[u8]) {
    run_all(spec, inputs, &[(dtype, shape.to_vec())], |name, results| assert_eq!(results[0], want, "{name}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn transpositions_match(
        shape in prop::collection::vec(1usize..20, 1..5), order in Just(vec![0usize, 1, 2, 3]).prop_shuffle(),
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let perm: Vec<usize> = order.into_iter().filter(|&p| p < shape.len()).collect();
        let x = counting(dtype, &shape);
        let out: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        let want = pick(&x, &out, |i| {
            let mut from = vec![0; i.len()];
            perm.iter().zip(i).for_each(|(&p, &i)| from[p] = i);
            from
        });
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        check(&Spec::new("transpose").ints("perm", &perm), &[Some(x)], dtype, &out, &want);
    }

    #[test]
    fn slices_match(
        axes in prop::collection::vec((1usize..12, 0usize..12, 1i64..4, any::<bool>(), 1usize..6), 1..4),
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let shape: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let starts: Vec<i64> = axes.iter().map(|a| (a.1 % a.0) as i64).collect();
        let steps: Vec<i64> = axes.iter().map(|a| if a.3 { -a.2 } else { a.2 }).collect();
        let out: Vec<usize> = axes.iter().zip(&starts).zip(&steps).map(|((a, &start), &step)| {
            let room = if step < 0 { start } else { a.0 as i64 - 1 - start };
            a.4.min((room / step.abs()) as usize + 1)
        }).collect();
        let x = counting(dtype, &shape);
        let want = pick(&x, &out, |i| (0..i.len()).map(|a| (starts[a] + i[a] as i64 * steps[a]) as usize).collect());
        check(&Spec::new("slice").dims("starts", &starts).dims("steps", &steps), &[Some(x)], dtype, &out, &want);
    }

    #[test]
    fn expansions_match(
        out in prop::collection::vec(1usize..8, 1..5), keep in prop::collection::vec(any::<bool>(), 4),
        drop in 0usize..4, dtype in prop::sample::select(&TYPES[..]),
    ) {
        let drop = drop.min(out.len() - 1);
        let shape: Vec<usize> = (drop..out.len()).map(|a| if keep[a] { out[a] } else { 1 }).collect();
        let x = counting(dtype, &shape);
        let want = pick(&x, &out, |i| (drop..out.len()).map(|a| if keep[a] { i[a] } else { 0 }).collect());
        check(&Spec::new("expand"), &[Some(x)], dtype, &out, &want);
    }

    #[test]
    fn concat_undoes_split(
        shape in prop::collection::vec(1usize..9, 1..4), pick_axis in 0usize..3, cut in 0usize..9,
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let axis = pick_axis % shape.len();
        let cut = cut.min(shape[axis]);
        let x = counting(dtype, &shape);
        let sized = |d: usize| { let mut s = shape.clone(); s[axis] = d; s };
        let (first, second) = (sized(cut), sized(shape[axis] - cut));
        let a = pick(&x, &first, <[usize]>::to_vec);
        let b = pick(&x, &second, |i| { let mut i = i.to_vec(); i[axis] += cut; i });
        let outs = [(dtype, first.clone()), (dtype, second.clone())];
        let spec = |name| Spec::new(name).int("axis", axis as i64);
        run_all(&spec("split"), &[Some(x.clone())], &outs, |name, results| {
            assert_eq!((&results[0], &results[1]), (&a, &b), "{name}");
        });
        let part = |shape: &[usize], bytes: &[u8]| Some(Tensor { dtype, shape: shape.to_vec(), bytes: bytes.to_vec(), weight: false });
        check(&spec("concat"), &[part(&first, &a), part(&second, &b)], dtype, &shape, &x.bytes);
    }

    #[test]
    fn padding_matches(
        axes in prop::collection::vec((1usize..8, -2i64..5, -2i64..5), 1..4), mode in 0usize..4,
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let mode = ["constant", "reflect", "edge", "wrap"][mode];
        let out: Vec<i64> = axes.iter().map(|a| a.0 as i64 + a.1 + a.2).collect();
        prop_assume!(out.iter().all(|&d| d >= 0));
        let out: Vec<usize> = out.iter().map(|&d| d as usize).collect();
        let shape: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let x = counting(dtype, &shape);
        let size = dtype.size_bytes();
        let source = |at: i64, length: i64| -> Option<usize> {
            let mut at = at;
            match mode {
                "constant" => return (0..length).contains(&at).then_some(at as usize),
                "edge" => at = at.max(0).min(length - 1),
                "wrap" => at = at.rem_euclid(length),
                _ => while !(0..length).contains(&at) {
                    if length == 1 { at = 0 } else if at < 0 { at = -at } else { at = 2 * (length - 1) - at }
                },
            }
            Some(at as usize)
        };
        let want: Vec<u8> = (0..product(&out)).flat_map(|at| {
            let place = index(&out, at);
            let from: Option<Vec<usize>> =
                place.iter().zip(&axes).map(|(&i, a)| source(i as i64 - a.1, a.0 as i64)).collect();
            from.map_or(vec![7; size], |from| { let at = flat(&shape, &from) * size; x.bytes[at..at + size].to_vec() })
        }).collect();
        let pads: Vec<i64> = axes.iter().map(|a| a.1).chain(axes.iter().map(|a| a.2)).collect();
        let value = Tensor { dtype, shape: vec![], bytes: vec![7; size], weight: false };
        let spec = Spec::new("pad").dims("pads", &pads).string("mode", mode).float("value", 0.0);
        check(&spec, &[Some(x), Some(value)], dtype, &out, &want);
    }

    #[test]
    fn gathering_matches(
        shape in prop::collection::vec(1usize..7, 1..4), pick_axis in 0usize..3,
        raw in prop::collection::vec(any::<i64>(), 0..6), dtype in prop::sample::select(&TYPES[..]),
    ) {
        let axis = pick_axis % shape.len();
        let length = shape[axis] as i64;
        let indices: Vec<i64> = raw.iter().map(|v| v.rem_euclid(2 * length) - length).collect();
        let x = counting(dtype, &shape);
        let mut out = shape.clone();
        out[axis] = indices.len();
        let want = pick(&x, &out, |i| { let mut i = i.to_vec(); i[axis] = indices[i[axis]].rem_euclid(length) as usize; i });
        let spec = Spec::new("gather").int("axis", axis as i64);
        check(&spec, &[Some(x), Some(Tensor::i64(&[indices.len()], &indices))], dtype, &out, &want);
    }
}

#[test]
fn large_movements_match() {
    let x = counting(ElementType::F32, &[12, 130, 70]);
    let want = pick(&x, &[130, 12, 70], |i| vec![i[1], i[0], i[2]]);
    check(
        &Spec::new("transpose").ints("perm", &[1, 0, 2]),
        &[Some(x.clone())],
        ElementType::F32,
        &[130, 12, 70],
        &want,
    );
    let want = pick(&x, &[12, 70, 130], |i| vec![i[0], i[2], i[1]]);
    check(
        &Spec::new("transpose").ints("perm", &[0, 2, 1]),
        &[Some(x.clone())],
        ElementType::F32,
        &[12, 70, 130],
        &want,
    );
    check(&Spec::new("copy"), &[Some(x.clone())], ElementType::F32, &[12 * 130 * 70], &x.bytes);
}

#[test]
fn an_index_out_of_range_is_an_error() {
    let x = counting(ElementType::F32, &[4, 2]);
    for bad in [4, -5, i64::MIN] {
        let error = refusal(
            &Spec::new("gather").int("axis", 0),
            &[Some(x.clone()), Some(Tensor::i64(&[1], &[bad]))],
            &[(ElementType::F32, vec![1, 2])],
        );
        assert_eq!(error.code, "R043");
    }
}

#[test]
fn known_tensors_are_filled() {
    let spec = Spec::new("fill").float("value", 1.5);
    check(&spec, &[], ElementType::F32, &[3], &[1.5f32.to_ne_bytes(); 3].concat());
    check(&spec, &[], ElementType::F64, &[2], &[1.5f64.to_ne_bytes(); 2].concat());
    let spec = Spec::new("fill").int("int", -2);
    check(&spec, &[], ElementType::I64, &[2], &[(-2i64).to_ne_bytes(); 2].concat());
    check(&spec, &[], ElementType::I8, &[1], &[0xfe]);
    let spec = Spec::new("dims").dims("values", &[4, -1]);
    check(&spec, &[], ElementType::I64, &[2], &[4i64.to_ne_bytes(), (-1i64).to_ne_bytes()].concat());
    check(&spec, &[], ElementType::I32, &[2], &[4i32.to_ne_bytes(), (-1i32).to_ne_bytes()].concat());
}
