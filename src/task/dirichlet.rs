//! Rows of Dirichlet(α, .., α) for several samples in parallel SIMD lanes.

use crate::num::ln;
use crate::rng::{Key, LogGamma};
use popgrad_kernels::sampling::{Addresses, SAMPLE_LANES};
use popgrad_kernels::{Isa, Kernels};

/// The kernels of this process. An invalid `POPGRAD_ISA` is ignored here, because samples do not
/// depend on the instruction set; other callers report it.
pub fn kernels() -> Kernels<f64> {
    Kernels::from_env().unwrap_or_else(|_| Kernels::new(Isa::Portable).expect("available everywhere"))
}

/// γ/S + (1 − γ) p.
pub fn raised(p: f64, gamma: f64, symbols: usize) -> f64 {
    (1.0 - gamma) * p + gamma / symbols as f64
}

/// `rows` rows of S probabilities for each of [`SAMPLE_LANES`] samples, by normalising gamma
/// variates on the log scale: at α = 10⁻³ most of them underflow as plain numbers, and a whole row
/// would be 0/0 now and then. Allocated once.
#[derive(Debug, Clone)]
pub struct DirichletRows {
    kernels: Kernels<f64>,
    vocab: usize,
    stride: usize,
    logs: Vec<f64>,
    p: Vec<f64>,
    sums: Vec<f64>,
    table: Vec<f64>,
    pending: Vec<u32>,
}

impl DirichletRows {
    /// Storage for `rows` rows of `vocab` (S) entries, and a table for `further` more rows.
    pub fn new(kernels: Kernels<f64>, vocab: usize, rows: usize, further: usize) -> Self {
        let (n, stride) = (rows * vocab * SAMPLE_LANES, (rows + further) * vocab + SAMPLE_LANES);
        DirichletRows {
            kernels,
            vocab,
            stride,
            logs: vec![0.0; n],
            p: vec![0.0; n],
            sums: vec![0.0; vocab * SAMPLE_LANES],
            table: vec![0.0; stride * SAMPLE_LANES],
            pending: vec![0; n],
        }
    }

    /// Draws all rows: entry b of row r of lane l from the gamma variate r S + b past `variate[l]`
    /// of sample `sample[l]` under `key`, the bits of one sample alone.
    pub fn draw(
        &mut self,
        gamma: &LogGamma,
        key: &Key,
        sample: [u64; SAMPLE_LANES],
        variate: [u32; SAMPLE_LANES],
    ) {
        let at = Addresses { key: key.words(), sample, variate };
        let (k, s) = (&self.kernels, self.vocab);
        k.log_gamma(&gamma.envelope(), &at, &mut self.logs, &mut self.pending).expect("sizes fit");
        let (p, sums) = (&mut self.p, &mut self.sums);
        k.simplex_rows(s, &mut self.logs, p, sums, &mut self.table, self.stride).expect("sizes fit");
    }

    /// Every row p becomes γ/S + (1 − γ) p, in the table too.
    pub fn raise(&mut self, gamma: f64) {
        let s = self.vocab;
        let mut sums = std::mem::take(&mut self.sums);
        for row in 0..self.p.len() / (s * SAMPLE_LANES) {
            let at = row * s * SAMPLE_LANES;
            for i in 0..s * SAMPLE_LANES {
                let p = raised(self.p[at + i], gamma, s);
                self.p[at + i] = p;
                self.logs[at + i] = ln(p);
                sums[i] = if i < SAMPLE_LANES { p } else { sums[i - SAMPLE_LANES] + p };
            }
            self.set_row(row, &sums);
        }
        self.sums = sums;
    }

    /// The probabilities (rows, S, SAMPLE_LANES).
    pub fn p(&self) -> &[f64] {
        &self.p
    }

    /// The same as working storage, which the next [`draw`](Self::draw) overwrites.
    pub fn p_mut(&mut self) -> &mut [f64] {
        &mut self.p
    }

    /// Row `row` of lane `lane` into `out` (S).
    pub fn copy_row(&self, lane: usize, row: usize, out: &mut [f64]) {
        let at = row * self.vocab * SAMPLE_LANES + lane;
        for (b, out) in out.iter_mut().enumerate().take(self.vocab) {
            *out = self.p[at + b * SAMPLE_LANES];
        }
    }

    /// The logarithms of a row, all finite, into `out` (S).
    pub fn copy_log_row(&self, lane: usize, row: usize, out: &mut [f64]) {
        let s = self.vocab;
        let log_total = ln(self.table[lane * self.stride + row * s + s - 1]);
        for (b, out) in out.iter_mut().enumerate().take(s) {
            *out = self.logs[(row * s + b) * SAMPLE_LANES + lane] - log_total;
        }
    }

    /// The table (SAMPLE_LANES, stride): each lane's rows as prefix sums, not normalised, and its
    /// stride.
    pub fn table(&self) -> (&[f64], usize) {
        (&self.table, self.stride)
    }

    /// Prefix sums (S, SAMPLE_LANES) as row `row` of every lane.
    pub fn set_row(&mut self, row: usize, sums: &[f64]) {
        let column = row * self.vocab;
        self.kernels.lanes_to_rows(sums, &mut self.table, self.stride, column).expect("sizes fit");
    }
}
