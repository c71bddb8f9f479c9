use super::*;
use crate::checks::sampling::{check_forest, check_gamma, check_simplex, check_stationary, envelope};
use crate::checks::testkit::{Rng, every_isa};
use crate::reference::sampling as twin;
use crate::sampling::exact::{exp_above, exp_exact, ln_exact};
use crate::sampling::gamma::{REJECTED, Wide, squeeze};
use crate::simd::{WordOp, Words};
use proptest::prelude::*;

/// Vector operations on words, against scalar ones.
struct CheckWords;

impl WordOp for CheckWords {
    type Out = ();
    fn run<S: Words>(self, s: S) {
        let words =
            [0, 1, u64::MAX, 0xFFFF_FFFF, 1 << 32, 0x0123_4567_89ab_cdef, 0xDEAD_BEEF_0000_0001, 1 << 63];
        let store = |w: S::W| {
            let mut out = [0; SAMPLE_LANES];
            // SAFETY: LANES <= SAMPLE_LANES.
            unsafe { s.store_words(out.as_mut_ptr(), w) };
            out[..S::LANES].to_vec()
        };
        // Every rotation, so that all words visit all lanes.
        for turn in 0..SAMPLE_LANES {
            let mut x = words;
            x.rotate_left(turn);
            // SAFETY: SAMPLE_LANES >= LANES words.
            let a = unsafe { s.load_words(x.as_ptr()) };
            let each = |f: &dyn Fn(u64) -> u64| x[..S::LANES].iter().map(|x| f(*x)).collect::<Vec<_>>();
            for y in words {
                let b = s.splat_word(y);
                assert_eq!(store(s.add_words(a, b)), each(&|x| x.wrapping_add(y)));
                assert_eq!(store(s.and(a, b)), each(&|x| x & y));
                assert_eq!(store(s.or(a, b)), each(&|x| x | y));
                assert_eq!(store(s.xor(a, b)), each(&|x| x ^ y));
                assert_eq!(store(s.mul_low(a, b)), each(&|x| (x & 0xFFFF_FFFF) * (y & 0xFFFF_FFFF)));
            }
            assert_eq!(store(s.shift_left(a, 32)), each(&|x| x << 32));
            assert_eq!(store(s.shift_right(a, 12)), each(&|x| x >> 12));
            assert_eq!(store(s.shift_right(a, 52)), each(&|x| x >> 52));
            assert_eq!(store(s.bits(s.value(a))), x[..S::LANES]);
        }
        let floats = [1.0, -1.0, f64::NAN, 0.0, f64::INFINITY, 2.0, -0.0, 5e-324];
        for turn in 0..SAMPLE_LANES {
            let mut x = floats;
            x.rotate_left(turn);
            for y in floats {
                // SAFETY: SAMPLE_LANES >= LANES elements.
                let mask = s.mask_lt(unsafe { s.load(x.as_ptr()) }, s.splat(y));
                let want = (0..S::LANES).fold(0, |m, l| m | u32::from(x[l] < y) << l);
                assert_eq!(mask, want);
            }
        }
    }
}

/// (exp, ln, a bound of exp) of SAMPLE_LANES numbers.
struct Functions<'a>(&'a [f64; SAMPLE_LANES]);

impl WordOp for Functions<'_> {
    type Out = [[f64; SAMPLE_LANES]; 3];
    #[inline(always)]
    fn run<S: Words>(self, s: S) -> Self::Out {
        let mut out = [[0.0; SAMPLE_LANES]; 3];
        let mut l = 0;
        while l < SAMPLE_LANES {
            // SAFETY: l + LANES <= SAMPLE_LANES.
            unsafe {
                let x = s.load(self.0.as_ptr().add(l));
                s.store(out[0].as_mut_ptr().add(l), exp_exact(s, x));
                s.store(out[1].as_mut_ptr().add(l), ln_exact(s, x));
                s.store(out[2].as_mut_ptr().add(l), exp_above(s, x));
            }
            l += S::LANES;
        }
        out
    }
}

#[test]
fn word_operations_match_scalar_ones() {
    for k in every_isa::<f64>() {
        dispatch_words(k.isa(), CheckWords);
    }
}

#[test]
fn exp_and_ln_have_the_bits_of_their_twins() {
    let mut rng = Rng(1);
    let kernels = every_isa::<f64>();
    for i in 0..40_000 {
        // The whole range, around zero, subnormal results and just beyond them; any positive normal
        // number, around 1.
        let x: [f64; SAMPLE_LANES] = std::array::from_fn(|_| match i % 4 {
            0 => 750.0 * rng.signed() - 41.0,
            1 => rng.signed(),
            2 => -727.0 + 19.0 * rng.signed(),
            _ => -40_000.0 * (1.0 + rng.signed()),
        });
        let z: [f64; SAMPLE_LANES] = std::array::from_fn(|_| match i % 2 {
            0 => f64::from_bits(((rng.bits() >> 1) % (0x7FE << 52)).max(1 << 52)),
            _ => 1.0 + 0.5 * rng.signed(),
        });
        for k in &kernels {
            let [exps, _, above] = dispatch_words(k.isa(), Functions(&x));
            let lns = dispatch_words(k.isa(), Functions(&z))[1];
            for l in 0..SAMPLE_LANES {
                assert_eq!(exps[l].to_bits(), twin::exp_exact(x[l]).to_bits(), "{:?} exp {}", k.isa(), x[l]);
                let (least, most) = (exps[l], exps[l] * (1.0 + 1.0 / 65_536.0));
                let most = if x[l] < -700.0 { 1e-300 } else { most };
                assert!(
                    x[l] > 700.0 || (least..=most).contains(&above[l]),
                    "{:?} {}: {}",
                    k.isa(),
                    x[l],
                    above[l]
                );
                assert_eq!(lns[l].to_bits(), twin::ln_exact(z[l]).to_bits(), "{:?} ln {}", k.isa(), z[l]);
            }
        }
    }
    // What they are at all; num.rs measures the accuracy.
    assert!((twin::exp_exact(1.0) - std::f64::consts::E).abs() < 1e-15);
    assert!((twin::ln_exact(10.0) - std::f64::consts::LN_10).abs() < 1e-15);
}

/// What the squeezes say of proposals: accepted, rejected.
struct Squeezes<'a>(&'a Envelope, &'a [f64; SAMPLE_LANES], &'a [f64; SAMPLE_LANES]);

impl WordOp for Squeezes<'_> {
    type Out = [[bool; SAMPLE_LANES]; 2];
    #[inline(always)]
    fn run<S: Words>(self, s: S) -> Self::Out {
        let (envelope, mut out) = (Wide::new(s, self.0), [[false; SAMPLE_LANES]; 2]);
        for first in (0..SAMPLE_LANES).step_by(S::LANES) {
            // SAFETY: first + LANES <= SAMPLE_LANES.
            let (u, v) = unsafe { (s.load(self.1.as_ptr().add(first)), s.load(self.2.as_ptr().add(first))) };
            let sure = squeeze(s, &envelope, u, v).sure;
            for l in 0..S::LANES {
                out[0][first + l] = sure >> l & 1 == 1;
                out[1][first + l] = sure >> REJECTED >> l & 1 == 1;
            }
        }
        out
    }
}

/// Close to where the rule turns from yes to no, and anywhere: a squeeze may abstain, but not
/// contradict it; and far away it must not abstain.
#[test]
fn squeezes_never_contradict_the_rule() {
    let mut rng = Rng(5);
    let kernels = every_isa::<f64>();
    let mut abstained = 0;
    for i in 0..30_000 {
        let alpha = 10f64.powf(3.0 * rng.signed());
        let a = alpha.ln() - 1.0f64.min(1.0 / alpha.sqrt());
        let e = envelope(alpha, a, (1.0 + alpha + alpha.sqrt()).ln());
        let unit = |rng: &mut Rng| (0.5 + 0.5 * rng.signed()).clamp(1e-300, 1.0 - f64::EPSILON);
        let u: [f64; SAMPLE_LANES] = std::array::from_fn(|_| unit(&mut rng));
        let d = u.map(|u| {
            let side = usize::from(u >= e.left);
            let w = (if side == 0 { u } else { 1.0 - u }) * e.scale[side];
            let y = e.knot + e.mean[side] * twin::ln_exact(w);
            twin::exp_exact(y) - e.point_exp[side] * (1.0 + (y - e.point[side]))
        });
        // From a hundredth down to the rounding of 1, either way.
        let v: [f64; SAMPLE_LANES] = std::array::from_fn(|l| match i % 2 {
            0 => unit(&mut rng),
            _ => {
                twin::exp_exact(-d[l]) * (1.0 + rng.signed().signum() * 10f64.powf(-9.0 + 7.0 * rng.signed()))
            }
        });
        for k in &kernels {
            let [yes, no] = dispatch_words(k.isa(), Squeezes(&e, &u, &v));
            for l in 0..SAMPLE_LANES {
                let rule = v[l] < 1.0 - d[l] || v[l] < twin::exp_exact(-d[l]);
                assert!(
                    if rule { !no[l] } else { !yes[l] },
                    "{:?} alpha {alpha} d {} v {}",
                    k.isa(),
                    d[l],
                    v[l]
                );
                abstained += usize::from(i % 2 == 0 && !yes[l] && !no[l]);
            }
        }
    }
    let all = 15_000 * SAMPLE_LANES * kernels.len();
    assert!(abstained * 12 < all, "{abstained} of {all}");
}

#[test]
fn philox_known_answers() {
    // kat_vectors of Random123.
    let got = twin::philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
    assert_eq!(got, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
}

#[test]
fn bad_operands_are_refused() {
    let k = Kernels::<f64>::from_env().unwrap();
    let at = Addresses { key: [0; 2], sample: [0; SAMPLE_LANES], variate: [0; SAMPLE_LANES] };
    let good = envelope(1.0, -1.0, 1.0);
    let (mut out, mut pending) = (vec![0.0; 4 * SAMPLE_LANES], vec![0; 4 * SAMPLE_LANES]);
    assert!(k.philox_words(&at, &mut [0; 2 * SAMPLE_LANES + 1]).is_err());
    assert!(k.log_gamma(&good, &at, &mut out[1..], &mut pending).is_err());
    assert!(k.log_gamma(&good, &at, &mut out, &mut pending[1..]).is_err());
    for bad in [
        Envelope { left: 0.0, ..good },
        Envelope { left: f64::NAN, ..good },
        Envelope { knot: f64::INFINITY, ..good },
        Envelope { scale: [0.0, 1.0], ..good },
        Envelope { mean: [-1.0, -1.0], ..good },
        Envelope { point_exp: [f64::NAN, 1.0], ..good },
        // Far above the density: never accepts, and says so.
        Envelope { knot: 100.0, ..good },
    ] {
        let error = k.log_gamma(&bad, &at, &mut out, &mut pending).unwrap_err();
        assert!(error.to_string().contains("the envelope"), "{error}");
    }
    let (mut p, mut sums, mut table) =
        (vec![0.0; 4 * SAMPLE_LANES], vec![0.0; 2 * SAMPLE_LANES], vec![0.0; 12 * SAMPLE_LANES]);
    assert!(k.simplex_rows(2, &mut out, &mut p, &mut sums, &mut table, 12).is_ok());
    assert!(k.simplex_rows(2, &mut out, &mut p[1..], &mut sums, &mut table, 12).is_err());
    assert!(k.simplex_rows(3, &mut out, &mut p, &mut sums, &mut table, 12).is_err());
    assert!(k.simplex_rows(2, &mut out, &mut p, &mut sums[1..], &mut table, 12).is_err());
    assert!(k.simplex_rows(2, &mut out, &mut p, &mut sums, &mut table, 11).is_err());
    assert!(k.simplex_rows(2, &mut out, &mut p, &mut sums, &mut table[1..], 12).is_err());
    assert!(k.simplex_rows(0, &mut [], &mut [], &mut [], &mut table, 12).is_ok());
    assert!(k.simplex_rows(usize::MAX, &mut out, &mut p, &mut sums, &mut table, 12).is_err());
    assert!(k.off_diagonal_below(3, &out, 0.0).is_err());
    assert!(k.stationary(2, &mut out, &mut sums).is_ok());
    assert!(k.stationary(2, &mut out, &mut p).is_err());
    assert!(k.stationary(3, &mut out, &mut sums).is_err());
    assert!(k.stationary(0, &mut [], &mut []).is_err());
    assert!(k.stationary(usize::MAX, &mut out, &mut sums).is_err());
    assert!(k.lanes_to_rows(&out, &mut table, 12, 0).is_ok());
    assert!(k.lanes_to_rows(&out, &mut table, 12, 1).is_err());
    assert!(k.lanes_to_rows(&out, &mut table, 12, usize::MAX).is_err());
    let words = [0; 2 * SAMPLE_LANES];
    let mut symbols = [0, 1];
    let run = |rows: &[RowOf], words: &[u64], stride, symbols: &mut [u32]| {
        k.invert_forest(2, rows, words, &table, stride, symbols).is_ok()
    };
    use RowOf::*;
    assert!(run(&[Fixed(1), Symbol(0)], &words, 12, &mut symbols));
    assert!(!run(&[Fixed(2), Symbol(0)], &words, 12, &mut symbols), "a row that reaches into the slack");
    assert!(!run(&[Fixed(1), Symbol(1)], &words, 12, &mut symbols));
    assert!(!run(&[Fixed(1), Given], &words, 12, &mut [0, 2]));
    assert!(run(&[Fixed(1), Given], &words, 12, &mut [0, 1]));
    assert!(!run(&[Fixed(1), Symbol(0)], &words[1..], 12, &mut symbols));
    assert!(!run(&[Fixed(1), Symbol(0)], &words, 12, &mut [0; 18]));
    assert!(!run(&[Fixed(1), Symbol(0)], &words, 12, &mut [0; 3]));
    assert!(!run(&[Fixed(0), Symbol(0)], &words, 11, &mut symbols));
}

/// A level that equals a prefix sum is not below it: u = 3/2⁵³ of 2⁵³ is 3 exactly.
#[test]
fn a_sum_at_the_level_is_passed() {
    let (n, stride) = (3, 9 + SAMPLE_LANES);
    let mut table = vec![0.0; stride * SAMPLE_LANES];
    table[..n].copy_from_slice(&[1.0, 3.0, 9_007_199_254_740_992.0]);
    for k in every_isa::<f64>() {
        let mut symbols = [0];
        k.invert_forest(n, &[RowOf::Fixed(0)], &[1 << 12; SAMPLE_LANES], &table, stride, &mut symbols)
            .unwrap();
        assert_eq!(symbols, [2], "{:?}", k.isa());
    }
}

proptest! {
    // A failure becomes a named test, not a file.
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn kernels_have_the_bits_of_their_twins(
        n in 1usize..40, rows in 0usize..4, log_alpha in -3f64..3.0, depth in 0f64..300.0, len in 0usize..30,
        lanes in 1usize..=SAMPLE_LANES, flat: u8, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let alpha = 10f64.powf(log_alpha);
        let at = Addresses {
            key: [rng.bits() as u32, rng.bits() as u32],
            sample: std::array::from_fn(|_| rng.bits()),
            variate: std::array::from_fn(|_| rng.bits() as u32),
        };
        let (a, b) = (alpha.ln() - 1.0f64.min(1.0 / alpha.sqrt()), (1.0 + alpha + alpha.sqrt()).ln());
        check_gamma(&envelope(alpha, a, b), &at, n * rows);
        check_simplex(n, rows, depth, &mut rng);
        check_stationary(n, depth, &mut rng);
        check_forest(n, len, lanes, flat, &mut rng);
    }
}
