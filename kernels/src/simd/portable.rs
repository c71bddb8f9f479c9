//! The build target's baseline vectors through `wide`: four lanes of f32, two of f64.
//!
//! `wide` picks its layout at compile time, which is exactly what a baseline wants. Exponent
//! surgery goes lane by lane through arrays; the compiler vectorises it where the target can.

use crate::elem::real::Real;
use crate::simd::{BASELINE_FUSED, Isa, Op, Simd, Words};
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

impl Simd<f32> for Portable {
    type V = f32x4;
    const LANES: usize = 4;
    const ISA: Isa = Isa::Portable;
    type Half = Self;
    const FUSED: bool = BASELINE_FUSED;

    #[inline(always)]
    fn half(self) -> Self {
        self
    }
    #[inline(always)]
    fn low(self, v: f32x4) -> f32x4 {
        v
    }
    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x4 {
        // SAFETY: the caller vouches for 4 readable elements.
        f32x4::new(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x4) {
        // SAFETY: the caller vouches for 4 writable elements.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v.to_array()) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> f32x4 {
        debug_assert!(n <= 4);
        let mut a = [0.0; 4];
        for (i, x) in a.iter_mut().enumerate() {
            if i < n {
                // SAFETY: i < n, the caller vouches for the first n.
                *x = unsafe { *p.add(i) };
            }
        }
        f32x4::new(a)
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: f32x4) {
        debug_assert!(n <= 4);
        for (i, x) in v.to_array().into_iter().enumerate() {
            if i < n {
                // SAFETY: i < n, the caller vouches for the first n.
                unsafe { *p.add(i) = x };
            }
        }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, p: *mut f32, n: usize, v: f32x4) {
        // SAFETY: the caller's promise.
        unsafe { Simd::<f32>::store_partial(self, p, n, v) }
    }
    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[inline(always)]
    fn sqrt(self, a: f32x4) -> f32x4 {
        a.sqrt()
    }
    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn max(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_gt(b).select(a, b)
    }
    #[inline(always)]
    fn min(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b).select(a, b)
    }
    #[inline(always)]
    fn select_lt(self, a: f32x4, b: f32x4, x: f32x4, y: f32x4) -> f32x4 {
        a.simd_lt(b).select(x, y)
    }
    #[inline(always)]
    fn round(self, a: f32x4) -> f32x4 {
        // Adding 1.5 * 2^p leaves no bits for a fraction, and the addition itself rounds to
        // nearest, ties to even.
        let magic = f32x4::splat(12582912.0);
        (a + magic) - magic
    }
    #[inline(always)]
    fn ldexp(self, x: f32x4, n: f32x4) -> f32x4 {
        // In two factors because 2^n alone may leave the exponent range although x * 2^n does not.
        // Adding 1.5 * 2^23 plants an integer in the low mantissa bits, which saves the
        // conversions; the shift drops all others.
        let low = Simd::<f32>::min(self, f32x4::splat(252.0), n);
        let n = Simd::<f32>::max(self, f32x4::splat(-252.0), low);
        let h = Simd::<f32>::round(self, n * f32x4::splat(0.5));
        let magic = f32x4::splat(12582912.0 + 127.0);
        let (f1, f2) = ((h + magic).to_array(), (n - h + magic).to_array());
        let f1 = f32x4::new(f1.map(|f| f32::from_bits(f.to_bits() << 23)));
        let f2 = f32x4::new(f2.map(|f| f32::from_bits(f.to_bits() << 23)));
        x * f1 * f2
    }
    #[inline(always)]
    fn ldexp_normal(self, x: f32x4, n: f32x4) -> f32x4 {
        let f = (n + f32x4::splat(12582912.0 + 127.0)).to_array();
        x * f32x4::new(f.map(|f| f32::from_bits(f.to_bits() << 23)))
    }
    #[inline(always)]
    fn frexp(self, x: f32x4) -> (f32x4, f32x4) {
        let x = x.to_array();
        let (mut m, mut e) = ([0.0; 4], [0.0; 4]);
        for i in 0..4 {
            // Subnormals are scaled up first, and the exponent corrected.
            let small = x[i] < f32::MIN_POSITIVE;
            let y = if small { x[i] * 16777216.0 } else { x[i] };
            let bits = y.to_bits();
            m[i] = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
            e[i] = ((bits >> 23) as i32 - 127) as f32 - if small { 24.0 } else { 0.0 };
        }
        (f32x4::new(m), f32x4::new(e))
    }
    #[inline(always)]
    fn reduce_add(self, v: f32x4) -> f32 {
        let a = v.to_array();
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn reduce_max(self, v: f32x4) -> f32 {
        let a = v.to_array();
        a[0].max(a[2]).max(a[1].max(a[3]))
    }
    #[inline(always)]
    fn outline<O: Op<f32>>(self, op: O) -> O::Out {
        outlined::<f32, O>(op)
    }
    const EDGE: usize = 4;
    #[inline(always)]
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        from: *const f32,
        stride: usize,
        to: *mut f32,
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

impl Simd<f64> for Portable {
    type V = f64x2;
    const LANES: usize = 2;
    const ISA: Isa = Isa::Portable;
    type Half = Self;
    const FUSED: bool = BASELINE_FUSED;

    #[inline(always)]
    fn half(self) -> Self {
        self
    }
    #[inline(always)]
    fn low(self, v: f64x2) -> f64x2 {
        v
    }
    #[inline(always)]
    fn splat(self, x: f64) -> f64x2 {
        f64x2::splat(x)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x2 {
        // SAFETY: the caller vouches for 2 readable elements.
        f64x2::new(unsafe { p.cast::<[f64; 2]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x2) {
        // SAFETY: the caller vouches for 2 writable elements.
        unsafe { p.cast::<[f64; 2]>().write_unaligned(v.to_array()) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f64, n: usize) -> f64x2 {
        debug_assert!(n <= 2);
        let mut a = [0.0; 2];
        for (i, x) in a.iter_mut().enumerate() {
            if i < n {
                // SAFETY: i < n, the caller vouches for the first n.
                *x = unsafe { *p.add(i) };
            }
        }
        f64x2::new(a)
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f64, n: usize, v: f64x2) {
        debug_assert!(n <= 2);
        for (i, x) in v.to_array().into_iter().enumerate() {
            if i < n {
                // SAFETY: i < n, the caller vouches for the first n.
                unsafe { *p.add(i) = x };
            }
        }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, p: *mut f64, n: usize, v: f64x2) {
        // SAFETY: the caller's promise.
        unsafe { Simd::<f64>::store_partial(self, p, n, v) }
    }
    #[inline(always)]
    fn add(self, a: f64x2, b: f64x2) -> f64x2 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f64x2, b: f64x2) -> f64x2 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f64x2, b: f64x2) -> f64x2 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f64x2, b: f64x2) -> f64x2 {
        a / b
    }
    #[inline(always)]
    fn sqrt(self, a: f64x2) -> f64x2 {
        a.sqrt()
    }
    #[inline(always)]
    fn fma(self, a: f64x2, b: f64x2, c: f64x2) -> f64x2 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn max(self, a: f64x2, b: f64x2) -> f64x2 {
        a.simd_gt(b).select(a, b)
    }
    #[inline(always)]
    fn min(self, a: f64x2, b: f64x2) -> f64x2 {
        a.simd_lt(b).select(a, b)
    }
    #[inline(always)]
    fn select_lt(self, a: f64x2, b: f64x2, x: f64x2, y: f64x2) -> f64x2 {
        a.simd_lt(b).select(x, y)
    }
    #[inline(always)]
    fn round(self, a: f64x2) -> f64x2 {
        // Adding 1.5 * 2^p leaves no bits for a fraction, and the addition itself rounds to
        // nearest, ties to even.
        let magic = f64x2::splat(6755399441055744.0);
        (a + magic) - magic
    }
    #[inline(always)]
    fn ldexp(self, x: f64x2, n: f64x2) -> f64x2 {
        // As for f32, with 1.5 * 2^52.
        let low = Simd::<f64>::min(self, f64x2::splat(2044.0), n);
        let n = Simd::<f64>::max(self, f64x2::splat(-2044.0), low);
        let h = Simd::<f64>::round(self, n * f64x2::splat(0.5));
        let magic = f64x2::splat(6755399441055744.0 + 1023.0);
        let (f1, f2) = ((h + magic).to_array(), (n - h + magic).to_array());
        let f1 = f64x2::new(f1.map(|f| f64::from_bits(f.to_bits() << 52)));
        let f2 = f64x2::new(f2.map(|f| f64::from_bits(f.to_bits() << 52)));
        x * f1 * f2
    }
    #[inline(always)]
    fn ldexp_normal(self, x: f64x2, n: f64x2) -> f64x2 {
        let f = (n + f64x2::splat(6755399441055744.0 + 1023.0)).to_array();
        x * f64x2::new(f.map(|f| f64::from_bits(f.to_bits() << 52)))
    }
    #[inline(always)]
    fn frexp(self, x: f64x2) -> (f64x2, f64x2) {
        let x = x.to_array();
        let (mut m, mut e) = ([0.0; 2], [0.0; 2]);
        for i in 0..2 {
            // Subnormals are scaled up first, and the exponent corrected.
            let small = x[i] < f64::MIN_POSITIVE;
            let y = if small { x[i] * 18014398509481984.0 } else { x[i] };
            let bits = y.to_bits();
            m[i] = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
            e[i] = ((bits >> 52) as i64 - 1023) as f64 - if small { 54.0 } else { 0.0 };
        }
        (f64x2::new(m), f64x2::new(e))
    }
    #[inline(always)]
    fn reduce_add(self, v: f64x2) -> f64 {
        let a = v.to_array();
        a[0] + a[1]
    }
    #[inline(always)]
    fn reduce_max(self, v: f64x2) -> f64 {
        let a = v.to_array();
        a[0].max(a[1])
    }
    #[inline(always)]
    fn outline<O: Op<f64>>(self, op: O) -> O::Out {
        outlined::<f64, O>(op)
    }
    const EDGE: usize = 2;
    #[inline(always)]
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        from: *const f64,
        stride: usize,
        to: *mut f64,
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
