//! Forward differentiation: the loss as a program on dual numbers, which knows no gradient formula.

use crate::exact::brute::Word;
use crate::num::Sum;

/// x + d ε, ε² = 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dual {
    pub(super) x: f64,
    pub(super) d: f64,
}

impl Dual {
    pub(super) const ZERO: Dual = Dual { x: 0.0, d: 0.0 };

    pub(super) fn plus(self, o: Dual) -> Dual {
        Dual { x: self.x + o.x, d: self.d + o.d }
    }
    pub(super) fn times(self, o: Dual) -> Dual {
        Dual { x: self.x * o.x, d: self.x * o.d + self.d * o.x }
    }
    fn over(self, o: Dual) -> Dual {
        let x = self.x / o.x;
        Dual { x, d: (self.d - x * o.d) / o.x }
    }
    pub(super) fn exp(self) -> Dual {
        let x = self.x.exp();
        Dual { x, d: x * self.d }
    }
    pub(super) fn ln(self) -> Dual {
        Dual { x: self.x.ln(), d: self.d / self.x }
    }
}

pub(super) fn softmax(x: &[Dual]) -> Vec<Dual> {
    let e: Vec<Dual> = x.iter().map(|x| x.exp()).collect();
    let z = e.iter().fold(Dual::ZERO, |z, e| z.plus(*e));
    e.iter().map(|e| e.over(z)).collect()
}

/// −∂L/∂(A1, A2) (T T + S S) of the simplified model over `words`, one parameter at a time.
pub(super) fn gradient(words: &[Word], a1: &[f64], a2: &[f64], t: usize, s: usize, eps: f64) -> Vec<f64> {
    (0..t * t + s * s)
        .map(|seed| {
            let seeded = |x: &[f64], from: usize| -> Vec<Dual> {
                let d = |n: usize| f64::from(u8::from(from + n == seed));
                x.iter().enumerate().map(|(n, x)| Dual { x: *x, d: d(n) }).collect()
            };
            -slope(words, &seeded(a1, 0), &seeded(a2, t * t), t, s, eps)
        })
        .collect()
}

/// dL.
fn slope(words: &[Word], a1: &[Dual], a2: &[Dual], t: usize, s: usize, eps: f64) -> f64 {
    let mix: Vec<Vec<Dual>> = (0..t).map(|i| softmax(&a1[i * t..i * t + i + 1])).collect();
    let mut sum = Sum::new();
    for Word { tokens, weights } in words {
        let query = tokens[t - 1] as usize * s;
        let a: Vec<Dual> = tokens.iter().map(|c| a2[query + *c as usize]).collect();
        let dot = |m: &Vec<Dual>| m.iter().zip(&a).fold(Dual::ZERO, |z, (m, a)| z.plus(m.times(*a)));
        let v = softmax(&mix.iter().map(dot).collect::<Vec<_>>());
        let mut f = vec![Dual { x: eps, d: 0.0 }; s];
        for (c, v) in tokens.iter().zip(v) {
            f[*c as usize] = f[*c as usize].plus(v);
        }
        weights.iter().zip(&f).for_each(|(w, f)| sum.add(-w * f.ln().d));
    }
    sum.value()
}
