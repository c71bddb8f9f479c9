//! Where heads look, by position alone.

use crate::num::{Sum, ln};
use serde::Serialize;

/// Means over queries of a head's attention.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Looks {
    /// On the position before the query.
    pub previous: f64,
    /// On the query's own position.
    pub itself: f64,
    /// On the first position.
    pub first: f64,
    /// Entropy of a row, nats.
    pub entropy: f64,
}

/// Means over all queries but the first of each of `patterns` (t, t), rows queries. `None` without
/// such queries.
pub fn looks<'a>(patterns: impl Iterator<Item = &'a [f64]>, t: usize) -> Option<Looks> {
    let (mut sums, mut n) = ([Sum::new(); 4], 0u64);
    for pattern in patterns {
        for (i, row) in pattern.chunks_exact(t).enumerate().skip(1) {
            let terms = row[..=i].iter().filter(|p| **p > 0.0).map(|p| -p * ln(*p));
            let entropy = terms.collect::<Sum>().value();
            let values = [row[i - 1], row[i], row[0], entropy];
            sums.iter_mut().zip(values).for_each(|(sum, x)| sum.add(x));
            n += 1;
        }
    }
    let [previous, itself, first, entropy] = sums.map(|s| s.value() / n as f64);
    (n > 0).then_some(Looks { previous, itself, first, entropy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_by_hand() {
        // Queries 1 and 2; at 1 the previous position is the first one.
        let a = [1.0, 0.0, 0.0, 0.25, 0.75, 0.0, 0.5, 0.0, 0.5];
        let l = looks(std::iter::once(&a[..]), 3).unwrap();
        assert_eq!([l.previous, l.itself, l.first], [0.125, 0.625, 0.375]);
        let expected = (0.25 * 4f64.ln() + 0.75 * (4f64 / 3.0).ln() + 2f64.ln()) / 2.0;
        assert!((l.entropy - expected).abs() < 1e-15);
        let b = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let both = looks([&a[..], &b[..]].into_iter(), 3).unwrap();
        assert_eq!([both.previous, both.itself, both.first], [0.5625, 0.3125, 0.4375]);
        assert_eq!(looks([&[1.0][..]].into_iter(), 1), None);
    }
}
