//! The stationary law, entry by entry, against exact integer arithmetic.
//!
//! Reference: μ_j is proportional to the principal minor of the Laplacian without row and column j
//! (Markov chain tree theorem), computed by Bareiss elimination on integers from the off-diagonal
//! entries.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};
use popgrad::num::{exp, ln};
use popgrad::rng::{Key, Purpose};
use popgrad::task::stationary::{StationaryScratch, stationary};
use popgrad::task::{CausalTree, Forest, Roots};

/// m · 2^e.
type Dyadic = (f64, i64);

fn minors(entries: &[Dyadic], s: usize) -> Vec<BigInt> {
    let off = |i: usize, j: usize| i != j && entries[i * s + j].0 != 0.0;
    let cells = || (0..s * s).filter(|c| off(c / s, c % s));
    let split = |(m, e): Dyadic| {
        let (m, k) = libm::frexp(m);
        (libm::ldexp(m, 53) as i64, e + i64::from(k) - 53)
    };
    let least = cells().map(|c| split(entries[c]).1).min().expect("an edge");
    let mut laplacian = vec![BigInt::zero(); s * s];
    for c in cells() {
        let (m, e) = split(entries[c]);
        let x = BigInt::from(m) << (e - least);
        laplacian[c / s * s + c / s] += &x;
        laplacian[c] = -x;
    }
    (0..s)
        .map(|skip| {
            let keep: Vec<usize> = (0..s).filter(|i| *i != skip).collect();
            determinant(
                keep.iter().map(|i| keep.iter().map(|j| laplacian[i * s + j].clone()).collect()).collect(),
            )
        })
        .collect()
}

/// Bareiss; a zero pivot means a zero minor here, since the Laplacian's principal minors are
/// M-matrices.
fn determinant(mut a: Vec<Vec<BigInt>>) -> BigInt {
    let n = a.len();
    let mut previous = BigInt::from(1);
    for k in 0..n {
        if a[k][k].is_zero() {
            return BigInt::zero();
        }
        for i in k + 1..n {
            for j in k + 1..n {
                a[i][j] = (&a[i][j] * &a[k][k] - &a[i][k] * &a[k][j]) / &previous;
            }
        }
        previous = a[k][k].clone();
    }
    previous
}

fn big_ln(x: &BigInt) -> f64 {
    let shift = x.bits().saturating_sub(900);
    let top = (x >> shift).to_f64().expect("below 2^900");
    top.ln() + shift as f64 * std::f64::consts::LN_2
}

/// Largest relative error of the entries of μ above 10⁻³⁰⁰, and largest error of ln μ elsewhere in
/// units of its ulp.
fn errors(pi: &[f64], log_pi: &[f64], entries: &[Dyadic], s: usize) -> (f64, f64) {
    let (mut mu, mut log_mu) = (vec![f64::NAN; s], vec![f64::NAN; s]);
    stationary(pi, log_pi, s, &mut mu, Some(&mut log_mu), &mut StationaryScratch::new(s));
    let minors = minors(entries, s);
    let total: BigInt = minors.iter().sum();
    let (mut relative, mut logs) = (0f64, 0f64);
    for j in 0..s {
        assert!(minors[j].is_positive() && mu[j] >= 0.0, "entry {j}");
        let exact = big_ln(&minors[j]) - big_ln(&total);
        if exact > -690.0 {
            let scaled = BigRational::from_float(mu[j]).expect("finite") * BigRational::from(total.clone());
            let d =
                (scaled / BigRational::from(minors[j].clone()) - BigRational::from(BigInt::from(1))).to_f64();
            relative = relative.max(d.expect("ratio").abs());
        }
        // The logarithms of the minors are large numbers: their difference has their rounding
        // errors.
        let noise = 4.0 * f64::EPSILON * (1.0 + big_ln(&total).abs() + big_ln(&minors[j]).abs());
        logs = logs.max((log_mu[j] - exact).abs() / noise);
    }
    (relative, logs)
}

/// GTH needs about 2S³/3 roundings; 1e-12 is the promise.
const PROMISE: f64 = 1e-12;

fn check(pi: &[f64], s: usize) -> f64 {
    let log_pi: Vec<f64> = pi.iter().map(|x| ln(*x)).collect();
    let entries: Vec<Dyadic> = pi.iter().map(|x| (*x, 0)).collect();
    let (relative, logs) = errors(pi, &log_pi, &entries, s);
    assert!(relative < PROMISE && logs < 10.0, "{relative:e} {logs} {pi:?}");
    relative
}

/// Off-diagonal entries as given; the diagonal completes the row (it is not read).
fn complete(mut pi: Vec<f64>, s: usize) -> Vec<f64> {
    for i in 0..s {
        pi[i * s + i] = 0.0;
        let out: f64 = pi[i * s..(i + 1) * s].iter().sum();
        pi[i * s + i] = 1.0 - out;
    }
    pi
}

#[test]
fn nearly_reducible_matrices() {
    let mut worst = 0f64;
    for tiny in [1e-9, 1e-30, 1e-140, 1e-200, 1e-307] {
        // Two weakly joined pairs, both numberings; a one-way street; a slow cycle.
        let t = tiny;
        for pi in [
            vec![0., 0.3, t, t, 0.7, 0., 2. * t, t, t, 5. * t, 0., 0.1, t, t, 0.25, 0.],
            vec![0., t, 0.3, t, t, 0., t, 0.6, 0.2, 3. * t, 0., t, t, 0.9, t * 7., 0.],
            vec![0., 0.5, t, t, t, 0., 0.5, t, t, t, 0., 0.5, t, t, t, 0.],
            vec![0., t, 0., 0., 0., 0., 2. * t, 0., 0., 0., 0., 0.5, 3. * t, 0., 0., 0.],
        ] {
            worst = worst.max(check(&complete(pi, 4), 4));
        }
        worst = worst.max(check(&complete(vec![0., t, 0.5, 0.], 2), 2));
    }
    println!("worst relative error {worst:.2e}");
}

#[test]
fn random_dirichlet_rows() {
    let mut worst = 0f64;
    for alpha in [0.03, 0.1, 0.3, 1.0] {
        for s in 2..=10 {
            let task = CausalTree::new(Forest::chain(2).unwrap(), s, alpha, Roots::Stationary).unwrap();
            let (mut work, mut tokens, mut target) = (task.work(), [0; 2], vec![0.0; s]);
            for n in 0..4 {
                task.sample(&Key::new(s as u64, Purpose::Test), n, &mut work, &mut tokens, &mut target);
                worst = worst.max(check(work.pi(), s));
                // The law that was sampled from is this one.
                let mut mu = vec![0.0; s];
                stationary(work.pi(), work.log_pi(), s, &mut mu, None, &mut StationaryScratch::new(s));
                assert_eq!(work.mu(), Some(&mu[..]));
            }
        }
    }
    println!("worst relative error {worst:.2e}");
}

/// Entries far outside f64: the reference takes m · 2^e from the same logarithms, whose rounding
/// (|ln x| u per entry, S - 1 entries to a tree, numerator and denominator) is the only tolerance
/// beyond the promise.
#[test]
fn random_dirichlet_rows_beyond_the_range_of_f64() {
    for (alpha, s) in [(0.001, 2), (0.001, 3), (0.001, 4), (0.01, 5), (0.01, 6)] {
        let task = CausalTree::new(Forest::chain(2).unwrap(), s, alpha, Roots::Stationary).unwrap();
        let (mut work, mut tokens, mut target) = (task.work(), [0; 2], vec![0.0; s]);
        let mut worst = (0f64, 0f64);
        for n in 0..6 {
            task.sample(&Key::new(77, Purpose::Test), n, &mut work, &mut tokens, &mut target);
            let entries: Vec<Dyadic> = work
                .pi()
                .iter()
                .zip(work.log_pi())
                .map(|(&p, &l)| {
                    let k = (l / std::f64::consts::LN_2).round();
                    // ln 2 in two parts, the first with 21 significant bits: k times it is exact.
                    let high = 0.693_146_705_627_441_4;
                    let low = 4.749_325_039_031_672_6e-7;
                    if p.is_normal() { (p, 0) } else { (exp((l - k * high) - k * low), k as i64) }
                })
                .collect();
            let largest = work.log_pi().iter().fold(0f64, |m, l| m.max(l.abs()));
            let (relative, logs) = errors(work.pi(), work.log_pi(), &entries, s);
            assert!(relative < PROMISE + 2.0 * s as f64 * f64::EPSILON * largest, "{relative:e}");
            assert!(logs < 10.0, "{logs}");
            worst = (worst.0.max(relative), worst.1.max(logs));
        }
        println!("alpha {alpha} S {s}: relative {:.1e}, logarithms {:.2} roundings", worst.0, worst.1);
    }
}
