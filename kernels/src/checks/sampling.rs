//! The sampling kernels on every instruction set, bit for bit against their twins.

use crate::checks::testkit::{Rng, available, same};
use crate::reference::sampling as twin;
use crate::sampling::problem::{Addresses, Envelope, RowOf, SAMPLE_LANES};

/// The envelope of ln Gamma(`alpha`) with tangents at `a` < ln α < `b`.
pub(crate) fn envelope(alpha: f64, a: f64, b: f64) -> Envelope {
    let (ea, eb) = (a.exp(), b.exp());
    let (p, q) = (alpha - ea, eb - alpha);
    Envelope {
        left: q / (p + q),
        knot: (ea * (1.0 - a) - eb * (1.0 - b)) / (eb - ea),
        scale: [(p + q) / q, (p + q) / p],
        mean: [1.0 / p, -1.0 / q],
        point: [a, b],
        point_exp: [ea, eb],
    }
}

/// Bytes as a case: entries of a row, rows, shape of the envelope, how small the entries of
/// matrices are, length and shape of the forest, lanes, seed of the rest.
pub(crate) fn run(data: &[u8]) {
    let byte = |i: usize| data.get(i).copied().unwrap_or(0);
    let seed = data.iter().skip(8).fold(1u64, |x, b| x.wrapping_mul(257).wrapping_add(u64::from(*b) + 1));
    let mut rng = Rng(seed);
    let (n, rows) = (1 + usize::from(byte(0)) % 19, usize::from(byte(1)) % 5);
    // α from 10⁻³ to 10³; tangents near the best for small α, within reach for large ones.
    let alpha = 10f64.powf(f64::from(byte(2)) / 255.0 * 6.0 - 3.0);
    let b = (1.0 + alpha + f64::from(byte(3) % 8) * 0.1 * alpha.sqrt() + 0.05 * alpha.sqrt()).ln();
    let a = alpha.ln() - (1.0 + 1.0 / alpha).min(1.0 / alpha.sqrt());
    let at = Addresses {
        key: [rng.bits() as u32, rng.bits() as u32],
        sample: std::array::from_fn(|_| rng.bits()),
        // Some wrap.
        variate: std::array::from_fn(|l| if l % 2 == 0 { rng.bits() as u32 } else { u32::MAX - l as u32 }),
    };
    check_words(&at, n);
    check_gamma(&envelope(alpha, a, b), &at, n * rows);
    check_simplex(n, rows, 10f64.powi(i32::from(byte(4) % 6)), &mut rng);
    check_stationary(n, f64::from(byte(4) % 7) * 60.0, &mut rng);
    check_forest(n, usize::from(byte(5)) % 12, 1 + usize::from(byte(6)) % SAMPLE_LANES, byte(7), &mut rng);
}

fn check_words(at: &Addresses, n: usize) {
    for k in available::<f64>() {
        let mut out = vec![0; n * 2 * SAMPLE_LANES];
        k.philox_words(at, &mut out).unwrap();
        for (v, l) in (0..n).flat_map(|v| (0..SAMPLE_LANES).map(move |l| (v, l))) {
            let want = twin::philox_words(at.key, at.sample[l], at.variate[l].wrapping_add(v as u32), 0);
            let got = [out[2 * v * SAMPLE_LANES + l], out[(2 * v + 1) * SAMPLE_LANES + l]];
            assert_eq!(got, want, "{:?} variate {v} lane {l}", k.isa());
        }
    }
}

pub(crate) fn check_gamma(envelope: &Envelope, at: &Addresses, n: usize) {
    for k in available::<f64>() {
        let (mut out, mut pending) = (vec![f64::NAN; n * SAMPLE_LANES], vec![u32::MAX; n * SAMPLE_LANES]);
        k.log_gamma(envelope, at, &mut out, &mut pending).unwrap();
        for (v, l) in (0..n).flat_map(|v| (0..SAMPLE_LANES).map(move |l| (v, l))) {
            let variate = at.variate[l].wrapping_add(v as u32);
            let want = twin::log_gamma(envelope, at.key, at.sample[l], variate).expect("accepted");
            let got = out[v * SAMPLE_LANES + l];
            assert!(same(got, want), "{:?} variate {v} lane {l}: {got} for {want}, {envelope:?}", k.isa());
        }
    }
}

/// Logarithms uniform on a range of `spread`.
pub(crate) fn check_simplex(n: usize, rows: usize, spread: f64, rng: &mut Rng) {
    let logs: Vec<f64> = (0..rows * n * SAMPLE_LANES).map(|_| spread * rng.signed()).collect();
    let stride = rows * n + SAMPLE_LANES;
    for k in available::<f64>() {
        let (mut y, mut p) = (logs.clone(), vec![f64::NAN; logs.len()]);
        let (mut sums, mut table) = (vec![f64::NAN; n * SAMPLE_LANES], vec![f64::NAN; stride * SAMPLE_LANES]);
        k.simplex_rows(n, &mut y, &mut p, &mut sums, &mut table, stride).unwrap();
        for (r, l) in (0..rows).flat_map(|r| (0..SAMPLE_LANES).map(move |l| (r, l))) {
            let place = |b: usize| (r * n + b) * SAMPLE_LANES + l;
            let mut want = [(0..n).map(|b| logs[place(b)]).collect(), vec![0.0; n], vec![0.0; n]];
            let [logs, ps, sums] = &mut want;
            twin::simplex_row(logs, ps, sums);
            for b in 0..n {
                let got = [y[place(b)], p[place(b)], table[l * stride + r * n + b]];
                let want = [logs[b], ps[b], sums[b]];
                let equal = got.iter().zip(&want).all(|(g, w)| same(*g, *w));
                assert!(equal, "{:?} row {r} entry {b} lane {l}: {got:?} for {want:?}", k.isa());
            }
        }
    }
}

/// Entries e^-x, x uniform up to `depth`; some lanes may have entries below the floor, where the
/// laws are anything.
pub(crate) fn check_stationary(n: usize, depth: f64, rng: &mut Rng) {
    const FLOOR: f64 = 1e-150;
    let a: Vec<f64> = (0..n * n * SAMPLE_LANES).map(|_| (0.5 * depth * (rng.signed() - 1.0)).exp()).collect();
    for k in available::<f64>() {
        let (mut got, mut mu) = (a.clone(), vec![f64::NAN; n * SAMPLE_LANES]);
        let below = k.off_diagonal_below(n, &a, FLOOR).unwrap();
        k.stationary(n, &mut got, &mut mu).unwrap();
        for l in 0..SAMPLE_LANES {
            let mut lane: Vec<f64> = (0..n * n).map(|e| a[e * SAMPLE_LANES + l]).collect();
            let off = |e: usize| e / n != e % n;
            let want_below = (0..n * n).any(|e| off(e) && lane[e] < FLOOR);
            assert_eq!(below >> l & 1 == 1, want_below, "{:?} lane {l}", k.isa());
            let mut want = vec![0.0; n];
            twin::stationary(n, &mut lane, &mut want);
            for b in 0..n {
                let m = mu[b * SAMPLE_LANES + l];
                assert!(
                    want_below || same(m, want[b]),
                    "{:?} state {b} lane {l}: {m} for {}",
                    k.isa(),
                    want[b]
                );
            }
        }
    }
}

/// A forest of `len` positions for `lanes` lanes; one row more than symbols. `flat`: entries of
/// probability zero too.
pub(crate) fn check_forest(n: usize, len: usize, lanes: usize, flat: u8, rng: &mut Rng) {
    let stride = (n + 1) * n + SAMPLE_LANES;
    let mut table = vec![f64::NAN; stride * SAMPLE_LANES];
    for l in 0..SAMPLE_LANES {
        for row in 0..=n {
            let mut total = 0.0;
            for b in 0..n {
                let zero = b + 1 < n && rng.bits().is_multiple_of(2) && flat % 2 == 1;
                total += if zero { 0.0 } else { 1.0 + rng.signed() };
                table[l * stride + row * n + b] = total + f64::MIN_POSITIVE;
            }
        }
    }
    let rows: Vec<RowOf> = (0..len)
        .map(|i| match rng.bits() % 5 {
            0 => RowOf::Given,
            1 => RowOf::Fixed((rng.bits() % (n as u64 + 1)) as u32),
            _ if i > 0 => RowOf::Symbol((rng.bits() % i as u64) as u32),
            _ => RowOf::Fixed(n as u32),
        })
        .collect();
    let words: Vec<u64> = (0..len * SAMPLE_LANES)
        .map(|_| match rng.bits() % 8 {
            0 => 0,
            1 => u64::MAX,
            _ => rng.bits(),
        })
        .collect();
    let given: Vec<u32> = (0..len * lanes).map(|_| (rng.bits() % n as u64) as u32).collect();
    for k in available::<f64>() {
        let mut got = given.clone();
        k.invert_forest(n, &rows, &words, &table, stride, &mut got).unwrap();
        for l in 0..lanes {
            let mut want = given[l * len..(l + 1) * len].to_vec();
            let lane_words: Vec<u64> = (0..len).map(|i| words[i * SAMPLE_LANES + l]).collect();
            twin::invert_forest(n, &rows, &lane_words, &table[l * stride..(l + 1) * stride], &mut want);
            assert_eq!(&got[l * len..(l + 1) * len], &want[..], "{:?} lane {l}, {rows:?}", k.isa());
        }
    }
}
