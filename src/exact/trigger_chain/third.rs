//! The third step to first order in η₁ and exactly in C: W_K² = C Σ_v w_E(v) w_1(v)ᵀ, any C,
//! uniform tokens.
//!
//! With the query w_E(q) the score of position t is C ȳ_t(q), so σ = softmax(C ȳ(q)), and the
//! coefficient of p_t p_sᵀ is
//!
//! (1/t) E\[σ_t a' (1\[z_s = o\] − ȳ_t(o)) + C σ_t (G_t − Σ_t' σ_t' G_t') (1\[z_s = q\] −
//! ȳ_t(q))\],
//!
//! whose expansion in C is [`super::Steps::third`]. It depends on a sequence through its classes
//! {q, o, rest} only. After q comes o, so there are (1 + √2)^T of them, not 3^T. Depth first: σ_t
//! (G_t − Ḡ) = e_t (G_t/Z − ΣeG/Z²), so a leaf hands 1/Z and ΣeG/Z² up and every prefix pays for
//! its own row once: O(T) per prefix, not O(T²) per sequence.

use super::Steps;
use crate::num::{Sum, exp};
use crate::{Error, Result};

/// Longest sequence: 2·10⁸ prefixes.
pub const MAX_THIRD: usize = 22;
/// Largest |C|: e^-C and its square stay normal numbers.
pub const MAX_C: f64 = 300.0;

struct Walk<'a> {
    len: usize,
    c: f64,
    law: [f64; 3],
    steps: &'a Steps,
    path: Vec<usize>,
    out: Vec<Sum>,
    total: Sum,
}

/// What is known of a prefix: its weight, counts of q and o, Σ e and Σ e G.
#[derive(Clone, Copy, Default)]
struct Prefix {
    weight: f64,
    count: [usize; 2],
    z: f64,
    g: f64,
}

impl Walk<'_> {
    /// Σ over the sequences below of w/Z and w ΣeG/Z².
    fn visit(&mut self, above: Prefix, class: usize) -> [f64; 2] {
        let t = self.path.len();
        let mut now = above;
        if class < 2 {
            now.count[class] += 1;
        }
        let [q, o] = now.count.map(|k| k as f64 / (t + 1) as f64);
        let hot = |k: usize, of: usize| f64::from(u8::from(k == of));
        let worth = self.steps.token * hot(class, 1) + self.steps.average * o;
        // Shares are at most 1: nothing overflows.
        let e = exp(self.c * q - self.c.max(0.0));
        now.z += e;
        now.g += e * worth;
        self.path.push(class);
        let mut below = [0.0; 2];
        if t + 1 == self.len {
            if class == 0 && now.count[0] > 1 {
                self.total.add(now.weight);
                below = [now.weight / now.z, now.weight * now.g / (now.z * now.z)];
            }
        } else {
            for next in 0..3 {
                let p = if class == 0 { hot(next, 1) } else { self.law[next] };
                if p > 0.0 {
                    let [x, y] = self.visit(Prefix { weight: now.weight * p, ..now }, next);
                    below[0] += x;
                    below[1] += y;
                }
            }
        }
        if below[0] > 0.0 {
            let scale = e / (t + 1) as f64;
            let value = scale * self.steps.average * below[0];
            let key = scale * self.c * (worth * below[0] - below[1]);
            for (sum, k) in self.out[t * self.len..].iter_mut().zip(&self.path) {
                sum.add(value * (hot(*k, 1) - o) + key * (hot(*k, 0) - q));
            }
        }
        self.path.pop();
        below
    }
}

/// −∇W_K¹ per η₁ (T, T), row t, columns s <= t, at W_K² = C·block. O(T (1 + √2)^T).
///
/// # Errors
/// What [`Steps::uniform`] refuses, T above [`MAX_THIRD`], |C| above [`MAX_C`].
pub fn third_in_c(n: usize, len: usize, c: f64) -> Result<Vec<f64>> {
    if len > MAX_THIRD {
        return Err(Error::invalid("T", len.to_string(), format!("3 <= T <= {MAX_THIRD}")));
    }
    if c.is_nan() || c.abs() > MAX_C {
        return Err(Error::invalid("C", c.to_string(), format!("|C| <= {MAX_C}")));
    }
    let steps = Steps::uniform(n, len)?;
    let law = [1.0 / n as f64, 1.0 / n as f64, (n - 2) as f64 / n as f64];
    let mut walk = Walk {
        len,
        c,
        law,
        steps: &steps,
        path: Vec::new(),
        out: vec![Sum::new(); len * len],
        total: Sum::new(),
    };
    for class in (0..3).filter(|k| law[*k] > 0.0) {
        walk.visit(Prefix { weight: law[class], ..Prefix::default() }, class);
    }
    let total = walk.total.value();
    Ok(walk.out.iter().map(|x| x.value() / total).collect())
}
