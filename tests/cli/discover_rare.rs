//! `discover` with rare symbols and unequal alphabets.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::ToPrimitive;
use popgrad::discover::{Graph, Labels, Position, Sample, chi2, gradient};
use popgrad::rng::{Key, Purpose};

/// Cumulative law over symbols.
fn zipf(s: usize, power: f64) -> Vec<f64> {
    let w: Vec<f64> = (1..=s).map(|k| (k as f64).powf(-power)).collect();
    let total: f64 = w.iter().sum();
    let mut at = 0.0;
    w.iter()
        .map(|x| {
            at += x / total;
            at
        })
        .collect()
}

fn draw(law: &[f64], u: f64) -> u32 {
    law.iter().position(|c| *c > u).unwrap_or(law.len() - 1) as u32
}

/// Independent columns, each of its own law; the last law is that of the label.
fn independent(laws: &[Vec<f64>], n: usize, seed: u64) -> Sample {
    let t = laws.len() - 1;
    let key = Key::new(seed, Purpose::Probe);
    let at = |k: usize, i: usize| draw(&laws[i], key.uniforms(k as u64, i as u32, 0)[0]);
    let tokens = (0..n).flat_map(|k| (0..t).map(move |i| (k, i))).map(|(k, i)| at(k, i)).collect();
    let labels = Some(Labels::Symbols((0..n).map(|k| at(k, t)).collect()));
    let symbols = laws.iter().map(Vec::len).max().unwrap();
    Sample { seqs: n, len: t, symbols, tokens, labels }
}

/// Columns side by side.
fn sample(columns: &[Vec<u32>]) -> Sample {
    let (n, t) = (columns[0].len(), columns.len());
    let tokens = (0..n * t).map(|e| columns[e % t][e / t]).collect();
    let symbols = columns.iter().flatten().max().map_or(2, |m| *m as usize + 1).max(2);
    Sample { seqs: n, len: t, symbols, tokens, labels: None }
}

/// Two columns with these counts n_ab.
fn table(counts: &[&[usize]]) -> [Vec<u32>; 2] {
    let mut columns = [Vec::new(), Vec::new()];
    for (a, row) in counts.iter().enumerate() {
        for (b, n) in row.iter().enumerate() {
            columns[0].extend(vec![a as u32; *n]);
            columns[1].extend(vec![b as u32; *n]);
        }
    }
    columns
}

/// `n` draws of a symbol below `symbols`.
fn noise(n: usize, symbols: usize, seed: u64) -> Vec<u32> {
    let key = Key::new(seed, Purpose::Probe);
    (0..n).map(|k| key.below(symbols as u64, k as u64, 0, 0) as u32).collect()
}

fn choose(n: u64, k: u64) -> BigInt {
    (1..=k).fold(BigInt::from(1), |c, i| c * (n - k + i) / i)
}

/// Fisher's exact test of [[a, b], [c, d]], two-sided, in whole numbers.
fn fisher([[a, b], [c, d]]: [[u64; 2]; 2]) -> f64 {
    let (row, column, n) = (a + b, a + c, a + b + c + d);
    let ways = |x: u64| choose(row, x) * choose(n - row, column - x);
    let all = (row + column).saturating_sub(n)..=row.min(column);
    let sum: BigInt = all.map(ways).filter(|w| *w <= ways(a)).sum();
    BigRational::new(sum, choose(n, column)).to_f64().unwrap()
}

fn position(columns: &[Vec<u32>], i: usize) -> Position {
    chi2::discover(&sample(columns), 0.01).unwrap().positions[i].clone()
}

#[test]
fn two_by_two_tables_have_the_exact_p() {
    for cells in [
        [[50, 0], [475, 475]],
        [[0, 50], [475, 475]],
        [[475, 475], [50, 0]],
        [[475, 50], [475, 0]],
        [[3, 0], [0, 997]],
        [[1, 2], [2, 995]],
        [[40, 60], [300, 600]],
        [[10, 0], [0, 10]],
        [[250, 250], [250, 250]],
        [[5, 15], [15, 5]],
        [[29, 1], [400, 570]],
    ] {
        let exact = fisher(cells);
        let rows: Vec<Vec<usize>> = cells.iter().map(|r| r.iter().map(|n| *n as usize).collect()).collect();
        let columns = table(&[&rows[0], &rows[1]]);
        let p = position(&columns, 1);
        assert!((p.p / exact - 1.0).abs() < 1e-9, "{cells:?}: {} {exact}", p.p);
        assert!((p.log10_p - exact.log10()).abs() < 1e-9 && p.tested, "{cells:?}: {}", p.log10_p);
        assert_eq!(p.parent, (exact <= 0.01).then_some(0), "{cells:?}");
        // The number of candidates: a column that is the same in another order.
        let [a, b] = columns;
        let shifted: Vec<u32> = (0..a.len()).map(|k| a[(k * 7 + 3) % a.len()]).collect();
        let p = position(&[shifted, a, b], 2);
        if exact < 1e-4 {
            assert_eq!(p.parent, Some(1), "{cells:?}");
            assert!((p.p / exact / 2.0 - 1.0).abs() < 1e-9, "{cells:?}: {} {exact}", p.p);
        }
    }
    let p = position(&table(&[&[475, 475], &[0, 50]]), 1);
    assert!((p.log10_p + 14.4).abs() < 0.1, "{}", p.log10_p);
    assert!((p.z - 7.76).abs() < 0.05, "{}", p.z);
}

#[test]
fn p_below_every_number_has_its_logarithm() {
    let n = 20_000;
    let p = position(&table(&[&[n / 2, 0], &[0, n / 2]]), 1);
    let (numerator, denominator) = (2.0f64.log10(), {
        // log10 C(n, n/2) by its digits.
        let digits = choose(n as u64, n as u64 / 2).to_string();
        digits[..15].parse::<f64>().unwrap().log10() + (digits.len() - 15) as f64
    });
    assert!((p.log10_p - (numerator - denominator)).abs() < 1e-6, "{} {denominator}", p.log10_p);
    assert!(p.p == 0.0 && p.parent == Some(0) && (160.0..170.0).contains(&p.z), "{p:?}");
}

#[test]
fn a_rare_symbol_is_seen_among_many() {
    let n = 1000;
    // Symbol 1 in three rows, always with the other column's symbol 1; all else is noise.
    let rare = |symbols: usize, seed: u64| -> Vec<u32> {
        let common = noise(n, symbols - 1, seed).into_iter().map(|c| if c == 0 { 0 } else { c + 1 });
        common.enumerate().map(|(k, c)| if [17, 400, 777].contains(&k) { 1 } else { c }).collect()
    };
    for (a, b) in [(2, 2), (2, 10), (10, 2), (30, 30), (200, 5)] {
        let columns = [noise(n, 40, 9), rare(a, 1), rare(b, 2)];
        let p = position(&columns, 2);
        // 1/C(1000, 3) = 6e-9, times two candidates, tails that could be as small, and tests.
        assert!(p.parent == Some(1) && p.log10_p < -4.0, "{a} {b}: {p:?}");
    }
    // One pair of 40 x 40 symbols that occurs five times as often as by chance.
    let (mut a, mut b) = (noise(4000, 40, 3), noise(4000, 40, 4));
    let both: Vec<usize> = (0..4000).filter(|k| a[*k] == 5 || b[*k] == 8).take(24).collect();
    both.iter().for_each(|k| (a[*k], b[*k]) = (5, 8));
    let p = position(&[noise(4000, 2, 5), a, b], 2);
    assert!(p.parent == Some(1) && p.log10_p < -6.0, "{p:?}");
    // A class that never occurs with another, of three.
    let p = position(&table(&[&[0, 60, 60], &[300, 150, 150], &[100, 90, 90]]), 1);
    assert!(p.parent == Some(0) && p.log10_p < -8.0, "{p:?}");
}

/// Thirty symbols in two rows each, on both sides: one of the 900 pairs that could fall together
/// does. Its chance counts 901 times, the most extreme pair of the common symbols included, and
/// thrice for the tests of the table.
#[test]
fn a_rare_pair_is_one_of_many_that_could_have_been() {
    let n = 1000;
    let rare = |from: usize| -> Vec<u32> {
        let mut column = vec![0; n];
        (2..=60).for_each(|k| column[from + k] = k as u32 / 2);
        column[0] = 1;
        column[1] = 1;
        column[from + 2] = 0;
        column[from + 3] = 0;
        column[from + 61] = 30;
        column
    };
    let columns = [rare(100), rare(500)];
    for column in &columns {
        (1..=30).for_each(|c| assert_eq!(column.iter().filter(|x| **x == c).count(), 2, "{c}"));
    }
    let p = position(&columns, 1);
    let pairs = choose(n as u64, 2).to_string().parse::<f64>().unwrap();
    assert!((p.p * pairs / 2703.0 - 1.0).abs() < 1e-9 && p.parent == Some(0), "{p:?}");
}

#[test]
fn dependence_that_pooling_would_mix_is_seen() {
    // The parity of one of 200 symbols, seen about once each.
    let a = noise(150, 200, 1);
    let b: Vec<u32> = a.iter().map(|c| (c / 3) % 2).collect();
    let p = position(&[a, b], 1);
    assert!(p.parent == Some(0) && p.p < 0.01, "{p:?}");
}

#[test]
fn what_cannot_be_tested_is_said_to_be_untested() {
    let (n, fair) = (1000, noise(1000, 2, 7));
    let once: Vec<u32> = (0..n).map(|k| u32::from(k == 3)).collect();
    let all: Vec<u32> = (0..n as u32).collect();
    let constant = vec![1u32; n];
    for columns in [
        [fair.clone(), constant.clone()],
        [constant.clone(), fair.clone()],
        [fair.clone(), once.clone()],
        [all.clone(), fair.clone()],
    ] {
        let p = position(&columns, 1);
        assert!(!p.tested && p.parent.is_none() && p.p == 1.0 && p.z.is_nan(), "{p:?}");
        assert!(p.log10_p.is_nan() && p.best == Some(0));
    }
    // A candidate that cannot be tested does not hide one that can.
    let other = noise(n, 2, 8);
    let p = position(&[constant.clone(), once.clone(), fair.clone(), other], 3);
    assert!(p.tested && p.best == Some(2) && p.parent.is_none(), "{p:?}");
    // The same symbol once in each: as rare as it gets, and significant.
    let p = position(&[once.clone(), once], 1);
    assert!(p.tested && p.parent == Some(0) && (p.p - 1e-3).abs() < 1e-12, "{p:?}");
    let graph = chi2::discover(&sample(&[constant.clone(), constant]), 0.01).unwrap();
    assert!(graph.tested && graph.positions.iter().all(|p| !p.tested));
}

/// Most successes of `tests` at `level`, but for once in 10⁵: the Poisson law's quantile.
fn most_false(tests: usize, level: f64) -> usize {
    let mean = level * tests as f64;
    let (mut term, mut total, mut k) = ((-mean).exp(), (-mean).exp(), 0);
    while 1.0 - total > 1e-5 {
        k += 1;
        term *= mean / k as f64;
        total += term;
    }
    k
}

/// Positions, those tested, and those given a parent at .01 and at .05.
#[derive(Default, Debug)]
struct Given {
    all: usize,
    tested: usize,
    at: [usize; 2],
}

impl Given {
    fn add(&mut self, graph: &Graph) {
        for p in &graph.positions[1..] {
            self.all += 1;
            self.tested += usize::from(p.tested);
            self.at[0] += usize::from(p.parent.is_some() && p.p <= 0.01);
            self.at[1] += usize::from(p.parent.is_some());
        }
    }

    fn holds(&self, name: &str) {
        println!("{name}: {self:?}");
        for (given, level) in self.at.iter().zip([0.01, 0.05]) {
            assert!(*given <= most_false(self.tested, level), "{name} at {level}: {self:?}");
        }
    }
}

/// Laws of columns and label, `t` columns: rare symbols, unequal alphabets, heavy tails.
fn margins(t: usize) -> Vec<(&'static str, Vec<Vec<f64>>)> {
    let (fair, rare) = (vec![0.5, 1.0], vec![0.97, 1.0]);
    let turns = |laws: [&Vec<f64>; 2]| (0..=t).map(|i| laws[i % 2].clone()).collect::<Vec<_>>();
    vec![
        ("rare", vec![rare.clone(); t + 1]),
        ("very rare", vec![vec![0.995, 1.0]; t + 1]),
        ("2 and 200", turns([&fair, &zipf(200, 1.0)])),
        ("200 and 2", turns([&zipf(200, 0.0), &fair])),
        ("rare and fair", turns([&rare, &fair])),
        ("Zipf", vec![zipf(50, 2.0); t + 1]),
        ("many", vec![zipf(200, 1.0); t + 1]),
        ("three", vec![vec![0.9, 0.95, 1.0]; t + 1]),
    ]
}

#[test]
fn independent_columns_keep_the_level() {
    for (name, laws) in margins(7) {
        for (n, seeds) in [(30, 60), (100, 40), (1000, 15)] {
            let mut given = Given::default();
            (0..seeds)
                .for_each(|seed| given.add(&chi2::discover(&independent(&laws, n, seed), 0.05).unwrap()));
            given.holds(&format!("{name}, {n} sequences"));
            assert!(given.tested > 0 || name == "very rare", "{name} {n}");
        }
    }
}

#[test]
fn unrelated_positions_keep_the_level_of_the_gradient() {
    for (name, laws) in margins(12) {
        let mut tested = 0;
        for (n, seeds) in [(30, 40), (100, 40), (1000, 20), (1 << 13, 5)] {
            let mut given = Given::default();
            for seed in 0..seeds {
                given.add(&gradient::discover(&independent(&laws, n, seed), 0.0, 0.05).unwrap());
            }
            given.holds(&format!("gradient: {name}, {n} sequences"));
            tested += given.tested;
        }
        assert!(tested > 40, "{name}");
    }
}

#[test]
fn unequal_columns_hide_no_parent_from_the_gradient() {
    // Every second column has two symbols instead of six, and a copy of another follows it.
    let laws: Vec<Vec<f64>> = (0..=12).map(|i| zipf(if i % 2 == 0 { 2 } else { 6 }, 0.0)).collect();
    let mut found = independent(&laws, 1 << 13, 1);
    let key = Key::new(2, Purpose::Probe);
    let Some(Labels::Symbols(y)) = &mut found.labels else { panic!() };
    for (k, row) in found.tokens.chunks_exact_mut(12).enumerate() {
        // The transitions of each sequence: a permutation of its symbols.
        let shift = 1 + key.below(5, k as u64, 0, 0) as u32;
        row[8] = (row[5] + shift) % 6;
        y[k] = (row[11] + shift) % 6;
    }
    let graph = gradient::discover(&found, 0.0, 0.01).unwrap();
    let expected: Vec<Option<usize>> = (0..11).map(|i| (i == 8).then_some(5)).collect();
    assert_eq!(graph.parents(), expected, "{:?}", graph.positions);
}
