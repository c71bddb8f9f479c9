//! Enumeration of the sequences of one trigger: the reference for the chain's passes.

use crate::num::Sum;
use crate::{Error, Result};

/// A sequence that meets the condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Its probability under the condition.
    pub weight: f64,
    /// z_1..z_T; the last is q.
    pub tokens: Vec<usize>,
    /// o, the target.
    pub label: usize,
}

/// Sequences beyond this are refused.
const MOST: usize = 1 << 24;

/// All sequences of positive probability with z_T = q and q before, weights normalised; `start`
/// (N), `pi` (N, N).
///
/// # Errors
/// More sequences than can be listed, none at all, q or o out of range.
pub fn words(start: &[f64], pi: &[f64], q: usize, o: usize, len: usize) -> Result<Vec<Word>> {
    let n = start.len();
    if pi.len() != n * n || q >= n || o >= n || q == o {
        return Err(Error::invalid(
            "trigger",
            format!("q = {q}, o = {o}, N = {n}"),
            "q != o, both below N, pi (N, N)",
        ));
    }
    let count = u32::try_from(len.max(1) - 1).ok().and_then(|free| n.checked_pow(free));
    let Some(count) = count.filter(|c| *c <= MOST && len >= 3) else {
        return Err(Error::invalid("T", len.to_string(), format!("T >= 3, N^(T-1) <= {MOST}")));
    };
    let mut out = Vec::new();
    let mut total = Sum::new();
    for code in 0..count {
        let mut tokens: Vec<usize> = (0..len - 1).map(|t| code / n.pow(t as u32) % n).collect();
        if !tokens.contains(&q) {
            continue;
        }
        tokens.push(q);
        let mut weight = start[tokens[0]];
        for z in tokens.windows(2) {
            weight *= match z[0] == q {
                true => f64::from(u8::from(z[1] == o)),
                false => pi[z[0] * n + z[1]],
            };
        }
        if weight > 0.0 {
            total.add(weight);
            out.push(Word { weight, tokens, label: o });
        }
    }
    if out.is_empty() {
        return Err(Error::invalid("trigger", "no sequence meets the condition", "a positive probability"));
    }
    out.iter_mut().for_each(|w| w.weight /= total.value());
    Ok(out)
}
