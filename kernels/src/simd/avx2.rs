//! AVX2 with FMA: 8 lanes of f32, 4 of f64, edges through masked loads and stores in pieces.

use crate::elem::real::Real;
use crate::simd::{Isa, Op, Routine, Simd, WordOp, Words};
use std::arch::x86_64::*;

pub(super) fn is_available() -> bool {
    // Everything that `run` enables.
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// Token: the CPU has AVX2 and FMA. Only [`run`] and its like make one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs `op` with the features on.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn run<E: Real, O: Op<E>>(op: O) -> O::Out
where
    Avx2: Simd<E>,
{
    op.run(Avx2(()))
}

/// [`run`] for operations on words.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn run_words<O: WordOp>(op: O) -> O::Out {
    op.run(Avx2(()))
}

/// [`run`] as a call that stays a call.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn outlined<E: Real, O: Op<E>>(op: O) -> O::Out
where
    Avx2: Simd<E>,
{
    op.run(Avx2(()))
}

/// A [`Routine`] as a function.
///
/// # Safety
/// `is_available()` is true; the routine's own.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn routine<E: Real, R: Routine<E>>(with: &R::With, a: *const E, b: *const E, c: *mut E)
where
    Avx2: Simd<E>,
{
    // SAFETY: the contract above.
    unsafe { R::run(Avx2(()), with, a, b, c) }
}

// A window of this table that starts at 8 - n has n leading ones: the mask of a partial access.
static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

// Throughout: SAFETY of the intrinsics is the token's: it exists only inside
// `run` and its like.

#[inline(always)]
unsafe fn mask32(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: n <= 8 keeps the window of 8 inside the table of 16; the caller holds the token.
    unsafe { _mm256_loadu_si256(MASK32.as_ptr().add(8 - n).cast()) }
}

#[inline(always)]
unsafe fn mask64(n: usize) -> __m256i {
    debug_assert!(n <= 4);
    // SAFETY: n <= 4 keeps the window of 4 inside the table of 8; the caller holds the token.
    unsafe { _mm256_loadu_si256(MASK64.as_ptr().add(4 - n).cast()) }
}

/// The first n <= 7 lanes, in pieces of 4, 2 and 1: AVX-512 uses it too.
///
/// # Safety
/// The CPU has AVX2; n elements are writable.
#[inline(always)]
pub(super) unsafe fn store_pieces_f32(mut p: *mut f32, n: usize, v: __m256) {
    debug_assert!(n < 8);
    // SAFETY: the pieces lie one after the other and have n elements together, which the caller
    // vouches for.
    unsafe {
        let mut x = _mm256_castps256_ps128(v);
        if n & 4 != 0 {
            _mm_storeu_ps(p, x);
            x = _mm256_extractf128_ps::<1>(v);
            p = p.add(4);
        }
        if n & 2 != 0 {
            _mm_storel_pd(p.cast(), _mm_castps_pd(x));
            x = _mm_movehl_ps(x, x);
            p = p.add(2);
        }
        if n & 1 != 0 {
            _mm_store_ss(p, x);
        }
    }
}

/// The first n <= 3 lanes, in pieces of 2 and 1: AVX-512 uses it too.
///
/// # Safety
/// The CPU has AVX2; n elements are writable.
#[inline(always)]
pub(super) unsafe fn store_pieces_f64(mut p: *mut f64, n: usize, v: __m256d) {
    debug_assert!(n < 4);
    // SAFETY: as for f32.
    unsafe {
        let mut x = _mm256_castpd256_pd128(v);
        if n & 2 != 0 {
            _mm_storeu_pd(p, x);
            x = _mm256_extractf128_pd::<1>(v);
            p = p.add(2);
        }
        if n & 1 != 0 {
            _mm_store_sd(p, x);
        }
    }
}

/// [`Simd::transpose`] for f32, 8 by 8: AVX-512 uses it too.
///
/// # Safety
/// The CPU has AVX2; otherwise as the trait says.
#[inline(always)]
pub(super) unsafe fn transpose_f32(
    rows: usize,
    cols: usize,
    from: *const f32,
    stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    debug_assert!(rows <= 8 && cols <= 8);
    // SAFETY: `cols` runs of `rows` elements are read, `rows` rows of 8 written, as the caller
    // vouches.
    unsafe {
        let mask = mask32(rows);
        let mut r = [_mm256_setzero_ps(); 8];
        for j in 0..8 {
            if j < cols {
                r[j] = _mm256_maskload_ps(from.add(j * stride), mask);
            }
        }
        // Pairs of rows, then of pairs, then of halves: 24 shuffles.
        let mut s = r;
        for j in 0..4 {
            s[2 * j] = _mm256_unpacklo_ps(r[2 * j], r[2 * j + 1]);
            s[2 * j + 1] = _mm256_unpackhi_ps(r[2 * j], r[2 * j + 1]);
        }
        for h in 0..2 {
            let q = 4 * h;
            r[q] = _mm256_shuffle_ps::<0x44>(s[q], s[q + 2]);
            r[q + 1] = _mm256_shuffle_ps::<0xEE>(s[q], s[q + 2]);
            r[q + 2] = _mm256_shuffle_ps::<0x44>(s[q + 1], s[q + 3]);
            r[q + 3] = _mm256_shuffle_ps::<0xEE>(s[q + 1], s[q + 3]);
        }
        for i in 0..4 {
            s[i] = _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]);
            s[i + 4] = _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]);
        }
        for i in 0..8 {
            if i < rows {
                _mm256_storeu_ps(to.add(i * to_stride), s[i]);
            }
        }
    }
}

/// [`Simd::transpose`] for f64, 4 by 4: AVX-512 uses it too.
///
/// # Safety
/// The CPU has AVX2; otherwise as the trait says.
#[inline(always)]
pub(super) unsafe fn transpose_f64(
    rows: usize,
    cols: usize,
    from: *const f64,
    stride: usize,
    to: *mut f64,
    to_stride: usize,
) {
    debug_assert!(rows <= 4 && cols <= 4);
    // SAFETY: `cols` runs of `rows` elements are read, `rows` rows of 4 written, as the caller
    // vouches.
    unsafe {
        let mask = mask64(rows);
        let mut r = [_mm256_setzero_pd(); 4];
        for j in 0..4 {
            if j < cols {
                r[j] = _mm256_maskload_pd(from.add(j * stride), mask);
            }
        }
        let (a, b) = (_mm256_unpacklo_pd(r[0], r[1]), _mm256_unpackhi_pd(r[0], r[1]));
        let (c, d) = (_mm256_unpacklo_pd(r[2], r[3]), _mm256_unpackhi_pd(r[2], r[3]));
        let s = [
            _mm256_permute2f128_pd::<0x20>(a, c),
            _mm256_permute2f128_pd::<0x20>(b, d),
            _mm256_permute2f128_pd::<0x31>(a, c),
            _mm256_permute2f128_pd::<0x31>(b, d),
        ];
        for i in 0..4 {
            if i < rows {
                _mm256_storeu_pd(to.add(i * to_stride), s[i]);
            }
        }
    }
}

impl Simd<f32> for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx2;
    const FUSED: bool = true;

    whole_vectors! { f32, __m256: _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm256_maskload_ps(p, mask32(n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m256) {
        // In pieces: the masked store is microcode on AMD, some 20 cycles each (Zen 4, 127^3 f32:
        // 88 -> 110 GFLOP/s). SAFETY: token; the caller's promise.
        unsafe { Simd::<f32>::store_pieces(self, p, n, v) }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, p: *mut f32, n: usize, v: __m256) {
        // SAFETY: token; the caller's promise.
        unsafe {
            if n == 8 {
                return Simd::<f32>::store(self, p, v);
            }
            store_pieces_f32(p, n, v);
        }
    }
    one_instruction! { __m256:
        add(a, b) = _mm256_add_ps,
        sub(a, b) = _mm256_sub_ps,
        mul(a, b) = _mm256_mul_ps,
        div(a, b) = _mm256_div_ps,
        sqrt(a) = _mm256_sqrt_ps,
        fma(a, b, c) = _mm256_fmadd_ps,
        max(a, b) = _mm256_max_ps,
        min(a, b) = _mm256_min_ps,
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: token.
        unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: token.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn ldexp(self, x: __m256, n: __m256) -> __m256 {
        // SAFETY: token. In two factors, 2^(n/2) each, because 2^n alone may leave the exponent
        // range although x * 2^n does not; n is clamped first so that each factor is a normal
        // number.
        unsafe {
            let n = _mm256_cvtps_epi32(_mm256_max_ps(
                _mm256_min_ps(n, _mm256_set1_ps(252.0)),
                _mm256_set1_ps(-252.0),
            ));
            let h = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let f1 = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(h, bias)));
            let f2 =
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, h), bias)));
            _mm256_mul_ps(_mm256_mul_ps(x, f1), f2)
        }
    }
    #[inline(always)]
    fn ldexp_normal(self, x: __m256, n: __m256) -> __m256 {
        // SAFETY: token.
        unsafe {
            let e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e)))
        }
    }
    #[inline(always)]
    fn frexp(self, x: __m256) -> (__m256, __m256) {
        // SAFETY: token. Subnormals are scaled by 2^24 first, and the exponent corrected.
        unsafe {
            let small = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(f32::MIN_POSITIVE));
            let x = _mm256_blendv_ps(x, _mm256_mul_ps(x, _mm256_set1_ps(16777216.0)), small);
            let fix = _mm256_and_ps(small, _mm256_set1_ps(24.0));
            let bits = _mm256_castps_si256(x);
            let e = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            let m = _mm256_or_si256(
                _mm256_and_si256(bits, _mm256_set1_epi32(0x007F_FFFF)),
                _mm256_set1_epi32(0x3F80_0000),
            );
            (_mm256_castsi256_ps(m), _mm256_sub_ps(_mm256_cvtepi32_ps(e), fix))
        }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m256) -> f32 {
        // SAFETY: token.
        unsafe {
            let q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        // SAFETY: token.
        unsafe {
            let q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    const EDGE: usize = 8;
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
        // SAFETY: token; the caller vouches for runs and rows.
        unsafe { transpose_f32(rows, cols, from, stride, to, to_stride) }
    }
}

impl Simd<f64> for Avx2 {
    type V = __m256d;
    const LANES: usize = 4;
    const ISA: Isa = Isa::Avx2;
    const FUSED: bool = true;

    whole_vectors! { f64, __m256d: _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f64, n: usize) -> __m256d {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm256_maskload_pd(p, mask64(n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f64, n: usize, v: __m256d) {
        // SAFETY: token; the caller's promise.
        unsafe { Simd::<f64>::store_pieces(self, p, n, v) }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, p: *mut f64, n: usize, v: __m256d) {
        // SAFETY: token; the caller's promise.
        unsafe {
            if n == 4 {
                return Simd::<f64>::store(self, p, v);
            }
            store_pieces_f64(p, n, v);
        }
    }
    one_instruction! { __m256d:
        add(a, b) = _mm256_add_pd,
        sub(a, b) = _mm256_sub_pd,
        mul(a, b) = _mm256_mul_pd,
        div(a, b) = _mm256_div_pd,
        sqrt(a) = _mm256_sqrt_pd,
        fma(a, b, c) = _mm256_fmadd_pd,
        max(a, b) = _mm256_max_pd,
        min(a, b) = _mm256_min_pd,
    }
    #[inline(always)]
    fn select_lt(self, a: __m256d, b: __m256d, x: __m256d, y: __m256d) -> __m256d {
        // SAFETY: token.
        unsafe { _mm256_blendv_pd(y, x, _mm256_cmp_pd::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn round(self, a: __m256d) -> __m256d {
        // SAFETY: token.
        unsafe { _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn ldexp(self, x: __m256d, n: __m256d) -> __m256d {
        // SAFETY: token. Two factors, as for f32. The halves become integers by adding 1.5 * 2^52,
        // whose low mantissa bits then hold the biased exponent (AVX2 has no conversion from f64 to
        // i64).
        unsafe {
            let n = _mm256_max_pd(_mm256_min_pd(n, _mm256_set1_pd(2044.0)), _mm256_set1_pd(-2044.0));
            let h = _mm256_floor_pd(_mm256_mul_pd(n, _mm256_set1_pd(0.5)));
            let magic = _mm256_set1_pd(6755399441055744.0 + 1023.0);
            let f1 = _mm256_slli_epi64::<52>(_mm256_castpd_si256(_mm256_add_pd(h, magic)));
            let f2 = _mm256_slli_epi64::<52>(_mm256_castpd_si256(_mm256_add_pd(_mm256_sub_pd(n, h), magic)));
            _mm256_mul_pd(_mm256_mul_pd(x, _mm256_castsi256_pd(f1)), _mm256_castsi256_pd(f2))
        }
    }
    #[inline(always)]
    fn ldexp_normal(self, x: __m256d, n: __m256d) -> __m256d {
        // SAFETY: token. The exponent is planted as in `ldexp`.
        unsafe {
            let e = _mm256_castpd_si256(_mm256_add_pd(n, _mm256_set1_pd(6755399441055744.0 + 1023.0)));
            _mm256_mul_pd(x, _mm256_castsi256_pd(_mm256_slli_epi64::<52>(e)))
        }
    }
    #[inline(always)]
    fn frexp(self, x: __m256d) -> (__m256d, __m256d) {
        // SAFETY: token. Subnormals are scaled by 2^54 first. The exponent becomes a float by
        // planting it in the low bits of 2^52 and subtracting 2^52 + 1023.
        unsafe {
            let small = _mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_set1_pd(f64::MIN_POSITIVE));
            let x = _mm256_blendv_pd(x, _mm256_mul_pd(x, _mm256_set1_pd(18014398509481984.0)), small);
            let fix = _mm256_and_pd(small, _mm256_set1_pd(54.0));
            let bits = _mm256_castpd_si256(x);
            let two52 = _mm256_set1_epi64x(0x4330_0000_0000_0000);
            let e = _mm256_castsi256_pd(_mm256_or_si256(_mm256_srli_epi64::<52>(bits), two52));
            let e = _mm256_sub_pd(e, _mm256_set1_pd(4503599627370496.0 + 1023.0));
            let m = _mm256_or_si256(
                _mm256_and_si256(bits, _mm256_set1_epi64x(0x000F_FFFF_FFFF_FFFF)),
                _mm256_set1_epi64x(0x3FF0_0000_0000_0000),
            );
            (_mm256_castsi256_pd(m), _mm256_sub_pd(e, fix))
        }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m256d) -> f64 {
        // SAFETY: token.
        unsafe {
            let q = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256d) -> f64 {
        // SAFETY: token.
        unsafe {
            let q = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_max_sd(q, _mm_unpackhi_pd(q, q)))
        }
    }
    const EDGE: usize = 4;
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
        // SAFETY: token; the caller vouches for runs and rows.
        unsafe { transpose_f64(rows, cols, from, stride, to, to_stride) }
    }
}

impl Words for Avx2 {
    type W = __m256i;

    #[inline(always)]
    fn splat_word(self, x: u64) -> __m256i {
        // SAFETY: token.
        unsafe { _mm256_set1_epi64x(x as i64) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u64) -> __m256i {
        // SAFETY: token; the caller vouches for 4 readable words.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u64, w: __m256i) {
        // SAFETY: token; the caller vouches for 4 writable words.
        unsafe { _mm256_storeu_si256(p.cast(), w) }
    }
    one_instruction! { __m256i:
        add_words(a, b) = _mm256_add_epi64,
        and(a, b) = _mm256_and_si256,
        or(a, b) = _mm256_or_si256,
        xor(a, b) = _mm256_xor_si256,
        mul_low(a, b) = _mm256_mul_epu32,
    }
    #[inline(always)]
    fn shift_left(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: token. A constant count becomes the immediate form.
        unsafe { _mm256_sll_epi64(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn shift_right(self, a: __m256i, n: u32) -> __m256i {
        // SAFETY: token. A constant count becomes the immediate form.
        unsafe { _mm256_srl_epi64(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn bits(self, v: __m256d) -> __m256i {
        // SAFETY: token.
        unsafe { _mm256_castpd_si256(v) }
    }
    #[inline(always)]
    fn value(self, w: __m256i) -> __m256d {
        // SAFETY: token.
        unsafe { _mm256_castsi256_pd(w) }
    }
    #[inline(always)]
    fn mask_lt(self, a: __m256d, b: __m256d) -> u32 {
        // SAFETY: token.
        unsafe { _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_LT_OQ>(a, b)) as u32 }
    }
}
