//! Instruction sets: detection, the token types, and the one place where an operation meets one.
//!
//! An operation ([`Op`]) is written once over [`Simd`]; `dispatch` runs it inside a function that has the wanted
//! target features, so that everything marked `inline(always)` below it is compiled with them. A new instruction set is
//! one folder here, one variant of [`Isa`] and one arm of the two `dispatch` functions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod generic;
mod portable;

use crate::elem::Elem;
use crate::error::KernelError;
use std::sync::OnceLock;

/// Vector registers of the baseline that [`Isa::Portable`] stands for: 32 on aarch64, else 16 (or LLVM's business, on WASM).
pub(crate) const BASELINE_REGISTERS: usize = if cfg!(target_arch = "aarch64") { 32 } else { 16 };

/// Does the baseline have multiply-adds that round once? Every NEON of aarch64 does; x86 only where the build asks for FMA.
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

    /// What [`Isa::choose`] or else `POPGRAD_ISA` names, else the best that this CPU has. Decided once per process.
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

    /// Makes this what [`Isa::from_env`] answers from now on, whatever `POPGRAD_ISA` says. It can be done once, before anything
    /// has asked: what is returned is the instruction set in force, this one or the one decided before.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] when this CPU lacks it; what an earlier [`Isa::from_env`] reported.
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

/// An operation on elements of type `E`, written once for every instruction set.
pub(crate) trait Op<E: Elem> {
    type Out;
    /// Must be `#[inline(always)]`, and free of closures and threads: both leave the target features behind.
    fn run<S: Simd<E>>(self, s: S) -> Self::Out;
}

/// Declares what an operation compiles: one function for each body and element type, instantiated in this crate.
///
/// The public entries are generic and so are instantiated by whoever calls them; behind these functions they find code that is
/// compiled once, at this crate's optimisation level. The trait is a supertrait of [`Elem`].
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
                    $crate::arch::dispatch_f32(isa, op)
                }
            )+
        }
        impl $trait for f64 {
            $(
                #[allow(private_interfaces)]
                fn $name(isa: $crate::Isa, op: $op) $(-> $out)? {
                    $crate::arch::dispatch_f64(isa, op)
                }
            )+
        }
    };
}
pub(crate) use compiled_once;

/// Vectors of one instruction set. The value is a token: that it exists proves that the CPU has the instructions.
///
/// Memory operations are `unsafe` because of the pointers; arithmetic is not. Order of lanes is memory order.
pub(crate) trait Simd<E: Elem>: Copy {
    type V: Copy;
    const LANES: usize;
    const ISA: Isa;
    /// [`Simd::fma`] rounds once.
    const FUSED: bool;
    /// Vectors of half as many lanes, where there are such; else itself.
    type Half: Simd<E>;

    fn half(self) -> Self::Half;
    /// The lower half of the lanes.
    fn low(self, v: Self::V) -> <Self::Half as Simd<E>>::V;
    /// `load_partial` of [`Simd::Half`] by this instruction set's own masks. Safety: likewise.
    #[inline(always)]
    unsafe fn load_half(self, p: *const E, n: usize) -> <Self::Half as Simd<E>>::V {
        // SAFETY: the same contract.
        unsafe { self.half().load_partial(p, n) }
    }
    /// `store_partial` of [`Simd::Half`], likewise.
    #[inline(always)]
    unsafe fn store_half(self, p: *mut E, n: usize, v: <Self::Half as Simd<E>>::V) {
        // SAFETY: the same contract.
        unsafe { self.half().store_partial(p, n, v) }
    }

    fn splat(self, x: E) -> Self::V;
    /// Asks for the cache line at `p`, which may be any address.
    #[inline(always)]
    fn prefetch(self, _p: *const E) {}
    /// Reads `LANES` elements. Safety: they are readable; no alignment needed.
    unsafe fn load(self, p: *const E) -> Self::V;
    /// Writes `LANES` elements. Safety: they are writable.
    unsafe fn store(self, p: *mut E, v: Self::V);
    /// Reads the first `n` elements, zeros in the other lanes; touches nothing beyond `n`.
    /// Safety: `n <= LANES`, the first `n` elements are readable.
    unsafe fn load_partial(self, p: *const E, n: usize) -> Self::V;
    /// Writes the first `n` lanes only. Safety: `n <= LANES`, the first `n` elements are writable.
    unsafe fn store_partial(self, p: *mut E, n: usize, v: Self::V);
    /// The same in a few plain stores. A load of what lies behind `n` waits for a masked store, which counts as LANES wide: this
    /// is the one to use where the next row follows at once.
    /// Safety: as `store_partial`.
    unsafe fn store_pieces(self, p: *mut E, n: usize, v: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Correctly rounded; NaN below zero.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set has FMA, else twice.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise maximum; where either is NaN, or both are zero, `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise minimum; where either is NaN, or both are zero, `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? x : y` per lane; NaN compares false.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Nearest integer, ties to even, for |a| <= 2^22 (f32) or 2^51 (f64); beyond, unspecified; NaN stays NaN.
    fn round(self, a: Self::V) -> Self::V;
    /// `x * 2^n` for integral `n`, |n| <= 2 * (exponent range), rounded correctly save for double rounding
    /// in the subnormal range; NaN and infinities of `x` stay.
    fn scale2(self, x: Self::V, n: Self::V) -> Self::V;
    /// The same for |x| in [1/2, 2] and -125 <= n <= 126 (f32), -1021 <= n <= 1022 (f64): exact. NaN of `x` stays.
    fn scale2_normal(self, x: Self::V, n: Self::V) -> Self::V;
    /// Splits positive finite x, subnormals included, as `m * 2^e` with m in [1, 2) and integral e.
    /// Any other lane gives some value, never a trap: the caller repairs it.
    fn split(self, x: Self::V) -> (Self::V, Self::V);
    /// Sum of the lanes, by halves: lane i with lane i + LANES/2, and so on.
    fn reduce_add(self, v: Self::V) -> E;
    /// Largest lane (NaN rule unspecified).
    fn reduce_max(self, v: Self::V) -> E;
    /// Runs `op` in a function of its own, never inlined, with the same features: one copy of a large body for all callers.
    fn outline<O: Op<E>>(self, op: O) -> O::Out;
    /// Edge of the largest block that [`Simd::transpose`] takes; divides LANES.
    const EDGE: usize;
    /// Reads `cols` runs of `rows` elements, `stride` apart, and writes them as the columns of `rows` rows of EDGE elements,
    /// `to_stride` apart; columns from `cols` on receive anything.
    /// Safety: `rows, cols <= EDGE`; the runs are readable, the rows writable over their whole EDGE.
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        from: *const E,
        stride: usize,
        to: *mut E,
        to_stride: usize,
    );
}

/// 64-bit words in the lanes of f64: addressed random bits and surgery on exponents. Arithmetic wraps.
pub(crate) trait Words: Simd<f64> {
    type W: Copy;
    fn splat_word(self, x: u64) -> Self::W;
    /// Reads `LANES` words. Safety: they are readable; no alignment needed.
    unsafe fn load_words(self, p: *const u64) -> Self::W;
    /// Writes `LANES` words. Safety: they are writable.
    unsafe fn store_words(self, p: *mut u64, w: Self::W);
    fn add_words(self, a: Self::W, b: Self::W) -> Self::W;
    fn and(self, a: Self::W, b: Self::W) -> Self::W;
    fn or(self, a: Self::W, b: Self::W) -> Self::W;
    fn xor(self, a: Self::W, b: Self::W) -> Self::W;
    /// The 64-bit product of the lower halves; the upper halves are not read.
    fn mul_low(self, a: Self::W, b: Self::W) -> Self::W;
    /// `n` constant, below 64.
    fn shift_left(self, a: Self::W, n: u32) -> Self::W;
    /// `n` constant, below 64; zeros come in.
    fn shift_right(self, a: Self::W, n: u32) -> Self::W;
    fn bits(self, v: Self::V) -> Self::W;
    fn value(self, w: Self::W) -> Self::V;
    /// Bit i says whether `a < b` in lane i; NaN compares false.
    fn mask_lt(self, a: Self::V, b: Self::V) -> u32;
}

/// An [`Op`] that needs [`Words`].
pub(crate) trait WordOp {
    type Out;
    /// As [`Op::run`].
    fn run<S: Words>(self, s: S) -> Self::Out;
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

#[cfg(test)]
pub(crate) mod tests;
