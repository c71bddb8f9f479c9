//! Forests over the context positions: the parent of each position (paper 1, arXiv 2402.14735).

use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// The names [`Forest::named`] knows.
pub const NAMES: [&str; 5] = ["chain", "icl", "random", "many_graphs", "manual"];

/// A parent list over the context positions 0..T-2 (the query, position T-1, has no parent): every
/// parent comes before its child, roots have none. Position 0 is always a root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Forest {
    parents: Vec<Option<usize>>,
}

impl Forest {
    /// Longest sequence, query included.
    pub const MAX_LEN: usize = 1 << 16;

    /// A forest from its parent list; entry i is the parent of position i, or -1 for a root.
    ///
    /// # Errors
    /// When the list is empty or longer than [`MAX_LEN`](Self::MAX_LEN) - 1, or an entry is neither
    /// -1 nor an earlier position. The field is `parents`.
    pub fn from_parents(parents: &[i64]) -> Result<Self> {
        check_len("parents", parents.len().saturating_add(1))?;
        let list = parents.iter().enumerate().map(|(i, &p)| match usize::try_from(p) {
            Ok(p) if p < i => Ok(Some(p)),
            Err(_) if p == -1 => Ok(None),
            _ => Err(Error::invalid(
                "parents",
                format!("entry {i} is {p}"),
                if i == 0 {
                    "-1 at position 0".to_string()
                } else {
                    format!("-1 (root) or 0..={} at position {i}", i - 1)
                },
            )),
        });
        Ok(Forest { parents: list.collect::<Result<_>>()? })
    }

    /// Every position follows the one before: p(i) = i-1.
    ///
    /// # Errors
    /// `t` (T, the query included) below 2 or above [`MAX_LEN`](Self::MAX_LEN).
    pub fn chain(t: usize) -> Result<Self> {
        Self::build(t, |i| i.checked_sub(1))
    }

    /// In-context pairs 0→1, 2→3, ..; when T-1 is odd the last context position is a root without a
    /// child.
    ///
    /// # Errors
    /// As [`chain`](Self::chain).
    pub fn icl(t: usize) -> Result<Self> {
        Self::build(t, |i| if i % 2 == 1 { Some(i - 1) } else { None })
    }

    /// p(i) uniform on {-1, .., i-1}, independently; `index` numbers the graphs of one key.
    ///
    /// # Errors
    /// As [`chain`](Self::chain).
    pub fn random(t: usize, key: &Key, index: u64) -> Result<Self> {
        Self::build(t, |i| (key.below(i as u64 + 1, index, i as u32, 0) as usize).checked_sub(1))
    }

    /// p(i) uniform on {0, .., i-1}, then every position made a root with probability ½ (the
    /// paper's many-graphs experiment); `index` numbers the graphs of one key.
    ///
    /// # Errors
    /// As [`chain`](Self::chain).
    pub fn many_graphs(t: usize, key: &Key, index: u64) -> Result<Self> {
        Self::build(t, |i| {
            let root = i == 0 || key.below(2, index, i as u32, 1) == 0;
            if root { None } else { Some(key.below(i as u64, index, i as u32, 0) as usize) }
        })
    }

    /// The paper's hand-made graph [-1, 0, 0, 1, 2] (T = 6, used with S = 3).
    pub fn manual() -> Self {
        Forest { parents: vec![None, Some(0), Some(0), Some(1), Some(2)] }
    }

    /// A graph by name, see [`NAMES`]; `seed` matters for the random ones (graph 0 of purpose
    /// `Graph`).
    ///
    /// # Errors
    /// For an unknown name, a bad `t`, or `manual` with t other than 6.
    pub fn named(name: &str, t: usize, seed: u64) -> Result<Self> {
        let key = Key::new(seed, Purpose::Graph);
        match name {
            "chain" => Self::chain(t),
            "icl" => Self::icl(t),
            "random" => Self::random(t, &key, 0),
            "many_graphs" => Self::many_graphs(t, &key, 0),
            "manual" if t == 6 => Ok(Self::manual()),
            "manual" => Err(Error::invalid("T", t.to_string(), "6 for graph `manual`")),
            _ => Err(Error::unknown("graph", name, NAMES)),
        }
    }

    fn build(t: usize, parent: impl FnMut(usize) -> Option<usize>) -> Result<Self> {
        check_len("T", t)?;
        Ok(Forest { parents: (0..t - 1).map(parent).collect() })
    }

    /// Number of context positions, T-1.
    pub fn len_context(&self) -> usize {
        self.parents.len()
    }

    /// Sequence length T, the query included.
    pub fn seq_len(&self) -> usize {
        self.parents.len() + 1
    }

    /// Parent of context position `i`, `None` for a root.
    ///
    /// # Panics
    /// When `i` is not a context position.
    #[inline]
    pub fn parent(&self, i: usize) -> Option<usize> {
        self.parents[i]
    }

    /// Parents of the positions 0..T-2 in order.
    #[inline]
    pub fn parents(&self) -> &[Option<usize>] {
        &self.parents
    }

    /// The parent list with -1 for roots, as [`from_parents`](Self::from_parents) takes it.
    pub fn parents_i64(&self) -> Vec<i64> {
        self.parents.iter().map(|p| p.map_or(-1, |p| p as i64)).collect()
    }

    /// The roots, ascending.
    pub fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        self.parents.iter().enumerate().filter(|(_, p)| p.is_none()).map(|(i, _)| i)
    }
}

fn check_len(field: &str, t: usize) -> Result<()> {
    if (2..=Forest::MAX_LEN).contains(&t) {
        return Ok(());
    }
    let (problem, allowed) = if field == "T" {
        (t.to_string(), format!("2 <= T <= {}", Forest::MAX_LEN))
    } else {
        (format!("{} entries", t - 1), format!("1 to {} entries", Forest::MAX_LEN - 1))
    };
    Err(Error::invalid(field, problem, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_graphs() {
        assert_eq!(Forest::chain(5).unwrap().parents_i64(), [-1, 0, 1, 2]);
        assert_eq!(Forest::icl(5).unwrap().parents_i64(), [-1, 0, -1, 2]);
        assert_eq!(Forest::icl(6).unwrap().parents_i64(), [-1, 0, -1, 2, -1]);
        assert_eq!(Forest::manual().parents_i64(), [-1, 0, 0, 1, 2]);
        assert_eq!(Forest::icl(6).unwrap().roots().collect::<Vec<_>>(), [0, 2, 4]);
        for name in NAMES {
            let f = Forest::named(name, 6, 3).unwrap();
            assert_eq!(f.len_context(), 5);
            assert_eq!(Forest::from_parents(&f.parents_i64()).unwrap(), f);
        }
        assert_ne!(Forest::named("random", 20, 3).unwrap(), Forest::named("random", 20, 4).unwrap());
    }

    #[test]
    fn random_graphs_have_their_law() {
        let key = Key::new(1, Purpose::Graph);
        let (n, i) = (8000, 3);
        let (mut a, mut b) = ([0u32; 4], [0u32; 4]);
        for g in 0..n {
            a[Forest::random(6, &key, g).unwrap().parent(i).map_or(0, |p| p + 1)] += 1;
            b[Forest::many_graphs(6, &key, g).unwrap().parent(i).map_or(0, |p| p + 1)] += 1;
        }
        let chi2 = |c: [u32; 4], p: [f64; 4]| -> f64 {
            c.iter().zip(p).map(|(&c, p)| (f64::from(c) - p * n as f64).powi(2) / (p * n as f64)).sum()
        };
        // 3 degrees of freedom: P(chi² > 30.7) = 1e-6.
        assert!(chi2(a, [0.25; 4]) < 30.7, "{a:?}");
        assert!(chi2(b, [0.5, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0]) < 30.7, "{b:?}");
    }

    #[test]
    fn bad_graphs_are_refused_by_name() {
        let message = |r: Result<Forest>| r.unwrap_err().to_string();
        assert_eq!(
            message(Forest::from_parents(&[-1, 0, 2])),
            "parents: entry 2 is 2; allowed: -1 (root) or 0..=1 at position 2"
        );
        assert_eq!(message(Forest::from_parents(&[0])), "parents: entry 0 is 0; allowed: -1 at position 0");
        assert!(message(Forest::from_parents(&[-1, -2])).contains("entry 1 is -2"));
        assert!(message(Forest::from_parents(&[])).contains("0 entries"));
        assert!(Forest::from_parents(&[-1, i64::MAX]).is_err() && Forest::from_parents(&[i64::MIN]).is_err());
        for t in [0, 1, Forest::MAX_LEN + 1, usize::MAX] {
            assert!(message(Forest::chain(t)).starts_with("T: "));
        }
        assert!(message(Forest::named("chian", 5, 0)).contains("did you mean `chain`?"));
        assert!(message(Forest::named("manual", 7, 0)).starts_with("T: 7"));
    }
}
