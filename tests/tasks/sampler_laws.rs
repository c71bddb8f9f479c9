//! The sampler in lanes against plain ones: ordinary random numbers, other algorithms, a million
//! draws for every α.
//!
//! Seeds are fixed, so nothing here flickers; thresholds are those of the test statistics at p =
//! 10⁻⁶.

use popgrad::rng::{Key, LogGamma, Purpose};
use popgrad::task::dirichlet::{DirichletRows, kernels};
use popgrad::task::{CausalTree, Forest, Roots};
use popgrad_kernels::sampling::SAMPLE_LANES;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ALPHAS: [f64; 7] = [0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 10.0];
const DRAWS: usize = 1_000_000;

/// ln X, X ~ Gamma(a, 1): Marsaglia and Tsang (2000) for a + 1 on Box and Muller's normals, times
/// U^{1/a}.
fn plain_log_gamma(a: f64, rng: &mut StdRng) -> f64 {
    let d = a + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let (r, phi): (f64, f64) = (rng.random(), rng.random());
        let x = (-2.0 * (1.0 - r).ln()).sqrt() * (std::f64::consts::TAU * phi).cos();
        let v = (1.0 + c * x).powi(3);
        let u: f64 = 1.0 - rng.random::<f64>();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln() + (1.0 - rng.random::<f64>()).ln() / a;
        }
    }
}

/// The row's logarithms, normalised.
fn plain_log_row<const S: usize>(a: f64, rng: &mut StdRng) -> [f64; S] {
    let row: [f64; S] = std::array::from_fn(|_| plain_log_gamma(a, rng));
    let max = row.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let log_total = row.iter().map(|y| (y - max).exp()).sum::<f64>().ln();
    row.map(|y| (y - max) - log_total)
}

/// At small α most rows are one up to rounding; what is left of their logarithm is the order of a
/// sum, not the law.
fn unless_one(log_p: f64) -> f64 {
    if log_p > -1e-12 { 0.0 } else { log_p }
}

/// Two samples' Kolmogorov-Smirnov distance times √(nm/(n+m)); above 2.694 with probability 10⁻⁶.
fn two_sample_ks(a: &mut [f64], b: &mut [f64]) -> f64 {
    a.sort_unstable_by(f64::total_cmp);
    b.sort_unstable_by(f64::total_cmp);
    let (n, m) = (a.len() as f64, b.len() as f64);
    let (mut i, mut j, mut worst) = (0, 0, 0f64);
    while i < a.len() && j < b.len() {
        let x = a[i].min(b[j]);
        while i < a.len() && a[i] <= x {
            i += 1;
        }
        while j < b.len() && b[j] <= x {
            j += 1;
        }
        worst = worst.max((i as f64 / n - j as f64 / m).abs());
    }
    worst * (n * m / (n + m)).sqrt()
}
const KS: f64 = 2.694;

/// Two samples of equal size: the statistic over its 10⁻⁶ quantile (Wilson and Hilferty). Rare
/// cells go together.
fn two_sample_chi2(a: &[u64], b: &[u64]) -> f64 {
    let (mut chi2, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    let mut add = |x: f64, y: f64| {
        chi2 += (x - y) * (x - y) / (x + y);
        cells += 1.0;
    };
    for (&x, &y) in a.iter().zip(b) {
        if x + y < 40 {
            rest = (rest.0 + x as f64, rest.1 + y as f64);
        } else {
            add(x as f64, y as f64);
        }
    }
    if rest.0 + rest.1 >= 40.0 {
        add(rest.0, rest.1);
    }
    let df: f64 = cells - 1.0;
    let z = 2.0 / (9.0 * df);
    chi2 / (df * (1.0 - z + 4.753 * z.sqrt()).powi(3))
}

#[test]
fn dirichlet_rows_in_lanes_are_normalised_gamma_variates() {
    const S: usize = 3;
    const ROWS: usize = 5;
    let (key, mut rng) = (Key::new(1, Purpose::Probe), StdRng::seed_from_u64(1));
    for alpha in ALPHAS {
        let gamma = LogGamma::new(alpha).unwrap();
        let mut rows = DirichletRows::new(kernels(), S, ROWS, 0);
        let (mut fast, mut log_row, mut n) = (Vec::with_capacity(DRAWS), [0.0; S], 0);
        while fast.len() < DRAWS {
            rows.draw(&gamma, &key, std::array::from_fn(|l| n + l as u64), [7; SAMPLE_LANES]);
            n += SAMPLE_LANES as u64;
            for (l, r) in (0..SAMPLE_LANES).flat_map(|l| (0..ROWS).map(move |r| (l, r))) {
                rows.copy_log_row(l, r, &mut log_row);
                fast.push(unless_one(log_row[(l + r) % S]));
            }
        }
        let mut plain: Vec<f64> =
            (0..DRAWS).map(|_| unless_one(plain_log_row::<S>(alpha, &mut rng)[0])).collect();
        let beta = two_sample_ks(&mut fast, &mut plain);
        println!("alpha {alpha}: KS of ln Beta {beta:.3}");
        assert!(beta < KS, "{alpha}: {beta}");
    }
}

#[test]
fn gamma_variates_in_lanes_are_marsaglias() {
    let (key, mut rng) = (Key::new(2, Purpose::Probe), StdRng::seed_from_u64(2));
    let k = kernels();
    for alpha in ALPHAS {
        let envelope = LogGamma::new(alpha).unwrap().envelope();
        let (mut fast, mut pending) = (vec![0.0; DRAWS], vec![0; DRAWS]);
        let at = popgrad_kernels::sampling::Addresses {
            key: [3, 4],
            sample: std::array::from_fn(|l| key.block(l as u64, 0, 0)[0]),
            variate: [0; SAMPLE_LANES],
        };
        k.log_gamma(&envelope, &at, &mut fast, &mut pending).unwrap();
        let mut plain: Vec<f64> = (0..DRAWS).map(|_| plain_log_gamma(alpha, &mut rng)).collect();
        let distance = two_sample_ks(&mut fast, &mut plain);
        println!("alpha {alpha}: KS of ln Gamma {distance:.3}");
        assert!(distance < KS, "{alpha}: {distance}");
    }
}

/// Words of a chain with stationary roots, and the query: every cell of their joint law.
#[test]
fn tokens_in_lanes_are_those_of_a_plain_simulation() {
    const S: usize = 3;
    const T: usize = 5;
    let cells = S.pow(T as u32);
    let key = Key::new(3, Purpose::Probe);
    let mut rng = StdRng::seed_from_u64(3);
    for alpha in ALPHAS {
        let task = CausalTree::new(Forest::chain(T).unwrap(), S, alpha, Roots::Stationary).unwrap();
        let mut block = task.block(kernels());
        let (mut fast, mut plain) = (vec![0u64; cells], vec![0u64; cells]);
        let (mut tokens, mut targets) = (vec![0; 1000 * T], vec![0.0; 1000 * S]);
        for first in (0..DRAWS).step_by(1000) {
            task.sample_block(&key, first as u64, &mut block, &mut tokens, &mut targets);
            for word in tokens.chunks_exact(T) {
                fast[word.iter().fold(0, |c, x| c * S + *x as usize)] += 1;
            }
        }
        for _ in 0..DRAWS {
            let l: [[f64; S]; S] = std::array::from_fn(|_| plain_log_row(alpha, &mut rng));
            // Markov chain tree theorem: the weights of the spanning trees that lead to j, the
            // largest factored out.
            let trees: [[f64; 3]; S] = std::array::from_fn(|j| {
                let (a, b) = ((j + 1) % S, (j + 2) % S);
                [l[a][j] + l[b][j], l[a][b] + l[b][j], l[b][a] + l[a][j]]
            });
            let max = trees.as_flattened().iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut law = trees.map(|t| t.iter().map(|y| (y - max).exp()).sum::<f64>());
            let mut word = 0;
            for _ in 0..T - 1 {
                let mut left = rng.random::<f64>() * law.iter().sum::<f64>();
                let symbol = law.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                let symbol = symbol.unwrap_or(S - 1);
                word = word * S + symbol;
                law = l[symbol].map(f64::exp);
            }
            plain[word * S + rng.random_range(0..S)] += 1;
        }
        let ratio = two_sample_chi2(&fast, &plain);
        println!("alpha {alpha}: chi-squared over its 1e-6 quantile {ratio:.3}");
        assert!(ratio < 1.0, "{alpha}: {ratio}");
    }
}
