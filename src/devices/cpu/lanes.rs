//! Vectors of f32 for kernels that are written once and compiled for every instruction set.
//!
//! A kernel is `#[inline(always)]` and generic over `Lanes`; a function with the target features of the set calls it.
#![allow(
    unsafe_code,
    reason = "vector instructions work on raw memory; each set is used only where it was detected"
)]

/// A vector of f32. All functions need the instruction set of the vector, loads and stores need `COUNT` elements.
pub(crate) trait Lanes: Copy {
    /// Lanes of the vector.
    const COUNT: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn fma(self, factor: Self, sum: Self) -> Self;
    /// `low` where it is larger: NaN stays.
    unsafe fn at_least(self, low: Self) -> Self;
    /// `high` where it is smaller: NaN stays.
    unsafe fn at_most(self, high: Self) -> Self;
    /// The larger one; NaN where either is.
    unsafe fn larger(self, other: Self) -> Self;
}

impl<const N: usize> Lanes for [f32; N] {
    const COUNT: usize = N;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; N]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's contract; an array of f32 is aligned as its elements.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { *to.cast() = self };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        std::array::from_fn(|i| crate::math::fma::<{ crate::isa::PORTABLE_FMA }>(self[i], factor[i], sum[i]))
    }

    #[inline(always)]
    unsafe fn at_least(self, low: Self) -> Self {
        std::array::from_fn(|i| if low[i] > self[i] { low[i] } else { self[i] })
    }

    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        std::array::from_fn(|i| if high[i] < self[i] { high[i] } else { self[i] })
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        std::array::from_fn(|i| if other[i] > self[i] || other[i].is_nan() { other[i] } else { self[i] })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Implements `Lanes` with one instruction each; the last two say how NaN of the second operand is kept.
    macro_rules! lanes {
        ($vector:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $mul:ident, $fma:ident,
         $max:ident, $min:ident, |$larger:ident, $other:ident| $nan:expr) => {
            impl Lanes for $vector {
                const COUNT: usize = $count;

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the caller's contract, here and below.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $add(self, other) }
                }

                #[inline(always)]
                unsafe fn mul(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, other) }
                }

                #[inline(always)]
                unsafe fn fma(self, factor: Self, sum: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fma(self, factor, sum) }
                }

                // The instructions return their second operand when one is NaN.
                #[inline(always)]
                unsafe fn at_least(self, low: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $max(low, self) }
                }

                #[inline(always)]
                unsafe fn at_most(self, high: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $min(high, self) }
                }

                #[inline(always)]
                unsafe fn larger(self, $other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe {
                        let $larger = $max($other, self);
                        $nan
                    }
                }
            }
        };
    }

    lanes!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        |larger, other| _mm512_mask_mov_ps(larger, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(other, other), other)
    );
    lanes!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        |larger, other| _mm256_blendv_ps(larger, other, _mm256_cmp_ps::<_CMP_UNORD_Q>(other, other))
    );
}

/// Defines `fn name(isa, width, args)` that runs `body::<V>(args)` with the widest vectors the set has that are not
/// longer than `width`.
///
/// The caller must pass an `Isa` this machine has (see `Isa::available`).
macro_rules! per_lanes {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::isa::Isa, width: usize, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{__m256, __m512};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
                unsafe fn wide($($arg: $ty),*) {
                    // SAFETY: the contract of the enclosing function.
                    unsafe { $body::<__m512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn narrow($($arg: $ty),*) {
                    // SAFETY: the contract of the enclosing function.
                    unsafe { $body::<__m256>($($arg),*) }
                }
                match isa {
                    // SAFETY: an `Isa` is only obtained from detection; the rest is the caller's contract.
                    $crate::isa::Isa::Avx512 if width >= 16 => return unsafe { wide($($arg),*) },
                    $crate::isa::Isa::Avx512 | $crate::isa::Isa::Avx2 if width >= 8 => {
                        // SAFETY: as above.
                        return unsafe { narrow($($arg),*) };
                    }
                    _ => {}
                }
            }
            let _ = isa;
            // SAFETY: the contract of the enclosing function.
            unsafe {
                if width >= 4 { $body::<[f32; 4]>($($arg),*) } else { $body::<[f32; 1]>($($arg),*) }
            }
        }
    };
}
pub(crate) use per_lanes;
