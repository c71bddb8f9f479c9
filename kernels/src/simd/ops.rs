//! What an instruction set can do ([`Simd`], [`Words`]), and what is written over it ([`Op`],
//! [`WordOp`]).

use crate::elem::real::Real;
use crate::simd::Isa;

/// An operation on elements of type `E`, written once for every instruction set.
pub(crate) trait Op<E: Real> {
    type Out;
    /// Must be `#[inline(always)]`, and free of closures and threads: both leave the target
    /// features behind.
    fn run<S: Simd<E>>(self, s: S) -> Self::Out;
}

/// A body to be called through a pointer: two operands and an output, and what else it goes by.
pub(crate) trait Routine<E: Real> {
    type With;
    /// As [`Op::run`]. Safety: the routine's own.
    unsafe fn run<S: Simd<E>>(s: S, with: &Self::With, a: *const E, b: *const E, c: *mut E);
}

/// Vectors of one instruction set. The value is a token: that it exists proves that the CPU has the
/// instructions.
///
/// Memory operations are `unsafe` because of the pointers; arithmetic is not. Order of lanes is
/// memory order.
pub(crate) trait Simd<E: Real>: Copy {
    type V: Copy;
    const LANES: usize;
    const ISA: Isa;
    /// [`Simd::fma`] rounds once.
    const FUSED: bool;
    /// Can a vector be cut into two or four parts ([`Simd::repeat`], [`Simd::join`],
    /// [`Simd::part`])? Where not, nothing asks for them.
    const PARTS: bool = false;

    /// The first `n` elements at `p` in each of the `PARTS` parts, zeros behind them; touches
    /// nothing beyond `n`. Safety: `n <= LANES / PARTS`, the first `n` elements are readable.
    #[inline(always)]
    unsafe fn repeat<const PARTS: usize>(self, p: *const E, n: usize) -> Self::V {
        // SAFETY: the same contract.
        unsafe { self.load_partial(p, n) }
    }
    /// Part i of vector i, for the first `PARTS` vectors.
    #[inline(always)]
    fn join<const PARTS: usize>(self, v: [Self::V; 4]) -> Self::V {
        v[0]
    }
    /// Part `i` in the place of the first; the other lanes hold anything.
    #[inline(always)]
    fn part<const PARTS: usize>(self, v: Self::V, _i: usize) -> Self::V {
        v
    }
    /// The same pointer, as the compiler cannot know: so that it steps the pointers it is told to,
    /// not one more for each place that it reads.
    #[inline(always)]
    fn opaque<T>(self, p: *const T) -> *const T {
        p
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
    /// The same in a few plain stores. A load of what lies behind `n` waits for a masked store,
    /// which counts as LANES wide: this is the one to use where the next row follows at once.
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
    /// Nearest integer, ties to even, for |a| <= 2^22 (f32) or 2^51 (f64); beyond, unspecified; NaN
    /// stays NaN.
    fn round(self, a: Self::V) -> Self::V;
    /// `x * 2^n` for integral `n`, |n| <= 2 * (exponent range), rounded correctly save for double
    /// rounding in the subnormal range; NaN and infinities of `x` stay.
    fn ldexp(self, x: Self::V, n: Self::V) -> Self::V;
    /// The same for |x| in [1/2, 2] and -125 <= n <= 126 (f32), -1021 <= n <= 1022 (f64): exact.
    /// NaN of `x` stays.
    fn ldexp_normal(self, x: Self::V, n: Self::V) -> Self::V;
    /// Splits positive finite x, subnormals included, as `m * 2^e` with m in [1, 2) and integral e.
    /// Any other lane gives some value, never a trap: the caller repairs it.
    fn frexp(self, x: Self::V) -> (Self::V, Self::V);
    /// Sum of the lanes, by halves: lane i with lane i + LANES/2, and so on.
    fn reduce_add(self, v: Self::V) -> E;
    /// Vectors of the instruction set in one of these: their sums are also to be had apart.
    const SUMS: usize = 1;
    /// [`Simd::reduce_add`] of the i-th of them.
    #[inline(always)]
    fn sum(self, v: Self::V, _i: usize) -> E {
        self.reduce_add(v)
    }
    /// Largest lane (NaN rule unspecified).
    fn reduce_max(self, v: Self::V) -> E;
    /// Runs `op` in a function of its own, never inlined, with the same features: one copy of a
    /// large body for all callers.
    fn outline<O: Op<E>>(self, op: O) -> O::Out;
    /// The address of a function of its own, with the same features. Whoever holds it knows that
    /// the CPU has them, by this token.
    fn routine<R: Routine<E>>(self) -> unsafe fn(&R::With, *const E, *const E, *mut E);
    /// Edge of the largest block that [`Simd::transpose`] takes; divides LANES.
    const EDGE: usize;
    /// Reads `cols` runs of `rows` elements, `stride` apart, and writes them as the columns of
    /// `rows` rows of EDGE elements, `to_stride` apart; columns from `cols` on receive arbitrary
    /// values. Safety: `rows, cols <= EDGE`; the runs are readable, the rows writable over their
    /// whole EDGE.
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

/// 64-bit words in the lanes of f64: addressed random bits and surgery on exponents. Arithmetic
/// wraps.
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
