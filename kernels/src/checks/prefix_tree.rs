//! The prefix tree against word-by-word enumeration, for every kind of weights and every
//! instruction set.

use crate::checks::testkit::{Rng, available};
use crate::kernels::Kernels;
use crate::prefix_tree::accumulator::Accumulator;
use crate::prefix_tree::plan::{Plan, Shape};
use crate::prefix_tree::problem::{Walk, Weights};
use crate::reference;
use crate::scratch::Scratch;
use crate::simd::Isa;
use crate::view::Mat;

/// Bytes as a small case: sizes, kind of weights, query, prefix, scale of the table, seed.
pub(crate) fn run(data: &[u8]) {
    let byte = |i: usize| data.get(i).copied().unwrap_or(0) as usize;
    let s = 2 + byte(0) % 4;
    let t = 2 + byte(1) % if s > 3 { 5 } else { 7 };
    let seed = data.iter().skip(6).fold(0u64, |x, b| x.wrapping_mul(257).wrapping_add(u64::from(*b) + 1));
    check(s, t, byte(2) % 4, byte(3), byte(4), [0.5, 6.0, 0.0, 60.0][byte(5) % 4], seed);
}

struct Case {
    parents: Vec<Option<usize>>,
    mix: Vec<f64>,
    table: Vec<f64>,
    pi: Vec<f64>,
    roots: Vec<f64>,
    atoms: Vec<f64>,
    values: Vec<f64>,
}

const ALPHA: f64 = 0.3;

impl Case {
    fn new(s: usize, t: usize, scale: f64, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let normalised = |rows: usize, n: usize, rng: &mut Rng| -> Vec<f64> {
            let mut x: Vec<f64> = (0..rows * n).map(|_| rng.signed() + 1.01).collect();
            for row in x.chunks_mut(n) {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|x| *x /= sum);
            }
            x
        };
        let parents = (0..t - 1).map(|i| below(&mut rng, i + 1).checked_sub(1)).collect::<Vec<_>>();
        let mut mix = vec![f64::NAN; t * t];
        for i in 0..t {
            let row = normalised(1, i + 1, &mut rng);
            mix[i * t..i * t + i + 1].copy_from_slice(&row);
        }
        let q = 3;
        Case {
            parents,
            mix,
            table: (0..s).map(|_| scale * rng.signed()).collect(),
            pi: normalised(q * s, s, &mut rng),
            roots: normalised(q, s, &mut rng),
            atoms: normalised(1, q, &mut rng),
            values: Vec::new(),
        }
    }

    fn weights(&self, kind: usize) -> Weights<'_, f64> {
        match kind {
            0 | 1 => Weights::Dirichlet { alpha: ALPHA, shared_roots: kind == 1 },
            2 => Weights::Atoms { weight: &self.atoms, pi: &self.pi, roots: &self.roots },
            _ => Weights::Table { values: &self.values },
        }
    }

    fn plan(&self, s: usize, prefix_len: usize, canonical: Option<usize>, largest: u64) -> Plan {
        let shape = Shape { symbols: s, parents: &self.parents, root_counts: true, canonical };
        Plan::new(&shape, prefix_len, largest).unwrap()
    }
}

fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.bits() % n as u64) as usize
}

/// Dirichlet weights with shared roots of each class, from its prefix and suffix alone.
fn tabulate(plan: &Plan) -> Vec<f64> {
    let (s, all) = (plan.tracked(), plan.symbols());
    let mut values = Vec::new();
    for prefix in 0..plan.prefix_classes() {
        for suffix in 0..plan.suffix_classes() {
            let word = [plan.prefix_of(prefix), plan.suffix_of(suffix)].concat();
            let (mut w, mut row) = (1.0 / all as f64, vec![0.0; s + 1]);
            let (mut counts, mut used) = (vec![0.0; (s + 1) * s], 1);
            // Row s: roots.
            for (j, c) in word.iter().enumerate() {
                let from = plan.parents()[j].map_or(s, |q| word[q] as usize);
                let at = from * s + *c as usize;
                w *= (ALPHA + counts[at]) / (ALPHA * all as f64 + row[from]);
                counts[at] += 1.0;
                row[from] += 1.0;
                used = used.max(*c as usize + 1);
            }
            if plan.canonical().is_some() {
                w *= (1..used).map(|i| (all - i) as f64).product::<f64>();
            }
            for b in 0..plan.row() {
                let count = if b < s { counts[b] } else { 0.0 };
                values.push(w * (ALPHA + count) / (ALPHA * all as f64 + row[0]));
            }
        }
    }
    values
}

/// A word length, an alphabet and the kind of weights, everything else from the seed: panics where
/// tree and twin differ.
pub(crate) fn check(s: usize, t: usize, kind: usize, query: usize, prefix_len: usize, scale: f64, seed: u64) {
    let mut case = Case::new(s, t, scale, seed);
    let eps = if seed.is_multiple_of(3) { 0.0 } else { 0.01 };
    // Classes of any size, and classes of one word.
    let largest = if seed.is_multiple_of(2) { Plan::class_limit::<f64>(eps) } else { 1 };
    let plan = case.plan(s, prefix_len % (t - 1), None, largest);
    if kind == 3 {
        case.values = tabulate(&plan);
    }
    let mix = Mat::new(&case.mix, t, t).unwrap();
    let walk =
        Walk { plan: &plan, query: query % s, table: &case.table, mix, eps, weights: case.weights(kind) };
    // Looked-up weights are those of kind 1, found another way.
    let twin =
        reference::prefix_tree(&Walk { weights: case.weights(if kind == 3 { 1 } else { kind }), ..walk });
    // Every factor, weight and quotient is a product of at most 4 T + 8 roundings of relative size
    // 2u, sums of terms nested like the tree (compensated in the twin); the differences g − Σ F g /
    // Z cancel, so errors of C are relative to the sums without it. An exponent of size `scale`
    // adds as many roundings, reciprocals by products another S.
    let tol = 8.0 * ((4 * t + 8 + s) as f64 + 2.0 * scale) * s as f64 * f64::EPSILON;
    for kernels in available::<f64>() {
        compare(&sum(&kernels, &[walk]), &twin, [s, t, s], tol, kernels.isa());
        vectors_side_by_side(&kernels, &walk);
    }
    if kind == 0 {
        assert!((twin.1 - 1.0 / s as f64).abs() < 1e-13);
    }
    if kind != 2 {
        canonical(&mut case, [s, t], kind, prefix_len % (t - 1), largest, [eps, tol]);
    }
}

/// Two vectors of prefixes side by side have the bits of one after the other.
fn vectors_side_by_side(kernels: &Kernels<f64>, walk: &Walk<'_, f64>) {
    let lanes = match kernels.isa() {
        Isa::Avx512 => 8,
        Isa::Avx2 => 4,
        _ => return,
    };
    let (s, t, n) = (walk.plan.tracked(), walk.plan.word_len(), walk.plan.prefixes());
    let mut scratch = Scratch::new(kernels.prefix_tree_scratch(walk).unwrap());
    let mut sums = |step: usize| -> Vec<u64> {
        let mut acc = Accumulator::new(s, t);
        for at in (0..n).step_by(step) {
            kernels.prefix_tree(walk, at..(at + step).min(n), &mut acc, &mut scratch).unwrap();
        }
        let all = (0..t * s * t).map(|e| acc.sum(e / (s * t), e / t % s, e % t));
        all.chain([acc.loss(), acc.weight()]).map(f64::to_bits).collect()
    };
    assert_eq!(sums(n.max(1)), sums(lanes), "{:?}, {n} prefixes", kernels.isa());
}

/// Canonical words stand for all words of query 0, where the law and the table do not tell the
/// other symbols apart.
fn canonical(
    case: &mut Case,
    [s, t]: [usize; 2],
    kind: usize,
    prefix_len: usize,
    largest: u64,
    [eps, tol]: [f64; 2],
) {
    let last = case.table[1];
    case.table[1..].fill(last);
    let plan = case.plan(s, prefix_len, None, 1);
    let mix = Mat::new(&case.mix, t, t).unwrap();
    let weights = case.weights(if kind == 3 { 1 } else { kind });
    let full = Walk { plan: &plan, query: 0, table: &case.table, mix, eps, weights };
    let mut twin = reference::prefix_tree(&full);
    // Of the symbols that are not the query only the sum is comparable.
    for sums in [&mut twin.2, &mut twin.3] {
        for j in 0..t {
            for i in 0..t {
                let others: f64 = (1..s).map(|c| sums[(j * s + c) * t + i]).sum();
                sums[(j * s + 1) * t + i] = others;
            }
        }
    }
    let plans: Vec<Plan> =
        (1..=s.min(prefix_len + 1)).map(|m| case.plan(s, prefix_len, Some(m), largest)).collect();
    let values: Vec<Vec<f64>> = plans.iter().map(tabulate).collect();
    let walks: Vec<_> = plans
        .iter()
        .zip(&values)
        .map(|(plan, values)| {
            let weights = if kind == 3 { Weights::Table { values } } else { weights };
            Walk { plan, weights, ..full }
        })
        .collect();
    for kernels in available::<f64>() {
        let acc = sum(&kernels, &walks);
        compare(&acc, &twin, [s, t, 2], tol, kernels.isa());
    }
}

/// All prefixes of all walks, each walk in two parts, unequal, so that blocks are partly filled.
fn sum(kernels: &Kernels<f64>, walks: &[Walk<'_, f64>]) -> Accumulator {
    let mut all: Option<Accumulator> = None;
    for walk in walks {
        let mut scratch = Scratch::new(kernels.prefix_tree_scratch(walk).unwrap());
        scratch.as_mut_slice().fill(f64::NAN);
        let (n, t) = (walk.plan.tracked(), walk.plan.word_len());
        let cut = walk.plan.prefixes() / 3;
        for part in [0..cut, cut..walk.plan.prefixes()] {
            let mut acc = Accumulator::new(n, t);
            kernels.prefix_tree(walk, part, &mut acc, &mut scratch).unwrap();
            all.get_or_insert_with(|| Accumulator::new(n, t)).merge(&acc);
        }
    }
    all.unwrap()
}

/// `symbols`: of the twin, and how many of them are told apart (the last standing for the rest).
fn compare(
    acc: &Accumulator,
    (loss, weight, sums, sizes): &(f64, f64, Vec<f64>, Vec<f64>),
    [s, t, apart]: [usize; 3],
    tol: f64,
    isa: Isa,
) {
    if loss.is_finite() {
        assert!((acc.loss() - loss).abs() <= tol * loss.abs().max(*weight), "{isa:?} {} {loss}", acc.loss());
    } else {
        assert_eq!(acc.loss(), *loss);
    }
    assert!((acc.weight() - weight).abs() <= tol * weight, "{isa:?} {} {weight}", acc.weight());
    for j in 0..t {
        for c in 0..apart {
            for i in 0..t {
                let (want, size) = (sums[(j * s + c) * t + i], sizes[(j * s + c) * t + i]);
                let rest = if c + 1 == apart { acc.symbols() } else { c + 1 };
                let got: f64 = (c..rest).map(|c| acc.sum(j, c, i)).sum();
                assert!((got - want).abs() <= tol * size, "{isa:?} C[{j}][{c}][{i}] = {got:e}, {want:e}");
            }
        }
    }
}
