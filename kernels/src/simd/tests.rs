//! Every instruction set's vector operations against scalar arithmetic.

use super::*;
use crate::elem::Elem;

/// Any operation on any instruction set: for tests of bodies that have no entry.
pub(crate) trait Dispatch: Elem {
    fn dispatch<O: Op<Self>>(isa: Isa, op: O) -> O::Out;
}

impl Dispatch for f32 {
    fn dispatch<O: Op<f32>>(isa: Isa, op: O) -> O::Out {
        dispatch_f32(isa, op)
    }
}

impl Dispatch for f64 {
    fn dispatch<O: Op<f64>>(isa: Isa, op: O) -> O::Out {
        dispatch_f64(isa, op)
    }
}

/// Applies every operation of `S` lane by lane and compares with scalar code.
struct Check;

impl Op<f64> for Check {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<f64>>(self, s: S) {
        let vals = [1.5, -2.25, 0.0, 1e300, -1e-300, 3.0, f64::INFINITY, 5e-324, 2.5, -0.5, 1e-310];
        for (i, &x) in vals.iter().enumerate() {
            for &y in &vals {
                let (vx, vy) = (s.splat(x), s.splat(y));
                let get = |v: S::V| {
                    let mut out = [0.0; 8];
                    // SAFETY: LANES <= 8 for f64.
                    unsafe { s.store(out.as_mut_ptr(), v) };
                    assert!(out[..S::LANES].iter().all(|o| o.to_bits() == out[0].to_bits()));
                    out[0]
                };
                let same =
                    |a: f64, b: f64| assert!(a == b || a.is_nan() && b.is_nan(), "{a} {b} ({x}, {y}, {i})");
                same(get(s.add(vx, vy)), x + y);
                same(get(s.sub(vx, vy)), x - y);
                same(get(s.mul(vx, vy)), x * y);
                same(get(s.div(vx, vy)), x / y);
                same(get(s.sqrt(vx)), x.sqrt());
                same(get(s.max(vx, vy)), if x > y { x } else { y });
                same(get(s.min(vx, vy)), if x < y { x } else { y });
                same(get(s.select_lt(vx, vy, vy, vx)), if x < y { y } else { x });
                if x.abs() < 1e15 {
                    same(get(s.round(vx)), x.round_ties_even());
                }
                if x > 0.0 && x.is_finite() {
                    let (m, e) = s.frexp(vx);
                    let (m, e) = (get(m), get(e));
                    assert!((1.0..2.0).contains(&m), "{x}: {m} {e}");
                    same(get(s.ldexp(s.splat(m), s.splat(e))), x);
                    if x.is_normal() && x < f64::MAX / 4.0 {
                        same(get(s.ldexp_normal(s.splat(m), s.splat(e))), x);
                    }
                    assert!(get(s.ldexp_normal(s.splat(f64::NAN), s.splat(e))).is_nan());
                }
                same(get(s.max(s.splat(f64::NAN), vx)), x);
                assert!(get(s.max(vx, s.splat(f64::NAN))).is_nan());
            }
        }
        let data: Vec<f64> = (1..=8).map(f64::from).collect();
        // SAFETY: 8 elements hold LANES <= 8.
        let v = unsafe { s.load(data.as_ptr()) };
        assert_eq!(s.reduce_add(v), (1..=S::LANES).map(|i| i as f64).sum::<f64>());
        assert_eq!(s.reduce_max(v), S::LANES as f64);
        for n in 0..=S::LANES {
            let mut out = [-1.0; 9];
            // SAFETY: n <= LANES <= 8 elements on both sides.
            unsafe { s.store_partial(out.as_mut_ptr(), n, s.load_partial(data[8 - n..].as_ptr(), n)) };
            assert_eq!(out[..n], data[8 - n..]);
            assert!(out[n..].iter().all(|x| *x == -1.0), "store_partial wrote past {n}");
            let mut out = [-1.0; 9];
            // SAFETY: n <= LANES <= 8 elements on both sides.
            unsafe { s.store_pieces(out.as_mut_ptr(), n, s.load_partial(data[8 - n..].as_ptr(), n)) };
            assert_eq!(out[..n], data[8 - n..]);
            assert!(out[n..].iter().all(|x| *x == -1.0), "store_pieces wrote past {n}");
            let mut full = [-1.0; 8];
            // SAFETY: LANES <= 8.
            unsafe { s.store(full.as_mut_ptr(), s.load_partial(data.as_ptr(), n)) };
            assert!(full[n..S::LANES].iter().all(|x| *x == 0.0));
        }
        assert_eq!(s.reduce_add(s.fma(s.splat(2.0), s.splat(3.0), s.splat(1.0))), 7.0 * S::LANES as f64);
        // (1 + ε)(1 − ε) = 1 − ε², which rounds to 1: only a fused multiply-add sees the ε².
        let (a, b) = (s.splat(1.0 + f64::EPSILON), s.splat(1.0 - f64::EPSILON));
        let seen = if S::FUSED { -f64::EPSILON * f64::EPSILON } else { 0.0 };
        assert_eq!(s.reduce_max(s.fma(a, b, s.splat(-1.0))), seen);
    }
}

impl Op<f32> for Check {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<f32>>(self, s: S) {
        let vals = [1.5f32, -2.25, 0.0, 1e38, -1e-38, 3.0, f32::INFINITY, 1e-45, 2.5, -0.5, 1e-40];
        for &x in &vals {
            for &y in &vals {
                let (vx, vy) = (s.splat(x), s.splat(y));
                let get = |v: S::V| {
                    let mut out = [0.0; 16];
                    // SAFETY: LANES <= 16 for f32.
                    unsafe { s.store(out.as_mut_ptr(), v) };
                    assert!(out[..S::LANES].iter().all(|o| o.to_bits() == out[0].to_bits()));
                    out[0]
                };
                let same = |a: f32, b: f32| assert!(a == b || a.is_nan() && b.is_nan(), "{a} {b} ({x}, {y})");
                same(get(s.add(vx, vy)), x + y);
                same(get(s.sub(vx, vy)), x - y);
                same(get(s.mul(vx, vy)), x * y);
                same(get(s.div(vx, vy)), x / y);
                same(get(s.sqrt(vx)), x.sqrt());
                same(get(s.max(vx, vy)), if x > y { x } else { y });
                same(get(s.min(vx, vy)), if x < y { x } else { y });
                same(get(s.select_lt(vx, vy, vy, vx)), if x < y { y } else { x });
                if x.abs() < 1e6 {
                    same(get(s.round(vx)), x.round_ties_even());
                }
                if x > 0.0 && x.is_finite() {
                    let (m, e) = s.frexp(vx);
                    let (m, e) = (get(m), get(e));
                    assert!((1.0..2.0).contains(&m), "{x}: {m} {e}");
                    same(get(s.ldexp(s.splat(m), s.splat(e))), x);
                    if x.is_normal() && x < f32::MAX / 4.0 {
                        same(get(s.ldexp_normal(s.splat(m), s.splat(e))), x);
                    }
                    assert!(get(s.ldexp_normal(s.splat(f32::NAN), s.splat(e))).is_nan());
                }
                same(get(s.max(s.splat(f32::NAN), vx)), x);
                assert!(get(s.max(vx, s.splat(f32::NAN))).is_nan());
            }
        }
        let data: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        // SAFETY: 16 elements hold LANES <= 16.
        let v = unsafe { s.load(data.as_ptr()) };
        assert_eq!(s.reduce_add(v), (1..=S::LANES).map(|i| i as f32).sum::<f32>());
        assert_eq!(s.reduce_max(v), S::LANES as f32);
        for n in 0..=S::LANES {
            let mut out = [-1.0; 17];
            // SAFETY: n <= LANES <= 16 elements on both sides.
            unsafe { s.store_partial(out.as_mut_ptr(), n, s.load_partial(data[16 - n..].as_ptr(), n)) };
            assert_eq!(out[..n], data[16 - n..]);
            assert!(out[n..].iter().all(|x| *x == -1.0), "store_partial wrote past {n}");
            let mut out = [-1.0; 17];
            // SAFETY: n <= LANES <= 16 elements on both sides.
            unsafe { s.store_pieces(out.as_mut_ptr(), n, s.load_partial(data[16 - n..].as_ptr(), n)) };
            assert_eq!(out[..n], data[16 - n..]);
            assert!(out[n..].iter().all(|x| *x == -1.0), "store_pieces wrote past {n}");
        }
        assert_eq!(s.reduce_add(s.fma(s.splat(2.0), s.splat(3.0), s.splat(1.0))), 7.0 * S::LANES as f32);
        // (1 + ε)(1 − ε) = 1 − ε², which rounds to 1: only a fused multiply-add sees the ε².
        let (a, b) = (s.splat(1.0 + f32::EPSILON), s.splat(1.0 - f32::EPSILON));
        let seen = if S::FUSED { -f32::EPSILON * f32::EPSILON } else { 0.0 };
        assert_eq!(s.reduce_max(s.fma(a, b, s.splat(-1.0))), seen);
    }
}

#[test]
fn operations_match_scalar_arithmetic() {
    for isa in Isa::ALL {
        if !isa.is_available() {
            println!("skipped: this CPU lacks {}", isa.name());
            continue;
        }
        f64::dispatch(isa, Check);
        f32::dispatch(isa, Check);
    }
}

/// `POPGRAD_REQUIRE_ISA=avx512` (a comma-separated list) turns the silent absence of an instruction
/// set into a failure. `aarch64` in it is for `.ci/aarch64`, which runs these tests on an emulated
/// CPU.
#[test]
fn required_instruction_sets_are_present() {
    let Ok(required) = std::env::var("POPGRAD_REQUIRE_ISA") else { return };
    for name in required.split(',').map(str::trim).filter(|n| !matches!(*n, "" | "aarch64")) {
        let isa = Isa::ALL.into_iter().find(|i| i.name() == name);
        assert!(
            isa.is_some_and(Isa::is_available),
            "POPGRAD_REQUIRE_ISA names `{name}`, which this CPU lacks"
        );
    }
}
