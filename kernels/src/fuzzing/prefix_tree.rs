//! The prefix tree against word-by-word enumeration, for every kind of weights and every instruction set.

use super::testkit::{Rng, available};
use crate::prefix_tree::{Accumulator, Walk, Weights};
use crate::{Mat, Scratch, reference};

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
    stride: Vec<u32>,
    root_stride: Vec<u32>,
}

impl Case {
    fn new(s: usize, t: usize, scale: f64, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let positive =
            |n: usize, rng: &mut Rng| -> Vec<f64> { (0..n).map(|_| rng.signed() + 1.01).collect() };
        let normalised = |rows: usize, n: usize, rng: &mut Rng| -> Vec<f64> {
            let mut x = positive(rows * n, rng);
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
        let stride: Vec<u32> = (0..s * s).map(|_| below(&mut rng, 4) as u32).collect();
        let root_stride: Vec<u32> = (0..s).map(|_| below(&mut rng, 4) as u32).collect();
        Case {
            parents,
            mix,
            table: (0..s).map(|_| scale * rng.signed()).collect(),
            pi: normalised(q * s, s, &mut rng),
            roots: normalised(q, s, &mut rng),
            atoms: normalised(1, q, &mut rng),
            values: positive((3 * (t - 1) + 1) * s, &mut rng),
            stride,
            root_stride,
        }
    }

    fn weights(&self, kind: usize) -> Weights<'_, f64> {
        match kind {
            0 | 1 => Weights::Dirichlet { alpha: 0.3, shared_roots: kind == 1 },
            2 => Weights::Atoms { weight: &self.atoms, pi: &self.pi, roots: &self.roots },
            _ => {
                Weights::Table { values: &self.values, stride: &self.stride, root_stride: &self.root_stride }
            }
        }
    }
}

fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.bits() % n as u64) as usize
}

/// A word length, an alphabet and the kind of weights, everything else from the seed: panics where tree and twin differ.
pub(crate) fn check(s: usize, t: usize, kind: usize, query: usize, prefix_len: usize, scale: f64, seed: u64) {
    let case = Case::new(s, t, scale, seed);
    let walk = Walk {
        symbols: s,
        query: query % s,
        table: &case.table,
        mix: Mat::new(&case.mix, t, t).unwrap(),
        parents: &case.parents,
        eps: if seed.is_multiple_of(3) { 0.0 } else { 0.01 },
        weights: case.weights(kind),
        prefix_len: prefix_len % (t - 1),
    };
    let (loss, weight, sums, sizes) = reference::prefix_tree(&walk);
    // Every factor, weight and quotient is a product of at most 4 T + 8 roundings of relative size 2u, sums of terms nested
    // like the tree (compensated in the twin); the differences g − Σ F g / Z cancel, so errors of C are relative to `sizes`.
    // An exponent of size `scale` adds as many roundings.
    let tol = 8.0 * ((4 * t + 8) as f64 + 2.0 * scale) * s as f64 * f64::EPSILON;
    for kernels in available::<f64>() {
        let mut scratch = Scratch::new(kernels.prefix_tree_scratch(&walk).unwrap());
        scratch.as_mut_slice().fill(f64::NAN);
        let mut acc = Accumulator::new(s, t);
        // In two parts, unequal, so that blocks are partly filled.
        let (all, cut) = (walk.prefixes(), walk.prefixes() / 3);
        kernels.prefix_tree(&walk, 0..cut, &mut acc, &mut scratch).unwrap();
        let mut rest = Accumulator::new(s, t);
        kernels.prefix_tree(&walk, cut..all, &mut rest, &mut scratch).unwrap();
        acc.merge(&rest);
        let isa = kernels.isa();
        if loss.is_finite() {
            assert!(
                (acc.loss() - loss).abs() <= tol * loss.abs().max(weight),
                "{isa:?} {} {loss}",
                acc.loss()
            );
        } else {
            assert_eq!(acc.loss(), loss);
        }
        assert!((acc.weight() - weight).abs() <= tol * weight, "{isa:?} {} {weight}", acc.weight());
        for j in 0..t {
            for c in 0..s {
                for i in 0..t {
                    let (got, want) = (acc.sum(j, c, i), sums[(j * s + c) * t + i]);
                    let ok = (got - want).abs() <= tol * sizes[(j * s + c) * t + i];
                    assert!(ok, "{isa:?} C[{j}][{c}][{i}] = {got:e}, {want:e}");
                }
            }
        }
        if kind == 0 {
            assert!((weight - 1.0 / s as f64).abs() < 1e-13);
        }
    }
}
