//! Where the matrices of an attention lie in its operands: element steps along batch, rows and columns.
//!
//! Either the shapes say it (dense operands, leading axes broadcast), or the plan gives steps, so that heads are read
//! out of a projection and written into the operand of the next without being moved. Both are checked here.

use crate::prepared::{Call, Operand};
use partita_plan::ElementType;
use partita_runtime::error::RuntimeError;

/// Sizes of an attention: queries, keys, columns of a key and of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub queries: usize,
    pub keys: usize,
    pub depth: usize,
    pub values: usize,
}

/// One matrix per entry of the batch, in elements of an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matrices {
    /// First element.
    first: usize,
    /// Step along each batch axis.
    batch: Vec<usize>,
    pub row: usize,
    pub column: usize,
}

/// What an attention reads and writes.
pub(crate) struct Heads {
    pub batch: Vec<usize>,
    pub sizes: Sizes,
    pub q: Matrices,
    pub k: Matrices,
    pub v: Matrices,
    pub mask: Option<Matrices>,
    pub y: Matrices,
}

impl Matrices {
    /// The last two axes of a dense operand, its leading ones broadcast to `batch`.
    fn dense(shape: &[usize], batch: &[usize]) -> Option<Self> {
        let (leading, matrix) = shape.split_at(shape.len().checked_sub(2)?);
        let missing = batch.len().checked_sub(leading.len())?;
        let mut steps = vec![0; batch.len()];
        let mut step = matrix[0].checked_mul(matrix[1])?;
        for axis in (0..leading.len()).rev() {
            if leading[axis] != 1 {
                steps[missing + axis] = step;
            }
            step = step.checked_mul(leading[axis])?;
        }
        let fits = leading.iter().zip(&batch[missing..]).all(|(&own, &all)| own == all || own == 1);
        fits.then_some(Self { first: 0, batch: steps, row: matrix[1], column: 1 })
    }

    /// The steps a plan gives: first element, batch axes, rows, columns.
    pub(crate) fn given(call: &Call<'_>, name: &str, axes: usize) -> Result<Self, RuntimeError> {
        let steps = naturals(call, name)?;
        let [first, batch @ .., row, column] = steps.as_slice() else {
            return Err(call.bad(format!("parameter `{name}` has too few steps")));
        };
        call.ensure(batch.len() == axes, "steps and axes differ in number")?;
        Ok(Self { first: *first, batch: batch.to_vec(), row: *row, column: *column })
    }

    fn turned(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// One past the last element of matrices of `rows` x `columns`; `None` when that overflows.
    pub(crate) fn reach(&self, batch: &[usize], rows: usize, columns: usize) -> Option<usize> {
        let axes = self.batch.iter().zip(batch).chain([(&self.row, &rows), (&self.column, &columns)]);
        let mut last = self.first;
        for (&step, &length) in axes {
            let Some(most) = length.checked_sub(1) else { return Some(0) };
            last = last.checked_add(most.checked_mul(step)?)?;
        }
        last.checked_add(1)
    }

    /// Whether no two elements share a place.
    fn is_injective(&self, batch: &[usize], rows: usize, columns: usize) -> bool {
        let axes = self.batch.iter().zip(batch).chain([(&self.row, &rows), (&self.column, &columns)]);
        let mut axes: Vec<(usize, usize)> = axes.map(|(&s, &n)| (s, n)).filter(|(_, n)| *n > 1).collect();
        axes.sort_unstable();
        let mut inner = 0;
        axes.iter().all(|&(step, length)| {
            let free = step > inner;
            inner += step * (length - 1);
            free
        })
    }

    /// Offset of the matrix of every entry of the batch.
    pub(crate) fn offsets(&self, batch: &[usize]) -> Vec<usize> {
        let mut all = vec![self.first];
        for (&step, &length) in self.batch.iter().zip(batch) {
            all = all.iter().flat_map(|from| (0..length).map(move |i| from + i * step)).collect();
        }
        all
    }
}

/// Parameter `name` as sizes.
pub(crate) fn naturals(call: &Call<'_>, name: &str) -> Result<Vec<usize>, RuntimeError> {
    let sizes = call.kernel.dims(name).iter().map(|d| d.eval(call.symbols));
    let sizes = sizes.collect::<Result<Vec<i64>, _>>()?;
    let sizes: Option<Vec<usize>> = sizes.into_iter().map(|n| usize::try_from(n).ok()).collect();
    sizes.ok_or_else(|| call.bad(format!("parameter `{name}` is negative")))
}

impl Heads {
    /// The geometry of an `attention` step, checked against its operands.
    ///
    /// # Errors
    /// When operands and parameters do not fit each other.
    pub(crate) fn new(call: &Call<'_>) -> Result<Self, RuntimeError> {
        let sizes = naturals(call, "sizes")?;
        let heads = if sizes.is_empty() { Self::dense(call)? } else { Self::given(call, &sizes)? };
        heads.check(call)?;
        Ok(heads)
    }

    fn dense(call: &Call<'_>) -> Result<Self, RuntimeError> {
        let (q, k, v, y) = (call.input(0)?, call.input(1)?, call.input(2)?, call.output(0)?);
        let ranks = [q, k, v, y].iter().all(|o| o.shape.len() >= 2);
        call.ensure(ranks, "attention takes operands of two axes at least")?;
        let last = |o: &Operand| [o.shape[o.shape.len() - 2], o.shape[o.shape.len() - 1]];
        let ([queries, depth], [keys, values]) = (last(q), last(v));
        let turned = call.flag("k_transposed");
        let want = if turned { [depth, keys] } else { [keys, depth] };
        call.ensure(last(k) == want && last(y) == [queries, values], "queries, keys and values do not fit")?;
        let batch = y.shape[..y.shape.len() - 2].to_vec();
        let dense = |o: &Operand| {
            let all = Matrices::dense(&o.shape, &batch);
            all.ok_or_else(|| call.bad("the operands' leading axes do not broadcast"))
        };
        let (q, k, v, y) = (dense(q)?, dense(k)?, dense(v)?, dense(y)?);
        let mask =
            call.optional(3).map(|m| Self::dense_mask(call, m, &batch, [queries, keys])).transpose()?;
        let k = if turned { k.turned() } else { k };
        Ok(Self { sizes: Sizes { queries, keys, depth, values }, q, k, v, mask, y, batch })
    }

    fn dense_mask(
        call: &Call<'_>,
        mask: &Operand,
        batch: &[usize],
        scores: [usize; 2],
    ) -> Result<Matrices, RuntimeError> {
        let mut shape = mask.shape.clone();
        while shape.len() < 2 {
            shape.insert(0, 1);
        }
        let own = [shape[shape.len() - 2], shape[shape.len() - 1]];
        let fits = own.iter().zip(&scores).all(|(&own, &all)| own == 1 || own == all);
        call.ensure(fits, "the mask does not broadcast to the scores")?;
        let dense = Matrices::dense(&shape, batch);
        let dense = dense.ok_or_else(|| call.bad("the mask's leading axes do not broadcast"))?;
        let step = |n: usize, step: usize| if n == 1 { 0 } else { step };
        Ok(Matrices { row: step(own[0], dense.row), column: step(own[1], dense.column), ..dense })
    }

    fn given(call: &Call<'_>, sizes: &[usize]) -> Result<Self, RuntimeError> {
        let [batch @ .., queries, keys, depth, values] = sizes else {
            return Err(call.bad("parameter `sizes` has too few sizes"));
        };
        let given = |name| Matrices::given(call, name, batch.len());
        let mask = call.optional(3).map(|_| given("mask")).transpose()?;
        Ok(Self {
            batch: batch.to_vec(),
            sizes: Sizes { queries: *queries, keys: *keys, depth: *depth, values: *values },
            q: given("q")?,
            k: given("k")?,
            v: given("v")?,
            mask,
            y: given("y")?,
        })
    }

    fn check(&self, call: &Call<'_>) -> Result<(), RuntimeError> {
        let Sizes { queries, keys, depth, values } = self.sizes;
        let count = self.batch.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let elements = count.and_then(|n| n.checked_mul(queries)).and_then(|n| n.checked_mul(values));
        let y = call.output(0)?;
        call.ensure(elements == Some(y.len()), "sizes and result do not fit")?;
        let within = |o: &Operand, m: &Matrices, rows: usize, columns: usize| {
            let reach = m.reach(&self.batch, rows, columns);
            call.ensure(reach.is_some_and(|r| r <= o.len()), "a head reaches outside of its operand")
        };
        let plain = |o: &Operand| o.dtype == ElementType::F32 && o.layout.is_none();
        let own = [(call.input(0)?, &self.q, queries, depth), (call.input(1)?, &self.k, keys, depth)];
        for (o, m, rows, columns) in
            own.into_iter().chain([(call.input(2)?, &self.v, keys, values), (y, &self.y, queries, values)])
        {
            call.ensure(plain(o), "attention takes f32, row-major operands")?;
            within(o, m, rows, columns)?;
        }
        if let (Some(o), Some(m)) = (call.optional(3), &self.mask) {
            let known = plain(o) || (o.dtype == ElementType::Bool && o.layout.is_none());
            call.ensure(known, "the mask must be f32 or boolean")?;
            within(o, m, queries, keys)?;
        }
        let dense_rows = values < 2 || self.y.column == 1;
        call.ensure(dense_rows, "the rows of the result must be contiguous")?;
        call.ensure(self.y.is_injective(&self.batch, queries, values), "elements of the result share a place")
    }

    /// One query for each of several heads that share keys and values: the heads become the rows of one.
    pub(crate) fn stacked(mut self) -> Self {
        let Some(last) = self.batch.len().checked_sub(1) else { return self };
        let shared = |m: &Matrices| m.batch[last] == 0;
        if self.sizes.queries != 1 || self.batch[last] < 2 || !shared(&self.k) || !shared(&self.v) {
            return self;
        }
        self.sizes.queries = self.batch[last];
        self.batch.truncate(last);
        for m in [&mut self.k, &mut self.v] {
            m.batch.truncate(last);
        }
        for m in [&mut self.q, &mut self.y].into_iter().chain(&mut self.mask) {
            m.row = m.batch.pop().unwrap_or(0);
        }
        self
    }
}
