//! Micro-kernels: a tile of up to `MR` x `NR` results stays in registers while K runs.
//!
//! A is read where it lies: rows `a_row` apart, depth in segments (`taps`) of `depth` elements `a_step` apart, so that
//! rows of a matrix, its transpose and the windows of a convolution are the same thing. B is read in rows of
//! neighbouring columns `b_step` apart; a packed panel has `b_step == NR`.
//! AVX-512 holds the whole tile (28 accumulators) or, for up to `THIN` rows, `WIDE` panels at once, because few rows
//! alone have too few independent sums to hide the latency of an addition. AVX2 holds a 6 x 16 part, the portable form
//! 4 x 8 or 4 x 16.
#![allow(unsafe_code, reason = "kernels work on raw memory whose bounds were checked when they were bound")]

use crate::activation::Activation;
use crate::isa::Isa;
use crate::lanes::Lanes;
use crate::layout::{MR, NR};

/// Most rows of the form that works on `WIDE` panels at once.
pub(crate) const THIN: usize = 3;
/// Panels that form works on.
pub(crate) const WIDE: usize = 4;

/// What is added to a finished result and how it is bounded, before it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Post {
    /// One value per row of the block, or null.
    pub row_bias: *const f32,
    /// One value per column of the block, or null.
    pub column_bias: *const f32,
    /// A value for every result, with the result's row distance, or null.
    pub residual: *const f32,
    /// Bounds; infinite when there are none. NaN is within all bounds.
    pub low: f32,
    pub high: f32,
    /// What is applied last.
    pub activation: Activation,
    /// Whether anything above is set.
    pub active: bool,
}

impl Post {
    /// Nothing is added or bounded.
    pub(crate) const NONE: Self = Self {
        row_bias: std::ptr::null(),
        column_bias: std::ptr::null(),
        residual: std::ptr::null(),
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
        activation: Activation::Identity,
        active: false,
    };

    /// The same for the block that starts at `row` and `column`.
    pub(crate) fn at(&self, row: usize, column: usize, ldc: usize) -> Self {
        let shift = |p: *const f32, by: usize| if p.is_null() { p } else { p.wrapping_add(by) };
        Self {
            row_bias: shift(self.row_bias, row),
            column_bias: shift(self.column_bias, column),
            residual: shift(self.residual, row * ldc + column),
            ..*self
        }
    }

    /// Finishes `value`, which has its column's bias, of row `row`; the residual's element is `at`.
    ///
    /// # Safety
    /// Operands have the lanes from there on, and the instruction set of the vector is here.
    #[inline(always)]
    pub(crate) unsafe fn after_bias<V: Lanes>(&self, value: V, row: usize, at: usize) -> V {
        let mut value = value;
        // SAFETY: the caller's contract.
        unsafe {
            if !self.row_bias.is_null() {
                value = value.add(V::splat(*self.row_bias.add(row)));
            }
            if !self.residual.is_null() {
                value = value.add(V::load(self.residual.wrapping_add(at)));
            }
            self.last(value)
        }
    }

    /// Bounds `value` and applies the activation.
    ///
    /// # Safety
    /// The instruction set of the vector is here.
    #[inline(always)]
    pub(crate) unsafe fn last<V: Lanes>(&self, value: V) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            let value = value.at_least(V::splat(self.low)).at_most(V::splat(self.high));
            self.activation.apply(value)
        }
    }
}

/// One call of a micro-kernel.
pub(crate) struct Micro<'a> {
    /// Offsets in elements of the segments of A.
    pub taps: &'a [usize],
    /// Elements of a segment.
    pub depth: usize,
    pub a: *const f32,
    /// Distance of two rows of A and of two elements of a segment.
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const f32,
    /// Distance of two rows of B and of two panels.
    pub b_step: usize,
    pub b_panel: usize,
    /// What will be read as B next: for every row of B two cache lines are fetched here, and the address moves on by
    /// `ahead_step`.
    pub ahead: *const f32,
    pub ahead_step: usize,
    pub c: *mut f32,
    pub ldc: usize,
    /// Columns of the tile: 1..=NR, all of `WIDE` panels in their form.
    pub cols: usize,
    /// Adds to C instead of overwriting it.
    pub add: bool,
    pub post: Post,
}

pub(crate) type Kernel = unsafe fn(&Micro<'_>);

macro_rules! table {
    ($f:ident) => {
        [
            $f::<1>, $f::<2>, $f::<3>, $f::<4>, $f::<5>, $f::<6>, $f::<7>, $f::<8>, $f::<9>, $f::<10>,
            $f::<11>, $f::<12>, $f::<13>, $f::<14>,
        ]
    };
}
pub(crate) use table;

static PORTABLE: [Kernel; MR] = table!(portable);
#[cfg(target_arch = "x86_64")]
static AVX2: [Kernel; MR] = table!(avx2);
#[cfg(target_arch = "x86_64")]
static AVX512: [Kernel; MR] = table!(avx512);
#[cfg(target_arch = "x86_64")]
static AVX512_WIDE: [Kernel; THIN] = [avx512_wide::<1>, avx512_wide::<2>, avx512_wide::<3>];

/// The micro-kernels for one panel; entry `r - 1` serves r rows.
pub(crate) fn kernels(isa: Isa) -> &'static [Kernel; MR] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        _ => &PORTABLE,
    }
}

/// The micro-kernels for few rows and `WIDE` whole panels, where the instruction set has them.
pub(crate) fn wide_kernels(isa: Isa) -> Option<&'static [Kernel; THIN]> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Some(&AVX512_WIDE),
        _ => None,
    }
}

impl Micro<'_> {
    /// Stores `count` sums of row `row` from column `column` on, one by one.
    #[inline(always)]
    pub(crate) unsafe fn store(&self, row: usize, column: usize, sums: *const f32, count: usize) {
        for j in 0..count {
            // SAFETY: the row and column lie in the tile, which lies in C.
            unsafe {
                let c = self.c.add(row * self.ldc + column + j);
                let mut value = *sums.add(j);
                if self.add {
                    value += *c;
                }
                if self.post.active {
                    value = self.finish(row, column + j, value);
                }
                *c = value;
            }
        }
    }

    /// What sums of the columns from `first` on begin with: the columns' bias.
    ///
    /// # Safety
    /// As for `store_panel`.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn start(&self, first: usize) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::*;
        let bias = self.post.column_bias.wrapping_add(first);
        // SAFETY: the bias has the tile's columns.
        unsafe {
            if self.post.column_bias.is_null() {
                return [_mm512_setzero_ps(); 2];
            }
            let mask = column_mask(self.cols);
            [
                _mm512_maskz_loadu_ps(mask as u16, bias),
                _mm512_maskz_loadu_ps((mask >> 16) as u16, bias.wrapping_add(16)),
            ]
        }
    }

    /// Stores the sums of a panel whose first column is `first`; they have the columns' bias.
    ///
    /// # Safety
    /// The tile has `R` rows and the panel's columns; AVX-512 is here.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn store_panel<const R: usize>(
        &self,
        sums: &[[std::arch::x86_64::__m512; 2]; R],
        first: usize,
    ) {
        let mask = column_mask(self.cols);
        // SAFETY: the lanes of the mask lie in the tile.
        unsafe {
            self.store_half::<R>(std::array::from_fn(|r| sums[r][0]), first, mask as u16);
            self.store_half::<R>(std::array::from_fn(|r| sums[r][1]), first + 16, (mask >> 16) as u16);
        }
    }

    /// Stores sixteen columns of sums. What is usual is done to all rows step by step, so that it is asked for once.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store_half<const R: usize>(
        &self,
        mut values: [std::arch::x86_64::__m512; R],
        column: usize,
        mask: u16,
    ) {
        use std::arch::x86_64::*;
        let post = &self.post;
        let swish = match post.activation {
            Activation::Identity => None,
            Activation::HardSwish { slope, shift } => Some(Activation::HardSwish { slope, shift }),
            // SAFETY: the same contract.
            _ => return unsafe { store_rows(self, &values, column, mask) },
        };
        if !post.row_bias.is_null() {
            // SAFETY: the same contract.
            return unsafe { store_rows(self, &values, column, mask) };
        }
        // SAFETY: the lanes of the mask lie in the tile, and operands have the extent of the block.
        unsafe {
            let c = self.c.wrapping_add(column);
            if self.add {
                add_rows(&mut values, c, self.ldc, mask);
            }
            if post.active {
                if !post.residual.is_null() {
                    add_rows(&mut values, post.residual.wrapping_add(column), self.ldc, mask);
                }
                // The instructions return their second operand when one is NaN.
                if post.low > f32::NEG_INFINITY {
                    for value in &mut values {
                        *value = _mm512_max_ps(_mm512_set1_ps(post.low), *value);
                    }
                }
                if post.high < f32::INFINITY {
                    for value in &mut values {
                        *value = _mm512_min_ps(_mm512_set1_ps(post.high), *value);
                    }
                }
                if let Some(swish) = swish {
                    for value in &mut values {
                        *value = swish.apply(*value);
                    }
                }
            }
            for (r, &value) in values.iter().enumerate() {
                _mm512_mask_storeu_ps(c.wrapping_add(r * self.ldc), mask, value);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, row: usize, column: usize, mut value: f32) -> f32 {
        let post = &self.post;
        // SAFETY: operands have the extent of the block.
        unsafe {
            if !post.row_bias.is_null() {
                value += *post.row_bias.add(row);
            }
            if !post.column_bias.is_null() {
                value += *post.column_bias.add(column);
            }
            if !post.residual.is_null() {
                value += *post.residual.add(row * self.ldc + column);
            }
        }
        // SAFETY: the caller's contract.
        unsafe { post.last([value])[0] }
    }
}

/// Columns the portable form holds in registers.
const WIDTH: usize = if cfg!(target_arch = "aarch64") { 16 } else { 8 };

unsafe fn portable<const R: usize>(m: &Micro<'_>) {
    for row in (0..R).step_by(4) {
        for column in (0..m.cols).step_by(WIDTH) {
            // SAFETY: rows and columns lie in the tile.
            unsafe {
                match R - row {
                    1 => portable_part::<1>(m, row, column),
                    2 => portable_part::<2>(m, row, column),
                    3 => portable_part::<3>(m, row, column),
                    _ => portable_part::<4>(m, row, column),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn portable_part<const R: usize>(m: &Micro<'_>, row: usize, column: usize) {
    const FMA: bool = crate::isa::PORTABLE_FMA;
    let count = (m.cols - column).min(WIDTH);
    let mut sums = [[0f32; WIDTH]; R];
    let mut b = m.b.wrapping_add(column);
    for &tap in m.taps {
        let mut a = m.a.wrapping_add(row * m.a_row + tap);
        for _ in 0..m.depth {
            let mut line = [0f32; WIDTH];
            // SAFETY: B has `count` columns here.
            unsafe { std::ptr::copy_nonoverlapping(b, line.as_mut_ptr(), count) };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: A has R rows from `row` on.
                let value = unsafe { *a.add(r * m.a_row) };
                for (sum, &b) in sums.iter_mut().zip(&line) {
                    *sum = crate::math::fma::<FMA>(value, b, *sum);
                }
            }
            a = a.wrapping_add(m.a_step);
            b = b.wrapping_add(m.b_step);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the row and the columns lie in the tile.
        unsafe { m.store(row + r, column, sums.as_ptr(), count) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(m: &Micro<'_>) {
    for row in (0..R).step_by(6) {
        for column in (0..m.cols).step_by(16) {
            // SAFETY: rows and columns lie in the tile.
            unsafe {
                match R - row {
                    1 => avx2_part::<1>(m, row, column),
                    2 => avx2_part::<2>(m, row, column),
                    3 => avx2_part::<3>(m, row, column),
                    4 => avx2_part::<4>(m, row, column),
                    5 => avx2_part::<5>(m, row, column),
                    _ => avx2_part::<6>(m, row, column),
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_part<const R: usize>(m: &Micro<'_>, row: usize, column: usize) {
    use std::arch::x86_64::*;
    let count = (m.cols - column).min(16);
    // SAFETY: as in `portable_part`; partial rows are read through masks.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let low_mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
        let high_mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32 - 8), lanes);
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        let mut b = m.b.wrapping_add(column);
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(row * m.a_row + tap);
            for _ in 0..m.depth {
                let low = _mm256_maskload_ps(b, low_mask);
                let high = _mm256_maskload_ps(b.wrapping_add(8), high_mask);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*a.wrapping_add(r * m.a_row));
                    sums[0] = _mm256_fmadd_ps(value, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(value, high, sums[1]);
                }
                a = a.wrapping_add(m.a_step);
                b = b.wrapping_add(m.b_step);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            if count == 16 {
                avx2_store(m, row + r, column, sums[0]);
                avx2_store(m, row + r, column + 8, sums[1]);
            } else {
                let mut line = [0f32; 16];
                _mm256_storeu_ps(line.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(line.as_mut_ptr().add(8), sums[1]);
                m.store(row + r, column, line.as_ptr(), count);
            }
        }
    }
}

/// Stores eight results.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_store(m: &Micro<'_>, row: usize, column: usize, mut value: std::arch::x86_64::__m256) {
    use std::arch::x86_64::*;
    let (post, at) = (&m.post, row * m.ldc + column);
    // SAFETY: eight columns from `column` on lie in the tile, and operands have the extent of the block.
    unsafe {
        let c = m.c.add(at);
        if m.add {
            value = _mm256_add_ps(value, _mm256_loadu_ps(c));
        }
        if post.active {
            if !post.row_bias.is_null() {
                value = _mm256_add_ps(value, _mm256_set1_ps(*post.row_bias.add(row)));
            }
            if !post.column_bias.is_null() {
                value = _mm256_add_ps(value, _mm256_loadu_ps(post.column_bias.add(column)));
            }
            if !post.residual.is_null() {
                value = _mm256_add_ps(value, _mm256_loadu_ps(post.residual.add(at)));
            }
            value = post.last(value);
        }
        _mm256_storeu_ps(c, value);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512<const R: usize>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    if m.cols <= 16 {
        // SAFETY: the same contract.
        return unsafe { avx512_half::<R>(m) };
    }
    let mask = column_mask(m.cols);
    let masks = [mask as u16, (mask >> 16) as u16];
    // SAFETY: the bias has the tile's columns.
    let mut sums = [unsafe { m.start(0) }; R];
    let (mut b, mut ahead) = (m.b, m.ahead);
    let (row, step, b_step) = (m.a_row, m.a_step, m.b_step);
    // SAFETY: rows of B are read through masks, A has R rows; fetching ahead reads nothing.
    unsafe {
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(tap);
            for _ in 0..m.depth {
                let low = _mm512_maskz_loadu_ps(masks[0], b);
                let high = _mm512_maskz_loadu_ps(masks[1], b.wrapping_add(16));
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(LINE).cast());
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*a.wrapping_add(r * row));
                    sums[0] = _mm512_fmadd_ps(value, low, sums[0]);
                    sums[1] = _mm512_fmadd_ps(value, high, sums[1]);
                }
                a = a.wrapping_add(step);
                b = b.wrapping_add(b_step);
                ahead = ahead.wrapping_add(m.ahead_step);
            }
        }
        m.store_panel(&sums, 0);
    }
}

/// Columns of a panel as a mask.
#[cfg(target_arch = "x86_64")]
fn column_mask(cols: usize) -> u32 {
    if cols >= NR { u32::MAX } else { (1u32 << cols) - 1 }
}

/// Floats of a cache line.
pub(crate) const LINE: usize = 16;

/// The tile when it has at most sixteen columns.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512_half<const R: usize>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    let mask = ((1u32 << m.cols) - 1) as u16;
    // SAFETY: the bias has the tile's columns.
    let mut sums = [unsafe { m.start(0)[0] }; R];
    let mut b = m.b;
    let (row, step, b_step) = (m.a_row, m.a_step, m.b_step);
    // SAFETY: as for the whole tile.
    unsafe {
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(tap);
            for _ in 0..m.depth {
                let line = _mm512_maskz_loadu_ps(mask, b);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(*a.wrapping_add(r * row)), line, *sum);
                }
                a = a.wrapping_add(step);
                b = b.wrapping_add(b_step);
            }
        }
        m.store_half(sums, 0, mask);
    }
}

/// Rows of B between reading one and asking for one; about a memory latency at the rate of streaming.
#[cfg(target_arch = "x86_64")]
const FETCH_ROWS: usize = 16;

/// `R` rows of `WIDE` whole panels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512_wide<const R: usize>(m: &Micro<'_>) {
    use std::arch::x86_64::*;
    // SAFETY: the bias has the columns of all panels.
    let mut sums: [[_; R]; WIDE] = std::array::from_fn(|p| [unsafe { m.start(p * NR) }; R]);
    let mut b = m.b;
    let (row, step, b_step, panel) = (m.a_row, m.a_step, m.b_step, m.b_panel);
    // SAFETY: the panels are whole, A has R rows; fetching ahead reads nothing.
    unsafe {
        for &tap in m.taps {
            let mut a = m.a.wrapping_add(tap);
            for _ in 0..m.depth {
                let values: [__m512; R] = std::array::from_fn(|r| _mm512_set1_ps(*a.wrapping_add(r * row)));
                for (p, sums) in sums.iter_mut().enumerate() {
                    let line = b.wrapping_add(p * panel);
                    fetch(line, b_step);
                    let (low, high) = (_mm512_loadu_ps(line), _mm512_loadu_ps(line.wrapping_add(16)));
                    for (sums, &value) in sums.iter_mut().zip(&values) {
                        sums[0] = _mm512_fmadd_ps(value, low, sums[0]);
                        sums[1] = _mm512_fmadd_ps(value, high, sums[1]);
                    }
                }
                a = a.wrapping_add(step);
                b = b.wrapping_add(b_step);
            }
        }
        for (p, sums) in sums.iter().enumerate() {
            m.store_panel(sums, p * NR);
        }
    }
}

/// Asks for what a streaming kernel reads `FETCH_ROWS` rows of B later.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn fetch(line: *const f32, b_step: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let line = line.wrapping_add(FETCH_ROWS * b_step);
    // SAFETY: a prefetch reads nothing.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(LINE).cast());
    }
}

/// Adds the rows at `from`, `step` apart, to `values`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_rows<const R: usize>(
    values: &mut [std::arch::x86_64::__m512; R],
    from: *const f32,
    step: usize,
    mask: u16,
) {
    use std::arch::x86_64::*;
    for (r, value) in values.iter_mut().enumerate() {
        // SAFETY: the caller's contract: lanes of the mask are readable in every row.
        *value = unsafe { _mm512_add_ps(*value, _mm512_maskz_loadu_ps(mask, from.wrapping_add(r * step))) };
    }
}

/// Stores up to sixteen results of each row; the sums have the columns' bias.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn store_rows(m: &Micro<'_>, rows: &[std::arch::x86_64::__m512], column: usize, mask: u16) {
    for (row, &value) in rows.iter().enumerate() {
        // SAFETY: the caller's contract.
        unsafe { avx512_store(m, row, column, mask, value) };
    }
}

/// Stores up to sixteen results; the sums have the columns' bias.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn avx512_store(
    m: &Micro<'_>,
    row: usize,
    column: usize,
    mask: u16,
    mut value: std::arch::x86_64::__m512,
) {
    use std::arch::x86_64::*;
    let (post, at) = (&m.post, row * m.ldc + column);
    // SAFETY: the lanes of the mask lie in the tile, and operands have the extent of the block.
    unsafe {
        let c = m.c.wrapping_add(at);
        if m.add {
            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, c));
        }
        if post.active {
            if !post.row_bias.is_null() {
                value = _mm512_add_ps(value, _mm512_set1_ps(*post.row_bias.add(row)));
            }
            if !post.residual.is_null() {
                value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, post.residual.wrapping_add(at)));
            }
            value = post.last(value);
        }
        _mm512_mask_storeu_ps(c, mask, value);
    }
}
