//! `TfIdfVectorizer`: how often the listed n-grams occur in a sequence of tokens.

use crate::common::{
    PLAIN, attr, attr_error, exactly, from_f64s, input, onnx, required, sample_of, tensor, type_error,
    unsupported, work,
};
use crate::eval::result;
use crate::ml_common::{floats, want_dtype};
use crate::ml_encode::{Key, keys};
use partita_ir::attr::{Attr, Attrs};
use partita_ir::diag::Diag;
use partita_ir::op::{AttrKind, EvalCtx, InferCtx, OpDef, Rng, Sample, WorkCtx};
use partita_ir::types::Type;
use partita_ir::work::{Work, WorkKind};
use partita_ir::{DType, Tensor};
use std::collections::BTreeMap;

/// Rows of this family.
pub(crate) const ROWS: &[&OpDef] = &[&TFIDF_VECTORIZER];

/// Widest result.
const MAX_COLUMNS: i64 = 1 << 26;

static TFIDF_VECTORIZER: OpDef = OpDef {
    name: "tfidf_vectorizer",
    doc: "counts of n-grams (with gaps up to a limit) at the columns given for them, maybe weighted",
    onnx: &[onnx("TfIdfVectorizer", 9)],
    inputs: exactly(1),
    outputs: exactly(1),
    attrs: &[
        required("max_gram_length", AttrKind::Int),
        required("max_skip_count", AttrKind::Int),
        required("min_gram_length", AttrKind::Int),
        required("mode", AttrKind::Str),
        required("ngram_counts", AttrKind::Ints),
        required("ngram_indexes", AttrKind::Ints),
        attr("pool_int64s", AttrKind::Ints),
        attr("pool_strings", AttrKind::Strs),
        attr("weights", AttrKind::Floats),
    ],
    traits: PLAIN,
    infer: infer_tfidf,
    content: None,
    eval: eval_tfidf,
    scalar: None,
    data: None,
    work: work_tfidf,
    sample: sample_tfidf,
};

/// What becomes of a count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Tf,
    Idf,
    TfIdf,
}

/// The attributes, checked.
struct Config {
    mode: Mode,
    /// Shortest and longest n-gram.
    lengths: (usize, usize),
    max_skip: usize,
    /// Column of each n-gram of the pool.
    columns: Vec<usize>,
    width: usize,
    /// Empty, or one for each n-gram.
    weights: Vec<f64>,
}

fn count(attrs: &Attrs, name: &str, least: usize) -> Result<usize, Diag> {
    let value = attrs.int_or(name, 0);
    let fits = usize::try_from(value).ok().filter(|v| *v >= least);
    fits.ok_or_else(|| attr_error(format!("{name} is {value}, at least {least} is expected")))
}

impl Config {
    fn read(attrs: &Attrs) -> Result<Self, Diag> {
        let mode = match attrs.str("mode") {
            Some("TF") => Mode::Tf,
            Some("IDF") => Mode::Idf,
            Some("TFIDF") => Mode::TfIdf,
            other => return Err(attr_error(format!("mode {other:?} is unknown"))),
        };
        let indexes = attrs.ints("ngram_indexes").unwrap_or_default();
        let last = indexes.iter().copied().max().ok_or_else(|| attr_error("ngram_indexes is empty"))?;
        if last >= MAX_COLUMNS {
            return Err(unsupported(format!("column {last} is too far, there are at most {MAX_COLUMNS}")));
        }
        let columns: Option<Vec<usize>> = indexes.into_iter().map(|i| usize::try_from(i).ok()).collect();
        let columns = columns.ok_or_else(|| attr_error("ngram_indexes holds a negative number"))?;
        let width = columns.iter().max().map_or(0, |m| m + 1);
        let weights = floats(attrs, "weights").unwrap_or_default();
        if !weights.is_empty() && weights.len() != columns.len() {
            return Err(attr_error(format!("{} weights for {} n-grams", weights.len(), columns.len())));
        }
        let lengths = (count(attrs, "min_gram_length", 1)?, count(attrs, "max_gram_length", 1)?);
        if lengths.0 > lengths.1 {
            return Err(attr_error(format!("n-grams of {} to {} tokens", lengths.0, lengths.1)));
        }
        Ok(Self { mode, lengths, max_skip: count(attrs, "max_skip_count", 0)?, columns, width, weights })
    }

    /// The counts of all n-grams as a row of the result.
    fn row(&self, counts: &[f64]) -> Vec<f64> {
        let mut row = vec![0.0; self.width];
        for (gram, (count, column)) in counts.iter().zip(&self.columns).enumerate() {
            let weight = self.weights.get(gram).copied().unwrap_or(1.0);
            row[*column] += match self.mode {
                Mode::Tf => *count,
                Mode::Idf => count.min(1.0) * weight,
                Mode::TfIdf => count * weight,
            };
        }
        row
    }
}

/// N-grams as a tree of tokens.
struct Grams<'a> {
    /// Child of a node by token.
    children: BTreeMap<(usize, Key<'a>), usize>,
    /// Number of the n-gram that ends in a node.
    grams: Vec<Option<usize>>,
}

impl<'a> Grams<'a> {
    /// The n-grams of the pool that have a length that counts.
    fn new(attrs: &Attrs, pool: &[Key<'a>], config: &Config) -> Result<Self, Diag> {
        let bad = || attr_error("ngram_counts does not fit the pool").hint("the model is damaged");
        let mut starts = Vec::new();
        for start in attrs.ints("ngram_counts").unwrap_or_default() {
            starts.push(usize::try_from(start).map_err(|_| bad())?);
        }
        let mut grams = Self { children: BTreeMap::new(), grams: vec![None] };
        let mut numbers = 0..config.columns.len();
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(pool.len());
            let items = pool.get(*start..end).ok_or_else(bad)?;
            if items.len() % (n + 1) != 0 {
                return Err(bad());
            }
            for gram in items.chunks_exact(n + 1) {
                let number = numbers.next().ok_or_else(bad)?;
                if (config.lengths.0..=config.lengths.1).contains(&(n + 1)) {
                    grams.add(gram, number);
                }
            }
        }
        Ok(grams)
    }

    fn add(&mut self, gram: &[Key<'a>], number: usize) {
        let mut node = 0;
        for token in gram {
            node = *self.children.entry((node, *token)).or_insert_with(|| {
                self.grams.push(None);
                self.grams.len() - 1
            });
        }
        self.grams[node] = Some(number);
    }

    /// Adds the n-grams of one sequence to `counts`.
    fn count(&self, tokens: &[Key<'a>], config: &Config, counts: &mut [f64]) {
        let (mut shortest, longest) = config.lengths;
        // Gaps as long as the sequence find nothing.
        for step in 1..=config.max_skip.min(tokens.len()) + 1 {
            for start in 0..tokens.len() {
                if start + step * (shortest - 1) >= tokens.len() {
                    break;
                }
                let mut node = 0;
                for (n, token) in tokens[start..].iter().step_by(step).take(longest).enumerate() {
                    let Some(&child) = self.children.get(&(node, *token)) else { break };
                    node = child;
                    if let Some(gram) = self.grams[node].filter(|_| n + 1 >= shortest) {
                        counts[gram] += 1.0;
                    }
                }
            }
            // One token has no gaps: it is counted once.
            shortest = shortest.max(2);
            if shortest > longest {
                break;
            }
        }
    }
}

fn infer_tfidf(ctx: &InferCtx) -> Result<Vec<Type>, Diag> {
    let x = input(ctx, 0)?;
    want_dtype(x.dtype, &[DType::Str, DType::I32, DType::I64])?;
    let width = Config::read(ctx.attrs)?.width.into();
    let shape = match x.shape.as_slice() {
        [] | [_] => vec![width],
        [rows, _] => vec![rows.clone(), width],
        _ => return Err(type_error(format!("the operand must have at most two dimensions, it is {x}"))),
    };
    Ok(vec![Type::new(DType::F32, shape)])
}

/// The pool as a tensor.
fn pool(attrs: &Attrs, dtype: DType) -> Result<Tensor, Diag> {
    let pool = match dtype {
        DType::Str => attrs.strs("pool_strings").and_then(|s| Tensor::from_strings(&[s.len()], s)),
        _ => attrs.ints("pool_int64s").and_then(|v| Tensor::from_slice(&[v.len()], &v)),
    };
    pool.ok_or_else(|| attr_error(format!("there is no pool of n-grams for {}", dtype.name())))
}

fn eval_tfidf(ctx: &EvalCtx) -> Result<Vec<Tensor>, Diag> {
    let (dtype, shape) = result(ctx, infer_tfidf)?;
    let x = tensor(ctx, 0)?;
    let config = Config::read(ctx.attrs)?;
    let pool = pool(ctx.attrs, x.dtype())?;
    let grams = Grams::new(ctx.attrs, &keys(&pool), &config)?;
    let tokens = keys(x);
    let length = x.shape().last().copied().unwrap_or(1);
    let n_rows = shape.iter().product::<usize>() / config.width;
    let mut y = Vec::with_capacity(n_rows * config.width);
    for row in 0..n_rows {
        let mut counts = vec![0.0; config.columns.len()];
        grams.count(&tokens[row * length..(row + 1) * length], &config, &mut counts);
        y.extend(config.row(&counts));
    }
    Ok(vec![from_f64s(dtype, &shape, &y)?])
}

/// A look-up for each token, length and gap.
fn work_tfidf(ctx: &WorkCtx) -> Work {
    let tokens = ctx.inputs.first().and_then(|i| i.as_ref()).map_or(1, |(_, s)| s.iter().product::<usize>());
    let each = |name: &str| ctx.attrs.int_or(name, 0).clamp(0, 64) as f64;
    let flops = tokens as f64 * (1.0 + each("max_skip_count")) * each("max_gram_length");
    work(ctx, flops, WorkKind::Vector)
}

fn sample_tfidf(rng: &mut Rng) -> Sample {
    let shortest = rng.int(1, 2);
    let mut attrs = Attrs::new()
        .with("mode", *rng.pick(&["TF", "IDF", "TFIDF"]))
        .with("min_gram_length", shortest)
        .with("max_gram_length", rng.int(shortest, 2))
        .with("max_skip_count", rng.int(0, 3))
        .with("ngram_counts", vec![0i64, 3])
        .with("ngram_indexes", vec![0i64, 1, 2, 3, 4]);
    if rng.below(2) == 0 {
        attrs.set("weights", vec![0.5f32, 1.5, 2.0, 3.0, 4.0]);
    }
    let shape = [vec![], vec![4], vec![2, 5], vec![1, 0]][rng.below(4)].clone();
    let n = shape.iter().product();
    let words = ["a", "b", "c"];
    let x = if rng.below(2) == 0 {
        attrs.set("pool_int64s", vec![0i64, 1, 2, 0, 1, 1, 2]);
        let dtype = *rng.pick(&[DType::I32, DType::I64]);
        rng.tensor(dtype, &shape, 0.0, 3.0)
    } else {
        let pool = [0, 1, 2, 0, 1, 1, 2].map(|i| words[i].to_owned());
        attrs.set("pool_strings", Attr::Strs(pool.to_vec()));
        let tokens: Vec<&str> = (0..n).map(|_| *rng.pick(&words)).collect();
        Tensor::from_strings(&shape, &tokens).unwrap_or_else(|| Tensor::scalar(0i64))
    };
    Sample { attrs, ..sample_of(vec![x]) }
}
