//! Instruction sets: which one this machine has, and how one generic body becomes a function for each.
//!
//! Bodies are `#[inline(always)]` and generic over `FMA`; they are instantiated inside functions with the
//! right target features, so the compiler vectorises each copy for its set.

/// An instruction set the kernels are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target guarantees: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, and BMI2.
    Avx512,
}

impl Isa {
    /// The widest set of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let wide = is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if fma && wide {
                return Self::Avx512;
            }
            if fma {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// All sets this machine can execute, narrowest first.
    pub fn available() -> Vec<Self> {
        let best = Self::detect();
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|&isa| isa <= best).collect()
    }
}

/// Whether the portable build may use fused multiply-add without a library call.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// Defines `fn name(isa, args)` that runs `body::<FMA>(args)` compiled for the given instruction set.
///
/// The caller must pass an `Isa` this machine has (see `Isa::available`).
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")]
                unsafe fn wide($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the contract of the enclosing function.
                    unsafe { $body::<true>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn narrow($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the contract of the enclosing function.
                    unsafe { $body::<true>($($arg),*) }
                }
                match isa {
                    // SAFETY: an `Isa` is only obtained from detection; the rest is the caller's contract.
                    $crate::isa::Isa::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { narrow($($arg),*) },
                    $crate::isa::Isa::Portable => {}
                }
            }
            let _ = isa;
            // SAFETY: the contract of the enclosing function.
            unsafe { $body::<{ $crate::isa::PORTABLE_FMA }>($($arg),*) }
        }
    };
}
pub(crate) use per_isa;
