//! One gradient step on a noisy input keeps the signal and drops the noise.
//!
//! y uniform on N symbols, t uniform on T positions, independent; x = w_E(y) + p_t, label y.
//! Lemma 2 at W = 0: −∇L = (1/N) Σ_k w_U(k)(E[x|k] − E x)ᵀ, and E[x|k] − E x has no p in it.

use super::memory_formulas::Labelled;
use super::support::{key, normals};
use super::{Check, Claim, Fit, Settings};
use crate::Result;
use crate::rng::Key;

pub(super) const CLAIM: Claim = Claim {
    id: "noise-filter",
    title: "A step on noisy inputs drops the noise",
    statement: "Inputs x = w_E(y) + p_t with t independent of the label y: after one population step from W = 0, with \
                orthonormal embeddings, the right output leads by η/N whatever t, and p_t alone moves no output. In d \
                dimensions with random embeddings the rest is of order d^-½ of the lead, with n samples \
                ((N − 1)/(T n))^½ of it.",
    source: "Bietti et al. 2023, the example of Lemma 2; finite d and finite samples are ours",
    run,
};

/// N symbols and T positions with their embeddings.
struct Setting {
    n: usize,
    t: usize,
    d: usize,
    /// w_E (N, d), p (T, d), w_U (N, d).
    tokens: Vec<f64>,
    positions: Vec<f64>,
    outputs: Vec<f64>,
}

impl Setting {
    fn orthonormal(n: usize, t: usize) -> Self {
        let d = 2 * n + t;
        let unit = |rows: usize, from: usize| -> Vec<f64> {
            (0..rows * d).map(|i| f64::from(u8::from(i % d == from + i / d))).collect()
        };
        Setting { n, t, d, tokens: unit(n, 0), positions: unit(t, n), outputs: unit(n, n + t) }
    }

    /// Entries N(0, 1/d).
    fn random(n: usize, t: usize, d: usize, key: &Key, from: u64) -> Self {
        let draw = |at: u64, rows: usize| normals(key, from + at, rows * d, (d as f64).powf(-0.5));
        Setting { n, t, d, tokens: draw(0, n), positions: draw(1, t), outputs: draw(2, n) }
    }

    fn input(&self, y: usize, t: usize) -> Vec<f64> {
        let d = self.d;
        let (a, b) = (&self.tokens[y * d..(y + 1) * d], &self.positions[t * d..(t + 1) * d]);
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }

    /// −∇L at W = 0 under P(y, t) (N, T): by lemma 2 on its own, or of samples.
    fn step(&self, settings: &Settings, law: &[f64]) -> Vec<f64> {
        let (n, t) = (self.n, self.t);
        let inputs: Vec<f64> = (0..n * t).flat_map(|m| self.input(m / t, m % t)).collect();
        let joint: Vec<f64> =
            (0..n * t * n).map(|i| if i % n == i / n / t { law[i / n] } else { 0.0 }).collect();
        let of = Labelled { d: self.d, inputs: &inputs, joint: &joint, outputs: &self.outputs };
        settings.formulas.memory.lemma2(&of, &vec![0.0; self.d * self.d])
    }

    /// w_U(k)ᵀ W x for every k.
    fn scores(&self, w: &[f64], x: &[f64]) -> Vec<f64> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let image: Vec<f64> = w.chunks_exact(self.d).map(|row| dot(row, x)).collect();
        self.outputs.chunks_exact(self.d).map(|u| dot(u, &image)).collect()
    }

    /// The root mean square of w_U(k)ᵀ W x less what orthonormal embeddings give, over inputs and
    /// outputs.
    fn off(&self, w: &[f64], lead: f64) -> f64 {
        let (mut sum, n) = (0.0, self.n as f64);
        for y in 0..self.n {
            for t in 0..self.t {
                for (k, score) in self.scores(w, &self.input(y, t)).iter().enumerate() {
                    let ideal = lead * (f64::from(u8::from(k == y)) - 1.0 / n);
                    sum += (score - ideal) * (score - ideal);
                }
            }
        }
        (sum / (n * n * self.t as f64)).sqrt()
    }
}

fn run(settings: &Settings) -> Result<Vec<Check>> {
    let key = key(22);
    let mut checks = Vec::new();
    let filter = settings.formulas.memory.filter;
    for (n, t) in [(2, 3), (5, 8), (16, 4), (8, 32)] {
        let of = Setting::orthonormal(n, t);
        let w = of.step(settings, &vec![1.0 / (n * t) as f64; n * t]);
        let [lead, _] = filter(n, t, 1);
        let (mut least, mut most, mut noise) = (f64::INFINITY, f64::NEG_INFINITY, 0.0f64);
        for p in 0..t {
            for y in 0..n {
                let scores = of.scores(&w, &of.input(y, p));
                for (_, score) in scores.iter().enumerate().filter(|(k, _)| *k != y) {
                    let margin = scores[y] - score;
                    (least, most) = (least.min(margin), most.max(margin));
                }
            }
            let alone = of.scores(&w, &of.positions[p * of.d..(p + 1) * of.d]);
            noise = alone.iter().fold(noise, |m, x| m.max(x.abs()));
        }
        let label = |c: Check| c.with("N", n).with("T", t);
        checks.push(label(Check::within(
            "least lead of the right output, over η/N",
            1.0,
            least / lead,
            1e-14,
        )));
        checks.push(label(Check::within("largest lead, over η/N", 1.0, most / lead, 1e-14)));
        checks.push(label(Check::at_most("largest answer to p_t alone, over η/N", 1e-14, noise / lead)));
    }
    dimensions(settings, &key, &mut checks);
    samples(settings, &key, &mut checks);
    Ok(checks)
}

/// Random embeddings: overlaps of order d^-½ in place of 0.
fn dimensions(settings: &Settings, key: &Key, checks: &mut Vec<Check>) {
    let (n, t) = (6, 6);
    let sizes: &[usize] = if settings.thorough { &[128, 256, 512, 1024] } else { &[64, 128, 256] };
    let draws = if settings.thorough { 16 } else { 8 };
    let [lead, _] = (settings.formulas.memory.filter)(n, t, 1);
    let mut points = Vec::new();
    for &d in sizes {
        let mut square = 0.0;
        for draw in 0..draws {
            let of = Setting::random(n, t, d, key, (d * 1000 + 3 * draw) as u64);
            let w = of.step(settings, &vec![1.0 / (n * t) as f64; n * t]);
            square += of.off(&w, lead).powi(2) / draws as f64;
        }
        points.push((d as f64, square.sqrt() / lead));
    }
    let fit = Fit::new("d", "error over the lead", points);
    let c = Check::slope("order of the error in d", -0.5, 0.1, fit);
    checks.push(c.with("N", n).with("T", t).with("draws", draws));
}

/// The step of n samples: p_t no longer cancels.
fn samples(settings: &Settings, key: &Key, checks: &mut Vec<Check>) {
    let (n, t) = (8, 16);
    let of = Setting::orthonormal(n, t);
    let counts: &[usize] = if settings.thorough { &[256, 1024, 4096, 16_384] } else { &[256, 1024, 4096] };
    let draws = if settings.thorough { 64 } else { 16 };
    let mut points = Vec::new();
    for &count in counts {
        let [lead, expected] = (settings.formulas.memory.filter)(n, t, count);
        let mut square = 0.0;
        for draw in 0..draws {
            let mut law = vec![0.0; n * t];
            for i in 0..count {
                let at = key.below((n * t) as u64, ((draw as u64) << 32) + i as u64, count as u32, 0);
                law[at as usize] += 1.0 / count as f64;
            }
            // w_U(k)ᵀ W p_t = P(k, t) − P(t)/N: the embeddings are orthonormal.
            for p in 0..t {
                let share: f64 = (0..n).map(|k| law[k * t + p]).sum();
                let each = (0..n).map(|k| law[k * t + p] - share / n as f64);
                square += each.map(|x| x * x).sum::<f64>() / (n * t * draws) as f64;
            }
            if draw == 0 {
                let w = of.step(settings, &law);
                let first = of.scores(&w, &of.positions[..of.d])[0];
                let share: f64 = (0..n).map(|k| law[k * t]).sum();
                let c =
                    Check::within("an answer to p_1, by its counts", law[0] - share / n as f64, first, 1e-15);
                checks.push(c.with("samples", count));
            }
        }
        let found = square.sqrt();
        let c =
            Check::within("answers to p_t over the lead, root mean square", expected / lead, found / lead, {
                // n T draws squares of about normal numbers, those of a draw nearly independent.
                4.5 * expected / lead / (2.0 * (n * t * draws) as f64).sqrt()
            });
        checks.push(c.with("N", n).with("T", t).with("samples", count).with("draws", draws));
        points.push((count as f64, found / lead));
    }
    let fit = Fit::new("samples", "answers to p_t over the lead", points);
    let c = Check::slope("order of the noise in the samples", -0.5, 0.05, fit);
    checks.push(c.with("N", n).with("T", t));
}
