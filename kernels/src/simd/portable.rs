//! The build target's baseline vectors through `wide`: four lanes of f32, two of f64.
//!
//! `wide` picks its layout at compile time, which is exactly what a baseline wants. Exponent
//! surgery goes lane by lane through arrays; the compiler vectorises it where the target can.

use crate::elem::real::Real;
use crate::simd::{BASELINE_FUSED, Isa, Op, Routine, Simd, Words};
use wide::{f32x4, f64x2};

/// Token of the baseline: always available.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// A call that stays a call.
#[inline(never)]
fn outlined<E: Real, O: Op<E>>(op: O) -> O::Out
where
    Portable: Simd<E>,
{
    op.run(Portable)
}

/// A [`Routine`] as a function.
///
/// # Safety
/// The routine's own.
unsafe fn routine<E: Real, R: Routine<E>>(with: &R::With, a: *const E, b: *const E, c: *mut E)
where
    Portable: Simd<E>,
{
    // SAFETY: the contract above.
    unsafe { R::run(Portable, with, a, b, c) }
}

/// [`Simd`] for one element type: vector, lanes, bits, mantissa bits, exponent bias, reductions.
macro_rules! portable {
    ($E:ty, $V:ident, $LANES:literal, $Bits:ty, $MANTISSA:literal, $BIAS:literal,
     |$a:ident| sum $sum:expr, max $max:expr) => {
        const _: () = {
            const BITS: u32 = $MANTISSA;
            const BIAS: i64 = $BIAS;
            const MAGIC: $E = (3u64 << (BITS - 1)) as $E;
            impl Simd<$E> for Portable {
                type V = $V;
                const LANES: usize = $LANES;
                const ISA: Isa = Isa::Portable;
                const FUSED: bool = BASELINE_FUSED;

                #[inline(always)]
                fn splat(self, x: $E) -> $V {
                    $V::splat(x)
                }
                #[inline(always)]
                unsafe fn load(self, p: *const $E) -> $V {
                    // SAFETY: the caller vouches for LANES readable elements.
                    $V::new(unsafe { p.cast::<[$E; $LANES]>().read_unaligned() })
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut $E, v: $V) {
                    // SAFETY: the caller vouches for LANES writable elements.
                    unsafe { p.cast::<[$E; $LANES]>().write_unaligned(v.to_array()) }
                }
                #[inline(always)]
                unsafe fn load_partial(self, p: *const $E, n: usize) -> $V {
                    debug_assert!(n <= $LANES);
                    let mut a = [0.0; $LANES];
                    for (i, x) in a.iter_mut().enumerate() {
                        if i < n {
                            // SAFETY: i < n, the caller vouches for the first n.
                            *x = unsafe { *p.add(i) };
                        }
                    }
                    $V::new(a)
                }
                #[inline(always)]
                unsafe fn store_partial(self, p: *mut $E, n: usize, v: $V) {
                    debug_assert!(n <= $LANES);
                    for (i, x) in v.to_array().into_iter().enumerate() {
                        if i < n {
                            // SAFETY: i < n, the caller vouches for the first n.
                            unsafe { *p.add(i) = x };
                        }
                    }
                }
                #[inline(always)]
                unsafe fn store_pieces(self, p: *mut $E, n: usize, v: $V) {
                    // SAFETY: the caller's promise.
                    unsafe { Simd::<$E>::store_partial(self, p, n, v) }
                }
                #[inline(always)]
                fn add(self, a: $V, b: $V) -> $V {
                    a + b
                }
                #[inline(always)]
                fn sub(self, a: $V, b: $V) -> $V {
                    a - b
                }
                #[inline(always)]
                fn mul(self, a: $V, b: $V) -> $V {
                    a * b
                }
                #[inline(always)]
                fn div(self, a: $V, b: $V) -> $V {
                    a / b
                }
                #[inline(always)]
                fn sqrt(self, a: $V) -> $V {
                    a.sqrt()
                }
                #[inline(always)]
                fn fma(self, a: $V, b: $V, c: $V) -> $V {
                    a.mul_add(b, c)
                }
                #[inline(always)]
                fn max(self, a: $V, b: $V) -> $V {
                    a.simd_gt(b).select(a, b)
                }
                #[inline(always)]
                fn min(self, a: $V, b: $V) -> $V {
                    a.simd_lt(b).select(a, b)
                }
                #[inline(always)]
                fn select_lt(self, a: $V, b: $V, x: $V, y: $V) -> $V {
                    a.simd_lt(b).select(x, y)
                }
                #[inline(always)]
                fn round(self, a: $V) -> $V {
                    // Adding 1.5 * 2^BITS leaves no bits for a fraction, and the addition itself
                    // rounds to nearest, ties to even.
                    let magic = $V::splat(MAGIC);
                    (a + magic) - magic
                }
                #[inline(always)]
                fn ldexp(self, x: $V, n: $V) -> $V {
                    // In two factors because 2^n alone may leave the exponent range although
                    // x * 2^n does not. Adding MAGIC plants an integer in the low mantissa bits,
                    // which saves the conversions; the shift drops all others.
                    let low = Simd::<$E>::min(self, $V::splat(2.0 * (BIAS - 1) as $E), n);
                    let n = Simd::<$E>::max(self, $V::splat(-2.0 * (BIAS - 1) as $E), low);
                    let h = Simd::<$E>::round(self, n * $V::splat(0.5));
                    let magic = $V::splat(MAGIC + BIAS as $E);
                    let (f1, f2) = ((h + magic).to_array(), (n - h + magic).to_array());
                    let f1 = $V::new(f1.map(|f| <$E>::from_bits(f.to_bits() << BITS)));
                    let f2 = $V::new(f2.map(|f| <$E>::from_bits(f.to_bits() << BITS)));
                    x * f1 * f2
                }
                #[inline(always)]
                fn ldexp_normal(self, x: $V, n: $V) -> $V {
                    let f = (n + $V::splat(MAGIC + BIAS as $E)).to_array();
                    x * $V::new(f.map(|f| <$E>::from_bits(f.to_bits() << BITS)))
                }
                #[inline(always)]
                fn frexp(self, x: $V) -> ($V, $V) {
                    let x = x.to_array();
                    let (mut m, mut e) = ([0.0; $LANES], [0.0; $LANES]);
                    for i in 0..$LANES {
                        // Subnormals are scaled up first, and the exponent corrected.
                        let small = x[i] < <$E>::MIN_POSITIVE;
                        let y = if small { x[i] * (2u64 << BITS) as $E } else { x[i] };
                        let bits = y.to_bits();
                        m[i] = <$E>::from_bits((bits & ((1 << BITS) - 1)) | (BIAS as $Bits) << BITS);
                        let shift = if small { (BITS + 1) as $E } else { 0.0 };
                        e[i] = ((bits >> BITS) as i64 - BIAS) as $E - shift;
                    }
                    ($V::new(m), $V::new(e))
                }
                #[inline(always)]
                fn reduce_add(self, v: $V) -> $E {
                    let $a = v.to_array();
                    $sum
                }
                #[inline(always)]
                fn reduce_max(self, v: $V) -> $E {
                    let $a = v.to_array();
                    $max
                }
                #[inline(always)]
                fn outline<O: Op<$E>>(self, op: O) -> O::Out {
                    outlined::<$E, O>(op)
                }
                #[inline(always)]
                fn routine<R: Routine<$E>>(self) -> unsafe fn(&R::With, *const $E, *const $E, *mut $E) {
                    routine::<$E, R>
                }
                const EDGE: usize = $LANES;
                #[inline(always)]
                unsafe fn transpose(
                    self,
                    rows: usize,
                    cols: usize,
                    from: *const $E,
                    stride: usize,
                    to: *mut $E,
                    to_stride: usize,
                ) {
                    for i in 0..rows {
                        for j in 0..cols {
                            // SAFETY: element i of run j, row i, as the caller vouches.
                            unsafe { *to.add(i * to_stride + j) = *from.add(j * stride + i) };
                        }
                    }
                }
            }
        };
    };
}

portable!(f32, f32x4, 4, u32, 23, 127,
    |a| sum (a[0] + a[2]) + (a[1] + a[3]), max a[0].max(a[2]).max(a[1].max(a[3])));
portable!(f64, f64x2, 2, u64, 52, 1023, |a| sum a[0] + a[1], max a[0].max(a[1]));

impl Words for Portable {
    type W = [u64; 2];

    #[inline(always)]
    fn splat_word(self, x: u64) -> [u64; 2] {
        [x; 2]
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u64) -> [u64; 2] {
        // SAFETY: the caller vouches for 2 readable words.
        unsafe { p.cast::<[u64; 2]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u64, w: [u64; 2]) {
        // SAFETY: the caller vouches for 2 writable words.
        unsafe { p.cast::<[u64; 2]>().write_unaligned(w) }
    }
    #[inline(always)]
    fn add_words(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        [a[0].wrapping_add(b[0]), a[1].wrapping_add(b[1])]
    }
    #[inline(always)]
    fn and(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        [a[0] & b[0], a[1] & b[1]]
    }
    #[inline(always)]
    fn or(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        [a[0] | b[0], a[1] | b[1]]
    }
    #[inline(always)]
    fn xor(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        [a[0] ^ b[0], a[1] ^ b[1]]
    }
    #[inline(always)]
    fn mul_low(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        let low = |x: u64| x & 0xFFFF_FFFF;
        [low(a[0]) * low(b[0]), low(a[1]) * low(b[1])]
    }
    #[inline(always)]
    fn shift_left(self, a: [u64; 2], n: u32) -> [u64; 2] {
        [a[0] << n, a[1] << n]
    }
    #[inline(always)]
    fn shift_right(self, a: [u64; 2], n: u32) -> [u64; 2] {
        [a[0] >> n, a[1] >> n]
    }
    #[inline(always)]
    fn bits(self, v: f64x2) -> [u64; 2] {
        v.to_array().map(f64::to_bits)
    }
    #[inline(always)]
    fn value(self, w: [u64; 2]) -> f64x2 {
        f64x2::new(w.map(f64::from_bits))
    }
    #[inline(always)]
    fn mask_lt(self, a: f64x2, b: f64x2) -> u32 {
        let (a, b) = (a.to_array(), b.to_array());
        u32::from(a[0] < b[0]) | u32::from(a[1] < b[1]) << 1
    }
}
