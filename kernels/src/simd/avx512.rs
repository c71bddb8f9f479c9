//! AVX-512 (F, BW, DQ, VL): 16 lanes of f32, 8 of f64, masked edges.

use crate::elem::real::Real;
use crate::simd::{Isa, Op, Routine, Simd, WordOp, Words};
use std::arch::x86_64::*;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// Token: the CPU has AVX-512. Only [`run`] and its like make one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs `op` with the features on.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn run<E: Real, O: Op<E>>(op: O) -> O::Out
where
    Avx512: Simd<E>,
{
    op.run(Avx512(()))
}

/// [`run`] for operations on words.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn run_words<O: WordOp>(op: O) -> O::Out {
    op.run(Avx512(()))
}

/// [`run`] as a call that stays a call.
///
/// # Safety
/// `is_available()` is true.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn outlined<E: Real, O: Op<E>>(op: O) -> O::Out
where
    Avx512: Simd<E>,
{
    op.run(Avx512(()))
}

/// A [`Routine`] as a function.
///
/// # Safety
/// `is_available()` is true; the routine's own.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn routine<E: Real, R: Routine<E>>(with: &R::With, a: *const E, b: *const E, c: *mut E)
where
    Avx512: Simd<E>,
{
    // SAFETY: the contract above.
    unsafe { R::run(Avx512(()), with, a, b, c) }
}

/// [`merge_ps`] and its like: a masked move as it is written. From the intrinsic the compiler makes
/// a permutation of both, which competes with the FMAs for a port (Zen 5, 24^3 f32: 70% of the
/// peak, and 91 with this).
macro_rules! merge {
    ($name:ident, $V:ty, $Mask:ty, $instruction:literal) => {
        /// `b` in the lanes of `mask`, `a` in the others.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn $name(a: $V, mask: $Mask, b: $V) -> $V {
            let mut out = a;
            // SAFETY: one move between registers.
            unsafe {
                std::arch::asm!(
                    $instruction,
                    out = inout(zmm_reg) out,
                    mask = in(kreg) mask,
                    b = in(zmm_reg) b,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            out
        }
    };
}
merge!(merge_ps, __m512, u16, "vmovaps {out} {{{mask}}}, {b}");
merge!(merge_pd, __m512d, u8, "vmovapd {out} {{{mask}}}, {b}");

// Throughout: SAFETY of the intrinsics is the token's: it exists only inside
// `run` and its like.

impl Simd<f32> for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;
    const FUSED: bool = true;

    const PARTS: bool = true;
    #[inline(always)]
    unsafe fn repeat<const PARTS: usize>(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe {
            if PARTS == 2 {
                _mm512_broadcast_f32x8(_mm256_maskz_loadu_ps(_bzhi_u32(0xFF, n as u32) as __mmask8, p))
            } else {
                _mm512_broadcast_f32x4(_mm_maskz_loadu_ps(_bzhi_u32(0xF, n as u32) as __mmask8, p))
            }
        }
    }
    #[inline(always)]
    fn join<const PARTS: usize>(self, v: [__m512; 4]) -> __m512 {
        // SAFETY: token.
        unsafe {
            if PARTS == 2 {
                return merge_ps(v[0], 0xFF00, v[1]);
            }
            merge_ps(merge_ps(v[0], 0x00F0, v[1]), 0xFF00, merge_ps(v[2], 0xF000, v[3]))
        }
    }
    #[inline(always)]
    fn part<const PARTS: usize>(self, v: __m512, i: usize) -> __m512 {
        // SAFETY: token.
        unsafe {
            match i * (4 / PARTS) {
                0 => v,
                1 => _mm512_shuffle_f32x4::<1>(v, v),
                2 => _mm512_shuffle_f32x4::<0b1110>(v, v),
                _ => _mm512_shuffle_f32x4::<3>(v, v),
            }
        }
    }
    whole_vectors! { f32, __m512: _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm512_maskz_loadu_ps(_bzhi_u32(0xFFFF, n as u32) as __mmask16, p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm512_mask_storeu_ps(p, _bzhi_u32(0xFFFF, n as u32) as __mmask16, v) }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, mut p: *mut f32, n: usize, v: __m512) {
        // SAFETY: token; the halves have n elements together, which the caller vouches for.
        unsafe {
            if n == 16 {
                return Simd::<f32>::store(self, p, v);
            }
            let mut h = _mm512_castps512_ps256(v);
            if n & 8 != 0 {
                _mm256_storeu_ps(p, h);
                h = _mm512_extractf32x8_ps::<1>(v);
                p = p.add(8);
            }
            super::avx2::store_pieces_f32(p, n % 8, h);
        }
    }
    one_instruction! { __m512:
        add(a, b) = _mm512_add_ps,
        sub(a, b) = _mm512_sub_ps,
        mul(a, b) = _mm512_mul_ps,
        div(a, b) = _mm512_div_ps,
        sqrt(a) = _mm512_sqrt_ps,
        fma(a, b, c) = _mm512_fmadd_ps,
        max(a, b) = _mm512_max_ps,
        min(a, b) = _mm512_min_ps,
        ldexp(x, n) = _mm512_scalef_ps,
        ldexp_normal(x, n) = _mm512_scalef_ps,
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: token.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn frexp(self, x: __m512) -> (__m512, __m512) {
        // SAFETY: token.
        unsafe { (_mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(x), _mm512_getexp_ps(x)) }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512) -> f32 {
        // SAFETY: token.
        unsafe {
            let h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        // SAFETY: token.
        unsafe { _mm512_reduce_max_ps(v) }
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
        unsafe { super::avx2::transpose_f32(rows, cols, from, stride, to, to_stride) }
    }
}

impl Simd<f64> for Avx512 {
    type V = __m512d;
    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx512;
    const FUSED: bool = true;

    const PARTS: bool = true;
    #[inline(always)]
    unsafe fn repeat<const PARTS: usize>(self, p: *const f64, n: usize) -> __m512d {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe {
            if PARTS == 2 {
                _mm512_broadcast_f64x4(_mm256_maskz_loadu_pd(_bzhi_u32(0xF, n as u32) as __mmask8, p))
            } else {
                _mm512_broadcast_f64x2(_mm_maskz_loadu_pd(_bzhi_u32(0x3, n as u32) as __mmask8, p))
            }
        }
    }
    #[inline(always)]
    fn join<const PARTS: usize>(self, v: [__m512d; 4]) -> __m512d {
        // SAFETY: token.
        unsafe {
            if PARTS == 2 {
                return merge_pd(v[0], 0xF0, v[1]);
            }
            merge_pd(merge_pd(v[0], 0x0C, v[1]), 0xF0, merge_pd(v[2], 0xC0, v[3]))
        }
    }
    #[inline(always)]
    fn part<const PARTS: usize>(self, v: __m512d, i: usize) -> __m512d {
        // SAFETY: token.
        unsafe {
            match i * (4 / PARTS) {
                0 => v,
                1 => _mm512_shuffle_f64x2::<1>(v, v),
                2 => _mm512_shuffle_f64x2::<0b1110>(v, v),
                _ => _mm512_shuffle_f64x2::<3>(v, v),
            }
        }
    }
    whole_vectors! { f64, __m512d: _mm512_set1_pd, _mm512_loadu_pd, _mm512_storeu_pd }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f64, n: usize) -> __m512d {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm512_maskz_loadu_pd(_bzhi_u32(0xFF, n as u32) as __mmask8, p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f64, n: usize, v: __m512d) {
        // SAFETY: token; masked-off lanes are not touched, the caller vouches for the first n.
        unsafe { _mm512_mask_storeu_pd(p, _bzhi_u32(0xFF, n as u32) as __mmask8, v) }
    }
    #[inline(always)]
    unsafe fn store_pieces(self, mut p: *mut f64, n: usize, v: __m512d) {
        // SAFETY: token; the halves have n elements together, which the caller vouches for.
        unsafe {
            if n == 8 {
                return Simd::<f64>::store(self, p, v);
            }
            let mut h = _mm512_castpd512_pd256(v);
            if n & 4 != 0 {
                _mm256_storeu_pd(p, h);
                h = _mm512_extractf64x4_pd::<1>(v);
                p = p.add(4);
            }
            super::avx2::store_pieces_f64(p, n % 4, h);
        }
    }
    one_instruction! { __m512d:
        add(a, b) = _mm512_add_pd,
        sub(a, b) = _mm512_sub_pd,
        mul(a, b) = _mm512_mul_pd,
        div(a, b) = _mm512_div_pd,
        sqrt(a) = _mm512_sqrt_pd,
        fma(a, b, c) = _mm512_fmadd_pd,
        max(a, b) = _mm512_max_pd,
        min(a, b) = _mm512_min_pd,
        ldexp(x, n) = _mm512_scalef_pd,
        ldexp_normal(x, n) = _mm512_scalef_pd,
    }
    #[inline(always)]
    fn select_lt(self, a: __m512d, b: __m512d, x: __m512d, y: __m512d) -> __m512d {
        // SAFETY: token.
        unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn round(self, a: __m512d) -> __m512d {
        // SAFETY: token.
        unsafe { _mm512_roundscale_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn frexp(self, x: __m512d) -> (__m512d, __m512d) {
        // SAFETY: token.
        unsafe { (_mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(x), _mm512_getexp_pd(x)) }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512d) -> f64 {
        // SAFETY: token.
        unsafe {
            let h = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd::<1>(v));
            let q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd::<1>(h));
            _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512d) -> f64 {
        // SAFETY: token.
        unsafe { _mm512_reduce_max_pd(v) }
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
        unsafe { super::avx2::transpose_f64(rows, cols, from, stride, to, to_stride) }
    }
}

impl Words for Avx512 {
    type W = __m512i;

    #[inline(always)]
    fn splat_word(self, x: u64) -> __m512i {
        // SAFETY: token.
        unsafe { _mm512_set1_epi64(x as i64) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u64) -> __m512i {
        // SAFETY: token; the caller vouches for 8 readable words.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u64, w: __m512i) {
        // SAFETY: token; the caller vouches for 8 writable words.
        unsafe { _mm512_storeu_si512(p.cast(), w) }
    }
    one_instruction! { __m512i:
        add_words(a, b) = _mm512_add_epi64,
        and(a, b) = _mm512_and_si512,
        or(a, b) = _mm512_or_si512,
        xor(a, b) = _mm512_xor_si512,
        mul_low(a, b) = _mm512_mul_epu32,
    }
    #[inline(always)]
    fn shift_left(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: token. A constant count becomes the immediate form.
        unsafe { _mm512_sll_epi64(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn shift_right(self, a: __m512i, n: u32) -> __m512i {
        // SAFETY: token. A constant count becomes the immediate form.
        unsafe { _mm512_srl_epi64(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn bits(self, v: __m512d) -> __m512i {
        // SAFETY: token.
        unsafe { _mm512_castpd_si512(v) }
    }
    #[inline(always)]
    fn value(self, w: __m512i) -> __m512d {
        // SAFETY: token.
        unsafe { _mm512_castsi512_pd(w) }
    }
    #[inline(always)]
    fn mask_lt(self, a: __m512d, b: __m512d) -> u32 {
        // SAFETY: token.
        unsafe { u32::from(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b)) }
    }
}
