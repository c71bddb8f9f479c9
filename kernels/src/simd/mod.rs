//! Instruction sets: detection, the token types, and the one place where an operation meets one.
//!
//! An operation ([`Op`]) is written once over [`Simd`]; `dispatch` runs it inside a function that
//! has the wanted target features, so that everything marked `inline(always)` below it is compiled
//! with them. A new instruction set is one file here, one variant of [`Isa`], one arm in each of
//! the three dispatch functions (their default arm is portable), and a column of tile shapes.

/// Methods that are one instruction: `type: name(arguments) = intrinsic, ..`.
#[cfg(target_arch = "x86_64")]
macro_rules! one_instruction {
    ($V:ty: $($name:ident($($x:ident),+) = $intrinsic:ident,)+) => {$(
        #[inline(always)]
        fn $name(self, $($x: $V),+) -> $V {
            // SAFETY: token.
            unsafe { $intrinsic($($x),+) }
        }
    )+};
}

/// What the methods of whole vectors share: `element, vector: splat, load, store`.
#[cfg(target_arch = "x86_64")]
macro_rules! whole_vectors {
    ($E:ty, $V:ty: $splat:ident, $load:ident, $store:ident) => {
        #[inline(always)]
        fn splat(self, x: $E) -> $V {
            // SAFETY: token.
            unsafe { $splat(x) }
        }
        #[inline(always)]
        unsafe fn load(self, p: *const $E) -> $V {
            // SAFETY: token; the caller vouches for LANES readable elements.
            unsafe { $load(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut $E, v: $V) {
            // SAFETY: token; the caller vouches for LANES writable elements.
            unsafe { $store(p, v) }
        }
        #[inline(always)]
        fn prefetch(self, p: *const $E) {
            // SAFETY: a hint: no address faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        fn outline<O: Op<$E>>(self, op: O) -> O::Out {
            // SAFETY: token.
            unsafe { outlined::<$E, O>(op) }
        }
        #[inline(always)]
        fn routine<R: Routine<$E>>(self) -> unsafe fn(&R::With, *const $E, *const $E, *mut $E) {
            routine::<$E, R>
        }
        #[inline(always)]
        #[allow(clippy::pointers_in_nomem_asm_block)]
        fn opaque<T>(self, mut p: *const T) -> *const T {
            // SAFETY: no instruction at all: the register is only named.
            unsafe { std::arch::asm!("/* {0} */", inout(reg) p, options(nomem, nostack, preserves_flags)) };
            p
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod ops;
mod portable;
pub(crate) mod tiles;
mod twice;

pub(crate) use ops::{Op, Routine, Simd, WordOp, Words};
pub(crate) use twice::Twice;

use crate::error::KernelError;
use std::sync::OnceLock;

/// Vector registers of the baseline that [`Isa::Portable`] stands for: 32 on aarch64, else 16 (or
/// LLVM's business, on WASM).
pub(crate) const BASELINE_REGISTERS: usize = if cfg!(target_arch = "aarch64") { 32 } else { 16 };

/// Does the baseline have multiply-adds that round once? Every NEON of aarch64 does; x86 only where
/// the build asks for FMA.
pub(crate) const BASELINE_FUSED: bool =
    cfg!(any(target_feature = "fma", all(target_arch = "aarch64", target_feature = "neon")));

/// The instruction set of this process, once decided.
static CHOICE: OnceLock<Result<Isa, KernelError>> = OnceLock::new();

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// The build target's baseline through the `wide` crate: SSE2, NEON or WASM SIMD.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Every instruction set that the crate knows, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name that `POPGRAD_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Does this CPU have it?
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The instruction sets of this CPU, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|i| i.is_available())
    }

    /// What [`Isa::choose`] or else `POPGRAD_ISA` names, else the best that this CPU has. Decided
    /// once per process.
    ///
    /// # Errors
    /// When the variable names no instruction set or one that this CPU lacks.
    pub fn from_env() -> Result<Isa, KernelError> {
        CHOICE
            .get_or_init(|| match std::env::var_os("POPGRAD_ISA").filter(|name| !name.is_empty()) {
                None => Ok(Isa::available().last().unwrap_or(Isa::Portable)),
                Some(name) => {
                    let isa = Isa::ALL.into_iter().find(|i| name == i.name()).ok_or_else(|| {
                        KernelError::UnknownIsa { name: name.to_string_lossy().into_owned() }
                    })?;
                    isa.check()
                }
            })
            .clone()
    }

    /// Makes this what [`Isa::from_env`] answers from now on, whatever `POPGRAD_ISA` says. It can
    /// be done once, before anything has asked: what is returned is the instruction set in force,
    /// this one or the one decided before.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when this CPU lacks it; what an earlier [`Isa::from_env`]
    /// reported.
    pub fn choose(self) -> Result<Isa, KernelError> {
        let isa = self.check()?;
        CHOICE.get_or_init(|| Ok(isa)).clone()
    }

    /// Itself, if this CPU has it.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] otherwise.
    pub fn check(self) -> Result<Isa, KernelError> {
        if self.is_available() { Ok(self) } else { Err(KernelError::IsaUnavailable { isa: self.name() }) }
    }
}

#[inline]
pub(crate) fn dispatch_words<O: WordOp>(isa: Isa, op: O) -> O::Out {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` holds an `Isa` only after `Isa::check` found it on this CPU.
        Isa::Avx512 => unsafe { avx512::run_words(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::run_words(op) },
        _ => op.run(portable::Portable),
    }
}

#[inline]
pub(crate) fn dispatch_f32<O: Op<f32>>(isa: Isa, op: O) -> O::Out {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` holds an `Isa` only after `Isa::check` found it on this CPU.
        Isa::Avx512 => unsafe { avx512::run::<f32, O>(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::run::<f32, O>(op) },
        _ => op.run(portable::Portable),
    }
}

#[inline]
pub(crate) fn dispatch_f64<O: Op<f64>>(isa: Isa, op: O) -> O::Out {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `dispatch_f32`.
        Isa::Avx512 => unsafe { avx512::run::<f64, O>(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `dispatch_f32`.
        Isa::Avx2 => unsafe { avx2::run::<f64, O>(op) },
        _ => op.run(portable::Portable),
    }
}

/// Declares what an operation compiles: one function for each body and element type, instantiated
/// in this crate.
///
/// The public entries are generic and so are instantiated by whoever calls them; behind these
/// functions they find code that is compiled once, at this crate's optimisation level. The trait is
/// a supertrait of [`Real`].
macro_rules! compiled_once {
    ($(#[$doc:meta])* $trait:ident { $(fn $name:ident($op:ty) $(-> $out:ty)?;)+ }) => {
        $(#[$doc])*
        #[doc(hidden)]
        pub trait $trait: Sized {
            $(
                #[doc(hidden)]
                #[allow(private_interfaces)]
                fn $name(isa: $crate::Isa, op: $op) $(-> $out)?;
            )+
        }
        impl $trait for f32 {
            $(
                #[allow(private_interfaces)]
                fn $name(isa: $crate::Isa, op: $op) $(-> $out)? {
                    $crate::simd::dispatch_f32(isa, op)
                }
            )+
        }
        impl $trait for f64 {
            $(
                #[allow(private_interfaces)]
                fn $name(isa: $crate::Isa, op: $op) $(-> $out)? {
                    $crate::simd::dispatch_f64(isa, op)
                }
            )+
        }
    };
}
pub(crate) use compiled_once;

#[cfg(test)]
pub(crate) mod tests;
